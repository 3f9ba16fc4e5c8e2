//! The pieces of a SentencePiece vocabulary and how they are used, as a GGUF file carries them.
//!
//! Reading and writing stand side by side so that the converter and the runtime cannot drift.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::gguf::names::tokenizer as key;
use crate::gguf::write::Metadata;
use crate::gguf::{Gguf, kind};

/// What a piece is (SentencePiece's `ModelProto.SentencePiece.Type`, which GGUF shares).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum PieceType {
    /// Text.
    Normal = 1,
    /// Stands for what has no piece.
    Unknown = 2,
    /// A control token: never made from text.
    Control = 3,
    /// A piece that a user of SentencePiece added.
    UserDefined = 4,
    /// Never used.
    Unused = 5,
    /// One byte, spelled `<0xNN>`.
    Byte = 6,
}

impl PieceType {
    /// The type with this number, if there is one.
    pub fn from_number(number: i32) -> Option<Self> {
        use PieceType::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte]
            .into_iter()
            .find(|piece_type| *piece_type as i32 == number)
    }
}

/// One piece.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its text, with U+2581 for a space.
    pub text: String,
    /// The higher, the earlier it is merged.
    pub score: f32,
    /// What it is.
    pub piece_type: PieceType,
}

impl Piece {
    /// The byte that it stands for, if it is a byte piece.
    pub fn byte(&self) -> Option<u8> {
        if self.piece_type != PieceType::Byte {
            return None;
        }
        let digits = self.text.strip_prefix("<0x")?.strip_suffix('>')?;
        let is_hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)
    }
}

/// The text of the piece that stands for a row of the embedding without a token.
pub fn filler(id: u32) -> String {
    format!("[PAD{id}]")
}

/// A token that was added to a vocabulary after that had been trained, as fine-tunes do. Its text is
/// found before anything is merged: everywhere, if its piece is user-defined, and in trusted text
/// alone, if it is a control token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Whether white space before it is dropped (transformers' `lstrip`).
    pub strips_left: bool,
    /// Whether white space after it is dropped (`rstrip`).
    pub strips_right: bool,
}

/// A vocabulary: a piece per id, the special ids, and the flags of `tokenizer_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// The pieces, by id.
    pub pieces: Vec<Piece>,
    /// `<s>`.
    pub bos_id: u32,
    /// `</s>`.
    pub eos_id: u32,
    /// `<unk>`.
    pub unk_id: u32,
    /// Padding, where there is one.
    pub pad_id: Option<u32>,
    /// Whether `<s>` comes before every encoded text.
    pub add_bos: bool,
    /// Whether a space is put before the text (SentencePiece's dummy prefix).
    pub add_space_prefix: bool,
    /// transformers' `legacy` flag: whether each stretch of text between
    /// special tokens gets a space prefix of its own, or only the first.
    pub legacy: bool,
    /// The tokens that were added, by id.
    pub added: Vec<AddedToken>,
}

