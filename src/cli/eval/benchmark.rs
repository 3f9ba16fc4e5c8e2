//! `owl2 eval` for benchmark formats: writes each answer into a table, and prints the benchmark's own
//! metrics at the end.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::bar;
use crate::cli::args::EvalArgs;
use crate::cli::interrupt::{self, Hold};
use crate::cli::rows::TableFile;
use crate::cli::{print, print_json, progress};
use crate::clip;
use crate::error::{Error, Kind, Result};
use crate::eval::benchmark::{Benchmark, BenchmarkFormat, Section};
use crate::eval::letters::{self, Choice};
use crate::eval::quality::{self, Rated};
use crate::request::{Assistant, Source};
use crate::reuse::PromptCache;
use crate::score::{Score, ScoreSubject, Scorer, Scoring};

/// Runs the evaluation of `args.questions`, which are of this format.
pub fn run(
    args: &EvalArgs,
    assistant: &Assistant,
    format: BenchmarkFormat,
    image_root: &Path,
) -> Result<()> {
    let limit = args.limit.unwrap_or(usize::MAX);
    let path = &args.questions;
    match format {
        BenchmarkFormat::Iqa => rate(args, assistant, &quality::read(path, image_root, limit)?),
        BenchmarkFormat::Mmlu => choose(args, assistant, &letters::read(path, limit)?),
        _ => ask(
            args,
            assistant,
            &Benchmark::read(path, format, image_root, limit)?,
        ),
    }
}

/// The table of answers, if one is wanted, and the rows of an earlier run.
fn table(args: &EvalArgs, columns: &[String]) -> Result<(Option<TableFile>, Vec<Vec<String>>)> {
    match (&args.output, &args.resume) {
        (_, Some(path)) => {
            let (rows, earlier) = TableFile::resume(path, columns)?;
            Ok((Some(rows), earlier))
        }
        (Some(path), None) => {
            let rows = TableFile::create(path, columns).map_err(|e| e.in_parameter("output"))?;
            Ok((Some(rows), Vec::new()))
        }
        (None, None) => Ok((None, Vec::new())),
    }
}

/// Answers that were given, in the order of the questions; none for those that failed.
struct Answers<T> {
    answers: Vec<Option<T>>,
    n_failed: usize,
    is_interrupted: bool,
}

