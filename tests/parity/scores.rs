//! Scores, comparisons and the likelihood of words, as the authors' scorers give them.

use std::path::PathBuf;

use owl2::clip;
use owl2::image::{Aspect, Reading};
use owl2::ops::Compute;
use owl2::request::{Assistant, Prompt, Source, WordLogits, WordsRequest};
use owl2::score::{Form, Objective, Rule, ScoreSubject, Scorer, Scoring, Task, place};
use serde_json::Value;

use crate::golden::{Golden, Tensors, count, elements, floats, integers, members, number, text};
use crate::report::Report;
use crate::{checkpoints, sha256, texts};

/// A checkpoint of the set, ready to rate.
pub struct Rater<'g> {
    pub golden: &'g Golden,
    assistant: Assistant,
}

impl<'g> Rater<'g> {
    /// The checkpoint in the directory `dir` of the set.
    pub fn open(golden: &'g Golden, dir: &str) -> Self {
        let entry = golden.checkpoints().find(|(_, entry)| entry["dir"] == dir);
        let (_, entry) = entry.unwrap_or_else(|| panic!("no checkpoint in {dir}"));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("model.gguf");
        checkpoints::convert(checkpoints::open(golden, entry).unwrap(), &path).unwrap();
        let compute = Compute::new(checkpoints::N_THREADS).unwrap();
        let assistant = Assistant::open_with(&path, compute).unwrap();
        Rater { golden, assistant }
    }

    /// The assistant.
    pub fn assistant(&self) -> &Assistant {
        &self.assistant
    }

    pub fn path(&self, picture: &str) -> PathBuf {
        self.golden.path(&format!("images/{picture}"))
    }

    fn picture(&self, name: &str) -> ScoreSubject {
        ScoreSubject::Picture(Source::File(self.path(name)))
    }

    fn clip(&self, frames: &Value) -> ScoreSubject {
        let frames = elements(frames).map(|name| Source::File(self.path(text(name))));
        ScoreSubject::Clip(frames.collect())
    }

    fn scorer(&self, scoring: Scoring) -> Scorer<'_> {
        Scorer::new(&self.assistant, scoring).unwrap()
    }

    /// The first pieces of words after a prompt with pictures in its slots.
    pub fn words(&self, prompt: &str, slots: Vec<Vec<Source>>, words: &[&str]) -> WordLogits {
        let request = WordsRequest {
            slots,
            first_piece: true,
            aspect: Some(Aspect::Pad),
            reading: Reading::Reference,
            ..WordsRequest::new(Prompt::Raw(prompt.to_owned()), words.iter().copied())
        };
        self.assistant.word_logits(&request).unwrap()
    }

    pub fn check_prompt(&self, report: &mut Report, at: &str, prompt: &str, ids: &Value) {
        let ours = texts::prompt_ids(self.assistant.tokenizer(), prompt);
        report.equal("prompt ids", at, &ours, &integers(ids));
    }

    pub fn check_word_ids(&self, report: &mut Report, at: &str, ids: &Value) {
        for (word, id) in members(ids) {
            let ours = self.assistant.word_ids(word).unwrap();
            report.equal("word id", at, &(ours[0] as usize), &count(id));
        }
    }
}

