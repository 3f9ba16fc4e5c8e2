//! From the bytes of a picture file to the normalised pixels the vision tower takes.
//!
//! [`open`] or [`decode`] make a [`Picture`], 8-bit RGB; [`Preprocess::pixels`] brings that to the
//! model's size and range as the reference does, bit for bit. With [`Reading::Reference`] the
//! pixels are those of Pillow's `convert("RGB")` too.
//!
//! Everything here works on files from anywhere: sizes are checked, and memory is asked for, before
//! pixels are decoded. `docs/pictures.md` says what is read and what is refused.

mod animation;
mod aspect;
mod decode;
mod gif;
mod jpeg;
mod jxl;
mod orientation;
mod others;
mod png;
mod preprocess;
mod resize;
mod samples;
mod sniff;

#[cfg(feature = "cli")]
pub(crate) use animation::is_animation;
pub(crate) use animation::seconds;
pub use aspect::Aspect;
pub use decode::{Limits, Reading, decode, open};
#[cfg(feature = "cli")]
pub(crate) use decode::{content, read_file};
pub use preprocess::Preprocess;
#[cfg(feature = "cli")]
pub(crate) use sniff::{FORMATS, FileContent, HEAD, content as content_of};

use crate::error::{Error, Result};
use resize::{Axis, resize};

/// Does work on integers with the widest registers that there are. Their size changes no bit of it.
///
/// What `work` is made of has to be `#[inline(always)]`, itself too: a function of its own is compiled for
/// any processor.
#[inline(always)]
fn wide<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Colour channels of a [`Picture`].
const CHANNELS: usize = 3;

/// A decoded picture: 8-bit RGB, rows from the top, `[height, width, 3]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
    damage: Option<String>,
}

impl Picture {
    /// Wraps pixels: `rgb` is `[height, width, 3]`.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where a size is zero or `rgb` has another length.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        let wanted = width
            .checked_mul(height)
            .and_then(|n| n.checked_mul(CHANNELS));
        if width == 0 || height == 0 || wanted != Some(rgb.len()) {
            return Err(Error::input(format!(
                "{} bytes of RGB do not make a picture of {width}x{height} pixels",
                rgb.len()
            )));
        }
        Ok(Picture {
            width,
            height,
            rgb,
            damage: None,
        })
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels: `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// What its file lacks, and what stands there in its place; `None` of a whole picture.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// This picture resampled to `width` x `height` by Pillow's bicubic filter, bit for bit.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where that is no pixels, or more than [`Limits`] allows
    /// by default.
    pub fn resized(&self, width: usize, height: usize) -> Result<Self> {
        Limits::default().check(width, height)?;
        let columns = Axis::new(self.width, width, 0..width);
        let rows = Axis::new(self.height, height, 0..height);
        Self::from_rgb(width, height, resize(self, &columns, &rows)?)
    }

    /// Row `y`: `[width, 3]`.
    fn row(&self, y: usize) -> &[u8] {
        &self.rgb[y * self.width * CHANNELS..][..self.width * CHANNELS]
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_pixels_of_the_stated_number() {
        let picture = Picture::from_rgb(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!((picture.width(), picture.height()), (2, 1));
        assert_eq!(picture.rgb(), [1, 2, 3, 4, 5, 6]);
        for (width, height, len) in [(0, 0, 0), (0, 5, 0), (1, 1, 2), (usize::MAX, 3, 9)] {
            assert!(Picture::from_rgb(width, height, vec![0; len]).is_err());
        }
    }
}