/// Answers `n` questions, but for those that `known` has an answer to. An error about a picture is
/// reported, and the rest go on. So are the warnings that `answer` leaves.
fn answer_all<T>(
    n: usize,
    mut known: impl FnMut(usize) -> Option<T>,
    mut answer: impl FnMut(usize, &mut Vec<String>) -> Result<T>,
) -> Result<Answers<T>> {
    let bar = bar(n);
    let hold = Hold::new();
    let mut all = Answers {
        answers: Vec::with_capacity(n),
        n_failed: 0,
        is_interrupted: false,
    };
    let mut warnings = Vec::new();
    for index in 0..n {
        if interrupt::is_requested() {
            break;
        }
        all.answers.push(match known(index) {
            Some(answer) => Some(answer),
            None => match answer(index, &mut warnings) {
                Ok(answer) => Some(answer),
                Err(error) if matches!(error.kind(), Kind::Input | Kind::Io) => {
                    all.n_failed += 1;
                    bar.suspend(|| progress::error(&error));
                    None
                }
                Err(error) => return Err(error),
            },
        });
        for warning in warnings.drain(..) {
            bar.suspend(|| progress::say(&format!("owl2: {warning}\n")));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    all.is_interrupted = hold.end();
    Ok(all)
}

impl<T> Answers<T> {
    /// Prints the report on those that were answered.
    fn print(
        self,
        args: &EvalArgs,
        report: impl FnOnce(&[usize], Vec<T>) -> Vec<Section>,
    ) -> Result<()> {
        let n_all = self.answers.len();
        let answered = self.answers.into_iter().enumerate();
        let (indices, answers): (Vec<usize>, Vec<T>) = answered
            .filter_map(|(index, answer)| Some((index, answer?)))
            .unzip();
        let sections = report(&indices, answers);
        match args.json {
            true => print_json(&as_json(&sections, indices.len(), self.n_failed)),
            false => print(&as_text(&sections, indices.len())),
        }?;
        match (self.is_interrupted, self.n_failed) {
            (true, _) => Err(Error::new(
                Kind::Interrupted,
                format!("interrupted after {n_all} questions"),
            )),
            (false, 0) => Ok(()),
            (false, n_failed) => Err(Error::new(
                Kind::Partial,
                format!("{n_failed} of {n_all} questions failed and do not count"),
            )),
        }
    }
}

fn as_text(sections: &[Section], n: usize) -> String {
    let mut text = String::new();
    for section in sections {
        text += &format!("{}\n", section.name);
        for (name, value) in &section.scores {
            text += &format!("  {name:<40} {value:>10.4}\n");
        }
    }
    text + &format!("{n} questions\n")
}

fn as_json(sections: &[Section], n: usize, n_failed: usize) -> Value {
    let sections = sections.iter().map(|section| {
        let scores = section.scores.iter();
        let scores: Map<String, Value> = scores
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        (section.name.clone(), scores.into())
    });
    let scores: Map<String, Value> = sections.collect();
    json!({ "questions": n, "failed": n_failed, "scores": scores })
}

fn ask(args: &EvalArgs, assistant: &Assistant, benchmark: &Benchmark) -> Result<()> {
    let columns = benchmark.columns();
    let (mut table, earlier) = table(args, &columns)?;
    let index = columns.iter().position(|name| name == "index");
    let mut given: HashMap<String, String> = earlier
        .into_iter()
        .filter_map(|mut row| {
            let prediction = row.pop()?;
            let index = row.into_iter().nth(index?)?;
            Some((index, prediction))
        })
        .collect();
    let mut memory = PromptCache::new();
    let answers = answer_all(
        benchmark.items.len(),
        |item| given.remove(&benchmark.items[item].index),
        |item, warnings| {
            let prediction =
                benchmark.answer(assistant, &mut memory, item, args.prompts, args.max_tokens)?;
            if let Some(table) = &mut table {
                table.add(&benchmark.row(item, &prediction.text)?)?;
            }
            warnings.extend(prediction.warnings);
            Ok(prediction.text)
        },
    )?;
    answers.print(args, |indices, predictions| {
        let items: Vec<_> = indices
            .iter()
            .map(|&i| benchmark.items[i].clone())
            .collect();
        benchmark.judge.sections(&items, &predictions)
    })
}

fn rate(args: &EvalArgs, assistant: &Assistant, pictures: &[Rated]) -> Result<()> {
    let rule = args.rule.or(assistant.score_rule()).ok_or_else(|| {
        Error::usage("is missing: the model file has no scoring rule").in_parameter("rule")
    })?;
    let scoring = Scoring {
        task: args.task,
        form: args.score_prompts,
        ..Scoring::new(rule)
    };
    let mut columns = ["image", "gt_score", "score", "score_unit", "deviation"]
        .map(str::to_owned)
        .to_vec();
    let words = scoring.words().into_iter();
    columns.extend(words.map(|word| format!("logit_{word}")));
    let (mut table, earlier) = table(args, &columns)?;
    let mut given: HashMap<String, Score> = earlier
        .iter()
        .map(|row| (row[0].clone(), earlier_score(row)))
        .collect();
    let mut scorer = Scorer::new(assistant, scoring)?;
    let answers = answer_all(
        pictures.len(),
        |index| given.remove(&pictures[index].image),
        |index, warnings| {
            let rated = &pictures[index];
            let subject = loaded(assistant, &scorer, subject(&rated.path)?, warnings)?;
            let score = scorer.score(&subject)?;
            if let Some(table) = &mut table {
                let written =
                    |number: Option<f64>| number.map_or_else(String::new, |n| n.to_string());
                let mut row = vec![
                    rated.image.clone(),
                    written(rated.score),
                    written(Some(score.score)),
                    written(Some(score.unit)),
                    written(score.deviation),
                ];
                row.extend(score.logits.iter().map(|(_, logit)| logit.to_string()));
                table.add(&row)?;
            }
            Ok(score)
        },
    )?;
    answers.print(args, |indices, scores| {
        let known: Vec<Rated> = indices.iter().map(|&i| pictures[i].clone()).collect();
        quality::report(&known, &scores)
    })
}

/// What a row of the table tells of a score.
fn earlier_score(row: &[String]) -> Score {
    let number = |column: usize| row.get(column).and_then(|cell| cell.parse().ok());
    Score {
        score: number(2).unwrap_or(f64::NAN),
        unit: number(3).unwrap_or(f64::NAN),
        deviation: number(4),
        logits: Vec::new(),
        probabilities: Vec::new(),
        preferences: Vec::new(),
        n_prompt: 0,
        n_reused: 0,
    }
}

/// The same subject with its pictures decoded; `warnings` get what their files lack.
fn loaded(
    assistant: &Assistant,
    scorer: &Scorer,
    subject: ScoreSubject,
    warnings: &mut Vec<String>,
) -> Result<ScoreSubject> {
    let mut load = |source: Source| {
        let (aspect, reading) = (Some(scorer.aspect()), scorer.scoring().reading);
        let pixels = assistant.pixels(&source, aspect, reading)?;
        if let (Source::File(path), Some(damage)) = (&source, pixels.damage()) {
            warnings.push(format!("{}: {damage}", path.display()));
        }
        Ok(Source::Pixels(pixels))
    };
    Ok(match subject {
        ScoreSubject::Picture(picture) => ScoreSubject::Picture(load(picture)?),
        ScoreSubject::Clip(frames) => {
            let frames = frames.into_iter().map(load);
            ScoreSubject::Clip(frames.collect::<Result<_>>()?)
        }
    })
}

/// A picture, or the frames in a folder.
fn subject(path: &Path) -> Result<ScoreSubject> {
    if !path.is_dir() {
        return Ok(ScoreSubject::Picture(Source::File(path.to_owned())));
    }
    let cannot_list = |e| Error::io("cannot list", path, e);
    let entries = std::fs::read_dir(path).map_err(cannot_list)?;
    let frames = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut frames: Vec<PathBuf> = frames.collect::<Result<_, _>>().map_err(cannot_list)?;
    clip::sort_frames(&mut frames);
    Ok(ScoreSubject::Clip(
        frames.into_iter().map(Source::File).collect(),
    ))
}

fn choose(args: &EvalArgs, assistant: &Assistant, choices: &[Choice]) -> Result<()> {
    let columns = ["index", "question", "answer", "prediction"].map(str::to_owned);
    let (mut table, earlier) = table(args, &columns)?;
    let mut given: HashMap<String, String> = earlier
        .into_iter()
        .map(|row| (row[0].clone(), row[3].clone()))
        .collect();
    let shots = match &args.shots {
        Some(path) => letters::read(path, usize::MAX)?,
        None => Vec::new(),
    };
    let subject = letters::subject(&args.questions);
    let mut memory = PromptCache::new();
    let answers = answer_all(
        choices.len(),
        |index| given.remove(&index.to_string()),
        |index, _| {
            let choice = &choices[index];
            let prompt = letters::prompt(&subject, &shots, choice);
            let letter = letters::answer(assistant, &mut memory, prompt)?.to_owned();
            if let Some(table) = &mut table {
                table.add(&[
                    index.to_string(),
                    choice.question.clone(),
                    choice.right.clone(),
                    letter.clone(),
                ])?;
            }
            Ok(letter)
        },
    )?;
    answers.print(args, |indices, letters| {
        let known: Vec<Choice> = indices.iter().map(|&i| choices[i].clone()).collect();
        letters::report(&subject, &known, &letters)
    })
}
