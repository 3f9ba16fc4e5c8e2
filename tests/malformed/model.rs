//! A well-formed container with an impossible model in it is refused by name, and whatever bits
//! are flipped in a model file, opening and using it does no harm.

use crate::{bounded, raw_gguf, tiny};
use std::num::NonZeroUsize;
use std::sync::LazyLock;

use owl2::gguf::names;
use owl2::gguf::write::Value;
use owl2::image::Picture;
use owl2::kernels::Isa;
use owl2::model::Model;
use owl2::model::layout;
use owl2::ops::Compute;
use owl2::sampler::{Sampler, Sampling};
use owl2::session::{Input, Session};
use owl2::tokenizer::{Tokenizer, Vocabulary};
use owl2::{Kind, Result};
use proptest::prelude::*;

use bounded::{assert_error, bounded as allocating, open, turn};
use raw_gguf::string;

/// A whole model, as small as can be.
static SMALLEST: LazyLock<Vec<u8>> = LazyLock::new(|| tiny::file(&tiny::smallest_config(), 1));

fn compute() -> Compute {
    Compute::new(NonZeroUsize::MIN).unwrap()
}

/// Opens `bytes` as a whole model: container, hyper-parameters and weights, vocabulary.
fn open_model(bytes: &[u8], compute: Compute) -> Result<(Model, Vocabulary)> {
    let gguf = open(bytes)?;
    let model = allocating(bytes.len(), || Model::new(&gguf, compute))?;
    let vocabulary = allocating(bytes.len(), || Vocabulary::read(&gguf))?;
    Ok((model, vocabulary))
}

/// A hyper-parameter or vocabulary entry that cannot be, and what the error must say.
type ModelCase = (&'static str, fn() -> Value, &'static str);

