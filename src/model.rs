//! The model: configuration, weights, and the forward passes.

mod abstractor;
pub mod adaptive;
mod checks;
pub mod config;
pub(crate) mod decoder;
pub mod kv_cache;
pub mod layout;
pub mod observer;
pub(crate) mod pass;
pub mod sequence;
pub mod visual_config;
mod vit;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernels::float::all_finite;
use crate::ops::Compute;
use abstractor::Abstractor;
use config::Config;
use decoder::Decoder;
use kv_cache::CacheType;
use observer::{FirstNotFinite, Observer};
use vit::Vit;
use weights::Binder;

/// A model bound to an open file: weights stay where they are in the map.
///
/// It is a handle: clones share weights and threads, and cost nothing. So whatever needs the model
/// holds one, and may outlive what it was made from or go to another thread.
#[derive(Clone, Debug)]
pub struct Model {
    bound: Arc<Bound>,
    /// That of the sequences made with this handle.
    cache_type: CacheType,
}

/// What the handles of a model share.
#[derive(Debug)]
struct Bound {
    config: Config,
    /// Where it is, unless it is part of the program or was given as bytes.
    path: Option<PathBuf>,
    file_bytes: u64,
    compute: Compute,
    eye: Option<Eye>,
    decoder: Decoder,
}

/// The image branch: pixels to decoder inputs.
#[derive(Debug)]
struct Eye {
    vit: Vit,
    abstractor: Abstractor,
}

/// A picture on its way through the vision tower.
#[derive(Debug)]
pub(crate) struct Vision(vit::VitPass);

impl Model {
    /// Reads the hyper-parameters of `gguf`, checks all of its tensors, and binds them.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) with the key or tensors that are not as they must be.
    pub fn new(gguf: &Gguf, compute: Compute) -> Result<Self> {
        let config = Config::read(gguf)?;
        let binder = Binder::new(gguf, &config)?;
        let eye = config.visual.as_ref().map(|visual| Eye {
            vit: Vit::bind(&binder, &visual.vit),
            abstractor: Abstractor::bind(&binder, visual),
        });
        let decoder = Decoder::bind(&binder, &config.decoder, eye.is_some());
        let cache_type = match decoder.is_exact() {
            true => CacheType::F32,
            false => CacheType::F16,
        };
        let bound = Bound {
            config,
            path: gguf.path().map(ToOwned::to_owned),
            file_bytes: gguf.file_bytes() as u64,
            compute,
            eye,
            decoder,
        };
        Ok(Model {
            bound: Arc::new(bound),
            cache_type,
        })
    }

