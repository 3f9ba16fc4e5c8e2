//! Requests that wait for the engine: first come, first served, no more than there is room for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::refusal::Refusal;
use crate::request::{Answer, Request};
use crate::score::{Score, ScoreSubject, Scoring};

/// What the engine is to do.
#[derive(Debug)]
pub enum JobKind {
    /// Answer a question.
    Answer(Box<Request>),
    /// Rate pictures.
    Score {
        subjects: Vec<ScoreSubject>,
        scoring: Scoring,
    },
}

impl JobKind {
    /// Pictures that are held for it.
    fn n_pictures(&self) -> usize {
        match self {
            JobKind::Answer(request) => request.pictures.len(),
            JobKind::Score { subjects, .. } => subjects.len(),
        }
    }
}

/// What becomes of it.
#[derive(Debug)]
pub enum Progress {
    /// More of an answer.
    Text(String),
    /// The whole answer.
    Answered(Box<Answer>),
    /// All scores.
    Scored(Vec<Score>),
    /// Nothing more comes, and why.
    Failed(Refusal),
}

/// A request on its way.
#[derive(Debug)]
pub struct Job {
    /// What it is called; no other job has the same.
    pub id: u64,
    pub work: JobKind,
    /// Who hears of it. It does not wait: an answer is no longer than its context.
    pub progress: UnboundedSender<Progress>,
    /// When it has to be done.
    pub deadline: Instant,
    /// Whose it is, where there are several keys.
    pub key: Option<usize>,
    is_cancelled: Arc<AtomicBool>,
}

impl Job {
    /// Whether nobody wants the answer any more.
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }
}

/// The interest in a job: when it is dropped, the job is cancelled.
#[derive(Debug)]
pub struct Ticket {
    queue: Arc<Queue>,
    is_cancelled: Arc<AtomicBool>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        // What waits holds its pictures.
        self.queue.lock().remove_cancelled();
    }
}

/// The jobs that wait, and what is known of those before them.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    /// Something was added, or the queue was closed.
    added: Condvar,
    /// A job has ended.
    ended: Notify,
    max_waiting: usize,
}

/// Pictures of all waiting jobs together, of 2.4 MB each in the model's size.
const MAX_PICTURES: usize = 128;
/// Jobs whose times tell how long one takes.
const N_RECENT: usize = 10;

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// What runs: its id, and whether it is cancelled.
    running: Vec<(u64, Arc<AtomicBool>)>,
    n_submitted: u64,
    is_closed: bool,
    recent: VecDeque<Duration>,
}

impl State {
    fn begin_next(&mut self) -> Option<Job> {
        let job = self.waiting.pop_front()?;
        self.running.push((job.id, job.is_cancelled.clone()));
        Some(job)
    }

    fn remove_cancelled(&mut self) {
        self.waiting.retain(|job| !job.is_cancelled());
    }

    fn n_pictures(&self) -> usize {
        self.waiting.iter().map(|job| job.work.n_pictures()).sum()
    }

    /// Seconds until a place is likely to be free.
    fn retry_after_s(&self) -> u64 {
        let n = self.recent.len().max(1) as u32;
        let mean = self.recent.iter().sum::<Duration>() / n;
        (mean.as_secs_f64().ceil() as u64).clamp(1, 600)
    }
}

impl Queue {
    pub fn new(max_waiting: usize) -> Self {
        Queue {
            state: Mutex::default(),
            added: Condvar::new(),
            ended: Notify::new(),
            max_waiting,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock but an allocation.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job at the end, or says after how many seconds to try again.
    pub fn submit(
        self: &Arc<Self>,
        work: JobKind,
        progress: UnboundedSender<Progress>,
        deadline: Instant,
        key: Option<usize>,
    ) -> Result<Ticket, Option<u64>> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(None);
        }
        state.remove_cancelled();
        // One that nothing stands before does not wait.
        let is_idle = state.running.is_empty() && state.waiting.is_empty();
        let n_pictures = state.n_pictures() + work.n_pictures();
        if !is_idle && (state.waiting.len() >= self.max_waiting || n_pictures > MAX_PICTURES) {
            return Err(Some(state.retry_after_s()));
        }
        let is_cancelled = Arc::new(AtomicBool::new(false));
        state.n_submitted += 1;
        let id = state.n_submitted;
        state.waiting.push_back(Job {
            id,
            work,
            progress,
            deadline,
            key,
            is_cancelled: is_cancelled.clone(),
        });
        drop(state);
        self.added.notify_one();
        Ok(Ticket {
            queue: self.clone(),
            is_cancelled,
        })
    }

