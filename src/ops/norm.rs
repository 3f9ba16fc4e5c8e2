//! Normalisation of rows.

use crate::kernels::float;
use crate::ops::{Compute, Floats, RowOp};

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
        compute.for_rows(out, width, Rms { norm: self, x });
    }
}

struct Rms<'a> {
    norm: &'a RmsNorm,
    x: &'a [f32],
}

impl RowOp for Rms<'_> {
    #[inline(always)]
    fn apply(&self, index: usize, out: &mut [f32]) {
        let width = out.len();
        let row = &self.x[index * width..(index + 1) * width];
        let mean_square = float::sum_of_squares(row, 0.0) / width as f32;
        let scale = 1.0 / (mean_square + self.norm.eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(row).zip(self.norm.weight.iter()) {
            *out = weight * (x * scale);
        }
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
        let copied = CenterAndScale {
            norm: self,
            source: Some(x),
        };
        compute.for_rows(out, self.weight.len(), copied);
    }

    /// Normalises each row of `x: [n, width]` in place.
    pub fn forward_in_place(&self, compute: &Compute, x: &mut [f32]) {
        let in_place = CenterAndScale {
            norm: self,
            source: None,
        };
        compute.for_rows(x, self.weight.len(), in_place);
    }
}

struct CenterAndScale<'a> {
    norm: &'a LayerNorm,
    /// Where the rows come from, if they are not there already.
    source: Option<&'a [f32]>,
}

impl RowOp for CenterAndScale<'_> {
    #[inline(always)]
    fn apply(&self, index: usize, row: &mut [f32]) {
        let LayerNorm { weight, bias, eps } = self.norm;
        let width = row.len();
        let source = self.source.map(|x| &x[index * width..(index + 1) * width]);
        let values: &[f32] = source.unwrap_or(row);
        let mean = float::sum(values) / width as f32;
        let variance = float::sum_of_squares(values, mean) / width as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        let factors = weight.iter().zip(bias.iter());
        match source {
            Some(source) => {
                for ((out, x), (weight, bias)) in row.iter_mut().zip(source).zip(factors) {
                    *out = (x - mean) * scale * weight + bias;
                }
            }
            None => {
                for (x, (weight, bias)) in row.iter_mut().zip(factors) {
                    *x = (*x - mean) * scale * weight + bias;
                }
            }
        }
    }
}