    /// Whether two handles are of one model.
    pub fn is_same(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.bound, &other.bound)
    }

    /// Its hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.bound.config
    }

    /// Size of its file.
    pub fn file_bytes(&self) -> u64 {
        self.bound.file_bytes
    }

    /// Bytes of the buffers that encoding one picture takes, its pixels included; 0 without an
    /// image branch.
    pub fn picture_bytes(&self) -> u64 {
        let Some(visual) = &self.config().visual else {
            return 0;
        };
        let size = visual.vit.image_size as u64;
        let pixels = 3 * size * size * size_of::<f32>() as u64;
        let abstractor = Abstractor::bytes(visual, self.config().decoder.hidden_size);
        pixels.saturating_add(Vit::bytes(&visual.vit).max(abstractor))
    }

    /// What it computes on.
    pub fn compute(&self) -> &Compute {
        &self.bound.compute
    }

    /// Encodes one picture, `pixels: [3, image_size, image_size]`, to the decoder's inputs
    /// `[n_queries + 1, hidden_size]`.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the model has no image branch or the picture has
    /// another size, [`Kind::Model`](crate::Kind::Model) where what comes out is not finite, with the
    /// stage that was the first.
    pub fn encode_image(&self, pixels: &[f32]) -> Result<Vec<f32>> {
        self.encode_image_observed(pixels, &mut ())
    }

    /// [`Model::encode_image`] with a look at the intermediate values.
    ///
    /// # Errors
    /// As [`Model::encode_image`].
    pub fn encode_image_observed<O: Observer>(
        &self,
        pixels: &[f32],
        observer: &mut O,
    ) -> Result<Vec<f32>> {
        let picture = self.vision(pixels, observer)?;
        self.abstract_picture(&picture, observer)
    }

    /// The first half of [`Model::encode_image`]: the ViT's output, `[n_tokens, width]`.
    ///
    /// # Errors
    /// As [`Model::encode_image`].
    pub fn vision<O: Observer>(&self, pixels: &[f32], observer: &mut O) -> Result<Vec<f32>> {
        let eye = self.eye_for(pixels)?;
        self.compute().threads.enter(|| {
            let picture = eye.vit.forward(self.compute(), pixels, observer);
            self.check_seen(eye, pixels, picture)
        })
    }

    /// The beginning of [`Model::vision`], which goes on block by block: nobody else who computes with
    /// this model has to wait for the whole of it.
    ///
    /// # Errors
    /// As [`Model::encode_image`].
    pub(crate) fn begin_vision(&self, pixels: &[f32]) -> Result<Vision> {
        let eye = self.eye_for(pixels)?;
        let threads = &self.compute().threads;
        Ok(Vision(
            threads.enter(|| eye.vit.begin(self.compute(), pixels, &mut ())),
        ))
    }

    /// Up to `n_blocks` more blocks; gives how many are left.
    ///
    /// # Errors
    /// As [`Model::encode_image`].
    pub(crate) fn advance_vision(&self, vision: &mut Vision, n_blocks: usize) -> Result<usize> {
        let eye = self.eye()?;
        let threads = &self.compute().threads;
        Ok(threads.enter(|| {
            eye.vit
                .advance(self.compute(), &mut vision.0, n_blocks, &mut ())
        }))
    }

    /// The end of [`Model::vision`] of `pixels`, after the last block.
    ///
    /// # Errors
    /// As [`Model::encode_image`].
    pub(crate) fn end_vision(&self, vision: Vision, pixels: &[f32]) -> Result<Vec<f32>> {
        let eye = self.eye_for(pixels)?;
        self.compute().threads.enter(|| {
            let picture = eye.vit.finish(self.compute(), vision.0, &mut ());
            self.check_seen(eye, pixels, picture)
        })
    }

    /// Fails where what the vision tower made of `pixels` is not finite.
    fn check_seen(&self, eye: &Eye, pixels: &[f32], picture: Vec<f32>) -> Result<Vec<f32>> {
        if all_finite(&picture) {
            return Ok(picture);
        }
        // Once more, with a look at each stage.
        let mut first = FirstNotFinite::default();
        eye.vit.forward(self.compute(), pixels, &mut first);
        Err(self.blame(first.error("the vision tower")))
    }

    /// The image branch, for a picture of its size.
    fn eye_for(&self, pixels: &[f32]) -> Result<&Eye> {
        let eye = self.eye()?;
        let visual = self.config().visual.as_ref();
        let size = visual.map_or(0, |visual| visual.vit.image_size);
        match pixels.len() == 3 * size * size {
            true => Ok(eye),
            false => Err(Error::input(format!(
                "the picture has {} values, wanted 3 x {size} x {size}",
                pixels.len()
            ))),
        }
    }

    /// The second half of [`Model::encode_image`]: `picture` is what [`Model::vision`] gave.
    ///
    /// # Errors
    /// As [`Model::encode_image`].
    pub fn abstract_picture<O: Observer>(
        &self,
        picture: &[f32],
        observer: &mut O,
    ) -> Result<Vec<f32>> {
        let eye = self.eye()?;
        self.compute().threads.enter(|| {
            let rows = eye.abstractor.forward(self.compute(), picture, observer);
            if all_finite(&rows) {
                return Ok(rows);
            }
            let mut first = FirstNotFinite::default();
            eye.abstractor.forward(self.compute(), picture, &mut first);
            Err(self.blame(first.error("the abstractor")))
        })
    }

    /// Applies the output head to one normed row (`Stage::FinalNorm`): logits `[vocab_size]`.
    pub fn output_head(&self, normed: &[f32]) -> Vec<f32> {
        let mut logits = vec![0.0; self.config().decoder.vocab_size];
        self.decoder().head(self.compute(), normed, &mut logits);
        logits
    }

    /// How caches keep keys and values. Unless [`Model::set_cache_type`] says otherwise, in full
    /// where the weights are, so that nothing is rounded, else in half precision.
    pub fn cache_type(&self) -> CacheType {
        self.cache_type
    }

    /// Decides how the caches of sequences made with this handle keep keys and values.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) where its heads cannot be kept so.
    pub fn set_cache_type(&mut self, cache_type: CacheType) -> Result<()> {
        cache_type.check(&self.config().decoder)?;
        self.cache_type = cache_type;
        Ok(())
    }

    pub(crate) fn decoder(&self) -> &Decoder {
        &self.bound.decoder
    }

    /// Adds the file to an error about what it computes.
    pub(crate) fn blame(&self, error: Error) -> Error {
        match &self.bound.path {
            Some(path) => error.in_file(path),
            None => error,
        }
    }

    fn eye(&self) -> Result<&Eye> {
        self.bound
            .eye
            .as_ref()
            .ok_or_else(|| Error::input("this model has no image branch; ask it without a picture"))
    }
}
