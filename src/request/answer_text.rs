//! The text of an answer as it grows: what may be shown already, and where it ends.

use crate::tokenizer::{TextStream, Tokenizer};

/// Gathers the text of generated tokens and ends it before the first stop text.
///
/// Text is handed out as words complete; what may be the beginning of a stop text waits until
/// more is known.
#[derive(Debug)]
pub(super) struct AnswerText<'a> {
    tokenizer: &'a Tokenizer,
    stream: TextStream<'a>,
    /// Whether control tokens are spelled out.
    spells_specials: bool,
    stops: Vec<String>,
    text: String,
    /// Bytes of `text` that were handed out.
    n_shown: usize,
}

impl<'a> AnswerText<'a> {
    /// An empty text that ends before any of `stops`; empty ones count for nothing.
    pub fn new<'s>(tokenizer: &'a Tokenizer, stops: impl IntoIterator<Item = &'s str>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty());
        AnswerText {
            tokenizer,
            spells_specials: false,
            stream: tokenizer.stream().keeping_spaces(),
            stops: stops.map(str::to_owned).collect(),
            text: String::new(),
            n_shown: 0,
        }
    }

    /// The same text, with control tokens spelled out.
    pub fn spelling_specials(self, spells_specials: bool) -> Self {
        AnswerText {
            spells_specials,
            ..self
        }
    }

    /// Takes the next id; whether a stop text is complete now.
    pub fn push(&mut self, id: u32) -> bool {
        if self.is_stop_token(id) {
            self.finish();
            return true;
        }
        if self.spells_specials && self.tokenizer.is_special(id) {
            if self.finish() {
                return true;
            }
            self.spell(id);
            return false;
        }
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

    /// Whether a control token is one of the stop texts: it ends the answer though it has no text.
    fn is_stop_token(&self, id: u32) -> bool {
        let piece = self.tokenizer.vocabulary().pieces.get(id as usize);
        self.tokenizer.is_special(id) && piece.is_some_and(|piece| self.stops.contains(&piece.text))
    }

    /// Adds what was held back, at the end of an answer that no stop text ended; whether one does
    /// now.
    pub fn finish(&mut self) -> bool {
        self.text.push_str(self.stream.finish());
        let stop = self.first_stop();
        if let Some(end) = stop {
            self.text.truncate(end);
        }
        stop.is_some()
    }

    /// Adds the spelling of `</s>`, which ended the answer, where control tokens are spelled out.
    pub fn end(&mut self, eos_id: u32) {
        if self.spells_specials {
            self.spell(eos_id);
        }
    }

    fn spell(&mut self, id: u32) {
        let piece = &self.tokenizer.vocabulary().pieces[id as usize];
        self.text.push_str(&piece.text);
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
        let begin = self
            .stops
            .iter()
            .filter_map(|stop| rest.find(stop.as_str()))
            .min();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::{piece, vocabulary};
    use crate::tokenizer::vocabulary::{Piece, PieceType};

    /// `▁` 259, `▁a` 260, `#` 261, `##` 262, `b` 263.
    fn tokenizer() -> Tokenizer {
        let pieces = ["▁", "▁a", "#", "##", "b"].map(|text| piece(text, 0.0));
        Tokenizer::new(vocabulary(pieces.into())).expect("vocabulary")
    }

    const NEWLINE: u32 = 3 + b'\n' as u32;

    /// What is shown after each id and at the end, and the whole text.
    fn shown(stops: &[&str], ids: &[u32]) -> (Vec<String>, String) {
        let tokenizer = tokenizer();
        let mut text = AnswerText::new(&tokenizer, stops.iter().copied());
        let mut shown = Vec::new();
        let stopped = ids.iter().any(|&id| {
            let stopped = text.push(id);
            shown.push(text.take_safe().to_owned());
            stopped
        });
        if !stopped {
            text.finish();
        }
        shown.push(text.take_rest().to_owned());
        let whole = text.into_text();
        assert_eq!(shown.concat(), whole);
        (shown, whole)
    }

    #[test]
    fn shows_words_as_they_complete() {
        let (parts, whole) = shown(&[], &[260, 260, 263]);
        assert_eq!(parts, ["", "a ", "", "ab"]);
        assert_eq!(whole, "a ab");
    }

    #[test]
    fn keeps_the_space_at_the_beginning_of_a_line() {
        let (_, whole) = shown(&[], &[260, NEWLINE, 260, 2]);
        assert_eq!(whole, "a\n a");
        assert_eq!(tokenizer().decode(&[260, NEWLINE, 260, 2]), whole);
    }

    #[test]
    fn spells_control_tokens_out_if_asked() {
        let tokenizer = tokenizer();
        let mut text = AnswerText::new(&tokenizer, ["</s>"]).spelling_specials(true);
        for id in [260, 1, 260] {
            assert!(!text.push(id));
        }
        text.finish();
        text.end(2);
        assert_eq!(text.take_rest(), "a<s>a</s>");
    }

    #[test]
    fn a_control_token_can_be_a_stop_text() {
        let mut pieces = ["▁", "▁a"].map(|text| piece(text, 0.0)).to_vec();
        pieces.push(Piece {
            piece_type: PieceType::Control,
            ..piece("<|end|>", 0.0)
        });
        let tokenizer = Tokenizer::new(vocabulary(pieces)).expect("vocabulary");
        for spells in [false, true] {
            let text = AnswerText::new(&tokenizer, ["<|end|>"]);
            let mut text = text.spelling_specials(spells);
            assert!(!text.push(260));
            assert!(text.push(261));
            assert_eq!(text.take_rest(), "a");
        }
        let mut text = AnswerText::new(&tokenizer, ["x"]);
        assert!(!text.push(260) && !text.push(261));
    }

    #[test]
    fn a_stop_text_of_several_tokens_ends_the_answer() {
        for ids in [
            &[260, 261, 262, 263][..],
            &[260, 262, 261],
            &[260, 262, 262],
        ] {
            let (parts, whole) = shown(&["###"], ids);
            assert_eq!(whole, "a", "{ids:?}");
            assert_eq!(parts.len(), 4, "it ends with the third token: {ids:?}");
        }
    }

    #[test]
    fn what_only_begins_like_a_stop_text_is_shown_in_the_end() {
        assert_eq!(shown(&["###"], &[260, 262, 260]).1, "a## a");
        assert_eq!(shown(&["###"], &[260, 262]).1, "a##");
        // After "b " the stop text may have begun, but it has not.
        let (parts, _) = shown(&["b a#"], &[263, 260, 260, 261, 263]);
        assert_eq!(parts[1], "");
        assert_eq!(parts[2], "b a ");
    }

    #[test]
    fn the_earliest_stop_text_counts() {
        assert_eq!(shown(&["#b", "a#", ""], &[263, 260, 261, 263]).1, "b ");
        assert_eq!(shown(&["\n"], &[260, NEWLINE, 260]).1, "a");
        assert_eq!(shown(&["b"], &[263]).1, "");
    }
}
