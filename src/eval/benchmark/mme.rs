//! MME's folders: a text file for each category, and its pictures.

use std::path::{Path, PathBuf};

use super::judge::Judge;
use super::{Benchmark, BenchmarkItem, Pictures, Truth};
use crate::error::{Error, Result};
use crate::eval::metrics::answers::Options;
use crate::eval::prompts::{Asked, Wanted};
use crate::files;

/// Where the scripts find the questions.
const RESULTS: &str = "Your_Results";
const MAX_TEXT_BYTES: u64 = 1 << 28;

/// Reads `Your_Results/CATEGORY.txt`, or such files in the folder itself: a picture, question and
/// answer a line, separated by tabs. Pictures are in `CATEGORY/images` or `CATEGORY`.
pub fn read(folder: &Path, limit: usize) -> Result<Benchmark> {
    let results = folder.join(RESULTS);
    let texts = match results.is_dir() {
        true => texts(&results)?,
        false => texts(folder)?,
    };
    let mut items = Vec::new();
    for path in texts {
        let category = path.file_stem().unwrap_or_default();
        let category = category.to_string_lossy().into_owned();
        let bytes = files::read_at_most(files::open(&path)?, &path, MAX_TEXT_BYTES)?;
        let too_large = || Error::input(format!("has more than {MAX_TEXT_BYTES} bytes"));
        let text = files::text(bytes.ok_or_else(|| too_large().in_file(&path))?, &path)?;
        let lines = (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.trim().is_empty());
        for (number, line) in lines {
            if items.len() == limit {
                break;
            }
            let cells: Vec<&str> = line.split('\t').collect();
            let [image, question, answer, ..] = cells[..] else {
                return Err(Error::input(format!(
                    "line {number} is not a picture, question and answer, separated by tabs"
                ))
                .in_file(&path));
            };
            items.push(BenchmarkItem {
                index: format!("{category}/{number}"),
                asked: Asked {
                    wanted: Wanted::YesNo,
                    question: question.to_owned(),
                    hint: None,
                    options: Options::new(),
                    n_pictures: 1,
                },
                category: Some(category.clone()),
                l2_category: None,
                split: None,
                image: image.to_owned(),
                truth: Truth::YesNo(answer.trim().to_owned()),
                pictures: Pictures::Files(vec![picture(folder, &category, image)]),
            });
        }
    }
    Ok(Benchmark {
        items,
        judge: Judge::MmeOfficial,
        table: None,
    })
}

fn picture(folder: &Path, category: &str, image: &str) -> PathBuf {
    let inner = folder.join(category).join("images").join(image);
    match inner.exists() {
        true => inner,
        false => folder.join(category).join(image),
    }
}

/// The text files in a folder, by name.
fn texts(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot_list = |e| Error::io("cannot list", folder, e);
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot_list)? {
        let path = entry.map_err(cannot_list)?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            texts.push(path);
        }
    }
    texts.sort();
    Ok(texts)
}
