//! AVX2, AVX-VNNI, AVX-512 VNNI, and AMX beside it.
#![allow(unsafe_code)]

use crate::kernels::int8::Int8Op;
use amx::Amx;

/// 256-bit integer multiplication without a four-way dot product.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// Four-way dot products of 256 bits.
#[derive(Clone, Copy, Debug)]
pub struct AvxVnni(());

/// Four-way dot products of 512 bits, and perhaps registers of whole tiles for batches.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(Option<Amx>);

impl Avx512 {
    /// With tile registers, if the processor has them and the system lets them be used.
    pub fn with_tiles(self) -> Option<Self> {
        Amx::try_new().map(|amx| Avx512(Some(amx)))
    }
}

/// The constructor and the dispatch of a token: both list the same features, on which the safety
/// of all intrinsics below rests.
macro_rules! token {
    ($token:ident, $features:literal, $($feature:tt),*) => {
        impl $token {
            /// Proof that the processor has this instruction set, if it does.
            pub fn try_new() -> Option<Self> {
                ($(is_x86_feature_detected!($feature))&&*).then_some($token(Default::default()))
            }

            #[target_feature(enable = $features)]
            fn vectorized<Op: Int8Op>(self, op: Op) -> Op::Output {
                op.run(self)
            }
        }
    };
}
token!(Avx2, "avx2,fma,f16c", "avx2", "fma", "f16c");
token!(
    AvxVnni,
    "avx2,fma,f16c,avxvnni",
    "avx2",
    "fma",
    "f16c",
    "avxvnni"
);
token!(
    Avx512,
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512vnni"
);

/// What all three have in common.
macro_rules! common {
    () => {
        #[inline(always)]
        fn vectorize<Op: Int8Op>(self, op: Op) -> Op::Output {
            // SAFETY: `self` proves that the processor has the features of this function.
            unsafe { self.vectorized(op) }
        }

        #[inline(always)]
        fn prefetch(self, address: *const u8) {
            // SAFETY: a prefetch of any address is harmless; every x86-64 processor has it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        #[inline(always)]
        fn prefetch_to_write(self, address: *const u8) {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn load_eight(self, from: *const f32) -> __m256 {
            // SAFETY: the caller vouches for the floats, `self` for AVX.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_eight_i32(self, from: *const i32) -> __m256 {
            // SAFETY: the caller vouches for the integers, `self` for AVX.
            unsafe { _mm256_cvtepi32_ps(_mm256_loadu_si256(from.cast())) }
        }

        #[inline(always)]
        unsafe fn load_eight_i8(self, from: *const i8) -> __m256 {
            // SAFETY: the caller vouches for the bytes, `self` for AVX2.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_six_bits(self, from: *const u8) -> [__m256; 2] {
            // SAFETY: the caller vouches for the bytes, `self` for AVX2.
            unsafe { six_bits(from) }
        }

        #[inline(always)]
        unsafe fn load_two_f16(self, from: *const u8) -> [__m256; 2] {
            // SAFETY: the caller vouches for the bytes, `self` for F16C and AVX2.
            unsafe {
                // Loaded together: a load of two bytes would wait for what the register held.
                let bits = from.cast::<i32>().read_unaligned();
                let first = _mm_cvtph_ps(_mm_cvtsi32_si128(bits));
                let second = _mm_movehdup_ps(first);
                [_mm256_broadcastss_ps(first), _mm256_broadcastss_ps(second)]
            }
        }

        #[inline(always)]
        fn eight_from_f16(self, bits: [u16; 8]) -> __m256 {
            // SAFETY: the array holds 128 bits; `self` proves F16C.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast())) }
        }

        #[inline(always)]
        fn splat_eight(self, value: f32) -> __m256 {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        fn twice(self, a: __m256) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let lower = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
                let upper = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
                [
                    _mm256_permutevar8x32_ps(a, lower),
                    _mm256_permutevar8x32_ps(a, upper),
                ]
            }
        }

        #[inline(always)]
        fn mul_eight(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        fn mul_add_eight(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: `self` proves FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn div_eight(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_div_ps(a, b) }
        }

        #[inline(always)]
        fn larger_sizes(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let bits = _mm256_set1_epi32(i32::MAX);
                larger_bits(
                    _mm256_and_si256(_mm256_castps_si256(a), bits),
                    _mm256_and_si256(_mm256_castps_si256(b), bits),
                )
            }
        }

        #[inline(always)]
        fn largest_of_fours(self, a: __m256) -> __m256 {
            // SAFETY: `self` proves AVX2.
            unsafe {
                let a = _mm256_castps_si256(a);
                let pairs = _mm256_max_epi32(a, _mm256_shuffle_epi32::<0b10_11_00_01>(a));
                larger_bits(pairs, _mm256_shuffle_epi32::<0b01_00_11_10>(pairs))
            }
        }

        #[inline(always)]
        fn exchange_fours(self, a: __m256) -> __m256 {
            // SAFETY: `self` proves AVX.
            unsafe { _mm256_permute2f128_ps::<1>(a, a) }
        }

        #[inline(always)]
        fn eight_values(self, a: __m256) -> [f32; 8] {
            let mut values = [0.0; 8];
            // SAFETY: the array is as long as the register.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr(), a) };
            values
        }
    };
}

// After the macro that it uses.
mod amx;
mod avx512;
mod registers;
mod registers_512;

// Before the modules that use its macros.
#[macro_use]
mod registers_256;
mod avx2;
mod avxvnni;
