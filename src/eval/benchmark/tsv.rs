//! VLMEvalKit's tables: questions with the pictures inside.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::judge::{Judge, VqaMetric};
use super::{Benchmark, BenchmarkItem, Pictures, Truth};
use crate::error::{Error, Result};
use crate::eval::metrics::answers::Options;
use crate::eval::prompts::{Asked, Wanted};
use crate::eval::table::{Table, listed};
use crate::request::Source;

/// A shorter cell in the place of a picture is the index of the row that has it.
const MIN_PICTURE: usize = 64;

/// Benchmarks of yes or no by their names.
const YES_NO: [&str; 6] = ["MME", "POPE", "HallusionBench", "AMBER", "VSR", "YOrN"];

pub fn read(path: &Path, image_root: &Path, limit: usize) -> Result<Benchmark> {
    let table = Table::read(path, b'\t', limit)?;
    let items = items(&table, path, image_root).map_err(|e| e.in_file(path))?;
    Ok(Benchmark {
        judge: judge(&name(path), &items),
        items,
        table: Some(table),
    })
}

fn name(path: &Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn items(table: &Table, path: &Path, image_root: &Path) -> Result<Vec<BenchmarkItem>> {
    if !table.has("question") {
        return Err(Error::input("has no column 'question'"));
    }
    let rows = table.rows_by("index")?;
    let wanted = wanted(table, &name(path))?;
    let mut items = Vec::with_capacity(table.n_rows());
    for row in 0..table.n_rows() {
        let cell = |column: &str| table.cell(row, column);
        let index = cell("index")?.unwrap_or_else(|| row.to_string());
        let image = cell("image_path")?.unwrap_or_default();
        let pictures = match cell("image")? {
            None => {
                let names = listed(&image).into_iter().filter(|name| !name.is_empty());
                Pictures::Files(names.map(|name| image_root.join(name)).collect())
            }
            Some(picture) if picture.len() <= MIN_PICTURE => {
                let other = rows.get(&picture).copied().ok_or_else(|| {
                    Error::input(format!(
                        "the row with index {index} has the picture of {picture}, which is not there"
                    ))
                })?;
                Pictures::Row(other)
            }
            Some(_) => Pictures::Row(row),
        };
        let n_pictures = match &pictures {
            Pictures::Files(files) => files.len(),
            Pictures::Row(row) => n_pictures(table, *row)?,
        };
        let answer = cell("answer")?;
        let asked = Asked {
            wanted,
            question: cell("question")?.unwrap_or_else(|| "nan".to_owned()),
            hint: cell("hint")?,
            options: options(table, row)?,
            n_pictures,
        };
        items.push(BenchmarkItem {
            index,
            category: cell("category")?,
            l2_category: cell("l2-category")?,
            split: cell("split")?,
            image,
            truth: truth(wanted, answer),
            asked,
            pictures,
        });
    }
    Ok(items)
}

/// The options of a question, by the columns that are called by a letter.
fn options(table: &Table, row: usize) -> Result<Options> {
    let mut options = Options::new();
    for letter in 'A'..='Z' {
        if let Some(text) = table.cell(row, &letter.to_string())? {
            options.insert(letter, text);
        }
    }
    Ok(options)
}

/// What kind of answers the questions want.
fn wanted(table: &Table, name: &str) -> Result<Wanted> {
    let is = |part: &&str| name.contains(*part);
    if is(&"MMVet") || is(&"MM-Vet") {
        return Ok(Wanted::Sentences);
    }
    if table.has("A") && table.has("B") {
        return Ok(Wanted::Letter);
    }
    if name.to_ascii_lowercase().contains("vqa") {
        return Ok(Wanted::Phrase);
    }
    let mut is_yes_no = true;
    for row in 0..table.n_rows() {
        let answer = table.cell(row, "answer")?.unwrap_or_default();
        is_yes_no &= ["yes", "no"].contains(&answer.to_lowercase().as_str());
    }
    Ok(match is_yes_no || YES_NO.iter().any(is) {
        true => Wanted::YesNo,
        false => Wanted::Phrase,
    })
}

fn truth(wanted: Wanted, answer: Option<String>) -> Truth {
    let Some(answer) = answer else {
        return Truth::Unknown;
    };
    match wanted {
        Wanted::Letter | Wanted::Candidate => {
            let mut letters = answer.trim().chars();
            match (letters.next(), letters.next()) {
                (Some(letter), None) => Truth::Letter(letter),
                _ => Truth::Unknown,
            }
        }
        Wanted::YesNo => Truth::YesNo(answer),
        Wanted::Phrase => match listed(&answer) {
            phrases if phrases.is_empty() => Truth::Unknown,
            phrases => Truth::Phrases(phrases),
        },
        Wanted::Sentences => Truth::Unknown,
    }
}

fn judge(name: &str, items: &[BenchmarkItem]) -> Judge {
    let wanted = items.first().map(|item| item.asked.wanted);
    match wanted {
        Some(Wanted::Letter | Wanted::Candidate) => Judge::Choices,
        Some(Wanted::YesNo) if name.starts_with("MME") => Judge::Mme,
        Some(Wanted::YesNo) if name.contains("POPE") => Judge::Pope,
        Some(Wanted::YesNo) if name.contains("HallusionBench") => Judge::HallusionBench,
        Some(Wanted::YesNo) => Judge::YesNo,
        Some(Wanted::Phrase) => Judge::Vqa(VqaMetric::of(name)),
        Some(Wanted::Sentences) | None => Judge::Nothing,
    }
}

fn n_pictures(table: &Table, row: usize) -> Result<usize> {
    Ok(match table.cell(row, "image")? {
        Some(cell) if cell.starts_with('[') => listed(&cell).len(),
        Some(_) => 1,
        None => 0,
    })
}

/// The pictures in a row.
pub fn pictures(table: &Table, row: usize) -> Result<Vec<Source>> {
    let cell = table.cell(row, "image")?.unwrap_or_default();
    let pictures = listed(&cell).into_iter().map(|text| {
        let text: String = text.split_whitespace().collect();
        STANDARD
            .decode(text)
            .map(Source::Bytes)
            .map_err(|e| Error::input(format!("row {} has no picture in base64: {e}", row + 1)))
    });
    pictures.collect()
}
