//! Bad checkpoints given to the real program: a short error that says what is wrong, its exit
//! status, little time and memory, and nothing left behind. `reading` tries many more.
#![cfg(target_os = "linux")]

#[path = "../../tests/common/limited.rs"]
mod limited;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_owl2-convert");
/// Far more than a small checkpoint takes, far less than the sizes that bad files tell.
const MAX_MIB: i64 = 150;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A good checkpoint but for one file. Torch's weights take the place of the others.
fn checkpoint(name: &str, bytes: &[u8]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root().join("tests/golden/checkpoints/eps")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    if name.ends_with(".bin") {
        fs::remove_file(directory.path().join("model.safetensors")).unwrap();
    }
    fs::write(directory.path().join(name), bytes).unwrap();
    directory
}

#[track_caller]
fn refuses(name: &str, bytes: &[u8], part: &str) {
    let checkpoint = checkpoint(name, bytes);
    let n_files = fs::read_dir(checkpoint.path()).unwrap().count();
    let args = [".", "-o", "m.gguf", "--threads", "1", "--quiet"];
    limited::refuses(PROGRAM, checkpoint.path(), &args, &[4], part);
    assert_eq!(fs::read_dir(checkpoint.path()).unwrap().count(), n_files);
}

#[test]
fn findings_of_the_fuzzer_are_refused() {
    for (target, name) in [
        ("safetensors", "model.safetensors"),
        ("torch", "pytorch_model.bin"),
        ("tokenizer_model", "tokenizer.model"),
    ] {
        let findings = root().join("tests/fuzz/regressions").join(target);
        for finding in fs::read_dir(findings).unwrap() {
            refuses(name, &fs::read(finding.unwrap().path()).unwrap(), name);
        }
    }
    assert!(limited::peak_mib() <= MAX_MIB, "{}", limited::peak_mib());
}