/// Q-Align's scores of pictures and videos, by the published model's prompts and by the scripts'.
pub fn check_qalign(golden: &Golden, report: &mut Report) {
    let file = text(&golden.manifest["score"]["qalign"]["file"]);
    let vectors = golden.json(file);
    let rater = Rater::open(golden, text(&vectors["checkpoint"]));
    rater.check_word_ids(report, file, &vectors["word_ids"]);
    rater.check_word_ids(report, file, &vectors["word_ids_13"]);
    let pixels = golden.tensors(text(&vectors["pixel_values"]));
    for (name, entry) in members(&vectors["pictures"]) {
        check_pixels(&rater, report, name, Aspect::Pad, entry, Some(&pixels));
        for (task, wanted) in members(&entry["tasks"]) {
            let mut scorer = rater.scorer(scoring(Rule::QAlign, task, Form::Hub));
            check_score(
                report,
                &format!("{name}, {task}"),
                wanted,
                &mut scorer,
                &rater.picture(name),
            );
        }
    }
    for clip in elements(&vectors["video"]) {
        let at = format!("video of {}, {}", clip["frames"], clip["task"]);
        let mut scorer = rater.scorer(scoring(Rule::QAlign, text(&clip["task"]), Form::Hub));
        check_score(report, &at, clip, &mut scorer, &rater.clip(&clip["frames"]));
    }
    for (name, prompt) in members(&vectors["prompts"]) {
        let written = text(&prompt["prompt"]);
        rater.check_prompt(report, name, written, &prompt["ids"]);
        let some = ScoreSubject::Picture(Source::Bytes(Vec::new()));
        let clip = ScoreSubject::Clip(Vec::new());
        let (task, form, subject) = match name {
            "video" => ("quality", Form::Hub, &clip),
            "video_aesthetics" => ("aesthetics", Form::Hub, &clip),
            "iqa_eval" => ("quality", Form::Scripts, &some),
            "iaa_eval" => ("aesthetics", Form::Scripts, &some),
            "vqa_eval" => ("quality", Form::Scripts, &clip),
            task => (task, Form::Hub, &some),
        };
        let ours = scoring(Rule::QAlign, task, form).prompt(subject);
        report.equal("prompt", name, ours.as_str(), written);
    }
    for (script, entries) in members(&vectors["eval_scripts"]) {
        let prompt = text(&vectors["prompts"][script]["prompt"]);
        for (name, entry) in members(entries) {
            let slots = vec![vec![Source::File(rater.path(name))]];
            check_words(
                report,
                &rater,
                &format!("{script}, {name}"),
                prompt,
                slots,
                &entry["logits"],
            );
            if let Some(wanted) = entry["score"].as_f64() {
                let task = if script == "iaa_eval" {
                    "aesthetics"
                } else {
                    "quality"
                };
                let mut scorer = rater.scorer(scoring(Rule::QAlign, task, Form::Scripts));
                let score = scorer.score(&rater.picture(name)).unwrap();
                near(
                    report,
                    "score1",
                    script,
                    score.unit,
                    wanted,
                    golden.tolerance("score1"),
                );
            }
        }
        for entry in elements(entries) {
            let frames =
                elements(&entry["frames"]).map(|name| Source::File(rater.path(text(name))));
            let slots = vec![frames.collect()];
            check_words(report, &rater, script, prompt, slots, &entry["logits"]);
        }
    }
    for case in elements(&vectors["video_frame_choice"]["cases"]) {
        let ours = clip::one_a_second(count(&case["n_frames"]), number(&case["fps"]));
        let ours: Vec<_> = ours.iter().map(|&index| index as i64).collect();
        report.equal(
            "frame choice",
            &case.to_string(),
            &ours,
            &integers(&case["indices"]),
        );
    }
}

fn scoring(rule: Rule, task: &str, form: Form) -> Scoring {
    Scoring {
        task: task.parse::<Task>().unwrap(),
        form,
        ..Scoring::new(rule)
    }
}

