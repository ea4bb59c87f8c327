//! The GPU engine: a model's stages as recorded dispatches, its state in device memory.
//!
//! The host knows positions and the device knows tokens: a step's token is where the step before
//! has put it. So steps are recorded and submitted ahead, and only ids come back, four bytes each,
//! one copy per submission.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::device::Gpu;
use super::dispatch::Step;
use super::kept::Kept;
use super::profile::{self, Limits, Profile};
use super::program::{Program, Programs};
use super::upload::Store;
use super::{Counters, Engine, Info, Options, Progress};
use crate::kernels::sample::Sampling;
use crate::kernels::select::FAILED;
use crate::model::Model;
use crate::{Error, Result};

/// Tokens of a prefill batch.
pub(super) const BATCH: usize = 64;
/// Dispatches of a submission of such a batch to a software adapter.
const SOFTWARE_PIECE: usize = 4;
/// Submissions under way while decoding.
const FLIGHTS: usize = 3;
/// The most tokens of a submission.
const MOST: usize = 8;
/// A submission should last about as long as this: long enough to hide the host's work, short
/// enough that little is computed beyond the end.
const FLIGHT_TIME: Duration = Duration::from_millis(2);

/// See the module's documentation.
pub struct GpuEngine {
    gpu: Gpu,
    model: Arc<Model>,
    info: Info,
    programs: Programs,
    /// Buffers that ids are read back through, when not in use.
    landing: Vec<wgpu::Buffer>,
    run: Option<Run>,
    kept: Kept,
    counters: Counters,
    /// What the user should know of what has happened.
    notes: Vec<String>,
}

/// What is said where a stage has waited in vain for the one before it.
const GAVE_UP: &str = "a stage waited in vain for the one before it, and the token was computed again: stages \
                       no longer overlap, which is slower (INFER_NO_OVERLAP=1 does so from the start)";

/// What follows the last batch of a prompt.
#[derive(Clone, Copy)]
enum Tail<'a> {
    Nothing,
    /// The next token is chosen and copied.
    Select {
        sampling: &'a Sampling,
        /// Draws before.
        drawn: u32,
        into: &'a wgpu::Buffer,
    },
    /// The logits after all tokens, or after the last, are copied.
    Logits {
        all: bool,
        into: &'a wgpu::Buffer,
        bytes: u64,
    },
}

/// A submission whose results are not read yet.
struct Flight {
    buffer: wgpu::Buffer,
    bytes: u64,
    index: wgpu::SubmissionIndex,
    mapped: Receiver<bool>,
}

/// A generation under way.
struct Run {
    sampling: Sampling,
    /// The position of the first token.
    begun: usize,
    /// The position whose token is next to be computed.
    position: usize,
    /// Steps that may still be submitted.
    left: usize,
    /// Draws before its first token's.
    drawn: u32,
    /// The position of the token that is given out next.
    next: usize,
    flights: VecDeque<Flight>,
    ready: VecDeque<u32>,
    /// Tokens of the next submission.
    burst: usize,
    landed: Instant,
}

impl Run {
    /// Which draw it is that chooses the token behind a position.
    fn draw(&self, position: usize) -> u32 {
        self.drawn + (position + 1 - self.begun) as u32
    }
}

impl GpuEngine {
    pub(super) fn open(
        model: Arc<Model>,
        adapter: wgpu::Adapter,
        options: &Options,
        progress: Progress<'_>,
    ) -> Result<GpuEngine> {
        let mut gpu = Gpu::open(&adapter, options)?;
        let mut store = Store::default();
        let program = Program::plan(&model.plan, &mut store, &gpu)?;
        let (context, mut notes) = super::memory::context(&model.plan.spec, options, &gpu, store.bytes())?;
        let form = program.step_form(&store, &gpu, &model.plan.spec)?;
        let tune = super::tune::tune(&gpu, &adapter.get_info(), form, &model, options, progress)?;
        notes.extend(tune.notes);
        gpu.table = tune.table;
        store.upload(&gpu, &model.weights, progress)?;
        let programs = Programs::build(program, &model, store, &gpu, context)?;
        let info = Info {
            device: gpu.name.clone(),
            driver: gpu.driver.clone(),
            math: gpu.form.math,
            kv: gpu.form.kv,
            knobs: Some(tune.tuned),
            context,
            weight_bytes: programs.weight_bytes,
            kv_bytes: programs.kv_bytes,
            scratch_bytes: programs.scratch_bytes,
            notes,
        };
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let landing =
            (0..FLIGHTS).map(|_| gpu.buffer("ids", 4 * MOST as u64, usage)).collect::<Result<Vec<_>>>()?;
        let kept = Kept::new(&model.plan, context);
        Ok(GpuEngine {
            gpu,
            model,
            info,
            programs,
            landing,
            run: None,
            kept,
            counters: Counters::default(),
            notes: vec![],
        })
    }

