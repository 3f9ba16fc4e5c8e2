//! NEON, with and without dot products and products of matrices.
#![allow(unsafe_code)]

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

#[macro_use]
mod columns;

/// What all three have in common: all but the products.
macro_rules! common {
    () => {
        const FAST_I16: bool = false;
        const UNSIGNED_WEIGHTS: bool = false;
        const ROWS_TOGETHER: [bool; 2] = [true, false];
        const LANES: usize = LANES;
        const TILE_VECTORS: usize = 2;
        type I32 = int32x4_t;
        type F32 = float32x4_t;
        columns!();

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
        fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vaddq_f32(a, b) }
        }

        #[inline(always)]
        fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: `self` proves NEON.
            unsafe { vsubq_f32(a, b) }
        }

        #[inline(always)]
        fn add_and_subtract(self, a: float32x4_t) -> float32x4_t {
            // SAFETY: `self` proves NEON; the arrays of signs are as long as a register.
            unsafe {
                let signs = vld1q_f32(const { &butterfly_signs::<4>(1) }.as_ptr());
                let a = vfmaq_f32(vrev64q_f32(a), a, signs);
                let signs = vld1q_f32(const { &butterfly_signs::<4>(2) }.as_ptr());
                vfmaq_f32(vextq_f32::<2>(a, a), a, signs)
            }
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
    };
}

// After the macros that they use.
mod dotprod;
mod i8mm;
mod neon;
mod paired;
mod scales;