/// A score of Q-Align or DeQA, with what it was made of.
fn check_score(
    report: &mut Report,
    at: &str,
    wanted: &Value,
    scorer: &mut Scorer,
    subject: &ScoreSubject,
) {
    let Some(score) = report.ok("score", at, scorer.score(subject)) else {
        return;
    };
    let golden = Golden::family();
    let logits: Vec<f32> = score.logits.iter().map(|(_, logit)| *logit).collect();
    let tolerance = |name| golden.tolerance(name);
    report.near(
        "word logits",
        at,
        &logits,
        &floats(&wanted["logits"]),
        tolerance("word_logits"),
    );
    let probabilities: Vec<f32> = score.probabilities.iter().map(|(_, p)| *p as f32).collect();
    report.near(
        "probabilities",
        at,
        &probabilities,
        &floats(&wanted["probs"]),
        tolerance("probs"),
    );
    for (key, ours, tolerated) in [
        ("score5", score.score, "score5"),
        ("mean", score.score, "score5"),
        ("score1", score.unit, "score1"),
        ("std", score.deviation.unwrap(), "std"),
    ] {
        if let Some(wanted) = wanted[key].as_f64() {
            near(report, key, at, ours, wanted, tolerance(tolerated));
        }
    }
    if !wanted["positions"].is_null() {
        report.equal(
            "positions",
            at,
            &score.n_prompt,
            &count(&wanted["positions"]),
        );
    }
}

pub fn near(report: &mut Report, stage: &str, at: &str, ours: f64, wanted: f64, tolerance: f32) {
    report.near(stage, at, &[(ours - wanted) as f32], &[0.0], tolerance);
}

/// Logits of words, by word.
pub fn check_words(
    report: &mut Report,
    rater: &Rater,
    at: &str,
    prompt: &str,
    slots: Vec<Vec<Source>>,
    wanted: &Value,
) {
    let words: Vec<&str> = members(wanted).map(|(word, _)| word).collect();
    let wanted: Vec<f32> = members(wanted).map(|(_, x)| number(x) as f32).collect();
    let ours = rater.words(prompt, slots, &words).logits();
    report.near(
        "word logits",
        at,
        &ours,
        &wanted,
        rater.golden.tolerance("word_logits"),
    );
}

/// What goes into the vision tower.
fn check_pixels(
    rater: &Rater,
    report: &mut Report,
    name: &str,
    aspect: Aspect,
    entry: &Value,
    all: Option<&Tensors>,
) {
    let picture = owl2::image::open(&rater.path(name), Reading::Reference, &Default::default());
    let Some(picture) = report.ok("picture", name, picture) else {
        return;
    };
    if !entry["size"].is_null() {
        let size = [picture.width() as i64, picture.height() as i64];
        report.equal("picture size", name, &size[..], &integers(&entry["size"]));
    }
    let visual = rater.assistant.model().config().visual.as_ref();
    let pixels = visual.unwrap().preprocess.pixels(&picture, aspect).unwrap();
    if let Some(all) = all
        && all.has(name)
    {
        report.bits("pixel_values", name, &pixels, &all.f32s(name));
    }
    if let Some(wanted) = entry["pixel_values_sha256"].as_str() {
        let bytes: Vec<u8> = pixels.iter().flat_map(|x| x.to_le_bytes()).collect();
        report.equal("pixel_values", name, sha256(&bytes).as_str(), wanted);
    }
}

/// DeQA's scores, and what its scripts say of pictures by the evaluation's prompt.
pub fn check_deqa(golden: &Golden, report: &mut Report) {
    let file = text(&golden.manifest["score"]["deqa"]["file"]);
    let vectors = golden.json(file);
    let rater = Rater::open(golden, text(&vectors["checkpoint"]));
    rater.check_prompt(report, file, text(&vectors["prompt"]), &vectors["ids"]);
    let mut scorer = rater.scorer(Scoring::new(Rule::Deqa));
    let ids = integers(&vectors["ids"]);
    let n_before = ids.iter().position(|&id| id < 0);
    for (name, wanted) in members(&vectors["pictures"]) {
        check_score(report, name, wanted, &mut scorer, &rater.picture(name));
        // What comes before the picture is computed for the first alone.
        let other = members(&vectors["pictures"])
            .map(|(other, _)| other)
            .find(|other| *other != name);
        let score = scorer.score(&rater.picture(other.unwrap_or(name))).unwrap();
        report.equal(
            "positions in common",
            name,
            &Some(score.n_reused),
            &n_before,
        );
    }
    let scripts = scoring(Rule::Deqa, "quality", Form::Scripts);
    let metas = elements(&vectors["metas"]).zip(elements(&vectors["script_predictions"]));
    for (meta, wanted) in metas {
        let name = text(&meta["image"]);
        let prompt = scripts.prompt(&rater.picture(name));
        let slots = vec![vec![Source::File(rater.path(name))]];
        check_words(
            report,
            &rater,
            name,
            &prompt,
            slots.clone(),
            &wanted["logits"],
        );
        for (word, probability) in members(&wanted["probs_over_vocabulary"]) {
            let ours = rater.words(&prompt, slots.clone(), &[word]).words[0].log_probability;
            let wanted = number(probability).ln();
            let tolerance = 2.0 * golden.tolerance("word_logits");
            near(report, "log probabilities", name, ours, wanted, tolerance);
        }
    }
}

