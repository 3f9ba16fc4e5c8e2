//! Which tensor is stored in which type.
//!
//! A recipe is a base type for the decoder, one for the image branch, and a short table of the
//! tensors that are worth more bits. Norms, biases and tables are always F32.

use std::str::FromStr;

use wildmatch::WildMatch;

use owl2::gguf::DType;
use owl2::gguf::names::tensor;
use owl2::model::config::Config;
use owl2::model::layout::{self, Component, TensorKind, TensorSpec};
use owl2::quant::Rotation;
use owl2::{Error, Result};

use crate::mapping::in_stack;
use crate::plan::{ConversionPlan, Planned};

/// The recipes that `--quant` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[allow(non_camel_case_types, reason = "the names are ggml's")]
pub enum Quant {
    /// Everything as 32-bit floats
    #[value(name = "f32", aliases = ["fp32", "float32"])]
    F32,
    /// All matrices as 16-bit floats
    #[value(name = "f16", aliases = ["fp16", "float16"])]
    F16,
    /// All matrices Q8_0: half the size of f16 with negligible loss
    #[value(name = "q8_0", aliases = ["q8"])]
    Q8_0,
    /// Decoder Q4_0, the smallest and simplest
    #[value(name = "q4_0", aliases = ["q4"])]
    Q4_0,
    /// Decoder H4, a format of our own: 4.125 bits, and the fastest
    #[value(name = "h4")]
    H4,
    /// Decoder Q4_K with more bits in sensitive layers, as llama.cpp's Q4_K_M
    #[default]
    #[value(name = "q4_k", aliases = ["q4_k_m", "q4km", "q4k"])]
    Q4_K,
}

/// In which layers a tensor gets another type than the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layers {
    /// In every layer, or the tensor is in none.
    All,
    /// In the first and the last eighth and every third between: llama.cpp's `use_more_bits`.
    Sensitive,
}

impl Layers {
    fn contain(self, layer: usize, n_layers: usize) -> bool {
        let eighth = n_layers / 8;
        match self {
            Layers::All => true,
            Layers::Sensitive => {
                layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2
            }
        }
    }
}

/// A tensor of the decoder that gets another type than the base: a stem within a layer, or the
/// whole name of a tensor that is in none.
struct Exception(&'static str, Layers, DType);

/// What one [`Quant`] stands for.
struct Base {
    decoder: DType,
    vision: DType,
    exceptions: &'static [Exception],
}

/// As llama.cpp's Q4_K_M; the image branch's values weigh as much as the text branch's.
const Q4_K_EXCEPTIONS: [Exception; 4] = [
    Exception(tensor::OUTPUT, Layers::All, DType::Q6_K),
    Exception("attn_v", Layers::Sensitive, DType::Q6_K),
    Exception("attn_v_image", Layers::Sensitive, DType::Q6_K),
    Exception("ffn_down", Layers::Sensitive, DType::Q6_K),
];

const Q4_0_EXCEPTIONS: [Exception; 1] = [Exception(tensor::OUTPUT, Layers::All, DType::Q6_K)];

impl Quant {
    /// llama.cpp's number of this kind of file (`enum llama_ftype`), for `general.file_type`.
    pub fn file_type(self) -> u32 {
        match self {
            Quant::F32 => 0,
            Quant::F16 => 1,
            Quant::Q4_0 => 2,
            Quant::Q8_0 => 7,
            // Q4_K_M.
            Quant::Q4_K => 15,
            // The letters of the type; llama.cpp has no number of it.
            Quant::H4 => DType::H4.ggml(),
        }
    }

    fn base(self) -> Base {
        let (decoder, vision, exceptions): (_, _, &[Exception]) = match self {
            Quant::F32 => (DType::F32, DType::F32, &[]),
            Quant::F16 => (DType::F16, DType::F16, &[]),
            Quant::Q8_0 => (DType::Q8_0, DType::Q8_0, &[]),
            Quant::Q4_0 => (DType::Q4_0, DType::Q8_0, &Q4_0_EXCEPTIONS),
            Quant::H4 => (DType::H4, DType::Q8_0, &Q4_0_EXCEPTIONS),
            Quant::Q4_K => (DType::Q4_K, DType::Q8_0, &Q4_K_EXCEPTIONS),
        };
        Base {
            decoder,
            vision,
            exceptions,
        }
    }
}

/// `GLOB=TYPE`: the matrices whose names match are stored in this type.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorType {
    glob: WildMatch,
    dtype: DType,
}

