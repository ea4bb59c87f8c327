//! `infer inspect`: what is in a file, whether or not this program can run it.

mod check;
mod human;
mod metadata;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::common::{self, ModelArg, at_least_one};
use super::prompt::Prompter;
use super::{load, output};
use crate::engine::stage::attention;
use crate::engine::{DEFAULT_CONTEXT, scratch_bytes};
use crate::gguf::{self, File};
use crate::kernels::Kv;
use crate::model::{Model, Spec, arch};
use crate::quant::{Layout, Type};
use crate::tokenizer::Message;
use crate::{Error, Result};

/// Show what is in a model's file, and what stands in the way of running it
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// List the tensors
    #[arg(long)]
    tensors: bool,
    /// Look for scales and weights that are NaN or infinite, and hash the file
    #[arg(long)]
    check: bool,
    /// Plan the memory for a context of N tokens; by default the model's own, at most 8192
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least_one)]
    ctx: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed, by the names that `--json` uses.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    architecture: Option<String>,
    bytes: u64,
    alignment: u32,
    data_start: u64,
    /// Where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<Part>,
    parameters: u64,
    bits_per_weight: f64,
    metadata: gguf::Json<'a>,
    tensors: Rows<'a>,
    types: BTreeMap<&'static str, u64>,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    problems: Vec<String>,
    notes: Vec<String>,
    supported: bool,
}

/// A file of a split model.
#[derive(Serialize)]
struct Part {
    name: String,
    bytes: u64,
    alignment: u32,
    data_start: u64,
    tensors: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// The table of tensors; a row is made when it is written.
struct Rows<'a>(&'a File);

impl<'a> Rows<'a> {
    fn iter(&self) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let split = self.0.parts().len() > 1;
        self.0.tensors().iter().map(move |t| Row {
            name: &t.name,
            r#type: t.ty.name(),
            shape: &t.shape[..t.n_dims],
            part: split.then_some(t.part),
            offset: t.offset,
            bytes: t.bytes,
        })
    }
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter())
    }
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    r#type: &'static str,
    shape: &'a [u64],
    /// Which of several files it lies in.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<usize>,
    offset: u64,
    bytes: u64,
}

/// Bytes on the device. Without a known architecture nobody knows what keys and values take.
#[derive(Serialize)]
struct Memory {
    #[serde(skip)]
    context: usize,
    weights: u64,
    kv: Option<u64>,
    scratch: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let file = args.model.open()?;
    let name = args.model.name();
    let model = Model::from_file(file.clone());
    let spec = match &model {
        Ok(model) => Some(model.plan.spec.clone()),
        Err(_) => arch::spec(&file).ok(),
    };
    let memory = memory(&file, model.as_ref().ok(), spec.as_ref(), args.ctx);
    let memory = load::made(&file, &name, memory)?;
    let mut findings = findings(&file, model);
    let mut hashes = Vec::new();
    if args.check {
        let (found, problems) = check::check(&file)?;
        hashes = found;
        findings.problems.extend(problems);
    }
    let report = report(&file, memory, hashes, findings);
    file.intact()?;
    if args.json { output::json(&report) } else { human::print(&file, &name, &report, args.tensors) }
}

fn report(
    file: &File,
    memory: Memory,
    mut hashes: Vec<String>,
    Findings { problems, notes }: Findings,
) -> Report<'_> {
    let split = file.parts().len() > 1;
    let (mut parameters, mut bytes, mut types) = (0u64, 0u64, BTreeMap::new());
    for t in file.tensors() {
        parameters = parameters.saturating_add(t.elements());
        bytes = bytes.saturating_add(t.bytes);
        *types.entry(t.ty.name()).or_insert(0) += 1;
    }
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    let bits_per_weight = if parameters == 0 { 0.0 } else { bytes as f64 * 8.0 / parameters as f64 };
    let part = |(i, part): (usize, &gguf::Part)| Part {
        name: part.name().to_owned(),
        bytes: part.bytes().len() as u64,
        alignment: part.alignment(),
        data_start: part.data_start(),
        tensors: file.tensors().iter().filter(|t| t.part == i).count(),
        sha256: hashes.get(i).cloned(),
    };
    Report {
        files: if split { file.parts().iter().enumerate().map(part).collect() } else { vec![] },
        version: file.version(),
        bytes: file.size(),
        alignment: file.alignment(),
        data_start: file.data_start(),
        architecture: file
            .get("general.architecture")
            .and_then(|v| v.as_bytes())
            .map(|b| String::from_utf8_lossy(b).into_owned()),
        parameters,
        bits_per_weight,
        metadata: gguf::Json(file),
        tensors: Rows(file),
        types,
        memory,
        sha256: if split { None } else { hashes.pop() },
        supported: problems.is_empty(),
        problems,
        notes,
    }
}

