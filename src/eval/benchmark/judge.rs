//! The metrics of each benchmark.

use std::collections::BTreeMap;

use super::{BenchmarkItem, Truth};
use crate::eval::metrics::answers::{YesNo, choice};
use crate::eval::metrics::tables::{self, ChoiceAnswer, Judged, Scores};
use crate::eval::metrics::vqa;
use crate::image::Aspect;

/// A part of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// What it is about.
    pub name: String,
    /// Its numbers, in the units of the benchmark.
    pub scores: Scores,
}

impl Section {
    /// A part of a report.
    pub fn new(name: impl Into<String>, scores: Scores) -> Self {
        Section {
            name: name.into(),
            scores,
        }
    }
}

/// The metrics of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// Multiple choice as VLMEvalKit's, by circular groups where there are any.
    Choices,
    /// MME as VLMEvalKit counts it.
    Mme,
    /// MME as its own script counts it.
    MmeOfficial,
    /// POPE.
    Pope,
    /// HallusionBench.
    HallusionBench,
    /// Yes or no in general.
    YesNo,
    /// Open answers as VLMEvalKit's.
    Vqa(VqaMetric),
    /// The official VQA accuracy.
    OfficialVqa,
    /// Q-Bench: right where the letter is in the answer.
    QBench,
    /// Answers are only written down.
    Nothing,
}

/// VLMEvalKit's metrics of open answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VqaMetric {
    /// Agreement with people's normalised answers.
    Score,
    /// The same answer but for case; the best of several.
    ExactBest,
    /// The same answer but for case; the mean of several.
    ExactMean,
    /// A number within 5 %, or the same text; the best of several.
    Relaxed,
    /// Edit distance.
    Anls,
}

impl VqaMetric {
    /// The metric of the benchmark with this name.
    pub fn of(name: &str) -> Self {
        let is = |part: &str| name.contains(part);
        match () {
            () if is("DocVQA") || is("InfoVQA") => VqaMetric::Anls,
            () if is("ChartQA") => VqaMetric::Relaxed,
            () if is("OCRVQA") => VqaMetric::ExactBest,
            () if is("GQA") => VqaMetric::ExactMean,
            () => VqaMetric::Score,
        }
    }

    /// How far an answer is right, 0 to 1.
    pub fn score(self, answer: &str, truths: &[String]) -> f64 {
        let best = |right: Vec<bool>| f64::from(right.into_iter().any(|right| right));
        match self {
            VqaMetric::Score => vqa::score(answer, truths),
            VqaMetric::ExactBest => best(vqa::exact(answer, truths)),
            VqaMetric::ExactMean => {
                let right = vqa::exact(answer, truths);
                let n_right = right.iter().filter(|right| **right).count();
                n_right as f64 / right.len() as f64
            }
            VqaMetric::Relaxed => {
                let truths = truths.iter();
                best(
                    truths
                        .map(|truth| vqa::is_relaxed_match(truth, answer.trim()))
                        .collect(),
                )
            }
            VqaMetric::Anls => vqa::anls(answer, truths),
        }
    }

    fn name(self) -> &'static str {
        match self {
            VqaMetric::Score => "VQA score, %",
            VqaMetric::ExactBest | VqaMetric::ExactMean => "exact, %",
            VqaMetric::Relaxed => "relaxed accuracy, %",
            VqaMetric::Anls => "ANLS, %",
        }
    }
}

impl Judge {
    /// What becomes of pictures that are not square; `None` is the model file's own way.
    pub fn aspect(self) -> Option<Aspect> {
        match self {
            Judge::QBench => None,
            _ => Some(Aspect::Squash),
        }
    }

