//! The command line: one file per command, which parses, calls the library and prints.
//!
//! stdout carries a command's result and nothing else; everything that is said about it goes to
//! stderr. An error is one line, and its kind is the exit code.

mod account;
mod bench;
mod chat;
mod common;
mod devices;
mod input;
mod inspect;
mod interrupt;
mod load;
mod logits;
mod output;
mod perplexity;
mod progress;
mod prompt;
mod run;
mod session;
pub mod shapes;
mod stats;
mod stop;
mod synth;
mod terminal;
mod tokenize;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::{Error, Result, VERSION, environment};

// What programs beside this one need to take the same arguments and speak the same way.
pub use common::{kv, math, open};
pub use output::{print, say};

/// Runs GGUF language models on any GPU.
///
/// MODEL is the path of a GGUF file, for a split model that of any part, or `demo`, a small model
/// that is part of this program and that is also taken where no MODEL is given.
#[derive(Parser)]
#[command(name = "infer", version = VERSION, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Inspect(inspect::Args),
    Bench(bench::Args),
    Tokenize(tokenize::Args),
    Logits(logits::Args),
    #[command(mut_arg("ctx", |arg| arg.help(perplexity::CTX_HELP)))]
    Perplexity(perplexity::Args),
    Synth(synth::Args),
    Devices(devices::Args),
}

/// Does what the arguments say; gives the process's exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    execute(arguments, |cli: Cli| dispatch(cli.command))
}

/// Parses arguments and does what they say, where an error is one line on stderr and its kind the
/// exit code.
pub fn execute<P: Parser>(
    arguments: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(P) -> Result<()>,
) -> ExitCode {
    match P::try_parse_from(arguments).map_or_else(help_or_usage, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if output::closed() => ExitCode::SUCCESS,
        Err(e) => {
            if !matches!(e, Error::Interrupted) {
                output::say(&format!("error: {e}"));
            }
            ExitCode::from(e.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    environment::get()?;
    interrupt::install()?;
    match command {
        Command::Run(args) => run::run(args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Logits(args) => logits::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Devices(args) => devices::run(&args),
    }
}

/// What the parser stopped at: help and version are results, the rest is a usage error.
fn help_or_usage(e: clap::Error) -> Result<()> {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::print(&e.render().to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::say_text(&e.render().to_string());
            Err(Error::Usage("no command is given".to_owned()))
        }
        _ => Err(Error::Usage(usage_line(&e))),
    }
}

/// The parser's complaint and its tips in one line, without the synopsis.
fn usage_line(e: &clap::Error) -> String {
    let text = e.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut line = String::new();
    for part in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if part.starts_with("Usage:") || part.starts_with("For more information") {
            continue;
        }
        if !line.is_empty() {
            line.push_str(if part.starts_with("tip:") { "; " } else { " " });
        }
        line.push_str(part);
    }
    line + " (--help has the usage)"
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_is_documented() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{name} {}", argument.get_id());
            }
        }
    }

    #[test]
    fn usage_errors_are_one_line() {
        for arguments in [&["infer", "run", "--temprature", "1"][..], &["infer", "logits"], &["infer", "rn"]]
        {
            let e = Cli::try_parse_from(arguments).err().expect("an error");
            let line = usage_line(&e);
            assert!(!line.contains('\n') && !line.contains("Usage:"), "{line}");
        }
    }
}
