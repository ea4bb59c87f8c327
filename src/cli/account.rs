//! The account of a token's time that `infer bench --profile` prints: its lines sum to the clock on
//! the wall.

use serde::Serialize;

use super::bench::Measured;
use crate::engine::profile::{Limits, Profile};

/// A line of the account.
#[derive(Serialize)]
struct Line {
    kernel: String,
    calls: usize,
    us_per_call: f64,
    us: f64,
    share_percent: f64,
    bytes: u64,
    gb_per_s: f64,
}

/// Where a token's time goes.
#[derive(Serialize)]
pub(super) struct Account {
    kernels: Vec<Line>,
    /// Starting dispatches, each of which waits for the one before.
    between_kernels_us: f64,
    /// What is left of the device's time: kernels that share or keep each other from something.
    rest_us: f64,
    /// What the step is faster by because its stages overlap; the lines above are of one whose stages
    /// do not.
    overlap_us: f64,
    /// The whole step on the device.
    gpu_us: f64,
    /// A token by the clock on the wall.
    wall_us: f64,
    /// The host's time to record and submit a token; hidden while it is below the device's.
    host_record_us: f64,
    /// The wall's time that the device was not seen busy.
    host_waits_us: f64,
}

impl Account {
    pub(super) fn new(profile: Profile, limits: &Limits, decode: &Measured) -> Account {
        let wall_us = 1e6 / decode.median_tokens_per_s;
        let mut between = 0.0;
        let mut kernels: Vec<Line> = profile
            .rows
            .into_iter()
            .map(|row| {
                let calls = row.calls as f64;
                let start = (calls * limits.dispatch_us).min(row.us.max(0.0));
                between += start;
                let us = row.us - start;
                Line {
                    kernel: row.kernel,
                    calls: row.calls,
                    us_per_call: us / calls,
                    us,
                    share_percent: 100.0 * us / wall_us,
                    bytes: row.bytes,
                    gb_per_s: if us > 0.0 { row.bytes as f64 / us / 1e3 } else { 0.0 },
                }
            })
            .collect();
        let rest_us = profile.gpu_us - between - kernels.iter().map(|l| l.us).sum::<f64>();
        let gpu_us = profile.gpu_us - profile.overlap_us;
        kernels.sort_by(|a, b| b.us.total_cmp(&a.us));
        Account {
            kernels,
            between_kernels_us: between,
            rest_us,
            overlap_us: profile.overlap_us,
            gpu_us,
            wall_us,
            host_record_us: decode.cpu_encode_us_per_token.unwrap_or(0.0),
            host_waits_us: wall_us - gpu_us,
        }
    }

    pub(super) fn table(&self) -> String {
        let wall = self.wall_us;
        let width = self.kernels.iter().map(|l| l.kernel.len()).max().unwrap_or(0).max(30);
        let mut out = format!(
            "\n{:width$} {:>5} {:>9} {:>9} {:>6} {:>8} {:>6}\n",
            "kernel", "calls", "us a call", "us", "share", "MB", "GB/s"
        );
        for l in &self.kernels {
            out += &format!(
                "{:width$} {:>5} {:>9.2} {:>9.1} {:>5.1}% {:>8.1} {:>6.0}\n",
                l.kernel,
                l.calls,
                l.us_per_call,
                l.us,
                l.share_percent,
                l.bytes as f64 / 1e6,
                l.gb_per_s
            );
        }
        let mut line = |what: &str, us: f64| {
            out += &format!("{what:width$} {:>25.1} {:>5.1}%\n", us, 100.0 * us / wall);
        };
        line("between kernels", self.between_kernels_us);
        line("what kernels do to each other", self.rest_us);
        if self.overlap_us != 0.0 {
            line("stages that overlap", -self.overlap_us);
        }
        line("device idle", self.host_waits_us);
        line("a token on the wall", self.wall_us);
        out += &format!("recording took the host {:.0} us a token, beside the device\n", self.host_record_us);
        out
    }
}
