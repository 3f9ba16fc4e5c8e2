//! The likelihood of words after any prompt, with any number of pictures.

use std::path::{Path, PathBuf};

use owl2::image::{Picture, Reading};
use owl2::request::{Prompt, Source, WordsRequest};
use serde_json::Value;

use crate::golden::{Golden, count, elements, floats, integers, members, number, text};
use crate::pictures;
use crate::report::Report;
use crate::scores::{Rater, check_words, near};

/// Prompts of Co-Instruct with one to four pictures.
pub fn check_co_instruct(golden: &Golden, report: &mut Report) {
    let vectors = golden.json(text(&golden.manifest["score"]["co_instruct"]));
    let rater = Rater::open(golden, text(&vectors["checkpoint"]));
    for (name, entry) in members(&vectors["prompts"]) {
        let prompt = text(&entry["prompt"]);
        rater.check_prompt(report, name, prompt, &entry["ids"]);
        rater.check_word_ids(report, name, &entry["word_ids"]);
        let slots =
            elements(&entry["images"]).map(|name| vec![Source::File(rater.path(text(name)))]);
        let slots: Vec<_> = slots.collect();
        let positions = rater.words(prompt, slots.clone(), &["A"]).n_prompt;
        report.equal("positions", name, &positions, &count(&entry["positions"]));
        check_words(report, &rater, name, prompt, slots, &entry["word_logits"]);
    }
}

/// Words of one and of several pieces at the end of prompts, on a checkpoint of the other set.
pub fn check_word_lists(family: &Golden, golden: &Golden, report: &mut Report) {
    let words = &family.manifest["words"];
    let vectors = family.json(text(&words["file"]));
    let name = text(&vectors["checkpoint"]);
    let rater = Rater::open(golden, text(&golden.manifest["checkpoints"][name]["dir"]));
    let tolerance = family.tolerance("word_logits");
    for (name, case) in members(&vectors["cases"]) {
        let slots = elements(&case["images"]).map(|name| {
            vec![Source::Bytes(bitmap(&pictures::reference(
                golden,
                text(name),
            )))]
        });
        let wanted: Vec<(&str, &Value)> = members(&case["words"]).collect();
        let request = WordsRequest {
            slots: slots.collect(),
            first_piece: true,
            aspect: Some(pictures::aspect(&case["aspect"])),
            reading: Reading::Reference,
            ..WordsRequest::new(
                Prompt::Raw(text(&case["prompt"]).to_owned()),
                wanted.iter().map(|(word, _)| *word),
            )
        };
        let Some(ours) = report.ok("words", name, rater.assistant().word_logits(&request)) else {
            continue;
        };
        for (ours, (word, wanted)) in ours.words.iter().zip(&wanted) {
            let at = format!("{name}, {word:?}");
            let ids: Vec<i64> = ours.ids.iter().map(|&id| id.into()).collect();
            report.equal("pieces", &at, &ids, &integers(&wanted["pieces"]));
            let vocabulary = rater.assistant().tokenizer().vocabulary();
            let piece = &vocabulary.pieces[ours.ids[0] as usize].text;
            report.equal(
                "first piece",
                &at,
                piece.as_str(),
                text(&wanted["first_piece"]),
            );
            near(
                report,
                "word logits",
                &at,
                ours.logit.into(),
                number(&wanted["logit"]),
                tolerance,
            );
            let probability = number(&wanted["logprob_full"]);
            near(
                report,
                "log probability",
                &at,
                ours.log_probability,
                probability,
                tolerance,
            );
        }
        let four: Vec<String> = request.words.iter().take(4).cloned().collect();
        let request = WordsRequest {
            words: four,
            ..request
        };
        let ours = rater
            .assistant()
            .word_logits(&request)
            .unwrap()
            .probabilities();
        let ours: Vec<f32> = ours.into_iter().map(|p| p as f32).collect();
        let wanted = floats(&case["softmax_of_first_four"]);
        report.near("softmax", name, &ours, &wanted, family.tolerance("probs"));
    }
}

/// A picture as a file without loss.
pub fn bitmap(picture: &Picture) -> Vec<u8> {
    const HEADER_BYTES: u32 = 54;
    let (width, height) = (picture.width() as u32, picture.height() as u32);
    let mut bytes = b"BM".to_vec();
    for word in [
        0,
        0,
        HEADER_BYTES,
        40,
        width,
        height,
        1 | 24 << 16,
        0,
        0,
        0,
        0,
        0,
        0,
    ] {
        bytes.extend(u32::to_le_bytes(word));
    }
    for row in picture.rgb().chunks_exact(3 * picture.width()).rev() {
        let length = bytes.len();
        for pixel in row.as_chunks::<3>().0 {
            bytes.extend(pixel.iter().rev());
        }
        bytes.resize(length + row.len().next_multiple_of(4), 0);
    }
    bytes
}

/// The directory of the earlier set that a set lies beside, if there is one.
pub fn beside(family: &Path, dir: &str) -> Option<PathBuf> {
    let set = Path::new(dir).components().next()?;
    let path = family.parent()?.join(set);
    path.join("manifest.json").exists().then_some(path)
}
