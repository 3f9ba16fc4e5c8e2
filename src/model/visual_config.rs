//! Hyper-parameters of the image branch: the ViT, the visual abstractor, and the preprocessing.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::names::{self, visual as key};
use crate::gguf::write::Metadata;
use crate::image::{Aspect, Preprocess};
pub use crate::kernels::float::Activation;
use crate::model::checks::{
    check_dimension, check_divides, check_epsilon, check_layers, check_range,
};

/// Pixels along an edge that no vision tower of this family comes near; a small file could ask for
/// pictures that no memory holds.
const MAX_IMAGE_SIZE: usize = 4096;

/// Epsilon of the abstractor's `norm1`, `normk` and `norm2`: plain LayerNorms of the reference,
/// which keep PyTorch's default whatever the config says.
pub const ABSTRACTOR_NORM_EPS: f32 = 1e-5;

/// Hyper-parameters of the image branch.
#[derive(Clone, Debug, PartialEq)]
pub struct VisualConfig {
    /// `visual_config.visual_model`.
    pub vit: VitConfig,
    /// `visual_config.visual_abstractor`.
    pub abstractor: AbstractorConfig,
    /// `preprocessor_config.json`.
    pub preprocess: Preprocess,
    /// What becomes of pictures that are not square, unless the user asks otherwise.
    pub aspect: Aspect,
}

/// Hyper-parameters of the vision transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct VitConfig {
    /// Edge of the square input in pixels.
    pub image_size: usize,
    /// Edge of a square patch in pixels.
    pub patch_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks (`num_hidden_layers`).
    pub n_layers: usize,
    /// Attention heads (`num_attention_heads`).
    pub n_heads: usize,
    /// Epsilon of every LayerNorm of the ViT.
    pub layer_norm_eps: f32,
    /// Activation of the MLP.
    pub hidden_act: Activation,
    /// Whether a class token comes before the patches.
    pub use_cls_token: bool,
    /// Whether a LayerNorm follows the last block.
    pub use_post_layernorm: bool,
}

/// Hyper-parameters of the visual abstractor.
#[derive(Clone, Debug, PartialEq)]
pub struct AbstractorConfig {
    /// Width of the MLP's hidden layer, exactly as in the file.
    pub intermediate_size: usize,
    /// Number of blocks (`num_hidden_layers`).
    pub n_layers: usize,
    /// Attention heads (`num_attention_heads`).
    pub n_heads: usize,
    /// Learned queries (`num_learnable_queries`).
    pub n_queries: usize,
    /// Epsilon of `ffn_ln` alone; the other norms have [`ABSTRACTOR_NORM_EPS`].
    pub layer_norm_eps: f32,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activation::QuickGelu => "quick_gelu",
            Activation::Gelu => "gelu",
        })
    }
}

impl FromStr for Activation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "quick_gelu" => Ok(Activation::QuickGelu),
            "gelu" => Ok(Activation::Gelu),
            _ => Err(Error::model(format!(
                "activation '{text}' is not supported; 'quick_gelu' and 'gelu' are"
            ))),
        }
    }
}

impl VitConfig {
    /// Patches along one edge.
    pub fn grid_size(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of one picture.
    pub fn n_patches(&self) -> usize {
        self.grid_size() * self.grid_size()
    }

    /// Tokens of one picture: the class token, if any, and the patches.
    pub fn n_tokens(&self) -> usize {
        self.n_patches() + usize::from(self.use_cls_token)
    }

    /// Values of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.n_heads
    }

    /// Values of one patch: three channels of `patch_size` squared.
    pub fn patch_len(&self) -> usize {
        3 * self.patch_size * self.patch_size
    }
}

impl AbstractorConfig {
    /// Decoder positions one picture takes: its queries and the end-of-image vector.
    pub fn n_positions(&self) -> usize {
        self.n_queries + 1
    }
}

