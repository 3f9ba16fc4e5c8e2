//! How the int8 kernels read each block format, two units of 32 columns at a time.
//!
//! Every format is the same to them: small integers, a scale for each group of 32 or 16, and for
//! some a minimum a unit that is subtracted.
#![allow(unsafe_code)]

use crate::gguf::DType;
use crate::kernels::int8::{CHUNK_UNITS, Int8, UNIT};

/// The scales and minimums of a chunk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scales {
    /// One for each group, `CHUNK_UNITS * UNIT / GROUP` of them.
    pub scales: [f32; 2 * CHUNK_UNITS],
    /// One for each unit, where the format has minimums.
    pub mins: [f32; CHUNK_UNITS],
}

/// A block format: a weight is `scale * integer`, or `scale * integer - min`.
pub trait Format {
    /// The type it reads.
    const DTYPE: DType;
    /// Columns that share a scale: 32 or 16.
    const GROUP: usize;
    /// What the stored integers have to be reduced by, if they are unsigned.
    const OFFSET: u8;
    /// Bits of an unsigned integer: 4, 6 or 8.
    const BITS: u32;
    /// Whether there are minimums.
    const HAS_MINS: bool;
    /// Scales of a unit.
    const GROUPS_PER_UNIT: usize = UNIT / Self::GROUP;

    /// The integers of units `2 * pair` and `2 * pair + 1` of a row of `n_units`. Where there is no
    /// second one, it is the first again.
    ///
    /// # Safety
    /// `row` must point to a row of `n_units`, and the first unit must be one of them.
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair;

    /// The scales of the chunk of a row that starts at unit `first` and has `n_units`.
    ///
    /// # Safety
    /// `row` must point to a row that has those units.
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, n_units: usize) -> Scales;
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

/// Asks for the cache lines of a chunk of a row some way ahead, in this row or the next ones: the work on a
/// chunk is too long for the processor to look that far by itself.
#[inline(always)]
pub fn prefetch_ahead<I: Int8, F: Format>(isa: I, row: &[u8], first: usize) {
    const AHEAD_BYTES: usize = 4096;
    const LINE_BYTES: usize = 64;

    let unit_bytes = F::DTYPE.block_bytes() * UNIT / F::DTYPE.block_len();
    let chunk = row.as_ptr().wrapping_add(first * unit_bytes + AHEAD_BYTES);
    for line in (0..CHUNK_UNITS * unit_bytes).step_by(LINE_BYTES) {
        isa.prefetch(chunk.wrapping_add(line));
    }
}

/// Half-precision bits at `at`.
///
/// # Safety
/// Two bytes must be readable there.
#[inline(always)]
unsafe fn f16_bits(at: *const u8) -> u16 {
    // SAFETY: as above.
    u16::from_le_bytes(unsafe { at.cast::<[u8; 2]>().read() })
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
) -> Scales {
    let bits = std::array::from_fn(|i| {
        // A chunk at the end of a row may be short; its missing scales repeat the last.
        let unit = first + i.min(n_units - 1);
        // SAFETY: the unit is one of the row's.
        unsafe { f16_bits(row.add(unit * block_bytes)) }
    });
    let mut scales = Scales::default();
    scales.scales[..CHUNK_UNITS].copy_from_slice(&isa.from_f16(bits));
    scales
}

impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const BITS: u32 = 8;
    const HAS_MINS: bool = false;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair {
        let integers = units_of(pair, n_units).map(|unit| row.wrapping_add(unit * 34 + 2));
        // SAFETY: the row has these units: 2 bytes of scale, then 32 of integers.
        isa.from_signed(unsafe { isa.load_pair(integers[0], integers[1]) })
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, n_units: usize) -> Scales {
        // SAFETY: passed on.
        unsafe { scales_before_units(isa, row, first, n_units, 34) }
    }
}

