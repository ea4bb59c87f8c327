//! Every form of every shader passes naga's validator and its writers for Vulkan, Metal and
//! DirectX: "any GPU" has a test on a machine without one.

use infer::kernels::activation::Activation;
use infer::kernels::attention::{self, Attention, HeadNorms, Pairing, Temperature};
use infer::kernels::embed::Embed;
use infer::kernels::gemv::{Epilogue, Gemv, Knobs, Part, Tail, Take, side_by_side};
use infer::kernels::route::{Route, Routing};
use infer::kernels::select::Select;
use infer::kernels::settle::{Added, Reads, Settle};
use infer::kernels::{Form, Kv, Math, POLLS, Shader, overlap, pack, sample};
use infer::quant::{Layout, Type};
use naga::valid::{Capabilities, ValidationFlags, Validator};

fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    for (math, native_f16) in
        [(Math::F32, false), (Math::F16, true), (Math::F16, false), (Math::Int16, false), (Math::Int8, false)]
    {
        for kv in [Kv::F16, Kv::F32, Kv::Q8_0] {
            for (subgroups, inline_merge) in [(true, true), (true, false), (false, true), (false, false)] {
                forms.push(Form {
                    math,
                    kv,
                    subgroups,
                    native_f16,
                    inline_merge,
                    overlapped: false,
                    whole_vectors: !subgroups,
                    polls: POLLS,
                });
            }
        }
    }
    forms
}

fn part(ty: Type, rows: usize, cols: usize) -> Part {
    let scale = if ty == Type::NVFP4 { 0.5 } else { 1.0 };
    let (mut parts, _) = side_by_side([(Layout::new(ty, rows, cols).unwrap(), scale)]);
    parts.remove(0)
}

fn shaders(form: Form) -> Vec<Shader> {
    let mut all = vec![
        pack::shader(form),
        Select { vocab: 1000, threads: 256 }.shader(form),
        sample::shader(1000, form),
    ];
    let gemv = |parts: Vec<Part>, epilogue, norm, tokens| {
        let single = parts.len() == 1 || matches!(epilogue, Epilogue::Gated(_));
        Gemv {
            parts,
            epilogue,
            take: Take::Whole,
            tail: Tail::None,
            splits: 1,
            norm,
            bias: tokens == 1,
            first_tile: 0,
            stride: 512,
            tokens,
            knobs: Knobs {
                threads: 256,
                tiles: if tokens == 1 && single { 2 } else { 1 },
                unroll: 1,
                teams: 1,
            },
        }
        .shader(form)
    };
    for ty in Type::ALL.iter().copied().filter(|t| t.is_supported()) {
        for tokens in [1, 8] {
            all.push(gemv(vec![part(ty, 40, 512)], Epilogue::Residual { scale: 1.0 }, None, tokens));
            all.push(gemv(
                vec![part(ty, 40, 512), part(Type::Q4_K, 40, 512)],
                Epilogue::Gated(Activation::Silu),
                Some((512, 1e-5)),
                tokens,
            ));
            let logits = Epilogue::Logits { vocab: 100, scale: 1.0, cap: None };
            all.push(gemv(vec![part(ty, 100, 512)], logits, Some((512, 1e-5)), tokens));
        }
        let qkv = vec![part(ty, 64, 512), part(Type::F16, 32, 512), part(Type::Q6_K, 32, 512)];
        all.push(gemv(qkv, Epilogue::Raw, Some((512, 1e-5)), 1));
        all.push(Embed { table: part(ty, 40, 512), first_row: 0, vocab: 40, scale: 1.0 }.shader(form));
    }
    for shape in attentions() {
        all.extend([shape.shader(form), shape.write_shader(form), shape.merge_shader(form)]);
    }
    all
}

/// What a step has whose stages overlap.
fn overlapping(form: Form) -> Vec<Shader> {
    let form = Form { overlapped: true, whole_vectors: false, ..form };
    let gemv = |parts: Vec<Part>, epilogue: Epilogue, norm: bool, knobs: Knobs| {
        let (take, tail, bias) = (Take::Whole, Tail::None, norm);
        let norm = norm.then_some((512, 1e-5));
        let (splits, first_tile, stride, tokens) = (1, 0, 512, 1);
        Gemv { parts, epilogue, take, tail, splits, norm, bias, first_tile, stride, tokens, knobs }
            .shader(form)
    };
    let mut all = vec![overlap::shader(form)];
    for ty in Type::ALL.iter().copied().filter(|t| t.is_supported()) {
        for (threads, tiles, unroll, teams) in [(64, 1, 1, 1), (256, 2, 2, 2)] {
            let knobs = Knobs { threads, tiles, unroll, teams };
            all.push(gemv(vec![part(ty, 40, 512)], Epilogue::Residual { scale: 1.0 }, false, knobs));
            let pair = vec![part(ty, 40, 512), part(Type::Q4_K, 40, 512)];
            all.push(gemv(pair, Epilogue::Gated(Activation::Silu), true, knobs));
            let logits = Epilogue::Logits { vocab: 100, scale: 1.0, cap: None };
            all.push(gemv(vec![part(ty, 100, 512)], logits, true, knobs));
            let qkv = vec![part(ty, 64, 512), part(Type::F16, 32, 512), part(Type::Q6_K, 32, 512)];
            all.push(gemv(qkv, Epilogue::Raw, true, Knobs { tiles: 1, ..knobs }));
        }
        all.push(Embed { table: part(ty, 40, 512), first_row: 0, vocab: 40, scale: 1.0 }.shader(form));
    }
    let decode = attentions().into_iter().filter(|a| a.decode && a.norms != HeadNorms::Whole);
    all.extend(decode.map(|shape| shape.shader(form)));
    all
}

