//! `owl2 batch`: questions about whole collections, or ratings of them, that can be stopped at any
//! moment and gone on with.

pub mod doors;
mod outcome;
mod output;
mod prepare;
mod rows;
mod sidecar;
mod work;

use std::str::FromStr;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::{self, ScopedJoinHandle};

use crate::cli::args::BatchArgs;
use crate::cli::interrupt::{self, Hold};
use crate::cli::model_file::ModelFile;
use crate::cli::{progress, setup};
use crate::constrain::{Constraint, MAX_SCHEMA_BYTES};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::image::Aspect;
use crate::request::Assistant;
use crate::sampler::Sampling;
use crate::score::Scoring;
use output::Output;
use prepare::{Preparing, ReadingRows};
use rows::Rows;
pub(super) use sidecar::Format as SidecarFormat;
use sidecar::Sidecars;
use work::{Order, Work};

/// One of several shares of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    index: usize,
    n: usize,
}

impl Shard {
    /// Whether a row with this hash belongs to it.
    fn has(self, share_key: u64) -> bool {
        share_key % self.n as u64 == self.index as u64
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(index, n)| Some((index.trim().parse().ok()?, n.trim().parse().ok()?)));
        match numbers {
            Some((index, n)) if index < n => Ok(Shard { index, n }),
            _ => Err("expected I/N, where I counts from 0 to N - 1".to_owned()),
        }
    }
}

/// What rows get that they do not say themselves.
#[derive(Debug)]
struct Defaults {
    prompt: Option<String>,
    sampling: Sampling,
    max_tokens: Option<usize>,
    context: Option<usize>,
    constraint: Option<Constraint>,
    aspect: Option<Aspect>,
    /// Whether pictures are rated in place of being asked about.
    rates: bool,
    /// Whether a picture is told by its bytes.
    by_bytes: bool,
    /// Of the model file and of everything here that changes answers.
    fingerprint: Vec<u8>,
}

pub(super) fn run(args: &BatchArgs) -> Result<()> {
    // What is done stays done; what is under way is done again by the next run.
    let hold = Hold::new();
    let constraint = constraint(args)?;
    let rows = Rows::open(&args.input)?;
    let (mut output, done) = Output::open(&args.output, args.retry_errors)?;
    let model = ModelFile::new(args.model.as_deref())?;
    let assistant = args.running.open(|compute| model.assistant(compute))?;
    if let Some(constraint) = &constraint {
        assistant.check_constraint(constraint)?;
    }
    let scoring = args.score.map(|rule| Scoring {
        task: args.task,
        ..Scoring::new(rule)
    });
    let defaults = defaults(args, &assistant, constraint, &scoring);
    let preparing = Preparing {
        assistant: &assistant,
        defaults: &defaults,
        scoring: &scoring,
        shard: args.shard,
        reading: Mutex::new(ReadingRows::new(rows, done)),
    };
    let (sender, prepared) = mpsc::sync_channel(2 * args.parallel);
    let order = args.ordered.then(|| Order::new(args.parallel));
    let sidecars = args.sidecar.map(Sidecars::new);
    let mut work = Work::new(&mut output, prepared, order, sidecars);
    let worked = thread::scope(|scope| {
        let preparing = &preparing;
        let decoders: Vec<_> = (0..preparing.n_decoders())
            .map(|_| sender.clone())
            .map(|sender| scope.spawn(move || preparing.run(&sender)))
            .collect();
        drop(sender);
        let worked = match &scoring {
            Some(scoring) => work::rate(&assistant, scoring, &mut work),
            None => work::answer(&assistant, args.parallel, &mut work),
        };
        // The other threads end when nobody takes their rows.
        let finished = work.finish();
        if interrupt::is_requested() && !decoders.iter().all(ScopedJoinHandle::is_finished) {
            // They may wait for a line that never comes; nothing of what they have is lost.
            finished?;
            progress::clear();
            progress::say("owl2: stopped; the same command goes on\n");
            std::process::exit(Kind::Stopped.exit_code().into());
        }
        let mut read = Ok(());
        for decoder in decoders {
            read = read.and(decoder.join().unwrap_or_else(|_| {
                let message = "reading the rows ended by a mistake in this program";
                Err(Error::new(Kind::Bug, message))
            }));
        }
        worked.and(read).and(finished)
    });
    progress::clear();
    let (n_done, n_failed) = worked?;
    if hold.end() {
        return Err(Error::new(
            Kind::Stopped,
            format!("stopped after {n_done} rows; the same command goes on"),
        ));
    }
    let reading = preparing.reading.into_inner();
    let done = reading.unwrap_or_else(PoisonError::into_inner).done;
    match n_failed + done.n_failed_before() {
        0 => Ok(()),
        n => Err(Error::new(
            Kind::Partial,
            format!(
                "{n} rows failed; their errors stand in the output, and --retry-errors does them again"
            ),
        )),
    }
}

fn constraint(args: &BatchArgs) -> Result<Option<Constraint>> {
    let Some(path) = &args.json_schema else {
        return Ok(None);
    };
    let text = files::open_argument(path)
        .and_then(|file| setup::read_text(file, path, MAX_SCHEMA_BYTES as u64));
    let constraint = text.and_then(|text| Constraint::json_schema(&text));
    constraint.map(Some).map_err(|e| e.in_file(path))
}

fn defaults(
    args: &BatchArgs,
    assistant: &Assistant,
    constraint: Option<Constraint>,
    scoring: &Option<Scoring>,
) -> Defaults {
    // Not of the machine: another one may go on with the same rows.
    let mut fingerprint = assistant.file_fingerprint().to_vec();
    let settings = format!(
        "{:?} {:?} {:?} {:?} {constraint:?} {:?} {scoring:?}",
        args.prompt, args.max_tokens, args.running.ctx_size, args.running.cache_type, args.aspect
    );
    fingerprint.extend(settings.as_bytes());
    Defaults {
        prompt: args.prompt.clone(),
        sampling: assistant.sampling().clone(),
        max_tokens: args.max_tokens,
        context: args.running.ctx_size,
        constraint,
        aspect: args.aspect,
        rates: scoring.is_some(),
        by_bytes: args.hash,
        fingerprint,
    }
}
