//! Pieces of what 512-bit registers compute.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

/// The words at multiples of `stride` bytes that are among the first 64, up to eight.
///
/// # Safety
/// 128 bytes must be readable at `from`, and the processor must have AVX-512.
#[inline(always)]
pub(super) unsafe fn pick_words(from: *const u8, stride: usize) -> __m128i {
    // SAFETY: as above; words are picked from the registers whatever their numbers.
    unsafe {
        let step = (stride / 2) as i16;
        let numbers = _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7);
        let numbers = _mm512_castsi128_si512(_mm_mullo_epi16(numbers, _mm_set1_epi16(step)));
        let lower = _mm512_loadu_si512(from.cast());
        let upper = _mm512_loadu_si512(from.add(64).cast());
        _mm512_castsi512_si128(_mm512_permutex2var_epi16(lower, numbers, upper))
    }
}

/// Exchanges rows and columns.
///
/// # Safety
/// The processor must have AVX-512.
#[inline(always)]
pub(super) unsafe fn transpose_16(rows: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: as above.
    unsafe {
        // Within quarters of registers, pairs of rows and then pairs of pairs.
        let mut pairs = rows;
        for i in (0..16).step_by(2) {
            pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let mut fours = pairs;
        for i in 0..8 {
            let first = i / 2 * 4 + i % 2;
            let a = _mm512_castps_pd(pairs[first]);
            let b = _mm512_castps_pd(pairs[first + 2]);
            fours[2 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            fours[2 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
        // Even and odd quarters of eight rows, then of all sixteen.
        let mut eights = fours;
        for i in 0..8 {
            let (half, col) = (i / 4 * 8, i % 4);
            let (a, b) = (fours[half + col], fours[half + 4 + col]);
            eights[half + col] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
            eights[half + 4 + col] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
        }
        let mut columns = eights;
        for i in 0..8 {
            let (a, b) = (eights[i], eights[8 + i]);
            columns[i] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
            columns[8 + i] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
        }
        columns
    }
}

/// The scales and minimums of a Q4_K block, integers of 6 bits, given its first 16 bytes four times.
/// The first four of either are the lower bits of a byte; the other four have their lower bits in one
/// of the last four bytes, and the upper ones on top of those bytes.
///
/// # Safety
/// The processor must have AVX-512.
#[inline(always)]
pub(super) unsafe fn six_bits_of(head: __m512i) -> __m512i {
    /// Lanes with byte `LOW`, and byte `HIGH` over it.
    const fn bytes(low: u8, high: u8) -> i32 {
        i32::from_le_bytes([low, high, 0x80, 0x80])
    }
    /// Zeros.
    const NONE: u8 = 0x80;

    // SAFETY: as above.
    unsafe {
        let order = _mm512_setr_epi32(
            bytes(4, NONE),
            bytes(5, NONE),
            bytes(6, NONE),
            bytes(7, NONE),
            bytes(12, 4),
            bytes(13, 5),
            bytes(14, 6),
            bytes(15, 7),
            bytes(8, NONE),
            bytes(9, NONE),
            bytes(10, NONE),
            bytes(11, NONE),
            bytes(12, 8),
            bytes(13, 9),
            bytes(14, 10),
            bytes(15, 11),
        );
        let lanes = _mm512_shuffle_epi8(head, order);
        let shift = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4);
        let mask = _mm512_setr_epi32(
            63, 63, 63, 63, 15, 15, 15, 15, 63, 63, 63, 63, 15, 15, 15, 15,
        );
        let lower = _mm512_and_si512(_mm512_srlv_epi32(lanes, shift), mask);
        let upper = _mm512_and_si512(_mm512_srli_epi32::<10>(lanes), _mm512_set1_epi32(0x30));
        _mm512_or_si512(lower, upper)
    }
}

/// The lower nibble of each byte.
///
/// # Safety
/// The processor must have AVX-512.
#[inline(always)]
pub(super) unsafe fn low_nibbles(bytes: __m512i) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(0x0f)) }
}