/// What attention may have, alone and together, at heads that are whole vectors and that are not.
fn attentions() -> Vec<Attention> {
    let shape = |head_dim, pairing, bias, decode| Attention {
        heads: 6,
        kv_heads: 2,
        head_dim,
        rotated: 16,
        pairing,
        scale: 0.1,
        bias,
        norms: if head_dim == 64 { HeadNorms::None } else { HeadNorms::Each },
        epsilon: 1e-6,
        sinks: false,
        cap: None,
        temperature: None,
        window: None,
        ring: false,
        context: 64,
        rows: [0, 384, 512, 640],
        max_splits: 4,
        decode,
        knobs: attention::Knobs::of(Attention::widest_block(6, 2, head_dim, 32 << 10), head_dim),
    };
    let mut all = Vec::new();
    for (pairing, head_dim) in [(Pairing::Neighbours, 64), (Pairing::Halves, 22), (Pairing::Halves, 256)] {
        for (decode, bias) in [(true, true), (true, false), (false, true), (false, false)] {
            all.push(shape(head_dim, pairing, bias, decode));
        }
        for decode in [true, false] {
            let plain = shape(head_dim, pairing, false, decode);
            let window = Attention { window: Some(33), ring: true, ..plain.clone() };
            let sinks = Attention { sinks: true, ..window.clone() };
            let knobs = attention::Knobs::of(1, head_dim);
            let temperature = Some(Temperature { scale: 0.1, span: 8192 });
            all.extend([
                Attention { knobs, max_splits: 1, ..sinks.clone() },
                Attention {
                    norms: HeadNorms::Whole,
                    bias: true,
                    cap: Some(50.0),
                    temperature,
                    rotated: 0,
                    ..sinks.clone()
                },
                Attention { cap: Some(50.0), norms: HeadNorms::None, ..plain.clone() },
                Attention { temperature, rotated: 0, ..plain },
                window,
                sinks,
            ]);
        }
    }
    all
}

/// Ways to settle a stream: each branch with each reading.
fn settlings() -> Vec<Settle> {
    let normed = |mean, bias| Reads::Normed { mean, bias };
    let added = |bias, normed, scale| Some(Added { bias, normed, scale });
    let mut all = Vec::new();
    for norm in [Reads::Stream, normed(false, false), normed(true, false), normed(true, true)] {
        for branch in [None, added(false, false, 1.0), added(true, false, 0.5), added(false, true, 1.0)] {
            all.push(Settle { width: 100, branch, norm, epsilon: 1e-5 });
        }
    }
    all
}

