//! Where pictures come from, and their pixels.

use std::path::PathBuf;
use std::sync::Arc;

use super::Assistant;
use crate::capacity;
use crate::error::Result;
use crate::image::{self, Aspect, Limits, Picture, Reading};
use crate::model::visual_config::VisualConfig;
use crate::reuse::PictureKey;
use crate::timing::{Stage, Timings};

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// Here, as the bytes of a file.
    Bytes(Vec<u8>),
    /// Here, as [`Assistant::pixels`](super::Assistant::pixels) made it of one of the others.
    Pixels(Arc<Pixels>),
}

/// A picture as the vision tower takes it.
#[derive(Debug)]
pub struct Pixels {
    /// `[3, image_size, image_size]`.
    pub(super) values: Vec<f32>,
    pub(super) key: PictureKey,
    damage: Option<String>,
}

impl Pixels {
    /// The same picture, told apart from that of others who may ask about it: what was computed for
    /// one `group` is not used for another.
    #[cfg(feature = "serve")]
    pub(crate) fn of_group(&self, group: usize) -> Self {
        Pixels {
            values: self.values.clone(),
            key: self.key.of_group(group),
            damage: self.damage.clone(),
        }
    }

    /// What the picture's file lacks, and what stands there in its place; `None` of a whole picture.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Pixels {}

/// A picture as the decoder reads it, in place of the embeddings of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `[n_rows, hidden_size]`: one row for each query of the abstractor, and the row that ends a
    /// picture.
    pub values: Arc<[f32]>,
    /// Positions that a picture takes.
    pub n_rows: usize,
}

impl Assistant {
    /// What the decoder reads at the positions of a picture.
    ///
    /// # Errors
    /// As [`Assistant::pixels`], and [`Kind::Capacity`](crate::Kind::Capacity) where the memory is
    /// too small.
    pub fn embed_image(
        &self,
        source: &Source,
        aspect: Option<Aspect>,
        reading: Reading,
    ) -> Result<Embedding> {
        self.compute(|_| {
            self.identity.check_unchanged()?;
            let mut timings = Timings::default();
            let pixels = self
                .preparation(aspect, reading)?
                .pixels(source, &mut timings)?;
            capacity::check_beside(self.model.picture_bytes())?;
            Ok(Embedding {
                values: self.encoded(&pixels, &mut timings)?,
                n_rows: self.picture_rows(),
            })
        })
    }
}

/// How pictures are made fit for the vision tower.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preparation<'a> {
    pub visual: &'a VisualConfig,
    pub aspect: Option<Aspect>,
    pub reading: Reading,
}

impl Preparation<'_> {
    /// The pixels of a picture.
    pub fn pixels(self, source: &Source, timings: &mut Timings) -> Result<Arc<Pixels>> {
        let limits = Limits::default();
        let picture = match source {
            Source::Pixels(pixels) => return Ok(pixels.clone()),
            Source::File(path) => timings.measure(Stage::DecodeImage, || {
                image::open(path, self.reading, &limits)
            }),
            Source::Bytes(bytes) => timings.measure(Stage::DecodeImage, || {
                image::decode(bytes, self.reading, &limits)
            }),
        };
        let pixels = timings.measure(Stage::Preprocess, || self.preprocess(&picture?));
        match source {
            Source::File(path) => pixels.map_err(|e| e.in_file(path)),
            _ => pixels,
        }
    }

    pub fn preprocess(self, picture: &Picture) -> Result<Arc<Pixels>> {
        let aspect = self.aspect.unwrap_or(self.visual.aspect);
        let values = self.visual.preprocess.pixels(picture, aspect)?;
        let key = PictureKey::of(&values);
        let damage = picture.damage().map(str::to_owned);
        Ok(Arc::new(Pixels {
            values,
            key,
            damage,
        }))
    }
}
