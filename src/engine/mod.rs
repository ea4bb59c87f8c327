//! Memory and time: where a plan's stages run and tokens are made.
//!
//! Both engines run the same stages ([`stage`]): `gpu` records them into command buffers, `cpu`
//! calls their twins. [`generate`] drives either.

mod attention_lab;
mod builder;
mod case;
pub mod cpu;
pub mod device;
mod dispatch;
pub mod generate;
pub mod gpu;
mod kept;
pub mod lab;
mod memory;
mod overlap;
pub mod profile;
mod program;
pub mod quality;
pub mod stage;
#[cfg(test)]
mod tests;
pub mod tune;
mod tuning;
mod upload;

pub use crate::environment::Forms;
pub use attention_lab::AttentionTiming;
pub use program::scratch_bytes;

use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::kernels::sample::Sampling;
use crate::kernels::{Kv, Math};
use crate::model::Model;
use crate::{Error, Result, environment};

/// Where to compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A discrete GPU, else an integrated one, else the CPU.
    Auto,
    /// Any adapter, software too.
    Gpu,
    /// The CPU engine.
    Cpu,
    /// The adapter of this index in `infer devices`.
    Index(usize),
    /// The first adapter whose name contains this, in any case.
    Name(String),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        Ok(match text {
            "" => return Err("no device is named".to_owned()),
            "auto" => DeviceChoice::Auto,
            "gpu" => DeviceChoice::Gpu,
            "cpu" => DeviceChoice::Cpu,
            _ => match text.parse() {
                Ok(index) => DeviceChoice::Index(index),
                Err(_) => DeviceChoice::Name(text.to_owned()),
            },
        })
    }
}

/// What a user asks of an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to compute.
    pub device: DeviceChoice,
    /// The arithmetic; by default int16 on GPUs, f32 on the CPU.
    pub math: Option<Math>,
    /// How keys and values are stored; by default as the arithmetic asks.
    pub kv: Option<Kv>,
    /// Positions; by default the model's own, at most 8,192, lowered to what fits.
    pub context: Option<usize>,
    /// Bytes of memory to use at most.
    pub memory: Option<u64>,
    /// Threads of the CPU engine.
    pub threads: Option<usize>,
    /// Which forms of the kernels to use; by default as the environment says.
    pub forms: Forms,
    /// Whoever sets it stops what the engine is doing, however long a single step takes: the call
    /// ends with [`Error::Interrupted`].
    pub stop: Option<Arc<AtomicBool>>,
    /// Whether kernels are tuned to the device; by default not.
    pub tune: tune::Tune,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            device: DeviceChoice::Auto,
            math: None,
            kv: None,
            context: None,
            memory: None,
            threads: None,
            stop: None,
            forms: Forms::from_env(),
            tune: tune::Tune::default(),
        }
    }
}

/// What an engine turned out to be.
#[derive(Clone, Debug)]
pub struct Info {
    /// The device's name.
    pub device: String,
    /// Its driver, where there is one.
    pub driver: String,
    /// The arithmetic.
    pub math: Math,
    /// How keys and values are stored.
    pub kv: Kv,
    /// What products' knobs owe to measurements; `None` where there are none.
    pub knobs: Option<tune::Tuned>,
    /// Positions.
    pub context: usize,
    /// Bytes of weights on the device.
    pub weight_bytes: u64,
    /// Bytes of keys and values.
    pub kv_bytes: u64,
    /// Bytes of everything else.
    pub scratch_bytes: u64,
    /// What the user should know: a lowered context, the CPU in place of a GPU.
    pub notes: Vec<String>,
}

/// What generating has cost since the engine was opened. Decoding only: prefill is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Tokens whose steps were submitted.
    pub steps: u64,
    /// Command buffers submitted.
    pub submits: u64,
    /// Kernels dispatched.
    pub dispatches: u64,
    /// Bytes read back.
    pub readback_bytes: u64,
    /// Time the host took to record and submit.
    pub encode: Duration,
}

/// Reports work done and work to do; may stop it.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// Something that runs a model. It holds the model's state: what has been computed up to a
/// position, and the tokens there.
pub trait Engine {
    /// What it is.
    fn info(&self) -> &Info;

    /// Where [`Engine::begin`] may go on when the first `position` of a text's `tokens` stay the same:
    /// there, or at 0 where layers with a window have let go of what is seen from there, or where RoPE
    /// turns a text of that length otherwise than what is there (LongRoPE).
    fn resume(&self, position: usize, tokens: usize) -> usize;

    /// The most tokens that can be generated after a text of so many, until [`Engine::restart`] has to
    /// compute all of it again, because RoPE turns a longer one otherwise.
    fn room(&self, tokens: usize) -> usize;