/// What is found in a file, each in a line.
struct Findings {
    /// All that keeps this program from running the model.
    problems: Vec<String>,
    /// What does not, and should be known.
    notes: Vec<String>,
}

fn findings(file: &File, model: Result<Model>) -> Findings {
    let (mut problems, mut notes) = (Vec::new(), common::ignored(file));
    let text = match model {
        Ok(model) => Prompter::new(file, false).and_then(|text| {
            load::vocabulary(&text.tokenizer, &model)?;
            Ok(text)
        }),
        Err(e) => {
            problems.push(e.to_string());
            let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
            for t in
                file.tensors().iter().filter(|t| !t.ty.is_supported() && !problems[0].contains(t.ty.name()))
            {
                *unknown.entry(t.ty.name()).or_insert(0) += 1;
            }
            problems.extend(
                unknown.iter().map(|(ty, n)| format!("type {ty} of {n} tensor(s) is not supported yet")),
            );
            Prompter::new(file, false)
        }
    };
    match text {
        Err(e) => problems.push(e.to_string()),
        Ok(text) => {
            notes.extend_from_slice(text.tokenizer.notes());
            // A template that fails on the simplest conversation fails on all of them.
            let hello = Message { role: "user".to_owned(), content: "Hello".to_owned() };
            if let Err(e) = text.ids(&[hello]) {
                problems.push(e.to_string());
            }
        }
    }
    Findings { problems, notes }
}

fn memory(file: &File, model: Option<&Model>, spec: Option<&Spec>, ctx: Option<usize>) -> Result<Memory> {
    let own = spec.map(|s| s.context);
    if let (Some(ctx), Some(own)) = (ctx, own)
        && ctx > own
    {
        return Err(Error::Request(format!("--ctx {ctx} is more than the model's context of {own} tokens")));
    }
    let context = ctx.unwrap_or_else(|| own.unwrap_or(DEFAULT_CONTEXT).min(DEFAULT_CONTEXT));
    let weights = match model {
        Some(model) => weights(model),
        None => file.tensors().iter().fold(0, |n: u64, t| n.saturating_add(t.bytes)),
    };
    let kv = spec.map(|s| {
        let bytes = |layer| attention(s, layer, 1, context, true, 1).cache_bytes(Kv::F16) as u64;
        (0..s.layers.len()).fold(0, |sum: u64, layer| sum.saturating_add(bytes(layer)))
    });
    // A batch's vectors, and for each position its token and its turns of RoPE.
    let scratch = model.map(|m| {
        let spec = &m.plan.spec;
        let turns: usize = spec.ropes.iter().map(|rope| 4 * rope.dims).sum();
        scratch_bytes(spec) + ((turns + 4) * context) as u64
    });
    Ok(Memory { context, weights, kv, scratch })
}

/// Bytes of the weights as they lie on a device.
fn weights(model: &Model) -> u64 {
    let matrices = model.plan.matrices().into_iter();
    let matrices =
        matrices.filter_map(|m| Layout::new(m.ty, m.packed_rows(m.rows), m.cols)).map(|l| l.bytes as u64);
    let vectors = model.plan.vectors().map(|v| v.len);
    matrices.sum::<u64>() + vectors.map(|n| (n * Type::F32.block_bytes()) as u64).sum::<u64>()
}
