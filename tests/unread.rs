//! Nothing in a file is passed over: a key of the architecture is read, known to be without effect,
//! or refused by name; a tensor that others may have is taken where it has a meaning, or refused.

mod common;
#[path = "common/edit.rs"]
mod edit;
#[path = "common/program.rs"]
mod program;

use std::collections::BTreeMap;

use edit::{Edit, Set};
use infer::Error;
use infer::gguf::File;
use infer::gguf::writer::Writer;
use infer::model::rope::table;
use infer::model::{Model, Rope, Scaling, Spec, arch};
use program::Infer;

/// A fixture of each architecture that has one; of a mixture and a plain model, the plain one.
fn fixtures() -> BTreeMap<&'static str, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in common::files(&common::fixtures().join("models"), "gguf") {
        let bytes = std::fs::read(path).unwrap();
        let file = File::parse(bytes.clone()).unwrap();
        let named = file.get("general.architecture").unwrap();
        let known = arch::names().find(|name| Some(*name) == named.as_str());
        let Some(name) = known else { continue };
        let spec = arch::spec(&file).unwrap();
        let plain = spec.experts.is_none() && spec.ropes[0].scaling == Scaling::None;
        if plain || !found.contains_key(name) {
            found.insert(name, bytes);
        }
    }
    assert!(common::shared().is_none() || found.len() == arch::names().count(), "{:?}", found.keys());
    found
}

/// One of them.
fn fixture(name: &str) -> Option<Edit> {
    let bytes = fixtures().remove(name);
    if bytes.is_none() {
        common::note(&format!("SKIPPED: there is no fixture of {name}"));
    }
    bytes.map(Edit::of)
}

fn spec(file: &File) -> Spec {
    arch::spec(file).unwrap_or_else(|e| panic!("{e}"))
}

/// The error of a model that is refused for what it asks for.
#[track_caller]
fn refused(file: File) -> String {
    match Model::from_file(file) {
        Err(Error::Unsupported(line)) => line,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("was taken"),
    }
}

#[test]
fn a_key_that_nobody_knows_is_refused_unless_it_is_ignored() {
    for (name, bytes) in fixtures() {
        let plain = spec(&File::parse(bytes.clone()).unwrap());
        let [one, two] = ["no_such_key", "attention.colour"].map(|key| format!("{name}.{key}"));
        let file = Edit::of(bytes).key(&one, Set::U32(7)).key(&two, Set::Text("red")).made();
        let line = refused(file.clone());
        for part in [&format!("{one} = 7"), &format!("{two} = \"red\""), &format!("--ignore-key {one}")] {
            assert!(line.contains(part), "{line}");
        }
        let line = refused(file.clone().ignoring(std::slice::from_ref(&one)).unwrap());
        assert!(!line.contains(&one) && line.contains(&two), "{line}");
        let both = file.ignoring(&[one, two]).unwrap();
        assert!(Model::from_file(both.clone()).is_ok(), "{name}");
        assert_eq!(spec(&both), plain);
    }
    // Keys of others are theirs.
    let Some(llama) = fixture("llama") else { return };
    let others = llama.key("general.colour", Set::U32(1)).key("llamas.x", Set::U32(1));
    assert!(Model::from_file(others.key("quantize.imatrix.file", Set::Text("x")).made()).is_ok());
}

#[test]
fn a_key_that_says_what_is_so_anyway_changes_nothing() {
    let keys = [
        ("attention.causal", Set::Bool(true)),
        ("attention.causal", Set::U32(1)),
        ("pooling_type", Set::U32(0)),
        ("pooling_type", Set::I32(-1)),
        ("vision.block_count", Set::U32(27)),
        ("rope.scaling.alpha", Set::F32(1.0)),
        ("rope.dimension_sections", Set::U32s(&[0, 0, 0, 0])),
        ("attention.clamp_kqv", Set::F32(0.0)),
        ("leading_dense_block_count", Set::U32(0)),
        ("nextn_predict_layers", Set::U32(0)),
        ("attention.max_alibi_bias", Set::F32(0.0)),
        ("interleave_moe_layer_step", Set::U32(1)),
    ];
    for (name, bytes) in fixtures() {
        let plain = spec(&File::parse(bytes.clone()).unwrap());
        for (key, value) in keys {
            let file = Edit::of(bytes.clone()).key(&format!("{name}.{key}"), value).made();
            assert_eq!(spec(&file), plain, "{name}.{key} {value:?}");
        }
    }
}