/// Comparisons with anchors, and the places that they make.
pub fn check_compare2score(golden: &Golden, report: &mut Report) {
    let file = text(&golden.manifest["score"]["compare2score"]["file"]);
    let vectors = golden.json(file);
    for unit in elements(&vectors["map_units"]) {
        check_placement(report, unit);
    }
    let rater = Rater::open(golden, text(&vectors["checkpoint"]));
    rater.check_prompt(report, file, text(&vectors["prompt"]), &vectors["ids"]);
    rater.check_word_ids(report, file, &vectors["word_ids"]);
    let anchors = elements(&vectors["anchors"]).map(|name| Source::File(rater.path(text(name))));
    let anchors: Vec<_> = anchors.collect();
    let scorer = |objective| {
        let scoring = Scoring {
            objective,
            ..Scoring::new(Rule::Compare2Score)
        };
        rater.scorer(scoring).with_anchors(&anchors).unwrap()
    };
    let (mut normal, mut sigmoid) = (scorer(Objective::Normal), scorer(Objective::Sigmoid));
    report.equal(
        "prompt",
        file,
        normal.scoring().prompt(&rater.picture("")).as_str(),
        text(&vectors["prompt"]),
    );
    for (name, wanted) in members(&vectors["pictures"]) {
        let source = Source::File(rater.path(name));
        for pair in elements(&wanted["pairs"]) {
            let anchor = Source::File(rater.path(text(&pair["anchor"])));
            let compared = normal.compare(&anchor, &source).unwrap();
            let logits: Vec<f32> = compared.logits.iter().map(|(_, x)| x / 100.0).collect();
            let at = format!("{name} after {}", pair["anchor"]);
            let tolerance = golden.tolerance("pair_logits_over_100");
            report.near(
                "pair logits",
                &at,
                &logits,
                &floats(&pair["logits_over_100"]),
                tolerance,
            );
            let probabilities: Vec<f32> = compared
                .probabilities
                .iter()
                .map(|(_, p)| *p as f32)
                .collect();
            report.near(
                "pair probabilities",
                &at,
                &probabilities,
                &floats(&pair["probs"]),
                tolerance,
            );
        }
        let score = normal.score(&rater.picture(name)).unwrap();
        let preferences: Vec<f32> = score.preferences.iter().map(|&p| p as f32).collect();
        let wanted_row = floats(&wanted["preference"]);
        report.near(
            "preferences",
            name,
            &preferences,
            &wanted_row,
            golden.tolerance("preference"),
        );
        let exact = golden.tolerance("map_score_exact");
        near(
            report,
            "exact",
            name,
            score.score,
            number(&wanted["score_exact"]),
            exact,
        );
        let hub = golden.tolerance("map_score_hub");
        near(
            report,
            "hub",
            name,
            score.score,
            number(&wanted["score_hub_adam100"]),
            hub,
        );
        let score = sigmoid.score(&rater.picture(name)).unwrap();
        near(
            report,
            "sigmoid",
            name,
            score.score,
            number(&wanted["score_sigmoid_exact"]),
            exact,
        );
    }
}