    /// Records and submits a batch of at most [`BATCH`] tokens, whose ids are on the device.
    fn batch(&mut self, position: usize, tokens: usize, tail: Tail<'_>) -> Result<wgpu::SubmissionIndex> {
        let drawn = if let Tail::Select { drawn, .. } = tail { drawn } else { 0 };
        let step = Step::batch(position, tokens, drawn);
        let encoder = || self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        // A driver that computes on the host does so while it takes a submission, and nobody can ask it
        // to stop.
        let most = if self.gpu.software { SOFTWARE_PIECE } else { usize::MAX };
        let mut pieces = self.programs.batch_pieces(most).peekable();
        while let Some(piece) = pieces.next_if(|piece| piece.len() == most) {
            self.gpu.check_stop()?;
            let mut encoder = encoder();
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            Programs::record_batch(&mut pass, piece, &step);
            drop(pass);
            self.gpu.queue.submit([encoder.finish()]);
        }
        let mut encoder = encoder();
        let copy = {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            Programs::record_batch(&mut pass, pieces.next().unwrap_or_default(), &step);
            match tail {
                Tail::Nothing => None,
                Tail::Select { sampling, into, .. } => {
                    self.programs.record_selection(&mut pass, &step, sampling);
                    Some((&self.programs.buffers.ids, 4 * (position + tokens) as u64, into, 4))
                }
                Tail::Logits { all, into, bytes } => {
                    Some((self.programs.record_logits(&mut pass, &step, all), 0, into, bytes))
                }
            }
        };
        if let Some((source, offset, into, bytes)) = copy {
            encoder.copy_buffer_to_buffer(source, offset, into, 0, bytes);
        }
        Ok(self.gpu.queue.submit([encoder.finish()]))
    }

    /// Begins a text of so many tokens at a position.
    fn begin_text(&mut self, position: usize, tokens: usize) -> Result<()> {
        super::check_context(tokens, self.info.context)?;
        if self.kept.begin(position, tokens)? {
            self.programs.turn(&self.gpu, &self.model.plan.turns(self.info.context, tokens));
        }
        Ok(())
    }

    /// Computes `ids` of a text that has begun at a position; `tail` follows the last batch.
    fn prefill(
        &mut self,
        position: usize,
        ids: &[u32],
        progress: Progress<'_>,
        tail: Tail<'_>,
    ) -> Result<wgpu::SubmissionIndex> {
        self.gpu.queue.write_buffer(
            &self.programs.buffers.ids,
            4 * position as u64,
            bytemuck::cast_slice(ids),
        );
        let mut submitted: VecDeque<wgpu::SubmissionIndex> = VecDeque::new();
        let batches = ids.len().div_ceil(BATCH);
        for (i, batch) in ids.chunks(BATCH).enumerate() {
            // Two under way: the device stays busy, progress and an interruption are timely.
            if submitted.len() > 1
                && let Some(index) = submitted.pop_front()
            {
                self.gpu.wait(&index)?;
            }
            if progress(i.saturating_sub(1) * BATCH, ids.len()).is_break() {
                for index in submitted {
                    self.gpu.wait(&index)?;
                }
                return Err(Error::Interrupted);
            }
            let tail = if i + 1 == batches { tail } else { Tail::Nothing };
            self.kept.wrote(position + i * BATCH + batch.len());
            submitted.push_back(self.batch(position + i * BATCH, batch.len(), tail)?);
        }
        submitted.pop_back().ok_or_else(|| Error::Request("there are no tokens to compute".to_owned()))
    }

    /// A free buffer for ids.
    fn landing(&mut self) -> Result<wgpu::Buffer> {
        self.landing.pop().ok_or_else(|| Error::Other("no buffer is free for ids".to_owned()))
    }

    /// Submits the next steps of a run.
    fn submit(&mut self, run: &mut Run) -> Result<()> {
        let start = Instant::now();
        let tokens = run.burst.min(run.left).min(MOST);
        let buffer = self.landing()?;
        let first = run.position + 1;
        let mut steps = Vec::new();
        for i in 0..tokens {
            let mut encoder =
                self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let step = Step::decode(run.position, run.draw(run.position));
            self.counters.dispatches += self.programs.record_step(&mut encoder, &step, &run.sampling, None);
            run.position += 1;
            self.kept.wrote(run.position);
            if i + 1 == tokens {
                let (from, bytes) = (4 * first as u64, 4 * tokens as u64);
                encoder.copy_buffer_to_buffer(&self.programs.buffers.ids, from, &buffer, 0, bytes);
            }
            steps.push(encoder.finish());
        }
        let index = self.gpu.queue.submit(steps);
        run.left -= tokens;
        run.flights.push_back(flight(buffer, 4 * tokens as u64, index));
        self.counters.steps += tokens as u64;
        self.counters.submits += 1;
        self.counters.readback_bytes += 4 * tokens as u64;
        self.counters.encode += start.elapsed();
        Ok(())
    }

