//! `owl2 tokenize`: the ids and pieces that a text becomes.

use serde_json::json;

use crate::cli::args::TokenizeArgs;
use crate::cli::model_file::ModelFile;
use crate::cli::setup::{self, STANDARD_INPUT};
use crate::cli::{print, print_json};
use crate::error::Result;
use crate::tokenizer::{Tokenizer, Vocabulary};

pub(super) fn run(args: &TokenizeArgs) -> Result<()> {
    let file = ModelFile::new(args.model.as_deref())?;
    let gguf = file.open()?;
    let vocabulary = Vocabulary::read(&gguf).map_err(|e| file.blame(e))?;
    let tokenizer = Tokenizer::new(vocabulary).map_err(|e| file.blame(e))?;
    let text = match args.text.as_deref() {
        None | Some(STANDARD_INPUT) => setup::standard_text()?,
        Some(text) => text.to_owned(),
    };
    let ids = match args.raw {
        true => tokenizer.encode_trusted(&text),
        false => tokenizer.encode(&text),
    };
    let piece = |id: &u32| tokenizer.vocabulary().pieces[*id as usize].text.as_str();
    if args.json {
        let pieces: Vec<_> = ids.iter().map(piece).collect();
        return print_json(&json!({ "ids": ids, "pieces": pieces })).map(drop);
    }
    let lines = ids.iter().map(|id| format!("{id:>6}  {}\n", piece(id)));
    print(&lines.collect::<String>()).map(drop)
}
