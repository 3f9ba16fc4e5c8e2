//! Hyper-parameters: read from a GGUF's metadata, written to it, and checked against one another.
//!
//! Reading and writing stand side by side so that the converter and the runtime cannot drift.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::gguf::names::{self, decoder as key, tensor};
use crate::gguf::write::Metadata;
use crate::gguf::{Gguf, kind};
use crate::model::checks::{check_dimension, check_divides, check_epsilon, check_layers};
use crate::model::visual_config::VisualConfig;
use crate::quant::Rotation;

/// Hyper-parameters of a whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The language model.
    pub decoder: DecoderConfig,
    /// The image branch; a plain LLaMA file has none.
    pub visual: Option<VisualConfig>,
}

/// Hyper-parameters of the LLaMA-2 decoder (`config.json`, top level).
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Rows of the embedding and of the output head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks (`num_hidden_layers`).
    pub n_layers: usize,
    /// Query heads (`num_attention_heads`).
    pub n_heads: usize,
    /// Key and value heads (`num_key_value_heads`), a divisor of `n_heads`.
    pub n_kv_heads: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Stretching of the rotary positions, if any.
    pub rope_scaling: Option<RopeScaling>,
    /// Positions that the model was trained with.
    pub max_position_embeddings: usize,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
}

/// How rotary positions are stretched beyond the trained context (transformers' `rope_scaling`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeScaling {
    /// Which rule.
    pub kind: RopeScalingKind,
    /// By how much; greater than 1.
    pub factor: f32,
}

/// The two rules that transformers 4.31 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeScalingKind {
    /// Positions are divided by the factor.
    Linear,
    /// The base grows with the length once that exceeds the trained context.
    Dynamic,
}

impl fmt::Display for RopeScalingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RopeScalingKind::Linear => "linear",
            RopeScalingKind::Dynamic => "dynamic",
        })
    }
}

impl FromStr for RopeScalingKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "linear" => Ok(RopeScalingKind::Linear),
            "dynamic" => Ok(RopeScalingKind::Dynamic),
            _ => Err(Error::model(format!(
                "rotary scaling '{text}' is not supported; 'linear' and 'dynamic' are"
            ))),
        }
    }
}

impl Config {
    /// Reads and checks the hyper-parameters of an open file.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model), naming the key, where one is missing, out of range or
    /// at odds with another, or the file holds another architecture.
    pub fn read(gguf: &Gguf) -> Result<Self> {
        kind::check_is_model(gguf)?;
        let architecture: &str = gguf.get(names::general::ARCHITECTURE)?;
        let visual = match architecture {
            names::ARCHITECTURE => Some(VisualConfig::read(gguf)?),
            names::LLAMA_ARCHITECTURE | names::ROTATED_LLAMA_ARCHITECTURE => {
                check_rotation(gguf, architecture)?;
                None
            }
            _ => {
                return Err(Error::model(format!(
                    "is '{architecture}', another kind of model; this program runs '{}' and plain '{}' \
                     files",
                    names::ARCHITECTURE,
                    names::LLAMA_ARCHITECTURE
                ))
                .in_key(names::general::ARCHITECTURE));
            }
        };
        let decoder = DecoderConfig::read(gguf, architecture)?;
        let config = Config { decoder, visual };
        config.check()?;
        config.decoder.check_against(gguf, architecture)?;
        Ok(config)
    }

    /// The architecture that a file says it holds, whose quantized matrices are rotated or not.
    pub fn architecture(&self, is_rotated: bool) -> &'static str {
        match (&self.visual, is_rotated) {
            (Some(_), _) => names::ARCHITECTURE,
            (None, false) => names::LLAMA_ARCHITECTURE,
            (None, true) => names::ROTATED_LLAMA_ARCHITECTURE,
        }
    }

    /// Adds the hyper-parameters to the metadata of a file to be written, and how its quantized
    /// matrices are rotated, if they are.
    pub fn write(&self, metadata: &mut Metadata, rotation: Option<&Rotation>) {
        let architecture = self.architecture(rotation.is_some());
        metadata.set(names::general::ARCHITECTURE, architecture);
        self.decoder.write(metadata, architecture);
        if let Some(visual) = &self.visual {
            visual.write(metadata);
        }
        if let Some(rotation) = rotation {
            rotation.write(metadata);
        }
    }

    /// Checks that every value is in range and consistent with the others.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model), naming the key.
    pub fn check(&self) -> Result<()> {
        self.decoder.check()?;
        self.visual.as_ref().map_or(Ok(()), VisualConfig::check)
    }
}

