//! `Q6_K`: 256 values as six-bit numbers, with an 8-bit scale for every 16 of them.
//!
//! ```text
//! byte 0           128          192               208     210
//!      | low       | high       | scales          | scale |
//!      | 2 x 64 B  | 2 x 32 B   | 16 x i8         |  F16  |
//!
//! Each half h of 128 values has 64 bytes of low and 32 bytes of high. With i = 0..32:
//!   value i      = low[i] & 15        high[i] bits 1:0
//!   value i + 32 = low[i + 32] & 15   high[i] bits 3:2
//!   value i + 64 = low[i] >> 4        high[i] bits 5:4
//!   value i + 96 = low[i + 32] >> 4   high[i] bits 7:6
//!
//! value = (scale * scales[index / 16]) * ((high << 4 | low) - 32)
//! ```

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use super::lanes::{
    Lanes, N_LANES, load, load_columns, n_registers, reciprocal, round_within, store, transpose,
};
use super::{QuantBlock, as_stored, f16_to_f32, f32_to_f16};

/// Values of a sub-block.
const SUB: usize = 16;
/// Sub-blocks of a block.
const N_SUBS: usize = N_LANES;
/// First of the four sub-blocks that share bytes; the others follow two by two.
const FIRSTS: [usize; 4] = [0, 1, 8, 9];
/// The six-bit numbers reach from `MIN_QUANT` to `MAX_QUANT`.
const MIN_QUANT: f32 = -32.0;
const MAX_QUANT: f32 = 31.0;
/// Spacings that are tried on each sub-block. With twice as many of these, and of the refits
/// below, the error is 0.2% less and the time more than twice as long.
const N_SPACINGS: usize = 18;
/// By how much the number that the largest value becomes differs each time.
const SPACING_STEP: f32 = 0.1;
/// Times that the 16-bit scale is fitted to the six-bit numbers.
const REFITS: usize = 2;

/// 256 values of `Q6_K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6K {
    /// The lower four bits of the values, as the file's header draws them.
    pub low: [u8; 128],
    /// The upper two bits.
    pub high: [u8; 64],
    /// Scales of the sub-blocks of 16 values.
    pub scales: [i8; N_SUBS],
    /// What these are multiplied with, an F16 in little-endian order.
    pub scale: [u8; 2],
}

impl BlockQ6K {
    /// The scale of scales as a number.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        f16_to_f32(self.scale)
    }

    /// The values over their scales, each from -32 to 31, in order.
    #[inline(always)]
    pub fn quants(&self) -> [i8; 256] {
        let mut quants = [0; 256];
        let (outs, _) = quants.as_chunks_mut::<SUB>();
        for first in FIRSTS {
            for (quarter, values) in self.quarters(first).iter().enumerate() {
                outs[first + 2 * quarter] = *values;
            }
        }
        quants
    }

    /// The sub-blocks `first`, `first + 2`, `first + 4` and `first + 6`, which share bytes.
    #[inline(always)]
    fn quarters(&self, first: usize) -> [[i8; SUB]; 4] {
        let (half, odd) = (first / 8, first % 8);
        let (lows, _) = self.low.as_chunks::<SUB>();
        let (highs, _) = self.high.as_chunks::<SUB>();
        let (low_a, low_b) = (&lows[half * 4 + odd], &lows[half * 4 + odd + 2]);
        let high = &highs[half * 2 + odd];
        let mut quarters = [[0; SUB]; 4];
        for i in 0..SUB {
            let (a, b, high) = (low_a[i], low_b[i], high[i]);
            quarters[0][i] = (a & 0xf | high << 4 & 0x30) as i8 - 32;
            quarters[1][i] = (b & 0xf | high << 2 & 0x30) as i8 - 32;
            quarters[2][i] = (a >> 4 | high & 0x30) as i8 - 32;
            quarters[3][i] = (b >> 4 | high >> 2 & 0x30) as i8 - 32;
        }
        quarters
    }
}

