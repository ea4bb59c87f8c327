//! Every key of a file counts: changed by a tenth it moves the logits, or contradicts the tensors
//! and is refused. What is neither is named here, with the reason.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use infer::engine::{DeviceChoice, Options, open};
use infer::gguf::{File, Value};
use infer::model::{Model, arch};

mod common;
#[path = "common/golden.rs"]
mod golden;

use golden::{Golden, all_logits, relative};

/// What says which shapes tensors have: another value contradicts them.
const SHAPES: [&str; 12] = [
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "expert_count",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    // Where RoPE's factors are tensors, it is their length; and it ends at the head's size.
    "rope.dimension_count",
    // No more than there are.
    "expert_used_count",
];

/// The least that logits must move, relative to themselves.
const MOVES: f64 = 1e-3;

/// A fixture's bytes and the keys of its architecture.
struct Fixture {
    name: String,
    bytes: Vec<u8>,
    file: File,
    architecture: &'static str,
    prompt: Vec<u32>,
}

/// A key's value in a file.
enum Changed {
    /// So many bytes in the place of as many.
    Number(Vec<u8>),
    Text(&'static str),
}

impl Fixture {
    fn open(path: &Path) -> Option<Fixture> {
        let bytes = std::fs::read(path).unwrap();
        let file = File::parse(bytes.clone()).unwrap();
        let named = file.get("general.architecture").unwrap().as_str().unwrap();
        let architecture = arch::names().find(|name| *name == named)?;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Some(Fixture {
            name,
            bytes,
            file: file.clone(),
            architecture,
            prompt: Golden::of(path).ids("prompt_D"),
        })
    }

    fn get(&self, key: &str) -> Option<Value<'_>> {
        self.file.get(&format!("{}.{key}", self.architecture))
    }

