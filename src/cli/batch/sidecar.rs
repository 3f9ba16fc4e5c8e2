//! Answers in files beside the pictures, as photo programs and trainers read them.
//!
//! A picture is never written to. A sidecar that is there already stays as it is but for what is added.

mod xmp;

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::Value;

use crate::atomic_file;
use crate::error::{Error, Result};
use crate::files;

/// The largest sidecar that is read; those with drawn masks have a few megabytes.
const MAX_BYTES: u64 = 16 << 20;

/// What a sidecar looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// `photo.txt` with the answer, as trainers of picture models read it.
    Txt,
    /// `photo.jpg.xmp`, as darktable, digiKam and Immich do.
    Xmp,
}

/// Writes sidecars.
#[derive(Debug)]
pub struct Sidecars {
    format: Format,
    /// Folders where there is nothing left of runs that were killed.
    tidied: HashSet<PathBuf>,
}

/// What is written into a sidecar.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    description: String,
    keywords: Vec<String>,
}

impl Words {
    /// An answer is a description, unless it is a JSON object with a `caption` or `description`,
    /// `keywords` or `tags`.
    fn of(answer: &str) -> Self {
        let answer = answer.trim();
        let object = serde_json::from_str::<Value>(answer).ok();
        let member = |names: [&str; 2]| {
            let object = object.as_ref()?.as_object()?;
            names.iter().find_map(|&name| object.get(name))
        };
        let description = member(["caption", "description"]).and_then(Value::as_str);
        let keywords = member(["keywords", "tags"]).and_then(Value::as_array);
        if description.is_none() && keywords.is_none() {
            return Words {
                description: answer.to_owned(),
                keywords: Vec::new(),
            };
        }
        let keywords = keywords.into_iter().flatten().filter_map(Value::as_str);
        Words {
            description: description.unwrap_or_default().trim().to_owned(),
            keywords: keywords.map(|keyword| keyword.trim().to_owned()).collect(),
        }
    }
}

impl Sidecars {
    pub fn new(format: Format) -> Self {
        Sidecars {
            format,
            tidied: HashSet::new(),
        }
    }

    /// Writes an answer beside its picture; what to warn of, if anything.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the sidecar that is there cannot be understood, which
    /// is left alone; [`Kind::Io`](crate::Kind::Io).
    pub fn write(&mut self, picture: Option<&Path>, answer: &str) -> Result<Option<String>> {
        let Some(picture) = picture else {
            return Ok(Some(
                "no sidecar was written: the row has not one file of a picture".to_owned(),
            ));
        };
        let sidecar = self.format.path(picture);
        self.tidy(&sidecar);
        match self.format {
            Format::Txt => write_text(&sidecar, answer),
            Format::Xmp => write_xmp(&sidecar, &Words::of(answer)),
        }
    }

    /// Removes what killed runs left in a folder, once.
    fn tidy(&mut self, sidecar: &Path) {
        let folder = atomic_file::directory(sidecar);
        if !self.tidied.contains(folder) {
            atomic_file::remove_stale(folder);
            self.tidied.insert(folder.to_owned());
        }
    }
}

impl Format {
    fn path(self, picture: &Path) -> PathBuf {
        match self {
            Format::Txt => picture.with_extension("txt"),
            Format::Xmp => {
                let mut name = OsString::from(picture);
                name.push(".xmp");
                name.into()
            }
        }
    }
}

fn write_text(sidecar: &Path, answer: &str) -> Result<Option<String>> {
    let text = format!("{}\n", answer.trim());
    match read(sidecar)? {
        None => atomic_file::write_new(sidecar, text.as_bytes()).map(|()| None),
        Some(there) if there == text.as_bytes() => Ok(None),
        Some(_) => Ok(Some(format!(
            "{}: has another text already, and was left as it is",
            sidecar.display()
        ))),
    }
}

fn write_xmp(sidecar: &Path, words: &Words) -> Result<Option<String>> {
    let Some(there) = read(sidecar)? else {
        let merged = xmp::merge(xmp::EMPTY, words).map_err(|e| e.in_file(sidecar))?;
        let text = merged.text.as_deref().unwrap_or(xmp::EMPTY);
        return atomic_file::write_new(sidecar, text.as_bytes()).map(|()| None);
    };
    let old = String::from_utf8(there).map_err(|e| {
        let message = format!("is no XMP in UTF-8 and was left as it is: {}", e.utf8_error());
        Error::input(message).in_file(sidecar)
    })?;
    let merged = xmp::merge(&old, words).map_err(|e| e.in_file(sidecar))?;
    if let Some(text) = &merged.text {
        atomic_file::replace(sidecar, text.as_bytes(), &mut || {
            // Another program may have written to it meanwhile.
            Ok(read(sidecar)?.is_some_and(|now| now == old.as_bytes()))
        })?;
    }
    let left = |what| format!("{}: {what}, which were left as they are", sidecar.display());
    Ok(merged.left.map(left))
}

/// What a sidecar holds, if it is there.
fn read(sidecar: &Path) -> Result<Option<Vec<u8>>> {
    let Some(file) = files::open_if_there(sidecar)? else {
        return Ok(None);
    };
    let bytes = files::read_at_most(file, sidecar, MAX_BYTES)?;
    bytes.map(Some).ok_or_else(|| {
        let message = format!("has more than {MAX_BYTES} bytes and was left as it is");
        Error::input(message).in_file(sidecar)
    })
}
