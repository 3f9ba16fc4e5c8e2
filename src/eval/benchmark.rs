//! Question files of benchmarks, and their metrics.

mod json;
mod judge;
mod mme;
mod tsv;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::eval::prompts::{Asked, Style};
use crate::eval::table::Table;
use crate::files;
use crate::image::Reading;
use crate::request::{Assistant, Prompt, Source, WordsRequest};
use crate::reuse::PromptCache;

pub use judge::{Judge, Section, VqaMetric};

/// The largest JSON file that is read.
const MAX_JSON_BYTES: u64 = 1 << 30;

/// What a file of questions is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchmarkFormat {
    /// A JSON object a line, as [`crate::eval::read`] reads it.
    Lines,
    /// The JSON arrays of Q-Align and DeQA-Score: pictures with people's scores.
    Iqa,
    /// A table of VLMEvalKit.
    Tsv,
    /// A folder of MME.
    Mme,
    /// A JSON array of questions with people's answers.
    Vqa,
    /// Q-Bench's JSON array of questions with candidates.
    QBench,
    /// A CSV file of multiple-choice questions without pictures.
    Mmlu,
}

/// Names of the formats.
const FORMATS: [(&str, BenchmarkFormat); 7] = [
    ("lines", BenchmarkFormat::Lines),
    ("iqa", BenchmarkFormat::Iqa),
    ("tsv", BenchmarkFormat::Tsv),
    ("mme", BenchmarkFormat::Mme),
    ("vqa", BenchmarkFormat::Vqa),
    ("q-bench", BenchmarkFormat::QBench),
    ("mmlu", BenchmarkFormat::Mmlu),
];

impl FromStr for BenchmarkFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = FORMATS.iter().find(|(name, _)| *name == text);
        known.map(|(_, format)| *format).ok_or_else(|| {
            let names = FORMATS.map(|(name, _)| name).join(", ");
            Error::usage(format!(
                "unknown format of questions '{text}' (expected one of {names})"
            ))
        })
    }
}

impl BenchmarkFormat {
    /// What the file or folder at `path` seems to be, by its name and its beginning.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(BenchmarkFormat::Mme);
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("tsv") => return Ok(BenchmarkFormat::Tsv),
            Some("csv") => return Ok(BenchmarkFormat::Mmlu),
            _ => {}
        }
        // Enough to tell an array and the keys of its first object.
        let mut head = Vec::new();
        let file = files::open_argument(path)?;
        file.take(4096)
            .read_to_end(&mut head)
            .map_err(|e| Error::io("cannot read the questions", path, e))?;
        let head = String::from_utf8_lossy(&head);
        let head = files::without_mark(&head).trim_start();
        let has = |key: &str| head.contains(&format!("\"{key}\""));
        Ok(match head.starts_with('[') {
            false => BenchmarkFormat::Lines,
            true if has("candidates") || has("correct_ans") => BenchmarkFormat::QBench,
            true if has("question") => BenchmarkFormat::Vqa,
            true => BenchmarkFormat::Iqa,
        })
    }
}

/// The pictures of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pictures {
    Files(Vec<PathBuf>),
    /// In the table, in this row.
    Row(usize),
}

/// What is known of the right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truth {
    /// Nothing that could be judged here.
    Unknown,
    /// A letter.
    Letter(char),
    /// Yes or no.
    YesNo(String),
    /// What people answered.
    Phrases(Vec<String>),
}

/// A question of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchmarkItem {
    /// What it is called in its file.
    pub index: String,
    /// The question.
    pub asked: Asked,
    /// Its category.
    pub category: Option<String>,
    /// The coarser one.
    pub l2_category: Option<String>,
    /// Which part of the benchmark it belongs to.
    pub split: Option<String>,
    /// The file of its picture, as the benchmark names it.
    pub image: String,
    /// The right answer.
    pub truth: Truth,
    pictures: Pictures,
}

/// The questions of a benchmark.
pub struct Benchmark {
    /// The questions.
    pub items: Vec<BenchmarkItem>,
    /// What is made of the answers.
    pub judge: Judge,
    table: Option<Table>,
}

impl Benchmark {
    /// Reads the first `limit` questions. Pictures that are files are looked for in `image_root`.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where a file cannot be read,
    /// [`Kind::Input`](crate::Kind::Input) with the place where it is none of this format.
    pub fn read(
        path: &Path,
        format: BenchmarkFormat,
        image_root: &Path,
        limit: usize,
    ) -> Result<Self> {
        let benchmark = match format {
            BenchmarkFormat::Tsv => tsv::read(path, image_root, limit)?,
            BenchmarkFormat::Mme => mme::read(path, limit)?,
            BenchmarkFormat::Vqa => json::vqa(path, image_root, limit)?,
            BenchmarkFormat::QBench => json::q_bench(path, image_root, limit)?,
            BenchmarkFormat::Lines | BenchmarkFormat::Iqa | BenchmarkFormat::Mmlu => {
                return Err(Error::usage("is read in another way").in_parameter("format"));
            }
        };
        match benchmark.items.is_empty() {
            true => Err(Error::input("there are no questions").in_file(path)),
            false => Ok(benchmark),
        }
    }

    /// The columns of the table of answers: those of the questions' own table without the pictures,
    /// or what every benchmark has; the last is `prediction`.
    pub fn columns(&self) -> Vec<String> {
        let mut columns: Vec<String> = match &self.table {
            Some(table) => {
                let columns = table.columns().iter();
                columns.filter(|name| is_kept(name)).cloned().collect()
            }
            None => ["index", "image", "question", "answer"]
                .map(str::to_owned)
                .to_vec(),
        };
        columns.push("prediction".to_owned());
        columns
    }

