//! The errors of requests: refused, or failed.

use std::io::Write;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::time;
use crate::error::{Error, Kind};
use crate::harmless;
use crate::panics;

/// The longest message: one that repeats what a client sent does not repeat all of it.
const MAX_MESSAGE_BYTES: usize = 2000;

/// A failure, as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// What is wrong and what to do.
    pub message: String,
    /// The field of the request that is at fault, such as `messages[0].content`.
    pub param: Option<String>,
    /// Seconds after which it may go better.
    pub retry_after_s: Option<u64>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Refusal {
            status,
            message: harmless::shortened(&message, MAX_MESSAGE_BYTES).into_owned(),
            param: None,
            retry_after_s: None,
        }
    }

    /// A request that says something wrong.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that says something wrong; `message` continues its name, as in "is 3, expected 1".
    pub fn field(path: impl Into<String>, message: impl AsRef<str>) -> Self {
        let path = path.into();
        Refusal {
            param: Some(path.clone()),
            ..Self::bad(format!("{path}: {}", message.as_ref()))
        }
    }

    /// OpenAI's name for what went wrong.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 | 405 => "not_found_error",
            429 => "rate_limit_error",
            503 | 504 => "unavailable_error",
            500 => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// As OpenAI's clients read it.
    pub fn as_openai(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.status.as_u16(),
        }})
    }

    /// As Ollama's clients read it.
    pub fn as_ollama(&self) -> Value {
        json!({"error": self.message})
    }
}

/// A request whose time is over.
pub fn took_too_long() -> Refusal {
    Refusal::new(
        StatusCode::GATEWAY_TIMEOUT,
        "the answer took longer than the server's --request-timeout",
    )
}

/// A request that a panic ended. The log has its place alone: its message may repeat a prompt.
pub fn mistake() -> Refusal {
    let place = panics::last_place().unwrap_or_default();
    // Where nobody reads the log, there is nobody to tell about it.
    let _ = writeln!(
        std::io::stderr(),
        "{} a mistake in this program ended a request, please report it: {place}",
        time::now()
    );
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "a mistake in this program ended the request, please report it",
    )
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            // What does not fit the context is for the asker to shorten.
            Kind::Usage | Kind::Input | Kind::Capacity | Kind::Unfinished => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // Names of files are the server's own business.
        let message = match (error.file(), status) {
            (Some(_), StatusCode::INTERNAL_SERVER_ERROR) => {
                "a file of the server cannot be used; its log may say more".to_owned()
            }
            (Some(file), _) => error.to_string().replace(file, "file"),
            (None, _) => error.to_string(),
        };
        Refusal {
            param: error.parameter().map(str::to_owned),
            ..Refusal::new(status, message)
        }
    }
}
