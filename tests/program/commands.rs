//! What users of other programs of this kind type: arguments without flags, -1, aliases, pipes.

use std::fs::{self, File};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::golden::text;
use crate::room::{Room, stderr};

const QUESTION: &str = "What is it?";

#[track_caller]
fn answer_of(output: Output) -> String {
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pictures_and_prompt_need_no_flags() {
    let room = Room::with_model();
    fs::copy(room.path("gray.png"), room.path("picture")).unwrap();
    let flags = ["-m", "m.gguf", "-n", "8"];
    let ask = |more: &[&str]| room.stdout(&[&flags[..], more].concat());
    let wanted = ask(&["--image", "gray.png", "-p", QUESTION]);
    for line in [
        &["gray.png", QUESTION][..],
        &[QUESTION, "gray.png"],
        &["picture", QUESTION],
        &["gray.png", "-p", QUESTION],
        &["--image", "gray.png", QUESTION],
    ] {
        assert_eq!(ask(line), wanted, "{line:?}");
    }
    let two = ask(&[
        "--image",
        "gray.png",
        "--image",
        "wide_rgb.png",
        "-p",
        QUESTION,
    ]);
    assert_ne!(two, wanted);
    assert_eq!(ask(&["gray.png", "wide_rgb.png", QUESTION]), two);
    assert_eq!(ask(&["describe"]), ask(&["-p", "describe"]));

    let with = |more: &[&'static str]| [&flags[..], more].concat();
    for (line, wanted) in [
        (&["a b", "c d"][..], "two prompts, 'a b' and 'c d'"),
        (&["-p", "a", "b c"], "cannot be used with '--prompt'"),
        (&["gray.png", "x", "--each", "gray.png"], "'--each'"),
        (&["inof"], "'info' exists"),
        (&["inof"], "-p inof"),
        (&["other.gguf", "x"], "'m.gguf' is the model already"),
        (&["."], "--each"),
    ] {
        room.fails(&with(line), 2, &[wanted]);
    }
    room.fails(&with(&["none.png", "x"]), 5, &["none.png"]);
    let url = "https://example.org/cat.png";
    room.fails(&with(&[url, "x"]), 2, &[url, "download"]);
}

#[test]
fn what_is_typed_wins_over_the_environment() {
    let room = Room::with_model();
    let flags = ["-m", "m.gguf", "-n", "8"];
    let run = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = room.command(&[&flags[..], args].concat());
        command.envs(variables.iter().copied());
        answer_of(command.output().unwrap())
    };
    let gray = room.stdout(&[&flags[..], &["gray.png", QUESTION]].concat());
    let both = room.stdout(&[&flags[..], &["gray.png", "wide_rgb.png", QUESTION]].concat());
    let wide = ("OWL2_IMAGE", "wide_rgb.png");
    assert_eq!(run(&[wide], &["gray.png", QUESTION]), gray);
    assert_eq!(run(&[wide], &["--image", "gray.png", QUESTION]), gray);
    assert_eq!(
        run(&[("OWL2_EACH", "wide_rgb.png")], &["gray.png", QUESTION]),
        gray
    );
    assert_eq!(run(&[("OWL2_PROMPT", "x")], &["gray.png", QUESTION]), gray);
    let each = run(&[wide], &["--each", "gray.png", "-p", QUESTION]);
    assert_eq!(each, format!("gray.png: {gray}"));
    // A list has a line for each picture.
    let list = ("OWL2_IMAGE", "gray.png\nwide_rgb.png");
    assert_eq!(run(&[list], &[QUESTION]), both);
    // Two of a kind where one may be given.
    let template = ("OWL2_TEMPLATE", "v1");
    let raw = room.stdout(&[&flags[..], &["--raw", "-p", QUESTION]].concat());
    assert_eq!(run(&[template], &["--raw", "-p", QUESTION]), raw);
    let twice = room
        .command(&["-m", "m.gguf", "--raw", "--template", "v1", "-p", "x"])
        .output()
        .unwrap();
    assert_eq!(twice.status.code(), Some(2));
}

#[test]
fn names_and_numbers_of_llama_cpp_work() {
    let room = Room::with_model();
    let json = |more: &[&str]| {
        let args = ["-m", "m.gguf", "--json", "-p", "What color is the sky?"];
        room.json(&[&args[..], more].concat())
    };
    let sampled = ["--temperature", "1.5", "--n-predict", "12", "--seed", "-1"];
    let first = json(&[&sampled[..], &["--top-k", "-1"]].concat());
    let seed = first["seed"].to_string();
    let again = json(&["--temp", "1.5", "-n", "12", "--seed", &seed, "--top-k", "0"]);
    assert_eq!(first["ids"], again["ids"]);
    let seeds: Vec<Value> = (0..4).map(|_| json(&sampled)["seed"].clone()).collect();
    assert!(seeds.iter().any(|seed| *seed != seeds[0]), "{seeds:?}");

    let whole = json(&["-n", "-1", "-c", "20"]);
    assert_eq!(whole["tokens"]["generated"], 8);
    assert_eq!(whole["finish_reason"], "length");
    let usage = &whole["usage"];
    assert_eq!(
        (
            &usage["prompt_tokens"],
            &usage["completion_tokens"],
            &usage["total_tokens"]
        ),
        (&12.into(), &8.into(), &20.into())
    );
    let ended = room.json(&["-m", "m.gguf", "--json", "hello"]);
    assert_eq!(ended["finish_reason"], "stop");
    assert!(ended.get("seed").is_none());
    for (flag, name) in [
        ("-n", "--max-tokens"),
        ("--seed", "--seed"),
        ("--top-k", "--top-k"),
    ] {
        room.fails(&["-m", "m.gguf", "-p", "x", flag, "-2"], 2, &[name, "-1"]);
    }
    let verbose = room.run(&["-m", "m.gguf", "x y", "-n", "2", "--temp", "1", "-v"]);
    assert!(stderr(&verbose).contains("seed"), "{}", stderr(&verbose));
}

#[test]
fn a_schema_can_be_typed() {
    let room = Room::with_model();
    let schema = r#"{"enum": ["yes", "no"]}"#;
    fs::write(room.path("schema.json"), schema).unwrap();
    let ask = |schema: &str| room.stdout(&["-m", "m.gguf", "x y", "--json-schema", schema]);
    assert_eq!(ask(schema), ask("schema.json"));
    let bad = ["-m", "m.gguf", "x y", "--json-schema", "{"];
    room.fails(&bad, 3, &["--json-schema"]);
}

#[test]
fn the_model_of_info_can_have_its_flag() {
    let room = Room::with_model();
    let wanted = room.stdout(&["info", "m.gguf"]);
    assert_eq!(room.stdout(&["info", "-m", "m.gguf"]), wanted);
    room.fails(&["info", "m.gguf", "-m", "m.gguf"], 2, &["--model"]);
}

#[cfg(unix)]
#[test]
fn a_picture_that_is_piped_in_is_the_picture() {
    use std::io::Write;

    let room = Room::with_model();
    let flags = ["-m", "m.gguf", "-n", "8", QUESTION];
    let wanted = room.stdout(&[&flags[..], &["gray.png"]].concat());
    let without = room.stdout(&flags);
    assert_ne!(wanted, without);
    let with_file = |name: &str| {
        let file = File::open(room.path(name)).unwrap();
        answer_of(room.command(&flags).stdin(file).output().unwrap())
    };
    assert_eq!(with_file("gray.png"), wanted);
    // The list of a loop is left alone.
    fs::write(room.path("list"), "one\ntwo\n").unwrap();
    assert_eq!(with_file("list"), without);

    let with_pipe = |bytes: &[u8]| {
        let mut command = room.command(&flags);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(bytes).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    };
    let picture = fs::read(room.path("gray.png")).unwrap();
    assert_eq!(answer_of(with_pipe(&picture)), wanted);
    assert_eq!(answer_of(with_pipe(b"")), without);
    let text = with_pipe(b"some text");
    assert_eq!(text.status.code(), Some(2));
    assert!(stderr(&text).contains("-p -"), "{}", stderr(&text));

    // A pipe that nobody writes to does not hold it up for ever.
    let (reader, writer) = std::io::pipe().unwrap();
    let open = room.command(&flags).stdin(reader).output().unwrap();
    drop(writer);
    assert!(stderr(&open).contains("nothing came"), "{}", stderr(&open));
    assert_eq!(answer_of(open), without);
}

#[test]
fn quiet_leaves_nothing_but_errors() {
    let room = Room::with_model();
    let args = ["-m", "m.gguf", "-n", "2", "-q", "x y"];
    let output = room.run(&args);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        stderr(&output)
    );
    assert!(room.run(&["info", "-q"]).stderr.is_empty());
    room.fails(&["-q", "-m", "none.gguf", "x y"], 5, &["none.gguf"]);
}

