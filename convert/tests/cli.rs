//! The program as a user meets it: exit codes, messages, and what it leaves on the disk.

#[path = "../../tests/common/machine.rs"]
mod machine;

use std::path::Path;
use std::process::{Command, Output};

fn owl2_convert(dir: &Path, line: &str) -> Output {
    machine::program(env!("CARGO_BIN_EXE_owl2-convert"))
        .current_dir(dir)
        .args(line.split(' '))
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn converts_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let line = "--random tiny --seed 7 --quant q8_0 -o m.gguf --threads 2";
    let output = owl2_convert(dir.path(), line);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let said = stderr(&output);
    assert!(
        said.contains("decoder") && said.contains("Bits per weight"),
        "{said}"
    );
    assert!(
        said.lines().last().unwrap().starts_with("m.gguf: "),
        "{said}"
    );

    let output = owl2_convert(dir.path(), "--verify m.gguf --random tiny --seed 7");
    assert!(output.status.success(), "{}", stderr(&output));
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(
        report.contains("all finite") && report.contains("Q8_0  blk.0."),
        "{report}"
    );

    let output = owl2_convert(dir.path(), &format!("{line} --force --quiet"));
    assert!(output.status.success());
    assert!(output.stderr.is_empty());
    assert_eq!(files(dir.path()), 1);
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = owl2_convert(dir.path(), "--random 7b --dry-run -o m.gguf");
    assert!(output.status.success());
    assert!(stderr(&output).contains("240 Q4_K"), "{}", stderr(&output));
    assert_eq!(files(dir.path()), 0);
}

#[test]
fn failures_have_their_exit_codes_and_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("old.gguf"), "precious").unwrap();
    for (line, code, expected) in [
        ("--random tiny -o old.gguf", 5, "--force"),
        ("no-such-checkpoint -o old.gguf", 5, "--force"),
        ("--random tiny -o none/m.gguf", 5, "none"),
        (
            "--random tiny -o m.gguf --tensor-type a.b=f16",
            2,
            "--tensor-type",
        ),
        ("--random tiny", 2, "--output"),
        ("--verify old.gguf", 4, "old.gguf"),
        ("--verify none.gguf", 5, "none.gguf"),
    ] {
        let output = owl2_convert(dir.path(), line);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{line}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(expected),
            "{line}: {}",
            stderr(&output)
        );
    }
    assert_eq!(files(dir.path()), 1);
    let old = std::fs::read_to_string(dir.path().join("old.gguf")).unwrap();
    assert_eq!(old, "precious");
}

/// Interrupted in the middle, it removes what it has written and says so.
#[cfg(unix)]
#[test]
fn signals_leave_nothing_behind() {
    for signal in ["-INT", "-TERM"] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = machine::program(env!("CARGO_BIN_EXE_owl2-convert"))
            .current_dir(dir.path())
            .args("--random 7b -o m.gguf --quiet".split(' '))
            .spawn()
            .unwrap();
        // The handler is in place before the temporary file is.
        while files(dir.path()) == 0 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::yield_now();
        }
        let kill = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_eq!(files(dir.path()), 0);
    }
}

#[test]
fn completions_and_manual_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    for (line, wanted) in [
        ("--completions bash", "--dry-run"),
        ("--completions fish", "dry-run"),
        ("--man", ".TH owl2-convert"),
    ] {
        let output = owl2_convert(dir.path(), line);
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(wanted), "{line}: {text}");
    }
}
