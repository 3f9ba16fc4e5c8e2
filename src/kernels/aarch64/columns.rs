//! Units of a weight row in registers, and groups of eight floats, for unpacking and for generation.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

/// The part of [`Int8`](crate::kernels::int8::Int8) that runs along columns.
macro_rules! columns {
    () => {
        type Pair = [uint8x16_t; 4];
        type PairF32 = [float32x4_t; 4];
        type Eight = [float32x4_t; 2];
        type ChunkScales = [f32; 2 * CHUNK_UNITS];
        type Words = [u16; 2 * CHUNK_UNITS];

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
        fn look_up(self, numbers: [uint8x16_t; 4], table: &[u8; 16]) -> [uint8x16_t; 4] {
            // SAFETY: the array is as long as the register; `self` proves NEON.
            numbers.map(|numbers| unsafe { vqtbl1q_u8(vld1q_u8(table.as_ptr()), numbers) })
        }

        #[inline(always)]
        fn from_unsigned<const OFFSET: u8>(self, weights: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
            // SAFETY: `self` proves NEON.
            weights.map(|weights| unsafe { vsubq_u8(weights, vdupq_n_u8(OFFSET)) })
        }

        #[inline(always)]
        fn flip_signs(self, weights: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
            // SAFETY: `self` proves NEON.
            weights.map(|weights| unsafe { veorq_u8(weights, vdupq_n_u8(0x80)) })
        }

        #[inline(always)]
        fn regroup(
            self,
            weights: [uint8x16_t; 4],
            pair: usize,
            factors: [u16; 2 * CHUNK_UNITS],
            offsets: [u16; 2 * CHUNK_UNITS],
        ) -> [uint8x16_t; 4] {
            let mut regrouped = weights;
            for (i, half) in regrouped.iter_mut().enumerate() {
                // SAFETY: `self` proves NEON.
                *half = unsafe {
                    let factor = vdupq_n_u16(factors[4 * pair + i]);
                    let offset = vdupq_n_u16(offsets[4 * pair + i]);
                    let lower = vmovl_u8(vget_low_u8(*half));
                    let upper = vmovl_high_u8(*half);
                    let lower = vmlaq_u16(offset, lower, factor);
                    let upper = vmlaq_u16(offset, upper, factor);
                    // The upper bytes.
                    vuzp2q_u8(vreinterpretq_u8_u16(lower), vreinterpretq_u8_u16(upper))
                };
            }
            regrouped
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

        /// All sums are in the first register, which alone [`Int8::add_block`] looks at.
        #[inline(always)]
        fn dot_block(
            self,
            _: u32,
            _: i32,
            weights: [[uint8x16_t; 4]; 2],
            activations: [[uint8x16_t; 4]; 2],
        ) -> [float32x4_t; 4] {
            let signed = |bytes: uint8x16_t| {
                // SAFETY: `self` proves NEON.
                unsafe { vreinterpretq_s8_u8(bytes) }
            };
            // Two sums, so that one need not wait for the other.
            let mut sums = [self.zero_i32(); 2];
            for (weights, activations) in weights.into_iter().zip(activations) {
                for (i, (w, a)) in weights.into_iter().zip(activations).enumerate() {
                    sums[i % 2] = self.add_register(sums[i % 2], signed(w), signed(a));
                }
            }
            let mut products = self.pair_zero();
            products[0] = self.to_f32(self.add_i32(sums[0], sums[1]));
            products
        }

        #[inline(always)]
        fn add_block(
            self,
            products: [float32x4_t; 4],
            scale: f32,
            mut sum: [float32x4_t; 4],
        ) -> [float32x4_t; 4] {
            sum[0] = self.mul_add(products[0], self.splat_f32(scale), sum[0]);
            sum
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
                [
                    vcvt_f32_f16(vget_low_f16(halves)),
                    vcvt_high_f32_f16(halves),
                ]
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
        fn div_eight(self, a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            // SAFETY: `self` proves NEON.
            unsafe { [vdivq_f32(a[0], b[0]), vdivq_f32(a[1], b[1])] }
        }

        #[inline(always)]
        fn larger_sizes(self, a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            // SAFETY: `self` proves NEON.
            unsafe {
                [
                    vmaxq_f32(vabsq_f32(a[0]), vabsq_f32(b[0])),
                    vmaxq_f32(vabsq_f32(a[1]), vabsq_f32(b[1])),
                ]
            }
        }

        #[inline(always)]
        fn largest_of_fours(self, a: [float32x4_t; 2]) -> [float32x4_t; 2] {
            // SAFETY: `self` proves NEON.
            unsafe { [vdupq_n_f32(vmaxvq_f32(a[0])), vdupq_n_f32(vmaxvq_f32(a[1]))] }
        }

        #[inline(always)]
        fn exchange_fours(self, [first, second]: [float32x4_t; 2]) -> [float32x4_t; 2] {
            [second, first]
        }

        #[inline(always)]
        fn low_words(self, a: [[float32x4_t; 2]; 2]) -> [u16; 2 * CHUNK_UNITS] {
            let mut words = [0; 2 * CHUNK_UNITS];
            for (i, [first, second]) in a.into_iter().enumerate() {
                // SAFETY: `self` proves NEON; the array has room for two registers.
                unsafe {
                    let first = vreinterpretq_u16_f32(first);
                    let second = vreinterpretq_u16_f32(second);
                    let lower = vuzp1q_u16(first, second);
                    vst1q_u16(words.as_mut_ptr().add(i * CHUNK_UNITS), lower);
                }
            }
            words
        }

        #[inline(always)]
        fn low_words_twice(self, a: [float32x4_t; 2]) -> [u16; 2 * CHUNK_UNITS] {
            let mut words = [0; 2 * CHUNK_UNITS];
            for (words, a) in words.as_chunks_mut::<CHUNK_UNITS>().0.iter_mut().zip(a) {
                // SAFETY: `self` proves NEON; a chunk is as long as a register.
                unsafe {
                    let a = vreinterpretq_u16_f32(a);
                    vst1q_u16(words.as_mut_ptr(), vtrn1q_u16(a, a));
                }
            }
            words
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

/// Lower and upper nibbles of each byte.
///
/// # Safety
/// The processor must have NEON.
#[inline(always)]
pub(super) unsafe fn nibbles(bytes: uint8x16_t) -> (uint8x16_t, uint8x16_t) {
    // SAFETY: as above.
    unsafe { (vandq_u8(bytes, vdupq_n_u8(0x0f)), vshrq_n_u8::<4>(bytes)) }
}