impl Vocabulary {
    /// Reads and checks the vocabulary of an open file.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model), naming the key, where one is missing or inconsistent.
    pub fn read(gguf: &Gguf) -> Result<Self> {
        if !gguf.has(key::MODEL) {
            // The first part of a split model has the vocabulary, the others have not.
            kind::check_is_model(gguf)?;
        }
        let model: &str = gguf.get(key::MODEL)?;
        if model != key::MODEL_LLAMA {
            return Err(Error::model(format!(
                "is '{model}'; only '{}' (SentencePiece BPE) is supported, so no other file of this \
                 model will do",
                key::MODEL_LLAMA
            ))
            .in_key(key::MODEL));
        }
        let texts: Vec<&str> = gguf.get(key::TOKENS)?;
        let scores: Vec<f32> = gguf.get(key::SCORES)?;
        let types: Vec<i32> = gguf.get(key::TOKEN_TYPE)?;
        for (name, len) in [(key::SCORES, scores.len()), (key::TOKEN_TYPE, types.len())] {
            if len != texts.len() {
                return Err(
                    Error::model(format!("has {len} elements for {} tokens", texts.len()))
                        .in_key(name),
                );
            }
        }
        let pieces = texts
            .iter()
            .zip(scores)
            .zip(types)
            .map(|((text, score), number)| {
                let piece_type = PieceType::from_number(number).ok_or_else(|| {
                    Error::model(format!("token type {number} does not exist"))
                        .in_key(key::TOKEN_TYPE)
                })?;
                Ok(Piece {
                    text: (*text).to_owned(),
                    score,
                    piece_type,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let vocabulary = Vocabulary {
            pieces,
            bos_id: gguf.find(key::BOS_ID)?.unwrap_or(1),
            eos_id: gguf.find(key::EOS_ID)?.unwrap_or(2),
            unk_id: gguf.find(key::UNK_ID)?.unwrap_or(0),
            pad_id: gguf.find(key::PAD_ID)?,
            add_bos: gguf.find(key::ADD_BOS)?.unwrap_or(true),
            add_space_prefix: gguf.find(key::ADD_SPACE_PREFIX)?.unwrap_or(true),
            legacy: gguf.find(key::LEGACY)?.unwrap_or(true),
            added: read_added(gguf)?,
        };
        vocabulary.check()?;
        Ok(vocabulary)
    }

    /// Adds the vocabulary to the metadata of a file to be written.
    pub fn write(&self, metadata: &mut Metadata) {
        metadata.set(key::MODEL, key::MODEL_LLAMA);
        let texts: Vec<_> = self.pieces.iter().map(|p| p.text.clone()).collect();
        let scores: Vec<_> = self.pieces.iter().map(|p| p.score).collect();
        let types: Vec<_> = self.pieces.iter().map(|p| p.piece_type as i32).collect();
        metadata.set(key::TOKENS, texts);
        metadata.set(key::SCORES, scores);
        metadata.set(key::TOKEN_TYPE, types);
        metadata.set(key::BOS_ID, self.bos_id);
        metadata.set(key::EOS_ID, self.eos_id);
        metadata.set(key::UNK_ID, self.unk_id);
        if let Some(pad_id) = self.pad_id {
            metadata.set(key::PAD_ID, pad_id);
        }
        metadata.set(key::ADD_BOS, self.add_bos);
        metadata.set(key::ADD_SPACE_PREFIX, self.add_space_prefix);
        metadata.set(key::LEGACY, self.legacy);
        let ids = |which: fn(&AddedToken) -> bool| -> Vec<i32> {
            let chosen = self.added.iter().filter(|token| which(token));
            chosen.map(|token| token.id as i32).collect()
        };
        for (name, ids) in [
            (key::ADDED_IDS, ids(|_| true)),
            (key::LEFT_STRIPPING_IDS, ids(|token| token.strips_left)),
            (key::RIGHT_STRIPPING_IDS, ids(|token| token.strips_right)),
        ] {
            if !ids.is_empty() {
                metadata.set(name, ids);
            }
        }
    }

    /// The token `id`, if it was added.
    pub(super) fn added_token(&self, id: u32) -> Option<&AddedToken> {
        let index = self.added.binary_search_by_key(&id, |token| token.id);
        index.ok().map(|index| &self.added[index])
    }

    /// Checks that the special ids and the added ones exist and every score is a number.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model), naming the key.
    pub fn check(&self) -> Result<()> {
        for (name, id) in [
            (key::BOS_ID, Some(self.bos_id)),
            (key::EOS_ID, Some(self.eos_id)),
            (key::UNK_ID, Some(self.unk_id)),
            (key::PAD_ID, self.pad_id),
        ] {
            if let Some(id) = id
                && id as usize >= self.pieces.len()
            {
                return Err(Error::model(format!(
                    "is {id}, but the vocabulary has {} tokens",
                    self.pieces.len()
                ))
                .in_key(name));
            }
        }
        let is_ordered = self.added.is_sorted_by(|a, b| a.id < b.id);
        let last = self.added.last().map_or(0, |token| token.id as usize);
        if !is_ordered || last >= self.pieces.len() {
            return Err(Error::model(format!(
                "has to list ids below {} in ascending order",
                self.pieces.len()
            ))
            .in_key(key::ADDED_IDS));
        }
        match self.pieces.iter().position(|p| !p.score.is_finite()) {
            Some(id) => Err(Error::model(format!(
                "the score of token {id} is {}, expected a finite number",
                self.pieces[id].score
            ))
            .in_key(key::SCORES)),
            None => Ok(()),
        }
    }
}

/// The added tokens of an open file.
fn read_added(gguf: &Gguf) -> Result<Vec<AddedToken>> {
    let ids = |name: &str| -> Result<HashSet<u32>> {
        let ids: Vec<i32> = gguf.find(name)?.unwrap_or_default();
        ids.into_iter()
            .map(|id| {
                u32::try_from(id)
                    .map_err(|_| Error::model(format!("{id} is not a token id")).in_key(name))
            })
            .collect()
    };
    let (left, right) = (
        ids(key::LEFT_STRIPPING_IDS)?,
        ids(key::RIGHT_STRIPPING_IDS)?,
    );
    let mut added: Vec<_> = ids(key::ADDED_IDS)?
        .into_iter()
        .map(|id| AddedToken {
            id,
            strips_left: left.contains(&id),
            strips_right: right.contains(&id),
        })
        .collect();
    added.sort_unstable_by_key(|token| token.id);
    Ok(added)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{piece, vocabulary};
    use super::*;
    use crate::gguf::write::Writer;

    fn reopened(metadata: &Metadata) -> Gguf {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("vocabulary.gguf");
        let writer = Writer::create(&path, metadata, &[], false).expect("a file");
        writer.finish().expect("written");
        Gguf::open(&path).expect("a GGUF file")
    }

    #[test]
    fn reads_what_it_wrote() {
        let written = Vocabulary {
            pad_id: Some(0),
            legacy: false,
            added: vec![
                AddedToken {
                    id: 3,
                    strips_left: true,
                    ..AddedToken::default()
                },
                AddedToken {
                    id: 259,
                    strips_right: true,
                    ..AddedToken::default()
                },
            ],
            ..vocabulary(vec![piece("▁a", -1.5)])
        };
        let mut metadata = Metadata::default();
        written.write(&mut metadata);
        assert_eq!(
            Vocabulary::read(&reopened(&metadata)).expect("read"),
            written
        );
    }

    #[test]
    fn names_the_key_that_is_wrong() {
        let written = vocabulary(Vec::new());
        let refused = |change: fn(&mut Metadata), wanted: &str| {
            let mut metadata = Metadata::default();
            written.write(&mut metadata);
            change(&mut metadata);
            let error = Vocabulary::read(&reopened(&metadata)).expect_err(wanted);
            assert!(error.to_string().contains(wanted), "{error}");
        };
        refused(|m| m.set(key::MODEL, "gpt2"), key::MODEL);
        refused(|m| m.set(key::SCORES, vec![0.0f32]), key::SCORES);
        refused(|m| m.set(key::SCORES, "none"), key::SCORES);
        refused(|m| m.set(key::TOKEN_TYPE, vec![7i32; 259]), key::TOKEN_TYPE);
        refused(|m| m.set(key::BOS_ID, 259u32), key::BOS_ID);
        for ids in [vec![259i32], vec![-1]] {
            let mut metadata = Metadata::default();
            written.write(&mut metadata);
            metadata.set(key::ADDED_IDS, ids);
            let error = Vocabulary::read(&reopened(&metadata)).expect_err("ids");
            assert!(error.to_string().contains(key::ADDED_IDS), "{error}");
        }
    }

    #[test]
    fn scores_must_be_there() {
        let mut metadata = Metadata::default();
        metadata.set(key::MODEL, key::MODEL_LLAMA);
        metadata.set(key::TOKENS, vec!["<unk>".to_owned()]);
        let error = Vocabulary::read(&reopened(&metadata)).expect_err("no scores");
        assert!(error.to_string().contains(key::SCORES), "{error}");
    }
}
