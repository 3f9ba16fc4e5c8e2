//! PNG files, a row at a time.
//!
//! Done on the `png` crate rather than through `image`, which holds colour profiles and texts,
//! compressed to next to nothing in the file, and more copies of the picture.

use std::io::Cursor;

use ::png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::decode::{Task, damaged, zeros};
use super::samples::{Depth, SampleLayout};
use super::sniff::ImageFormat;
use super::{CHANNELS, Picture};
use crate::error::{Error, Result};

/// Rows that the decoder holds at its peak: two were seen, and its buffer may double as it grows.
const ROWS_HELD: u64 = 4;

/// What the decoder holds beside rows.
const HELD: u64 = 1 << 20;

/// Decodes the picture of a file; of an animation the still one.
pub(super) fn picture(task: &Task<'_>) -> Result<Picture> {
    let mut decoder = Decoder::new(Cursor::new(task.bytes));
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(failed)?;
    let (width, height) = (header.width as usize, header.height as usize);
    let is_gray = header.color_type == ColorType::Grayscale;
    let is_interlaced = header.interlaced;
    let row_bytes = row_bytes(width, header.bits_per_pixel());
    // Four channels of 16 bits at most where a row or a picture is expanded.
    let expanded = 8 * width as u64;
    let whole = match is_interlaced {
        true => expanded.saturating_mul(height as u64),
        false => expanded,
    };
    let held = ROWS_HELD.saturating_mul(row_bytes).saturating_add(HELD);
    let working = whole.saturating_add(held);
    task.admit(width, height, working)?;
    decoder.set_limits(Limits {
        bytes: usize::try_from(working).unwrap_or(usize::MAX),
    });

    let mut reader = decoder.read_info().map_err(failed)?;
    let (color, depth) = reader.output_color_type();
    let channels = match color {
        ColorType::Grayscale => 1,
        ColorType::GrayscaleAlpha => 2,
        ColorType::Rgb => 3,
        ColorType::Rgba => 4,
        ColorType::Indexed => return Err(damaged(ImageFormat::Png, "it has no palette")),
    };
    let layout = SampleLayout {
        channels,
        depth: match depth {
            BitDepth::Sixteen => Depth::SixteenBig,
            _ => Depth::Eight,
        },
        // Without a channel of alpha in the file, where a transparent colour makes one.
        is_clipped: is_gray,
        is_premultiplied: false,
    };
    if is_interlaced {
        let len = (layout.bytes() * width) as u64 * height as u64;
        let mut samples = zeros(len)?;
        reader.next_frame(&mut samples).map_err(failed)?;
        return layout.picture(task.reading, width, height, samples);
    }
    let mut rgb = zeros(width as u64 * height as u64 * CHANNELS as u64)?;
    for out in rgb.chunks_exact_mut(width * CHANNELS) {
        let row = reader.next_row().map_err(failed)?;
        let row = row.ok_or_else(|| damaged(ImageFormat::Png, "the file is truncated"))?;
        layout.convert(task.reading, row.data(), out);
    }
    Picture::from_rgb(width, height, rgb)
}

fn row_bytes(width: usize, bits_per_pixel: usize) -> u64 {
    (width as u64 * bits_per_pixel as u64).div_ceil(8) + 1
}

fn failed(error: DecodingError) -> Error {
    damaged(ImageFormat::Png, &error).caused_by(error)
}
