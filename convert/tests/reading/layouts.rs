//! Checkpoint directories in every layout, and what is wrong with those that are damaged.

use std::path::Path;

use crate::files::*;
use owl2::Kind;
use owl2_convert::checkpoint::{Checkpoint, ElementType, TensorSource};
use proptest::prelude::*;
use pytorch_reader::PytorchReader;
use zip::CompressionMethod;

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let n = checkpoint.meta(name).unwrap().shape.iter().product();
    let mut out = vec![0.0; n];
    checkpoint.read(name, 0, &mut out).unwrap();
    out
}

/// Checks that the directory has exactly these tensors.
fn check(dir: &Path, wanted: &[Sample]) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let mut names: Vec<_> = checkpoint.names().collect();
    names.sort_unstable();
    let mut wanted_names: Vec<_> = wanted.iter().map(|sample| &sample.name).collect();
    wanted_names.sort_unstable();
    assert_eq!(names, wanted_names);
    for sample in wanted {
        let meta = checkpoint.meta(&sample.name).unwrap();
        assert_eq!((&meta.shape, meta.element), (&sample.shape, sample.element));
        assert_eq!(values(&checkpoint, &sample.name), sample.values);
    }
}

/// Checks that opening fails as a bad model, with `part` in the message.
fn rejects(dir: &Path, part: &str) {
    let error = Checkpoint::open(dir).unwrap_err();
    assert_eq!(error.kind(), Kind::Model, "{error}");
    assert!(error.to_string().contains(part), "{error}");
}

/// Checks that a directory with this one weight file is refused.
fn rejects_file(name: &str, bytes: &[u8], part: &str) {
    let dir = model_dir();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    rejects(dir.path(), part);
}

fn write(dir: &Path, name: &str, samples: &[Sample]) {
    let bytes = if name.ends_with(".safetensors") {
        safetensors_bytes(samples)
    } else {
        torch_bytes(samples)
    };
    std::fs::write(dir.join(name), bytes).unwrap();
}

#[test]
fn one_file_of_either_format() {
    for name in ["model.safetensors", "pytorch_model.bin"] {
        let dir = model_dir();
        write(dir.path(), name, &samples());
        check(dir.path(), &samples());
    }
}

#[test]
fn shards_with_and_without_an_index() {
    let samples = samples();
    let (first, last) = samples.split_at(1);
    for (files, index) in [
        (
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ],
            "model.safetensors.index.json",
        ),
        (
            [
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model-00002-of-00002.bin",
            ],
            "pytorch_model.bin.index.json",
        ),
        (
            ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"],
            "pytorch_model.bin.index.json",
        ),
    ] {
        let dir = model_dir();
        write(dir.path(), files[0], first);
        write(dir.path(), files[1], last);
        check(dir.path(), &samples);
        write_index(dir.path(), index, &[(files[0], first), (files[1], last)]);
        check(dir.path(), &samples);
        std::fs::remove_file(dir.path().join(files[0])).unwrap();
        rejects(dir.path(), files[0]);
        std::fs::remove_file(dir.path().join(index)).unwrap();
        rejects(dir.path(), "shard 1 of 2 is missing");
    }
}

#[test]
fn an_index_has_to_be_right() {
    let samples = samples();
    let index = "pytorch_model.bin.index.json";
    let dir = model_dir();
    write(dir.path(), "a.bin", &samples[..2]);
    write_index(dir.path(), index, &[("a.bin", &samples[..3])]);
    rejects(dir.path(), "model.norm.weight");

    // A stale copy in a shard that the index does not name for it is passed over.
    let mut stale = samples[0].clone();
    stale.values.fill(0.0);
    write(dir.path(), "b.bin", &[stale, samples[2].clone()]);
    let files: [(&str, &[Sample]); 2] = [("a.bin", &samples[..2]), ("b.bin", &samples[2..3])];
    write_index(dir.path(), index, &files);
    check(dir.path(), &samples[..3]);

    for path in ["../a.bin", "/a.bin", "", "x/../../a.bin"] {
        write_index(dir.path(), index, &[(path, &samples[..2])]);
        rejects(dir.path(), "expected a file of this directory");
    }
    for text in ["{}", r#"{"weight_map": 3}"#, r#"{"weight_map": {"a": 1}}"#] {
        write_json(dir.path(), index, text);
        rejects(dir.path(), "weight_map");
    }
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let dir = model_dir();
    for name in ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"] {
        write(dir.path(), name, &samples());
    }
    rejects(dir.path(), "more than one place");
}

