//! Matrix products of quantized weights with batches of tokens, in 8-bit integers.
//!
//! The shape that keeps the multipliers busy: a few weight rows by as many registers of tokens as
//! there are accumulators for. Rows are unpacked once into a panel that stays in the second-level
//! cache, and every tile of tokens is swept over it; the weights are never expanded otherwise.
//! Registers hold the same few columns of neighbouring tokens, so a weight is broadcast from
//! where it was unpacked, and unpacking keeps the order of columns.
//!
//! Each output is one sequence of operations, in the order of columns, whatever the tile or the
//! instruction set: the same bits everywhere.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::gguf::DType;
use crate::kernels::activations::{BATCH_BLOCK_UNITS as BLOCK_UNITS, Layout, View};
use crate::kernels::float::Activation;
use crate::kernels::formats::{Format, Q4_0, Q4_K, Q6_K, Q8_0};
use crate::kernels::gemm::panel::{ChunkValues, Panel, PanelTile, padded, unpack};
use crate::kernels::int8::{CHUNK_UNITS, Group, Int8, Int8Op, UNIT};
use crate::kernels::matmul::WeightView;
use crate::kernels::tiles::Tile;

pub mod panel;

/// Bytes of unpacked weights that share the second-level cache with a tile of tokens.
const PANEL_BYTES: usize = 288 * 1024;
/// Floats of a cache line.
const LINE: usize = 16;

/// A batch of quantized tokens, in records of the width that the instruction set wants.
#[derive(Clone, Copy, Debug)]
pub struct TokenTiles<'a> {
    /// Records, one after the other.
    pub records: &'a [f32],
    /// Their shape.
    pub layout: Layout,
    /// Tokens there are.
    pub n_tokens: usize,
}

/// What [`Gemm`] works on: a tile of `y: [n, n_rows]` that spans all of its rows.
#[derive(Debug)]
pub struct GemmTile<'a, 'b, 'c> {
    /// The weights.
    pub weight: WeightView<'a>,
    /// The batch.
    pub batch: TokenTiles<'a>,
    /// The batch's tokens that the rows of `y` belong to.
    pub tokens: Range<usize>,
    /// `[n_rows]`, to be added.
    pub bias: Option<&'a [f32]>,
    /// Whether to add to what `y` holds.
    pub accumulate: bool,
    /// What is done to `y`, only without `accumulate`.
    pub activation: Option<Activation>,
    /// The tile, whose columns are weight rows.
    pub out: &'b mut Tile<'c>,
    /// Where to unpack weights.
    pub panel: &'b mut Panel,
}

/// How many tokens an instruction set wants in a record.
#[derive(Clone, Copy, Debug)]
pub struct TileWidth;

impl Int8Op for TileWidth {
    type Output = usize;

    #[inline(always)]
    fn run<I: Int8>(self, _: I) -> usize {
        I::LANES * I::TILE_VECTORS
    }
}

/// How many weight rows a thread should take at a time.
#[derive(Clone, Copy, Debug)]
pub struct PanelRows {
    /// Rows of the weights.
    pub n_rows: usize,
    /// Columns of the weights.
    pub n_cols: usize,
    /// Threads that share them.
    pub n_threads: usize,
}

impl Int8Op for PanelRows {
    type Output = usize;

    #[inline(always)]
    fn run<I: Int8>(self, _: I) -> usize {
        let in_cache = PANEL_BYTES / self.n_cols;
        // Enough pieces for the threads to end together.
        let fair = self.n_rows / (8 * self.n_threads);
        let wanted = in_cache.min(fair).max(I::TILE_ROWS);
        // Whole tiles, and where it can be whole cache lines of the output.
        let mut step = I::TILE_ROWS;
        while !step.is_multiple_of(LINE) {
            step += I::TILE_ROWS;
        }
        if wanted < step {
            step = I::TILE_ROWS;
        }
        wanted / step * step
    }
}

/// Computes one tile of `y`.
pub struct Gemm<'a, 'b, 'c>(pub GemmTile<'a, 'b, 'c>);

impl Int8Op for Gemm<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        match self.0.weight.dtype {
            DType::Q8_0 => isa.gemm::<Q8_0>(self.0),
            DType::Q4_0 => isa.gemm::<Q4_0>(self.0),
            DType::Q4_K => isa.gemm::<Q4_K>(self.0),
            DType::Q6_K => isa.gemm::<Q6_K>(self.0),
            DType::F32 | DType::F16 | DType::BF16 => {
                unreachable!("floats have a path of their own")
            }
        }
    }
}

