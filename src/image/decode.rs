//! Picture files to 8-bit RGB.
//!
//! What a file is, is told by its content ([`sniff`](super::sniff)). Its headers say how much
//! memory decoding takes, which is asked for before any of it is used. [`Reading`] says what
//! becomes of transparency, 16-bit samples and orientation. Of an animation the first frame counts;
//! colour profiles are not applied.
//!
//! JPEG is decoded here ([`jpeg`]), PNG and GIF by the crates of these names, JPEG XL by `jxl-oxide`,
//! the rest by the `image` crate. Some decoders panic on malformed files: [`decode`] is the one place that calls
//! them, and catches that.

use std::fs;
use std::io::Read;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::orientation::Orientation;
use super::sniff::{self, FORMATS, FileContent, ImageFormat};
use super::{CHANNELS, Picture, gif, jpeg, jxl, others, png};
use crate::capacity::{self, Promise};
use crate::error::{Error, Result};
use crate::files;

/// What becomes of the parts of a file that are no plain 8-bit pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// As people see it: turned upright as EXIF or XMP data says, transparency on white, 16-bit
    /// samples scaled to 8.
    #[default]
    Shown,
    /// The same, but not turned.
    Unturned,
    /// As the reference sees it, by Pillow's `Image.open(file).convert("RGB")`: not turned but
    /// for TIFF, the colours below transparency as they are, 16-bit gray clipped at 255.
    Reference,
}

/// The largest files and pictures to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of a file in bytes.
    pub max_file_bytes: usize,
    /// Width times height in pixels. A decoded picture takes 3 bytes for each; `docs/pictures.md`
    /// says what decoding takes. Where the machine has less, pictures are refused before.
    pub max_pixels: usize,
}

impl Default for Limits {
    /// 256 MiB, and 2^28 pixels: the photos of the largest phone cameras have 200 million.
    fn default() -> Self {
        Limits {
            max_file_bytes: 256 << 20,
            max_pixels: 1 << 28,
        }
    }
}

impl Limits {
    /// Fails unless a picture of this size has pixels, and not too many.
    pub(super) fn check(&self, width: usize, height: usize) -> Result<()> {
        match width.checked_mul(height) {
            Some(0) => Err(Error::input(format!(
                "the picture has no pixels: it is {width}x{height}"
            ))),
            Some(n) if n <= self.max_pixels => Ok(()),
            _ => Err(Error::input(format!(
                "the picture has {width}x{height} pixels, more than the limit of {}; shrink it",
                self.max_pixels
            ))),
        }
    }

    fn check_file(&self, bytes: u64) -> Result<()> {
        if bytes <= self.max_file_bytes as u64 {
            return Ok(());
        }
        Err(Error::input(format!(
            "the file is larger than the limit of {} bytes for pictures",
            self.max_file_bytes
        )))
    }
}

/// Reads and decodes the picture file at `path`.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io) where the file cannot be read, else as [`decode`]; all name it.
/// A named pipe or a device is not opened, unless the path names one that this process has open
/// (`/dev/stdin`, `/dev/fd/3`).
pub fn open(path: &Path, reading: Reading, limits: &Limits) -> Result<Picture> {
    let picture = read(path, limits).and_then(|bytes| decode(&bytes, reading, limits));
    picture.map_err(|e| e.in_file(path))
}

/// What the file at `path` is, by its content; `None` where it is no regular file.
#[cfg(feature = "cli")]
pub(crate) fn content(path: &Path) -> Result<Option<FileContent>> {
    let failed = |e| Error::io("cannot read", path, e);
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Ok(None);
    }
    let mut head = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(sniff::HEAD as u64).read_to_end(&mut head))
        .map_err(failed)?;
    Ok(Some(sniff::content(&head)))
}

/// The bytes of a file.
pub(super) fn read(path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    let failed = |doing, e| Error::io(doing, path, e);
    // Before it is opened: opening a named pipe waits until somebody writes to it.
    let metadata = fs::metadata(path).map_err(|e| failed("cannot open the picture", e))?;
    if metadata.is_dir() {
        return Err(Error::input("is a directory, expected a picture"));
    }
    if !metadata.is_file() && !files::is_descriptor(path) {
        return Err(Error::input(format!(
            "is {}, expected a picture in a file; standard input is `-`",
            files::what_it_is(&metadata)
        )));
    }
    limits.check_file(metadata.len())?;
    read_file(files::open_argument(path)?, path, metadata.len(), limits)
}

/// The bytes of a picture file, or one more than `limits` allows of a longer one. `len` is how
/// many there seem to be, `name` is for errors.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io) where the system refuses, [`Kind::Capacity`](crate::Kind::Capacity)
/// where memory is short: it is asked for as the file turns out to need it, since a pipe has no
/// size.
pub(crate) fn read_file(
    mut file: impl Read,
    name: &Path,
    len: u64,
    limits: &Limits,
) -> Result<Vec<u8>> {
    const LEAST: usize = 1 << 16;
    // One more, to see the end.
    let first = usize::try_from(len.saturating_add(1)).unwrap_or(usize::MAX);
    let first = first.max(LEAST);
    let most = limits.max_file_bytes.saturating_add(1);
    let mut bytes = Vec::new();
    loop {
        // Twice as much each time, and both are held while the one is copied to the other.
        let more = bytes.len().max(first).min(most - bytes.len());
        let _promise = capacity::hold((bytes.len() + more) as u64).map_err(|short| {
            Error::capacity(format!("the file of the picture takes {short}")).in_file(name)
        })?;
        if bytes.try_reserve_exact(more).is_err() {
            return Err(Error::capacity("no memory for the file of the picture").in_file(name));
        }
        let n = file
            .by_ref()
            .take(more as u64)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("cannot read", name, e))?;
        if n < more || bytes.len() >= most {
            return Ok(bytes);
        }
    }
}

