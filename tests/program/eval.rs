//! `owl2 eval` on a golden checkpoint, whose answers the authors' code gave.

#![cfg(feature = "cli")]

use crate::machine;
use std::fs;
use std::path::Path;
use std::process::Output;

use clap::Parser;
use owl2_convert::args::Args;
use safetensors::SafeTensors;
use serde_json::{Value, json};

const N_TOKENS: usize = 24;

fn golden(name: &str) -> String {
    format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn integers(file: &SafeTensors, name: &str) -> Vec<i64> {
    let bytes = file.tensor(name).expect(name).data();
    let values = bytes.as_chunks::<8>().0.iter();
    values.map(|&bytes| i64::from_le_bytes(bytes)).collect()
}

/// A question with the ids of a golden case.
fn question(case: &str, image: Option<&str>, question: &str) -> Value {
    let bytes = fs::read(golden(&format!("cases/tiny/{case}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    json!({
        "image": image,
        "question": question,
        "answer": "nothing",
        "type": case,
        "prompt_ids": integers(&file, "input_ids"),
        "output_ids": integers(&file, "gen_ids"),
    })
}

fn convert(target: &Path, quant: &str) {
    let checkpoint = golden("checkpoints/tiny");
    let target = target.to_str().unwrap();
    let line = ["owl2-convert", &checkpoint, "-o", target, "--quant", quant];
    let flags = ["--no-rotate", "--quiet"];
    owl2_convert::run(&Args::parse_from([&line[..], &flags].concat())).unwrap();
}

fn eval(directory: &Path, questions: &[Value], flags: &[&str]) -> Output {
    eval_of(directory, "model.gguf", questions, flags)
}

fn eval_of(directory: &Path, model: &str, questions: &[Value], flags: &[&str]) -> Output {
    let lines: Vec<String> = questions.iter().map(Value::to_string).collect();
    fs::write(directory.join("questions.jsonl"), lines.join("\n")).unwrap();
    machine::program(env!("CARGO_BIN_EXE_owl2"))
        .args(["eval", "-m", model, "--questions", "questions.jsonl"])
        .args(["-t", "1", "-n", &N_TOKENS.to_string()])
        .args(flags)
        .current_dir(directory)
        .output()
        .unwrap()
}

#[test]
fn golden_answers_are_all_found_and_others_listed() {
    let directory = tempfile::tempdir().unwrap();
    convert(&directory.path().join("model.gguf"), "f32");
    let image = Some("wide_rgb.png");
    let mut other = question("one_image", image, "Describe the image.");
    other["output_ids"][3] = json!(0);
    other["type"] = json!(null);
    let questions = [
        question("text_only", None, "What color is the sky?"),
        question("one_image", image, "Describe the image."),
        other,
    ];
    let root = golden("images");

    let output = eval(
        directory.path(),
        &questions,
        &["--image-root", &root, "--json"],
    );
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["questions"], 3);
    assert_eq!(
        report["prompt_ids"],
        json!({"right": 3, "n": 3, "share": 1.0})
    );
    assert_eq!(report["output_ids"]["right"], 2, "{report:#}");
    assert_eq!(report["exact_match"]["all"]["n"], 3);
    assert_eq!(report["exact_match"]["by_type"]["other"]["n"], 1);
    assert_eq!(report["model_answer"]["n"], 0);
    let differing = report["differing"].as_array().unwrap();
    assert_eq!(differing.len(), 1);
    assert_eq!(differing[0]["index"], 2);
    assert_eq!(differing[0]["first_differing_position"], 3);
    // The manifest says that the least gap of this case is 0.033.
    assert!(differing[0]["top2_gap"].as_f64().unwrap() > 0.033);

    let output = eval(
        directory.path(),
        &questions,
        &["--image-root", &root, "--limit", "2"],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("answer ids            2 of 2       100.00%"),
        "{text}"
    );
}

#[test]
fn a_reference_is_followed_token_by_token() {
    let directory = tempfile::tempdir().unwrap();
    convert(&directory.path().join("model.gguf"), "f32");
    convert(&directory.path().join("4-bit.gguf"), "q4_0");
    let image = Some("wide_rgb.png");
    let questions = [
        question("text_only", None, "What color is the sky?"),
        question("one_image", image, "Describe the image."),
    ];
    let root = golden("images");
    let report = |model: &str, reference: &str| -> Value {
        let flags = ["--image-root", &root, "--json", "--reference", reference];
        let output = eval_of(directory.path(), model, &questions, &flags);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let same = report("model.gguf", "model.gguf");
    assert_eq!(same["reference_ids"]["right"], 2, "{same:#}");
    assert_eq!(same["divergence"]["n"], 2 * N_TOKENS);
    assert_eq!(same["divergence"]["mean_nats"], 0.0);

    // Random weights: four bits part from them, and both find their own way to the end.
    let coarse = report("4-bit.gguf", "model.gguf");
    assert_eq!(coarse["divergence"]["n"], 2 * N_TOKENS);
    assert!(coarse["divergence"]["mean_nats"].as_f64().unwrap() > 1e-3);
    let alone = eval_of(
        directory.path(),
        "4-bit.gguf",
        &questions,
        &["--image-root", &root, "--json"],
    );
    let alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
    assert_eq!(coarse["differing"], alone["differing"]);
    assert_eq!(alone["divergence"]["n"], 0);
}

#[test]
fn what_cannot_be_asked_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    convert(&directory.path().join("model.gguf"), "f32");
    let missing = question("one_image", Some("none.png"), "Describe the image.");
    let output = eval(directory.path(), &[missing], &[]);
    assert_eq!(output.status.code(), Some(5));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("none.png"), "{message}");

    let output = eval(directory.path(), &[json!({"answer": "?"})], &[]);
    assert_eq!(output.status.code(), Some(3));
    let long = json!({"question": "word ".repeat(3000)});
    let output = eval(directory.path(), &[long], &[]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
}
