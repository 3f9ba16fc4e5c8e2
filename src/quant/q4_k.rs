//! `Q4_K`: 256 values as nibbles, with a scale and a minimum for every 32 of them.
//!
//! ```text
//! byte 0       2           4                16                               144
//!      | scale | min_scale | packed_scales  | quants                        |
//!      |  F16  |    F16    | 8 + 8 six-bit  | 4 groups of 32 bytes          |
//!
//! packed_scales, bits 7..0; sN and mN are scale and minimum of sub-block N:
//!   byte j     (j = 0..4)   s(j+4)[5:4]  s(j)[5:0]
//!   byte j+4                m(j+4)[5:4]  m(j)[5:0]
//!   byte j+8                m(j+4)[3:0]  s(j+4)[3:0]
//!
//! quants, byte i of group g:  high nibble = value i of sub-block 2g+1, low nibble = of 2g
//!
//! value i of sub-block n = (scale * s(n)) * q - (min_scale * m(n))
//! ```

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use super::lanes::{
    Lanes, N_LANES, load, load_columns, n_registers, reciprocal, round_within, store, transpose,
};
use super::{QuantBlock, as_stored, f16_to_f32, f32_to_f16};

/// Values of a sub-block.
const SUB: usize = 32;
/// Sub-blocks of a block.
const N_SUBS: usize = 8;
/// The largest nibble.
const MAX_QUANT: f32 = 15.0;
/// The largest six-bit scale.
const MAX_SCALE: f32 = 63.0;
/// Blocks that are quantized together.
const AT_ONCE: usize = N_LANES / N_SUBS;
/// Spacings of nibbles that are tried on each sub-block. With twice as many of these, and of the
/// repeats and refits below, the error is 0.1% less and the time more than twice as long.
const N_SPACINGS: usize = 20;
/// By how much of a nibble more or less the range of the values is divided each time.
const SPACING_STEP: f32 = 0.1;
/// Times that the best line's own nibbles give another line.
const REPEATS: usize = 2;
/// Times that the 16-bit scales are fitted to the nibbles.
const REFITS: usize = 2;

/// 256 values of `Q4_K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4K {
    /// What the scales of the sub-blocks are multiplied with, an F16 in little-endian order.
    pub scale: [u8; 2],
    /// What their minimums are multiplied with, an F16 in little-endian order.
    pub min_scale: [u8; 2],
    /// Scales and minimums of the sub-blocks; [`scales_and_mins`](Self::scales_and_mins) unpacks.
    pub packed_scales: [u8; 12],
    /// The values: 32 bytes for each pair of sub-blocks, the first in the low nibbles.
    pub quants: [u8; 128],
}

impl BlockQ4K {
    /// The scale of scales as a number.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        f16_to_f32(self.scale)
    }

    /// The scale of minimums as a number.
    #[inline(always)]
    pub fn min_scale(&self) -> f32 {
        f16_to_f32(self.min_scale)
    }

    /// Scales and minimums of the eight sub-blocks, each from 0 to 63.
    #[inline(always)]
    pub fn scales_and_mins(&self) -> ([u8; N_SUBS], [u8; N_SUBS]) {
        let packed = &self.packed_scales;
        let mut scales = [0; N_SUBS];
        let mut mins = [0; N_SUBS];
        for j in 0..4 {
            scales[j] = packed[j] & 0x3f;
            mins[j] = packed[j + 4] & 0x3f;
            scales[j + 4] = packed[j + 8] & 0xf | packed[j] >> 6 << 4;
            mins[j + 4] = packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4;
        }
        (scales, mins)
    }
}

#[inline(always)]
pub(super) fn pack_scales(scales: [u8; N_SUBS], mins: [u8; N_SUBS]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
        packed[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        packed[j + 8] = scales[j + 4] & 0xf | mins[j + 4] << 4;
    }
    packed
}