impl QuantBlock<256> for BlockQ6K {
    /// Minimises the sum of squared errors. A scale is fitted to each sub-block, then the nearest
    /// 8-bit scales are searched, and then the 16-bit scale is fitted to the outcome.
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, values: &[[f32; 256]], out: &mut [Self]) {
        for (values, block) in values.iter().zip(out) {
            let mut columns = [[0.0; N_LANES]; SUB];
            transpose(values, 0, &mut columns);
            let (outer, steps) = search(simd, &columns);
            *block = pack(&columns, outer, &steps);
        }
    }

    #[inline(always)]
    fn dequantize_to(&self, out: &mut [f32; 256]) {
        let scale = self.scale();
        let (outs, _) = out.as_chunks_mut::<SUB>();
        for first in FIRSTS {
            for (quarter, quants) in self.quarters(first).iter().enumerate() {
                let n = first + 2 * quarter;
                let scale = scale * f32::from(self.scales[n]);
                let mut values = [0.0; SUB];
                for (x, &q) in values.iter_mut().zip(quants) {
                    *x = scale * f32::from(q);
                }
                outs[n] = values;
            }
        }
    }
}

/// The 16-bit scale, and the 8-bit scales of the sub-blocks.
#[inline(always)]
fn search<S: Simd>(simd: S, columns: &[Lanes; SUB]) -> (f32, Lanes) {
    let mut scales = [0.0; N_LANES];
    for r in 0..n_registers::<S>() {
        let scale = fit(simd, &load_columns::<S, SUB>(columns, r));
        store::<S>(&mut scales, r, scale);
    }
    let largest = scales
        .iter()
        .fold(0.0f32, |a, &b| if b.abs() > a.abs() { b } else { a });
    let mut outer = as_stored(largest / -128.0);
    let (mut steps, mut error) = nearest_steps(simd, columns, &scales, outer);
    for _ in 0..REFITS {
        let refitted = refit(simd, columns, outer, &steps);
        let scales = steps.map(|step| step * outer);
        let (refitted_steps, refitted_error) = nearest_steps(simd, columns, &scales, refitted);
        if refitted_error < error {
            (outer, steps, error) = (refitted, refitted_steps, refitted_error);
        }
    }
    (outer, steps)
}

/// The six-bit numbers nearest to `x`.
#[inline(always)]
fn quants<S: Simd>(simd: S, x: S::f32s, inverse_scale: S::f32s) -> S::f32s {
    let (low, high) = (simd.splat_f32s(MIN_QUANT), simd.splat_f32s(MAX_QUANT));
    round_within(simd, simd.mul_f32s(x, inverse_scale), low, high)
}

/// `sum(q * x)` and `sum(q * q)` over each sub-block.
#[inline(always)]
fn sums<S: Simd>(simd: S, values: &[S::f32s; SUB], scale: S::f32s) -> (S::f32s, S::f32s) {
    let inverse = reciprocal(simd, scale);
    let (mut qx, mut qq) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
    for &x in values {
        let q = quants(simd, x, inverse);
        qx = simd.add_f32s(qx, simd.mul_f32s(q, x));
        qq = simd.add_f32s(qq, simd.mul_f32s(q, q));
    }
    (qx, qq)
}

/// The scale with the least squared error among those that regression gives for several spacings.
#[inline(always)]
fn fit<S: Simd>(simd: S, values: &[S::f32s; SUB]) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    let (mut largest, mut magnitude) = (zero, zero);
    for &x in values {
        let is_larger = simd.less_than_f32s(magnitude, simd.abs_f32s(x));
        largest = simd.select_f32s(is_larger, x, largest);
        magnitude = simd.select_f32s(is_larger, simd.abs_f32s(x), magnitude);
    }
    let spaced = |spacing: f32| simd.mul_f32s(largest, simd.splat_f32s(1.0 / spacing));
    let mut best = spaced(MIN_QUANT);
    let mut best_explained = zero;
    for step in 0..=N_SPACINGS {
        let offset = (step as f32 - (N_SPACINGS / 2) as f32) * SPACING_STEP;
        let (qx, qq) = sums(simd, values, spaced(MIN_QUANT - offset));
        let scale = simd.div_f32s(qx, qq);
        let explained = simd.mul_f32s(qx, scale);
        let is_more = simd.less_than_f32s(best_explained, explained);
        best = simd.select_f32s(is_more, scale, best);
        best_explained = simd.select_f32s(is_more, explained, best_explained);
    }
    best
}