#[test]
fn a_key_that_changes_what_is_computed_is_refused() {
    let keys = [
        ("attention.causal", Set::Bool(false)),
        ("attention.causal", Set::U32(0)),
        ("attention.causal", Set::Text("no")),
        ("pooling_type", Set::U32(3)),
        ("rope.scaling.alpha", Set::F32(1000.0)),
        ("rope.dimension_sections", Set::U32s(&[16, 8, 8, 0])),
        ("attention.clamp_kqv", Set::F32(8.0)),
        ("attention.shared_kv_layers", Set::U32(1)),
        ("leading_dense_block_count", Set::U32(1)),
        ("nextn_predict_layers", Set::U32(1)),
        ("attention.max_alibi_bias", Set::F32(8.0)),
        ("router_logit_softcapping", Set::F32(30.0)),
        ("classifier.output_labels", Set::U32s(&[1, 2])),
        ("decoder_start_token_id", Set::U32(0)),
    ];
    for (name, bytes) in fixtures() {
        for (key, value) in keys {
            let key = format!("{name}.{key}");
            let line = refused(Edit::of(bytes.clone()).key(&key, value).made());
            assert!(line.contains(&format!("{key} = ")), "{line}");
        }
    }
}

/// Where one architecture reads a key and another does not, its value says whether it matters.
#[test]
fn what_another_architecture_would_do_is_refused() {
    let Some(bytes) = fixtures().remove("qwen3") else {
        common::note("SKIPPED: there is no fixture of qwen3");
        return;
    };
    let set = |key: &str, value| Edit::of(bytes.clone()).key(&format!("qwen3.{key}"), value).made();
    let plain = spec(&File::parse(bytes.clone()).unwrap());
    let context = u32::try_from(plain.context).unwrap();
    let base = plain.ropes[0].base;
    for (key, same, other) in [
        ("logit_scale", Set::F32(1.0), Set::F32(0.25)),
        ("embedding_scale", Set::F32(0.0), Set::F32(12.0)),
        ("residual_scale", Set::F32(1.0), Set::F32(0.22)),
        ("final_logit_softcapping", Set::F32(0.0), Set::F32(30.0)),
        ("attn_logit_softcapping", Set::F32(0.0), Set::F32(50.0)),
        ("attention.temperature_scale", Set::F32(0.0), Set::F32(0.1)),
        ("attention.sliding_window", Set::U32(context), Set::U32(context - 1)),
        ("attention.key_length_swa", Set::U32(plain.head_dim as u32), Set::U32(8)),
        ("rope.freq_base_swa", Set::F32(base), Set::F32(base / 2.0)),
        ("embedding_length_out", Set::U32(plain.width as u32), Set::U32(8)),
        ("use_parallel_residual", Set::Bool(false), Set::Bool(true)),
        ("rope.scaling.yarn_ext_factor", Set::F32(0.0), Set::F32(1.0)),
        ("rope.scaling.yarn_attn_factor", Set::F32(1.0), Set::F32(1.2)),
    ] {
        assert_eq!(spec(&set(key, same)), plain, "{key}");
        let line = refused(set(key, other));
        assert!(line.contains(&format!("qwen3.{key}")), "{line}");
    }
    // Without experts and YaRN, what is said of them says nothing.
    for (key, value) in [
        ("expert_used_count", Set::U32(2)),
        ("expert_count", Set::U32(0)),
        ("rope.scaling.yarn_beta_fast", Set::F32(16.0)),
        ("rope.scaling.finetuned", Set::Bool(true)),
        ("attention.layer_norm_epsilon", Set::F32(1e-3)),
    ] {
        assert_eq!(spec(&set(key, value)), plain, "{key}");
    }
}

