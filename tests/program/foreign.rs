//! Names, texts and files of others: nothing waits for them, grows with them without end, or lets
//! them command the terminal.
#![cfg(unix)]

use crate::room;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rexpect::session::spawn_command;

use room::{Room, stderr};

/// What sets the title of a terminal and clears it, in both spellings of its beginning.
const COMMANDS: &str = "\u{1b}]0;gotcha\u{7}\u{9b}2J";

/// Runs the program, which must not wait for anything.
#[track_caller]
fn run_without_waiting(room: &Room, args: &[&str]) -> Output {
    let mut command = room.command(args);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{args:?} waits");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Every flag that names a file to be read, but for models and pictures.
fn readers(file: &str) -> Vec<Vec<&str>> {
    let ask = ["-m", "m.gguf", "-p", "x", "-n", "1"];
    vec![
        [&ask[..], &["--json-schema", file]].concat(),
        [&ask[..], &["--cache", file]].concat(),
        vec!["eval", "-m", "m.gguf", "--questions", file],
        vec!["perplexity", "-m", "m.gguf", "--text", file],
        vec!["perplexity", "-m", "m.gguf", "--ids", file],
    ]
}

#[test]
fn pipes_devices_and_folders_are_refused_by_every_reader() {
    let room = Room::with_model();
    mkfifo(&room.path("pipe"), Mode::S_IRWXU).unwrap();
    symlink("pipe", room.path("link")).unwrap();
    fs::create_dir(room.path("folder")).unwrap();
    for (file, what) in [
        ("pipe", "a named pipe"),
        ("link", "a named pipe"),
        ("/dev/zero", "a device"),
        ("folder", "a directory"),
    ] {
        for args in readers(file) {
            // A folder is a set of questions in the layout of MME.
            if file == "folder" && args[0] == "eval" {
                continue;
            }
            let output = run_without_waiting(&room, &args);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(5), "{args:?}: {said}");
            assert!(said.contains(&format!("{file}: ")), "{args:?}: {said}");
            assert!(said.contains(&format!("is {what}")), "{args:?}: {said}");
        }
    }
}

