//! Samples for every pixel from coarser components, as libjpeg's "fancy" upsampling makes them.

use super::frame::{Component, Frame};

/// How a component is brought to the size of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upsampling {
    /// Not at all.
    Copy,
    /// Twice the columns, from the two nearest samples, 3 to 1.
    Columns,
    /// Twice the rows, in the same way.
    Rows,
    /// Twice both.
    Both,
    /// Each sample so many times across and down.
    Repeat(usize, usize),
}

impl Upsampling {
    pub fn of(component: &Component, frame: &Frame) -> Self {
        let factors = (frame.max_h / component.h, frame.max_v / component.v);
        // libjpeg's own bound.
        let is_wide = component.width > 2;
        match factors {
            (1, 1) => Upsampling::Copy,
            (2, 1) if is_wide => Upsampling::Columns,
            (1, 2) => Upsampling::Rows,
            (2, 2) if is_wide => Upsampling::Both,
            (h, v) => Upsampling::Repeat(h, v),
        }
    }

    /// Row `y` of the picture, from rows of the component.
    #[inline(always)]
    pub fn row<'a>(self, rows: impl Fn(usize) -> &'a [u8], y: usize, out: &mut [u8]) {
        // The row that this one lies in, and the next nearest.
        let near = |y: usize| (rows(y / 2), rows(neighbour(y)));
        match self {
            Upsampling::Copy => {
                let row = rows(y);
                out[..row.len()].copy_from_slice(row);
            }
            Upsampling::Columns => columns(rows(y), out),
            Upsampling::Rows => {
                let (row, other) = near(y);
                let round = 1 + (y % 2) as u16;
                for (out, (&a, &b)) in out.iter_mut().zip(row.iter().zip(other)) {
                    *out = ((3 * u16::from(a) + u16::from(b) + round) >> 2) as u8;
                }
            }
            Upsampling::Both => {
                let (row, other) = near(y);
                both(row, other, out);
            }
            Upsampling::Repeat(h, v) => {
                for (out, &sample) in out.chunks_mut(h).zip(rows(y / v)) {
                    out.fill(sample);
                }
            }
        }
    }
}

/// Of the rows of a component that has half of them, the second nearest to row `y` of the picture.
/// One beyond the last is for the caller to bring back.
fn neighbour(y: usize) -> usize {
    match y % 2 {
        0 => (y / 2).saturating_sub(1),
        _ => y / 2 + 1,
    }
}

/// Twice as many columns.
#[inline(always)]
fn columns(row: &[u8], out: &mut [u8]) {
    let at = |i: usize| u16::from(row[i]);
    let last = row.len() - 1;
    let (pairs, _) = out.as_chunks_mut::<2>();
    pairs[0] = [row[0], ((3 * at(0) + at(1) + 2) >> 2) as u8];
    for (pair, near) in pairs[1..last].iter_mut().zip(row.windows(3)) {
        let (before, this, after) = (u16::from(near[0]), u16::from(near[1]), u16::from(near[2]));
        *pair = [
            ((3 * this + before + 1) >> 2) as u8,
            ((3 * this + after + 2) >> 2) as u8,
        ];
    }
    pairs[last] = [((3 * at(last) + at(last - 1) + 1) >> 2) as u8, row[last]];
}

/// Twice as many columns of a row between `row` and `other`.
#[inline(always)]
fn both(row: &[u8], other: &[u8], out: &mut [u8]) {
    let sum = |i: usize| three_to_one(row[i], other[i]);
    let last = row.len() - 1;
    let (pairs, _) = out.as_chunks_mut::<2>();
    pairs[0] = [
        ((4 * sum(0) + 8) >> 4) as u8,
        ((3 * sum(0) + sum(1) + 7) >> 4) as u8,
    ];
    let near = row.windows(3).zip(other.windows(3));
    for (pair, (row, other)) in pairs[1..last].iter_mut().zip(near) {
        let before = three_to_one(row[0], other[0]);
        let this = three_to_one(row[1], other[1]);
        let after = three_to_one(row[2], other[2]);
        *pair = [
            ((3 * this + before + 8) >> 4) as u8,
            ((3 * this + after + 7) >> 4) as u8,
        ];
    }
    pairs[last] = [
        ((3 * sum(last) + sum(last - 1) + 8) >> 4) as u8,
        ((4 * sum(last) + 7) >> 4) as u8,
    ];
}

/// Four times what lies between two samples, nearer to the first.
#[inline(always)]
fn three_to_one(a: u8, b: u8) -> u16 {
    3 * u16::from(a) + u16::from(b)
}