impl QuantBlock<256> for BlockQ4K {
    /// Minimises the sum of squared errors. A line is fitted to each sub-block, then the nearest
    /// six-bit numbers are searched, and then the 16-bit scales are fitted to the outcome.
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, values: &[[f32; 256]], out: &mut [Self]) {
        for (values, out) in values.chunks(AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
            // Lanes without a block stay zero.
            let mut columns = [[0.0; N_LANES]; SUB];
            for (b, values) in values.iter().enumerate() {
                transpose(values, b * N_SUBS, &mut columns);
            }
            let (outer, steps) = search(simd, &columns);
            for (b, block) in out.iter_mut().enumerate() {
                *block = pack(&columns, b * N_SUBS, &outer, &steps);
            }
        }
    }

    #[inline(always)]
    fn dequantize_to(&self, out: &mut [f32; 256]) {
        let (scales, mins) = self.scales_and_mins();
        let scales = scales.map(|s| self.scale() * f32::from(s));
        let mins = mins.map(|m| self.min_scale() * f32::from(m));
        let (groups, _) = self.quants.as_chunks::<SUB>();
        let (outs, _) = out.as_chunks_mut::<{ 2 * SUB }>();
        for (g, (group, out)) in groups.iter().zip(outs).enumerate() {
            let (low, high) = out.split_at_mut(SUB);
            for i in 0..SUB {
                low[i] = scales[2 * g] * f32::from(group[i] & 0xf) - mins[2 * g];
                high[i] = scales[2 * g + 1] * f32::from(group[i] >> 4) - mins[2 * g + 1];
            }
        }
    }
}

/// A scale and a minimum for each sub-block: nibble `q` stands for `scale * q - min`, neither
/// negative. Or factors of these.
#[derive(Clone, Copy)]
struct Lines {
    scale: Lanes,
    min: Lanes,
}

impl Lines {
    const ZERO: Lines = Lines {
        scale: [0.0; N_LANES],
        min: [0.0; N_LANES],
    };

    #[inline(always)]
    fn load<S: Simd>(&self, r: usize) -> Line<S> {
        Line {
            scale: load::<S>(&self.scale, r),
            min: load::<S>(&self.min, r),
        }
    }

    #[inline(always)]
    fn store<S: Simd>(&mut self, r: usize, line: Line<S>) {
        store::<S>(&mut self.scale, r, line.scale);
        store::<S>(&mut self.min, r, line.min);
    }
}

/// One register of [`Lines`].
#[derive(Clone, Copy)]
struct Line<S: Simd> {
    scale: S::f32s,
    min: S::f32s,
}

impl<S: Simd> Line<S> {
    #[inline(always)]
    fn times(self, simd: S, other: Self) -> Self {
        Line {
            scale: simd.mul_f32s(self.scale, other.scale),
            min: simd.mul_f32s(self.min, other.min),
        }
    }

    #[inline(always)]
    fn select(simd: S, mask: S::m32s, yes: Self, no: Self) -> Self {
        Line {
            scale: simd.select_f32s(mask, yes.scale, no.scale),
            min: simd.select_f32s(mask, yes.min, no.min),
        }
    }
}

/// The 16-bit scales of the blocks, repeated for each of their sub-blocks, and the six-bit numbers.
#[inline(always)]
fn search<S: Simd>(simd: S, columns: &[Lanes; SUB]) -> (Lines, Lines) {
    let mut lines = Lines::ZERO;
    for r in 0..n_registers::<S>() {
        lines.store(r, fit(simd, &load_columns::<S, SUB>(columns, r)));
    }
    let mut outer = outer_of_largest(&lines);
    let (mut steps, mut errors) = nearest_steps(simd, columns, &lines, &outer);
    for _ in 0..REFITS {
        let refitted = refit(simd, columns, &outer, &steps);
        let lines = products(simd, &outer, &steps);
        let (refitted_steps, refitted_errors) = nearest_steps(simd, columns, &lines, &refitted);
        for first in (0..N_LANES).step_by(N_SUBS) {
            let of_block = first..first + N_SUBS;
            if total(&refitted_errors[of_block.clone()]) < total(&errors[of_block.clone()]) {
                for n in of_block {
                    outer.scale[n] = refitted.scale[n];
                    outer.min[n] = refitted.min[n];
                    steps.scale[n] = refitted_steps.scale[n];
                    steps.min[n] = refitted_steps.min[n];
                    errors[n] = refitted_errors[n];
                }
            }
        }
    }
    (outer, steps)
}

