//! What becomes of a picture that is not square.

use std::fmt;
use std::str::FromStr;

use super::resize::{Axis, Rows, Scratch};
use super::{CHANNELS, Picture};
use crate::error::{Error, Result};

/// Longest edge in pixels of a picture that is made square. Squashing takes work in proportion to
/// the square of the edge, whatever the picture's own area, so that a file of a few hundred bytes
/// could otherwise ask for minutes. The reference would need 800 MB at this size.
const MAX_SQUARE_EDGE: usize = 16_384;

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

/// A picture stretched along its shorter edge to a square.
pub(super) struct Squashed<'a> {
    picture: &'a Picture,
    edge: usize,
    axis: Axis,
}

impl<'a> Squashed<'a> {
    pub(super) fn new(picture: &'a Picture) -> Result<Self> {
        let edge = square_edge(picture)?;
        // One of the two passes of the reference does nothing: the longer edge stays.
        let shorter = picture.width.min(picture.height);
        Ok(Squashed {
            picture,
            edge,
            axis: Axis::new(shorter, edge, 0..edge),
        })
    }
}

impl Rows for Squashed<'_> {
    fn width(&self) -> usize {
        self.edge
    }

    fn height(&self) -> usize {
        self.edge
    }

    fn row<'a>(&'a self, y: usize, scratch: &'a mut Scratch) -> &'a [u8] {
        let Scratch { row, sums } = scratch;
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
    pub(super) fn new(picture: &'a Picture, color: [u8; CHANNELS]) -> Result<Self> {
        let edge = square_edge(picture)?;
        Ok(Padded {
            picture,
            edge,
            left: (edge - picture.width) / 2,
            top: (edge - picture.height) / 2,
            color,
        })
    }
}

impl Rows for Padded<'_> {
    fn width(&self) -> usize {
        self.edge
    }

    fn height(&self) -> usize {
        self.edge
    }

    fn row<'a>(&'a self, y: usize, scratch: &'a mut Scratch) -> &'a [u8] {
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

fn square_edge(picture: &Picture) -> Result<usize> {
    let edge = picture.width.max(picture.height);
    if edge > MAX_SQUARE_EDGE {
        return Err(Error::input(format!(
            "the picture has {}x{} pixels and cannot be made square, for which {MAX_SQUARE_EDGE} \
             is the longest edge; shrink it, or use the aspect 'crop'",
            picture.width, picture.height
        )));
    }
    Ok(edge)
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
        let padded = Padded::new(&picture, [90, 91, 92]).unwrap();
        let mut scratch = Scratch::default();
        assert_eq!(
            Rows::row(&padded, 1, &mut scratch),
            [90, 91, 92, 3, 4, 5, 90, 91, 92, 90, 91, 92]
        );
    }

    #[test]
    fn refuses_to_square_what_is_too_long() {
        let long = Picture::from_rgb(MAX_SQUARE_EDGE + 1, 1, vec![0; 3 * (MAX_SQUARE_EDGE + 1)]);
        let long = long.unwrap();
        assert_eq!(
            Squashed::new(&long).err().map(|e| e.kind()),
            Some(crate::Kind::Input)
        );
        assert!(Padded::new(&long, [0; 3]).is_err());
    }
}
