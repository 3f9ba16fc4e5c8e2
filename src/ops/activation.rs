//! Gates of the MLPs.

use crate::kernels::float;
use crate::ops::{Compute, RowOp};

/// `gate = silu(gate) * up` for rows of `width`.
pub fn silu_gate(compute: &Compute, gate: &mut [f32], up: &[f32], width: usize) {
    assert_eq!(gate.len(), up.len());
    compute.for_rows(gate, width, SiluGate { up });
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
