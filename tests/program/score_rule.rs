//! The scoring rule on its way from a checkpoint's name, or a flag, through the file to the program.

#![cfg(feature = "cli")]

use crate::room;
use std::path::Path;

use clap::Parser;
use owl2_convert::args::Args;
use serde_json::Value;

use room::Room;

/// Converts one of the checkpoints of this set, and says what `owl2 info` says of the file.
fn info(room: &Room, checkpoint: &Path, flags: &[&str]) -> Value {
    let (checkpoint, target) = (checkpoint.to_str().unwrap(), room.path("m.gguf"));
    let line = ["owl2-convert", checkpoint, "-o", target.to_str().unwrap()];
    let common = ["--quant", "f32", "--no-rotate", "--quiet", "--force"];
    owl2_convert::run(&Args::parse_from([&line[..], &common, flags].concat())).unwrap();
    room.json(&["info", "--json", "m.gguf"])
}

fn own(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden-family/checkpoints")
        .join(name)
}

#[test]
fn names_tell_the_rule_and_flags_overrule_them() {
    let room = Room::new();
    let onealign = own("onealign");
    let told = info(&room, &onealign, &[]);
    assert_eq!(told["score_rule"], "q-align");
    assert_eq!(told["visual"]["aspect"], "pad", "{told:#}");
    // The file keeps what the checkpoint says for those who sample.
    let sampling = &told["sampling"];
    let close = |key: &str, wanted: f64| (sampling[key].as_f64().unwrap() - wanted).abs() < 1e-6;
    assert!(
        close("temperature", 0.9) && close("top_p", 0.6),
        "{sampling}"
    );

    let flag = ["--score-rule", "compare2score"];
    assert_eq!(info(&room, &onealign, &flag)["score_rule"], "compare2score");
    let none = info(&room, &onealign, &["--score-rule", "none"]);
    assert_eq!(none["score_rule"], Value::Null);
    let adapter = own("deqa_lora");
    let lora = ["--lora", adapter.to_str().unwrap()];
    assert_eq!(info(&room, &onealign, &lora)["score_rule"], "deqa");
}

#[test]
fn a_file_that_is_converted_again_keeps_its_rule() {
    let room = Room::new();
    let first = Room::new();
    info(&first, &own("onealign"), &["--score-rule", "q-instruct"]);
    let file = first.path("m.gguf");
    assert_eq!(info(&room, &file, &[])["score_rule"], "q-instruct");
    assert_eq!(
        info(&room, &file, &["--score-rule", "none"])["score_rule"],
        Value::Null
    );
    assert_eq!(
        info(&room, &file, &["--score-rule", "deqa"])["score_rule"],
        "deqa"
    );
}

#[test]
fn the_program_rates_by_the_rule_of_the_file() {
    let room = Room::new();
    info(&room, &own("onealign"), &[]);
    let picture = format!(
        "{}/tests/golden-family/images/wide.png",
        env!("CARGO_MANIFEST_DIR")
    );
    let score = |flags: &[&str]| {
        let line = ["score", "-m", "m.gguf", "--json", &picture];
        room.json(&[&line[..], flags].concat())["score"]
            .as_f64()
            .unwrap()
    };
    let vectors: Value =
        serde_json::from_str(&std::fs::read_to_string(own("../score/qalign.json")).unwrap())
            .unwrap();
    let tasks = &vectors["pictures"]["wide.png"]["tasks"];
    for task in ["quality", "aesthetics", "aesthetic"] {
        let wanted = tasks[task]["score5"].as_f64().unwrap();
        assert!((score(&["--task", task]) - wanted).abs() < 1e-3, "{task}");
    }
}