#[test]
fn a_key_that_is_read_and_ignored_takes_its_default() {
    let Some(llama) = fixture("llama") else { return };
    let file = llama.key("llama.rope.scale_linear", Set::F32(4.0)).made();
    assert_eq!(spec(&file).ropes[0].scaling, Scaling::Linear { factor: 4.0 });
    let ignoring = |key: &str| file.clone().ignoring(&[key.to_owned()]);
    let without = ignoring("llama.rope.scale_linear").unwrap();
    assert_eq!(spec(&without).ropes[0].scaling, Scaling::None);
    assert_eq!(without.get("llama.rope.scale_linear"), None);
    assert!(without.metadata().any(|(key, _)| key == "llama.rope.scale_linear"), "it is in the file");
    for key in ["llama.no_such_key", "rope.scale_linear", "general.architecture", ""] {
        assert!(matches!(ignoring(key), Err(Error::Usage(_))), "{key}");
    }
}

#[test]
fn the_two_bases_of_gemma_3_have_other_names_too() {
    let Some(gemma) = fixture("gemma3") else { return };
    let named = |spec: &Spec| spec.ropes.iter().map(|rope| rope.base).collect::<Vec<_>>();
    let own = ["gemma3.rope.freq_base", "gemma3.rope.freq_base_swa"].map(str::to_owned);
    let own: Vec<String> = own.into_iter().filter(|key| gemma.file.get(key).is_some()).collect();
    let file = gemma
        .key("gemma3.rope.global.freq_base", Set::F32(700_000.0))
        .key("gemma3.rope.local.freq_base", Set::F32(7_000.0))
        .made();
    assert_eq!(named(&spec(&file.clone().ignoring(&own).unwrap())), [700_000.0, 7_000.0]);
    // Beside the usual name it would be a contradiction.
    assert!(refused(file).contains("gemma3.rope.global.freq_base"));
}

#[test]
fn granite_can_do_without_positions() {
    let Some(granite) = fixture("granite") else { return };
    let off = granite.key("granite.rope.scaling.finetuned", Set::Bool(false)).made();
    assert!(spec(&off).layers.iter().all(|layer| layer.rope.is_none()));
}

#[test]
fn a_context_of_millions_is_taken() {
    let Some(bytes) = fixtures().remove("llama") else { return };
    let context = |value| {
        // The first of two keys of a name would be a duplicate: the fixture's own gets another name.
        let key = b"llama.context_length";
        let mut bytes = bytes.clone();
        let at = bytes.windows(key.len()).position(|w| w == key).unwrap();
        bytes[at] = b'x';
        Edit::of(bytes).key("llama.context_length", value).made()
    };
    for large in [(1 << 24) + 1, 1 << 30, i32::MAX as u32] {
        assert_eq!(spec(&context(Set::U32(large))).context, large as usize);
    }
    for absurd in [Set::U32(u32::MAX), Set::U64(u64::MAX), Set::U32(1 << 31)] {
        let line = refused(context(absurd));
        assert!(line.contains("llama.context_length") && line.contains("too large"), "{line}");
    }
    // What is reserved is what is asked for: a table for all positions would be 256 GiB.
    let infer = Infer::new();
    std::fs::write(infer.path("m.gguf"), Edit::of(bytes.clone()).key("x.y", Set::U32(1)).bytes()).unwrap();
    let large = context(Set::U32(2_000_000_000));
    std::fs::write(infer.path("large.gguf"), &large.parts()[0].bytes()[..]).unwrap();
    let logits = |file: &str, out: &str| {
        infer.run(&["logits", file, "--device", "cpu", "--ids", "1,2,3", "--out", out, "--quiet"]).works();
        std::fs::read(infer.path(out)).unwrap()
    };
    assert_eq!(logits("large.gguf", "a"), logits("m.gguf", "b"));
}

