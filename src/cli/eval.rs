//! `owl2 eval`: asks the questions of a file, shows progress, and prints the counts.

mod benchmark;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::args::EvalArgs;
use crate::cli::model_file::ModelFile;
use crate::cli::{print, print_json, progress, setup};
use crate::error::{Error, Result};
use crate::eval::benchmark::BenchmarkFormat;
use crate::eval::{self, Difference, EvalQuestion, EvalReport, Evaluation, Tally};
use crate::ops::Compute;

const BAR: &str = "{bar:30} {pos} of {len}  {eta} left  {msg}";

/// Longest answer where neither the flags nor the prompts say.
const MAX_TOKENS: usize = 512;

pub(super) fn run(args: &EvalArgs) -> Result<()> {
    let n_threads = setup::n_threads(args.threads);
    let open = |file: ModelFile| file.assistant(Compute::new(n_threads)?);
    let beside = args.questions.parent().unwrap_or(Path::new(""));
    let image_root = args.image_root.as_deref().unwrap_or(beside);
    let format = match args.format {
        Some(format) => format,
        None => BenchmarkFormat::of(&args.questions)?,
    };
    if format != BenchmarkFormat::Lines {
        check_benchmark(args)?;
        let assistant = open(ModelFile::new(args.model.as_deref())?)?;
        return benchmark::run(args, &assistant, format, image_root);
    }
    if let Some(path) = args.output.as_ref().or(args.resume.as_ref()) {
        let message = "is written for benchmarks alone; use --json";
        return Err(Error::usage(message).in_parameter("output").in_file(path));
    }
    let questions = eval::read(&args.questions, args.limit.unwrap_or(usize::MAX))?;
    let assistant = open(ModelFile::new(args.model.as_deref())?)?;
    let reference = args.reference.as_deref().map(ModelFile::Path);
    let reference = reference.map(open).transpose()?;

    let max_tokens = args.max_tokens.unwrap_or(MAX_TOKENS);
    let bar = bar(questions.len());
    let started = Instant::now();
    let evaluation = Evaluation {
        assistant: &assistant,
        reference: reference.as_ref(),
        image_root,
        max_tokens,
    };
    let report = evaluation.run(&questions, |so_far| {
        bar.inc(1);
        bar.set_message(right(&so_far.exact_total()));
    });
    bar.finish_and_clear();
    let (report, took) = (report?, started.elapsed());
    for warning in &report.warnings {
        progress::say(&format!("owl2: {warning}\n"));
    }
    if report.n_cut > 0 {
        progress::note(&format!(
            "{} answers were cut off at {max_tokens} tokens or by the context; raise --max-tokens",
            report.n_cut
        ));
    }
    match args.json {
        true => print_json(&as_json(&report, &questions, took)).map(drop),
        false => print(&as_text(&report, questions.len(), took)).map(drop),
    }
}

/// Fails for flags that only files of JSON lines know.
fn check_benchmark(args: &EvalArgs) -> Result<()> {
    match args.reference {
        Some(_) => Err(Error::usage("works only with JSON lines").in_parameter("reference")),
        None => Ok(()),
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(n: usize) -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template(BAR).expect("a valid template");
    ProgressBar::with_draw_target(Some(n as u64), target).with_style(style)
}

fn right(tally: &Tally) -> String {
    format!("{:.2}% right", 100.0 * tally.share())
}

fn as_text(report: &EvalReport, n_questions: usize, took: Duration) -> String {
    let mut text = String::new();
    let exact = report.exact.iter();
    let total = ("all".to_owned(), report.exact_total());
    for (kind, tally) in exact.chain([(&total.0, &total.1)]) {
        text += &line(kind, tally);
    }
    text += &line("prompt ids", &report.prompt_ids);
    text += &line("answer ids", &report.output_ids);
    text += &line("answer text", &report.model_answer);
    if report.logits.n > 0 {
        text += &format!(
            "greatest error of {} logits: {:.2e}\n",
            report.logits.n, report.logits.error
        );
    }
    text += &line("as the reference", &report.reference_ids);
    if report.divergence.n > 0 {
        text += &format!(
            "mean divergence from the reference: {:.2e} nats, of {} tokens\n",
            report.divergence.mean(),
            report.divergence.n
        );
    }
    let differences = report.differences.iter();
    for (index, gap) in differences.filter_map(|d| Some((d.index, d.gap()?))) {
        text += &format!("question {} differs, gap {gap:.2e}\n", index + 1);
    }
    let seconds = took.as_secs_f64();
    text + &format!("{n_questions} questions in {seconds:.1} s\n")
}

/// Nothing where nothing was compared.
fn line(name: &str, tally: &Tally) -> String {
    match tally.n {
        0 => String::new(),
        n => format!(
            "{name:<16} {:>6} of {n:<6} {:>7.2}%\n",
            tally.n_right,
            100.0 * tally.share()
        ),
    }
}

fn as_json(report: &EvalReport, questions: &[EvalQuestion], took: Duration) -> Value {
    let by_kind: serde_json::Map<_, _> = report
        .exact
        .iter()
        .map(|(kind, tally)| (kind.clone(), counts(tally)))
        .collect();
    let differing: Vec<_> = report
        .differences
        .iter()
        .map(|difference| as_row(difference, &questions[difference.index]))
        .collect();
    json!({
        "questions": questions.len(),
        "seconds": took.as_secs_f64(),
        "exact_match": { "all": counts(&report.exact_total()), "by_type": by_kind },
        "prompt_ids": counts(&report.prompt_ids),
        "output_ids": counts(&report.output_ids),
        "model_answer": counts(&report.model_answer),
        "logits8": { "n": report.logits.n, "max_error": report.logits.error },
        "reference_ids": counts(&report.reference_ids),
        "divergence": { "n": report.divergence.n, "mean_nats": report.divergence.mean() },
        "cut": report.n_cut,
        "warnings": report.warnings,
        "differing_prompts": report.differing_prompts,
        "differing": differing,
    })
}

fn counts(tally: &Tally) -> Value {
    json!({ "right": tally.n_right, "n": tally.n, "share": tally.share() })
}

fn as_row(difference: &Difference, question: &EvalQuestion) -> Value {
    json!({
        "index": difference.index,
        "image": question.image,
        "question": question.question,
        "type": question.kind,
        "answer": difference.answer.text,
        "given": question.model_answer,
        "output_ids": difference.answer.ids,
        "given_ids": question.output_ids,
        "first_differing_position": difference.position,
        "top2_gap": difference.gap(),
    })
}
