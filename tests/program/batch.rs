//! `owl2 batch`: every row once, however often the program is stopped.

mod order;
mod schedulers;
mod sidecars;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");
const PICTURES: [&str; 3] = ["cat.png", "dog-and-car.png", "three-apples.png"];

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_owl2"));
        command.current_dir(self.0.path()).arg("batch").args(args);
        command.stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str], code: i32) -> String {
        let output = self.command(args).output().unwrap();
        said(&output, code)
    }

    /// Rows about the pictures, in every order of picture and question.
    fn write_rows(&self, n_rounds: usize) -> usize {
        let mut rows = String::new();
        let questions = ["What is this?", "Describe the image.", "Is there a dog?"];
        let mut n = 0;
        for round in 0..n_rounds {
            for picture in PICTURES {
                for question in questions {
                    let row = json!({"id": format!("{round}-{n}"), "image": format!("{ASSETS}/{picture}"),
                        "prompt": question, "max_tokens": 12 + round});
                    rows += &format!("{row}\n");
                    n += 1;
                }
            }
        }
        fs::write(self.path("rows.jsonl"), rows).unwrap();
        n
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The outcomes as a set, without their times.
    fn outcomes(&self, name: &str) -> BTreeSet<String> {
        let lines = self.lines(name);
        let n = lines.len();
        let set: BTreeSet<_> = lines
            .into_iter()
            .map(|mut line| {
                line.as_object_mut().unwrap().remove("seconds");
                // How much of a prompt was computed before depends on what came before.
                if let Some(usage) = line.get_mut("usage") {
                    usage
                        .as_object_mut()
                        .unwrap()
                        .remove("prompt_tokens_details");
                }
                line.to_string()
            })
            .collect();
        assert_eq!(set.len(), n, "a row stands there twice");
        set
    }
}

#[track_caller]
fn said(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn kill(child: &mut Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(pid, signal);
}

#[test]
fn a_folder_is_captioned_as_each_picture_alone() {
    let place = Place::new();
    let args = ["-i", ASSETS, "-o", "out.jsonl", "--prompt", "What is this?"];
    place.run(&args, 0);
    let lines = place.lines("out.jsonl");
    let pictures = fs::read_dir(ASSETS).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension()
            .is_some_and(|extension| extension == "png" || extension == "jpg")
    });
    assert_eq!(lines.len(), pictures.count());
    for line in &lines {
        let picture = line["image"].as_str().unwrap();
        assert!(picture.ends_with(line["id"].as_str().unwrap()));
        let alone = Command::new(env!("CARGO_BIN_EXE_owl2"))
            .args(["--image", picture, "-p", "What is this?"])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&alone.stdout).trim_end(),
            line["text"],
            "{picture}"
        );
    }
    // There is nothing left to be done.
    let before = fs::read(place.path("out.jsonl")).unwrap();
    place.run(&args, 0);
    assert_eq!(fs::read(place.path("out.jsonl")).unwrap(), before);
    // Another question is another row.
    place.run(
        &[
            "-i",
            ASSETS,
            "-o",
            "out.jsonl",
            "--prompt",
            "Is there a cat?",
        ],
        0,
    );
    assert_eq!(place.lines("out.jsonl").len(), 2 * lines.len());
}

#[test]
fn a_run_that_is_killed_ends_as_one_that_was_not() {
    let place = Place::new();
    let n = place.write_rows(4);
    place.run(&["-i", "rows.jsonl", "-o", "whole.jsonl"], 0);
    let whole = place.outcomes("whole.jsonl");
    assert_eq!(whole.len(), n);
    let args = ["-i", "rows.jsonl", "-o", "killed.jsonl", "--parallel", "3"];
    let mut n_kills = 0;
    for round in 0..20u64 {
        let mut child = place.command(&args).stderr(Stdio::null()).spawn().unwrap();
        // Later and later, so that each run gets a little further.
        thread::sleep(Duration::from_millis(20 + 13 * round));
        kill(&mut child, nix::sys::signal::Signal::SIGKILL);
        n_kills += usize::from(child.wait().unwrap().code().is_none());
        // A line that was not written to its end.
        if round % 5 == 4 {
            use std::io::Write;
            let file = fs::File::options()
                .append(true)
                .open(place.path("killed.jsonl"));
            file.unwrap().write_all(b"{\"id\": \"0-1\", \"te").unwrap();
        }
    }
    assert!(n_kills > 0);
    place.run(&args, 0);
    assert_eq!(place.outcomes("killed.jsonl"), whole);
}

#[test]
fn an_output_that_lost_its_end_is_completed() {
    let place = Place::new();
    place.write_rows(2);
    let args = ["-i", "rows.jsonl", "-o", "out.jsonl"];
    place.run(&args, 0);
    let whole = place.outcomes("out.jsonl");
    let len = fs::metadata(place.path("out.jsonl")).unwrap().len();
    for cut in [len - 1, len / 2, 1, 0] {
        let file = fs::File::options()
            .write(true)
            .open(place.path("out.jsonl"));
        file.unwrap().set_len(cut).unwrap();
        place.run(&args, 0);
        assert_eq!(place.outcomes("out.jsonl"), whole, "{cut} of {len} bytes");
    }
}

