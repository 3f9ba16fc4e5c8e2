//! Where Compare2Score places a picture among its anchors: the maximum of a posterior, found exactly.
//!
//! With `c_ij` the preference for item `i` over item `j`, the scale `s` maximises
//! `sum_ij c_ij ln F(s_i - s_j) - sum_i s_i^2 / 2`. That is concave, so Newton's method finds the
//! one maximum; the authors stop a gradient method after 100 steps from a random start, up to half
//! a point of 100 away from it.

use std::f64::consts::{PI, SQRT_2};
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Anchors that a picture is compared with.
pub(super) const N_ANCHORS: usize = 5;
/// Anchors, and the picture after them.
const N_ITEMS: usize = N_ANCHORS + 1;

/// Preferences for the anchor of the row over that of the column, as the authors publish them; the
/// worst anchor comes first.
#[allow(clippy::excessive_precision, reason = "as they are published")]
pub const ANCHOR_MATRIX: [[f32; N_ANCHORS]; N_ANCHORS] = [
    [0.5, 0.25912809, 3.3130276e-4, 1.6087297e-6, 1.1803027e-9],
    [0.74087191, 0.5, 0.24985345, 0.099954158, 1.8675303e-8],
    [0.99966872, 0.75014657, 0.5, 0.49968880, 0.24852838],
    [0.99999839, 0.90004587, 0.50031120, 0.5, 0.25400183],
    [1.0, 1.0, 0.75147164, 0.74599814, 0.5],
];

/// The least probability whose logarithm is taken; below it nothing pulls any more.
const LEAST: f64 = 1e-6;
/// Newton's method takes some ten steps here.
const MAX_STEPS: usize = 100;
/// A gradient that rounding alone leaves.
const SMALL: f64 = 1e-12;

/// The `F` that turns distances on the scale into preferences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// The normal distribution's, as in the published model.
    #[default]
    Normal,
    /// The logistic one, as in the authors' `scorer.py`.
    Sigmoid,
}

impl Objective {
    /// `ln F` at `d`, with its first and second derivatives.
    fn log(self, d: f64) -> (f64, f64, f64) {
        let share = match self {
            Objective::Normal => 0.5 * libm::erfc(-d / SQRT_2),
            Objective::Sigmoid => 1.0 / (1.0 + (-d).exp()),
        };
        if share < LEAST {
            return (LEAST.ln(), 0.0, 0.0);
        }
        let (first, second) = match self {
            Objective::Normal => {
                let density = (-0.5 * d * d).exp() / (2.0 * PI).sqrt();
                let first = density / share;
                (first, -first * (first + d))
            }
            Objective::Sigmoid => (1.0 - share, -share * (1.0 - share)),
        };
        (share.ln(), first, second)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Objective::Normal => "normal",
            Objective::Sigmoid => "sigmoid",
        })
    }
}

impl FromStr for Objective {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "normal" => Ok(Objective::Normal),
            "sigmoid" => Ok(Objective::Sigmoid),
            _ => Err(Error::usage(format!(
                "unknown objective '{text}' (expected normal or sigmoid)"
            ))),
        }
    }
}

/// Where a picture stands among the anchors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// 0 to 100: as the worst item, as the best, or between.
    pub score: f64,
    /// Places on the scale of the anchors, the worst first, and of the picture.
    pub scale: [f64; N_ITEMS],
    /// What was maximised.
    pub value: f64,
}

/// Places a picture that is preferred to the anchors with these probabilities.
pub fn place(preferences: &[f64; N_ANCHORS], objective: Objective) -> Placement {
    let mut matrix = [[0.5; N_ITEMS]; N_ITEMS];
    for (row, anchor) in matrix.iter_mut().zip(&ANCHOR_MATRIX) {
        for (value, &preference) in row.iter_mut().zip(anchor) {
            *value = f64::from(preference);
        }
    }
    for (i, &preference) in preferences.iter().enumerate() {
        matrix[N_ANCHORS][i] = preference;
        matrix[i][N_ANCHORS] = 1.0 - preference;
    }
    let scale = maximise(&matrix, objective);
    let least = scale.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = scale.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Placement {
        score: 100.0 * (scale[N_ANCHORS] - least) / (greatest - least),
        scale,
        value: value(&matrix, &scale, objective),
    }
}

type Matrix = [[f64; N_ITEMS]; N_ITEMS];
type Vector = [f64; N_ITEMS];

