//! Activations and gates of the MLPs.

use crate::kernels::float;
use crate::ops::Compute;

/// `x = quick_gelu(x)` for rows of `width`.
pub fn quick_gelu(compute: &Compute, x: &mut [f32], width: usize) {
    compute.for_rows(x, width, |_, row| {
        row.iter_mut().for_each(|x| *x = float::quick_gelu(*x));
    });
}

/// `x = gelu(x)`, the exact form, for rows of `width`.
pub fn gelu(compute: &Compute, x: &mut [f32], width: usize) {
    compute.for_rows(x, width, |_, row| {
        row.iter_mut().for_each(|x| *x = float::gelu(*x));
    });
}

/// `gate = silu(gate) * up` for rows of `width`.
pub fn silu_gate(compute: &Compute, gate: &mut [f32], up: &[f32], width: usize) {
    assert_eq!(gate.len(), up.len());
    compute.for_rows(gate, width, |i, row| {
        for (gate, up) in row.iter_mut().zip(&up[i * width..]) {
            *gate = float::silu(*gate) * up;
        }
    });
}
