//! Portable code: what every instruction set has to compute.
#![allow(unsafe_code)]

use crate::kernels::formats::Format;
use crate::kernels::gemm::{GemmTile, multiply};
use crate::kernels::int8::{Group, Int8, Int8Op, UNIT, UNIT_LANES};

/// No vector instructions.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

const LANES: usize = 4;

impl Int8 for Scalar {
    const UNSIGNED_WEIGHTS: bool = false;
    const LANES: usize = LANES;
    const TILE_VECTORS: usize = 1;
    const TILE_ROWS: usize = 2;
    type I32 = [i32; LANES];
    type F32 = [f32; LANES];
    type Unit = [u8; UNIT];
    type UnitF32 = [f32; UNIT_LANES];

    #[inline(always)]
    fn vectorize<Op: Int8Op>(self, op: Op) -> Op::Output {
        op.run(self)
    }

    #[inline(always)]
    fn gemm<F: Format>(self, tile: GemmTile) {
        multiply::<Self, F, 2, 1>(self, tile);
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> [i32; LANES] {
        // SAFETY: the caller vouches for the integers.
        unsafe { from.cast::<[i32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> [f32; LANES] {
        // SAFETY: the caller vouches for the floats.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32, values: [f32; LANES]) {
        // SAFETY: the caller vouches for the floats.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(values) }
    }

    #[inline(always)]
    fn zero_i32(self) -> [i32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn splat_f32(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn add_i32(self, a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn shift_left(self, a: [i32; LANES], bits: u32) -> [i32; LANES] {
        a.map(|a| a << bits)
    }

    #[inline(always)]
    fn to_f32(self, a: [i32; LANES]) -> [f32; LANES] {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }

    #[inline(always)]
    unsafe fn dot_group<const R: usize, const V: usize>(
        self,
        kind: Group,
        weights: *const u8,
        activations: *const i8,
        stride: usize,
        mut sums: [[[i32; LANES]; V]; R],
    ) -> [[[i32; LANES]; V]; R] {
        for column in 0..kind.len {
            for (r, of_row) in sums.iter_mut().enumerate() {
                // SAFETY: the caller vouches for `[R][kind.len]` weights.
                let w = unsafe { weights.add(r * kind.len + column).cast::<i8>().read() };
                for (v, lanes) in of_row.iter_mut().enumerate() {
                    for (lane, sum) in lanes.iter_mut().enumerate() {
                        let at = column / 4 * stride + (v * LANES + lane) * 4 + column % 4;
                        // SAFETY: the caller vouches for `[V][LANES][4]` at each stride.
                        let a = unsafe { activations.add(at).read() };
                        *sum += i32::from(w) * i32::from(a);
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn load_unit(self, from: *const u8) -> [u8; UNIT] {
        // SAFETY: the caller vouches for the bytes.
        unsafe { from.cast::<[u8; UNIT]>().read() }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, from: *const u8) -> [u8; UNIT] {
        // SAFETY: the caller vouches for the bytes.
        let bytes = unsafe { from.cast::<[u8; UNIT / 2]>().read() };
        std::array::from_fn(|i| match i {
            0..16 => bytes[i] & 0x0f,
            _ => bytes[i - 16] >> 4,
        })
    }

    #[inline(always)]
    unsafe fn load_half_bytes<const SHIFT: i32>(self, from: *const u8) -> [u8; UNIT] {
        // SAFETY: the caller vouches for the bytes.
        unsafe { self.load_unit(from) }.map(|byte| byte >> SHIFT & 0x0f)
    }

    #[inline(always)]
    fn with_high_bits<const SHIFT: i32>(self, nibbles: [u8; UNIT], high: [u8; UNIT]) -> [u8; UNIT] {
        std::array::from_fn(|i| nibbles[i] | (high[i] >> SHIFT & 3) << 4)
    }

    #[inline(always)]
    fn from_unsigned<const OFFSET: u8>(self, weights: [u8; UNIT]) -> [u8; UNIT] {
        weights.map(|weight| weight.wrapping_sub(OFFSET))
    }

    #[inline(always)]
    fn from_signed(self, weights: [u8; UNIT]) -> [u8; UNIT] {
        weights
    }

    #[inline(always)]
    unsafe fn store_unit(self, to: *mut u8, unit: [u8; UNIT]) {
        // SAFETY: the caller vouches for the bytes.
        unsafe { to.cast::<[u8; UNIT]>().write(unit) }
    }

    #[inline(always)]
    fn unit_zero(self) -> [f32; UNIT_LANES] {
        [0.0; UNIT_LANES]
    }

    #[inline(always)]
    fn dot_unit(self, _: u32, weights: [u8; UNIT], activations: [u8; UNIT]) -> [f32; 8] {
        std::array::from_fn(|lane| {
            let products = (4 * lane..4 * lane + 4)
                .map(|i| i32::from(weights[i] as i8) * i32::from(activations[i] as i8));
            products.sum::<i32>() as f32
        })
    }

    #[inline(always)]
    fn unit_scales(self, lower: f32, upper: f32) -> [f32; UNIT_LANES] {
        std::array::from_fn(|lane| if lane < UNIT_LANES / 2 { lower } else { upper })
    }

    #[inline(always)]
    fn unit_mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; UNIT_LANES] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn unit_lanes(self, a: [f32; UNIT_LANES]) -> [f32; UNIT_LANES] {
        a
    }

    #[inline(always)]
    fn from_f16(self, bits: [u16; 8]) -> [f32; 8] {
        bits.map(|bits| half::f16::from_bits(bits).to_f32())
    }
}
