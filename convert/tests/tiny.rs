//! The built-in model is what the converter makes of its checkpoint.

#[path = "../../tests/common/machine.rs"]
mod machine;

use std::fs;
use std::path::Path;

/// As `models/tiny/README.md` says.
const FLAGS: [&str; 7] = [
    "--quant",
    "q4_k",
    "--vision-quant",
    "q4_k",
    "--no-rotate",
    "--score-rule",
    "q-align",
];

#[test]
fn the_built_in_file_is_made_from_the_checkpoint() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let room = tempfile::tempdir().unwrap();
    let made = room.path().join("made.gguf");
    let status = machine::program(env!("CARGO_BIN_EXE_owl2-convert"))
        .arg(tiny.join("owl2-tiny"))
        .arg("-o")
        .arg(&made)
        .args(FLAGS)
        .arg("--quiet")
        .status()
        .unwrap();
    assert!(status.success());
    let (made, kept) = (
        fs::read(made).unwrap(),
        fs::read(tiny.join("owl2-tiny.gguf")).unwrap(),
    );
    assert!(made == kept, "{} and {} bytes", made.len(), kept.len());
}
