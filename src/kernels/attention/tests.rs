//! Attention against its definition in `f64`, on every instruction set.

use half::f16;

use super::*;
use crate::gguf::DType;
use crate::kernels::testing::instruction_sets;
use crate::kernels::tiles::Tiles;
use crate::quant::rotation::Rotation;
use crate::quant::{self, BlockQ8_0};

mod hostile;
mod positions;

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (((i + seed) * 7919) % 2003) as f32 / 500.0 - 2.0)
        .collect()
}

/// A column of the output by the definition, in `f64`, and how far the kernels may be from it.
struct Wanted {
    value: f64,
    /// With scores of floats: what sums of floats cost.
    float_bound: f64,
    /// With scores of integers: what rounding costs, a rotated query and key to 254 steps of their largest
    /// value, the values of a block of keys to 4094 steps, weights to 8191.
    integer_bound: f64,
}

/// Attention of query `q: [head_dim]` in `f64`, with keys that are rounded as `keys` where scores are of
/// integers.
fn exact(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    n_visible: usize,
    scale: f32,
    keys: &[Rounding],
) -> Vec<Wanted> {
    let head_dim = q.len();
    let row = |data: &[f32], j: usize| -> Vec<f64> {
        let row = &data[j * head_dim..(j + 1) * head_dim];
        row.iter().map(|x| f64::from(*x)).collect()
    };
    let q: Vec<f64> = q.iter().map(|x| f64::from(*x) * f64::from(scale)).collect();
    let q_rounding = Rounding::new(&q);
    let (mut scores, mut worst_float, mut worst_integer) = (Vec::new(), 0.0f64, 0.0f64);
    for (j, key) in keys[..n_visible].iter().enumerate() {
        let k = row(k, j);
        scores.push(q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>());
        let sizes: f64 = q.iter().zip(&k).map(|(q, k)| (q * k).abs()).sum();
        let error = 1e-6 * (4.0 + (head_dim as f64).sqrt()) * sizes;
        worst_float = worst_float.max(error);
        worst_integer = worst_integer.max(error + q_rounding.error_with(key));
    }
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let largest = (v[..n_visible * head_dim].iter()).fold(0f32, |a, x| a.max(x.abs()));
    let step = f64::from(largest / 2047.0);
    let column = |d: usize| {
        let (mut value, mut size, mut sizes) = (0.0, 0.0, 0.0);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for j in 0..n_visible {
            let (weight, of_key) = (weights[j] / sum, f64::from(v[j * head_dim + d]));
            value += weight * of_key;
            size += weight * of_key.abs();
            sizes += of_key.abs();
            (low, high) = (low.min(of_key), high.max(of_key));
        }
        // All weights are off by at most a factor, and by it again where their sum is. Whatever they
        // are, they are those of a mean.
        let bound = |worst: f64| {
            let factor = (2.0 * worst).exp_m1();
            (factor * size).min(high - low) + 2e-5 * size + 1e-35
        };
        Wanted {
            value,
            float_bound: bound(worst_float),
            integer_bound: bound(worst_integer) + 0.51 * step + sizes * 0.51 / 8191.0,
        }
    };
    (0..head_dim).map(column).collect()
}

/// What becomes of a rotated query or key when it is rounded to 8 bits.
struct Rounding {
    values: Vec<f64>,
    /// How far a value may be from what it is rounded to, by columns.
    errors: Vec<f64>,
}

impl Rounding {
    fn new(values: &[f64]) -> Self {
        if !values.len().is_multiple_of(UNIT) {
            // Such heads are multiplied as floats.
            return Rounding {
                values: vec![0.0; values.len()],
                errors: vec![0.0; values.len()],
            };
        }
        let size = values
            .iter()
            .fold(0f64, |size, x| size.max(x.abs()))
            .max(1e-300);
        let mut rotated: Vec<f32> = values.iter().map(|x| (x / size) as f32).collect();
        Rotation::default().apply(&mut rotated);
        let values: Vec<f64> = rotated.iter().map(|x| f64::from(*x) * size).collect();
        let mut errors = Vec::new();
        for block in values.chunks(128) {
            let largest = block.iter().fold(0f64, |largest, x| largest.max(x.abs()));
            // What is below a normal float becomes zero.
            errors.extend(block.iter().map(|_| largest / 127.0 * 0.501 + 1.5e-36));
        }
        Rounding { values, errors }
    }