/// Decodes the bytes of a picture file.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) where they are no picture of a supported format, damaged,
/// or larger than `limits`; [`Kind::Capacity`](crate::Kind::Capacity) where memory is short.
pub fn decode(bytes: &[u8], reading: Reading, limits: &Limits) -> Result<Picture> {
    limits.check_file(bytes.len() as u64)?;
    let format = format_of(bytes)?;
    let orientation = match reading {
        Reading::Shown => Orientation::of_file(format, bytes),
        // Pillow turns TIFF files as it loads them, and no others.
        Reading::Reference if format == ImageFormat::Tiff => Orientation::of_file(format, bytes),
        Reading::Unturned | Reading::Reference => Orientation::default(),
    };
    let task = Task {
        bytes,
        reading,
        limits,
        is_turned: !orientation.is_upright(),
        promise: Mutex::default(),
    };
    let mut picture = catch_unwind(|| match format {
        ImageFormat::Jpeg => jpeg::picture(&task),
        ImageFormat::Png => png::picture(&task),
        ImageFormat::Gif => gif::picture(&task),
        ImageFormat::WebP => others::webp(&task),
        ImageFormat::Bmp => others::bmp(&task),
        ImageFormat::Tiff => others::tiff(&task),
        ImageFormat::Qoi => others::qoi(&task),
        ImageFormat::Jxl => jxl::picture(&task),
    })
    .unwrap_or_else(|_| Err(damaged(format, "the decoder gave up on it")))?;
    let damage = picture.damage.take();
    let mut picture = orientation.apply(picture)?;
    picture.damage = damage;
    Ok(picture)
}

/// The format of a picture, or what the file is instead.
fn format_of(bytes: &[u8]) -> Result<ImageFormat> {
    let what = match sniff::content(&bytes[..bytes.len().min(sniff::HEAD)]) {
        FileContent::Picture(format) => return Ok(format),
        FileContent::Foreign(foreign) => format!(
            "is {}, which cannot be read; `{}` converts it",
            foreign.name, foreign.command
        ),
        FileContent::Other(name) => format!("is not a picture: it is {name}"),
        FileContent::Unknown if bytes.is_empty() => "is empty, expected a picture".to_owned(),
        FileContent::Unknown => "is not a picture in a supported format".to_owned(),
    };
    Err(Error::input(format!("{what} (supported are {FORMATS})")))
}

/// A picture to decode.
pub(super) struct Task<'a> {
    pub bytes: &'a [u8],
    pub reading: Reading,
    limits: &'a Limits,
    is_turned: bool,
    /// The memory of what was admitted last: of several that decode at once, each counts with the others.
    promise: Mutex<Option<Promise>>,
}

impl Task<'_> {
    /// Fails unless a picture of this size is within the limits, and there is memory for it and for
    /// the `working` bytes that its decoder takes beside the pixels.
    pub fn admit(&self, width: usize, height: usize, working: u64) -> Result<()> {
        self.limits.check(width, height)?;
        let pixels = width as u64 * height as u64 * CHANNELS as u64;
        // A picture is turned into another after its decoder is done.
        let beside = working.max(if self.is_turned { pixels } else { 0 });
        let bytes = pixels.saturating_add(beside);
        let mut promise = self.promise.lock().unwrap_or_else(PoisonError::into_inner);
        // Where a decoder knows more, it asks again for all of it.
        *promise = None;
        *promise = capacity::hold(bytes).map_err(|short| {
            Error::capacity(format!(
                "the picture of {width}x{height} pixels takes {short}; shrink it"
            ))
        })?;
        Ok(())
    }

    /// Whether this is a WebP file whose header tells of an animation.
    pub fn is_animated_webp(&self) -> bool {
        const FLAG: u8 = 2;
        self.bytes.get(12..16) == Some(b"VP8X")
            && self.bytes.get(20).is_some_and(|flags| flags & FLAG != 0)
    }

    /// The most pixels to accept.
    pub fn max_pixels(&self) -> usize {
        self.limits.max_pixels
    }
}

/// The error for a file that a decoder refuses.
pub(super) fn damaged(format: ImageFormat, why: impl std::fmt::Display) -> Error {
    Error::input(format!("cannot be decoded as {format}: {why}"))
}

/// A buffer, or an error where there is no memory for it.
pub(super) fn zeros(len: u64) -> Result<Vec<u8>> {
    let short = || Error::capacity(format!("no memory for a picture of {len} bytes"));
    let len = usize::try_from(len).map_err(|_| short())?;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| short())?;
    buffer.resize(len, 0);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_to_the_end_or_to_the_limit() {
        let limits = Limits {
            max_file_bytes: 300_000,
            ..Limits::default()
        };
        let read = |file: &mut dyn Read, len| read_file(file, Path::new("x"), len, &limits);
        let bytes: Vec<u8> = (0..200_000).map(|i| i as u8).collect();
        for len in [0, 70_000, 200_000, u64::MAX] {
            assert_eq!(read(&mut &bytes[..], len).unwrap(), bytes, "{len}");
            let endless = read(&mut std::io::repeat(1), len).unwrap();
            assert_eq!(endless.len(), 300_001, "{len}");
        }
        assert!(read(&mut &[][..], 0).unwrap().is_empty());
    }

    #[test]
    fn memory_for_a_file_is_asked_for() {
        let limits = Limits {
            max_file_bytes: usize::MAX,
            ..Limits::default()
        };
        // More than any machine has, whatever the file holds.
        let error = read_file(&b"x"[..], Path::new("x.png"), 1 << 60, &limits).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Capacity);
        assert!(
            error.to_string().contains("x.png: the file of the picture"),
            "{error}"
        );
    }
}