impl VisualConfig {
    pub(super) fn read(gguf: &Gguf) -> Result<Self> {
        let name = |part| names::key(names::ARCHITECTURE, part);
        Ok(VisualConfig {
            vit: VitConfig {
                image_size: gguf.get(&name(key::IMAGE_SIZE))?,
                patch_size: gguf.get(&name(key::PATCH_SIZE))?,
                hidden_size: gguf.get(&name(key::EMBEDDING_LENGTH))?,
                intermediate_size: gguf.get(&name(key::FEED_FORWARD_LENGTH))?,
                n_layers: gguf.get(&name(key::BLOCK_COUNT))?,
                n_heads: gguf.get(&name(key::HEAD_COUNT))?,
                layer_norm_eps: gguf.get(&name(key::LAYER_NORM_EPS))?,
                hidden_act: parsed(gguf, &name(key::HIDDEN_ACT))?,
                use_cls_token: gguf.get(&name(key::CLASS_TOKEN))?,
                use_post_layernorm: gguf.get(&name(key::POST_LAYER_NORM))?,
            },
            abstractor: AbstractorConfig {
                intermediate_size: gguf.get(&name(key::ABSTRACTOR_FEED_FORWARD_LENGTH))?,
                n_layers: gguf.get(&name(key::ABSTRACTOR_BLOCK_COUNT))?,
                n_heads: gguf.get(&name(key::ABSTRACTOR_HEAD_COUNT))?,
                n_queries: gguf.get(&name(key::ABSTRACTOR_QUERY_COUNT))?,
                layer_norm_eps: gguf.get(&name(key::ABSTRACTOR_FFN_NORM_EPS))?,
            },
            preprocess: read_preprocess(gguf)?,
            aspect: parsed(gguf, &name(key::ASPECT))?,
        })
    }

    pub(super) fn write(&self, metadata: &mut Metadata) {
        let mut set = |part, value: crate::gguf::write::Value| {
            metadata.set(names::key(names::ARCHITECTURE, part), value);
        };
        let count = |n: usize| u32::try_from(n).expect("checked to be in range").into();

        let vit = &self.vit;
        set(key::IMAGE_SIZE, count(vit.image_size));
        set(key::PATCH_SIZE, count(vit.patch_size));
        set(key::EMBEDDING_LENGTH, count(vit.hidden_size));
        set(key::FEED_FORWARD_LENGTH, count(vit.intermediate_size));
        set(key::BLOCK_COUNT, count(vit.n_layers));
        set(key::HEAD_COUNT, count(vit.n_heads));
        set(key::LAYER_NORM_EPS, vit.layer_norm_eps.into());
        set(key::HIDDEN_ACT, vit.hidden_act.to_string().into());
        set(key::CLASS_TOKEN, vit.use_cls_token.into());
        set(key::POST_LAYER_NORM, vit.use_post_layernorm.into());

        let abstractor = &self.abstractor;
        set(
            key::ABSTRACTOR_FEED_FORWARD_LENGTH,
            count(abstractor.intermediate_size),
        );
        set(key::ABSTRACTOR_BLOCK_COUNT, count(abstractor.n_layers));
        set(key::ABSTRACTOR_HEAD_COUNT, count(abstractor.n_heads));
        set(key::ABSTRACTOR_QUERY_COUNT, count(abstractor.n_queries));
        set(
            key::ABSTRACTOR_FFN_NORM_EPS,
            abstractor.layer_norm_eps.into(),
        );

        let preprocess = &self.preprocess;
        set(key::ASPECT, self.aspect.to_string().into());
        set(key::RESIZE, preprocess.do_resize.into());
        set(key::SHORTEST_EDGE, count(preprocess.shortest_edge));
        set(key::CENTER_CROP, preprocess.do_center_crop.into());
        set(key::CROP_HEIGHT, count(preprocess.crop_height));
        set(key::CROP_WIDTH, count(preprocess.crop_width));
        set(key::RESCALE, preprocess.do_rescale.into());
        set(key::RESCALE_FACTOR, preprocess.rescale_factor.into());
        set(key::NORMALIZE, preprocess.do_normalize.into());
        set(key::MEAN, preprocess.mean.to_vec().into());
        set(key::STD, preprocess.std.to_vec().into());
    }

