//! What commands share: the model's file, the engine's flags, texts and ids.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::engine::tune::{self, Tune, When};
use crate::engine::{DeviceChoice, Options};
use crate::gguf::{Bytes, File, Part, shown};
use crate::kernels::{Kv, Math};
use crate::{Error, Result};

/// The name that stands for the embedded model.
const DEMO: &str = "demo";

/// Bytes at an address from which wide words can be read.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

static DEMO_FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("../../assets/demo.gguf"));

/// The model of a command.
#[derive(clap::Args)]
pub(super) struct ModelArg {
    /// A GGUF file (of a split model any part), or `demo`, the model that is part of this program
    #[arg(value_name = "MODEL", default_value = DEMO)]
    path: PathBuf,
    /// Go on as if the file had no metadata key NAME: one that would be refused, or one that is read and
    /// then takes its default. Its whole name, as in `llama.attention.causal`; may be given several times
    #[arg(long, value_name = "NAME")]
    ignore_key: Vec<String>,
}

impl ModelArg {
    /// Opens the file.
    ///
    /// # Errors
    /// What is wrong with it, or with a key that is to be ignored.
    pub(super) fn open(&self) -> Result<File> {
        let file = open(&self.path)?;
        let ignoring = file.ignoring(&self.ignore_key);
        ignoring.map_err(|e| e.context(format!("--ignore-key: {}", self.name())))
    }

    /// The model's name for people: the path, as given.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// What a user should know of keys that are ignored.
pub(super) fn ignored(file: &File) -> Vec<String> {
    let note = |key| format!("metadata key {key} is ignored");
    file.ignored().iter().map(|key| note(shown(key.as_bytes()))).collect()
}

/// Opens a file, or for `demo` the embedded one.
///
/// # Errors
/// What is wrong with it.
pub fn open(path: &Path) -> Result<File> {
    if path == Path::new(DEMO) {
        let bytes = Bytes::Static(&DEMO_FILE.0);
        return File::parse(bytes).map_err(|e| Error::File(format!("{DEMO}: {e}")));
    }
    let file = File::open(path)?;
    // What `>> MODEL` appends to is no model afterwards.
    if let Ok(stdout) = same_file::Handle::stdout() {
        let is_stdout = |part: &Part| same_file::Handle::from_path(part.name()).is_ok_and(|h| h == stdout);
        refuse_output(&file, "stdout", is_stdout)?;
    }
    Ok(file)
}

/// Refuses to write to a file of the model, by whatever name or link it is reached.
///
/// # Errors
/// [`Error::Usage`] with the flag.
pub(super) fn refuse_model(file: &File, flag: &str, out: &Path) -> Result<()> {
    let place = format!("{flag} {}", out.display());
    refuse_output(file, &place, |part| same_file::is_same_file(part.name(), out).unwrap_or(false))
}

fn refuse_output(file: &File, place: &str, is_output: impl Fn(&Part) -> bool) -> Result<()> {
    match file.parts().iter().find(|part| is_output(part)) {
        Some(part) => Err(Error::Usage(format!("{place}: is the model {}, name another file", part.name()))),
        None => Ok(()),
    }
}

/// The flags of commands that compute.
#[derive(clap::Args)]
#[command(next_help_heading = "Computing")]
pub(super) struct Compute {
    /// auto (a GPU, else the CPU), gpu (any adapter, software too), cpu, or an adapter's index or
    /// part of its name, as in `infer devices`
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// The arithmetic of products; by default int16 on GPUs, f32 on the CPU
    #[arg(long, value_name = "MATH", value_parser = math())]
    math: Option<Math>,
    /// How keys and values are stored; by default as the arithmetic. (The CPU rounds them so, and keeps F32)
    #[arg(long, value_name = "TYPE", value_parser = kv())]
    kv: Option<Kv>,
    /// Tokens that the context holds; by default the model's own number, at most 8192
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least_one)]
    ctx: Option<usize>,
    /// Memory of the device to use at most, in GiB
    #[arg(long, value_name = "GIB", allow_negative_numbers = true, value_parser = gib)]
    memory: Option<u64>,
    /// Measure which forms of the kernels are fastest on this GPU, and keep that: auto (once, on GPUs that the
    /// built-in choice was not measured on), always (now, on any GPU) or never (built in, whatever was kept)
    #[arg(long, value_name = "WHEN", default_value = "auto", hide_possible_values = true, value_parser = when())]
    tune: When,
    /// Threads of the CPU engine; by default one per core
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = threads)]
    threads: Option<usize>,
}

