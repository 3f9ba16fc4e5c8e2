//! The `owl2` program as a user meets it: answers, flags, errors and exit codes.

use crate::{checkpoints, golden, room, tiny};
use std::process::{Command, Stdio};

use owl2::model::config::Config;
use serde_json::Value;

use golden::{Golden, elements, integers, members, text};
use room::{Room, stderr};

/// Every case of every checkpoint whose pictures are PNG files, which all decoders agree on.
#[test]
fn answers_are_those_of_the_reference() {
    let golden = Golden::open();
    let mut n_checked = 0;
    for (name, entry) in golden.checkpoints() {
        let room = Room::new();
        let checkpoint = checkpoints::open(&golden, entry).unwrap();
        checkpoints::convert(checkpoint, &room.path("m.gguf")).unwrap();
        for (case, entry) in members(&entry["cases"]) {
            let images: Vec<&str> = elements(&entry["images"]).map(text).collect();
            if entry["gen_text"].is_string() && images.iter().all(|i| i.ends_with(".png")) {
                check_case(&golden, &room, &format!("{name}/{case}"), entry, &images);
                n_checked += 1;
            }
        }
    }
    assert!(n_checked > 0);
}

fn check_case(golden: &Golden, room: &Room, at: &str, entry: &Value, images: &[&str]) {
    let wanted = golden.tensors(text(&entry["file"])).i64s("gen_ids");
    let n = wanted.len().to_string();
    let mut args = vec!["-m", "m.gguf", "-n", &n, "--reference-pixels", "--json"];
    args.extend(["--aspect", entry["aspect"].as_str().unwrap_or("crop")]);
    let pictures: Vec<String> = images
        .iter()
        .map(|image| golden.path("images").join(image).display().to_string())
        .collect();
    for picture in &pictures {
        args.extend(["--image", picture]);
    }
    let mut prompts = vec![vec!["--raw", "-p", text(&entry["prompt"])]];
    let turns: Vec<&str> = elements(&entry["conversation"]).map(text).collect();
    if let [question] = turns[..] {
        prompts.push(vec!["-p", question]);
    }
    for prompt in prompts {
        let answer = room.json(&[&args[..], &prompt].concat());
        assert_eq!(integers(&answer["ids"]), wanted, "{at}: {prompt:?}");
        assert_eq!(answer["text"], entry["gen_text"], "{at}: {prompt:?}");
        assert_eq!(
            answer["tokens"]["prompt"], entry["seq_len"],
            "{at}: {prompt:?}"
        );
    }
}

#[test]
fn only_the_answer_and_one_newline_go_to_standard_output() {
    let room = Room::with_model();
    let args = ["-m", "m.gguf", "-p", "What color is the sky?", "-n", "24"];
    let answer = room.stdout(&args);
    let json = room.json(&[&args[..], &["--json"]].concat());
    assert_eq!(answer, format!("{}\n", text(&json["text"])));

    let output = room.run(&[&args[..], &["-v"]].concat());
    assert_eq!(String::from_utf8(output.stdout.clone()).unwrap(), answer);
    for stage in ["load", "prefill", "decode", "total"] {
        assert!(stderr(&output).contains(stage), "{}", stderr(&output));
    }
}

#[test]
fn json_has_text_counts_and_timings() {
    let room = Room::with_model();
    let image = ["--image", "wide_rgb.png", "-p", "Describe the image."];
    let json = room.json(&[&["-m", "m.gguf", "--json", "-n", "5"][..], &image].concat());
    assert_eq!(json["stop"], "max_tokens");
    assert_eq!(json["tokens"]["prompt"], 20);
    assert_eq!(json["tokens"]["image"], 9);
    assert_eq!(json["tokens"]["generated"], 5);
    assert_eq!(integers(&json["ids"]).len(), 5);
    for stage in [
        "load",
        "decode_image",
        "preprocess",
        "vit",
        "abstractor",
        "prefill",
        "decode",
    ] {
        assert!(json["seconds"][stage].as_f64().unwrap() > 0.0, "{stage}");
    }
}