/// Which tensors an architecture knows beside those that it needs, as the reference does.
fn knows(name: &str, tensor: &str) -> bool {
    let llama = matches!(name, "llama" | "granite" | "mistral3");
    let everywhere = matches!(name, "gpt-oss" | "starcoder2");
    match tensor {
        "attn_q.bias" | "attn_k.bias" | "attn_v.bias" => name != "olmo2",
        "attn_output.bias" => llama || everywhere,
        "ffn_up.bias" | "ffn_down.bias" => llama || name == "starcoder2",
        "ffn_gate.bias" => llama,
        "attn_norm.bias" | "ffn_norm.bias" | "output_norm.bias" => name == "starcoder2",
        "rope_freqs.weight" => llama,
        "rope_factors_short.weight" | "rope_factors_long.weight" => name == "phi3",
        _ => false,
    }
}

#[test]
fn a_tensor_that_others_have_is_taken_where_it_means_something() {
    let (mut taken, mut left) = (0, 0);
    for (name, bytes) in fixtures() {
        let model = Model::from_file(File::parse(bytes.clone()).unwrap()).unwrap();
        let spec = &model.plan.spec;
        let [q, kv] = spec.head_rows();
        let pairs = spec.ropes[0].dims / 2;
        let groups: &[&[(&str, usize)]] = &[
            &[("attn_q.bias", q), ("attn_k.bias", kv), ("attn_v.bias", kv)],
            &[("attn_output.bias", spec.width)],
            &[("ffn_gate.bias", spec.ffn)],
            &[("ffn_up.bias", spec.ffn)],
            &[("ffn_down.bias", spec.width)],
            &[("attn_norm.bias", spec.width)],
            &[("ffn_norm.bias", spec.width)],
            &[("output_norm.bias", spec.width)],
            &[("output.bias", spec.vocab)],
            &[("rope_freqs.weight", pairs)],
            &[("rope_factors_short.weight", pairs), ("rope_factors_long.weight", pairs)],
            &[("dense_2.weight", spec.width)],
            &[("cls.output.weight", spec.width)],
        ];
        let fused = model.weights.tensor("blk.0.attn_qkv.weight").is_some();
        for group in groups {
            let mut edit = Edit::of(bytes.clone());
            let mut names = Vec::new();
            for (part, len) in *group {
                let layered = part.starts_with("attn_") || part.starts_with("ffn_");
                let layers = if layered { spec.layers.len() } else { 1 };
                for layer in 0..layers {
                    let full = if layered { format!("blk.{layer}.{part}") } else { (*part).to_owned() };
                    names.push(full.clone());
                    edit = edit.tensor(&full, &[*len as u64], 0.5);
                }
            }
            // Those that it must have it has, and rows that are one tensor have their biases in one.
            let there = names.iter().any(|name| model.weights.tensor(name).is_some());
            if there || fused && group[0].0 == "attn_q.bias" {
                continue;
            }
            let file = edit.made();
            if knows(name, group[0].0) && (spec.experts.is_none() || !group[0].0.starts_with("ffn_")) {
                let model = Model::from_file(file).unwrap_or_else(|e| panic!("{name}: {e}"));
                let used = |tensor: &String| model.plan.vectors().any(|v| v.name == *tensor);
                let of_rope = group[0].0.starts_with("rope_") && model.plan.factors.of_length(1).is_some();
                assert!(of_rope || names.iter().all(used), "{name}: {names:?}");
                taken += 1;
            } else {
                let line = refused(file);
                assert!(names.iter().any(|tensor| line.contains(tensor)), "{name}: {line}");
                left += 1;
            }
        }
    }
    assert!(taken > 3 && left > 10, "{taken} taken, {left} refused");
    common::note(&format!("optional tensors: {taken} taken, {left} refused"));
}

