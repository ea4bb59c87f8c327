//! `infer run`: continue a prompt, answer a question, or chat.

use std::io::{IsTerminal, stderr, stdin, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::common::{self, Compute, ModelArg};
use super::input::{self, Beside};
use super::prompt::Prompter;
use super::session::{Answer, Session, Settings};
use super::stats::Stats;
use super::{chat, interrupt, load, output};
use crate::engine::generate::History;
use crate::engine::{DEFAULT_CONTEXT, Options};
use crate::kernels::sample::Sampling;
use crate::model::Model;
use crate::tokenizer::Message;
use crate::{Error, Result};

/// What of the tokens reaches the user.
const RULES: &str = "\
What an answer is:

An answer ends at a token that the file names as an end, or whose text is known for one (<|im_end|>), unless \
the file says that it is text (kind user-defined).

Control tokens within an answer are shown: [THINK], [TOOL_CALLS], <|channel|>. Those that end it, and others \
that the file names by a key (BOS, padding), are not.

A stop text may be or contain the text of a control token, shown or not. It is no part of the text, and no \
token that has a part of it is among the ids of --json; what such a token has before it is in the text.

Behind a chat template the space with which SentencePiece begins a text is left out. With --raw, or without a \
template, the text continues the prompt, and the space belongs to it.";

/// Continue a prompt or answer it; without one, on a terminal, chat
#[derive(clap::Args)]
#[command(after_help = RULES)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The prompt; what a pipe or a redirected file has on stdin is added to it after a blank line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    prompt: Option<String>,
    /// A file with the prompt, to which stdin is added as to --prompt; without both the prompt is read
    /// from stdin, whose last line's end is left out
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The most tokens to generate; by default what the context holds
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true,
          value_parser = common::count::<usize>)]
    tokens: Option<usize>,
    /// Continue the prompt as it is: no chat template, and special tokens in it are the tokens
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// Take the text of a special token (<|im_end|>, say) in a message as the token; without this flag it is
    /// text, and only the chat template writes special tokens
    #[arg(long)]
    special: bool,
    /// A system message for the chat template
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Stop before this text, or before a control token with this text; can be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = not_empty)]
    stop: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing on stderr but errors
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: Compute,
}

/// How tokens are chosen, in the order of the steps.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Divide positive and multiply negative logits of the last 64 tokens by R; 1: no penalty
    #[arg(long, value_name = "R", default_value_t = Sampling::default().repeat_penalty,
          allow_negative_numbers = true, value_parser = penalty)]
    repeat_penalty: f32,
    /// Choose among the K best tokens; 0: among all
    #[arg(long, value_name = "K", default_value_t = Sampling::default().top_k,
          allow_negative_numbers = true, value_parser = common::count::<u32>)]
    top_k: u32,
    /// Choose among the best tokens whose probabilities sum to P
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p,
          allow_negative_numbers = true, value_parser = share)]
    top_p: f32,
    /// Leave out tokens with less than P times the best one's probability
    #[arg(long, value_name = "P", default_value_t = Sampling::default().min_p,
          allow_negative_numbers = true, value_parser = share)]
    min_p: f32,
    /// Divide the logits by T; 0: always take the best token
    #[arg(long, value_name = "T", default_value_t = Sampling::default().temperature,
          allow_negative_numbers = true, value_parser = temperature)]
    temperature: f32,
    /// The seed of the random choices; by default a random one, which is printed
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = common::count::<u64>)]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// The choice, and whether its seed was drawn here.
    fn resolve(&self) -> (Sampling, bool) {
        let draw = self.seed.is_none() && self.temperature > 0.0;
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed.unwrap_or_else(|| if draw { random_seed() } else { 0 }),
        };
        (sampling, draw)
    }
}

/// A seed that is short enough to be typed again.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 32
}

fn number(text: &str, fits: impl Fn(f32) -> bool, what: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if fits(v) => Ok(v),
        _ => Err(format!("must be {what}")),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, |v| v.is_finite() && v >= 0.0, "a number of at least 0")
}

fn share(text: &str) -> Result<f32, String> {
    number(text, |v| (0.0..=1.0).contains(&v), "a number from 0 to 1")
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, |v| (0.01..=100.0).contains(&v), "a number from 0.01 to 100")
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    architecture: &'a str,
    device: &'a str,
    math: String,
    seed: u64,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    text: &'a str,
    stop_reason: &'a str,
    stats: Stats,
}