    /// The report on answers, one for each item.
    pub fn sections(self, items: &[BenchmarkItem], predictions: &[String]) -> Vec<Section> {
        let pairs = || items.iter().zip(predictions);
        match self {
            Judge::Choices => choices(pairs()),
            Judge::Mme => vec![Section::new(
                "MME",
                tables::mme(&judged(pairs(), YesNo::of)),
            )],
            Judge::MmeOfficial => {
                let rows = judged(pairs(), YesNo::of_beginning);
                vec![Section::new("MME", tables::mme(&rows))]
            }
            Judge::Pope => named(tables::pope(&judged(pairs(), YesNo::of))),
            Judge::HallusionBench => {
                let rows = judged(pairs(), YesNo::of);
                match tables::hallusion_bench(&rows) {
                    Some(groups) => named(groups),
                    None => vec![Section::new("right, %", tables::yes_no(&rows))],
                }
            }
            Judge::YesNo => {
                let rows = judged(pairs(), YesNo::of);
                vec![Section::new("right, %", tables::yes_no(&rows))]
            }
            Judge::Vqa(metric) => open(metric.name(), pairs(), |answer, truths| {
                metric.score(answer, truths)
            }),
            Judge::OfficialVqa => open("VQA accuracy, %", pairs(), vqa::official_accuracy),
            Judge::QBench => q_bench(pairs()),
            Judge::Nothing => Vec::new(),
        }
    }
}

fn named(groups: Vec<(String, Scores)>) -> Vec<Section> {
    let groups = groups.into_iter();
    groups
        .map(|(name, scores)| Section { name, scores })
        .collect()
}

fn choices<'i>(pairs: impl Iterator<Item = (&'i BenchmarkItem, &'i String)>) -> Vec<Section> {
    let rows: Vec<ChoiceAnswer> = pairs
        .filter_map(|(item, prediction)| {
            let Truth::Letter(right) = item.truth else {
                return None;
            };
            Some(ChoiceAnswer {
                index: item.index.parse().unwrap_or(0),
                category: item.category.clone(),
                l2_category: item.l2_category.clone(),
                split: item.split.clone(),
                is_right: choice(prediction, &item.asked.options) == Some(right),
            })
        })
        .collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let mut sections = Vec::new();
    let mut add = |kind: &str, rows: &[ChoiceAnswer]| {
        for (split, scores) in tables::accuracy(rows) {
            sections.push(Section::new(format!("{kind}, {split}"), scores));
        }
    };
    if tables::is_circular(&rows) {
        add("right in all rotations", &tables::circular(&rows));
    }
    add("right", &rows);
    sections
}

fn judged<'i>(
    pairs: impl Iterator<Item = (&'i BenchmarkItem, &'i String)>,
    read: fn(&str) -> YesNo,
) -> Vec<Judged> {
    pairs
        .filter_map(|(item, prediction)| {
            let Truth::YesNo(right) = &item.truth else {
                return None;
            };
            Some(Judged {
                index: item.index.clone(),
                category: item.category.clone(),
                l2_category: item.l2_category.clone(),
                image: item.image.clone(),
                ..Judged::new(read(prediction), right)
            })
        })
        .collect()
}

/// Percentages over all and by category.
fn open<'i>(
    name: &str,
    pairs: impl Iterator<Item = (&'i BenchmarkItem, &'i String)>,
    score: impl Fn(&str, &[String]) -> f64,
) -> Vec<Section> {
    let mut groups: BTreeMap<Option<&str>, Vec<f64>> = BTreeMap::new();
    for (item, prediction) in pairs {
        let Truth::Phrases(truths) = &item.truth else {
            continue;
        };
        let score = score(prediction, truths);
        groups.entry(None).or_default().push(score);
        if let Some(category) = &item.category {
            groups.entry(Some(category)).or_default().push(score);
        }
    }
    shares(name, groups)
}

fn q_bench<'i>(pairs: impl Iterator<Item = (&'i BenchmarkItem, &'i String)>) -> Vec<Section> {
    let mut groups: BTreeMap<Option<&str>, Vec<f64>> = BTreeMap::new();
    for (item, prediction) in pairs {
        let Truth::Letter(right) = item.truth else {
            continue;
        };
        let is_right = f64::from(prediction.contains(right));
        let kinds = [item.category.as_deref(), item.l2_category.as_deref()];
        for kind in kinds.into_iter().flatten() {
            groups.entry(Some(kind)).or_default().push(is_right);
        }
        groups.entry(None).or_default().push(is_right);
    }
    shares("right, %", groups)
}

fn shares(name: &str, groups: BTreeMap<Option<&str>, Vec<f64>>) -> Vec<Section> {
    let scores = groups.into_iter().map(|(group, values)| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (group.unwrap_or("Overall").to_owned(), 100.0 * mean)
    });
    let scores: Scores = scores.collect();
    match scores.is_empty() {
        true => Vec::new(),
        false => vec![Section::new(name, scores)],
    }
}
