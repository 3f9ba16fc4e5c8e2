//! The operations a forward pass is written in: matrices in, matrices out, split over threads.
//!
//! All activations are row-major `f32`, one row a position, in buffers the caller owns.

pub mod activation;
pub mod attention;
pub mod linear;
pub mod norm;
pub mod patches;
pub mod rope;

use std::num::NonZeroUsize;
use std::ops::Deref;

use crate::error::Result;
use crate::gguf::TensorBytes;
use crate::kernels::Isa;
use crate::kernels::tiles::Tiles;
use crate::threads::Threads;

/// What operations run on: the threads and the instruction set.
#[derive(Debug)]
pub struct Compute {
    /// Worker threads.
    pub threads: Threads,
    /// Which kernels.
    pub isa: Isa,
}

impl Compute {
    /// `n_threads` workers on the best instruction set (or the one that `OWL2_ISA` names).
    ///
    /// # Errors
    /// As [`Threads::new`] and [`Isa::detect`].
    pub fn new(n_threads: NonZeroUsize) -> Result<Self> {
        Ok(Compute {
            threads: Threads::new(n_threads)?,
            isa: Isa::detect()?,
        })
    }

    /// Calls `f(i, row)` for each row of `matrix: [n_rows, width]`, in parallel where there are
    /// several.
    fn for_rows(&self, matrix: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        let n_rows = matrix.len() / width;
        if n_rows == 1 {
            return self.isa.run(|| f(0, matrix));
        }
        let tile_rows = n_rows.div_ceil(4 * self.threads.count()).max(1);
        let tiles = Tiles::of_rows(matrix, width, tile_rows);
        self.threads.run(|| {
            while let Some(mut tile) = tiles.take() {
                self.isa.run(|| {
                    for row in tile.rows() {
                        f(row, tile.row_mut(row));
                    }
                });
            }
        });
    }

    /// `x += y`, both of rows of `width`.
    pub fn add(&self, x: &mut [f32], y: &[f32], width: usize) {
        assert_eq!(x.len(), y.len());
        self.for_rows(x, width, |i, row| {
            for (x, y) in row.iter_mut().zip(&y[i * width..]) {
                *x += y;
            }
        });
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
