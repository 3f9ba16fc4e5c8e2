//! AVX2: registers hold eight tokens, or a unit; products are of pairs of bytes, in 16 bits, or of words.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::f16;

use crate::kernels::attention::scores::{KeyScores, score};
use crate::kernels::formats::Format;
use crate::kernels::gemm::panel::place;
use crate::kernels::gemm::{GemmTile, multiply};
use crate::kernels::int8::{
    CHUNK_UNITS, Group, HALF, Int8, Int8Op, UNIT, UNIT_LANES, butterfly_signs,
};
use crate::kernels::x86::registers::{
    eight_words, larger_bits, nibbles, of_halves, part_nibbles, regroup_unit, six_bits, sum_pairs,
    transpose_8, with_sum,
};

use crate::kernels::x86::Avx2;

impl Avx2 {
    /// [`Int8::dot_group`] of regrouped weights, which are words: products of pairs of them are summed
    /// in 32 bits at once, where those of bytes would have to be kept from overflowing 16.
    ///
    /// # Safety
    /// As there.
    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    unsafe fn dot_words<const R: usize, const V: usize>(
        self,
        len: usize,
        weights: *const u8,
        activations: *const i8,
        stride: usize,
        mut sums: [[__m256i; V]; R],
    ) -> [[__m256i; V]; R] {
        // SAFETY: the caller vouches for the bytes and words, `self` for AVX2.
        unsafe {
            for v in 0..V {
                // Of four tokens each, the first two columns apart from the other two.
                let mut parts = [[_mm256_setzero_si256(); 2]; R];
                for unit in 0..len / UNIT {
                    let weights = weights.cast::<i16>().add(unit * R * UNIT);
                    let activations = activations.add(unit * UNIT / 4 * stride + v * 32);
                    for step in 0..UNIT / 4 {
                        let a = activations.add(step * stride).cast::<__m128i>();
                        let lower = _mm256_cvtepi8_epi16(_mm_loadu_si128(a));
                        let upper = _mm256_cvtepi8_epi16(_mm_loadu_si128(a.add(1)));
                        for r in 0..R {
                            let w = weights.add(place::<Self>(UNIT, R, r, 4 * step));
                            let w = _mm256_set1_epi64x(w.cast::<i64>().read_unaligned());
                            let [first, second] = &mut parts[r];
                            *first = _mm256_add_epi32(*first, _mm256_madd_epi16(w, lower));
                            *second = _mm256_add_epi32(*second, _mm256_madd_epi16(w, upper));
                        }
                    }
                }
                for r in 0..R {
                    // Adding works within halves of a register, so pairs of tokens end up as 0 2 1 3.
                    let sum = _mm256_hadd_epi32(parts[r][0], parts[r][1]);
                    let sum = _mm256_permute4x64_epi64::<0b11_01_10_00>(sum);
                    sums[r][v] = _mm256_add_epi32(sums[r][v], sum);
                }
            }
            sums
        }
    }

    /// Adds the products of a unit, four at a time.
    #[inline(always)]
    fn add_unit(self, bits: u32, sums: __m256i, weights: __m256i, activations: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX2.
        unsafe {
            if bits < 8 {
                let pairs = _mm256_maddubs_epi16(weights, activations);
                return _mm256_add_epi32(sums, sum_pairs(pairs));
            }
            // Products of whole bytes would overflow 16 bits.
            let (lower, upper) = nibbles(weights);
            let lower = sum_pairs(_mm256_maddubs_epi16(lower, activations));
            let upper = sum_pairs(_mm256_maddubs_epi16(upper, activations));
            let products = _mm256_add_epi32(lower, _mm256_slli_epi32::<4>(upper));
            _mm256_add_epi32(sums, products)
        }
    }
}

// SAFETY: the type is made by `try_new` alone, which asks the processor; registers have the lanes that
// the constants say, and loads and stores are of whole registers or of what they document.
unsafe impl Int8 for Avx2 {
    const FAST_I16: bool = false;
    const UNSIGNED_WEIGHTS: bool = true;
    const WHOLE_BYTES: bool = false;
    const TILE_VECTORS: usize = 1;
    const TILE_ROWS: usize = 6;
    const BYTE_WEIGHT_BYTES: usize = 2;
    common!();
    pairs_256!();
    lanes_256!();

    #[inline(always)]
    unsafe fn store_byte_weights(self, to: [*mut u8; 4], _: usize, [first, second]: [__m256i; 2]) {
        // SAFETY: the caller vouches for twice as many bytes, `self` for AVX2.
        unsafe {
            let halves = [
                _mm256_castsi256_si128(first),
                _mm256_extracti128_si256::<1>(first),
                _mm256_castsi256_si128(second),
                _mm256_extracti128_si256::<1>(second),
            ];
            for (to, half) in to.into_iter().zip(halves) {
                _mm256_storeu_si256(to.cast(), _mm256_cvtepu8_epi16(half));
            }
        }
    }

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
            if kind.bits == 8 {
                return self.dot_words(kind.len, weights, activations, stride, sums);
            }
            // Sums of pairs stay below 2^15: 2 * 15 * 127 fits eight times, 2 * 127 * 127 once.
            let largest_pair = 2 * 127 * ((1_usize << kind.bits) - 1);
            let steps_per_sum = i16::MAX as usize / largest_pair;
            let mut first = 0;
            while first < kind.len / 4 {
                let mut pairs = [[_mm256_setzero_si256(); V]; R];
                for step in first..(first + steps_per_sum).min(kind.len / 4) {
                    let mut a = [_mm256_setzero_si256(); V];
                    for (v, a) in a.iter_mut().enumerate() {
                        *a = _mm256_loadu_si256(activations.add(step * stride + v * 32).cast());
                    }
                    for (r, pairs) in pairs.iter_mut().enumerate() {
                        let w = weights.add(place::<Self>(kind.len, R, r, 4 * step));
                        let w = _mm256_set1_epi32(w.cast::<i32>().read_unaligned());
                        for (pairs, &a) in pairs.iter_mut().zip(&a) {
                            *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(w, a));
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = _mm256_add_epi32(sums[r][v], sum_pairs(pairs[r][v]));
                    }
                }
                first += steps_per_sum;
            }
            sums
        }
    }
}
