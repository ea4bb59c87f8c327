//! `infer synth`: a file of random weights at a known model's shape.
//!
//! Tensors are made piece by piece while the piece before is written: the model is never in memory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::common::{at_least_one, count};
use super::progress::{Bar, Unit};
use super::{output, shapes};
use crate::atomic_file::{self, AtomicFile};
use crate::gguf::MOST_PARTS;
use crate::gguf::writer::{Writer, padding};
use crate::model::{Matrix, Synthetic};
use crate::tokenizer::made_up;
use crate::{Error, Result, threads};

/// Write a model of random weights at a known model's shape, as a GGUF file
///
/// Any GGUF program can load it and run it at its full speed; what it says means nothing. Its
/// vocabulary has every byte, and made-up words. The same SHAPE, FTYPE and seed make the same file.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A shape of models.toml, such as llama-3.2-1b; FTYPE is a mixture (Q4_0, Q3_K_M, Q4_K_M, Q5_K_M,
    /// MXFP4_MOE) or a type's name, such as Q8_0 [default: Q4_K_M, else what the model is usually found in]
    #[arg(value_name = "SHAPE[:FTYPE]")]
    shape: String,
    /// The file
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Write N files that are one model: NAME-00001-of-0000N.gguf and so on
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least_one)]
    split: Option<usize>,
    /// Another number, other weights
    #[arg(long, value_name = "SEED", default_value_t = 0, allow_negative_numbers = true,
          value_parser = count::<u64>)]
    seed: u64,
    /// Layers, if not as many as the shape has
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least_one)]
    layers: Option<usize>,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing on stderr but errors
    #[arg(long)]
    quiet: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    files: Vec<Row>,
    shape: String,
    types: &'static str,
    seed: u64,
    tensors: usize,
    parameters: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Row {
    path: String,
    tensors: usize,
    bytes: u64,
}

/// Bytes that are made at a time, about.
const PIECE: usize = 8 << 20;
/// Bytes that are one task of a thread, about.
const TASK: usize = 128 << 10;
/// Layers beyond this are slips of the finger.
const MOST_LAYERS: usize = 9999;

pub(super) fn run(args: &Args) -> Result<()> {
    at_most("--layers", args.layers.unwrap_or(1), MOST_LAYERS)?;
    let mut model = shapes::synthetic(&args.shape, args.layers)?;
    model.seed = args.seed;
    let tensors = model.tensors();
    let paths = paths(args, tensors.len())?;

    let cut = cut(&tensors, paths.len());
    let headers = cut.iter().enumerate().map(|(part, own)| header(args, &model, own, part, tensors.len()));
    let headers = headers.collect::<Result<Vec<_>>>()?;
    let size = |own: &[Matrix]| own.iter().map(|t| padded(t.bytes())).sum::<u64>();
    let sizes: Vec<u64> = cut.iter().zip(&headers).map(|(own, h)| h.len() as u64 + size(own)).collect();
    let bytes = sizes.iter().sum();
    let pool = threads::pool(threads::cores())?;
    let mut work = Work { pool, bar: Bar::new(Unit::Written, args.quiet), done: 0, all: bytes };
    let mut files = Vec::new();
    for ((path, header), own) in paths.iter().zip(headers).zip(&cut) {
        let mut file = AtomicFile::create(path.display().to_string(), path)?;
        file.write(&header)?;
        work.add(header.len());
        own.iter().try_for_each(|tensor| work.write(&model, tensor, &mut file))?;
        file.close()?;
        files.push(file);
    }
    work.bar.clear();
    // All of them or none.
    AtomicFile::commit_all(files)?;

    let rows = paths.iter().zip(&cut).zip(sizes).map(|((path, own), bytes)| Row {
        path: path.display().to_string(),
        tensors: own.len(),
        bytes,
    });
    let report = Report {
        files: rows.collect(),
        shape: shape(args).to_owned(),
        types: model.ftype.name(),
        seed: model.seed,
        tensors: tensors.len(),
        parameters: tensors.iter().map(|t| (t.all_rows() * t.cols) as u64).sum(),
        bytes,
    };
    if args.json { output::json(&report) } else { print(&report) }
}

fn at_most(flag: &str, number: usize, most: usize) -> Result<()> {
    if number > most {
        return Err(Error::Usage(format!("{flag} {number}: at most {most} are possible")));
    }
    Ok(())
}

fn shape(args: &Args) -> &str {
    args.shape.split(':').next().unwrap_or_default()
}

/// The files' names, none of which is taken.
fn paths(args: &Args, tensors: usize) -> Result<Vec<PathBuf>> {
    let out = args.out.display();
    if args.out == Path::new("-") || args.out.file_name().is_none() {
        return Err(Error::Usage(format!("OUT: {out} is no file's name, and a model is written to a file")));
    }
    let paths: Vec<PathBuf> = match args.split {
        None => vec![args.out.clone()],
        Some(parts) => {
            at_most("--split", parts, tensors.min(MOST_PARTS))?;
            (0..parts).map(|part| named(&args.out, part, parts)).collect()
        }
    };
    for path in &paths {
        let place = path.display();
        match std::fs::metadata(path) {
            Ok(meta) if !meta.is_file() => {
                return Err(Error::Usage(format!("{place}: is no regular file")));
            }
            Ok(_) if !args.force => {
                return Err(Error::Usage(format!("{place}: is there already, and --force replaces it")));
            }
            _ => {}
        }
    }
    // Links may lead two parts to one file.
    let mut files = HashSet::new();
    for path in &paths {
        let file = atomic_file::followed(path)?;
        if !files.insert(file.canonicalize().unwrap_or(file)) {
            let place = path.display();
            return Err(Error::Usage(format!("{place}: leads to the same file as another part's name")));
        }
    }
    Ok(paths)
}