/// What follows a product beside the plain cases; what experts and whole streams need.
fn surroundings(form: Form) -> Vec<Shader> {
    let base = |types: &[Type], epilogue: Epilogue, tokens: usize| {
        let (parts, _) = side_by_side(types.iter().map(|ty| (Layout::new(*ty, 96, 256).unwrap(), 1.0)));
        let norm = (!matches!(epilogue, Epilogue::Residual { .. })).then_some((256, 1e-5));
        let knobs = Knobs { threads: 256, tiles: 1, unroll: 1, teams: 1 };
        let (take, tail) = (Take::Whole, Tail::None);
        Gemv {
            parts,
            epilogue,
            take,
            tail,
            splits: 1,
            norm,
            bias: false,
            first_tile: 0,
            stride: 96,
            tokens,
            knobs,
        }
    };
    let mut all = Vec::new();
    let mut add = |gemv: Gemv| all.push(gemv.shader(form));
    let pair = [Type::MXFP4, Type::Q4_K];
    for activation in [Activation::Silu, Activation::Gelu, Activation::ClampedSwish] {
        for (tokens, bias) in [(1, false), (1, true), (4, true)] {
            add(Gemv { bias, ..base(&pair, Epilogue::Gated(activation), tokens) });
            add(Gemv { bias, ..base(&pair[..1], Epilogue::Gated(activation), tokens) });
            let take = Take::Share { used: 4 };
            add(Gemv { bias, take, ..base(&pair, Epilogue::Gated(activation), tokens) });
        }
    }
    for (ty, bias) in
        [Type::MXFP4, Type::F16, Type::IQ2_S].into_iter().flat_map(|ty| [(ty, false), (ty, true)])
    {
        let take = Take::Chosen { count: 3, used: 2 };
        let gated = Epilogue::Gated(Activation::ClampedSwish);
        add(Gemv { bias, take, stride: 32, ..base(&[ty, Type::Q8_0], gated, 1) });
        add(Gemv { bias, take, stride: 32, ..base(&[ty], Epilogue::Residual { scale: 0.5 }, 1) });
        add(Gemv { bias, ..base(&[ty], Epilogue::Residual { scale: 0.5 }, 4) });
    }
    for tokens in [1, 4] {
        for (scale, cap) in [(0.5, None), (1.0, Some(30.0)), (0.5, Some(30.0))] {
            add(base(&pair[..1], Epilogue::Logits { vocab: 90, scale, cap }, tokens));
        }
        add(Gemv { bias: true, stride: 192, ..base(&pair, Epilogue::Raw, tokens) });
    }
    let routes = [(true, None), (false, Some(96))].map(|(normalised, gate)| {
        let routing = Routing { count: 90, used: 6, normalised, scale: 2.0 };
        Route { routing, stride: 112, gate }
    });
    for splits in [1, 3] {
        let raw = |tail| Gemv { tail, splits, norm: None, ..base(&pair[..1], Epilogue::Raw, 1) };
        settlings().into_iter().filter(|s| s.branch.is_some()).for_each(|s| add(raw(Tail::Settle(s))));
        for route in &routes {
            let tail = Tail::Route(route.clone());
            add(Gemv { tail, splits, bias: true, stride: 192, ..base(&pair, Epilogue::Raw, 1) });
        }
    }
    all.extend(settlings().iter().map(|settle| settle.shader(form)));
    all.extend(routes.iter().map(|route| route.shader(form)));
    all.push(Embed { table: part(Type::Q5_1, 40, 512), first_row: 0, vocab: 40, scale: 12.0 }.shader(form));
    all
}

#[test]
fn every_form_is_valid_everywhere() {
    let mut seen = std::collections::HashSet::new();
    for form in forms() {
        let integers = matches!(form.math, Math::Int16 | Math::Int8);
        let overlapping = if integers && form.inline_merge { overlapping(form) } else { vec![] };
        for shader in shaders(form).into_iter().chain(surroundings(form)).chain(overlapping) {
            if seen.insert(shader.source.clone()) {
                check(&shader, form);
            }
        }
    }
    assert!(seen.len() > 700, "only {} shaders", seen.len());
}

fn check(shader: &Shader, form: Form) {
    let name = shader.name;
    let module = naga::front::wgsl::parse_str(&shader.source)
        .unwrap_or_else(|e| panic!("{name} {form:?}: {}", e.emit_to_string(&shader.source)));
    let capabilities = Capabilities::SUBGROUP
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::IMMEDIATES
        | Capabilities::MEMORY_DECORATION_COHERENT;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{name} {form:?}: {}", e.emit_to_string(&shader.source)));
    let mut declared: Vec<u32> = shader.bindings.iter().map(|b| b.0).collect();
    let mut used: Vec<u32> =
        module.global_variables.iter().filter_map(|(_, v)| Some(v.binding?.binding)).collect();
    declared.sort();
    used.sort();
    assert_eq!(declared, used, "{name}: bindings");

    naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None)
        .unwrap_or_else(|e| panic!("{name} {form:?}: SPIR-V: {e}"));
    // DirectX has no coherent decoration: there splits are merged in a dispatch of their own.
    let mut hlsl = String::new();
    let options = naga::back::hlsl::Options {
        shader_model: naga::back::hlsl::ShaderModel::V6_2,
        fake_missing_bindings: true,
        immediates_target: Some(naga::back::hlsl::BindTarget::default()),
        ..Default::default()
    };
    let pipeline = naga::back::hlsl::PipelineOptions::default();
    naga::back::hlsl::Writer::new(&mut hlsl, &options, &pipeline)
        .write(&module, &info, None)
        .unwrap_or_else(|e| panic!("{name} {form:?}: HLSL: {e}"));
    let options =
        naga::back::msl::Options { lang_version: (3, 0), fake_missing_bindings: true, ..Default::default() };
    naga::back::msl::write_string(&module, &info, &options, &naga::back::msl::PipelineOptions::default())
        .unwrap_or_else(|e| panic!("{name} {form:?}: MSL: {e}"));
}

