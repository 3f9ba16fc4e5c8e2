//! Parsers, metrics and prompts of evaluations, and the answers to questions in tables.

use std::collections::BTreeMap;

use owl2::eval::benchmark::{Benchmark, BenchmarkFormat, VqaMetric};
use owl2::eval::metrics::answers::{Options, YesNo, choice, choice_by_letter, choice_by_text};
use owl2::eval::metrics::correlation::{Agreement, kendall, pearson, spearman};
use owl2::eval::metrics::distribution::{Gap, Normal};
use owl2::eval::metrics::tables::{self, ChoiceAnswer, Judged, Scores};
use owl2::eval::metrics::vqa::{self, Periods};
use owl2::eval::prompts::Style;
use owl2::eval::table::Table;
use owl2::image::{Aspect, Reading};
use owl2::request::WordLogit;
use owl2::reuse::PromptCache;
use owl2::score::{Rule, Scoring};
use serde_json::Value;

use crate::golden::{Golden, count, elements, integers, members, number, text};
use crate::report::Report;
use crate::scores::Rater;
use crate::{sha256, texts};

/// The manifest: scores agree to 1e-9, relatively.
const TOLERANCE: f64 = 1e-9;

fn near(report: &mut Report, stage: &str, at: &str, ours: f64, wanted: &Value) {
    let Some(wanted) = wanted.as_f64() else {
        return report.equal(stage, at, &ours.is_nan(), &true);
    };
    let error = (ours - wanted).abs() / wanted.abs().max(1.0);
    report.near(stage, at, &[error as f32], &[0.0], TOLERANCE as f32);
}

fn letter(value: &Value) -> Option<char> {
    value.as_str().and_then(|text| text.chars().next())
}

/// What parsers make of answers.
pub fn check_parsers(golden: &Golden, report: &mut Report) {
    let vectors = golden.json(text(&golden.manifest["eval"]["parsers"]));
    for vector in elements(&vectors["mcq"]) {
        let answer = text(&vector["answer"]);
        let options: Options = members(&vector["options"])
            .map(|(letter, text)| (letter.chars().next().unwrap(), written(text)))
            .collect();
        let at = format!("{answer:?} of {options:?}");
        report.equal(
            "choice",
            &at,
            &choice(answer, &options),
            &letter(&vector["parsed"]),
        );
        let by_letter = choice_by_letter(answer, &options);
        report.equal(
            "choice by letter",
            &at,
            &by_letter,
            &letter(&vector["by_letter"]),
        );
        let by_text = choice_by_text(answer, &options);
        report.equal("choice by text", &at, &by_text, &letter(&vector["by_text"]));
    }
    for vector in elements(&vectors["yes_no"]) {
        let answer = text(&vector["answer"]);
        report.equal(
            "yes or no",
            answer,
            YesNo::of(answer).name(),
            text(&vector["parsed"]),
        );
    }
    for vector in elements(&vectors["vqa_normalise"]) {
        let answer = text(&vector["answer"]);
        let ours = vqa::normalised(answer, Periods::BetweenDigits);
        report.equal(
            "normalised",
            answer,
            ours.as_str(),
            text(&vector["normalised"]),
        );
    }
    for vector in elements(&vectors["relaxed_accuracy"]) {
        let (truth, answer) = (text(&vector["target"]), text(&vector["prediction"]));
        let wanted = vector["correct"].as_bool().unwrap();
        let ours = vqa::is_relaxed_match(truth, answer);
        report.equal("relaxed match", &vector.to_string(), &ours, &wanted);
    }
}

