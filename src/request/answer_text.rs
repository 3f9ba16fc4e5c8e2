//! The text of an answer as it grows: what may be shown already, and where it ends.

use crate::tokenizer::{TextStream, Tokenizer};

/// Gathers the text of generated tokens and ends it before the first stop text.
///
/// Text is handed out as words complete; what may be the beginning of a stop text waits until
/// more is known.
#[derive(Debug)]
pub(super) struct AnswerText<'a> {
    stream: TextStream<'a>,
    stops: Vec<&'a str>,
    text: String,
    /// Bytes of `text` that were handed out.
    n_shown: usize,
}

impl<'a> AnswerText<'a> {
    /// An empty text that ends before any of `stops`; empty ones count for nothing.
    pub fn new(tokenizer: &'a Tokenizer, stops: impl IntoIterator<Item = &'a str>) -> Self {
        AnswerText {
            stream: tokenizer.stream().keeping_spaces(),
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            text: String::new(),
            n_shown: 0,
        }
    }

    /// Takes the next id; whether a stop text is complete now.
    pub fn push(&mut self, id: u32) -> bool {
        self.text.push_str(self.stream.push(id));
        let len = self.text.len();
        // A stop text counts at once, though its word may go on.
        self.text.push_str(self.stream.waiting());
        if let Some(end) = self.first_stop() {
            self.text.truncate(end);
            return true;
        }
        self.text.truncate(len);
        false
    }

    /// Adds what was held back, at the end of an answer that no stop text ended.
    pub fn finish(&mut self) {
        self.text.push_str(self.stream.finish());
        if let Some(end) = self.first_stop() {
            self.text.truncate(end);
        }
    }

    /// Text that is new since the last call and no part of a stop text, often none.
    pub fn take_safe(&mut self) -> &str {
        let end = self.text.len() - self.begun_stop_len();
        self.take_to(end)
    }

    /// All text that is new since the last call; for the end.
    pub fn take_rest(&mut self) -> &str {
        self.take_to(self.text.len())
    }

    /// The whole text.
    pub fn into_text(self) -> String {
        self.text
    }

    fn take_to(&mut self, end: usize) -> &str {
        let start = self.n_shown.min(end);
        self.n_shown = end.max(start);
        &self.text[start..end]
    }

    /// Where the first stop text begins. No part of one has been handed out, so it is in the rest.
    fn first_stop(&self) -> Option<usize> {
        let rest = &self.text[self.n_shown..];
        let begin = self.stops.iter().filter_map(|stop| rest.find(stop)).min();
        begin.map(|begin| self.n_shown + begin)
    }

    /// Bytes at the end of the text with which a stop text may begin.
    fn begun_stop_len(&self) -> usize {
        let rest = &self.text[self.n_shown..];
        let begun = self.stops.iter().filter_map(|stop| {
            (1..stop.len())
                .rev()
                .find(|&len| stop.is_char_boundary(len) && rest.ends_with(&stop[..len]))
        });
        begun.max().unwrap_or(0)
    }
}
