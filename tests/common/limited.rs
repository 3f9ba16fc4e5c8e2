//! Runs programs on bad input, with little time and an eye on their memory.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::Path;
use std::process::{Command, Output};

use nix::sys::resource::{UsageWho, getrusage};

/// Lines of an error, which may list what is missing.
const MAX_LINES: usize = 32;
/// Processor time that no bad input may take.
const MAX_SECONDS: u32 = 20;

/// Runs a program in a directory after the shell has done what `before` says, such as set a limit.
/// A program that takes [`MAX_SECONDS`] of processor time is killed.
pub fn run(before: &str, program: &str, directory: &Path, args: &[&str]) -> Output {
    let script = format!("{before}; ulimit -t {MAX_SECONDS} && exec \"$0\" \"$@\"");
    Command::new("sh")
        .current_dir(directory)
        .args(["-c", &script, program])
        .args(args)
        .output()
        .unwrap()
}

/// Runs a program that must fail with one of `codes`, or succeed where these have a 0, and say what
/// is wrong in a few lines that have `part`.
#[track_caller]
pub fn refuses(program: &str, directory: &Path, args: &[&str], codes: &[i32], part: &str) {
    let output = run(":", program, directory, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| codes.contains(&code)),
        "{args:?}: {:?}: {said}",
        output.status
    );
    for text in ["panicked", "backtrace"] {
        assert!(!said.contains(text), "{args:?}: {said}");
    }
    assert!(
        code == Some(0) || (said.contains(part) && said.lines().count() <= MAX_LINES),
        "{args:?}: {said}"
    );
}

/// The most memory in MiB that any program run so far has used at once.
pub fn peak_mib() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    // Apple's systems count bytes, the others KiB.
    let unit = if cfg!(target_vendor = "apple") {
        1
    } else {
        1 << 10
    };
    (usage.max_rss() * unit) >> 20
}