    /// Waits for a submission and reads what it has copied; the buffer is unmapped.
    fn land(&self, flight: &Flight) -> Result<Vec<u32>> {
        self.gpu.wait(&flight.index)?;
        let failed = || Error::Device(format!("{}: results could not be read back", self.gpu.name));
        if !flight.mapped.recv().unwrap_or(false) {
            return Err(failed());
        }
        let view = flight.buffer.slice(..flight.bytes).get_mapped_range().map_err(|_| failed())?;
        let words = bytemuck::pod_collect_to_vec::<u8, u32>(&view);
        drop(view);
        flight.buffer.unmap();
        Ok(words)
    }

    /// Waits for the oldest submission of a run and gives its ids, if there is one. Where the wait is stopped it
    /// is still under way.
    fn land_oldest(&mut self, run: &mut Run) -> Result<Option<Vec<u32>>> {
        let Some(flight) = run.flights.pop_front() else { return Ok(None) };
        let landed = self.land(&flight);
        match landed {
            Err(Error::Interrupted) => run.flights.push_front(flight),
            _ => self.landing.push(flight.buffer),
        }
        landed.map(Some)
    }

    /// Computes `ids` at a position and begins to generate after them, or goes on with a generation of
    /// which so many tokens were `drawn` before.
    fn start(
        &mut self,
        position: usize,
        ids: &[u32],
        (sampling, drawn): (&Sampling, u32),
        limit: usize,
        progress: Progress<'_>,
    ) -> Result<()> {
        self.settle()?;
        self.begin_text(position, position + ids.len())?;
        self.programs.prepare(&self.gpu, sampling)?;
        let buffer = self.landing()?;
        let end = position + ids.len();
        let index =
            match self.prefill(position, ids, progress, Tail::Select { sampling, drawn, into: &buffer }) {
                Ok(index) => index,
                Err(error) => {
                    self.landing.push(buffer);
                    return Err(error);
                }
            };
        let mut run = Run {
            sampling: *sampling,
            begun: end,
            position: end,
            left: limit.saturating_sub(1),
            drawn,
            next: end,
            flights: VecDeque::new(),
            ready: VecDeque::new(),
            burst: 1,
            landed: Instant::now(),
        };
        run.flights.push_back(flight(buffer, 4, index));
        self.run = Some(run);
        Ok(())
    }

    /// Ends a run. Where somebody asks to stop meanwhile, what is under way is left for the next call.
    fn settle(&mut self) -> Result<()> {
        let Some(mut run) = self.run.take() else { return Ok(()) };
        loop {
            match self.land_oldest(&mut run) {
                Ok(None) => return Ok(()),
                Err(Error::Interrupted) => {
                    self.run = Some(run);
                    return Err(Error::Interrupted);
                }
                // A device that fails here will say so at the next call.
                _ => {}
            }
        }
    }

    /// Chooses the next token of a run again, whose logits were not finite, by a step whose stages do not
    /// overlap. If it is one now, a stage has waited in vain: from now on none overlap.
    fn repeat_apart(&mut self, run: &mut Run) -> Result<u32> {
        // What a batch has made is not repeated: its stages never overlap.
        if !self.programs.overlaps() || run.next == run.begun {
            return Err(super::not_finite(&self.info));
        }
        while self.land_oldest(run)?.is_some() {}
        self.programs.prepare_apart(&self.gpu, &self.model)?;
        let buffer = self.landing()?;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let step = Step::decode(run.next - 1, run.draw(run.next - 1));
        self.programs.record_step_apart(&mut encoder, &step, &run.sampling);
        let from = 4 * run.next as u64;
        encoder.copy_buffer_to_buffer(&self.programs.buffers.ids, from, &buffer, 0, 4);
        let index = self.gpu.queue.submit([encoder.finish()]);
        run.flights.push_back(flight(buffer, 4, index));
        let ids = self.land_oldest(run)?.unwrap_or_default();
        let Some(id) = ids.first().copied().filter(|id| *id != FAILED) else {
            return Err(super::not_finite(&self.info));
        };
        self.programs.stop_overlapping();
        self.notes.push(GAVE_UP.to_owned());
        // What was computed behind it has been in vain.
        run.ready.clear();
        run.left += run.position - run.next;
        run.position = run.next;
        Ok(id)
    }

