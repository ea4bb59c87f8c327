//! What the engine chooses about products: lanes, tiles, pieces.

use super::device::Gpu;
use crate::kernels::gemv::{Epilogue, Knobs, Part, Tail, Take};
use crate::kernels::{Form, loops};
use crate::quant::TILE;

/// What may differ between adapters without changing results.
#[derive(Clone, Copy)]
pub(super) struct Tuning {
    /// The most lanes of a matrix product's workgroup.
    pub(super) most_threads: usize,
    software: bool,
    /// Tokens of a workgroup in a batch.
    pub(super) batch_tokens: usize,
}

/// Workgroups that stages which overlap have at least, as far as there are tiles.
const WORKGROUPS: usize = 64;
/// Lanes of a workgroup where there are plenty of workgroups, or tokens.
const THREADS: usize = 256;

impl Tuning {
    pub(super) fn of(gpu: &Gpu) -> Tuning {
        let most =
            gpu.limits.max_compute_invocations_per_workgroup.min(gpu.limits.max_compute_workgroup_size_x);
        match gpu.software {
            // A software adapter compiles for as long as the code is: twice the tokens, twice the
            // time. Lanes are turns of a loop there.
            true => Tuning { most_threads: THREADS, software: true, batch_tokens: 4 },
            false => {
                // A batch of eight tokens, gated, takes 24 KiB.
                let batch_tokens =
                    if gpu.limits.max_compute_workgroup_storage_size < 24 << 10 { 4 } else { 8 };
                Tuning { most_threads: 1024.min(most as usize), software: false, batch_tokens }
            }
        }
    }

    /// Lanes' slices of a row and workgroups that share one, before a tail that needs all rows. Few
    /// tiles leave most of a device idle, and their rows are long: they are cut.
    pub(super) fn cut(self, parts: &[Part], tail: &Tail) -> (usize, usize) {
        let steps = loops::steps_of(&parts[0].layout);
        match tail {
            Tail::Route(_) => (16, steps.div_ceil(16).min(6)),
            Tail::Settle(_) if steps >= 96 && !self.software => (32, 2),
            Tail::Settle(_) | Tail::None => (64, 1),
        }
    }

    /// The knobs of a product in a form.
    pub(super) fn knobs(
        self,
        form: Form,
        parts: &[Part],
        epilogue: &Epilogue,
        take: &Take,
        tokens: usize,
    ) -> Knobs {
        match form.overlapped {
            true => self.overlapping(parts, epilogue),
            false => self.apart(parts, epilogue, take, tokens),
        }
    }

    /// The knobs of a product between barriers, as the lab (`cargo bench --bench kernels`) found them best on an H200.
    /// To decode with few tiles, as many lanes as there are steps, so that all loads are under way
    /// at once; with many, fewer lanes that have more to do. Little is written out: code that is
    /// not in the caches for instructions costs more than a loop.
    fn apart(self, parts: &[Part], epilogue: &Epilogue, take: &Take, tokens: usize) -> Knobs {
        if tokens > 1 {
            return Knobs { tiles: 1, threads: THREADS, unroll: 1, teams: 1 };
        }
        let mut steps = loops::steps_of(&parts[0].layout);
        let mut tiles: usize = parts.iter().map(|p| p.layout.tiles()).sum();
        if let Take::Chosen { count, used } = take {
            tiles = tiles / count * used;
            // The rows of a token's experts are one after the other.
            if matches!(epilogue, Epilogue::Residual { .. }) {
                (steps, tiles) = (steps * used, tiles / used);
            }
        }
        let (slices, of_a_group, unroll) = match epilogue {
            _ if self.software => (16, 1, 1),
            Epilogue::Logits { .. } => ((steps / 4).clamp(8, 16), 1, 1),
            // Lanes share what it takes to bring a codebook.
            Epilogue::Gated(_) if parts.iter().any(|p| p.layout.ty.book().is_some()) => (16, 1, 1),
            Epilogue::Gated(_) if tiles >= 1536 && parts[0].layout.chunks() >= 128 => (8, 1, 1),
            Epilogue::Gated(_) => (16, 1, 2),
            _ if tiles < 256 => (64, 1, 4),
            // Code for two types keeps fewer lanes at once: they have more under way.
            Epilogue::Raw if parts.iter().any(|p| p.layout.ty != parts[0].layout.ty) => (32, 1, 4),
            // Workgroups of 1,024 lanes are faster alone, and slower between kernels of fewer.
            _ => (32, 1, 1),
        };
        let threads = TILE * steps.min(slices).next_multiple_of(4);
        Knobs { tiles: of_a_group, threads: threads.min(self.most_threads), unroll, teams: 1 }
    }

    /// The same where stages overlap, found on an H100. A workgroup brings the activations to its memory,
    /// and a word that is waited for is looked for by all of them: so they are few and large, several
    /// tiles at once, and take the weights of few steps into their registers.
    fn overlapping(self, parts: &[Part], epilogue: &Epilogue) -> Knobs {
        let apart = self.apart(parts, epilogue, &Take::Whole, 1);
        let steps = loops::steps_of(&parts[0].layout);
        let mut tiles: usize = parts.iter().map(|p| p.layout.tiles()).sum();
        let books = parts.iter().any(|p| p.layout.ty.book().is_some());
        let (slices, unroll) = match epilogue {
            Epilogue::Logits { .. } => return apart,
            _ if self.software => (8, 1),
            Epilogue::Gated(_) if books => return apart,
            Epilogue::Gated(_) => (apart.slices(), 1),
            Epilogue::Residual { .. } if tiles >= 256 && steps == 64 => (32, 2),
            _ => (if tiles < 256 { 64 } else { 32 }, 1),
        };
        if matches!(epilogue, Epilogue::Gated(_)) {
            tiles /= parts.len();
        }
        let slices = steps.min(slices).next_multiple_of(4);
        let mut teams = 1;
        while unroll == 1 && 2 * teams * TILE * slices <= self.most_threads && tiles >= 2 * teams * WORKGROUPS
        {
            teams *= 2;
        }
        Knobs { tiles: 1, threads: (teams * TILE * slices).min(self.most_threads), unroll, teams }
    }
}
