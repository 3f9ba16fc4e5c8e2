//! The same question about each of many pictures.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::args::AskArgs;
use crate::cli::cache::CacheFile;
use crate::cli::output::{self, Output};
use crate::cli::setup::Checked;
use crate::cli::{ask, print, progress, setup};
use crate::error::{Error, Kind, Result, flag};
use crate::image::{self, FORMATS, FileContent};
use crate::request::{Answer, Assistant, Request, Source};
use crate::reuse::PromptCache;
use crate::sampler::Sampling;

/// How the names of pictures end, those that can be decoded.
const EXTENSIONS: [&str; 15] = [
    "jpg", "jpeg", "jpe", "jfif", "jif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff",
    "qoi", "jxl",
];

/// Whether a file is named like a picture that can be decoded.
pub(super) fn is_named_like_a_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|name| {
        EXTENSIONS
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    })
}

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
pub(super) fn run(
    args: &AskArgs,
    checked: &Checked,
    assistant: &Assistant,
    text: &str,
) -> Result<()> {
    let request = ask::request(args, checked, assistant, text, 1)?;
    let mut memory = PromptCache::new();
    let cache = CacheFile::open(args, assistant, &mut memory)?;
    let (mut n, mut n_failed) = (0, 0);
    let mut pictures = Pictures::of(&args.question.each, true);
    for picture in &mut pictures {
        n += 1;
        let outcome = match picture {
            Ok(picture) => one(args, assistant, &mut memory, &request, &picture)?,
            Err(error) => Outcome::Failed(error),
        };
        match outcome {
            Outcome::Answered => {}
            Outcome::Failed(error) => {
                n_failed += 1;
                progress::error(&error);
            }
            Outcome::Unread => return Ok(()),
        }
    }
    cache.save(&memory)?;
    let left_out = pictures.left_out;
    if let Some(notice) = left_out.notice() {
        progress::note(&notice);
    }
    match (n, n_failed, left_out.n_pictures) {
        (0, ..) => Err(
            Error::input(format!("holds no pictures that can be read ({FORMATS})"))
                .in_parameter("each"),
        ),
        (_, 0, 0) => Ok(()),
        (_, _, 0) => Err(Error::new(
            Kind::Partial,
            format!("{n_failed} of {} failed", pictures_in_words(n)),
        )),
        (_, _, n_pictures) => {
            let were = if n_pictures == 1 { "was" } else { "were" };
            Err(Error::new(
                Kind::Partial,
                format!(
                    "{n_failed} of {} failed, and {n_pictures} {were} skipped",
                    pictures_in_words(n)
                ),
            ))
        }
    }
}

/// Asks about one picture. An error is one that all would meet.
fn one(
    args: &AskArgs,
    assistant: &Assistant,
    memory: &mut PromptCache,
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
        Err(error) if !is_of_one(&error) => return Err(error),
        answer => answer,
    };
    if args.output.json && is_read {
        is_read = print(&line(picture, &answer, &request.sampling))?;
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
            ask::report(args, &answer, &request.sampling);
            Outcome::Answered
        }
    })
}

fn pictures_in_words(n: usize) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} picture{plural}")
}

/// Whether an error is about one picture, so that another may do better.
pub(super) fn is_of_one(error: &Error) -> bool {
    match error.kind() {
        Kind::Input | Kind::Io => true,
        // A picture that is too large names its file, a context that is too long does not.
        Kind::Capacity => error.file().is_some(),
        _ => false,
    }
}

/// The outcome as one line of JSON.
fn line(picture: &Path, answer: &Result<Answer>, sampling: &Sampling) -> String {
    let mut object = match answer {
        Ok(answer) => output::as_json(answer, sampling),
        Err(error) => json!({ "error": error.spelled(&flag).to_string() }),
    };
    object["image"] = picture.display().to_string().into();
    format!("{object}\n")
}

/// Files as they are, and the pictures in folders and the folders therein, by name. Which files of a
/// folder are pictures is told by their content; one that is named like a picture counts as one, for
/// better or worse.
pub(super) struct Pictures {
    /// The next one at the end.
    waiting: Vec<Waiting>,
    /// Whether folders in folders are looked into.
    is_recursive: bool,
    pub(super) left_out: LeftOut,
}

