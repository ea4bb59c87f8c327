//! The kernel lab's other half: attention of one token over a deep cache, in variants.

use serde::Serialize;

use super::builder::{KvBuffers, STORAGE, acts, upload_floats};
use super::case::{FAR, bound, read};
use super::device::Range;
use super::lab::Lab;
use super::profile::{self, MANY};
use super::stage::{attention, raw_rows};
use crate::kernels::attention::{Args, Attention, Knobs};
use crate::kernels::vector::Activations;
use crate::kernels::{Kv, groups};
use crate::model::{Model, Random};
use crate::quant::GROUP;
use crate::{Error, Result};

/// How fast a variant of attention is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AttentionTiming {
    /// The variant.
    pub knobs: Knobs,
    /// Into how many parts the keys were split.
    pub splits: usize,
    /// A dispatch, from the end of the one before, in µs.
    pub us: f64,
    /// Keys and values read, in 10⁹ bytes a second of what a dispatch takes beyond doing nothing.
    pub gb_per_s: f64,
    /// The relative difference to the engine's variant.
    pub difference: f64,
    /// It is larger than rounding explains.
    pub wrong: bool,
}

/// The most parts into which the lab splits keys: more than the engine does.
const LAB_SPLITS: usize = 96;
/// Bytes of keys and values that are made here; the rest repeats them.
const OWN: usize = 1 << 20;

/// Two F16 numbers a word.
fn words_of_halves(numbers: &[f32]) -> Vec<f32> {
    let bits = |v: f32| u32::from(half::f16::from_f32(v).to_bits());
    numbers.chunks_exact(2).map(|p| f32::from_bits(bits(p[0]) | bits(p[1]) << 16)).collect()
}

/// A number from -1 to 1 as a signed byte.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from -127 to 127")]
fn level(v: f32) -> u8 {
    (v * 127.0).round().clamp(-127.0, 127.0) as i8 as u8
}