#[inline(always)]
fn total(errors: &[f32]) -> f32 {
    errors.iter().sum()
}

#[inline(always)]
fn products<S: Simd>(simd: S, outer: &Lines, steps: &Lines) -> Lines {
    let mut lines = Lines::ZERO;
    for r in 0..n_registers::<S>() {
        lines.store(r, outer.load::<S>(r).times(simd, steps.load(r)));
    }
    lines
}

/// The 16-bit scales that let the largest six-bit numbers stand for the largest of `lines`.
#[inline(always)]
fn outer_of_largest(lines: &Lines) -> Lines {
    let mut outer = Lines::ZERO;
    for first in (0..N_LANES).step_by(N_SUBS) {
        let of_block = first..first + N_SUBS;
        let largest = |lanes: &Lanes| lanes[of_block.clone()].iter().copied().fold(0.0, f32::max);
        outer.scale[of_block.clone()].fill(as_stored(largest(&lines.scale) / MAX_SCALE));
        outer.min[of_block.clone()].fill(as_stored(largest(&lines.min) / MAX_SCALE));
    }
    outer
}

/// Sums over a sub-block of nibbles `q` and values `x`.
struct Sums<S: Simd> {
    q: S::f32s,
    qq: S::f32s,
    qx: S::f32s,
}

/// The nibbles nearest to `x`.
#[inline(always)]
fn nibbles<S: Simd>(simd: S, x: S::f32s, min: S::f32s, inverse_scale: S::f32s) -> S::f32s {
    let position = simd.mul_f32s(simd.add_f32s(x, min), inverse_scale);
    let zero = simd.splat_f32s(0.0);
    round_within(simd, position, zero, simd.splat_f32s(MAX_QUANT))
}

#[inline(always)]
fn sums<S: Simd>(simd: S, values: &[S::f32s; SUB], line: Line<S>) -> Sums<S> {
    let inverse = reciprocal(simd, line.scale);
    let zero = simd.splat_f32s(0.0);
    let (mut sum_q, mut sum_qq, mut sum_qx) = (zero, zero, zero);
    for &x in values {
        let q = nibbles(simd, x, line.min, inverse);
        sum_q = simd.add_f32s(sum_q, q);
        sum_qq = simd.add_f32s(sum_qq, simd.mul_f32s(q, q));
        sum_qx = simd.add_f32s(sum_qx, simd.mul_f32s(q, x));
    }
    Sums {
        q: sum_q,
        qq: sum_qq,
        qx: sum_qx,
    }
}

/// Sum of squared errors of each sub-block.
#[inline(always)]
fn squared_errors<S: Simd>(simd: S, values: &[S::f32s; SUB], line: Line<S>) -> S::f32s {
    let inverse = reciprocal(simd, line.scale);
    let mut total = simd.splat_f32s(0.0);
    for &x in values {
        let q = nibbles(simd, x, line.min, inverse);
        let shifted = simd.add_f32s(x, line.min);
        let error = simd.sub_f32s(simd.mul_f32s(line.scale, q), shifted);
        total = simd.add_f32s(total, simd.mul_f32s(error, error));
    }
    total
}

