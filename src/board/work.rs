//! The least work of each stage: multiply-accumulates, and bytes to read.

use crate::gguf::{Gguf, names};
use crate::model::Model;
use crate::model::config::{Config, DecoderConfig};
use crate::model::layout::{self, Component, TensorKind, TensorSpec};
use crate::model::visual_config::VisualConfig;
use crate::session::Session;

/// The decoder's work for text.
#[derive(Clone, Debug)]
pub(crate) struct DecoderWork {
    config: DecoderConfig,
    /// Weights of the blocks' matrices, each used once per token.
    block_macs: u64,
    /// Weights of the output head, used once per pass.
    head_macs: u64,
    /// Bytes of all of them, of norms and biases, and of one embedding.
    weight_bytes: u64,
    /// Bytes of a position's keys and values.
    position_bytes: u64,
}

/// A context beyond which a session grows by keys and values alone.
const LONG_CONTEXT: usize = 1 << 12;

/// Multiply-accumulates of encoding one picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PictureWork {
    /// Of the vision transformer.
    pub vit_macs: u64,
    /// Of the abstractor and the projection to the decoder's width.
    pub abstractor_macs: u64,
}

impl DecoderWork {
    /// Counts the weights of `gguf`, the file of `model`.
    pub fn new(gguf: &Gguf, model: &Model) -> Self {
        let config = model.config();
        let decoder = &config.decoder;
        let head = match decoder.tie_word_embeddings {
            true => names::tensor::TOKEN_EMBEDDING,
            false => names::tensor::OUTPUT,
        };
        let mut work = DecoderWork {
            config: decoder.clone(),
            block_macs: 0,
            head_macs: 0,
            weight_bytes: 0,
            position_bytes: Session::bytes(model, LONG_CONTEXT + 1)
                - Session::bytes(model, LONG_CONTEXT),
        };
        for spec in layout::tensors(config) {
            let bytes = gguf.tensor(&spec.name).map_or(0, |t| t.range.len() as u64);
            if spec.part == Component::Embedding {
                work.weight_bytes += bytes / decoder.vocab_size as u64;
            }
            if spec.name == head {
                work.head_macs += n_values(&spec);
                work.weight_bytes += bytes;
            } else if spec.part == Component::Decoder && !names::is_image_branch(&spec.name) {
                work.weight_bytes += bytes;
                if spec.kind == TensorKind::Matrix {
                    work.block_macs += n_values(&spec);
                }
            }
        }
        work
    }

    /// Multiply-accumulates of a prompt of `n` tokens.
    pub fn prefill_macs(&self, n: usize) -> f64 {
        let n = n as f64;
        let n_pairs = n * (n + 1.0) / 2.0;
        let per_pair = 2.0 * self.config.hidden_size as f64 * self.config.n_layers as f64;
        n * self.block_macs as f64 + self.head_macs as f64 + n_pairs * per_pair
    }

    /// Bytes read for a generated token, on the average of `n` tokens after `depth` positions, where
    /// `n_sequences` generate at once and so read the weights once.
    pub fn bytes_per_token(&self, depth: usize, n: usize, n_sequences: usize) -> f64 {
        let n_positions = depth as f64 + (n + 1) as f64 / 2.0;
        self.weight_bytes as f64 / n_sequences as f64 + n_positions * self.position_bytes as f64
    }

    /// Multiply-accumulates of the weights for a generated token.
    pub fn macs_per_token(&self) -> f64 {
        (self.block_macs + self.head_macs) as f64
    }
}

impl PictureWork {
    /// Counts what the image branch of `config` does.
    pub fn new(config: &Config, visual: &VisualConfig) -> Self {
        let n_tokens = visual.vit.n_tokens();
        let n_queries = visual.abstractor.n_queries;
        let n_keys = n_queries + n_tokens;
        let width = visual.vit.hidden_size;
        // Scores, then weighted values.
        let mut work = PictureWork {
            vit_macs: (2 * visual.vit.n_layers * n_tokens * n_tokens * width) as u64,
            abstractor_macs: (2 * visual.abstractor.n_layers * n_queries * n_keys * width) as u64,
        };
        let tensors = layout::tensors(config);
        for spec in tensors.iter().filter(|t| t.kind == TensorKind::Matrix) {
            let is_key = ["attn_k.weight", "attn_v.weight"]
                .iter()
                .any(|part| spec.name.ends_with(part));
            match spec.part {
                Component::Vit if spec.name == names::tensor::PATCH_EMBEDDING => {
                    work.vit_macs += n_values(spec) * visual.vit.n_patches() as u64;
                }
                Component::Vit => work.vit_macs += n_values(spec) * n_tokens as u64,
                Component::Abstractor if is_key => {
                    work.abstractor_macs += n_values(spec) * n_keys as u64
                }
                Component::Abstractor => work.abstractor_macs += n_values(spec) * n_queries as u64,
                Component::Decoder | Component::Embedding | Component::Output => {}
            }
        }
        work
    }
}

fn n_values(spec: &TensorSpec) -> u64 {
    spec.shape.iter().product::<usize>() as u64
}
