//! Operations against their definitions in `f64`, on every instruction set, split over threads or not.

use std::num::NonZeroUsize;
use std::sync::Arc;

use half::f16;

use super::activation::silu_gate;
use super::attention::{Attention, Heads, StoredHeads};
use super::linear::{InputBuffer, Linear, Matrix, Shared};
use super::norm::{LayerNorm, RmsNorm};
use super::patches::patches;
use super::rope::Rotations;
use super::{Compute, Floats, RowRole, gather};
use crate::gguf::{Bytes, DType};
use crate::kernels::testing::{Data, FINITE, NOT_FINITE, instruction_sets};
use crate::quant::{self, BlockQ8_0, Rotation};
use crate::threads::Threads;

/// Every instruction set, alone and with more threads than rows of the smallest matrices.
fn computes() -> impl Iterator<Item = Compute> {
    [1, 9].into_iter().flat_map(|n_threads| {
        instruction_sets().into_iter().map(move |isa| {
            let n_threads = NonZeroUsize::new(n_threads).unwrap();
            Compute::on(Threads::new(n_threads).unwrap(), isa)
        })
    })
}

fn floats(values: &[f32]) -> Floats {
    Floats::new(Bytes::from_slice(bytemuck::cast_slice(values)).into()).unwrap()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Fails where a value is farther from what is wanted than `bound` says for its size.
fn assert_close(got: &[f32], wanted: &[f64], bound: f64, what: &dyn Fn() -> String) {
    assert_eq!(got.len(), wanted.len());
    for (i, (&got, wanted)) in got.iter().zip(wanted).enumerate() {
        let error = (f64::from(got) - wanted).abs();
        assert!(error <= bound, "{}: [{i}] = {got}, not {wanted}", what());
    }
}

/// Rows of some widths, in numbers that tiles hold and do not.
const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 33), (2, 128), (3, 31), (7, 96), (29, 260)];

/// Both norms: no row knows of another, and what is left of it is what the definition says.
#[test]
fn rows_are_normalised_by_themselves() {
    for compute in computes() {
        for data in FINITE {
            for (n, width) in SHAPES {
                let x = data.values(n * width, 1);
                let factors = Data::Uniform.values(width, 2);
                let summands = Data::Uniform.values(width, 3);
                let eps = 1e-5;
                let rms = RmsNorm {
                    weight: floats(&factors),
                    eps,
                };
                let layer = LayerNorm {
                    weight: floats(&factors),
                    bias: floats(&summands),
                    eps,
                };
                let (mut of_rms, mut of_layer) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
                rms.forward(&compute, &x, &mut of_rms);
                layer.forward(&compute, &x, &mut of_layer);
                let mut in_place = x.clone();
                layer.forward_in_place(&compute, &mut in_place);
                assert_eq!(in_place, of_layer);
                for (i, row) in x.chunks(width).enumerate() {
                    let row = wide(row);
                    let mean =
                        |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / width as f64;
                    let size = mean(&mut row.iter().map(|x| x * x));
                    let center = mean(&mut row.iter().copied());
                    let variance = mean(&mut row.iter().map(|x| (x - center) * (x - center)));
                    let scaled = |center: f64, square: f64| -> Vec<f64> {
                        let scale = 1.0 / (square + f64::from(eps)).sqrt();
                        row.iter().map(|x| (x - center) * scale).collect()
                    };
                    let what = || format!("{} {data:?} [{n}, {width}] row {i}", compute.isa);
                    // No normalised value is larger than this.
                    let bound = 1e-6 * (width as f64).sqrt() + 1e-6;
                    let factors = || factors.iter().map(|&x| f64::from(x));
                    let wanted: Vec<_> = (scaled(0.0, size).iter().zip(factors()))
                        .map(|(x, factor)| x * factor)
                        .collect();
                    assert_close(&of_rms[i * width..][..width], &wanted, bound, &what);
                    let wanted: Vec<_> = (scaled(center, variance).iter().zip(factors()))
                        .zip(&summands)
                        .map(|((x, factor), summand)| x * factor + f64::from(*summand))
                        .collect();
                    assert_close(&of_layer[i * width..][..width], &wanted, bound, &what);
                }
            }
        }
    }
}