/// [`Gemm`] for one format and tile shape: `R` weight rows by `V` registers of tokens.
#[inline(always)]
pub fn multiply<I: Int8, F: Format, const R: usize, const V: usize>(isa: I, work: GemmTile) {
    let GemmTile {
        weight,
        batch,
        tokens,
        bias,
        accumulate,
        activation,
        out,
        panel,
    } = work;
    assert!(activation.is_none() || !accumulate);
    let width = I::TILE_VECTORS * I::LANES;
    assert!(V == I::TILE_VECTORS && weight.n_cols.is_multiple_of(F::DTYPE.block_len()));
    let n_units = weight.n_cols / UNIT;
    assert!(weight.n_cols.is_multiple_of(UNIT) && weight.dtype == F::DTYPE);
    let layout = Layout {
        width,
        n_cols: weight.n_cols,
    };
    assert!(batch.layout == layout);
    assert!(tokens.end <= batch.n_tokens && tokens.len() == out.rows().len());
    let rows = out.cols();
    unpack::<I, F, R>(isa, weight, rows.clone(), panel);

    let mut products = std::mem::take(&mut panel.products);
    products.resize(rows.len().next_multiple_of(R) * width);

    let record_words = batch.layout.record_words();
    for tile in tokens.start / width..tokens.end.div_ceil(width) {
        let record = &batch.records[tile * record_words..(tile + 1) * record_words];
        let first_token = tile * width;
        let in_tile = tokens.start.max(first_token)..tokens.end.min(first_token + width);
        // A register of tokens that are not wanted, or not there, is left out.
        let first_lane = (in_tile.start - first_token) / I::LANES * I::LANES;
        let narrow = in_tile.end - first_token <= first_lane + I::LANES;
        // What will be written is far apart; by then it shall be at hand.
        for token in in_tile.clone() {
            let y = out.row_mut(token - tokens.start);
            for line in y.chunks(LINE) {
                isa.prefetch_to_write(line.as_ptr().cast());
            }
        }
        let view = batch.layout.view(record);
        for (index, products) in products.chunks_exact_mut(R * width).enumerate() {
            let first_row = rows.start + index * R;
            let mut biases = [0.0; R];
            if let Some(bias) = bias {
                let bias = &bias[first_row..rows.end.min(first_row + R)];
                biases[..bias.len()].copy_from_slice(bias);
            }
            let panel = PanelTile::new::<F, R>(panel, index, n_units);
            if narrow {
                dot_tile::<I, F, R, 1>(isa, panel, view, first_lane, biases, products, width);
            } else {
                dot_tile::<I, F, R, V>(isa, panel, view, first_lane, biases, products, width);
            }
        }
        if let Some(activation) = activation {
            activation.apply(&mut products);
        }
        let done = Products {
            values: &products,
            width,
            lanes: in_tile.start - first_token..in_tile.end - first_token,
        };
        done.write_to(isa, accumulate, in_tile.start - tokens.start, out);
    }
    panel.products = products;
}

/// Products of a panel with a tile of tokens.
struct Products<'a> {
    /// `[rows, width]`.
    values: &'a [f32],
    width: usize,
    /// The tokens that are wanted.
    lanes: Range<usize>,
}

impl Products<'_> {
    /// Writes, or adds, them to all columns of `out`, from row `first` on.
    #[inline(always)]
    fn write_to<I: Int8>(self, isa: I, accumulate: bool, first: usize, out: &mut Tile) {
        let n_cols = out.cols().len();
        assert!(n_cols * self.width <= self.values.len() && self.lanes.end <= self.width);
        let mut lane = self.lanes.start;
        while lane < self.lanes.end {
            let row = first + lane - self.lanes.start;
            // As long as there are whole squares, those; what is left, one by one.
            let (n, in_squares) = match lane + I::LANES <= self.lanes.end {
                true => (I::LANES, n_cols / I::LANES * I::LANES),
                false => (1, 0),
            };
            for col in (0..in_squares).step_by(I::LANES) {
                let (to, to_stride) = out.square_mut(row, col, I::LANES);
                // SAFETY: there are as many columns and lanes, and `out` has the square.
                unsafe {
                    let from = self.values.as_ptr().add(col * self.width + lane);
                    isa.transpose(from, self.width, accumulate, to, to_stride);
                }
            }
            for i in 0..n {
                let y = &mut out.row_mut(row + i)[in_squares..];
                for (col, y) in (in_squares..).zip(y) {
                    let value = self.values[col * self.width + lane + i];
                    *y = if accumulate { *y + value } else { value };
                }
            }
            lane += n;
        }
    }
}

