//! From flags to an open model and a request, for questions and chats alike.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use crate::capacity;
use crate::cli::args::AskArgs;
use crate::cli::model_file::ModelFile;
use crate::cli::progress;
use crate::constrain::Constraint;
use crate::error::{Error, Result};
use crate::image::{Limits, Reading};
use crate::ops::Compute;
use crate::request::{Assistant, Prompt, Request, Source};
use crate::sampler::Sampling;
use crate::threads;

/// What stands for standard input where a file or text is wanted.
pub const STANDARD_INPUT: &str = "-";
/// What it is called in errors.
const STANDARD_INPUT_NAME: &str = "standard input";
/// The longest text to be read: more than any context holds.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Opens the model that the flags or the environment name.
pub fn open(args: &AskArgs) -> Result<Assistant> {
    let model = ModelFile::new(args.question.model.as_deref())?;
    let n_threads = args.running.threads.unwrap_or_else(threads::default_count);
    let mut assistant = model.assistant(Compute::new(n_threads)?)?;
    if let Some(cache_type) = args.running.cache_type {
        assistant.set_cache_type(cache_type)?;
    }
    let notice = match args.running.ctx_size {
        Some(_) => None,
        None => capacity::context_notice(assistant.model(), assistant.context(None)?),
    };
    for line in capacity::warning(assistant.model())
        .into_iter()
        .chain(notice)
    {
        progress::say(&format!("owl2: {line}\n"));
    }
    Ok(assistant)
}

/// A request with everything that flags say, but pictures.
pub fn request(args: &AskArgs, prompt: Prompt, defaults: &Sampling) -> Result<Request> {
    Ok(Request {
        aspect: args.question.aspect,
        reading: match (args.question.reference_pixels, args.question.no_exif) {
            (true, _) => Reading::Reference,
            (false, true) => Reading::Unturned,
            (false, false) => Reading::Shown,
        },
        sampling: Sampling {
            temperature: args.sampling.temp,
            top_k: args.sampling.top_k.unwrap_or(defaults.top_k),
            top_p: args.sampling.top_p.unwrap_or(defaults.top_p),
            min_p: args.sampling.min_p,
            repeat_penalty: args.sampling.repeat_penalty,
            seed: args.sampling.seed,
        },
        max_tokens: args.sampling.max_tokens,
        stops: args.sampling.stop.clone(),
        spells_specials: args.output.special,
        context: args.running.ctx_size,
        lookup: args.running.lookup,
        constraint: constraint(args)?,
        ..Request::new(prompt)
    })
}

/// What the answer must be.
fn constraint(args: &AskArgs) -> Result<Option<Constraint>> {
    const FLAG: &str = "--json-schema";
    if !args.sampling.choices.is_empty() {
        return Constraint::choices(args.sampling.choices.clone()).map(Some);
    }
    let Some(path) = &args.sampling.json_schema else {
        return Ok(None);
    };
    let file = File::open(path).map_err(|e| Error::io("cannot open", path, e));
    let schema = file.and_then(|file| Constraint::json_schema(&read_text(file, path)?));
    schema.map(Some).map_err(|e| e.in_flag(FLAG).in_file(path))
}

/// A picture, in a file or on standard input.
pub fn source(path: &Path) -> Result<Source> {
    if path != Path::new(STANDARD_INPUT) {
        return Ok(Source::File(path.to_owned()));
    }
    // One byte too many tells the decoder that the file is too large.
    let limit = Limits::default().max_file_bytes as u64 + 1;
    let bytes = read(io::stdin().lock(), Path::new(STANDARD_INPUT_NAME), limit)?;
    Ok(Source::Bytes(bytes))
}

/// The text on standard input, without the line end after it.
pub fn standard_text() -> Result<String> {
    let mut text = read_text(io::stdin().lock(), Path::new(STANDARD_INPUT_NAME))?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

/// Whether nothing but a person would write to standard input.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

fn read_text(input: impl Read, name: &Path) -> Result<String> {
    let bytes = read(input, name, MAX_TEXT_BYTES + 1)?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(Error::input(format!("is longer than {MAX_TEXT_BYTES} bytes")).in_file(name));
    }
    String::from_utf8(bytes).map_err(|e| {
        Error::input("holds no UTF-8 text")
            .in_file(name)
            .caused_by(e)
    })
}

fn read(input: impl Read, name: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("cannot read", name, e))?;
    Ok(bytes)
}
