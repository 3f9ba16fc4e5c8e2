//! Activations and gates of the MLPs.

use crate::kernels::float;
use crate::ops::{Compute, RowOp};

/// `x = quick_gelu(x)` for rows of `width`.
pub fn quick_gelu(compute: &Compute, x: &mut [f32], width: usize) {
    compute.for_rows(x, width, QuickGelu);
}

/// `x = gelu(x)`, the exact form, for rows of `width`.
pub fn gelu(compute: &Compute, x: &mut [f32], width: usize) {
    compute.for_rows(x, width, Gelu);
}

/// `gate = silu(gate) * up` for rows of `width`.
pub fn silu_gate(compute: &Compute, gate: &mut [f32], up: &[f32], width: usize) {
    assert_eq!(gate.len(), up.len());
    compute.for_rows(gate, width, SiluGate { up });
}

struct QuickGelu;

impl RowOp for QuickGelu {
    #[inline(always)]
    fn apply(&self, _: usize, row: &mut [f32]) {
        for x in row {
            *x = float::quick_gelu(*x);
        }
    }
}

struct Gelu;

impl RowOp for Gelu {
    #[inline(always)]
    fn apply(&self, _: usize, row: &mut [f32]) {
        for x in row {
            *x = float::gelu(*x);
        }
    }
}

struct SiluGate<'a> {
    up: &'a [f32],
}

impl RowOp for SiluGate<'_> {
    #[inline(always)]
    fn apply(&self, index: usize, row: &mut [f32]) {
        let up = &self.up[index * row.len()..];
        for (gate, up) in row.iter_mut().zip(up) {
            *gate = float::silu(*gate) * up;
        }
    }
}
