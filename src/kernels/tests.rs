//! The int8 kernels against their definition, over odd shapes, on every instruction set.

use std::ops::Range;

use super::Isa;
use super::activations::{self, Layout};
use super::gemm::panel::Panel;
use super::gemm::{Gemm, GemmTile, PanelRows, TileWidth, TokenTiles};
use super::gemv::{self, Gemv};
use super::matmul::WeightView;
use super::tiles::Tiles;
use crate::gguf::DType;
use crate::quant;

const DTYPES: [DType; 4] = [DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K];

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (((i + seed) * 7919) % 2003) as f32 / 1001.0 - 1.0)
        .collect()
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
    /// and the sum of the products' sizes, which bounds the rounding.
    fn exact(&self, width: usize, x: &[f32]) -> Vec<(f64, f64)> {
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
                out.push((products.sum(), size));
            }
        }
        out
    }

    fn gemm(&self, isa: Isa, x: &[f32], tokens: Range<usize>, bias: Option<&[f32]>) -> Vec<f32> {
        let n_tokens = x.len() / self.n_cols;
        let layout = Layout {
            width: isa.run_int8(TileWidth),
            n_cols: self.n_cols,
        };
        let records = records(isa, layout, x);
        let panel_rows = isa.run_int8(PanelRows {
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

    fn gemv(&self, isa: Isa, x: &[f32], tokens: Range<usize>, bias: Option<&[f32]>) -> Vec<f32> {
        let layout = Layout {
            width: 1,
            n_cols: self.n_cols,
        };
        let records = records(isa, layout, x);
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

fn shapes(dtype: DType) -> [(usize, usize); 4] {
    let block = dtype.block_len();
    [(1, block), (7, 2 * block), (19, 3 * block), (50, 1024)]
}

fn check(got: &[f32], exact: &[(f64, f64)], what: &str) {
    assert_eq!(got.len(), exact.len());
    for (i, (got, (exact, size))) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(*got) - exact).abs();
        // 2^-24 a rounding, a few dozen of them; offsets and minimums add to the sizes.
        assert!(
            error <= 2e-5 * (size + 1.0),
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
                let x = values(n_tokens * n_cols, 3);
                let exact = weights.exact(Isa::scalar().run_int8(TileWidth), &x);
                let scalar = weights.gemm(Isa::scalar(), &x, 0..n_tokens, None);
                check(
                    &scalar,
                    &exact,
                    &format!("{dtype} {n_rows} {n_cols} {n_tokens}"),
                );
                for isa in Isa::available() {
                    let got = weights.gemm(isa, &x, 0..n_tokens, None);
                    assert!(
                        got == scalar,
                        "{isa} {dtype} [{n_rows}, {n_cols}] {n_tokens}"
                    );
                    let some = n_tokens / 3..n_tokens - n_tokens / 4;
                    let part = weights.gemm(isa, &x, some.clone(), None);
                    assert!(
                        part == got[some.start * n_rows..some.end * n_rows],
                        "{isa} {some:?}"
                    );
                }
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
            let x = values(n_tokens * n_cols, 3);
            let exact = weights.exact(1, &x);
            let scalar = weights.gemv(Isa::scalar(), &x, 0..n_tokens, None);
            for isa in Isa::available() {
                let together = weights.gemv(isa, &x, 0..n_tokens, None);
                check(
                    &together,
                    &exact,
                    &format!("{isa} {dtype} {n_rows} {n_cols}"),
                );
                // Elsewhere lanes sum other columns, or offsets are taken off later.
                if cfg!(target_arch = "x86_64") && dtype == DType::Q4_K {
                    assert!(together == scalar, "{isa} {n_rows} {n_cols}: other bits");
                }
                for token in 0..n_tokens {
                    let alone = weights.gemv(isa, &x, token..token + 1, None);
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
                let plain = multiply(&weights, isa, &x, 0..3, None);
                let added = multiply(&weights, isa, &x, 0..3, Some(&bias));
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
