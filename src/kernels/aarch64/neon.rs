//! Products without instructions for them: 8-bit integers are multiplied into 16 bits.
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
use crate::kernels::aarch64::scales::broadcast_row;
use crate::kernels::aarch64::{BYTES, LANES, Neon};

impl Neon {
    /// Adds products to `sums`, four to a lane.
    #[inline(always)]
    pub(super) fn add_register(
        self,
        sums: int32x4_t,
        weights: int8x16_t,
        activations: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe {
            let lower = vmull_s8(vget_low_s8(weights), vget_low_s8(activations));
            let upper = vmull_high_s8(weights, activations);
            // Two products of whole bytes fit 16 bits: activations reach 127, not 128.
            vpadalq_s16(sums, vpaddq_s16(lower, upper))
        }
    }
}

// SAFETY: the type is made by `try_new` alone, which asks the processor; registers have the lanes that
// the constants say, and loads and stores are of whole registers or of what they document.
unsafe impl Int8 for Neon {
    common!();

    const WHOLE_BYTES: bool = false;
    const TILE_ROWS: usize = 4;

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
        // SAFETY: the caller vouches for the bytes, `self` for NEON.
        unsafe {
            // Sums of pairs stay below 2^15: 2 * 15 * 127 fits eight times, 2 * 32 * 127 four
            // times and 2 * 128 * 127 once.
            let steps_per_sum = match kind.bits {
                4 => 8,
                6 => 4,
                _ => 1,
            };
            // Columns that stay together in the panel.
            let part = kind.len.min(Self::PANEL_COLUMNS);
            for first in (0..kind.len).step_by(part) {
                let weights = weights.add(first * R);
                let activations = activations.add(first / 4 * stride);
                for first in (0..part / 4).step_by(steps_per_sum) {
                    // Of tokens 0 and 1, and of 2 and 3.
                    let mut lower = [[vdupq_n_s16(0); V]; R];
                    let mut upper = lower;
                    for step in first..(first + steps_per_sum).min(part / 4) {
                        let a: [int8x16_t; V] = std::array::from_fn(|v| {
                            vld1q_s8(activations.add(step * stride + v * BYTES))
                        });
                        for r in 0..R {
                            let w = weights.add(r * part + 4 * step).cast::<i32>();
                            let w = vreinterpretq_s8_s32(vdupq_n_s32(w.read_unaligned()));
                            for v in 0..V {
                                let (w_low, a_low) = (vget_low_s8(w), vget_low_s8(a[v]));
                                lower[r][v] = vmlal_s8(lower[r][v], w_low, a_low);
                                upper[r][v] = vmlal_high_s8(upper[r][v], w, a[v]);
                            }
                        }
                    }
                    for r in 0..R {
                        for v in 0..V {
                            let pairs = vpaddq_s16(lower[r][v], upper[r][v]);
                            sums[r][v] = vpadalq_s16(sums[r][v], pairs);
                        }
                    }
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn row_value(self, from: *const f32, row: usize) -> float32x4_t {
        // SAFETY: the caller vouches for the floats, `self` for NEON.
        unsafe { broadcast_row(from, row) }
    }
}
