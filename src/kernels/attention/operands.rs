//! Where queries, keys and values lie, in the types that a cache has.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::gguf::DType;
use crate::kernels::Isa;
use crate::kernels::int8::{Int8, Int8Op, UNIT};
use crate::quant::{self, BlockQ8_0};

/// The rows of one head in a larger matrix of floats: row `i` starts at `offset + i * stride`.
#[derive(Clone, Copy, Debug)]
pub struct HeadRows<'a, T = f32> {
    /// The matrix.
    pub data: &'a [T],
    /// Where the head's first row starts.
    pub offset: usize,
    /// Distance of one row to the next.
    pub stride: usize,
}

impl<'a, T> HeadRows<'a, T> {
    /// Rows of `head_dim` values, one after the other.
    pub(super) fn contiguous(data: &'a [T], head_dim: usize) -> Self {
        HeadRows {
            data,
            offset: 0,
            stride: head_dim,
        }
    }

    /// The rows from row `first` on.
    pub(super) fn from(&self, first: usize) -> Self {
        HeadRows {
            offset: self.offset + first * self.stride,
            ..*self
        }
    }

    #[inline(always)]
    pub(super) fn row(&self, index: usize, head_dim: usize) -> &'a [T] {
        let start = self.offset + index * self.stride;
        &self.data[start..start + head_dim]
    }
}

/// Keys or values of one head.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// As they were computed.
    F32(HeadRows<'a, f32>),
    /// Rounded to half precision.
    F16(HeadRows<'a, f16>),
    /// Blocks of 32 small integers; offset and stride count blocks.
    Q8_0(HeadRows<'a, BlockQ8_0>),
}

impl Stored<'_> {
    /// Copies rows `first..first + out.len() / head_dim` to `out`.
    pub(super) fn copy_to(&self, isa: Isa, first: usize, head_dim: usize, out: &mut [f32]) {
        match self {
            Stored::F32(rows) => {
                for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    out.copy_from_slice(rows.row(first + i, head_dim));
                }
            }
            // As a cache has them.
            Stored::F16(rows) if rows.stride == head_dim => {
                let start = rows.offset + first * head_dim;
                let halves = &rows.data[start..start + out.len()];
                isa.run_int8(Widen { halves, out });
            }
            Stored::F16(rows) => {
                for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let halves = rows.row(first + i, head_dim);
                    isa.run_int8(Widen { halves, out });
                }
            }
            Stored::Q8_0(rows) => {
                for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let blocks = rows.row(first + i, head_dim / UNIT);
                    let bytes = bytemuck::cast_slice(blocks);
                    isa.run(
                        #[inline(always)]
                        || quant::dequantize(DType::Q8_0, bytes, out),
                    );
                }
            }
        }
    }
}

/// `out = halves`.
struct Widen<'a, 'b> {
    halves: &'a [f16],
    out: &'b mut [f32],
}

impl Int8Op for Widen<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        let (eights, rest) = self.halves.reinterpret_cast().as_chunks();
        let (out_eights, out_rest) = self.out.as_chunks_mut();
        for (out, bits) in out_eights.iter_mut().zip(eights) {
            *out = isa.eight_values(isa.eight_from_f16(*bits));
        }
        for (out, bits) in out_rest.iter_mut().zip(rest) {
            *out = f16::from_bits(*bits).to_f32();
        }
    }
}
