//! Files that are GGUF or might be taken for it, but are no model that runs: the error says what they
//! are, and of several obstacles the one that no other file of the same model would cure.

#[path = "common/tiny.rs"]
mod tiny;

use owl2::gguf::names::{general, tokenizer as key};
use owl2::gguf::write::Metadata;
use owl2::gguf::{Bytes, Gguf};
use owl2::kernels::Isa;
use owl2::model::layout;
use owl2::request::Assistant;
use owl2::tokenizer::{Tokenizer, Vocabulary};
use owl2::{Error, Kind};

const TENSOR: &str = "blk.1.ffn_down.weight";

/// The bytes of a model with other metadata.
fn file(change: impl Fn(&mut Metadata)) -> Vec<u8> {
    let config = tiny::config();
    let mut metadata = tiny::metadata(&config);
    change(&mut metadata);
    tiny::file_of(&metadata, &layout::tensors(&config), 1)
}

/// The same file with `number` as the type of [`TENSOR`].
fn retyped(mut file: Vec<u8>, number: u32) -> Vec<u8> {
    let name = TENSOR.as_bytes();
    let mut windows = file.windows(name.len());
    let start = windows.position(|window| window == name).unwrap();
    // Name, rank, two dimensions.
    let at = start + name.len() + 4 + 2 * 8;
    assert_eq!(file[at..at + 4], [0; 4]);
    file[at..at + 4].copy_from_slice(&number.to_le_bytes());
    file
}

fn open(file: &[u8]) -> Result<Gguf, Error> {
    Gguf::from_bytes(Bytes::from_slice(file))
}

#[track_caller]
fn refused(file: &[u8], parts: &[&str], others: &[&str]) {
    let compute = tiny::compute_on(1, Isa::scalar());
    let opened = open(file).and_then(|gguf| Assistant::new(&gguf, compute));
    let error = opened.expect_err(parts[0]);
    assert_eq!(error.kind(), Kind::Model);
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
    for part in others {
        assert!(!text.contains(part), "{part}: {text}");
    }
}

#[test]
fn types_are_named_and_do_not_keep_the_tokenizer_from_working() {
    for (number, name) in [
        (3, "is Q4_1,"),
        (6, "is Q5_0,"),
        (7, "is Q5_1,"),
        (10, "is Q2_K,"),
        (11, "is Q3_K,"),
        (13, "is Q5_K,"),
        (20, "is IQ4_NL,"),
        (39, "is MXFP4,"),
        (4, "number 4"),
        (1000, "number 1000"),
    ] {
        let file = retyped(file(|_| {}), number);
        refused(&file, &[name, TENSOR, "Q8_0"], &[]);
        let gguf = open(&file).unwrap();
        let vocabulary = Vocabulary::read(&gguf).unwrap();
        let tokenizer = Tokenizer::new(vocabulary).unwrap();
        assert_eq!(tokenizer.decode(&tokenizer.encode("a cat")), "a cat");
    }
}

#[test]
fn what_no_other_file_cures_is_said_first() {
    let gpt2 = retyped(file(|m| m.set(key::MODEL, "gpt2")), 3);
    refused(&gpt2, &[key::MODEL, "'gpt2'", "no other file"], &["Q4_1"]);
    let qwen = |m: &mut Metadata| {
        m.set(general::ARCHITECTURE, "qwen2");
        m.set(key::MODEL, "gpt2");
    };
    refused(&retyped(file(qwen), 3), &["'qwen2'"], &["gpt2", "Q4_1"]);
}

#[test]
fn what_is_no_whole_model_is_named() {
    let with = |key: &'static str, value: &'static str| file(move |m| m.set(key, value));
    refused(
        &with(general::TYPE, "mmproj"),
        &["mmproj", "owl2-convert"],
        &[],
    );
    refused(&with(general::ARCHITECTURE, "clip"), &["mmproj"], &[]);
    refused(
        &with(general::TYPE, "adapter"),
        &["LoRA adapter", "--lora"],
        &[],
    );
    refused(&with(general::TYPE, "imatrix"), &["importance matrix"], &[]);
    assert!(open(&with(general::TYPE, "model")).is_ok());

    let config = tiny::config();
    let vocabulary = tiny::file_of(&tiny::metadata(&config), &[], 1);
    refused(&vocabulary, &["no tensors", "vocabulary"], &["damaged"]);

    refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        &["git lfs pull"],
        &[],
    );
}

#[test]
fn parts_of_split_models_are_told_from_damaged_files() {
    let split = |m: &mut Metadata, number: u32| {
        m.set("split.no", number);
        m.set("split.count", 3u32);
    };
    let config = tiny::config();
    let some = &layout::tensors(&config)[..20];
    let mut first = tiny::metadata(&config);
    split(&mut first, 0);
    let first = tiny::file_of(&first, some, 1);
    let parts = ["split.count", "part 1 of 3", "--merge"];
    refused(&first, &parts, &["damaged", "incomplete"]);
    assert!(Vocabulary::read(&open(&first).unwrap()).is_ok());

    // The others have nothing but their number.
    let mut second = Metadata::default();
    split(&mut second, 1);
    let second = tiny::file_of(&second, some, 1);
    refused(&second, &["part 2 of 3", "--merge"], &["missing"]);
    let error = Vocabulary::read(&open(&second).unwrap()).unwrap_err();
    assert!(error.to_string().contains("part 2 of 3"), "{error}");

    let whole = file(|m| m.set("split.count", 1u32));
    let compute = tiny::compute_on(1, Isa::scalar());
    assert!(Assistant::new(&open(&whole).unwrap(), compute).is_ok());
}
