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

use super::{Block, f16_to_f32, f32_to_f16, range_with_zero, reciprocal, round_within, sum};

/// Values of a sub-block.
const SUB: usize = 16;
/// Sub-blocks of a block.
const N_SUBS: usize = 16;

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
        for half in 0..2 {
            let low = &self.low[half * 64..][..64];
            let high = &self.high[half * 32..][..32];
            let out = &mut quants[half * 128..][..128];
            for i in 0..32 {
                let join = |low: u8, high: u8| (low | (high & 3) << 4) as i8 - 32;
                out[i] = join(low[i] & 0xf, high[i]);
                out[i + 32] = join(low[i + 32] & 0xf, high[i] >> 2);
                out[i + 64] = join(low[i] >> 4, high[i] >> 4);
                out[i + 96] = join(low[i + 32] >> 4, high[i] >> 6);
            }
        }
        quants
    }
}

impl Block<256> for BlockQ6K {
    /// Minimises the sum of squared errors, by a search: see [`fit`], [`nearest_step`] and
    /// [`refit`].
    #[inline(always)]
    fn quantize(values: &[f32; 256]) -> Self {
        let (subs, _) = values.as_chunks::<SUB>();
        let subs: &[[f32; SUB]; N_SUBS] = subs.try_into().expect("256 values");
        let fits = subs.each_ref().map(fit);
        let largest = fits
            .iter()
            .fold(0.0f32, |a, &b| if b.abs() > a.abs() { b } else { a });
        let mut outer = f16_to_f32(f32_to_f16(largest / -128.0));
        let mut steps = [0.0; N_SUBS];
        let mut error = 0.0;
        for n in 0..N_SUBS {
            let (step, its_error) = nearest_step(&subs[n], fits[n], outer);
            steps[n] = step;
            error += its_error;
        }
        for _ in 0..REFITS {
            let refitted = refit(subs, outer, &steps);
            let mut better = steps;
            let mut refitted_error = 0.0;
            for n in 0..N_SUBS {
                let (step, its_error) = nearest_step(&subs[n], steps[n] * outer, refitted);
                better[n] = step;
                refitted_error += its_error;
            }
            if refitted_error < error {
                (error, outer, steps) = (refitted_error, refitted, better);
            }
        }
        pack(subs, outer, &steps)
    }

    #[inline(always)]
    fn dequantize_to(&self, out: &mut [f32; 256]) {
        let scale = self.scale();
        let quants = self.quants();
        for n in 0..N_SUBS {
            let scale = scale * f32::from(self.scales[n]);
            for i in n * SUB..(n + 1) * SUB {
                out[i] = scale * f32::from(quants[i]);
            }
        }
    }
}

/// Times that the outer scale is fitted to the chosen numbers.
const REFITS: usize = 1;

#[inline(always)]
fn quants_of(values: &[f32; SUB], scale: f32) -> [f32; SUB] {
    let inverse = reciprocal(scale);
    values.map(|x| round_within(x * inverse, -32.0, 31.0))
}

/// `sum(q * x)` and `sum(q * q)`.
#[inline(always)]
fn products(values: &[f32; SUB], quants: &[f32; SUB]) -> (f32, f32) {
    let qx = sum(std::array::from_fn::<_, SUB, _>(|i| quants[i] * values[i]));
    (qx, sum(quants.map(|q| q * q)))
}

/// The scale with the least squared error among those that regression gives for several spacings.
#[inline(always)]
fn fit(values: &[f32; SUB]) -> f32 {
    let (low, high) = range_with_zero(values);
    let largest = if high > -low { high } else { low };
    let mut best = largest / -32.0;
    let mut best_explained = 0.0;
    for step in 0..=18 {
        let spacing = -32.0 - (step as f32 - 9.0) * 0.1;
        let (qx, qq) = products(values, &quants_of(values, largest / spacing));
        let explained = qx * qx / qq;
        if explained > best_explained {
            (best, best_explained) = (qx / qq, explained);
        }
    }
    best
}

/// The 8-bit scale next to `scale` with the least squared error, and that error.
#[inline(always)]
fn nearest_step(values: &[f32; SUB], scale: f32, outer: f32) -> (f32, f32) {
    let middle = scale * reciprocal(outer);
    let mut best = (0.0, f32::INFINITY);
    for change in [0.0, -1.0, 1.0] {
        let step = round_within(middle + change, -128.0, 127.0);
        let scale = step * outer;
        let quants = quants_of(values, scale);
        let error = sum(std::array::from_fn::<_, SUB, _>(|i| {
            let error = scale * quants[i] - values[i];
            error * error
        }));
        if error < best.1 {
            best = (step, error);
        }
    }
    best
}

/// The outer scale with the least squared error for given six-bit numbers and 8-bit scales.
#[inline(always)]
fn refit(subs: &[[f32; SUB]; N_SUBS], outer: f32, steps: &[f32; N_SUBS]) -> f32 {
    let (mut ax, mut aa) = (0.0, 0.0);
    for (values, &step) in subs.iter().zip(steps) {
        let (qx, qq) = products(values, &quants_of(values, step * outer));
        ax += step * qx;
        aa += step * step * qq;
    }
    f16_to_f32(f32_to_f16(ax * reciprocal(aa)))
}

#[inline(always)]
fn pack(subs: &[[f32; SUB]; N_SUBS], outer: f32, steps: &[f32; N_SUBS]) -> BlockQ6K {
    let mut quants = [0u8; 256];
    let (chunks, _) = quants.as_chunks_mut::<SUB>();
    for n in 0..N_SUBS {
        chunks[n] = quants_of(&subs[n], steps[n] * outer).map(|q| (q + 32.0) as u8);
    }
    let mut block = BlockQ6K {
        low: [0; 128],
        high: [0; 64],
        scales: steps.map(|step| step as i8),
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