/// The line with the least squared error among those that regression gives for several spacings
/// of the nibbles over the range of the values.
#[inline(always)]
fn fit<S: Simd>(simd: S, values: &[S::f32s; SUB]) -> Line<S> {
    let zero = simd.splat_f32s(0.0);
    let (mut low, mut high, mut sum_x) = (zero, simd.splat_f32s(f32::MIN), zero);
    for &x in values {
        low = simd.select_f32s(simd.less_than_f32s(x, low), x, low);
        high = simd.select_f32s(simd.less_than_f32s(high, x), x, high);
        sum_x = simd.add_f32s(sum_x, x);
    }
    let range = simd.sub_f32s(high, low);
    let spaced = |spacing: f32| Line {
        scale: simd.mul_f32s(range, simd.splat_f32s(1.0 / spacing)),
        min: simd.sub_f32s(zero, low),
    };
    let mut best = (spaced(MAX_QUANT), zero);
    for step in 0..=N_SPACINGS {
        let offset = (step as f32 - (N_SPACINGS / 2) as f32) * SPACING_STEP;
        let tried = sums(simd, values, spaced(MAX_QUANT + offset));
        best = better(simd, best, regression(simd, &tried, sum_x));
    }
    for _ in 0..REPEATS {
        let tried = sums(simd, values, best.0);
        best = better(simd, best, regression(simd, &tried, sum_x));
    }
    best.0
}

/// The line with the least squared error for the nibbles of `sums`, and by how much that is less
/// than the sum of squares of the values.
#[inline(always)]
fn regression<S: Simd>(simd: S, sums: &Sums<S>, sum_x: S::f32s) -> (Line<S>, S::f32s) {
    let &Sums { q, qq, qx } = sums;
    let difference = |a, b, c, d| simd.sub_f32s(simd.mul_f32s(a, b), simd.mul_f32s(c, d));
    let zero = simd.splat_f32s(0.0);
    let count = simd.splat_f32s(SUB as f32);
    let determinant = difference(count, qq, q, q);
    let inverse = simd.div_f32s(simd.splat_f32s(1.0), determinant);
    let free = Line {
        scale: simd.mul_f32s(difference(count, qx, q, sum_x), inverse),
        min: simd.mul_f32s(difference(q, qx, qq, sum_x), inverse),
    };
    let through_zero = Line {
        scale: simd.div_f32s(qx, qq),
        min: zero,
    };
    let is_allowed = simd.less_than_f32s(zero, free.min);
    let line = Line::select(simd, is_allowed, free, through_zero);
    let explained = difference(line.scale, qx, line.min, sum_x);
    (line, explained)
}

/// Of two lines with what they explain, the one that explains more; the first where the other's is
/// not a number.
#[inline(always)]
fn better<S: Simd>(simd: S, a: (Line<S>, S::f32s), b: (Line<S>, S::f32s)) -> (Line<S>, S::f32s) {
    let is_more = simd.less_than_f32s(a.1, b.1);
    (
        Line::select(simd, is_more, b.0, a.0),
        simd.select_f32s(is_more, b.1, a.1),
    )
}

/// The six-bit numbers next to `lines` with the least squared errors, and those.
#[inline(always)]
fn nearest_steps<S: Simd>(
    simd: S,
    columns: &[Lanes; SUB],
    lines: &Lines,
    outer: &Lines,
) -> (Lines, Lanes) {
    let mut steps = Lines::ZERO;
    let mut errors = [0.0; N_LANES];
    for r in 0..n_registers::<S>() {
        let values = load_columns::<S, SUB>(columns, r);
        let (best, error) = nearest_steps_of(simd, &values, lines.load(r), outer.load(r));
        steps.store(r, best);
        store::<S>(&mut errors, r, error);
    }
    (steps, errors)
}

#[inline(always)]
fn nearest_steps_of<S: Simd>(
    simd: S,
    values: &[S::f32s; SUB],
    line: Line<S>,
    outer: Line<S>,
) -> (Line<S>, S::f32s) {
    let zero = simd.splat_f32s(0.0);
    let most = simd.splat_f32s(MAX_SCALE);
    let middle = simd.splat_f32s(MAX_QUANT / 2.0);
    let inverse = Line::<S> {
        scale: reciprocal(simd, outer.scale),
        min: reciprocal(simd, outer.min),
    };
    let wanted = simd.mul_f32s(line.scale, inverse.scale);
    let mut best = Line {
        scale: zero,
        min: zero,
    };
    let mut best_error = simd.splat_f32s(f32::INFINITY);
    for scale_change in [0.0, -1.0, 1.0] {
        let scale = simd.add_f32s(wanted, simd.splat_f32s(scale_change));
        let scale = round_within(simd, scale, zero, most);
        // The line turns about its middle, so that its minimum follows its scale.
        let turn = simd.sub_f32s(simd.mul_f32s(scale, outer.scale), line.scale);
        let min = simd.add_f32s(line.min, simd.mul_f32s(turn, middle));
        let min = simd.mul_f32s(min, inverse.min);
        for min_change in [0.0, -1.0, 1.0] {
            let min = simd.add_f32s(min, simd.splat_f32s(min_change));
            let min = round_within(simd, min, zero, most);
            let steps = Line { scale, min };
            let error = squared_errors(simd, values, steps.times(simd, outer));
            let is_less = simd.less_than_f32s(error, best_error);
            best = Line::select(simd, is_less, steps, best);
            best_error = simd.select_f32s(is_less, error, best_error);
        }
    }
    (best, best_error)
}

