//! The line that a person types: editing, history, completion, and several lines at once.

use std::path::{Path, PathBuf};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Helper};

use super::{command, history, settings};
use crate::error::{Error, Kind, Result};
use crate::harmless;

/// What was typed.
pub enum Typed {
    /// A line, or several.
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D.
    End,
}

/// The editor.
pub struct Editor {
    inner: rustyline::Editor<Assistance, MemHistory>,
    history: Option<PathBuf>,
    /// The lines typed in this chat, where they are to be kept.
    typed: Vec<String>,
}

impl Editor {
    /// An editor with the lines of the history file, if there is one.
    pub fn open(file: Option<&Path>) -> Result<Self> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(history::MAX_LINES)
            .map_err(failed)?
            .build();
        let lines = MemHistory::with_config(&config);
        let mut inner = rustyline::Editor::with_history(config, lines).map_err(failed)?;
        inner.set_helper(Some(Assistance {
            files: FilenameCompleter::new(),
        }));
        for line in file.map(history::read).transpose()?.into_iter().flatten() {
            inner.add_history_entry(line).map_err(failed)?;
        }
        Ok(Editor {
            inner,
            history: file.map(Path::to_owned),
            typed: Vec::new(),
        })
    }

    /// Reads a line and remembers it.
    pub fn read(&mut self, prompt: &str) -> Result<Typed> {
        match self.inner.readline(prompt) {
            Ok(line) => {
                // A history that is full drops its oldest line; it does not fail.
                self.inner.add_history_entry(&line).map_err(failed)?;
                if self.history.is_some() {
                    self.typed.push(line.clone());
                }
                Ok(Typed::Line(line.replace("\\\n", "\n")))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(failed(error)),
        }
    }

    /// Asks a question whose answer is yes unless it begins with n.
    pub fn confirm(&mut self, question: &str) -> Result<bool> {
        match self.inner.readline(&*harmless::line(question)) {
            Ok(answer) => Ok(!answer.trim_start().to_lowercase().starts_with('n')),
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Adds what was typed to the history file, if there is to be one.
    pub fn save(&self) -> Result<()> {
        match &self.history {
            Some(path) => history::append(path, &self.typed),
            None => Ok(()),
        }
    }
}

fn failed(error: ReadlineError) -> Error {
    Error::new(Kind::Io, format!("the terminal: {error}")).caused_by(error)
}

/// Completes commands, settings and files.
struct Assistance {
    files: FilenameCompleter,
}

impl Completer for Assistance {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..position];
        match typed.split_once(' ') {
            None if typed.starts_with('/') && !typed[1..].contains('/') => {
                Ok((0, beginning_with(typed, &command::NAMES)))
            }
            Some(("/set", name)) => Ok((
                typed.len() - name.len(),
                beginning_with(name, &settings::NAMES),
            )),
            _ => {
                let (start, mut files) = self.files.complete_path(line, position)?;
                // A name that could command the terminal is not shown, nor put into the line.
                files.retain(|file| !file.replacement.contains(char::is_control));
                Ok((start, files))
            }
        }
    }
}

fn beginning_with(typed: &str, names: &[&str]) -> Vec<Pair> {
    let matching = names.iter().filter(|name| name.starts_with(typed));
    let pair = |name: &&str| Pair {
        display: (*name).to_owned(),
        replacement: format!("{name} "),
    };
    matching.map(pair).collect()
}

impl Validator for Assistance {
    /// A line that ends with a backslash is not finished.
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(match context.input().ends_with('\\') {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Hinter for Assistance {
    type Hint = String;
}

impl Highlighter for Assistance {}

impl Helper for Assistance {}
