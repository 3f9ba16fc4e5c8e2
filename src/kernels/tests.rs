//! The int8 kernels against their definition, over odd shapes, on every instruction set.

use std::ops::Range;

use super::Isa;
use super::activations::{self, Layout};
use super::gemm::panel::Panel;
use super::gemm::{Gemm, GemmTile, PanelRows, TileWidth, TokenTiles};
use super::gemv::{self, Gemv};
use super::int8::{BLOCK, Int8, Int8Op};
use super::matmul::WeightView;
use super::scalar::Scalar;
use super::tiles::Tiles;
use crate::gguf::DType;
use crate::quant;

const DTYPES: [DType; 4] = [DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K];

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (((i + seed) * 7919) % 2003) as f32 / 1001.0 - 1.0)
        .collect()
}

/// An instruction set, or scalar code that keeps the formats' own groups.
#[derive(Clone, Copy)]
enum Runs {
    On(Isa),
    ByGroup,
}

impl Runs {
    /// Scalar code that computes what an instruction set does.
    fn specification_of(isa: Isa) -> Self {
        match isa.run_int8(WholeBytes) {
            true => Runs::On(Isa::scalar()),
            false => Runs::ByGroup,
        }
    }

    fn isa(self) -> Isa {
        match self {
            Runs::On(isa) => isa,
            Runs::ByGroup => Isa::scalar(),
        }
    }