#[test]
fn descriptions_that_make_no_sense_are_refused() {
    let config = root().join("tests/golden/checkpoints/eps/config.json");
    let config = fs::read_to_string(config).unwrap();
    let with = |key: &str, value: &str| {
        let mut json: serde_json::Value = serde_json::from_str(&config).unwrap();
        json[key] = serde_json::from_str(value).unwrap();
        json.to_string()
    };
    for (text, part) in [
        ("[".repeat(1 << 20), "config.json"),
        (r#"{"a":"#.repeat(1 << 18), "config.json"),
        (r#"{"hidden_size": 1e999999}"#.to_owned(), "config.json"),
        (with("hidden_size", "18446744073709551615"), "config.json"),
        (with("hidden_size", r#""wide""#), "hidden_size"),
        (with("num_hidden_layers", "-1"), "num_hidden_layers"),
        (with("num_hidden_layers", "4096"), "more"),
        (with("vocab_size", "16777216"), "tokens"),
        (with("visual_config", "[]"), "visual_config"),
    ] {
        refuses("config.json", text.as_bytes(), part);
    }
    for name in [
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
    ] {
        refuses(name, "[".repeat(1 << 20).as_bytes(), name);
    }
    let index = br#"{"weight_map": {"a": "/dev/zero"}}"#;
    let directory = checkpoint("model.safetensors.index.json", index);
    fs::remove_file(directory.path().join("model.safetensors")).unwrap();
    let args = [".", "-o", "m.gguf"];
    limited::refuses(PROGRAM, directory.path(), &args, &[4], "/dev/zero");
    assert!(limited::peak_mib() <= MAX_MIB, "{}", limited::peak_mib());
}

/// A pipe that nobody writes to would be waited for without end.
#[test]
fn pipes_and_devices_in_the_place_of_files_are_refused() {
    for name in [
        "config.json",
        "preprocessor_config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "added_tokens.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "tokenizer.json",
    ] {
        let directory = checkpoint(name, b"");
        let path = directory.path().join(name);
        if name.ends_with("index.json") {
            fs::remove_file(directory.path().join("model.safetensors")).unwrap();
        }
        let args = [".", "-o", "m.gguf", "--quiet"];
        for (make, what) in [("mkfifo", "a named pipe"), ("ln -s /dev/zero", "a device")] {
            fs::remove_file(&path).unwrap();
            let command = format!("{make} '{}'", path.display());
            let mut made = Command::new("sh");
            let made = made.args(["-c", &command]);
            assert!(made.status().unwrap().success());
            limited::refuses(PROGRAM, directory.path(), &args, &[5], what);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("m.gguf");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for args in [&["--verify", "m.gguf"][..], &["m.gguf", "-o", "n.gguf"]] {
        limited::refuses(PROGRAM, directory.path(), args, &[4, 5], "m.gguf: is ");
    }
}

/// Headers and descriptions may not take much more memory than they have bytes.
#[test]
fn long_descriptions_take_no_more_memory_than_a_few_times_their_length() {
    let numbers = format!("{{\"a\": [{}1]}}", "1,".repeat(5_000_000));
    refuses("config.json", numbers.as_bytes(), "longer than");
    let numbers = format!("{{\"a\": [{}1]}}", "1,".repeat(1_000_000));
    refuses("added_tokens.json", numbers.as_bytes(), "not a token id");
    let empty = r#"{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}"#;
    let tensors: Vec<_> = (0..500_000).map(|i| format!("\"{i}\": {empty}")).collect();
    let header = format!("{{{}}}", tensors.join(","));
    let length = (header.len() as u64).to_le_bytes();
    let file = [&length[..], header.as_bytes()].concat();
    refuses("model.safetensors", &file, "no header needs more");
    let files: Vec<_> = (0..40_000)
        .map(|i| format!("\"{i}\": \"{i}.safetensors\""))
        .collect();
    let index = format!("{{\"weight_map\": {{{}}}}}", files.join(","));
    let directory = checkpoint("model.safetensors.index.json", index.as_bytes());
    fs::remove_file(directory.path().join("model.safetensors")).unwrap();
    let args = [".", "-o", "m.gguf"];
    limited::refuses(PROGRAM, directory.path(), &args, &[4], "and 39992 more");
    assert!(limited::peak_mib() <= MAX_MIB, "{}", limited::peak_mib());
}

#[test]
fn zip_bombs_and_foreign_pickles_are_refused() {
    let name = "pytorch_model.bin";
    let good = fs::read(root().join("tests/fixtures/torch/small.bin")).unwrap();
    let entries = |bytes: &[u8]| -> Vec<usize> {
        let windows = bytes.windows(4).enumerate();
        let entries = windows.filter(|(_, window)| window == b"PK\x01\x02");
        entries.map(|(at, _)| at).collect()
    };
    for entry in entries(&good) {
        // The method becomes deflate, and what comes out of it 4 GiB.
        let mut bomb = good.clone();
        bomb[entry + 10..entry + 12].copy_from_slice(&8u16.to_le_bytes());
        bomb[entry + 24..entry + 28].copy_from_slice(&0xffff_fffe_u32.to_le_bytes());
        refuses(name, &bomb, name);
        // Stored, and 2 GiB long.
        let mut long = good.clone();
        let sizes = [0x7fff_fff0_u32.to_le_bytes(); 2].concat();
        long[entry + 20..entry + 28].copy_from_slice(&sizes);
        refuses(name, &long, name);
    }
    // Another function of the same length for the one that makes tensors.
    let wanted = b"ctorch._utils\n_rebuild_tensor_v2\n";
    let at = good.windows(wanted.len()).position(|part| part == wanted);
    let mut call = good.clone();
    let other = b"cposixpath01\n_rebuild_tensor_sys\n";
    call[at.unwrap()..][..other.len()].copy_from_slice(other);
    refuses(name, &call, "posixpath01._rebuild_tensor_sys");
    assert!(limited::peak_mib() <= MAX_MIB, "{}", limited::peak_mib());
}

/// No file may grow beyond a few hundred blocks: as where a disk is full, but for the reason told.
#[test]
fn a_full_disk_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let limit = "trap '' XFSZ; ulimit -f 200";
    let args = ["--random", "tiny", "-o", "m.gguf", "--quiet"];
    let output = limited::run(limit, PROGRAM, directory.path(), &args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("m.gguf: cannot write"), "{said}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Killed outright, it leaves an unfinished file under a name of its own, which the next run in
/// that directory removes.
#[test]
fn what_a_killed_converter_leaves_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(PROGRAM)
        .current_dir(directory.path())
        .args(["--random", "7b", "-o", "m.gguf", "--quiet"])
        .spawn()
        .unwrap();
    let files = || -> Vec<PathBuf> {
        let entries = fs::read_dir(directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    while files().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = files();
    assert!(
        left.iter().all(|path| !path.ends_with("m.gguf")),
        "{left:?}"
    );
    for path in left {
        let file = fs::File::options().write(true).open(path).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(long_ago).unwrap();
    }
    let args = ["--random", "tiny", "-o", "m.gguf", "--quiet"];
    let output = limited::run(":", PROGRAM, directory.path(), &args);
    assert!(output.status.success());
    assert_eq!(files(), [directory.path().join("m.gguf")]);
}

/// As where a disk or a network fails in the middle.
#[test]
fn a_checkpoint_that_ends_while_it_is_read_leaves_nothing() {
    // It may be done before it is disturbed, on a machine with much to do; hardly each time.
    let output = (0..50)
        .map(|_| convert_what_ends())
        .find(|output| !output.status.success());
    let output = output.expect("converted each time");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("model.safetensors: tensor '"), "{said}");
    assert!(said.contains("the file ends too early"), "{said}");
}

/// Converts a checkpoint that is cut short as soon as there is any output, and looks at what is left.
fn convert_what_ends() -> Output {
    let source = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root().join("models/tiny/owl2-tiny")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), source.path().join(entry.file_name())).unwrap();
    }
    let weights = source.path().join("model.safetensors");
    let weights = fs::File::options().write(true).open(weights).unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut child = Command::new(PROGRAM)
        .current_dir(out.path())
        .arg(source.path())
        .args(["-o", "m.gguf", "--quant", "q4_k", "-t", "1", "--quiet"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let n_files = || fs::read_dir(out.path()).unwrap().count();
    while n_files() == 0 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    weights.set_len(1 << 20).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(n_files(), usize::from(output.status.success()));
    output
}
