//! Results of single questions, added up as each benchmark does.

use std::collections::{BTreeMap, BTreeSet};

use super::answers::YesNo;
use super::mean;

/// Named numbers, in the order they are shown.
pub type Scores = Vec<(String, f64)>;

/// A question that is answered by yes or no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Its index in its table.
    pub index: String,
    /// Its category.
    pub category: Option<String>,
    /// The coarser one.
    pub l2_category: Option<String>,
    /// The picture, for MME's pairs.
    pub image: String,
    /// Whether the right answer is yes.
    pub is_yes: bool,
    /// Whether yes was answered.
    pub said_yes: bool,
    /// Whether the answer is right; one that is neither yes nor no never is.
    pub is_right: bool,
}

impl Judged {
    /// With what was answered and what is right; the other fields are to be filled in.
    pub fn new(answered: YesNo, right: &str) -> Self {
        Judged {
            is_yes: right.eq_ignore_ascii_case("yes"),
            said_yes: answered == YesNo::Yes,
            is_right: answered.name().eq_ignore_ascii_case(right),
            ..Judged::default()
        }
    }
}

fn percent(rows: &[&Judged]) -> f64 {
    100.0 * mean(rows.iter().map(|row| f64::from(row.is_right)))
}

/// Categories, sorted, each with its rows.
fn by<'r>(
    rows: &'r [Judged],
    category: impl Fn(&'r Judged) -> Option<&'r str>,
) -> BTreeMap<&'r str, Vec<&'r Judged>> {
    let mut groups: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for row in rows {
        if let Some(category) = category(row) {
            groups.entry(category).or_default().push(row);
        }
    }
    groups
}

const PERCEPTION: [&str; 10] = [
    "OCR",
    "artwork",
    "celebrity",
    "color",
    "count",
    "existence",
    "landmark",
    "position",
    "posters",
    "scene",
];
const REASONING: [&str; 4] = [
    "code_reasoning",
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
];

/// MME: for each category, the percentage of right answers and that of pictures with both answers
/// right; these summed up for perception and reasoning, over the categories that there are.
pub fn mme(rows: &[Judged]) -> Scores {
    let mut scores = BTreeMap::new();
    for (category, rows) in by(rows, |row| row.category.as_deref()) {
        let mut pictures: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
        for row in &rows {
            pictures.entry(&row.image).or_default().push(row.is_right);
        }
        let both = pictures.values().map(|right| match right[..] {
            [first, second, ..] => f64::from(first && second),
            _ => 0.0,
        });
        scores.insert(category, percent(&rows) + 100.0 * mean(both));
    }
    let sum = |categories: &[&str]| {
        let known = categories
            .iter()
            .filter_map(|category| scores.get(category));
        known.sum::<f64>()
    };
    let mut listed = vec![
        ("perception".to_owned(), sum(&PERCEPTION)),
        ("reasoning".to_owned(), sum(&REASONING)),
    ];
    let rest = scores.iter();
    listed.extend(rest.map(|(category, score)| (category.to_string(), *score)));
    listed
}

/// POPE: F1, accuracy, precision and recall of yes, in percent, over all and by category. A
/// question of several categories, parted by commas, counts in each, and as often over all.
pub fn pope(rows: &[Judged]) -> Vec<(String, Scores)> {
    let mut groups: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    let mut all = Vec::new();
    for row in rows {
        match &row.category {
            Some(categories) => {
                for category in categories.split(',') {
                    all.push(row);
                    groups.entry(category).or_default().push(row);
                }
            }
            None => all.push(row),
        }
    }
    let groups = [("Overall", all)].into_iter().chain(groups);
    groups
        .map(|(name, rows)| (name.to_owned(), f1(&rows)))
        .collect()
}

fn f1(rows: &[&Judged]) -> Scores {
    let count = |is: fn(&Judged) -> bool| rows.iter().filter(|row| is(row)).count() as f64;
    let share = |part: f64, whole: f64| if whole == 0.0 { 0.0 } else { part / whole };
    let hits = count(|row| row.is_yes && row.said_yes);
    let precision = share(hits, count(|row| row.said_yes));
    let recall = share(hits, count(|row| row.is_yes));
    let f1 = share(2.0 * (precision * recall), precision + recall);
    let named = |name: &str, value: f64| (name.to_owned(), value);
    vec![
        named("Overall", 100.0 * f1),
        named("acc", percent(rows)),
        named("precision", 100.0 * precision),
        named("recall", 100.0 * recall),
    ]
}

/// Questions of yes or no in general: percentages over all, by category and by the coarser one.
pub fn yes_no(rows: &[Judged]) -> Scores {
    let all: Vec<&Judged> = rows.iter().collect();
    let mut scores = vec![("Overall".to_owned(), percent(&all))];
    let categories = by(rows, |row| row.category.as_deref()).into_iter();
    let coarser = by(rows, |row| row.l2_category.as_deref()).into_iter();
    for (category, rows) in categories.chain(coarser) {
        scores.push((category.to_owned(), percent(&rows)));
    }
    scores
}

