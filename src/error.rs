//! The one error type: the kind of failure, the file, tensor, key or parameter, and what to do.
//!
//! Parameters have the names of fields, such as `temperature`. A front end can rename them:
//! [`Error::spelled`] with [`flag`] gives the names of a command line.

use std::fmt;
use std::path::Path;

use crate::harmless;

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The longest message that is shown, in bytes: some thirty lines.
const MAX_MESSAGE_BYTES: usize = 4000;
/// The longest name of a file that is shown.
const MAX_FILE_BYTES: usize = 500;
/// The longest name of a tensor, key or parameter that is shown.
const MAX_NAME_BYTES: usize = 200;

/// What went wrong, seen from the person who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A parameter is wrong or contradicts another.
    Usage,
    /// A picture, prompt or other input cannot be used.
    Input,
    /// A model file or checkpoint is malformed, incomplete or of another kind.
    Model,
    /// The operating system refused to read, write or map.
    Io,
    /// More memory or context would be needed than there is.
    Capacity,
    /// An answer was cut before it was what its constraint asks for.
    Unfinished,
    /// Some of several inputs failed; each was reported where it came up.
    Partial,
    /// The user asked to stop, and the same command goes on where it did.
    Stopped,
    /// The program itself is wrong.
    Bug,
    /// The user asked to stop.
    Interrupted,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 10] = [
        Kind::Partial,
        Kind::Usage,
        Kind::Input,
        Kind::Model,
        Kind::Io,
        Kind::Capacity,
        Kind::Unfinished,
        Kind::Stopped,
        Kind::Bug,
        Kind::Interrupted,
    ];

    /// The process exit status of a program that ends with this error.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Partial => 1,
            Kind::Usage => 2,
            Kind::Input => 3,
            Kind::Model => 4,
            Kind::Io => 5,
            Kind::Capacity => 6,
            Kind::Unfinished => 7,
            // EX_TEMPFAIL of sysexits(3): worth another try.
            Kind::Stopped => 75,
            Kind::Bug => 101,
            Kind::Interrupted => 130,
        }
    }
}

/// What happened, as a list of exit statuses says it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Partial => "some of several pictures or rows failed",
            Kind::Usage => "wrong usage",
            Kind::Input => "unusable picture, prompt or other input",
            Kind::Model => "unusable model file or checkpoint",
            Kind::Io => "input or output failed",
            Kind::Capacity => "not enough memory or context",
            Kind::Unfinished => "the answer was cut off before it met its constraint",
            Kind::Stopped => "stopped; the same command resumes",
            Kind::Bug => "internal error",
            Kind::Interrupted => "interrupted",
        })
    }
}

/// The thing an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A tensor, by its name.
    Tensor(String),
    /// A metadata or configuration key.
    Key(String),
    /// A parameter, by the name of its field, such as `temperature`.
    Parameter(String),
}

impl Subject {
    /// Its name, as it may be shown, and spelled by `spell` where it is a parameter.
    fn spelled(&self, spell: &Spelling) -> String {
        let (Subject::Tensor(name) | Subject::Key(name) | Subject::Parameter(name)) = self;
        let name = harmless::line(name);
        let name = harmless::shortened(&name, MAX_NAME_BYTES);
        match self {
            Subject::Tensor(_) => format!("tensor '{name}'"),
            Subject::Key(_) => format!("key '{name}'"),
            Subject::Parameter(_) => spell(&name),
        }
    }
}

/// How parameters are spelled where an error is shown: takes the name of a field.
pub type Spelling<'a> = dyn Fn(&str) -> String + 'a;

/// How a command line spells a parameter: `top_k` is `--top-k`. What is no name of a field, such as
/// `PATH` or `/set`, stays as it is.
pub fn flag(parameter: &str) -> String {
    match parameter {
        "temperature" => "--temp".to_owned(),
        "context" => "--ctx-size".to_owned(),
        _ if parameter.contains(|c: char| c.is_uppercase() || c == '/') => parameter.to_owned(),
        _ => format!("--{}", parameter.replace('_', "-")),
    }
}

/// What to do: words before and after the parameter to be changed.
#[derive(Debug)]
struct Advice {
    before: &'static str,
    parameter: &'static str,
    after: String,
}

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error of this library: a [`Kind`], a message, and where known the file and the [`Subject`].
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    file: Option<String>,
    subject: Option<Subject>,
    advice: Option<Advice>,
    source: Option<Source>,
}

