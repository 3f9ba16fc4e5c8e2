//! The result for one subject as text, JSON and table columns.

use std::path::PathBuf;

use serde_json::{Map, json};

use crate::error::Error;
use crate::request::WordLogits;
use crate::score::{Rule, Score, Scoring};

/// Digits after the point of what is printed for people.
const N_DIGITS: usize = 3;
const N_ANCHORS: usize = 5;

/// A rating, or what is left of one in a table.
pub enum Rating {
    Score(Score),
    Words(WordLogits),
    /// Of an earlier run: the cells of its row.
    Row(Vec<String>),
}

impl Rating {
    /// The score, if that is what it is.
    pub fn score(&self) -> Option<f64> {
        match self {
            Rating::Score(score) => Some(score.score),
            Rating::Words(_) => None,
            Rating::Row(cells) => cells.get(1)?.parse().ok(),
        }
    }
}

/// A subject that was rated.
pub struct RatedSubject {
    /// What it is called where it is printed.
    pub name: String,
    /// Its file, where it is one picture.
    pub path: Option<PathBuf>,
    pub value: Rating,
    /// How long it took; those of earlier runs have it in their row.
    pub seconds: f64,
}

/// The columns of a table, after the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    names: Vec<String>,
    is_scores: bool,
    has_preferences: bool,
}

impl Columns {
    /// Those of scores.
    pub fn of_scores(scoring: &Scoring) -> Self {
        let mut names: Vec<String> = ["image", "score", "score_unit", "deviation", "seconds"]
            .map(str::to_owned)
            .to_vec();
        let has_preferences = scoring.rule == Rule::Compare2Score;
        match has_preferences {
            true => names.extend((1..=N_ANCHORS).map(|anchor| format!("preference_{anchor}"))),
            false => {
                let levels = scoring.levels();
                names.extend(levels.iter().map(|word| format!("probability_{word}")));
                let words = scoring.words();
                names.extend(words.iter().map(|word| format!("logit_{word}")));
            }
        }
        Columns {
            names,
            is_scores: true,
            has_preferences,
        }
    }

    /// Those of the likelihood of words.
    pub fn of_words(words: &[String]) -> Self {
        let mut names = vec!["image".to_owned(), "seconds".to_owned()];
        for kind in ["probability", "logit", "log_probability"] {
            names.extend(words.iter().map(|word| format!("{kind}_{word}")));
        }
        Columns {
            names,
            is_scores: false,
            has_preferences: false,
        }
    }

    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl RatedSubject {
    /// What an earlier run rated.
    pub fn of_row(row: Vec<String>) -> Self {
        let name = row.first().cloned().unwrap_or_default();
        RatedSubject {
            path: Some(PathBuf::from(&name)),
            name,
            value: Rating::Row(row),
            seconds: 0.0,
        }
    }

    /// The cells of its row.
    pub fn row(&self) -> Vec<String> {
        let mut row = vec![self.name.clone()];
        match &self.value {
            Rating::Score(score) => {
                row.push(score.score.to_string());
                row.push(score.unit.to_string());
                row.push(score.deviation.map_or_else(String::new, |d| d.to_string()));
                row.push(self.seconds.to_string());
                row.extend(score.preferences.iter().map(f64::to_string));
                row.extend(score.probabilities.iter().map(|(_, p)| p.to_string()));
                row.extend(score.logits.iter().map(|(_, logit)| logit.to_string()));
            }
            Rating::Words(logits) => {
                row.push(self.seconds.to_string());
                row.extend(logits.probabilities().iter().map(f64::to_string));
                row.extend(logits.words.iter().map(|word| word.logit.to_string()));
                let words = logits.words.iter();
                row.extend(words.map(|word| word.log_probability.to_string()));
            }
            Rating::Row(cells) => row.clone_from(cells),
        }
        row
    }

    /// For people: the name and the score, or the words and their probabilities.
    pub fn as_text(&self, columns: &Columns) -> String {
        let name = match self.name.is_empty() {
            true => String::new(),
            false => format!("{}: ", self.name),
        };
        if columns.is_scores {
            let score = self.value.score().unwrap_or(f64::NAN);
            return format!("{name}{score:.N_DIGITS$}");
        }
        let probabilities = match &self.value {
            Rating::Words(logits) => {
                let words = logits.words.iter().map(|word| word.word.as_str());
                let words = words.zip(logits.probabilities());
                let words = words.map(|(word, p)| format!("{word} {p:.N_DIGITS$}"));
                words.collect::<Vec<_>>().join(", ")
            }
            _ => String::new(),
        };
        name + &probabilities
    }

    /// All that is known.
    pub fn as_json(&self, columns: &Columns) -> serde_json::Value {
        let row = self.row();
        let mut object = Map::new();
        let mut groups: [Map<String, serde_json::Value>; 3] = Default::default();
        let mut preferences = Vec::new();
        for (column, cell) in columns.names.iter().zip(&row) {
            let value = match (column.as_str(), cell.parse::<f64>()) {
                ("image", _) => cell.as_str().into(),
                (_, Ok(number)) => json!(number),
                (_, Err(_)) => serde_json::Value::Null,
            };
            let prefixes = ["probability_", "logit_", "log_probability_"];
            let group = prefixes.iter().enumerate().find_map(|(group, prefix)| {
                let word = column.strip_prefix(prefix)?;
                Some((group, word))
            });
            match group {
                Some((group, word)) => {
                    groups[group].insert(word.to_owned(), value);
                }
                None if column.starts_with("preference_") => preferences.push(value),
                None => {
                    object.insert(column.clone(), value);
                }
            }
        }
        let names = ["probabilities", "logits", "log_probabilities"];
        for (name, group) in names.into_iter().zip(groups) {
            if !group.is_empty() {
                object.insert(name.to_owned(), group.into());
            }
        }
        if columns.has_preferences {
            object.insert("preferences".to_owned(), preferences.into());
        }
        object.into()
    }
}

/// A subject that could not be rated.
pub fn failed(name: &str, error: &Error) -> serde_json::Value {
    json!({ "image": name, "error": error.to_string() })
}
