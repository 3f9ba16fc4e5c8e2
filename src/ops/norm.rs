//! Normalisation of rows.

use crate::kernels::float;
use crate::ops::{Compute, Floats};

/// LLaMA's norm: `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// One factor a column.
    pub weight: Floats,
    /// `rms_norm_eps`.
    pub eps: f32,
}

impl RmsNorm {
    /// Normalises each row of `x: [n, width]` into `out`.
    pub fn forward(&self, compute: &Compute, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        let width = self.weight.len();
        compute.for_rows(out, width, |i, out| {
            let row = &x[i * width..(i + 1) * width];
            let mean_square = float::sum_of_squares(row, 0.0) / width as f32;
            let scale = 1.0 / (mean_square + self.eps).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(row).zip(self.weight.iter()) {
                *out = weight * (x * scale);
            }
        });
    }
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias`, with the biased variance.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// One factor a column.
    pub weight: Floats,
    /// One summand a column.
    pub bias: Floats,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    /// Normalises each row of `x: [n, width]` into `out`.
    pub fn forward(&self, compute: &Compute, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        let width = self.weight.len();
        compute.for_rows(out, width, |i, out| {
            out.copy_from_slice(&x[i * width..(i + 1) * width]);
            self.normalize(out);
        });
    }

    /// Normalises each row of `x: [n, width]` in place.
    pub fn forward_in_place(&self, compute: &Compute, x: &mut [f32]) {
        compute.for_rows(x, self.weight.len(), |_, row| self.normalize(row));
    }

    #[inline(always)]
    fn normalize(&self, row: &mut [f32]) {
        let width = row.len() as f32;
        let mean = float::sum(row) / width;
        let variance = float::sum_of_squares(row, mean) / width;
        let scale = 1.0 / (variance + self.eps).sqrt();
        for ((x, weight), bias) in row.iter_mut().zip(self.weight.iter()).zip(self.bias.iter()) {
            *x = (*x - mean) * scale * weight + bias;
        }
    }
}
