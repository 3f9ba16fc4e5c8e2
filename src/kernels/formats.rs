//! How the int8 kernels read each block format, two units of 32 columns at a time.
//!
//! To the kernels all formats look alike: small integers, a scale for each group of 32 or 16, and in
//! some formats a minimum for each unit, which is subtracted.
#![allow(unsafe_code)]

use crate::gguf::DType;
use crate::kernels::int8::{BLOCK, CHUNK_UNITS, Int8, UNIT, read_u16};
use crate::quant::h4::LEVELS;

/// The scales and minimums of a chunk.
#[derive(Clone, Copy)]
pub struct Scales<I: Int8> {
    /// One for each group; the second eight only where groups are half units.
    pub groups: [I::Eight; 2],
    /// One for each unit; zeros where the format has no minimums.
    pub mins: I::Eight,
}

/// A block format: a weight is `scale * integer`, or `scale * integer - min`.
///
/// # Safety
/// Kernels check the length of a row by [`Format::DTYPE`]'s blocks, whose length is a multiple of
/// [`UNIT`], and then read it through the methods: those must read nothing beyond the row that they
/// are told of. [`Format::GROUP`] is [`UNIT`] or half of it, and [`Format::OFFSET`] is zero or a power of
/// two; with [`Format::HAS_MINS`] or two groups in a unit, a block has 256 values.
pub unsafe trait Format {
    /// The type it reads.
    const DTYPE: DType;
    /// Columns that share a scale: 32 or 16.
    const GROUP: usize;
    /// What the stored integers have to be reduced by, if they are unsigned.
    const OFFSET: u8;
    /// Bits of an unsigned integer: 4, 6, 7 or 8.
    const BITS: u32;
    /// The largest size of an integer: of a signed one, or of an unsigned one with minimums. A -128 of
    /// [`Q8_0`], which no quantizer makes, is more: it may come out wrong, but does no harm.
    const LARGEST: f32;
    /// Whether there are minimums.
    const HAS_MINS: bool;
    /// Whether a block is [`BLOCK`] columns with one scale and no minimums: what rotated activations
    /// have too, so that all products of a block are summed as integers.
    const IS_COARSE: bool = false;
    /// Scales of a unit.
    const GROUPS_PER_UNIT: usize = UNIT / Self::GROUP;

    /// The integers of units `2 * pair` and `2 * pair + 1` of a row of `n_units`, or of any number if
    /// it surely has both. Where there is no second one, it is the first again.
    ///
    /// # Safety
    /// `row` must point to a row of `n_units`, and the first unit must be one of them.
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair;

    /// [`Format::pair`] as unsigned integers, which are [`Format::OFFSET`] larger.
    ///
    /// # Safety
    /// As [`Format::pair`].
    unsafe fn unsigned_pair<I: Int8>(
        isa: I,
        row: *const u8,
        pair: usize,
        n_units: usize,
    ) -> I::Pair;

    /// [`Format::pair`] with an offset of 128 where weights are unsigned, of a coarse format.
    ///
    /// # Safety
    /// As [`Format::pair`].
    #[inline(always)]
    unsafe fn byte_pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair {
        // SAFETY: passed on.
        unsafe { Self::pair(isa, row, pair, n_units) }
    }

    /// [`Format::pair`] for a product with [`Int8::scale_block`]'s scales, if it has minimums.
    ///
    /// # Safety
    /// As [`Format::pair`].
    #[inline(always)]
    unsafe fn scaled_pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair {
        // SAFETY: passed on.
        unsafe { Self::pair(isa, row, pair, n_units) }
    }

    /// The scales of the chunk of a row that starts at unit `first` and has `n_units`. Those of
    /// units that are not there are the last one's again.
    ///
    /// # Safety
    /// `row` must point to a row that has those units.
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, n_units: usize) -> Scales<I>;
}

