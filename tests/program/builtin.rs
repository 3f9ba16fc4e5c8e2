//! The built-in model, asked through the program: no flag, no file, no download.

use crate::machine;
use std::fs;
use std::path::Path;
use std::process::Output;

fn owl2(args: &[&str]) -> Output {
    let mut command = machine::program(env!("CARGO_BIN_EXE_owl2"));
    for (name, _) in std::env::vars() {
        // `OWL2_ISA` and the like are for the tests; a model of one's own is not.
        if name == "OWL2_MODEL" {
            command.env_remove(name);
        }
    }
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets"))
        .args(args)
        .output()
        .unwrap()
}

fn answer(args: &[&str]) -> String {
    let output = owl2(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("built-in model owl2-tiny") && said.contains("owl2-convert"));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn it_says_what_is_in_each_example_picture() {
    for (picture, question, wanted) in [
        (
            "cat.png",
            "Describe the image.",
            "A cat on a blue background.",
        ),
        ("cat.png", "Is there a dog?", "no"),
        ("three-apples.png", "How many apples are there?", "3"),
        ("three-apples.png", "What color is the background?", "white"),
        (
            "dog-and-car.png",
            "Describe the image.",
            "A dog and a car on a green background.",
        ),
        ("dog-and-car.png", "Where is the car?", "on the right"),
        ("dog-and-car.png", "Is there a dog?", "yes"),
        (
            "four-things.png",
            "Describe the image.",
            "A rocket, a whale, a book and a red star on a yellow background.",
        ),
        (
            "penguin-and-guitar.png",
            "Where is the penguin?",
            "at the top",
        ),
        (
            "penguin-and-guitar.png",
            "Where is everything?",
            "There is a penguin at the top. There is a guitar at the bottom. The background is pink.",
        ),
        (
            "two-foxes-and-a-tree.png",
            "How many animals are there?",
            "2",
        ),
        (
            "two-foxes-and-a-tree.png",
            "Describe the image.",
            "Two foxes and a tree on a gray background.",
        ),
    ] {
        let given = answer(&["--image", picture, "-p", question]);
        assert_eq!(given.trim_end(), wanted, "{picture}: {question}");
    }
}

#[test]
fn it_knows_some_facts_and_when_there_is_no_picture() {
    assert_eq!(answer(&["-p", "What is a dog?"]).trim_end(), "an animal");
    let given = answer(&["-p", "Describe the image."]);
    assert_eq!(given.trim_end(), "There is no image.");
}

#[test]
fn the_other_commands_take_it_too() {
    assert!(answer(&["info"]).contains("owl2-tiny"));
    assert!(answer(&["tokenize", "a cat"]).contains("cat"));
    let bench = ["bench", "--pp", "16", "--tg", "2", "-r", "1", "--json"];
    let report: serde_json::Value = serde_json::from_str(&answer(&bench)).unwrap();
    assert_eq!(report["model"], "owl2-tiny");
    assert!(report["generate_tokens_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn keys_and_values_in_integers_lead_to_the_same_answer() {
    let args = ["--image", "cat.png", "-p", "Describe the image."];
    let args = [&args[..], &["--cache-type", "q8_0"]].concat();
    assert_eq!(answer(&args), "A cat on a blue background.\n");
}

/// A scene and what distortions have left of it, as the README shows them.
#[test]
fn the_readme_has_the_scores_of_its_pictures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let mut rows = readme.lines().filter(|line| line.starts_with('|'));
    let row = rows.find(|line| line.contains("docs/rated/")).unwrap();
    let names: Vec<&str> = row
        .split("](")
        .skip(1)
        .map(|cell| cell.split(')').next().unwrap())
        .collect();
    let row = rows.nth(1).unwrap();
    let scores = row.trim_matches('|').split('|');
    let scores: Vec<f64> = scores.map(|cell| cell.trim().parse().unwrap()).collect();
    assert!(names.len() == scores.len() && names.len() > 3);

    let paths: Vec<String> = names.iter().map(|name| format!("../{name}")).collect();
    let mut args = vec!["score"];
    args.extend(paths.iter().map(String::as_str));
    let printed = answer(&args);
    for ((line, path), wanted) in printed.lines().zip(&paths).zip(&scores) {
        let score = line.strip_prefix(&format!("{path}: ")).unwrap();
        // The digit that is shown, and what instruction sets differ by.
        let is_near = (score.parse::<f64>().unwrap() - wanted).abs() < 0.15;
        assert!(is_near, "{line} for {wanted}");
    }
    assert_eq!(printed.lines().count(), names.len());
}