fn print(report: &Report) -> Result<()> {
    let line = |file: &Row| {
        let path = output::escape(&file.path);
        format!("{path}: {} tensors, {}\n", file.tensors, output::bytes(file.bytes))
    };
    output::print(&report.files.iter().map(line).collect::<String>())
}

/// A part's name, as gguf-split gives it.
fn named(out: &Path, part: usize, parts: usize) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    if out.extension().is_some_and(|e| e == "gguf") {
        name = out.file_stem().unwrap_or_default().to_owned();
    }
    name.push(format!("-{:05}-of-{parts:05}.gguf", part + 1));
    out.with_file_name(name)
}

/// Cuts the tensors into parts of about the same bytes, none of them empty.
fn cut(tensors: &[Matrix], parts: usize) -> Vec<&[Matrix]> {
    let mut left: u64 = tensors.iter().map(|t| padded(t.bytes())).sum();
    let (mut rest, mut cut) = (tensors, Vec::new());
    for others in (0..parts).rev() {
        let share = left / (others as u64 + 1);
        let most = rest.len().saturating_sub(others);
        let (mut own, mut bytes) = (0, 0);
        while own < most {
            let more = padded(rest[own].bytes());
            // A tensor that lies across the end belongs to the part that has more of it.
            if others > 0 && own > 0 && bytes + more / 2 > share {
                break;
            }
            bytes += more;
            own += 1;
        }
        left -= bytes;
        let (head, tail) = rest.split_at(own);
        cut.push(head);
        rest = tail;
    }
    cut
}

/// Everything in front of a part's data: the first one has all keys.
fn header(args: &Args, model: &Synthetic, own: &[Matrix], part: usize, tensors: usize) -> Result<Vec<u8>> {
    let mut writer = Writer::new();
    if part == 0 {
        let name = format!("{}, random weights, seed {}", shape(args), model.seed);
        model.describe(&name, &mut writer);
        made_up(model.vocab, &mut writer)?;
    }
    if let Some(parts) = args.split {
        // All fit: see `MOST_PARTS`.
        writer.u16("split.no", part as u16).u16("split.count", parts as u16);
        writer.i32("split.tensors.count", tensors as i32);
    }
    for tensor in own {
        writer.announce(&tensor.name, tensor.ty, &tensor.dims());
    }
    Ok(writer.header())
}

/// With what stands behind it in a file.
fn padded(bytes: u64) -> u64 {
    bytes + padding(bytes).len() as u64
}

/// What has been written.
struct Work {
    pool: rayon::ThreadPool,
    bar: Bar,
    done: u64,
    all: u64,
}

impl Work {
    /// Makes a tensor and writes it.
    fn write(&mut self, model: &Synthetic, tensor: &Matrix, file: &mut AtomicFile) -> Result<()> {
        let row = tensor.row_bytes();
        let (piece, task) = ((PIECE / row).max(1), (TASK / row).max(1));
        let make = |first: usize, out: &mut Vec<u8>| {
            out.resize(piece.min(tensor.all_rows() - first) * row, 0);
            let tasks = out.par_chunks_mut(task * row).enumerate();
            tasks.for_each(|(i, out)| model.fill(tensor, first + i * task, out));
        };
        let (mut full, mut next) = (Vec::new(), Vec::new());
        self.pool.install(|| make(0, &mut full));
        for first in (0..tensor.all_rows()).step_by(piece) {
            let more = first + piece;
            let make_next = || {
                if more < tensor.all_rows() {
                    make(more, &mut next);
                }
            };
            let (written, ()) = self.pool.join(|| file.write(&full), make_next);
            written?;
            self.add(full.len());
            std::mem::swap(&mut full, &mut next);
        }
        let behind = padding(tensor.bytes());
        file.write(behind)?;
        self.add(behind.len());
        Ok(())
    }

    /// So many more bytes are written.
    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        self.bar.set(self.done as usize, self.all as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Type;

    #[test]
    fn parts_share_what_is_left() {
        let sizes = |bytes: &[usize], parts| -> Vec<usize> {
            let tensors: Vec<Matrix> =
                bytes.iter().map(|kib| Matrix::whole("", Type::F32, *kib, 256)).collect();
            cut(&tensors, parts).iter().map(|own| own.len()).collect()
        };
        assert_eq!(sizes(&[1; 9], 3), [3, 3, 3]);
        // One that is larger than a share leaves the others to the others.
        assert_eq!(sizes(&[90, 1, 1, 1, 1, 1, 1], 3), [1, 3, 3]);
        assert_eq!(sizes(&[1, 1, 1, 1, 90, 1], 2), [4, 2]);
        assert_eq!(sizes(&[1, 1, 90], 3), [1, 1, 1]);
        assert_eq!(sizes(&[5, 7], 1), [2]);
    }
}