#[test]
fn a_run_that_is_asked_to_stop_says_that_it_can_go_on() {
    let place = Place::new();
    let n = place.write_rows(40);
    let args = ["-i", "rows.jsonl", "-o", "out.jsonl"];
    let mut child = place.command(&args).stderr(Stdio::piped()).spawn().unwrap();
    let has_begun = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0);
    while !has_begun(&place.path("out.jsonl")) {
        thread::sleep(Duration::from_millis(5));
    }
    kill(&mut child, nix::sys::signal::Signal::SIGTERM);
    let said = said(&child.wait_with_output().unwrap(), 75);
    assert!(said.contains("the same command goes on"), "{said}");
    let n_before = place.lines("out.jsonl").len();
    assert!(n_before < n);
    place.run(&args, 0);
    assert_eq!(place.outcomes("out.jsonl").len(), n);
}

#[test]
fn shards_are_disjoint_and_together_all() {
    let place = Place::new();
    let n = place.write_rows(3);
    place.run(&["-i", "rows.jsonl", "-o", "whole.jsonl"], 0);
    let mut all = BTreeSet::new();
    for index in 0..4 {
        let (output, shard) = (format!("out.{index}.jsonl"), format!("{index}/4"));
        place.run(&["-i", "rows.jsonl", "-o", &output, "--shard", &shard], 0);
        let outcomes = place.outcomes(&output);
        assert!(outcomes.len() < n);
        for outcome in outcomes {
            assert!(all.insert(outcome), "two shards have a row");
        }
    }
    assert_eq!(all, place.outcomes("whole.jsonl"));
    // Rows that come before do not move them.
    let rows = fs::read_to_string(place.path("rows.jsonl")).unwrap();
    let first = json!({"id": "first", "prompt": "What?", "max_tokens": 1});
    fs::write(place.path("rows.jsonl"), format!("{first}\n{rows}")).unwrap();
    let before = place.outcomes("out.0.jsonl");
    place.run(
        &["-i", "rows.jsonl", "-o", "out.0.jsonl", "--shard", "0/4"],
        0,
    );
    let after = place.outcomes("out.0.jsonl");
    assert!(before.is_subset(&after) && after.len() <= before.len() + 1);
    for wrong in ["4/4", "x", "1", "-1/2", "0/0"] {
        place.run(&["-i", "rows.jsonl", "-o", "o", "--shard", wrong], 2);
    }
}

#[test]
fn wrong_rows_are_errors_with_their_numbers_and_the_rest_goes_on() {
    let place = Place::new();
    let good =
        json!({"id": "good", "image": format!("{ASSETS}/cat.png"), "prompt": "What is this?"});
    let rows = [
        "{".to_owned(),
        "[]".to_owned(),
        String::new(),
        json!({"id": 7, "prompt": 3}).to_string(),
        json!({"id": "none"}).to_string(),
        json!({"id": "gone", "image": "gone.png", "prompt": "x"}).to_string(),
        json!({"id": "much", "prompt": "x", "temperature": -1}).to_string(),
        good.to_string(),
        good.to_string(),
    ];
    fs::write(place.path("rows.jsonl"), rows.join("\n")).unwrap();
    let said = place.run(&["-i", "rows.jsonl", "-o", "out.jsonl"], 1);
    assert!(said.contains("6 rows failed"), "{said}");
    let lines = place.lines("out.jsonl");
    assert_eq!(lines.len(), 7, "the same row is done once");
    let errors: Vec<_> = lines
        .iter()
        .filter_map(|line| line["error"]["message"].as_str())
        .collect();
    for (number, part) in [
        (1, "JSON"),
        (2, "JSON object"),
        // An empty line counts, as it does in editors.
        (4, "prompt"),
        (5, "prompt"),
        (6, "gone.png"),
        (7, "temperature"),
    ] {
        let start = format!("row {number}: ");
        let error = errors.iter().find(|error| error.starts_with(&start));
        assert!(
            error.is_some_and(|error| error.contains(part)),
            "{number}: {errors:?}"
        );
    }
    fs::copy(format!("{ASSETS}/cat.png"), place.path("gone.png")).unwrap();
    // Errors stay done until they are asked for again; a row whose picture came is another one.
    place.run(&["-i", "rows.jsonl", "-o", "out.jsonl"], 1);
    assert_eq!(place.lines("out.jsonl").len(), 8);
    place.run(
        &["-i", "rows.jsonl", "-o", "out.jsonl", "--retry-errors"],
        1,
    );
    assert_eq!(place.lines("out.jsonl").len(), 8 + 5);
}