/// A value that is not finite is not lost, and stays in its row.
#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (n, width) = (5, 64);
    let ones = vec![1.0; width];
    for compute in computes() {
        for bad in NOT_FINITE {
            let mut x = Data::Uniform.values(n * width, 1);
            x[2 * width + 40] = bad;
            let norm = |x: &[f32]| {
                let mut out = vec![0.0; x.len()];
                let (weight, eps) = (floats(&ones), 1e-6);
                RmsNorm { weight, eps }.forward(&compute, x, &mut out);
                out
            };
            let mut gated = Data::Uniform.values(n * width, 2);
            silu_gate(&compute, &mut gated, &x, width);
            let mut sum = Data::Uniform.values(n * width, 3);
            compute.add(&mut sum, &x, width);
            for (what, out) in [("norm", norm(&x)), ("gate", gated), ("sum", sum)] {
                for (i, row) in out.chunks(width).enumerate() {
                    let is_finite = row.iter().all(|x| x.is_finite());
                    assert_eq!(
                        is_finite,
                        i != 2,
                        "{} {what} of {bad}: row {i}",
                        compute.isa
                    );
                }
            }
        }
    }
}

#[test]
fn gates_and_sums_are_those_of_their_own_row() {
    for compute in computes() {
        for (n, width) in SHAPES {
            let (a, b) = (Data::Spikes(10.0), Data::Uniform);
            let (a, b) = (a.values(n * width, 1), b.values(n * width, 2));
            let what = || format!("{} [{n}, {width}]", compute.isa);
            let pairs = || {
                a.iter()
                    .zip(&b)
                    .map(|(&a, &b)| (f64::from(a), f64::from(b)))
            };
            let mut gated = a.clone();
            silu_gate(&compute, &mut gated, &b, width);
            let wanted: Vec<_> = pairs().map(|(a, b)| a / (1.0 + (-a).exp()) * b).collect();
            assert_close(&gated, &wanted, 1e-5, &what);
            let mut sum = a.clone();
            compute.add(&mut sum, &b, width);
            let wanted: Vec<_> = pairs().map(|(a, b)| a + b).collect();
            assert_close(&sum, &wanted, 1e-6, &what);
        }
    }
}

/// Pairs of neighbours turn by their position's angle, whatever was pushed before and is left of it.
#[test]
fn heads_turn_by_their_positions() {
    let (n_heads, head_dim) = (3, 10);
    let width = n_heads * head_dim;
    for compute in computes() {
        let mut rotations = Rotations::with_capacity(8, head_dim);
        for (theta, divisor) in [(10_000.0, 1.0), (10_000.0, 4.0), (500_000.0, 1.0)] {
            // Two sequences of a pass, of which some positions are kept.
            rotations.clear();
            rotations.push(7, 3, theta, divisor);
            rotations.push(0, 5, theta, divisor);
            let mut positions = vec![7, 8, 9, 0, 1, 2, 3, 4];
            for rows in [&[0, 1, 2, 3, 4, 5, 6, 7][..], &[1, 2, 4, 7], &[0, 2]] {
                rotations.gather(rows);
                positions = rows.iter().map(|&row| positions[row]).collect();
                let x = Data::Uniform.values(positions.len() * width, 1);
                let mut turned = x.clone();
                rotations.apply(&compute, &mut turned, width);
                let mut wanted = Vec::new();
                for (position, row) in positions.iter().zip(x.chunks(width)) {
                    for (i, pair) in row.chunks(2).enumerate() {
                        let t = i % (head_dim / 2);
                        let frequency = f64::from(theta).powf(-2.0 * t as f64 / head_dim as f64);
                        let angle = f64::from(*position) / f64::from(divisor) * frequency;
                        let (sin, cos) = angle.sin_cos();
                        let [a, b] = [pair[0], pair[1]].map(f64::from);
                        wanted.extend([a * cos - b * sin, a * sin + b * cos]);
                    }
                }
                let what = || format!("{} {theta} {divisor} {positions:?}", compute.isa);
                assert_close(&turned, &wanted, 3e-6, &what);
            }
        }
    }
}