    fn run_int8<Op: Int8Op>(self, op: Op) -> Op::Output {
        match self {
            Runs::On(isa) => isa.run_int8(op),
            Runs::ByGroup => Scalar::<false>.vectorize(op),
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

/// Values that have nothing to do with those of [`values`].
fn tokens(n: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

struct Weights {
    bytes: Vec<u8>,
    dtype: DType,
    n_rows: usize,
    n_cols: usize,
}

impl Weights {
    fn new(dtype: DType, n_rows: usize, n_cols: usize) -> Self {
        let row_bytes = dtype.row_bytes(n_cols).unwrap();
        let mut bytes = vec![0; n_rows * row_bytes];
        // Extremes of the integers too: some rows hold a single spike.
        let mut weights = values(n_rows * n_cols, 1);
        weights.iter_mut().step_by(97).for_each(|w| *w *= -9.0);
        quant::quantize(dtype, &weights, &mut bytes);
        Weights {
            bytes,
            dtype,
            n_rows,
            n_cols,
        }
    }

    fn view(&self) -> WeightView<'_> {
        WeightView {
            bytes: &self.bytes,
            dtype: self.dtype,
            n_cols: self.n_cols,
        }
    }

    /// Products in `f64` of what the bytes stand for with what the quantized tokens stand for,
    /// and the sum of the products' sizes, which bounds the rounding; with the root of the sum of
    /// squares of the tokens' values times the largest weight of 128.
    fn exact(&self, width: usize, x: &[f32]) -> Vec<(f64, f64, f64)> {
        let mut stored = vec![0.0; self.n_rows * self.n_cols];
        quant::dequantize(self.dtype, &self.bytes, &mut stored);
        let layout = Layout {
            width,
            n_cols: self.n_cols,
        };
        let mut record = vec![0.0; layout.record_words()];
        let mut out = Vec::new();
        for token in x.chunks(self.n_cols) {
            activations::quantize(Isa::scalar(), layout, token, &mut record);
            let view = layout.view(&record);
            for row in stored.chunks(self.n_cols) {
                let products = row.iter().enumerate().map(|(i, &w)| {
                    let quant = view.quants[i / 4 * 4 * width + i % 4];
                    f64::from(w) * f64::from(quant) * f64::from(view.scales[i / 32 * width])
                });
                let size = products.clone().map(f64::abs).sum();
                let blocks = row.chunks(BLOCK).enumerate().map(|(b, row)| {
                    let largest = row.iter().fold(0.0, |m: f32, w| m.max(w.abs()));
                    let squares = (b * BLOCK..b * BLOCK + row.len()).map(|i| {
                        let quant = view.quants[i / 4 * 4 * width + i % 4];
                        (f64::from(quant) * f64::from(view.scales[i / 32 * width])).powi(2)
                    });
                    f64::from(largest).powi(2) * squares.sum::<f64>()
                });
                out.push((products.sum(), size, blocks.sum::<f64>().sqrt()));
            }
        }
        out
    }

    fn gemm(&self, isa: Runs, x: &[f32], tokens: Range<usize>, bias: Option<&[f32]>) -> Vec<f32> {
        let n_tokens = x.len() / self.n_cols;
        let layout = Layout {
            width: isa.run_int8(TileWidth),
            n_cols: self.n_cols,
        };
        let records = records(isa.isa(), layout, x);
        let panel_rows = isa.run_int8(PanelRows {
            dtype: self.dtype,
            n_rows: self.n_rows,
            n_cols: self.n_cols,
            n_threads: 1,
        });
        let mut y = vec![1.0; tokens.len() * self.n_rows];
        let tiles = Tiles::new(&mut y, self.n_rows, tokens.len(), panel_rows);
        while let Some(mut out) = tiles.take() {
            isa.run_int8(Gemm(GemmTile {
                weight: self.view(),
                batch: TokenTiles {
                    records: &records,
                    layout,
                    n_tokens,
                },
                tokens: tokens.clone(),
                bias,
                accumulate: bias.is_some(),
                activation: None,
                out: &mut out,
                panel: &mut Panel::default(),
            }));
        }
        y
    }

    fn gemv(&self, isa: Runs, x: &[f32], tokens: Range<usize>, bias: Option<&[f32]>) -> Vec<f32> {
        let layout = Layout {
            width: 1,
            n_cols: self.n_cols,
        };
        let records = records(isa.isa(), layout, x);
        let mut y = vec![1.0; tokens.len() * self.n_rows];
        let tiles = Tiles::new(&mut y, self.n_rows, tokens.len(), 5);
        while let Some(mut out) = tiles.take() {
            isa.run_int8(Gemv {
                weight: self.view(),
                records: &records,
                tokens: tokens.clone(),
                bias,
                accumulate: bias.is_some(),
                out: &mut out,
            });
        }
        y
    }
}

fn records(isa: Isa, layout: Layout, x: &[f32]) -> Vec<f32> {
    let words = layout.record_words();
    let per_record = layout.width * layout.n_cols;
    let mut records = vec![0.0; x.chunks(per_record).count() * words];
    for (record, x) in records.chunks_mut(words).zip(x.chunks(per_record)) {
        activations::quantize(isa, layout, x, record);
    }
    records
}

fn shapes(dtype: DType) -> [(usize, usize); 5] {
    let block = dtype.block_len();
    [
        (1, block),
        (7, 2 * block),
        (19, 3 * block),
        (5, 11 * block),
        (50, 1024),
    ]
}

/// With `regrouped` weights, each off by up to half a step or little more, one way or the other: by
/// 0.3 in the mean of squares, of which six are allowed.
fn check(got: &[f32], exact: &[(f64, f64, f64)], regrouped: bool, what: &str) {
    assert_eq!(got.len(), exact.len());
    for (i, (got, (exact, size, largest))) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(*got) - exact).abs();
        let step = if regrouped { largest / 127.0 } else { 0.0 };
        // 2^-24 a rounding, a few dozen of them; offsets and minimums add to the sizes.
        assert!(
            error <= 2e-5 * (size + 1.0) + 6.0 * 0.3 * step,
            "{what} [{i}]: {got} not {exact}"
        );
    }
}

#[test]
fn batches_match_the_definition_with_the_same_bits_everywhere() {
    for dtype in DTYPES {
        for (n_rows, n_cols) in shapes(dtype) {
            let weights = Weights::new(dtype, n_rows, n_cols);
            for n_tokens in [1, 2, 5, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49, 70] {
                let x = tokens(n_tokens * n_cols);
                let exact = weights.exact(Isa::scalar().run_int8(TileWidth), &x);
                let everywhere = 0..n_tokens;
                for specification in [Runs::On(Isa::scalar()), Runs::ByGroup] {
                    let scalar = weights.gemm(specification, &x, everywhere.clone(), None);
                    let regrouped = matches!(specification, Runs::On(_)) || dtype == DType::Q8_0;
                    check(
                        &scalar,
                        &exact,
                        regrouped,
                        &format!("{dtype} {n_rows} {n_cols} {n_tokens}"),
                    );
                }
                for isa in Isa::available() {
                    let specification = Runs::specification_of(isa);
                    let scalar = weights.gemm(specification, &x, everywhere.clone(), None);
                    let isa = Runs::On(isa);
                    let got = weights.gemm(isa, &x, everywhere.clone(), None);
                    assert!(
                        got == scalar,
                        "{} {dtype} [{n_rows}, {n_cols}] {n_tokens}",
                        isa.isa()
                    );
                    let some = n_tokens / 3..n_tokens - n_tokens / 4;
                    let part = weights.gemm(isa, &x, some.clone(), None);
                    assert!(
                        part == got[some.start * n_rows..some.end * n_rows],
                        "{} {some:?}",
                        isa.isa()
                    );
                }
            }
        }
    }
}

/// Weights and tokens at the ends of their ranges, where sums of integers are largest.
#[test]
fn extremes_do_not_overflow() {
    let (n_rows, n_cols, n_tokens) = (7, 512, 33);
    for dtype in DTYPES {
        for sign in [1.0, -1.0] {
            let mut weights = Weights::new(dtype, n_rows, n_cols);
            quant::quantize(dtype, &vec![sign; n_rows * n_cols], &mut weights.bytes);
            let x = vec![-3.0; n_tokens * n_cols];
            let exact = weights.exact(Isa::scalar().run_int8(TileWidth), &x);
            for isa in Isa::available()
                .into_iter()
                .map(Runs::On)
                .chain([Runs::ByGroup])
            {
                let got = weights.gemm(isa, &x, 0..n_tokens, None);
                for (got, (exact, ..)) in got.iter().zip(&exact) {
                    // All weights are off by the same part of a step.
                    let error = (f64::from(*got) - exact).abs() / exact.abs();
                    assert!(
                        error < 0.76 / 127.0,
                        "{} {dtype} {sign}: {error}",
                        isa.isa()
                    );
                }
            }
        }
    }
}

/// Whatever a file holds, it does no harm; and as long as its scales are finite, it has the same
/// products everywhere.
#[test]
fn any_bytes_are_weights() {
    let (n_rows, n_cols, n_tokens) = (13, 512, 20);
    let x = tokens(n_tokens * n_cols);
    for dtype in DTYPES {
        // Where the half floats of a block are.
        let halves: &[usize] = match dtype {
            DType::Q4_K => &[0, 2],
            DType::Q6_K => &[208],
            _ => &[0],
        };
        for seed in 0..4_u32 {
            let mut weights = Weights::new(dtype, n_rows, n_cols);
            let mut state = seed;
            for byte in &mut weights.bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            }
            for isa in Isa::available() {
                weights.gemm(Runs::On(isa), &x, 0..n_tokens, None);
            }
            // Below 2 in size.
            for block in weights.bytes.chunks_mut(dtype.block_bytes()) {
                halves.iter().for_each(|&half| block[half + 1] &= 0xbf);
            }
            for isa in Isa::available() {
                let specification = Runs::specification_of(isa);
                let scalar = weights.gemm(specification, &x, 0..n_tokens, None);
                let got = weights.gemm(Runs::On(isa), &x, 0..n_tokens, None);
                assert!(got == scalar, "{isa} {dtype} {seed}");
            }
        }
    }
}

