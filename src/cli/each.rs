//! The same question about each of many pictures.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::args::AskArgs;
use crate::cli::cache::CacheFile;
use crate::cli::output::{self, Output};
use crate::cli::{ask, print, progress};
use crate::error::{Error, Kind, Result};
use crate::request::{Answer, Assistant, Request, Source};
use crate::reuse::Memory;

/// How the names of pictures end that are looked for in folders.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

/// What became of the question about one picture.
enum Outcome {
    Answered,
    /// Another picture may do better.
    Failed(Error),
    /// Nobody reads the output any more.
    Unread,
}

/// Asks `text` about each picture of `--each`. One that cannot be used is reported, and the rest
/// go on.
pub(super) fn run(args: &AskArgs, assistant: &Assistant, text: &str) -> Result<()> {
    let request = ask::request(args, assistant, text, 1)?;
    let mut memory = Memory::new();
    let cache = CacheFile::open(args, assistant, &mut memory)?;
    let (mut n, mut n_failed) = (0, 0);
    for picture in pictures(&args.question.each) {
        n += 1;
        let outcome = match picture {
            Ok(picture) => one(args, assistant, &mut memory, &request, &picture)?,
            Err(error) => Outcome::Failed(error),
        };
        match outcome {
            Outcome::Answered => {}
            Outcome::Failed(error) => {
                n_failed += 1;
                progress::say(&format!("owl2: {error}\n"));
            }
            Outcome::Unread => return Ok(()),
        }
    }
    cache.save(&memory)?;
    match (n, n_failed) {
        (0, _) => Err(Error::input("holds no pictures").in_flag("--each")),
        (_, 0) => Ok(()),
        _ => Err(Error::new(
            Kind::Partial,
            format!("{n_failed} of {n} pictures failed"),
        )),
    }
}

/// Asks about one picture. An error is one that all would meet.
fn one<'m>(
    args: &AskArgs,
    assistant: &'m Assistant,
    memory: &mut Memory<'m>,
    request: &Request,
    picture: &Path,
) -> Result<Outcome> {
    let request = Request {
        pictures: vec![Source::File(picture.to_owned())],
        ..request.clone()
    };
    let mut output = Output::new(!args.output.json, format!("{}: ", picture.display()));
    let answer = assistant.answer_from(memory, &request, &mut |event| output.receive(event));
    let mut is_read = output.finish(answer.is_ok())?;
    let answer = match answer {
        Err(error) if !matches!(error.kind(), Kind::Input | Kind::Io) => return Err(error),
        answer => answer,
    };
    if args.output.json && is_read {
        is_read = print(&line(picture, &answer))?;
    }
    let answer = match answer {
        Ok(answer) if is_read => {
            let name = format!("{}: ", picture.display());
            let whole = ask::check_whole(args, assistant, &answer, &name);
            whole.map(|()| answer).map_err(|e| e.in_file(picture))
        }
        answer => answer,
    };
    Ok(match answer {
        Err(error) => Outcome::Failed(error),
        Ok(_) if !is_read => Outcome::Unread,
        Ok(answer) => {
            ask::report(args, &answer);
            Outcome::Answered
        }
    })
}

/// The outcome as one line of JSON.
fn line(picture: &Path, answer: &Result<Answer>) -> String {
    let mut object = match answer {
        Ok(answer) => output::as_json(answer),
        Err(error) => json!({ "error": error.to_string() }),
    };
    object["image"] = picture.display().to_string().into();
    format!("{object}\n")
}

/// Files as they are, and the pictures in folders and the folders therein, by name.
fn pictures(paths: &[PathBuf]) -> impl Iterator<Item = Result<PathBuf>> {
    // The next one at the end.
    let mut waiting: Vec<PathBuf> = paths.iter().rev().cloned().collect();
    std::iter::from_fn(move || {
        loop {
            let path = waiting.pop()?;
            if !path.is_dir() {
                return Some(Ok(path));
            }
            match entries(&path) {
                Ok(entries) => waiting.extend(entries.into_iter().rev()),
                Err(error) => return Some(Err(error)),
            }
        }
    })
}

/// The pictures and folders in a folder, by name. Hidden ones and links to folders are left out.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("cannot list", folder, e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let is_folder = entry.file_type().map_err(failed)?.is_dir();
        if !is_hidden && (is_folder || is_picture(&path)) {
            entries.push(path);
        }
    }
    entries.sort();
    Ok(entries)
}

/// Whether a file is named like a picture.
pub(super) fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is_known = |name: &str| {
        EXTENSIONS
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    };
    extension.is_some_and(is_known) && !path.is_dir()
}
