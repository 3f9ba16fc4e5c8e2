//! Conversions that start from a GGUF file of floats, and what becomes of its metadata.

#[path = "../../tests/common/machine.rs"]
mod machine;
#[path = "../../tests/common/tiny.rs"]
mod tiny;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Output;

use owl2::gguf::header::ValueType;
use owl2::gguf::names::{general, rotation, tokenizer};
use owl2::gguf::write::{Metadata, Value};
use owl2::gguf::{DType, Gguf};
use owl2::model::Model;
use owl2::model::config::{Config, DecoderConfig};
use owl2::model::layout;
use owl2::ops::Compute;
use owl2::quant::{self, Rotation};
use owl2::session::{Input, Session};
use owl2::tokenizer::Vocabulary;
use tempfile::TempDir;

/// Rows that blocks of 256 divide, and ones that end with a block of 32.
fn config(tie_word_embeddings: bool) -> Config {
    Config {
        decoder: DecoderConfig {
            hidden_size: 256,
            intermediate_size: 288,
            tie_word_embeddings,
            ..tiny::config().decoder
        },
        visual: None,
    }
}

/// A vocabulary that owl2 cannot run, and a key of every type there is.
fn metadata(config: &Config) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("first.of.all", true);
    config.write(&mut metadata, None);
    metadata.set(general::FILE_TYPE, 0u32);
    metadata.set(general::NAME, "a model");
    metadata.set("llama.attention.key_length", 64u32);
    metadata.set(tokenizer::MODEL, "gpt2");
    let tokens: Vec<_> = (0..config.decoder.vocab_size)
        .map(|id| format!("token {id}"))
        .collect();
    metadata.set(tokenizer::TOKENS, tokens);
    metadata.set("tokenizer.ggml.merges", vec!["a b".to_owned()]);
    metadata.set("tokenizer.chat_template", "{{ messages }}");
    use ValueType::*;
    for value_type in [U8, I8, U16, I16, U32, I32, F32, Bool, U64, I64, F64] {
        let n_bytes = value_type.fixed_bytes().unwrap();
        let bytes: Vec<u8> = vec![1; n_bytes];
        let array = |len: u64| {
            let element = (value_type as u32).to_le_bytes();
            let values = bytes.repeat(len as usize);
            [&element[..], &len.to_le_bytes(), &values].concat()
        };
        let mut set = |name: &str, value_type, bytes| {
            metadata.set(
                format!("other.{name}"),
                Value::Encoded { value_type, bytes },
            );
        };
        set(&format!("{value_type:?}"), value_type, bytes.clone());
        set(&format!("{value_type:?}s"), Array, array(3));
        set(&format!("no_{value_type:?}s"), Array, array(0));
    }
    metadata
}

/// A directory in which the program runs.
struct Room(TempDir);

impl Room {
    /// With `f32.gguf`.
    fn new(config: &Config) -> Self {
        let room = Room(tempfile::tempdir().unwrap());
        let mut file = tiny::file_of(&metadata(config), &layout::tensors(config), 7);
        // As trained weights are distributed; uniform ones are better not rotated.
        let gguf = tiny::open(&file);
        for tensor in gguf.tensors().iter().filter(|t| t.shape.len() == 2) {
            let values = floats(&gguf, &tensor.name);
            let of_four = |i| [0, 101, 577, 1301].map(|by| values[(i + by) % values.len()]);
            let bell: Vec<_> = (0..values.len())
                .map(|i| of_four(i).iter().sum::<f32>() / 2.0)
                .collect();
            file[tensor.range.clone()].copy_from_slice(bytemuck::cast_slice(&bell));
        }
        std::fs::write(room.path("f32.gguf"), file).unwrap();
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, line: &str) -> Output {
        machine::program(env!("CARGO_BIN_EXE_owl2-convert"))
            .current_dir(&self.0)
            .args(line.split(' '))
            .output()
            .unwrap()
    }

