//! Tiles of six rows by eight columns; a register holds two columns.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use crate::kernels::aarch64::LANES;

/// Rows of such a tile.
pub(super) const PAIRED_ROWS: usize = 6;

/// 3 * 2^22 as a float. Read as an integer, and added to, it is the float that is as much larger, up
/// to 2^22.
const MAGIC: f32 = 12_582_912.0;

/// What [`sum_to_f32`] takes for zeros, four registers by one load each. Setting a register takes a
/// turn of the units that multiply, which are what everything waits for; loading does not.
///
/// # Safety
/// The processor must have NEON.
#[inline(always)]
pub(super) unsafe fn load_zero_sums<const R: usize, const V: usize>() -> [[int32x4_t; V]; R] {
    static ZEROS: [f32; 4 * LANES] = [MAGIC; 4 * LANES];

    // SAFETY: the processor has NEON.
    let mut tile = [[unsafe { vreinterpretq_s32_f32(vdupq_n_f32(MAGIC)) }; V]; R];
    if R == PAIRED_ROWS && V == 2 {
        // SAFETY: it reads the four registers that there are. It does not claim to be pure, lest the
        // compiler load once and copy.
        unsafe {
            asm!(
                "ld1 {{v20.4s, v21.4s, v22.4s, v23.4s}}, [{zeros}]",
                "ld1 {{v24.4s, v25.4s, v26.4s, v27.4s}}, [{zeros}]",
                "ld1 {{v28.4s, v29.4s, v30.4s, v31.4s}}, [{zeros}]",
                zeros = in(reg) &raw const ZEROS,
                out("v20") tile[0][0],
                out("v21") tile[0][1],
                out("v22") tile[1][0],
                out("v23") tile[1][1],
                out("v24") tile[2][0],
                out("v25") tile[2][1],
                out("v26") tile[3][0],
                out("v27") tile[3][1],
                out("v28") tile[4][0],
                out("v29") tile[4][1],
                out("v30") tile[5][0],
                out("v31") tile[5][1],
                options(readonly, nostack, preserves_flags)
            );
        }
    }
    tile
}

/// Sums that began with [`load_zero_sums`] as floats, exactly. It takes a subtraction; converting
/// integers takes four times as long on a Cortex-A76, which does it in one unit at half the speed.
///
/// # Safety
/// The processor must have NEON.
#[inline(always)]
pub(super) unsafe fn sum_to_f32(sum: int32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vsubq_f32(vreinterpretq_f32_s32(sum), vdupq_n_f32(MAGIC)) }
}

/// Eight columns of each row of a tile.
///
/// # Safety
/// The processor must have NEON, and the rows be readable.
#[inline(always)]
pub(super) unsafe fn load_paired_rows(from: *const u8) -> [int8x16_t; PAIRED_ROWS / 2] {
    // SAFETY: as above.
    let int8x16x3_t(a, b, c) = unsafe { vld1q_s8_x3(from.cast()) };
    [a, b, c]
}
