//! Bad files given to the real program: a short error with its exit status, in little time and
//! memory. `fuzzed.rs` and the tests of each reader try many more.
#![cfg(target_os = "linux")]

#[path = "parity/checkpoints.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod checkpoints;
#[path = "parity/golden.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod golden;
#[path = "common/limited.rs"]
mod limited;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/room.rs"]
mod room;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use room::{Room, stderr};

const PROGRAM: &str = env!("CARGO_BIN_EXE_owl2");

#[track_caller]
fn refuses(room: &Room, args: &[&str], code: i32, part: &str) {
    limited::refuses(PROGRAM, &room.path(""), args, &[code], part);
}

/// Checks that no program so far has used more.
#[track_caller]
fn assert_peak(max_mib: i64) {
    let peak = limited::peak_mib();
    assert!(peak <= max_mib, "{peak} MiB");
}

fn findings(target: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = root.join("tests/fuzz/regressions").join(target);
    let files = fs::read_dir(directory).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

/// A BMP file that says it has this size.
fn bmp(width: u32, height: u32) -> Vec<u8> {
    let path = room::own_golden("../fixtures/image/rgb24.bmp");
    let mut bytes = fs::read(path).unwrap();
    bytes[18..22].copy_from_slice(&width.to_le_bytes());
    bytes[22..26].copy_from_slice(&height.to_le_bytes());
    bytes
}

/// One test, so that the peak of memory is that of known programs.
#[test]
fn bad_files_cost_no_more_than_an_error() {
    let room = Room::with_model();
    let model = fs::read(room.path("m.gguf")).unwrap();
    models(&room, &model);
    small_pictures(&room);
    states_and_schemas(&room);
    // The model file, a few buffers, and what the system counts of this process before it becomes
    // the program.
    assert_peak(120);
    large_pictures(&room);
    // A picture within the limits: 3 bytes for each of 81 million pixels.
    assert_peak(400);
}

fn models(room: &Room, model: &[u8]) {
    let mut long_name = model.to_vec();
    // The length of the first key.
    long_name[24..32].copy_from_slice(&[0xff; 8]);
    let mut many = model.to_vec();
    many[8..16].copy_from_slice(&(u64::MAX >> 8).to_le_bytes());
    for bytes in [
        &model[..0],
        &model[..20],
        &model[..5000],
        &model[..model.len() - 1],
        b"GGUF",
        &long_name,
        &many,
    ] {
        fs::write(room.path("bad.gguf"), bytes).unwrap();
        refuses(room, &["-m", "bad.gguf", "-p", "x"], 4, "bad.gguf: ");
        refuses(room, &["info", "bad.gguf"], 4, "bad.gguf: ");
    }
    for finding in findings("gguf") {
        let finding = finding.to_str().unwrap();
        refuses(room, &["-m", finding, "-p", "x"], 4, finding);
    }
}

fn small_pictures(room: &Room) {
    let jpeg = fs::read(room::own_golden("../fixtures/image/baseline_420.jpg")).unwrap();
    for (bytes, part) in [
        (bmp(65_500, 65_500), "65500x65500 pixels, more than"),
        (bmp(0, 9), "bad.img: "),
        (bmp(1000, 1000), "bad.img: "),
        (jpeg[..jpeg.len() / 2].to_vec(), "truncated"),
        (Vec::new(), "empty"),
        (b"GIF89a".to_vec(), "bad.img: "),
    ] {
        fs::write(room.path("bad.img"), bytes).unwrap();
        refuses(
            room,
            &["-m", "m.gguf", "-p", "x", "--image", "bad.img"],
            3,
            part,
        );
    }
    for finding in findings("picture") {
        let finding = finding.to_str().unwrap();
        let args = ["-m", "m.gguf", "-n", "1", "-p", "x", "--image", finding];
        limited::refuses(PROGRAM, &room.path(""), &args, &[0, 3], finding);
    }
}

fn large_pictures(room: &Room) {
    let picture = image::GrayImage::new(9000, 9000);
    picture.save(room.path("bomb.png")).unwrap();
    let n_bytes = fs::metadata(room.path("bomb.png")).unwrap().len();
    assert!(n_bytes < 1 << 20, "{n_bytes}");
    let args = ["-m", "m.gguf", "-n", "1", "-p", "x", "--image", "bomb.png"];
    let output = limited::run(":", PROGRAM, &room.path(""), &args);
    assert!(output.status.success(), "{}", stderr(&output));
    image::GrayImage::new(1, 20_000)
        .save(room.path("long.png"))
        .unwrap();
    let args = ["-m", "m.gguf", "-n", "1", "-p", "x", "--image", "long.png"];
    let output = limited::run(":", PROGRAM, &room.path(""), &args);
    assert!(output.status.success(), "{}", stderr(&output));
}

fn states_and_schemas(room: &Room) {
    for finding in findings("schema") {
        let finding = finding.to_str().unwrap();
        let args = [
            "-m",
            "m.gguf",
            "-n",
            "1",
            "-p",
            "x",
            "--json-schema",
            finding,
        ];
        // One token may be too few for an answer as the schema describes it.
        let output = limited::run(":", PROGRAM, &room.path(""), &args);
        let (code, said) = (output.status.code(), stderr(&output));
        let wanted = match code {
            Some(0) => "",
            Some(7) => "the answer was cut",
            _ => finding,
        };
        assert!(matches!(code, Some(0 | 2 | 3 | 7)), "{code:?}: {said}");
        assert!(said.contains(wanted), "{said}");
    }
    for finding in findings("state_file") {
        fs::copy(finding, room.path("state")).unwrap();
        let args = ["-m", "m.gguf", "-n", "1", "-p", "x", "--cache", "state"];
        let output = limited::run(":", PROGRAM, &room.path(""), &args);
        let said = stderr(&output);
        assert!(
            output.status.success() && said.contains("ignoring the cache"),
            "{said}"
        );
    }
}

/// No file may grow beyond a few blocks: as where a disk is full, but for the reason told.
const SMALL_FILES: &str = "trap '' XFSZ; ulimit -f 1";

#[test]
fn a_full_disk_leaves_what_was_there() {
    let room = Room::with_model();
    let args = ["-m", "m.gguf", "-n", "8", "-p", "x", "--cache", "state"];
    room.stdout(&args);
    let state = fs::read(room.path("state")).unwrap();
    let other = [&args[..5], &["another question", "--cache", "state"]].concat();
    let output = limited::run(SMALL_FILES, PROGRAM, &room.path(""), &other);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("state: cannot write"));
    assert_eq!(fs::read(room.path("state")).unwrap(), state);
    let n_files = fs::read_dir(room.path("")).unwrap().count();
    assert_eq!(n_files, 5, "an unfinished file is left");
}

#[test]
fn an_output_that_takes_nothing_is_an_error() {
    let room = Room::with_model();
    for args in [
        &["-m", "m.gguf", "-n", "4", "-p", "x"][..],
        &["-m", "m.gguf", "-n", "4", "-p", "x", "--json"],
        &["info", "m.gguf"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = room.command(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        let reason = io::Error::from(io::ErrorKind::StorageFull).to_string();
        assert!(
            stderr(&output).contains("standard output: cannot write"),
            "{}: {reason}",
            stderr(&output)
        );
    }
}
