//! `infer logits`: what the model computes, into a file that other tools read.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::common::{self, Compute, ModelArg};
use super::progress::{Bar, Unit};
use super::{load, output};
use crate::atomic_file::AtomicFile;
use crate::engine::DEFAULT_CONTEXT;
use crate::{Error, Result};

/// Write the logits after given token ids to a file
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Token ids, as 1,2,3
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    ids: String,
    /// The logits after every id, not only after the last
    #[arg(long)]
    all: bool,
    /// The file: safetensors, with one tensor `logits`, F32, (positions, vocabulary)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print nothing on stderr but errors
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    compute: Compute,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let ids = common::ids("--ids", &args.ids)?;
    if ids.is_empty() {
        return Err(Error::Usage("--ids: there is none".to_owned()));
    }
    let model = load::model(&args.model)?;
    let spec = &model.plan.spec;
    if let Some(id) = ids.iter().find(|id| **id as usize >= spec.vocab) {
        let name = args.model.name();
        return Err(Error::Request(format!("--ids: there is no token {id}: {name} has {}", spec.vocab)));
    }
    let mut options = args.compute.options();
    // Here the context is what is asked for: as many ids as are given.
    if options.context.is_none() && ids.len() > DEFAULT_CONTEXT && ids.len() <= spec.context {
        options.context = Some(ids.len());
    }
    let context = options.context.unwrap_or(spec.context);
    if ids.len() > context {
        let way_out = if context < spec.context { ", or raise --ctx" } else { "" };
        return Err(Error::Request(format!(
            "--ids has {} tokens, the context holds {context}: give fewer{way_out}",
            ids.len()
        )));
    }
    let rows = if args.all { ids.len() } else { 1 };
    if let Ok(file) = load::file(&model) {
        common::refuse_model(file, "--out", &args.out)?;
    }
    // The file is made first: a folder that is not there should not cost the computation.
    let mut out = Output::create(&args.out, rows, spec.vocab)?;
    let mut engine = load::open(&model, &options, args.quiet)?;
    if ids.len() > engine.info().context {
        let context = engine.info().context;
        return Err(Error::Request(format!(
            "--ids has {} tokens, only {context} fit the memory: give fewer",
            ids.len()
        )));
    }
    let mut bar = Bar::new(Unit::Tokens, args.quiet);
    let mut progress = |done, all| {
        bar.set(done, all);
        ControlFlow::Continue(())
    };
    let mut not_finite = 0;
    let result = engine.logits(&ids, args.all, &mut progress, &mut |row| {
        not_finite += usize::from(row.iter().any(|v| !v.is_finite()));
        out.row(row)
    });
    drop(bar);
    result?;
    if not_finite > 0 {
        let note = format!(
            "{not_finite} of {rows} rows have logits that are not finite: they were written as they are"
        );
        output::notes(&[note]);
    }
    out.finish()
}

/// The file of logits.
struct Output {
    file: AtomicFile,
    /// Rows that are still to come.
    rows: usize,
    vocab: usize,
}

impl Output {
    fn create(path: &Path, rows: usize, vocab: usize) -> Result<Output> {
        let mut file = AtomicFile::create(format!("--out {}", path.display()), path)?;
        let bytes = rows * vocab * 4;
        let mut header =
            format!(r#"{{"logits":{{"dtype":"F32","shape":[{rows},{vocab}],"data_offsets":[0,{bytes}]}}}}"#);
        // The data begin at a multiple of 8.
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        file.write(&(header.len() as u64).to_le_bytes())?;
        file.write(header.as_bytes())?;
        Ok(Output { file, rows, vocab })
    }

    fn row(&mut self, row: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.rows = self.rows.checked_sub(1).filter(|_| row.len() == self.vocab).ok_or_else(|| {
            Error::Other(format!("the engine gave a row of {}, {} are right", row.len(), self.vocab))
        })?;
        self.file.write(&bytes)
    }

    fn finish(self) -> Result<()> {
        if self.rows > 0 {
            return Err(Error::Other(format!("the engine gave {} rows too few", self.rows)));
        }
        self.file.commit()
    }
}