/// A cell as text.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Open answers.
pub fn check_vqa(golden: &Golden, report: &mut Report) {
    let vectors = golden.json(text(&golden.manifest["eval"]["vqa"]));
    let mut scores = Vec::new();
    for row in elements(&vectors["rows"]) {
        let at = row.to_string();
        let truths: Vec<String> = elements(&row["answers"])
            .map(|a| text(a).to_owned())
            .collect();
        let answer = text(&row["prediction"]);
        let normalise = |text: &str| vqa::normalised(text, Periods::BetweenDigits);
        report.equal(
            "normalised",
            &at,
            normalise(answer).as_str(),
            text(&row["pred"]),
        );
        for (truth, wanted) in truths.iter().zip(elements(&row["gt"])) {
            report.equal("normalised", &at, normalise(truth).as_str(), text(wanted));
        }
        let score = vqa::score(answer, &truths);
        scores.push(score);
        near(report, "VQA score", &at, score, &row["vqa_score"]);
        for (metric, key) in [
            (VqaMetric::ExactBest, "accuracy_max"),
            (VqaMetric::ExactMean, "accuracy_mean"),
            (VqaMetric::Anls, "anls"),
        ] {
            near(report, key, &at, metric.score(answer, &truths), &row[key]);
        }
        let distances = vqa::distances(answer, &truths);
        for (ours, wanted) in distances.iter().zip(elements(&row["anls_distances"])) {
            near(report, "edit distance", &at, *ours, wanted);
        }
        let exact = vqa::exact_normalised(answer, &truths);
        near(report, "exact", &at, exact, &row["normalised_exact_mean"]);
    }
    let mean = 100.0 * scores.iter().sum::<f64>() / scores.len() as f64;
    near(
        report,
        "VQA score",
        "all",
        mean,
        &vectors["overall_vqa_score_percent"],
    );
}

/// Correlations, and what DeQA's scripts say of their predictions.
pub fn check_agreement(golden: &Golden, report: &mut Report) {
    let vectors = golden.json(text(&golden.manifest["eval"]["correlation"]));
    for case in elements(&vectors["cases"]) {
        let list = |key: &str| elements(&case[key]).map(number).collect::<Vec<f64>>();
        let (x, y) = (list("x"), list("y"));
        let at = format!("{} pairs", x.len());
        near(report, "SRCC", &at, spearman(&x, &y), &case["srcc"]);
        near(report, "PLCC", &at, pearson(&x, &y), &case["plcc"]);
        near(report, "KRCC", &at, kendall(&x, &y), &case["krcc"]);
    }

    let deqa = golden.json(text(&golden.manifest["score"]["deqa"]["file"]));
    let scoring = Scoring::new(Rule::Deqa);
    let scores = elements(&deqa["script_predictions"]).map(|prediction| {
        let words = scoring.words().into_iter().map(|word| {
            let logit = number(&prediction["logits"][word]) as f32;
            WordLogit {
                word: word.to_owned(),
                ids: Vec::new(),
                logit,
                log_probability: logit.into(),
            }
        });
        scoring.rate(&owl2::request::WordLogits {
            words: words.collect(),
            n_prompt: 0,
            n_reused: 0,
            timings: Default::default(),
        })
    });
    let scores: Vec<_> = scores.collect();
    let truth = |key: &str| {
        elements(&deqa["metas"])
            .map(|meta| number(&meta[key]))
            .collect::<Vec<_>>()
    };
    let (predicted, people): (Vec<f64>, _) =
        (scores.iter().map(|s| s.score).collect(), truth("gt_score"));
    let metrics = &deqa["metrics"];
    let mut close = |name: &str, ours: f64, wanted: &Value, tolerance: f32| {
        report.near(
            name,
            "DeQA",
            &[(ours - number(wanted)) as f32],
            &[0.0],
            tolerance,
        );
    };
    let plain = Agreement::of(&predicted, &people);
    close("SRCC", plain.srcc, &metrics["plain"]["SRCC"], 1e-6);
    close("PLCC", plain.plcc, &metrics["plain"]["PLCC"], 1e-6);
    // The manifest: it depends on the fit's end point.
    let fitted = Agreement::after_fit(&predicted, &people).unwrap();
    close(
        "SRCC after fit",
        fitted.srcc,
        &metrics["after_logistic_fit"]["SRCC"],
        0.02,
    );
    close(
        "PLCC after fit",
        fitted.plcc,
        &metrics["after_logistic_fit"]["PLCC"],
        0.02,
    );
    let normals = truth("gt_score_norm").into_iter().zip(truth("std_norm"));
    let pairs = normals.zip(&scores).map(|((mean, deviation), score)| {
        let predicted = Normal {
            mean: score.score,
            deviation: score.deviation.unwrap(),
        };
        (Normal { mean, deviation }, predicted)
    });
    let gap = Gap::of(&pairs.collect::<Vec<_>>());
    close("KL", gap.kl, &metrics["KL"], 1e-3);
    close("JS", gap.js, &metrics["JS"], 1e-3);
    close("W", gap.wasserstein, &metrics["WD"], 1e-3);
}

