//! The operations a forward pass is written in: matrices in, matrices out, split over threads.
//!
//! All activations are row-major `f32`, one row a position, in buffers the caller owns.

pub mod activation;
pub mod attention;
pub mod linear;
pub mod norm;
pub mod patches;
pub mod rope;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::ops::Deref;

use pulp::{Simd, WithSimd};

use crate::error::Result;
use crate::gguf::TensorBytes;
use crate::kernels::Isa;
use crate::kernels::attention::AttentionScratch;
use crate::kernels::gemm::panel::Panel;
use crate::kernels::tiles::{Tile, Tiles};
use crate::threads::{PerWorker, Threads};

pub use crate::kernels::role::RowRole;

/// What operations run on: the threads and the instruction set.
#[derive(Debug)]
pub struct Compute {
    /// Worker threads.
    pub threads: Threads,
    /// Which kernels.
    pub isa: Isa,
    /// Weights that a worker has unpacked; they grow to a constant size once.
    panels: PerWorker<Panel>,
    /// Buffers of an attention; they grow to a constant size once.
    scratches: PerWorker<AttentionScratch>,
}

impl Compute {
    /// `n_threads` workers on the best instruction set (or the one that `OWL2_ISA` names).
    ///
    /// # Errors
    /// As [`Threads::new`] and [`Isa::detect`].
    pub fn new(n_threads: NonZeroUsize) -> Result<Self> {
        Ok(Self::on(Threads::new(n_threads)?, Isa::detect()?))
    }

    /// On these `threads` with the kernels of `isa`.
    pub fn on(threads: Threads, isa: Isa) -> Self {
        Compute {
            panels: PerWorker::new(threads.count()),
            scratches: PerWorker::new(threads.count()),
            threads,
            isa,
        }
    }

    /// Applies `op` to each row of `matrix: [n_rows, width]`, in parallel where there are several.
    fn for_rows<Op: RowOp>(&self, matrix: &mut [f32], width: usize, op: Op) {
        let n_rows = matrix.len() / width;
        let tile_rows = n_rows.div_ceil(4 * self.threads.count()).max(1);
        let tiles = Tiles::of_rows(matrix, width, tile_rows);
        let work = |_| {
            while let Some(tile) = tiles.take() {
                self.isa.run(ForRows { op: &op, tile });
            }
        };
        if n_rows == 1 {
            work(0);
        } else {
            self.threads.run(work);
        }
    }

    /// `x += y`, both of rows of `width`.
    pub fn add(&self, x: &mut [f32], y: &[f32], width: usize) {
        assert_eq!(x.len(), y.len());
        self.for_rows(x, width, Add { y });
    }
}

/// Moves `rows` of `matrix: [n, width]`, which ascend, to its beginning.
pub(crate) fn gather<T: Copy>(matrix: &mut [T], width: usize, rows: &[usize]) {
    for (to, &from) in rows.iter().enumerate() {
        if to != from {
            matrix.copy_within(from * width..(from + 1) * width, to * width);
        }
    }
}

/// What is done to each row of a matrix. `apply` must be `#[inline(always)]`, to be compiled for
/// the instruction set; a closure need not be.
trait RowOp: Sync {
    /// Works on row `index`.
    fn apply(&self, index: usize, row: &mut [f32]);
}

/// A [`RowOp`] on the rows of a tile.
struct ForRows<'a, 'b, Op> {
    op: &'a Op,
    tile: Tile<'b>,
}

impl<Op: RowOp> WithSimd for ForRows<'_, '_, Op> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        for row in self.tile.rows() {
            self.op.apply(row, self.tile.row_mut(row));
        }
    }
}

struct Add<'a> {
    y: &'a [f32],
}

impl RowOp for Add<'_> {
    #[inline(always)]
    fn apply(&self, index: usize, row: &mut [f32]) {
        let y = &self.y[index * row.len()..];
        for (x, y) in row.iter_mut().zip(y) {
            *x += y;
        }
    }
}

/// The values of an F32 tensor, where they lie in the file.
#[derive(Clone, Debug)]
pub struct Floats(TensorBytes);

impl Floats {
    /// Views a tensor's bytes, or `None` where they are not aligned whole floats.
    pub fn new(bytes: TensorBytes) -> Option<Self> {
        bytemuck::try_cast_slice::<u8, f32>(&bytes).ok()?;
        Some(Floats(bytes))
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}
