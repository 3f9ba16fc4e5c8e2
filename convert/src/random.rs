//! Models of real shapes with random weights, for benchmarks and memory tests.
//!
//! The generator counts: a value depends on seed, tensor and element number only, so pieces can
//! be made in any order and by any thread. Values follow the sum of four uniform bytes, a bell
//! curve that ends at 3.45 standard deviations and takes 1021 different values: near enough to
//! trained weights for quantizers and kernels, and several hundred million a second on one core.

mod vocabulary;

use std::collections::HashMap;

use owl2::Result;
use owl2::image::{Aspect, Preprocess};
use owl2::model::config::{Config, DecoderConfig};
use owl2::model::visual_config::{AbstractorConfig, Activation, VisualConfig, VitConfig};
use owl2::sampler::Sampling;

use crate::checkpoint::{ElementType, TensorMeta, TensorSource};
use crate::input::{self, ConversionInput, Naming};
use crate::mapping::{self, Extra};

/// The shapes that `--random` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RandomShape {
    /// The released model: ViT-L/14 at 448 pixels, six abstractor layers, LLaMA-2 7B
    #[value(name = "7b")]
    SevenB,
    /// The same architecture with two layers of each, some hundred kilobytes
    #[value(name = "tiny")]
    Tiny,
}

/// Sizes in which the two shapes differ.
struct Sizes {
    vocab: usize,
    decoder: usize,
    decoder_mlp: usize,
    decoder_layers: usize,
    decoder_heads: usize,
    image: usize,
    vit: usize,
    vit_mlp: usize,
    vit_layers: usize,
    vit_heads: usize,
    abstractor_mlp: usize,
    abstractor_layers: usize,
    queries: usize,
}

/// The class defaults of the reference's three configurations.
const SEVEN_B: Sizes = Sizes {
    vocab: 32000,
    decoder: 4096,
    decoder_mlp: 11008,
    decoder_layers: 32,
    decoder_heads: 32,
    image: 448,
    vit: 1024,
    vit_mlp: 4096,
    vit_layers: 24,
    vit_heads: 16,
    abstractor_mlp: 2816,
    abstractor_layers: 6,
    queries: 64,
};

const TINY: Sizes = Sizes {
    vocab: 512,
    decoder: 64,
    decoder_mlp: 256,
    decoder_layers: 2,
    decoder_heads: 4,
    image: 56,
    vit: 64,
    vit_mlp: 128,
    vit_layers: 2,
    vit_heads: 4,
    abstractor_mlp: 96,
    abstractor_layers: 2,
    queries: 8,
};

impl RandomShape {
    /// The hyper-parameters of this shape; what is no size is the reference's default.
    pub fn config(self) -> Config {
        let sizes = match self {
            RandomShape::SevenB => SEVEN_B,
            RandomShape::Tiny => TINY,
        };
        Config {
            decoder: DecoderConfig {
                vocab_size: sizes.vocab,
                hidden_size: sizes.decoder,
                intermediate_size: sizes.decoder_mlp,
                n_layers: sizes.decoder_layers,
                n_heads: sizes.decoder_heads,
                n_kv_heads: sizes.decoder_heads,
                rms_norm_eps: 1e-6,
                rope_theta: 10000.0,
                rope_scaling: None,
                max_position_embeddings: 2048,
                attention_bias: false,
                tie_word_embeddings: false,
            },
            visual: Some(VisualConfig {
                vit: VitConfig {
                    image_size: sizes.image,
                    patch_size: 14,
                    hidden_size: sizes.vit,
                    intermediate_size: sizes.vit_mlp,
                    n_layers: sizes.vit_layers,
                    n_heads: sizes.vit_heads,
                    layer_norm_eps: 1e-6,
                    hidden_act: Activation::QuickGelu,
                    use_cls_token: true,
                    use_post_layernorm: true,
                },
                abstractor: AbstractorConfig {
                    intermediate_size: sizes.abstractor_mlp,
                    n_layers: sizes.abstractor_layers,
                    n_heads: sizes.vit_heads,
                    n_queries: sizes.queries,
                    layer_norm_eps: 1e-6,
                },
                preprocess: Preprocess {
                    do_resize: true,
                    shortest_edge: sizes.image,
                    do_center_crop: true,
                    crop_height: sizes.image,
                    crop_width: sizes.image,
                    do_rescale: true,
                    rescale_factor: 1.0 / 255.0,
                    do_normalize: true,
                    // CLIP's.
                    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
                    std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
                },
                aspect: Aspect::Squash,
            }),
        }
    }

    /// A model of this shape with weights that depend on `seed`.
    pub fn input(self, seed: u64) -> ConversionInput {
        let config = self.config();
        let shape = match self {
            RandomShape::SevenB => "7b",
            RandomShape::Tiny => "tiny",
        };
        ConversionInput {
            tensors: Box::new(RandomTensors::new(&config, seed)),
            naming: Naming::Checkpoint,
            metadata: input::metadata(
                &vocabulary::synthetic(config.decoder.vocab_size),
                &Sampling::default(),
            ),
            name: format!("random {shape}, seed {seed}"),
            config,
            extra: Extra::Refuse,
        }
    }
}