impl Lab {
    /// Times attention of a model's shape with so many tokens before: the engine's variant first,
    /// then variants that differ from it in one thing or in the splits.
    ///
    /// # Errors
    /// [`Error::Device`] where workgroups do not see each other's writes or memory does not suffice.
    pub fn attention(&self, model: &Model, depth: usize) -> Result<Vec<AttentionTiming>> {
        let (gpu, spec) = (&self.gpu, &model.plan.spec);
        if !gpu.form.inline_merge {
            return Err(Error::Device(format!("{}: attention needs a second dispatch to merge", gpu.name)));
        }
        let shared = gpu.limits.max_compute_workgroup_storage_size as usize;
        let widest = Attention::widest_block(spec.heads, spec.kv_heads, spec.head_dim, shared);
        let shape = |knobs| Attention { knobs, ..attention(spec, 0, widest, depth + 1, true, LAB_SPLITS) };
        let kv = gpu.form.kv;
        let own = shape(Knobs::of(widest, spec.head_dim).stored_as(kv));
        let mut random = Random::new("attention", 0);
        let mut numbers = |n: usize| (0..n).map(|_| random.number()).collect::<Vec<f32>>();
        let raw = upload_floats(gpu, "raw rows", &numbers(raw_rows(spec)[3]))?;
        let turns = upload_floats(gpu, "RoPE's table", &numbers((depth + 1) * spec.ropes[0].dims))?;
        let pattern = numbers(OWN / kv.bytes());
        let word = |bytes: [u8; 4]| f32::from_bits(u32::from_le_bytes(bytes));
        let staged = match kv {
            Kv::F32 => pattern,
            Kv::F16 => words_of_halves(&pattern),
            // All bytes, as random numbers times 127 have them.
            Kv::Q8_0 => pattern.chunks_exact(4).map(|p| word([0, 1, 2, 3].map(|i| level(p[i])))).collect(),
        };
        let staged = upload_floats(gpu, "keys and values", &staged)?;
        // About 1 / 127, no two alike.
        let scales = numbers(OWN / 2).iter().map(|v| (v.abs() + 2.0) / 254.0).collect::<Vec<_>>();
        let staged_scales = upload_floats(gpu, "keys and values", &words_of_halves(&scales))?;
        let bytes = own.cache_bytes(kv);
        let count = if gpu.software { 1 } else { 3.max(FAR as usize / bytes + 1) };
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut caches = Vec::new();
        for _ in 0..count {
            let cache = KvBuffers::of(gpu, &own)?;
            let mut fill = |from: &wgpu::Buffer, to: &wgpu::Buffer, bytes: usize| {
                for at in (0..bytes).step_by(OWN) {
                    let size = OWN.min(bytes - at) as u64;
                    encoder.copy_buffer_to_buffer(from, 0, to, at as u64, size);
                }
            };
            fill(&staged, &cache.units, own.unit_bytes(kv));
            if let Some(scales) = &cache.scales {
                fill(&staged_scales, scales, own.scale_bytes(kv));
            }
            caches.push(cache);
        }
        gpu.queue.submit([encoder.finish()]);
        let parts = gpu.buffer("attention", own.part_bytes(kv) as u64, STORAGE)?;
        let arrived = gpu.buffer("attention", (4 * spec.heads) as u64, STORAGE)?;
        let out = acts(gpu, 1, spec.heads * spec.head_dim)?;
        let norms = upload_floats(gpu, "vectors", &numbers(own.vectors()))?;

        let base = own.knobs;
        let splits = own.splits(1, depth + 1);
        let mut variants = vec![(base, splits)];
        for heads in [1, 2, 4].into_iter().filter(|h| *h < widest) {
            variants.push((Knobs { heads, ..base }, shape(Knobs { heads, ..base }).splits(1, depth + 1)));
        }
        for (threads, keys) in [(128, 1), (128, 2), (128, 4), (256, 1), (256, 2)] {
            for (units, values) in [(4, 4), (8, 8)] {
                for splits in [splits / 2, splits * 3 / 4, splits, splits * 3 / 2] {
                    let knobs = Knobs { threads, keys, units, values, ..base };
                    variants.push((knobs, splits.min(LAB_SPLITS)));
                }
            }
        }
        // About what they take beside what all variants have in common.
        variants.retain(|(k, _)| 4 * k.heads * (k.threads * (k.keys + 2) + spec.head_dim) + 4096 <= shared);
        variants.retain(|(k, splits)| *splits > 0 && k.threads >= 16 * k.heads);
        let mut seen = Vec::new();
        let mut timings = Vec::new();
        let mut first: Option<Vec<f32>> = None;
        for (knobs, splits) in variants {
            if seen.contains(&(knobs, splits)) {
                continue;
            }
            seen.push((knobs, splits));
            let kernel = shape(knobs);
            let pipeline = gpu.pipeline(&kernel.shader(gpu.form))?;
            let bound_to: Vec<wgpu::BindGroup> = caches
                .iter()
                .map(|cache| {
                    let all = [
                        &raw,
                        &turns,
                        &cache.units,
                        &parts,
                        &arrived,
                        &out.numbers.buffer,
                        &out.records.buffer,
                    ];
                    let mut ranges = all.map(Range::from).to_vec();
                    ranges.extend(kernel.has_vectors().then(|| Range::from(&norms)));
                    ranges.extend(cache.scales.as_ref().map(Range::from));
                    gpu.bind(&pipeline, &ranges)
                })
                .collect();
            let args = Args { tokens: 1, position: depth as u32, splits: splits as u32 };
            let record = |pass: &mut wgpu::ComputePass<'_>, groups: &[wgpu::BindGroup]| {
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_immediates(0, bytemuck::bytes_of(&args));
                let [x, y, z] = kernel.grid(1, args.splits);
                for group in groups {
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(x, y, z);
                }
            };
            let us = profile::time(gpu, MANY, |pass| record(pass, &bound_to))? / caches.len() as f64;
            let records: Vec<[f32; 2]> = read(gpu, &out.records.buffer)?;
            let mut values =
                Activations::values_of(gpu.form.math, &read(gpu, &out.numbers.buffer)?, &records);
            values.truncate(groups(spec.heads * spec.head_dim) * GROUP);
            let difference = match &first {
                None => 0.0,
                Some(first) => {
                    let square = |v: f32| f64::from(v).powi(2);
                    let off: f64 = first.iter().zip(&values).map(|(a, b)| square(a - b)).sum();
                    (off / first.iter().map(|v| square(*v)).sum::<f64>().max(1e-30)).sqrt()
                }
            };
            first.get_or_insert(values);
            let reading = (us - self.limits().dispatch_us).max(1e-3);
            let wrong = difference.is_nan() || difference > bound(gpu, true).max(2e-5);
            let gb_per_s = bytes as f64 / reading / 1e3;
            timings.push(AttentionTiming { knobs, splits, us, gb_per_s, difference, wrong });
        }
        Ok(timings)
    }
}
