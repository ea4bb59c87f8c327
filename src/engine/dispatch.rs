//! A kernel that is bound to its buffers, and how its grid and immediates follow from a step.

use std::sync::Arc;

use super::device::Pipeline;
use crate::kernels::attention::{self as attention_kernel, Attention};
use crate::kernels::gemv::{self, Gemv};
use crate::kernels::route::Route;
use crate::kernels::sample::Sampling;
use crate::kernels::settle::Settle;
use crate::kernels::{Form, Kv, embed};

/// The tokens that a recording is for.
pub(super) struct Step {
    tokens: u32,
    position: u32,
    /// Which draw the selection after it is.
    draw: u32,
}

impl Step {
    pub(super) fn batch(position: usize, tokens: usize, draw: u32) -> Step {
        Step { tokens: tokens as u32, position: position as u32, draw }
    }

    pub(super) fn decode(position: usize, draw: u32) -> Step {
        Step { tokens: 1, position: position as u32, draw }
    }
}

/// How a dispatch's grid and immediates follow from a step.
pub(super) enum Kind {
    Embed(embed::Embed),
    Gemv(Gemv),
    Settle(Settle),
    Route(Route),
    KvWrite(Attention, Kv),
    /// With the kernel that takes over where there are few keys.
    Attention(Attention, Option<Few>),
    Merge(Attention, Form),
    /// Logits of the batch's last token.
    LastLogits(Gemv),
    Select,
    Sample,
}

/// Attention by one query head a workgroup, without splits.
pub(super) struct Few {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) group: wgpu::BindGroup,
    pub(super) shape: Attention,
}

impl Few {
    fn fits(&self, step: &Step) -> bool {
        step.position < FEW_KEYS
    }
}

/// Keys up to which one workgroup for each query head is faster than splits that must be merged.
const FEW_KEYS: u32 = 256;

pub(super) struct Dispatch {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) group: wgpu::BindGroup,
    pub(super) kind: Kind,
}

impl Dispatch {
    /// What a profile calls it: the kernel and its shape.
    pub(super) fn label(&self) -> String {
        match &self.kind {
            Kind::Embed(_) => "embed".to_owned(),
            Kind::Gemv(k) | Kind::LastLogits(k) => k.label(),
            Kind::Settle(_) => "settle".to_owned(),
            Kind::Route(_) => "route".to_owned(),
            Kind::KvWrite(..) => "kv_write".to_owned(),
            Kind::Attention(..) => "attention".to_owned(),
            Kind::Merge(..) => "attention_merge".to_owned(),
            Kind::Select => "select".to_owned(),
            Kind::Sample => "sample".to_owned(),
        }
    }

    /// Bytes of weights, keys and values that a step of one token reads with it.
    pub(super) fn bytes(&self, position: usize, kv: Kv) -> u64 {
        match &self.kind {
            Kind::Gemv(k) | Kind::LastLogits(k) => k.bytes() as u64,
            Kind::Attention(k, _) => {
                let seen = position + 1 - k.first_key(position);
                (k.cache_bytes(kv) / k.positions() * seen) as u64
            }
            _ => 0,
        }
    }

    /// Records it for a step.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step, sampling: &Sampling) {
        let Step { tokens, position, draw } = *step;
        let few = match &self.kind {
            Kind::Attention(_, few) => few.as_ref().filter(|few| few.fits(step)),
            _ => None,
        };
        let (pipeline, group) = few.map_or((&self.pipeline, &self.group), |few| (&few.pipeline, &few.group));
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, group, &[]);
        let mut set = |bytes: &[u8]| pass.set_immediates(0, bytes);
        let attend = |shape: &Attention| {
            let splits = shape.splits(tokens as usize, (position + tokens) as usize) as u32;
            attention_kernel::Args { tokens, position, splits }
        };
        let [x, y, z] = match &self.kind {
            Kind::Embed(k) => {
                set(bytemuck::bytes_of(&embed::Args { tokens, position }));
                k.grid(tokens)
            }
            // Without immediates: one token, or a batch of which each has its own experts.
            Kind::Gemv(k) if !k.has_args() => k.grid(tokens),
            Kind::Settle(k) => k.grid(tokens),
            Kind::Route(k) => k.grid(tokens),
            Kind::Gemv(k) => {
                set(bytemuck::bytes_of(&gemv::Args { tokens, first: 0 }));
                k.grid(tokens)
            }
            Kind::LastLogits(k) => {
                set(bytemuck::bytes_of(&gemv::Args { tokens: 1, first: tokens - 1 }));
                k.grid(1)
            }
            Kind::KvWrite(k, kv) => {
                set(bytemuck::bytes_of(&embed::Args { tokens, position }));
                k.write_grid(tokens, *kv)
            }
            Kind::Attention(k, _) => {
                let (shape, args) = match few {
                    Some(few) => (&few.shape, attention_kernel::Args { tokens, position, splits: 1 }),
                    None => (k, attend(k)),
                };
                set(bytemuck::bytes_of(&args));
                shape.grid(tokens, args.splits)
            }
            Kind::Merge(k, form) => {
                set(bytemuck::bytes_of(&attend(k)));
                k.merge_grid(tokens, *form)
            }
            Kind::Select => {
                set(bytemuck::bytes_of(&(position + tokens)));
                [1, 1, 1]
            }
            Kind::Sample => {
                set(bytemuck::bytes_of(&sampling.args(position + tokens, draw)));
                [1, 1, 1]
            }
        };
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Records dispatches for a step, and gives their number.
pub(super) fn record(
    pass: &mut wgpu::ComputePass<'_>,
    dispatches: &[Dispatch],
    step: &Step,
    sampling: &Sampling,
) -> u64 {
    for d in dispatches {
        d.record(pass, step, sampling);
    }
    dispatches.len() as u64
}