/// Sums of benchmarks.
pub fn check_tables(golden: &Golden, report: &mut Report) {
    let vectors = golden.json(text(&golden.manifest["eval"]["tables"]));
    let mme = judged(report, &vectors["mme"], false);
    check_scores(report, "MME", &tables::mme(&mme), &vectors["mme"]["scores"]);
    let pope = judged(report, &vectors["pope"], false);
    check_groups(
        report,
        "POPE",
        &tables::pope(&pope),
        &vectors["pope"]["scores"],
    );
    let rows = judged(report, &vectors["mme"], true);
    let wanted = &vectors["default_yes_no"]["scores"];
    check_scores(report, "yes or no", &tables::yes_no(&rows), wanted);
    let rows = judged(report, &vectors["hallusionbench"], false);
    let groups = tables::hallusion_bench(&rows).unwrap();
    check_groups(
        report,
        "HallusionBench",
        &groups,
        &vectors["hallusionbench"]["scores"],
    );

    let circular = &vectors["mmbench_circular"];
    let rows: Vec<ChoiceAnswer> = elements(&circular["rows"]).map(chosen).collect();
    let plain = &vectors["mcq_vanilla"];
    check_hits(report, &rows, &plain["hits"]);
    check_groups(
        report,
        "plain choice",
        &tables::accuracy(&rows),
        &plain["accuracy"],
    );
    report.equal("circular", "rows", &tables::is_circular(&rows), &true);
    let mut questions = tables::circular(&rows);
    check_hits(report, &questions, &circular["hits"]);
    let groups = tables::accuracy(&questions);
    check_groups(report, "circular choice", &groups, &circular["accuracy"]);
    for question in &mut questions {
        question.split = None;
    }
    let groups = tables::accuracy(&questions);
    let wanted = &circular["accuracy_without_split_column"];
    check_groups(report, "circular choice", &groups, wanted);
}

/// Rows of yes or no; with the coarser category that the vectors of the default rating use.
fn judged(report: &mut Report, vectors: &Value, by_index: bool) -> Vec<Judged> {
    let some = |value: &Value| value.as_str().map(str::to_owned);
    let rows = elements(&vectors["rows"]).zip(elements(&vectors["extracted"]));
    rows.map(|(row, extracted)| {
        let answer = YesNo::of(&written(&row["prediction"]));
        let at = row["prediction"].to_string();
        report.equal("yes or no", &at, answer.name(), text(extracted));
        let parity = || match count(&row["index"]) % 2 {
            0 => "even".to_owned(),
            _ => "odd".to_owned(),
        };
        Judged {
            index: written(&row["index"]),
            category: some(&row["category"]),
            l2_category: if by_index {
                Some(parity())
            } else {
                some(&row["l2-category"])
            },
            image: some(&row["image_path"]).unwrap_or_default(),
            ..Judged::new(answer, text(&row["answer"]))
        }
    })
    .collect()
}

fn chosen(row: &Value) -> ChoiceAnswer {
    let some = |key: &str| row[key].as_str().map(str::to_owned);
    let options: Options = ('A'..='Z')
        .filter_map(|letter| {
            let option = &row[letter.to_string()];
            (!option.is_null()).then(|| (letter, written(option)))
        })
        .collect();
    ChoiceAnswer {
        index: count(&row["index"]) as u64,
        category: some("category"),
        l2_category: some("l2-category"),
        split: some("split"),
        is_right: choice(&written(&row["prediction"]), &options) == letter(&row["answer"]),
    }
}