impl Error {
    /// An error of any kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            file: None,
            subject: None,
            advice: None,
            source: None,
        }))
    }

    /// A wrong parameter.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// An unusable picture, prompt or other input.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// A malformed or incomplete model file or checkpoint.
    pub fn model(message: impl Into<String>) -> Self {
        Self::new(Kind::Model, message)
    }

    /// A need for more memory or context than there is.
    pub fn capacity(message: impl Into<String>) -> Self {
        Self::new(Kind::Capacity, message)
    }

    /// A failed system call on `file`; `doing` is a verb phrase, such as "cannot open".
    pub fn io(doing: &str, file: &Path, source: std::io::Error) -> Self {
        Self::new(Kind::Io, format!("{doing}: {source}"))
            .in_file(file)
            .caused_by(source)
    }

    /// Adds the file this is about, unless one is named already.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.0
            .file
            .get_or_insert_with(|| file.display().to_string());
        self
    }

    /// Adds the tensor this is about.
    #[must_use]
    pub fn in_tensor(mut self, name: impl Into<String>) -> Self {
        self.0.subject = Some(Subject::Tensor(name.into()));
        self
    }

    /// Adds the metadata or configuration key this is about.
    #[must_use]
    pub fn in_key(mut self, name: impl Into<String>) -> Self {
        self.0.subject = Some(Subject::Key(name.into()));
        self
    }

    /// Adds the parameter this is about, by the name of its field.
    #[must_use]
    pub fn in_parameter(mut self, name: impl Into<String>) -> Self {
        self.0.subject = Some(Subject::Parameter(name.into()));
        self
    }

    /// Adds what to do about it: `before`, the parameter to be changed, and `after`, as in "set
    /// context to 300". Follows the message and a semicolon.
    #[must_use]
    pub fn advise(
        mut self,
        before: &'static str,
        parameter: &'static str,
        after: impl Into<String>,
    ) -> Self {
        let after = after.into();
        self.0.advice = Some(Advice {
            before,
            parameter,
            after,
        });
        self
    }

    /// Keeps the underlying error for `source()`. The message should already say what it says.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The file it is about, if one is known.
    pub fn file(&self) -> Option<&str> {
        self.0.file.as_deref()
    }

    /// The tensor, key or parameter it is about, if one is known.
    pub fn subject(&self) -> Option<&Subject> {
        self.0.subject.as_ref()
    }

    /// The parameter it is about, by the name of its field, if it is about one.
    pub fn parameter(&self) -> Option<&str> {
        match &self.0.subject {
            Some(Subject::Parameter(name)) => Some(name),
            _ => None,
        }
    }

    /// The whole text with parameters spelled by `spell`.
    pub fn spelled<'a>(&'a self, spell: &'a Spelling<'a>) -> impl fmt::Display + 'a {
        Spelled { error: self, spell }
    }
}

/// Parameters have the names of fields.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spelled(&str::to_owned).fmt(f)
    }
}

/// An error with the spelling of its parameters.
struct Spelled<'a> {
    error: &'a Error,
    spell: &'a Spelling<'a>,
}

/// Whatever an error is about may come from a file, so all of it is shown without control sequences,
/// and no longer than a person reads.
impl fmt::Display for Spelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.error.0;
        if let Some(file) = &inner.file {
            let file = harmless::line(file);
            write!(f, "{}: ", harmless::shortened(&file, MAX_FILE_BYTES))?;
        }
        if let Some(subject) = &inner.subject {
            write!(f, "{}: ", subject.spelled(self.spell))?;
        }
        let message = harmless::text(&inner.message);
        f.write_str(&harmless::shortened(&message, MAX_MESSAGE_BYTES))?;
        let Some(advice) = &inner.advice else {
            return Ok(());
        };
        write!(f, "; {} {}", advice.before, (self.spell)(advice.parameter))?;
        match advice.after.is_empty() {
            true => Ok(()),
            false => write!(f, " {}", advice.after),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_file_and_subject_before_the_message() {
        let error = Error::model("has 3 dimensions, expected 2")
            .in_tensor("output.weight")
            .in_file(Path::new("m.gguf"));
        assert_eq!(
            error.to_string(),
            "m.gguf: tensor 'output.weight': has 3 dimensions, expected 2"
        );
        assert_eq!(error.kind().exit_code(), 4);
    }

    #[test]
    fn shows_nothing_that_commands_a_terminal_and_nothing_endless() {
        let hostile = "\u{1b}]0;title\u{7}\u{9b}2J\n".repeat(1000);
        let error = Error::model(format!("{hostile} do this"));
        let errors = [
            error.in_tensor(&hostile).in_file(Path::new("\u{1b}c\na")),
            Error::input(&hostile).in_key(&hostile),
            Error::usage(&hostile).in_parameter(&hostile),
        ];
        for error in errors {
            let shown = error.to_string();
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n'));
            assert!(shown.len() < 5000, "{}", shown.len());
            // A name cannot begin a line of its own.
            let before = shown.lines().next().unwrap();
            assert!(before.contains("title"), "{before}");
        }
    }

    #[test]
    fn fronts_spell_parameters_and_programs_read_them() {
        let error = Error::usage("is -1, expected 0 or more")
            .in_parameter("temperature")
            .advise("set", "context", "to 300");
        assert_eq!(
            error.to_string(),
            "temperature: is -1, expected 0 or more; set context to 300"
        );
        assert_eq!(
            error.spelled(&flag).to_string(),
            "--temp: is -1, expected 0 or more; set --ctx-size to 300"
        );
        assert_eq!(error.parameter(), Some("temperature"));
        assert_eq!(Error::usage("x").in_key("temperature").parameter(), None);
        for (name, spelled) in [("top_k", "--top-k"), ("PATH", "PATH"), ("/set", "/set")] {
            assert_eq!(flag(name), spelled);
        }
    }

    #[test]
    fn keeps_the_innermost_file() {
        let error = Error::input("truncated")
            .in_file(Path::new("inner.png"))
            .in_file(Path::new("outer.json"));
        assert!(error.to_string().starts_with("inner.png: "));
    }
}
