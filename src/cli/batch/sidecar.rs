//! Answers in files beside the pictures, for photo programs and training tools.
//!
//! Pictures are never modified. Existing entries of a sidecar are kept.

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
pub enum SidecarFormat {
    /// `photo.txt` with the answer, as trainers of picture models read it.
    Txt,
    /// `photo.jpg.xmp`, as darktable, digiKam and Immich do.
    Xmp,
}

/// Writes sidecars.
#[derive(Debug)]
pub struct Sidecars {
    format: SidecarFormat,
    /// Folders where there is nothing left of runs that were killed.
    tidied: HashSet<PathBuf>,
}

/// What is written into a sidecar.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SidecarText {
    description: String,
    keywords: Vec<String>,
}

impl SidecarText {
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
            return SidecarText {
                description: answer.to_owned(),
                keywords: Vec::new(),
            };
        }
        let keywords = keywords.into_iter().flatten().filter_map(Value::as_str);
        SidecarText {
            description: description.unwrap_or_default().trim().to_owned(),
            keywords: keywords.map(|keyword| keyword.trim().to_owned()).collect(),
        }
    }
}

impl Sidecars {
    pub fn new(format: SidecarFormat) -> Self {
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
                "no sidecar was written: the row does not have exactly one picture file".to_owned(),
            ));
        };
        let sidecar = self.format.path(picture);
        self.tidy(&sidecar);
        match self.format {
            SidecarFormat::Txt => write_text(&sidecar, answer),
            SidecarFormat::Xmp => write_xmp(&sidecar, &SidecarText::of(answer)),
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

impl SidecarFormat {
    fn path(self, picture: &Path) -> PathBuf {
        match self {
            SidecarFormat::Txt => picture.with_extension("txt"),
            SidecarFormat::Xmp => {
                let mut name = OsString::from(picture);
                name.push(".xmp");
                name.into()
            }
        }
    }
}

/// An XMP document with the words of an answer in it, if they were not there.
pub(super) fn with_words(document: &str, answer: &str) -> Result<Option<String>> {
    Ok(xmp::merge(document, &SidecarText::of(answer))?.text)
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

fn write_xmp(sidecar: &Path, words: &SidecarText) -> Result<Option<String>> {
    let Some(there) = read(sidecar)? else {
        let merged = xmp::merge(xmp::EMPTY, words).map_err(|e| e.in_file(sidecar))?;
        let text = merged.text.as_deref().unwrap_or(xmp::EMPTY);
        return atomic_file::write_new(sidecar, text.as_bytes()).map(|()| None);
    };
    let old = String::from_utf8(there).map_err(|e| {
        let message = format!("is not XMP in UTF-8; left unchanged: {}", e.utf8_error());
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn answers_are_descriptions_unless_they_say_what_they_are() {
        let words = |description: &str, keywords: &[&str]| SidecarText {
            description: description.to_owned(),
            keywords: keywords.iter().map(|&keyword| keyword.to_owned()).collect(),
        };
        assert_eq!(SidecarText::of(" A cat.\n"), words("A cat.", &[]));
        assert_eq!(
            SidecarText::of(r#"{"caption": " A cat.", "keywords": ["cat ", 3, "sofa"]}"#),
            words("A cat.", &["cat", "sofa"])
        );
        assert_eq!(SidecarText::of(r#"{"tags": ["cat"]}"#), words("", &["cat"]));
        for other in [r#"{"colour": "red"}"#, "[1]", "{", "7"] {
            assert_eq!(SidecarText::of(other), words(other, &[]));
        }
    }

    #[test]
    fn sidecars_are_written_once_and_never_over_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let text = |name: &str| fs::read_to_string(path(name)).unwrap();
        let picture = path("a.b.jpg");
        let mut txt = Sidecars::new(SidecarFormat::Txt);
        assert_eq!(txt.write(Some(&picture), "A cat.\n").unwrap(), None);
        assert_eq!(text("a.b.txt"), "A cat.\n");
        assert_eq!(txt.write(Some(&picture), "A cat.").unwrap(), None);
        let warning = txt.write(Some(&picture), "A dog.").unwrap().unwrap();
        assert!(warning.contains("a.b.txt"), "{warning}");
        assert_eq!(text("a.b.txt"), "A cat.\n");
        // A picture may be called that.
        assert!(txt.write(Some(&path("a.b.txt")), "x").unwrap().is_some());
        assert!(txt.write(None, "x").unwrap().is_some());

        let mut xmp = Sidecars::new(SidecarFormat::Xmp);
        assert_eq!(xmp.write(Some(&picture), "A cat.").unwrap(), None);
        let first = text("a.b.jpg.xmp");
        assert!(first.contains("A cat."));
        assert_eq!(xmp.write(Some(&picture), "A cat.").unwrap(), None);
        assert_eq!(text("a.b.jpg.xmp"), first);
        assert_eq!(xmp.write(Some(&picture), "A dog.").unwrap(), None);
        let dog = text("a.b.jpg.xmp");
        fs::write(path("a.b.jpg.xmp"), dog.replace("A dog.", "Our dog.")).unwrap();
        let warning = xmp.write(Some(&picture), "A cow.").unwrap().unwrap();
        assert!(warning.contains("another description"), "{warning}");
        for other in [&b"no XMP"[..], b"\xff\xfe<\0", b""] {
            fs::write(path("a.b.jpg.xmp"), other).unwrap();
            let error = xmp.write(Some(&picture), "A cow.").unwrap_err().to_string();
            assert!(error.contains("a.b.jpg.xmp: is not XMP"), "{error}");
            assert_eq!(fs::read(path("a.b.jpg.xmp")).unwrap(), other);
        }
        let large = fs::File::create(path("a.b.jpg.xmp")).unwrap();
        large.set_len(MAX_BYTES + 1).unwrap();
        assert!(xmp.write(Some(&picture), "x").is_err());
        assert!(xmp.write(Some(&path("no/folder.jpg")), "x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn whoever_may_read_pictures_may_read_sidecars_and_a_change_meanwhile_is_kept() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let like = folder.path().join("like.txt");
        fs::write(&like, "").unwrap();
        atomic_file::write_new(&path, b"first").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&like));
        assert!(atomic_file::write_new(&path, b"second").is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        let error = atomic_file::replace(&path, b"second", &mut || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("meanwhile"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        atomic_file::replace(&path, b"second", &mut || Ok(true)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(mode(&path) & 0o777, 0o604);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