impl FromStr for TensorType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (glob, dtype) = text.rsplit_once('=').ok_or_else(|| {
            Error::usage(format!(
                "'{text}' is not GLOB=TYPE, such as 'blk.*.ffn_down.weight=q6_k'"
            ))
        })?;
        Ok(TensorType {
            glob: WildMatch::new(glob),
            dtype: dtype.parse()?,
        })
    }
}

/// What the user asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The base.
    pub quant: Quant,
    /// Another type for the matrices of ViT and abstractor.
    pub vision: Option<DType>,
    /// Exceptions; the last that matches counts.
    pub tensor_types: Vec<TensorType>,
    /// Whether the columns of matrices that are stored in blocks are rotated, where that does no harm.
    pub rotate: bool,
}

impl Default for Recipe {
    /// What the program does without flags.
    fn default() -> Self {
        Recipe {
            quant: Quant::default(),
            vision: None,
            tensor_types: Vec::new(),
            rotate: true,
        }
    }
}

impl Recipe {
    /// Gives every tensor of a model with this configuration its type. Types whose blocks do not
    /// divide a tensor's rows give way to the next that fits: Q8_0, or of H4 Q4_0, then F16.
    ///
    /// # Errors
    /// [`Kind::Usage`](owl2::Kind::Usage) for a glob that matches no matrix, and for types that are made for
    /// rotated columns without rotation.
    pub fn plan(&self, config: &Config) -> Result<ConversionPlan> {
        let specs = layout::tensors(config);
        for rule in &self.tensor_types {
            rule.check(&specs)?;
        }
        let tensors: Vec<_> = specs
            .into_iter()
            .map(|spec| {
                let wanted = self.wanted(&spec, config);
                let row_len = *spec.shape.last().expect("no tensor is a scalar");
                let dtype = fitting(wanted, row_len);
                Planned {
                    dtype,
                    wanted,
                    is_rotated: self.rotate && !dtype.is_float(),
                    spec,
                }
            })
            .collect();
        let is_made_for_rotation =
            |tensor: &&Planned| matches!(tensor.dtype, DType::H4 | DType::H8);
        if let Some(tensor) = tensors
            .iter()
            .find(is_made_for_rotation)
            .filter(|_| !self.rotate)
        {
            return Err(Error::usage(format!(
                "{} is for rotated columns, which alone are even enough for one scale for 128 of them; \
                 leave this out, or take q4_0 or q8_0",
                tensor.dtype
            ))
            .in_parameter("no_rotate"));
        }
        let is_rotated = |tensor: &Planned| tensor.is_rotated;
        Ok(ConversionPlan {
            rotation: tensors.iter().any(is_rotated).then(Rotation::default),
            is_rotation_harmful: false,
            tensors,
        })
    }

    fn wanted(&self, spec: &TensorSpec, config: &Config) -> DType {
        if spec.kind == TensorKind::Float {
            return DType::F32;
        }
        let matching = |rule: &&TensorType| rule.glob.matches(&spec.name);
        if let Some(rule) = self.tensor_types.iter().rev().find(matching) {
            return rule.dtype;
        }
        let base = self.quant.base();
        match spec.part {
            Component::Vit | Component::Abstractor => self.vision.unwrap_or(base.vision),
            Component::Decoder | Component::Embedding | Component::Output => {
                base.exception(&spec.name, config).unwrap_or(base.decoder)
            }
        }
    }
}

