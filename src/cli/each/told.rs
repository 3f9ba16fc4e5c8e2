//! What is told about each picture.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::is_of_one;
use crate::cli::ahead::Prepared;
use crate::cli::args::AskArgs;
use crate::cli::output::{self, Output};
use crate::cli::together::Requests;
use crate::cli::{ask, print, progress};
use crate::error::{Error, Result, flag};
use crate::request::{Answer, Assistant, Listener, Request};
use crate::sampler::Sampling;
use crate::timing::Timings;

/// Pictures that are decoded, and what becomes of the question about each.
pub struct Told<'a> {
    args: &'a AskArgs,
    assistant: &'a Assistant,
    sampling: &'a Sampling,
    prepared: Receiver<Prepared<Option<PathBuf>>>,
    /// Whether somebody reads the output.
    pub is_read: bool,
    pub n: usize,
    pub n_failed: usize,
}

/// A picture that is asked about.
pub struct AskedPicture {
    picture: PathBuf,
    damage: Vec<String>,
    /// What decoding took.
    timings: Timings,
    output: Arc<Mutex<Output>>,
}

impl<'a> Told<'a> {
    pub fn new(
        args: &'a AskArgs,
        assistant: &'a Assistant,
        sampling: &'a Sampling,
        prepared: Receiver<Prepared<Option<PathBuf>>>,
    ) -> Self {
        Told {
            args,
            assistant,
            sampling,
            prepared,
            is_read: true,
            n: 0,
            n_failed: 0,
        }
    }

    fn fail(&mut self, error: &Error) {
        self.n_failed += 1;
        progress::error(error);
    }

    /// Tells of an answer, or why there is none. An error is one that all would meet.
    fn tell(&mut self, asking: &AskedPicture, answer: Result<Answer>) -> Result<()> {
        let mut is_read = asking.output().finish(answer.is_ok())?;
        let answer = match answer {
            Err(error) if !is_of_one(&error) => return Err(error),
            Err(error) => Err(error),
            Ok(answer) => Ok(asking.complete(answer)),
        };
        let picture = &asking.picture;
        if self.args.output.json && is_read {
            is_read = print(&line(picture, &answer, self.sampling))?;
        }
        let answer = match answer {
            Ok(answer) if is_read => {
                let name = format!("{}: ", picture.display());
                let whole = ask::check_whole(self.args, self.assistant, &answer, &name);
                whole.map(|()| answer).map_err(|e| e.in_file(picture))
            }
            answer => answer,
        };
        match answer {
            Err(error) => self.fail(&error),
            Ok(_) if !is_read => self.is_read = false,
            Ok(answer) => ask::report(self.args, &answer, self.sampling),
        }
        Ok(())
    }
}

impl AskedPicture {
    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer with what is known since the picture was decoded.
    fn complete(&self, mut answer: Answer) -> Answer {
        let of_picture = |damage| format!("{}: {damage}", self.picture.display());
        let damage = self.damage.iter();
        answer.warnings.extend(damage.map(of_picture));
        answer.timings.add_all(&self.timings);
        answer
    }
}

impl Requests for Told<'_> {
    type Row = AskedPicture;

    fn next(&mut self, _: bool) -> Result<Option<(AskedPicture, Request)>> {
        while self.is_read
            && let Ok(prepared) = self.prepared.recv()
        {
            self.n += 1;
            let Some(picture) = prepared.row else {
                if let Err(error) = prepared.request {
                    self.fail(&error);
                }
                continue;
            };
            let prefix = format!("{}: ", picture.display());
            let asking = AskedPicture {
                picture,
                damage: prepared.damage,
                timings: prepared.timings,
                output: Arc::new(Mutex::new(Output::new(!self.args.output.json, prefix))),
            };
            match prepared.request {
                Ok(request) => return Ok(Some((asking, request))),
                Err(error) => self.tell(&asking, Err(error))?,
            }
        }
        Ok(None)
    }

    fn listener(&self, asking: &AskedPicture) -> Box<Listener<'static>> {
        let output = asking.output.clone();
        Box::new(move |event| {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.receive(event)
        })
    }

    fn end(&mut self, asking: AskedPicture, answer: Result<Answer>, _: Duration) -> Result<()> {
        self.tell(&asking, answer)
    }

    fn goes_on(&mut self) -> Result<bool> {
        Ok(self.is_read)
    }
}

/// The outcome as one line of JSON.
fn line(picture: &Path, answer: &Result<Answer>, sampling: &Sampling) -> String {
    let mut object = match answer {
        Ok(answer) => output::as_json(answer, sampling),
        Err(error) => json!({ "error": error.spelled(&flag).to_string() }),
    };
    object["image"] = picture.display().to_string().into();
    format!("{object}\n")
}
