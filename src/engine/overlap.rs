//! Stages of a step that overlap.
//!
//! Between two dispatches of which one reads what the other writes, wgpu makes the device wait: the next
//! one starts when the last workgroup has ended, which costs more than many stages take. Here nothing
//! waits. Workgroups of the next stages come as soon as there is room, ask for their weights, and take
//! what the stage before makes as it comes. The memory on which stages hand words on is zero when a step
//! begins, each stage has memory of its own there, and no word that is handed on is zero
//! (`shaders/overlap.wgsl`). So a word is its own sign that it is there: there are no counters, no fences,
//! and nothing that could be seen half.
//!
//! What has to hold: workgroups start in the order of their dispatches, so that nobody waits for those
//! which find no room. No API promises that, so it is tried once on a device ([`works`]); a wait
//! that lasts too long gives up, and what comes of it is no number.
//!
//! The memory of two steps takes turns ([`take_turns`]): while a step uses one, the other is made zero, and
//! has been for a whole step before it is used. So a word that a stage finds is never one of the step
//! before, even where a device is late with its zeros.
//!
//! wgpu would not leave its barriers out, as it tracks every buffer. So each stage has names of its
//! own for buffers that it writes ([`Names`]): ones that wgpu knows nothing of but that they are there, over
//! the same memory. The first stage's output and the ids of tokens keep their own names: the device waits
//! before and after a step.

use std::cell::{Cell, RefCell};

use super::builder::{Acts, Flow, Place, STORAGE, words_of};
use super::device::{ALIGN, Gpu, Pipeline, Range};
use super::stage::{Stage, raw_rows, stream};
use crate::Result;
use crate::kernels::gemv::{Part, least_shared_bytes};
use crate::kernels::{Form, overlap};
use crate::model::{HeadNorms, Spec};

/// The memory on which the stages of a step hand words on.
pub(super) struct Arena {
    pub(super) buffer: wgpu::Buffer,
    used: Cell<u64>,
    /// It has been recorded that all of it is zero, and nothing since that changes it.
    is_clear: Cell<bool>,
}

impl Arena {
    pub(super) fn new(gpu: &Gpu, spec: &Spec) -> Result<Arena> {
        let buffer = gpu.buffer("what stages hand on", bytes(spec), STORAGE)?;
        Ok(Arena { buffer, used: Cell::new(0), is_clear: Cell::new(false) })
    }

    /// Gives what a stage writes memory of its own.
    pub(super) fn renew(&self, flow: &mut Flow, stage: &Stage, spec: &Spec) {
        match stage {
            Stage::Embed { .. } | Stage::Residual { .. } => {
                flow.x = self.words(stream(spec));
                flow.normed = self.acts(spec.width);
            }
            Stage::Qkv { .. } => flow.raw = self.words(raw_rows(spec)[3]),
            Stage::Attention(_) => {
                flow.arrived = self.words(spec.heads);
                flow.attended = self.acts(spec.heads * spec.head_dim);
            }
            Stage::Gated { .. } => flow.hidden = self.acts(spec.ffn),
            Stage::Output { .. } | Stage::Settle(_) | Stage::Route { .. } | Stage::Logits { .. } => {}
        }
    }

    fn words(&self, count: usize) -> Place {
        let offset = self.used.get();
        self.used.set(offset + room(count));
        Place { buffer: self.buffer.clone(), offset, bytes: Some(4 * count as u64) }
    }

    fn acts(&self, elements: usize) -> Acts {
        let [numbers, records, squares] = words_of(elements).map(|count| self.words(count));
        Acts { numbers, records, squares }
    }

    /// Records that all of it is zero.
    fn clear(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.clear_buffer(&self.buffer, 0, None);
        self.is_clear.set(true);
    }
}

/// Records what comes before a step that uses one of two memories: the other is made ready for the step
/// after it. The own one has been ready since the step before, unless there is none.
pub(super) fn take_turns(encoder: &mut wgpu::CommandEncoder, own: &Arena, other: &Arena) {
    for arena in [own, other].into_iter().filter(|arena| !arena.is_clear.get()) {
        arena.clear(encoder);
    }
    own.is_clear.set(false);
}

/// Bytes of so many words and of what lies behind them.
fn room(words: usize) -> u64 {
    (4 * words as u64).next_multiple_of(ALIGN)
}

/// Bytes that the stages of a step need to hand words on; two steps have them.
pub(super) fn bytes(spec: &Spec) -> u64 {
    let acts = |elements: usize| words_of(elements).map(room).iter().sum::<u64>();
    let of_stream = room(stream(spec)) + acts(spec.width);
    let of_attention = room(raw_rows(spec)[3]) + room(spec.heads) + acts(spec.heads * spec.head_dim);
    of_stream + spec.layers.len() as u64 * (2 * of_stream + of_attention + acts(spec.ffn))
}

/// The plan's stages can overlap: what needs the whole stream, or all scores, has tails that cannot.
pub(super) fn suits<'a>(mut stages: impl Iterator<Item = &'a Stage>, spec: &Spec) -> bool {
    let whole_norms = spec.head_norms == HeadNorms::Whole;
    !whole_norms
        && stages.all(|stage| !matches!(stage, Stage::Output { .. } | Stage::Settle(_) | Stage::Route { .. }))
}

