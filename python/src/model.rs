//! An open model.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;

use owl2::{Assistant, Error, Question};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyList};

use crate::answer::Answer;
use crate::errors::{exception, raised};
use crate::pictures::{self, Given};
use crate::settings::{self, AskSettings};
use crate::stream::Stream;
use crate::words::{self, reading};
use crate::{score, work};

/// A model file, ready to answer.
#[pyclass(frozen)]
pub struct Model {
    assistant: Arc<Assistant>,
    /// The process that opened it, whose threads no other has.
    process: u32,
}

impl Model {
    /// The model, for a request.
    fn assistant(&self, py: Python<'_>) -> PyResult<Arc<Assistant>> {
        if process::id() == self.process {
            return Ok(self.assistant.clone());
        }
        let message = "the model was opened before this process was forked, and its threads are \
                       not here; open it in each process, or start processes by \"spawn\"";
        Err(exception(py, &Error::usage(message)))
    }
}

#[pymethods]
impl Model {
    #[new]
    fn new(py: Python<'_>, path: Option<PathBuf>, threads: Option<i64>) -> PyResult<Self> {
        let opened = work::run(py, move |_| {
            let threads = match threads {
                Some(n) => {
                    let n = NonZeroUsize::new(settings::whole("threads", n)?);
                    let wrong = || Error::usage("is 0, expected 1 or more").in_parameter("threads");
                    n.ok_or_else(wrong)?
                }
                None => owl2::threads::default_count(),
            };
            match path {
                Some(path) => Assistant::open_on(path, threads),
                None => Assistant::new(&owl2::builtin::open()?, owl2::ops::Compute::new(threads)?),
            }
        });
        Ok(Model {
            assistant: Arc::new(opened?),
            process: process::id(),
        })
    }

    /// The whole answer.
    fn ask(
        &self,
        py: Python<'_>,
        prompt: String,
        pictures: Vec<Given>,
        settings: AskSettings,
    ) -> PyResult<Answer> {
        let assistant = self.assistant(py)?;
        let answer = work::run(py, move |stop| {
            let mut receive = |_: &str| match stop.is_asked() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let question = question(&assistant, prompt, pictures, &settings)?;
            assistant.ask_with(question, &settings.settings()?, &mut receive)
        });
        answer.map(Answer::from)
    }

    /// The answer as it is written.
    fn stream(
        &self,
        py: Python<'_>,
        prompt: String,
        pictures: Vec<Given>,
        settings: AskSettings,
    ) -> PyResult<Stream> {
        Stream::begin(py, self.assistant(py)?, move |assistant| {
            let question = question(assistant, prompt, pictures, &settings)?;
            Ok((question, settings.settings()?))
        })
    }

    /// For each subject its rating, or the exception that it ended with.
    fn score<'py>(
        &self,
        py: Python<'py>,
        subjects: Vec<score::GivenSubject>,
        options: score::Options,
    ) -> PyResult<Bound<'py, PyList>> {
        let assistant = self.assistant(py)?;
        let scores = work::run(py, move |stop| {
            score::scores(&assistant, subjects, options, stop)
        });
        let list = PyList::empty(py);
        for score in scores? {
            match score {
                Ok(score) => list.append(score)?,
                Err(e) => list.append(exception(py, &e))?,
            }
        }
        Ok(list)
    }

    /// How likely words are at the end of a prompt.
    fn word_logits(&self, py: Python<'_>, options: words::Options) -> PyResult<Vec<words::Word>> {
        let assistant = self.assistant(py)?;
        work::run(py, move |_| words::logits(&assistant, options))
    }

    /// The number of a picture's rows, and the rows as float32 of this machine.
    fn embed_image<'py>(
        &self,
        py: Python<'py>,
        picture: Given,
        aspect: Option<String>,
        as_shown: bool,
    ) -> PyResult<(usize, Bound<'py, PyByteArray>)> {
        let assistant = self.assistant(py)?;
        let embedding = work::run(py, move |_| {
            let aspect = aspect.as_deref().map(str::parse).transpose()?;
            let source = picture.source(&assistant, aspect)?;
            assistant.embed_image(&source, aspect, reading(as_shown))
        })?;
        let n_bytes = size_of_val(&embedding.values[..]);
        let bytes = PyByteArray::new_with(py, n_bytes, |bytes| {
            let each = bytes.chunks_exact_mut(size_of::<f32>());
            for (bytes, value) in each.zip(embedding.values.iter()) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
            Ok(())
        });
        Ok((embedding.n_rows, bytes?))
    }

    /// The ids of a text; control tokens count in it only where `special` says so.
    fn tokenize(&self, py: Python<'_>, text: &str, special: bool) -> Vec<u32> {
        let tokenizer = self.assistant.tokenizer();
        py.detach(|| match special {
            true => tokenizer.encode_trusted(text),
            false => tokenizer.encode(text),
        })
    }

    /// The text of ids.
    fn detokenize(&self, py: Python<'_>, ids: Vec<i64>, special: bool) -> PyResult<String> {
        let tokenizer = self.assistant.tokenizer();
        let n_ids = tokenizer.vocabulary().pieces.len();
        let known = ids.into_iter().map(|id| {
            let known = u32::try_from(id).ok().filter(|&id| (id as usize) < n_ids);
            known.ok_or_else(|| {
                let message = format!("has {id}, but ids are below {n_ids}");
                Error::usage(message).in_parameter("ids")
            })
        });
        let ids: Vec<u32> = raised(py, known.collect())?;
        Ok(match special {
            true => tokenizer.decode_with_specials(&ids),
            false => tokenizer.decode(&ids),
        })
    }

    /// The rule that the file names for scores.
    #[getter]
    fn score_rule(&self) -> Option<&'static str> {
        self.assistant.score_rule().map(owl2::score::Rule::name)
    }

    /// Worker threads.
    #[getter]
    fn threads(&self) -> usize {
        self.assistant.model().compute().threads.count()
    }
}

/// A question about pictures.
fn question(
    assistant: &Assistant,
    prompt: String,
    given: Vec<Given>,
    settings: &AskSettings,
) -> owl2::Result<Question> {
    let sources = pictures::sources(given, assistant, settings.aspect()?)?;
    let question = Question::new(prompt);
    Ok(sources.into_iter().fold(question, Question::picture))
}
