//! What is done with bytes from anywhere: nothing here may panic, whatever they are.

#[path = "seeds.rs"]
pub mod seeds;
#[path = "serving.rs"]
pub mod serving;
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
use owl2::eval::quality;
use owl2::gguf::{Bytes, Gguf};
use owl2::image::{Aspect, Limits, Picture, Reading, decode};
use owl2::kernels::Isa;
use owl2::request::{Assistant, Prompt, Request};
use owl2::reuse::PromptCache;
use owl2::tokenizer::vocabulary::{AddedToken, Piece, PieceType};
use owl2::tokenizer::{Tokenizer, Vocabulary};
use owl2_convert::checkpoint::{Checkpoint, TensorSource};
use owl2_convert::input::ConversionInput;
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
pub const TARGETS: [Target; 25] = [
    Target::new("animation", animation, seeds::animation),
    Target::new("batch_rows", serving::batch_rows, serving::batch_rows_seeds),
    Target::new("benchmark", benchmark, seeds::benchmark),
    Target::new("chat_file", chat_file, seeds::chat_file),
    Target::new(
        "earlier_results",
        serving::earlier_results,
        serving::earlier_results_seeds,
    ),
    Target::new("gguf", gguf, seeds::gguf),
    Target::new("gguf_of_floats", gguf_of_floats, seeds::gguf),
    Target::new("json", json, seeds::json),
    Target::new("jxl", jxl, seeds::jxl),
    Target::new("lora", lora, seeds::lora),
    Target::new("orientation", orientation, seeds::orientation),
    Target::new("picture", picture, seeds::picture),
    Target::new(
        "picture_address",
        serving::picture_address,
        serving::picture_address_seeds,
    ),
    Target::new("questions", questions, seeds::questions),
    Target::new(
        "request_head",
        serving::request_head,
        serving::request_head_seeds,
    ),
    Target::new("safetensors", safetensors, seeds::safetensors),
    Target::new("schema", schema, seeds::schema),
    Target::new(
        "server_body",
        serving::server_body,
        serving::server_body_seeds,
    ),
    Target::new("sidecar", serving::sidecar, serving::sidecar_seeds),
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

/// Reads a benchmark in one of the formats that are told by the first byte.
pub fn benchmark(data: &[u8]) {
    let Some((first, file)) = data.split_first() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let formats = [
        (BenchmarkFormat::Iqa, "a.json"),
        (BenchmarkFormat::Vqa, "a.json"),
        (BenchmarkFormat::QBench, "a.json"),
        (BenchmarkFormat::Mmlu, "a_test.csv"),
        (BenchmarkFormat::Mme, "existence.txt"),
    ];
    let (format, name) = formats[usize::from(*first) % formats.len()];
    let path = folder.join(name);
    fs::write(&path, file).unwrap();
    let _ = BenchmarkFormat::of(&path);
    if format == BenchmarkFormat::Iqa {
        let Ok(rated) = quality::read(&path, folder, 100) else {
            return;
        };
        assert!(rated.len() <= 100);
        let numbers = rated.iter().filter_map(|rated| rated.score);
        assert!(numbers.clone().all(f64::is_finite));
        return;
    }
    let path = match format {
        BenchmarkFormat::Mme => folder,
        _ => &path,
    };
    let Ok(benchmark) = Benchmark::read(path, format, folder, 100) else {
        return;
    };
    assert!(benchmark.items.len() <= 100);
    for (index, item) in benchmark.items.iter().enumerate() {
        let _ = benchmark.pictures(index);
        for style in [Style::Authors, Style::VlmEvalKit] {
            let _ = item.asked.prompt(style);
        }
    }
    for answer in ["A yes", "(B) no.", ""] {
        benchmark.judged(&vec![answer.to_owned(); benchmark.items.len()]);
    }
}

/// Merges an adapter one of whose files is this; the first byte says which.
pub fn lora(data: &[u8]) {
    let Some((first, file)) = data.split_first() else {
        return;
    };
    let files = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter_model.bin",
        "non_lora_trainables.bin",
    ];
    let name = files[usize::from(*first) % files.len()];
    let directory = tempfile::tempdir().unwrap();
    let write = |name, data: &[u8]| fs::write(directory.path().join(name), data).unwrap();
    write("adapter_config.json", seeds::LORA_CONFIG);
    if name != "adapter_model.bin" {
        write("adapter_model.safetensors", &seeds::adapter());
    }
    write(name, file);
    if let Ok(checkpoint) = Checkpoint::open(&checkpoint())
        .unwrap()
        .with_lora(directory.path())
    {
        let _ = mapping::map(checkpoint.config(), &checkpoint, Extra::Refuse);
        read_beginnings(&checkpoint);
    }
}

