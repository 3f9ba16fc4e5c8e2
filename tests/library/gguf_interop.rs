//! Our GGUF files as another reader sees them, and another writer's files as ours does.

use crate::tiny;
use std::path::{Path, PathBuf};

use owl2::gguf::write::{Metadata, TensorDecl, Value, Writer};
use owl2::gguf::{DType, Gguf};
use serde_json::json;

/// Metadata of every type that the writer has.
fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "llama");
    metadata.set("count", 4_000_000_000u32);
    metadata.set("single", 0.5f32);
    metadata.set("double", 1.0f64 / 255.0);
    metadata.set("yes", true);
    metadata.set("text", "\u{2581}owl \u{1f989}");
    metadata.set("integers", vec![1i32, -2, 3]);
    metadata.set("floats", vec![0.5f32, -0.25]);
    let strings = ["<unk>", "", "\u{2581}a"].map(str::to_owned).to_vec();
    metadata.set("strings", strings);
    metadata.set("nothing", Value::I32s(Vec::new()));
    metadata
}

/// A tensor of every type that both readers know, of one to four dimensions.
fn tensors() -> Vec<TensorDecl> {
    let shapes: [&[usize]; 4] = [&[256], &[3, 256], &[2, 3, 256], &[2, 1, 3, 256]];
    let named = |(i, dtype): (usize, DType)| TensorDecl {
        name: format!("{dtype}.{i}"),
        dtype,
        shape: shapes[i % shapes.len()].to_vec(),
    };
    let known = DType::ALL.into_iter().filter(|dtype| dtype.is_of_ggml());
    known.enumerate().map(named).collect()
}

fn n_bytes(tensor: &TensorDecl) -> usize {
    let n_values: usize = tensor.shape.iter().product();
    n_values / tensor.dtype.block_len() * tensor.dtype.block_bytes()
}

/// Bytes that differ from tensor to tensor.
fn content(index: usize, tensor: &TensorDecl) -> Vec<u8> {
    let mut random = tiny::Random(index as u64);
    (0..n_bytes(tensor)).map(|_| random.next() as u8).collect()
}

fn written(directory: &Path) -> PathBuf {
    let path = directory.join("written.gguf");
    let tensors = tensors();
    let mut writer = Writer::create(&path, &metadata(), &tensors, false).unwrap();
    for (i, tensor) in tensors.iter().enumerate() {
        // In uneven pieces, as a converter would.
        for piece in content(i, tensor).chunks(100) {
            writer.write(piece).unwrap();
        }
    }
    writer.finish().unwrap();
    path
}

#[test]
fn an_independent_reader_sees_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path());
    let file = std::fs::read(&path).unwrap();
    let mut container =
        gguf_rs::get_gguf_container_array_size(path.to_str().unwrap(), u64::MAX).unwrap();
    let model = container.decode().unwrap();

    let expected = json!({
        "general.architecture": "llama",
        "count": 4_000_000_000u32,
        "single": 0.5,
        "double": 1.0 / 255.0,
        "yes": true,
        "text": "\u{2581}owl \u{1f989}",
        "integers": [1, -2, 3],
        "floats": [0.5, -0.25],
        "strings": ["<unk>", "", "\u{2581}a"],
        "nothing": [],
    });
    let seen = serde_json::Value::from_iter(model.metadata().clone());
    assert_eq!(seen, expected);
    assert_eq!(model.alignment(), 32);

    let wanted = tensors();
    assert_eq!(model.tensors().len(), wanted.len());
    for (i, (seen, wanted)) in model.tensors().iter().zip(&wanted).enumerate() {
        assert_eq!(seen.name, wanted.name);
        assert_eq!(seen.kind, wanted.dtype.ggml(), "{}", wanted.name);
        let shape: Vec<usize> = seen.shape.iter().rev().map(|&n| n as usize).collect();
        assert_eq!(shape, wanted.shape, "{}", wanted.name);
        let start = (model.data_offset() + seen.offset) as usize;
        let content = content(i, wanted);
        assert_eq!(
            file[start..start + content.len()],
            content,
            "{}",
            wanted.name
        );
        // That reader takes BF16 for a format with blocks of 256.
        if wanted.dtype != DType::BF16 {
            assert_eq!(seen.size, content.len() as u64, "{}", wanted.name);
        }
    }
}

