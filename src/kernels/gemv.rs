//! Products of quantized weights with one token, or a few: what generation spends its time on.
//!
//! Here memory is the limit, so weights are read once, straight from the file's blocks, and
//! registers run along the columns. Each output is the same sequence of operations whatever the
//! number of tokens, so a token computed alone equals the same token verified in a batch. Weights and tokens
//! with a scale for each 128 columns have a [way of their own](blocks).
#![allow(unsafe_code)]

use std::ops::Range;

use crate::kernels::activations::{PackedLayout, PackedTokens, ScaleSpan};
use crate::kernels::formats::{Format, prefetch_ahead, with_format};
use crate::kernels::int8::{CHUNK_UNITS, Group, Int8, Int8Op, UNIT, UNIT_LANES};
use crate::kernels::matmul::WeightView;
use crate::kernels::tiles::Tile;

mod blocks;

/// Computes a tile of `y: [n, n_rows]` that spans all of its rows.
pub struct Gemv<'a, 'b, 'c> {
    /// The weights.
    pub weight: WeightView<'a>,
    /// Quantized tokens, in records of one.
    pub records: &'a [f32],
    /// Columns of a token that share a scale: [`ScaleSpan::Coarse`] only for the coarse formats.
    pub span: ScaleSpan,
    /// The tokens that the rows of `y` belong to.
    pub tokens: Range<usize>,
    /// `[n_rows]`, to be added.
    pub bias: Option<&'a [f32]>,
    /// Whether to add to what `y` holds.
    pub accumulate: bool,
    /// The tile, whose columns are weight rows.
    pub out: &'b mut Tile<'c>,
}

impl Int8Op for Gemv<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        with_format!(self.weight.dtype, F => self.multiply::<I, F>(isa));
    }
}

impl<'a> Gemv<'a, '_, '_> {
    #[inline(always)]
    fn multiply<I: Int8, F: Format>(mut self, isa: I) {
        assert_eq!(self.tokens.len(), self.out.rows().len());
        if self.span == ScaleSpan::Coarse {
            return self.multiply_by_blocks::<I, F>(isa);
        }
        let mut first = 0;
        while first + 4 <= self.tokens.len() {
            self.multiply_tokens::<I, F, 4>(isa, first);
            first += 4;
        }
        while first < self.tokens.len() {
            self.multiply_tokens::<I, F, 1>(isa, first);
            first += 1;
        }
    }

    /// Computes rows `first..first + T` of `y`.
    #[inline(always)]
    fn multiply_tokens<I: Int8, F: Format, const T: usize>(&mut self, isa: I, first: usize) {
        let tokens = self.views(first);
        let row_bytes = self.weight.bytes_per_row();
        let rows = self.out.cols();
        let weights = &self.weight.bytes[rows.start * row_bytes..rows.end * row_bytes];
        for (i, row) in weights.chunks_exact(row_bytes).enumerate() {
            self.write(i, first, dot_row::<I, F, T>(isa, row, &tokens));
        }
    }

    /// The records of `T` tokens from row `first` of `y` on.
    #[inline(always)]
    fn views<const T: usize>(&self, first: usize) -> [PackedTokens<'a>; T] {
        let layout = PackedLayout {
            width: 1,
            n_cols: self.weight.n_cols,
            span: self.span,
        };
        let words = layout.record_words();
        let records = self.records;
        std::array::from_fn(|t| {
            let token = self.tokens.start + first + t;
            layout.view(&records[token * words..(token + 1) * words])
        })
    }

    /// Writes, or adds, the products of weight row `i` of the tile to rows `first..first + T` of `y`.
    #[inline(always)]
    fn write<const T: usize>(&mut self, i: usize, first: usize, products: [f32; T]) {
        let bias = self
            .bias
            .map_or(0.0, |bias| bias[self.out.cols().start + i]);
        for (t, product) in products.into_iter().enumerate() {
            let y = &mut self.out.row_mut(first + t)[i];
            let value = product + bias;
            *y = if self.accumulate { *y + value } else { value };
        }
    }
}

