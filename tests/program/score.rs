//! `owl2 score` and `owl2 compare`: tables, choices, videos, and what is reported.

#![cfg(feature = "cli")]

use crate::room;
use std::fs;
use std::path::Path;

use image::codecs::gif::GifEncoder;
use image::{Delay, Frame, Rgba, RgbaImage};
use serde_json::Value;

use room::{Room, stderr};

/// Pictures that a model of random weights scores differently.
const NAMES: [&str; 4] = ["a.png", "b.png", "c.png", "d.png"];

fn room() -> Room {
    let room = Room::with_model();
    fs::create_dir(room.path("photos")).unwrap();
    fs::create_dir(room.path("photos/inner")).unwrap();
    for (i, name) in NAMES.into_iter().enumerate() {
        picture(&room.path("photos").join(name), i as u32);
    }
    picture(&room.path("photos/inner/e.png"), 9);
    room
}

fn pixels(seed: u32) -> RgbaImage {
    RgbaImage::from_fn(20 + seed, 24, |x, y| {
        let level = |k: u32| ((x * k + y * (seed + 3) * 7) % 256) as u8;
        Rgba([level(seed * 31 + 5), level(11), level(seed + 60), 255])
    })
}

fn picture(path: &Path, seed: u32) {
    pixels(seed).save(path).unwrap();
}

