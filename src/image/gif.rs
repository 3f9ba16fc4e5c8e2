//! The first frame of a GIF file, as Pillow shows it.
//!
//! Done on the `gif` crate rather than through `image`, which gives transparent black where the
//! first frame does not cover the canvas: Pillow gives a colour of the palette there.

use std::num::NonZeroU64;

use ::gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::decode::{Reading, Task, damaged, zeros};
use super::sniff::ImageFormat;
use super::{CHANNELS, Picture};
use crate::error::Result;

const WHITE: [u8; CHANNELS] = [255; CHANNELS];

/// What the decoder holds beside the frame.
const HELD: u64 = 1 << 20;

/// Decodes the first frame on its canvas. What is transparent is white, or for the reference has its
/// palette colour.
pub(super) fn picture(task: &Task<'_>) -> Result<Picture> {
    let failed = |e: DecodingError| damaged(ImageFormat::Gif, &e).caused_by(e);
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    if let Some(max_bytes) = NonZeroU64::new(task.max_pixels() as u64) {
        options.set_memory_limit(MemoryLimit::Bytes(max_bytes));
    }
    let mut decoder = options.read_info(task.bytes).map_err(failed)?;
    let canvas = [decoder.width(), decoder.height()].map(usize::from);
    let Some(frame) = decoder.next_frame_info().map_err(failed)? else {
        return Err(damaged(ImageFormat::Gif, "it has no frame"));
    };
    let [left, top, frame_width, frame_height] =
        [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    let transparent = frame.transparent;
    let n_indices = frame_width as u64 * frame_height as u64;
    task.admit(frame_width, frame_height, 0)?;
    // Pillow widens a canvas that is smaller than its first frame.
    let width = canvas[0].max(left + frame_width);
    let height = canvas[1].max(top + frame_height);
    // The decoder may hold the frame once more.
    task.admit(width, height, 2 * n_indices + HELD)?;

    let mut indices = zeros(n_indices)?;
    decoder.read_into_buffer(&mut indices).map_err(failed)?;
    let palette = decoder.palette().map_err(failed)?.as_chunks::<CHANNELS>().0;
    let is_shown = task.reading != Reading::Reference;
    let color = |index: u8| match transparent {
        Some(transparent) if is_shown && index == transparent => WHITE,
        _ => palette.get(usize::from(index)).copied().unwrap_or_default(),
    };
    let around = match (transparent, is_shown) {
        // Nothing is there, and viewers show what is behind the picture.
        (_, true) => WHITE,
        (transparent, false) => color(transparent.unwrap_or(0)),
    };

    let mut rgb = zeros((width * height * CHANNELS) as u64)?;
    let (pixels, _) = rgb.as_chunks_mut::<CHANNELS>();
    pixels.fill(around);
    let rows = pixels.chunks_exact_mut(width).skip(top);
    for (row, indices) in rows.zip(indices.chunks_exact(frame_width)) {
        for (pixel, &index) in row[left..].iter_mut().zip(indices) {
            *pixel = color(index);
        }
    }
    Picture::from_rgb(width, height, rgb)
}