/// The products of a row with `T` tokens.
#[inline(always)]
fn dot_row<I: Int8, F: Format, const T: usize>(
    isa: I,
    row: &[u8],
    tokens: &[PackedTokens; T],
) -> [f32; T] {
    let n_units = tokens[0].scales.len();
    for token in tokens {
        assert!(token.quants.len() == n_units * UNIT && token.scales.len() == n_units);
        assert!(token.sums.len() == 2 * n_units && token.unit_sums.len() == n_units);
    }
    // What everything below reads without looking.
    let (block_len, block_bytes) = (F::DTYPE.block_len(), F::DTYPE.block_bytes());
    assert!((n_units * UNIT).is_multiple_of(block_len));
    assert!(row.len() == n_units * UNIT / block_len * block_bytes);
    let mut sums = Sums {
        products: [[isa.pair_zero(); 2]; T],
        excess: [isa.splat_eight(0.0); T],
    };
    let in_full = n_units - n_units % CHUNK_UNITS;
    for first in (0..in_full).step_by(CHUNK_UNITS) {
        sums = add_chunk::<I, F, T>(isa, row, tokens, first, CHUNK_UNITS, sums);
    }
    if in_full < n_units {
        sums = add_chunk::<I, F, T>(isa, row, tokens, in_full, n_units - in_full, sums);
    }
    let mut results = [0.0; T];
    for (t, result) in results.iter_mut().enumerate() {
        let [even, odd] = sums.products[t].map(|lanes| isa.pair_lanes(lanes));
        let mut lanes = [0.0; UNIT_LANES];
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = (even[i] + odd[i]) + (even[UNIT_LANES + i] + odd[UNIT_LANES + i]);
        }
        *result = sum_lanes(lanes) - sum_lanes(isa.eight_values(sums.excess[t]));
    }
    results
}

/// Running sums of a row's products.
#[derive(Clone, Copy)]
struct Sums<I: Int8, const T: usize> {
    /// For even and odd pairs apart, so that one need not wait for the other.
    products: [[I::PairF32; 2]; T],
    /// What they are too large by: minimums or offsets.
    excess: [I::Eight; T],
}

/// Adds the products of units `first..first + n_units`.
#[inline(always)]
fn add_chunk<I: Int8, F: Format, const T: usize>(
    isa: I,
    row: &[u8],
    tokens: &[PackedTokens; T],
    first: usize,
    n_units: usize,
    mut sums: Sums<I, T>,
) -> Sums<I, T> {
    prefetch_ahead::<I, F>(isa, row, first);
    let mut scales = [isa.chunk_scales([isa.splat_eight(0.0); 2]); T];
    for t in 0..T {
        (scales[t], sums.excess[t]) =
            scale_chunk::<I, F>(isa, row, &tokens[t], first..first + n_units, sums.excess[t]);
    }
    let n_pairs = n_units.div_ceil(2);
    for pair in (0..n_pairs).step_by(2) {
        // A whole chunk needs no thought about where the row ends.
        let place = Place {
            first,
            pair,
            n_units: match n_units {
                CHUNK_UNITS => usize::MAX,
                _ => first + n_units,
            },
        };
        add_pair::<I, F, T>(isa, row, tokens, place, &scales, &mut sums);
        if pair + 1 < n_pairs {
            let place = Place {
                pair: pair + 1,
                ..place
            };
            add_pair::<I, F, T>(isa, row, tokens, place, &scales, &mut sums);
        }
    }
    sums
}

/// The scales of a chunk of a row times those of a token, and `excess` plus what the products are too
/// large by.
#[inline(always)]
fn scale_chunk<I: Int8, F: Format>(
    isa: I,
    row: &[u8],
    token: &PackedTokens,
    units: Range<usize>,
    excess: I::Eight,
) -> (I::ChunkScales, I::Eight) {
    if F::HAS_MINS {
        // The chunk is a block.
        assert!(F::DTYPE.block_len() == CHUNK_UNITS * UNIT);
        let start = units.start / CHUNK_UNITS * F::DTYPE.block_bytes();
        let block = &row[start..start + F::DTYPE.block_bytes()];
        let scales = &token.scales[units.clone()][..CHUNK_UNITS];
        let sums = &token.unit_sums[units][..CHUNK_UNITS];
        // SAFETY: a block, and twice eight floats.
        return unsafe { isa.scale_block(block.as_ptr(), scales.as_ptr(), sums.as_ptr(), excess) };
    }
    // SAFETY: `dot_row` has checked that the row has all units that the tokens have.
    let weights = unsafe { F::scales(isa, row.as_ptr(), units.start, units.len()) };
    let of_token = TokenChunk::new::<F>(isa, token, units);
    let groups = [
        isa.mul_eight(weights.groups[0], of_token.scales[0]),
        isa.mul_eight(weights.groups[1], of_token.scales[1]),
    ];
    let mut excess = excess;
    if I::UNSIGNED_WEIGHTS {
        excess = isa.mul_add_eight(groups[0], of_token.sums[0], excess);
        if F::GROUPS_PER_UNIT == 2 {
            excess = isa.mul_add_eight(groups[1], of_token.sums[1], excess);
        }
    }
    (isa.chunk_scales(groups), excess)
}

