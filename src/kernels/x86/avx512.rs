//! AVX-512 VNNI: registers hold sixteen tokens, or two units.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::f16;

use crate::kernels::activations::ScaleSpan;
use crate::kernels::attention::scores::{KeyScores, score};
use crate::kernels::formats::Format;
use crate::kernels::gemm::tiled::{self, TileRegisters, multiply_tiled};
use crate::kernels::gemm::{GemmTile, multiply};
use crate::kernels::int8::{Group, HALF, Int8, Int8Op, UNIT_LANES, butterfly_signs};
use crate::kernels::x86::Avx512;
use crate::kernels::x86::amx::TilesOfThread;
use crate::kernels::x86::registers::{eight_words, larger_bits, six_bits, with_sum};
use crate::kernels::x86::registers_512::{low_nibbles, pick_words, six_bits_of, transpose_16};

/// Every other byte, from the second on.
const ODD_BYTES: __mmask64 = 0xaaaa_aaaa_aaaa_aaaa;
const SIXTEENTH: f32 = 1.0 / 16.0;
/// A shift by 4 of each of four 16-bit integers.
const NIBBLE: i64 = 0x0004_0004_0004_0004;

// SAFETY: the type is made by `try_new`, which asks the processor, and of such a value by `with_tiles`; registers have the lanes that
// the constants say, and loads and stores are of whole registers or of what they document.
unsafe impl Int8 for Avx512 {
    const FAST_I16: bool = true;
    const UNSIGNED_WEIGHTS: bool = true;
    const WHOLE_BYTES: bool = true;
    const ROWS_TOGETHER: [bool; 2] = [false, true];
    const LANES: usize = 16;
    const TILE_VECTORS: usize = 2;
    const TILE_ROWS: usize = 6;
    type I32 = __m512i;
    type F32 = __m512;
    type Pair = __m512i;
    type PairF32 = __m512;
    type Eight = __m256;
    type ChunkScales = __m512;
    type Words = __m256i;
    common!();

    #[inline(always)]
    fn tile_rows(self, span: ScaleSpan, n_cols: usize) -> usize {
        match self.0 {
            Some(_) if tiled::takes(span, n_cols) => TilesOfThread::ROWS,
            _ => Self::TILE_ROWS,
        }
    }

    #[inline(always)]
    fn gemm<F: Format>(self, tile: GemmTile) {
        const ROWS: usize = TilesOfThread::ROWS;

        match self.0 {
            Some(amx) if tiled::takes(tile.batch.layout.span, tile.weight.n_cols) => {
                // SAFETY: an operation does not run within another one on the same thread.
                let tiles = unsafe { amx.set_up() };
                multiply_tiled::<Self, _, F, ROWS, 2>(self, &tiles, tile);
            }
            _ => multiply::<Self, F, { Self::TILE_ROWS }, 2>(self, tile),
        }
    }

    #[inline(always)]
    fn peak_of_tiles(self, rounds: usize) -> Option<u64> {
        /// Of a block of columns, in each of which the usual registers take a few.
        const SLOWER: usize = 64;

        self.0.map(|amx| amx.peak(rounds.div_ceil(SLOWER)))
    }

    #[inline(always)]
    fn score(self, work: KeyScores) {
        score::<Self, 6, 2>(self, work);
    }

    #[inline(always)]
    fn largest(self, values: &[[f32; HALF]]) -> f32 {
        // SAFETY: the array is as long as a register; `self` proves AVX-512.
        unsafe {
            // As integers, among which NaN comes after infinity: a maximum of floats passes over it.
            let bits = _mm512_set1_epi32(i32::MAX);
            let mut largest = _mm512_setzero_si512();
            for half in values {
                let values = _mm512_loadu_si512(half.as_ptr().cast());
                largest = _mm512_max_epi32(largest, _mm512_and_si512(bits, values));
            }
            f32::from_bits(_mm512_reduce_max_epi32(largest) as u32)
        }
    }