    fn next_of(&mut self, run: &mut Run) -> Result<u32> {
        loop {
            // It goes when it is given out: a wait that is stopped leaves everything as it was.
            if let Some(&id) = run.ready.front() {
                let id = if id == FAILED { self.repeat_apart(run)? } else { id };
                run.ready.pop_front();
                run.next += 1;
                return Ok(id);
            }
            while run.flights.len() < FLIGHTS && run.left > 0 {
                self.gpu.check_stop()?;
                self.submit(run)?;
            }
            let Some(ids) = self.land_oldest(run)? else {
                return Err(Error::Other("the generation has ended".to_owned()));
            };
            let per_token = run.landed.elapsed().as_nanos() / ids.len().max(1) as u128;
            run.landed = Instant::now();
            run.burst =
                ((FLIGHT_TIME.as_nanos() / per_token.max(1)) as usize).clamp(1, (2 * run.burst).min(MOST));
            run.ready.extend(ids);
        }
    }
}

impl Drop for GpuEngine {
    /// Nothing is under way when buffers go: those of stages that overlap have two names, and the second
    /// must not be the last to hold the first (`overlap.rs`).
    fn drop(&mut self) {
        let _ = self.gpu.wait_for_all();
    }
}

/// Asks for the first bytes of a buffer that a submission copies to.
fn flight(buffer: wgpu::Buffer, bytes: u64, index: wgpu::SubmissionIndex) -> Flight {
    let (sender, mapped) = channel();
    buffer.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| {
        let _ = sender.send(result.is_ok());
    });
    Flight { buffer, bytes, index, mapped }
}

impl Engine for GpuEngine {
    fn info(&self) -> &Info {
        &self.info
    }

    fn resume(&self, position: usize, tokens: usize) -> usize {
        self.kept.resume(position, tokens)
    }

    fn room(&self, tokens: usize) -> usize {
        self.kept.room(tokens)
    }

    fn begin(
        &mut self,
        position: usize,
        ids: &[u32],
        sampling: &Sampling,
        limit: usize,
        progress: Progress<'_>,
    ) -> Result<()> {
        self.start(position, ids, (sampling, 0), limit, progress)
    }

    fn restart(&mut self, ids: &[u32], limit: usize, progress: Progress<'_>) -> Result<()> {
        let Some(run) = &self.run else { return Err(super::not_begun()) };
        let (sampling, drawn) = (run.sampling, run.draw(run.next - 1));
        self.start(0, ids, (&sampling, drawn), limit, progress)
    }

    fn next(&mut self) -> Result<u32> {
        let Some(mut run) = self.run.take() else { return Err(super::not_begun()) };
        let result = self.next_of(&mut run);
        self.run = Some(run);
        result
    }

    fn end(&mut self) {
        let _ = self.settle();
    }

    fn logits(
        &mut self,
        ids: &[u32],
        all: bool,
        progress: Progress<'_>,
        row: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.settle()?;
        self.begin_text(0, ids.len())?;
        let row_bytes = 4 * self.model.plan.spec.vocab as u64;
        // Tokens whose logits are one binding.
        let batch = if all { ((self.gpu.binding / row_bytes) as usize).clamp(1, BATCH) } else { 1 };
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let mut landing = self.gpu.buffer("logits", batch as u64 * row_bytes, usage)?;
        let mut give = |words: Vec<u32>| -> Result<()> {
            let numbers: &[f32] = bytemuck::cast_slice(&words);
            numbers.chunks_exact(row_bytes as usize / 4).try_for_each(&mut *row)
        };
        if !all {
            let tail = Tail::Logits { all, into: &landing, bytes: row_bytes };
            let index = self.prefill(0, ids, progress, tail)?;
            return give(self.land(&flight(landing, row_bytes, index))?);
        }
        self.programs.prepare_all_logits(&self.gpu, batch)?;
        for (i, part) in ids.chunks(batch).enumerate() {
            if progress(i * batch, ids.len()).is_break() {
                return Err(Error::Interrupted);
            }
            let bytes = row_bytes * part.len() as u64;
            let tail = Tail::Logits { all, into: &landing, bytes };
            let index = self.prefill(i * batch, part, &mut |_, _| ControlFlow::Continue(()), tail)?;
            let landed = flight(landing, bytes, index);
            give(self.land(&landed)?)?;
            landing = landed.buffer;
        }
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn step_bytes(&self, position: usize) -> u64 {
        self.programs.decode_dispatches().map(|d| d.bytes(position, self.info.kv)).sum()
    }

    fn limits(&mut self) -> Result<Option<Limits>> {
        profile::limits(&self.gpu).map(Some)
    }

    fn profile(&mut self, position: usize) -> Result<Option<Profile>> {
        self.settle()?;
        self.programs.prepare_apart(&self.gpu, &self.model)?;
        profile::profile(&self.gpu, &self.programs, position)
    }
}
