//! Growable buffers of floats that begin at a cache line.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};

/// One cache line, as most processors have them.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; 16]);

// SAFETY: all bits zero are sixteen zeros.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: sixteen floats fill the line, so there is no padding, and any bits are floats.
unsafe impl bytemuck::Pod for Line {}

/// Floats whose first lies at a multiple of 64 bytes, so that whole-register loads from it never
/// straddle two cache lines.
#[derive(Clone, Debug, Default)]
pub struct AlignedFloats {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedFloats {
    /// Changes the length; what is added is zero, what was there may be kept or not. Allocates
    /// only where it was never as long.
    pub fn resize(&mut self, len: usize) {
        self.lines.resize(len.div_ceil(16), Line([0.0; 16]));
        self.len = len;
    }
}

impl Deref for AlignedFloats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for AlignedFloats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}