/// The 8-bit scales next to `scales` with the least squared errors, and the sum of those.
#[inline(always)]
fn nearest_steps<S: Simd>(
    simd: S,
    columns: &[Lanes; SUB],
    scales: &Lanes,
    outer: f32,
) -> (Lanes, f32) {
    let mut steps = [0.0; N_LANES];
    let mut errors = [0.0; N_LANES];
    for r in 0..n_registers::<S>() {
        let values = load_columns::<S, SUB>(columns, r);
        let (best, error) = nearest_steps_of(simd, &values, load::<S>(scales, r), outer);
        store::<S>(&mut steps, r, best);
        store::<S>(&mut errors, r, error);
    }
    (steps, errors.iter().sum())
}

#[inline(always)]
fn nearest_steps_of<S: Simd>(
    simd: S,
    values: &[S::f32s; SUB],
    scale: S::f32s,
    outer: f32,
) -> (S::f32s, S::f32s) {
    let outer = simd.splat_f32s(outer);
    let wanted = simd.mul_f32s(scale, reciprocal(simd, outer));
    let (low, high) = (simd.splat_f32s(-128.0), simd.splat_f32s(127.0));
    let mut best = simd.splat_f32s(0.0);
    let mut best_error = simd.splat_f32s(f32::INFINITY);
    for change in [0.0, -1.0, 1.0] {
        let step = simd.add_f32s(wanted, simd.splat_f32s(change));
        let step = round_within(simd, step, low, high);
        let error = squared_errors(simd, values, simd.mul_f32s(step, outer));
        let is_less = simd.less_than_f32s(error, best_error);
        best = simd.select_f32s(is_less, step, best);
        best_error = simd.select_f32s(is_less, error, best_error);
    }
    (best, best_error)
}

#[inline(always)]
fn squared_errors<S: Simd>(simd: S, values: &[S::f32s; SUB], scale: S::f32s) -> S::f32s {
    let inverse = reciprocal(simd, scale);
    let mut total = simd.splat_f32s(0.0);
    for &x in values {
        let error = simd.sub_f32s(simd.mul_f32s(quants(simd, x, inverse), scale), x);
        total = simd.add_f32s(total, simd.mul_f32s(error, error));
    }
    total
}

/// The 16-bit scale with the least squared error for the six-bit numbers of 8-bit scales `steps`.
#[inline(always)]
fn refit<S: Simd>(simd: S, columns: &[Lanes; SUB], outer: f32, steps: &Lanes) -> f32 {
    let (mut qx, mut qq) = ([0.0; N_LANES], [0.0; N_LANES]);
    for r in 0..n_registers::<S>() {
        let values = load_columns::<S, SUB>(columns, r);
        let scale = simd.mul_f32s(load::<S>(steps, r), simd.splat_f32s(outer));
        let (its_qx, its_qq) = sums(simd, &values, scale);
        store::<S>(&mut qx, r, its_qx);
        store::<S>(&mut qq, r, its_qq);
    }
    let (mut numerator, mut denominator) = (0.0, 0.0);
    for n in 0..N_LANES {
        numerator += steps[n] * qx[n];
        denominator += steps[n] * steps[n] * qq[n];
    }
    as_stored(numerator * super::reciprocal(denominator))
}

#[inline(always)]
fn pack(columns: &[Lanes; SUB], outer: f32, steps: &Lanes) -> BlockQ6K {
    let mut scales = [0; N_SUBS];
    let mut quants = [0; 256];
    for n in 0..N_SUBS {
        scales[n] = steps[n] as i8;
        let inverse = super::reciprocal(steps[n] * outer);
        for i in 0..SUB {
            let q = super::round_within(columns[i][n] * inverse, MIN_QUANT, MAX_QUANT);
            quants[n * SUB + i] = super::low_byte(q - MIN_QUANT);
        }
    }
    let mut block = BlockQ6K {
        low: [0; 128],
        high: [0; 64],
        scales,
        scale: f32_to_f16(outer),
    };
    for half in 0..2 {
        let q = &quants[half * 128..][..128];
        let low = &mut block.low[half * 64..][..64];
        let high = &mut block.high[half * 32..][..32];
        for i in 0..32 {
            low[i] = q[i] & 0xf | q[i + 64] << 4;
            low[i + 32] = q[i + 32] & 0xf | q[i + 96] << 4;
            high[i] = q[i] >> 4 | q[i + 32] >> 4 << 2 | q[i + 64] >> 4 << 4 | q[i + 96] >> 4 << 6;
        }
    }
    block
}