/// Standard output, its lines, of a run that has the given exit status.
fn score(room: &Room, args: &[&str], status: i32) -> Vec<String> {
    let model = ["score", "-m", "m.gguf", "-t", "1"];
    let output = room.run(&[&model[..], args].concat());
    assert_eq!(
        output.status.code(),
        Some(status),
        "{args:?}: {}",
        stderr(&output)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

fn score_of(line: &str) -> f64 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn folders_are_scored_and_recursive_ones_if_asked() {
    let room = room();
    let rule = ["--rule", "q-align"];
    let lines = score(&room, &[&rule[..], &["photos"]].concat(), 0);
    assert_eq!(lines.len(), NAMES.len());
    for (line, name) in lines.iter().zip(NAMES) {
        assert!(line.starts_with(&format!("photos/{name}: ")), "{line}");
        assert!((1.0..=5.0).contains(&score_of(line)), "{line}");
    }
    let lines = score(&room, &[&rule[..], &["-r", "photos"]].concat(), 0);
    assert_eq!(lines.len(), NAMES.len() + 1);
    let text = stderr(&room.run(&["score", "-m", "m.gguf", "photos"]));
    assert!(text.contains("--rule"), "{text}");
}

#[test]
fn one_line_of_json_says_all() {
    let room = room();
    let lines = score(&room, &["--rule", "deqa", "--json", "photos/a.png"], 0);
    let object = json(&lines[0]);
    let number = |value: &Value| value.as_f64().unwrap();
    let sum: f64 = object["probabilities"]
        .as_object()
        .unwrap()
        .values()
        .map(number)
        .sum();
    assert!((sum - 1.0).abs() < 1e-9);
    let (value, unit) = (number(&object["score"]), number(&object["score_unit"]));
    assert!((value - (1.0 + 4.0 * unit)).abs() < 1e-9);
    assert!(number(&object["deviation"]) > 0.0);
    assert_eq!(object["logits"].as_object().unwrap().len(), 5);
    assert_eq!(object["image"], "photos/a.png");
}

#[test]
fn the_best_and_the_worst_are_listed_copied_and_linked() {
    let room = room();
    let rule = ["--rule", "q-align", "photos"];
    let with = |flags: &[&str]| score(&room, &[&rule[..], flags].concat(), 0);
    let sorted = with(&["--sort"]);
    assert_eq!(sorted.len(), NAMES.len());
    assert!(
        sorted.is_sorted_by(|a, b| score_of(a) >= score_of(b)),
        "{sorted:?}"
    );
    // Two of the same name: neither is lost.
    let flags = [
        "--best",
        "2",
        "--worst",
        "1",
        "--copy-best",
        "kept",
        "--link-best",
        "linked",
    ];
    let listed = with(&flags);
    assert_eq!(listed, [0, 1, 3].map(|i| sorted[i].clone()));
    with(&flags);
    let name = |line: &str| line.split(": ").next().unwrap().to_owned();
    let best = fs::read(room.path(&name(&sorted[0]))).unwrap();
    for folder in ["kept", "linked"] {
        let entries: Vec<_> = fs::read_dir(room.path(folder)).unwrap().collect();
        assert_eq!(entries.len(), 4, "{folder}");
        let file = Path::new(&name(&sorted[0])).file_name().unwrap().to_owned();
        assert_eq!(fs::read(room.path(folder).join(file)).unwrap(), best);
    }
    let least = format!("{}", (score_of(&sorted[1]) + score_of(&sorted[2])) / 2.0);
    assert_eq!(with(&["--min", &least]).len(), 2);
}

#[test]
fn a_table_is_gone_on_with() {
    let room = room();
    let first = [
        "--rule",
        "q-align",
        "--csv",
        "t.csv",
        "photos/a.png",
        "photos/c.png",
    ];
    score(&room, &first, 0);
    // Nothing is overwritten, and no table of another rule is added to.
    score(&room, &first, 2);
    score(
        &room,
        &["--rule", "q-instruct", "--resume", "t.csv", "photos"],
        2,
    );
    let again = ["--rule", "q-align", "--resume", "t.csv", "photos"];
    let lines = score(&room, &again, 0);
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("photos/b.png") && lines[1].starts_with("photos/d.png"));
    let whole = fs::read_to_string(room.path("t.csv")).unwrap();
    assert_eq!(whole.lines().count(), 1 + NAMES.len());
    // All is known, so all can be sorted without being computed.
    let sorted = score(&room, &[&again[..], &["--sort"]].concat(), 0);
    assert_eq!(sorted.len(), NAMES.len());
    assert_eq!(fs::read_to_string(room.path("t.csv")).unwrap(), whole);
}

#[test]
fn bad_files_are_reported_and_the_rest_go_on() {
    let room = room();
    fs::write(room.path("photos/b.png"), b"\x89PNG\r\n\x1a\nno picture").unwrap();
    let lines = score(&room, &["--rule", "q-align", "--json", "photos"], 1);
    assert_eq!(lines.len(), NAMES.len());
    assert!(json(&lines[1])["error"].is_string());
    assert!(json(&lines[2])["score"].is_number());
    fs::create_dir(room.path("empty")).unwrap();
    score(&room, &["--rule", "q-align", "empty"], 3);
    for flags in [
        &["--rule", "q-align"][..],
        &["--rule", "q-align", "--words", "a", "photos"],
        &["--rule", "q-align", "-p", "a", "photos"],
        &["--rule", "q-instruct", "--task", "aesthetics", "photos"],
        &["--rule", "compare2score", "photos/a.png"],
        &[
            "--rule",
            "compare2score",
            "--anchors",
            "photos",
            "photos/a.png",
        ],
        &["--words", "a", "-p", "a", "--best", "1", "photos"],
        &["--words", "a,,b", "-p", "a", "photos"],
        &["--rule", "nothing", "photos"],
        &["--rule", "deqa", "--boost", "photos"],
        &["--rule", "deqa", "--anchors", "photos", "photos"],
    ] {
        score(&room, flags, 2);
    }
}

#[test]
fn words_have_probabilities_with_and_without_pictures() {
    let room = room();
    let flags = ["--words", "cat,a dog,d_e", "-p", "which", "--json"];
    let with_picture = score(&room, &[&flags[..], &["photos/a.png"]].concat(), 0);
    let alone = score(&room, &flags, 0);
    for line in [&with_picture[0], &alone[0]] {
        let object = json(line);
        let probabilities = object["probabilities"].as_object().unwrap();
        let sum: f64 = probabilities.values().map(|p| p.as_f64().unwrap()).sum();
        assert!(
            (sum - 1.0).abs() < 1e-9 && probabilities.contains_key("d_e"),
            "{line}"
        );
        assert!(object["log_probabilities"]["a dog"].as_f64().unwrap() < 0.0);
    }
    assert_ne!(with_picture, alone);
    // A word of two pieces is less likely than its first piece alone.
    let first = score(&room, &[&flags[..], &["--first-piece"]].concat(), 0);
    let of_dog = |line: &str| json(line)["log_probabilities"]["a dog"].as_f64().unwrap();
    assert!(of_dog(&alone[0]) < of_dog(&first[0]));
}

#[test]
fn frames_stand_at_one_slot() {
    let room = room();
    fs::create_dir(room.path("clip")).unwrap();
    for (i, name) in ["f10.png", "f2.png", "f1.png"].into_iter().enumerate() {
        picture(&room.path("clip").join(name), i as u32 + 20);
    }
    let rule = ["--rule", "q-align", "--video", "--json"];
    let of = |paths: &[&str]| {
        let lines = score(&room, &[&rule[..], paths].concat(), 0);
        assert_eq!(lines.len(), 1, "{lines:?}");
        json(&lines[0])["score"].as_f64().unwrap()
    };
    let folder = of(&["clip"]);
    assert_eq!(folder, of(&["clip/f1.png", "clip/f2.png", "clip/f10.png"]));
    assert_ne!(folder, of(&["clip/f2.png", "clip/f1.png", "clip/f10.png"]));
    assert_eq!(of(&["--fps", "1", "clip"]), folder);
    // int(1.5 i) of two seconds.
    assert_eq!(
        of(&["--fps", "1.5", "clip"]),
        of(&["clip/f1.png", "clip/f2.png"])
    );
    assert_eq!(of(&["--fps", "30", "clip"]), of(&["clip/f1.png"]));
    assert_eq!(
        score(&room, &["--rule", "q-align", "--video", "-r", "photos"], 0).len(),
        2
    );

    // Two seconds of frames that a GIF's palette holds exactly.
    let flat = [[200, 30, 30, 255], [20, 40, 220, 255]]
        .map(|colour| RgbaImage::from_pixel(16, 12, Rgba(colour)));
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for (i, frame) in flat.iter().enumerate() {
        frame.save(room.path(&format!("g{i}.png"))).unwrap();
        let delay = Delay::from_numer_denom_ms(1000, 1);
        encoder
            .encode_frame(Frame::from_parts(frame.clone(), 0, 0, delay))
            .unwrap();
    }
    drop(encoder);
    fs::write(room.path("clip.gif"), bytes).unwrap();
    assert_eq!(of(&["clip.gif"]), of(&["g0.png", "g1.png"]));

    // Questions take the same frames, as a slot for each would.
    let ask = |args: &[&str]| {
        let flags = ["-m", "m.gguf", "-n", "5", "-t", "1", "--special"];
        let output = room.run(&[&flags[..], args].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    let by_frames = ask(&["-p", "a <|image|> b", "--frames", "g0.png", "g1.png"]);
    let pictures = ["--image", "g0.png", "--image", "g1.png"];
    let by_slots = [&["-p", "a <|image|><|image|> b"][..], &pictures].concat();
    assert_eq!(by_frames, ask(&by_slots));
    assert_eq!(
        by_frames,
        ask(&["-p", "a <|image|> b", "--frames", "clip.gif"])
    );
}

#[test]
fn comparison_needs_five_anchors_and_prefers_one_of_two() {
    let room = room();
    fs::create_dir(room.path("anchors")).unwrap();
    for i in 0..5 {
        picture(&room.path(&format!("anchors/{i}.png")), i + 30);
    }
    let flags = ["--rule", "compare2score", "--anchors", "anchors", "--json"];
    let lines = score(&room, &[&flags[..], &["photos"]].concat(), 0);
    assert_eq!(lines.len(), NAMES.len());
    for line in &lines {
        let object = json(line);
        assert_eq!(object["preferences"].as_array().unwrap().len(), 5);
        assert!((0.0..=100.0).contains(&object["score"].as_f64().unwrap()));
    }
    // One by one they get the same as in a row, where the anchors are computed once.
    let alone = score(&room, &[&flags[..], &["photos/c.png"]].concat(), 0);
    assert_eq!(
        json(&alone[0])["preferences"],
        json(&lines[2])["preferences"]
    );

    let compare = |args: &[&str], status| {
        let model = ["compare", "-m", "m.gguf", "-t", "1"];
        let output = room.run(&[&model[..], args].concat());
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let pair = ["photos/a.png", "anchors/0.png"];
    let rule = ["--rule", "compare2score"];
    let object = json(&compare(&[&rule[..], &["--json"], &pair].concat(), 0));
    assert!((0.0..=1.0).contains(&object["second_is_better"].as_f64().unwrap()));
    let line = compare(&[&rule[..], &pair].concat(), 0);
    assert!(
        line.contains("how likely anchors/0.png is better than photos/a.png"),
        "{line}"
    );
    assert!(!compare(&[&pair[..], &["-n", "3"]].concat(), 0).is_empty());
    compare(&[&rule[..], &pair, &["photos/b.png"]].concat(), 2);
    compare(&["photos/a.png"], 2);
}

/// What was done before Ctrl-C is in the table, whole, and the rest can be done later.
#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_is_done() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    const N: usize = 4000;
    let room = room();
    for i in 0..N {
        let name = room.path(&format!("photos/inner/{i}.png"));
        fs::hard_link(room.path("photos/a.png"), name).unwrap();
    }
    let args = [
        "score", "-m", "m.gguf", "-t", "1", "--rule", "q-align", "-r",
    ];
    let mut program = room
        .command(&[&args[..], &["--csv", "t.csv", "photos"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut lines = BufReader::new(program.stdout.take().unwrap());
    lines.read_line(&mut first).unwrap();
    let id = nix::unistd::Pid::from_raw(program.id().try_into().unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    std::io::copy(&mut lines, &mut std::io::sink()).unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(130));
    let table = fs::read_to_string(room.path("t.csv")).unwrap();
    let n_done = table.lines().count() - 1;
    assert!((1..N).contains(&n_done), "{n_done}");
    assert!(table.ends_with('\n'));
    let lines = score(
        &room,
        &["--rule", "q-align", "-r", "--resume", "t.csv", "photos"],
        0,
    );
    assert_eq!(lines.len(), N + NAMES.len() + 1 - n_done);
}