const MODEL_CASES: &[ModelCase] = &[
    ("general.architecture", || "gpt2".into(), "gpt2"),
    ("general.architecture", || 7u32.into(), "a string"),
    ("mplug_owl2.block_count", || 0u32.into(), "is 0"),
    ("mplug_owl2.block_count", || 2u32.into(), "missing"),
    ("mplug_owl2.block_count", || 4000u32.into(), "tensors"),
    (
        "mplug_owl2.block_count",
        || u32::MAX.into(),
        "expected 1 to",
    ),
    (
        "mplug_owl2.vision.block_count",
        || 4000u32.into(),
        "tensors",
    ),
    (
        "mplug_owl2.abstractor.block_count",
        || 4000u32.into(),
        "tensors",
    ),
    ("mplug_owl2.embedding_length", || 0u32.into(), "is 0"),
    (
        "mplug_owl2.embedding_length",
        || u32::MAX.into(),
        "expected 1 to",
    ),
    ("mplug_owl2.embedding_length", || 6u32.into(), "cannot pair"),
    ("mplug_owl2.embedding_length", || "4".into(), "integer"),
    ("mplug_owl2.feed_forward_length", || 0u32.into(), "is 0"),
    ("mplug_owl2.attention.head_count", || 0u32.into(), "is 0"),
    ("mplug_owl2.attention.head_count", || 3u32.into(), "3"),
    ("mplug_owl2.attention.head_count", || 4u32.into(), ""),
    ("mplug_owl2.attention.head_count_kv", || 0u32.into(), "is 0"),
    (
        "mplug_owl2.attention.head_count_kv",
        || 3u32.into(),
        "divide",
    ),
    ("mplug_owl2.context_length", || 0u32.into(), "is 0"),
    (
        "mplug_owl2.context_length",
        || u32::MAX.into(),
        "expected 1 to",
    ),
    (
        "mplug_owl2.attention.layer_norm_rms_epsilon",
        || 0f32.into(),
        "is 0",
    ),
    (
        "mplug_owl2.attention.layer_norm_rms_epsilon",
        || f32::NAN.into(),
        "NaN",
    ),
    (
        "mplug_owl2.attention.layer_norm_rms_epsilon",
        || true.into(),
        "a float",
    ),
    ("mplug_owl2.rope.dimension_count", || 64u32.into(), "64"),
    ("mplug_owl2.rope.freq_base", || f32::INFINITY.into(), "inf"),
    ("mplug_owl2.rope.scaling.type", || "yarn".into(), "yarn"),
    (
        "mplug_owl2.rope.scaling.type",
        || "linear".into(),
        "missing",
    ),
    ("mplug_owl2.expert_count", || 8u32.into(), "mixture"),
    ("mplug_owl2.vocab_size", || 0u32.into(), "is 0"),
    ("mplug_owl2.vocab_size", || 7u32.into(), "6 tokens"),
    ("mplug_owl2.vision.image_size", || 0u32.into(), "is 0"),
    ("mplug_owl2.vision.image_size", || 3u32.into(), ""),
    ("mplug_owl2.vision.image_size", || (1u32 << 24).into(), ""),
    ("mplug_owl2.vision.image_size", || 4097u32.into(), "4096"),
    ("mplug_owl2.image.shortest_edge", || 4097u32.into(), "4096"),
    ("mplug_owl2.vision.patch_size", || 0u32.into(), "is 0"),
    ("mplug_owl2.vision.embedding_length", || 0u32.into(), "is 0"),
    (
        "mplug_owl2.vision.embedding_length",
        || 6u32.into(),
        "multiple of 4",
    ),
    (
        "mplug_owl2.vision.attention.head_count",
        || 0u32.into(),
        "is 0",
    ),
    (
        "mplug_owl2.vision.attention.layer_norm_epsilon",
        || (-1f32).into(),
        "-1",
    ),
    ("mplug_owl2.vision.hidden_act", || "relu".into(), "relu"),
    (
        "mplug_owl2.vision.class_token",
        || 1u32.into(),
        "truth value",
    ),
    (
        "mplug_owl2.abstractor.attention.head_count",
        || 0u32.into(),
        "is 0",
    ),
    ("mplug_owl2.abstractor.query_count", || 0u32.into(), "is 0"),
    (
        "mplug_owl2.abstractor.query_count",
        || (1u32 << 25).into(),
        "expected 1 to",
    ),
    ("mplug_owl2.image.aspect", || "stretch".into(), "stretch"),
    ("mplug_owl2.image.crop_width", || 5u32.into(), "5"),
    ("mplug_owl2.image.shortest_edge", || 0u32.into(), "is 0"),
    ("mplug_owl2.image.mean", || vec![0.5f32].into(), "1 values"),
    (
        "mplug_owl2.image.mean",
        || vec![f32::NAN; 3].into(),
        "finite",
    ),
    (
        "mplug_owl2.image.std",
        || vec![0.5, 0.5, 0f32].into(),
        "positive",
    ),
    ("mplug_owl2.image.std", || vec![0i32; 3].into(), "floats"),
    (
        "mplug_owl2.image.rescale_factor",
        || f64::NAN.into(),
        "finite",
    ),
    ("tokenizer.ggml.model", || "gpt2".into(), "SentencePiece"),
    ("tokenizer.ggml.tokens", || vec![1i32; 6].into(), "strings"),
    (
        "tokenizer.ggml.scores",
        || vec![0f32; 5].into(),
        "5 elements",
    ),
    (
        "tokenizer.ggml.scores",
        || Vec::<f32>::new().into(),
        "0 elements",
    ),
    (
        "tokenizer.ggml.token_type",
        || vec![1i32; 7].into(),
        "7 elements",
    ),
    (
        "tokenizer.ggml.token_type",
        || vec![9i32; 6].into(),
        "type 9",
    ),
    ("tokenizer.ggml.bos_token_id", || 6u32.into(), "6 tokens"),
    (
        "tokenizer.ggml.eos_token_id",
        || u32::MAX.into(),
        "6 tokens",
    ),
    (
        "tokenizer.ggml.unknown_token_id",
        || 100u32.into(),
        "6 tokens",
    ),
    (
        "tokenizer.ggml.padding_token_id",
        || 6u32.into(),
        "6 tokens",
    ),
    (
        "tokenizer.ggml.add_bos_token",
        || "yes".into(),
        "truth value",
    ),
];

/// A file of the smallest model with one key changed.
fn with_key(key: &str, value: Value) -> Vec<u8> {
    let config = tiny::smallest_config();
    let mut metadata = tiny::metadata(&config);
    metadata.set(key, value);
    tiny::file_of(&metadata, &layout::tensors(&config), 1)
}

