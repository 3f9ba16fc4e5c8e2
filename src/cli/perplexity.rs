//! `owl2 perplexity`: how well a model predicts a text, and how far it is from a reference.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::capacity::human_bytes;
use crate::cli::args::PerplexityArgs;
use crate::cli::model_file::ModelFile;
use crate::cli::{print, print_json, setup};
use crate::error::{Error, Result};
use crate::files;
use crate::gguf::Gguf;
use crate::model::Model;
use crate::ops::Compute;
use crate::perplexity::{Measurement, Statistics, windows};
use crate::tokenizer::{Tokenizer, Vocabulary};

const BAR: &str = "{bar:30} {pos} of {len}  {eta} left  {msg}";

/// Ids of a window where nothing else is asked for: what perplexities are mostly given for.
const DEFAULT_WINDOW: usize = 512;
/// The share of predictions whose greatest divergence is shown.
const HIGH_SHARE: f64 = 0.99;
/// Bytes of a text at most, and of ids.
const MAX_TEXT_BYTES: u64 = 32 << 20;
const MAX_IDS_BYTES: u64 = 128 << 20;
/// Bytes of an id in a file.
const ID_BYTES: usize = size_of::<u32>();

/// A text, and what comes in front of each window of it.
struct Ids {
    ids: Vec<u32>,
    first: Option<u32>,
}

/// What is shown.
struct Outcome {
    statistics: Statistics,
    n_windows: usize,
    window: usize,
    took: Duration,
}

pub(super) fn run(args: &PerplexityArgs) -> Result<()> {
    let file = ModelFile::new(args.model.as_deref())?;
    let gguf = file.open()?;
    let n_threads = setup::n_threads(args.threads);
    let model = Model::new(&gguf, Compute::new(n_threads)?).map_err(|e| file.blame(e))?;
    let reference = match args.reference.as_deref() {
        Some(path) => {
            let model = Model::new(&Gguf::open(path)?, Compute::new(n_threads)?);
            Some(model.map_err(|e| e.in_file(path))?)
        }
        None => None,
    };
    let window = window(args, &model, reference.as_ref())?;
    let text = match (&args.ids, &args.text) {
        (Some(path), _) => read_ids(path, &model)?,
        (None, Some(path)) => read_text(path, file, &gguf)?,
        (None, None) => return Err(Error::usage("needs --text or --ids")),
    };
    let windows = windows(&text.ids, window, text.first);

    let n_predictions: usize = windows.iter().map(|window| window.len() - 1).sum();
    let bar = bar(n_predictions);
    let started = Instant::now();
    let measurement = Measurement {
        model: &model,
        reference: reference.as_ref(),
        mode: args.mode,
    };
    let statistics = measurement.run(&windows, &mut |so_far| {
        bar.set_position(so_far.n as u64);
        bar.set_message(format!("perplexity {:.4}", so_far.perplexity()));
    });
    bar.finish_and_clear();
    let outcome = Outcome {
        statistics: statistics?,
        n_windows: windows.len(),
        window,
        took: started.elapsed(),
    };
    match args.json {
        true => print_json(&as_json(&outcome, args, file)).map(drop),
        false => print(&as_text(&outcome, args)).map(drop),
    }
}

/// The ids of a window, which no model may have too short a context for: beyond it, positions mean
/// nothing that was trained.
fn window(args: &PerplexityArgs, model: &Model, reference: Option<&Model>) -> Result<usize> {
    let context = |model: &Model| model.config().decoder.max_position_embeddings;
    let most = reference.map_or(context(model), |reference| {
        context(model).min(context(reference))
    });
    match args.window {
        None => Ok(DEFAULT_WINDOW.min(most)),
        Some(n) if n <= most => Ok(n),
        Some(n) => Err(Error::usage(format!(
            "is {n}, but the model was trained with a context of {most}; choose that or less"
        ))
        .in_parameter("window")),
    }
}

