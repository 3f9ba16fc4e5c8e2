//! Rotary position embedding, in llama.cpp's order of adjacent pairs.

use crate::ops::{Compute, RowOp, gather};

/// The rotations of one head's `head_dim / 2` pairs, for the positions of a pass.
#[derive(Clone, Debug)]
pub struct Rotations {
    /// `[n_positions, head_dim / 2]` pairs of cosine and sine.
    cos_sin: Vec<[f32; 2]>,
    /// `[head_dim / 2]` angles of one position.
    frequencies: Vec<f32>,
    /// What `frequencies` were computed with.
    theta: f32,
}

impl Rotations {
    /// Makes room for `n_positions`, so that [`Rotations::push`] allocates nothing up to there.
    pub fn with_capacity(n_positions: usize, head_dim: usize) -> Self {
        Rotations {
            cos_sin: Vec::with_capacity(n_positions * head_dim / 2),
            frequencies: vec![0.0; head_dim / 2],
            theta: f32::NAN,
        }
    }

    /// Forgets the rotations of the last pass.
    pub fn clear(&mut self) {
        self.cos_sin.clear();
    }

    /// Adds the rotations of `n_positions` from `first` on, behind those that are there: pair `t`
    /// turns by `position * theta^(-2t / head_dim) / divisor`.
    pub fn push(&mut self, first: usize, n_positions: usize, theta: f32, divisor: f32) {
        if self.theta != theta {
            let head_dim = (2 * self.frequencies.len()) as f32;
            for (t, frequency) in self.frequencies.iter_mut().enumerate() {
                *frequency = 1.0 / theta.powf((2 * t) as f32 / head_dim);
            }
            self.theta = theta;
        }
        for position in first..first + n_positions {
            let position = position as f32 / divisor;
            self.cos_sin
                .extend(self.frequencies.iter().map(|frequency| {
                    let (sin, cos) = (position * frequency).sin_cos();
                    [cos, sin]
                }));
        }
    }

    /// Keeps those of `rows` alone, which ascend.
    pub fn gather(&mut self, rows: &[usize]) {
        gather(&mut self.cos_sin, self.frequencies.len(), rows);
        self.cos_sin.truncate(rows.len() * self.frequencies.len());
    }

    /// Rotates every head of every row of `x: [n_positions, n_heads * head_dim]`.
    pub fn apply(&self, compute: &Compute, x: &mut [f32], width: usize) {
        let n_pairs = self.frequencies.len();
        assert_eq!(x.len() / width * n_pairs, self.cos_sin.len());
        let rotations = Rotate {
            cos_sin: &self.cos_sin,
            n_pairs,
        };
        compute.for_rows(x, width, rotations);
    }
}

/// Rotates row `i` as position `i` of a pass.
#[derive(Clone, Copy)]
struct Rotate<'r> {
    cos_sin: &'r [[f32; 2]],
    n_pairs: usize,
}

impl RowOp for Rotate<'_> {
    #[inline(always)]
    fn apply(&self, index: usize, row: &mut [f32]) {
        let n_pairs = self.n_pairs;
        let rotations = &self.cos_sin[index * n_pairs..(index + 1) * n_pairs];
        for head in row.chunks_exact_mut(2 * n_pairs) {
            for (pair, [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(rotations) {
                let [a, b] = *pair;
                *pair = [a * cos - b * sin, b * cos + a * sin];
            }
        }
    }
}
