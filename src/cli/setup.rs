//! Turns flags into an open model and a request, for questions and chats alike.

use std::fs;
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
use crate::image::{self, FileContent, HEAD, Limits, Reading};
use crate::ops::Compute;
use crate::request::{Assistant, Prompt, Request, Source, check_context};
use crate::sampler::Sampling;
use crate::threads;

/// What stands for standard input where a file or text is wanted.
pub const STANDARD_INPUT: &str = "-";
/// What it is called in errors.
pub const STANDARD_INPUT_NAME: &str = "standard input";
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
        None => capacity::context_notice(assistant.model(), assistant.context(None)?)
            .map(|notice| notice + "; --ctx-size overrides, --cache-type q8_0 halves it"),
    };
    for line in capacity::warning(assistant.model())
        .into_iter()
        .chain(notice)
    {
        progress::note(&line);
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
        progress::note(&format!(
            "--threads: using {count} instead of {wanted}; more than four per processor only slow \
             each other down"
        ));
    }
    count
}

/// What the flags of a question say that needs no model, checked.
pub struct Checked {
    constraint: Option<Constraint>,
    seed: u64,
}

/// Checks what can be checked before the model is opened.
pub fn check(args: &AskArgs) -> Result<Checked> {
    let sampling = &args.sampling;
    let defaults = Sampling::default();
    let seed = sampling.seed.value();
    sampling_of(args, &defaults, seed).check()?;
    if let Some(context) = args.running.ctx_size {
        check_context(context)?;
    }
    for path in &args.question.image {
        check_picture(path)?;
    }
    let constraint = constraint(args)?;
    Ok(Checked { constraint, seed })
}

fn sampling_of(args: &AskArgs, defaults: &Sampling, seed: u64) -> Sampling {
    Sampling {
        temperature: args.sampling.temp,
        top_k: args.sampling.top_k.unwrap_or(defaults.top_k),
        top_p: args.sampling.top_p.unwrap_or(defaults.top_p),
        min_p: args.sampling.min_p,
        repeat_penalty: args.sampling.repeat_penalty,
        seed,
    }
}

/// A request with everything that flags say, but pictures. What its answer must be is known to be
/// possible then.
pub fn request(
    args: &AskArgs,
    checked: &Checked,
    prompt: Prompt,
    assistant: &Assistant,
) -> Result<Request> {
    let constraint = checked.constraint.clone();
    if let Some(constraint) = &constraint {
        let compiled = assistant.check_constraint(constraint);
        compiled.map_err(|e| match schema_file(args) {
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
        sampling: sampling_of(args, assistant.sampling(), checked.seed),
        max_tokens: args.sampling.max_tokens.map(|length| length.0),
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
    const PARAMETER: &str = "json_schema";
    if !args.sampling.choices.is_empty() {
        return Constraint::choices(args.sampling.choices.clone()).map(Some);
    }
    let Some(schema) = &args.sampling.json_schema else {
        return Ok(None);
    };
    let Some(path) = schema_file(args) else {
        let schema = Constraint::json_schema(&schema.to_string_lossy());
        return schema.map(Some).map_err(|e| match e.subject() {
            Some(_) => e,
            None => e.in_parameter(PARAMETER),
        });
    };
    let limit = MAX_SCHEMA_BYTES as u64;
    let text = files::open_argument(path).and_then(|file| read_text(file, path, limit));
    let schema = text.and_then(|text| Constraint::json_schema(&text));
    schema.map(Some).map_err(|e| match e.subject() {
        // The keyword that is at fault says more than the flag.
        Some(_) => e.in_file(path),
        None => e.in_parameter(PARAMETER).in_file(path),
    })
}

/// The file of `--json-schema`, unless the schema itself is given.
fn schema_file(args: &AskArgs) -> Option<&Path> {
    let schema = args.sampling.json_schema.as_deref()?;
    let text = schema.to_str().unwrap_or_default();
    (!text.trim_start().starts_with('{')).then_some(Path::new(schema))
}

/// Fails for a picture that is not there. What it holds is seen when it is decoded.
pub fn check_picture(path: &Path) -> Result<()> {
    if path == Path::new(STANDARD_INPUT) {
        return Ok(());
    }
    if is_url(path) {
        return Err(Error::usage(
            "is a URL, and owl2 does not download pictures; download it first (curl -O URL), or \
             pipe it in (curl URL | owl2 -p TEXT)",
        )
        .in_file(path));
    }
    let path = file_path(path);
    let there = fs::metadata(&path);
    there
        .map(drop)
        .map_err(|e| Error::io("cannot open the picture", &path, e))
}

/// Whether it is an address on the web.
pub fn is_url(path: &Path) -> bool {
    let text = path.to_str().unwrap_or_default().to_ascii_lowercase();
    text.starts_with("http://") || text.starts_with("https://")
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
        Some(bytes) if is_picture(&bytes) => {
            Err(Error::input("is a picture, but a text is expected here").in_file(name))
        }
        Some(bytes) => files::text(bytes, name),
        None => {
            let message = format!("is longer than {}", human_bytes(most));
            Err(Error::input(message).in_file(name))
        }
    }
}

fn is_picture(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(HEAD)];
    // A text may begin like a format that has next to no mark.
    std::str::from_utf8(head).is_err() && matches!(image::content_of(head), FileContent::Picture(_))
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