impl Format for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const GROUP: usize = 32;
    const OFFSET: u8 = 8;
    const BITS: u32 = 4;
    const HAS_MINS: bool = false;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, n_units: usize) -> I::Pair {
        let nibbles = units_of(pair, n_units).map(|unit| row.wrapping_add(unit * 18 + 2));
        // SAFETY: the row has these units: 2 bytes of scale, then 16 of nibbles.
        let weights = unsafe { isa.load_nibbles(nibbles[0], nibbles[1]) };
        isa.from_unsigned::<{ Q4_0::OFFSET }>(weights)
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, n_units: usize) -> Scales {
        // SAFETY: passed on.
        unsafe { scales_before_units(isa, row, first, n_units, 18) }
    }
}

/// Bytes of a Q4_K block: two half floats, 12 bytes of scales and minimums, 128 of nibbles.
const Q4_K_BYTES: usize = 144;

impl Format for Q4_K {
    const DTYPE: DType = DType::Q4_K;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const BITS: u32 = 4;
    const HAS_MINS: bool = true;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, _: usize) -> I::Pair {
        // SAFETY: the row has this block; either unit has half of 32 bytes.
        unsafe { isa.load_split_nibbles(row.add(pair / 4 * Q4_K_BYTES + 16 + pair % 4 * UNIT)) }
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, _: usize) -> Scales {
        // SAFETY: the row has this block.
        let header = unsafe { row.add(first / 8 * Q4_K_BYTES).cast::<[u8; 16]>().read() };
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| header[i + j]));
        // Four 6-bit scales and minimums have a byte each; the other four have their lower
        // nibbles in the last word and their upper two bits on top of the first eight bytes.
        let (low_scales, low_mins, nibbles) = (word(4), word(8), word(12));
        let lower_six = 0x3f3f_3f3f;
        let scales = [
            low_scales & lower_six,
            nibbles & 0x0f0f_0f0f | low_scales >> 2 & 0x3030_3030,
        ];
        let mins = [
            low_mins & lower_six,
            nibbles >> 4 & 0x0f0f_0f0f | low_mins >> 2 & 0x3030_3030,
        ];
        let bits = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let floats = isa.from_f16([bits(0), bits(2), 0, 0, 0, 0, 0, 0]);
        let mut out = Scales::default();
        for i in 0..CHUNK_UNITS {
            let byte = |words: [u32; 2]| (words[i / 4] >> (8 * (i % 4)) & 0xff) as f32;
            out.scales[i] = floats[0] * byte(scales);
            out.mins[i] = floats[1] * byte(mins);
        }
        out
    }
}

/// Bytes of a Q6_K block: 128 of lower nibbles, 64 of upper bits, 16 scales, a half float.
const Q6_K_BYTES: usize = 210;

impl Format for Q6_K {
    const DTYPE: DType = DType::Q6_K;
    const GROUP: usize = 16;
    const OFFSET: u8 = 32;
    const BITS: u32 = 6;
    const HAS_MINS: bool = false;

    #[inline(always)]
    unsafe fn pair<I: Int8>(isa: I, row: *const u8, pair: usize, _: usize) -> I::Pair {
        // SAFETY: the row has this block. Of each half of it, the two pairs share 64 bytes of
        // nibbles and 32 bytes of upper bits.
        let weights = unsafe {
            let half = pair / 2 % 2;
            let block = row.add(pair / 4 * Q6_K_BYTES);
            let (nibbles, high) = (block.add(half * 64), block.add(128 + half * UNIT));
            if pair.is_multiple_of(2) {
                isa.with_high_bits::<false>(isa.load_half_bytes::<false>(nibbles), high)
            } else {
                isa.with_high_bits::<true>(isa.load_half_bytes::<true>(nibbles), high)
            }
        };
        isa.from_unsigned::<{ Q6_K::OFFSET }>(weights)
    }

    #[inline(always)]
    unsafe fn scales<I: Int8>(isa: I, row: *const u8, first: usize, _: usize) -> Scales {
        // SAFETY: the row has this block.
        let (integers, bits) = unsafe {
            let block = row.add(first / 8 * Q6_K_BYTES);
            let integers = block.add(192).cast::<[i8; 16]>().read();
            (integers, f16_bits(block.add(208)))
        };
        let scale = isa.from_f16([bits, 0, 0, 0, 0, 0, 0, 0])[0];
        Scales {
            scales: integers.map(|integer| scale * f32::from(integer)),
            ..Scales::default()
        }
    }
}
