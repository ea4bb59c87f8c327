//! The kernel lab's other half: attention of one token over a deep cache, in variants.

use serde::Serialize;

use super::builder::{STORAGE, acts, upload_floats};
use super::device::Range;
use super::lab::{FAR, Lab, bound, read};
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
        let own = shape(Knobs::of(widest, spec.head_dim));
        let kv = gpu.form.kv;
        let mut random = Random::new("attention", 0);
        let mut numbers = |n: usize| (0..n).map(|_| random.number()).collect::<Vec<f32>>();
        let raw = upload_floats(gpu, "raw rows", &numbers(raw_rows(spec)[3]))?;
        let turns = upload_floats(gpu, "RoPE's table", &numbers((depth + 1) * spec.ropes[0].dims))?;
        let pattern = numbers(OWN / kv.bytes());
        let staged = match kv {
            Kv::F32 => upload_floats(gpu, "keys and values", &pattern)?,
            Kv::F16 => {
                let bits = |v: f32| u32::from(half::f16::from_f32(v).to_bits());
                let words = pattern.chunks_exact(2).map(|p| f32::from_bits(bits(p[0]) | bits(p[1]) << 16));
                upload_floats(gpu, "keys and values", &words.collect::<Vec<_>>())?
            }
        };
        let bytes = own.cache_bytes(kv);
        let count = if gpu.software { 1 } else { 3.max(FAR as usize / bytes + 1) };
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut caches = Vec::new();
        for _ in 0..count {
            let cache = gpu.buffer("keys and values", bytes as u64, STORAGE)?;
            for at in (0..bytes).step_by(OWN) {
                let size = OWN.min(bytes - at) as u64;
                encoder.copy_buffer_to_buffer(&staged, 0, &cache, at as u64, size);
            }
            caches.push(cache);
        }
        gpu.queue.submit([encoder.finish()]);
        let parts = gpu.buffer("attention", own.part_bytes(kv) as u64, STORAGE)?;
        let arrived = gpu.buffer("attention", (4 * spec.heads) as u64, STORAGE)?;
        let out = acts(gpu, 1, spec.heads * spec.head_dim)?;
        let norms = upload_floats(gpu, "vectors", &numbers(own.vectors()))?;

        let base = Knobs::of(widest, spec.head_dim);
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
                    let all = [&raw, &turns, cache, &parts, &arrived, &out.numbers, &out.records, &norms];
                    let used = if kernel.has_vectors() { 8 } else { 7 };
                    let ranges = all.map(Range::from)[..used].to_vec();
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
            let records: Vec<[f32; 2]> = read(gpu, &out.records)?;
            let mut values = Activations::values_of(gpu.form.math, &read(gpu, &out.numbers)?, &records);
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