/// See [`DType::Q8_0`].
#[derive(Debug)]
pub enum Q8_0 {}
/// See [`DType::Q4_0`].
#[derive(Debug)]
#[allow(non_camel_case_types, reason = "the name is ggml's")]
pub enum Q4_0 {}
/// See [`DType::Q4_K`].
#[derive(Debug)]
#[allow(non_camel_case_types, reason = "the name is ggml's")]
pub enum Q4_K {}
/// See [`DType::Q6_K`].
#[derive(Debug)]
#[allow(non_camel_case_types, reason = "the name is ggml's")]
pub enum Q6_K {}

/// See [`DType::H8`].
#[derive(Debug)]
pub enum H8 {}
/// See [`DType::H4`].
#[derive(Debug)]
pub enum H4 {}

/// Computes an expression with `$format` as the type that stands for a block format: the one table of
/// those that the kernels multiply.
macro_rules! with_format {
    ($dtype:expr, $format:ident => $compute:expr) => {
        $crate::kernels::formats::with_format!(
            @ $dtype, $format, $compute, [Q8_0, Q4_0, Q4_K, Q6_K, H8, H4]
        )
    };
    (@ $dtype:expr, $format:ident, $compute:expr, [$($name:ident),*]) => {
        match $dtype {
            $($crate::gguf::DType::$name => {
                type $format = $crate::kernels::formats::$name;
                $compute
            })*
            $crate::gguf::DType::F32 | $crate::gguf::DType::F16 | $crate::gguf::DType::BF16 => {
                unreachable!("floats have a path of their own")
            }
        }
    };
}
pub(in crate::kernels) use with_format;

/// How far ahead weights are asked for.
pub const AHEAD_BYTES: usize = 8192;

/// Asks for the cache lines of a chunk of a row some way ahead, in this row or the next ones: the work on a
/// chunk is too long for the processor to look that far by itself.
#[inline(always)]
pub fn prefetch_ahead<I: Int8, F: Format>(isa: I, row: &[u8], first: usize) {
    let unit_bytes = F::DTYPE.block_bytes() * UNIT / F::DTYPE.block_len();
    let chunk = row.as_ptr().wrapping_add(first * unit_bytes);
    prefetch(
        isa,
        chunk.wrapping_add(AHEAD_BYTES),
        CHUNK_UNITS * unit_bytes,
    );
}

#[inline(always)]
fn prefetch<I: Int8>(isa: I, from: *const u8, n_bytes: usize) {
    const LINE_BYTES: usize = 64;

    for line in (0..n_bytes).step_by(LINE_BYTES) {
        isa.prefetch(from.wrapping_add(line));
    }
}

/// Signed bytes as an instruction set's weights.
#[inline(always)]
fn from_signed_bytes<I: Int8>(isa: I, integers: I::Pair) -> I::Pair {
    match I::UNSIGNED_WEIGHTS {
        true => isa.flip_signs(integers),
        false => integers,
    }
}

/// The weights of [`from_signed_bytes`] as unsigned ones with an offset of 128.
#[inline(always)]
fn to_unsigned_bytes<I: Int8>(isa: I, weights: I::Pair) -> I::Pair {
    match I::UNSIGNED_WEIGHTS {
        true => weights,
        false => isa.flip_signs(weights),
    }
}

/// The units of a pair; the last one stands twice where it has no second.
#[inline(always)]
fn units_of(pair: usize, n_units: usize) -> [usize; 2] {
    [2 * pair, (2 * pair + 1).min(n_units - 1)]
}

/// Scales of a format whose blocks of one unit begin with a half-precision scale.
///
/// # Safety
/// `row` must point to a row that has the units.
#[inline(always)]
unsafe fn scales_before_units<I: Int8>(
    isa: I,
    row: *const u8,
    first: usize,
    n_units: usize,
    block_bytes: usize,
) -> Scales<I> {
    let zero = isa.splat_eight(0.0);
    // SAFETY: the units are the row's.
    let scales = unsafe {
        let from = row.add(first * block_bytes);
        if n_units == CHUNK_UNITS {
            isa.load_eight_f16(from, block_bytes)
        } else {
            let mut bits = [0; CHUNK_UNITS];
            for (i, bits) in bits.iter_mut().enumerate() {
                *bits = read_u16(from.add(i.min(n_units - 1) * block_bytes));
            }
            isa.eight_from_f16(bits)
        }
    };
    Scales {
        groups: [scales, zero],
        mins: zero,
    }
}