#[test]
fn longrope_is_its_tensors() {
    let scaling = Set::Text("longrope");
    let [short, long] = ["rope_factors_short.weight", "rope_factors_long.weight"];
    let mut with_tensors = 0;
    for (name, bytes) in fixtures() {
        let edit = || Edit::of(bytes.clone()).key(&format!("{name}.rope.scaling.type"), scaling);
        if arch::spec(&edit().file).unwrap().ropes[0].scaling != Scaling::None
            || edit().file.get(&format!("{name}.rope.scaling.type")).is_some()
        {
            continue;
        }
        let pairs = spec(&edit().file).ropes[0].dims as u64 / 2;
        let has = edit().file.tensor(short).is_some();
        if !matches!(name, "phi3" | "llama" | "granite" | "mistral3") {
            assert!(refused(edit().made()).contains("type \"longrope\" is not supported"), "{name}");
            continue;
        }
        if !has {
            let line = refused(edit().made());
            assert!(line.contains(short) && line.contains(long), "{line}");
            let line = refused(edit().tensor(short, &[pairs], 1.0).made());
            assert!(line.starts_with(&format!("tensor {long} is missing")), "{line}");
            let both = edit().tensor(short, &[pairs], 1.0).tensor(long, &[pairs], 4.0).made();
            let plan = Model::from_file(both).unwrap_or_else(|e| panic!("{name}: {e}")).plan;
            assert_eq!(plan.factors.of_length(1), Some(&vec![1.0; pairs as usize][..]));
        }
        let line = refused(edit().key(&format!("{name}.rope.scaling.factor"), Set::F32(4.0)).made());
        assert!(line.contains("longrope"), "{line}");
        with_tensors += 1;
    }
    assert!(with_tensors > 0);
}

#[test]
fn keys_of_yarn_are_honoured() {
    let Some(bytes) = fixtures().remove("qwen3") else {
        common::note("SKIPPED: there is no fixture of qwen3");
        return;
    };
    let yarn = |more: &[(&str, Set)]| {
        let own = [("type", Set::Text("yarn")), ("factor", Set::F32(8.0))];
        let edit = own.iter().chain(more).fold(Edit::of(bytes.clone()), |edit, (key, value)| {
            edit.key(&format!("qwen3.rope.scaling.{key}"), *value)
        });
        edit.made()
    };
    let read = |more: &[(&str, Set)]| match spec(&yarn(more)).ropes[0].scaling {
        Scaling::Yarn { extrapolation, magnitude, .. } => (extrapolation, magnitude),
        other => panic!("{other:?}"),
    };
    let prescribed = 1.0 + 0.1 * 8f32.ln();
    let near = |(way, size): (f32, f32), want: (f32, f32)| way == want.0 && (size - want.1).abs() < 1e-6;
    assert!(near(read(&[]), (1.0, prescribed)));
    assert!(near(read(&[("yarn_attn_factor", Set::F32(1.5))]), (1.0, 1.5)));
    assert!(near(read(&[("yarn_ext_factor", Set::F32(0.5))]), (0.5, prescribed)));
    // Below 0 is "not set"; 0 leaves a linear scaling, which makes nothing larger.
    assert!(near(read(&[("yarn_ext_factor", Set::F32(-1.0))]), (1.0, prescribed)));
    assert!(near(read(&[("yarn_ext_factor", Set::F32(0.0))]), (0.0, 1.0)));
    assert!(near(read(&[("yarn_log_multiplier", Set::F32(1.0))]), (1.0, 1.0)));
    // What they do to the turns: none of the ramp is a linear scaling, half of it lies in the middle.
    let turns = |way: f32| {
        let rope = spec(&yarn(&[("yarn_ext_factor", Set::F32(way)), ("yarn_attn_factor", Set::F32(1.0))]));
        let rope = rope.ropes[0].clone();
        (table(&rope, None, 2)[rope.dims / 2..].to_vec(), rope)
    };
    let angle = |turn: &[f32; 2]| turn[1].atan2(turn[0]);
    let (none, rope) = turns(0.0);
    let linear = table(&Rope { scaling: Scaling::Linear { factor: 8.0 }, ..rope.clone() }, None, 2);
    assert_eq!(none, linear[rope.dims / 2..]);
    let (half, whole) = (turns(0.5).0, turns(1.0).0);
    assert!((angle(&whole[0]) - 1.0).abs() < 1e-6, "the first pair is fast");
    for ((none, half), whole) in none.iter().zip(&half).zip(&whole) {
        assert!((2.0 * angle(half) - angle(none) - angle(whole)).abs() < 1e-6);
    }
    for (key, value) in [
        ("yarn_attn_factor", Set::F32(-1.0)),
        ("yarn_attn_factor", Set::U32(1)),
        ("yarn_ext_factor", Set::F32(2.0)),
        ("yarn_ext_factor", Set::F32(f32::NAN)),
        ("yarn_log_multiplier", Set::F32(-1000.0)),
    ] {
        assert!(refused(yarn(&[(key, value)])).contains(key), "{key} {value:?}");
    }
    for kind in ["dynamic", "ntk", "", "YARN"] {
        let file = Edit::of(bytes.clone()).key("qwen3.rope.scaling.type", Set::Text(kind)).made();
        assert!(refused(file).contains(&format!("type \"{kind}\" is not supported")));
    }
}