impl DecoderConfig {
    /// Values of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.n_heads
    }

    /// Width of the keys, and of the values, of one position.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim()
    }

    fn read(gguf: &Gguf, architecture: &str) -> Result<Self> {
        let name = |part| names::key(architecture, part);
        let n_heads = gguf.get(&name(key::HEAD_COUNT))?;
        let hidden_size: usize = gguf.get(&name(key::EMBEDDING_LENGTH))?;
        if gguf.find::<usize>(&name(key::EXPERT_COUNT))?.unwrap_or(0) > 0 {
            return Err(Error::model("mixture-of-experts models are not supported")
                .in_key(name(key::EXPERT_COUNT)));
        }
        if gguf.tensor(tensor::ROPE_FACTORS).is_some() {
            return Err(
                Error::model("per-dimension rotary factors are not supported")
                    .in_tensor(tensor::ROPE_FACTORS),
            );
        }
        Ok(DecoderConfig {
            vocab_size: match gguf.find(&name(key::VOCAB_SIZE))? {
                Some(n) => n,
                None => gguf.get::<Vec<&str>>(names::tokenizer::TOKENS)?.len(),
            },
            hidden_size,
            intermediate_size: gguf.get(&name(key::FEED_FORWARD_LENGTH))?,
            n_layers: gguf.get(&name(key::BLOCK_COUNT))?,
            n_heads,
            n_kv_heads: gguf.find(&name(key::HEAD_COUNT_KV))?.unwrap_or(n_heads),
            rms_norm_eps: gguf.get(&name(key::RMS_NORM_EPS))?,
            rope_theta: gguf.find(&name(key::ROPE_FREQ_BASE))?.unwrap_or(10000.0),
            rope_scaling: read_rope_scaling(gguf, architecture)?,
            max_position_embeddings: gguf.get(&name(key::CONTEXT_LENGTH))?,
            attention_bias: gguf
                .tensor(&names::bias(&names::block(0, "attn_q")))
                .is_some(),
            tie_word_embeddings: gguf.tensor(tensor::OUTPUT).is_none(),
        })
    }

    /// Checks what the file says twice: the length of a head, and the number of tokens.
    fn check_against(&self, gguf: &Gguf, architecture: &str) -> Result<()> {
        let rope_key = names::key(architecture, key::ROPE_DIMENSION_COUNT);
        if let Some(rope_dim) = gguf.find::<usize>(&rope_key)?
            && rope_dim != self.head_dim()
        {
            return Err(Error::model(format!(
                "is {rope_dim}, but heads have {} values; partial rotation is not supported",
                self.head_dim()
            ))
            .in_key(rope_key));
        }
        if let Some(tokens) = gguf.find::<Vec<&str>>(names::tokenizer::TOKENS)?
            && tokens.len() != self.vocab_size
        {
            return Err(Error::model(format!(
                "has {} tokens, but the model's vocabulary has {}",
                tokens.len(),
                self.vocab_size
            ))
            .in_key(names::tokenizer::TOKENS));
        }
        Ok(())
    }

    fn write(&self, metadata: &mut Metadata, architecture: &str) {
        let name = |part| names::key(architecture, part);
        let count = |n: usize| u32::try_from(n).expect("checked to be in range");
        metadata.set(
            name(key::CONTEXT_LENGTH),
            count(self.max_position_embeddings),
        );
        metadata.set(name(key::EMBEDDING_LENGTH), count(self.hidden_size));
        metadata.set(
            name(key::FEED_FORWARD_LENGTH),
            count(self.intermediate_size),
        );
        metadata.set(name(key::BLOCK_COUNT), count(self.n_layers));
        metadata.set(name(key::HEAD_COUNT), count(self.n_heads));
        metadata.set(name(key::HEAD_COUNT_KV), count(self.n_kv_heads));
        metadata.set(name(key::RMS_NORM_EPS), self.rms_norm_eps);
        metadata.set(name(key::ATTENTION_BIAS), self.attention_bias);
        metadata.set(name(key::ROPE_DIMENSION_COUNT), count(self.head_dim()));
        metadata.set(name(key::ROPE_FREQ_BASE), self.rope_theta);
        if let Some(scaling) = self.rope_scaling {
            metadata.set(name(key::ROPE_SCALING_TYPE), scaling.kind.to_string());
            metadata.set(name(key::ROPE_SCALING_FACTOR), scaling.factor);
        }
        metadata.set(name(key::VOCAB_SIZE), count(self.vocab_size));
    }

    fn check(&self) -> Result<()> {
        check_dimension(key::VOCAB_SIZE, self.vocab_size)?;
        check_dimension(key::EMBEDDING_LENGTH, self.hidden_size)?;
        check_dimension(key::FEED_FORWARD_LENGTH, self.intermediate_size)?;
        check_layers(key::BLOCK_COUNT, self.n_layers)?;
        check_dimension(key::HEAD_COUNT, self.n_heads)?;
        check_dimension(key::HEAD_COUNT_KV, self.n_kv_heads)?;
        check_dimension(key::CONTEXT_LENGTH, self.max_position_embeddings)?;
        check_epsilon(key::RMS_NORM_EPS, self.rms_norm_eps)?;
        check_divides(
            key::HEAD_COUNT,
            self.n_heads,
            key::EMBEDDING_LENGTH,
            self.hidden_size,
        )?;
        check_divides(
            key::HEAD_COUNT_KV,
            self.n_kv_heads,
            key::HEAD_COUNT,
            self.n_heads,
        )?;
        if !self.head_dim().is_multiple_of(2) {
            return Err(Error::model(format!(
                "leaves {} values a head, which rotary positions cannot pair",
                self.head_dim()
            ))
            .in_key(key::HEAD_COUNT));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(Error::model(format!(
                "is {}, expected a positive number",
                self.rope_theta
            ))
            .in_key(key::ROPE_FREQ_BASE));
        }
        if let Some(scaling) = self.rope_scaling
            && !(scaling.factor.is_finite() && scaling.factor >= 1.0)
        {
            return Err(
                Error::model(format!("is {}, expected at least 1", scaling.factor))
                    .in_key(key::ROPE_SCALING_FACTOR),
            );
        }
        Ok(())
    }
}

