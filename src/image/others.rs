//! The formats that the `image` crate decodes: WebP, BMP, TIFF and QOI.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::qoi::QoiDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageError, ImageResult};

use super::Picture;
use super::decode::{Task, damaged, zeros};
use super::orientation::tiff_number;
use super::samples::{Depth, SampleLayout};
use super::sniff::ImageFormat;
use crate::error::{Error, Result};

/// What decoders hold beside pixels.
const HELD: u64 = 1 << 20;

/// Decodes a WebP file; of an animation the first frame.
pub(super) fn webp(task: &Task<'_>) -> Result<Picture> {
    decode(
        ImageFormat::WebP,
        task,
        WebPDecoder::new(Cursor::new(task.bytes)),
    )
}

/// Decodes a BMP file.
pub(super) fn bmp(task: &Task<'_>) -> Result<Picture> {
    check_bmp(task.bytes)?;
    decode(
        ImageFormat::Bmp,
        task,
        BmpDecoder::new(Cursor::new(task.bytes)),
    )
}

/// Decodes the first picture of a TIFF file.
pub(super) fn tiff(task: &Task<'_>) -> Result<Picture> {
    check_tiff(task.bytes)?;
    decode(
        ImageFormat::Tiff,
        task,
        TiffDecoder::new(Cursor::new(task.bytes)),
    )
}

/// Decodes a QOI file.
pub(super) fn qoi(task: &Task<'_>) -> Result<Picture> {
    decode(
        ImageFormat::Qoi,
        task,
        QoiDecoder::new(Cursor::new(task.bytes)),
    )
}

fn decode(
    format: ImageFormat,
    task: &Task<'_>,
    decoder: ImageResult<impl ImageDecoder>,
) -> Result<Picture> {
    let failed = |e: ImageError| match (format, &e) {
        (ImageFormat::Tiff, ImageError::Unsupported(_)) => {
            unsupported_tiff("its kind of pixels or compression").caused_by(e)
        }
        _ => damaged(format, &e).caused_by(e),
    };
    let mut decoder = decoder.map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    let color = decoder.color_type();
    let samples = decoder.total_bytes();
    let per_pixel = |bytes: u64| {
        bytes
            .saturating_mul(width as u64)
            .saturating_mul(height as u64)
    };
    // What is held at once, by reading the decoders and by `tests/program/image_memory.rs`.
    let working = match format {
        // The frame as 32-bit pixels, or its planes and those of alpha; an animation's canvas too.
        ImageFormat::WebP if task.is_animated_webp() => per_pixel(16),
        ImageFormat::WebP => per_pixel(12),
        // The picture once more, and a strip of it, which may be all.
        ImageFormat::Tiff => samples.max(per_pixel(4)).saturating_mul(3),
        _ => samples,
    };
    let working = working.saturating_add(HELD);
    task.admit(width, height, working)?;
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(working);
    decoder.set_limits(limits).map_err(failed)?;
    let layout = layout(format, task.bytes, color, decoder.original_color_type());
    let layout = layout.ok_or_else(|| {
        damaged(
            format,
            format!("pixels of type {color:?} are not supported"),
        )
    })?;
    let mut samples = zeros(samples)?;
    decoder.read_image(&mut samples).map_err(failed)?;
    layout.picture(task.reading, width, height, samples)
}

/// How the decoder gives pixels. 16-bit samples are in the machine's byte order.
fn layout(
    format: ImageFormat,
    bytes: &[u8],
    color: ColorType,
    stored: ExtendedColorType,
) -> Option<SampleLayout> {
    /// What the fourth channel of a TIFF file is: 1 for alpha that colours are multiplied by.
    const EXTRA_SAMPLES: u32 = 338;
    let (channels, depth) = match color {
        ColorType::L8 => (1, Depth::Eight),
        ColorType::La8 => (2, Depth::Eight),
        ColorType::Rgb8 => (3, Depth::Eight),
        ColorType::Rgba8 => (4, Depth::Eight),
        ColorType::L16 => (1, Depth::SixteenNative),
        ColorType::La16 => (2, Depth::SixteenNative),
        ColorType::Rgb16 => (3, Depth::SixteenNative),
        ColorType::Rgba16 => (4, Depth::SixteenNative),
        _ => return None,
    };
    Some(SampleLayout {
        channels,
        depth,
        is_clipped: format == ImageFormat::Tiff && stored == ExtendedColorType::L16,
        is_premultiplied: format == ImageFormat::Tiff
            && tiff_number(bytes, EXTRA_SAMPLES) == Some(1),
    })
}

/// Refuses BMP files whose pixels would be read out of their own headers.
fn check_bmp(bytes: &[u8]) -> Result<()> {
    const FILE_HEADER: u64 = 14;
    let number = |at: usize, len: usize| {
        let bytes = bytes.get(at..at + len).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    };
    let (offset, header) = (number(10, 4), number(14, 4));
    // Older headers do not say how many colours there are.
    let palette = match (number(28, 2), header) {
        (bits @ 1..=8, 40..) => 4 * number(46, 4).min(1 << bits),
        _ => 0,
    };
    match offset < FILE_HEADER + header + palette {
        true => Err(damaged(
            ImageFormat::Bmp,
            "its pixels begin inside of its headers",
        )),
        false => Ok(()),
    }
}

/// The error for a TIFF file that has something that is not supported.
fn unsupported_tiff(what: &str) -> Error {
    damaged(
        ImageFormat::Tiff,
        format!("{what} is not supported; `magick 'IN[0]' OUT.png` converts it"),
    )
}

/// Refuses TIFF files that would be decoded into something else than what they show.
fn check_tiff(bytes: &[u8]) -> Result<()> {
    const KIND: u32 = 254;
    const COMPRESSION: u32 = 259;
    const PHOTOMETRIC: u32 = 262;
    const DNG_VERSION: u32 = 0xc612;
    let refused = |why: &str| Err(damaged(ImageFormat::Tiff, why));
    if tiff_number(bytes, DNG_VERSION).is_some() {
        return refused(
            "it is DNG (camera file); `exiftool -b -PreviewImage IN > OUT.jpg` makes a JPEG file of it",
        );
    }
    if tiff_number(bytes, KIND).is_some_and(|kind| kind & 1 == 1) {
        return refused(
            "its first picture is a small one of another, as in camera files; `exiftool -b -PreviewImage IN > OUT.jpg` may have the large one",
        );
    }
    match (
        tiff_number(bytes, COMPRESSION),
        tiff_number(bytes, PHOTOMETRIC),
    ) {
        (Some(2 | 3), _) => Err(unsupported_tiff("fax compression of group 3")),
        (Some(6 | 7), _) => Err(unsupported_tiff("JPEG inside of TIFF")),
        (_, Some(3)) => Err(unsupported_tiff("a palette")),
        _ => Ok(()),
    }
}