// SAFETY: the methods read a unit of a block, its scale, or a whole block, at the offsets that
// `quant` documents; constants are as asked for.
unsafe impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const BITS: u32 = 8;
    const LARGEST: f32 = 127.0;
    const HAS_MINS: bool = false;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair {
        let [first, second] = units_of(pair, n_units);
        // SAFETY: the row has these units: 2 bytes of scale, then 32 of integers.
        let integers = unsafe { isa.load_pair(row.add(first * 34 + 2), row.add(second * 34 + 2)) };
        from_signed_bytes(isa, integers)
    }

    #[inline(always)]
    unsafe fn unsigned_pair<I: Int8>(
        isa: I,
        row: *const u8,
        pair: usize,
        n_units: usize,
    ) -> I::Pair {
        // SAFETY: passed on.
        unsafe { to_unsigned_bytes(isa, Self::pair(isa, row, pair, n_units)) }
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, n_units: usize) -> Scales<I> {
        // SAFETY: passed on.
        unsafe { scales_before_units(isa, row, first, n_units, 34) }
    }
}

// SAFETY: the methods read a unit of a block, its scale, or a whole block, at the offsets that
// `quant` documents; constants are as asked for.
unsafe impl Format for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const GROUP: usize = 32;
    const OFFSET: u8 = 8;
    const BITS: u32 = 4;
    const LARGEST: f32 = 8.0;
    const HAS_MINS: bool = false;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair {
        // SAFETY: passed on.
        let weights = unsafe { Self::unsigned_pair(isa, row, pair, n_units) };
        isa.from_unsigned::<{ Q4_0::OFFSET }>(weights)
    }

    #[inline(always)]
    unsafe fn unsigned_pair<I: Int8>(
        isa: I,
        row: *const u8,
        pair: usize,
        n_units: usize,
    ) -> I::Pair {
        let [first, second] = units_of(pair, n_units);
        // SAFETY: the row has these units: 2 bytes of scale, then 16 of nibbles.
        unsafe { isa.load_nibbles(row.add(first * 18 + 2), row.add(second * 18 + 2)) }
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, n_units: usize) -> Scales<I> {
        // SAFETY: passed on.
        unsafe { scales_before_units(isa, row, first, n_units, 18) }
    }
}

/// Bytes of a Q4_K block: two half floats, 12 bytes of scales and minimums, 128 of nibbles.
const Q4_K_BYTES: usize = 144;

/// Where the nibbles of a pair of units are.
///
/// # Safety
/// `row` must point to a row that has the pair.
#[inline(always)]
unsafe fn q4_k_nibbles(row: *const u8, pair: usize) -> *const u8 {
    // SAFETY: as above.
    unsafe { row.add(pair / 4 * Q4_K_BYTES + 16 + pair % 4 * UNIT) }
}

// SAFETY: the methods read a unit of a block, its scale, or a whole block, at the offsets that
// `quant` documents; constants are as asked for.
unsafe impl Format for Q4_K {
    const DTYPE: DType = DType::Q4_K;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const BITS: u32 = 4;
    const LARGEST: f32 = 15.0;
    const HAS_MINS: bool = true;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair {
        // SAFETY: passed on.
        unsafe { Self::unsigned_pair(isa, row, pair, n_units) }
    }

    #[inline(always)]
    unsafe fn unsigned_pair<I: Int8>(isa: I, row: *const u8, pair: usize, _: usize) -> I::Pair {
        // SAFETY: the row has this block; either unit has half of 32 bytes.
        unsafe { isa.load_split_nibbles(q4_k_nibbles(row, pair)) }
    }