/// The products of `R` rows with `V` registers of tokens from lane `first_lane` of a record on,
/// over all columns, to those lanes of `products`, whose `R` rows are `stride` apart.
#[allow(
    clippy::needless_range_loop,
    reason = "constant bounds keep the sums in registers"
)]
#[inline(always)]
pub(super) fn dot_tile<I: Int8, F: Format, const R: usize, const V: usize>(
    isa: I,
    panel: PanelTile,
    tokens: View,
    first_lane: usize,
    biases: [f32; R],
    products: &mut [f32],
    stride: usize,
) {
    let width = I::TILE_VECTORS * I::LANES;
    let n_units = panel.weights.len() / (R * UNIT);
    let n_padded = padded(n_units);
    assert!(R == I::TILE_ROWS);
    assert!(panel.weights.len() == n_units * R * UNIT && stride >= width);
    assert!(panel.scales.len() == R * n_padded * F::GROUPS_PER_UNIT);
    assert!(!F::HAS_MINS || panel.mins.len() == R * n_padded);
    assert!(products.len() >= (R - 1) * stride + width);
    assert!(first_lane + V * I::LANES <= width);
    assert!(tokens.quants.len() == n_units * UNIT * width);
    assert!(tokens.scales.len() == n_units * width && tokens.sums.len() == 2 * n_units * width);
    assert!(tokens.unit_sums.len() == n_units * width);
    assert!(tokens.ratios.len() == n_units.div_ceil(BLOCK_UNITS) * width && n_units > 0);

    let operands = Operands {
        panel,
        tokens,
        first_lane,
    };
    // In units of the scales of the block at hand: at a new block, all are multiplied with a ratio.
    let mut totals = [[isa.splat_f32(0.0); V]; R];
    let n_in_full = n_units - n_units % BLOCK_UNITS;
    for first in (0..n_in_full).step_by(BLOCK_UNITS) {
        // SAFETY: the block and its units are below `n_units`; all lengths were just checked.
        unsafe {
            totals = operands.begin_block(isa, first, totals);
            for unit in first..first + BLOCK_UNITS {
                totals = operands.add_unit::<I, F, R, V>(isa, unit, totals);
            }
        }
    }
    if n_in_full < n_units {
        // SAFETY: as above.
        unsafe {
            totals = operands.begin_block(isa, n_in_full, totals);
            for unit in n_in_full..n_units {
                totals = operands.add_unit::<I, F, R, V>(isa, unit, totals);
            }
        }
    }
    let totals = isa.by_rows(totals);
    for v in 0..V {
        let lane = first_lane + v * I::LANES;
        // SAFETY: lanes are below `width`, and so are they in `R` rows of products.
        unsafe {
            let scales = tokens.scales.as_ptr().add((n_units - 1) * width + lane);
            let scales = isa.load_f32(scales);
            for r in 0..R {
                let product = isa.mul_add(totals[r][v], scales, isa.splat_f32(biases[r]));
                isa.store_f32(products.as_mut_ptr().add(r * stride + lane), product);
            }
        }
    }
}

/// The operands of [`dot_tile`], whose lengths it has checked.
struct Operands<'a> {
    panel: PanelTile<'a>,
    tokens: View<'a>,
    first_lane: usize,
}

