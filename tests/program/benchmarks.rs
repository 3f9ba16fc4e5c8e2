//! `owl2 eval` on questions in the layouts of others.

#![cfg(feature = "cli")]

use crate::room;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use room::{Room, stderr};

fn own(name: &str) -> String {
    format!("{}/tests/golden-family/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The report of a run that has the given exit status.
fn eval(room: &Room, questions: &str, flags: &[&str], status: i32) -> Value {
    let model = ["eval", "-m", "m.gguf", "-t", "1", "--json", "--questions"];
    let output = room.run(&[&model[..], &[questions], flags].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{flags:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn write(room: &Room, name: &str, value: &Value) {
    fs::write(room.path(name), value.to_string()).unwrap();
}

fn table(path: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(b'\t')
        .has_headers(false)
        .from_path(path)
        .unwrap();
    let rows = reader.records().map(|row| row.unwrap());
    rows.map(|row| row.iter().map(str::to_owned).collect())
        .collect()
}

#[test]
fn a_table_of_questions_becomes_one_of_answers() {
    let room = Room::with_model();
    let questions = own("eval/tiny_mcq.tsv");
    let flags = ["--prompts", "vlmevalkit", "--output", "answers.tsv"];
    let report = eval(&room, &questions, &flags, 0);
    assert_eq!(report["questions"], 8);
    let sections: Vec<&String> = report["scores"].as_object().unwrap().keys().collect();
    assert!(
        sections.iter().any(|name| name.contains("rotations")),
        "{report:#}"
    );

    let prompts: Value =
        serde_json::from_str(&fs::read_to_string(own("eval/prompts.json")).unwrap()).unwrap();
    let answers = table(&room.path("answers.tsv"));
    assert_eq!(answers[0].last().unwrap(), "prediction");
    assert!(!answers[0].iter().any(|name| name == "image"));
    assert_eq!(answers.len(), 9);
    for (row, wanted) in answers[1..]
        .iter()
        .zip(prompts["tiny_mcq"].as_array().unwrap())
    {
        assert_eq!(row[0], wanted["index"].to_string());
        assert_eq!(
            row.last().unwrap().as_str(),
            wanted["answer_text"].as_str().unwrap()
        );
    }

    // A run that was killed in the middle of a row goes on with that row.
    let whole = fs::read(room.path("answers.tsv")).unwrap();
    fs::write(room.path("answers.tsv"), &whole[..whole.len() - 7]).unwrap();
    let flags = ["--prompts", "vlmevalkit", "--resume", "answers.tsv"];
    assert_eq!(eval(&room, &questions, &flags, 0), report);
    assert_eq!(fs::read(room.path("answers.tsv")).unwrap(), whole);
    eval(&room, &questions, &["--output", "answers.tsv"], 2);
    eval(
        &room,
        &own("eval/tiny_yn.tsv"),
        &["--resume", "answers.tsv"],
        2,
    );

    for (name, section) in [
        ("tiny_yn.tsv", "right, %"),
        ("tiny_vqa.tsv", "VQA score, %"),
    ] {
        let report = eval(
            &room,
            &own(&format!("eval/{name}")),
            &["-n", "3", "--limit", "2"],
            0,
        );
        assert_eq!(report["questions"], 2);
        assert!(
            report["scores"][section]["Overall"].is_number(),
            "{report:#}"
        );
    }
}

#[test]
fn scores_are_held_against_peoples() {
    let room = Room::with_model();
    let names = ["wide.png", "tall.png", "square.png", "grey.png", "rgba.png"];
    let rated = names.iter().enumerate().map(
        |(i, name)| json!({"image": name, "gt_score": i, "gt_score_norm": 1 + i, "std_norm": 0.5}),
    );
    write(&room, "q.json", &rated.collect());
    let root = own("images");
    let flags = [
        "--image-root",
        &root,
        "--rule",
        "q-align",
        "--output",
        "s.csv",
    ];
    let report = eval(&room, "q.json", &flags, 0);
    let scores = &report["scores"];
    for (section, number) in [
        ("with people's scores", "SRCC"),
        ("after a logistic fit", "PLCC"),
        ("between distributions", "KL"),
    ] {
        assert!(scores[section][number].is_number(), "{report:#}");
    }
    let flags = [
        "--image-root",
        &root,
        "--rule",
        "q-align",
        "--resume",
        "s.csv",
    ];
    assert_eq!(eval(&room, "q.json", &flags, 0), report);
    eval(&room, "q.json", &["--image-root", &root], 2);
    eval(
        &room,
        "q.json",
        &["--rule", "q-align", "--reference", "m.gguf"],
        2,
    );
}

#[test]
fn questions_of_other_benchmarks_are_asked() {
    let room = Room::with_model();
    let root = own("images");
    let root = ["--image-root", &root, "-n", "3"];
    write(
        &room,
        "vqa.json",
        &json!([{"image": "wide.png", "question": "What?", "answer": ["a", "b", "a"], "question_id": 7},
                {"question": "Where?", "answers": [{"answer": "x"}]}]),
    );
    let report = eval(&room, "vqa.json", &root, 0);
    assert!(report["scores"]["VQA accuracy, %"]["Overall"].is_number());

    write(
        &room,
        "qbench.json",
        &json!([{"img_path": "wide.png", "question": "Is it?", "candidates": ["yes", "no"],
                 "correct_ans": "no", "type": 0, "concern": 2},
                {"img_path": "missing.png", "question": "Is it?", "candidates": ["yes", "no"],
                 "correct_ans": "no", "type": 1}]),
    );
    // The picture that is missing does not count, and the rest goes on.
    let report = eval(&room, "qbench.json", &root, 1);
    assert_eq!(
        (&report["questions"], &report["failed"]),
        (&json!(1), &json!(1))
    );
    let scores = &report["scores"]["right, %"];
    assert!(
        scores["type 0"].is_number() && scores["concern 2"].is_number(),
        "{report:#}"
    );

    fs::create_dir_all(room.path("mme/color/images")).unwrap();
    fs::create_dir_all(room.path("mme/Your_Results")).unwrap();
    fs::copy(own("images/wide.png"), room.path("mme/color/images/1.png")).unwrap();
    fs::write(
        room.path("mme/Your_Results/color.txt"),
        "1.png\tIs it red? Please answer yes or no.\tYes\n1.png\tIs it blue? Please answer yes or no.\tNo\n",
    )
    .unwrap();
    let report = eval(&room, "mme", &["-n", "2"], 0);
    assert_eq!(
        report["scores"]["MME"]["perception"],
        report["scores"]["MME"]["color"]
    );

    fs::write(
        room.path("x_test.csv"),
        "What?,1,2,3,4,B\nWhere?,a,b,c,d,D\n",
    )
    .unwrap();
    let flags = ["--shots", "x_test.csv", "--output", "letters.csv"];
    let report = eval(&room, "x_test.csv", &flags, 0);
    let share = report["scores"]["right, %"]["x"].as_f64().unwrap();
    assert!([0.0, 50.0, 100.0].contains(&share), "{report:#}");
    assert_eq!(
        fs::read_to_string(room.path("letters.csv"))
            .unwrap()
            .lines()
            .count(),
        3
    );
}

#[test]
fn what_is_no_benchmark_is_refused() {
    let room = Room::with_model();
    for (name, text) in [
        ("a.tsv", "index\timage\n1\t2\n"),
        ("b.tsv", "index\tquestion\timage\n1\ta\t99\n"),
        ("c.json", "[{\"question\": 5}]"),
        ("d.json", "[{\"question\": \"a\", \"candidates\": 1}]"),
        ("e.json", "[{\"gt_score\": 1}]"),
        ("f.json", "[1, "),
        ("g.csv", "a,b\n"),
        ("h.tsv", ""),
    ] {
        fs::write(room.path(name), text).unwrap();
        let output = room.run(&[
            "eval",
            "-m",
            "m.gguf",
            "--rule",
            "q-align",
            "--questions",
            name,
        ]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{name}: {said}");
        assert!(said.contains(name), "{name}: {said}");
    }
    // What stands where a picture should is told when it is its turn.
    let text = format!("index\tquestion\timage\n1\ta\t{}\n", "%".repeat(100));
    fs::write(room.path("i.tsv"), text).unwrap();
    eval(&room, "i.tsv", &[], 1);
    fs::create_dir(room.path("empty")).unwrap();
    eval(&room, "empty", &[], 3);
}

/// Half of the pictures is gray, which would count against the model without a word.
#[test]
fn what_a_picture_lacks_is_said_by_every_evaluation() {
    let room = Room::with_model();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jpeg/photo.jpg");
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(bytes.len() * 65 / 100);
    bytes.extend([0xff, 0xd9]);
    fs::write(room.path("cut.jpg"), &bytes).unwrap();
    fs::copy(room.path("gray.png"), room.path("again.png")).unwrap();
    let names = [
        "cut.jpg",
        "gray.png",
        "wide_rgb.png",
        "exif_orient6.jpg",
        "again.png",
    ];
    let rated = names.iter().enumerate().map(
        |(i, name)| json!({"image": name, "gt_score": i, "gt_score_norm": 1 + i, "std_norm": 0.5}),
    );
    write(&room, "rated.json", &rated.collect());
    let question = json!({"image": "cut.jpg", "question": "What?", "answer": "x"});
    write(&room, "lines.jsonl", &question);
    let inside = base64(&bytes);
    let table = format!("index\timage\tquestion\tanswer\n7\t{inside}\tIs it?\tYes\n");
    fs::write(room.path("inside.tsv"), table).unwrap();
    let eval = ["eval", "-m", "m.gguf", "-n", "2", "--questions"];
    for (args, name) in [
        (&["lines.jsonl"][..], "cut.jpg"),
        (&["rated.json", "--rule", "q-align"], "cut.jpg"),
        (&["inside.tsv"], "picture of question 7"),
    ] {
        let output = room.run(&[&eval[..], args].concat());
        let said = stderr(&output);
        assert!(output.status.success(), "{args:?}: {said}");
        let wanted = format!("{name}: data for ");
        assert_eq!(said.matches(&wanted).count(), 1, "{args:?}: {said}");
    }
    let output = room.run(&["score", "-m", "m.gguf", "--rule", "q-align", "cut.jpg"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("owl2: cut.jpg: data for "));
}

/// As tables of VLMEvalKit have pictures.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i > chunk.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    text
}
