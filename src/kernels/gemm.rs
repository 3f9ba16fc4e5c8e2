//! Matrix products of quantized weights with batches of tokens, in 8-bit integers.
//!
//! Multipliers stay busy with a few weight rows by as many registers of tokens as there are
//! accumulators. Rows are unpacked once into a panel that stays in the second-level cache, and every
//! tile of tokens is multiplied with it; weights are never expanded further. A register holds the same
//! few columns of neighbouring tokens, so a weight is broadcast from the panel, and unpacking keeps the
//! order of columns. Registers of [whole tiles](tiled) take as many columns of a row as they hold.
//!
//! There are two cases. If columns are rotated, tokens have a scale for each 128 columns. Where products
//! of whole bytes are as fast as those of fewer bits, weights are then [regrouped](regrouped) while they
//! are unpacked: to 8 bits with a scale for each 128 columns too. Elsewhere, 4- and 6-bit weights keep
//! the [groups](grouped) of their format. If columns are not rotated, all weights keep their groups, and
//! tokens have a scale for each 32 columns.
//!
//! Each output is one sequence of operations, in the order of columns, whatever the tile and the
//! number of tokens. So all instruction sets of the same case give the same bits.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use crate::gguf::DType;
use crate::kernels::activations::{PackedLayout, PackedTokens, ScaleSpan};
use crate::kernels::aligned::AlignedFloats;
use crate::kernels::float::Activation;
use crate::kernels::formats::{Format, with_format};
use crate::kernels::gemm::grouped::GroupedRows;
use crate::kernels::gemm::panel::{Panel, unpack};
use crate::kernels::gemm::regrouped::RegroupedRows;
use crate::kernels::int8::{Int8, Int8Op, UNIT};
use crate::kernels::matmul::WeightView;
use crate::kernels::tiles::Tile;

mod coarse;
pub mod grouped;
pub mod panel;
pub mod regrouped;
pub mod tiled;

/// Bytes of unpacked weights that share the second-level cache with a tile of tokens.
const PANEL_BYTES: usize = 288 * 1024;
/// Floats of a cache line.
const LINE: usize = 16;

/// How weights are unpacked and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With the groups of their format, and a scale of the tokens for each 32 columns.
    Grouped,
    /// With the groups of their format, and a scale of the tokens for each 128 columns.
    GroupedCoarse,
    /// With a scale for each 128 columns.
    Regrouped,
}

impl Kind {
    /// What activations with such scales meet.
    #[inline(always)]
    fn of<I: Int8, F: Format>(span: ScaleSpan) -> Self {
        match span {
            // Products of bytes take no longer than those of fewer bits, or it has 8 bits anyway, or it
            // has such scales.
            ScaleSpan::Coarse if panel::is_regrouped::<I, F>() => Kind::Regrouped,
            ScaleSpan::Coarse => Kind::GroupedCoarse,
            ScaleSpan::Unit => Kind::Grouped,
        }
    }
}

/// A batch of quantized tokens, in records of the width that the instruction set wants.
#[derive(Clone, Copy, Debug)]
pub struct TokenTiles<'a> {
    /// Records, one after the other.
    pub records: &'a [f32],
    /// Their shape.
    pub layout: PackedLayout,
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
    /// Format of the weights.
    pub dtype: DType,
    /// Rows of the weights.
    pub n_rows: usize,
    /// Columns of the weights.
    pub n_cols: usize,
    /// Columns that share a scale in the batch.
    pub span: ScaleSpan,
    /// Threads that share them.
    pub n_threads: usize,
}

impl Int8Op for PanelRows {
    type Output = usize;

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) -> usize {
        let tile_rows = isa.tile_rows(self.span, self.n_cols);
        let weight_bytes = with_format!(self.dtype, F => panel::weight_bytes::<I, F>());
        let in_cache = PANEL_BYTES / (self.n_cols * weight_bytes);
        // Enough pieces for the threads to end together.
        let fair = self.n_rows / (8 * self.n_threads);
        let wanted = in_cache.min(fair).max(tile_rows);
        // Whole tiles, and where it can be whole cache lines of the output.
        let mut step = tile_rows;
        while !step.is_multiple_of(LINE) {
            step += tile_rows;
        }
        if wanted < step {
            step = tile_rows;
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
        with_format!(self.0.weight.dtype, F => isa.gemm::<F>(self.0));
    }
}

/// [`Gemm`] for one format and tile shape: `R` weight rows by `V` registers of tokens.
#[inline(always)]
pub fn multiply<I: Int8, F: Format, const R: usize, const V: usize>(isa: I, work: GemmTile) {
    assert!(V == I::TILE_VECTORS);
    let kind = Kind::of::<I, F>(work.batch.layout.span);
    let together = I::PANEL_COLUMNS;
    // Inlined before the compiler decides about the functions that it calls.
    multiply_blocks::<I, F, R>(
        isa,
        work,
        kind,
        together,
        #[inline(always)]
        |block, _, narrow| {
            // Each is a function of its own: the registers of one are no concern of another.
            match (kind, narrow) {
                (Kind::Regrouped, true) => isa.vectorize(Regrouped::<F, R, 1>(block)),
                (Kind::Regrouped, false) => isa.vectorize(Regrouped::<F, R, V>(block)),
                (Kind::Grouped, true) => isa.vectorize(Grouped::<F, R, 1>(block)),
                (Kind::Grouped, false) => isa.vectorize(Grouped::<F, R, V>(block)),
                (Kind::GroupedCoarse, true) => isa.vectorize(GroupedCoarse::<F, R, 1>(block)),
                (Kind::GroupedCoarse, false) => isa.vectorize(GroupedCoarse::<F, R, V>(block)),
            }
        },
    );
}

