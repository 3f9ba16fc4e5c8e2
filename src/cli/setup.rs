//! From flags to an open model and a request, for questions and chats alike.

use std::io::{self, IsTerminal, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::capacity::{self, human_bytes};
use crate::cli::args::AskArgs;
use crate::cli::model_file::ModelFile;
use crate::cli::progress;
use crate::constrain::{Constraint, MAX_SCHEMA_BYTES};
use crate::error::{Error, Result};
use crate::files;
use crate::image::{self, Limits, Reading};
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
    let mut assistant = model.assistant(Compute::new(n_threads(args.running.threads))?)?;
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

/// The threads to work with, where `wanted` are asked for; says so where those are too many.
pub fn n_threads(wanted: Option<NonZeroUsize>) -> NonZeroUsize {
    let Some(wanted) = wanted else {
        return threads::default_count();
    };
    let count = wanted.min(threads::max_count());
    if count < wanted {
        progress::say(&format!(
            "owl2: --threads: {count} in place of {wanted}, since more than four for each processor \
             only hold one another up\n"
        ));
    }
    count
}

/// A request with everything that flags say, but pictures. What its answer must be is known to be
/// possible then.
pub fn request(args: &AskArgs, prompt: Prompt, assistant: &Assistant) -> Result<Request> {
    let defaults = assistant.sampling();
    let constraint = constraint(args)?;
    if let Some(constraint) = &constraint {
        let checked = assistant.check_constraint(constraint);
        checked.map_err(|e| match &args.sampling.json_schema {
            Some(path) => e.in_file(path),
            None => e,
        })?;
    }
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
        constraint,
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
    let limit = MAX_SCHEMA_BYTES as u64;
    let text = files::open_argument(path).and_then(|file| read_text(file, path, limit));
    let schema = text.and_then(|text| Constraint::json_schema(&text));
    schema.map(Some).map_err(|e| match e.subject() {
        // The keyword that is at fault says more than the flag.
        Some(_) => e.in_file(path),
        None => e.in_flag(FLAG).in_file(path),
    })
}

/// A picture, in a file or on standard input.
pub fn source(path: &Path) -> Result<Source> {
    if path != Path::new(STANDARD_INPUT) {
        return Ok(Source::File(file_path(path)));
    }
    // One byte too many tells the decoder that the file is too large.
    let name = Path::new(STANDARD_INPUT_NAME);
    let bytes = image::read_file(io::stdin().lock(), name, 0, &Limits::default())?;
    Ok(Source::Bytes(bytes))
}

/// The path that is meant: a `file://` address stands for one, as browsers and file managers copy it.
pub fn file_path(path: &Path) -> PathBuf {
    let address = path.to_str().and_then(files::of_address);
    match address {
        Some(meant) if !path.exists() => meant,
        _ => path.to_owned(),
    }
}

/// The text on standard input, without the line end after it.
pub fn standard_text() -> Result<String> {
    let name = Path::new(STANDARD_INPUT_NAME);
    let mut text = read_text(io::stdin().lock(), name, MAX_TEXT_BYTES)?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

/// Whether nothing but a person would write to standard input.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// A text of at most `most` bytes, without a byte order mark.
pub fn read_text(input: impl Read, name: &Path, most: u64) -> Result<String> {
    match files::read_at_most(input, name, most)? {
        Some(bytes) => files::text(bytes, name),
        None => {
            let message = format!("is longer than {}", human_bytes(most));
            Err(Error::input(message).in_file(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_files_are_paths() {
        for (given, meant) in [
            ("file:///a%20b.png", "/a b.png"),
            ("file://localhost/a.png", "/a.png"),
            ("file:///a%2", "/a%2"),
            ("file:///%zz%", "/%zz%"),
            ("file:a.png", "file:a.png"),
            ("a.png", "a.png"),
        ] {
            assert_eq!(file_path(Path::new(given)), Path::new(meant), "{given}");
        }
    }
}