/// What a token has for each group of a chunk.
struct TokenChunk<I: Int8> {
    scales: [I::Eight; 2],
    /// The integers' sums, times the format's offset where there is one.
    sums: [I::Eight; 2],
}

impl<I: Int8> TokenChunk<I> {
    #[inline(always)]
    fn new<F: Format>(isa: I, token: &PackedTokens, units: Range<usize>) -> Self {
        let zero = isa.splat_eight(0.0);
        if F::GROUPS_PER_UNIT == 2 {
            // The chunk is whole, since only blocks of 256 have such groups.
            let scales = load_units(isa, token.scales, &units);
            let sums = &token.sums[2 * units.start..][..2 * CHUNK_UNITS];
            let offset = isa.splat_eight(-f32::from(F::OFFSET));
            // SAFETY: these are sixteen integers.
            let (lower, upper) = unsafe {
                let sums = sums.as_ptr();
                (
                    isa.load_eight_i32(sums),
                    isa.load_eight_i32(sums.add(CHUNK_UNITS)),
                )
            };
            return TokenChunk {
                scales: isa.twice(scales),
                sums: [isa.mul_eight(lower, offset), isa.mul_eight(upper, offset)],
            };
        }
        let scales = load_units(isa, token.scales, &units);
        let sums = load_units(isa, token.unit_sums, &units);
        let sums = match F::OFFSET {
            0 => sums,
            offset => isa.mul_eight(sums, isa.splat_eight(f32::from(offset))),
        };
        TokenChunk {
            scales: [scales, zero],
            sums: [sums, zero],
        }
    }
}

/// Which units a pair is.
#[derive(Clone, Copy)]
struct Place {
    /// The first unit of the chunk.
    first: usize,
    /// The pair of that chunk.
    pair: usize,
    /// Units of the row, or more where it surely has both.
    n_units: usize,
}

/// Adds the products of a pair of units.
#[inline(always)]
fn add_pair<I: Int8, F: Format, const T: usize>(
    isa: I,
    row: &[u8],
    tokens: &[PackedTokens; T],
    place: Place,
    scales: &[I::ChunkScales; T],
    sums: &mut Sums<I, T>,
) {
    let Place {
        first,
        pair,
        n_units,
    } = place;
    let units = [first + 2 * pair, (first + 2 * pair + 1).min(n_units - 1)];
    // SAFETY: the row has these units, and so has each token.
    unsafe {
        let integers = F::scaled_pair(isa, row.as_ptr(), first / 2 + pair, n_units);
        let kind = Group {
            len: F::GROUP,
            bits: F::BITS,
        };
        for t in 0..T {
            let quants = tokens[t].quants.as_ptr().cast::<u8>();
            let [first, second] = units.map(|unit| quants.wrapping_add(unit * UNIT));
            let products = isa.dot_pair(kind, integers, isa.load_pair(first, second));
            let sum = &mut sums.products[t][pair % 2];
            *sum = isa.add_scaled(F::GROUPS_PER_UNIT, products, scales[t], pair, *sum);
        }
    }
}

/// The values of a chunk's units, zeros where it has fewer.
#[inline(always)]
fn load_units<I: Int8>(isa: I, values: &[f32], units: &Range<usize>) -> I::Eight {
    let values = &values[units.clone()];
    let mut padded = [0.0; CHUNK_UNITS];
    let values = match values.first_chunk() {
        Some(whole) => whole,
        None => {
            padded[..values.len()].copy_from_slice(values);
            &padded
        }
    };
    // SAFETY: an array of eight.
    unsafe { isa.load_eight(values.as_ptr()) }
}

#[inline(always)]
fn sum_lanes(lanes: [f32; UNIT_LANES]) -> f32 {
    let four: [f32; 4] = std::array::from_fn(|i| lanes[i] + lanes[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