    #[inline(always)]
    fn quantize(self, values: &[f32; HALF], inverse: f32) -> ([i8; HALF], i32) {
        // SAFETY: the array is as long as a register; `self` proves AVX-512.
        unsafe {
            let scaled = _mm512_mul_ps(self.load_f32(values.as_ptr()), self.splat_f32(inverse));
            with_sum(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(scaled)))
        }
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> __m512i {
        // SAFETY: the caller vouches for the integers, `self` for AVX-512.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> __m512 {
        // SAFETY: the caller vouches for the floats, `self` for AVX-512.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        // SAFETY: the caller vouches for the halves, `self` for AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32, values: __m512) {
        // SAFETY: the caller vouches for the floats, `self` for AVX-512.
        unsafe { _mm512_storeu_ps(to, values) }
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        accumulate: bool,
        to: *mut f32,
        to_stride: usize,
    ) {
        // SAFETY: the caller vouches for the squares, `self` for AVX-512.
        unsafe {
            let mut rows = [self.splat_f32(0.0); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = self.load_f32(from.add(i * from_stride));
            }
            for (i, column) in transpose_16(rows).into_iter().enumerate() {
                let to = to.add(i * to_stride);
                let there = match accumulate {
                    true => self.load_f32(to),
                    false => self.splat_f32(0.0),
                };
                self.store_f32(to, _mm512_add_ps(there, column));
            }
        }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, values: __m512i) {
        // SAFETY: the caller vouches for the integers, `self` for AVX-512.
        unsafe { _mm512_storeu_si512(to.cast(), values) }
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn zero_i32(self) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn splat_f32(self, value: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn add_i32(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn shift_left(self, a: __m512i, bits: u32) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sllv_epi32(a, _mm512_set1_epi32(bits as i32)) }
    }

    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cvtps_epi32(a) }
    }

    #[inline(always)]
    fn pack_i16(self, lower: __m512i, upper: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            /// Every other 16 bits.
            const UPPER: __mmask32 = 0xaaaa_aaaa;

            _mm512_mask_blend_epi16(UPPER, lower, _mm512_slli_epi32::<16>(upper))
        }
    }

    #[inline(always)]
    fn dot_i16(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512 VNNI.
        unsafe { _mm512_dpwssd_epi32(sum, a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn add_and_subtract(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512; the arrays of signs are as long as a register.
        unsafe {
            let signs = _mm512_loadu_ps(const { &butterfly_signs::<16>(1) }.as_ptr());
            let a = _mm512_fmadd_ps(a, signs, _mm512_permute_ps::<0b10_11_00_01>(a));
            let signs = _mm512_loadu_ps(const { &butterfly_signs::<16>(2) }.as_ptr());
            let a = _mm512_fmadd_ps(a, signs, _mm512_permute_ps::<0b01_00_11_10>(a));
            let signs = _mm512_loadu_ps(const { &butterfly_signs::<16>(4) }.as_ptr());
            let a = _mm512_fmadd_ps(a, signs, _mm512_shuffle_f32x4::<0b10_11_00_01>(a, a));
            let signs = _mm512_loadu_ps(const { &butterfly_signs::<16>(8) }.as_ptr());
            _mm512_fmadd_ps(a, signs, _mm512_shuffle_f32x4::<0b01_00_11_10>(a, a))
        }
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
        mut sums: [[__m512i; V]; R],
    ) -> [[__m512i; V]; R] {
        let together = kind.len.min(Self::PANEL_COLUMNS);
        for first in (0..kind.len).step_by(together) {
            for step in 0..together / 4 {
                // SAFETY: the caller vouches for the bytes, `self` for AVX-512 VNNI.
                unsafe {
                    let activations = activations.add((first / 4 + step) * stride);
                    let mut a = [_mm512_setzero_si512(); V];
                    for (v, a) in a.iter_mut().enumerate() {
                        *a = _mm512_loadu_si512(activations.add(v * 64).cast());
                    }
                    for r in 0..R {
                        let w = weights.add(first * R + r * together + 4 * step);
                        let w = _mm512_set1_epi32(w.cast::<i32>().read_unaligned());
                        for v in 0..V {
                            sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], w, a[v]);
                        }
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn load_pair(self, first: *const u8, second: *const u8) -> __m512i {
        // SAFETY: the caller vouches for the bytes, `self` for AVX-512.
        unsafe {
            let first = _mm512_castsi256_si512(_mm256_loadu_si256(first.cast()));
            _mm512_inserti64x4::<1>(first, _mm256_loadu_si256(second.cast()))
        }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, first: *const u8, second: *const u8) -> __m512i {
        // SAFETY: the caller vouches for the bytes, `self` for AVX-512.
        unsafe {
            let twice = _mm512_broadcast_i32x4(_mm_loadu_si128(first.cast()));
            let second = _mm_loadu_si128(second.cast());
            let bytes = _mm512_mask_broadcast_i32x4(twice, 0xff00, second);
            // The upper nibbles of every other quarter.
            let shift = _mm512_set_epi64(NIBBLE, NIBBLE, 0, 0, NIBBLE, NIBBLE, 0, 0);
            low_nibbles(_mm512_srlv_epi16(bytes, shift))
        }
    }

    #[inline(always)]
    unsafe fn load_split_nibbles(self, from: *const u8) -> __m512i {
        // SAFETY: the caller vouches for the bytes, `self` for AVX-512.
        unsafe {
            let bytes = _mm512_broadcast_i64x4(_mm256_loadu_si256(from.cast()));
            let shift = _mm512_set_epi64(NIBBLE, NIBBLE, NIBBLE, NIBBLE, 0, 0, 0, 0);
            low_nibbles(_mm512_srlv_epi16(bytes, shift))
        }
    }

    /// The upper nibbles stay where they are: 16 times as large.
    #[inline(always)]
    unsafe fn load_split_bytes(self, from: *const u8) -> __m512i {
        // SAFETY: the caller vouches for the bytes, `self` for AVX-512.
        unsafe {
            let bytes = _mm512_broadcast_i64x4(_mm256_loadu_si256(from.cast()));
            let lower = _mm512_castsi256_si512(_mm256_set1_epi8(0x0f));
            let nibbles = _mm512_inserti64x4::<1>(lower, _mm256_set1_epi8(0xf0_u8 as i8));
            _mm512_and_si512(bytes, nibbles)
        }
    }

    /// Scales in the lower half of registers, minimums in the upper half.
    #[inline(always)]
    unsafe fn scale_block(
        self,
        block: *const u8,
        scales: *const f32,
        sums: *const f32,
        excess: __m256,
    ) -> (__m512, __m256) {
        // SAFETY: the caller vouches for all that is read, `self` for AVX-512.
        unsafe {
            let head = _mm512_broadcast_i32x4(_mm_loadu_si128(block.cast()));
            let integers = _mm512_cvtepi32_ps(six_bits_of(head));
            // The block's two factors, eight times each.
            let halves = _mm256_shuffle_epi8(
                _mm512_castsi512_si256(head),
                _mm256_set_epi64x(
                    0x0302_0302_0302_0302,
                    0x0302_0302_0302_0302,
                    0x0100_0100_0100_0100,
                    0x0100_0100_0100_0100,
                ),
            );
            let of_block = _mm512_mul_ps(integers, _mm512_cvtph_ps(halves));
            // What makes up for `load_split_bytes`: exactly, unless a scale is next to nothing.
            let part = _mm512_setr_ps(
                1.0, SIXTEENTH, 1.0, SIXTEENTH, 1.0, SIXTEENTH, 1.0, SIXTEENTH, 1.0, 1.0, 1.0, 1.0,
                1.0, 1.0, 1.0, 1.0,
            );
            let of_token = _mm512_broadcast_f32x8(_mm256_loadu_ps(scales));
            let products = _mm512_mul_ps(_mm512_mul_ps(of_block, part), of_token);
            let mins = _mm512_extractf32x8_ps::<1>(products);
            let excess = _mm256_fmadd_ps(mins, _mm256_loadu_ps(sums), excess);
            (products, excess)
        }
    }

    #[inline(always)]
    unsafe fn load_half_bytes<const UPPER: bool>(self, from: *const u8) -> __m512i {
        // SAFETY: the caller vouches for the bytes, `self` for AVX-512.
        unsafe {
            let bytes = _mm512_loadu_si512(from.cast());
            let upper = _mm512_srli_epi16::<4>(bytes);
            low_nibbles(if UPPER { upper } else { bytes })
        }
    }

    #[inline(always)]
    unsafe fn with_high_bits<const UPPER: bool>(
        self,
        nibbles: __m512i,
        high: *const u8,
    ) -> __m512i {
        /// A shift by 2 of each of four 16-bit integers.
        const TWO: i64 = 0x0002_0002_0002_0002;

        // SAFETY: the caller vouches for the bytes, `self` for AVX-512.
        unsafe {
            let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(high.cast()));
            let moved = if UPPER {
                _mm512_srlv_epi16(high, _mm512_set_epi64(TWO, TWO, TWO, TWO, 0, 0, 0, 0))
            } else {
                let four = 2 * TWO;
                let shift = _mm512_set_epi64(TWO, TWO, TWO, TWO, four, four, four, four);
                _mm512_sllv_epi16(high, shift)
            };
            _mm512_or_si512(nibbles, _mm512_and_si512(moved, _mm512_set1_epi8(0x30)))
        }
    }

    #[inline(always)]
    fn look_up(self, numbers: __m512i, table: &[u8; 16]) -> __m512i {
        // SAFETY: the array is as long as the register; `self` proves AVX-512.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, numbers)
        }
    }

    #[inline(always)]
    fn from_unsigned<const OFFSET: u8>(self, weights: __m512i) -> __m512i {
        weights
    }

    #[inline(always)]
    fn low_words(self, [a, b]: [__m256; 2]) -> __m256i {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            // Every other word of either register.
            let numbers =
                _mm256_setr_epi16(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            _mm256_permutex2var_epi16(a, numbers, b)
        }
    }

    #[inline(always)]
    fn low_words_twice(self, a: __m256) -> __m256i {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let numbers = _mm256_setr_epi16(0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
            _mm256_permutexvar_epi16(numbers, _mm256_castps_si256(a))
        }
    }

    #[inline(always)]
    fn regroup(self, weights: __m512i, pair: usize, factors: __m256i, offsets: __m256i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            // A quarter of a register for each half of a unit.
            let quarters = _mm512_set_epi64(
                0x0003_0003_0003_0003,
                0x0003_0003_0003_0003,
                0x0002_0002_0002_0002,
                0x0002_0002_0002_0002,
                0x0001_0001_0001_0001,
                0x0001_0001_0001_0001,
                0,
                0,
            );
            let numbers = _mm512_add_epi16(quarters, _mm512_set1_epi16(4 * pair as i16));
            let factors = _mm512_permutexvar_epi16(numbers, _mm512_castsi256_si512(factors));
            let offsets = _mm512_permutexvar_epi16(numbers, _mm512_castsi256_si512(offsets));
            // Bytes at even places, then at odd ones; they stay where they are.
            let even = _mm512_and_si512(weights, _mm512_set1_epi16(0xff));
            let odd = _mm512_srli_epi16::<8>(weights);
            let even = _mm512_add_epi16(_mm512_mullo_epi16(even, factors), offsets);
            let odd = _mm512_add_epi16(_mm512_mullo_epi16(odd, factors), offsets);
            _mm512_mask_blend_epi8(ODD_BYTES, _mm512_srli_epi16::<8>(even), odd)
        }
    }

    #[inline(always)]
    fn flip_signs(self, weights: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_xor_si512(weights, _mm512_set1_epi8(i8::MIN)) }
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: [*mut u8; 4], _: usize, pair: __m512i) {
        // SAFETY: the caller vouches for the bytes, `self` for AVX-512.
        unsafe {
            _mm_storeu_si128(to[0].cast(), _mm512_castsi512_si128(pair));
            _mm_storeu_si128(to[1].cast(), _mm512_extracti32x4_epi32::<1>(pair));
            _mm_storeu_si128(to[2].cast(), _mm512_extracti32x4_epi32::<2>(pair));
            _mm_storeu_si128(to[3].cast(), _mm512_extracti32x4_epi32::<3>(pair));
        }
    }

    #[inline(always)]
    fn pair_zero(self) -> __m512 {
        self.splat_f32(0.0)
    }

    #[inline(always)]
    fn dot_pair(self, _: Group, weights: __m512i, activations: __m512i) -> __m512 {
        // SAFETY: `self` proves AVX-512 VNNI.
        unsafe {
            let zero = _mm512_setzero_si512();
            _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(zero, weights, activations))
        }
    }

    #[inline(always)]
    fn dot_block(self, _: u32, start: i32, w: [__m512i; 2], a: [__m512i; 2]) -> __m512 {
        // SAFETY: `self` proves AVX-512 VNNI.
        unsafe {
            let sums = _mm512_zextsi128_si512(_mm_cvtsi32_si128(start));
            let sums = _mm512_dpbusd_epi32(sums, w[0], a[0]);
            _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(sums, w[1], a[1]))
        }
    }

    #[inline(always)]
    fn add_block(self, products: __m512, scale: f32, sum: __m512) -> __m512 {
        self.mul_add(products, self.splat_f32(scale), sum)
    }

    #[inline(always)]
    fn chunk_scales(self, [lower, upper]: [__m256; 2]) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_insertf32x8::<1>(_mm512_castps256_ps512(lower), upper) }
    }

    #[inline(always)]
    unsafe fn load_eight_f16(self, from: *const u8, stride: usize) -> __m256 {
        // SAFETY: the caller vouches for `8 * stride` bytes, `self` for AVX-512.
        unsafe {
            let words = match stride {
                // All are among the first 64 words, and those are no more bytes than there are.
                16 | 18 => pick_words(from, stride),
                // The four of either half are among its first 64 words, and those are no more bytes
                // than it has.
                32..=42 => {
                    let upper = pick_words(from.add(4 * stride), stride);
                    _mm_unpacklo_epi64(pick_words(from, stride), upper)
                }
                _ => eight_words(from, stride),
            };
            _mm256_cvtph_ps(words)
        }
    }

    #[inline(always)]
    fn add_scaled(
        self,
        groups_per_unit: usize,
        products: __m512,
        scales: __m512,
        pair: usize,
        sum: __m512,
    ) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let groups = if groups_per_unit == 1 {
                _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
            } else {
                _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0)
            };
            let first = _mm512_set1_epi32((2 * pair * groups_per_unit) as i32);
            let scales = _mm512_permutexvar_ps(_mm512_add_epi32(groups, first), scales);
            _mm512_fmadd_ps(products, scales, sum)
        }
    }

    #[inline(always)]
    fn pair_lanes(self, a: __m512) -> [f32; 2 * UNIT_LANES] {
        let mut lanes = [0.0; 2 * UNIT_LANES];
        // SAFETY: the array has room for sixteen floats.
        unsafe { self.store_f32(lanes.as_mut_ptr(), a) };
        lanes
    }
}