#[test]
fn rows_are_gathered_in_order() {
    for (rows, wanted) in [
        (&[0, 1, 2, 3][..], &[0, 1, 2, 3, 4, 5, 6, 7][..]),
        (&[1, 3], &[2, 3, 6, 7]),
        (&[0, 2, 3], &[0, 1, 4, 5, 6, 7]),
        (&[], &[]),
    ] {
        let mut matrix = [0, 1, 2, 3, 4, 5, 6, 7];
        gather(&mut matrix, 2, rows);
        assert_eq!(&matrix[..wanted.len()], wanted);
    }
}

#[test]
fn patches_have_each_pixel_once() {
    for (size, patch) in [(1, 1), (6, 2), (9, 3), (12, 4), (10, 5), (7, 7)] {
        let pixels: Vec<f32> = (0..3 * size * size).map(|i| i as f32).collect();
        let mut out = vec![f32::NAN; pixels.len()];
        patches(&pixels, size, patch, &mut out);
        let mut wanted = Vec::new();
        let grid = size / patch;
        for (top, left) in (0..grid).flat_map(|y| (0..grid).map(move |x| (y * patch, x * patch))) {
            for channel in 0..3 {
                for y in top..top + patch {
                    for x in left..left + patch {
                        wanted.push(((channel * size + y) * size + x) as f32);
                    }
                }
            }
        }
        assert_eq!(out, wanted, "{size} {patch}");
    }
}

#[test]
fn floats_are_whole_and_aligned() {
    let bytes = Arc::new(Bytes::from_slice(&[0; 16]));
    for (range, is_some) in [
        (0..16, true),
        (4..8, true),
        (0..0, true),
        (0..6, false),
        (2..6, false),
    ] {
        let tensor = crate::gguf::TensorBytes::new(bytes.clone(), range.clone());
        assert_eq!(Floats::new(tensor).is_some(), is_some, "{range:?}");
    }
    assert_eq!(*floats(&[1.5, -2.0]), [1.5, -2.0]);
}

