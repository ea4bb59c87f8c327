//! `infer tokenize`: text to ids and back.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::common::{self, ModelArg};
use super::{input, load, output};
use crate::tokenizer::{Special, Tokenizer};
use crate::{Error, Result};

/// Turn a text into token ids, or ids into text
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["file", "decode"])]
    text: Option<String>,
    /// A file with the text; without --text, --file and --decode it is read from stdin
    #[arg(long, value_name = "FILE", conflicts_with = "decode")]
    file: Option<PathBuf>,
    /// Print the text of ids, as 1,2,3: what `infer run` would show of them as an answer
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    decode: Option<String>,
    /// Add no tokens at the text's beginning and end
    #[arg(long, conflicts_with = "decode")]
    no_bos: bool,
    /// Add none, and take what looks like a special token as plain text
    #[arg(long, conflicts_with = "decode")]
    no_special: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ids: &'a [u32],
    pieces: Pieces<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// The texts of tokens, each made when it is written.
struct Pieces<'a> {
    tokenizer: &'a Tokenizer,
    ids: &'a [u32],
}

impl Serialize for Pieces<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.ids.iter().map(|id| self.tokenizer.piece(*id)))
    }
}

pub(super) fn run(args: Args) -> Result<()> {
    let given = args.decode.as_deref().map(|ids| common::ids("--decode", ids)).transpose()?;
    let name = args.model.name();
    let file = args.model.open()?;
    let tokenizer = load::made(&file, &name, Tokenizer::from_file(&file))?;
    let (ids, text) = match given {
        Some(ids) => {
            if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.len()) {
                return Err(Error::Request(format!(
                    "--decode: there is no token {id}: {name} has {}",
                    tokenizer.len()
                )));
            }
            let text = tokenizer.decode(&ids);
            (ids, Some(text))
        }
        None => {
            let text = input::text(args.text, args.file.as_deref())?;
            let text =
                text.ok_or_else(|| Error::Usage("no text: give --text, --file or a pipe".to_owned()))?;
            let ids = match (args.no_special, args.no_bos) {
                (true, _) => tokenizer.encode(&text, Special::AsText)?,
                (false, true) => tokenizer.encode(&text, Special::Recognise)?,
                (false, false) => tokenizer.encode_with_bos(&text, Special::Recognise)?,
            };
            (ids, None)
        }
    };
    output::notes(&common::ignored(&file));
    output::notes(tokenizer.notes());
    if args.json {
        let pieces = Pieces { tokenizer: &tokenizer, ids: &ids };
        return output::json(&Report { ids: &ids, pieces, text });
    }
    if let Some(text) = text {
        return output::print_text(&(text + "\n"));
    }
    output::write(|out| {
        ids.iter().try_for_each(|id| writeln!(out, "{id:6}  {}", output::quoted(&tokenizer.piece(*id))))
    })
}
