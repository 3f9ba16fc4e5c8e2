//! Attention against its definition in `f64`, on every instruction set.

use super::*;
use crate::kernels::tiles::Tiles;

fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (((i + seed) * 7919) % 2003) as f32 / 500.0 - 2.0)
        .collect()
}

/// Attention of query `q: [head_dim]` in `f64`.
fn exact(q: &[f32], k: &[f32], v: &[f32], n_visible: usize, scale: f32) -> Vec<f64> {
    let head_dim = q.len();
    let score = |j: usize| -> f64 {
        let products = (0..head_dim).map(|d| f64::from(q[d]) * f64::from(k[j * head_dim + d]));
        products.sum::<f64>() * f64::from(scale)
    };
    let scores: Vec<f64> = (0..n_visible).map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let column = |d: usize| -> f64 {
        let weighted = weights.iter().enumerate();
        weighted
            .map(|(j, w)| w / sum * f64::from(v[j * head_dim + d]))
            .sum()
    };
    (0..head_dim).map(column).collect()
}

fn run(isa: Isa, head: Head, n_queries: usize, head_dim: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; n_queries * head_dim];
    let tiles = Tiles::of_rows(&mut out, head_dim, TILE_QUERIES);
    let mut scratch = Scratch::default();
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
            let scale = 1.0 / (head_dim as f32).sqrt();
            let head = Head {
                queries: rows(&q, head_dim),
                keys: Stored::F32(rows(&k, head_dim)),
                values: Stored::F32(rows(&v, head_dim)),
                n_keys,
                causal_start,
                scale,
                in_integers: false,
            };
            let levels = Isa::available().into_iter();
            for (isa, in_integers) in levels.flat_map(|isa| [(isa, false), (isa, true)]) {
                let head = Head {
                    in_integers,
                    ..head
                };
                // Queries and keys are within 1/254 of the largest of 128 values; a score is a sum of
                // many such errors, and values are up to 2.
                let tolerance = if in_integers { 0.05 } else { 5e-5 };
                let out = run(isa, head, n_queries, head_dim);
                for (i, got) in out.chunks(head_dim).enumerate() {
                    let n_visible = causal_start.map_or(n_keys, |start| start + i + 1);
                    let q = &q[i * head_dim..(i + 1) * head_dim];
                    let exact = exact(q, &k, &v, n_visible, scale);
                    for (a, b) in got.iter().zip(exact) {
                        let error = (f64::from(*a) - b).abs();
                        assert!(error < tolerance, "{isa} {head_dim} {n_queries} {a} {b}");
                    }
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
        in_integers: false,
        scale: 0.2,
    };
    let full = Head {
        keys: Stored::F32(rows(&k_floats, head_dim)),
        values: Stored::F32(rows(&v_floats, head_dim)),
        ..half
    };
    for isa in Isa::available() {
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
            in_integers: false,
            scale: 0.2,
        };
        let full = Head {
            keys: Stored::F32(rows(&k_floats, head_dim)),
            values: Stored::F32(rows(&v_floats, head_dim)),
            ..blocks
        };
        for isa in Isa::available() {
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
        in_integers: false,
        scale: 0.1,
    };
    for isa in Isa::available() {
        let all = run(isa, head, n_queries, head_dim);
        let fewer = run(isa, head, 77, head_dim);
        assert_eq!(all[..fewer.len()], fewer, "{isa}");
    }
}