    /// Computes `ids` at `position` and after, all positions before it being done, and begins to
    /// generate after them: at most `limit` tokens, which [`Engine::next`] gives. Fits the
    /// context: `position + ids.len() + limit <= context + 1` (the last token need not be
    /// computed). `position` is one that [`Engine::resume`] gives, `limit` at most [`Engine::room`].
    ///
    /// # Errors
    /// [`Error::Interrupted`] where `progress` says so; the device's.
    fn begin(
        &mut self,
        position: usize,
        ids: &[u32],
        sampling: &Sampling,
        limit: usize,
        progress: Progress<'_>,
    ) -> Result<()>;

    /// Computes a whole text again from position 0 and goes on with the generation that is under way
    /// after it, whose draws are counted on: what was generated is part of the text.
    ///
    /// # Errors
    /// As [`Engine::begin`]'s.
    fn restart(&mut self, ids: &[u32], limit: usize, progress: Progress<'_>) -> Result<()>;

    /// The next token.
    ///
    /// # Errors
    /// [`Error::Device`] when the device is lost; [`Error::Other`] when the logits are not finite.
    fn next(&mut self) -> Result<u32>;

    /// Ends generating: drops what was computed ahead.
    fn end(&mut self);

    /// The logits after each of `ids` from position 0 on, or after the last alone: rows of the
    /// vocabulary's size, in order.
    ///
    /// # Errors
    /// As [`Engine::begin`]'s.
    fn logits(
        &mut self,
        ids: &[u32],
        all: bool,
        progress: Progress<'_>,
        row: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()>;

    /// What generating has cost.
    fn counters(&self) -> Counters;

    /// What the user should know of what has happened since this was asked last, each in a line.
    fn take_notes(&mut self) -> Vec<String> {
        vec![]
    }

    /// Bytes of weights, keys and values that a step at a position reads: of experts those that a
    /// token takes.
    fn step_bytes(&self, position: usize) -> u64;

    /// What the device can do at most, measured now; `None` where there is no GPU.
    ///
    /// # Errors
    /// The device's.
    fn limits(&mut self) -> Result<Option<profile::Limits>> {
        Ok(None)
    }

    /// Where the time of a greedy step at a position goes, kernel by kernel; `None` where the
    /// device has no clock for it. All positions before it have been computed.
    ///
    /// # Errors
    /// The device's.
    fn profile(&mut self, _position: usize) -> Result<Option<profile::Profile>> {
        Ok(None)
    }
}

/// Opens the engine that the options ask for and loads the model's weights. `progress` counts
/// bytes.
///
/// # Errors
/// [`Error::Device`] without a fitting device or memory; [`Error::Request`] for a context beyond
/// the model's; [`Error::File`] for a file that has changed meanwhile; [`Error::Usage`] for a variable
/// of the environment whose value it cannot have.
pub fn open(model: Arc<Model>, options: &Options, progress: Progress<'_>) -> Result<Box<dyn Engine>> {
    environment::get()?;
    if let Some(context) = options.context {
        let own = model.plan.spec.context;
        if context > own {
            return Err(Error::Request(format!(
                "--ctx {context} is more than the model's context of {own} tokens"
            )));
        }
    }
    let adapter = match options.device {
        DeviceChoice::Cpu => None,
        _ => device::choose(&options.device)?,
    };
    let engine: Box<dyn Engine> = match adapter {
        Some(adapter) => Box::new(gpu::GpuEngine::open(model.clone(), adapter, options, progress)?),
        None => {
            let missed = options.device != DeviceChoice::Cpu;
            let note = missed.then(|| "no GPU found: using the CPU (see `infer devices`)".to_owned());
            Box::new(cpu::CpuEngine::open(model.clone(), options, note.into_iter().collect())?)
        }
    };
    // The weights that have been read may be those of another file by now.
    model.weights.intact()?;
    Ok(engine)
}

/// The context that is used when none is asked for.
pub const DEFAULT_CONTEXT: usize = 8192;

/// Refuses tokens that the context cannot hold.
fn check_context(tokens: usize, context: usize) -> Result<()> {
    if tokens > context {
        return Err(Error::Request(format!(
            "{tokens} tokens do not fit the context of {context}: raise --ctx"
        )));
    }
    Ok(())
}

/// The error of who asks for tokens before [`Engine::begin`].
fn not_begun() -> Error {
    Error::Other("no generation has begun".to_owned())
}

/// The error of logits that are NaN or infinite, with what an engine like this one could do instead.
fn not_finite(info: &Info) -> Error {
    let way_out = match (info.math, info.kv) {
        (Math::F32, Kv::F32) => "`infer inspect --check` finds those that no sound file has",
        (Math::F32, _) => "try --kv f32",
        _ => "try --math f32",
    };
    Error::Other(format!("the logits are not finite: the weights or the computation overflow ({way_out})"))
}
