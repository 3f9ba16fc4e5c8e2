//! Matrix products with weights in any format.
//!
//! Quantized weights are multiplied with activations in 8-bit integers, float weights with activations
//! in floats. [`InputBuffer::prepare`] quantizes a batch once for all projections that read it. It rotates
//! the batch first if the columns of the weights are rotated, and rounds it as its role says.

use std::ops::Range;
use std::sync::Arc;

use crate::gguf::{DType, TensorBytes};
use crate::kernels::activations::{self, PackedLayout, Quantize, ScaleSpan};
use crate::kernels::aligned::AlignedFloats;
use crate::kernels::float::Activation;
use crate::kernels::gemm::{Gemm, GemmTile, PanelRows, TileWidth, TokenTiles};
use crate::kernels::gemv::Gemv;
use crate::kernels::int8::UNIT;
use crate::kernels::matmul::{TILE_ROWS, WeightView, matmul};
use crate::kernels::tiles::{Tile, Tiles};
use crate::ops::{Compute, Floats, RowRole};
use crate::quant::{self, Rotation};

/// The most weight rows that a thread takes at a time where a few tokens are computed.
const MAX_ROWS_AT_A_TIME: usize = 64;

/// A matrix `[n_rows, n_cols]` in a block format, where it lies in the file.
#[derive(Clone, Debug)]
pub struct Matrix {
    bytes: TensorBytes,
    dtype: DType,
    n_rows: usize,
    n_cols: usize,
    /// How the columns of quantized weights with this input are rotated, if they are; those of floats
    /// never are.
    rotation: Option<Arc<Rotation>>,
    /// Whether all quantized weights with this input have one scale for 128 columns.
    is_among_coarse: bool,
}

/// What the matrices that read an input have in common.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// How the columns of those that are quantized are rotated, if they are.
    pub rotation: Option<Arc<Rotation>>,
    /// Whether all that are quantized have one scale for 128 columns.
    pub is_coarse: bool,
}

impl Matrix {
    /// Views a tensor's bytes as `n_rows` rows of `n_cols` values, which have `shared` with others.
    ///
    /// # Panics
    /// Where the sizes do not agree; the model's binding has checked that they do.
    pub fn new(
        bytes: TensorBytes,
        dtype: DType,
        n_rows: usize,
        n_cols: usize,
        shared: Shared,
    ) -> Self {
        let row_bytes = n_cols / dtype.block_len() * dtype.block_bytes();
        assert_eq!(bytes.len(), n_rows * row_bytes);
        Matrix {
            bytes,
            dtype,
            n_rows,
            n_cols,
            rotation: shared.rotation,
            is_among_coarse: shared.is_coarse,
        }
    }

    /// How the values are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether the weights are small integers, and meet activations as such.
    pub fn is_quantized(&self) -> bool {
        !is_float(self.dtype)
    }

    /// Whether the weights are quantized and their columns rotated.
    pub fn is_rotated(&self) -> bool {
        self.is_quantized() && self.rotation.is_some()
    }

    /// Number of rows: outputs of a projection, or entries of an embedding.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Values of a row.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Writes row `index` to `out: [n_cols]`.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        let row_bytes = self.bytes.len() / self.n_rows;
        let bytes = &self.bytes[index * row_bytes..(index + 1) * row_bytes];
        quant::dequantize(self.dtype, bytes, out);
        if let Some(rotation) = self.rotation.as_ref().filter(|_| self.is_quantized()) {
            rotation.undo(out);
        }
    }

    fn view(&self) -> WeightView<'_> {
        WeightView {
            bytes: &self.bytes,
            dtype: self.dtype,
            n_cols: self.n_cols,
        }
    }
}

/// A projection: a weight matrix `[n_out, n_in]` and perhaps a bias `[n_out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The weights.
    pub weight: Matrix,
    /// What is added to each output.
    pub bias: Option<Floats>,
}

/// Room for a quantized batch, reused from one to the next.
#[derive(Debug, Default)]
pub struct InputBuffer {
    records: AlignedFloats,
}

