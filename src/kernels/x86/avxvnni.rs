//! AVX-VNNI: registers hold eight tokens, or a unit.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::f16;

use crate::kernels::attention::scores::{KeyScores, score};
use crate::kernels::formats::Format;
use crate::kernels::gemm::{GemmTile, multiply};
use crate::kernels::int8::{
    CHUNK_UNITS, Group, HALF, Int8, Int8Op, UNIT, UNIT_LANES, butterfly_signs,
};
use crate::kernels::x86::registers::{
    eight_words, larger_bits, nibbles, of_halves, part_nibbles, regroup_unit, six_bits,
    transpose_8, with_sum,
};

use crate::kernels::x86::AvxVnni;

impl AvxVnni {
    /// Adds the products of a unit, four at a time.
    #[inline(always)]
    fn add_unit(self, _: u32, sums: __m256i, weights: __m256i, activations: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(sums, weights, activations) }
    }
}

// SAFETY: the type is made by `try_new` alone, which asks the processor; registers have the lanes that
// the constants say, and loads and stores are of whole registers or of what they document.
unsafe impl Int8 for AvxVnni {
    const FAST_I16: bool = true;
    const UNSIGNED_WEIGHTS: bool = true;
    const WHOLE_BYTES: bool = true;
    const TILE_VECTORS: usize = 1;
    const TILE_ROWS: usize = 6;
    common!();
    pairs_256!();
    lanes_256!();

    #[inline(always)]
    fn dot_i16(self, sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX-VNNI.
        unsafe { _mm256_dpwssd_avx_epi32(sum, a, b) }
    }

    #[inline(always)]
    fn gemm<F: Format>(self, tile: GemmTile) {
        multiply::<Self, F, 6, 1>(self, tile);
    }

    #[inline(always)]
    fn score(self, work: KeyScores) {
        score::<Self, 6, 1>(self, work);
    }

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
        mut sums: [[__m256i; V]; R],
    ) -> [[__m256i; V]; R] {
        let together = kind.len.min(Self::PANEL_COLUMNS);
        for first in (0..kind.len).step_by(together) {
            for step in 0..together / 4 {
                // SAFETY: the caller vouches for the bytes, `self` for AVX-VNNI.
                unsafe {
                    let activations = activations.add((first / 4 + step) * stride);
                    let mut a = [_mm256_setzero_si256(); V];
                    for (v, a) in a.iter_mut().enumerate() {
                        *a = _mm256_loadu_si256(activations.add(v * 32).cast());
                    }
                    for r in 0..R {
                        let w = weights.add(first * R + r * together + 4 * step);
                        let w = _mm256_set1_epi32(w.cast::<i32>().read_unaligned());
                        for v in 0..V {
                            sums[r][v] = _mm256_dpbusd_avx_epi32(sums[r][v], w, a[v]);
                        }
                    }
                }
            }
        }
        sums
    }
}