/// A barrier or an atomic of a module, with its scopes and semantics as numbers of the SPIR-V specification
/// (3.27 and 3.25).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Order {
    /// Execution scope, memory scope, semantics.
    Barrier(u32, u32, u32),
    /// Memory scope, semantics.
    Atomic(u32, u32),
}

/// The barriers and atomics of a shader, and how many of its variables are coherent.
fn orders(shader: &Shader) -> (std::collections::BTreeSet<Order>, usize) {
    let module = naga::front::wgsl::parse_str(&shader.source).unwrap();
    let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module).unwrap();
    let options = naga::back::spv::Options::default();
    let words = naga::back::spv::write_vec(&module, &info, &options, None).unwrap();
    let (mut numbers, mut found, mut coherent) = (std::collections::HashMap::new(), vec![], 0);
    let mut at = 5; // behind the header
    while at < words.len() {
        let (opcode, len) = (words[at] & 0xffff, (words[at] >> 16) as usize);
        let operands = &words[at + 1..at + len];
        match opcode {
            43 => drop(numbers.insert(operands[1], operands[2])), // OpConstant: type, result, value
            71 if operands[1] == 23 => coherent += 1,             // OpDecorate … Coherent
            72 if operands[2] == 23 => coherent += 1,             // OpMemberDecorate … Coherent
            224 => found.push((true, operands.to_vec())),         // OpControlBarrier
            225 => found.push((true, [&[u32::MAX], operands].concat())), // OpMemoryBarrier
            227..=242 => {
                // Atomics: loads have a type and a result before the pointer, stores only the pointer.
                let first = if opcode == 228 { 1 } else { 3 };
                found.push((false, operands[first..first + 2].to_vec()));
            }
            _ => {}
        }
        at += len;
    }
    let number = |id: &u32| numbers.get(id).copied().unwrap_or(u32::MAX);
    let order = |(barrier, ids): (bool, Vec<u32>)| {
        let n: Vec<u32> = ids.iter().map(number).collect();
        if barrier { Order::Barrier(n[0], n[1], n[2]) } else { Order::Atomic(n[0], n[1]) }
    };
    (found.into_iter().map(order).collect(), coherent)
}

/// What the last workgroup to arrive relies on, and what stages that overlap do: writes to storage are made
/// known to the whole device before a workgroup says that it has arrived, by an atomic of the whole
/// device, and what others have written is read from coherent variables.
#[test]
fn barriers_and_atomics_reach_as_far_as_is_relied_on() {
    const DEVICE: u32 = 1;
    const WORKGROUP: u32 = 2;
    // Acquire and release; of storage buffers, and of workgroup memory.
    const STORAGE: u32 = 0x8 | 0x40;
    const SHARED: u32 = 0x8 | 0x100;
    let of_storage = Order::Barrier(WORKGROUP, DEVICE, STORAGE);
    let of_workgroup = Order::Barrier(WORKGROUP, WORKGROUP, SHARED);
    let mut seen = [0; 3];
    for form in forms().into_iter().filter(|f| f.inline_merge && f.kv == Kv::F16) {
        let integers = matches!(form.math, Math::Int16 | Math::Int8);
        let overlapping = if integers { overlapping(form) } else { vec![] };
        let attention = attentions().into_iter().filter(|a| a.max_splits > 1).map(|a| a.shader(form));
        let tails = surroundings(form).into_iter().filter(|s| s.bindings.iter().any(|b| b.0 == 12));
        for shader in attention.chain(tails) {
            let (orders, coherent) = orders(&shader);
            assert!(orders.contains(&of_storage) && orders.contains(&of_workgroup), "{orders:?}");
            let atomics: Vec<_> = orders.iter().filter(|o| matches!(o, Order::Atomic(..))).collect();
            assert!(atomics.contains(&&Order::Atomic(DEVICE, 0)), "{}: {orders:?}", shader.name);
            assert!(coherent > 0, "{}: nothing is coherent", shader.name);
            seen[0] += 1;
        }
        for shader in overlapping {
            let (orders, coherent) = orders(&shader);
            let barriers = orders.iter().filter(|o| matches!(o, Order::Barrier(..)));
            let known = |o: &Order| *o == of_storage || *o == of_workgroup;
            assert!(barriers.clone().all(known), "{}: {orders:?}", shader.name);
            // All but the first stage wait for words; each binding that is waited for is coherent.
            assert!(coherent > 0 || shader.name == "embed", "{}: nothing is coherent", shader.name);
            seen[1] += usize::from(coherent > 0);
            seen[2] += usize::from(coherent > 2);
        }
    }
    assert!(seen.iter().all(|n| *n > 20), "{seen:?}");
}
