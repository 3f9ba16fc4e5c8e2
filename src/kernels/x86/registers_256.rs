//! What AVX2 and AVX-VNNI have in common: registers of 256 bits.
#![allow(unsafe_code)]

/// Pairs of units in two registers of 256 bits.
macro_rules! pairs_256 {
    () => {
        type Pair = [__m256i; 2];
        type PairF32 = [__m256; 2];
        type Eight = __m256;
        type ChunkScales = [f32; 2 * CHUNK_UNITS];
        type Words = __m256i;

        #[inline(always)]
        unsafe fn load_pair(self, first: *const u8, second: *const u8) -> [__m256i; 2] {
            // SAFETY: the caller vouches for the bytes, `self` for AVX.
            unsafe {
                [
                    _mm256_loadu_si256(first.cast()),
                    _mm256_loadu_si256(second.cast()),
                ]
            }
        }

        #[inline(always)]
        unsafe fn load_nibbles(self, first: *const u8, second: *const u8) -> [__m256i; 2] {
            // SAFETY: the caller vouches for the bytes, `self` for AVX2.
            unsafe { [part_nibbles(first), part_nibbles(second)] }
        }

        #[inline(always)]
        unsafe fn load_split_nibbles(self, from: *const u8) -> [__m256i; 2] {
            // SAFETY: the caller vouches for the bytes, `self` for AVX2.
            unsafe {
                let (lower, upper) = nibbles(_mm256_loadu_si256(from.cast()));
                [lower, upper]
            }
        }

        #[inline(always)]
        unsafe fn load_half_bytes<const UPPER: bool>(self, from: *const u8) -> [__m256i; 2] {
            // SAFETY: the caller vouches for the bytes, `self` for AVX2.
            unsafe {
                [from, from.add(UNIT)].map(|from| {
                    let (lower, upper) = nibbles(_mm256_loadu_si256(from.cast()));
                    if UPPER { upper } else { lower }
                })
            }
        }

        #[inline(always)]
        unsafe fn with_high_bits<const UPPER: bool>(
            self,
            nibbles: [__m256i; 2],
            high: *const u8,
        ) -> [__m256i; 2] {
            // SAFETY: the caller vouches for the bytes, `self` for AVX2.
            unsafe {
                let high = _mm256_loadu_si256(high.cast());
                let moved = if UPPER {
                    [high, _mm256_srli_epi16::<2>(high)]
                } else {
                    [_mm256_slli_epi16::<4>(high), _mm256_slli_epi16::<2>(high)]
                };
                let mask = _mm256_set1_epi8(0x30);
                [
                    _mm256_or_si256(nibbles[0], _mm256_and_si256(moved[0], mask)),
                    _mm256_or_si256(nibbles[1], _mm256_and_si256(moved[1], mask)),
                ]
            }
        }

        #[inline(always)]
        fn look_up(self, numbers: [__m256i; 2], table: &[u8; 16]) -> [__m256i; 2] {
            // SAFETY: the array is as long as the register; `self` proves AVX2.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                [
                    _mm256_shuffle_epi8(table, numbers[0]),
                    _mm256_shuffle_epi8(table, numbers[1]),
                ]
            }
        }

        #[inline(always)]
        fn from_unsigned<const OFFSET: u8>(self, weights: [__m256i; 2]) -> [__m256i; 2] {
            weights
        }

        #[inline(always)]
        fn low_words(self, [a, b]: [__m256; 2]) -> __m256i {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let mask = _mm256_set1_epi32(0xffff);
                let a = _mm256_and_si256(_mm256_castps_si256(a), mask);
                let b = _mm256_and_si256(_mm256_castps_si256(b), mask);
                // Halves of either register take turns.
                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b))
            }
        }

        #[inline(always)]
        fn low_words_twice(self, a: __m256) -> __m256i {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let order = _mm256_setr_epi32(
                    0x0100_0100,
                    0x0504_0504,
                    0x0908_0908,
                    0x0d0c_0d0c,
                    0x0100_0100,
                    0x0504_0504,
                    0x0908_0908,
                    0x0d0c_0d0c,
                );
                _mm256_shuffle_epi8(_mm256_castps_si256(a), order)
            }
        }

        #[inline(always)]
        fn regroup(
            self,
            weights: [__m256i; 2],
            pair: usize,
            factors: __m256i,
            offsets: __m256i,
        ) -> [__m256i; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let (factors, offsets) = (of_halves(factors, pair), of_halves(offsets, pair));
                [
                    regroup_unit(weights[0], factors[0], offsets[0]),
                    regroup_unit(weights[1], factors[1], offsets[1]),
                ]
            }
        }

        #[inline(always)]
        fn flip_signs(self, [first, second]: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let offset = _mm256_set1_epi8(i8::MIN);
                [
                    _mm256_xor_si256(first, offset),
                    _mm256_xor_si256(second, offset),
                ]
            }
        }

        #[inline(always)]
        unsafe fn store_halves(self, to: [*mut u8; 4], _: usize, [first, second]: [__m256i; 2]) {
            // SAFETY: the caller vouches for the bytes, `self` for AVX2.
            unsafe {
                _mm_storeu_si128(to[0].cast(), _mm256_castsi256_si128(first));
                _mm_storeu_si128(to[1].cast(), _mm256_extracti128_si256::<1>(first));
                _mm_storeu_si128(to[2].cast(), _mm256_castsi256_si128(second));
                _mm_storeu_si128(to[3].cast(), _mm256_extracti128_si256::<1>(second));
            }
        }

        #[inline(always)]
        fn pair_zero(self) -> [__m256; 2] {
            // SAFETY: `self` proves AVX.
            unsafe { [_mm256_setzero_ps(); 2] }
        }

        #[inline(always)]
        fn dot_pair(self, kind: Group, w: [__m256i; 2], a: [__m256i; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let zero = _mm256_setzero_si256();
                [
                    _mm256_cvtepi32_ps(self.add_unit(kind.bits, zero, w[0], a[0])),
                    _mm256_cvtepi32_ps(self.add_unit(kind.bits, zero, w[1], a[1])),
                ]
            }
        }

        #[inline(always)]
        fn dot_block(
            self,
            bits: u32,
            start: i32,
            w: [[__m256i; 2]; 2],
            a: [[__m256i; 2]; 2],
        ) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let zero = _mm256_setzero_si256();
                let first = _mm256_zextsi128_si256(_mm_cvtsi32_si128(start));
                let first = self.add_unit(bits, first, w[0][0], a[0][0]);
                let second = self.add_unit(bits, zero, w[0][1], a[0][1]);
                [
                    _mm256_cvtepi32_ps(self.add_unit(bits, first, w[1][0], a[1][0])),
                    _mm256_cvtepi32_ps(self.add_unit(bits, second, w[1][1], a[1][1])),
                ]
            }
        }

        #[inline(always)]
        fn add_block(self, products: [__m256; 2], scale: f32, sum: [__m256; 2]) -> [__m256; 2] {
            let scale = self.splat_f32(scale);
            [
                self.mul_add(products[0], scale, sum[0]),
                self.mul_add(products[1], scale, sum[1]),
            ]
        }

        #[inline(always)]
        fn chunk_scales(self, [lower, upper]: [__m256; 2]) -> [f32; 2 * CHUNK_UNITS] {
            let mut scales = [0.0; 2 * CHUNK_UNITS];
            // SAFETY: the array has room for both.
            unsafe {
                _mm256_storeu_ps(scales.as_mut_ptr(), lower);
                _mm256_storeu_ps(scales.as_mut_ptr().add(CHUNK_UNITS), upper);
            }
            scales
        }

        #[inline(always)]
        unsafe fn load_eight_f16(self, from: *const u8, stride: usize) -> __m256 {
            // SAFETY: the caller vouches for the bytes, `self` for F16C.
            unsafe { _mm256_cvtph_ps(eight_words(from, stride)) }
        }

        #[inline(always)]
        fn add_scaled(
            self,
            groups_per_unit: usize,
            products: [__m256; 2],
            scales: [f32; 2 * CHUNK_UNITS],
            pair: usize,
            mut sum: [__m256; 2],
        ) -> [__m256; 2] {
            let units = scales[2 * pair * groups_per_unit..].chunks_exact(groups_per_unit);
            // No closure, which might not be compiled for AVX2.
            for ((sum, products), scales) in sum.iter_mut().zip(products).zip(units) {
                // SAFETY: `self` proves AVX2 and FMA.
                unsafe {
                    let lower = _mm256_set1_ps(scales[0]);
                    let upper = _mm256_set1_ps(scales[groups_per_unit - 1]);
                    let scale = _mm256_blend_ps::<0b1111_0000>(lower, upper);
                    *sum = _mm256_fmadd_ps(products, scale, *sum);
                }
            }
            sum
        }

        #[inline(always)]
        fn pair_lanes(self, [first, second]: [__m256; 2]) -> [f32; 2 * UNIT_LANES] {
            let mut lanes = [0.0; 2 * UNIT_LANES];
            // SAFETY: `self` proves AVX; the array has room for sixteen floats.
            unsafe {
                _mm256_storeu_ps(lanes.as_mut_ptr(), first);
                _mm256_storeu_ps(lanes.as_mut_ptr().add(UNIT_LANES), second);
            }
            lanes
        }
    };
}

