//! The frame header: size, components and their sampling.

use super::segments::Process;
use super::{EDGE, bad};
use crate::error::Result;

/// One of the planes that a picture is stored in.
#[derive(Clone, Debug)]
pub(super) struct Component {
    id: u8,
    /// Samples across and down where the finest component has [`Frame::max_h`] and `max_v`.
    pub h: usize,
    pub v: usize,
    /// The slot of its quantization table.
    pub quant: usize,
    /// Size in samples.
    pub width: usize,
    pub height: usize,
}

impl Component {
    /// Blocks across and down that hold samples of the picture.
    pub fn blocks_across(&self) -> usize {
        self.width.div_ceil(EDGE)
    }

    /// See [`blocks_across`](Self::blocks_across).
    pub fn blocks_down(&self) -> usize {
        self.height.div_ceil(EDGE)
    }

    /// Blocks across with those that fill up the last MCU.
    pub fn padded_across(&self, frame: &Frame) -> usize {
        frame.mcus_across() * self.h
    }
}

/// A frame header.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub width: usize,
    pub height: usize,
    pub is_progressive: bool,
    pub is_arithmetic: bool,
    /// 1, 3 or 4 of them.
    pub components: Vec<Component>,
    pub max_h: usize,
    pub max_v: usize,
}

impl Frame {
    pub fn parse(process: Process, segment: &[u8]) -> Result<Self> {
        let [precision, h1, h0, w1, w0, n, specs @ ..] = segment else {
            return Err(bad("the frame header is too short"));
        };
        if *precision != 8 {
            return Err(bad(format!(
                "{precision} bits per sample are not supported, only 8"
            )));
        }
        let height = usize::from(u16::from_be_bytes([*h1, *h0]));
        let width = usize::from(u16::from_be_bytes([*w1, *w0]));
        if width == 0 || height == 0 {
            return Err(bad(format!("it has no pixels: it is {width}x{height}")));
        }
        if ![1, 3, 4].contains(n) {
            return Err(bad(format!("{n} components are not supported")));
        }
        let (specs, rest) = specs.as_chunks::<3>();
        if specs.len() != usize::from(*n) || !rest.is_empty() {
            return Err(bad("the frame header has a wrong length"));
        }
        let factors = |spec: &[u8; 3]| (usize::from(spec[1] >> 4), usize::from(spec[1] & 15));
        let is_wrong = |(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v);
        if specs.iter().map(factors).any(is_wrong) {
            return Err(bad("a sampling factor is not from 1 to 4"));
        }
        let max_h = specs.iter().map(|spec| factors(spec).0).max().unwrap_or(1);
        let max_v = specs.iter().map(|spec| factors(spec).1).max().unwrap_or(1);
        let component = |spec: &[u8; 3]| {
            let (h, v) = factors(spec);
            Component {
                id: spec[0],
                h,
                v,
                quant: usize::from(spec[2]),
                width: (width * h).div_ceil(max_h),
                height: (height * v).div_ceil(max_v),
            }
        };
        let components: Vec<Component> = specs.iter().map(component).collect();
        if components
            .iter()
            .any(|c| max_h % c.h != 0 || max_v % c.v != 0)
        {
            return Err(bad(
                "its sampling factors are no multiples, which is not supported",
            ));
        }
        Ok(Frame {
            width,
            height,
            is_progressive: process.is_progressive,
            is_arithmetic: process.is_arithmetic,
            components,
            max_h,
            max_v,
        })
    }

    /// MCUs in a row, where a scan has all components.
    pub fn mcus_across(&self) -> usize {
        self.width.div_ceil(self.max_h * EDGE)
    }

    /// Rows of MCUs.
    pub fn mcus_down(&self) -> usize {
        self.height.div_ceil(self.max_v * EDGE)
    }

    /// The first component of this id that is not among `taken`.
    pub fn find(&self, id: u8, taken: impl Fn(usize) -> bool) -> Option<usize> {
        (0..self.components.len()).find(|&i| self.components[i].id == id && !taken(i))
    }

    /// The ids of the components.
    pub fn ids(&self) -> Vec<u8> {
        self.components
            .iter()
            .map(|component| component.id)
            .collect()
    }
}
