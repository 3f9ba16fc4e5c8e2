//! How to fit pictures that are not square.

use std::fmt;
use std::str::FromStr;

use super::decode::zeros;
use super::resize::{Axis, RowScratch, RowSource};
use super::{CHANNELS, Picture};
use crate::error::{Error, Result};

/// Longest edge in pixels of a picture that is made square as it is. Squashing takes work in
/// proportion to the square of the edge, whatever the picture's own area, so that a file of a few
/// hundred bytes could otherwise ask for minutes. The reference would need 800 MB at this size.
const MAX_SQUARE_EDGE: usize = 16_384;

/// What a longer edge is shrunk to, still many times what any model sees.
const SHRUNK_EDGE: usize = 8192;

/// How a picture that is not square is brought into the square the model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// Stretched to a square of its longer edge; what the model's authors recommend, and all their
    /// evaluations use. The reference calls it `resize`.
    Squash,
    /// Bars of the mean colour on both sides of the shorter edge; the reference's `pad`.
    Pad,
    /// Proportions kept, what is outside the central square is lost; the reference's lack of
    /// `image_aspect_ratio`.
    Crop,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Aspect::Squash => "squash",
            Aspect::Pad => "pad",
            Aspect::Crop => "crop",
        })
    }
}

impl FromStr for Aspect {
    type Err = Error;

    /// Parses `squash`, `pad` or `crop`, or the reference's `resize` and `none`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "squash" | "resize" => Ok(Aspect::Squash),
            "pad" => Ok(Aspect::Pad),
            "crop" | "none" => Ok(Aspect::Crop),
            _ => Err(Error::usage(format!(
                "aspect '{text}' is not one of squash, pad and crop"
            ))),
        }
    }
}

/// The picture that stands in for one that is too long to be made square: shrunk along its longer
/// edge where it is squashed, in proportion where that has to be kept. The reference does not do
/// this; on the few hundred pixels that the model sees it makes no difference to speak of.
pub(super) fn stand_in(picture: &Picture, aspect: Aspect) -> Result<Option<Picture>> {
    let edge = picture.width.max(picture.height);
    if edge <= MAX_SQUARE_EDGE {
        return Ok(None);
    }
    let shrunk = |len: usize| match aspect {
        Aspect::Squash if len < edge => len.min(SHRUNK_EDGE),
        _ => scaled(len, SHRUNK_EDGE, edge).max(1),
    };
    averaged(picture, shrunk(picture.width), shrunk(picture.height)).map(Some)
}

/// `len` times `factor` over `divisor`, which is no less than one of them. The product itself may be more
/// than an address of 32 bits.
fn scaled(len: usize, factor: usize, divisor: usize) -> usize {
    (len as u64 * factor as u64 / divisor as u64) as usize
}

/// The means of the pixels that fall together in `width` by `height`, neither of which is more than
/// the picture's own. Unlike [`resize`](super::resize::resize), it takes no memory for weights.
fn averaged(picture: &Picture, width: usize, height: usize) -> Result<Picture> {
    let edges = |i, target, len| scaled(i, len, target)..scaled(i + 1, len, target);
    let mut rgb = zeros((width * height * CHANNELS) as u64)?;
    let (pixels, _) = rgb.as_chunks_mut::<CHANNELS>();
    for (y, row) in pixels.chunks_exact_mut(width).enumerate() {
        let lines = edges(y, height, picture.height);
        for (x, pixel) in row.iter_mut().enumerate() {
            let columns = edges(x, width, picture.width);
            let mut sums = [0_u64; CHANNELS];
            for line in lines.clone() {
                let line = &picture.row(line)[columns.start * CHANNELS..columns.end * CHANNELS];
                for value in line.as_chunks::<CHANNELS>().0 {
                    for (sum, &value) in sums.iter_mut().zip(value) {
                        *sum += u64::from(value);
                    }
                }
            }
            let n = (lines.len() * columns.len()) as u64;
            *pixel = sums.map(|sum| ((sum + n / 2) / n) as u8);
        }
    }
    Picture::from_rgb(width, height, rgb)
}

/// A picture stretched along its shorter edge to a square.
pub(super) struct Squashed<'a> {
    picture: &'a Picture,
    edge: usize,
    axis: Axis,
}

impl<'a> Squashed<'a> {
    pub(super) fn new(picture: &'a Picture) -> Self {
        let edge = picture.width.max(picture.height);
        // One of the two passes of the reference does nothing: the longer edge stays.
        let shorter = picture.width.min(picture.height);
        Squashed {
            picture,
            edge,
            axis: Axis::new(shorter, edge, 0..edge),
        }
    }
}

impl RowSource for Squashed<'_> {
    fn width(&self) -> usize {
        self.edge
    }

    fn height(&self) -> usize {
        self.edge
    }

    fn row<'a>(&'a self, y: usize, scratch: &'a mut RowScratch) -> &'a [u8] {
        let RowScratch { row, sums } = scratch;
        row.resize(self.edge * CHANNELS, 0);
        if self.picture.width < self.edge {
            self.axis.horizontal(self.picture.row(y), row);
        } else {
            self.axis.vertical(y, |y| self.picture.row(y), sums, row);
        }
        row
    }
}