/// What is maximised.
fn value(matrix: &Matrix, scale: &Vector, objective: Objective) -> f64 {
    let prior: f64 = scale.iter().map(|s| s * s / 2.0).sum();
    let mut sum = -prior;
    for (i, row) in matrix.iter().enumerate() {
        for (j, c) in row.iter().enumerate() {
            sum += c * objective.log(scale[i] - scale[j]).0;
        }
    }
    sum
}

/// The gradient and minus the second derivatives of what is maximised.
fn derivatives(matrix: &Matrix, scale: &Vector, objective: Objective) -> (Vector, Matrix) {
    let mut gradient = scale.map(|s| -s);
    let mut curvature = [[0.0; N_ITEMS]; N_ITEMS];
    for i in 0..N_ITEMS {
        curvature[i][i] += 1.0;
        for j in (0..N_ITEMS).filter(|&j| j != i) {
            let (_, first, second) = objective.log(scale[i] - scale[j]);
            let (first, second) = (matrix[i][j] * first, matrix[i][j] * second);
            gradient[i] += first;
            gradient[j] -= first;
            curvature[i][i] -= second;
            curvature[j][j] -= second;
            curvature[i][j] += second;
            curvature[j][i] += second;
        }
    }
    (gradient, curvature)
}

fn maximise(matrix: &Matrix, objective: Objective) -> Vector {
    let mut scale = [0.0; N_ITEMS];
    let mut best = value(matrix, &scale, objective);
    for _ in 0..MAX_STEPS {
        let (gradient, curvature) = derivatives(matrix, &scale, objective);
        if gradient.iter().all(|g| g.abs() < SMALL) {
            break;
        }
        let step = solve(curvature, gradient);
        // Half of a step that overshoots is no worse than staying.
        let mut length = 1.0;
        let next = loop {
            let next: Vector = std::array::from_fn(|i| scale[i] + length * step[i]);
            let reached = value(matrix, &next, objective);
            if reached >= best {
                break Some((next, reached));
            }
            length /= 2.0;
            if length < SMALL {
                break None;
            }
        };
        match next {
            Some((next, reached)) => (scale, best) = (next, reached),
            None => break,
        }
    }
    scale
}

/// Solves a symmetric positive definite system by elimination; its diagonal is at least 1.
fn solve(mut matrix: Matrix, mut right: Vector) -> Vector {
    for i in 0..N_ITEMS {
        for j in i + 1..N_ITEMS {
            let factor = matrix[j][i] / matrix[i][i];
            let row = matrix[i];
            for (value, above) in matrix[j].iter_mut().zip(row).skip(i) {
                *value -= factor * above;
            }
            right[j] -= factor * right[i];
        }
    }
    let mut solution = [0.0; N_ITEMS];
    for i in (0..N_ITEMS).rev() {
        let known: f64 = (i + 1..N_ITEMS).map(|j| matrix[i][j] * solution[j]).sum();
        solution[i] = (right[i] - known) / matrix[i][i];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_pictures_stand_higher_and_the_ends_are_0_and_100() {
        for objective in [Objective::Normal, Objective::Sigmoid] {
            let scores = [0.01, 0.3, 0.5, 0.7, 0.99].map(|p| place(&[p; 5], objective).score);
            assert!(scores.is_sorted(), "{scores:?}");
            assert_eq!((scores[0], scores[4]), (0.0, 100.0));
        }
    }

    #[test]
    fn nothing_near_the_maximum_is_higher() {
        for objective in [Objective::Normal, Objective::Sigmoid] {
            let placement = place(&[0.9, 0.8, 0.6, 0.55, 0.45], objective);
            let mut matrix = [[0.5; N_ITEMS]; N_ITEMS];
            for i in 0..N_ANCHORS {
                for j in 0..N_ANCHORS {
                    matrix[i][j] = f64::from(ANCHOR_MATRIX[i][j]);
                }
            }
            for (i, p) in [0.9, 0.8, 0.6, 0.55, 0.45].into_iter().enumerate() {
                (matrix[N_ANCHORS][i], matrix[i][N_ANCHORS]) = (p, 1.0 - p);
            }
            for i in 0..N_ITEMS {
                for step in [-1e-3, 1e-3] {
                    let mut near = placement.scale;
                    near[i] += step;
                    assert!(value(&matrix, &near, objective) < placement.value);
                }
            }
        }
    }
}
