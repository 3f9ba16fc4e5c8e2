//! Four-way dot products of 128 bits.
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
use crate::kernels::aarch64::scales::broadcast_row;
use crate::kernels::aarch64::{BYTES, DotProd, LANES};

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

/// The instruction that adds the products of a register of tokens with four columns of a row.
macro_rules! sdot {
    ($sums:literal, $tokens:literal, $rows:literal, $lane:literal) => {
        concat!(
            "sdot v", $sums, ".4s, v", $tokens, ".16b, v", $rows, ".4b[", $lane, "]"
        )
    };
}

impl DotProd {
    /// Adds products to `sums`, four to a lane.
    #[inline(always)]
    pub(super) fn add_register(
        self,
        sums: int32x4_t,
        weights: int8x16_t,
        activations: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: `self` proves NEON and dot products.
        unsafe { sdot(sums, weights, activations) }
    }

    /// Adds the products of four columns of `V` registers of tokens with `R` rows, two of which share
    /// a register as its fours of bytes `EVEN` and `ODD`.
    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    fn add_four<const EVEN: usize, const ODD: usize, const R: usize, const V: usize>(
        self,
        weights: [int8x16_t; PAIRED_ROWS / 2],
        tokens: [int8x16_t; V],
        mut sums: [[int32x4_t; V]; R],
    ) -> [[int32x4_t; V]; R] {
        for v in 0..V {
            for r in 0..R {
                // SAFETY: `self` proves NEON and dot products.
                sums[r][v] = unsafe {
                    match r % 2 {
                        0 => sdot_lane::<EVEN>(sums[r][v], tokens[v], weights[r / 2]),
                        _ => sdot_lane::<ODD>(sums[r][v], tokens[v], weights[r / 2]),
                    }
                };
            }
        }
        sums
    }

    /// Adds the products of columns `8 * step..8 * step + 8`.
    ///
    /// # Safety
    /// As [`Int8::dot_group`].
    #[inline(always)]
    unsafe fn add_eight<const R: usize, const V: usize>(
        self,
        step: usize,
        weights: *const u8,
        activations: *const i8,
        stride: usize,
        mut sums: [[int32x4_t; V]; R],
    ) -> [[int32x4_t; V]; R] {
        // SAFETY: the caller vouches for the bytes, `self` for NEON.
        unsafe {
            let w = load_paired_rows(weights.add(step * R / 2 * BYTES));
            let [first, second] = load_tokens(activations.add(2 * step * stride), stride);
            sums = self.add_four::<0, 2, R, V>(w, first, sums);
            self.add_four::<1, 3, R, V>(w, second, sums)
        }
    }

    /// Adds the products of eight columns of a full tile: what most time is spent on. The registers
    /// are chosen by hand because loads of several take neighbouring ones. Moves both pointers on.
    ///
    /// # Safety
    /// `[PAIRED_ROWS][8]` weights and `[2][2][LANES][4]` activations must be readable.
    #[inline(always)]
    unsafe fn add_full_eight<const R: usize, const V: usize>(
        self,
        weights: &mut *const u8,
        activations: &mut *const i8,
        mut sums: [[int32x4_t; V]; R],
    ) -> [[int32x4_t; V]; R] {
        assert!(R == PAIRED_ROWS && V == 2);
        // SAFETY: the caller vouches for the bytes, `self` for NEON and dot products.
        unsafe {
            asm!(
                "ld1 {{v4.16b, v5.16b, v6.16b}}, [{weights}], #48",
                "ld1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{activations}], #64",
                sdot!(20, 0, 4, 0),
                sdot!(22, 0, 4, 2),
                sdot!(24, 0, 5, 0),
                sdot!(26, 0, 5, 2),
                sdot!(28, 0, 6, 0),
                sdot!(30, 0, 6, 2),
                sdot!(21, 1, 4, 0),
                sdot!(23, 1, 4, 2),
                sdot!(25, 1, 5, 0),
                sdot!(27, 1, 5, 2),
                sdot!(29, 1, 6, 0),
                sdot!(31, 1, 6, 2),
                sdot!(20, 2, 4, 1),
                sdot!(22, 2, 4, 3),
                sdot!(24, 2, 5, 1),
                sdot!(26, 2, 5, 3),
                sdot!(28, 2, 6, 1),
                sdot!(30, 2, 6, 3),
                sdot!(21, 3, 4, 1),
                sdot!(23, 3, 4, 3),
                sdot!(25, 3, 5, 1),
                sdot!(27, 3, 5, 3),
                sdot!(29, 3, 6, 1),
                sdot!(31, 3, 6, 3),
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

/// Eight columns of `V` registers of tokens, four after four, `stride` from one to the other.
///
/// # Safety
/// The processor must have NEON, and `[V][LANES][4]` must be readable at either place.
#[inline(always)]
unsafe fn load_tokens<const V: usize>(from: *const i8, stride: usize) -> [[int8x16_t; V]; 2] {
    // SAFETY: as above.
    unsafe {
        std::array::from_fn(|step| {
            std::array::from_fn(|v| vld1q_s8(from.add(step * stride + v * BYTES)))
        })
    }
}

// SAFETY: the type is made by `try_new` alone, which asks the processor; registers have the lanes that
// the constants say, and loads and stores are of whole registers or of what they document.
unsafe impl Int8 for DotProd {
    common!();

    const WHOLE_BYTES: bool = true;
    const TILE_ROWS: usize = PAIRED_ROWS;
    const PANEL_COLUMNS: usize = 8;

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
        let n_steps = kind.len / Self::PANEL_COLUMNS;
        // SAFETY: the caller vouches for the bytes, `self` for NEON.
        unsafe {
            if V == 2 && stride == V * BYTES {
                let (mut weights, mut activations) = (weights, activations);
                for _ in 0..n_steps {
                    sums = self.add_full_eight(&mut weights, &mut activations, sums);
                }
            } else {
                for step in 0..n_steps {
                    sums = self.add_eight(step, weights, activations, stride, sums);
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn row_value(self, from: *const f32, row: usize) -> float32x4_t {
        // SAFETY: the caller vouches for the floats, `self` for NEON.
        unsafe { broadcast_row(from, row) }
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
}
