//! Text to token ids and back, exactly as SentencePiece and transformers' `LlamaTokenizer` do it.
//!
//! There are two kinds of text. *Trusted* text is written by a program: `<s>`, `</s>`, `<unk>` and the
//! other control tokens of the vocabulary are recognized in it. *Plain* text comes from people: no
//! control token is recognized in it. Tokens that a fine-tune added and that are not control tokens,
//! such as `<loc>`, are recognized in both.
//!
//! ```text
//!   spans: text, control token, ...   adjacent text is one run
//!     -> added tokens in it, and the stretches of text between them
//!       -> a space in front of a stretch (the dummy prefix), U+2581 for spaces
//!         -> merge::Merger: pieces by score, bytes for what has no piece
//! ```
//!
//! Text after a control token is encoded as in transformers 4.31, which the reference uses. Text after
//! an added token is encoded as in later versions, because 4.31 turns some of it into `<unk>`.
//!
//! Pieces that the vocabulary marks as unused are never made, not even as a step to other pieces.

mod decode;
mod merge;
mod spellings;
pub mod vocabulary;

use std::collections::HashMap;

pub use decode::TextStream;
pub use vocabulary::Vocabulary;

use crate::error::{Error, Result};
use crate::gguf::names::tokenizer as key;
use crate::prompt::IMAGE_MARKER;
use decode::RunDecoder;
use merge::Merger;
use spellings::Spellings;
use vocabulary::PieceType;

/// What stands for a space in pieces.
pub(crate) const SPACE: char = '\u{2581}';

/// A part of what is to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span<'a> {
    /// Plain text.
    Text(&'a str),
    /// A control token, or one that was added.
    Special(u32),
}

/// What a stretch of text comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    Control,
    Added,
}

/// Encodes and decodes with one vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    /// The pieces that text can become.
    ids: HashMap<Box<str>, u32>,
    /// The piece of each byte, where the vocabulary has them.
    byte_ids: Option<Box<[u32; 256]>>,
    /// Bytes of the longest piece that text can become.
    max_piece_len: usize,
    /// Bytes of the longest piece of any kind.
    longest_spelling: usize,
    /// Lengths in bytes that user-defined pieces have, longest first.
    user_defined_lens: Vec<usize>,
    /// Added tokens that plain text can become.
    added: Spellings,
    /// These and every control token.
    trusted: Spellings,
}

impl Tokenizer {
    /// A tokenizer for `vocabulary`.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model), naming the key, where a special id does not exist, a
    /// score is no number, or a byte piece is not spelled `<0xNN>`.
    pub fn new(vocabulary: Vocabulary) -> Result<Self> {
        vocabulary.check()?;
        let mut ids = HashMap::with_capacity(vocabulary.pieces.len());
        let mut user_defined_lens = Vec::new();
        let mut max_piece_len = 0;
        for (id, piece) in (0..).zip(&vocabulary.pieces) {
            if piece.piece_type == PieceType::UserDefined && !piece.text.is_empty() {
                user_defined_lens.push(piece.text.len());
            }
            if matches!(piece.piece_type, PieceType::Normal | PieceType::UserDefined) {
                max_piece_len = max_piece_len.max(piece.text.len());
                ids.entry(piece.text.as_str().into()).or_insert(id);
            }
        }
        let spellings = vocabulary.pieces.iter().map(|piece| piece.text.len());
        let longest_spelling = spellings.max().unwrap_or(0);
        user_defined_lens.sort_unstable_by(|a, b| b.cmp(a));
        user_defined_lens.dedup();
        let type_of = |id: u32| vocabulary.pieces[id as usize].piece_type;
        let added = vocabulary.added.iter().map(|token| token.id);
        let added = added.filter(|&id| type_of(id) == PieceType::UserDefined);
        let others = (0..vocabulary.pieces.len() as u32)
            .filter(|&id| type_of(id) == PieceType::Control)
            .chain(added.clone());
        // Those with a meaning of their own come first: of equal spellings the first counts.
        let trusted = special_ids(&vocabulary).into_iter().chain(others);
        Ok(Tokenizer {
            added: Spellings::new(&vocabulary, added)?,
            trusted: Spellings::new(&vocabulary, trusted)?,
            byte_ids: byte_ids(&vocabulary)?,
            vocabulary,
            ids,
            max_piece_len,
            longest_spelling,
            user_defined_lens,
        })
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Ids of plain text, after `<s>` where the vocabulary wants it.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_spans([Span::Text(text)], self.vocabulary.add_bos)
    }