/// Random tensors under the checkpoint's names.
struct RandomTensors(HashMap<String, RandomTensor>);

struct RandomTensor {
    meta: TensorMeta,
    values: Values,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Values {
    Ones,
    Normal { stream: u64, std: f32 },
}

/// Standard deviation of embeddings, tables and biases (the reference's `initializer_range`).
const STD: f32 = 0.02;

impl RandomTensors {
    fn new(config: &Config, seed: u64) -> Self {
        let tensor = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
            let stream = mix(seed ^ mix(i as u64));
            let values = values(&name, &shape, stream);
            let meta = TensorMeta {
                name: name.clone(),
                shape,
                element: ElementType::F32,
            };
            (name, RandomTensor { meta, values })
        };
        let required = mapping::required(config).into_iter();
        RandomTensors(required.enumerate().map(tensor).collect())
    }
}

/// Norms are ones; matrices keep the variance of their inputs, so that activations stay finite
/// through any number of layers.
fn values(name: &str, shape: &[usize], stream: u64) -> Values {
    let std = match shape {
        [_] if name.ends_with(".weight") => return Values::Ones,
        [_] | [1, ..] => STD,
        _ if name == "model.embed_tokens.weight" => STD,
        [_, inputs @ ..] => 1.0 / (inputs.iter().product::<usize>() as f32).sqrt(),
        [] => STD,
    };
    Values::Normal { stream, std }
}

impl TensorSource for RandomTensors {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.0.keys().map(String::as_str))
    }

    fn meta(&self, name: &str) -> Option<&TensorMeta> {
        self.0.get(name).map(|tensor| &tensor.meta)
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let values = self.0.get(name).map(|tensor| tensor.values);
        match values.expect("only tensors with a meta are read") {
            Values::Ones => out.fill(1.0),
            Values::Normal { stream, std } => fill_normal(stream, std, start as u64, out),
        }
        Ok(())
    }
}

/// Standard deviation of the sum of four independent bytes: `sqrt(4 (256^2 - 1) / 12)`.
const BYTE_SUM_STD: f32 = 147.800_54;
/// And its mean.
const BYTE_SUM_MEAN: f32 = 510.0;

/// Fills `out` with elements `start ..` of the stream.
fn fill_normal(stream: u64, std: f32, start: u64, out: &mut [f32]) {
    let scale = std / BYTE_SUM_STD;
    let odd = usize::from(start % 2 == 1).min(out.len());
    let (head, rest) = out.split_at_mut(odd);
    for value in head {
        *value = pair(stream, start / 2, scale)[1];
    }
    let first = start.div_ceil(2);
    let (pairs, tail) = rest.as_chunks_mut::<2>();
    for (i, out) in (first..).zip(&mut *pairs) {
        *out = pair(stream, i, scale);
    }
    for value in tail {
        *value = pair(stream, first + pairs.len() as u64, scale)[0];
    }
}

/// Elements `2 i` and `2 i + 1` of the stream.
#[inline(always)]
fn pair(stream: u64, i: u64, scale: f32) -> [f32; 2] {
    const BYTES: u64 = 0x00ff_00ff_00ff_00ff;
    let bits = mix(stream.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    // Four sums of two bytes, then two of four, each in a lane of its own.
    let twos = (bits & BYTES) + (bits >> 8 & BYTES);
    let fours = twos + (twos >> 16);
    [fours & 0xffff, fours >> 32 & 0xffff].map(|sum| (sum as i32 as f32 - BYTE_SUM_MEAN) * scale)
}

/// The finalizer of SplitMix64: every bit of the input changes about half of the output's.
#[inline(always)]
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_gives_the_same_values() {
        let mut whole = vec![0.0; 101];
        fill_normal(7, 1.0, 0, &mut whole);
        for start in 0..20 {
            for len in [0, 1, 2, 3, 50] {
                let mut part = vec![0.0; len];
                fill_normal(7, 1.0, start as u64, &mut part);
                assert_eq!(part, whole[start..start + len]);
            }
        }
    }

    #[test]
    fn values_have_the_stated_mean_and_deviation() {
        let mut values = vec![0.0; 1 << 20];
        fill_normal(3, 0.5, 0, &mut values);
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = values.iter().map(|&x| f64::from(x * x)).sum::<f64>() / n;
        assert!(mean.abs() < 0.002, "{mean}");
        assert!((variance.sqrt() - 0.5).abs() < 0.002, "{variance}");
        let neighbours: f64 = values.windows(2).map(|w| f64::from(w[0] * w[1])).sum();
        assert!((neighbours / n).abs() < 0.002, "{neighbours}");
    }

    #[test]
    fn tensors_and_seeds_differ() {
        let read = |seed: u64, name: &str| {
            let input = RandomShape::Tiny.input(seed);
            let mut out = vec![0.0; 8];
            input.tensors.read(name, 0, &mut out).unwrap();
            out
        };
        let q = "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(read(1, q), read(1, q));
        assert_ne!(read(1, q), read(2, q));
        assert_ne!(
            read(1, q),
            read(1, "model.layers.1.self_attn.q_proj.weight")
        );
        assert_eq!(read(1, "model.norm.weight"), [1.0; 8]);
    }
}
