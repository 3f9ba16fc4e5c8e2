//! The samples of components, two rows of MCUs at a time.

use super::frame::Frame;
use super::scan::Coefficients;
use super::upsample::Upsampling;
use super::{BLOCK, EDGE, idct};
use crate::error::Result;
use crate::image::decode::zeros;
use crate::image::wide;

/// Samples of the row of MCUs that was transformed last, and of the one before.
pub(super) struct Samples<'f> {
    frame: &'f Frame,
    /// By component.
    planes: Vec<Plane>,
}

struct Plane {
    samples: Vec<u8>,
    stride: usize,
    /// Rows that there is room for; later ones take the place of earlier ones.
    rows: usize,
    width: usize,
    height: usize,
    upsampling: Upsampling,
}

impl Plane {
    /// Row `y` of the whole plane, which is one of the latest, or the nearest to it that exists.
    fn row(&self, y: usize) -> &[u8] {
        let y = y.min(self.height - 1);
        &self.samples[y % self.rows * self.stride..][..self.width]
    }
}

impl<'f> Samples<'f> {
    pub fn new(frame: &'f Frame) -> Result<Self> {
        let mut planes = Vec::new();
        for component in &frame.components {
            let stride = component.padded_across(frame) * EDGE;
            let rows = 2 * component.v * EDGE;
            planes.push(Plane {
                samples: zeros((stride * rows) as u64)?,
                stride,
                rows,
                width: component.width,
                height: component.height,
                upsampling: Upsampling::of(component, frame),
            });
        }
        Ok(Samples { frame, planes })
    }

    /// Takes in row `row` of MCUs.
    pub fn transform(&mut self, row: usize, coefficients: &Coefficients, quants: &[[u16; BLOCK]]) {
        let components = self.frame.components.iter().zip(quants);
        for (index, ((component, quant), plane)) in components.zip(&mut self.planes).enumerate() {
            let end = ((row + 1) * component.v).min(component.blocks_down());
            for block_row in row * component.v..end {
                let first = block_row * EDGE % plane.rows * plane.stride;
                let blocks = &coefficients.row(index, block_row)[..component.blocks_across()];
                wide(
                    #[inline(always)]
                    || {
                        for (column, block) in blocks.iter().enumerate() {
                            let samples = idct::transform(block, quant);
                            let out = &mut plane.samples[first + column * EDGE..];
                            for (out, samples) in out.chunks_mut(plane.stride).zip(samples) {
                                out[..EDGE].copy_from_slice(&samples);
                            }
                        }
                    },
                );
            }
        }
    }

    /// Samples of the component `index` for row `y` of the picture, one for each pixel at least.
    pub fn upsample(&self, index: usize, y: usize, out: &mut [u8]) {
        let plane = &self.planes[index];
        wide(
            #[inline(always)]
            || {
                plane.upsampling.row(
                    #[inline(always)]
                    |y| plane.row(y),
                    y,
                    out,
                )
            },
        );
    }
}
