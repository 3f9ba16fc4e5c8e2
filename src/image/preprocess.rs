//! The reference's preprocessing: transformers' `CLIPImageProcessor`, version 4.31.

use std::ops::Range;

use super::aspect::{Padded, Squashed, stand_in};
use super::resize::{Axis, RowSource, resize};
use super::{Aspect, CHANNELS, Picture};
use crate::error::{Error, Result};

/// Longest edge in pixels that a crop may have.
const MAX_CROP_EDGE: usize = 16_384;

/// What is done to a picture before the vision tower sees it: `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Whether the shorter edge is brought to `shortest_edge`.
    pub do_resize: bool,
    /// Length of the shorter edge after resizing, in pixels (`size`).
    pub shortest_edge: usize,
    /// Whether the centre is cut out, or zeros put around what is smaller.
    pub do_center_crop: bool,
    /// Height of the result in pixels (`crop_size`).
    pub crop_height: usize,
    /// Width of the result in pixels (`crop_size`).
    pub crop_width: usize,
    /// Whether values are multiplied by `rescale_factor`.
    pub do_rescale: bool,
    /// What 8-bit values are multiplied by.
    pub rescale_factor: f64,
    /// Whether `mean` is subtracted and the result divided by `std`.
    pub do_normalize: bool,
    /// Mean per channel (`image_mean`).
    pub mean: [f32; 3],
    /// Standard deviation per channel (`image_std`).
    pub std: [f32; 3],
}

