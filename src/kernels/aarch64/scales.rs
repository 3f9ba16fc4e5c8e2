//! Scales of a tile's rows, which lie side by side.
#![allow(unsafe_code)]

use std::arch::aarch64::*;

use crate::kernels::aarch64::LANES;

/// The values of the rows that `row`'s lies in a register with: each four, or the last two, twice.
/// Whoever asks for all rows of a tile has each register loaded once, by the compiler.
///
/// # Safety
/// The processor must have NEON, and the values of these rows be readable.
#[inline(always)]
pub(super) unsafe fn load_rows_with(from: *const f32, row: usize) -> float32x4_t {
    // SAFETY: the caller vouches for the floats and NEON.
    unsafe {
        if row < LANES {
            return vld1q_f32(from);
        }
        let last = vld1_f32(from.add(LANES));
        vcombine_f32(last, last)
    }
}

/// The value of a row in all lanes. A product takes it from where it was loaded.
///
/// # Safety
/// As [`load_rows_with`].
#[inline(always)]
pub(super) unsafe fn broadcast_row(from: *const f32, row: usize) -> float32x4_t {
    // SAFETY: the caller vouches for the floats and NEON.
    unsafe {
        let values = load_rows_with(from, row);
        match row % LANES {
            0 => vdupq_laneq_f32::<0>(values),
            1 => vdupq_laneq_f32::<1>(values),
            2 => vdupq_laneq_f32::<2>(values),
            _ => vdupq_laneq_f32::<3>(values),
        }
    }
}
