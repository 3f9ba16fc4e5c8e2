//! Takes rows as there is room for them, computes them together, and writes the output.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::outcome::{answered, failed, rated};
use super::output::OutcomeFile;
use super::rows::Row;
use super::sidecar::Sidecars;
use crate::cli::ahead::Prepared;
use crate::cli::together::Requests;
use crate::cli::{interrupt, progress};
use crate::error::{Error, Result};
use crate::request::{Answer, Assistant, Event, Listener, Request, StopReason};
use crate::score::{Score, ScoreSubject, Scorer, Scoring};

/// How long it waits for a row before it looks whether to stop.
const PATIENCE: Duration = Duration::from_millis(20);

const CUT: &str = "no sidecar was written: the answer was cut before it matched the schema";

/// Rows to be done, and where their outcomes go.
pub struct BatchRun<'a> {
    output: &'a mut OutcomeFile,
    prepared: Receiver<Prepared<Row>>,
    order: Option<Order>,
    sidecars: Option<Sidecars>,
    /// Whether there are no more rows.
    is_over: bool,
    start: Instant,
    n_done: usize,
    n_failed: usize,
}

/// Outcomes that wait for those of earlier rows.
pub struct Order {
    /// The place of the row whose outcome is written next.
    next: usize,
    waiting: BTreeMap<usize, Value>,
    /// How many may wait before no more rows are taken.
    most: usize,
}

impl Order {
    /// For rows of which `together` are computed at once. What waits is lost when the program is
    /// stopped, so that is bounded.
    pub fn new(together: usize) -> Self {
        Order {
            next: 0,
            waiting: BTreeMap::new(),
            most: 8 * together,
        }
    }
}

impl<'a> BatchRun<'a> {
    pub fn new(
        output: &'a mut OutcomeFile,
        prepared: Receiver<Prepared<Row>>,
        order: Option<Order>,
        sidecars: Option<Sidecars>,
    ) -> Self {
        BatchRun {
            output,
            prepared,
            order,
            sidecars,
            is_over: false,
            start: Instant::now(),
            n_done: 0,
            n_failed: 0,
        }
    }

    /// The next row that can be computed; if `may_wait`, as soon as there is one. The others' errors
    /// are written.
    fn take(&mut self, may_wait: bool) -> Result<Option<(Prepared<Row>, Request)>> {
        let patience = if may_wait { PATIENCE } else { Duration::ZERO };
        while !self.is_over && !interrupt::is_requested() {
            let is_full = |order: &Order| order.waiting.len() >= order.most;
            if !may_wait && self.order.as_ref().is_some_and(is_full) {
                break;
            }
            match self.prepared.recv_timeout(patience) {
                Ok(mut prepared) => {
                    let taken = Err(Error::input("is being computed"));
                    match std::mem::replace(&mut prepared.request, taken) {
                        Ok(request) => return Ok(Some((prepared, request))),
                        Err(e) => self.write(&prepared, Err(e))?,
                    }
                }
                Err(RecvTimeoutError::Timeout) if may_wait => self.output.sync_if_due()?,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => self.is_over = true,
            }
        }
        Ok(None)
    }

    /// Takes no more rows: how many were done, and how many of them have failed.
    pub fn finish(self) -> Result<(usize, usize)> {
        self.output.sync()?;
        Ok((self.n_done, self.n_failed))
    }

    /// Writes what became of a row.
    fn write(&mut self, prepared: &Prepared<Row>, outcome: Result<Value>) -> Result<()> {
        let row = &prepared.row;
        let mut line = outcome.unwrap_or_else(|e| failed(row, &e));
        self.n_done += 1;
        self.n_failed += usize::from(line.get("error").is_some_and(|error| !error.is_null()));
        line["key"] = format!("{:016x}", row.key).into();
        match &mut self.order {
            None => self.output.append(&line)?,
            Some(order) => {
                order.waiting.insert(prepared.place, line);
                while let Some(line) = order.waiting.remove(&order.next) {
                    order.next += 1;
                    self.output.append(&line)?;
                }
            }
        }
        let minutes = self.start.elapsed().as_secs_f64() / 60.0;
        progress::show(&format!(
            "{} rows, {} failed, {:.1} a minute",
            self.n_done,
            self.n_failed,
            self.n_done as f64 / minutes.max(1e-9)
        ));
        Ok(())
    }

    fn end_score(
        &mut self,
        prepared: &Prepared<Row>,
        score: Result<Score>,
        seconds: f64,
    ) -> Result<()> {
        let outcome = score.map(|score| rated(prepared, &score, seconds));
        self.write(prepared, outcome)
    }
}

impl Requests for BatchRun<'_> {
    type Row = Prepared<Row>;

    fn next(&mut self, may_wait: bool) -> Result<Option<(Prepared<Row>, Request)>> {
        self.take(may_wait)
    }

    fn listener(&self, _: &Prepared<Row>) -> Box<Listener<'static>> {
        Box::new(|_: Event| match interrupt::is_requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }

    fn end(
        &mut self,
        prepared: Prepared<Row>,
        answer: Result<Answer>,
        took: Duration,
    ) -> Result<()> {
        let is_cut_short = |answer: &Answer| answer.stop == StopReason::Cancelled;
        if answer.as_ref().is_ok_and(is_cut_short) {
            return Ok(());
        }
        let outcome = answer.map(|answer| {
            let written = match &mut self.sidecars {
                None => Ok(None),
                Some(_) if !answer.is_fulfilled => Ok(Some(CUT.to_owned())),
                Some(sidecars) => sidecars.write(prepared.row.picture.as_deref(), &answer.text),
            };
            answered(&prepared, &answer, written, took.as_secs_f64())
        });
        self.write(&prepared, outcome)
    }

    fn goes_on(&mut self) -> Result<bool> {
        self.output.sync_if_due()?;
        Ok(!interrupt::is_requested())
    }
}

/// Rates rows, as many together as share a pass.
pub fn rate(assistant: &Assistant, scoring: &Scoring, work: &mut BatchRun) -> Result<()> {
    let mut scorer = Scorer::new(assistant, scoring.clone())?;
    loop {
        let (mut group, mut subjects) = (Vec::new(), Vec::new());
        while subjects.len() < Scorer::TOGETHER
            && let Some((prepared, mut request)) = work.take(subjects.is_empty())?
        {
            match request.pictures.pop() {
                Some(picture) => {
                    subjects.push(ScoreSubject::Picture(picture));
                    group.push(prepared);
                }
                None => work.write(&prepared, Err(Error::input("has no picture to rate")))?,
            }
        }
        if interrupt::is_requested() || subjects.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let scores = scorer.score_each(&subjects, &mut || !interrupt::is_requested());
        let seconds = start.elapsed().as_secs_f64() / scores.len().max(1) as f64;
        for (prepared, score) in group.iter().zip(scores) {
            work.end_score(prepared, score, seconds)?;
        }
    }
}