#[test]
fn the_length_of_an_answer_is_what_fits() {
    let room = Room::with_model();
    let args = ["-m", "m.gguf", "--json", "-p", "What color is the sky?"];
    let generated = |more: &[&str]| {
        let json = room.json(&[&args[..], more].concat());
        let n = json["tokens"]["generated"].as_u64().unwrap();
        (n, text(&json["stop"]).to_owned())
    };
    assert_eq!(generated(&["-n", "7"]), (7, "max_tokens".into()));
    assert_eq!(generated(&["-c", "20"]), (8, "context_full".into()));
    assert_eq!(
        generated(&["-c", "20", "-n", "8"]),
        (8, "max_tokens".into())
    );

    let flags = |more: &[&'static str]| [&args[..], more].concat();
    let numbers = ["12 positions", "up to 9", "has 20", "--ctx-size to 21"];
    room.fails(&flags(&["-c", "20", "-n", "9"]), 6, &numbers);
    room.fails(&flags(&["-c", "12"]), 6, &["12 positions", "has 12"]);
    let picture = ["--image", "gray.png", "-c", "15"];
    room.fails(&flags(&picture), 6, &["22 positions (9 of them"]);
    room.fails(&flags(&["-c", "99999999999"]), 2, &["--ctx-size"]);
    room.fails(
        &flags(&["-n", "16000000", "-c", "16700000"]),
        6,
        &["memory"],
    );
}

#[test]
fn answers_end_before_a_stop_text() {
    let room = Room::with_model();
    let args = ["-m", "m.gguf", "-n", "24", "-p", "What color is the sky?"];
    let whole = room.stdout(&args);
    // "photoISTusegeird" is of several tokens: "photo", "IST", "use", "ge", ...
    for stop in ["photoIST", "toISTuse", "theic bus"] {
        let (before, _) = whole.split_once(stop).unwrap();
        let stopped = room.stdout(&[&args[..], &["--stop", stop]].concat());
        assert_eq!(stopped, format!("{before}\n"), "{stop}");
    }
    let json = room.json(&[&args[..], &["--json", "--stop", "no", "--stop", "IST"]].concat());
    assert_eq!(json["stop"], "stop_text");
    assert!(text(&json["text"]).ends_with("photo"));
    let unmatched = room.stdout(&[&args[..], &["--stop", "sittingn chairs"]].concat());
    assert_eq!(unmatched, whole);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let room = Room::with_model();
    let with_seed = |seed: &str| {
        let flags = ["--temp", "1.5", "-n", "30", "--seed", seed];
        room.stdout(&[&["-m", "m.gguf", "-p", "hello"][..], &flags].concat())
    };
    assert_eq!(with_seed("7"), with_seed("7"));
    assert_ne!(with_seed("7"), with_seed("8"));
}

#[test]
fn pictures_stand_where_the_markers_are() {
    let room = Room::with_model();
    let ids = |prompt: &str, images: &[&str]| {
        let mut args = vec!["-m", "m.gguf", "--json", "-n", "12", "-p", prompt];
        for image in images {
            args.extend(["--image", image]);
        }
        let json = room.json(&args);
        assert_eq!(json["tokens"]["image"], 9 * images.len());
        integers(&json["ids"])
    };
    let (a, b) = ("wide_rgb.png", "gray.png");
    let in_front = ids("Which?", &[a, b]);
    assert_eq!(in_front, ids("<|image|><|image|>Which?", &[a, b]));
    assert_ne!(in_front, ids("Which?", &[b, a]));
    assert_ne!(in_front, ids("<|image|>Which?<|image|>", &[a, b]));

    let mismatch = ["-m", "m.gguf", "--image", a, "-p", "<|image|><|image|>"];
    room.fails(&mismatch, 3, &["2 '<|image|>'", "pictures is 1"]);
    room.fails(&["-m", "m.gguf", "-p", "<|image|>"], 3, &["pictures is 0"]);
}

#[test]
fn exif_and_aspect_change_what_is_seen() {
    let room = Room::with_model();
    let args = ["-m", "m.gguf", "-n", "12", "-p", "Describe."];
    let answer = |more: &[&str]| room.stdout(&[&args[..], more].concat());
    let turned = ["--image", "exif_orient6.jpg"];
    assert_ne!(
        answer(&turned),
        answer(&[&turned[..], &["--no-exif"]].concat())
    );
    // What both are about is turned in the same way.
    assert_eq!(
        answer(&[&turned[..], &["--no-exif"]].concat()),
        answer(&[&turned[..], &["--reference-pixels"]].concat())
    );
    let alpha = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/image/rgba.png");
    assert_ne!(
        answer(&["--image", alpha]),
        answer(&["--image", alpha, "--reference-pixels"])
    );
    let wide = ["--image", "wide_rgb.png", "--aspect"];
    let squashed = answer(&[&wide[..], &["squash"]].concat());
    assert_ne!(squashed, answer(&[&wide[..], &["pad"]].concat()));
    assert_eq!(squashed, answer(&wide[..2]));
}

#[test]
fn errors_name_what_is_wrong_and_have_their_exit_codes() {
    let room = Room::with_model();
    std::fs::create_dir(room.path("checkpoint")).unwrap();
    std::fs::write(room.path("text.png"), "no picture").unwrap();
    std::fs::write(room.path("model.safetensors"), [7; 64]).unwrap();
    let m = ["-m", "m.gguf", "-p", "x"];
    let with = |more: &[&'static str]| [&m[..], more].concat();
    room.fails(&[], 2, &["no prompt given"]);
    room.fails(&["-m", "m.gguf"], 2, &["no prompt given"]);
    room.fails(&["-m", "none.gguf", "-p", "x"], 5, &["none.gguf"]);
    let advice = "owl2-convert checkpoint -o model.gguf";
    room.fails(&["-m", "checkpoint", "-p", "x"], 4, &[advice]);
    let advice = ["model.safetensors", "owl2-convert"];
    room.fails(&["-m", "model.safetensors", "-p", "x"], 4, &advice);
    room.fails(&with(&["--image", "none.png"]), 5, &["none.png"]);
    room.fails(&with(&["--image", "text.png"]), 3, &["text.png"]);
    room.fails(&with(&["--temp", "-1"]), 2, &["--temp"]);
    room.fails(&with(&["--temp", "warm"]), 2, &["--temp"]);
    room.fails(&with(&["--top-p", "1.5"]), 2, &["--top-p"]);
    room.fails(&with(&["--min-p", "nan"]), 2, &["--min-p"]);
    room.fails(&with(&["--repeat-penalty", "0"]), 2, &["--repeat-penalty"]);
    room.fails(&with(&["--threads", "0"]), 2, &["--threads"]);
    room.fails(&with(&["-n", "0"]), 2, &["--max-tokens"]);
    room.fails(&with(&["--aspect", "round"]), 2, &["--aspect", "squash"]);
    room.fails(
        &with(&["--template", "v7"]),
        2,
        &["--template", "mplug_owl2"],
    );
    room.fails(&with(&["--raw", "--template", "v1"]), 2, &["--raw"]);
    room.fails(&["info", "none.gguf"], 5, &["none.gguf"]);
    let mut file = std::fs::read(room.path("m.gguf")).unwrap();
    let name = b"mplug_owl2";
    let at = file.windows(name.len()).position(|bytes| bytes == name);
    file[at.unwrap()..][..name.len()].copy_from_slice(b"mplug_owl9");
    std::fs::write(room.path("other.gguf"), file).unwrap();
    let other = ["is 'mplug_owl9'", "'mplug_owl2'", "'llama'"];
    room.fails(&["-m", "other.gguf", "-p", "x"], 4, &other);
}

#[test]
fn a_plain_llama_file_continues_text() {
    let room = Room::new();
    let config = Config {
        visual: None,
        ..tiny::config()
    };
    std::fs::write(room.path("m.gguf"), tiny::file(&config, 3)).unwrap();
    let args = ["-m", "m.gguf", "--json", "-n", "8", "-p"];
    let json = room.json(&[&args[..], &["ab</s>"]].concat());
    // <s>, the space, "a", "b", and "</s>" as four characters, not as a control token.
    assert_eq!(json["tokens"]["prompt"], 8);
    let json = room.json(&[&args[..], &["ab</s>", "--raw"]].concat());
    assert_eq!(json["tokens"]["prompt"], 5);
    let picture = room::own_golden("images/gray.png").display().to_string();
    let picture = [&args[..], &["x", "--image", &picture]].concat();
    room.fails(&picture, 3, &["no image branch"]);
    assert!(room.stdout(&["info", "m.gguf"]).contains("decoder"));
}

#[test]
fn info_describes_the_file() {
    let room = Room::with_model();
    let shown = room.stdout(&["info", "m.gguf", "-c", "100"]);
    for part in [
        "vit ",
        "abstractor",
        "decoder",
        "embedding",
        "output",
        "context of 100",
        "instructions",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let json = room.json(&["info", "m.gguf", "--json"]);
    assert_eq!(json["architecture"], "mplug_owl2");
    assert_eq!(json["decoder"]["layers"], 4);
    assert_eq!(json["visual"]["positions_per_image"], 9);
    assert_eq!(json["parts"]["vit"]["bits_per_weight"], 32.0);
    let memory = json["memory_bytes"].as_u64().unwrap();
    assert!(memory > json["file_bytes"].as_u64().unwrap());
}

#[test]
fn info_models_a_board_and_says_that_it_does() {
    let room = Room::with_model();
    let shown = room.stdout(&["info", "m.gguf", "--board", "pi5"]);
    for part in ["Cortex-A76", "picture", "generation", "not a measurement"] {
        assert!(shown.contains(part), "{shown}");
    }
    let seconds = |board: &str| {
        let json = room.json(&["info", "m.gguf", "--board", board, "--json"]);
        assert_eq!(json["board"]["is_model"], true);
        json["board"]["picture_s"].as_f64().unwrap()
    };
    assert!(seconds("pi4") > seconds("m1"));
    room.fails(&["info", "m.gguf", "--board", "pi3"], 2, &["pi3", "pi4"]);
}

#[test]
fn heads_that_no_block_fits_are_not_kept_in_blocks() {
    let room = Room::new();
    std::fs::write(room.path("m.gguf"), tiny::file(&tiny::config(), 1)).unwrap();
    let args = ["-m", "m.gguf", "-p", "hello", "--cache-type", "q8_0"];
    room.fails(&args, 2, &["--cache-type", "f16"]);
}

/// A reader that has gone is no failure.
#[test]
fn a_broken_pipe_is_quiet() {
    let room = Room::with_model();
    for args in [
        &["-m", "m.gguf", "-p", "hello", "-n", "200"][..],
        &["-m", "m.gguf", "-p", "hello", "-n", "20", "--json"],
        &["info", "m.gguf"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = room.command(args).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(stderr(&output), "", "{args:?}");
    }
}

/// Interrupted in the middle of an answer, it ends with the exit status for that.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_it_at_once() {
    use std::io::Read;

    let room = Room::with_model();
    let long = room::long_text();
    let args = ["-m", "m.gguf", "-p", "hello", "-c", "100000", "-n", "90000"];
    let args = [&args[..], &["--choices", &long]].concat();
    let mut child = room.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    let stdout = child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut first).unwrap();
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn texts_may_begin_with_a_dash_and_numbers_below_zero_are_refused_by_name() {
    let room = Room::with_model();
    let ask = ["-m", "m.gguf", "-n", "2"];
    for more in [
        &["-p", "-What is it?"][..],
        &["-p", "--what"],
        &["-p", "x", "--system", "-Be brief."],
        &["-p", "x", "--stop", "-"],
        &["-p", "x", "--choices", "-1,-2", "-n", "9"],
    ] {
        let args = match more.contains(&"-n") {
            true => [&ask[..2], more].concat(),
            false => [&ask[..], more].concat(),
        };
        room.stdout(&args);
    }
    for (flag, command) in [
        ("--threads", None),
        ("--ctx-size", None),
        ("--temp", None),
        ("--limit", Some("eval")),
        ("--window", Some("perplexity")),
        ("--pp", Some("bench")),
    ] {
        let args = match command {
            None => vec!["-m", "m.gguf", "-p", "x", flag, "-1"],
            Some("eval") => vec!["eval", "-m", "m.gguf", "--questions", "q", flag, "-1"],
            Some(command) => vec![command, "-m", "m.gguf", flag, "-1"],
        };
        room.fails(&args, 2, &[flag]);
    }
}

#[test]
fn an_address_of_a_file_names_a_picture() {
    let room = Room::with_model();
    std::fs::copy(room.path("gray.png"), room.path("my cat.png")).unwrap();
    let address = format!("file://{}", room.path("my cat.png").display()).replace(' ', "%20");
    let answer = |image: &str| {
        let args = ["-m", "m.gguf", "-n", "4", "-p", "What?", "--image", image];
        room.stdout(&args)
    };
    assert_eq!(answer(&address), answer("gray.png"));
    let args = [
        "-m",
        "m.gguf",
        "-p",
        "x",
        "--image",
        "file:///no%20where.png",
    ];
    room.fails(&args, 5, &["/no where.png"]);
}