#[test]
fn what_is_no_model_is_named() {
    let kind =
        |kind: &str| Writer::new().str("general.type", kind).str("general.architecture", "llama").finish();
    for (bytes, what) in [
        (kind("adapter"), "adapter"),
        (kind("mmproj"), "pictures"),
        (kind("imatrix"), "importance matrix"),
        (kind("vocab"), "vocabulary"),
        (kind("colour"), "\"colour\""),
        (Writer::new().str("adapter.type", "lora").str("general.architecture", "llama").finish(), "adapter"),
        (Writer::new().str("general.architecture", "clip").finish(), "pictures"),
    ] {
        let line = refused(File::parse(bytes).unwrap());
        assert!(line.contains(what), "{line}");
    }
}

/// The flag, on every command that opens a model.
#[test]
fn commands_ignore_what_they_are_told() {
    let infer = Infer::new();
    let demo = Edit::of(std::fs::read(common::repo("assets/demo.gguf")).unwrap());
    let name = demo.file.get("general.architecture").unwrap().as_str().unwrap().to_owned();
    let key = format!("{name}.attention.causal");
    infer.write("m.gguf", &demo.key(&key, Set::Bool(false)).bytes());
    infer.write("text.txt", "one two three four five ".repeat(40).as_bytes());
    let computing: [&[&str]; 4] = [
        &["run", "m.gguf", "--raw", "--prompt", "x", "-n", "1", "--device", "cpu"],
        &["logits", "m.gguf", "--ids", "1,2", "--out", "x", "--device", "cpu"],
        &["perplexity", "m.gguf", "--file", "text.txt", "--ctx", "32", "--device", "cpu"],
        &["bench", "m.gguf", "--tokens", "1", "--prompt-tokens", "1", "--repeat", "1", "--device", "cpu"],
    ];
    for arguments in computing {
        let line = infer.run(arguments).fails(4).to_owned();
        assert!(line.contains(&format!("{key} = false")) && line.contains(&format!("--ignore-key {key}")));
        let run = infer.run(&[arguments, &["--ignore-key", &key]].concat());
        run.works();
        assert!(run.stderr.contains(&format!("note: metadata key {key} is ignored\n")), "{run:?}");
        let line = infer.run(&[arguments, &["--ignore-key", "no.such"]].concat()).fails(2).to_owned();
        assert!(line.contains("--ignore-key: m.gguf: ") && line.contains("no.such"), "{line}");
    }
    let report = infer.run(&["inspect", "m.gguf", "--json"]).json();
    assert_eq!(report["supported"], false);
    assert!(report["problems"][0].as_str().unwrap().contains(&key), "{report}");
    let report = infer.run(&["inspect", "m.gguf", "--json", "--ignore-key", &key]).json();
    assert_eq!((&report["supported"], &report["metadata"][&key]), (&true.into(), &false.into()));
    assert!(report["notes"].to_string().contains("is ignored"), "{report}");
    infer.run(&["tokenize", "m.gguf", "--text", "x"]).works();
    let both = ["bench", "--synthetic", "smollm2-135m", "--ignore-key", "x"];
    infer.run(&both).fails(2);
}
