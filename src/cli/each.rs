//! The same question about each of many pictures.

mod asked;
mod pictures;
mod told;

use std::path::Path;

use crate::cli::ahead::Ahead;
use crate::cli::args::AskArgs;
use crate::cli::cache::CacheFile;
use crate::cli::setup::Checked;
use crate::cli::{ask, progress, together};
use crate::engine::{Engine, StepLimits};
use crate::error::{Error, Kind, Result};
use crate::image::{self, FORMATS, FileContent};
use crate::request::Assistant;
use crate::reuse::PromptCache;
use asked::Asked;
pub(super) use pictures::Pictures;
use told::Told;

/// Decoded pictures that wait for the one that is computed.
const WAITING: usize = 2;

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

/// Asks `text` about each picture of `--each`, one after the other, while the next ones are decoded. One
/// that cannot be used is reported, and the rest go on.
pub(super) fn run(
    args: &AskArgs,
    checked: &Checked,
    assistant: &Assistant,
    text: &str,
) -> Result<()> {
    let request = ask::request(args, checked, assistant, text, 1)?;
    let mut memory = PromptCache::new();
    let cache = CacheFile::open(args, assistant, &mut memory)?;
    let mut engine = Engine::new(assistant, StepLimits::for_throughput(1)).with_memory(memory);
    let ahead = Ahead::in_order(assistant, Asked::new(args, assistant, &request));
    let told = ahead.run(WAITING, |prepared, _| {
        let mut told = Told::new(args, assistant, &request.sampling, prepared);
        together::compute(&mut engine, &mut told)?;
        Ok((told.is_read, told.n, told.n_failed))
    });
    let (is_read, n, n_failed) = told?;
    if !is_read {
        return Ok(());
    }
    cache.save(&engine.into_memory())?;
    let left_out = ahead.into_feed().pictures.left_out;
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