/// HallusionBench: percentages of right answers, of figures and of questions that are all right,
/// over all, by category and by the coarser one. Numbers of set, figure and question stand in the
/// index; none where one has no such index.
pub fn hallusion_bench(rows: &[Judged]) -> Option<Vec<(String, Scores)>> {
    let number = |row: &Judged, place: usize| row.index.split('_').nth(place).map(str::to_owned);
    if rows.iter().any(|row| number(row, 5).is_none()) {
        return None;
    }
    let all_right = |rows: &[&Judged], place: usize| {
        let mut groups: BTreeMap<_, bool> = BTreeMap::new();
        for row in rows {
            let group = (
                row.l2_category.as_deref(),
                number(row, 3),
                number(row, place),
            );
            *groups.entry(group).or_insert(true) &= row.is_right;
        }
        100.0 * mean(groups.values().map(|&right| f64::from(right)))
    };
    let scores = |rows: &[&Judged]| {
        vec![
            ("aAcc".to_owned(), percent(rows)),
            ("fAcc".to_owned(), all_right(rows, 4)),
            ("qAcc".to_owned(), all_right(rows, 5)),
        ]
    };
    let all: Vec<&Judged> = rows.iter().collect();
    let mut listed = vec![("Overall".to_owned(), scores(&all))];
    let categories = by(rows, |row| row.category.as_deref()).into_iter();
    let coarser = by(rows, |row| row.l2_category.as_deref()).into_iter();
    for (category, rows) in categories.chain(coarser) {
        listed.push((category.to_owned(), scores(&rows)));
    }
    Some(listed)
}

/// A multiple-choice question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChoiceAnswer {
    /// Its number in its table.
    pub index: u64,
    /// Its category.
    pub category: Option<String>,
    /// The coarser one.
    pub l2_category: Option<String>,
    /// Which part of the benchmark it belongs to.
    pub split: Option<String>,
    /// Whether the answer is right.
    pub is_right: bool,
}

/// Rotations of a question have its index and a multiple of this.
const ROTATION: u64 = 1_000_000;

/// Whether a table has rotations of its questions.
pub fn is_circular(rows: &[ChoiceAnswer]) -> bool {
    rows.iter().any(|row| row.index >= ROTATION)
}

/// Questions of a circular table, each right only where all its rotations are. The other fields are
/// those of the rotation with the least index.
pub fn circular(rows: &[ChoiceAnswer]) -> Vec<ChoiceAnswer> {
    let mut questions: BTreeMap<u64, ChoiceAnswer> = BTreeMap::new();
    let mut order: Vec<&ChoiceAnswer> = rows.iter().collect();
    order.sort_by_key(|row| row.index);
    for row in order {
        let index = row.index % ROTATION;
        let question = questions.entry(index).or_insert_with(|| ChoiceAnswer {
            index,
            ..row.clone()
        });
        question.is_right &= row.is_right;
    }
    questions.into_values().collect()
}

/// Shares of right answers by split, each over all, by coarser category (MMBench's are shortened)
/// and by category. Where no question names a split, the one there is is called `none`.
pub fn accuracy(rows: &[ChoiceAnswer]) -> Vec<(String, Scores)> {
    let splits: BTreeSet<&str> = rows.iter().filter_map(|row| row.split.as_deref()).collect();
    let parts: Vec<(&str, Vec<&ChoiceAnswer>)> = match splits.is_empty() {
        true => vec![("none", rows.iter().collect())],
        false => splits
            .into_iter()
            .map(|split| {
                let rows = rows.iter();
                let part = rows.filter(|row| row.split.as_deref() == Some(split));
                (split, part.collect())
            })
            .collect(),
    };
    parts
        .into_iter()
        .map(|(split, rows)| (split.to_owned(), shares(&rows)))
        .collect()
}

fn shares(rows: &[&ChoiceAnswer]) -> Scores {
    let share = |rows: &[&ChoiceAnswer]| mean(rows.iter().map(|row| f64::from(row.is_right)));
    let mut scores = vec![("Overall".to_owned(), share(rows))];
    let kinds: [fn(&ChoiceAnswer) -> Option<&str>; 2] = [
        |row| row.l2_category.as_deref().map(shortened),
        |row| row.category.as_deref().map(shortened),
    ];
    for kind in kinds {
        let mut groups: BTreeMap<&str, Vec<&ChoiceAnswer>> = BTreeMap::new();
        for row in rows {
            if let Some(name) = kind(row) {
                groups.entry(name).or_default().push(row);
            }
        }
        let groups = groups.into_iter();
        scores.extend(groups.map(|(name, rows)| (name.to_owned(), share(&rows))));
    }
    scores
}

/// MMBench's own short names.
fn shortened(category: &str) -> &str {
    match category {
        "coarse_perception" => "CP",
        "finegrained_perception (instance-level)" => "FP-S",
        "finegrained_perception (cross-instance)" => "FP-C",
        "logic_reasoning" => "LR",
        "relation_reasoning" => "RR",
        "attribute_reasoning" => "AR",
        other => other,
    }
}
