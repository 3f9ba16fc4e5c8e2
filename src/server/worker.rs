//! The engine's thread: takes one job after the other and asks the model.

use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use hyper::StatusCode;

use super::queue::{Job, Progress, Work};
use super::refusal::Refusal;
use super::routes::Server;
use crate::error::{Error, Kind, Result};
use crate::request::{Answer, Assistant, Event, Request, StopReason};
use crate::reuse::Memory;
use crate::score::{Score, Scorer, Scoring, Subject};

/// The thread, until it ends.
pub struct Worker(JoinHandle<()>);

impl Worker {
    /// Waits for it; its queue has to be closed.
    pub fn end(self) {
        // What went wrong in a job was caught there.
        let _ = self.0.join();
    }
}

/// Starts it.
///
/// # Errors
/// [`Kind::Io`] where the system has no thread.
pub fn start(server: Arc<Server>) -> Result<Worker> {
    thread::Builder::new()
        .name("owl2-engine".to_owned())
        .spawn(move || run(&server))
        .map(Worker)
        .map_err(|e| Error::new(Kind::Io, format!("cannot start a thread: {e}")).caused_by(e))
}

fn run(server: &Server) {
    let assistant = &server.assistant;
    let mut engine = Engine::new(assistant);
    let mut last_key = None;
    while let Some(job) = server.queue.next() {
        let start = Instant::now();
        // How fast an answer comes must not tell one person what another asked.
        if server.settings.keys.are_several() && job.key != last_key {
            engine = Engine::new(assistant);
            assistant.forget_pictures();
        }
        last_key = job.key;
        let done = panic::catch_unwind(AssertUnwindSafe(|| engine.work(&job)));
        let done = done.unwrap_or_else(|_| {
            // What it was computing may be half done.
            engine = Engine::new(assistant);
            Progress::Failed(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a mistake in this program ended the request, please report it",
            ))
        });
        server.metrics.ended(&done);
        // Nobody may be waiting any more.
        let _ = job.progress.send(done);
        server.queue.end(start.elapsed());
    }
}

/// The model, and what requests leave to the next.
struct Engine<'m> {
    assistant: &'m Assistant,
    memory: Memory<'m>,
    scorer: Option<Scorer<'m>>,
}

impl<'m> Engine<'m> {
    fn new(assistant: &'m Assistant) -> Self {
        Engine {
            assistant,
            memory: Memory::new(),
            scorer: None,
        }
    }

    fn work(&mut self, job: &Job) -> Progress {
        match &job.work {
            Work::Answer(request) => self.answer(job, request),
            Work::Score { subjects, scoring } => self.score(job, subjects, scoring),
        }
    }

    fn answer(&mut self, job: &Job, request: &Request) -> Progress {
        if let Some(refusal) = ended(job) {
            return Progress::Failed(refusal);
        }
        let mut listener = |event: Event| {
            let is_heard = match event {
                Event::Text("") => true,
                Event::Text(text) => job.progress.send(Progress::Text(text.to_owned())).is_ok(),
                _ => true,
            };
            match is_heard && ended(job).is_none() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let answer = self.assistant.answer_from(&mut self.memory, request, &mut listener);
        match answer {
            Ok(answer) => finished(job, answer),
            Err(e) => Progress::Failed(e.into()),
        }
    }

    fn score(&mut self, job: &Job, subjects: &[Subject], scoring: &Scoring) -> Progress {
        let scores = subjects.iter().map(|subject| match ended(job) {
            Some(refusal) => Err(refusal),
            None => self.score_one(subject, scoring).map_err(Refusal::from),
        });
        match scores.collect() {
            Ok(scores) => Progress::Scored(scores),
            Err(refusal) => Progress::Failed(refusal),
        }
    }

    fn score_one(&mut self, subject: &Subject, scoring: &Scoring) -> Result<Score> {
        let scorer = match self.scorer.take() {
            Some(scorer) if scorer.scoring() == scoring => scorer,
            _ => Scorer::new(self.assistant, scoring.clone())?,
        };
        self.scorer.insert(scorer).score(subject)
    }
}

fn finished(job: &Job, answer: Answer) -> Progress {
    match (answer.stop, ended(job)) {
        (StopReason::Cancelled, Some(refusal)) => Progress::Failed(refusal),
        _ => Progress::Answered(Box::new(answer)),
    }
}

/// Why a job is not to be worked on any longer, if so.
fn ended(job: &Job) -> Option<Refusal> {
    if job.is_cancelled() {
        return Some(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the request was cancelled"));
    }
    (Instant::now() >= job.deadline).then(|| {
        Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the answer took longer than the server's --request-timeout",
        )
    })
}
