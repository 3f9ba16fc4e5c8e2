//! Pillow's bicubic resampling, bit for bit.
//!
//! A target pixel is a weighted sum of source pixels along one axis: the horizontal pass comes
//! first, its result is rounded to 8 bits, then the vertical pass follows. Weights are computed in
//! 64-bit floats and rounded to 22-bit fixed point (Pillow's `Resample.c`), so that sums are exact
//! and the order of work, or the number of threads, cannot change a bit.
//!
//! Sources are [`RowSource`], made one at a time, and targets may be a region of the resized picture:
//! nothing of the size of an enlarged intermediate picture is ever held.

use std::ops::Range;

use super::decode::zeros;
use super::{CHANNELS, Picture, wide};
use crate::error::Result;
use crate::threads;

/// Fraction bits of a weight: Pillow's `PRECISION_BITS`.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// What sums start from, so that the final shift rounds.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Rows of an 8-bit RGB picture that need not exist as a whole.
pub(super) trait RowSource: Sync {
    /// Width in pixels.
    fn width(&self) -> usize;
    /// Height in pixels.
    fn height(&self) -> usize;
    /// Row `y`: `[width, 3]`, either borrowed or computed into `scratch`.
    fn row<'a>(&'a self, y: usize, scratch: &'a mut RowScratch) -> &'a [u8];
}

/// Buffers of one worker for rows that are computed.
#[derive(Default)]
pub(super) struct RowScratch {
    /// The row.
    pub(super) row: Vec<u8>,
    /// Sums of [`Axis::vertical`].
    pub(super) sums: Vec<i32>,
}

impl RowSource for Picture {
    fn width(&self) -> usize {
        self.width
    }

    fn height(&self) -> usize {
        self.height
    }

    fn row<'a>(&'a self, y: usize, _: &'a mut RowScratch) -> &'a [u8] {
        self.row(y)
    }
}

/// The weights of resampling along one axis, for a range of target positions.
pub(super) struct Axis {
    windows: Vec<Window>,
    weights: Vec<i32>,
}

/// Which source positions make a target position.
struct Window {
    start: usize,
    weights: Range<usize>,
}

impl Axis {
    /// Weights of the positions `targets` where `source_len` pixels become `target_len`.
    pub(super) fn new(source_len: usize, target_len: usize, targets: Range<usize>) -> Self {
        let mut axis = Axis {
            windows: Vec::with_capacity(targets.len()),
            weights: Vec::new(),
        };
        if source_len == target_len {
            // Pillow skips the pass. One weight of 1 copies the pixel.
            for target in targets {
                axis.push(target, [1.0]);
            }
            return axis;
        }
        let scale = source_len as f64 / target_len as f64;
        let filter_scale = scale.max(1.0);
        let support = 2.0 * filter_scale;
        for target in targets {
            let center = (target as f64 + 0.5) * scale;
            // Float to integer conversion truncates, and saturates at 0.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(source_len);
            let weight = |j: usize| bicubic((j as f64 - center + 0.5) * (1.0 / filter_scale));
            let sum: f64 = (start..end).map(weight).sum();
            axis.push(start, (start..end).map(|j| weight(j) / sum));
        }
        axis
    }

    fn push(&mut self, start: usize, weights: impl IntoIterator<Item = f64>) {
        let first = self.weights.len();
        self.weights.extend(weights.into_iter().map(fixed_point));
        self.windows.push(Window {
            start,
            weights: first..self.weights.len(),
        });
    }

    /// Number of target positions.
    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Source positions that any target position needs.
    fn sources(&self) -> Range<usize> {
        match (self.windows.first(), self.windows.last()) {
            (Some(first), Some(last)) => first.start..last.start + last.weights.len(),
            _ => 0..0,
        }
    }

    /// Resamples a row: `row: [source_len, 3]`, `out: [len, 3]`.
    pub(super) fn horizontal(&self, row: &[u8], out: &mut [u8]) {
        let (row, _) = row.as_chunks::<CHANNELS>();
        let (out, _) = out.as_chunks_mut::<CHANNELS>();
        for (window, out) in self.windows.iter().zip(out) {
            let mut sums = [HALF; CHANNELS];
            let weights = &self.weights[window.weights.clone()];
            for (pixel, weight) in row[window.start..].iter().zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            *out = sums.map(round);
        }
    }