/// The 16-bit scales with the least squared errors for the nibbles and six-bit numbers of `steps`.
#[inline(always)]
fn refit<S: Simd>(simd: S, columns: &[Lanes; SUB], outer: &Lines, steps: &Lines) -> Lines {
    let lines = products(simd, outer, steps);
    let zero = [0.0; N_LANES];
    let (mut sum_q, mut sum_qq, mut sum_qx, mut sum_x) = (zero, zero, zero, zero);
    for r in 0..n_registers::<S>() {
        let values = load_columns::<S, SUB>(columns, r);
        let sums = sums(simd, &values, lines.load(r));
        store::<S>(&mut sum_q, r, sums.q);
        store::<S>(&mut sum_qq, r, sums.qq);
        store::<S>(&mut sum_qx, r, sums.qx);
    }
    for x in columns {
        for n in 0..N_LANES {
            sum_x[n] += x[n];
        }
    }
    let mut refitted = *outer;
    for first in (0..N_LANES).step_by(N_SUBS) {
        // Normal equations of  x = scale * (s * q) - min_scale * m.
        let (mut aa, mut am, mut mm, mut ax, mut mx) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for n in first..first + N_SUBS {
            let (s, m) = (steps.scale[n], steps.min[n]);
            aa += s * s * sum_qq[n];
            am += s * m * sum_q[n];
            mm += m * m * SUB as f32;
            ax += s * sum_qx[n];
            mx += m * sum_x[n];
        }
        let determinant = aa * mm - am * am;
        let scale = (ax * mm - am * mx) / determinant;
        let min_scale = (am * ax - aa * mx) / determinant;
        if scale > 0.0 && min_scale > 0.0 {
            refitted.scale[first..first + N_SUBS].fill(as_stored(scale));
            refitted.min[first..first + N_SUBS].fill(as_stored(min_scale));
        }
    }
    refitted
}

/// The block in the lanes from `first` on.
#[inline(always)]
fn pack(columns: &[Lanes; SUB], first: usize, outer: &Lines, steps: &Lines) -> BlockQ4K {
    let mut scales = [0; N_SUBS];
    let mut mins = [0; N_SUBS];
    let mut inverse = [0.0; N_SUBS];
    let mut min = [0.0; N_SUBS];
    for n in 0..N_SUBS {
        scales[n] = steps.scale[first + n] as u8;
        mins[n] = steps.min[first + n] as u8;
        inverse[n] = super::reciprocal(outer.scale[first + n] * steps.scale[first + n]);
        min[n] = outer.min[first + n] * steps.min[first + n];
    }
    let mut quants = [0; 128];
    for (i, x) in columns.iter().enumerate() {
        let nibble = |n: usize| {
            let position = (x[first + n] + min[n]) * inverse[n];
            super::low_byte(super::round_within(position, 0.0, MAX_QUANT))
        };
        for g in 0..N_SUBS / 2 {
            quants[g * SUB + i] = nibble(2 * g) | nibble(2 * g + 1) << 4;
        }
    }
    BlockQ4K {
        scale: f32_to_f16(outer.scale[first]),
        min_scale: f32_to_f16(outer.min[first]),
        packed_scales: pack_scales(scales, mins),
        quants,
    }
}
