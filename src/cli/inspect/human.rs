//! The report for people.

use std::io::{self, Write};

use super::{Report, metadata};
use crate::Result;
use crate::cli::output;
use crate::gguf::File;

pub(super) fn print(file: &File, name: &str, report: &Report<'_>, tensors: bool) -> Result<()> {
    output::write(|out| text(out, file, name, report, tensors))
}

fn text(out: &mut dyn Write, file: &File, name: &str, report: &Report<'_>, tensors: bool) -> io::Result<()> {
    let architecture = report.architecture.as_deref().unwrap_or("unknown");
    writeln!(
        out,
        "{}: GGUF version {}, {}, architecture {}",
        output::escape(name),
        report.version,
        output::bytes(file.size()),
        output::escape(&architecture.chars().take(64).collect::<String>())
    )?;
    writeln!(
        out,
        "{} parameters, {:.2} bits per weight, {} tensors aligned to {} bytes, data from byte {}",
        report.parameters,
        report.bits_per_weight,
        file.tensors().len(),
        report.alignment,
        report.data_start
    )?;
    if let Some(hash) = &report.sha256 {
        writeln!(out, "SHA-256 {hash}")?;
    }

    if !report.files.is_empty() {
        writeln!(out, "\nfiles")?;
    }
    for (i, part) in report.files.iter().enumerate() {
        write!(
            out,
            "  {i:4}  {}  {}, {} tensors aligned to {} bytes, data from byte {}",
            output::escape(&part.name),
            output::bytes(part.bytes),
            part.tensors,
            part.alignment,
            part.data_start
        )?;
        let hash = part.sha256.as_ref().map(|hash| format!(", SHA-256 {hash}")).unwrap_or_default();
        writeln!(out, "{hash}")?;
    }

    writeln!(out, "\nmetadata")?;
    let width = file.metadata().map(|(key, _)| key.chars().count()).max().unwrap_or(0).min(48);
    for (key, value) in file.metadata() {
        writeln!(out, "  {:width$}  {}", metadata::name(key), metadata::line(value))?;
    }

    writeln!(out, "\ntypes")?;
    for (ty, count) in &report.types {
        let of = report.tensors.iter().filter(|t| t.r#type == *ty);
        let bytes = of.fold(0u64, |n, t| n.saturating_add(t.bytes));
        writeln!(out, "  {ty:8} {count:5} tensors  {:>12}", output::bytes(bytes))?;
    }
    if tensors {
        writeln!(out, "\ntensors")?;
        let width = report.tensors.iter().map(|t| t.name.chars().count()).max().unwrap_or(0);
        for t in report.tensors.iter() {
            let shape = t.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
            writeln!(
                out,
                "  {:width$}  {:8} {shape:20}  {} bytes at {}{}",
                output::escape(t.name),
                t.r#type,
                t.bytes,
                t.offset,
                t.part.map(|part| format!(" of file {part}")).unwrap_or_default()
            )?;
        }
    }

    let memory = &report.memory;
    writeln!(out, "\nmemory")?;
    writeln!(out, "  weights              {:>12}", output::bytes(memory.weights))?;
    if let Some(kv) = memory.kv {
        writeln!(out, "  keys and values      {:>12}  F16, {} tokens", output::bytes(kv), memory.context)?;
    }
    if let Some(scratch) = memory.scratch {
        writeln!(out, "  scratch              {:>12}", output::bytes(scratch))?;
    }

    if report.supported {
        writeln!(out, "\nno problems: `infer run` can run it")?;
    } else {
        writeln!(out, "\nproblems")?;
        for problem in &report.problems {
            writeln!(out, "  {}", output::escape(problem))?;
        }
    }
    if !report.notes.is_empty() {
        writeln!(out, "\nnotes")?;
        for note in &report.notes {
            writeln!(out, "  {}", output::escape(note))?;
        }
    }
    Ok(())
}
