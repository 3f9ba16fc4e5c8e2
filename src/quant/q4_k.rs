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

use super::{Block, f16_to_f32, f32_to_f16, range_with_zero, reciprocal, round_within, sum};

/// Values of a sub-block.
const SUB: usize = 32;
/// Sub-blocks of a block.
const N_SUBS: usize = 8;
/// The largest nibble.
const MAX_QUANT: f32 = 15.0;
/// The largest six-bit scale.
const MAX_SCALE: f32 = 63.0;

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
fn pack_scales(scales: [u8; N_SUBS], mins: [u8; N_SUBS]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
        packed[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        packed[j + 8] = scales[j + 4] & 0xf | mins[j + 4] << 4;
    }
    packed
}

impl Block<256> for BlockQ4K {
    /// Minimises the sum of squared errors, by a search: see [`fit`], [`nearest_steps`] and
    /// [`refit`].
    #[inline(always)]
    fn quantize(values: &[f32; 256]) -> Self {
        let (subs, _) = values.as_chunks::<SUB>();
        let subs: &[[f32; SUB]; N_SUBS] = subs.try_into().expect("256 values");
        let fits = subs.each_ref().map(fit);
        let largest = |of: fn(&Line) -> f32| fits.iter().map(of).fold(0.0, f32::max);
        let mut outer = Outer::new(
            largest(|line| line.scale) / MAX_SCALE,
            largest(|line| line.min) / MAX_SCALE,
        );
        let mut steps = [Steps::default(); N_SUBS];
        for n in 0..N_SUBS {
            steps[n] = nearest_steps(&subs[n], fits[n], outer);
        }
        let mut error = total_error(subs, outer, &steps);
        for _ in 0..REFITS {
            let refitted = refit(subs, outer, &steps);
            let mut better = steps;
            for n in 0..N_SUBS {
                better[n] = nearest_steps(&subs[n], steps[n].line(outer), refitted);
            }
            let refitted_error = total_error(subs, refitted, &better);
            if refitted_error < error {
                (error, outer, steps) = (refitted_error, refitted, better);
            }
        }
        pack(subs, outer, &steps)
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

/// Times that the outer scales are fitted to the chosen nibbles.
const REFITS: usize = 2;

/// What stands for nibble `q` in a sub-block: `scale * q - min`, neither negative.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    min: f32,
}

impl Line {
    /// The nibble nearest to each value, as a float.
    #[inline(always)]
    fn quants(self, values: &[f32; SUB]) -> [f32; SUB] {
        let inverse = reciprocal(self.scale);
        values.map(|x| round_within((x + self.min) * inverse, 0.0, MAX_QUANT))
    }

