//! Products by every path, and what they should be.

use std::ops::Range;

use crate::gguf::DType;
use crate::kernels::Isa;
use crate::kernels::activations::{PackedLayout, Quantize, ScaleSpan};
use crate::kernels::gemm::panel::Panel;
use crate::kernels::gemm::{Gemm, GemmTile, PanelRows, TileWidth, TokenTiles};
use crate::kernels::gemv::Gemv;
use crate::kernels::int8::{Int8, Int8Op};
use crate::kernels::matmul::WeightView;
use crate::kernels::scalar::Scalar;
use crate::kernels::testing::{Data, instruction_sets};
use crate::kernels::tiles::Tiles;
use crate::quant::{self, Rotation};

/// Every format but floats.
pub fn quantized() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1)
}

/// How products are computed, with a scale for so many columns of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Path {
    /// Row by row, as answers are.
    Gemv(ScaleSpan),
    /// As batches are.
    Gemm(ScaleSpan),
}

/// The paths that weights of a format take.
pub fn paths(dtype: DType) -> impl Iterator<Item = Path> {
    let by_blocks = dtype.block_len() == 128;
    let all = [
        Path::Gemv(ScaleSpan::Unit),
        Path::Gemm(ScaleSpan::Unit),
        Path::Gemm(ScaleSpan::Coarse),
    ];
    let coarse = by_blocks.then_some(Path::Gemv(ScaleSpan::Coarse));
    all.into_iter().chain(coarse)
}

impl Path {
    /// The scales of tokens.
    pub fn span(self) -> ScaleSpan {
        match self {
            Path::Gemv(span) | Path::Gemm(span) => span,
        }
    }

    /// Whether weights and tokens are multiplied as they are stored and rounded.
    pub fn is_exact(self, dtype: DType) -> bool {
        self.span() == ScaleSpan::Unit || dtype.block_len() == 128
    }

    pub fn layout(self, runs: Runs, n_cols: usize) -> PackedLayout {
        let (width, span) = match self {
            Path::Gemv(span) => (1, span),
            Path::Gemm(span) => (runs.run_int8(TileWidth), span),
        };
        PackedLayout {
            width,
            n_cols,
            span,
        }
    }
}

/// An instruction set, or scalar code that keeps the formats' own groups, or that has tile registers.
#[derive(Clone, Copy, Debug)]
pub enum Runs {
    On(Isa),
    ByGroup,
    WithTiles,
}

impl Runs {
    pub fn all() -> impl Iterator<Item = Self> {
        let sets = instruction_sets();
        let scalar = match sets[0].name() {
            "scalar" => &[Runs::ByGroup, Runs::WithTiles][..],
            _ => &[],
        };
        sets.into_iter().map(Runs::On).chain(scalar.iter().copied())
    }

    /// Scalar code that computes what this does.
    pub fn specification(self) -> Self {
        match self.run_int8(WholeBytes) {
            true => Runs::On(Isa::scalar()),
            false => Runs::ByGroup,
        }
    }

    pub fn run_int8<Op: Int8Op>(self, op: Op) -> Op::Output {
        match self {
            Runs::On(isa) => isa.run_int8(op),
            Runs::ByGroup => Scalar::<false>.vectorize(op),
            Runs::WithTiles => Scalar::<true, true>.vectorize(op),
        }
    }
}

struct WholeBytes;

impl Int8Op for WholeBytes {
    type Output = bool;

    fn run<I: Int8>(self, _: I) -> bool {
        I::WHOLE_BYTES
    }
}

pub struct Weights {
    pub bytes: Vec<u8>,
    pub dtype: DType,
    pub n_rows: usize,
    pub n_cols: usize,
}

impl Weights {
    pub fn new(dtype: DType, n_rows: usize, n_cols: usize, values: &[f32]) -> Self {
        let mut bytes = vec![0; n_rows * dtype.row_bytes(n_cols).unwrap()];
        quant::quantize(dtype, values, &mut bytes);
        Weights {
            bytes,
            dtype,
            n_rows,
            n_cols,
        }
    }

    pub fn of(dtype: DType, n_rows: usize, n_cols: usize, data: Data) -> Self {
        let values = data.values(n_rows * n_cols, 1);
        Self::new(dtype, n_rows, n_cols, &values)
    }

