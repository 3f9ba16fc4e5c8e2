//! Tiny models with seeded random weights, written as GGUF files through the library's writer.
#![allow(dead_code, reason = "each test binary uses a part")]

use owl2::gguf::write::{Metadata, TensorDecl, Writer};
use owl2::gguf::{Bytes, DType, Gguf};
use owl2::image::{Aspect, Preprocess};
use owl2::kernels::Isa;
use owl2::model::Model;
use owl2::model::config::{Config, DecoderConfig};
use owl2::model::layout::{self, TensorKind, TensorSpec};
use owl2::model::visual_config::{AbstractorConfig, Activation, VisualConfig, VitConfig};
use owl2::ops::Compute;
use owl2::quant::{self, Rotation};
use owl2::sampler::Sampling;
use owl2::threads::Threads;
use owl2::tokenizer::Vocabulary;
use owl2::tokenizer::vocabulary::{Piece, PieceType};

/// Width of the decoder, its head count and its vocabulary in [`config`].
const HIDDEN: usize = 32;
const VOCAB: usize = 288;
/// Image edge in [`config`].
pub const IMAGE_SIZE: usize = 12;
/// Positions one picture takes in [`config`].
pub const PICTURE_POSITIONS: usize = 5;

/// A model of two blocks a part, with grouped-query attention.
pub fn config() -> Config {
    Config {
        decoder: DecoderConfig {
            vocab_size: VOCAB,
            hidden_size: HIDDEN,
            intermediate_size: 48,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            rms_norm_eps: 1e-6,
            rope_theta: 10000.0,
            rope_scaling: None,
            max_position_embeddings: 2048,
            attention_bias: false,
            tie_word_embeddings: false,
        },
        visual: Some(visual(16, 2, IMAGE_SIZE, PICTURE_POSITIONS - 1)),
    }
}

/// The smallest model there can be, for tests that try every byte of it.
pub fn smallest_config() -> Config {
    Config {
        decoder: DecoderConfig {
            vocab_size: 6,
            hidden_size: 4,
            intermediate_size: 4,
            n_layers: 1,
            n_heads: 2,
            n_kv_heads: 1,
            ..config().decoder
        },
        visual: Some(visual(4, 1, 2, 1)),
    }
}

/// A model whose rows are whole blocks of every format, with heads that are computed in integers.
pub fn quantizable_config() -> Config {
    let mut visual = visual(256, 1, IMAGE_SIZE, PICTURE_POSITIONS - 1);
    visual.abstractor.intermediate_size = 256;
    Config {
        decoder: DecoderConfig {
            hidden_size: 256,
            intermediate_size: 512,
            ..config().decoder
        },
        visual: Some(visual),
    }
}

fn visual(width: usize, n_layers: usize, image_size: usize, n_queries: usize) -> VisualConfig {
    VisualConfig {
        vit: VitConfig {
            image_size,
            patch_size: image_size / 2,
            hidden_size: width,
            intermediate_size: 2 * width,
            n_layers,
            n_heads: 2,
            layer_norm_eps: 1e-6,
            hidden_act: Activation::QuickGelu,
            use_cls_token: true,
            use_post_layernorm: true,
        },
        abstractor: AbstractorConfig {
            intermediate_size: width + 4,
            n_layers,
            n_heads: 2,
            n_queries,
            layer_norm_eps: 1e-6,
        },
        preprocess: Preprocess {
            do_resize: true,
            shortest_edge: image_size,
            do_center_crop: true,
            crop_height: image_size,
            crop_width: image_size,
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            mean: [0.5; 3],
            std: [0.25; 3],
        },
        aspect: Aspect::Squash,
    }
}

/// `n` pieces: the special ones, as many bytes as there is room for, then letters.
pub fn vocabulary(n: usize) -> Vocabulary {
    let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let letters = ('a'..='z').map(|letter| letter.to_string());
    let space = ["\u{2581}".to_owned()];
    let pieces: Vec<_> = special
        .into_iter()
        .chain(bytes)
        .chain(space)
        .chain(letters)
        .chain((0..).map(|i| format!("\u{2581}{i}")))
        .take(n)
        .enumerate()
        .map(|(id, text)| Piece {
            piece_type: match id {
                0 => PieceType::Unknown,
                1 | 2 => PieceType::Control,
                3..259 => PieceType::Byte,
                _ => PieceType::Normal,
            },
            score: -(id as f32),
            text,
        })
        .collect();
    Vocabulary {
        pieces,
        bos_id: 1,
        eos_id: 2,
        unk_id: 0,
        pad_id: None,
        add_bos: true,
        add_space_prefix: true,
        legacy: true,
        added: Vec::new(),
    }
}