impl Default for Preprocess {
    /// CLIP's mean and standard deviation, which are the defaults of `CLIPImageProcessor`, at
    /// mPLUG-Owl2's 448 pixels.
    fn default() -> Self {
        Preprocess {
            do_resize: true,
            shortest_edge: 448,
            do_center_crop: true,
            crop_height: 448,
            crop_width: 448,
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

impl Preprocess {
    /// The pixels of `picture` as the vision tower takes them: `[3, crop_height, crop_width]`, in
    /// standard deviations from the mean.
    ///
    /// Runs in parallel where it is called from inside a thread pool.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the picture does not come out in the size of the
    /// crop and cropping is off; [`Kind::Model`](crate::Kind::Model) where these settings make no
    /// sense.
    pub fn pixels(&self, picture: &Picture, aspect: Aspect) -> Result<Vec<f32>> {
        self.check()?;
        match aspect {
            _ if picture.width() == picture.height() => self.process(picture),
            Aspect::Crop => self.process(picture),
            Aspect::Squash | Aspect::Pad => {
                let stand_in = stand_in(picture, aspect)?;
                let picture = stand_in.as_ref().unwrap_or(picture);
                match aspect {
                    Aspect::Pad => self.process(&Padded::new(picture, self.padding())),
                    _ => self.process(&Squashed::new(picture)),
                }
            }
        }
    }

    fn check(&self) -> Result<()> {
        let edges = [self.shortest_edge, self.crop_height, self.crop_width];
        if edges.iter().any(|edge| !(1..=MAX_CROP_EDGE).contains(edge)) {
            return Err(Error::model(format!(
                "preprocessing to a shortest edge of {} and a crop of {}x{} pixels is not \
                 possible; each must be from 1 to {MAX_CROP_EDGE}",
                self.shortest_edge, self.crop_width, self.crop_height
            )));
        }
        if self.do_normalize && self.std.contains(&0.0) {
            return Err(Error::model(
                "the standard deviation of the preprocessing is 0 in a channel",
            ));
        }
        Ok(())
    }

    /// The colour of the bars beside a padded picture: `int(255 * mean)`.
    fn padding(&self) -> [u8; CHANNELS] {
        self.mean.map(|mean| (f64::from(mean) * 255.0) as u8)
    }

    fn process(&self, source: &dyn RowSource) -> Result<Vec<f32>> {
        let (width, height) = self.resized(source)?;
        if !self.do_center_crop && (width, height) != (self.crop_width, self.crop_height) {
            return Err(Error::input(format!(
                "the picture comes out as {width}x{height} pixels, the model takes {}x{} and \
                 its preprocessing does not crop; use the aspect 'squash' or 'pad'",
                self.crop_width, self.crop_height
            )));
        }
        let columns = Crop::centered(width, self.crop_width);
        let rows = Crop::centered(height, self.crop_height);
        let region = resize(
            source,
            &Axis::new(source.width(), width, columns.kept.clone()),
            &Axis::new(source.height(), height, rows.kept.clone()),
        )?;
        Ok(self.normalized(&region, &columns, &rows))
    }

    /// Width and height after resizing: the shorter edge as wanted, the longer one truncated.
    fn resized(&self, source: &dyn RowSource) -> Result<(usize, usize)> {
        let (width, height) = (source.width(), source.height());
        if !self.do_resize {
            return Ok((width, height));
        }
        let shorter = width.min(height);
        let scaled = |edge: usize| {
            self.shortest_edge
                .checked_mul(edge)
                .map(|product| product / shorter)
                .ok_or_else(|| Error::input(format!("an edge of {edge} pixels is too long")))
        };
        Ok((scaled(width)?, scaled(height)?))
    }

    /// Scales, normalises and reorders `region: [rows.kept, columns.kept, 3]` to
    /// `[3, crop_height, crop_width]`.
    fn normalized(&self, region: &[u8], columns: &Crop, rows: &Crop) -> Vec<f32> {
        let plane = self.crop_height * self.crop_width;
        let mut pixels = Vec::with_capacity(CHANNELS * plane);
        for channel in 0..CHANNELS {
            let levels = self.levels(channel);
            let first = pixels.len();
            // What the crop has beyond the picture is 0 before scaling.
            pixels.resize(first + plane, levels[0]);
            let out = pixels[first..]
                .chunks_exact_mut(self.crop_width)
                .skip(rows.offset);
            for (row, out) in region.chunks_exact(columns.kept.len() * CHANNELS).zip(out) {
                let row = row.iter().skip(channel).step_by(CHANNELS);
                for (&value, out) in row.zip(&mut out[columns.offset..]) {
                    *out = levels[usize::from(value)];
                }
            }
        }
        pixels
    }

    /// What each of the 256 values of a channel becomes. Scaling is done in 64-bit floats and
    /// rounded, the rest in 32-bit floats, as numpy does it.
    fn levels(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|value| {
            let value = match self.do_rescale {
                true => (value as f64 * self.rescale_factor) as f32,
                false => value as f32,
            };
            match self.do_normalize {
                true => (value - self.mean[channel]) / self.std[channel],
                false => value,
            }
        })
    }
}

/// How a crop lies on one axis of a picture.
struct Crop {
    /// Positions of the picture that are kept.
    kept: Range<usize>,
    /// Position of the first of them in the crop.
    offset: usize,
}

impl Crop {
    /// Cuts the middle `crop_len` out of `len`, or puts `len` in the middle of `crop_len`; of an
    /// odd difference, the greater part is cut off behind or padded before.
    ///
    /// transformers 4.31 gives one row or column too few for an odd difference of the second kind;
    /// this is what later versions do.
    fn centered(len: usize, crop_len: usize) -> Self {
        let start = len.saturating_sub(crop_len) / 2;
        Crop {
            kept: start..start + len.min(crop_len),
            offset: crop_len.saturating_sub(len).div_ceil(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    /// No scaling or normalising: what comes out are 8-bit values.
    fn plain(shortest_edge: usize, crop: usize) -> Preprocess {
        Preprocess {
            shortest_edge,
            crop_height: crop,
            crop_width: crop,
            do_rescale: false,
            do_normalize: false,
            ..Preprocess::default()
        }
    }

    fn gray(width: usize, height: usize, values: &[u8]) -> Picture {
        let rgb = values.iter().flat_map(|&v| [v; CHANNELS]).collect();
        Picture::from_rgb(width, height, rgb).unwrap()
    }

    #[test]
    fn scales_in_64_bits_and_normalizes_in_32() {
        let preprocess = Preprocess {
            shortest_edge: 1,
            crop_height: 1,
            crop_width: 1,
            ..Preprocess::default()
        };
        let picture = Picture::from_rgb(1, 1, vec![0, 128, 255]).unwrap();
        let pixels = preprocess.pixels(&picture, Aspect::Squash).unwrap();
        // numpy 1.26: ((value * (1 / 255)).astype(float32) - mean) / std
        assert_eq!(pixels, [-1.792_262_6, 0.168_897_32, 2.145_897]);
    }

    #[test]
    fn crops_the_middle_and_pads_with_zeros() {
        let preprocess = Preprocess {
            do_resize: false,
            crop_height: 3,
            crop_width: 2,
            ..plain(1, 1)
        };
        let pixels = preprocess
            .pixels(&gray(5, 1, &[1, 2, 3, 4, 5]), Aspect::Crop)
            .unwrap();
        assert_eq!(pixels[..6], [0.0, 0.0, 2.0, 3.0, 0.0, 0.0]);
        assert_eq!(pixels[..6], pixels[12..]);
    }

    #[test]
    fn treats_the_three_aspects_differently() {
        let picture = gray(1, 3, &[10, 20, 30]);
        let preprocess = Preprocess {
            mean: [0.2, 0.4, 0.6],
            ..plain(3, 3)
        };
        let pixels = |aspect| preprocess.pixels(&picture, aspect).unwrap()[..9].to_vec();
        let rows = [10., 10., 10., 20., 20., 20., 30., 30., 30.];
        assert_eq!(pixels(Aspect::Squash), rows);
        let bars = [51., 10., 51., 51., 20., 51., 51., 30., 51.];
        assert_eq!(pixels(Aspect::Pad), bars);
        let middle = pixels(Aspect::Crop);
        assert!(
            middle.iter().all(|v| (15.0..=25.0).contains(v)),
            "{middle:?}"
        );
    }

    #[test]
    fn takes_any_shape_in_little_memory() {
        for (width, height) in [(60_000, 2), (1, 60_000), (1, 1)] {
            let picture = gray(width, height, &vec![77; width * height]);
            let pixels = plain(448, 448).pixels(&picture, Aspect::Crop).unwrap();
            assert_eq!(pixels, vec![77.0; 3 * 448 * 448]);
        }
        let long = gray(1, 70_000, &vec![77; 70_000]);
        let pixels = plain(2, 2).pixels(&long, Aspect::Squash).unwrap();
        assert_eq!(pixels, [77.0; 12]);
    }

    #[test]
    fn needs_a_crop_for_what_is_not_square() {
        let preprocess = Preprocess {
            do_center_crop: false,
            ..plain(2, 2)
        };
        let picture = gray(4, 2, &[9; 8]);
        assert_eq!(
            preprocess.pixels(&picture, Aspect::Squash).unwrap(),
            [9.0; 12]
        );
        let error = preprocess.pixels(&picture, Aspect::Crop).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.to_string().contains("4x2"), "{error}");
    }

    #[test]
    fn refuses_settings_that_make_no_sense() {
        let picture = gray(1, 1, &[0]);
        for settings in [
            plain(0, 1),
            plain(1, 0),
            plain(usize::MAX, 1),
            Preprocess {
                std: [1.0, 0.0, 1.0],
                ..Preprocess::default()
            },
        ] {
            let error = settings.pixels(&picture, Aspect::Squash).unwrap_err();
            assert_eq!(error.kind(), Kind::Model);
        }
    }
}