#[test]
fn what_is_never_read_is_not_listed() {
    let unused = [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.visual_abstractor.encoder.layers.0.crossattention.q_pos_embed",
        "model.visual_abstractor.encoder.layers.0.crossattention.k_pos_embed",
    ];
    let table = "model.visual_abstractor.encoder.layers.0.crossattention.attention.q_pos_embed";
    let kept = [samples(), vec![sample(table, &[2, 2], ElementType::F16, 0)]].concat();
    let mut all = kept.clone();
    all.extend(unused.map(|name| sample(name, &[2], ElementType::F32, 0)));
    for name in ["model.safetensors", "pytorch_model.bin"] {
        let dir = model_dir();
        write(dir.path(), name, &all);
        check(dir.path(), &kept);
    }
}

#[test]
fn other_element_types_are_refused_unless_never_read() {
    let entry = |name: &str| {
        raw_safetensors(
            &format!(r#"{{"{name}":{{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}}}"#),
            &[0; 8],
        )
    };
    let needed = "model.norm.weight";
    rejects_file("model.safetensors", &entry(needed), "I64");
    let view = |name: &str| TorchView {
        name: name.to_owned(),
        class: "LongStorage".to_owned(),
        n_elements: 1,
        storage: vec![0; 8],
        offset: 0,
        shape: vec![1],
        strides: vec![1],
    };
    let bytes = torch_views(&[view(needed)]);
    rejects_file("pytorch_model.bin", &bytes, "LongStorage");

    let ignored = "model.vision_model.embeddings.position_ids";
    for (name, bytes) in [
        ("model.safetensors", entry(ignored)),
        ("pytorch_model.bin", torch_views(&[view(ignored)])),
    ] {
        let dir = model_dir();
        std::fs::write(dir.path().join(name), bytes).unwrap();
        check(dir.path(), &[]);
    }

    // Left to the mapping, which refuses or ignores what is no part of the model.
    for (name, bytes) in [
        ("model.safetensors", entry("module.steps")),
        ("pytorch_model.bin", torch_views(&[view("module.steps")])),
    ] {
        let dir = model_dir();
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["steps"]);
        assert!(checkpoint.meta("steps").is_none());
    }
}

#[test]
fn strided_views_are_gathered_as_another_reader_does() {
    let storage = sample("", &[24], ElementType::F16, 0).bytes();
    let view = |name: &str, offset, shape: &[usize], strides: &[usize]| TorchView {
        name: name.to_owned(),
        class: "HalfStorage".to_owned(),
        n_elements: 24,
        storage: storage.clone(),
        offset,
        shape: shape.to_vec(),
        strides: strides.to_vec(),
    };
    let dir = model_dir();
    let path = dir.path().join("pytorch_model.bin");
    let bytes = torch_views(&[
        view("transposed", 0, &[4, 6], &[1, 4]),
        view("shifted", 5, &[3, 4], &[4, 1]),
        view("columns", 1, &[4, 2], &[6, 1]),
        view("expanded", 3, &[2, 3], &[0, 1]),
        view("permuted", 0, &[2, 3, 4], &[4, 8, 1]),
        view("scalar", 7, &[], &[]),
        view("empty", 0, &[0, 5], &[5, 1]),
    ]);
    std::fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let reader = PytorchReader::new(&path).unwrap();
    assert_eq!(checkpoint.names().count(), reader.len());
    for (name, tensor) in reader.tensors() {
        let wanted: Vec<f32> = tensor
            .read()
            .unwrap()
            .chunks_exact(2)
            .map(|bytes| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32())
            .collect();
        assert_eq!(values(&checkpoint, name), wanted, "{name}");
    }
    let mut piece = [0.0; 2];
    checkpoint.read("transposed", 5, &mut piece).unwrap();
    assert_eq!(piece, [20.0, 1.0]);
    assert!(checkpoint.read("transposed", 23, &mut piece).is_err());
    assert!(checkpoint.read("nothing", 0, &mut piece).is_err());
}