/// The metadata of a whole model file.
pub fn metadata(config: &Config) -> Metadata {
    let mut metadata = Metadata::default();
    config.write(&mut metadata, None);
    vocabulary(config.decoder.vocab_size).write(&mut metadata);
    Sampling::default().write(&mut metadata);
    metadata
}

/// A model file with F32 weights drawn from `seed`.
pub fn file(config: &Config, seed: u64) -> Vec<u8> {
    file_of(&metadata(config), &layout::tensors(config), seed)
}

/// A file of any metadata and tensors.
pub fn file_of(metadata: &Metadata, tensors: &[TensorSpec], seed: u64) -> Vec<u8> {
    file_in(metadata, tensors, seed, DType::F32, None)
}

/// Likewise, with matrices in `dtype` where its blocks divide their rows, and perhaps rotated.
pub fn file_in(
    metadata: &Metadata,
    tensors: &[TensorSpec],
    seed: u64,
    dtype: DType,
    rotation: Option<&Rotation>,
) -> Vec<u8> {
    let mut metadata = metadata.clone();
    if let Some(rotation) = rotation {
        rotation.write(&mut metadata);
    }
    let dtype_of = |spec: &TensorSpec| {
        let fits = dtype.row_bytes(*spec.shape.last().unwrap()).is_some();
        match spec.kind == TensorKind::Matrix && fits {
            true => dtype,
            false => DType::F32,
        }
    };
    let declared: Vec<_> = tensors
        .iter()
        .map(|spec| TensorDecl {
            name: spec.name.clone(),
            dtype: dtype_of(spec),
            shape: spec.shape.clone(),
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    let mut writer = Writer::create(&path, &metadata, &declared, false).unwrap();
    let mut random = Random(seed);
    for spec in tensors {
        let mut values = weights(spec, &mut random);
        let dtype = dtype_of(spec);
        let n_blocks = values.len() / dtype.block_len();
        let mut bytes = vec![0; n_blocks * dtype.block_bytes()];
        let row_len = *spec.shape.last().unwrap();
        match rotation {
            Some(rotation) if !dtype.is_float() => {
                for row in values.chunks_mut(row_len) {
                    rotation.apply(row);
                }
                quant::quantize_rotated(dtype, &values, row_len, &mut bytes);
            }
            _ => quant::quantize(dtype, &values, &mut bytes),
        }
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

/// Values that keep activations near 1: norms about 1, rows of matrices of about unit length.
fn weights(spec: &TensorSpec, random: &mut Random) -> Vec<f32> {
    let n_values = spec.shape.iter().product();
    let n_in: usize = spec.shape[1..].iter().product();
    let is_norm = spec.shape.len() == 1 && spec.name.ends_with(".weight");
    let (centre, spread) = if is_norm {
        (1.0, 0.2)
    } else if spec.shape.len() == 1 {
        (0.0, 0.2)
    } else {
        (0.0, 2.0 / (n_in as f32).sqrt())
    };
    (0..n_values)
        .map(|_| centre + spread * random.symmetric())
        .collect()
}

/// Opens a file that is in memory.
pub fn open(bytes: &[u8]) -> Gguf {
    Gguf::from_bytes(Bytes::from_slice(bytes)).unwrap()
}

/// `n_threads` workers on `isa`.
pub fn compute_on(n_threads: usize, isa: Isa) -> Compute {
    Compute::on(Threads::new(n_threads.try_into().unwrap()).unwrap(), isa)
}

/// The model of [`config`] on two threads.
pub fn model() -> Model {
    model_on(compute_on(2, Isa::detect().unwrap()))
}

/// The model of [`config`].
pub fn model_on(compute: Compute) -> Model {
    Model::new(&open(&file(&config(), 1)), compute).unwrap()
}

/// Pixel values of a picture for [`config`], different for each `seed`.
pub fn pixels(seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..3 * IMAGE_SIZE * IMAGE_SIZE)
        .map(|_| 2.0 * random.symmetric())
        .collect()
}

/// `n` token ids for [`config`], different for each `seed`.
pub fn ids(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..n)
        .map(|_| (random.next() % VOCAB as u64) as u32)
        .collect()
}

/// SplitMix64: small, seeded, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1 to 1.
    pub fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Largest absolute difference.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(
        0.0,
        |worst, x| if x > worst || x.is_nan() { x } else { worst },
    )
}
