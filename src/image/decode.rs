//! Picture files to 8-bit RGB, as Pillow's `Image.open(file).convert("RGB")` gives it.
//!
//! JPEG, PNG, WebP, GIF and BMP, told apart by their content. Alpha is dropped without
//! compositing, of an animation the first frame counts, 16-bit gray is clipped (not scaled) at
//! 255, other 16-bit values lose their low byte, colour profiles are not applied. Two formats come
//! out a little different: JPEG, whose decoders need not agree, by a few levels of 255, and BMP
//! files of 5 or 6 bits per channel, which Pillow rounds down, by one.
//!
//! The decoders are the `image` crate's, whose authors warn that some panic on malformed files:
//! [`decode`] is the one place that calls them, and catches that.

use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::catch_unwind;
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::{CHANNELS, Picture, gif};
use crate::error::{Error, Result};

/// What [`decode`] accepts.
const FORMATS: [ImageFormat; 5] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::WebP,
    ImageFormat::Gif,
    ImageFormat::Bmp,
];

/// What to do about the orientation that cameras note in a file's EXIF data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exif {
    /// Turn and mirror the picture upright.
    #[default]
    Apply,
    /// Take the pixels as they are stored, as the reference does.
    Ignore,
}

/// The largest files and pictures to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of a file in bytes.
    pub max_file_bytes: usize,
    /// Width times height in pixels. Decoding takes up to 11 bytes of memory per pixel at its
    /// peak, a decoded picture 3.
    pub max_pixels: usize,
}

