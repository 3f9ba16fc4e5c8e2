//! The int8 kernels against their definition: every kind of values, path, format and shape, on every
//! instruction set.

use super::Isa;
use super::activations::{Quantize, ScaleSpan};
use super::gemm::{PanelRows, TokenTiles};
use super::int8::{Int8, Int8Op};
use super::testing::{Data, FINITE, NOT_FINITE, instruction_sets};
use crate::gguf::DType;
use crate::quant::Rotation;
use products::{Path, Runs, Weights, paths, quantized, records};

pub(super) mod products;

fn shapes(dtype: DType) -> [(usize, usize); 4] {
    let block = dtype.block_len();
    [(1, block), (7, 3 * block), (5, 11 * block), (50, 1024)]
}

/// Whether sums of any kind of values are those of their definition, on whatever computes them.
#[test]
fn sums_are_those_of_what_the_operands_stand_for() {
    for dtype in quantized() {
        for (n_rows, n_cols) in shapes(dtype) {
            for (i, of_weights) in FINITE.into_iter().enumerate() {
                let weights = Weights::of(dtype, n_rows, n_cols, of_weights);
                for (j, of_tokens) in FINITE.into_iter().enumerate() {
                    // Each meets each at one shape, and some others at the rest of them.
                    if n_cols != 3 * dtype.block_len() && (i + j) % 5 != 0 {
                        continue;
                    }
                    let n_tokens = 3;
                    let x = of_tokens.values(n_tokens * n_cols, 2);
                    for path in paths(dtype).filter(|path| path.is_exact(dtype)) {
                        let exact = weights.exact(path.span(), &x);
                        for runs in Runs::all() {
                            let got = weights.multiply(path, runs, &x, 0..n_tokens);
                            for (i, (got, (exact, bound))) in got.iter().zip(&exact).enumerate() {
                                let error = (f64::from(*got) - exact).abs();
                                assert!(
                                    error <= *bound,
                                    "{runs:?} {path:?} {dtype} [{n_rows}, {n_cols}] {of_weights:?} \
                                     {of_tokens:?} [{i}]: {got} not {exact}, off by more than {bound}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The relative error of a matrix product, by the norms of both.
fn relative_error(got: &[f32], exact: &[f64]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let errors = got
        .iter()
        .zip(exact)
        .map(|(got, exact)| f64::from(*got) - exact);
    let size = squares(&mut exact.iter().copied());
    (squares(&mut { errors }) / size.max(f64::MIN_POSITIVE)).sqrt()
}

/// With rotated columns, the coarse scales of a prompt cost little more than the fine ones of an
/// answer, whatever outliers weights and activations have.
#[test]
fn rotated_prompts_are_as_faithful_as_answers() {
    let (n_rows, n_cols, n_tokens) = (32, 1024, 16);
    let rotation = Rotation::default();
    for dtype in quantized() {
        for (i, of_weights) in FINITE.into_iter().enumerate() {
            // Half-precision scales cannot hold these.
            if of_weights == Data::Denormals {
                continue;
            }
            let plain = of_weights.values(n_rows * n_cols, 1);
            let mut rotated = plain.clone();
            for row in rotated.chunks_mut(n_cols) {
                rotation.apply(row);
            }
            let weights = Weights::new(dtype, n_rows, n_cols, &rotated);
            for (j, of_tokens) in FINITE.into_iter().enumerate() {
                if (i + j) % 3 != 0 {
                    continue;
                }
                let x = of_tokens.values(n_tokens * n_cols, 2);
                let exact: Vec<f64> = (x.chunks(n_cols))
                    .flat_map(|x| {
                        plain.chunks(n_cols).map(move |row| {
                            let pairs = row.iter().zip(x);
                            pairs.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
                        })
                    })
                    .collect();
                let product = |path: Path, runs: Runs| {
                    let layout = path.layout(runs, n_cols);
                    let records = records(runs, layout, &x, Some(&rotation));
                    let batch = TokenTiles {
                        records: &records,
                        layout,
                        n_tokens,
                    };
                    let got = weights.multiply_records(runs, batch, 0..n_tokens, None, None);
                    relative_error(&got, &exact)
                };
                for runs in Runs::all() {
                    let fine = product(Path::Gemv(ScaleSpan::Unit), runs);
                    for path in paths(dtype).filter(|path| path.span() == ScaleSpan::Coarse) {
                        let coarse = product(path, runs);
                        // Eight bits of activations at either scale; of weights, rounded to one scale.
                        assert!(
                            coarse <= 2.0 * fine + 0.012,
                            "{runs:?} {path:?} {dtype} {of_weights:?} {of_tokens:?}: {coarse} against \
                             {fine}"
                        );
                    }
                }
            }
        }
    }
}

/// A row's arithmetic does not depend on how many rows there are, and every instruction set computes
/// what scalar code specifies, bit by bit.
#[test]
fn batches_have_the_same_bits_everywhere() {
    // Panels of several tiles, of 32 rows too, the last of them cut.
    let many_rows = [(600, 256)];
    for dtype in quantized() {
        let shapes = shapes(dtype).into_iter().chain(many_rows);
        for (i, (n_rows, n_cols)) in shapes.enumerate() {
            let data = FINITE.into_iter().zip(FINITE.into_iter().rev());
            for (j, (of_weights, of_tokens)) in data.enumerate() {
                let weights = Weights::of(dtype, n_rows, n_cols, of_weights);
                for (k, n_tokens) in [1, 9, 16, 33, 70].into_iter().enumerate() {
                    // Each number of tokens meets each kind of values at one shape, and two or three of
                    // them at each of the rest.
                    if n_cols != 3 * dtype.block_len() && (i + j + k) % 5 != 0 {
                        continue;
                    }
                    let x = of_tokens.values(n_tokens * n_cols, 3);
                    for path in [Path::Gemm(ScaleSpan::Unit), Path::Gemm(ScaleSpan::Coarse)] {
                        for runs in Runs::all() {
                            let what = || {
                                format!(
                                    "{runs:?} {path:?} {dtype} [{n_rows}, {n_cols}] {of_weights:?} \
                                     {of_tokens:?} {n_tokens}"
                                )
                            };
                            let everywhere = 0..n_tokens;
                            let specification = runs.specification();
                            let wanted =
                                weights.multiply(path, specification, &x, everywhere.clone());
                            let got = weights.multiply(path, runs, &x, everywhere);
                            assert!(got == wanted, "{}", what());
                            let some = n_tokens / 3..n_tokens - n_tokens / 4;
                            let part = weights.multiply(path, runs, &x, some.clone());
                            let wanted = &got[some.start * n_rows..some.end * n_rows];
                            assert!(part == wanted, "{} {some:?}", what());
                        }
                    }
                }
            }
        }
    }
}

/// Every number of tokens, and every number of units in a row, up to 300.
#[test]
fn every_length_has_the_bits_of_any_other() {
    let most = 300;
    for (dtype, n_cols) in [(DType::Q4_0, 96), (DType::H4, 128)] {
        for (path, runs) in paths(dtype).flat_map(|path| Runs::all().map(move |runs| (path, runs)))
        {
            let weights = Weights::of(dtype, 7, n_cols, Data::Uniform);
            let x = Data::Spikes(10.0).values(most * n_cols, 4);
            let all = weights.multiply(path, runs, &x, 0..most);
            for n in 1..=most {
                // Nor does it matter what is computed before it and beside it.
                let first = 7919 * n % (most - n + 1);
                let (x, all) = (&x[first * n_cols..], &all[first * 7..]);
                let some = weights.multiply(path, runs, &x[..n * n_cols], 0..n);
                assert!(some == all[..n * 7], "{runs:?} {path:?} {n} from {first}");
            }
        }
    }
    for n_units in 1..=most {
        let n_cols = 32 * n_units;
        let dtype = match n_units.is_multiple_of(4) {
            true => [DType::H8, DType::H4][n_units / 4 % 2],
            false => [DType::Q8_0, DType::Q4_0][n_units % 2],
        };
        let weights = Weights::of(dtype, 3, n_cols, Data::Uniform);
        let x = Data::Uniform.values(2 * n_cols, 5);
        for path in paths(dtype) {
            let exact = weights.exact(path.span(), &x);
            for isa in instruction_sets() {
                let got = weights.multiply(path, Runs::On(isa), &x, 0..2);
                if path == Path::Gemm(ScaleSpan::Coarse) {
                    let specification = Runs::On(isa).specification();
                    assert!(got == weights.multiply(path, specification, &x, 0..2));
                    continue;
                }
                for (got, (exact, bound)) in got.iter().zip(&exact) {
                    assert!(
                        (f64::from(*got) - exact).abs() <= *bound,
                        "{isa} {path:?} {n_cols}"
                    );
                }
            }
        }
    }
}

/// One token or many, an answer's rows have the same bits, and those of Q4_K the same everywhere.
#[test]
fn single_tokens_have_the_bits_of_several() {
    for dtype in quantized() {
        for (n_rows, n_cols) in shapes(dtype) {
            for (of_weights, of_tokens) in FINITE.into_iter().zip(FINITE.into_iter().rev()) {
                let weights = Weights::of(dtype, n_rows, n_cols, of_weights);
                let n_tokens = 13;
                let x = of_tokens.values(n_tokens * n_cols, 6);
                // Elsewhere lanes sum other columns, or offsets are taken off later. AVX-512
                // brings scales to a sixteenth, which rounds those next to nothing.
                let is_exact = of_weights != Data::Denormals && of_tokens != Data::Denormals;
                let is_same = cfg!(target_arch = "x86_64") && dtype == DType::Q4_K && is_exact;
                for path in paths(dtype).filter(|path| matches!(path, Path::Gemv(_))) {
                    let scalar = is_same
                        .then(|| weights.multiply(path, Runs::On(Isa::scalar()), &x, 0..n_tokens));
                    for isa in instruction_sets() {
                        let runs = Runs::On(isa);
                        let together = weights.multiply(path, runs, &x, 0..n_tokens);
                        if let Some(scalar) = &scalar {
                            assert!(together == *scalar, "{isa} {n_rows} {n_cols}: other bits");
                        }
                        for token in 0..n_tokens {
                            let alone = weights.multiply(path, runs, &x, token..token + 1);
                            let wanted = &together[token * n_rows..(token + 1) * n_rows];
                            assert!(
                                alone == wanted,
                                "{isa} {path:?} {of_weights:?} {of_tokens:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// A value that is not finite is not lost, and does not spread to what has nothing to do with it.
#[test]
fn what_is_not_finite_arrives() {
    let (n_rows, n_cols, n_tokens) = (13, 512, 20);
    for dtype in quantized() {
        let weights = Weights::of(dtype, n_rows, n_cols, Data::Uniform);
        let x = Data::Uniform.values(n_tokens * n_cols, 7);
        for path in paths(dtype) {
            for runs in Runs::all() {
                let plain = weights.multiply(path, runs, &x, 0..n_tokens);
                for bad in NOT_FINITE {
                    for column in [0, 31, 130, 511] {
                        let token = column % n_tokens;
                        let mut x = x.clone();
                        x[token * n_cols + column] = bad;
                        let got = weights.multiply(path, runs, &x, 0..n_tokens);
                        for (i, (got, plain)) in got.iter().zip(&plain).enumerate() {
                            let is_right = match i / n_rows == token {
                                true => !got.is_finite(),
                                false => got == plain,
                            };
                            assert!(
                                is_right,
                                "{runs:?} {path:?} {dtype}: {bad} in column {column} of token \
                                 {token} gives [{i}] = {got}"
                            );
                        }
                    }
                    // In the scale of a row's first, middle and last block.
                    let row_bytes = weights.view().bytes_per_row();
                    let n_blocks = row_bytes / dtype.block_bytes();
                    for block in [0, n_blocks / 2, n_blocks - 1] {
                        let row = 3 + block % 7;
                        let mut damaged = weights.bytes.clone();
                        let at = row * row_bytes + block * dtype.block_bytes() + scales(dtype)[0];
                        let bits = half::f16::from_f32(bad).to_bits();
                        damaged[at..at + 2].copy_from_slice(&bits.to_le_bytes());
                        let damaged = Weights {
                            bytes: damaged,
                            ..weights
                        };
                        let got = damaged.multiply(path, runs, &x, 0..n_tokens);
                        for (i, (got, plain)) in got.iter().zip(&plain).enumerate() {
                            let is_right = match i % n_rows == row {
                                true => !got.is_finite(),
                                false => got == plain,
                            };
                            assert!(
                                is_right,
                                "{runs:?} {path:?} {dtype}: {bad} as the scale of block {block} of \
                                 row {row} gives [{i}] = {got}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Where the half floats of a block are.
fn scales(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_K => &[0, 2],
        DType::Q6_K => &[208],
        _ => &[0],
    }
}

/// Weights and tokens at the ends of their ranges, where sums of integers are largest.
#[test]
fn extremes_do_not_overflow() {
    let (n_rows, n_cols, n_tokens) = if cfg!(miri) {
        (3, 256, 5)
    } else {
        (7, 512, 33)
    };
    for dtype in quantized() {
        for sign in [1.0, -1.0] {
            let weights = Weights::new(dtype, n_rows, n_cols, &vec![sign; n_rows * n_cols]);
            let x = vec![-3.0; n_tokens * n_cols];
            for path in paths(dtype) {
                let exact = weights.exact(path.span(), &x);
                for runs in Runs::all() {
                    let got = weights.multiply(path, runs, &x, 0..n_tokens);
                    for (got, (exact, _)) in got.iter().zip(&exact) {
                        // Half a step of 127, where weights are rounded once more.
                        let error = (f64::from(*got) - exact).abs() / exact.abs();
                        assert!(
                            error < 0.76 / 127.0,
                            "{runs:?} {path:?} {dtype} {sign}: {error}"
                        );
                    }
                }
            }
        }
    }
}

/// Whatever a file holds, it does no harm; and as long as its scales are finite, it has the same
/// products everywhere.
#[test]
fn any_bytes_are_weights() {
    let (n_rows, n_cols, n_tokens) = if cfg!(miri) {
        (5, 256, 3)
    } else {
        (13, 512, 20)
    };
    let n_seeds: u32 = if cfg!(miri) { 1 } else { 4 };
    let x = Data::Uniform.values(n_tokens * n_cols, 8);
    for dtype in quantized() {
        for seed in 0..n_seeds {
            let mut weights = Weights::of(dtype, n_rows, n_cols, Data::Uniform);
            let mut state = seed;
            for byte in &mut weights.bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            }
            for path in paths(dtype) {
                for runs in Runs::all() {
                    weights.multiply(path, runs, &x, 0..n_tokens);
                }
            }
            // Below 2 in size.
            for block in weights.bytes.chunks_mut(dtype.block_bytes()) {
                for &half in scales(dtype) {
                    block[half + 1] &= 0xbf;
                }
            }
            for path in [Path::Gemm(ScaleSpan::Unit), Path::Gemm(ScaleSpan::Coarse)] {
                for runs in Runs::all() {
                    let scalar = weights.multiply(path, runs.specification(), &x, 0..n_tokens);
                    let got = weights.multiply(path, runs, &x, 0..n_tokens);
                    assert!(got == scalar, "{runs:?} {path:?} {dtype} {seed}");
                }
            }
        }
    }
}

#[test]
fn biases_and_what_was_there_are_added() {
    for dtype in quantized() {
        let weights = Weights::of(dtype, 13, 256, Data::Uniform);
        let x = Data::Uniform.values(3 * 256, 9);
        let bias = Data::Uniform.values(13, 10);
        for runs in Runs::all() {
            for path in paths(dtype) {
                let plain = weights.multiply(path, runs, &x, 0..3);
                for y in [None, Some(1.0)] {
                    let added = weights.multiply_onto(path, runs, &x, 0..3, Some(&bias), y);
                    for (i, (plain, added)) in plain.iter().zip(&added).enumerate() {
                        let sum = y.unwrap_or(0.0) + plain + bias[i % 13];
                        assert!(
                            (sum - added).abs() < 1e-5,
                            "{runs:?} {dtype}: {added} not {sum}"
                        );
                    }
                }
            }
        }
    }
}

/// A record with room for more tokens than there are holds nothing of what was there before.
#[test]
fn records_are_as_if_they_were_new() {
    let n_cols = 256;
    for path in paths(DType::H4) {
        for runs in Runs::all() {
            let layout = path.layout(runs, n_cols);
            for n_tokens in 1..layout.width {
                let x = Data::Uniform.values(n_tokens * n_cols, 12);
                let written_over = |before: f32| -> Vec<u32> {
                    let mut record = vec![before; layout.record_words()];
                    let tokens = Quantize {
                        layout,
                        x: &x,
                        stride: n_cols,
                        rotation: None,
                    };
                    runs.run_int8(tokens.writing(&mut record));
                    record.into_iter().map(f32::to_bits).collect()
                };
                let new = written_over(0.0);
                assert!(
                    new == written_over(f32::NAN),
                    "{runs:?} {path:?} {n_tokens}"
                );
            }
        }
    }
}

/// However many threads there are, a panel is of whole tiles, as large as the cache and a fair share of the
/// rows allow, and no larger.
#[test]
fn panels_are_whole_tiles_that_fit() {
    let spans = [ScaleSpan::Unit, ScaleSpan::Coarse];
    for (dtype, span) in quantized().flat_map(|dtype| spans.map(|span| (dtype, span))) {
        for runs in Runs::all() {
            let panel_rows = |n_rows: usize, n_cols: usize, n_threads: usize| {
                runs.run_int8(PanelRows {
                    dtype,
                    n_rows,
                    n_cols,
                    span,
                    n_threads,
                })
            };
            let tile = panel_rows(1, 256, 1);
            // Floats of a cache line of the output: 16.
            let line = (1..=16).map(|n| n * tile).find(|n| n % 16 == 0).unwrap();
            for n_threads in [1, 2, 9, 100] {
                for (n_rows, n_cols) in [(1, 256), (200, 512), (32_000, 4096), (1 << 20, 256)] {
                    let rows = panel_rows(n_rows, n_cols, n_threads);
                    let what = format!("{runs:?} {dtype} [{n_rows}, {n_cols}] {n_threads}: {rows}");
                    assert!(rows.is_multiple_of(tile) && rows >= tile, "{what}");
                    assert!(rows < line || rows.is_multiple_of(line), "{what}");
                    let is_fair = 8 * n_threads * rows <= n_rows;
                    let fits = rows * n_cols <= 288 << 10;
                    assert!(rows == tile || is_fair && fits, "{what}");
                    // A whole line more would be too much of either; weights may take two bytes.
                    let more = rows + line;
                    let is_most = 8 * n_threads * more > n_rows || 2 * more * n_cols > 288 << 10;
                    assert!(is_most, "{what}");
                }
            }
        }
    }
}

/// Products go to the output in squares of as many rows as tokens, where there are so many, and one by one
/// around them.
#[test]
fn squares_of_products_are_where_they_belong() {
    // So many rows that a panel has some lines of them, and not a whole number of panels.
    let (n_rows, n_cols) = (403, 32);
    let weights = Weights::of(DType::Q8_0, n_rows, n_cols, Data::Uniform);
    let bias = Data::Uniform.values(n_rows, 10);
    let most = 70;
    let x = Data::Uniform.values(most * n_cols, 11);
    let exact = weights.exact(ScaleSpan::Unit, &x);
    for runs in Runs::all() {
        for tokens in [0..most, 0..16, 3..37, 20..21] {
            for y in [None, Some(1.0)] {
                let path = Path::Gemm(ScaleSpan::Unit);
                let got = weights.multiply_onto(path, runs, &x, tokens.clone(), Some(&bias), y);
                let exact = &exact[tokens.start * n_rows..tokens.end * n_rows];
                for (i, (got, (exact, bound))) in got.iter().zip(exact).enumerate() {
                    let wanted = exact + f64::from(bias[i % n_rows] + y.unwrap_or(0.0));
                    let error = (f64::from(*got) - wanted).abs();
                    assert!(
                        error <= bound + 1e-6,
                        "{runs:?} {tokens:?} {y:?} [{i}]: {got} not {wanted}"
                    );
                }
            }
        }
    }
}

/// Scales that are any number of bytes apart, next to the end of what can be read.
#[test]
fn half_floats_apart_are_read_and_no_more() {
    struct Load<'a>(&'a [u8], usize);

    impl Int8Op for Load<'_> {
        type Output = [f32; 8];

        #[allow(unsafe_code)]
        #[inline(always)]
        fn run<I: Int8>(self, isa: I) -> [f32; 8] {
            let Load(bytes, stride) = self;
            assert!(bytes.len() >= 8 * stride);
            // SAFETY: there are so many bytes.
            isa.eight_values(unsafe { isa.load_eight_f16(bytes.as_ptr(), stride) })
        }
    }

    for stride in (2..=64).step_by(2).chain([144, 210]) {
        let mut bytes = vec![0xff; 8 * stride];
        for i in 0..8_u8 {
            let bits = half::f16::from_f32(f32::from(i) - 3.5).to_bits();
            bytes[usize::from(i) * stride..][..2].copy_from_slice(&bits.to_le_bytes());
        }
        for isa in instruction_sets() {
            let got = isa.run_int8(Load(&bytes, stride));
            assert_eq!(
                got,
                [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5],
                "{isa} {stride}"
            );
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
#[ignore = "OWL2_EXPECT_ISA has to say what is expected, as in .ci"]
fn the_expected_instruction_set_is_chosen() {
    // Whoever knows the processor, as one who emulates it does, says what it must run.
    let expected = std::env::var("OWL2_EXPECT_ISA").expect("OWL2_EXPECT_ISA");
    assert_eq!(Isa::detect().unwrap().name(), expected);
}