/// Reads a model file to convert it.
pub fn gguf_of_floats(data: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    fs::write(&path, data).unwrap();
    if let Ok(input) = ConversionInput::open_gguf(&path) {
        let _ = Recipe::default().plan(&input.config);
        let _ = input.map();
        read_beginnings(input.tensors.as_ref());
    }
}

/// Looks for which way up a picture is in EXIF data or XMP; the first byte says where they stand.
pub fn orientation(data: &[u8]) {
    static PICTURES: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    let Some((first, notes)) = data.split_first() else {
        return;
    };
    let [jpeg, png, webp] = PICTURES.get_or_init(|| {
        ["baseline_444.jpg", "gray2.png", "lossless.webp"]
            .map(|name| fs::read(root().join("tests/fixtures/image").join(name)).unwrap())
    });
    let notes = &notes[..notes.len().min(60_000)];
    let segment = |prefix: &[u8]| {
        let length = (2 + prefix.len() + notes.len()) as u16;
        let segment = [b"\xff\xe1", &length.to_be_bytes()[..], prefix, notes].concat();
        [&jpeg[..2], &segment, &jpeg[2..]].concat()
    };
    let chunk = |name: &[u8], head: &[u8]| {
        let length = (head.len() + notes.len()) as u32;
        let body = [name, head, notes].concat();
        let sum = crc32(&body).to_be_bytes();
        // After the header, which has 13 bytes.
        let (before, after) = png.split_at(8 + 4 + 4 + 13 + 4);
        [before, &length.to_be_bytes(), &body, &sum, after].concat()
    };
    let file = match first % 5 {
        0 => segment(b"Exif\0\0"),
        1 => segment(b"http://ns.adobe.com/xap/1.0/\0"),
        2 => chunk(b"eXIf", b""),
        3 => chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0"),
        _ => webp_with(webp, notes),
    };
    // Notes never make a picture unreadable.
    let limits = Limits::default();
    let shown = decode(&file, Reading::Shown, &limits).expect("a picture");
    let stored = decode(&file, Reading::Reference, &limits).expect("a picture");
    let edges = |picture: &Picture| {
        let (width, height) = (picture.width(), picture.height());
        (width.min(height), width.max(height))
    };
    assert_eq!(edges(&shown), edges(&stored));
}

/// The lossless file in the extended format, with EXIF data.
fn webp_with(webp: &[u8], exif: &[u8]) -> Vec<u8> {
    let image = &webp[12..];
    // The width and height less one, 14 bits each, behind the signature byte.
    let bits = u32::from_le_bytes(image[9..13].try_into().unwrap());
    let (width, height) = (bits & 0x3fff, bits >> 14 & 0x3fff);
    let mut extended = vec![8, 0, 0, 0];
    extended.extend_from_slice(&width.to_le_bytes()[..3]);
    extended.extend_from_slice(&height.to_le_bytes()[..3]);
    let chunk = |name: &[u8], body: &[u8]| {
        let padding = vec![0; body.len() % 2];
        [name, &(body.len() as u32).to_le_bytes(), body, &padding].concat()
    };
    let body = [
        b"WEBP",
        &chunk(b"VP8X", &extended)[..],
        image,
        &chunk(b"EXIF", exif),
    ]
    .concat();
    chunk(b"RIFF", &body)
}

/// The checksum of PNG's chunks.
fn crc32(bytes: &[u8]) -> u32 {
    let rest = bytes.iter().fold(!0, |mut rest: u32, &byte| {
        rest ^= u32::from(byte);
        for _ in 0..8 {
            rest = rest >> 1 ^ if rest & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
        rest
    });
    !rest
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
    ASSISTANT.get_or_init(new_assistant)
}

fn new_assistant() -> Assistant {
    let file = tiny::open(&tiny::file(&tiny::config(), 1));
    Assistant::new(&file, tiny::compute_on(1, Isa::scalar())).unwrap()
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
    read_beginnings(&checkpoint);
}

fn read_beginnings(tensors: &dyn TensorSource) {
    let names: Vec<_> = tensors.names().map(str::to_owned).collect();
    for name in names {
        let n_values = tensors
            .meta(&name)
            .map_or(0, |meta| meta.shape.iter().product());
        let mut values = vec![0.0; N_READ.min(n_values)];
        let _ = tensors.read(&name, 0, &mut values);
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
