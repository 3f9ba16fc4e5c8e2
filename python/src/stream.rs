//! An answer as it is written.

use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};

use owl2::{Assistant, Question, Settings};
use pyo3::prelude::*;

use crate::answer::Answer;
use crate::errors::raised;
use crate::work::{self, PATIENCE, Stop};

/// What comes from the thread that answers.
enum Piece {
    Text(String),
    End(owl2::Result<owl2::Answer>),
}

/// The pieces of an answer's text: an iterator, whose thread ends with it.
#[pyclass(frozen)]
pub struct Stream {
    pieces: Mutex<Receiver<Piece>>,
    answer: Mutex<Option<owl2::Answer>>,
    stop: Stop,
}

impl Stream {
    /// Begins an answer to the question that `prepare` makes.
    pub fn begin(
        py: Python<'_>,
        assistant: Arc<Assistant>,
        prepare: impl FnOnce(&Assistant) -> owl2::Result<(Question, Settings)> + Send + 'static,
    ) -> PyResult<Self> {
        let (sender, pieces) = mpsc::channel();
        let stop = Stop::default();
        let of_work = stop.clone();
        work::spawn(py, move || {
            let mut receive = |text: &str| match of_work.is_asked() {
                true => ControlFlow::Break(()),
                false => match sender.send(Piece::Text(text.to_owned())) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                },
            };
            let answer = prepare(&assistant).and_then(|(question, settings)| {
                assistant.ask_with(question, &settings, &mut receive)
            });
            // Nobody listens any more to a stream that was dropped.
            drop(sender.send(Piece::End(answer)));
        })?;
        Ok(Stream {
            pieces: Mutex::new(pieces),
            answer: Mutex::new(None),
            stop,
        })
    }

    fn answer_slot(&self) -> std::sync::MutexGuard<'_, Option<owl2::Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Stream {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// The next piece of the text.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        loop {
            if self.answer_slot().is_some() {
                return Ok(None);
            }
            let received = py.detach(|| {
                let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
                pieces.recv_timeout(PATIENCE)
            });
            match received {
                Ok(Piece::Text(text)) => return Ok(Some(text)),
                Ok(Piece::End(answer)) => {
                    *self.answer_slot() = Some(raised(py, answer)?);
                    return Ok(None);
                }
                Err(RecvTimeoutError::Timeout) => {
                    py.check_signals().inspect_err(|_| self.stop.ask())?;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(work::panicked(py)),
            }
        }
    }

    /// Asks the answer to end.
    fn close(&self) {
        self.stop.ask();
    }

    /// The whole answer, once the text has ended.
    fn answer(&self) -> Option<Answer> {
        self.answer_slot().clone().map(Answer::from)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.ask();
    }
}
