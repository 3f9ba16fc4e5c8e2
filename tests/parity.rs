//! Equality with the authors' PyTorch code, stage by stage, on a directory of golden vectors:
//! the project's own, or the one that `OWL2_GOLDEN_DIR` names. Nothing here knows a name of a
//! checkpoint, case or picture; the manifest lists them, with the tolerances. A second set,
//! `OWL2_FAMILY_GOLDEN_DIR` or the project's own, has the models that were made of mPLUG-Owl2.
//!
//! `cargo test --test parity -- --nocapture` prints the worst error of each stage.

#[path = "parity/checkpoints.rs"]
mod checkpoints;
#[path = "parity/evaluation.rs"]
mod evaluation;
#[path = "parity/golden.rs"]
mod golden;
#[path = "parity/layers.rs"]
mod layers;
#[path = "common/machine.rs"]
mod machine;
#[path = "parity/pictures.rs"]
mod pictures;
#[path = "parity/report.rs"]
mod report;
#[path = "parity/scores.rs"]
mod scores;
#[path = "parity/texts.rs"]
mod texts;
#[path = "parity/words.rs"]
mod words;

use owl2::Result;
use owl2::gguf::Gguf;
use owl2::model::Model;
use owl2::ops::Compute;
use owl2::tokenizer::{Tokenizer, Vocabulary};
use owl2_convert::checkpoint::Checkpoint;
use serde_json::Value;
use sha2::{Digest, Sha256};

use golden::{Golden, count, members, text};
use layers::Loaded;
use report::Report;

/// Hexadecimal SHA-256.
fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Index of the largest value, the first of equals.
fn argmax(values: &[f32]) -> u32 {
    let best = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|&x| x == best).unwrap_or(0) as u32
}

/// Converts a checkpoint at f32 and opens the result.
fn load(golden: &Golden, entry: &Value) -> Result<Loaded> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("model.gguf");
    checkpoints::convert(checkpoints::open(golden, entry)?, &path)?;
    let gguf = Gguf::open(&path)?;
    Ok(Loaded {
        model: Model::new(&gguf, Compute::new(checkpoints::N_THREADS)?)?,
        tokenizer: Tokenizer::new(Vocabulary::read(&gguf)?)?,
    })
}

/// Checks both sets.
fn check_both(check: impl Fn(&Golden, &mut Report)) {
    let mut report = Report::default();
    for golden in [Golden::open(), Golden::family()] {
        check(&golden, &mut report);
    }
    report.finish();
}

/// The set is whole: every file the manifest lists is there with its size and checksum.
#[test]
fn every_listed_file_is_as_the_manifest_says() {
    check_both(check_files);
}

fn check_files(golden: &Golden, report: &mut Report) {
    for (file, entry) in members(&golden.manifest["files"]) {
        match std::fs::read(golden.path(file)) {
            Ok(bytes) => {
                report.equal("size", file, &bytes.len(), &count(&entry[0]));
                report.equal("sha256", file, sha256(&bytes).as_str(), text(&entry[1]));
            }
            Err(error) => report.fail("file", file, &error.to_string()),
        }
    }
}

#[test]
fn every_stage_of_every_case_agrees() {
    check_both(check_cases);
}

fn check_cases(golden: &Golden, report: &mut Report) {
    for (name, entry) in golden.checkpoints() {
        let loaded = load(golden, entry);
        let Some(loaded) = report.ok("conversion", name, loaded) else {
            continue;
        };
        for (case, case_entry) in members(&entry["cases"]) {
            layers::check_case(golden, report, &loaded, name, case, case_entry);
        }
    }
}

#[test]
fn pictures_decode_resize_and_normalise_alike() {
    check_both(check_pictures);
}

fn check_pictures(golden: &Golden, report: &mut Report) {
    if golden.lists("images.json") {
        pictures::check_decoding(golden, report);
    }
    if golden.lists("preprocess/resize_units.json") {
        pictures::check_resizing(golden, report);
    }
    if golden.lists("preprocess/preprocess.json") {
        pictures::check_pixels(golden, report, |name| {
            let entry = &golden.manifest["checkpoints"][name];
            let checkpoint = checkpoints::open(golden, entry).unwrap();
            let visual = checkpoint.config().visual.clone();
            visual.expect("has an image branch").preprocess
        });
        pictures::check_large_pixels(golden, report);
    }
}

#[test]
fn texts_tokenize_and_decode_alike() {
    check_both(check_texts);
}

fn check_texts(golden: &Golden, report: &mut Report) {
    texts::check_tokenizers(golden, report, |dir| {
        let checkpoint = Checkpoint::open(&golden.path(dir)).unwrap();
        checkpoint.vocabulary().clone()
    });
    if golden.lists(texts::CONVERSATIONS) {
        texts::check_conversations(golden, report);
    }
}

#[test]
fn sampling_gives_the_same_probabilities() {
    let (golden, mut report) = (Golden::open(), Report::default());
    if golden.lists("sampling/sampling.json") {
        texts::check_sampling(&golden, &mut report);
        report.finish();
    }
}

/// Checks one part of the set of the model's relatives.
fn check_family(check: impl Fn(&Golden, &mut Report)) {
    let (golden, mut report) = (Golden::family(), Report::default());
    check(&golden, &mut report);
    report.finish();
}

#[test]
fn parity_of_q_align() {
    check_family(scores::check_qalign);
}

#[test]
fn parity_of_deqa() {
    check_family(scores::check_deqa);
}

#[test]
fn parity_of_compare2score() {
    check_family(scores::check_compare2score);
}

#[test]
fn parity_of_q_instruct() {
    check_family(scores::check_q_instruct);
}

#[test]
fn parity_of_co_instruct() {
    check_family(words::check_co_instruct);
}

/// Checks what is made with a checkpoint of the first set: that beside the second, or the project's
/// own.
fn check_with_first(check: impl Fn(&Golden, &Golden, &mut Report)) {
    check_family(|family, report| {
        let vectors = family.json(text(&family.manifest["words"]["file"]));
        let beside = words::beside(family.dir(), text(&vectors["checkpoint_dir"]));
        let golden = beside.map_or_else(Golden::open, Golden::at);
        check(family, &golden, report);
    });
}

#[test]
fn parity_of_words() {
    check_with_first(words::check_word_lists);
}

#[test]
fn parity_of_questions_in_tables() {
    check_with_first(evaluation::check_questions);
}

#[test]
fn parity_of_parsers() {
    check_family(evaluation::check_parsers);
}

#[test]
fn parity_of_open_answers() {
    check_family(evaluation::check_vqa);
}

#[test]
fn parity_of_agreement() {
    check_family(evaluation::check_agreement);
}

#[test]
fn parity_of_benchmarks() {
    check_family(evaluation::check_tables);
}

#[test]
fn parity_of_official_metrics() {
    let (golden, mut report) = (Golden::open(), Report::default());
    if golden.manifest["metrics"].is_string() {
        evaluation::check_official(&golden, &mut report);
        report.finish();
    }
}
