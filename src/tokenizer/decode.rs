//! Token ids to text, all at once or as they come.

use super::{SPACE, Tokenizer};
use crate::tokenizer::vocabulary::{Piece, PieceType, filler};

/// Decodes one run of ids: drops the space prefix, and gathers bytes to characters.
#[derive(Clone, Debug, Default)]
pub(super) struct RunDecoder {
    /// Whether text or a space prefix came already, so that further leading spaces count.
    started: bool,
    /// The beginning of a character of which more bytes may follow.
    partial: [u8; 4],
    n_partial: usize,
}

impl RunDecoder {
    /// Appends the text of `id` to `out`, as far as it is complete. An id without a piece has none.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        let Some(piece) = tokenizer.vocabulary.pieces.get(id as usize) else {
            return;
        };
        if let Some(byte) = piece.byte() {
            self.partial[self.n_partial] = byte;
            self.n_partial += 1;
            self.take_characters(out);
            return;
        }
        self.finish(out);
        if is_filler(piece, id) {
            return;
        }
        let mut text = piece.text.as_str();
        if !self.started && tokenizer.vocabulary.add_space_prefix {
            text = text.strip_prefix(SPACE).unwrap_or(text);
        }
        self.started |= !piece.text.is_empty();
        out.extend(text.chars().map(|c| if c == SPACE { ' ' } else { c }));
    }

    /// Ends a run of bytes: what is no character becomes one U+FFFD a byte.
    pub(super) fn finish(&mut self, out: &mut String) {
        for _ in 0..self.n_partial {
            out.push(char::REPLACEMENT_CHARACTER);
            self.started = true;
        }
        self.n_partial = 0;
    }

    /// Moves complete characters to `out`, and U+FFFD for each byte that cannot begin one.
    fn take_characters(&mut self, out: &mut String) {
        while self.n_partial > 0 {
            let bytes = &self.partial[..self.n_partial];
            let used = match std::str::from_utf8(bytes) {
                Ok(text) => {
                    out.push_str(text);
                    bytes.len()
                }
                Err(error) if error.error_len().is_none() => return,
                Err(_) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    1
                }
            };
            self.started = true;
            self.partial.copy_within(used..self.n_partial, 0);
            self.n_partial -= used;
        }
    }

    fn is_mid_character(&self) -> bool {
        self.n_partial > 0
    }
}

/// Whether a piece only fills a row of the embedding that has no token, as converters call it.
fn is_filler(piece: &Piece, id: u32) -> bool {
    piece.piece_type == PieceType::Unused && piece.text == filler(id)
}

/// Decodes the ids of an answer as they come, in portions fit to be shown.
///
/// This is transformers' `TextStreamer`: text is given up to the last space, a line when it ends,
/// a CJK character at once, and half a UTF-8 character never. Special tokens give nothing. As
/// there, decoding begins anew after each line, so a space that begins the next piece is lost,
/// unless [`TextStream::keeping_spaces`] is asked for.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    run: RunDecoder,
    keeps_spaces: bool,
    /// Decoded text; its first `n_given` bytes were handed out by the last call.
    text: String,
    n_given: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        TextStream {
            tokenizer,
            run: RunDecoder::default(),
            keeps_spaces: false,
            text: String::new(),
            n_given: 0,
        }
    }

    /// The same stream, but what it gives is together what [`Tokenizer::decode`] makes of all ids.
    #[must_use]
    pub fn keeping_spaces(self) -> Self {
        TextStream {
            keeps_spaces: true,
            ..self
        }
    }

    /// Takes the next id; the text that has become complete with it, often none.
    pub fn push(&mut self, id: u32) -> &str {
        self.forget_given();
        if !self.tokenizer.is_special(id) {
            // What waits already holds no space, so only the new text need be searched.
            let n_waiting = self.text.len();
            self.run.push(self.tokenizer, id, &mut self.text);
            self.n_given = self.complete_len(n_waiting);
        }
        &self.text[..self.n_given]
    }

    /// Ends the answer; the text held back so far. The stream can be used for another one.
    pub fn finish(&mut self) -> &str {
        self.forget_given();
        self.run.finish(&mut self.text);
        self.run = RunDecoder::default();
        self.n_given = self.text.len();
        &self.text
    }

    /// Text that is decoded but not given yet, since its word may go on.
    pub fn waiting(&self) -> &str {
        &self.text[self.n_given..]
    }

    fn forget_given(&mut self) {
        self.text.drain(..self.n_given);
        self.n_given = 0;
    }

    /// Bytes of the text that can be shown.
    fn complete_len(&mut self, searched: usize) -> usize {
        let last = self.text.chars().next_back();
        if self.run.is_mid_character() || last.is_none() {
            0
        } else if last == Some('\n') {
            if !self.keeps_spaces {
                self.run = RunDecoder::default();
            }
            self.text.len()
        } else if last.is_some_and(is_cjk) {
            self.text.len()
        } else {
            let space = self.text[searched..].rfind(' ');
            space.map_or(0, |at| searched + at + 1)
        }
    }
}