/// Unpacks the weights, with `together` columns of a row side by side, and multiplies each tile of `R` of
/// their rows with each record of tokens by `dot`. That is also handed a buffer to use, and whether one
/// register of the record's tokens is all that is wanted.
#[inline(always)]
fn multiply_blocks<I: Int8, F: Format, const R: usize>(
    isa: I,
    work: GemmTile,
    kind: Kind,
    together: usize,
    dot: impl Fn(Block<F, R>, &mut AlignedFloats, bool),
) {
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
    assert!(weight.n_cols.is_multiple_of(F::DTYPE.block_len()));
    assert!(weight.n_cols.is_multiple_of(UNIT) && weight.dtype == F::DTYPE);
    let layout = PackedLayout {
        width,
        n_cols: weight.n_cols,
        span: batch.layout.span,
    };
    assert!(batch.layout == layout);
    assert!(tokens.end <= batch.n_tokens && tokens.len() == out.rows().len());
    let rows = out.cols();
    unpack::<I, F, R>(isa, weight, rows.clone(), kind, together, panel);

    let mut products = std::mem::take(&mut panel.products);
    let mut sums = std::mem::take(&mut panel.sums);
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
            let block = Block {
                panel,
                index,
                tokens: view,
                first_lane,
                biases,
                products,
                format: PhantomData::<F>,
            };
            dot(block, &mut sums, narrow);
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
    panel.sums = sums;
}

/// A tile of rows of a panel, to be multiplied with a tile of tokens.
struct Block<'a, 'b, F, const R: usize> {
    panel: &'a Panel,
    /// Which tile of the panel.
    index: usize,
    tokens: PackedTokens<'a>,
    /// The first lane of the tokens that is wanted.
    first_lane: usize,
    biases: [f32; R],
    /// `[R, width]`.
    products: &'b mut [f32],
    format: PhantomData<F>,
}

/// [`Kind::Regrouped`] for `V` registers of tokens.
struct Regrouped<'a, 'b, F, const R: usize, const V: usize>(Block<'a, 'b, F, R>);
/// [`Kind::Grouped`] for `V` registers of tokens.
struct Grouped<'a, 'b, F, const R: usize, const V: usize>(Block<'a, 'b, F, R>);
/// [`Kind::GroupedCoarse`] for `V` registers of tokens.
struct GroupedCoarse<'a, 'b, F, const R: usize, const V: usize>(Block<'a, 'b, F, R>);

impl<F, const R: usize> Block<'_, '_, F, R> {
    /// Units of a row.
    #[inline(always)]
    fn n_units<I: Int8>(&self) -> usize {
        self.tokens.scales.len() / (I::TILE_VECTORS * I::LANES)
    }
}

impl<F: Format, const R: usize, const V: usize> Int8Op for Regrouped<'_, '_, F, R, V> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        let Regrouped(block) = self;
        let rows = RegroupedRows::new::<I, R>(block.panel, block.index, block.n_units::<I>());
        let (biases, stride) = (block.biases, I::TILE_VECTORS * I::LANES);
        let (lane, products) = (block.first_lane, block.products);
        rows.dot::<I, R, V>(isa, block.tokens, lane, biases, products, stride);
    }
}

impl<F: Format, const R: usize, const V: usize> Int8Op for Grouped<'_, '_, F, R, V> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        let Grouped(block) = self;
        let rows = GroupedRows::new::<I, F, R>(block.panel, block.index, block.n_units::<I>());
        let (lane, products) = (block.first_lane, block.products);
        rows.dot::<I, F, R, V, false>(isa, block.tokens, lane, block.biases, products);
    }
}

impl<F: Format, const R: usize, const V: usize> Int8Op for GroupedCoarse<'_, '_, F, R, V> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        let GroupedCoarse(block) = self;
        // Elsewhere weights are regrouped where activations have coarse scales.
        if !panel::is_regrouped::<I, F>() {
            let rows = GroupedRows::new::<I, F, R>(block.panel, block.index, block.n_units::<I>());
            let (lane, products) = (block.first_lane, block.products);
            rows.dot::<I, F, R, V, true>(isa, block.tokens, lane, block.biases, products);
        }
    }
}

/// Writes a tile's sums plus biases to lanes `first_lane..` of `products`, whose `R` rows are `stride`
/// apart.
#[allow(
    clippy::needless_range_loop,
    reason = "constant bounds keep the sums in registers"
)]
#[inline(always)]
fn write_products<I: Int8, const R: usize, const V: usize>(
    isa: I,
    totals: [[I::F32; V]; R],
    first_lane: usize,
    biases: [f32; R],
    products: &mut [f32],
    stride: usize,
) {
    let width = I::TILE_VECTORS * I::LANES;
    assert!(first_lane + V * I::LANES <= width && stride >= width);
    assert!(products.len() >= (R - 1) * stride + width);
    let one = isa.splat_f32(1.0);
    for v in 0..V {
        let lane = first_lane + v * I::LANES;
        for r in 0..R {
            let product = isa.mul_add(totals[r][v], one, isa.splat_f32(biases[r]));
            // SAFETY: lanes are below `width`, and so are they in `R` rows of products.
            unsafe { isa.store_f32(products.as_mut_ptr().add(r * stride + lane), product) };
        }
    }
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