#[test]
fn views_beyond_their_storage_are_refused() {
    let good = TorchView {
        name: "w".to_owned(),
        class: "FloatStorage".to_owned(),
        n_elements: 4,
        storage: vec![0; 16],
        offset: 0,
        shape: vec![2, 2],
        strides: vec![2, 1],
    };
    let huge = usize::MAX >> 1;
    for bad in [
        TorchView {
            offset: 1,
            ..good.clone()
        },
        TorchView {
            offset: huge,
            ..good.clone()
        },
        TorchView {
            shape: vec![3, 2],
            ..good.clone()
        },
        TorchView {
            shape: vec![huge, huge],
            strides: vec![0, 0],
            ..good.clone()
        },
        TorchView {
            strides: vec![huge, 1],
            ..good.clone()
        },
        TorchView {
            strides: vec![2],
            ..good.clone()
        },
        TorchView {
            n_elements: 5,
            ..good.clone()
        },
        TorchView {
            n_elements: huge,
            ..good.clone()
        },
        TorchView {
            class: "ComplexFloatStorage".to_owned(),
            ..good.clone()
        },
    ] {
        let text = format!("{bad:?}");
        let dir = model_dir();
        std::fs::write(dir.path().join("pytorch_model.bin"), torch_views(&[bad])).unwrap();
        let error = Checkpoint::open(dir.path()).expect_err(&text);
        assert_eq!(error.kind(), Kind::Model, "{error}");
    }
}

#[test]
fn pickles_that_want_more_than_tensors_are_refused() {
    let mut call = b"\x80\x02cos\nsystem\n(".to_vec();
    text(&mut call, "true");
    call.extend(b"tR.");
    let mut nested = vec![0x80, 2, b')'];
    nested.extend([0x85; 100_000]);
    nested.push(b'.');
    let mut number = b"\x80\x02}".to_vec();
    text(&mut number, "epoch");
    number.extend(b"K\x03s.");
    for (pickle, part) in [
        (&call[..], "os.system"),
        (&nested, "damaged pickle"),
        (&number, "epoch"),
        (b"\x80\x02K\x01.", "something else"),
        (b"\x80\x02h\x05.", "damaged pickle"),
        (b"\x80\x02X\xff\xff\xff\xffa", "damaged pickle"),
        (b"\x80\x02ccollections\nOrderedDict\nR.", "damaged pickle"),
        (b"\x80\x04\x95", "0x95"),
        (b"", "damaged pickle"),
    ] {
        let bytes = torch_archive(pickle, &[], CompressionMethod::Stored);
        rejects_file("pytorch_model.bin", &bytes, part);
    }
}

#[test]
fn files_of_another_kind_are_named_as_what_they_are() {
    let bin = "pytorch_model.bin";
    rejects_file(
        bin,
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        "save it again",
    );
    rejects_file(bin, b"", "save it again");
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    rejects_file(bin, pointer, "git lfs pull");
    rejects_file("model.safetensors", pointer, "git lfs pull");
    let dir = model_dir();
    rejects(dir.path(), "has no weights");
    std::fs::create_dir(dir.path().join(bin)).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
    assert!(error.to_string().contains("is a directory"), "{error}");
    rejects(&dir.path().join("nowhere"), "is not a folder");
}

#[test]
fn folders_of_another_kind_are_named_as_what_they_are() {
    let with = |files: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        dir
    };
    for (files, part) in [
        (&["adapter_config.json", "adapter_model.bin"][..], "--lora"),
        (&["adapter_config.json", "config.json"], "--lora"),
        (
            &[
                "adapter_config.json",
                "config.json",
                "preprocessor_config.json",
                "tokenizer.model",
            ],
            "--lora",
        ),
        (
            &["snapshots/f00d/config.json", "refs/main"],
            "snapshots/f00d",
        ),
        (
            &["zero_to_fp32.py", "global_step3/x.pt", "config.json"],
            "zero_to_fp32.py first",
        ),
        (&["model-q8_0.gguf"], "model-q8_0.gguf"),
        (&["readme"], "no config.json"),
        (&[], "no config.json"),
    ] {
        rejects(with(files).path(), part);
    }
    // An adapter beside a whole model is no obstacle.
    let dir = model_dir();
    write(dir.path(), "pytorch_model.bin", &samples());
    write_json(dir.path(), "adapter_config.json", "{}");
    check(dir.path(), &samples());
}

