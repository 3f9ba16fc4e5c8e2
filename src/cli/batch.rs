//! `owl2 batch`: questions about whole collections, or ratings of them, that can be stopped at any
//! moment and gone on with.

mod output;
mod rows;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::args::BatchArgs;
use crate::cli::interrupt::{self, Hold};
use crate::cli::model_file::ModelFile;
use crate::cli::{progress, setup};
use crate::constrain::{Constraint, MAX_SCHEMA_BYTES};
use crate::engine::{Engine, Limits};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::image::{Aspect, Reading};
use crate::ops::Compute;
use crate::request::{Answer, Assistant, Event, Request, Source, StopReason};
use crate::sampler::Sampling;
use crate::score::{Score, Scorer, Scoring, Subject};
use crate::server::openai;
use output::Output;
use rows::{Row, Rows, Shape};

/// One of several shares of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    index: usize,
    n: usize,
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

/// A row whose pictures are decoded.
struct Prepared {
    row: Row,
    damage: Vec<String>,
}

/// How many rows ended how.
#[derive(Debug, Default)]
struct Count {
    n_done: usize,
    n_failed: usize,
}

pub(super) fn run(args: &BatchArgs) -> Result<()> {
    let constraint = constraint(args)?;
    let mut rows = Rows::open(&args.input)?;
    let mut opened = Output::open(&args.output, args.retry_errors)?;
    let output = &mut opened;
    let model = ModelFile::new(args.model.as_deref())?;
    let mut assistant = model.assistant(Compute::new(setup::n_threads(args.threads))?)?;
    if let Some(cache_type) = args.cache_type {
        assistant.set_cache_type(cache_type)?;
    }
    if let Some(constraint) = &constraint {
        assistant.check_constraint(constraint)?;
    }
    let scoring = args.score.map(|rule| Scoring {
        task: args.task,
        ..Scoring::new(rule)
    });
    let defaults = defaults(args, &assistant, constraint, &scoring);
    // What is done stays done; what is under way is done again by the next run.
    let hold = Hold::new();
    let (sender, receiver) = mpsc::sync_channel(2 * args.parallel);
    let mut count = Count::default();
    let worked = thread::scope(|scope| {
        let (assistant, output_of) = (&assistant, &mut *output);
        let prepare = Preparing {
            assistant,
            defaults: &defaults,
            scoring: &scoring,
            shard: args.shard,
        };
        let (asked, is_wanted) = mpsc::sync_channel::<(u64, SyncSender<bool>)>(0);
        let reading = scope.spawn(move || prepare.run(&mut rows, &sender, &asked));
        let worked = match &scoring {
            Some(scoring) => {
                let mut work = Working::new(output_of, &mut count, &is_wanted, &receiver);
                rate(assistant, scoring, &mut work)
            }
            None => {
                let mut work = Working::new(output_of, &mut count, &is_wanted, &receiver);
                answer(assistant, args.parallel, &mut work)
            }
        };
        // The other thread ends when nobody takes its rows.
        drop((receiver, is_wanted));
        output.sync()?;
        if interrupt::is_requested() && !reading.is_finished() {
            // It may wait for a line that never comes; nothing of what it has is lost.
            progress::clear();
            progress::say("owl2: stopped; the same command goes on\n");
            std::process::exit(Kind::Stopped.exit_code().into());
        }
        let read = reading.join().unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Bug,
                "reading the rows ended by a mistake in this program",
            ))
        });
        worked.and(read)
    });
    output.sync()?;
    progress::clear();
    worked?;
    if hold.end() {
        return Err(Error::new(
            Kind::Stopped,
            format!(
                "stopped after {} rows; the same command goes on",
                count.n_done
            ),
        ));
    }
    let n_failed = count.n_failed + output.n_failed_before();
    match n_failed {
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
        args.prompt, args.max_tokens, args.ctx_size, args.cache_type, args.aspect
    );
    fingerprint.extend(settings.as_bytes());
    Defaults {
        prompt: args.prompt.clone(),
        sampling: assistant.sampling().clone(),
        max_tokens: args.max_tokens,
        context: args.ctx_size,
        constraint,
        aspect: args.aspect,
        rates: scoring.is_some(),
        by_bytes: args.hash,
        fingerprint,
    }
}

/// Reads rows and decodes their pictures, ahead of those that are computed.
struct Preparing<'a> {
    assistant: &'a Assistant,
    defaults: &'a Defaults,
    scoring: &'a Option<Scoring>,
    shard: Option<Shard>,
}

