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
    End(Box<owl2::Result<owl2::Answer>>),
    /// Nothing, after the end.
    None,
}

/// The pieces of an answer's text: an iterator, whose thread ends with it.
#[pyclass(frozen)]
pub struct Stream {
    /// None once the last piece came.
    pieces: Mutex<Option<Receiver<Piece>>>,
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
            drop(sender.send(Piece::End(Box::new(answer))));
        })?;
        Ok(Stream {
            pieces: Mutex::new(Some(pieces)),
            answer: Mutex::new(None),
            stop,
        })
    }

    /// The next piece, if one comes before the interpreter should look for signals.
    fn receive(&self) -> Result<Piece, RecvTimeoutError> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(receiver) = &*pieces else {
            return Ok(Piece::None);
        };
        let received = receiver.recv_timeout(PATIENCE);
        if let Ok(Piece::End(_)) | Err(RecvTimeoutError::Disconnected) = received {
            *pieces = None;
        }
        received
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
            match py.detach(|| self.receive()) {
                Ok(Piece::Text(text)) => return Ok(Some(text)),
                Ok(Piece::End(answer)) => {
                    let answer = raised(py, *answer)?;
                    *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                    return Ok(None);
                }
                Ok(Piece::None) => return Ok(None),
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
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer.clone().map(Answer::from)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.ask();
    }
}