/// Reads ids, which must be ones of the model.
fn read_ids(path: &Path, model: &Model) -> Result<Ids> {
    let bytes = files::read_at_most(files::open_argument(path)?, path, MAX_IDS_BYTES)?;
    let bytes = bytes.ok_or_else(|| {
        let message = format!("is longer than {}", human_bytes(MAX_IDS_BYTES));
        Error::input(message).in_file(path)
    })?;
    let (ids, rest) = bytes.as_chunks::<ID_BYTES>();
    let problem = if !rest.is_empty() {
        format!(
            "has {} bytes, no multiple of {ID_BYTES}; ids are 32-bit little-endian integers",
            bytes.len()
        )
    } else if ids.len() < 2 {
        too_few(ids.len())
    } else {
        let ids: Vec<u32> = ids.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let vocab_size = model.config().decoder.vocab_size;
        match ids.iter().position(|&id| id as usize >= vocab_size) {
            None => return Ok(Ids { ids, first: None }),
            Some(place) => format!(
                "id number {place}, counted from 0, is {}, outside the model's vocabulary of {vocab_size}; tokenize the text with this model's tokenizer",
                ids[place]
            ),
        }
    };
    Err(Error::input(problem).in_file(path))
}

/// Reads a text and tokenizes it with the model's tokenizer.
fn read_text(path: &Path, file: ModelFile, gguf: &Gguf) -> Result<Ids> {
    let vocabulary = Vocabulary::read(gguf).map_err(|e| file.blame(e))?;
    let first = vocabulary.add_bos.then_some(vocabulary.bos_id);
    let tokenizer = Tokenizer::new(vocabulary).map_err(|e| file.blame(e))?;
    let text = setup::read_text(files::open_argument(path)?, path, MAX_TEXT_BYTES)?;
    let mut ids = tokenizer.encode(&text);
    if first.is_some() {
        ids.remove(0);
    }
    match ids.len() + usize::from(first.is_some()) {
        0 | 1 => Err(Error::input(too_few(ids.len())).in_file(path)),
        _ => Ok(Ids { ids, first }),
    }
}

fn too_few(n: usize) -> String {
    format!("has {n} ids, which leaves nothing to predict; give a longer text")
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

fn as_text(outcome: &Outcome, args: &PerplexityArgs) -> String {
    let statistics = &outcome.statistics;
    let mut text = String::new();
    let mut line = |name: &str, value: String| text += &format!("{name:<22} {value}\n");
    line("perplexity", format!("{:.4}", statistics.perplexity()));
    if let Some(comparison) = &statistics.comparison {
        let theirs = comparison.reference_perplexity();
        let more = 100.0 * (statistics.perplexity() / theirs - 1.0);
        line("reference perplexity", format!("{theirs:.4} ({more:+.2}%)"));
        line("KL mean", format!("{:.3e} nats", comparison.mean()));
        if let Some(error) = comparison.standard_error() {
            line("KL standard error", format!("{error:.1e} nats"));
        }
        let high = comparison.quantile(HIGH_SHARE);
        line("KL 99%", format!("{high:.3e} nats"));
        line("top 1", format!("{:.2}%", 100.0 * comparison.same()));
    }
    text + &format!(
        "{} predictions in {} windows of up to {} ids, mode {}, {:.1} s\n",
        statistics.n,
        outcome.n_windows,
        outcome.window,
        args.mode,
        outcome.took.as_secs_f64()
    )
}

fn as_json(outcome: &Outcome, args: &PerplexityArgs, file: ModelFile) -> Value {
    let statistics = &outcome.statistics;
    let comparison = statistics.comparison.as_ref();
    json!({
        "model": file.name().display().to_string(),
        "reference": args.reference.as_ref().map(|path| path.display().to_string()),
        "mode": args.mode.to_string(),
        "window": outcome.window,
        "windows": outcome.n_windows,
        "perplexity": statistics.perplexity(),
        "reference_perplexity": comparison.map(|c| c.reference_perplexity()),
        "kl_mean": comparison.map(|c| c.mean()),
        "kl_windows": comparison.map(|c| c.of_windows().collect::<Vec<_>>()),
        "kl_p99": comparison.map(|c| c.quantile(HIGH_SHARE)),
        "top1": comparison.map(|c| c.same()),
        "n": statistics.n,
        "seconds": outcome.took.as_secs_f64(),
    })
}