impl Base {
    fn exception(&self, name: &str, config: &Config) -> Option<DType> {
        let decoder = &config.decoder;
        // A shared matrix is worth what the more sensitive of its two uses is.
        let name = if decoder.tie_word_embeddings && name == tensor::TOKEN_EMBEDDING {
            tensor::OUTPUT
        } else {
            name
        };
        let in_layer = in_stack(name, "blk.").and_then(|(layer, rest)| {
            let stem = rest.split_once('.').map_or(rest, |(stem, _)| stem);
            Some((layer.parse::<usize>().ok()?, stem))
        });
        let applies = |exception: &&Exception| match in_layer {
            Some((layer, stem)) => {
                exception.0 == stem && exception.1.contain(layer, decoder.n_layers)
            }
            None => exception.0 == name,
        };
        self.exceptions
            .iter()
            .find(applies)
            .map(|exception| exception.2)
    }
}

impl TensorType {
    fn check(&self, specs: &[TensorSpec]) -> Result<()> {
        let mut matching = specs.iter().filter(|spec| self.glob.matches(&spec.name));
        let problem = match matching.clone().next() {
            None => format!("'{}' matches no tensor of this model", self.glob),
            Some(spec)
                if self.dtype != DType::F32
                    && matching.all(|spec| spec.kind == TensorKind::Float) =>
            {
                format!(
                    "'{}' matches norms, biases or tables only, such as {}; those stay F32",
                    self.glob, spec.name
                )
            }
            Some(_) => return Ok(()),
        };
        Err(Error::usage(problem).in_parameter("tensor_type"))
    }
}