    #[track_caller]
    fn convert(&self, line: &str, target: &str) -> Gguf {
        let output = self.run(&format!("{line} --quiet --force -o {target}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        Gguf::open(&self.path(target)).unwrap()
    }

    #[track_caller]
    fn fails(&self, line: &str, code: i32, expected: &[&str]) {
        let output = self.run(&format!("{line} -o none.gguf"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        for text in expected {
            assert!(said.contains(text), "{line}: '{said}' lacks '{text}'");
        }
        assert!(!self.path("none.gguf").exists());
    }
}

/// The values of a tensor of floats.
fn floats(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let mut values = vec![0.0; tensor.shape.iter().product()];
    quant::dequantize(tensor.dtype, &gguf.data(tensor), &mut values);
    values
}

/// Checks that every tensor is what quantizing the original's rows, rotated or not, gives.
fn assert_made_from(gguf: &Gguf, original: &Gguf, rotation: Option<&Rotation>) {
    assert_eq!(gguf.tensors().len(), original.tensors().len());
    for tensor in gguf.tensors() {
        let mut values = floats(original, &tensor.name);
        let row_len = *tensor.shape.last().unwrap();
        let mut bytes = vec![0; tensor.range.len()];
        match rotation.filter(|_| !tensor.dtype.is_float()) {
            Some(rotation) => {
                for row in values.chunks_exact_mut(row_len) {
                    rotation.apply(row);
                }
                quant::quantize_rotated(tensor.dtype, &values, row_len, &mut bytes);
            }
            None => quant::quantize(tensor.dtype, &values, &mut bytes),
        }
        assert!(*gguf.data(tensor) == bytes[..], "{}", tensor.name);
    }
}

fn copied(gguf: &Gguf) -> Vec<(String, Value)> {
    gguf.encoded_metadata()
        .filter(|(key, _)| key.starts_with("other.") || key.starts_with("tokenizer."))
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

#[test]
fn a_llama_file_is_quantized_and_keeps_what_it_says() {
    let config = config(false);
    let room = Room::new(&config);
    let original = Gguf::open(&room.path("f32.gguf")).unwrap();
    assert_eq!(copied(&original).len(), 4 + 3 * 11);
    for (quant, file_type) in [
        ("f32", 0),
        ("f16", 1),
        ("q8_0", 7),
        ("q4_0", 2),
        ("q4_k", 15),
    ] {
        let line = format!("f32.gguf --quant {quant} --no-rotate");
        let gguf = room.convert(&line, "out.gguf");
        assert_made_from(&gguf, &original, None);
        assert_eq!(copied(&gguf), copied(&original), "{quant}");
        assert_eq!(Config::read(&gguf).unwrap(), config);
        assert_eq!(gguf.get::<&str>(general::ARCHITECTURE).unwrap(), "llama");
        assert_eq!(gguf.get::<&str>(general::NAME).unwrap(), "a model");
        assert_eq!(gguf.get::<u32>(general::FILE_TYPE).unwrap(), file_type);
        assert!(gguf.get::<bool>("first.of.all").unwrap());
        assert!(!gguf.has(rotation::BLOCK_LENGTH));
        // It runs, though its tokenizer does not.
        Model::new(&gguf, Compute::new(NonZeroUsize::MIN).unwrap()).unwrap();
        let error = Vocabulary::read(&gguf).unwrap_err().to_string();
        assert!(error.contains("'gpt2'"), "{error}");
    }
}

#[test]
fn rotated_files_are_no_plain_llama_files() {
    for tied in [false, true] {
        let config = config(tied);
        let room = Room::new(&config);
        let original = Gguf::open(&room.path("f32.gguf")).unwrap();
        for quant in ["q8_0", "q4_0", "q4_k"] {
            let gguf = room.convert(&format!("f32.gguf --quant {quant}"), "out.gguf");
            assert_made_from(&gguf, &original, Some(&Rotation::default()));
            let rotation = Rotation::read(&gguf).unwrap();
            assert_eq!(rotation, Some(Rotation::default()));
            assert_eq!(Config::read(&gguf).unwrap(), config);
            let architecture = gguf.get::<&str>(general::ARCHITECTURE).unwrap();
            assert_eq!(architecture, "owl2_llama");
            assert!(gguf.keys().all(|key| !key.starts_with("llama.")));
            assert!(gguf.has("owl2_llama.attention.key_length"));
            assert_eq!(copied(&gguf), copied(&original));
            assert_eq!(gguf.tensor("output.weight").is_none(), tied);

            let output = room.run("--verify out.gguf f32.gguf --quiet");
            let report = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{report}");
            let worst = report.lines().nth(4).unwrap();
            let worst: f64 = worst.split_whitespace().next().unwrap().parse().unwrap();
            let most = if quant == "q8_0" { 0.01 } else { 0.13 };
            assert!(worst < most, "{quant}: {report}");
        }
        // Nothing in it is rotated.
        let gguf = room.convert("f32.gguf --quant f16", "f16.gguf");
        assert!(!gguf.has(rotation::BLOCK_LENGTH) && !gguf.has(rotation::SIGNS));
        assert_eq!(gguf.get::<&str>(general::ARCHITECTURE).unwrap(), "llama");
        assert_made_from(&gguf, &original, None);
    }
}

/// Rotation would take these weights off the grid on which they lie, so they stay as they are, and so do
/// all that read the same input.
#[test]
fn weights_on_a_grid_are_not_rotated() {
    let config = config(false);
    let room = Room::new(&config);
    let mut file = std::fs::read(room.path("f32.gguf")).unwrap();
    let on_a_grid = [
        "blk.0.attn_q.weight",
        "blk.0.attn_k.weight",
        "blk.0.attn_v.weight",
        "blk.1.ffn_down.weight",
    ];
    let original = Gguf::open(&room.path("f32.gguf")).unwrap();
    for name in on_a_grid {
        let mut values = floats(&original, name);
        let mut blocks = vec![0; DType::Q4_0.row_bytes(values.len()).unwrap()];
        quant::quantize(DType::Q4_0, &values, &mut blocks);
        quant::dequantize(DType::Q4_0, &blocks, &mut values);
        let range = original.tensor(name).unwrap().range.clone();
        file[range].copy_from_slice(bytemuck::cast_slice(&values));
    }
    std::fs::write(room.path("grid.gguf"), file).unwrap();

    let output = room.run("grid.gguf --quant q4_0 --dry-run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("blk.0.attn_q.weight and 3 more: not rotated"),
        "{said}"
    );
    // Where there are no others, it is said that nothing is rotated at all.
    let alone = "--quant f32 --tensor-type blk.1.ffn_down.weight=q4_0";
    let output = room.run(&format!("grid.gguf {alone} --dry-run"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no columns are rotated"), "{said}");
    let gguf = room.convert("grid.gguf --quant q4_0", "out.gguf");
    let exceptions = Rotation::read_exceptions(&gguf).unwrap();
    assert_eq!(exceptions, on_a_grid.map(str::to_owned).into());
    let grid = Gguf::open(&room.path("grid.gguf")).unwrap();
    for tensor in gguf.tensors() {
        let (mut values, wanted) = (floats(&gguf, &tensor.name), floats(&grid, &tensor.name));
        if on_a_grid.contains(&tensor.name.as_str()) {
            assert_eq!(tensor.dtype, DType::Q4_0);
            assert!(tiny::distance(&values, &wanted) < 1e-3, "{}", tensor.name);
        } else if !tensor.dtype.is_float() {
            for row in values.chunks_mut(*tensor.shape.last().unwrap()) {
                Rotation::default().undo(row);
            }
            let size = tiny::distance(&wanted, &vec![0.0; wanted.len()]);
            assert!(
                tiny::distance(&values, &wanted) < 0.3 * size,
                "{}",
                tensor.name
            );
        }
    }
    let output = room.run("--verify out.gguf grid.gguf --quiet");
    assert!(output.status.success());

    // Both turn their inputs where they should: else their logits had nothing in common.
    let logits = |name: &str| {
        let gguf = Gguf::open(&room.path(name)).unwrap();
        let model = Model::new(&gguf, Compute::new(NonZeroUsize::MIN).unwrap()).unwrap();
        let mut session = Session::new(&model, 64);
        session.extend(&[Input::Tokens(&tiny::ids(20, 1))]).unwrap();
        session.step(3).unwrap();
        session.logits().to_vec()
    };
    let (wanted, got) = (logits("grid.gguf"), logits("out.gguf"));
    let size = tiny::distance(&wanted, &vec![0.0; wanted.len()]);
    let distance = tiny::distance(&got, &wanted);
    assert!(distance < 0.5 * size, "{distance} of {size}");
}

#[test]
fn all_float_types_are_read() {
    let room = Room::new(&config(false));
    let line = "f32.gguf --quant f16 --tensor-type blk.*=bf16 --tensor-type output.weight=f32";
    let mixed = room.convert(line, "mixed.gguf");
    let dtype = |name: &str| mixed.tensor(name).unwrap().dtype;
    assert_eq!(dtype("token_embd.weight"), DType::F16);
    assert_eq!(dtype("blk.1.ffn_down.weight"), DType::BF16);
    let gguf = room.convert("mixed.gguf --quant q8_0 --no-rotate", "out.gguf");
    assert_made_from(&gguf, &mixed, None);
}

#[test]
fn own_files_of_floats_give_what_the_checkpoint_does() {
    let room = Room::new(&config(false));
    room.convert("--random tiny --seed 3 --quant f32", "own.gguf");
    for quant in ["f16", "q8_0", "q4_k"] {
        room.convert(&format!("--random tiny --seed 3 --quant {quant}"), "a.gguf");
        room.convert(&format!("own.gguf --quant {quant}"), "b.gguf");
        let read = |name: &str| std::fs::read(room.path(name)).unwrap();
        assert!(read("a.gguf") == read("b.gguf"), "{quant}");
    }
}

#[test]
fn files_that_cannot_be_converted_are_refused() {
    let config = config(false);
    let room = Room::new(&config);
    room.convert("f32.gguf --quant q8_0 --no-rotate", "q8_0.gguf");
    room.fails(
        "q8_0.gguf",
        4,
        &["q8_0.gguf", "'token_embd.weight'", "(Q8_0)", "start from"],
    );
    room.fails("f32.gguf --lora .", 2, &["--lora", "directory"]);
    std::fs::write(room.path("text.gguf"), "no model").unwrap();
    room.fails("text.gguf", 4, &["text.gguf", "not a GGUF file"]);
    room.fails("missing.gguf", 4, &["missing.gguf"]);

    let with = |name: &str, metadata: &Metadata, more: Option<&str>| {
        let mut tensors = layout::tensors(&config);
        tensors.extend(more.map(|name| {
            let mut spec = tensors[0].clone();
            name.clone_into(&mut spec.name);
            spec
        }));
        let file = tiny::file_of(metadata, &tensors, 7);
        std::fs::write(room.path(name), file).unwrap();
    };
    with("more.gguf", &metadata(&config), Some("blk.0.ffn_up.bias"));
    room.fails(
        "more.gguf",
        4,
        &["blk.0.ffn_up.bias is not part", "--ignore-extra"],
    );
    let without = room.convert("more.gguf --ignore-extra", "without.gguf");
    assert!(without.tensor("blk.0.ffn_up.bias").is_none());

    let mut split = metadata(&config);
    split.set("split.count", 2u32);
    with("split.gguf", &split, None);
    room.fails("split.gguf", 4, &["split.count", "one part of 2", "merge"]);
    std::fs::write(room.path("model.safetensors"), "").unwrap();
    room.fails("model.safetensors", 4, &["one file of a checkpoint"]);

    // A rotation where other programs would not see it, and none where there must be one.
    let mut hidden = metadata(&config);
    Rotation::default().write(&mut hidden);
    with("hidden.gguf", &hidden, None);
    room.fails(
        "hidden.gguf",
        4,
        &["owl2.rotation.block_length", "'llama'", "owl2_llama"],
    );
    let mut lacking = metadata(&config);
    lacking.set(general::ARCHITECTURE, "owl2_llama");
    with("lacking.gguf", &lacking, None);
    room.fails(
        "lacking.gguf",
        4,
        &["owl2.rotation.block_length", "is missing"],
    );
}
