//! AVX2: registers hold eight tokens, or a unit; products are of pairs, in 16 bits.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::f16;

use crate::kernels::attention::scores::{KeyScores, score};
use crate::kernels::formats::Format;
use crate::kernels::gemm::panel::place;
use crate::kernels::gemm::{GemmTile, multiply};
use crate::kernels::int8::{CHUNK_UNITS, Group, HALF, Int8, Int8Op, UNIT, UNIT_LANES};
use crate::kernels::x86::registers::{
    eight_words, nibbles, of_halves, part_nibbles, regroup_unit, six_bits, sum_pairs, transpose_8,
    with_sum,
};

use crate::kernels::x86::Avx2;

impl Avx2 {
    /// The products of a unit, summed four at a time.
    #[inline(always)]
    fn dot_unit(self, bits: u32, weights: __m256i, activations: __m256i) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            if bits < 8 {
                let pairs = _mm256_maddubs_epi16(weights, activations);
                return _mm256_cvtepi32_ps(sum_pairs(pairs));
            }
            // Products of whole bytes would overflow 16 bits.
            let (lower, upper) = nibbles(weights);
            let lower = sum_pairs(_mm256_maddubs_epi16(lower, activations));
            let upper = sum_pairs(_mm256_maddubs_epi16(upper, activations));
            _mm256_cvtepi32_ps(_mm256_add_epi32(lower, _mm256_slli_epi32::<4>(upper)))
        }
    }
}

impl Int8 for Avx2 {
    const FAST_I16: bool = false;
    const UNSIGNED_WEIGHTS: bool = true;
    const WHOLE_BYTES: bool = false;
    const TILE_VECTORS: usize = 1;
    const TILE_ROWS: usize = 6;
    common!();
    pairs_256!();
    lanes_256!();

    #[inline(always)]
    fn dot_i16(self, sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    fn gemm<F: Format>(self, tile: GemmTile) {
        multiply::<Self, F, 6, 1>(self, tile);
    }

    #[inline(always)]
    fn score(self, work: KeyScores) {
        score::<Self, 6, 1>(self, work);
    }

    #[inline(always)]
    unsafe fn dot_group<const R: usize, const V: usize>(
        self,
        kind: Group,
        weights: *const u8,
        activations: *const i8,
        stride: usize,
        mut sums: [[__m256i; V]; R],
    ) -> [[__m256i; V]; R] {
        // SAFETY: the caller vouches for the bytes, `self` for AVX2.
        unsafe {
            // Sums of pairs stay below 2^15: 2 * 15 * 127 fits eight times, 2 * 63 * 127 twice.
            // Of whole bytes, either nibble has products of its own.
            let steps_per_sum = match kind.bits {
                6 => 2,
                _ => 8,
            };
            let mut first = 0;
            while first < kind.len / 4 {
                let mut pairs = [[_mm256_setzero_si256(); V]; R];
                let mut upper_pairs = pairs;
                for step in first..(first + steps_per_sum).min(kind.len / 4) {
                    let mut a = [_mm256_setzero_si256(); V];
                    for (v, a) in a.iter_mut().enumerate() {
                        *a = _mm256_loadu_si256(activations.add(step * stride + v * 32).cast());
                    }
                    for r in 0..R {
                        let w = weights.add(place::<Self>(kind.len, R, r, 4 * step));
                        let w = _mm256_set1_epi32(w.cast::<i32>().read_unaligned());
                        for v in 0..V {
                            if kind.bits == 8 {
                                let (lower, upper) = nibbles(w);
                                let lower = _mm256_maddubs_epi16(lower, a[v]);
                                let upper = _mm256_maddubs_epi16(upper, a[v]);
                                pairs[r][v] = _mm256_add_epi16(pairs[r][v], lower);
                                upper_pairs[r][v] = _mm256_add_epi16(upper_pairs[r][v], upper);
                            } else {
                                let products = _mm256_maddubs_epi16(w, a[v]);
                                pairs[r][v] = _mm256_add_epi16(pairs[r][v], products);
                            }
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..V {
                        let mut sum = sum_pairs(pairs[r][v]);
                        if kind.bits == 8 {
                            let upper = _mm256_slli_epi32::<4>(sum_pairs(upper_pairs[r][v]));
                            sum = _mm256_add_epi32(sum, upper);
                        }
                        sums[r][v] = _mm256_add_epi32(sums[r][v], sum);
                    }
                }
                first += steps_per_sum;
            }
            sums
        }
    }
}