/// Whether a character is a word of its own: `_is_chinese_char` of transformers' `TextStreamer`.
fn is_cjk(character: char) -> bool {
    matches!(u32::from(character),
        0x4E00..=0x9FFF
        | 0x3400..=0x4DBF
        | 0x20000..=0x2A6DF
        | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F
        | 0x2B820..=0x2CEAF
        | 0xF900..=0xFAFF
        | 0x2F800..=0x2FA1F)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{piece, vocabulary};
    use super::*;

    /// `▁` 259, `▁cat` 260, `s` 261, `你` 262; bytes from 3 on.
    fn tokenizer() -> Tokenizer {
        let pieces = ["▁", "▁cat", "s", "你"].map(|text| piece(text, 0.0));
        Tokenizer::new(vocabulary(pieces.into())).expect("vocabulary")
    }

    fn byte(value: u8) -> u32 {
        u32::from(value) + 3
    }

    fn stream(ids: &[u32]) -> Vec<String> {
        let tokenizer = tokenizer();
        let mut stream = tokenizer.stream();
        let mut chunks: Vec<_> = ids.iter().map(|&id| stream.push(id).to_owned()).collect();
        chunks.push(stream.finish().to_owned());
        chunks
    }

    #[test]
    fn streams_whole_words() {
        assert_eq!(stream(&[260, 261, 260, 2]), ["", "", "cats ", "", "cat"]);
        assert_eq!(stream(&[260, 262, 262]), ["", "cat你", "你", ""]);
        assert_eq!(stream(&[260, byte(b'\n'), 260]), ["", "cat\n", "", "cat"]);
    }

    #[test]
    fn streams_no_half_character() {
        let [a, b] = "é".as_bytes() else {
            unreachable!("two bytes")
        };
        let (a, b) = (byte(*a), byte(*b));
        assert_eq!(stream(&[a, b, 260]), ["", "", "é ", "cat"]);
        assert_eq!(
            stream(&[a, byte(b' '), b]),
            ["", "\u{fffd} ", "", "\u{fffd}"]
        );
        assert_eq!(
            stream(&[a, a, b, byte(b'\n')]),
            ["", "", "", "\u{fffd}é\n", ""]
        );
        // A special token that is skipped does not part the bytes of a character.
        assert_eq!(stream(&[a, 2, b]), ["", "", "", "é"]);
    }

    #[test]
    fn a_stream_can_be_used_again() {
        let tokenizer = tokenizer();
        let mut stream = tokenizer.stream();
        for _ in 0..2 {
            assert_eq!(stream.push(260), "");
            assert_eq!(stream.finish(), "cat");
        }
    }

    #[test]
    fn spells_special_tokens_as_transformers_does() {
        let tokenizer = tokenizer();
        for (ids, text) in [
            (&[1, 260, 261][..], "<s>cats"),
            (&[260, 2], " cat</s>"),
            (&[1, 260, 2, 2, 260, 0], "<s> cat</s></s> cat<unk>"),
            (&[259, 260], " cat"),
            (&[2, byte(0xe2)], "</s>\u{fffd}"),
        ] {
            assert_eq!(tokenizer.decode_with_specials(ids), text, "{ids:?}");
        }
        assert_eq!(tokenizer.decode(&[1, 260, 2, 260]), "cat cat");
    }
}
