//! NEON, with and without dot products and products of matrices.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use crate::kernels::int8::Int8Op;

/// Tokens side by side in a register.
const LANES: usize = 4;
/// Bytes of a register.
const BYTES: usize = 16;

/// What every 64-bit ARM processor has: 8-bit integers are multiplied into 16 bits.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

/// Four-way dot products of 128 bits, since ARMv8.2.
#[derive(Clone, Copy, Debug)]
pub struct DotProd(());

/// Products of 2 by 8 with 8 by 2 integers too, since ARMv8.6.
#[derive(Clone, Copy, Debug)]
pub struct I8mm(());

/// The constructor and the dispatch of a token: both list the same features, on which the safety
/// of all intrinsics and assembly below rests.
macro_rules! token {
    ($token:ident, $features:literal, $($feature:tt),*) => {
        impl $token {
            /// Proof that the processor has this instruction set, if it does.
            pub fn try_new() -> Option<Self> {
                ($(is_aarch64_feature_detected!($feature))&&*).then_some($token(()))
            }

            #[target_feature(enable = $features)]
            fn vectorized<Op: Int8Op>(self, op: Op) -> Op::Output {
                op.run(self)
            }
        }
    };
}
token!(Neon, "neon", "neon");
token!(DotProd, "neon,dotprod", "neon", "dotprod");
token!(I8mm, "neon,dotprod,i8mm", "neon", "dotprod", "i8mm");