    /// The keys of the architecture that are no arrays, without its name.
    fn keys<'a>(&'a self) -> Vec<(String, Value<'a>)> {
        let prefix = format!("{}.", self.architecture);
        let of_it = |(key, value): (&str, Value<'a>)| {
            let key = key.strip_prefix(&prefix)?.to_owned();
            (!matches!(value, Value::Array(_))).then_some((key, value))
        };
        self.file.metadata().filter_map(of_it).collect()
    }

    /// RoPE's factors for short and long contexts are tensors.
    fn has_factors(&self) -> bool {
        self.file.tensor("rope_factors_long.weight").is_some()
    }

    /// Why a key need not count, if it need not.
    fn exempt(&self, key: &str) -> Option<&'static str> {
        let text = |key: &str| self.get(key).and_then(|v| v.as_str());
        let scaled = self.get("rope.scaling.factor").is_some();
        match key {
            "attention.layer_norm_rms_epsilon" | "attention.layer_norm_epsilon" => {
                Some("far below the mean squares it is added to")
            }
            "rope.scaling.yarn_beta_fast" | "rope.scaling.yarn_beta_slow" => {
                Some("rounded to whole pairs: most values near the usual ones are the same ramp")
            }
            "vocab_size" => Some("the embedding's rows are what counts"),
            "context_length"
                if text("rope.scaling.type") != Some("yarn")
                    || self.get("rope.scaling.original_context_length").is_some() =>
            {
                Some("a limit; it counts where it is the context of training")
            }
            "feed_forward_length" if self.get("expert_feed_forward_length").is_some() => {
                Some("of layers without experts, and there are none")
            }
            "rope.scaling.original_context_length" if !scaled && !self.has_factors() => {
                Some("nothing reaches beyond the context of training")
            }
            "rope.scaling.type" if !scaled => Some("whatever the way, a scaling by 1 is none"),
            _ => None,
        }
    }

    /// Other values of a key: a tenth more and less, or as near as the key's meaning allows.
    fn others(&self, key: &str, value: Value<'_>) -> Vec<Changed> {
        let number = |bytes: Vec<u8>| Changed::Number(bytes);
        match value {
            Value::U32(n) => {
                let by = match key {
                    "attention.sliding_window" | "expert_used_count" => 1,
                    "rope.dimension_count" => 2,
                    _ => (n / 10).max(1),
                };
                let values = match key {
                    // It only says which factors are used: the other side of the context is another value.
                    "rope.scaling.original_context_length" if self.has_factors() => {
                        let context = self.get("context_length").unwrap().as_u64().unwrap();
                        vec![if u64::from(n) < context { u32::try_from(context).unwrap() } else { 1 }]
                    }
                    // YaRN rounds what comes of it to whole pairs.
                    "rope.scaling.original_context_length" => vec![4 * n, n / 4],
                    _ => [n.checked_add(by), n.checked_sub(by)].into_iter().flatten().collect(),
                };
                values.into_iter().map(|n| number(n.to_le_bytes().to_vec())).collect()
            }
            Value::F32(v) => [1.1, 0.9].map(|by| number((v * by).to_le_bytes().to_vec())).into(),
            Value::Bool(b) => vec![number(vec![u8::from(!b)])],
            Value::String(_) => vec![match value.as_str() {
                Some("none") => Changed::Text("linear"),
                _ => Changed::Text("none"),
            }],
            other => panic!("{}: {key} is {}, which this test cannot change", self.name, other.ty()),
        }
    }

    /// The file with another value of a key.
    fn with(&self, key: &str, changed: &Changed) -> Vec<u8> {
        let name = format!("{}.{key}", self.architecture);
        let stored = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
        let at = find(&self.bytes, &stored) + stored.len() + 4; // behind the value's type
        let mut bytes = self.bytes.clone();
        match changed {
            Changed::Number(new) => bytes[at..at + new.len()].copy_from_slice(new),
            Changed::Text(new) => {
                // The data begin at the next multiple of the alignment.
                let last = self.file.tensors().last().unwrap();
                let end =
                    find(&self.bytes, last.name.as_bytes()) + last.name.len() + 4 + 8 * last.n_dims + 12;
                let part = &self.file.parts()[0];
                let old = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
                let mut header = bytes[..end].to_vec();
                let text = [&(new.len() as u64).to_le_bytes(), new.as_bytes()].concat();
                header.splice(at..at + 8 + old, text);
                header.resize(header.len().next_multiple_of(part.alignment() as usize), 0);
                bytes = [&header, &bytes[part.data_start() as usize..]].concat();
            }
        }
        bytes
    }

    /// The logits of a file with the prompt, or the exit code of what refuses it.
    fn logits(&self, bytes: Vec<u8>) -> Result<Vec<f32>, i32> {
        let options = Options { device: DeviceChoice::Cpu, ..Options::default() };
        let file = File::parse(bytes).unwrap();
        let model = Model::from_file(file).map_err(|e| e.exit_code())?;
        let mut engine = open(Arc::new(model), &options, &mut |_, _| ControlFlow::Continue(()))
            .map_err(|e| e.exit_code())?;
        Ok(all_logits(engine.as_mut(), &self.prompt))
    }
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|w| w == what).unwrap()
}

#[test]
fn every_key_counts_or_is_named_here() {
    let mut seen = BTreeSet::new();
    let mut architectures = BTreeSet::new();
    let (mut moved, mut refused, mut wrong) = (0, 0, Vec::new());
    for path in common::files(&common::fixtures().join("models"), "gguf") {
        let Some(fixture) = Fixture::open(&path) else { continue };
        // Files whose keys are the same in all are one.
        if !seen.insert(format!("{} {:?}", fixture.architecture, fixture.keys())) {
            continue;
        }
        architectures.insert(fixture.architecture);
        let want = fixture.logits(fixture.bytes.clone()).unwrap();
        for (key, value) in fixture.keys() {
            if fixture.exempt(&key).is_some() {
                continue;
            }
            for changed in fixture.others(&key, value) {
                let say = |what: &str| format!("{}: {key} {value:?}: {what}", fixture.name);
                match fixture.logits(fixture.with(&key, &changed)) {
                    Ok(got) => match relative(&got, &want) {
                        by if by > MOVES => moved += 1,
                        by => wrong.push(say(&format!("logits move by {by:.1e}"))),
                    },
                    Err(4) if SHAPES.contains(&&*key) => refused += 1,
                    Err(code) => wrong.push(say(&format!("refused with {code}"))),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(moved >= 20 && refused >= 20, "{moved} moved, {refused} refused");
    if common::shared().is_some() {
        assert_eq!(architectures, arch::names().collect(), "an architecture has no fixture");
    }
    common::note(&format!("keys: {} architectures, {moved} moved, {refused} refused", architectures.len()));
}
