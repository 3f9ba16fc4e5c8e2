//! `owl2 bench` as a program: what it prints, and what it refuses. How fast anything was is not
//! looked at.

use crate::{machine, tiny};
use std::io::Write;
use std::process::Output;

use owl2::kernels::Isa;
use owl2::model::config::Config;
use serde_json::Value;
use tempfile::NamedTempFile;

/// A model file on disk.
fn model_file(config: &Config) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&tiny::file(config, 1)).unwrap();
    file
}

fn bench(model: &NamedTempFile, flags: &[&str]) -> Output {
    machine::program(env!("CARGO_BIN_EXE_owl2"))
        .args(["bench", "-t", "2", "-m"])
        .arg(model.path())
        .args(flags)
        .output()
        .unwrap()
}

fn report(model: &NamedTempFile, flags: &[&str]) -> Value {
    let output = bench(model, &[flags, &["--json", "-r", "2"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Median, minimum and maximum under `key` are numbers above zero, in order.
fn assert_measured(report: &Value, key: &str) {
    let number = |suffix: &str| {
        let value = report[format!("{key}{suffix}")].as_f64();
        value.unwrap_or_else(|| panic!("{key}{suffix} is no number in {report}"))
    };
    let (median, min, max) = (number(""), number("_min"), number("_max"));
    assert!(min > 0.0 && max.is_finite(), "{key} is {min} to {max}");
    assert!(min <= median && median <= max, "{key}: {median}");
}

#[test]
fn every_stage_is_measured() {
    let model = model_file(&tiny::config());
    let flags = ["--image", "--pp", "9", "--tg", "3", "--depth", "5"];
    let report = report(&model, &flags);
    for key in [
        "preprocess_s",
        "vit_s",
        "abstractor_s",
        "encode_s",
        "first_token_s",
        "prefill_tokens_per_s",
        "generate_tokens_per_s",
        "vit_macs_per_s",
        "abstractor_macs_per_s",
        "prefill_macs_per_s",
        "generate_bytes_per_s",
        "bandwidth_bytes_per_s",
        "int8_macs_per_s",
    ] {
        assert_measured(&report, key);
    }
    assert_eq!(report["first_token_positions"], 100);
    assert_eq!(report["threads"], 2);
    assert_eq!(report["repeats"], 2);
    if cfg!(target_os = "linux") {
        assert!(report["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    }
}

#[test]
fn what_is_not_asked_for_is_null() {
    let model = model_file(&tiny::config());
    let report = report(&model, &["--pp", "0", "--tg", "2"]);
    for key in ["encode_s", "first_token_s", "prefill_tokens_per_s"] {
        assert!(report[key].is_null(), "{key}");
        assert!(report[format!("{key}_min")].is_null(), "{key}");
    }
    assert_measured(&report, "generate_tokens_per_s");
}

#[test]
fn prompts_of_several_lengths_and_answers_at_once_are_measured() {
    let model = model_file(&tiny::config());
    let several = report(&model, &["--pp", "9,0,20", "--tg", "2", "--parallel", "3"]);
    assert_eq!(several["pp"], serde_json::json!([9, 20]));
    assert_eq!(several["parallel"], 3);
    let prompts = several["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 2);
    for (prompt, n) in prompts.iter().zip([9, 20]) {
        assert_eq!(prompt["pp"], n);
        assert_measured(prompt, "prefill_tokens_per_s");
        assert_measured(prompt, "prefill_macs_per_s");
    }
    let key = "prefill_tokens_per_s";
    assert_eq!(several[key], prompts[0][key]);
    assert_measured(&several, "generate_tokens_per_s");

    // Three share the weights, and each reads its own keys and values.
    let bytes = |flags: &[&str]| {
        let flags = [&["--pp", "0", "--tg", "1"], flags].concat();
        let bytes = report(&model, &flags)["generate_bytes_per_token"].as_f64();
        bytes.unwrap()
    };
    let [alone, deep] = [bytes(&[]), bytes(&["--depth", "1"])];
    let weights = alone - (deep - alone);
    let together = bytes(&["--parallel", "3"]);
    assert!((together - (weights / 3.0 + deep - alone)).abs() < 1.0);
}

#[test]
fn generated_tokens_read_weights_keys_and_values() {
    let model = model_file(&tiny::config());
    let bytes = |depth: &str| {
        let flags = ["--pp", "0", "--tg", "1", "--depth", depth];
        report(&model, &flags)["generate_bytes_per_token"]
            .as_f64()
            .unwrap()
    };
    let (shallow, deep) = (bytes("0"), bytes("100"));
    // Two blocks of 32 by 32 (queries, output), 16 by 32 (keys, values), 48 by 32 (MLP) and two
    // norms; the final norm, the output head, one embedding; keys and values of one position.
    let n_floats = 2 * (2 * 1024 + 2 * 512 + 3 * 1536 + 2 * 32) + 32 + 288 * 32 + 32;
    let position = (deep - shallow) / 100.0;
    assert_eq!(shallow, f64::from(4 * n_floats) + position);
    assert!(position > 0.0);
}

#[test]
fn the_table_names_what_was_measured() {
    let model = model_file(&tiny::config());
    let output = bench(&model, &["--pp", "4", "--tg", "2", "-r", "1"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let isa = Isa::detect().unwrap().name();
    for part in [
        "prefill 4",
        "generate 2 after 0",
        "of the limit",
        "modelled",
        isa,
    ] {
        assert!(text.contains(part), "no '{part}' in {text}");
    }
    assert!(!text.contains("preprocess"));
}

#[test]
fn a_picture_needs_an_image_branch() {
    let config = Config {
        visual: None,
        ..tiny::config()
    };
    let output = bench(&model_file(&config), &["--image"]);
    assert_eq!(output.status.code(), Some(3));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("no image branch"), "{errors}");
}

#[test]
fn wrong_usage_is_refused() {
    let model = model_file(&tiny::config());
    for flags in [
        ["-r", "0"],
        ["--pp", "99999999"],
        ["--pp", "1,x"],
        ["--parallel", "0"],
        ["--parallel", "513"],
        ["--depth", "-1"],
    ] {
        assert_eq!(bench(&model, &flags).status.code(), Some(2), "{flags:?}");
    }
}