impl Preparing<'_> {
    fn run(
        &self,
        rows: &mut Rows,
        sender: &SyncSender<Prepared>,
        asked: &SyncSender<(u64, SyncSender<bool>)>,
    ) -> Result<()> {
        for number in 1.. {
            let Some(row) = rows.next(number, self.defaults) else {
                break;
            };
            let row = row?;
            if self
                .shard
                .is_some_and(|shard| row.share(shard.n) != shard.index)
            {
                continue;
            }
            // Whether it is done already, the thread knows that writes.
            let (reply, is_wanted) = mpsc::sync_channel(1);
            if asked.send((row.key, reply)).is_err() {
                return Ok(());
            }
            match is_wanted.recv() {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return Ok(()),
            }
            if interrupt::is_requested() || sender.send(self.prepare(row)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn prepare(&self, mut row: Row) -> Prepared {
        let mut damage = Vec::new();
        row.request = row.request.and_then(|mut request| {
            let (aspect, reading) = match self.scoring {
                Some(scoring) => (
                    Some(scoring.aspect.unwrap_or(scoring.rule.aspect())),
                    scoring.reading,
                ),
                None => (request.aspect, Reading::default()),
            };
            for source in &mut request.pictures {
                let pixels = self.assistant.pixels_beside(source, aspect, reading)?;
                damage.extend(pixels.damage().map(str::to_owned));
                *source = Source::Pixels(pixels);
            }
            Ok(request)
        });
        Prepared { row, damage }
    }
}

/// What the thread that computes needs.
struct Working<'a> {
    output: &'a mut Output,
    count: &'a mut Count,
    is_wanted: &'a Receiver<(u64, SyncSender<bool>)>,
    prepared: &'a Receiver<Prepared>,
    start: Instant,
}

impl<'a> Working<'a> {
    fn new(
        output: &'a mut Output,
        count: &'a mut Count,
        is_wanted: &'a Receiver<(u64, SyncSender<bool>)>,
        prepared: &'a Receiver<Prepared>,
    ) -> Self {
        Working {
            output,
            count,
            is_wanted,
            prepared,
            start: Instant::now(),
        }
    }

    /// Tells the thread that reads which rows are still to be done.
    fn reply(&mut self) {
        while let Ok((key, reply)) = self.is_wanted.try_recv() {
            // It may have ended.
            let _ = reply.send(self.output.takes(key));
        }
    }

    /// The next row, if there is one at once; `None` at the end.
    fn next_if_any(&mut self) -> Option<Option<Prepared>> {
        self.reply();
        match self.prepared.try_recv() {
            Ok(row) => Some(Some(row)),
            Err(TryRecvError::Empty) => Some(None),
            Err(TryRecvError::Disconnected) => None,
        }
    }

    /// The next row, once there is one.
    fn next(&mut self) -> Option<Prepared> {
        loop {
            match self.next_if_any()? {
                Some(row) => return Some(row),
                None if interrupt::is_requested() => return None,
                // The other thread is decoding, or asks whether a row is wanted.
                None => match self
                    .is_wanted
                    .recv_timeout(std::time::Duration::from_millis(2))
                {
                    Ok((key, reply)) => {
                        let _ = reply.send(self.output.takes(key));
                    }
                    Err(_) => continue,
                },
            }
        }
    }

    /// Writes what became of a row.
    fn end(&mut self, row: &Row, outcome: Result<Value>) -> Result<()> {
        self.count.n_done += 1;
        let key = format!("{:016x}", row.key);
        let mut line = match &outcome {
            Ok(outcome) => outcome.clone(),
            Err(e) => {
                self.count.n_failed += 1;
                failed(row, e)
            }
        };
        line["key"] = key.into();
        self.output.append(&line)?;
        let minutes = self.start.elapsed().as_secs_f64() / 60.0;
        progress::show(&format!(
            "{} rows, {} failed, {:.1} a minute",
            self.count.n_done,
            self.count.n_failed,
            self.count.n_done as f64 / minutes.max(1e-9)
        ));
        Ok(())
    }
}

/// A row's failure.
fn failed(row: &Row, error: &Error) -> Value {
    let message = format!("row {}: {error}", row.number);
    let kind = format!("{:?}", error.kind()).to_lowercase();
    match row.shape {
        Shape::Own => json!({
            "id": row.id,
            "image": row.image,
            "error": {"kind": kind, "message": message},
        }),
        Shape::OpenAi => json!({
            "id": format!("owl2-{:016x}", row.key),
            "custom_id": row.id,
            "response": {"status_code": 400, "request_id": null, "body": null},
            "error": {"code": kind, "message": message},
        }),
    }
}

/// An answer, in the shape of its row.
fn answered(row: &Row, answer: &Answer, damage: &[String], seconds: f64) -> Value {
    let finish_reason = openai::finish_reason(answer.stop);
    match row.shape {
        Shape::Own => {
            let mut outcome = json!({
                "id": row.id,
                "image": row.image,
                "text": answer.text,
                "finish_reason": finish_reason,
                "fulfilled": answer.is_fulfilled,
                "usage": openai::usage(answer),
                "seconds": seconds,
            });
            if !damage.is_empty() {
                outcome["warnings"] = damage.into();
            }
            outcome
        }
        Shape::OpenAi => json!({
            "id": format!("owl2-{:016x}", row.key),
            "custom_id": row.id,
            "response": {
                "status_code": 200,
                "request_id": format!("owl2-{:016x}", row.key),
                "body": {
                    "id": format!("chatcmpl-{:016x}", row.key),
                    "object": "chat.completion",
                    "model": "owl2",
                    "choices": [{
                        "index": 0,
                        "message": {"role": "assistant", "content": answer.text, "refusal": null},
                        "logprobs": null,
                        "finish_reason": finish_reason,
                    }],
                    "usage": openai::usage(answer),
                },
            },
            "error": null,
        }),
    }
}

fn rated(row: &Row, score: &Score, damage: &[String], seconds: f64) -> Value {
    let probabilities = score
        .probabilities
        .iter()
        .map(|&(word, p)| (word.to_owned(), p.into()));
    let mut outcome = json!({
        "id": row.id,
        "image": row.image,
        "score": score.score,
        "score_unit": score.unit,
        "deviation": score.deviation,
        "probabilities": probabilities.collect::<serde_json::Map<_, _>>(),
        "seconds": seconds,
    });
    if !damage.is_empty() {
        outcome["warnings"] = damage.into();
    }
    outcome
}

/// Answers rows, several at once.
fn answer(assistant: &Assistant, together: usize, work: &mut Working) -> Result<()> {
    let limits = Limits {
        together,
        // Nobody waits for the next word.
        rows_beside_answers: 512,
        blocks_beside_answers: usize::MAX,
        blocks: usize::MAX,
        ..Limits::default()
    };
    let mut engine = Engine::new(assistant, limits);
    let mut running: BTreeMap<u64, (Prepared, Instant)> = BTreeMap::new();
    let (mut id, mut is_over) = (0, false);
    loop {
        while !is_over && engine.has_room() && !interrupt::is_requested() {
            let prepared = match engine.is_empty() {
                true => work.next(),
                false => match work.next_if_any() {
                    Some(None) => break,
                    Some(prepared) => prepared,
                    None => None,
                },
            };
            let Some(mut prepared) = prepared else {
                is_over = true;
                break;
            };
            id += 1;
            let request = std::mem::replace(&mut prepared.row.request, Err(Error::input("")));
            match request.and_then(|request| begin(&mut engine, id, request)) {
                Ok(()) => {
                    running.insert(id, (prepared, Instant::now()));
                }
                Err(e) => work.end(&prepared.row, Err(e))?,
            }
        }
        if interrupt::is_requested() || engine.is_empty() {
            return Ok(());
        }
        work.output.sync_if_due()?;
        for (id, answer) in engine.step() {
            let is_cut_short = answer
                .as_ref()
                .is_ok_and(|answer| answer.stop == StopReason::Cancelled);
            if let Some((prepared, start)) = running.remove(&id)
                && !is_cut_short
            {
                let seconds = start.elapsed().as_secs_f64();
                let row = &prepared.row;
                let outcome =
                    answer.map(|answer| answered(row, &answer, &prepared.damage, seconds));
                work.end(row, outcome)?;
            }
        }
        work.reply();
    }
}

fn begin(engine: &mut Engine, id: u64, request: Request) -> Result<()> {
    let listener = |_: Event| match interrupt::is_requested() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    engine.begin(id, 0, request, Box::new(listener))
}

/// Rates rows, as many together as share a pass.
fn rate(assistant: &Assistant, scoring: &Scoring, work: &mut Working) -> Result<()> {
    let mut scorer = Scorer::new(assistant, scoring.clone())?;
    let mut is_over = false;
    while !is_over && !interrupt::is_requested() {
        let (mut group, mut subjects) = (Vec::new(), Vec::new());
        while subjects.len() < Scorer::TOGETHER {
            let prepared = match subjects.is_empty() {
                true => work.next(),
                false => match work.next_if_any() {
                    Some(None) => break,
                    Some(prepared) => prepared,
                    None => None,
                },
            };
            let Some(mut prepared) = prepared else {
                is_over = true;
                break;
            };
            let request = std::mem::replace(&mut prepared.row.request, Err(Error::input("")));
            match request {
                Ok(mut request) => match request.pictures.pop() {
                    Some(picture) => {
                        subjects.push(Subject::Picture(picture));
                        group.push(prepared);
                    }
                    None => work.end(&prepared.row, Err(Error::input("has no picture to rate")))?,
                },
                Err(e) => work.end(&prepared.row, Err(e))?,
            }
        }
        let start = Instant::now();
        let scores = scorer.score_each(&subjects, &mut || !interrupt::is_requested());
        let seconds = start.elapsed().as_secs_f64() / scores.len().max(1) as f64;
        for (prepared, score) in group.iter().zip(scores) {
            let row = &prepared.row;
            let outcome = score.map(|score| rated(row, &score, &prepared.damage, seconds));
            work.end(row, outcome)?;
        }
    }
    Ok(())
}
