//! What happens where memory is short, or the model's file changes while it is in use.
#![cfg(unix)]

#[cfg(target_os = "linux")]
use crate::tiny;
use crate::{checkpoints, room};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
#[cfg(target_os = "linux")]
use std::os::unix::process::{CommandExt, ExitStatusExt};
#[cfg(target_os = "linux")]
use std::process::{Command, Output};

use owl2::gguf::Gguf;
use owl2::kernels::Isa;
use owl2::ops::Compute;
use owl2::prompt::Message;
use owl2::request::{Answer, Assistant, Prompt, Request};
use owl2::threads::Threads;
use owl2::{Kind, Result};

use checkpoints::N_THREADS;
use room::Room;
#[cfg(target_os = "linux")]
use room::stderr;

/// The numbers of the signals of an abort, and for memory that is not there.
#[cfg(target_os = "linux")]
const SIGABRT: i32 = 6;
#[cfg(target_os = "linux")]
const SIGSEGV: i32 = 11;

/// Runs the program with an address space of `kib`.
#[cfg(target_os = "linux")]
fn with_address_space(room: &Room, kib: usize, args: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.current_dir(room.path("")).arg("-c");
    command.arg(format!("ulimit -v {kib} && exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_owl2")).args(args);
    command.arg0("sh").output().unwrap()
}

/// The size of the program, which takes as much address space.
#[cfg(target_os = "linux")]
fn program_kib() -> usize {
    let bytes = fs::metadata(env!("CARGO_BIN_EXE_owl2")).unwrap().len();
    bytes.div_ceil(1 << 10) as usize
}

/// The number after `before` in a text.
#[cfg(target_os = "linux")]
#[track_caller]
fn number_after(text: &str, before: &str) -> usize {
    let (_, rest) = text.split_once(before).expect(text);
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().expect(text)
}

