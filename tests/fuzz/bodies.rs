//! What is done with bytes from anywhere: nothing here may panic, whatever they are.

#[path = "seeds.rs"]
pub mod seeds;
#[path = "../common/tiny.rs"]
mod tiny;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use owl2::chat::Conversation;
use owl2::constrain::Constraint;
use owl2::eval;
use owl2::eval::benchmark::{Benchmark, BenchmarkFormat};
use owl2::eval::prompts::Style;
use owl2::gguf::{Bytes, Gguf};
use owl2::image::{Aspect, Limits, Reading, decode};
use owl2::kernels::Isa;
use owl2::request::{Assistant, Prompt, Request};
use owl2::reuse::PromptCache;
use owl2::tokenizer::vocabulary::{AddedToken, Piece, PieceType};
use owl2::tokenizer::{Tokenizer, Vocabulary};
use owl2_convert::checkpoint::{Checkpoint, TensorSource};
use owl2_convert::mapping::{self, Extra};
use owl2_convert::recipe::Recipe;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What one kind of input is done with, and good files of that kind.
pub struct Target {
    /// The name of the fuzz target.
    pub name: &'static str,
    /// Does what is done with such bytes.
    pub body: fn(&[u8]),
    /// Good files.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every kind of input.
pub const TARGETS: [Target; 15] = [
    Target::new("animation", animation, seeds::animation),
    Target::new("chat_file", chat_file, seeds::chat_file),
    Target::new("gguf", gguf, seeds::gguf),
    Target::new("json", json, seeds::json),
    Target::new("jxl", jxl, seeds::jxl),
    Target::new("picture", picture, seeds::picture),
    Target::new("questions", questions, seeds::questions),
    Target::new("safetensors", safetensors, seeds::safetensors),
    Target::new("schema", schema, seeds::schema),
    Target::new("table", table, seeds::table),
    Target::new("state_file", state_file, seeds::state_file),
    Target::new("text", text, seeds::text),
    Target::new("tokenizer_json", tokenizer_json, seeds::tokenizer_json),
    Target::new("tokenizer_model", tokenizer_model, seeds::tokenizer_model),
    Target::new("torch", torch, seeds::torch),
];

impl Target {
    const fn new(name: &'static str, body: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Self {
        Target { name, body, seeds }
    }
}

/// The descriptions of a checkpoint, in the order of the numbers that [`json`] tells them by.
const DESCRIPTIONS: [&str; 6] = [
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "added_tokens.json",
];
/// Values read of each tensor.
const N_READ: usize = 64;
/// What the state of [`state_file`] claims to have been computed with.
const FINGERPRINT: [u8; 32] = [7; 32];

/// Opens a model file and binds its weights.
pub fn gguf(data: &[u8]) {
    if let Ok(gguf) = Gguf::from_bytes(Bytes::from_slice(data)) {
        let compute = tiny::compute_on(1, Isa::scalar());
        let _ = Assistant::new(&gguf, compute);
    }
}

/// Reads a checkpoint whose weights are these.
pub fn safetensors(data: &[u8]) {
    with_file("model.safetensors", data);
}

/// Reads a checkpoint whose weights are these.
pub fn torch(data: &[u8]) {
    with_file("pytorch_model.bin", data);
}

/// Reads a checkpoint one of whose descriptions is this; the first byte says which.
pub fn json(data: &[u8]) {
    if let Some((first, rest)) = data.split_first() {
        with_file(DESCRIPTIONS[usize::from(*first) % DESCRIPTIONS.len()], rest);
    }
}

/// Reads a checkpoint whose vocabulary is this.
pub fn tokenizer_model(data: &[u8]) {
    with_file("tokenizer.model", data);
}

/// Reads a checkpoint whose vocabulary is this, in the format of the `tokenizers` package.
pub fn tokenizer_json(data: &[u8]) {
    with_file("tokenizer.json", data);
}

/// Encodes a text and decodes it again, and decodes any ids.
pub fn text(data: &[u8]) {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| Tokenizer::new(vocabulary()).unwrap());
    let text = String::from_utf8_lossy(data);
    let ids = tokenizer.encode(&text);
    assert!(ids[1..].iter().all(|&id| !tokenizer.is_special(id)));
    tokenizer.decode(&ids);
    tokenizer.decode(&tokenizer.encode_trusted(&text));
    let (any, _) = data.as_chunks::<2>();
    let any: Vec<u32> = any
        .iter()
        .map(|id| u16::from_le_bytes(*id).into())
        .collect();
    tokenizer.decode_with_specials(&any);
    let mut stream = tokenizer.stream().keeping_spaces();
    let mut streamed: String = any.iter().map(|&id| stream.push(id).to_owned()).collect();
    streamed += stream.finish();
    assert_eq!(streamed, tokenizer.decode(&any));
}