/// A picture in the middle of a square of one colour.
pub(super) struct Padded<'a> {
    picture: &'a Picture,
    edge: usize,
    left: usize,
    top: usize,
    color: [u8; CHANNELS],
}

impl<'a> Padded<'a> {
    pub(super) fn new(picture: &'a Picture, color: [u8; CHANNELS]) -> Self {
        let edge = picture.width.max(picture.height);
        Padded {
            picture,
            edge,
            left: (edge - picture.width) / 2,
            top: (edge - picture.height) / 2,
            color,
        }
    }
}

impl RowSource for Padded<'_> {
    fn width(&self) -> usize {
        self.edge
    }

    fn height(&self) -> usize {
        self.edge
    }

    fn row<'a>(&'a self, y: usize, scratch: &'a mut RowScratch) -> &'a [u8] {
        let row = &mut scratch.row;
        row.resize(self.edge * CHANNELS, 0);
        row.as_chunks_mut().0.fill(self.color);
        if (self.top..self.top + self.picture.height).contains(&y) {
            row[self.left * CHANNELS..][..self.picture.width * CHANNELS]
                .copy_from_slice(self.picture.row(y - self.top));
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_wrong_ones_list_the_right_ones() {
        for aspect in [Aspect::Squash, Aspect::Pad, Aspect::Crop] {
            assert_eq!(aspect.to_string().parse::<Aspect>().unwrap(), aspect);
        }
        assert_eq!("resize".parse::<Aspect>().unwrap(), Aspect::Squash);
        assert_eq!("none".parse::<Aspect>().unwrap(), Aspect::Crop);
        let error = "stretch".parse::<Aspect>().unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Usage);
        assert!(error.to_string().contains("squash, pad and crop"));
    }

    #[test]
    fn pads_on_both_sides_and_the_odd_pixel_comes_last() {
        let picture = Picture::from_rgb(1, 4, (0..12).collect()).unwrap();
        let padded = Padded::new(&picture, [90, 91, 92]);
        let mut scratch = RowScratch::default();
        assert_eq!(
            RowSource::row(&padded, 1, &mut scratch),
            [90, 91, 92, 3, 4, 5, 90, 91, 92, 90, 91, 92]
        );
    }

    #[test]
    fn a_shorter_picture_stands_in_for_one_that_is_too_long() {
        let long = |width: usize, height: usize| {
            Picture::from_rgb(width, height, vec![9; 3 * width * height]).unwrap()
        };
        let edge = MAX_SQUARE_EDGE;
        assert!(stand_in(&long(edge, 1), Aspect::Squash).unwrap().is_none());
        for (width, height, squashed, padded) in [
            (2 * edge, 100, (SHRUNK_EDGE, 100), (SHRUNK_EDGE, 25)),
            (1, 2 * edge, (1, SHRUNK_EDGE), (1, SHRUNK_EDGE)),
        ] {
            for (aspect, wanted) in [(Aspect::Squash, squashed), (Aspect::Pad, padded)] {
                let short = stand_in(&long(width, height), aspect).unwrap().unwrap();
                assert_eq!((short.width, short.height), wanted);
                assert!(short.rgb.iter().all(|&value| value == 9));
            }
        }
    }

    #[test]
    fn products_of_long_edges_do_not_overflow() {
        // 600,000 times 8192 is more than 32 bits hold.
        let width = 600_000;
        let gray = |i: usize| [(i * 256 / width) as u8; CHANNELS];
        let picture = Picture::from_rgb(width, 1, (0..width).flat_map(gray).collect()).unwrap();
        let short = stand_in(&picture, Aspect::Squash).unwrap().unwrap();
        assert_eq!((short.width, short.height), (SHRUNK_EDGE, 1));
        let (pixels, _) = short.rgb.as_chunks::<CHANNELS>();
        assert!(
            pixels.is_sorted(),
            "columns of the picture in another order"
        );
        assert_eq!((pixels[0], pixels[SHRUNK_EDGE - 1]), ([0; 3], [255; 3]));
    }

    #[test]
    fn means_round_to_the_nearest() {
        let values = [0, 10, 20, 31, 40, 50];
        let rgb = values.iter().flat_map(|&v| [v; CHANNELS]).collect();
        let picture = Picture::from_rgb(3, 2, rgb).unwrap();
        let means = |width, height| {
            let averaged = averaged(&picture, width, height).unwrap();
            averaged
                .rgb
                .iter()
                .step_by(CHANNELS)
                .copied()
                .collect::<Vec<u8>>()
        };
        assert_eq!(means(3, 2), values);
        assert_eq!(means(1, 1), [25]);
        assert_eq!(means(3, 1), [16, 25, 35]);
        assert_eq!(means(2, 2), [0, 15, 31, 45]);
    }
}