/// What all three have in common: all but the products.
macro_rules! common {
    () => {
        const FAST_I16: bool = false;
        const SCALES_BY_GROUP: bool = true;
        const UNSIGNED_WEIGHTS: bool = false;
        const LANES: usize = LANES;
        const TILE_VECTORS: usize = 2;
        type I32 = int32x4_t;
        type F32 = float32x4_t;
        type Pair = [uint8x16_t; 4];
        type PairF32 = [float32x4_t; 4];
        type Eight = [float32x4_t; 2];
        type ChunkScales = [f32; 2 * CHUNK_UNITS];

        #[inline(always)]
        fn vectorize<Op: Int8Op>(self, op: Op) -> Op::Output {
            // SAFETY: `self` proves that the processor has the features of this function.
            unsafe { self.vectorized(op) }
        }

        #[inline(always)]
        fn gemm<F: Format>(self, tile: GemmTile) {
            multiply::<Self, F, { Self::TILE_ROWS }, 2>(self, tile);
        }

        #[inline(always)]
        fn score(self, work: KeyScores) {
            score::<Self, { Self::TILE_ROWS }, 2>(self, work);
        }

        #[inline(always)]
        fn largest(self, values: &[[f32; HALF]]) -> f32 {
            // SAFETY: the array holds four registers; `self` proves NEON.
            unsafe {
                let mut largest = [self.splat_f32(0.0); HALF / LANES];
                for half in values {
                    for (i, largest) in largest.iter_mut().enumerate() {
                        let sizes = vabsq_f32(self.load_f32(half.as_ptr().add(i * LANES)));
                        *largest = vmaxq_f32(*largest, sizes);
                    }
                }
                let [a, b, c, d] = largest;
                vmaxvq_f32(vmaxq_f32(vmaxq_f32(a, b), vmaxq_f32(c, d)))
            }
        }

        #[inline(always)]
        fn quantize(self, values: &[f32; HALF], inverse: f32) -> ([i8; HALF], i32) {
            let mut quants = [0; HALF];
            // SAFETY: the arrays are as long as the registers; `self` proves NEON.
            unsafe {
                let words: [int16x4_t; 4] = std::array::from_fn(|i| {
                    let values = vld1q_f32(values.as_ptr().add(i * LANES));
                    vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(values, inverse)))
                });
                let lower = vmovn_s16(vcombine_s16(words[0], words[1]));
                let upper = vmovn_s16(vcombine_s16(words[2], words[3]));
                let bytes = vcombine_s8(lower, upper);
                vst1q_s8(quants.as_mut_ptr(), bytes);
                (quants, i32::from(vaddlvq_s8(bytes)))
            }
        }

        #[inline(always)]
        unsafe fn load_i32(self, from: *const i32) -> int32x4_t {
            // SAFETY: the caller vouches for the integers, `self` for NEON.
            unsafe { vld1q_s32(from) }
        }

        #[inline(always)]
        unsafe fn load_f32(self, from: *const f32) -> float32x4_t {
            // SAFETY: the caller vouches for the floats, `self` for NEON.
            unsafe { vld1q_f32(from) }
        }

        #[inline(always)]
        unsafe fn load_f16(self, from: *const f16) -> float32x4_t {
            // SAFETY: the caller vouches for the halves, `self` for NEON.
            unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn store_f32(self, to: *mut f32, values: float32x4_t) {
            // SAFETY: the caller vouches for the floats, `self` for NEON.
            unsafe { vst1q_f32(to, values) }
        }

        #[inline(always)]
        unsafe fn transpose(
            self,
            from: *const f32,
            from_stride: usize,
            accumulate: bool,
            to: *mut f32,
            to_stride: usize,
        ) {
            // SAFETY: the caller vouches for the squares, `self` for NEON.
            unsafe {
                let rows: [float32x4_t; LANES] =
                    std::array::from_fn(|i| self.load_f32(from.add(i * from_stride)));
                // Rows 0 and 2, 1 and 3; then those.
                let pairs = [
                    vzip1q_f32(rows[0], rows[2]),
                    vzip2q_f32(rows[0], rows[2]),
                    vzip1q_f32(rows[1], rows[3]),
                    vzip2q_f32(rows[1], rows[3]),
                ];
                let columns = [
                    vzip1q_f32(pairs[0], pairs[2]),
                    vzip2q_f32(pairs[0], pairs[2]),
                    vzip1q_f32(pairs[1], pairs[3]),
                    vzip2q_f32(pairs[1], pairs[3]),
                ];
                for (i, mut column) in columns.into_iter().enumerate() {
                    let to = to.add(i * to_stride);
                    if accumulate {
                        column = vaddq_f32(self.load_f32(to), column);
                    }
                    self.store_f32(to, column);
                }
            }
        }

        #[inline(always)]
        unsafe fn store_i32(self, to: *mut i32, values: int32x4_t) {
            // SAFETY: the caller vouches for the integers, `self` for NEON.
            unsafe { vst1q_s32(to, values) }
        }

        #[inline(always)]
        fn splat_i32(self, value: i32) -> int32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vdupq_n_s32(value) }
        }

        #[inline(always)]
        fn zero_i32(self) -> int32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vdupq_n_s32(0) }
        }

        #[inline(always)]
        fn splat_f32(self, value: f32) -> float32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vdupq_n_f32(value) }
        }

        #[inline(always)]
        fn add_i32(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vaddq_s32(a, b) }
        }

        #[inline(always)]
        fn shift_left(self, a: int32x4_t, bits: u32) -> int32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vshlq_s32(a, vdupq_n_s32(bits as i32)) }
        }

        #[inline(always)]
        fn to_f32(self, a: int32x4_t) -> float32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vcvtq_f32_s32(a) }
        }

        #[inline(always)]
        fn round(self, a: float32x4_t) -> int32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vcvtnq_s32_f32(a) }
        }

        #[inline(always)]
        fn pack_i16(self, lower: int32x4_t, upper: int32x4_t) -> int32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vsliq_n_s32::<16>(lower, upper) }
        }

        #[inline(always)]
        fn dot_i16(self, sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe {
                let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
                let first = vmull_s16(vget_low_s16(a), vget_low_s16(b));
                vaddq_s32(sum, vpaddq_s32(first, vmull_high_s16(a, b)))
            }
        }

        #[inline(always)]
        fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vmulq_f32(a, b) }
        }

        #[inline(always)]
        fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vfmaq_f32(c, a, b) }
        }

        #[inline(always)]
        fn neg_mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vfmsq_f32(c, a, b) }
        }

        #[inline(always)]
        fn prefetch(self, address: *const u8) {
            // SAFETY: a prefetch of any address is harmless; every 64-bit processor has it.
            unsafe {
                asm!(
                    "prfm pldl1keep, [{address}]",
                    address = in(reg) address.addr(),
                    options(nomem, nostack, preserves_flags)
                );
            }
        }

        #[inline(always)]
        fn prefetch_to_write(self, address: *const u8) {
            // SAFETY: as above.
            unsafe {
                asm!(
                    "prfm pstl1keep, [{address}]",
                    address = in(reg) address.addr(),
                    options(nomem, nostack, preserves_flags)
                );
            }
        }

        #[inline(always)]
        unsafe fn load_pair(self, first: *const u8, second: *const u8) -> [uint8x16_t; 4] {
            // SAFETY: the caller vouches for the bytes, `self` for NEON.
            unsafe {
                [
                    vld1q_u8(first),
                    vld1q_u8(first.add(BYTES)),
                    vld1q_u8(second),
                    vld1q_u8(second.add(BYTES)),
                ]
            }
        }

        #[inline(always)]
        unsafe fn load_nibbles(self, first: *const u8, second: *const u8) -> [uint8x16_t; 4] {
            // SAFETY: the caller vouches for the bytes, `self` for NEON.
            unsafe {
                let (first_lower, first_upper) = nibbles(vld1q_u8(first));
                let (second_lower, second_upper) = nibbles(vld1q_u8(second));
                [first_lower, first_upper, second_lower, second_upper]
            }
        }

        #[inline(always)]
        unsafe fn load_split_nibbles(self, from: *const u8) -> [uint8x16_t; 4] {
            // SAFETY: the caller vouches for the bytes, `self` for NEON.
            unsafe {
                let (lower_0, upper_0) = nibbles(vld1q_u8(from));
                let (lower_1, upper_1) = nibbles(vld1q_u8(from.add(BYTES)));
                [lower_0, lower_1, upper_0, upper_1]
            }
        }

        #[inline(always)]
        unsafe fn load_half_bytes<const UPPER: bool>(self, from: *const u8) -> [uint8x16_t; 4] {
            // SAFETY: the caller vouches for the bytes, `self` for NEON.
            unsafe {
                std::array::from_fn(|i| {
                    let (lower, upper) = nibbles(vld1q_u8(from.add(i * BYTES)));
                    if UPPER { upper } else { lower }
                })
            }
        }

        #[inline(always)]
        unsafe fn with_high_bits<const UPPER: bool>(
            self,
            nibbles: [uint8x16_t; 4],
            high: *const u8,
        ) -> [uint8x16_t; 4] {
            // SAFETY: the caller vouches for the bytes, `self` for NEON.
            unsafe {
                let mask = vdupq_n_u8(0x30);
                std::array::from_fn(|i| {
                    let high = vld1q_u8(high.add(i % 2 * BYTES));
                    let moved = match (UPPER, i / 2) {
                        (true, 0) => high,
                        (true, _) => vshrq_n_u8::<2>(high),
                        (false, 0) => vshlq_n_u8::<4>(high),
                        (false, _) => vshlq_n_u8::<2>(high),
                    };
                    vorrq_u8(nibbles[i], vandq_u8(moved, mask))
                })
            }
        }

        #[inline(always)]
        fn from_unsigned<const OFFSET: u8>(self, weights: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
            // SAFETY: `self` proves NEON.
            weights.map(|weights| unsafe { vsubq_u8(weights, vdupq_n_u8(OFFSET)) })
        }

        #[inline(always)]
        fn from_signed(self, weights: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
            weights
        }

        #[inline(always)]
        unsafe fn store_halves(self, to: [*mut u8; 4], apart: usize, pair: [uint8x16_t; 4]) {
            for (to, half) in to.into_iter().zip(pair) {
                // SAFETY: the caller vouches for the bytes, `self` for NEON.
                unsafe {
                    if Self::PANEL_COLUMNS == BYTES / 2 {
                        vst1_u8(to, vget_low_u8(half));
                        vst1_u8(to.add(apart), vget_high_u8(half));
                    } else {
                        vst1q_u8(to, half);
                    }
                }
            }
        }

        #[inline(always)]
        fn pair_zero(self) -> [float32x4_t; 4] {
            [self.splat_f32(0.0); 4]
        }

        #[inline(always)]
        fn dot_pair(
            self,
            kind: Group,
            weights: [uint8x16_t; 4],
            activations: [uint8x16_t; 4],
        ) -> [float32x4_t; 4] {
            let signed = |bytes: [uint8x16_t; 4]| {
                // SAFETY: `self` proves NEON.
                bytes.map(|bytes| unsafe { vreinterpretq_s8_u8(bytes) })
            };
            let (w, a) = (signed(weights), signed(activations));
            let lower = self.add_register(self.zero_i32(), w[0], a[0]);
            let upper = self.add_register(self.zero_i32(), w[2], a[2]);
            let (lower, upper, rest) = if kind.len == UNIT {
                // Both halves of a unit share a scale; the places of the second ones stay empty.
                let lower = self.add_register(lower, w[1], a[1]);
                let upper = self.add_register(upper, w[3], a[3]);
                (lower, upper, [self.splat_f32(0.0); 2])
            } else {
                let of_lower = self.add_register(self.zero_i32(), w[1], a[1]);
                let of_upper = self.add_register(self.zero_i32(), w[3], a[3]);
                (lower, upper, [self.to_f32(of_lower), self.to_f32(of_upper)])
            };
            [self.to_f32(lower), rest[0], self.to_f32(upper), rest[1]]
        }

        #[inline(always)]
        fn chunk_scales(self, groups: [[float32x4_t; 2]; 2]) -> [f32; 2 * CHUNK_UNITS] {
            let mut scales = [0.0; 2 * CHUNK_UNITS];
            for (scales, eight) in scales.as_chunks_mut().0.iter_mut().zip(groups) {
                *scales = self.eight_values(eight);
            }
            scales
        }

        #[inline(always)]
        fn add_scaled(
            self,
            groups_per_unit: usize,
            products: [float32x4_t; 4],
            scales: [f32; 2 * CHUNK_UNITS],
            pair: usize,
            sum: [float32x4_t; 4],
        ) -> [float32x4_t; 4] {
            let scaled = |i: usize, group: usize| {
                self.mul_add(products[i], self.splat_f32(scales[group]), sum[i])
            };
            let first = 2 * pair * groups_per_unit;
            let second = first + groups_per_unit;
            if groups_per_unit == 1 {
                [scaled(0, first), sum[1], scaled(2, second), sum[3]]
            } else {
                [
                    scaled(0, first),
                    scaled(1, first + 1),
                    scaled(2, second),
                    scaled(3, second + 1),
                ]
            }
        }

        #[inline(always)]
        fn pair_lanes(self, a: [float32x4_t; 4]) -> [f32; 2 * UNIT_LANES] {
            let mut lanes = [0.0; 2 * UNIT_LANES];
            for (lanes, a) in lanes.as_chunks_mut::<LANES>().0.iter_mut().zip(a) {
                // SAFETY: a chunk is as long as a register.
                unsafe { self.store_f32(lanes.as_mut_ptr(), a) };
            }
            lanes
        }

        #[inline(always)]
        unsafe fn load_eight(self, from: *const f32) -> [float32x4_t; 2] {
            // SAFETY: the caller vouches for the floats, `self` for NEON.
            unsafe { [vld1q_f32(from), vld1q_f32(from.add(LANES))] }
        }

        #[inline(always)]
        unsafe fn load_eight_i32(self, from: *const i32) -> [float32x4_t; 2] {
            // SAFETY: the caller vouches for the integers, `self` for NEON.
            unsafe { [from, from.add(LANES)].map(|from| vcvtq_f32_s32(vld1q_s32(from))) }
        }

        #[inline(always)]
        unsafe fn load_eight_i8(self, from: *const i8) -> [float32x4_t; 2] {
            // SAFETY: the caller vouches for the bytes, `self` for NEON.
            unsafe {
                let words = vmovl_s8(vld1_s8(from));
                let halves = [vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)];
                halves.map(|half| vcvtq_f32_s32(half))
            }
        }

        #[inline(always)]
        unsafe fn load_two_f16(self, from: *const u8) -> [[float32x4_t; 2]; 2] {
            // SAFETY: the caller vouches for the bytes, `self` for NEON.
            unsafe {
                let bits = from.cast::<u32>().read_unaligned();
                let halves = vreinterpret_f16_u32(vdup_n_u32(bits));
                let floats = vcvt_f32_f16(halves);
                [
                    [vdupq_laneq_f32::<0>(floats); 2],
                    [vdupq_laneq_f32::<1>(floats); 2],
                ]
            }
        }

        #[inline(always)]
        fn eight_from_f16(self, bits: [u16; 8]) -> [float32x4_t; 2] {
            // SAFETY: the array holds 128 bits; `self` proves NEON.
            unsafe {
                let halves = vreinterpretq_f16_u16(vld1q_u16(bits.as_ptr()));
                [vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]
            }
        }

        #[inline(always)]
        fn splat_eight(self, value: f32) -> [float32x4_t; 2] {
            [self.splat_f32(value); 2]
        }

        #[inline(always)]
        fn twice(self, a: [float32x4_t; 2]) -> [[float32x4_t; 2]; 2] {
            // SAFETY: `self` proves NEON.
            unsafe {
                [
                    [vzip1q_f32(a[0], a[0]), vzip2q_f32(a[0], a[0])],
                    [vzip1q_f32(a[1], a[1]), vzip2q_f32(a[1], a[1])],
                ]
            }
        }

        #[inline(always)]
        fn mul_eight(self, a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            [self.mul(a[0], b[0]), self.mul(a[1], b[1])]
        }

        #[inline(always)]
        fn mul_add_eight(
            self,
            a: [float32x4_t; 2],
            b: [float32x4_t; 2],
            c: [float32x4_t; 2],
        ) -> [float32x4_t; 2] {
            [
                self.mul_add(a[0], b[0], c[0]),
                self.mul_add(a[1], b[1], c[1]),
            ]
        }

        #[inline(always)]
        fn eight_values(self, a: [float32x4_t; 2]) -> [f32; 8] {
            let mut values = [0.0; 8];
            // SAFETY: the array has room for both registers.
            unsafe {
                self.store_f32(values.as_mut_ptr(), a[0]);
                self.store_f32(values.as_mut_ptr().add(LANES), a[1]);
            }
            values
        }
    };
}

// After the macros that they use.
mod dotprod;
mod i8mm;
mod neon;
mod paired;
mod scales;

/// Lower and upper nibbles of each byte.
///
/// # Safety
/// The processor must have NEON.
#[inline(always)]
unsafe fn nibbles(bytes: uint8x16_t) -> (uint8x16_t, uint8x16_t) {
    // SAFETY: as above.
    unsafe { (vandq_u8(bytes, vdupq_n_u8(0x0f)), vshrq_n_u8::<4>(bytes)) }
}