    /// Sum of squared errors.
    #[inline(always)]
    fn error(self, values: &[f32; SUB]) -> f32 {
        let quants = self.quants(values);
        sum(std::array::from_fn::<_, SUB, _>(|i| {
            let error = self.scale * quants[i] - self.min - values[i];
            error * error
        }))
    }
}

/// The two 16-bit scales of a block, as they will be read.
#[derive(Clone, Copy)]
struct Outer {
    scale: f32,
    min_scale: f32,
}

impl Outer {
    #[inline(always)]
    fn new(scale: f32, min_scale: f32) -> Self {
        Outer {
            scale: f16_to_f32(f32_to_f16(scale)),
            min_scale: f16_to_f32(f32_to_f16(min_scale)),
        }
    }
}

/// The two six-bit numbers of a sub-block.
#[derive(Clone, Copy, Default)]
struct Steps {
    scale: f32,
    min: f32,
}

impl Steps {
    #[inline(always)]
    fn line(self, outer: Outer) -> Line {
        Line {
            scale: outer.scale * self.scale,
            min: outer.min_scale * self.min,
        }
    }
}

/// The line with the least squared error among those that regression gives for several spacings
/// of the nibbles over the range of the values.
#[inline(always)]
fn fit(values: &[f32; SUB]) -> Line {
    let (low, high) = range_with_zero(values);
    let high = if high > 0.0 { high } else { values.iter().copied().fold(low, f32::max) };
    let sum_x = sum(*values);
    let mut best = Line {
        scale: (high - low) / MAX_QUANT,
        min: -low,
    };
    let mut best_explained = 0.0;
    for step in 0..=20 {
        let spacing = MAX_QUANT + (step as f32 - 10.0) * 0.1;
        let line = Line {
            scale: (high - low) / spacing,
            min: -low,
        };
        let (line, explained) = regression(values, &line.quants(values), sum_x);
        if explained > best_explained {
            (best, best_explained) = (line, explained);
        }
    }
    for _ in 0..LLOYD {
        let (line, explained) = regression(values, &best.quants(values), sum_x);
        if explained > best_explained {
            (best, best_explained) = (line, explained);
        }
    }
    best
}
const LLOYD: usize = 2;

/// The line through `quants` with the least squared error, and by how much that is less than
/// the sum of squares of the values.
#[inline(always)]
fn regression(values: &[f32; SUB], quants: &[f32; SUB], sum_x: f32) -> (Line, f32) {
    let n = SUB as f32;
    let sum_q = sum(*quants);
    let sum_qq = sum(quants.map(|q| q * q));
    let sum_qx = sum(std::array::from_fn::<_, SUB, _>(|i| quants[i] * values[i]));
    let determinant = n * sum_qq - sum_q * sum_q;
    let scale = (n * sum_qx - sum_q * sum_x) / determinant;
    let min = (sum_q * sum_qx - sum_qq * sum_x) / determinant;
    if min >= 0.0 {
        let explained = scale * sum_qx - min * sum_x;
        (Line { scale, min }, explained)
    } else {
        let scale = sum_qx / sum_qq;
        (Line { scale, min: 0.0 }, scale * sum_qx)
    }
}

/// The six-bit numbers next to `line` with the least squared error.
#[inline(always)]
fn nearest_steps(values: &[f32; SUB], line: Line, outer: Outer) -> Steps {
    let inverse = reciprocal(outer.scale);
    let inverse_min = reciprocal(outer.min_scale);
    let middle = line.scale * inverse;
    let mut best = Steps::default();
    let mut best_error = f32::INFINITY;
    for scale_change in [0.0, -1.0, 1.0] {
        let scale = round_within(middle + scale_change, 0.0, MAX_SCALE);
        // The line turns about its middle, so that its minimum follows its scale.
        let turned = line.min + (scale * outer.scale - line.scale) * (MAX_QUANT / 2.0);
        for min_change in [0.0, -1.0, 1.0] {
            let min = round_within(turned * inverse_min + min_change, 0.0, MAX_SCALE);
            let steps = Steps { scale, min };
            let error = steps.line(outer).error(values);
            if error < best_error {
                (best, best_error) = (steps, error);
            }
        }
    }
    best
}

/// The outer scales with the least squared error for given nibbles and six-bit numbers.
#[inline(always)]
fn refit(subs: &[[f32; SUB]; N_SUBS], outer: Outer, steps: &[Steps; N_SUBS]) -> Outer {
    // Normal equations of  x = scale * a - min_scale * m  with a = s * q.
    let (mut aa, mut am, mut mm, mut ax, mut mx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (values, steps) in subs.iter().zip(steps) {
        let quants = steps.line(outer).quants(values);
        let sum_q = sum(quants);
        let sum_qq = sum(quants.map(|q| q * q));
        let sum_qx = sum(std::array::from_fn::<_, SUB, _>(|i| quants[i] * values[i]));
        aa += steps.scale * steps.scale * sum_qq;
        am += steps.scale * steps.min * sum_q;
        mm += steps.min * steps.min * SUB as f32;
        ax += steps.scale * sum_qx;
        mx += steps.min * sum(*values);
    }
    let determinant = aa * mm - am * am;
    let scale = (ax * mm - am * mx) / determinant;
    let min_scale = (am * ax - aa * mx) / determinant;
    if scale > 0.0 && min_scale > 0.0 {
        Outer::new(scale, min_scale)
    } else {
        outer
    }
}

#[inline(always)]
fn total_error(subs: &[[f32; SUB]; N_SUBS], outer: Outer, steps: &[Steps; N_SUBS]) -> f32 {
    let mut total = 0.0;
    for (values, steps) in subs.iter().zip(steps) {
        total += steps.line(outer).error(values);
    }
    total
}

#[inline(always)]
fn pack(subs: &[[f32; SUB]; N_SUBS], outer: Outer, steps: &[Steps; N_SUBS]) -> BlockQ4K {
    let mut quants = [0; 128];
    let (groups, _) = quants.as_chunks_mut::<SUB>();
    for (g, group) in groups.iter_mut().enumerate() {
        let low = steps[2 * g].line(outer).quants(&subs[2 * g]);
        let high = steps[2 * g + 1].line(outer).quants(&subs[2 * g + 1]);
        for i in 0..SUB {
            group[i] = low[i] as u8 | (high[i] as u8) << 4;
        }
    }
    BlockQ4K {
        scale: f32_to_f16(outer.scale),
        min_scale: f32_to_f16(outer.min_scale),
        packed_scales: pack_scales(steps.map(|s| s.scale as u8), steps.map(|s| s.min as u8)),
        quants,
    }
}