#[test]
fn impossible_models_are_refused() {
    let _turn = turn();
    let mut failures = Vec::new();
    for (key, value, message) in MODEL_CASES {
        let bytes = with_key(key, value());
        let outcome = open_model(&bytes, compute());
        // Where dimensions disagree with the weights, it is a tensor that is named.
        let refused = matches!(&outcome, Err(error) if error.kind() == Kind::Model
            && error.subject().is_some()
            && error.to_string().contains(message));
        if !refused {
            let got = outcome.map_or_else(|error| error.to_string(), |_| "opened".into());
            failures.push(format!("{key} = {:?}: {got}; wanted '{message}'", value()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every key that the models are written with is needed, or has a default that works.
#[test]
fn missing_keys_are_named() {
    let _turn = turn();
    let bytes = SMALLEST.clone();
    let keys: Vec<String> = tiny::open(&bytes).keys().map(str::to_owned).collect();
    let mut n_needed = 0;
    for key in keys {
        let spoiled = replace(&bytes, key.as_bytes(), b'!');
        match open_model(&spoiled, compute()) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), Kind::Model, "{key}: {error}");
                // A default that does not fit the weights is reported by the tensor.
                if key != "mplug_owl2.attention.head_count_kv" {
                    assert_error(&error, &key, Some(&key), "missing");
                }
                n_needed += 1;
            }
        }
    }
    assert!(n_needed > 25, "only {n_needed} keys are needed");
}

/// `bytes` with the last byte of `name` replaced where it stands as a string of the header.
fn replace(bytes: &[u8], name: &[u8], with: u8) -> Vec<u8> {
    let pattern = string(name);
    let at = bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
        .expect("the file has this name");
    let mut spoiled = bytes.to_vec();
    spoiled[at + pattern.len() - 1] = with;
    spoiled
}

#[test]
fn every_tensor_is_needed_in_its_shape() {
    let _turn = turn();
    let config = tiny::smallest_config();
    let tensors = layout::tensors(&config);
    let bytes = tiny::file(&config, 1);
    for (i, spec) in tensors.iter().enumerate() {
        let missing = replace(&bytes, spec.name.as_bytes(), b'!');
        // Without its own output head, a model takes the embedding's.
        if spec.name != names::tensor::OUTPUT {
            let error = open_model(&missing, compute()).expect_err(&spec.name);
            assert_error(&error, &spec.name, Some(&spec.name), "missing");
        }

        let mut misshapen = tensors.clone();
        *misshapen[i].shape.last_mut().unwrap() += 4;
        let file = tiny::file_of(&tiny::metadata(&config), &misshapen, 1);
        let error = open_model(&file, compute()).expect_err(&spec.name);
        assert_error(&error, &spec.name, Some(&spec.name), "has shape");
    }
}

/// All differences are listed at once, the rest counted.
#[test]
fn missing_tensors_are_listed_together() {
    let _turn = turn();
    let config = tiny::config();
    let mut tensors = layout::tensors(&config);
    tensors.retain(|spec| !spec.name.starts_with("v.blk.1."));
    let file = tiny::file_of(&tiny::metadata(&config), &tensors, 1);
    let text = open_model(&file, compute()).unwrap_err().to_string();
    for name in ["v.blk.1.ln1.weight", "v.blk.1.ffn_down.bias"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn norms_must_be_whole_floats() {
    let _turn = turn();
    let bytes = SMALLEST.clone();
    let name = string(b"output_norm.weight");
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    // Past the name, the rank and the one dimension stands the type.
    let mut half = bytes.clone();
    half[at + name.len() + 4 + 8] = 1;
    let error = open_model(&half, compute()).unwrap_err();
    assert_error(&error, "F16 norm", Some("output_norm.weight"), "F16");
}

/// Metadata alone makes no model.
#[test]
fn a_file_without_tensors_is_refused() {
    let _turn = turn();
    let metadata = tiny::metadata(&tiny::smallest_config());
    let error = open_model(&tiny::file_of(&metadata, &[], 1), compute()).unwrap_err();
    assert_eq!(error.kind(), Kind::Model, "{error}");
}

/// Opens a damaged file, and uses whatever still opens.
fn use_damaged(bytes: &[u8]) -> Result<()> {
    let compute = tiny::compute_on(1, Isa::scalar());
    let (model, vocabulary) = open_model(bytes, compute)?;
    let sampling = Sampling::read(&open(bytes)?)?;
    let mut session = Session::new(&model, 16);
    if let Some(visual) = &model.config().visual {
        let picture = Picture::from_rgb(3, 2, vec![200; 18])?;
        let pixels = visual.preprocess.pixels(&picture, visual.aspect)?;
        session.extend(&[Input::Image(&model.encode_image(&pixels)?)])?;
    }
    let tokenizer = Tokenizer::new(vocabulary)?;
    let ids = tokenizer.encode_trusted("a</s>b");
    session.extend(&[Input::Tokens(&ids)])?;
    let mut sampler = Sampler::new(sampling, model.config().decoder.vocab_size)?;
    let id = sampler.sample(session.logits_mut(), &ids);
    tokenizer.decode(&[id, 0, 1, 2, 3]);
    session.step(id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn flipped_bits_do_no_harm(flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..6)) {
        let _turn = turn();
        let mut bytes = SMALLEST.clone();
        for (index, bit) in flips {
            let at = index.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        // Either outcome is right; reaching the end is the test.
        let _: Result<()> = use_damaged(&bytes);
    }

    #[test]
    fn overwritten_words_do_no_harm(
        index in any::<prop::sample::Index>(),
        word in prop_oneof![
            Just(u64::MAX), Just(0), Just(1 << 63), Just(u64::from(u32::MAX)), Just(1 << 32), any::<u64>()
        ],
    ) {
        let _turn = turn();
        let mut bytes = SMALLEST.clone();
        let at = index.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        let _: Result<()> = use_damaged(&bytes);
    }
}