#[test]
fn names_that_wrappers_made_longer_are_the_models_own() {
    for prefix in [
        "module.",
        "_orig_mod.module.",
        "base_model.model.",
        "_forward_module.",
    ] {
        let mut wrapped = samples();
        for sample in &mut wrapped {
            sample.name.insert_str(0, prefix);
        }
        for name in ["model.safetensors", "pytorch_model.bin"] {
            let dir = model_dir();
            write(dir.path(), name, &wrapped);
            check(dir.path(), &samples());
        }
        let dir = model_dir();
        let (first, second) = wrapped.split_at(2);
        let names = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"];
        write(dir.path(), names[0], first);
        write(dir.path(), names[1], second);
        let index = "model.safetensors.index.json";
        write_index(dir.path(), index, &[(names[0], first), (names[1], second)]);
        check(dir.path(), &samples());

        // With and without the prefix.
        let dir = model_dir();
        let both = [&wrapped[..], &samples()[..1]].concat();
        write(dir.path(), "model.safetensors", &both);
        rejects(dir.path(), "is there twice");
    }
}

#[test]
fn zip_directories_that_lie_are_refused() {
    let bin = "pytorch_model.bin";
    let archive = torch_bytes(&samples());
    let starts = |pattern: &[u8]| -> Vec<usize> {
        let windows = archive.windows(pattern.len()).enumerate();
        windows
            .filter(|(_, window)| *window == pattern)
            .map(|(at, _)| at)
            .collect()
    };
    // Each entry of the directory has its sizes, stored and unpacked, 20 bytes after its start.
    for entry in starts(b"PK\x01\x02") {
        let mut bytes = archive.clone();
        bytes[entry + 20..entry + 28].copy_from_slice(&[0xf0, 0xff, 0xff, 0x7f].repeat(2));
        rejects_file(bin, &bytes, bin);
    }
    let mut renamed = archive.clone();
    for at in starts(b"data.pkl") {
        renamed[at] = b'x';
    }
    rejects_file(bin, &renamed, "without data.pkl");
    let bytes = torch_archive(b"}.", &[], CompressionMethod::Stored);
    let dir = model_dir();
    std::fs::write(dir.path().join(bin), bytes).unwrap();
    check(dir.path(), &[]);
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let file = "model.safetensors";
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (header, n_data) in [
        (one("F32", "[2]", "[0,8]"), 7),
        (one("F32", "[2]", "[0,8]"), 9),
        (one("F32", "[2]", "[0,12]"), 12),
        (one("F32", "[2]", "[4,12]"), 12),
        (one("F32", "[2]", "[8,0]"), 8),
        (one("F32", "[4294967296,4294967296]", "[0,8]"), 8),
        (one("F99", "[2]", "[0,8]"), 8),
        ("[".repeat(100_000), 0),
        (r#"{"w":{"a":"#.repeat(50_000), 0),
        ("{".to_owned(), 0),
    ] {
        rejects_file(file, &raw_safetensors(&header, &vec![0; n_data]), file);
    }
    rejects_file(
        file,
        &[&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
        "header has",
    );
    rejects_file(file, b"short", "truncated");
}

#[test]
fn truncation_anywhere_is_an_error_that_names_the_file() {
    for (name, bytes) in [
        ("model.safetensors", safetensors_bytes(&samples())),
        ("pytorch_model.bin", torch_bytes(&samples())),
    ] {
        let dir = model_dir();
        for n in 0..bytes.len() {
            std::fs::write(dir.path().join(name), &bytes[..n]).unwrap();
            rejects(dir.path(), name);
        }
    }
}

#[test]
fn a_checkpoint_is_named_after_its_directory() {
    let dir = model_dir();
    write(dir.path(), "pytorch_model.bin", &samples());
    let name = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().name(), name);
    let inner = dir.path().join("checkpoint-100");
    std::fs::create_dir(&inner).unwrap();
    for file in [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.model",
        "pytorch_model.bin",
    ] {
        std::fs::copy(dir.path().join(file), inner.join(file)).unwrap();
    }
    assert_eq!(
        Checkpoint::open(&inner).unwrap().name(),
        format!("{name}_checkpoint-100")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4)) {
        for (name, bytes) in [
            ("model.safetensors", safetensors_bytes(&samples())),
            ("pytorch_model.bin", torch_bytes(&samples())),
        ] {
            let mut bytes = bytes;
            for (index, bit) in &flips {
                let at = index.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            let dir = model_dir();
            std::fs::write(dir.path().join(name), bytes).unwrap();
            if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
                for name in checkpoint.names() {
                    let meta = checkpoint.meta(name).unwrap();
                    let n: usize = meta.shape.iter().product();
                    let mut out = vec![0.0; n.min(1000)];
                    checkpoint.read(name, 0, &mut out).unwrap();
                }
            }
        }
    }
}