/// A vocabulary with tokens that were added: one that takes spaces away on both sides, one that
/// begins with a space, and a control token that begins like the first.
fn vocabulary() -> Vocabulary {
    let mut vocabulary = tiny::vocabulary(300);
    for (text, piece_type, strips) in [
        ("<a>", PieceType::UserDefined, true),
        (" <a", PieceType::UserDefined, false),
        ("<a>\u{e9}", PieceType::Control, true),
    ] {
        vocabulary.added.push(AddedToken {
            id: vocabulary.pieces.len() as u32,
            strips_left: strips,
            strips_right: strips,
        });
        vocabulary.pieces.push(Piece {
            text: text.into(),
            score: 0.0,
            piece_type,
        });
    }
    vocabulary
}

/// Decodes a picture and brings it to a model's size in every way.
pub fn picture(data: &[u8]) {
    let limits = Limits {
        max_file_bytes: 1 << 20,
        max_pixels: 1 << 18,
    };
    let Ok(picture) = decode(data, Reading::Shown, &limits) else {
        return;
    };
    // The work grows with the square of the longer edge, up to a limit of its own.
    if picture.width().max(picture.height()) > 256 {
        return;
    }
    let visual = tiny::config().visual.expect("an image branch");
    for aspect in [Aspect::Squash, Aspect::Pad, Aspect::Crop] {
        let _ = visual.preprocess.pixels(&picture, aspect);
    }
}

/// Decodes JPEG XL alone, which a file that is damaged in its first bytes is no more.
pub fn jxl(data: &[u8]) {
    picture(&[b"\xff\x0a", data].concat());
    picture(&[&b"\0\0\0\x0cJXL \r\n\x87\n"[..], data].concat());
}

/// Reads a saved conversation; one that can be read can be written and read again.
pub fn chat_file(data: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chat.json");
    fs::write(&path, data).unwrap();
    let settings = Request::new(Prompt::turns(Vec::new()));
    let mut conversation = Conversation::new(assistant(), PromptCache::new(), settings);
    if conversation.load(&path, &mut || true).is_ok() {
        let turns = conversation.turns().to_vec();
        conversation.save(&path).unwrap();
        conversation.load(&path, &mut || true).unwrap();
        assert_eq!(conversation.turns().len(), turns.len());
    }
}

/// Takes an animation for a clip.
pub fn animation(data: &[u8]) {
    /// Larger canvases only take longer.
    const MAX_EDGE: usize = 256;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("clip");
    fs::write(&path, data).unwrap();
    let limits = Limits {
        max_file_bytes: 1 << 20,
        max_pixels: MAX_EDGE * MAX_EDGE,
    };
    if decode(data, Reading::Reference, &limits).is_ok()
        && let Ok(frames) = assistant().animation(&path, None, Reading::Shown)
    {
        assert!(!frames.is_empty());
    }
}

