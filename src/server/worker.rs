//! The engine's thread: takes jobs from the queue, computes them together, and reports their progress.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use hyper::StatusCode;

use super::queue::{Job, JobKind, Progress};
use super::refusal::{Refusal, mistake, took_too_long};
use super::routes::Server;
use crate::engine::{Ended, Engine, StepLimits};
use crate::error::{Error, Kind, Result};
use crate::panics;
use crate::request::{Answer, Event, Request, StopReason};
use crate::score::{Score, ScoreSubject, Scorer, Scoring};

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
        .spawn(move || Working::new(&server).run())
        .map(Worker)
        .map_err(|e| Error::new(Kind::Io, format!("cannot start a thread: {e}")).caused_by(e))
}

/// What is being computed.
struct Working<'a> {
    server: &'a Server,
    engine: Engine<'a>,
    /// Answers that are on their way.
    jobs: BTreeMap<u64, (Arc<Job>, Instant)>,
    scorer: Option<Scorer<'a>>,
}

impl<'a> Working<'a> {
    fn new(server: &'a Server) -> Self {
        Working {
            server,
            engine: Engine::new(&server.assistant, limits(server)),
            jobs: BTreeMap::new(),
            scorer: None,
        }
    }

    fn run(&mut self) {
        loop {
            if self.engine.is_empty() {
                // Sleeps until there is something to do.
                match self.server.queue.next() {
                    Some(job) => self.take(job),
                    None => return,
                }
            }
            while self.engine.has_room()
                && let Some(job) = self.server.queue.next_if_any()
            {
                self.take(job);
            }
            self.step();
        }
    }

    /// Begins a job, whatever becomes of it.
    fn take(&mut self, job: Job) {
        let (id, start) = (job.id, Instant::now());
        let job = Arc::new(job);
        if let Some(refusal) = ended(&job) {
            return self.end(&job, start, Progress::Failed(refusal));
        }
        match &job.work {
            JobKind::Answer(request) => match self.begin(&job, request) {
                Ok(()) => {
                    self.jobs.insert(id, (job, start));
                }
                Err(e) => self.end(&job, start, Progress::Failed(failed(e))),
            },
            JobKind::Score { subjects, scoring } => {
                let done = self.score(&job, subjects, scoring);
                self.end(&job, start, done);
            }
        }
    }

    fn begin(&mut self, job: &Arc<Job>, request: &Request) -> Result<()> {
        let heard = job.clone();
        let listener = move |event: Event| {
            let is_heard = match event {
                Event::Text(text) if !text.is_empty() => {
                    heard.progress.send(Progress::Text(text.to_owned())).is_ok()
                }
                _ => true,
            };
            match is_heard && ended(&heard).is_none() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let group = job.key.unwrap_or(0);
        let (id, request) = (job.id, request.clone());
        // Where it panics, the engine knows nothing of the request yet.
        panics::caught(|| self.engine.begin(id, group, request, Box::new(listener)))
    }

    /// A step of the engine, for the jobs that are still wanted.
    fn step(&mut self) {
        for (id, (job, _)) in &self.jobs {
            if ended(job).is_some() {
                self.engine.cancel(*id);
            }
        }
        // A panic in what is done for one request has become its error; this is one of the engine's own.
        match panics::caught(|| Ok(self.engine.step())) {
            Ok(all) => all.into_iter().for_each(|ended| self.answered(ended)),
            Err(_) => self.begin_anew(),
        }
    }

    fn answered(&mut self, (id, answer): Ended) {
        let Some((job, start)) = self.jobs.remove(&id) else {
            return;
        };
        let done = match answer {
            Ok(answer) => finished(&job, answer),
            Err(e) => Progress::Failed(failed(e)),
        };
        self.end(&job, start, done);
    }

    /// Rates pictures one by one; answers go on between them.
    fn score(&mut self, job: &Job, subjects: &[ScoreSubject], scoring: &Scoring) -> Progress {
        let mut scores = Vec::with_capacity(subjects.len());
        for subject in subjects {
            if let Some(refusal) = ended(job) {
                return Progress::Failed(refusal);
            }
            match panics::caught(|| self.score_one(subject, scoring)) {
                Ok(score) => scores.push(score),
                Err(e) => {
                    // What it keeps of one picture for the next may be half done.
                    self.scorer = None;
                    return Progress::Failed(failed(e));
                }
            }
            if !self.engine.is_empty() {
                self.step();
            }
        }
        Progress::Scored(scores)
    }

    fn score_one(&mut self, subject: &ScoreSubject, scoring: &Scoring) -> Result<Score> {
        let scorer = match self.scorer.take() {
            Some(scorer) if scorer.scoring() == scoring => scorer,
            _ => Scorer::new(&self.server.assistant, scoring.clone())?,
        };
        self.scorer.insert(scorer).score(subject)
    }

    /// Ends a job and says what became of it.
    fn end(&self, job: &Job, start: Instant, done: Progress) {
        self.server.metrics.ended(&done);
        // Nobody may be waiting any more.
        let _ = job.progress.send(done);
        self.server.queue.end(job.id, start.elapsed());
    }

    /// After a mistake: what was being computed may be half done, so all of it ends.
    fn begin_anew(&mut self) {
        self.engine = self.engine.anew();
        self.scorer = None;
        for (job, start) in std::mem::take(&mut self.jobs).into_values() {
            self.end(&job, start, Progress::Failed(mistake()));
        }
    }
}

/// Why a request failed. It fits the context, or it would not have been taken: where memory is lacking,
/// others may give it back.
fn failed(error: Error) -> Refusal {
    match error.kind() {
        Kind::Bug => mistake(),
        Kind::Capacity => Refusal {
            retry_after_s: Some(30),
            ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        },
        _ => error.into(),
    }
}

/// How much is computed together.
fn limits(server: &Server) -> StepLimits {
    StepLimits {
        together: server.settings.parallel,
        kept: server.settings.parallel.max(2),
        cache_bytes: server.settings.kv_memory,
        ..StepLimits::default()
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
        return Some(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the request was cancelled",
        ));
    }
    (Instant::now() >= job.deadline).then(took_too_long)
}