/// `wanted`, or the next type whose blocks divide a row of `row_len` values.
fn fitting(wanted: DType, row_len: usize) -> DType {
    match wanted {
        dtype if dtype.row_bytes(row_len).is_some() => dtype,
        DType::H4 => fitting(DType::Q4_0, row_len),
        DType::Q4_K | DType::Q6_K | DType::H8 => fitting(DType::Q8_0, row_len),
        _ => DType::F16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RandomShape;

    fn types(recipe: &Recipe, config: &Config) -> impl Fn(&str) -> DType + use<> {
        let plan = recipe.plan(config).unwrap();
        move |name| {
            let found = plan.tensors.iter().find(|t| t.spec.name == name);
            found.unwrap_or_else(|| panic!("no {name}")).dtype
        }
    }

    fn with(quant: Quant, tensor_types: &[&str]) -> Recipe {
        Recipe {
            quant,
            tensor_types: tensor_types.iter().map(|t| t.parse().unwrap()).collect(),
            ..Recipe::default()
        }
    }

    #[test]
    fn q4_k_spends_more_where_it_counts() {
        let dtype = types(&with(Quant::Q4_K, &[]), &RandomShape::SevenB.config());
        assert_eq!(dtype("blk.5.attn_q.weight"), DType::Q4_K);
        assert_eq!(dtype("blk.0.attn_v.weight"), DType::Q6_K);
        assert_eq!(dtype("blk.0.attn_v_image.weight"), DType::Q6_K);
        assert_eq!(dtype("blk.4.ffn_down.weight"), DType::Q4_K);
        assert_eq!(dtype("blk.6.ffn_down.weight"), DType::Q6_K);
        assert_eq!(dtype("blk.31.ffn_down.weight"), DType::Q6_K);
        assert_eq!(dtype("output.weight"), DType::Q6_K);
        assert_eq!(dtype("token_embd.weight"), DType::Q4_K);
        assert_eq!(dtype("v.blk.0.ffn_up.weight"), DType::Q8_0);
        assert_eq!(dtype("mm.blk.0.attn_q.weight"), DType::Q8_0);
        assert_eq!(dtype("v.blk.0.ffn_up.bias"), DType::F32);
        // Rows of a patch embedding are 14 values.
        assert_eq!(dtype("v.patch_embd.weight"), DType::F16);
    }

    #[test]
    fn other_bases_are_uniform() {
        let config = RandomShape::SevenB.config();
        for (quant, decoder, vision, output) in [
            (Quant::F32, DType::F32, DType::F32, DType::F32),
            (Quant::F16, DType::F16, DType::F16, DType::F16),
            (Quant::Q8_0, DType::Q8_0, DType::Q8_0, DType::Q8_0),
            (Quant::Q4_0, DType::Q4_0, DType::Q8_0, DType::Q6_K),
            (Quant::H4, DType::H4, DType::Q8_0, DType::Q6_K),
        ] {
            let dtype = types(&with(quant, &[]), &config);
            assert_eq!(dtype("blk.0.attn_v.weight"), decoder);
            assert_eq!(dtype("token_embd.weight"), decoder);
            assert_eq!(dtype("output.weight"), output);
            assert_eq!(dtype("v.blk.23.attn_qkv.weight"), vision);
            assert_eq!(dtype("blk.0.attn_norm.weight"), DType::F32);
        }
    }

    #[test]
    fn only_files_with_blocks_are_rotated() {
        let config = RandomShape::Tiny.config();
        let is_rotated = |recipe: Recipe| recipe.plan(&config).unwrap().rotation.is_some();
        assert!(is_rotated(with(Quant::Q8_0, &[])));
        assert!(is_rotated(with(Quant::F32, &["blk.0.attn_q.weight=q8_0"])));
        assert!(!is_rotated(with(Quant::F16, &["blk.*=bf16"])));
        assert!(!is_rotated(Recipe {
            rotate: false,
            ..Recipe::default()
        }));
    }

    #[test]
    fn a_shared_embedding_is_treated_as_the_output() {
        let mut config = RandomShape::SevenB.config();
        config.decoder.tie_word_embeddings = true;
        let dtype = types(&with(Quant::Q4_K, &[]), &config);
        assert_eq!(dtype("token_embd.weight"), DType::Q6_K);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_give_way() {
        assert_eq!(fitting(DType::Q6_K, 512), DType::Q6_K);
        assert_eq!(fitting(DType::H4, 384), DType::H4);
        assert_eq!(fitting(DType::H4, 576), DType::Q4_0);
        assert_eq!(fitting(DType::H8, 576), DType::Q8_0);
        assert_eq!(fitting(DType::Q4_K, 352), DType::Q8_0);
        assert_eq!(fitting(DType::Q4_K, 100), DType::F16);
        assert_eq!(fitting(DType::Q4_0, 100), DType::F16);
        assert_eq!(fitting(DType::BF16, 7), DType::BF16);
    }

    #[test]
    fn the_last_glob_counts_and_floats_are_left_alone() {
        let recipe = with(
            Quant::F16,
            &["blk.*=q8_0", "blk.?.attn_q.weight=bf16", "blk.1.*_q.*=q4_k"],
        );
        let dtype = types(&recipe, &RandomShape::SevenB.config());
        assert_eq!(dtype("blk.3.attn_q.weight"), DType::BF16);
        assert_eq!(dtype("blk.10.attn_q.weight"), DType::Q8_0);
        assert_eq!(dtype("blk.1.attn_q.weight"), DType::Q4_K);
        assert_eq!(dtype("blk.1.attn_norm.weight"), DType::F32);
        assert_eq!(dtype("output.weight"), DType::F16);
    }

    #[test]
    fn globs_without_effect_are_errors() {
        let config = RandomShape::Tiny.config();
        for (text, expected) in [
            ("blk.*.atn_q.weight=q8_0", "matches no tensor"),
            ("*norm.weight=f16", "those stay F32"),
        ] {
            let error = with(Quant::F16, &[text]).plan(&config).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(
            with(Quant::F16, &["*norm.weight=f32"])
                .plan(&config)
                .is_ok()
        );
        assert!("blk.0.attn_q.weight".parse::<TensorType>().is_err());
        assert!("blk.0.attn_q.weight=q5_1".parse::<TensorType>().is_err());
    }
}