    fn error_with(&self, other: &Rounding) -> f64 {
        let columns = 0..self.values.len();
        columns
            .map(|i| {
                self.errors[i] * (other.values[i].abs() + other.errors[i])
                    + other.errors[i] * self.values[i].abs()
            })
            .sum()
    }
}

fn run(isa: Isa, head: Head, n_queries: usize, head_dim: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; n_queries * head_dim];
    let tiles = Tiles::of_rows(&mut out, head_dim, TILE_QUERIES);
    let mut scratch = AttentionScratch::default();
    while let Some(mut tile) = tiles.take() {
        attend(isa, head, &mut tile, &mut scratch);
    }
    out
}

fn rows<T>(data: &[T], stride: usize) -> HeadRows<'_, T> {
    HeadRows {
        data,
        offset: 0,
        stride,
    }
}

#[test]
fn matches_the_definition() {
    for head_dim in [2, 16, 20, 64, 128, 258] {
        for (n_queries, n_keys, causal_start) in [
            (1, 1, None),
            (3, 65, None),
            (17, 200, None),
            (70, 70, Some(0)),
            (33, 133, Some(100)),
            (1, 64, Some(63)),
        ] {
            let q = values(n_queries * head_dim, 1);
            let k = values(n_keys * head_dim, 2);
            let v = values(n_keys * head_dim, 3);
            let shape = Shape {
                head_dim,
                n_keys,
                causal_start,
            };
            check(&q, &k, &v, shape, "");
        }
    }
}

struct Shape {
    head_dim: usize,
    n_keys: usize,
    causal_start: Option<usize>,
}

/// Compares every role, arithmetic and instruction set with the definition.
fn check(q: &[f32], k: &[f32], v: &[f32], shape: Shape, name: &str) {
    let Shape {
        head_dim,
        n_keys,
        causal_start,
    } = shape;
    let n_queries = q.len() / head_dim;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let keys: Vec<_> = (k.chunks(head_dim))
        .map(|k| Rounding::new(&k.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()))
        .collect();
    let wanted: Vec<_> = (0..n_queries)
        .map(|i| {
            let n_visible = causal_start.map_or(n_keys, |start| start + i + 1);
            let q = &q[i * head_dim..(i + 1) * head_dim];
            exact(q, k, v, n_visible, scale, &keys)
        })
        .collect();
    for (role, in_integers) in [
        (RowRole::Answer, false),
        (RowRole::Prompt, false),
        (RowRole::Prompt, true),
    ] {
        for isa in instruction_sets() {
            let head = Head {
                queries: rows(q, head_dim),
                keys: Stored::F32(rows(k, head_dim)),
                values: Stored::F32(rows(v, head_dim)),
                n_keys,
                causal_start,
                role,
                scale,
                in_integers,
            };
            let out = run(isa, head, n_queries, head_dim);
            for (i, (got, wanted)) in out.chunks(head_dim).zip(&wanted).enumerate() {
                for (got, wanted) in got.iter().zip(wanted) {
                    let value = wanted.value;
                    let bound = match in_integers {
                        true => wanted.integer_bound,
                        false => wanted.float_bound,
                    };
                    assert!(
                        (f64::from(*got) - value).abs() <= bound,
                        "{name} {isa} {role:?} {in_integers} {head_dim} query {i} of {n_queries}: \
                         {got}, wanted {value} +- {bound}"
                    );
                }
            }
        }
    }
}