/// A batch `x: [n, width]`, as floats and as 8-bit integers.
#[derive(Clone, Copy, Debug)]
pub struct LinearInput<'a> {
    x: &'a [f32],
    /// Distance of one row to the next.
    stride: usize,
    width: usize,
    /// Empty where the width is no multiple of a block; then no quantized weight has it either.
    records: &'a [f32],
    layout: PackedLayout,
    is_rotated: bool,
}

impl InputBuffer {
    /// Floats that a buffer for batches of up to `n` tokens of `width` holds.
    pub fn len_for(n: usize, width: usize) -> usize {
        // Records of one token each are no smaller than their share of a wide one.
        let layout = PackedLayout {
            width: 1,
            n_cols: width,
            span: ScaleSpan::Unit,
        };
        n.next_multiple_of(activations::MAX_WIDTH)
            .saturating_mul(layout.record_words())
    }

    /// With room for up to `n` tokens of `width`.
    pub fn with_capacity(n: usize, width: usize) -> Self {
        let mut records = AlignedFloats::default();
        records.resize(Self::len_for(n, width));
        InputBuffer { records }
    }

    /// Quantizes `x: [n, n_in]` for `reader` and all others that have this input. Allocates only where
    /// the buffer was never as large.
    pub fn prepare<'a>(
        &'a mut self,
        compute: &Compute,
        role: RowRole,
        x: &'a [f32],
        reader: &Linear,
    ) -> LinearInput<'a> {
        self.prepare_strided(compute, role, x, reader.weight.n_cols, reader)
    }

    /// [`InputBuffer::prepare`] for rows that are `stride` apart.
    pub fn prepare_strided<'a>(
        &'a mut self,
        compute: &Compute,
        role: RowRole,
        x: &'a [f32],
        stride: usize,
        reader: &Linear,
    ) -> LinearInput<'a> {
        let width = reader.weight.n_cols;
        let rotation = reader.weight.rotation.as_deref();
        let n_tokens = x.len() / stride;
        assert!(width <= stride && x.len() == n_tokens * stride);
        let tile_width = match role {
            RowRole::Answer => 1,
            RowRole::Prompt => compute.isa.run_int8(TileWidth),
        };
        let layout = PackedLayout {
            width: tile_width,
            n_cols: width,
            span: ScaleSpan::of(role, rotation.is_some(), reader.weight.is_among_coarse),
        };
        let n_records = match width.is_multiple_of(UNIT) {
            true => n_tokens.div_ceil(tile_width),
            false => 0,
        };
        let record_words = layout.record_words();
        if self.records.len() < n_records * record_words {
            self.records.resize(n_records * record_words);
        }
        let records = &mut self.records[..n_records * record_words];
        let quantize = |index: usize, record: &mut [f32]| {
            let first = index * tile_width * stride;
            let end = (first + tile_width * stride).min(x.len());
            let tokens = Quantize {
                layout,
                x: &x[first..end],
                stride,
                rotation,
            };
            tokens.run(compute.isa, record);
        };
        if n_records == 1 {
            quantize(0, records);
        } else if n_records > 1 {
            let tiles = Tiles::of_rows(records, record_words, 1);
            compute.threads.run(|_| {
                while let Some(mut tile) = tiles.take() {
                    let index = tile.rows().start;
                    quantize(index, tile.row_mut(index));
                }
            });
        }
        LinearInput {
            x,
            stride,
            width,
            records: &self.records[..n_records * record_words],
            layout,
            is_rotated: rotation.is_some(),
        }
    }
}

/// One output of [`Compute::project`].
#[derive(Debug)]
pub struct Projection<'a> {
    linear: &'a Linear,
    tokens: Range<usize>,
    accumulate: bool,
    activation: Option<Activation>,
    y: &'a mut [f32],
    /// Distance of one row of `y` to the next.
    stride: usize,
}

impl Projection<'_> {
    /// With rows of `y` that are `stride` apart.
    pub fn with_stride(self, stride: usize) -> Self {
        Projection { stride, ..self }
    }

    /// With `y = activation(x W^T + b)`, done while it is at hand.
    pub fn with_activation(self, activation: Activation) -> Self {
        Projection {
            activation: Some(activation),
            ..self
        }
    }
}

