//! `owl2 batch`: asks about whole collections, or rates them. It can be stopped and resumed at any time.

pub mod fuzzing;
mod outcome;
mod output;
mod pending;
mod rows;
mod sidecar;
mod work;

use std::str::FromStr;

use crate::cli::ahead::Ahead;
use crate::cli::args::BatchArgs;
use crate::cli::interrupt::{self, Hold};
use crate::cli::model_file::ModelFile;
use crate::cli::{progress, setup, together};
use crate::constrain::{Constraint, MAX_SCHEMA_BYTES};
use crate::engine::{Engine, StepLimits};
use crate::error::{Error, Kind, Result, flag};
use crate::files;
use crate::image::{Aspect, Reading};
use crate::request::Assistant;
use crate::sampler::Sampling;
use crate::score::Scoring;
use output::OutcomeFile;
use pending::Pending;
use rows::Rows;
pub(super) use sidecar::SidecarFormat;
use sidecar::Sidecars;
use work::{BatchRun, Order};

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
    reading: Reading,
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
    let (mut output, done) = OutcomeFile::open(&args.output, args.retry_errors)?;
    let model = ModelFile::new(args.model.as_deref())?;
    let assistant = args.running.open(|compute| model.assistant(compute))?;
    if let Some(constraint) = &constraint {
        assistant.check_constraint(constraint)?;
    }
    let scoring = args.score.map(|rule| Scoring {
        task: args.task,
        aspect: args.aspect,
        ..Scoring::new(rule)
    });
    let defaults = defaults(args, &assistant, constraint, &scoring);
    let pending = Pending::new(rows, done, &defaults, args.shard);
    let ahead = Ahead::new(&assistant, pending);
    let order = args.ordered.then(|| Order::new(args.parallel));
    let sidecars = args.sidecar.map(Sidecars::new);
    let worked = ahead.run(2 * args.parallel, |prepared, decoders| {
        let mut work = BatchRun::new(&mut output, prepared, order, sidecars);
        let worked = match &scoring {
            Some(scoring) => work::rate(&assistant, scoring, &mut work),
            None => {
                let limits = StepLimits::for_throughput(args.parallel);
                together::compute(&mut Engine::new(&assistant, limits), &mut work)
            }
        };
        let finished = work.finish();
        // They may wait for a line that never comes; nothing of what they have is lost.
        if !decoders.have_ended() {
            let stop = |message: &str, kind: Kind| {
                progress::clear();
                progress::say(&format!("owl2: {message}\n"));
                std::process::exit(kind.exit_code().into());
            };
            if let Err(e) = worked.as_ref().and(finished.as_ref()) {
                stop(&e.spelled(&flag).to_string(), e.kind());
            }
            if interrupt::is_requested() {
                stop("stopped; the same command goes on", Kind::Stopped);
            }
        }
        worked.and(finished)
    });
    progress::clear();
    let (n_done, n_failed) = worked?;
    if hold.end() {
        return Err(Error::new(
            Kind::Stopped,
            format!("stopped after {n_done} rows; the same command goes on"),
        ));
    }
    let done = ahead.into_feed().into_done();
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
        aspect: match scoring {
            Some(scoring) => Some(scoring.aspect.unwrap_or(scoring.rule.aspect())),
            None => args.aspect,
        },
        reading: scoring
            .as_ref()
            .map_or_else(Reading::default, |scoring| scoring.reading),
        rates: scoring.is_some(),
        by_bytes: args.hash,
        fingerprint,
    }
}
