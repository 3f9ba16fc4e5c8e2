//! Finds what to rate: pictures, or videos (folders of frames, lists of frames, animations).

use std::path::{Path, PathBuf};

use super::ScoreSummary;
use crate::cli::args::ScoreArgs;
use crate::cli::each::Pictures;
use crate::cli::progress;
use crate::clip;
use crate::error::{Error, Kind, Result};
use crate::image::{Aspect, Reading};
use crate::request::{Assistant, Source};
use crate::score::ScoreSubject;

/// A subject by its files.
pub enum Named {
    Picture(PathBuf),
    /// The frames, in order, and what they are called together.
    Clip(String, Vec<PathBuf>),
    Animation(PathBuf),
    /// A prompt without pictures.
    Nothing,
}

impl Named {
    /// What it is called where it is printed.
    pub fn shown(&self) -> String {
        match self {
            Named::Picture(path) | Named::Animation(path) => path.display().to_string(),
            Named::Clip(name, _) => name.clone(),
            Named::Nothing => String::new(),
        }
    }

    /// Its file, where it is one.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Named::Picture(path) | Named::Animation(path) => Some(path.clone()),
            Named::Clip(..) | Named::Nothing => None,
        }
    }
}

/// All subjects that the flags name. What cannot be listed is reported.
pub(super) fn named(args: &ScoreArgs) -> Result<(Vec<Named>, ScoreSummary)> {
    let mut report = ScoreSummary {
        n_all: 0,
        n_failed: 0,
        left_out: None,
    };
    if args.paths.is_empty() {
        return Ok((vec![Named::Nothing], report));
    }
    let subjects = match args.video {
        true => clips(&args.paths, args.recursive)?,
        false => {
            let mut pictures = Pictures::of(&args.paths, args.recursive);
            let mut found = Vec::new();
            for picture in &mut pictures {
                match picture {
                    Ok(path) => found.push(Named::Picture(path)),
                    Err(error) => {
                        report.n_failed += 1;
                        progress::error(&error);
                    }
                }
            }
            report.left_out = pictures.left_out.notice();
            found
        }
    };
    Ok((subjects, report))
}

/// Each folder is a clip, and each animation; the other files together are one.
pub fn clips(paths: &[PathBuf], is_recursive: bool) -> Result<Vec<Named>> {
    let mut clips = Vec::new();
    let mut frames = Vec::new();
    for path in paths {
        match () {
            () if path.is_dir() => folder_clips(path, is_recursive, &mut clips)?,
            () if clip::is_animation(path)? => clips.push(Named::Animation(path.clone())),
            () => frames.push(path.clone()),
        }
    }
    if let (Some(first), Some(last)) = (frames.first(), frames.last()) {
        let name = match frames.len() {
            1 => first.display().to_string(),
            _ => format!("{} ... {}", first.display(), last.display()),
        };
        clips.push(Named::Clip(name, frames));
    }
    Ok(clips)
}

fn folder_clips(folder: &Path, is_recursive: bool, clips: &mut Vec<Named>) -> Result<()> {
    let frames = Pictures::of(&[folder.to_owned()], false);
    let mut frames: Vec<PathBuf> = frames.collect::<Result<_>>()?;
    clip::sort_frames(&mut frames);
    let n_before = clips.len();
    if !frames.is_empty() {
        clips.push(Named::Clip(folder.display().to_string(), frames));
    }
    if is_recursive {
        let cannot_list = |e| Error::io("cannot list", folder, e);
        let entries = std::fs::read_dir(folder).map_err(cannot_list)?;
        let mut folders = Vec::new();
        for entry in entries {
            let entry = entry.map_err(cannot_list)?;
            // A link to a folder is none, so that no folder is its own.
            if entry.file_type().map_err(cannot_list)?.is_dir() {
                folders.push(entry.path());
            }
        }
        clip::sort_frames(&mut folders);
        for inner in folders {
            folder_clips(&inner, is_recursive, clips)?;
        }
    } else if clips.len() == n_before {
        return Err(Error::new(Kind::Input, "holds no frames of a video").in_file(folder));
    }
    Ok(())
}

/// Makes subjects of files, beside the computation of others.
pub struct Loader<'a> {
    pub assistant: &'a Assistant,
    /// Frames a second, where one is taken for each.
    pub fps: Option<f64>,
    pub aspect: Option<Aspect>,
    pub reading: Reading,
}

impl Loader<'_> {
    /// Decodes a subject.
    pub fn load(&self, named: &Named) -> Result<ScoreSubject> {
        match named {
            Named::Picture(path) => self.picture(path).map(ScoreSubject::Picture),
            Named::Animation(path) => {
                let frames = self.assistant.animation(path, self.aspect, self.reading)?;
                Ok(ScoreSubject::Clip(frames))
            }
            Named::Clip(_, frames) => {
                let frames = chosen(frames, self.fps);
                let frames = frames.into_iter().map(|frame| self.picture(frame));
                frames.collect::<Result<_>>().map(ScoreSubject::Clip)
            }
            Named::Nothing => Ok(ScoreSubject::Clip(Vec::new())),
        }
    }

    /// Decodes a picture, and says what its file lacks.
    pub fn picture(&self, path: &Path) -> Result<Source> {
        let source = Source::File(path.to_owned());
        let pixels = self
            .assistant
            .pixels_beside(&source, self.aspect, self.reading)?;
        if let Some(damage) = pixels.damage() {
            progress::say(&format!("owl2: {}: {damage}\n", path.display()));
        }
        Ok(Source::Pixels(pixels))
    }
}

/// The frames that count at this rate; the first where there is less than a second.
fn chosen(frames: &[PathBuf], fps: Option<f64>) -> Vec<&Path> {
    let Some(fps) = fps else {
        return frames.iter().map(PathBuf::as_path).collect();
    };
    let indices = clip::one_a_second(frames.len(), fps);
    match indices.is_empty() {
        true => frames.iter().take(1).map(PathBuf::as_path).collect(),
        false => indices
            .iter()
            .map(|&index| frames[index].as_path())
            .collect(),
    }
}
