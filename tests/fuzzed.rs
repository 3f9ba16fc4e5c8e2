//! The bodies of the fuzz targets (`tests/fuzz`) on damaged good files and on earlier findings.

#[path = "fuzz/bodies.rs"]
mod bodies;

use std::fs;

use proptest::prelude::*;
use proptest::sample::Index;

/// Numbers that sizes and counts go wrong with.
const NUMBERS: [u64; 8] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 63,
    u64::MAX,
];

/// What is done with bytes.
type Target = fn(&[u8]);

/// A way to damage a file.
#[derive(Clone, Debug)]
enum Damage {
    FlipBit(Index, u8),
    /// A number in place of bytes, so many of it.
    Number(Index, u64, usize),
    Truncate(Index),
    /// A part is there twice.
    Repeat(Index, Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let n = bytes.len();
        if n == 0 {
            return;
        }
        match self {
            Damage::FlipBit(at, bit) => bytes[at.index(n)] ^= 1 << bit,
            Damage::Number(at, number, len) => {
                let at = at.index(n);
                let len = (*len).min(n - at);
                bytes[at..at + len].copy_from_slice(&number.to_le_bytes()[..len]);
            }
            Damage::Truncate(at) => bytes.truncate(at.index(n)),
            Damage::Repeat(from, to) => {
                let (from, to) = (from.index(n), to.index(n));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                let at = from.max(to);
                bytes.splice(at..at, part);
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop::sample::select(&NUMBERS[..]);
    prop_oneof![
        (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Damage::FlipBit(at, bit)),
        (any::<Index>(), number, prop::sample::select(vec![1, 4, 8]))
            .prop_map(|(at, number, len)| Damage::Number(at, number, len)),
        any::<Index>().prop_map(Damage::Truncate),
        any::<(Index, Index)>().prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

/// Runs a target on damaged copies of each of `seeds`. Only the first `n_header` bytes of one are
/// damaged: the rest are weights or pixels, of which any are good.
fn survives(target: Target, n_cases: u32, n_header: usize, seeds: &[Vec<u8>]) {
    let strategy = (any::<Index>(), prop::collection::vec(damage(), 1..6));
    let config = ProptestConfig {
        cases: n_cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    seeds.iter().for_each(|seed| target(seed));
    let result = runner.run(&strategy, |(which, damages)| {
        let seed = which.get(seeds);
        let (header, rest) = seed.split_at(n_header.min(seed.len()));
        let mut bytes = header.to_vec();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        bytes.extend_from_slice(rest);
        target(&bytes);
        Ok(())
    });
    result.unwrap();
}

/// Known ways to fail, and what fuzzing has found: `tests/fuzz/regressions` has a directory for
/// each target.
#[test]
fn known_ways_to_fail() {
    let targets: [(&str, Target); 10] = [
        ("chat_file", bodies::chat_file),
        ("gguf", bodies::gguf),
        ("json", bodies::json),
        ("picture", bodies::picture),
        ("safetensors", bodies::safetensors),
        ("schema", bodies::schema),
        ("state_file", bodies::state_file),
        ("text", bodies::text),
        ("tokenizer_model", bodies::tokenizer_model),
        ("torch", bodies::torch),
    ];
    let findings = bodies::root().join("tests/fuzz/regressions");
    for (name, target) in targets {
        let files: Vec<_> = fs::read_dir(findings.join(name)).expect(name).collect();
        assert!(!files.is_empty(), "{name}");
        for file in files {
            target(&fs::read(file.unwrap().path()).unwrap());
        }
    }
}

fn read(name: &str) -> Vec<u8> {
    fs::read(bodies::root().join(name)).expect(name)
}

fn of_checkpoint(name: &str) -> Vec<u8> {
    fs::read(bodies::checkpoint().join(name)).expect(name)
}

#[test]
fn model_files() {
    survives(bodies::gguf, 400, usize::MAX, &[bodies::good_gguf()]);
}

#[test]
fn safetensors_files() {
    survives(
        bodies::safetensors,
        200,
        1 << 14,
        &[of_checkpoint("model.safetensors")],
    );
}

#[test]
fn torch_files() {
    let name = "tests/golden/checkpoints/bin/pytorch_model-1-of-5.bin";
    survives(bodies::torch, 200, usize::MAX, &[read(name)]);
}

#[test]
fn descriptions() {
    let names = [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "preprocessor_config.json",
    ];
    let with_number = |(number, name): (u8, &str)| [vec![number], of_checkpoint(name)].concat();
    let mut seeds: Vec<_> = (0..).zip(names).map(with_number).collect();
    let index = read("tests/golden/checkpoints/gqa/model.safetensors.index.json");
    seeds.push([vec![4], index].concat());
    survives(bodies::json, 200, usize::MAX, &seeds);
}

#[test]
fn vocabularies() {
    survives(
        bodies::tokenizer_model,
        200,
        usize::MAX,
        &[of_checkpoint("tokenizer.model")],
    );
}

#[test]
fn texts() {
    let seeds = ["", "<s>a cat</s>", "\u{2581}é 猫\n\0", "<unk><|image|>"];
    let seeds = seeds.map(|text| text.as_bytes().repeat(3));
    survives(bodies::text, 400, usize::MAX, &seeds);
}

#[test]
fn pictures() {
    let names = [
        "baseline_420.jpg",
        "rgba16.png",
        "lossy_alpha.webp",
        "interlaced.gif",
    ];
    let seeds = names.map(|name| read(&format!("tests/fixtures/image/{name}")));
    survives(bodies::picture, 200, usize::MAX, &seeds);
}

#[test]
fn conversations() {
    let seed = r#"{"system": "x", "messages": [
        {"role": "user", "text": "<|image|> what", "images": ["a.png"]},
        {"role": "assistant", "text": "\u00e9"}]}"#;
    let seeds = [
        seed.into(),
        seed.replace("a.png", "").into(),
        "[".repeat(10_000).into(),
    ];
    survives(bodies::chat_file, 200, usize::MAX, &seeds);
}

#[test]
fn schemas() {
    let seeds = [
        r#"{"type": "object", "properties": {"a": {"enum": ["x", 1]}}, "required": ["a"]}"#,
        r#"{"type": "array", "items": {"type": "string", "pattern": "^[a-c]{2,9}$"}}"#,
        r##"{"anyOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "number"}}}"##,
    ];
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec());
    survives(bodies::schema, 200, usize::MAX, &seeds);
}

#[test]
fn states() {
    survives(bodies::state_file, 200, usize::MAX, &[bodies::good_state()]);
}