/// What is wrong with the command line is said alone, and before the model is looked at.
#[test]
fn checks_come_before_the_model() {
    let room = Room::with_model();
    for args in [
        &[][..],
        &["--temp", "-1", "x y"],
        &["none.png", "x"],
        &["--json-schema", "none.json", "x y"],
        &["-n", "0", "x y"],
        &["-c", "99999999999", "x y"],
    ] {
        let output = room.run(args);
        let said = stderr(&output);
        assert!(
            !output.status.success() && !said.contains("built-in"),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn help_is_a_page_or_all() {
    let room = Room::new();
    let (short, long) = (room.stdout(&["-h"]), room.stdout(&["--help"]));
    assert!(short.lines().count() <= 70, "{short}");
    assert!(long.lines().count() > 2 * short.lines().count());
    assert!(!short.contains("--repeat-penalty") && long.contains("--repeat-penalty"));
    assert!(!short.contains("[env:") && long.contains("[env:"));
    for command in [
        "info",
        "score",
        "eval",
        "bench",
        "compare",
        "perplexity",
        "man",
    ] {
        let help = room.stdout(&[command, "--help"]);
        assert!(
            help.contains("Usage: owl2") && help.contains("--quiet"),
            "{help}"
        );
        let page = room.stdout(&["man", command]);
        assert!(page.contains(&format!(".TH owl2-{command}")), "{page}");
    }
    // Every command has a sentence of its own, and the synopsis is no list of all flags.
    let help = room.stdout(&["-h"]);
    assert!(!help.contains("Arguments of"), "{help}");
    let page = room.stdout(&["man"]);
    let (_, synopsis) = page.split_once(".SH SYNOPSIS\n").unwrap();
    let (synopsis, _) = synopsis.split_once("\n.SH ").unwrap();
    assert!(
        synopsis.starts_with("owl2 [OPTIONS]") && synopsis.lines().count() == 3,
        "{synopsis}"
    );
    fs::create_dir(room.path("pages")).unwrap();
    room.stdout(&["man", "--dir", "pages"]);
    assert!(room.path("pages/owl2.1").exists() && room.path("pages/owl2-score.1").exists());
    room.fails(&["man", "frobnicate"], 2, &["frobnicate", "score"]);
}

/// The table of the documentation, the help and the program agree.
#[test]
fn exit_codes_are_those_of_the_table() {
    let help = Room::new().stdout(&["--help"]);
    let (_, listed) = help.split_once("Exit status:\n").unwrap();
    let listed: Vec<&str> = listed
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/command-line.md");
    let page = fs::read_to_string(path).unwrap();
    let (_, table) = page.split_once("## Exit status").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| "));
    let rows: Vec<String> = rows
        .filter(|row| row.starts_with(|c: char| c.is_ascii_digit()))
        .map(|row| {
            let mut cells = row.split(" | ");
            let code = cells.next().unwrap();
            format!("{code}  {}", cells.next().unwrap().trim_end_matches(" |"))
        })
        .collect();
    assert_eq!(rows, listed);
    assert_eq!(rows.len(), 1 + owl2::Kind::ALL.len());
    for kind in owl2::Kind::ALL {
        let row = format!("{}  {kind}", kind.exit_code());
        assert!(rows.contains(&row), "{row}");
    }
}

#[test]
fn doctor_describes_the_machine_and_what_a_file_would_do() {
    let room = Room::with_model();
    let alone = room.json(&["doctor", "--json"]);
    for number in ["threads", "processors", "macs_per_s", "bytes_per_s"] {
        assert!(alone[number].as_f64().unwrap() > 0.0, "{number}: {alone}");
    }
    assert!(alone["file"].is_null());
    assert!(
        text(&alone["advice"][0]).contains("model file")
            || alone["advice"].as_array().unwrap().len() > 1
    );

    let with = room.json(&["doctor", "--json", "m.gguf"]);
    let file = &with["file"];
    let size = fs::metadata(room.path("m.gguf")).unwrap().len();
    assert_eq!(file["file_bytes"], size);
    assert!(file["memory_bytes"].as_u64() > Some(size));
    assert!(file["modelled"]["generate_tokens_per_s"].as_f64() > Some(0.0));
    // Its weights are floats.
    assert!(file["rotated"].is_null());
    let advice = |json: &Value| json["advice"].to_string();
    assert!(advice(&with).contains("--quant"), "{with}");

    let forced = room
        .command(&["doctor", "--json"])
        .env("OWL2_ISA", "scalar")
        .output();
    let forced: Value = serde_json::from_slice(&forced.unwrap().stdout).unwrap();
    assert_eq!(forced["instructions"], "scalar");
    let is_best = forced["available_instructions"].as_array().unwrap().len() == 1;
    assert_eq!(advice(&forced).contains("OWL2_ISA forces scalar"), !is_best);

    let shown = room.stdout(&["doctor", "-m", "m.gguf"]);
    for part in [
        "instructions",
        "page cache",
        "huge pages",
        "What to change",
        "bug report",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    room.fails(&["doctor", "none.gguf"], 5, &["none.gguf"]);
}

#[test]
fn json_of_an_error_free_answer_has_one_line_of_ids() {
    let room = Room::with_model();
    let printed = room.stdout(&["-m", "m.gguf", "--json", "-n", "5", "x y"]);
    let line = printed
        .lines()
        .find(|line| line.contains("\"ids\""))
        .unwrap();
    assert_eq!(line.matches(',').count(), 5, "{line}");
    let json: Value = serde_json::from_str(&printed).unwrap();
    assert!(!text(&json["text"]).is_empty());
}