/// Products of every format, alone and of several parts of a batch, with biases and sums.
#[test]
fn projections_are_products_with_their_rows() {
    let (n_rows, n_cols, n) = (70, 512, 21);
    let weights = Data::Uniform.values(n_rows * n_cols, 1);
    let bias = Data::Spikes(10.0).values(n_rows, 2);
    let x = Data::Uniform.values(n * n_cols, 3);
    for compute in computes() {
        for dtype in DType::ALL {
            for rotation in [None, Some(Arc::new(Rotation::default()))] {
                let is_rotated = rotation.is_some();
                let mut stored = weights.clone();
                if let Some(rotation) = rotation.as_ref().filter(|_| !dtype.is_float()) {
                    stored
                        .chunks_mut(n_cols)
                        .for_each(|row| rotation.apply(row));
                }
                let mut bytes = vec![0; n_rows * dtype.row_bytes(n_cols).unwrap()];
                quant::quantize(dtype, &stored, &mut bytes);
                let bytes = Bytes::from_slice(&bytes).into();
                let shared = Shared {
                    rotation,
                    is_coarse: dtype.block_len() == 128,
                };
                let weight = Matrix::new(bytes, dtype, n_rows, n_cols, shared);
                assert_eq!(weight.is_rotated(), is_rotated && !dtype.is_float());
                let shape = (weight.n_rows(), weight.n_cols());
                assert!(shape == (n_rows, n_cols) && weight.dtype() == dtype);
                // What the file holds, unrotated.
                let mut rows = vec![0.0; n_rows * n_cols];
                for (i, row) in rows.chunks_mut(n_cols).enumerate() {
                    weight.row(i, row);
                }
                let linear = Linear {
                    weight,
                    bias: Some(floats(&bias)),
                };
                for role in [RowRole::Prompt, RowRole::Answer] {
                    let what = || format!("{} {dtype} {role:?} {is_rotated}", compute.isa);
                    let mut buffer = InputBuffer::default();
                    let input = buffer.prepare(&compute, role, &x, &linear);
                    let mut whole = vec![f32::NAN; n * n_rows];
                    linear.forward(&compute, input, &mut whole);
                    let mut wanted = Vec::new();
                    for x in x.chunks(n_cols) {
                        for (row, bias) in rows.chunks(n_cols).zip(&bias) {
                            let products = row.iter().zip(x);
                            let products = products.map(|(w, x)| f64::from(*w) * f64::from(*x));
                            wanted.push(products.sum::<f64>() + f64::from(*bias));
                        }
                    }
                    // Tokens are rounded to half a step, and weights where they are regrouped: in the
                    // mean square a third of that, times values of a third, and six times as much is
                    // rare. Rotated columns are normal, with larger ones among so many.
                    let largest = if is_rotated { 1.7 } else { 1.0 };
                    let step = match dtype.is_float() {
                        true => 1e-5,
                        false => largest / 127.0,
                    };
                    let bound = 6.0 * step / 3.0 * (n_cols as f64 / 3.0).sqrt();
                    assert_close(&whole, &wanted, bound, &what);

                    let mut sum = vec![2.0; n * n_rows];
                    linear.add_to(&compute, input, &mut sum);
                    let plus: Vec<_> = whole.iter().map(|x| f64::from(*x) + 2.0).collect();
                    assert_close(&sum, &plus, 1e-4, &what);

                    let (mut first, mut last) = (vec![0.0; 2 * n_rows], vec![0.0; 9 * n_rows]);
                    let parts = [linear.of(0..2, &mut first), linear.of(12..n, &mut last)];
                    compute.project(input, parts);
                    assert!(first == whole[..2 * n_rows] && last == whole[12 * n_rows..]);
                }
            }
        }
    }
}

/// A causal or full attention of `n_heads` in `f64`: `[n_queries, n_heads * head_dim]`.
struct Exact<'a> {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// Of head `h`, row `i`.
    query: &'a dyn Fn(usize, usize) -> Vec<f64>,
    key: &'a dyn Fn(usize, usize) -> Vec<f64>,
    value: &'a dyn Fn(usize, usize) -> Vec<f64>,
}

impl Exact<'_> {
    fn rows(&self, n_queries: usize, n_visible: impl Fn(usize) -> usize) -> Vec<f64> {
        let mut out = Vec::new();
        for (i, head) in (0..n_queries).flat_map(|i| (0..self.n_heads).map(move |h| (i, h))) {
            let of_keys = head * self.n_kv_heads / self.n_heads;
            let query = (self.query)(head, i);
            let weights: Vec<f64> = (0..n_visible(i))
                .map(|j| {
                    let products = query.iter().zip((self.key)(of_keys, j)).map(|(q, k)| q * k);
                    (products.sum::<f64>() / (self.head_dim as f64).sqrt()).exp()
                })
                .collect();
            let sum: f64 = weights.iter().sum();
            let mut row = vec![0.0; self.head_dim];
            for (j, weight) in weights.iter().enumerate() {
                let value = (self.value)(of_keys, j);
                row.iter_mut()
                    .zip(value)
                    .for_each(|(out, v)| *out += weight / sum * v);
            }
            out.extend(row);
        }
        out
    }
}

/// Keys or values of several heads, one row behind another, in each type of cache. All hold the same to
/// the precision of half floats.
struct Cache {
    floats: Vec<f32>,
    halves: Vec<f16>,
    blocks: Vec<BlockQ8_0>,
}