#[test]
fn single_tokens_match_the_definition() {
    for dtype in DTYPES {
        for (n_rows, n_cols) in shapes(dtype) {
            let weights = Weights::new(dtype, n_rows, n_cols);
            let n_tokens = gemv::MAX_TOKENS;
            let x = tokens(n_tokens * n_cols);
            let exact = weights.exact(1, &x);
            let scalar = weights.gemv(Runs::On(Isa::scalar()), &x, 0..n_tokens, None);
            for isa in Isa::available() {
                let together = weights.gemv(Runs::On(isa), &x, 0..n_tokens, None);
                check(
                    &together,
                    &exact,
                    false,
                    &format!("{isa} {dtype} {n_rows} {n_cols}"),
                );
                // Elsewhere lanes sum other columns, or offsets are taken off later.
                if cfg!(target_arch = "x86_64") && dtype == DType::Q4_K {
                    assert!(together == scalar, "{isa} {n_rows} {n_cols}: other bits");
                }
                for token in 0..n_tokens {
                    let alone = weights.gemv(Runs::On(isa), &x, token..token + 1, None);
                    assert!(
                        alone == together[token * n_rows..(token + 1) * n_rows],
                        "{isa}"
                    );
                }
            }
        }
    }
}

#[test]
fn biases_and_what_was_there_are_added() {
    for dtype in DTYPES {
        let weights = Weights::new(dtype, 13, 256);
        let x = values(3 * 256, 3);
        let bias = values(13, 5);
        for isa in Isa::available() {
            for multiply in [Weights::gemm, Weights::gemv] {
                let plain = multiply(&weights, Runs::On(isa), &x, 0..3, None);
                let added = multiply(&weights, Runs::On(isa), &x, 0..3, Some(&bias));
                for (i, (plain, added)) in plain.iter().zip(&added).enumerate() {
                    let sum = 1.0 + plain + bias[i % 13];
                    assert!(
                        (sum - added).abs() < 1e-5,
                        "{isa} {dtype}: {added} not {sum}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_instruction_set_is_chosen_by_name() {
    assert_eq!(Isa::choose("scalar").unwrap().name(), "scalar");
    let best = Isa::choose("").unwrap();
    assert_eq!(best.name(), Isa::available().last().unwrap().name());
    let error = Isa::choose("sse9").unwrap_err().to_string();
    assert!(
        error.contains("OWL2_ISA") && error.contains("scalar"),
        "{error}"
    );
}

#[test]
fn the_expected_instruction_set_is_chosen() {
    // Whoever knows the processor, as one who emulates it does, says what it must run.
    if let Ok(expected) = std::env::var("OWL2_EXPECT_ISA") {
        assert_eq!(Isa::detect().unwrap().name(), expected);
    }
}
