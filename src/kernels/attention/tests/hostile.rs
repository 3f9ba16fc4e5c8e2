//! Inputs that are finite and hard to round.

use super::*;

/// Rows by what they hold, made of `ordinary` ones.
fn hostile(ordinary: &[f32], head_dim: usize) -> Vec<(String, Vec<f32>)> {
    let map = |f: &dyn Fn(usize, usize, f32) -> f32| -> Vec<f32> {
        let values = ordinary.iter().enumerate();
        values
            .map(|(i, x)| f(i / head_dim, i % head_dim, *x))
            .collect()
    };
    let mut inputs = vec![
        ("ordinary".into(), ordinary.to_vec()),
        ("zeros".into(), map(&|_, _, _| 0.0)),
        (
            "a row of zeros".into(),
            map(&|row, _, x| if row == 3 { 0.0 } else { x }),
        ),
        (
            "a block of zeros".into(),
            map(&|_, column, x| if column < 32 { 0.0 } else { x }),
        ),
        (
            "columns that decline".into(),
            map(&|_, column, x| x * 0.5f32.powi(column as i32)),
        ),
        (
            "rows that decline".into(),
            map(&|row, _, x| x * 0.125f32.powi(row as i32)),
        ),
        (
            "largest half-precision floats".into(),
            map(&|_, _, x| 65504f32.copysign(x)),
        ),
        (
            "smallest half-precision floats".into(),
            map(&|_, _, x| x * 6e-8),
        ),
        ("denormal".into(), map(&|_, _, x| x * 1e-39)),
        ("equal".into(), map(&|_, _, _| 1.0)),
    ];
    for times in [10.0, 100.0, 1000.0] {
        inputs.push((
            format!("a channel {times} times as large"),
            map(&|_, column, x| if column == 7 { times * x } else { x }),
        ));
        inputs.push((
            format!("a value {times} times as large"),
            map(&|row, column, x| match (row, column) {
                (2, 9) => times * x,
                _ => x,
            }),
        ));
    }
    inputs
}

#[test]
fn errors_are_those_of_the_formats() {
    for head_dim in [32, 64, 96, 128, 40] {
        for n in [1, 75] {
            let ordinary = |seed| values(n * head_dim, seed);
            let (q, k, v) = (ordinary(1), ordinary(2), ordinary(3));
            let check_as = |name: &str, q: &[f32], k: &[f32], v: &[f32]| {
                let shape = Shape {
                    head_dim,
                    n_keys: n,
                    causal_start: Some(0),
                };
                check(q, k, v, shape, name);
            };
            for (name, rows) in hostile(&q, head_dim) {
                check_as(&format!("queries: {name}"), &rows, &k, &v);
            }
            for (name, rows) in hostile(&k, head_dim) {
                check_as(&format!("keys: {name}"), &q, &rows, &v);
                check_as(&format!("queries and keys: {name}"), &rows, &rows, &v);
            }
            for (name, rows) in hostile(&v, head_dim) {
                check_as(&format!("values: {name}"), &q, &k, &rows);
            }
        }
    }
}