enum Waiting {
    /// Named by the user.
    Given(PathBuf),
    /// Found in a folder.
    File(PathBuf),
    Folder(PathBuf),
}

impl Pictures {
    pub(super) fn of(paths: &[PathBuf], is_recursive: bool) -> Self {
        let given = |path: &PathBuf| Waiting::Given(setup::file_path(path));
        Pictures {
            waiting: paths.iter().rev().map(given).collect(),
            is_recursive,
            left_out: LeftOut::default(),
        }
    }
}

impl Iterator for Pictures {
    type Item = Result<PathBuf>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let folder = match self.waiting.pop()? {
                Waiting::File(path) if self.left_out.has(&path) => continue,
                Waiting::Folder(_) if !self.is_recursive => continue,
                Waiting::File(path) => return Some(Ok(path)),
                Waiting::Given(path) if !path.is_dir() => return Some(Ok(path)),
                Waiting::Given(path) | Waiting::Folder(path) => path,
            };
            match entries(&folder) {
                Ok(entries) => self.waiting.extend(entries.into_iter().rev()),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The files and folders in a folder, by name. Hidden ones are left out.
fn entries(folder: &Path) -> Result<Vec<Waiting>> {
    let failed = |e| Error::io("cannot list", folder, e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            // A link to a folder is none, so that no folder is its own.
            entries.push((entry.path(), entry.file_type().map_err(failed)?.is_dir()));
        }
    }
    entries.sort();
    let waiting = |(path, is_folder)| match is_folder {
        true => Waiting::Folder(path),
        false => Waiting::File(path),
    };
    Ok(entries.into_iter().map(waiting).collect())
}

/// What was found in folders and not asked about.
#[derive(Default)]
pub(super) struct LeftOut {
    /// Number of files by what they are, and the command that would convert them.
    kinds: BTreeMap<&'static str, (usize, Option<&'static str>)>,
    /// How many of them are pictures, in formats that cannot be read.
    n_pictures: usize,
}

impl LeftOut {
    /// Counts a file that is nothing to ask about; whether it is one.
    fn has(&mut self, path: &Path) -> bool {
        let content = match image::content(path) {
            // What cannot be read is reported when it is its turn, if it may be a picture.
            Err(_) if is_named_like_a_picture(path) => return false,
            Err(_) => FileContent::Unknown,
            Ok(None) => {
                self.count("that are pipes, devices or links to folders", None);
                return true;
            }
            Ok(Some(FileContent::Picture(_))) => return false,
            Ok(Some(_)) if is_named_like_a_picture(path) => return false,
            Ok(Some(content)) => content,
        };
        match content {
            FileContent::Foreign(foreign) if foreign.is_picture => {
                self.n_pictures += 1;
                self.count(foreign.name, Some(foreign.command));
            }
            _ => self.count("without a picture", None),
        }
        true
    }

    fn count(&mut self, kind: &'static str, command: Option<&'static str>) {
        self.kinds.entry(kind).or_insert((0, command)).0 += 1;
    }

    /// One line about all of it.
    pub(super) fn notice(&self) -> Option<String> {
        let n: usize = self.kinds.values().map(|(n, _)| n).sum();
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, (n, command))| match command {
                Some(command) => format!("{n} {kind} (`{command}` converts one)"),
                None => format!("{n} {kind}"),
            })
            .collect();
        let files = if n == 1 { "file" } else { "files" };
        (n > 0).then(|| format!("skipped {n} {files}: {}", kinds.join(", ")))
    }
}

/// Whether a file is a picture, by its name or its content.
pub(super) fn is_picture(path: &Path) -> bool {
    let is_shown = |content| match content {
        FileContent::Picture(_) => true,
        FileContent::Foreign(foreign) => foreign.is_picture,
        FileContent::Other(_) | FileContent::Unknown => false,
    };
    path.is_file()
        && (is_named_like_a_picture(path)
            || image::content(path).is_ok_and(|content| content.is_some_and(is_shown)))
}