    /// The row of a question with its answer.
    ///
    /// # Errors
    /// Those of reading the questions' own table again.
    pub fn row(&self, item: usize, prediction: &str) -> Result<Vec<String>> {
        let known = &self.items[item];
        let mut row = match &self.table {
            Some(table) => {
                let columns = table.columns().iter().enumerate();
                let columns = columns.filter(|(_, name)| is_kept(name));
                let cells = columns.map(|(column, _)| table.raw(item, column));
                cells.collect::<Result<Vec<String>>>()?
            }
            None => vec![
                known.index.clone(),
                known.image.clone(),
                known.asked.question.clone(),
                known.truth.text(),
            ],
        };
        row.push(prediction.to_owned());
        Ok(row)
    }

    /// The pictures of a question.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the table holds none.
    pub fn pictures(&self, item: usize) -> Result<Vec<Source>> {
        match (&self.items[item].pictures, &self.table) {
            (Pictures::Files(files), _) => Ok(files.iter().cloned().map(Source::File).collect()),
            (Pictures::Row(row), Some(table)) => tsv::pictures(table, *row),
            (Pictures::Row(_), None) => Ok(Vec::new()),
        }
    }

    /// The answer to a question: the likeliest tokens, at least one. Pictures are squashed, as the
    /// authors' scripts and VLMEvalKit do; Q-Bench's are treated as the model file says.
    ///
    /// # Errors
    /// As [`Assistant::word_logits`].
    pub fn answer(
        &self,
        assistant: &Assistant,
        memory: &mut PromptCache,
        item: usize,
        style: Style,
        max_tokens: Option<usize>,
    ) -> Result<Prediction> {
        let asked = &self.items[item].asked;
        let (aspect, reading) = (self.judge.aspect(), Reading::Reference);
        let mut slots = Vec::new();
        let mut warnings = Vec::new();
        for source in self.pictures(item)? {
            let pixels = assistant.pixels(&source, aspect, reading)?;
            let name = match &source {
                Source::File(path) => path.display().to_string(),
                _ => format!("picture of question {}", self.items[item].index),
            };
            warnings.extend(pixels.damage().map(|damage| format!("{name}: {damage}")));
            slots.push(vec![Source::Pixels(pixels)]);
        }
        let request = WordsRequest {
            slots,
            aspect,
            reading,
            ..WordsRequest::new(Prompt::Raw(asked.prompt(style)), [""])
        };
        let max_tokens = max_tokens.unwrap_or_else(|| asked.max_tokens(style));
        let ids = assistant.brief_answer(memory, &request, max_tokens)?;
        Ok(Prediction {
            text: assistant.tokenizer().decode(&ids).trim().to_owned(),
            warnings,
        })
    }

    /// What the benchmark's metrics make of the answers, one for each question.
    pub fn judged(&self, predictions: &[String]) -> Vec<Section> {
        self.judge.sections(&self.items, predictions)
    }
}

/// What a model says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The answer, without space around it.
    pub text: String,
    /// What files of its pictures lack, which the model was shown gray or shifted.
    pub warnings: Vec<String>,
}

/// Pictures are left out of tables of answers, as VLMEvalKit does.
fn is_kept(column: &str) -> bool {
    column != "image"
}

impl Truth {
    /// As a cell of a table.
    fn text(&self) -> String {
        match self {
            Truth::Unknown => String::new(),
            Truth::Letter(letter) => letter.to_string(),
            Truth::YesNo(answer) => answer.clone(),
            Truth::Phrases(phrases) => phrases.join("; "),
        }
    }
}

/// The array in a JSON file.
pub(super) fn array(path: &Path, limit: usize) -> Result<Vec<serde_json::Value>> {
    let file = files::open_argument(path)?;
    let bytes = files::read_at_most(file, path, MAX_JSON_BYTES)?;
    let too_large = || Error::input(format!("has more than {MAX_JSON_BYTES} bytes"));
    let bytes = bytes.ok_or_else(|| too_large().in_file(path))?;
    let text = files::text(bytes, path)?;
    let mut values: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|e| {
        Error::input(format!("is not a JSON array: {e}"))
            .in_file(path)
            .caused_by(e)
    })?;
    values.truncate(limit);
    Ok(values)
}

/// One line for an entry of a file that lacks something.
pub(super) fn lacks(number: usize, what: &str) -> Error {
    Error::input(format!("entry {} has no '{what}'", number + 1))
}

/// A number, or a text that is one.
pub(super) fn number(value: &serde_json::Value) -> Option<f64> {
    match value {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        value => value.as_f64(),
    }
    .filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_name_and_beginning() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            BenchmarkFormat::of(directory.path()).unwrap(),
            BenchmarkFormat::Mme
        );
        for (name, text, format) in [
            ("a.tsv", "", BenchmarkFormat::Tsv),
            ("a.CSV", "", BenchmarkFormat::Mmlu),
            ("a.jsonl", "{\"question\": \"a\"}", BenchmarkFormat::Lines),
            ("b.jsonl", " [{\"question\": \"a\"}]", BenchmarkFormat::Vqa),
            (
                "c.json",
                "[{\"img_path\": \"a\", \"gt_score\": 1}]",
                BenchmarkFormat::Iqa,
            ),
            (
                "d.json",
                "[{\"question\": \"a\", \"candidates\": []}]",
                BenchmarkFormat::QBench,
            ),
            ("e.json", "", BenchmarkFormat::Lines),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            assert_eq!(BenchmarkFormat::of(&path).unwrap(), format, "{name}");
        }
        for (name, format) in FORMATS {
            assert_eq!(name.parse::<BenchmarkFormat>().unwrap(), format);
        }
        assert!("xml".parse::<BenchmarkFormat>().is_err());
    }
}
