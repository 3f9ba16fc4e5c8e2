//! The `owl2` program in a directory of its own, with a model file and pictures.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use owl2_convert::checkpoint::Checkpoint;
use serde_json::Value;

use crate::{checkpoints, machine};

/// A directory with model files, in which the program runs.
pub struct Room(tempfile::TempDir);

impl Room {
    pub fn new() -> Self {
        Room(tempfile::tempdir().unwrap())
    }

    /// With `m.gguf`, the golden checkpoint `tiny`, and the pictures of the golden set.
    pub fn with_model() -> Self {
        /// Converted once in a process.
        static MODEL: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let room = Room::new();
            let checkpoint = Checkpoint::open(&own_golden("checkpoints/tiny")).unwrap();
            checkpoints::convert(checkpoint, &room.path("m.gguf")).unwrap();
            std::fs::read(room.path("m.gguf")).unwrap()
        });

        let room = Room::new();
        std::fs::write(room.path("m.gguf"), &*MODEL).unwrap();
        for picture in ["wide_rgb.png", "gray.png", "exif_orient6.jpg"] {
            let source = own_golden("images").join(picture);
            std::fs::copy(source, room.path(picture)).unwrap();
        }
        room
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = machine::program(env!("CARGO_BIN_EXE_owl2"));
        command.current_dir(self.0.path()).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a run that must succeed prints; it must say nothing on standard error but that an answer
    /// was cut, since models with random weights hardly end theirs.
    #[track_caller]
    pub fn stdout(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let said = stderr(&output);
        let mut said = said.lines();
        assert!(
            said.all(|line| line.contains("the answer was cut")),
            "{args:?}: {said:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(args)).unwrap()
    }

    /// Checks that a run fails with an exit status, a message with all of `expected`, and an empty
    /// standard output.
    #[track_caller]
    pub fn fails(&self, args: &[&str], code: i32, expected: &[&str]) {
        let output = self.run(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        for text in expected {
            assert!(said.contains(text), "{args:?}: '{said}' lacks '{text}'");
        }
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

/// A file of the project's own golden set.
pub fn own_golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A text for `--choices`, to make an answer that does not end while a test looks at it.
pub fn long_text() -> String {
    "the ".repeat(16_000)
}