    #[inline(always)]
    unsafe fn scaled_pair<I: Int8>(isa: I, row: *const u8, pair: usize, _: usize) -> I::Pair {
        // SAFETY: likewise.
        unsafe { isa.load_split_bytes(q4_k_nibbles(row, pair)) }
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, _: usize) -> Scales<I> {
        // SAFETY: the row has this block.
        unsafe {
            let block = row.add(first / 8 * Q4_K_BYTES);
            let [scale, min] = isa.load_two_f16(block);
            let [scales, mins] = isa.load_six_bits(block.add(4));
            Scales {
                groups: [isa.mul_eight(scales, scale), isa.splat_eight(0.0)],
                mins: isa.mul_eight(mins, min),
            }
        }
    }
}

/// Bytes of a Q6_K block: 128 of lower nibbles, 64 of upper bits, 16 scales, a half float.
const Q6_K_BYTES: usize = 210;

// SAFETY: the methods read a unit of a block, its scale, or a whole block, at the offsets that
// `quant` documents; constants are as asked for.
unsafe impl Format for Q6_K {
    const DTYPE: DType = DType::Q6_K;
    const GROUP: usize = 16;
    const OFFSET: u8 = 32;
    const BITS: u32 = 6;
    const LARGEST: f32 = 32.0;
    const HAS_MINS: bool = false;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair {
        // SAFETY: passed on.
        let weights = unsafe { Self::unsigned_pair(isa, row, pair, n_units) };
        isa.from_unsigned::<{ Q6_K::OFFSET }>(weights)
    }

    #[inline(always)]
    unsafe fn unsigned_pair<I: Int8>(isa: I, row: *const u8, pair: usize, _: usize) -> I::Pair {
        // SAFETY: the row has this block. Of each half of it, the two pairs share 64 bytes of
        // nibbles and 32 bytes of upper bits.
        unsafe {
            let half = pair / 2 % 2;
            let block = row.add(pair / 4 * Q6_K_BYTES);
            let (nibbles, high) = (block.add(half * 64), block.add(128 + half * UNIT));
            if pair.is_multiple_of(2) {
                isa.with_high_bits::<false>(isa.load_half_bytes::<false>(nibbles), high)
            } else {
                isa.with_high_bits::<true>(isa.load_half_bytes::<true>(nibbles), high)
            }
        }
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, _: usize) -> Scales<I> {
        // SAFETY: the row has this block.
        unsafe {
            let block = row.add(first / 8 * Q6_K_BYTES);
            let [_, scale] = isa.load_two_f16(block.add(206));
            let lower = isa.load_eight_i8(block.add(192).cast());
            let upper = isa.load_eight_i8(block.add(200).cast());
            Scales {
                groups: [isa.mul_eight(lower, scale), isa.mul_eight(upper, scale)],
                mins: isa.splat_eight(0.0),
            }
        }
    }
}

/// Units of a block of the coarse formats.
const BLOCK_UNITS: usize = BLOCK / UNIT;

/// Scales of a coarse format.
///
/// # Safety
/// `row` must point to a row that has the units.
#[inline(always)]
unsafe fn scales_of_blocks<I: Int8, F: Format>(
    isa: I,
    row: *const u8,
    first: usize,
    n_units: usize,
) -> Scales<I> {
    const { assert!(F::IS_COARSE) };
    let zero = isa.splat_eight(0.0);
    // SAFETY: the block is the row's.
    let scale = |unit: usize| unsafe {
        let block = (first + unit.min(n_units - 1)) / BLOCK_UNITS;
        read_u16(row.add(block * F::DTYPE.block_bytes()))
    };
    let (a, b) = (scale(0), scale(BLOCK_UNITS));
    Scales {
        groups: [isa.eight_from_f16([a, a, a, a, b, b, b, b]), zero],
        mins: zero,
    }
}

/// Where the integers of the block with a pair of units of a coarse format are.
///
/// # Safety
/// `row` must point to a row that has the pair.
#[inline(always)]
unsafe fn block_of<F: Format>(row: *const u8, pair: usize) -> *const u8 {
    // SAFETY: as above.
    unsafe { row.add(pair / 2 * F::DTYPE.block_bytes() + 2) }
}