pub(super) fn run(mut args: Args) -> Result<()> {
    let start = Instant::now();
    let (sampling, drawn) = args.sampling.resolve();
    let settings =
        Settings { sampling, tokens: args.tokens, stops: std::mem::take(&mut args.stop), quiet: args.quiet };
    // Before the prompt: nobody should type or pipe one to a file that is not there.
    let model = load::model(&args.model)?;
    let mut notes = Vec::new();
    let prompt = prompt(&mut args, &mut notes)?;
    let name = args.model.name();
    let options = args.compute.options();
    let system = args.system.as_deref();
    let prompter = load::made(load::file(&model)?, &name, prompter(&model, &args))?;
    let Some(prompt) = prompt else {
        let (engine, _deferred) = load::open_deferred(&model, &options, args.quiet)?;
        say_once(&args, &prompter, &settings, drawn, &notes);
        return chat::chat(Session { engine, history: History::default(), settings }, &prompter, system);
    };
    let ids = ids(&prompter, system, prompt).map_err(|e| e.context(&name))?;
    check_length(&model, &options, ids.len())?;
    let (engine, _deferred) = load::open_deferred(&model, &options, args.quiet)?;
    let loaded = start.elapsed();
    say_once(&args, &prompter, &settings, drawn, &notes);
    let mut session = Session { engine, history: History::default(), settings };
    let mut shown = false;
    let mut show = |piece: &str| {
        shown = true;
        if args.json { Ok(()) } else { output::print_text(piece) }
    };
    let waited = start.elapsed();
    let answer = session.answer(&prompter, &ids, &mut show);
    // A text that was begun ends with a line's end, whatever ended it.
    if !args.json && !output::closed() && (shown || answer.as_ref().is_ok_and(|a| !a.interrupted())) {
        output::print("\n")?;
    }
    let answer = answer?;
    let notes = session.engine.take_notes();
    let info = session.engine.info();
    let stats = Stats::new(info, &answer.outcome, loaded, waited);
    if !args.quiet && (shown || !answer.interrupted()) {
        output::say(&stats.line());
        output::notes(&notes);
    }
    if args.json {
        let Answer { text, ids: made, stop_reason, .. } = &answer;
        output::json(&Report {
            model: name,
            architecture: model.plan.spec.architecture,
            device: &info.device,
            math: info.math.to_string(),
            seed: sampling.seed,
            prompt_ids: &ids,
            ids: made,
            text,
            stop_reason,
            stats,
        })?;
    }
    if answer.interrupted() { interrupt::end() } else { Ok(()) }
}

/// The prompt's text; `None` for a chat.
fn prompt(args: &mut Args, notes: &mut Vec<String>) -> Result<Option<String>> {
    let given = args.prompt.is_some() || args.file.is_some();
    if !given && stdin().is_terminal() {
        if args.json || !stdout().is_terminal() {
            return Err(Error::Usage("no prompt: give --prompt, --file or a pipe".to_owned()));
        }
        return Ok(None);
    }
    let Some(mut text) = input::text(args.prompt.take(), args.file.as_deref())? else { return Ok(None) };
    if given {
        match Beside::read(args.quiet)? {
            Beside::Nothing => {}
            Beside::Text(beside) => join(&mut text, &input::without_line_end(beside)),
            Beside::Socket => notes.push(
                "stdin is a socket, which is not read beside a given prompt: `cat | infer run …` reads it"
                    .to_owned(),
            ),
        }
    } else {
        text = input::without_line_end(text);
    }
    if text.is_empty() {
        return Err(Error::Request("the prompt is empty: there is nothing to continue".to_owned()));
    }
    Ok(Some(text))
}

/// Adds a text to a prompt after a blank line.
fn join(prompt: &mut String, text: &str) {
    if !prompt.is_empty() && !text.is_empty() {
        prompt.push_str(if prompt.ends_with('\n') { "\n" } else { "\n\n" });
    }
    prompt.push_str(text);
}

/// The model's tokenizer and template.
fn prompter(model: &Arc<Model>, args: &Args) -> Result<Prompter> {
    let prompter = Prompter::new(load::file(model)?, args.raw)?;
    load::vocabulary(&prompter.tokenizer, model)?;
    if args.system.is_some() && !prompter.has_template() {
        return Err(Error::Request("has no chat template, in which --system could stand".to_owned()));
    }
    Ok(if args.special { prompter.special() } else { prompter })
}

fn ids(prompter: &Prompter, system: Option<&str>, prompt: String) -> Result<Vec<u32>> {
    let mut messages = chat::opening(system);
    messages.push(Message { role: "user".to_owned(), content: prompt });
    prompter.ids(&messages)
}

/// Refuses a prompt that no engine's context could hold.
fn check_length(model: &Model, options: &Options, tokens: usize) -> Result<()> {
    let own = model.plan.spec.context;
    let context = options.context.unwrap_or(DEFAULT_CONTEXT).min(own);
    if tokens <= context {
        return Ok(());
    }
    let way_out = if context < own { ", or raise --ctx" } else { "" };
    Err(Error::Request(format!(
        "the prompt has {tokens} tokens, the context holds {context}: shorten it{way_out}"
    )))
}

/// What the user should know of this run, once.
fn say_once(args: &Args, prompter: &Prompter, settings: &Settings, drawn: bool, notes: &[String]) {
    if args.quiet {
        return;
    }
    if !args.raw && !prompter.has_template() {
        output::say("note: the file has no chat template: the text is continued as it is");
    }
    output::notes(prompter.tokenizer.notes());
    output::notes(notes);
    if drawn {
        output::say(&format!("seed {}", settings.sampling.seed));
    }
    if stderr().is_terminal() && stdout().is_terminal() {
        output::say_text("\n");
    }
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn piped_text_stands_behind_a_blank_line() {
        for (prompt, text, joined) in [
            ("Why?", "a\nb", "Why?\n\na\nb"),
            ("Why?\n", "a", "Why?\n\na"),
            ("Why?", "", "Why?"),
            ("", "a", "a"),
        ] {
            let mut prompt = prompt.to_owned();
            join(&mut prompt, text);
            assert_eq!(prompt, joined);
        }
    }
}