impl Linear {
    /// `y = x W^T + b` for the rows `tokens` of an input, with `y: [tokens, n_out]`.
    pub fn of<'a>(&'a self, tokens: Range<usize>, y: &'a mut [f32]) -> Projection<'a> {
        Projection {
            linear: self,
            tokens,
            accumulate: false,
            activation: None,
            y,
            stride: self.weight.n_rows,
        }
    }

    /// `y = x W^T + b` for `x: [n, n_in]` and `y: [n, n_out]`.
    pub fn forward(&self, compute: &Compute, x: LinearInput, y: &mut [f32]) {
        compute.project(x, [self.of(0..x.n_tokens(), y)]);
    }

    /// `y += x W^T + b` for `x: [n, n_in]` and `y: [n, n_out]`.
    pub fn add_to(&self, compute: &Compute, x: LinearInput, y: &mut [f32]) {
        let projection = Projection {
            accumulate: true,
            ..self.of(0..x.n_tokens(), y)
        };
        compute.project(x, [projection]);
    }
}

impl LinearInput<'_> {
    fn n_tokens(&self) -> usize {
        self.x.len() / self.stride
    }

    /// Weight rows that a thread takes at a time.
    fn tile_rows(&self, compute: &Compute, weight: &Matrix) -> usize {
        if is_float(weight.dtype) {
            TILE_ROWS
        } else if self.layout.width == 1 {
            // Enough pieces for the threads to end together.
            let fair = weight.n_rows / (8 * compute.threads.count());
            fair.clamp(8, MAX_ROWS_AT_A_TIME)
        } else {
            compute.isa.run_int8(PanelRows {
                dtype: weight.dtype,
                n_rows: weight.n_rows,
                n_cols: weight.n_cols,
                span: self.layout.span,
                n_threads: compute.threads.count(),
            })
        }
    }
}

/// What is left of a projection to be computed.
struct ProjectionWork<'a> {
    linear: &'a Linear,
    tokens: Range<usize>,
    accumulate: bool,
    activation: Option<Activation>,
    tiles: Tiles<'a>,
}

impl Compute {
    /// Computes several projections of one input, in one parallel region.
    pub fn project<const N: usize>(&self, input: LinearInput, projections: [Projection; N]) {
        let work = projections.map(|projection| {
            let weight = &projection.linear.weight;
            assert_eq!(weight.n_cols, input.width);
            assert!(weight.rotation.is_some() == input.is_rotated);
            assert!(projection.tokens.end <= input.n_tokens());
            assert!(projection.activation.is_none() || !projection.accumulate);
            assert_eq!(
                projection.y.len(),
                projection.tokens.len() * projection.stride
            );
            let tile_rows = input.tile_rows(self, weight);
            let n_tokens = projection.tokens.len().max(1);
            let (y, stride) = (projection.y, projection.stride);
            let tiles = Tiles::strided(y, stride, weight.n_rows, n_tokens, tile_rows);
            ProjectionWork {
                linear: projection.linear,
                tokens: projection.tokens,
                accumulate: projection.accumulate,
                activation: projection.activation,
                tiles: tiles.shared_among(self.threads.count()),
            }
        });
        self.threads.run(|worker| {
            // Its own share of each, which it reads as one stream; then what others have left.
            for work in &work {
                while let Some(mut tile) = work.tiles.take_of(worker) {
                    self.project_tile(worker, input, work, &mut tile);
                }
            }
            for work in &work {
                while let Some(mut tile) = work.tiles.take() {
                    self.project_tile(worker, input, work, &mut tile);
                }
            }
        });
    }

