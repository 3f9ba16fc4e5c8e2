//! Pillow's bicubic resampling, bit for bit.
//!
//! A target pixel is a weighted sum of source pixels along one axis: the horizontal pass comes
//! first, its result is rounded to 8 bits, then the vertical pass follows. Weights are computed in
//! 64-bit floats and rounded to 22-bit fixed point (Pillow's `Resample.c`), so that sums are exact
//! and the order of work, or the number of threads, cannot change a bit.
//!
//! Sources are [`Rows`], made one at a time, and targets may be a region of the resized picture:
//! nothing of the size of an enlarged intermediate picture is ever held.

use std::ops::Range;

use rayon::prelude::*;

use super::{CHANNELS, Picture};

/// Fraction bits of a weight: Pillow's `PRECISION_BITS`.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// What sums start from, so that the final shift rounds.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Rows of an 8-bit RGB picture that need not exist as a whole.
pub(super) trait Rows: Sync {
    /// Width in pixels.
    fn width(&self) -> usize;
    /// Height in pixels.
    fn height(&self) -> usize;
    /// Row `y`: `[width, 3]`, either borrowed or computed into `scratch`.
    fn row<'a>(&'a self, y: usize, scratch: &'a mut Scratch) -> &'a [u8];
}

/// Buffers of one worker for rows that are computed.
#[derive(Default)]
pub(super) struct Scratch {
    /// The row.
    pub(super) row: Vec<u8>,
    /// Sums of [`Axis::vertical`].
    pub(super) sums: Vec<i32>,
}

impl Rows for Picture {
    fn width(&self) -> usize {
        self.width
    }

    fn height(&self) -> usize {
        self.height
    }

    fn row<'a>(&'a self, y: usize, _: &'a mut Scratch) -> &'a [u8] {
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
            for (sum, &value) in sums.iter_mut().zip(row(y)) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, &sum) in out.iter_mut().zip(sums.iter()) {
            *out = round(sum);
        }
    }
}

/// Resamples `source` to the target positions of the two axes: `[rows, columns, 3]`.
pub(super) fn resize(source: &dyn Rows, columns: &Axis, rows: &Axis) -> Vec<u8> {
    let needed = rows.sources();
    let row_len = columns.len() * CHANNELS;
    let mut narrowed = vec![0; needed.len() * row_len];
    narrowed.par_chunks_mut(row_len).enumerate().for_each_init(
        Scratch::default,
        |scratch, (i, out)| {
            columns.horizontal(source.row(needed.start + i, scratch), out);
        },
    );

    let mut resized = vec![0; rows.len() * row_len];
    resized
        .par_chunks_mut(row_len)
        .enumerate()
        .for_each_init(Vec::new, |sums, (i, out)| {
            let row = |y: usize| &narrowed[(y - needed.start) * row_len..][..row_len];
            rows.vertical(i, row, sums, out);
        });
    resized
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

fn round(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}