impl Default for Limits {
    /// 64 MiB, and the 89 478 485 pixels (a quarter of a gigabyte at 3 bytes each) beyond which
    /// Pillow warns of a decompression bomb.
    fn default() -> Self {
        Limits {
            max_file_bytes: 64 << 20,
            max_pixels: (1 << 30) / 4 / 3,
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
pub fn open(path: &Path, exif: Exif, limits: &Limits) -> Result<Picture> {
    let bytes = read(path, limits)?;
    decode(&bytes, exif, limits).map_err(|e| e.in_file(path))
}

/// The bytes of a file, which may be a pipe, or a device without end.
fn read(path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io("cannot open the picture", path, e))?;
    let metadata = file
        .metadata()
        .map_err(|e| Error::io("cannot examine the picture", path, e))?;
    if metadata.is_dir() {
        return Err(Error::input("is a directory, wanted a picture").in_file(path));
    }
    limits
        .check_file(metadata.len())
        .map_err(|e| e.in_file(path))?;
    let mut bytes = Vec::new();
    file.take((limits.max_file_bytes as u64).saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("cannot read the picture", path, e))?;
    Ok(bytes)
}

/// Decodes the bytes of a picture file.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) where they are no picture of a supported format, damaged,
/// or larger than `limits`; [`Kind::Capacity`](crate::Kind::Capacity) where memory is short.
pub fn decode(bytes: &[u8], exif: Exif, limits: &Limits) -> Result<Picture> {
    limits.check_file(bytes.len() as u64)?;
    if bytes.is_empty() {
        return Err(Error::input("the file is empty, wanted a picture"));
    }
    let format = image::guess_format(bytes)
        .ok()
        .filter(|format| FORMATS.contains(format))
        .ok_or_else(|| {
            Error::input("is not a picture in a supported format: JPEG, PNG, WebP, GIF and BMP")
        })?;
    catch_unwind(|| match format {
        ImageFormat::Gif => gif::decode(bytes, limits),
        _ => decode_as(format, bytes, exif, limits),
    })
    .unwrap_or_else(|_| Err(damaged(format, "the decoder gave up on it")))
}

/// The error for a file that a decoder refuses.
pub(super) fn damaged(format: ImageFormat, why: impl std::fmt::Display) -> Error {
    Error::input(format!(
        "cannot be decoded as {}: {why}",
        format.to_mime_type()
    ))
}

fn decode_as(format: ImageFormat, bytes: &[u8], exif: Exif, limits: &Limits) -> Result<Picture> {
    let failed = |e: image::ImageError| damaged(format, &e).caused_by(e);
    if format == ImageFormat::Jpeg && !has_end_marker(bytes) {
        return Err(damaged(format, "the file is truncated"));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(decoder_limits(limits));
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    limits.check(width as usize, height as usize)?;
    let orientation = match exif {
        Exif::Apply => decoder.orientation().map_err(failed)?,
        Exif::Ignore => Orientation::NoTransforms,
    };
    let color = decoder.color_type();
    let mut samples = zeros(decoder.total_bytes())?;
    decoder.read_image(&mut samples).map_err(failed)?;
    let rgb = to_rgb(samples, color, is_gray_png(format, bytes)).ok_or_else(|| {
        damaged(
            format,
            format!("pixels of type {color:?} are not supported"),
        )
    })?;
    upright(width, height, rgb, orientation)
}

/// What a decoder may take for itself: up to 8 bytes per pixel, four channels of 16 bits.
fn decoder_limits(limits: &Limits) -> image::Limits {
    let mut decoder_limits = image::Limits::default();
    decoder_limits.max_alloc = Some((limits.max_pixels as u64).saturating_mul(8));
    decoder_limits
}

/// Whether an end marker follows the first scan of a JPEG file. The decoder makes up what is missing
/// of a truncated one, and half a photo should not be answered about as if it were whole; Pillow
/// refuses those too.
fn has_end_marker(bytes: &[u8]) -> bool {
    const MARKER: u8 = 0xff;
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    // Segments come first, such as one with a thumbnail that has an end marker of its own.
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        rest = match rest {
            [MARKER, START_OF_SCAN, scan @ ..] => {
                return scan.windows(2).any(|pair| pair == [MARKER, END_OF_IMAGE]);
            }
            [MARKER, MARKER, ..] => &rest[1..],
            [MARKER, _, high, low, ..] => {
                let segment_len = usize::from(u16::from_be_bytes([*high, *low]));
                rest.get(2 + segment_len..).unwrap_or_default()
            }
            [_, rest @ ..] => rest,
            [] => return false,
        };
    }
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

/// Whether this is a PNG file without an alpha channel of its own in gray, where the decoder
/// makes one of a transparent colour. The header chunk comes first and ends with the colour type.
fn is_gray_png(format: ImageFormat, bytes: &[u8]) -> bool {
    const COLOR_TYPE_OFFSET: usize = 25;
    format == ImageFormat::Png && bytes.get(COLOR_TYPE_OFFSET) == Some(&0)
}

/// Pillow's `convert("RGB")`, or `None` for a type that no supported format has. 16-bit samples
/// are in the machine's byte order.
fn to_rgb(samples: Vec<u8>, color: ColorType, is_gray_png: bool) -> Option<Vec<u8>> {
    let high = |low: u8, high: u8| (u16::from_ne_bytes([low, high]) >> 8) as u8;
    let clipped = |low: u8, high: u8| u16::from_ne_bytes([low, high]).min(255) as u8;
    Some(match color {
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => each_pixel(&samples, |[r, g, b, _]| [r, g, b]),
        ColorType::L8 => each_pixel(&samples, |[gray]| [gray; CHANNELS]),
        ColorType::La8 => each_pixel(&samples, |[gray, _]| [gray; CHANNELS]),
        ColorType::L16 => each_pixel(&samples, |[a, b]| [clipped(a, b); CHANNELS]),
        ColorType::La16 if is_gray_png => {
            each_pixel(&samples, |[a, b, _, _]| [clipped(a, b); CHANNELS])
        }
        ColorType::La16 => each_pixel(&samples, |[a, b, _, _]| [high(a, b); CHANNELS]),
        ColorType::Rgb16 => each_pixel(&samples, |[a, b, c, d, e, f]| {
            [high(a, b), high(c, d), high(e, f)]
        }),
        ColorType::Rgba16 => each_pixel(&samples, |[a, b, c, d, e, f, _, _]| {
            [high(a, b), high(c, d), high(e, f)]
        }),
        _ => return None,
    })
}

fn each_pixel<const BYTES: usize>(
    samples: &[u8],
    convert: impl Fn([u8; BYTES]) -> [u8; CHANNELS],
) -> Vec<u8> {
    let (pixels, _) = samples.as_chunks::<BYTES>();
    pixels.iter().flat_map(|&pixel| convert(pixel)).collect()
}

/// Turns and mirrors a picture as its EXIF data says.
fn upright(width: u32, height: u32, rgb: Vec<u8>, orientation: Orientation) -> Result<Picture> {
    if orientation == Orientation::NoTransforms {
        return Picture::from_rgb(width as usize, height as usize, rgb);
    }
    let stored = RgbImage::from_raw(width, height, rgb)
        .ok_or_else(|| Error::input("the picture has fewer pixels than it declares"))?;
    let mut picture = DynamicImage::ImageRgb8(stored);
    picture.apply_orientation(orientation);
    let picture = picture.into_rgb8();
    let (width, height) = picture.dimensions();
    Picture::from_rgb(width as usize, height as usize, picture.into_raw())
}