/// Checks that a LLaMA file is rotated exactly where its architecture says so. Other programs
/// know the plain architecture alone, and would take rotated weights for ordinary ones.
fn check_rotation(gguf: &Gguf, architecture: &str) -> Result<()> {
    let key = names::rotation::BLOCK_LENGTH;
    let problem = match (architecture, gguf.has(key)) {
        (names::LLAMA_ARCHITECTURE, true) => format!(
            "does not belong into a '{architecture}' file, since other programs would not notice it; \
             make the file again with owl2-convert, which calls rotated files '{}'",
            names::ROTATED_LLAMA_ARCHITECTURE
        ),
        (names::ROTATED_LLAMA_ARCHITECTURE, false) => format!(
            "is missing, but every '{architecture}' file has it; make the file again with owl2-convert"
        ),
        _ => return Ok(()),
    };
    Err(Error::model(problem).in_key(key))
}

fn read_rope_scaling(gguf: &Gguf, architecture: &str) -> Result<Option<RopeScaling>> {
    let type_key = names::key(architecture, key::ROPE_SCALING_TYPE);
    match gguf.find::<&str>(&type_key)? {
        None | Some("none") => Ok(None),
        Some(kind) => Ok(Some(RopeScaling {
            kind: kind.parse().map_err(|e: Error| e.in_key(type_key))?,
            factor: gguf.get(&names::key(architecture, key::ROPE_SCALING_FACTOR))?,
        })),
    }
}