impl Operands<'_> {
    /// Brings sums to the scales of the block that begins with unit `first`.
    ///
    /// # Safety
    /// There must be such a block, and lanes for `V` registers.
    #[inline(always)]
    unsafe fn begin_block<I: Int8, const R: usize, const V: usize>(
        &self,
        isa: I,
        first: usize,
        mut totals: [[I::F32; V]; R],
    ) -> [[I::F32; V]; R] {
        let width = I::TILE_VECTORS * I::LANES;
        for v in 0..V {
            let at = first / BLOCK_UNITS * width + self.first_lane + v * I::LANES;
            // SAFETY: the caller vouches for the block and the lanes.
            let ratios = unsafe { isa.load_f32(self.tokens.ratios.as_ptr().add(at)) };
            for (r, totals) in totals.iter_mut().enumerate() {
                totals[v] = isa.mul(totals[v], isa.token_values(r, ratios));
            }
        }
        totals
    }

    /// Adds the products of a unit to `totals`.
    ///
    /// # Safety
    /// There must be the unit, `R` rows, and lanes for `V` registers.
    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    unsafe fn add_unit<I: Int8, F: Format, const R: usize, const V: usize>(
        &self,
        isa: I,
        unit: usize,
        mut totals: [[I::F32; V]; R],
    ) -> [[I::F32; V]; R] {
        let Operands {
            panel,
            tokens,
            first_lane,
        } = self;
        let width = I::TILE_VECTORS * I::LANES;
        let kind = Group {
            len: F::GROUP,
            bits: F::BITS,
        };
        const { assert!(F::GROUP * 128 * 128 < 1 << 22, "for `sum_to_f32`") };
        // SAFETY: the caller vouches for the unit, hence its groups, the rows and the lanes.
        unsafe {
            for g in 0..F::GROUPS_PER_UNIT {
                let group = unit * F::GROUPS_PER_UNIT + g;
                let quants = group * F::GROUP * width + I::COLUMNS * first_lane;
                let sums = isa.dot_group::<R, V>(
                    kind,
                    panel.weights.as_ptr().add(group * R * F::GROUP),
                    tokens.quants.as_ptr().add(quants),
                    I::COLUMNS * width,
                    self.start::<I, F, R, V>(isa, unit, g),
                );
                let groups_per_chunk = CHUNK_UNITS * F::GROUPS_PER_UNIT;
                let values = ChunkValues::new::<I>(R, groups_per_chunk);
                let at = values.at(unit / CHUNK_UNITS, 0, group % groups_per_chunk);
                let scales = panel.scales.as_ptr().add(at);
                for r in 0..R {
                    let scale = isa.row_value(scales, values.row_stride, r);
                    for v in 0..V {
                        let sum = match has_offset::<I, F>() {
                            true => isa.to_f32(sums[r][v]),
                            false => isa.sum_to_f32(sums[r][v]),
                        };
                        totals[r][v] = isa.mul_add(sum, scale, totals[r][v]);
                    }
                }
            }
            if F::HAS_MINS {
                let sums: [I::F32; V] = std::array::from_fn(|v| {
                    let at = unit * width + first_lane + v * I::LANES;
                    isa.load_f32(tokens.unit_sums.as_ptr().add(at))
                });
                let values = ChunkValues::new::<I>(R, CHUNK_UNITS);
                let at = values.at(unit / CHUNK_UNITS, 0, unit % CHUNK_UNITS);
                let mins = panel.mins.as_ptr().add(at);
                for (r, totals) in totals.iter_mut().enumerate() {
                    let min = isa.row_value(mins, values.row_stride, r);
                    for (total, sum) in totals.iter_mut().zip(sums) {
                        *total = isa.neg_mul_add(min, isa.token_values(r, sum), *total);
                    }
                }
            }
        }
        totals
    }

    /// What the integer sums of a unit's group `group` begin with: where weights are unsigned, what
    /// their products with the tokens will exceed those of the true weights by, negated.
    ///
    /// # Safety
    /// As [`Operands::add_unit`].
    #[inline(always)]
    unsafe fn start<I: Int8, F: Format, const R: usize, const V: usize>(
        &self,
        isa: I,
        unit: usize,
        group: usize,
    ) -> [[I::I32; V]; R] {
        if !has_offset::<I, F>() {
            return isa.zero_sums();
        }
        let width = I::TILE_VECTORS * I::LANES;
        let of_tokens = std::array::from_fn(|v| {
            let at = (2 * unit + group) * width + self.first_lane + v * I::LANES;
            // SAFETY: the caller vouches for the unit and the lanes. There are sums of each 16
            // columns, so those of the unit's second half are `width` further on.
            let sum = unsafe {
                let sums = self.tokens.sums.as_ptr().add(at);
                match F::GROUP {
                    UNIT => isa.add_i32(isa.load_i32(sums), isa.load_i32(sums.add(width))),
                    _ => isa.load_i32(sums),
                }
            };
            isa.shift_left(sum, F::OFFSET.trailing_zeros())
        });
        [of_tokens; R]
    }
}

/// Whether unpacked weights still have an offset in them.
#[inline(always)]
const fn has_offset<I: Int8, F: Format>() -> bool {
    I::UNSIGNED_WEIGHTS && F::OFFSET != 0
}