    /// Resamples across rows: target row `index` into `out`, from the rows that `row` returns.
    pub(super) fn vertical<'a>(
        &self,
        index: usize,
        row: impl Fn(usize) -> &'a [u8],
        sums: &mut Vec<i32>,
        out: &mut [u8],
    ) {
        let window = &self.windows[index];
        sums.clear();
        sums.resize(out.len(), HALF);
        for (y, weight) in (window.start..).zip(&self.weights[window.weights.clone()]) {
            let row = row(y);
            wide(
                #[inline(always)]
                || {
                    for (sum, &value) in sums.iter_mut().zip(row) {
                        *sum += i32::from(value) * weight;
                    }
                },
            );
        }
        wide(
            #[inline(always)]
            || {
                for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                    *out = round(sum);
                }
            },
        );
    }
}

/// Resamples `source` to the target positions of the two axes: `[rows, columns, 3]`.
///
/// # Errors
/// [`Kind::Capacity`](crate::Kind::Capacity) where memory is short.
pub(super) fn resize(source: &dyn RowSource, columns: &Axis, rows: &Axis) -> Result<Vec<u8>> {
    let needed = rows.sources();
    let row_len = columns.len() * CHANNELS;
    let mut narrowed = zeros((needed.len() * row_len) as u64)?;
    threads::for_each(
        narrowed.chunks_mut(row_len).enumerate(),
        RowScratch::default,
        |scratch, (i, out)| {
            columns.horizontal(source.row(needed.start + i, scratch), out);
        },
    );

    let mut resized = zeros((rows.len() * row_len) as u64)?;
    threads::for_each(
        resized.chunks_mut(row_len).enumerate(),
        Vec::new,
        |sums, (i, out)| {
            let row = |y: usize| &narrowed[(y - needed.start) * row_len..][..row_len];
            rows.vertical(i, row, sums, out);
        },
    );
    Ok(resized)
}

/// The cubic convolution kernel with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn fixed_point(weight: f64) -> i32 {
    let half = if weight < 0.0 { -0.5 } else { 0.5 };
    (weight * f64::from(1 << WEIGHT_BITS) + half) as i32
}

#[inline(always)]
fn round(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, value: impl Fn(usize) -> u8) -> Picture {
        let rgb = (0..width * height * CHANNELS).map(value).collect();
        Picture::from_rgb(width, height, rgb).unwrap()
    }

    fn resized(source: &Picture, width: usize, height: usize) -> Vec<u8> {
        resize(
            source,
            &Axis::new(source.width, width, 0..width),
            &Axis::new(source.height, height, 0..height),
        )
        .unwrap()
    }

    #[test]
    fn gives_pillows_values() {
        // Image.fromarray(pixels).resize((7, 2) and (2, 5), Image.BICUBIC), Pillow 10.0.1.
        let source = picture(4, 3, |i| (i * 89 % 256) as u8);
        assert_eq!(
            resized(&source, 7, 2),
            [
                13, 102, 201, 17, 106, 205, 24, 113, 212, 31, 120, 219, 37, 126, 225, 44, 133, 232,
                48, 137, 236, 73, 162, 85, 77, 166, 89, 84, 173, 96, 91, 180, 103, 97, 186, 109,
                104, 193, 116, 108, 197, 120
            ]
        );
        assert_eq!(
            resized(&source, 2, 5),
            [
                3, 92, 181, 24, 113, 202, 19, 108, 209, 40, 129, 230, 50, 139, 228, 71, 160, 249,
                81, 170, 92, 102, 191, 113, 97, 186, 0, 118, 207, 21
            ]
        );
    }

    #[test]
    fn copies_at_the_same_size_and_keeps_one_color() {
        let noise = picture(5, 7, |i| (i * 131 % 251) as u8);
        assert_eq!(resized(&noise, 5, 7), noise.rgb());
        let plain = picture(9, 4, |_| 200);
        for (width, height) in [(1, 1), (3, 9), (40, 2), (9, 11)] {
            assert!(resized(&plain, width, height).iter().all(|&v| v == 200));
        }
    }

    #[test]
    fn a_region_is_a_piece_of_the_whole() {
        let source = picture(11, 17, |i| (i * 37 % 255) as u8);
        for (width, height) in [(30, 6), (4, 40), (11, 17)] {
            let whole = picture(width, height, |i| resized(&source, width, height)[i]);
            let (columns, rows) = (1..width - 1, 2..height - 2);
            let region = resize(
                &source,
                &Axis::new(11, width, columns.clone()),
                &Axis::new(17, height, rows.clone()),
            )
            .unwrap();
            for (row, y) in region.chunks_exact(columns.len() * CHANNELS).zip(rows) {
                let wanted = &whole.row(y)[columns.start * CHANNELS..columns.end * CHANNELS];
                assert_eq!(row, wanted, "row {y} of {width}x{height}");
            }
        }
    }
}