#[cfg(target_os = "linux")]
#[test]
fn a_context_beyond_the_memory_is_refused_with_what_would_fit() {
    let room = Room::with_model();
    let ask = |context: usize, n: usize| {
        let (context, n) = (context.to_string(), n.to_string());
        let args = [
            "-m",
            "m.gguf",
            "-p",
            "Is it?",
            "--choices",
            "yes,no",
            "-t",
            "1",
        ];
        let args = [&args[..], &["-c", &context, "-n", &n]].concat();
        with_address_space(&room, 600_000, &args)
    };
    let output = ask(4_000_000, 3_000_000);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(6), "{said}");
    for figure in [
        "3000",
        "GiB of memory beside the model's 5.3 MiB",
        "available",
        "--quant q8_0",
    ] {
        assert!(said.contains(figure), "{said}");
    }
    assert!(output.stdout.is_empty());
    // What it says would fit does.
    let fits = number_after(&said, "set --ctx-size to ");
    assert!((10_000..3_000_000).contains(&fits), "{said}");
    let output = ask(fits, fits - 100);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_beyond_the_address_space_is_refused() {
    let room = Room::with_model();
    let file = OpenOptions::new()
        .write(true)
        .open(room.path("m.gguf"))
        .unwrap();
    // A hole, which takes no room on the disk.
    file.set_len(4 << 30).unwrap();
    let output = with_address_space(&room, 600_000, &["-m", "m.gguf", "-p", "x"]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    for text in ["m.gguf", "4294967296 bytes", "address space"] {
        assert!(stderr(&output).contains(text), "{}", stderr(&output));
    }
}

/// A model that is small as a file and takes 400 MB for the pixels of a picture alone.
#[cfg(target_os = "linux")]
#[test]
fn a_picture_beyond_the_memory_is_refused_before_it_is_encoded() {
    let room = Room::with_model();
    let mut config = tiny::config();
    let visual = config.visual.as_mut().unwrap();
    visual.vit.image_size = 4096;
    visual.vit.patch_size = 128;
    visual.preprocess.shortest_edge = 4096;
    visual.preprocess.crop_height = 4096;
    visual.preprocess.crop_width = 4096;
    fs::write(room.path("wide.gguf"), tiny::file(&config, 1)).unwrap();
    let info = room.json(&["info", "wide.gguf", "--json"]);
    let picture_bytes = info["picture_bytes"].as_u64().unwrap();
    assert!(picture_bytes > 2 * 3 * 4 * 4096 * 4096, "{picture_bytes}");
    assert!(info["memory_bytes"].as_u64().unwrap() > picture_bytes);
    let shown = room.stdout(&["info", "wide.gguf"]);
    assert!(shown.contains("while a picture is encoded"), "{shown}");

    let text = ["-m", "wide.gguf", "-n", "1", "-t", "1", "-p"];
    let picture = [&text[..], &["<|image|>x", "--raw", "--image", "gray.png"]].concat();
    let text = [&text[..], &["x"]].concat();
    let output = with_address_space(&room, 400_000, &picture);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("for a picture"), "{said}");
    let output = with_address_space(&room, 400_000, &text);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// A file whose weights are damaged is named, whichever of two it is and whatever is asked of it.
#[test]
fn a_model_that_computes_no_numbers_is_named() {
    let room = Room::with_model();
    let gguf = Gguf::open(&room.path("m.gguf")).unwrap();
    for (file, tensor) in [
        ("decoder.gguf", "output_norm.weight"),
        ("vision.gguf", "v.post_ln.weight"),
    ] {
        let mut bytes = fs::read(room.path("m.gguf")).unwrap();
        let tensor = gguf.tensor(tensor).unwrap();
        let (values, _) = bytes[tensor.range.clone()].as_chunks_mut::<4>();
        values.fill(f32::NAN.to_le_bytes());
        fs::write(room.path(file), bytes).unwrap();
    }
    fs::write(room.path("text.txt"), "A cat sat on a mat. ".repeat(9)).unwrap();
    let perplexity = ["perplexity", "--text", "text.txt", "--window", "32", "-m"];
    let says = |args: &[&str], file: &str| {
        let wanted = format!("{file}: the ");
        room.fails(args, 4, &[&wanted, "not finite"]);
    };
    says(&["-m", "decoder.gguf", "-p", "x"], "decoder.gguf");
    let picture = ["-m", "vision.gguf", "-p", "x", "--image", "gray.png"];
    says(&picture, "vision.gguf");
    for mode in ["batch", "single"] {
        let mode = ["--mode", mode];
        let args = [&perplexity[..], &["decoder.gguf"], &mode].concat();
        says(&args, "decoder.gguf");
        let args = [
            &perplexity[..],
            &["m.gguf", "--reference", "decoder.gguf"],
            &mode,
        ]
        .concat();
        says(&args, "decoder.gguf");
        let args = [
            &perplexity[..],
            &["decoder.gguf", "--reference", "m.gguf"],
            &mode,
        ]
        .concat();
        says(&args, "decoder.gguf");
    }
}

/// A model file that a process has open.
struct Open {
    room: Room,
    assistant: Assistant,
}

impl Open {
    fn new() -> Self {
        let room = Room::with_model();
        let compute = Compute::on(Threads::new(N_THREADS).unwrap(), Isa::detect().unwrap());
        let assistant = Assistant::open_with(&room.path("m.gguf"), compute).unwrap();
        Open { room, assistant }
    }

    fn ask(&self) -> Result<Answer> {
        let messages = vec![Message::user("Is it?"), Message::assistant("")];
        let request = Request {
            max_tokens: Some(4),
            ..Request::new(Prompt::turns(messages))
        };
        self.assistant
            .answer(&request, &mut |_| ControlFlow::Continue(()))
    }

    /// Checks that the next request is refused because the file was changed.
    #[track_caller]
    fn is_refused(&self) {
        let error = self.ask().unwrap_err();
        assert_eq!(error.kind(), Kind::Model);
        let text = error.to_string();
        assert!(
            text.contains("m.gguf") && text.contains("was changed"),
            "{text}"
        );
    }

    fn file(&self) -> File {
        let path = self.room.path("m.gguf");
        OpenOptions::new().write(true).open(path).unwrap()
    }
}

#[test]
fn a_truncated_model_file_is_told() {
    let open = Open::new();
    let before = open.ask().unwrap();
    let len = open.file().metadata().unwrap().len();
    open.file().set_len(len / 2).unwrap();
    open.is_refused();
    open.file().set_len(0).unwrap();
    open.is_refused();
    assert!(!before.ids.is_empty());
}

#[test]
fn a_model_file_that_is_written_over_is_told() {
    let open = Open::new();
    open.ask().unwrap();
    let modified = open.file().metadata().unwrap().modified().unwrap();
    open.file().write_all(b"GGUX").unwrap();
    open.is_refused();
    // Not even where its time is that of before.
    open.file().set_modified(modified).unwrap();
    open.is_refused();
    open.file().write_all(b"GGUF").unwrap();
    open.file().set_modified(modified).unwrap();
    open.ask().unwrap();
}

#[test]
fn a_model_file_that_is_replaced_does_no_harm() {
    let open = Open::new();
    let before = open.ask().unwrap();
    fs::write(open.room.path("other"), "another file").unwrap();
    fs::rename(open.room.path("other"), open.room.path("m.gguf")).unwrap();
    assert_eq!(open.ask().unwrap().ids, before.ids);
}

#[cfg(target_os = "linux")]
#[test]
fn whatever_memory_there_is_an_exit_status_tells() {
    let room = Room::with_model();
    let ask = ["-m", "m.gguf", "-p", "x", "-n", "2", "-t", "1"];
    let image = [&ask[..], &["--image", "wide_rgb.png"]].concat();
    let choices = [&ask[..], &["--choices", "yes,no"]].concat();
    let state = [&ask[..], &["--cache", "state"]].concat();
    // To read the command line takes memory too.
    let long = "x ".repeat(50_000);
    let prompt = ["-m", "m.gguf", "-n", "2", "-t", "1", "-p", &long];
    for args in [image, choices, state, prompt.to_vec()] {
        // What the program takes by itself, and then steps in which an allocation after the other
        // finds no memory, the first ones before it has read its arguments.
        let beyond = (0..4000).step_by(100).chain((4000..22_000).step_by(500));
        let (mut has_begun, mut n_aborted) = (false, 0);
        for kib in beyond.map(|kib| program_kib() + kib) {
            let output = with_address_space(&room, kib, &args);
            let code = output.status.code();
            let said = stderr(&output);
            // The system has no room to load it, or the standard library none to begin.
            let is_unloaded = code == Some(127) || output.status.signal() == Some(SIGSEGV);
            let is_aborted = output.status.signal() == Some(SIGABRT);
            if !has_begun && (is_unloaded || is_aborted) {
                n_aborted += usize::from(is_aborted);
                assert!(n_aborted <= 4, "{kib}: {said}");
                continue;
            }
            has_begun = true;
            assert!(matches!(code, Some(0 | 5 | 6)), "{kib}: {code:?}: {said}");
        }
    }
}