/// Reads a table of questions with pictures inside, and what stands in each row.
pub fn table(data: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("questions.tsv");
    fs::write(&path, data).unwrap();
    let Ok(benchmark) = Benchmark::read(&path, BenchmarkFormat::Tsv, directory.path(), 100) else {
        return;
    };
    let n_columns = benchmark.columns().len();
    for item in 0..benchmark.items.len() {
        let _ = benchmark.pictures(item);
        // A picture that is no text is found out when it is read.
        if let Ok(row) = benchmark.row(item, "") {
            assert_eq!(row.len(), n_columns);
        }
        for style in [Style::Authors, Style::VlmEvalKit] {
            assert!(!benchmark.items[item].asked.prompt(style).is_empty());
        }
    }
    let predictions = vec!["A yes".to_owned(); benchmark.items.len()];
    benchmark.judged(&predictions);
}

/// Reads the questions of an evaluation.
pub fn questions(data: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("questions.jsonl");
    fs::write(&path, data).unwrap();
    if let Ok(questions) = eval::read(&path, 100) {
        assert!((1..=100).contains(&questions.len()));
    }
}

/// Holds an answer to a schema.
pub fn schema(data: &[u8]) {
    let Ok(constraint) = Constraint::json_schema(&String::from_utf8_lossy(data)) else {
        return;
    };
    let request = Request {
        constraint: Some(constraint),
        max_tokens: Some(8),
        ..Request::new(Prompt::Raw("a".into()))
    };
    let _ = assistant().answer(&request, &mut |_| ControlFlow::Continue(()));
}

/// Reads saved positions. The checksum is made right, so that what it guards is looked at too.
pub fn state_file(data: &[u8]) {
    let mut data = data.to_vec();
    if data.len() >= 72 {
        data[8..40].copy_from_slice(&FINGERPRINT);
        let end = data.len() - 32;
        let digest = Sha256::digest(&data[..end]);
        data[end..].copy_from_slice(&digest);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    fs::write(&path, data).unwrap();
    let mut memory = PromptCache::new();
    let _ = memory.restore(assistant().model(), 64, &path, &FINGERPRINT);
    assert!(memory.held().len() <= 64);
}

/// The directory of the repository.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut around = here.ancestors();
    around
        .find(|path| path.join("tests/golden").is_dir())
        .expect("a place in the repository")
}

/// A checkpoint that is good but for what a target puts in.
pub fn checkpoint() -> PathBuf {
    root().join("tests/golden/checkpoints/eps")
}

fn assistant() -> &'static Assistant {
    static ASSISTANT: OnceLock<Assistant> = OnceLock::new();
    ASSISTANT.get_or_init(|| {
        let file = tiny::open(&tiny::file(&tiny::config(), 1));
        Assistant::new(&file, tiny::compute_on(1, Isa::scalar())).unwrap()
    })
}

/// Opens the checkpoint with one file replaced, plans its conversion, and reads the beginnings of
/// its tensors.
fn with_file(name: &str, data: &[u8]) {
    let directory = directory_without(name);
    fs::write(directory.path().join(name), data).unwrap();
    let Ok(checkpoint) = Checkpoint::open(directory.path()) else {
        return;
    };
    let _ = Recipe::default().plan(checkpoint.config());
    let _ = mapping::map(checkpoint.config(), &checkpoint, Extra::Refuse);
    let names: Vec<_> = checkpoint.names().map(str::to_owned).collect();
    for name in names {
        let n_values = checkpoint
            .meta(&name)
            .map_or(0, |meta| meta.shape.iter().product());
        let mut values = vec![0.0; N_READ.min(n_values)];
        let _ = checkpoint.read(&name, 0, &mut values);
    }
}

/// The checkpoint, copied, without one file.
fn directory_without(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(checkpoint()).unwrap() {
        let entry = entry.unwrap();
        // Nothing that would be read in its place.
        let instead = match name {
            "pytorch_model.bin" => "model.safetensors",
            "tokenizer.json" => "tokenizer.model",
            _ => name,
        };
        if entry.file_name() != name && entry.file_name() != instead {
            let target = directory.path().join(entry.file_name());
            // A link where there can be one: the weights are a megabyte.
            fs::hard_link(entry.path(), &target)
                .or_else(|_| fs::copy(entry.path(), &target).map(drop))
                .unwrap();
        }
    }
    directory
}