    pub fn view(&self) -> WeightView<'_> {
        WeightView {
            bytes: &self.bytes,
            dtype: self.dtype,
            n_cols: self.n_cols,
        }
    }

    pub fn stored(&self) -> Vec<f32> {
        let mut stored = vec![0.0; self.n_rows * self.n_cols];
        quant::dequantize(self.dtype, &self.bytes, &mut stored);
        stored
    }

    /// Rows `tokens` of the products with `x: [n, n_cols]`.
    pub fn multiply(&self, path: Path, runs: Runs, x: &[f32], tokens: Range<usize>) -> Vec<f32> {
        self.multiply_onto(path, runs, x, tokens, None, None)
    }

    /// Likewise, plus a bias, added to what is there with `y`.
    pub fn multiply_onto(
        &self,
        path: Path,
        runs: Runs,
        x: &[f32],
        tokens: Range<usize>,
        bias: Option<&[f32]>,
        y: Option<f32>,
    ) -> Vec<f32> {
        let layout = path.layout(runs, self.n_cols);
        let records = records(runs, layout, x, None);
        let batch = TokenTiles {
            records: &records,
            layout,
            n_tokens: x.len() / self.n_cols,
        };
        self.multiply_records(runs, batch, tokens, bias, y)
    }

    pub fn multiply_records(
        &self,
        runs: Runs,
        batch: TokenTiles,
        tokens: Range<usize>,
        bias: Option<&[f32]>,
        y: Option<f32>,
    ) -> Vec<f32> {
        let tile_rows = match batch.layout.width {
            1 => 5,
            _ => runs.run_int8(PanelRows {
                dtype: self.dtype,
                n_rows: self.n_rows,
                n_cols: self.n_cols,
                span: batch.layout.span,
                n_threads: 1,
            }),
        };
        let mut out = vec![y.unwrap_or(f32::NAN); tokens.len() * self.n_rows];
        let tiles = Tiles::new(&mut out, self.n_rows, tokens.len(), tile_rows);
        while let Some(mut out) = tiles.take() {
            match batch.layout.width {
                1 => runs.run_int8(Gemv {
                    weight: self.view(),
                    records: batch.records,
                    span: batch.layout.span,
                    tokens: tokens.clone(),
                    bias,
                    accumulate: y.is_some(),
                    out: &mut out,
                }),
                _ => runs.run_int8(Gemm(GemmTile {
                    weight: self.view(),
                    batch,
                    tokens: tokens.clone(),
                    bias,
                    accumulate: y.is_some(),
                    activation: None,
                    out: &mut out,
                    panel: &mut Panel::default(),
                })),
            }
        }
        out
    }

    /// Products, in `f64`, of what the bytes stand for with what the rounded tokens stand for; each
    /// with a bound of what rounding 32-bit sums can do to it.
    pub fn exact(&self, span: ScaleSpan, x: &[f32]) -> Vec<(f64, f64)> {
        let stored = self.stored();
        let layout = PackedLayout {
            width: 1,
            n_cols: self.n_cols,
            span,
        };
        let mut out = Vec::new();
        for token in x.chunks(self.n_cols) {
            let record = records(Runs::On(Isa::scalar()), layout, token, None);
            let view = layout.view(&record);
            let rounded: Vec<f64> = (view.quants.iter().enumerate())
                .map(|(i, &quant)| f64::from(quant) * f64::from(view.scales[i / 32]))
                .collect();
            for row in stored.chunks(self.n_cols) {
                let products = row.iter().zip(&rounded).map(|(&w, x)| f64::from(w) * x);
                // Parts of a sum that cancel, offsets and minimums, are as large as the largest weight
                // of their group, up to four times.
                let group = if self.dtype.block_len() == 128 {
                    128
                } else {
                    32
                };
                let groups = row.chunks(group).zip(rounded.chunks(group));
                let parts = groups.map(|(row, rounded)| {
                    let largest = row.iter().fold(0.0, |max: f32, w| max.max(w.abs()));
                    let sizes: f64 = rounded.iter().map(|x| x.abs()).sum();
                    4.0 * f64::from(largest) * sizes
                });
                let n_roundings = self.n_cols as f64 / 16.0 + 16.0;
                let bound = n_roundings * (-24f64).exp2() * parts.sum::<f64>();
                out.push((products.sum(), bound + f64::from(f32::MIN_POSITIVE)));
            }
        }
        out
    }
}

pub fn records(
    runs: Runs,
    layout: PackedLayout,
    x: &[f32],
    rotation: Option<&Rotation>,
) -> Vec<f32> {
    let words = layout.record_words();
    let per_record = layout.width * layout.n_cols;
    let mut records = vec![0.0; x.chunks(per_record).count() * words];
    for (record, x) in records.chunks_mut(words).zip(x.chunks(per_record)) {
        let tokens = Quantize {
            layout,
            x,
            stride: layout.n_cols,
            rotation,
        };
        runs.run_int8(tokens.writing(record));
    }
    records
}