#[test]
fn a_pipe_called_like_an_unfinished_file_stops_nobody() {
    let room = Room::with_model();
    mkfifo(&room.path(".owl2-x.part"), Mode::S_IRWXU).unwrap();
    let args = ["-m", "m.gguf", "-p", "x", "-n", "1", "--cache", "state"];
    let output = run_without_waiting(&room, &args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(room.path("state").is_file());
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_shell_hands_over_is_read() {
    let room = Room::with_model();
    let script = "exec \"$0\" -m m.gguf -p x --temp 5 --json-schema /dev/fd/3 3<&0";
    let mut command = std::process::Command::new("sh");
    command.current_dir(room.path(""));
    command.args(["-c", script, env!("CARGO_BIN_EXE_owl2")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let schema = "\u{feff}{\"enum\": [\"only\"]}";
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), schema.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "\"only\"\n");
}

#[test]
fn errors_show_foreign_names_and_values_without_commands_and_in_brief() {
    let room = Room::with_model();
    let long = format!("{COMMANDS}{}", "x".repeat(50_000));
    let schema = serde_json::json!({ "type": long, "$ref": long });
    fs::write(room.path("schema"), schema.to_string()).unwrap();
    fs::write(room.path("text"), &long).unwrap();
    let question = serde_json::json!({ "question": "x", "image": long });
    fs::write(room.path("question"), question.to_string()).unwrap();
    let ask = ["-m", "m.gguf", "-p", "x"];
    let name = format!("{COMMANDS}.png");
    for args in [
        vec!["-m", &name, "-p", "x"],
        vec!["info", &name],
        vec!["--frobnicate", &name],
        vec![&name],
        [&ask[..], &["--image", &name]].concat(),
        [&ask[..], &["--each", &name]].concat(),
        [&ask[..], &["--each", "m.gguf", &name]].concat(),
        [&ask[..], &["--json-schema", &name]].concat(),
        [&ask[..], &["--json-schema", "schema"]].concat(),
        [&ask[..], &["--json-schema", "text"]].concat(),
        [&ask[..], &["--template", &name]].concat(),
        [&ask[..], &["--cache", "text"]].concat(),
        vec!["eval", "-m", "m.gguf", "--questions", "text"],
        vec!["eval", "-m", "m.gguf", "--questions", "question"],
    ] {
        let output = run_without_waiting(&room, &args);
        let said = stderr(&output);
        assert!(!output.status.success(), "{args:?}");
        let harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        assert!(!said.contains(harmful), "{args:?}: {said:?}");
        assert!(said.len() < 5000, "{args:?}: {} bytes", said.len());
    }
}

#[test]
fn output_on_a_terminal_has_no_commands_of_others() {
    let room = Room::with_model();
    let question = serde_json::json!({ "question": "x", "answer": "y", "type": COMMANDS });
    fs::write(room.path("question"), question.to_string()).unwrap();
    let args = "eval -m m.gguf -n 1 --questions question";
    let args: Vec<&str> = args.split(' ').collect();
    // A program gets what is there.
    assert!(String::from_utf8_lossy(&room.run(&args).stdout).contains(COMMANDS));
    for more in [&[][..], &["--json"]] {
        let mut command = room.command(&[&args[..], more].concat());
        command.env("TERM", "xterm");
        let mut terminal = spawn_command(command, Some(60_000)).unwrap();
        // The session reads each byte as a character.
        let shown = terminal.exp_eof().unwrap();
        let bytes: Vec<u8> = shown.chars().map(|c| c as u8).collect();
        let shown = String::from_utf8_lossy(&bytes);
        assert!(shown.contains("gotcha"), "{shown:?}");
        assert!(
            !shown.contains("\u{1b}]") && !shown.contains('\u{9b}'),
            "{shown:?}"
        );
    }
}

#[test]
fn files_that_are_not_ordinary_are_not_replaced_and_links_stay() {
    let room = Room::with_model();
    symlink("target", room.path("link")).unwrap();
    let ask = ["-m", "m.gguf", "-p", "x", "-n", "1"];
    room.stdout(&[&ask[..], &["--cache", "link"]].concat());
    assert!(room.path("link").is_symlink() && room.path("target").is_file());
    // A second run reads it through the link.
    let again = [&ask[..], &["--cache", "link", "--json"]].concat();
    assert!(room.json(&again)["tokens"]["reused"].as_u64().unwrap() > 0);
}

#[test]
fn more_threads_than_a_machine_can_use_are_not_started() {
    let room = Room::with_model();
    for n in ["1000", "100000", "18446744073709551615"] {
        let output = run_without_waiting(&room, &["-m", "m.gguf", "-p", "x", "-n", "2", "-t", n]);
        assert!(output.status.success(), "{n}: {}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains(&format!("instead of {n}")), "{said}");
    }
}

#[test]
fn a_prompt_that_no_context_holds_is_refused_before_it_is_tokenized() {
    let room = Room::with_model();
    let prompt = room.path("prompt");
    fs::write(&prompt, "word ".repeat(1 << 20)).unwrap();
    let mut command = room.command(&["-m", "m.gguf"]);
    command.stdin(fs::File::open(&prompt).unwrap());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("shorten it"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_prompt() {
    let room = Room::with_model();
    let ids = |prompt: &str| {
        let args = ["-m", "m.gguf", "--json", "-n", "1", "-p", prompt];
        room.json(&args)["tokens"]["prompt"].clone()
    };
    assert_eq!(ids("\u{feff}What is it?"), ids("What is it?"));
    let mut command = room.command(&["-m", "m.gguf", "-n", "1"]);
    fs::write(room.path("utf-16"), b"\xff\xfeW\0?\0").unwrap();
    command.stdin(fs::File::open(room.path("utf-16")).unwrap());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("UTF-16"), "{}", stderr(&output));
}