fn check_hits(report: &mut Report, rows: &[ChoiceAnswer], hits: &Value) {
    report.equal("hits", "all", &rows.len(), &members(hits).count());
    for row in rows {
        let wanted = count(&hits[row.index.to_string()]) == 1;
        report.equal("hits", &row.index.to_string(), &row.is_right, &wanted);
    }
}

fn check_scores(report: &mut Report, at: &str, ours: &Scores, wanted: &Value) {
    let ours: BTreeMap<&str, f64> = ours.iter().map(|(name, x)| (name.as_str(), *x)).collect();
    for (name, wanted) in members(wanted) {
        let at = format!("{at}, {name}");
        match ours.get(name) {
            Some(&ours) => near(report, "table", &at, ours, wanted),
            None => report.fail("table", &at, "is missing"),
        }
    }
    report.equal("table", at, &ours.len(), &members(wanted).count());
}

fn check_groups(report: &mut Report, at: &str, ours: &[(String, Scores)], wanted: &Value) {
    for (name, wanted) in members(wanted) {
        let at = format!("{at}, {name}");
        match ours.iter().find(|(ours, _)| ours == name) {
            Some((_, ours)) => check_scores(report, &at, ours, wanted),
            None => report.fail("table", &at, "is missing"),
        }
    }
    report.equal("table", at, &ours.len(), &members(wanted).count());
}

/// Tables of VLMEvalKit: cells, prompts, pictures and answers.
pub fn check_questions(family: &Golden, golden: &Golden, report: &mut Report) {
    let listed = &family.manifest["eval"];
    let vectors = family.json(text(&listed["prompts"]));
    let name = text(&vectors["checkpoint"]);
    let rater = Rater::open(golden, text(&golden.manifest["checkpoints"][name]["dir"]));
    for file in elements(&listed["files"]).map(text) {
        let name = file.rsplit('/').next().unwrap().trim_end_matches(".tsv");
        let path = family.path(file);
        let benchmark =
            Benchmark::read(&path, BenchmarkFormat::Tsv, family.dir(), usize::MAX).unwrap();
        let table = Table::read(&path, b'\t', usize::MAX).unwrap();
        let rows = &vectors[name];
        report.equal(
            "rows",
            name,
            &benchmark.items.len(),
            &elements(rows).count(),
        );
        for (item, wanted) in elements(rows).enumerate() {
            let at = format!("{name}, {}", wanted["index"]);
            check_cells(report, &at, &table, item, &wanted["as_read"]);
            let asked = &benchmark.items[item].asked;
            let prompt = asked.prompt(Style::VlmEvalKit);
            report.equal("prompt", &at, prompt.as_str(), text(&wanted["owl2_prompt"]));
            let (message, _) = asked.vlm_eval_kit_message();
            let parts = elements(&wanted["owl2_message"]);
            let mut texts_of = parts
                .filter(|part| part[0] == "text")
                .map(|part| text(&part[1]));
            report.equal(
                "message",
                &at,
                message.as_str(),
                texts_of.next().unwrap_or_default(),
            );
            let ids = texts::prompt_ids(rater.assistant().tokenizer(), &prompt);
            report.equal("prompt ids", &at, &ids, &integers(&wanted["owl2_ids"]));
            let max_tokens = asked.max_tokens(Style::VlmEvalKit);
            report.equal(
                "longest answer",
                &at,
                &max_tokens,
                &count(&wanted["max_new_tokens"]),
            );
            check_pictures(report, &at, &rater, &benchmark, item, wanted);
            let n_tokens = integers(&wanted["new_ids"]).len();
            let answer = benchmark.answer(
                rater.assistant(),
                &mut PromptCache::new(),
                item,
                Style::VlmEvalKit,
                Some(n_tokens),
            );
            if let Some(answer) = report.ok("answer", &at, answer) {
                report.equal(
                    "answer",
                    &at,
                    answer.text.as_str(),
                    text(&wanted["answer_text"]),
                );
            }
        }
    }
}