    /// Ids of trusted text, after `<s>` where the vocabulary wants it.
    pub fn encode_trusted(&self, text: &str) -> Vec<u32> {
        self.encode_spans(self.spans(text), self.vocabulary.add_bos)
    }

    /// Trusted text, cut at the spellings of control tokens and added ones.
    pub fn spans<'a>(&self, text: &'a str) -> Vec<Span<'a>> {
        let mut spans = Vec::new();
        let mut start = 0;
        for found in self.trusted.find(text) {
            if start < found.range.start {
                spans.push(Span::Text(&text[start..found.range.start]));
            }
            spans.push(Span::Special(found.id));
            start = found.range.end;
        }
        if start < text.len() {
            spans.push(Span::Text(&text[start..]));
        }
        spans
    }

    /// Ids of `spans`, after `<s>` if `with_bos`. Text spans that meet are one text.
    pub fn encode_spans<'a>(
        &self,
        spans: impl IntoIterator<Item = Span<'a>>,
        with_bos: bool,
    ) -> Vec<u32> {
        let mut ids = Vec::new();
        if with_bos {
            ids.push(self.vocabulary.bos_id);
        }
        let mut run = String::new();
        let mut after = After::Nothing;
        for span in spans {
            match span {
                Span::Text(text) => run.push_str(text),
                Span::Special(id) => {
                    self.encode_run(&run, after, &mut ids);
                    run.clear();
                    after = match self.vocabulary.added_token(id) {
                        Some(_) => After::Added,
                        None => After::Control,
                    };
                    ids.push(id);
                }
            }
        }
        self.encode_run(&run, after, &mut ids);
        ids
    }

    /// Appends the ids of the text between control tokens.
    fn encode_run(&self, run: &str, mut after: After, ids: &mut Vec<u32>) {
        let mut start = 0;
        for found in self.added.find(run) {
            self.encode_stretch(&run[start..found.range.start], after, ids);
            ids.push(found.id);
            after = After::Added;
            start = found.range.end;
        }
        self.encode_stretch(&run[start..], after, ids);
    }

    /// Appends the ids of a stretch of text in which no token is spelled.
    fn encode_stretch(&self, text: &str, after: After, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let Vocabulary {
            add_space_prefix,
            legacy,
            ..
        } = self.vocabulary;
        let starts_with_space = text.starts_with([' ', SPACE]);
        let has_prefix = add_space_prefix
            && match after {
                After::Nothing | After::Control => true,
                After::Added => legacy && !starts_with_space,
            };
        let prefix = has_prefix.then_some(SPACE);
        let escaped = text.chars().map(|c| if c == ' ' { SPACE } else { c });
        let escaped: String = prefix.into_iter().chain(escaped).collect();
        let first = ids.len();
        Merger::new(self, &escaped).encode(ids);
        if has_prefix && !legacy && after == After::Control && !starts_with_space {
            self.drop_prefix(first, ids);
        }
    }

    /// Takes the space prefix off the piece at `index`, as transformers does without `legacy`: the
    /// rest is not merged again.
    fn drop_prefix(&self, index: usize, ids: &mut Vec<u32>) {
        let piece = &self.vocabulary.pieces[ids[index] as usize].text;
        match piece.strip_prefix(SPACE) {
            None => {}
            Some("") => {
                ids.remove(index);
            }
            Some(rest) => ids[index] = self.piece_id(rest).unwrap_or(self.vocabulary.unk_id),
        }
    }

    /// Text of `ids`, without control tokens.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        let mut run = RunDecoder::default();
        for &id in ids.iter().filter(|&&id| !self.is_special(id)) {
            run.push(self, id, &mut text);
        }
        run.finish(&mut text);
        text
    }

    /// Text of `ids`, with control tokens spelled out as transformers does: glued on, but
    /// with a space before the run that they end.
    pub fn decode_with_specials(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        let mut run = RunDecoder::default();
        let mut run_start = 0;
        let mut after_special = true;
        for &id in ids {
            if self.is_special(id) {
                run.finish(&mut text);
                if !after_special {
                    text.insert(run_start, ' ');
                }
                text.push_str(&self.vocabulary.pieces[id as usize].text);
                run = RunDecoder::default();
                run_start = text.len();
            } else {
                run.push(self, id, &mut text);
            }
            after_special = self.is_special(id);
        }
        run.finish(&mut text);
        text
    }

    /// Decodes ids as they come.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// The fewest ids, pictures included, that a text of so many bytes can become.
    pub(crate) fn fewest_ids(&self, n_bytes: usize) -> usize {
        let mut added = self.vocabulary.added.iter();
        let takes_spaces = added.any(|token| token.strips_left || token.strips_right);
        // Without pieces for bytes, one <unk> stands for any text; a token that takes away spaces
        // takes any number.
        match self.byte_ids {
            Some(_) if !takes_spaces => n_bytes / self.longest_spelling.max(IMAGE_MARKER.len()),
            _ => 0,
        }
    }

    /// Whether `id` is `<s>`, `</s>`, `<unk>` or another control token.
    pub fn is_special(&self, id: u32) -> bool {
        let piece = self.vocabulary.pieces.get(id as usize);
        piece.is_some_and(|piece| piece.piece_type == PieceType::Control)
            || special_ids(&self.vocabulary).contains(&id)
    }

    /// Whether text can become a piece that is spelled `text`.
    #[cfg(feature = "constrain")]
    pub(crate) fn has_piece(&self, text: &str) -> bool {
        self.piece_id(text).is_some()
    }

    /// The piece that is spelled `text`, if text can become it.
    fn piece_id(&self, text: &str) -> Option<u32> {
        if text.len() > self.max_piece_len {
            return None;
        }
        self.ids.get(text).copied()
    }

    /// The score of a piece, -0 made +0 so that a total order sees them as equal.
    fn score(&self, id: u32) -> f32 {
        self.vocabulary.pieces[id as usize].score + 0.0
    }

    /// The longest user-defined piece that `text` begins with, and its length in bytes.
    fn user_defined_prefix(&self, text: &str) -> Option<(u32, usize)> {
        self.user_defined_lens.iter().find_map(|&len| {
            let id = self.piece_id(text.get(..len)?)?;
            let piece = &self.vocabulary.pieces[id as usize];
            (piece.piece_type == PieceType::UserDefined).then_some((id, len))
        })
    }
}

