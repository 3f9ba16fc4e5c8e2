//! Products of matrices of 2 by 8 and 8 by 2 integers.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use crate::kernels::attention::scores::{KeyScores, score};
use crate::kernels::formats::Format;
use crate::kernels::gemm::{GemmTile, multiply};
use crate::kernels::int8::{
    CHUNK_UNITS, Group, HALF, Int8, Int8Op, UNIT, UNIT_LANES, butterfly_signs,
};

use crate::kernels::aarch64::columns::nibbles;
use crate::kernels::aarch64::paired::{PAIRED_ROWS, load_paired_rows, load_zero_sums, sum_to_f32};
use crate::kernels::aarch64::scales::load_rows_with;
use crate::kernels::aarch64::{BYTES, DotProd, I8mm, LANES};

/// Adds the products of two rows of 8 bytes in `a` with two in `b` to `sums: [2, 2]`: an intrinsic
/// that Rust does not have yet.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the features are enabled; the instruction touches nothing but its operands.
    unsafe {
        asm!(
            "smmla {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// The instruction that adds the products of eight columns of two rows with those of two tokens.
macro_rules! smmla {
    ($sums:literal, $rows:literal, $tokens:literal) => {
        concat!(
            "smmla v", $sums, ".4s, v", $rows, ".16b, v", $tokens, ".16b"
        )
    };
}

impl I8mm {
    /// Adds products to `sums`, four to a lane.
    #[inline(always)]
    fn add_register(
        self,
        sums: int32x4_t,
        weights: int8x16_t,
        activations: int8x16_t,
    ) -> int32x4_t {
        DotProd(()).add_register(sums, weights, activations)
    }
}

impl I8mm {
    /// Adds the products of eight columns.
    ///
    /// # Safety
    /// `[PAIRED_ROWS][8]` weights and `[V][LANES][8]` activations must be readable.
    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    unsafe fn add_eight<const R: usize, const V: usize>(
        self,
        weights: *const u8,
        activations: *const i8,
        mut sums: [[int32x4_t; V]; R],
    ) -> [[int32x4_t; V]; R] {
        // SAFETY: the caller vouches for the bytes, `self` for NEON and products of matrices.
        unsafe {
            let w = load_paired_rows(weights);
            for v in 0..V {
                for half in 0..2 {
                    let tokens = vld1q_s8(activations.add((2 * v + half) * BYTES));
                    for i in 0..R / 2 {
                        let sum = &mut sums[2 * i + half][v];
                        *sum = smmla(*sum, w[i], tokens);
                    }
                }
            }
        }
        sums
    }

    /// [`I8mm::add_eight`] for a full tile: what most time is spent on. The registers are chosen by
    /// hand because loads of several take neighbouring ones. Moves both pointers on.
    ///
    /// # Safety
    /// As [`I8mm::add_eight`].
    #[inline(always)]
    unsafe fn add_full_eight<const R: usize, const V: usize>(
        self,
        weights: &mut *const u8,
        activations: &mut *const i8,
        mut sums: [[int32x4_t; V]; R],
    ) -> [[int32x4_t; V]; R] {
        assert!(R == PAIRED_ROWS && V == 2);
        // SAFETY: the caller vouches for the bytes, `self` for NEON and products of matrices.
        unsafe {
            asm!(
                "ld1 {{v4.16b, v5.16b, v6.16b}}, [{weights}], #48",
                "ld1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{activations}], #64",
                smmla!(20, 4, 0),
                smmla!(24, 5, 0),
                smmla!(28, 6, 0),
                smmla!(22, 4, 1),
                smmla!(26, 5, 1),
                smmla!(30, 6, 1),
                smmla!(21, 4, 2),
                smmla!(25, 5, 2),
                smmla!(29, 6, 2),
                smmla!(23, 4, 3),
                smmla!(27, 5, 3),
                smmla!(31, 6, 3),
                weights = inout(reg) *weights,
                activations = inout(reg) *activations,
                inout("v20") sums[0][0],
                inout("v21") sums[0][1],
                inout("v22") sums[1][0],
                inout("v23") sums[1][1],
                inout("v24") sums[2][0],
                inout("v25") sums[2][1],
                inout("v26") sums[3][0],
                inout("v27") sums[3][1],
                inout("v28") sums[4][0],
                inout("v29") sums[4][1],
                inout("v30") sums[5][0],
                inout("v31") sums[5][1],
                out("v0") _,
                out("v1") _,
                out("v2") _,
                out("v3") _,
                out("v4") _,
                out("v5") _,
                out("v6") _,
                options(readonly, nostack, preserves_flags)
            );
        }
        sums
    }
}

/// Sums of [`Int8::dot_group`] at `[2 * i + half][v]` are those of rows `2 * i` and `2 * i + 1` with
/// tokens `2 * half` and `2 * half + 1` of register `v`: row by row, as the instruction makes them.
// SAFETY: the type is made by `try_new` alone, which asks the processor; registers have the lanes that
// the constants say, and loads and stores are of whole registers or of what they document.
unsafe impl Int8 for I8mm {
    common!();

    const WHOLE_BYTES: bool = true;
    const TILE_ROWS: usize = PAIRED_ROWS;
    const COLUMNS: usize = 8;
    const PANEL_COLUMNS: usize = 8;

    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    unsafe fn dot_group<const R: usize, const V: usize>(
        self,
        kind: Group,
        weights: *const u8,
        activations: *const i8,
        stride: usize,
        mut sums: [[int32x4_t; V]; R],
    ) -> [[int32x4_t; V]; R] {
        assert!(R == PAIRED_ROWS);
        assert!(kind.len.is_multiple_of(Self::COLUMNS));
        // SAFETY: the caller vouches for the bytes, `self` for NEON and products of matrices.
        unsafe {
            let n_steps = kind.len / Self::COLUMNS;
            if V == 2 && stride == 2 * V * BYTES {
                let (mut weights, mut activations) = (weights, activations);
                for _ in 0..n_steps {
                    sums = self.add_full_eight(&mut weights, &mut activations, sums);
                }
            } else {
                for step in 0..n_steps {
                    let weights = weights.add(step * R / 2 * BYTES);
                    sums = self.add_eight(weights, activations.add(step * stride), sums);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn zero_sums<const R: usize, const V: usize>(self) -> [[int32x4_t; V]; R] {
        // SAFETY: `self` proves NEON.
        unsafe { load_zero_sums() }
    }

    #[inline(always)]
    fn sum_to_f32(self, sum: int32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { sum_to_f32(sum) }
    }

    #[inline(always)]
    unsafe fn row_value(self, from: *const f32, row: usize) -> float32x4_t {
        // SAFETY: the caller vouches for the floats, `self` for NEON.
        unsafe {
            let values = load_rows_with(from, row);
            // Those of two rows, twice each.
            match row / 2 % 2 {
                0 => vzip1q_f32(values, values),
                _ => vzip2q_f32(values, values),
            }
        }
    }

    #[inline(always)]
    fn token_values(self, row: usize, values: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe {
            let values = vreinterpretq_f64_f32(values);
            vreinterpretq_f32_f64(match row % 2 {
                0 => vdupq_laneq_f64::<0>(values),
                _ => vdupq_laneq_f64::<1>(values),
            })
        }
    }

    #[inline(always)]
    fn by_rows<const R: usize, const V: usize>(
        self,
        sums: [[float32x4_t; V]; R],
    ) -> [[float32x4_t; V]; R] {
        std::array::from_fn(|r| {
            std::array::from_fn(|v| {
                // SAFETY: `self` proves NEON.
                unsafe {
                    let first = vreinterpretq_f64_f32(sums[r / 2 * 2][v]);
                    let second = vreinterpretq_f64_f32(sums[r / 2 * 2 + 1][v]);
                    vreinterpretq_f32_f64(match r % 2 {
                        0 => vzip1q_f64(first, second),
                        _ => vzip2q_f64(first, second),
                    })
                }
            })
        })
    }
}
