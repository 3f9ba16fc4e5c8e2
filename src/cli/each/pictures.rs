//! The pictures in files and folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::is_named_like_a_picture;
use crate::cli::setup;
use crate::error::{Error, Result};
use crate::image::{self, FileContent};

/// Files as they are, and the pictures in folders and the folders therein, by name. Which files of a
/// folder are pictures is told by their content; one that is named like a picture counts as one, for
/// better or worse.
pub struct Pictures {
    /// The next one at the end.
    waiting: Vec<Waiting>,
    /// Whether folders in folders are looked into.
    is_recursive: bool,
    pub left_out: LeftOut,
}

enum Waiting {
    /// Named by the user.
    Given(PathBuf),
    /// Found in a folder.
    File(PathBuf),
    Folder(PathBuf),
}

impl Pictures {
    pub fn of(paths: &[PathBuf], is_recursive: bool) -> Self {
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
pub struct LeftOut {
    /// Number of files by what they are, and the command that would convert them.
    kinds: BTreeMap<&'static str, (usize, Option<&'static str>)>,
    /// How many of them are pictures, in formats that cannot be read.
    pub n_pictures: usize,
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
    pub fn notice(&self) -> Option<String> {
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