fn special_ids(vocabulary: &Vocabulary) -> [u32; 3] {
    [vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id]
}

/// The piece of each byte; `None` unless there is one for all of them.
fn byte_ids(vocabulary: &Vocabulary) -> Result<Option<Box<[u32; 256]>>> {
    let mut ids = [None; 256];
    for (id, piece) in (0..).zip(&vocabulary.pieces) {
        if piece.piece_type != PieceType::Byte {
            continue;
        }
        let byte = piece.byte().ok_or_else(|| {
            Error::model(format!(
                "token {id} is a byte, but is spelled '{}', expected '<0xNN>'",
                piece.text
            ))
            .in_key(key::TOKENS)
        })?;
        ids[byte as usize] = Some(id);
    }
    let complete: Option<Vec<u32>> = ids.into_iter().collect();
    Ok(complete.and_then(|ids| ids.try_into().ok()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::vocabulary::{AddedToken, Piece};
    use super::*;
    use crate::error::Kind;

    pub(crate) fn piece(text: &str, score: f32) -> Piece {
        Piece {
            text: text.into(),
            score,
            piece_type: PieceType::Normal,
        }
    }

    /// The special pieces and the bytes, as in LLaMA's vocabulary, then `pieces` from 259 on.
    pub(crate) fn vocabulary(pieces: Vec<Piece>) -> Vocabulary {
        let of_type = |text: &str, piece_type| Piece {
            piece_type,
            ..piece(text, 0.0)
        };
        let mut all = vec![
            of_type("<unk>", PieceType::Unknown),
            of_type("<s>", PieceType::Control),
            of_type("</s>", PieceType::Control),
        ];
        all.extend((0..256).map(|b| of_type(&format!("<0x{b:02X}>"), PieceType::Byte)));
        all.extend(pieces);
        Vocabulary {
            pieces: all,
            bos_id: 1,
            eos_id: 2,
            unk_id: 0,
            pad_id: None,
            add_bos: true,
            add_space_prefix: true,
            legacy: true,
            added: Vec::new(),
        }
    }

    /// `▁` 259, `a` 260, `b` 261, `▁a` 262, `▁ab` 263.
    fn small() -> Vocabulary {
        vocabulary(
            ["▁", "a", "b", "▁a", "▁ab"]
                .map(|text| piece(text, 0.0))
                .into(),
        )
    }

    fn tokenizer(vocabulary: Vocabulary) -> Tokenizer {
        Tokenizer::new(vocabulary).expect("vocabulary")
    }

    #[test]
    fn puts_a_space_before_each_run() {
        let tokenizer = tokenizer(small());
        assert_eq!(tokenizer.encode_trusted(""), [1]);
        assert_eq!(tokenizer.encode_trusted("ab"), [1, 263]);
        assert_eq!(tokenizer.encode_trusted(" ab"), [1, 259, 263]);
        assert_eq!(tokenizer.encode_trusted("▁ab"), [1, 259, 263]);
        assert_eq!(
            tokenizer.encode_trusted("a</s>b<s>"),
            [1, 262, 2, 259, 261, 1]
        );
    }

    #[test]
    fn without_legacy_only_the_first_run_keeps_its_space() {
        let tokenizer = tokenizer(Vocabulary {
            legacy: false,
            ..small()
        });
        assert_eq!(tokenizer.encode_trusted("a</s>a"), [1, 262, 2, 260]);
        assert_eq!(tokenizer.encode_trusted("a</s> a"), [1, 262, 2, 259, 262]);
        assert_eq!(tokenizer.encode_trusted("a</s>▁a"), [1, 262, 2, 259, 262]);
        // A space alone goes, and what is no piece without it becomes <unk>.
        assert_eq!(tokenizer.encode_trusted("<s>b"), [1, 1, 261]);
        assert_eq!(tokenizer.encode_trusted("<s>ab"), [1, 1, 0]);
    }

    #[test]
    fn adds_what_the_vocabulary_says() {
        let tokenizer = tokenizer(Vocabulary {
            add_bos: false,
            add_space_prefix: false,
            ..small()
        });
        assert_eq!(tokenizer.encode("ab"), [260, 261]);
        assert_eq!(tokenizer.decode(&[262]), " a");
    }

    #[test]
    fn plain_text_spells_specials_out() {
        let tokenizer = tokenizer(small());
        let spelled = |text: &str| text.bytes().map(|b| u32::from(b) + 3).collect::<Vec<_>>();
        let ids = tokenizer.encode("</s>");
        assert_eq!(ids[..2], [1, 259]);
        assert_eq!(ids[2..4], spelled("</"));
        assert_eq!(tokenizer.decode(&ids), "</s>");
    }

    #[test]
    fn without_byte_pieces_unknown_text_is_one_unk() {
        let mut vocabulary = small();
        vocabulary.pieces[5].piece_type = PieceType::Unused;
        assert_eq!(tokenizer(vocabulary).encode("xyb"), [1, 259, 0, 261]);
    }

    #[test]
    fn refuses_what_is_inconsistent() {
        let refused = |change: fn(&mut Vocabulary), wanted: &str| {
            let mut vocabulary = small();
            change(&mut vocabulary);
            let error = Tokenizer::new(vocabulary).expect_err(wanted);
            assert_eq!(error.kind(), Kind::Model);
            assert!(error.to_string().contains(wanted), "{error}");
        };
        refused(|v| v.eos_id = 264, "tokenizer.ggml.eos_token_id");
        refused(|v| v.pieces[260].score = f32::NAN, "tokenizer.ggml.scores");
        refused(
            |v| v.pieces[3].text = "<0x+1>".into(),
            "tokenizer.ggml.tokens",
        );
        refused(|v| v.pieces.clear(), "0 tokens");
        refused(
            |v| {
                v.pieces[260].piece_type = PieceType::Control;
                v.pieces[260].text = "x".repeat(1 << 20);
            },
            "searched for",
        );
    }

    #[test]
    fn no_text_becomes_fewer_ids_than_its_bytes_allow() {
        let with_bytes = tokenizer(small());
        for text in [
            "",
            "ab",
            " ab ab",
            "</s></s>",
            "▁ab▁ab",
            "xyzxyzxyz",
            "<0x00><0x00>",
        ] {
            let n_ids = with_bytes.encode_trusted(text).len() - 1;
            assert!(with_bytes.fewest_ids(text.len()) <= n_ids, "{text}");
        }
        assert!(with_bytes.fewest_ids(1000) > 100);
        let mut vocabulary = small();
        vocabulary.pieces[5].piece_type = PieceType::Unused;
        assert_eq!(tokenizer(vocabulary).fewest_ids(1000), 0);

        let mut vocabulary = small();
        vocabulary.pieces[261].piece_type = PieceType::UserDefined;
        vocabulary.added.push(AddedToken {
            id: 261,
            strips_right: true,
            ..AddedToken::default()
        });
        let tokenizer = tokenizer(vocabulary);
        let text = format!("b{}", " ".repeat(1000));
        assert_eq!(tokenizer.encode(&text), [1, 261]);
        assert!(tokenizer.fewest_ids(text.len()) <= 1);
    }

    #[test]
    fn ignores_ids_without_a_piece() {
        assert_eq!(tokenizer(small()).decode(&[262, 9999, 261]), "ab");
    }
}