/// Lanes over tokens of 256 bits.
macro_rules! lanes_256 {
    () => {
        const LANES: usize = 8;
        type I32 = __m256i;
        type F32 = __m256;

        #[inline(always)]
        fn largest(self, values: &[[f32; HALF]]) -> f32 {
            // SAFETY: the array holds two registers; `self` proves AVX2.
            unsafe {
                let bits = _mm256_set1_epi32(i32::MAX);
                let mut largest = [_mm256_setzero_si256(); 2];
                for half in values {
                    for (largest, at) in largest.iter_mut().zip([0, HALF / 2]) {
                        let values = _mm256_loadu_si256(half.as_ptr().add(at).cast());
                        *largest = _mm256_max_epi32(*largest, _mm256_and_si256(bits, values));
                    }
                }
                let eight = _mm256_max_epi32(largest[0], largest[1]);
                let upper = _mm256_extracti128_si256::<1>(eight);
                let four = _mm_max_epi32(_mm256_castsi256_si128(eight), upper);
                let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
                let one = _mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
                f32::from_bits(_mm_cvtsi128_si32(one) as u32)
            }
        }

        #[inline(always)]
        fn quantize(self, values: &[f32; HALF], inverse: f32) -> ([i8; HALF], i32) {
            // SAFETY: the array holds two registers; `self` proves AVX2.
            unsafe {
                let inverse = _mm256_set1_ps(inverse);
                let first = _mm256_mul_ps(_mm256_loadu_ps(values.as_ptr()), inverse);
                let second = _mm256_loadu_ps(values.as_ptr().add(HALF / 2));
                let second = _mm256_mul_ps(second, inverse);
                let (first, second) = (_mm256_cvtps_epi32(first), _mm256_cvtps_epi32(second));
                // Packing works within halves of a register, so quarters end up as 0 2 1 3.
                let words = _mm256_packs_epi32(first, second);
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
                let lower = _mm256_castsi256_si128(words);
                let quants = _mm_packs_epi16(lower, _mm256_extracti128_si256::<1>(words));
                with_sum(quants)
            }
        }

        #[inline(always)]
        unsafe fn load_i32(self, from: *const i32) -> __m256i {
            // SAFETY: the caller vouches for the integers, `self` for AVX.
            unsafe { _mm256_loadu_si256(from.cast()) }
        }

        #[inline(always)]
        unsafe fn load_f32(self, from: *const f32) -> __m256 {
            // SAFETY: the caller vouches for the floats, `self` for AVX.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_f16(self, from: *const f16) -> __m256 {
            // SAFETY: the caller vouches for the halves, `self` for F16C.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }

        #[inline(always)]
        unsafe fn store_f32(self, to: *mut f32, values: __m256) {
            // SAFETY: the caller vouches for the floats, `self` for AVX.
            unsafe { _mm256_storeu_ps(to, values) }
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
            // SAFETY: the caller vouches for the squares, `self` for AVX.
            unsafe {
                let mut rows = [self.splat_f32(0.0); 8];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = self.load_f32(from.add(i * from_stride));
                }
                for (i, column) in transpose_8(rows).into_iter().enumerate() {
                    let to = to.add(i * to_stride);
                    let there = match accumulate {
                        true => self.load_f32(to),
                        false => self.splat_f32(0.0),
                    };
                    self.store_f32(to, _mm256_add_ps(there, column));
                }
            }
        }

        #[inline(always)]
        unsafe fn store_i32(self, to: *mut i32, values: __m256i) {
            // SAFETY: the caller vouches for the integers, `self` for AVX2.
            unsafe { _mm256_storeu_si256(to.cast(), values) }
        }

        #[inline(always)]
        fn splat_i32(self, value: i32) -> __m256i {
            // SAFETY: `self` proves AVX2.
            unsafe { _mm256_set1_epi32(value) }
        }

        #[inline(always)]
        fn zero_i32(self) -> __m256i {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_setzero_si256() }
        }

        #[inline(always)]
        fn splat_f32(self, value: f32) -> __m256 {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        fn add_i32(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: `self` proves AVX2.
            unsafe { _mm256_add_epi32(a, b) }
        }

        #[inline(always)]
        fn shift_left(self, a: __m256i, bits: u32) -> __m256i {
            // SAFETY: `self` proves AVX2.
            unsafe { _mm256_sllv_epi32(a, _mm256_set1_epi32(bits as i32)) }
        }

        #[inline(always)]
        fn to_f32(self, a: __m256i) -> __m256 {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_cvtepi32_ps(a) }
        }

        #[inline(always)]
        fn round(self, a: __m256) -> __m256i {
            // SAFETY: `self` proves AVX2.
            unsafe { _mm256_cvtps_epi32(a) }
        }

        #[inline(always)]
        fn pack_i16(self, lower: __m256i, upper: __m256i) -> __m256i {
            // SAFETY: `self` proves AVX2.
            unsafe { _mm256_blend_epi16::<0b1010_1010>(lower, _mm256_slli_epi32::<16>(upper)) }
        }

        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: `self` proves FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_add_ps(a, b) }
        }

        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_sub_ps(a, b) }
        }

        #[inline(always)]
        fn add_and_subtract(self, a: __m256) -> __m256 {
            // SAFETY: `self` proves AVX2 and FMA; the arrays of signs are as long as a register.
            unsafe {
                let signs = _mm256_loadu_ps(const { &butterfly_signs::<8>(1) }.as_ptr());
                let a = _mm256_fmadd_ps(a, signs, _mm256_permute_ps::<0b10_11_00_01>(a));
                let signs = _mm256_loadu_ps(const { &butterfly_signs::<8>(2) }.as_ptr());
                let a = _mm256_fmadd_ps(a, signs, _mm256_permute_ps::<0b01_00_11_10>(a));
                let signs = _mm256_loadu_ps(const { &butterfly_signs::<8>(4) }.as_ptr());
                _mm256_fmadd_ps(a, signs, _mm256_permute2f128_ps::<1>(a, a))
            }
        }
    };
}