/// A product's workgroups have room for the activations that they bring.
pub(super) fn fits(gpu: &Gpu, parts: &[Part]) -> bool {
    let form = Form { overlapped: true, ..gpu.form };
    least_shared_bytes(parts, form) <= gpu.limits.max_compute_workgroup_storage_size as usize
}

/// The names of buffers that stages write: one for each of a stage's dispatches and each buffer. All chains of
/// steps have the same ones, so that wgpu puts a barrier between steps that write to the same memory.
#[derive(Default)]
pub(super) struct Names(RefCell<Vec<Name>>);

struct Name {
    dispatch: (usize, usize),
    buffer: wgpu::Buffer,
    name: wgpu::Buffer,
}

impl Names {
    /// Binds a dispatch, which is known by its stage and its number there: each buffer that is written, but
    /// for the `common` ones, under its name. The kernels' bindings say "written" of what another stage
    /// writes too.
    pub(super) fn bind(
        &self,
        gpu: &Gpu,
        dispatch: (usize, usize),
        pipeline: &Pipeline,
        ranges: &[Range<'_>],
        common: &[&wgpu::Buffer],
    ) -> wgpu::BindGroup {
        let name = |((_, written), range): (&(u32, bool), &Range<'_>)| match written {
            true if !common.contains(&range.buffer) => self.of(gpu, dispatch, range.buffer),
            _ => range.buffer.clone(),
        };
        let names: Vec<wgpu::Buffer> = pipeline.bindings.iter().zip(ranges).map(name).collect();
        let named = ranges.iter().zip(&names).map(|(range, buffer)| Range { buffer, ..*range });
        gpu.bind(pipeline, &named.collect::<Vec<_>>())
    }

    fn of(&self, gpu: &Gpu, dispatch: (usize, usize), buffer: &wgpu::Buffer) -> wgpu::Buffer {
        let mut all = self.0.borrow_mut();
        if let Some(known) = all.iter().find(|n| n.dispatch == dispatch && n.buffer == *buffer) {
            return known.name.clone();
        }
        let name = other_name(gpu, buffer);
        all.push(Name { dispatch, buffer: buffer.clone(), name: name.clone() });
        name
    }
}

/// The same memory as a buffer that wgpu tracks by itself; the buffer itself where that is not possible.
fn other_name(gpu: &Gpu, buffer: &wgpu::Buffer) -> wgpu::Buffer {
    use wgpu::hal::{api::Vulkan, vulkan};
    let descriptor = wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    };
    let kept = buffer.clone();
    // SAFETY: the handle is of this device, of a storage buffer of this size that is initialised; the clone
    // that the other name holds keeps it alive for as long.
    unsafe {
        let Some(raw) = buffer.as_hal::<Vulkan>().map(|b| b.raw_handle()) else { return kept };
        let other = vulkan::Buffer::from_raw_externally_owned(raw, Box::new(move || drop(kept)));
        gpu.device.create_buffer_from_hal::<Vulkan>(other, &descriptor)
    }
}

/// Tries on the device whether stages can overlap: many of them, each of more workgroups than run at once,
/// and each workgroup waits for words of workgroups all over the stage before.
///
/// # Errors
/// The device's.
pub(super) fn works(gpu: &Gpu) -> Result<bool> {
    let pipeline = gpu.pipeline(&overlap::shader(gpu.form))?;
    // A software adapter runs dispatches one after the other, and takes its time.
    let stages = if gpu.software { 2 } else { STAGES };
    let row = room(overlap::WORKGROUPS as usize);
    let words = gpu.buffer("the trial of overlapping", row * (stages + 1), STORAGE)?;
    let line = |stage: u64| Range { buffer: &words, offset: stage * row, bytes: Some(row) };
    // All of it is written: wgpu would make zeros, as late as when it is read, of what it saw nobody write.
    let mut zeros = vec![0u32; words.size() as usize / 4];
    zeros[..row as usize / 4].fill(1);
    gpu.queue.write_buffer(&words, 0, bytemuck::cast_slice(&zeros));
    // By its own: wgpu sees no reason to put what follows behind it in one submission.
    gpu.queue.submit([]);
    let names = Names::default();
    let bind = |s: u64| names.bind(gpu, (s as usize, 0), &pipeline, &[line(s), line(s + 1)], &[]);
    let groups: Vec<_> = (0..stages).map(bind).collect();
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline.pipeline);
        for group in &groups {
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(overlap::WORKGROUPS, 1, 1);
        }
    }
    gpu.queue.submit([encoder.finish()]);
    let all: Vec<u32> = super::case::read(gpu, &words)?;
    let last = &all[(stages * row / 4) as usize..][..overlap::WORKGROUPS as usize];
    Ok(last.iter().all(|word| *word == overlap::twin(stages as u32)))
}

/// Stages of the trial.
const STAGES: u64 = 48;