fn check_placement(report: &mut Report, unit: &Value) {
    let row: Vec<f64> = elements(&unit["preference"]).map(number).collect();
    let row: [f64; 5] = row.try_into().expect("five preferences");
    let at = unit["preference"].to_string();
    // The manifest, on scores from the preference row: 1 - p was formed in float32.
    let tolerance = 1e-5;
    let placement = place(&row, Objective::Normal);
    near(
        report,
        "placement",
        &at,
        placement.score,
        number(&unit["score_exact"]),
        tolerance,
    );
    near(
        report,
        "maximum",
        &at,
        placement.value,
        number(&unit["objective_exact"]),
        tolerance,
    );
    for (ours, wanted) in placement.scale.iter().zip(elements(&unit["scale_exact"])) {
        near(report, "scale", &at, *ours, number(wanted), tolerance);
    }
    let placement = place(&row, Objective::Sigmoid);
    near(
        report,
        "placement",
        &at,
        placement.score,
        number(&unit["score_sigmoid_exact"]),
        tolerance,
    );
}

/// Q-Instruct's scores, of cropped and of padded pictures.
pub fn check_q_instruct(golden: &Golden, report: &mut Report) {
    let file = text(&golden.manifest["score"]["q_instruct"]);
    let vectors = golden.json(file);
    let rater = Rater::open(golden, text(&vectors["checkpoint"]));
    rater.check_prompt(report, file, text(&vectors["prompt"]), &vectors["ids"]);
    rater.check_word_ids(report, file, &vectors["word_ids"]);
    let scorer = |boost, aspect| {
        rater.scorer(Scoring {
            boost,
            aspect,
            ..Scoring::new(Rule::QInstruct)
        })
    };
    report.equal(
        "prompt",
        file,
        scorer(false, None)
            .scoring()
            .prompt(&rater.picture(""))
            .as_str(),
        text(&vectors["prompt"]),
    );
    let (mut plain, mut boosted) = (scorer(false, None), scorer(true, None));
    for (name, wanted) in members(&vectors["pictures"]) {
        check_pixels(&rater, report, name, Aspect::Crop, wanted, None);
        let score = boosted.score(&rater.picture(name)).unwrap();
        let logits: Vec<f32> = score.logits.iter().map(|(_, logit)| *logit).collect();
        let tolerance = golden.tolerance("word_logits");
        report.near(
            "word logits",
            name,
            &logits,
            &floats(&wanted["logits"]),
            tolerance,
        );
        let tolerance = golden.tolerance("score1");
        near(
            report,
            "boosted",
            name,
            score.score,
            number(&wanted["score_boost_on"]),
            tolerance,
        );
        let score = plain.score(&rater.picture(name)).unwrap();
        near(
            report,
            "plain",
            name,
            score.score,
            number(&wanted["score_boost_off"]),
            tolerance,
        );
        let probabilities: Vec<f32> = score.probabilities.iter().map(|(_, p)| *p as f32).collect();
        let wanted_probabilities = floats(&wanted["probs_boost_off"]);
        let tolerance = golden.tolerance("probs");
        report.near(
            "probabilities",
            name,
            &probabilities,
            &wanted_probabilities,
            tolerance,
        );
        let [good, poor] = [logits[0], logits[2]];
        let share = f64::from((good - poor).exp());
        near(
            report,
            "good against poor",
            name,
            share / (1.0 + share),
            number(&wanted["good_against_poor"]),
            tolerance,
        );
    }
    let (mut plain, mut boosted) = (
        scorer(false, Some(Aspect::Pad)),
        scorer(true, Some(Aspect::Pad)),
    );
    for (name, wanted) in members(&vectors["with_padding_instead"]) {
        let tolerance = golden.tolerance("score1");
        for (scorer, key) in [
            (&mut plain, "score_boost_off"),
            (&mut boosted, "score_boost_on"),
        ] {
            let score = scorer.score(&rater.picture(name)).unwrap();
            near(
                report,
                "padded",
                name,
                score.score,
                number(&wanted[key]),
                tolerance,
            );
        }
    }
}