impl Cache {
    fn new(n: usize, seed: u32) -> Self {
        let mut floats = Data::Uniform.values(n, seed);
        let mut bytes = vec![0; DType::Q8_0.row_bytes(n).unwrap()];
        quant::quantize(DType::Q8_0, &floats, &mut bytes);
        quant::dequantize(DType::Q8_0, &bytes, &mut floats);
        Cache {
            halves: floats.iter().map(|&x| f16::from_f32(x)).collect(),
            blocks: bytemuck::cast_slice(&bytes).to_vec(),
            floats,
        }
    }

    /// Heads of `capacity` rows of 32 that begin behind the first 32 values and are `apart` times as far
    /// apart as they are long.
    fn heads(&self, capacity: usize, apart: usize) -> [StoredHeads<'_>; 3] {
        fn of<T>(data: &[T], row_len: usize, capacity: usize, apart: usize) -> Heads<'_, T> {
            Heads {
                data,
                offset: row_len,
                head_stride: capacity * apart * row_len,
                row_stride: apart * row_len,
            }
        }
        [
            StoredHeads::F32(of(&self.floats, 32, capacity, apart)),
            StoredHeads::F16(of(&self.halves, 32, capacity, apart)),
            StoredHeads::Q8_0(of(&self.blocks, 1, capacity, apart)),
        ]
    }

    fn row(&self, capacity: usize, apart: usize, head: usize, i: usize) -> Vec<f64> {
        wide(&self.floats[32 * (1 + (head * capacity + i) * apart)..][..32])
    }
}

/// Heads lie where they are said to, in any type of cache; several sequences are computed together.
#[test]
fn attention_finds_its_heads() {
    let (n_heads, n_kv_heads, head_dim) = (4, 2, 32);
    let (n_keys, capacity) = (23, 25);
    let width = n_heads * head_dim;
    // Queries in columns of a matrix that has others; keys and values head by head.
    let (first, row_stride, n) = (16, width + 40, 12);
    let queries = Data::Uniform.values(n * row_stride, 1);
    let n_cached = head_dim * (1 + 2 * n_kv_heads * capacity);
    let (keys, values) = (Cache::new(n_cached, 2), Cache::new(n_cached, 3));
    for compute in computes() {
        // Both on every instruction set.
        let apart = compute.threads.count().min(2);
        let exact = Exact {
            n_heads,
            n_kv_heads,
            head_dim,
            query: &|head, i| {
                wide(&queries[i * row_stride + first + head * head_dim..][..head_dim])
            },
            key: &|head, i| keys.row(capacity, apart, head, i),
            value: &|head, i| values.row(capacity, apart, head, i),
        };
        let keys = keys.heads(capacity, apart);
        for (keys, values) in keys.into_iter().zip(values.heads(capacity, apart)) {
            for (role, in_integers) in [
                (RowRole::Answer, false),
                (RowRole::Prompt, false),
                (RowRole::Prompt, true),
            ] {
                let attention = |queries, causal_start| Attention {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    queries: Heads::in_columns(queries, row_stride, first, head_dim),
                    keys,
                    values,
                    n_keys,
                    causal_start,
                    role,
                    in_integers,
                };
                let what = || format!("{} {role:?} {in_integers}", compute.isa);
                let bound = if in_integers { 2e-2 } else { 2e-3 };
                let mut out = vec![f32::NAN; n * width];
                attention(&queries, None).forward(&compute, &mut out);
                assert_close(&out, &exact.rows(n, |_| n_keys), bound, &what);
                attention(&queries, Some(n_keys - n)).forward(&compute, &mut out);
                let causal = exact.rows(n, |i| n_keys - n + i + 1);
                assert_close(&out, &causal, bound, &what);
                // The same queries as three sequences, of which one has none.
                let parts = [(0..5, n_keys - n), (5..5, 0), (5..n, n_keys - n + 5)];
                let mut together = vec![f32::NAN; n * width];
                let part = |index: usize| {
                    let (rows, start) = parts[index].clone();
                    let own = &queries[rows.start * row_stride..];
                    (rows, attention(own, Some(start)))
                };
                Attention::forward_each(&compute, parts.len(), part, &mut together);
                assert!(together == out, "{}", what());
            }
        }
    }
}
