//! Four-way dot products of 128 bits.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use crate::kernels::attention::scores::{KeyScores, score};
use crate::kernels::formats::Format;
use crate::kernels::gemm::{GemmTile, multiply};
use crate::kernels::int8::{CHUNK_UNITS, Group, HALF, Int8, Int8Op, UNIT_LANES};

use crate::kernels::aarch64::{BYTES, DotProd, LANES, nibbles};

/// Adds the products of `a` and `b` to `sums`, four to a lane: an intrinsic that Rust does not have
/// yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the features are enabled; the instruction touches nothing but its operands.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// [`sdot`] with bytes `4 * LANE..4 * LANE + 4` of `b` for every lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot_lane<const LANE: usize>(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the features are enabled; the instruction touches nothing but its operands.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

impl DotProd {
    /// Products summed four at a time.
    #[inline(always)]
    pub(super) fn dot_register(self, weights: int8x16_t, activations: int8x16_t) -> int32x4_t {
        // SAFETY: `self` proves NEON and dot products.
        unsafe { sdot(self.zero_i32(), weights, activations) }
    }

    /// Adds the products of four columns: those of `V` registers of tokens at `activations` with
    /// weights `4 * STEP..4 * STEP + 4` of `R` rows.
    ///
    /// # Safety
    /// `[V][LANES][4]` must be readable at `activations`.
    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    unsafe fn dot_step<const STEP: usize, const R: usize, const V: usize>(
        self,
        weights: [int8x16_t; R],
        activations: *const i8,
        mut sums: [[int32x4_t; V]; R],
    ) -> [[int32x4_t; V]; R] {
        for v in 0..V {
            // SAFETY: the caller vouches for the bytes, `self` for NEON and dot products.
            unsafe {
                let a = vld1q_s8(activations.add(v * BYTES));
                for r in 0..R {
                    sums[r][v] = sdot_lane::<STEP>(sums[r][v], a, weights[r]);
                }
            }
        }
        sums
    }
}

impl Int8 for DotProd {
    common!();

    #[inline(always)]
    unsafe fn dot_group<const R: usize, const V: usize>(
        self,
        kind: Group,
        weights: *const u8,
        activations: *const i8,
        stride: usize,
        mut sums: [[int32x4_t; V]; R],
    ) -> [[int32x4_t; V]; R] {
        // SAFETY: the caller vouches for the bytes, `self` for NEON.
        unsafe {
            // A register holds the weights of four steps, one of which each instruction picks.
            let in_full = kind.len - kind.len % BYTES;
            for first in (0..in_full).step_by(BYTES) {
                let w = std::array::from_fn(|r| vld1q_s8(weights.add(r * kind.len + first).cast()));
                let a = activations.add(first / 4 * stride);
                sums = self.dot_step::<0, R, V>(w, a, sums);
                sums = self.dot_step::<1, R, V>(w, a.add(stride), sums);
                sums = self.dot_step::<2, R, V>(w, a.add(2 * stride), sums);
                sums = self.dot_step::<3, R, V>(w, a.add(3 * stride), sums);
            }
            for first in (in_full..kind.len).step_by(4) {
                let w = std::array::from_fn(|r| {
                    let four = weights.add(r * kind.len + first).cast::<i32>();
                    let four = vsetq_lane_s32::<0>(four.read_unaligned(), self.zero_i32());
                    vreinterpretq_s8_s32(four)
                });
                sums = self.dot_step::<0, R, V>(w, activations.add(first / 4 * stride), sums);
            }
            sums
        }
    }
}
