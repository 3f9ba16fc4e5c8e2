//! Products of quantized weights with one token, or a few: what generation spends its time on.
//!
//! Here memory is the limit, so weights are read once, straight from the file's blocks, and
//! registers run along the columns. Each output is the same sequence of operations whatever the
//! number of tokens, so a token computed alone equals the same token verified in a batch.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::gguf::DType;
use crate::kernels::activations::{Layout, View};
use crate::kernels::formats::{CHUNK_UNITS, Format, Q4_0, Q4_K, Q6_K, Q8_0, Scales};
use crate::kernels::int8::{Int8, Int8Op, UNIT, UNIT_LANES};
use crate::kernels::matmul::WeightView;
use crate::kernels::tiles::Tile;

/// The most tokens for which this is faster than [`gemm`](super::gemm).
pub const MAX_TOKENS: usize = 8;

/// Computes a tile of `y: [n, n_rows]` that spans all of its rows.
pub struct Gemv<'a, 'b, 'c> {
    /// The weights.
    pub weight: WeightView<'a>,
    /// Quantized tokens, in records of one.
    pub records: &'a [f32],
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
        match self.weight.dtype {
            DType::Q8_0 => self.multiply::<I, Q8_0>(isa),
            DType::Q4_0 => self.multiply::<I, Q4_0>(isa),
            DType::Q4_K => self.multiply::<I, Q4_K>(isa),
            DType::Q6_K => self.multiply::<I, Q6_K>(isa),
            DType::F32 | DType::F16 | DType::BF16 => {
                unreachable!("floats have a path of their own")
            }
        }
    }
}

impl Gemv<'_, '_, '_> {
    #[inline(always)]
    fn multiply<I: Int8, F: Format>(self, isa: I) {
        let row_bytes = self.weight.bytes_per_row();
        let rows = self.out.cols();
        assert!(rows.end * row_bytes <= self.weight.bytes.len());
        assert_eq!(self.tokens.len(), self.out.rows().len());
        let layout = Layout {
            width: 1,
            n_cols: self.weight.n_cols,
        };
        let words = layout.record_words();
        let token = |i: usize| {
            let token = self.tokens.start + i;
            layout.view(&self.records[token * words..(token + 1) * words])
        };
        let n_tokens = self.tokens.len();
        for row in rows.clone() {
            let bytes = &self.weight.bytes[row * row_bytes..(row + 1) * row_bytes];
            let mut store = |first: usize, products: &[f32]| {
                for (i, product) in products.iter().enumerate() {
                    let y = &mut self.out.row_mut(first + i)[row - rows.start];
                    let value = product + self.bias.map_or(0.0, |bias| bias[row]);
                    *y = if self.accumulate { *y + value } else { value };
                }
            };
            let mut first = 0;
            while first + 4 <= n_tokens {
                let tokens = std::array::from_fn(|i| token(first + i));
                store(first, &dot_row::<I, F, 4>(isa, bytes, tokens));
                first += 4;
            }
            while first < n_tokens {
                store(first, &dot_row::<I, F, 1>(isa, bytes, [token(first)]));
                first += 1;
            }
        }
    }
}

/// The products of a row with `T` tokens.
#[inline(always)]
fn dot_row<I: Int8, F: Format, const T: usize>(isa: I, row: &[u8], tokens: [View; T]) -> [f32; T] {
    let n_units = tokens[0].scales.len();
    for token in &tokens {
        assert!(token.quants.len() == n_units * UNIT && token.scales.len() == n_units);
        assert!(token.sums.len() == 2 * n_units && token.scaled_sums.len() == n_units);
    }
    let mut sums = Sums {
        products: [[isa.unit_zero(); 2]; T],
        excess: [[0.0; UNIT_LANES]; T],
    };
    let in_full = n_units - n_units % CHUNK_UNITS;
    for first in (0..in_full).step_by(CHUNK_UNITS) {
        sums = add_chunk::<I, F, T>(isa, row, &tokens, first, CHUNK_UNITS, sums);
    }
    if in_full < n_units {
        sums = add_chunk::<I, F, T>(isa, row, &tokens, in_full, n_units - in_full, sums);
    }
    std::array::from_fn(|t| {
        let [even, odd] = sums.products[t].map(|lanes| isa.unit_lanes(lanes));
        let products = sum_lanes(std::array::from_fn(|i| even[i] + odd[i]));
        let excess = sum_lanes(sums.excess[t]);
        if F::HAS_MINS {
            products - excess
        } else if I::UNSIGNED_WEIGHTS {
            products - f32::from(F::OFFSET) * excess
        } else {
            products
        }
    })
}

