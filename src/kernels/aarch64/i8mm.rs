//! Products of matrices of 2 by 8 and 8 by 2 integers.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use crate::kernels::attention::scores::{KeyScores, score};
use crate::kernels::formats::Format;
use crate::kernels::gemm::{GemmTile, multiply};
use crate::kernels::int8::{CHUNK_UNITS, Group, HALF, Int8, Int8Op, UNIT_LANES};

use crate::kernels::aarch64::{BYTES, DotProd, I8mm, LANES, nibbles};

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

impl I8mm {
    /// Products summed four at a time.
    #[inline(always)]
    fn dot_register(self, weights: int8x16_t, activations: int8x16_t) -> int32x4_t {
        DotProd(()).dot_register(weights, activations)
    }
}

impl Int8 for I8mm {
    common!();

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
        const { assert!(R.is_multiple_of(2)) };
        assert!(kind.len.is_multiple_of(8));
        // SAFETY: the caller vouches for the bytes, `self` for NEON and products of matrices.
        unsafe {
            // Of rows `2 * i` and `2 * i + 1` of the weights, in the places of those rows, with
            // tokens 0 and 1, and with 2 and 3, of each register.
            let mut products = [[vdupq_n_s32(0); V]; R];
            for first in (0..kind.len).step_by(8) {
                let a = activations.add(first / 4 * stride);
                let tokens: [[int8x16_t; 2]; V] = std::array::from_fn(|v| {
                    // Four columns, and the next four, of four tokens.
                    let a = a.add(v * BYTES).cast::<i32>();
                    let (a, b) = (vld1q_s32(a), vld1q_s32(a.byte_add(stride)));
                    [vzip1q_s32(a, b), vzip2q_s32(a, b)].map(|pair| vreinterpretq_s8_s32(pair))
                });
                for i in 0..R / 2 {
                    let row = |r: usize| vld1_s8(weights.add(r * kind.len + first).cast());
                    let w = vcombine_s8(row(2 * i), row(2 * i + 1));
                    for v in 0..V {
                        for half in 0..2 {
                            let sum = &mut products[2 * i + half][v];
                            *sum = smmla(*sum, w, tokens[v][half]);
                        }
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    let first = vreinterpretq_s64_s32(products[r / 2 * 2][v]);
                    let second = vreinterpretq_s64_s32(products[r / 2 * 2 + 1][v]);
                    let of_row = match r % 2 {
                        0 => vzip1q_s64(first, second),
                        _ => vzip2q_s64(first, second),
                    };
                    sums[r][v] = vaddq_s32(sums[r][v], vreinterpretq_s32_s64(of_row));
                }
            }
            sums
        }
    }
}
