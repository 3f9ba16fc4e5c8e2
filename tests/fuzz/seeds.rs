//! Small good files of every kind, to begin damaging from.

use std::fs;

use owl2::reuse::{Memory, Position};
use owl2::session::Input;

use super::{DESCRIPTIONS, FINGERPRINT, assistant, checkpoint, root, tiny};

/// Saved conversations, and brackets without end.
pub fn chat_file() -> Vec<Vec<u8>> {
    let picture = root().join("tests/fixtures/image/palette2.png");
    let chat = serde_json::json!({"system": "x", "messages": [
        {"role": "user", "text": "<|image|> what", "images": [picture]},
        {"role": "assistant", "text": "\u{e9}"},
    ]});
    let chat = chat.to_string();
    let without = chat.replace("<|image|>", "").replace("images", "ignored");
    vec![chat.into(), without.into(), "[".repeat(10_000).into()]
}

/// A model file.
pub fn gguf() -> Vec<Vec<u8>> {
    vec![tiny::file(&tiny::smallest_config(), 1)]
}

/// Each description of a checkpoint.
pub fn json() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = (0..)
        .zip(&DESCRIPTIONS[..4])
        .map(|(number, name)| [vec![number], of_checkpoint(name)].concat())
        .collect();
    seeds.push(b"\x04{\"weight_map\": {\"lm_head.weight\": \"model.safetensors\"}}".to_vec());
    seeds
}

/// A picture of each format.
pub fn picture() -> Vec<Vec<u8>> {
    let names = [
        "baseline_420.jpg",
        "cmyk_progressive.jpg",
        "interlaced.gif",
        "lossless.webp",
        "lossy_alpha.webp",
        "orientation8.png",
        "palette8.bmp",
        "rgba16.png",
    ];
    let jpeg = [
        "alone_restarts_2x1.jpg",
        "arithmetic_2x2.jpg",
        "arithmetic_progressive_1x1.jpg",
        "progressive_1x2.jpg",
        "refined_2x2.jpg",
        "restarts_1x1.jpg",
    ];
    let images = names.map(|name| format!("tests/fixtures/image/{name}"));
    let jpeg = jpeg.map(|name| format!("tests/fixtures/jpeg/{name}"));
    images.iter().chain(&jpeg).map(|name| read(name)).collect()
}

/// Weights.
pub fn safetensors() -> Vec<Vec<u8>> {
    let header = br#"{"__metadata__": {"format": "pt"},
        "lm_head.weight": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
        "model.norm.weight": {"dtype": "BF16", "shape": [3], "data_offsets": [12, 18]},
        "model.embed_tokens.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [18, 26]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    vec![[&length[..], header, &[0; 26]].concat()]
}

/// Schemas with references, patterns and alternatives.
pub fn schema() -> Vec<Vec<u8>> {
    let seeds = [
        r#"{"type": "object", "properties": {"a": {"enum": ["x", 1]}}, "required": ["a"]}"#,
        r#"{"type": "array", "items": {"type": "string", "pattern": "^[a-c]{2,9}$"}}"#,
        r##"{"anyOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "number"}}}"##,
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// The state of a session after three tokens.
pub fn state_file() -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut memory = Memory::new();
    memory.reserve(assistant().model(), 64).unwrap();
    let ids = [1, 5, 9];
    memory
        .extend(
            &[Input::Tokens(&ids)],
            &ids.map(Position::Token),
            &mut |_| true,
        )
        .unwrap();
    memory.save(&path, &FINGERPRINT).unwrap();
    vec![fs::read(path).unwrap()]
}

/// Texts that look like control tokens, and other scripts.
pub fn text() -> Vec<Vec<u8>> {
    let seeds = [
        "",
        "<s>a cat</s>",
        "\u{2581}\u{e9} \u{732b}\n\0",
        "<unk><|image|>",
    ];
    seeds.map(|text| text.as_bytes().repeat(3)).into()
}

/// A vocabulary.
pub fn tokenizer_model() -> Vec<Vec<u8>> {
    vec![of_checkpoint("tokenizer.model")]
}

/// Weights.
pub fn torch() -> Vec<Vec<u8>> {
    vec![read("tests/fixtures/torch/small.bin")]
}

fn read(name: &str) -> Vec<u8> {
    fs::read(root().join(name)).expect(name)
}

fn of_checkpoint(name: &str) -> Vec<u8> {
    fs::read(checkpoint().join(name)).expect(name)
}