    /// The next job, once there is one; `None` when there will be no more. The engine calls
    /// [`Queue::end`] when it is done.
    pub fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.begin_next() {
                return Some(job);
            }
            if state.is_closed {
                return None;
            }
            let woken = self.added.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// [`Queue::next`], where there is one at once.
    pub fn next_if_any(&self) -> Option<Job> {
        self.lock().begin_next()
    }

    /// Says that a job has ended, and how long it took.
    pub fn end(&self, id: u64, took: Duration) {
        let mut state = self.lock();
        state.running.retain(|(running, _)| *running != id);
        if state.recent.len() == N_RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back(took);
        drop(state);
        self.ended.notify_waiters();
    }

    /// Jobs that wait, and that run.
    pub fn len(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting.len(), state.running.len())
    }

    /// Takes no more jobs.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.added.notify_all();
    }

    /// Cancels whatever waits or runs.
    pub fn cancel_all(&self) {
        let mut state = self.lock();
        for job in &state.waiting {
            job.is_cancelled.store(true, Ordering::Relaxed);
        }
        for (_, is_cancelled) in &state.running {
            is_cancelled.store(true, Ordering::Relaxed);
        }
        state.remove_cancelled();
    }

    /// Waits until nothing waits or runs, but no longer than `timeout`; whether that came.
    pub async fn wait_until_idle(&self, timeout: Duration) -> bool {
        let idle = async {
            loop {
                // Registered before the look, so that no end is missed.
                let ended = self.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.len() == (0, 0) {
                    return;
                }
                ended.await;
            }
        };
        tokio::time::timeout(timeout, idle).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Prompt;
    use tokio::sync::mpsc;

    fn submit(queue: &Arc<Queue>, text: &str) -> Result<Ticket, Option<u64>> {
        let request = Request::new(Prompt::Raw(text.to_owned()));
        let (progress, _) = mpsc::unbounded_channel();
        let deadline = Instant::now() + Duration::from_secs(60);
        queue.submit(JobKind::Answer(Box::new(request)), progress, deadline, None)
    }

    fn text(job: &Job) -> &str {
        match &job.work {
            JobKind::Answer(request) => match &request.prompt {
                Prompt::Raw(text) => text,
                Prompt::Turns { .. } => "",
            },
            JobKind::Score { .. } => "",
        }
    }

    #[test]
    fn first_come_first_served_and_no_more_than_there_is_room_for() {
        let queue = Arc::new(Queue::new(2));
        let _first = submit(&queue, "1").unwrap();
        let _second = submit(&queue, "2").unwrap();
        assert_eq!(submit(&queue, "3").unwrap_err(), Some(1));
        let running = queue.next().unwrap();
        assert_eq!(text(&running), "1");
        let _third = submit(&queue, "3").unwrap();
        assert_eq!(queue.len(), (2, 1));
        queue.end(running.id, Duration::from_secs(5));
        assert_eq!(text(&queue.next().unwrap()), "2");
        let _fourth = submit(&queue, "4").unwrap();
        assert_eq!(submit(&queue, "5").unwrap_err(), Some(5));
    }

    #[test]
    fn what_nobody_waits_for_makes_room_and_is_never_run() {
        let queue = Arc::new(Queue::new(1));
        let running = submit(&queue, "1").unwrap();
        let job = queue.next().unwrap();
        let gone = submit(&queue, "2").unwrap();
        assert!(submit(&queue, "3").is_err());
        drop(gone);
        let _third = submit(&queue, "3").unwrap();
        assert!(!job.is_cancelled());
        drop(running);
        assert!(job.is_cancelled());
        assert_eq!(text(&queue.next_if_any().unwrap()), "3");
        assert_eq!(queue.len(), (0, 2));
        queue.end(job.id, Duration::ZERO);
        assert_eq!(queue.len(), (0, 1));
    }

    #[test]
    fn a_closed_queue_finishes_what_it_has() {
        let queue = Arc::new(Queue::new(4));
        let _ticket = submit(&queue, "1").unwrap();
        queue.close();
        assert_eq!(submit(&queue, "2").unwrap_err(), None);
        let job = queue.next().unwrap();
        queue.end(job.id, Duration::ZERO);
        assert!(queue.next().is_none());
    }
}
