//! The bodies of the fuzz targets (`tests/fuzz`) on damaged good files and on earlier findings.

use crate::bodies;
use std::fs;

use proptest::prelude::*;
use proptest::sample::Index;

use bodies::{TARGETS, Target};

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

/// Runs a target on good files, and on `n_cases` damaged copies of them.
#[track_caller]
fn survives(name: &str, n_cases: u32) {
    let Target { body, seeds, .. } = find(name);
    let seeds = seeds();
    let strategy = (any::<Index>(), prop::collection::vec(damage(), 1..6));
    let config = ProptestConfig {
        cases: n_cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    seeds.iter().for_each(|seed| body(seed));
    let result = runner.run(&strategy, |(which, damages)| {
        let mut bytes = which.get(&seeds).clone();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        body(&bytes);
        Ok(())
    });
    result.unwrap();
}

fn find(name: &str) -> Target {
    let mut targets = TARGETS.into_iter();
    targets.find(|target| target.name == name).expect(name)
}

/// Known ways to fail, and what fuzzing has found: `tests/fuzz/regressions` has a directory for
/// each target.
#[test]
fn known_ways_to_fail() {
    let findings = bodies::root().join("tests/fuzz/regressions");
    for Target { name, body, .. } in TARGETS {
        let files: Vec<_> = fs::read_dir(findings.join(name)).expect(name).collect();
        assert!(!files.is_empty(), "{name}");
        for file in files {
            body(&fs::read(file.unwrap().path()).unwrap());
        }
    }
}

#[test]
fn model_files() {
    survives("gguf", 400);
}

#[test]
fn safetensors_files() {
    survives("safetensors", 300);
}

#[test]
fn torch_files() {
    survives("torch", 300);
}

#[test]
fn descriptions() {
    survives("json", 200);
}

#[test]
fn vocabularies() {
    survives("tokenizer_model", 200);
}

#[test]
fn vocabularies_of_the_tokenizers_package() {
    survives("tokenizer_json", 200);
}

#[test]
fn files_of_questions() {
    survives("questions", 200);
}

#[test]
fn tables_of_questions() {
    survives("table", 200);
}

#[test]
fn animations() {
    survives("animation", 100);
}

#[test]
fn texts() {
    survives("text", 400);
}

#[test]
fn pictures() {
    survives("picture", 400);
}

#[test]
fn jpeg_xl() {
    survives("jxl", 200);
}

#[test]
fn conversations() {
    survives("chat_file", 200);
}

#[test]
fn schemas() {
    survives("schema", 200);
}

#[test]
fn states() {
    survives("state_file", 200);
}

#[test]
fn rows_of_a_batch() {
    survives("batch_rows", 200);
}

#[test]
fn benchmarks_of_every_format() {
    survives("benchmark", 300);
}

#[test]
fn results_of_earlier_runs() {
    survives("earlier_results", 300);
}

#[test]
fn model_files_to_convert() {
    survives("gguf_of_floats", 300);
}

#[test]
fn adapters() {
    survives("lora", 200);
}

#[test]
fn notes_of_which_way_up_a_picture_is() {
    survives("orientation", 400);
}

#[test]
fn addresses_of_pictures() {
    survives("picture_address", 400);
}

#[test]
fn heads_of_requests() {
    survives("request_head", 400);
}

#[test]
fn bodies_of_requests() {
    survives("server_body", 400);
}

#[test]
fn sidecars() {
    survives("sidecar", 400);
}
