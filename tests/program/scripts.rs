//! The program as scripts use it: pipes, folders, environment, and what it makes for shells.

use crate::{golden, room};
use std::fs::{self, File};
use std::process::{Command, Output};

use serde_json::Value;

use golden::{integers, text};
use room::{Room, stderr};

const QUESTION: &str = "What color is the sky?";

/// Runs the program with a file as its standard input.
fn with_input(room: &Room, input: &str, args: &[&str]) -> Output {
    let input = File::open(room.path(input)).unwrap();
    let mut command = room.command(args);
    command.stdin(input).output().unwrap()
}

#[track_caller]
fn answer_of(output: Output) -> String {
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_prompt_can_come_from_standard_input() {
    let room = Room::with_model();
    let flags = ["-m", "m.gguf", "-n", "8"];
    let wanted = room.stdout(&[&flags[..], &["-p", QUESTION]].concat());
    fs::write(room.path("question"), format!("{QUESTION}\n")).unwrap();
    fs::write(room.path("empty"), "\n").unwrap();
    fs::write(room.path("bytes"), b"\xff\xfe").unwrap();
    assert_eq!(answer_of(with_input(&room, "question", &flags)), wanted);
    let dash = [&flags[..], &["-p", "-"]].concat();
    assert_eq!(answer_of(with_input(&room, "question", &dash)), wanted);
    for (input, code, message) in [("empty", 2, "no prompt given"), ("bytes", 3, "UTF-8")] {
        let output = with_input(&room, input, &flags);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
}

#[test]
fn a_picture_can_come_from_standard_input() {
    let room = Room::with_model();
    let flags = ["-m", "m.gguf", "-n", "8", "-p", "What?", "--image"];
    let wanted = room.stdout(&[&flags[..], &["gray.png"]].concat());
    let dash = [&flags[..], &["-"]].concat();
    assert_eq!(answer_of(with_input(&room, "gray.png", &dash)), wanted);
    let output = with_input(&room, "m.gguf", &dash);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    for twice in [
        &["-m", "m.gguf", "--image", "-"][..],
        &["-m", "m.gguf", "--image", "-", "-p", "-"],
        &["-m", "m.gguf", "--image", "-", "--image", "-", "-p", "x"],
    ] {
        room.fails(twice, 2, &["--image", "standard input"]);
    }
}

/// A room with a folder of two pictures, one in a folder of its own, and other files.
fn with_folder() -> Room {
    let room = Room::with_model();
    fs::create_dir_all(room.path("photos/more")).unwrap();
    fs::copy(room.path("gray.png"), room.path("photos/b.PNG")).unwrap();
    fs::copy(room.path("wide_rgb.png"), room.path("photos/more/c.png")).unwrap();
    fs::write(room.path("photos/notes.txt"), "no picture").unwrap();
    fs::write(room.path("photos/.hidden.png"), "no picture").unwrap();
    room
}

#[test]
fn each_picture_of_a_folder_has_its_answer() {
    let room = with_folder();
    let flags = ["-m", "m.gguf", "-n", "8", "-p", "What?"];
    let alone = |picture| room.stdout(&[&flags[..], &["--image", picture]].concat());
    let (gray, wide) = (alone("gray.png"), alone("wide_rgb.png"));
    let gray_address = format!("file://{}", room.path("gray.png").display());
    let each = ["--each", "photos", "gray.png"];
    let output = room.run(&[&flags[..], &each].concat());
    assert!(output.status.success());
    let said = stderr(&output);
    assert!(
        said.contains("photos/b.PNG: the answer was cut at 8 tokens"),
        "{said}"
    );
    let last = "owl2: skipped 1 file: 1 without a picture";
    assert_eq!(said.lines().last(), Some(last));
    let answers = String::from_utf8(output.stdout).unwrap();
    let wanted = format!("photos/b.PNG: {gray}photos/more/c.png: {wide}gray.png: {gray}");
    assert_eq!(answers, wanted);

    let address = room.run(&[&flags[..], &["--each", &gray_address]].concat());
    assert!(answer_of(address).ends_with(&format!("gray.png: {gray}")));

    let output = room.run(&[&flags[..], &["--json"], &each].concat());
    let lines = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 3);
    assert_eq!(objects[1]["image"], "photos/more/c.png");
    assert_eq!(format!("{}\n", text(&objects[1]["text"])), wide);
    // What stands before the picture is computed once, and an old picture encoded once.
    assert_eq!(objects[0]["tokens"]["reused"], 0);
    assert!(objects[2]["tokens"]["reused"].as_u64() > Some(0));
    assert_eq!(objects[2]["seconds"]["vit"], 0.0);
}

#[test]
fn a_bad_picture_does_not_stop_the_rest() {
    let room = with_folder();
    fs::write(room.path("photos/a.png"), "no picture").unwrap();
    let args = [
        "-m", "m.gguf", "-n", "8", "-p", "What?", "--each", "none.png", "photos",
    ];
    let output = room.run(&args);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    for wanted in ["none.png", "photos/a.png", "2 of 4 pictures failed"] {
        assert!(said.contains(wanted), "{said}");
    }
    let answers = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answers.contains("photos/b.PNG: ") && answers.contains("photos/more/c.png: "));

    let output = room.run(&[&args[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let first = String::from_utf8_lossy(&output.stdout).into_owned();
    let first: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert_eq!(first["image"], "none.png");
    assert!(text(&first["error"]).contains("none.png"));
}

#[test]
fn what_a_picture_lacks_is_said() {
    let room = Room::with_model();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jpeg/photo.jpg");
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.len() * 65 / 100);
    bytes.extend([0xff, 0xd9]);
    fs::write(room.path("cut.jpg"), bytes).unwrap();
    let flags = ["-m", "m.gguf", "-n", "2", "-p", "What?"];
    for more in [
        &["--image", "cut.jpg"][..],
        &["--image", "cut.jpg", "--json"],
        &["--each", "cut.jpg"],
        &["--each", "cut.jpg", "--json"],
    ] {
        let output = room.run(&[&flags[..], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("owl2: cut.jpg: data for "), "{said}");
        if more.contains(&"--json") {
            let json: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(text(&json["warnings"][0]).starts_with("cut.jpg: data for "));
        }
    }
    // The same from commands that compare pictures, whichever is damaged.
    fs::create_dir(room.path("anchors")).unwrap();
    for number in 1..=5 {
        let from = if number == 3 { "cut.jpg" } else { "gray.png" };
        fs::copy(room.path(from), room.path(&format!("anchors/{number}"))).unwrap();
    }
    let words = ["--rule", "compare2score"];
    for (args, name) in [
        (&["compare", "cut.jpg", "gray.png"][..], "cut.jpg"),
        (&["compare", "gray.png", "cut.jpg"], "cut.jpg"),
        (&["score", "gray.png", "--anchors", "anchors"], "anchors/3"),
        (&["score", "cut.jpg", "--anchors", "anchors"], "cut.jpg"),
    ] {
        // The built-in model has the words of the rule.
        let output = room.run(&[args, &words].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let wanted = format!("owl2: {name}: data for ");
        assert!(stderr(&output).contains(&wanted), "{}", stderr(&output));
    }
    let asked = ["compare", "gray.png", "cut.jpg", "-p", "Which?", "-n", "2"];
    let output = room.run(&asked);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("owl2: cut.jpg: data for "));
}

/// A folder as phones and other programs leave it.
#[cfg(unix)]
#[test]
fn pictures_of_a_folder_are_told_by_content_and_the_rest_is_counted() {
    let room = Room::with_model();
    fs::create_dir(room.path("phone")).unwrap();
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    let avif = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf";
    for (name, bytes) in [
        ("a.jfif", fs::read(room.path("exif_orient6.jpg")).unwrap()),
        ("b", fs::read(room.path("gray.png")).unwrap()),
        ("IMG_1.HEIC", heic.to_vec()),
        ("IMG_2.heic", heic.to_vec()),
        ("c.avif", avif.to_vec()),
        ("d.mov", b"\0\0\0\x14ftypqt  \0\0\0\0qt  ".to_vec()),
        ("notes.txt", b"Dear owl".to_vec()),
        ("nothing", Vec::new()),
    ] {
        fs::write(room.path("phone").join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink(".", room.path("phone/here")).unwrap();
    // Nobody writes to it: reading it would take for ever.
    let made = Command::new("mkfifo")
        .arg(room.path("phone/e.png"))
        .status();
    assert!(made.unwrap().success());

    let flags = ["-m", "m.gguf", "-n", "2", "-p", "What?", "--each"];
    let output = room.run(&[&flags[..], &["phone"]].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for wanted in [
        "skipped 8 files",
        "2 HEIC (`heif-convert IN OUT.jpg` converts one)",
        "1 AVIF (`avifdec",
        "3 without a picture",
        "2 that are pipes, devices or links to folders",
        "0 of 2 pictures failed, and 3 were skipped",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
    let answers = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = answers
        .lines()
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(names, ["phone/a.jfif", "phone/b"]);

    for (name, wanted) in [
        ("phone/IMG_1.HEIC", "is HEIC"),
        ("phone/e.png", "is a named pipe"),
        ("phone/c.avif", "`avifdec IN OUT.png` converts it"),
    ] {
        room.fails(
            &["-m", "m.gguf", "-p", "x", "--image", name],
            3,
            &[name, wanted],
        );
    }
    for name in ["a.jfif", "b", "nothing", "notes.txt", "d.mov"] {
        fs::remove_file(room.path("phone").join(name)).unwrap();
    }
    let output = room.run(&[&flags[..], &["phone"]].concat());
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("2 HEIC"), "{}", stderr(&output));
}

/// What a shell makes of `<(...)`.
#[cfg(target_os = "linux")]
#[test]
fn a_pipe_that_the_caller_opened_is_read() {
    let room = Room::with_model();
    let script = "exec 3< <(cat gray.png) && exec \"$0\" -m m.gguf -n 2 -p x --image /dev/fd/3";
    let mut command = Command::new("bash");
    command.current_dir(room.path("")).args(["-c", script]);
    let output = command.arg(env!("CARGO_BIN_EXE_owl2")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn each_refuses_what_would_fail_for_all() {
    let room = with_folder();
    fs::create_dir(room.path("nothing")).unwrap();
    let flags = ["-m", "m.gguf", "-p", "What?"];
    let with = |more: &[&'static str]| [&flags[..], more].concat();
    room.fails(&with(&["--each", "nothing"]), 3, &["--each", "no pictures"]);
    room.fails(&with(&["--each", "photos", "--temp", "-1"]), 2, &["--temp"]);
    room.fails(&with(&["--each", "photos", "-c", "5"]), 6, &["--ctx-size"]);
    room.fails(
        &with(&["--each", "photos", "--image", "gray.png"]),
        2,
        &["--image"],
    );
    room.fails(
        &["-m", "m.gguf", "--each", "photos"],
        2,
        &["no prompt given"],
    );
}

#[test]
fn the_environment_stands_in_for_flags() {
    let room = Room::with_model();
    let wanted = room.stdout(&["-m", "m.gguf", "-n", "8", "-p", QUESTION]);
    let run = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = room.command(args);
        command.envs(variables.iter().copied());
        answer_of(command.output().unwrap())
    };
    let model = ("OWL2_MODEL", "m.gguf");
    let all = [model, ("OWL2_PROMPT", QUESTION), ("OWL2_MAX_TOKENS", "8")];
    assert_eq!(run(&all, &[]), wanted);
    assert_eq!(
        run(
            &[("OWL2_MODEL", "none.gguf"), all[1], all[2]],
            &["-m", "m.gguf"]
        ),
        wanted
    );
    let json = run(&[model, ("OWL2_JSON", "1")], &["-n", "8", "-p", QUESTION]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(format!("{}\n", text(&json["text"])), wanted);
    assert_eq!(
        run(
            &[("OWL2_JSON", "0")],
            &["-m", "m.gguf", "-n", "8", "-p", QUESTION]
        ),
        wanted
    );
    // Commands share what they have in common.
    assert!(run(&[model], &["info"]).contains("decoder"));
    let tokens = [model, ("OWL2_RAW", "1")];
    assert!(run(&tokens, &["tokenize", "</s>"]).contains("</s>"));
    let bench = room
        .command(&["bench"])
        .envs([model, ("OWL2_BENCH_PP", "-1")])
        .output();
    assert!(stderr(&bench.unwrap()).contains("--pp"));

    let output = room
        .command(&[])
        .env("OWL2_TOP_K", "many")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--top-k"), "{}", stderr(&output));
}

#[test]
fn control_tokens_are_spelled_out_if_asked() {
    let room = Room::with_model();
    // This answer ends by itself.
    let args = ["-m", "m.gguf", "--json", "-p", "hello"];
    let plain = room.json(&args);
    assert_eq!(plain["stop"], "end_of_text");
    let special = room.json(&[&args[..], &["--special"]].concat());
    assert_eq!(special["text"], format!("{}</s>", text(&plain["text"])));
    assert_eq!(special["ids"], plain["ids"]);
}

#[test]
fn a_system_text_changes_the_prompt() {
    let room = Room::with_model();
    let n_prompt = |more: &[&str]| {
        let args = ["-m", "m.gguf", "--json", "-n", "1", "-p", "hello"];
        let json = room.json(&[&args[..], more].concat());
        json["tokens"]["prompt"].as_u64().unwrap()
    };
    assert_eq!(n_prompt(&["--system", ""]), n_prompt(&[]));
    assert!(n_prompt(&["--system", "Be brief."]) > n_prompt(&[]));
    let v1 = ["--template", "v1"];
    assert!(n_prompt(&[&v1[..], &["--system", ""]].concat()) < n_prompt(&v1));
    room.fails(
        &["-m", "m.gguf", "-p", "x", "--raw", "--system", "y"],
        2,
        &["--raw"],
    );
}

#[test]
fn a_text_is_tokenized() {
    let room = Room::with_model();
    let json = room.json(&["tokenize", "-m", "m.gguf", "--json", "the sky</s>"]);
    let ids = integers(&json["ids"]);
    assert_eq!(
        (ids[0], ids.len()),
        (1, json["pieces"].as_array().unwrap().len())
    );
    assert!(!ids.contains(&2));
    let raw = room.json(&["tokenize", "-m", "m.gguf", "--json", "--raw", "the sky</s>"]);
    assert_eq!(integers(&raw["ids"]).last(), Some(&2));
    let lines = room.stdout(&["tokenize", "-m", "m.gguf", "the sky"]);
    assert!(lines.starts_with("     1  <s>\n"), "{lines}");
    fs::write(room.path("text"), "the sky\n").unwrap();
    let piped = with_input(&room, "text", &["tokenize", "-m", "m.gguf"]);
    assert_eq!(answer_of(piped), lines);
    room.fails(&["tokenize", "-m", "gray.png", "x"], 4, &["gray.png"]);
}

#[test]
fn help_begins_with_examples_and_names_variables_and_defaults() {
    let help = Room::new().stdout(&["--help"]);
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text}: {help}"));
    assert!(at("Examples:") < at("Usage:") && at("Usage:") < at("Options:"));
    let example = &help[at("Examples:")..at("Usage:")];
    assert_eq!(example.matches("owl2 -m").count(), 3, "{example}");
    for heading in ["Question:", "Prompt:", "Sampling:", "Running:", "Output:"] {
        at(heading);
    }
    at("Exit status:\n    0  success");
    let mut flags = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'));
    assert!(flags.clone().count() > 20);
    assert!(flags.all(|line| line.contains("--")));
    for flag in [
        "model", "temp", "top-k", "ctx-size", "each", "json", "cache", "system",
    ] {
        at(&format!("--{flag}"));
        // Where a line ends depends on what comes before.
        let variable = flag.to_uppercase().replace('-', "_");
        assert!(words.contains(&format!("[env: OWL2_{variable}]")), "{flag}");
    }
    assert!(help.matches("[default:").count() >= 10, "{help}");
    assert!(!help.contains('\u{1b}'));
}

#[test]
fn completions_and_manual_are_printed() {
    let room = Room::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = room.stdout(&["completions", shell]);
        assert!(script.contains("ctx-size"), "{shell}");
    }
    let page = room.stdout(&["man"]);
    assert!(
        page.contains(".TH owl2") && page.contains("ctx\\-size"),
        "{page}"
    );
    room.fails(&["completions", "tcsh"], 2, &["bash"]);
}

#[test]
fn computed_positions_go_from_run_to_run() {
    let room = Room::with_model();
    let flags = ["-m", "m.gguf", "-n", "8", "--json", "--image", "gray.png"];
    let ask = |more: &[&str]| room.json(&[&flags[..], more].concat());
    let wanted = ask(&["-p", "And this?"]);
    let first = ask(&["-p", "What?", "--cache", "state"]);
    assert_eq!(first["tokens"]["reused"], 0);
    // Another question about the same picture: it is not encoded again.
    let second = ask(&["-p", "And this?", "--cache", "state"]);
    assert!(second["tokens"]["reused"].as_u64() > Some(9), "{second}");
    assert_eq!(second["seconds"]["vit"], 0.0);
    assert_eq!(second["ids"], wanted["ids"]);
    let entries = fs::read_dir(room.path("")).unwrap();
    assert_eq!(entries.count(), 5, "a temporary file is left");
}

#[test]
fn a_stale_cache_is_told_and_replaced_and_another_file_kept() {
    let room = Room::with_model();
    let flags = ["-m", "m.gguf", "-n", "8", "-p", QUESTION];
    let wanted = room.stdout(&flags);
    let cached = [&flags[..], &["--cache", "state"]].concat();
    assert_eq!(room.stdout(&cached), wanted);
    let mut state = fs::read(room.path("state")).unwrap();
    let last = state.len() - 1;
    state[last] ^= 1;
    fs::write(room.path("state"), state).unwrap();
    let output = room.run(&cached);
    assert!(stderr(&output).contains("state: ignoring the cache"));
    assert_eq!(answer_of(output), wanted);
    assert_eq!(room.stdout(&cached), wanted);

    fs::write(room.path("letter"), "dear reader").unwrap();
    let foreign = [&flags[..], &["--cache", "letter"]].concat();
    room.fails(&foreign, 3, &["letter", "--cache"]);
    assert_eq!(fs::read(room.path("letter")).unwrap(), b"dear reader");
    let nowhere = [&flags[..], &["--cache", "no/such/folder"]].concat();
    let output = room.run(&nowhere);
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr(&output).contains("no/such: cannot create"));
}