/// Running sums of a row's products.
#[derive(Clone, Copy)]
struct Sums<I: Int8, const T: usize> {
    /// For even and odd units apart, so that one need not wait for the other.
    products: [[I::UnitF32; 2]; T],
    /// What they are too large by: minimums, or offsets in units of the format's.
    excess: [[f32; UNIT_LANES]; T],
}

/// Adds the products of units `first..first + n_units`.
#[inline(always)]
fn add_chunk<I: Int8, F: Format, const T: usize>(
    isa: I,
    row: &[u8],
    tokens: &[View; T],
    first: usize,
    n_units: usize,
    mut sums: Sums<I, T>,
) -> Sums<I, T> {
    // SAFETY: the row has all units that the tokens have.
    let weights = unsafe { F::scales(isa, row.as_ptr(), first, n_units) };
    let mut scales = [[0.0f32; 2 * CHUNK_UNITS]; T];
    for t in 0..T {
        let token_scales = &tokens[t].scales[first..first + n_units];
        for (i, token_scale) in token_scales.iter().enumerate() {
            for g in 0..F::GROUPS_PER_UNIT {
                let group = i * F::GROUPS_PER_UNIT + g;
                scales[t][group] = weights.scales[group] * token_scale;
            }
        }
        sums.excess[t] = add_excess::<I, F>(
            &weights,
            &scales[t],
            &tokens[t],
            first,
            n_units,
            sums.excess[t],
        );
    }
    for pair in 0..n_units / 2 {
        add_unit::<I, F, T>(isa, row, tokens, first, 2 * pair, 0, &scales, &mut sums);
        add_unit::<I, F, T>(isa, row, tokens, first, 2 * pair + 1, 1, &scales, &mut sums);
    }
    if n_units % 2 == 1 {
        add_unit::<I, F, T>(isa, row, tokens, first, n_units - 1, 0, &scales, &mut sums);
    }
    sums
}

/// Adds the products of unit `first + i`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn add_unit<I: Int8, F: Format, const T: usize>(
    isa: I,
    row: &[u8],
    tokens: &[View; T],
    first: usize,
    i: usize,
    parity: usize,
    scales: &[[f32; 2 * CHUNK_UNITS]; T],
    sums: &mut Sums<I, T>,
) {
    // SAFETY: the row has this unit, and so has each token.
    unsafe {
        let integers = F::unit(isa, row.as_ptr(), first + i);
        for t in 0..T {
            let quants = tokens[t].quants.as_ptr().cast::<u8>();
            let quants = isa.load_unit(quants.add((first + i) * UNIT));
            let products = isa.dot_unit(F::BITS, integers, quants);
            let (lower, upper) = (i * F::GROUPS_PER_UNIT, (i + 1) * F::GROUPS_PER_UNIT - 1);
            let scale = isa.unit_scales(scales[t][lower], scales[t][upper]);
            let sum = &mut sums.products[t][parity];
            *sum = isa.unit_mul_add(products, scale, *sum);
        }
    }
}

/// Adds what the products of units `first..first + n_units` are too large by.
#[inline(always)]
fn add_excess<I: Int8, F: Format>(
    weights: &Scales,
    scales: &[f32; 2 * CHUNK_UNITS],
    token: &View,
    first: usize,
    n_units: usize,
    mut excess: [f32; UNIT_LANES],
) -> [f32; UNIT_LANES] {
    let scaled_sums = &token.scaled_sums[first..first + n_units];
    if F::HAS_MINS {
        for ((excess, min), sum) in excess.iter_mut().zip(weights.mins).zip(scaled_sums) {
            *excess += min * sum;
        }
    } else if I::UNSIGNED_WEIGHTS && F::GROUPS_PER_UNIT == 1 {
        for ((excess, scale), sum) in excess.iter_mut().zip(weights.scales).zip(scaled_sums) {
            *excess += scale * sum;
        }
    } else if I::UNSIGNED_WEIGHTS {
        let halves = token.sums[2 * first..2 * (first + n_units)]
            .as_chunks::<2>()
            .0;
        for (i, (excess, [a, b])) in excess.iter_mut().zip(halves).enumerate() {
            *excess -= scales[2 * i] * *a as f32 + scales[2 * i + 1] * *b as f32;
        }
    }
    excess
}

#[inline(always)]
fn sum_lanes(lanes: [f32; UNIT_LANES]) -> f32 {
    let four: [f32; 4] = std::array::from_fn(|i| lanes[i] + lanes[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