#[test]
fn half_precision_is_what_it_rounds_to() {
    let (head_dim, n_queries, n_keys) = (32, 20, 90);
    let q = values(n_queries * head_dim, 1);
    let halves = |seed| -> Vec<f16> {
        let floats = values(n_keys * head_dim, seed);
        floats.into_iter().map(f16::from_f32).collect()
    };
    let (k, v) = (halves(2), halves(3));
    let floats = |halves: &[f16]| -> Vec<f32> { halves.iter().map(|x| x.to_f32()).collect() };
    let (k_floats, v_floats) = (floats(&k), floats(&v));
    let half = Head {
        queries: rows(&q, head_dim),
        keys: Stored::F16(rows(&k, head_dim)),
        values: Stored::F16(rows(&v, head_dim)),
        n_keys,
        causal_start: Some(n_keys - n_queries),
        role: RowRole::Prompt,
        in_integers: false,
        scale: 0.2,
    };
    let full = Head {
        keys: Stored::F32(rows(&k_floats, head_dim)),
        values: Stored::F32(rows(&v_floats, head_dim)),
        ..half
    };
    for isa in instruction_sets() {
        let got = run(isa, half, n_queries, head_dim);
        assert_eq!(got, run(isa, full, n_queries, head_dim), "{isa}");
    }
}

#[test]
fn blocks_of_integers_are_what_they_stand_for() {
    let (head_dim, n_queries, n_keys) = (64, 20, 90);
    let q = values(n_queries * head_dim, 1);
    let blocks = |seed| -> Vec<BlockQ8_0> {
        let mut bytes = vec![0; n_keys * head_dim / 32 * 34];
        quant::quantize(DType::Q8_0, &values(n_keys * head_dim, seed), &mut bytes);
        bytemuck::cast_slice(&bytes).to_vec()
    };
    let floats = |blocks: &[BlockQ8_0]| -> Vec<f32> {
        let mut floats = vec![0.0; n_keys * head_dim];
        quant::dequantize(DType::Q8_0, bytemuck::cast_slice(blocks), &mut floats);
        floats
    };
    let (k, v) = (blocks(2), blocks(3));
    let (k_floats, v_floats) = (floats(&k), floats(&v));
    for n_queries in [1, n_queries] {
        let blocks = Head {
            queries: rows(&q, head_dim),
            keys: Stored::Q8_0(rows(&k, head_dim / 32)),
            values: Stored::Q8_0(rows(&v, head_dim / 32)),
            n_keys,
            causal_start: Some(n_keys - n_queries),
            role: match n_queries {
                1 => RowRole::Answer,
                _ => RowRole::Prompt,
            },
            in_integers: false,
            scale: 0.2,
        };
        let full = Head {
            keys: Stored::F32(rows(&k_floats, head_dim)),
            values: Stored::F32(rows(&v_floats, head_dim)),
            ..blocks
        };
        for isa in instruction_sets() {
            let got = run(isa, blocks, n_queries, head_dim);
            assert_eq!(got, run(isa, full, n_queries, head_dim), "{isa}");
        }
    }
}

#[test]
fn a_query_does_not_depend_on_its_neighbours() {
    let (head_dim, n_queries) = (64, 150);
    let q = values(n_queries * head_dim, 1);
    let head = Head {
        queries: rows(&q, head_dim),
        keys: Stored::F32(rows(&q, head_dim)),
        values: Stored::F32(rows(&q, head_dim)),
        n_keys: n_queries,
        causal_start: Some(0),
        role: RowRole::Prompt,
        in_integers: false,
        scale: 0.1,
    };
    for isa in instruction_sets() {
        let all = run(isa, head, n_queries, head_dim);
        let fewer = run(isa, head, 77, head_dim);
        assert_eq!(all[..fewer.len()], fewer, "{isa}");
    }
}

#[test]
fn tiles_are_of_about_the_same_size() {
    for (n, n_threads, wanted) in [
        (1, 2, 32),
        (128, 2, 128),
        (512, 2, 512),
        (767, 2, 768),
        (768, 2, 384),
        (1025, 2, 544),
        (1025, 16, 288),
    ] {
        assert_eq!(tile_queries(n, 32, n_threads), wanted, "{n} {n_threads}");
    }
    for n_threads in [1, 2, 16, 100] {
        let fits = |n| tile_queries(n, 16, n_threads) <= MAX_TILE_QUERIES;
        assert!((0..5000).all(fits), "{n_threads}");
    }
}