    fn project_tile(
        &self,
        worker: usize,
        input: LinearInput,
        work: &ProjectionWork,
        out: &mut Tile,
    ) {
        let weight = work.linear.weight.view();
        let bias = work.linear.bias.as_deref();
        let ProjectionWork {
            tokens,
            accumulate,
            activation,
            ..
        } = work;
        let (tokens, accumulate, activation) = (tokens.clone(), *accumulate, *activation);
        if is_float(weight.dtype) {
            let x = &input.x[tokens.start * input.stride..tokens.end * input.stride];
            matmul(self.isa, weight, bias, x, input.stride, accumulate, out);
        } else if input.layout.width == 1 {
            self.isa.run_int8(Gemv {
                weight,
                records: input.records,
                span: input.layout.span,
                tokens,
                bias,
                accumulate,
                out,
            });
        } else {
            self.isa.run_int8(Gemm(GemmTile {
                weight,
                batch: TokenTiles {
                    records: input.records,
                    layout: input.layout,
                    n_tokens: input.n_tokens(),
                },
                tokens,
                bias,
                accumulate,
                activation,
                out,
                panel: &mut self.panels.of(worker),
            }));
            return;
        }
        if let Some(activation) = activation {
            for row in out.rows() {
                let values = out.row_mut(row);
                self.isa.run(
                    #[inline(always)]
                    || activation.apply(values),
                );
            }
        }
    }
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::map::Bytes;
    use std::num::NonZeroUsize;

    #[test]
    fn a_buffer_beyond_all_addresses_is_not_a_small_one() {
        let (n, width) = (usize::MAX / 2 + 1, 1 << 14);
        assert_eq!(InputBuffer::len_for(n, width), usize::MAX);
        // A token more at a time, and a column: never less.
        let lens = |n| [InputBuffer::len_for(n, 96), InputBuffer::len_for(n, 128)];
        assert!((1..70).all(|n| lens(n) <= lens(n + 1) && lens(n)[0] <= lens(n)[1]));
    }

    /// One token, a batch, and weights that are floats: each has a way of its own.
    #[test]
    fn rows_lie_apart_and_go_through_the_activation() {
        let compute = Compute::new(NonZeroUsize::new(2).unwrap()).unwrap();
        let (n_rows, n_cols, stride) = (75, 64, 80);
        let some = |i: usize| (i * 7919 % 2003) as f32 / 1000.0 - 1.0;
        let weights: Vec<f32> = (0..n_rows * n_cols).map(some).collect();
        let bias = Floats::new(Bytes::from_slice(bytemuck::cast_slice(&weights[..n_rows])).into());
        for (dtype, n, role, activation) in [
            (DType::Q8_0, 1, RowRole::Answer, Activation::QuickGelu),
            (DType::Q8_0, 1, RowRole::Prompt, Activation::QuickGelu),
            (DType::Q8_0, 70, RowRole::Prompt, Activation::QuickGelu),
            (DType::Q8_0, 33, RowRole::Prompt, Activation::Gelu),
            (DType::F32, 9, RowRole::Prompt, Activation::Gelu),
        ] {
            let row_bytes = n_cols / dtype.block_len() * dtype.block_bytes();
            let mut bytes = vec![0; n_rows * row_bytes];
            quant::quantize(dtype, &weights, &mut bytes);
            let linear = Linear {
                weight: Matrix::new(
                    Bytes::from_slice(&bytes).into(),
                    dtype,
                    n_rows,
                    n_cols,
                    Shared::default(),
                ),
                bias: bias.clone(),
            };
            let x: Vec<f32> = (0..n * n_cols).map(|i| some(i + 5)).collect();
            let mut wide = vec![f32::NAN; n * (n_cols + 3)];
            for (wide, x) in wide.chunks_mut(n_cols + 3).zip(x.chunks(n_cols)) {
                wide[..n_cols].copy_from_slice(x);
            }
            let mut buffers = [InputBuffer::default(), InputBuffer::default()];
            let [first, second] = &mut buffers;

            let mut plain = vec![0.0; n * n_rows];
            let input = first.prepare(&compute, role, &x, &linear);
            linear.forward(&compute, input, &mut plain);
            let mut apart = vec![7.0; n * stride];
            let input = second.prepare_strided(&compute, role, &wide, n_cols + 3, &linear);
            let projection = linear.of(0..n, &mut apart).with_stride(stride);
            compute.project(input, [projection.with_activation(activation)]);

            activation.apply(&mut plain);
            for (apart, plain) in apart.chunks(stride).zip(plain.chunks(n_rows)) {
                assert_eq!(&apart[..n_rows], plain, "{dtype}, {n} tokens");
                assert!(apart[n_rows..].iter().all(|&x| x == 7.0));
            }
        }
    }
}
