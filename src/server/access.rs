//! The request log: who asked, the result, and the numbers of tokens. It never contains texts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::json;

use super::refusal::Refusal;
use super::routes::Server;
use super::settings::LogFormat;
use super::time;
use crate::harmless;
use crate::request::Answer;

/// What is known of a request; written when it is dropped.
pub struct Access {
    server: Arc<Server>,
    peer: String,
    method: Method,
    path: String,
    start: Instant,
    pub status: u16,
    first_text: Option<Duration>,
    tokens: Option<(usize, usize, usize)>,
    n_scores: usize,
    error: Option<String>,
}

impl Access {
    pub fn new(
        server: Arc<Server>,
        peer: String,
        method: Method,
        path: &str,
        start: Instant,
    ) -> Self {
        Access {
            server,
            peer,
            method,
            path: path.to_owned(),
            start,
            // Nobody hears the answer where this is dropped before there is one.
            status: 499,
            first_text: None,
            tokens: None,
            n_scores: 0,
            error: None,
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first text of an answer is there.
    pub fn first_text(&mut self) {
        self.first_text.get_or_insert(self.start.elapsed());
    }

    pub fn answered(&mut self, answer: &Answer) {
        self.status = 200;
        self.tokens = Some((answer.n_prompt, answer.n_reused, answer.ids.len()));
    }

    pub fn scored(&mut self, n_scores: usize) {
        self.status = 200;
        self.n_scores = n_scores;
    }

    /// The client went away before it had its answer; nginx's number for that.
    pub fn left(&mut self) {
        self.status = 499;
    }

    pub fn failed(&mut self, refusal: &Refusal) {
        self.status = refusal.status.as_u16();
        // Only the field's name: the message may repeat what was sent.
        self.error = refusal.param.clone();
    }

    fn text(&self, seconds: f64) -> String {
        let mut line = format!(
            "{} {} {} {} {} {seconds:.3}s",
            time::now(),
            self.peer,
            self.method,
            harmless::line(&self.path),
            self.status
        );
        if let Some((prompt, reused, generated)) = self.tokens {
            line += &format!(" prompt={prompt} reused={reused} generated={generated}");
        }
        if self.n_scores > 0 {
            line += &format!(" scores={}", self.n_scores);
        }
        if let Some(error) = &self.error {
            line += &format!(" field={}", harmless::line(error));
        }
        line
    }

    fn json(&self, seconds: f64) -> String {
        let mut line = json!({
            "time": time::now(),
            "peer": self.peer,
            "method": self.method.as_str(),
            "path": self.path,
            "status": self.status,
            "seconds": seconds,
        });
        if let Some((prompt, reused, generated)) = self.tokens {
            line["tokens"] = json!({"prompt": prompt, "reused": reused, "generated": generated});
        }
        if self.n_scores > 0 {
            line["scores"] = self.n_scores.into();
        }
        if let Some(error) = &self.error {
            line["field"] = error.as_str().into();
        }
        line.to_string()
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let took = self.start.elapsed();
        self.server
            .metrics
            .request(self.status, took, self.first_text);
        let seconds = took.as_secs_f64();
        let line = match self.server.settings.log {
            LogFormat::Text => self.text(seconds),
            LogFormat::Json => self.json(seconds),
            LogFormat::None => return,
        };
        // Where nobody reads the log, there is nobody to tell about it.
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