    pub(super) fn check(&self) -> Result<()> {
        let vit = &self.vit;
        check_range(key::IMAGE_SIZE, vit.image_size, MAX_IMAGE_SIZE)?;
        check_dimension(key::PATCH_SIZE, vit.patch_size)?;
        check_dimension(key::EMBEDDING_LENGTH, vit.hidden_size)?;
        check_dimension(key::FEED_FORWARD_LENGTH, vit.intermediate_size)?;
        check_layers(key::BLOCK_COUNT, vit.n_layers)?;
        check_dimension(key::HEAD_COUNT, vit.n_heads)?;
        check_epsilon(key::LAYER_NORM_EPS, vit.layer_norm_eps)?;
        check_divides(
            key::PATCH_SIZE,
            vit.patch_size,
            key::IMAGE_SIZE,
            vit.image_size,
        )?;
        check_divides(
            key::HEAD_COUNT,
            vit.n_heads,
            key::EMBEDDING_LENGTH,
            vit.hidden_size,
        )?;

        let abstractor = &self.abstractor;
        check_dimension(
            key::ABSTRACTOR_FEED_FORWARD_LENGTH,
            abstractor.intermediate_size,
        )?;
        check_layers(key::ABSTRACTOR_BLOCK_COUNT, abstractor.n_layers)?;
        check_dimension(key::ABSTRACTOR_HEAD_COUNT, abstractor.n_heads)?;
        check_dimension(key::ABSTRACTOR_QUERY_COUNT, abstractor.n_queries)?;
        check_epsilon(key::ABSTRACTOR_FFN_NORM_EPS, abstractor.layer_norm_eps)?;
        check_divides(
            key::ABSTRACTOR_HEAD_COUNT,
            abstractor.n_heads,
            key::EMBEDDING_LENGTH,
            vit.hidden_size,
        )?;
        if !vit.hidden_size.is_multiple_of(4) {
            return Err(Error::model(format!(
                "is {}, expected a multiple of 4 for the two-dimensional position table",
                vit.hidden_size
            ))
            .in_key(key::EMBEDDING_LENGTH));
        }

        let preprocess = &self.preprocess;
        check_range(key::SHORTEST_EDGE, preprocess.shortest_edge, MAX_IMAGE_SIZE)?;
        for (name, edge) in [
            (key::CROP_HEIGHT, preprocess.crop_height),
            (key::CROP_WIDTH, preprocess.crop_width),
        ] {
            if edge != vit.image_size {
                return Err(Error::model(format!(
                    "is {edge}, but the vision tower takes {} pixels",
                    vit.image_size
                ))
                .in_key(name));
            }
        }
        check_colours(preprocess)
    }
}

/// Fails unless scaling and normalising pixels gives finite values.
fn check_colours(preprocess: &Preprocess) -> Result<()> {
    if !preprocess.rescale_factor.is_finite() {
        return Err(Error::model(format!(
            "is {}, expected a finite number",
            preprocess.rescale_factor
        ))
        .in_key(key::RESCALE_FACTOR));
    }
    if !preprocess.mean.iter().all(|mean| mean.is_finite()) {
        return Err(
            Error::model(format!("is {:?}, expected finite numbers", preprocess.mean))
                .in_key(key::MEAN),
        );
    }
    if !preprocess
        .std
        .iter()
        .all(|&std| std.is_finite() && std > 0.0)
    {
        return Err(Error::model(format!(
            "is {:?}, expected positive numbers",
            preprocess.std
        ))
        .in_key(key::STD));
    }
    Ok(())
}

fn parsed<T: FromStr<Err = Error>>(gguf: &Gguf, key: &str) -> Result<T> {
    let text: &str = gguf.get(key)?;
    text.parse()
        .map_err(|e: Error| Error::model(e.to_string()).in_key(key))
}

fn read_preprocess(gguf: &Gguf) -> Result<Preprocess> {
    let name = |part| names::key(names::ARCHITECTURE, part);
    Ok(Preprocess {
        do_resize: gguf.get(&name(key::RESIZE))?,
        shortest_edge: gguf.get(&name(key::SHORTEST_EDGE))?,
        do_center_crop: gguf.get(&name(key::CENTER_CROP))?,
        crop_height: gguf.get(&name(key::CROP_HEIGHT))?,
        crop_width: gguf.get(&name(key::CROP_WIDTH))?,
        do_rescale: gguf.get(&name(key::RESCALE))?,
        rescale_factor: gguf.get(&name(key::RESCALE_FACTOR))?,
        do_normalize: gguf.get(&name(key::NORMALIZE))?,
        mean: three(gguf, &name(key::MEAN))?,
        std: three(gguf, &name(key::STD))?,
    })
}

/// A value per colour channel.
fn three(gguf: &Gguf, key: &str) -> Result<[f32; 3]> {
    let values: Vec<f32> = gguf.get(key)?;
    values.as_slice().try_into().map_err(|_| {
        Error::model(format!(
            "has {} values, expected one per channel",
            values.len()
        ))
        .in_key(key)
    })
}
