//! Pieces of what 256-bit registers compute, for more than one instruction set.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::kernels::int8::{HALF, read_u16};

/// The larger of floats that are not negative, given by their bits, which are in the same order: NaN
/// comes after infinity, while a maximum of floats passes over it.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn larger_bits(a: __m256i, b: __m256i) -> __m256 {
    // SAFETY: as above.
    unsafe { _mm256_castsi256_ps(_mm256_max_epi32(a, b)) }
}

/// See [`Int8::load_six_bits`].
///
/// # Safety
/// 12 bytes must be readable at `from`, and the processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn six_bits(from: *const u8) -> [__m256; 2] {
    // SAFETY: as above.
    unsafe {
        let words = from.cast::<[i32; 3]>().read_unaligned();
        let bytes = _mm_set_epi32(0, words[2], words[1], words[0]);
        let bytes = _mm256_broadcastsi128_si256(bytes);
        [six_bits_from(bytes, 0, 0), six_bits_from(bytes, 4, 4)]
    }
}

/// The first four integers are the lower bits of the bytes from `first` on. Of the other four, the
/// lower bits are in the bytes from 8 on, `shift` bits up, and the upper bits on top of the others.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn six_bits_from(bytes: __m256i, first: i32, shift: i32) -> __m256 {
    // SAFETY: as above.
    unsafe {
        // Each lane gets a byte, or one over another, and zeros.
        let order = _mm256_add_epi32(
            _mm256_setr_epi32(
                -0x100, -0xff, -0xfe, -0xfd, -0xfff8, -0xfef7, -0xfdf6, -0xfcf5,
            ),
            _mm256_setr_epi32(
                first,
                first,
                first,
                first,
                first << 8,
                first << 8,
                first << 8,
                first << 8,
            ),
        );
        let lanes = _mm256_shuffle_epi8(bytes, order);
        let shift = _mm256_setr_epi32(0, 0, 0, 0, shift, shift, shift, shift);
        let mask = _mm256_setr_epi32(63, 63, 63, 63, 15, 15, 15, 15);
        let lower = _mm256_and_si256(_mm256_srlv_epi32(lanes, shift), mask);
        let upper = _mm256_and_si256(_mm256_srli_epi32::<10>(lanes), _mm256_set1_epi32(0x30));
        _mm256_cvtepi32_ps(_mm256_or_si256(lower, upper))
    }
}

/// Eight words, `stride` bytes from one to the next. They are put together in general registers: a
/// register that is loaded from where eight words were just stored would wait for all of them.
///
/// # Safety
/// `8 * stride` bytes must be readable at `from`, and the processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn eight_words(from: *const u8, stride: usize) -> __m128i {
    let mut halves = [0; 2];
    for (i, half) in halves.iter_mut().enumerate() {
        for j in 0..4 {
            // SAFETY: as above.
            let word = unsafe { read_u16(from.add((4 * i + j) * stride)) };
            *half |= i64::from(word) << (16 * j);
        }
    }
    // SAFETY: as above.
    unsafe { _mm_set_epi64x(halves[1], halves[0]) }
}

/// Exchanges rows and columns.
///
/// # Safety
/// The processor must have AVX.
#[inline(always)]
pub(super) unsafe fn transpose_8(rows: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: as above.
    unsafe {
        // Within halves of registers, pairs of rows and then pairs of pairs; at last halves.
        let mut pairs = rows;
        for i in (0..8).step_by(2) {
            pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let mut fours = pairs;
        for i in 0..4 {
            let first = i / 2 * 4 + i % 2;
            let a = _mm256_castps_pd(pairs[first]);
            let b = _mm256_castps_pd(pairs[first + 2]);
            fours[2 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
            fours[2 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        }
        let mut columns = fours;
        for i in 0..4 {
            columns[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            columns[i + 4] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
        }
        columns
    }
}

/// Integers and their sum.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn with_sum(quants: __m128i) -> ([i8; HALF], i32) {
    // SAFETY: as above; the array is as long as the register.
    unsafe {
        // Sums of eight bytes each, of which the sign bit was flipped to make them unsigned.
        let unsigned = _mm_xor_si128(quants, _mm_set1_epi8(i8::MIN));
        let sums = _mm_sad_epu8(unsigned, _mm_setzero_si128());
        let sum = _mm_cvtsi128_si32(_mm_add_epi64(sums, _mm_unpackhi_epi64(sums, sums)));
        let mut out = [0; HALF];
        _mm_storeu_si128(out.as_mut_ptr().cast(), quants);
        (out, sum - HALF as i32 * 128)
    }
}

/// Parts the nibbles of 16 bytes: the lower ones first, then the upper ones.
///
/// # Safety
/// 16 bytes must be readable at `from`, and the processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn part_nibbles(from: *const u8) -> __m256i {
    // SAFETY: as above.
    unsafe {
        let bytes = _mm_loadu_si128(from.cast());
        let lower = _mm256_castsi128_si256(bytes);
        let both = _mm256_inserti128_si256::<1>(lower, _mm_srli_epi16::<4>(bytes));
        _mm256_and_si256(both, _mm256_set1_epi8(0x0f))
    }
}

/// Lower and upper nibbles of each byte.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn nibbles(bytes: __m256i) -> (__m256i, __m256i) {
    // SAFETY: as above.
    unsafe {
        let mask = _mm256_set1_epi8(0x0f);
        let upper = _mm256_srli_epi16::<4>(bytes);
        (_mm256_and_si256(bytes, mask), _mm256_and_si256(upper, mask))
    }
}

/// Sums of adjacent 16-bit integers.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn sum_pairs(pairs: __m256i) -> __m256i {
    // SAFETY: as above.
    unsafe { _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)) }
}

/// Of words for each half of a chunk's units, those of the two units of a pair, each in the half of a
/// register.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn of_halves(words: __m256i, pair: usize) -> [__m256i; 2] {
    // SAFETY: as above.
    unsafe {
        // The four words of the pair everywhere, then each of them.
        let pair = 2 * pair as i32;
        let numbers = _mm256_setr_epi32(
            pair,
            pair + 1,
            pair,
            pair + 1,
            pair,
            pair + 1,
            pair,
            pair + 1,
        );
        let four = _mm256_permutevar8x32_epi32(words, numbers);
        let first = _mm256_set_m128i(_mm_set1_epi16(0x0302), _mm_set1_epi16(0x0100));
        let second = _mm256_set_m128i(_mm_set1_epi16(0x0706), _mm_set1_epi16(0x0504));
        [
            _mm256_shuffle_epi8(four, first),
            _mm256_shuffle_epi8(four, second),
        ]
    }
}

/// [`Int8::regroup`](crate::kernels::int8::Int8::regroup) for one unit.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn regroup_unit(unit: __m256i, factors: __m256i, offsets: __m256i) -> __m256i {
    // SAFETY: as above.
    unsafe {
        // Bytes at even places, then at odd ones; they stay where they are.
        let even = _mm256_and_si256(unit, _mm256_set1_epi16(0xff));
        let odd = _mm256_srli_epi16::<8>(unit);
        let even = _mm256_add_epi16(_mm256_mullo_epi16(even, factors), offsets);
        let odd = _mm256_add_epi16(_mm256_mullo_epi16(odd, factors), offsets);
        let odd = _mm256_andnot_si256(_mm256_set1_epi16(0xff), odd);
        _mm256_or_si256(_mm256_srli_epi16::<8>(even), odd)
    }
}
