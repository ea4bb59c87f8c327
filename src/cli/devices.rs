//! `infer devices`: the adapters that wgpu finds.

use std::fmt::Write;

use super::output;
use crate::Result;
use crate::engine::device::{self, DeviceInfo};

/// List the devices that models can run on
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let devices = device::list();
    if args.json {
        return output::json(&devices);
    }
    if devices.is_empty() {
        output::say(
            "no GPU adapter was found: install a driver (on Debian and Ubuntu: apt install mesa-vulkan-drivers, \
             which has a software one too); --device cpu works without",
        );
        return Ok(());
    }
    output::print(&devices.iter().map(lines).collect::<String>())
}

/// A device in two lines: what it is, what it can do.
fn lines(d: &DeviceInfo) -> String {
    let mut out = String::new();
    let auto = if d.auto { ", taken by --device auto" } else { "" };
    let memory = d.memory_bytes.map_or_else(|| "memory unknown".to_owned(), output::bytes);
    let features: Vec<&str> = d.features.iter().filter(|(_, has)| **has).map(|(name, _)| *name).collect();
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{:2}  {} ({}{auto})", d.index, output::escape(&d.name), d.kind);
    let _ = writeln!(
        out,
        "    {}, {}, {memory}, subgroups of {} to {}; {}",
        d.backend,
        output::escape(&d.driver),
        d.subgroup_min,
        d.subgroup_max,
        if features.is_empty() { "no optional features".to_owned() } else { features.join(", ") }
    );
    out
}