#[test]
fn rows_of_openai_s_batches_are_answered_in_their_shape() {
    let place = Place::new();
    fs::copy(format!("{ASSETS}/cat.png"), place.path("cat.png")).unwrap();
    let address = format!("file://{}", place.path("cat.png").display());
    let content = json!([{"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": address}}]);
    let row = |url: &str| {
        json!({"custom_id": "a", "method": "POST", "url": url,
            "body": {"model": "x", "messages": [{"role": "user", "content": content}]}})
        .to_string()
    };
    let rows = [row("/v1/chat/completions"), row("/v1/embeddings")].join("\n");
    fs::write(place.path("rows.jsonl"), rows).unwrap();
    place.run(&["-i", "rows.jsonl", "-o", "out.jsonl"], 1);
    let lines = place.lines("out.jsonl");
    let answered = lines.iter().find(|line| line["error"].is_null()).unwrap();
    assert_eq!(answered["custom_id"], "a");
    assert_eq!(answered["response"]["status_code"], 200);
    let text = &answered["response"]["body"]["choices"][0]["message"]["content"];
    assert_eq!(text, "a cat");
    let refused = lines.iter().find(|line| !line["error"].is_null()).unwrap();
    assert_eq!(refused["response"]["status_code"], 400);
}

#[test]
fn pictures_are_rated_as_score_does() {
    let place = Place::new();
    place.run(&["-i", ASSETS, "-o", "out.jsonl", "--score", "q-align"], 0);
    for line in place.lines("out.jsonl") {
        let picture = line["image"].as_str().unwrap();
        assert_eq!(line["score"], score_alone(picture, &[]), "{picture}");
    }
    // One that is not square, in the way that is asked for.
    let wide = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jpeg/photo.jpg");
    let row = json!({"id": "wide", "image": wide}).to_string();
    let content = json!([{"type": "text", "text": "x"},
        {"type": "image_url", "image_url": {"url": data_address(wide)}}]);
    let of_openai = |content: &Value| {
        json!({"custom_id": "o", "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": content}]}})
        .to_string()
    };
    let rows = [row, of_openai(&content), of_openai(&json!("no picture"))];
    fs::write(place.path("rows.jsonl"), rows.join("\n")).unwrap();
    let mut scores = Vec::new();
    for aspect in ["squash", "pad", "crop"] {
        let output = format!("{aspect}.jsonl");
        let flags = ["--score", "q-align", "--aspect", aspect, "--ordered"];
        place.run(
            &[&["-i", "rows.jsonl", "-o", &output], &flags[..]].concat(),
            1,
        );
        let lines = place.lines(&output);
        let score = score_alone(wide, &["--aspect", aspect]);
        assert_eq!(lines[0]["score"], score, "{aspect}");
        // In the shape of its row.
        assert_eq!(lines[1]["custom_id"], "o");
        assert_eq!(lines[1]["response"]["body"]["score"], score, "{aspect}");
        assert_eq!(lines[2]["response"]["status_code"], 400);
        scores.push(score.to_string());
    }
    scores.sort();
    scores.dedup();
    assert_eq!(scores.len(), 3, "each in its own way");
}

/// The score of a picture by the command for that.
fn score_alone(picture: &str, flags: &[&str]) -> Value {
    let alone = Command::new(env!("CARGO_BIN_EXE_owl2"))
        .args(["score", "--rule", "q-align", "--json", picture])
        .args(flags)
        .output()
        .unwrap();
    let alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
    alone["score"].clone()
}

fn data_address(picture: &str) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.encode(fs::read(picture).unwrap());
    format!("data:image/jpeg;base64,{bytes}")
}

#[test]
fn two_runs_do_not_write_to_one_file_and_a_full_disk_loses_nothing() {
    let place = Place::new();
    let n = place.write_rows(2);
    let file = fs::File::options()
        .append(true)
        .create(true)
        .open(place.path("out.jsonl"))
        .unwrap();
    file.lock().unwrap();
    let args = ["-i", "rows.jsonl", "-o", "out.jsonl"];
    let said = place.run(&args, 5);
    assert!(said.contains("another"), "{said}");
    drop(file);
    // A limit on the size of files fails a write in its middle, as a full disk does.
    let limited = "trap '' XFSZ; ulimit -f 2; exec \"$0\" batch -i rows.jsonl -o out.jsonl";
    let output = Command::new("sh")
        .current_dir(place.0.path())
        .args(["-c", limited, env!("CARGO_BIN_EXE_owl2")])
        .output()
        .unwrap();
    let said = self::said(&output, 5);
    assert!(said.contains("out.jsonl"), "{said}");
    assert!(
        !fs::read(place.path("out.jsonl")).unwrap().ends_with(b"\n"),
        "a torn line"
    );
    place.run(&args, 0);
    assert_eq!(place.outcomes("out.jsonl").len(), n);
    for device in ["/dev/full", "."] {
        place.run(&["-i", "rows.jsonl", "-o", device], 5);
    }
}