#[test]
fn our_reader_sees_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&written(directory.path())).unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.get::<u32>("count").unwrap(), 4_000_000_000);
    assert_eq!(gguf.get::<f64>("double").unwrap(), 1.0 / 255.0);
    assert_eq!(gguf.get::<Vec<i32>>("integers").unwrap(), [1, -2, 3]);
    assert!(gguf.get::<Vec<i32>>("nothing").unwrap().is_empty());
    for (i, wanted) in tensors().iter().enumerate() {
        let tensor = gguf.tensor(&wanted.name).unwrap();
        assert_eq!((tensor.dtype, &tensor.shape), (wanted.dtype, &wanted.shape));
        assert_eq!(*gguf.data(tensor), content(i, wanted));
    }
}

/// `fixtures/gguf/container.py` wrote this file with ggml's own Python package.
#[test]
fn a_file_of_the_reference_writer_opens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/container.gguf");
    let gguf = Gguf::open(&path).unwrap();
    for (key, wanted) in [
        ("value.u8", 250),
        ("value.u16", 65000),
        ("value.u32", 4_000_000_000),
    ] {
        assert_eq!(gguf.get::<usize>(key).unwrap(), wanted, "{key}");
    }
    assert_eq!(gguf.get::<usize>("value.u64").unwrap(), 1 << 63);
    for key in ["value.i8", "value.i16", "value.i32", "value.i64"] {
        let error = gguf.get::<usize>(key).unwrap_err().to_string();
        assert!(
            error.contains(key) && error.contains("non-negative"),
            "{error}"
        );
    }
    assert_eq!(gguf.get::<f32>("value.f32").unwrap(), 1e-6);
    assert_eq!(gguf.get::<f64>("value.f64").unwrap(), 1.0 / 255.0);
    assert!(gguf.get::<bool>("value.true").unwrap());
    assert!(!gguf.get::<bool>("value.false").unwrap());
    assert_eq!(
        gguf.get::<&str>("value.string").unwrap(),
        "\u{2581}owl \u{1f989}"
    );
    assert_eq!(gguf.get::<Vec<i32>>("array.i32").unwrap(), [1, -2, 3]);
    assert_eq!(gguf.get::<Vec<f32>>("array.f32").unwrap(), [0.5, -0.25]);
    assert!(gguf.has("array.bool"));
    let strings = gguf.get::<Vec<&str>>("array.string").unwrap();
    assert_eq!(strings, ["<unk>", "", "\u{2581}a"]);

    let shapes: [(&str, DType, &[usize]); 7] = [
        ("f32.vector", DType::F32, &[5]),
        ("f32.matrix", DType::F32, &[2, 3]),
        ("f16.cube", DType::F16, &[2, 3, 4]),
        ("f32.patches", DType::F32, &[1, 2, 3, 4]),
        ("bf16.matrix", DType::BF16, &[2, 32]),
        ("q8_0.matrix", DType::Q8_0, &[2, 32]),
        ("q4_0.matrix", DType::Q4_0, &[2, 32]),
    ];
    assert_eq!(gguf.tensors().len(), shapes.len());
    for (name, dtype, shape) in shapes {
        let tensor = gguf.tensor(name).unwrap();
        assert_eq!(
            (tensor.dtype, tensor.shape.as_slice()),
            (dtype, shape),
            "{name}"
        );
    }
    let vector = gguf.data(gguf.tensor("f32.vector").unwrap());
    let ramp: Vec<u8> = [-4.0f32, -3.875, -3.75, -3.625, -3.5]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert_eq!(*vector, ramp);
}