// SAFETY: the methods read a pair of units of a block, or its scale, at the offsets that `quant`
// documents; blocks are whole, so that a pair has both; constants are as asked for.
unsafe impl Format for H8 {
    const DTYPE: DType = DType::H8;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const BITS: u32 = 8;
    const LARGEST: f32 = 127.0;
    const HAS_MINS: bool = false;
    const IS_COARSE: bool = true;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, _: usize) -> I::Pair {
        // SAFETY: the row has this pair, of as many bytes.
        let integers = unsafe {
            let first = block_of::<H8>(row, pair).add(pair % 2 * 2 * UNIT);
            isa.load_pair(first, first.add(UNIT))
        };
        from_signed_bytes(isa, integers)
    }

    #[inline(always)]
    unsafe fn unsigned_pair<I: Int8>(
        isa: I,
        row: *const u8,
        pair: usize,
        n_units: usize,
    ) -> I::Pair {
        // SAFETY: passed on.
        unsafe { to_unsigned_bytes(isa, Self::pair(isa, row, pair, n_units)) }
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, n_units: usize) -> Scales<I> {
        // SAFETY: passed on.
        unsafe { scales_of_blocks::<I, H8>(isa, row, first, n_units) }
    }
}

/// H4's levels plus `offset`, as bytes.
const fn levels(offset: u8) -> [u8; 16] {
    let mut levels = [0; 16];
    let mut i = 0;
    while i < levels.len() {
        levels[i] = (LEVELS[i] as u8).wrapping_add(offset);
        i += 1;
    }
    levels
}

impl H4 {
    /// The levels of a pair of units plus `OFFSET`.
    ///
    /// # Safety
    /// `row` must point to a row that has the pair.
    #[inline(always)]
    unsafe fn levels<I: Int8, const OFFSET: u8>(isa: I, row: *const u8, pair: usize) -> I::Pair {
        // SAFETY: the row has this block; either pair has half of 64 bytes.
        let numbers = unsafe {
            match pair.is_multiple_of(2) {
                true => isa.load_half_bytes::<false>(block_of::<H4>(row, pair)),
                false => isa.load_half_bytes::<true>(block_of::<H4>(row, pair)),
            }
        };
        isa.look_up(numbers, const { &levels(OFFSET) })
    }
}

// SAFETY: the methods read a pair of units of a block, or its scale, at the offsets that `quant`
// documents; blocks are whole, so that a pair has both; constants are as asked for.
unsafe impl Format for H4 {
    const DTYPE: DType = DType::H4;
    const GROUP: usize = 32;
    const OFFSET: u8 = 64;
    const BITS: u32 = 7;
    const LARGEST: f32 = 63.0;
    const HAS_MINS: bool = false;
    const IS_COARSE: bool = true;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, _: usize) -> I::Pair {
        // SAFETY: passed on.
        unsafe {
            match I::UNSIGNED_WEIGHTS {
                true => Self::levels::<I, { H4::OFFSET }>(isa, row, pair),
                false => Self::levels::<I, 0>(isa, row, pair),
            }
        }
    }

    #[inline(always)]
    unsafe fn unsigned_pair<I: Int8>(isa: I, row: *const u8, pair: usize, _: usize) -> I::Pair {
        // SAFETY: passed on.
        unsafe { Self::levels::<I, { H4::OFFSET }>(isa, row, pair) }
    }

    #[inline(always)]
    unsafe fn byte_pair<I: Int8>(isa: I, row: *const u8, pair: usize, _: usize) -> I::Pair {
        // SAFETY: passed on.
        unsafe {
            match I::UNSIGNED_WEIGHTS {
                true => Self::levels::<I, 128>(isa, row, pair),
                false => Self::levels::<I, 0>(isa, row, pair),
            }
        }
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, n_units: usize) -> Scales<I> {
        // SAFETY: passed on.
        unsafe { scales_of_blocks::<I, H4>(isa, row, first, n_units) }
    }
}