fn check_cells(report: &mut Report, at: &str, table: &Table, row: usize, wanted: &Value) {
    for (column, wanted) in members(wanted) {
        let ours = table.cell(row, column).unwrap();
        match wanted.as_f64() {
            // Whole numbers are written with a point in the vectors.
            Some(wanted) => {
                let ours = ours.and_then(|cell| cell.parse::<f64>().ok());
                report.equal("cell", at, &ours, &Some(wanted));
            }
            None => report.equal("cell", at, &ours.as_deref(), &wanted.as_str()),
        }
    }
}

fn check_pictures(
    report: &mut Report,
    at: &str,
    rater: &Rater,
    benchmark: &Benchmark,
    item: usize,
    wanted: &Value,
) {
    let pictures = benchmark.pictures(item).unwrap();
    report.equal("pictures", at, &pictures.len(), &count(&wanted["n_images"]));
    let visual = rater.assistant().model().config().visual.as_ref().unwrap();
    for (picture, hash) in pictures
        .iter()
        .zip(elements(&wanted["pixel_values_sha256"]))
    {
        let owl2::request::Source::Bytes(bytes) = picture else {
            return report.fail("pictures", at, "are not in the table");
        };
        let picture = owl2::image::decode(bytes, Reading::Reference, &Default::default()).unwrap();
        let pixels = visual.preprocess.pixels(&picture, Aspect::Squash).unwrap();
        let bytes: Vec<u8> = pixels.iter().flat_map(|x| x.to_le_bytes()).collect();
        report.equal("pixel_values", at, sha256(&bytes).as_str(), text(hash));
    }
}

/// The official metrics of VQA and MME, in the first set.
pub fn check_official(golden: &Golden, report: &mut Report) {
    let Some(file) = golden.manifest["metrics"].as_str() else {
        return;
    };
    let vectors = golden.json(file);
    for vector in elements(&vectors["vqa_normalise"]) {
        let source = text(&vector["text"]);
        let ours = vqa::without_marks(source, Periods::BeforeDigits);
        report.equal(
            "without marks",
            source,
            ours.as_str(),
            text(&vector["punct"]),
        );
        let ours = vqa::plain_words(&ours);
        report.equal(
            "plain words",
            source,
            ours.as_str(),
            text(&vector["digit_article"]),
        );
    }
    for item in elements(&vectors["vqa_accuracy"]["items"]) {
        let truths: Vec<String> = elements(&item["ground_truth"])
            .map(|t| text(t).to_owned())
            .collect();
        let ours = 100.0 * vqa::official_accuracy(text(&item["answer"]), &truths);
        // The script rounds to two digits.
        let error = (ours - number(&item["acc"])).abs();
        report.near(
            "VQA accuracy",
            &item.to_string(),
            &[error as f32],
            &[0.0],
            0.0051,
        );
    }
    let rows: Vec<Judged> = elements(&vectors["mme"]["rows"])
        .map(|row| Judged {
            category: row["category"].as_str().map(str::to_owned),
            image: text(&row["image_name"]).to_owned(),
            ..Judged::new(
                YesNo::of_beginning(text(&row["answer"])),
                text(&row["annotation"]),
            )
        })
        .collect();
    check_official_mme(report, &tables::mme(&rows), &vectors["mme"]);
}

fn check_official_mme(report: &mut Report, ours: &Scores, wanted: &Value) {
    for (name, ours) in ours {
        let wanted = match name.as_str() {
            "perception" => &wanted["perception"],
            "reasoning" => &wanted["cognition"],
            category => {
                let mut scores = members(&wanted["scores"]);
                let score = scores.find(|(name, _)| name.ends_with(&format!("-{category}")));
                score.map_or(&Value::Null, |(_, score)| score)
            }
        };
        near(report, "MME", name, *ours, wanted);
    }
    for vector in elements(&wanted["parse"]) {
        let answer = text(&vector["answer"]);
        let ours = match YesNo::of_beginning(answer) {
            YesNo::Yes => "yes",
            YesNo::No => "no",
            YesNo::Unknown => "other",
        };
        report.equal("yes or no", answer, ours, text(&vector["label"]));
    }
}