impl Compute {
    /// The engine's options.
    pub(super) fn options(&self) -> Options {
        Options {
            device: self.device.clone(),
            math: self.math,
            kv: self.kv,
            context: self.ctx,
            memory: self.memory,
            threads: self.threads,
            tune: Tune { when: self.tune, folder: tune::folder(), ..Tune::default() },
            ..Options::default()
        }
    }
}

/// An arithmetic, as `--math` names it.
pub fn math() -> impl TypedValueParser<Value = Math> {
    PossibleValuesParser::new(["f16", "f32", "int16", "int8"]).map(|s| match s.as_str() {
        "f16" => Math::F16,
        "int16" => Math::Int16,
        "int8" => Math::Int8,
        _ => Math::F32,
    })
}

/// When to measure, as `--tune` names it.
fn when() -> impl TypedValueParser<Value = When> {
    PossibleValuesParser::new(["auto", "always", "never"]).map(|s| match s.as_str() {
        "always" => When::Always,
        "never" => When::Never,
        _ => When::Auto,
    })
}

/// How keys and values are stored, as `--kv` names it.
pub fn kv() -> impl TypedValueParser<Value = Kv> {
    PossibleValuesParser::new(["f16", "f32", "q8_0"]).map(|s| match s.as_str() {
        "f16" => Kv::F16,
        "q8_0" => Kv::Q8_0,
        _ => Kv::F32,
    })
}

/// A whole number that is not negative.
pub(super) fn count<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    if text.starts_with('-') {
        return Err("must be at least 0".to_owned());
    }
    text.parse().map_err(|e: T::Err| e.to_string())
}

/// A count that is not 0.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match count(text) {
        Ok(0) => Err("must be at least 1".to_owned()),
        Err(_) if text.starts_with('-') => Err("must be at least 1".to_owned()),
        other => other,
    }
}

/// Threads, no more than a machine can start and use.
fn threads(text: &str) -> Result<usize, String> {
    let threads = at_least_one(text)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = cores.saturating_mul(4).max(64);
    if threads > most {
        return Err(format!("must be at most {most} on {cores} core(s)"));
    }
    Ok(threads)
}

/// GiB as bytes.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and below 2^53")]
fn gib(text: &str) -> Result<u64, String> {
    let gib: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    // A pebibyte is more than anybody has.
    if gib > 0.0 && gib <= f64::from(1 << 20) {
        Ok((gib * f64::from(1 << 30)) as u64)
    } else {
        Err("must be a positive number of GiB".to_owned())
    }
}

/// A flag's ids as `1,2,3` or `1 2 3`.
///
/// # Errors
/// [`Error::Usage`] for what is no id, and for a comma without one on each side.
pub(super) fn ids(flag: &str, text: &str) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for part in text.split(',') {
        let before = ids.len();
        for word in part.split_ascii_whitespace() {
            let id = word.parse().map_err(|_| Error::Usage(format!("{flag}: {word:?} is no token id")))?;
            ids.push(id);
        }
        if ids.len() == before && text.contains(',') {
            return Err(Error::Usage(format!("{flag}: a comma has no token id beside it")));
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_with_commas_or_spaces() {
        assert_eq!(ids("--ids", " 1,2, 3\n4 ").unwrap(), [1, 2, 3, 4]);
        assert!(ids("--ids", "").unwrap().is_empty());
        for bad in ["1,x", "-1", "4294967296", "1,,2", "1, ,2", ",1", "1,", ","] {
            let e = ids("--ids", bad).expect_err(bad).to_string();
            assert!(e.starts_with("--ids: "), "{bad}: {e}");
        }
    }

    #[test]
    fn memory_is_a_number_of_gib() {
        assert_eq!(gib("1.5"), Ok(3 << 29));
        for bad in ["0", "-1", "nan", "inf", "x"] {
            assert!(gib(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_embedded_model_is_sound_and_aligned() {
        let file = open(Path::new(DEMO)).unwrap();
        assert_eq!(file.parts()[0].bytes().as_ptr().align_offset(64), 0);
        assert!(crate::model::Model::from_file(file).is_ok());
    }
}
