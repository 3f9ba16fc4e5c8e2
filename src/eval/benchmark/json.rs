//! JSON arrays of questions: VQA with people's answers, and Q-Bench with candidates.

use std::path::Path;

use serde_json::Value;

use super::judge::Judge;
use super::{Benchmark, BenchmarkItem, Pictures, Truth, array, lacks};
use crate::error::Result;
use crate::eval::metrics::answers::Options;
use crate::eval::prompts::{Asked, Wanted};

/// Objects with `question`, `image` and, as text or as a list, `answer` or `answers`.
pub fn vqa(path: &Path, image_root: &Path, limit: usize) -> Result<Benchmark> {
    let mut items = Vec::new();
    for (number, entry) in array(path, limit)?.iter().enumerate() {
        let question = entry["question"].as_str();
        let question = question.ok_or_else(|| lacks(number, "question").in_file(path))?;
        let answers = [&entry["answers"], &entry["answer"]];
        let answers = answers.into_iter().find(|answers| !answers.is_null());
        let phrases = answers.map(phrases).unwrap_or_default();
        let index = match &entry["question_id"] {
            Value::Null => number.to_string(),
            Value::String(id) => id.clone(),
            id => id.to_string(),
        };
        let truth = match phrases.is_empty() {
            true => Truth::Unknown,
            false => Truth::Phrases(phrases),
        };
        items.push(item(
            entry,
            image_root,
            index,
            asked(question, Wanted::Phrase),
            truth,
        ));
    }
    Ok(Benchmark {
        items,
        judge: Judge::OfficialVqa,
        table: None,
    })
}

/// People's answers: one, or a list of texts or of objects that have one.
fn phrases(answers: &Value) -> Vec<String> {
    match answers {
        Value::Null => Vec::new(),
        Value::Array(answers) => answers.iter().flat_map(phrases).collect(),
        Value::Object(answer) => answer.get("answer").map(phrases).unwrap_or_default(),
        Value::String(answer) => vec![answer.clone()],
        other => vec![other.to_string()],
    }
}

/// Objects with `img_path`, `question`, `candidates` and `correct_ans`, and perhaps `type` and
/// `concern`.
pub fn q_bench(path: &Path, image_root: &Path, limit: usize) -> Result<Benchmark> {
    let mut items = Vec::new();
    for (number, entry) in array(path, limit)?.iter().enumerate() {
        let missing = |what: &str| lacks(number, what).in_file(path);
        let question = entry["question"].as_str();
        let question = question.ok_or_else(|| missing("question"))?;
        let candidates = entry["candidates"].as_array();
        let candidates = candidates.ok_or_else(|| missing("candidates"))?;
        let candidates = candidates
            .iter()
            .map(|text| text.as_str().unwrap_or_default());
        let options: Options = ('A'..='Z').zip(candidates.map(str::to_owned)).collect();
        let right = entry["correct_ans"].as_str();
        let letter = right.and_then(|right| {
            let mut options = options.iter();
            options
                .find(|(_, text)| *text == right)
                .map(|(&letter, _)| letter)
        });
        let asked = Asked {
            options,
            ..asked(question, Wanted::Candidate)
        };
        let truth = letter.map_or(Truth::Unknown, Truth::Letter);
        let mut item = item(entry, image_root, number.to_string(), asked, truth);
        let kind = |key: &str| match &entry[key] {
            Value::Null => None,
            Value::String(text) => Some(format!("{key} {text}")),
            other => Some(format!("{key} {other}")),
        };
        item.category = kind("type");
        item.l2_category = kind("concern");
        items.push(item);
    }
    Ok(Benchmark {
        items,
        judge: Judge::QBench,
        table: None,
    })
}

fn asked(question: &str, wanted: Wanted) -> Asked {
    Asked {
        wanted,
        question: question.to_owned(),
        hint: None,
        options: Options::new(),
        n_pictures: 1,
    }
}

/// A question about the picture that the entry names, or about none.
fn item(
    entry: &Value,
    image_root: &Path,
    index: String,
    asked: Asked,
    truth: Truth,
) -> BenchmarkItem {
    let image = ["image", "img_path"]
        .into_iter()
        .find_map(|key| entry[key].as_str())
        .unwrap_or_default();
    let pictures = match image.is_empty() {
        true => Vec::new(),
        false => vec![image_root.join(image)],
    };
    BenchmarkItem {
        index,
        asked: Asked {
            n_pictures: pictures.len(),
            ..asked
        },
        category: None,
        l2_category: None,
        split: None,
        image: image.to_owned(),
        truth,
        pictures: Pictures::Files(pictures),
    }
}
