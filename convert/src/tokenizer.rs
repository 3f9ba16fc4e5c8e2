//! `tokenizer.model` and the JSON files beside it to a vocabulary.
//!
//! The reference loads the slow tokenizer, so the SentencePiece file decides and `tokenizer.json`
//! is not looked at. The embedding may have more rows than there are pieces (fine-tunes pad it, or
//! add tokens); such ids become pieces of type `Unused`, which are neither made from text nor
//! given a meaning. More pieces than rows cannot work and are refused.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use owl2::tokenizer::Vocabulary;
use owl2::tokenizer::vocabulary::{Piece, PieceType};
use owl2::{Error, Result};
use sentencepiece_model::{ModelType, SentencePieceModel};
use serde_json::Value;

use crate::json::Object;

/// Name of the SentencePiece file.
pub(crate) const MODEL_FILE: &str = "tokenizer.model";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
const ADDED_TOKENS_FILE: &str = "added_tokens.json";

/// LLaMA's file has half a megabyte; this also holds vocabularies ten times the size.
const MAX_MODEL_BYTES: u64 = 16 << 20;
/// Rows of the embedding behind the last token. Fine-tunes pad to a multiple of 64 or 128; a row
/// costs some 50 bytes here, which a file of a few words must not be able to ask for at will.
const MAX_UNUSED: usize = 1 << 16;
/// The score that llama.cpp's converter gives to ids that are no pieces.
const UNUSED_SCORE: f32 = -10000.0;

/// Reads the vocabulary of the checkpoint in `dir`, whose embedding has `vocab_size` rows.
pub(crate) fn read(dir: &Path, vocab_size: usize) -> Result<Vocabulary> {
    let path = dir.join(MODEL_FILE);
    let model = read_model(&path)?;
    check_model(&model).map_err(|e| e.in_file(&path))?;
    let mut pieces = pieces(&model).map_err(|e| e.in_file(&path))?;
    add_tokens(
        &mut pieces,
        &Object::read_optional(&dir.join(ADDED_TOKENS_FILE))?,
    )?;
    if pieces.len() > vocab_size {
        return Err(Error::model(format!(
            "has {} tokens, but the embedding has only {vocab_size} rows (vocab_size of config.json)",
            pieces.len()
        ))
        .in_file(&path));
    }
    if vocab_size - pieces.len() > MAX_UNUSED {
        return Err(Error::model(format!(
            "has {} tokens, far fewer than the {vocab_size} rows of the embedding (vocab_size of config.json)",
            pieces.len()
        ))
        .in_file(&path));
    }
    for id in pieces.len()..vocab_size {
        pieces.push(Piece {
            text: format!("[PAD{id}]"),
            score: UNUSED_SCORE,
            piece_type: PieceType::Unused,
        });
    }

    let json = Object::read_optional(&dir.join(TOKENIZER_CONFIG_FILE))?;
    if json.flag("add_eos_token")?.unwrap_or(false) {
        return Err(json.error(
            "add_eos_token",
            "is true; the reference never ends a prompt with </s>, and neither can the runtime",
        ));
    }
    // special_tokens_map.json wins in transformers 4.31. What neither file names, the
    // SentencePiece file numbers; -1 is none.
    let files = [Object::read_optional(&dir.join(SPECIAL_TOKENS_FILE))?, json];
    let trainer = model.trainer().cloned().unwrap_or_default();
    let optional = |key, id: i32| -> Result<Option<u32>> {
        Ok(special_id(&files, &pieces, key)?.or(u32::try_from(id).ok()))
    };
    let required = |key, id| {
        optional(key, id)?.ok_or_else(|| {
            Error::model(format!("names no {key}, nor do the files beside it")).in_file(&path)
        })
    };
    let [_, json] = &files;
    let vocabulary = Vocabulary {
        bos_id: required("bos_token", trainer.bos_id())?,
        eos_id: required("eos_token", trainer.eos_id())?,
        unk_id: required("unk_token", trainer.unk_id())?,
        pad_id: optional("pad_token", trainer.pad_id())?,
        add_bos: json.flag("add_bos_token")?.unwrap_or(true),
        add_space_prefix: model
            .normalizer()
            .is_none_or(|normalizer| normalizer.add_dummy_prefix()),
        // Missing means true in transformers 4.31.
        legacy: json.flag("legacy")?.unwrap_or(true),
        pieces,
    };
    vocabulary.check().map_err(|e| e.in_file(&path))?;
    Ok(vocabulary)
}

fn read_model(path: &Path) -> Result<SentencePieceModel> {
    let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
    let mut bytes = Vec::new();
    file.take(MAX_MODEL_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("cannot read", path, e))?;
    if bytes.len() as u64 > MAX_MODEL_BYTES {
        return Err(Error::model(format!(
            "is longer than {} MiB, which no SentencePiece vocabulary of this family is",
            MAX_MODEL_BYTES >> 20
        ))
        .in_file(path));
    }
    SentencePieceModel::from_slice(&bytes).map_err(|e| {
        Error::model(format!("is no SentencePiece model: {e}"))
            .in_file(path)
            .caused_by(e)
    })
}

/// Checks that the runtime's one algorithm (BPE, no normalization) is the file's.
fn check_model(model: &SentencePieceModel) -> Result<()> {
    let model_type = model
        .trainer()
        .map_or(ModelType::Unigram, |trainer| trainer.model_type());
    if model_type != ModelType::Bpe {
        return Err(Error::model(format!(
            "is a SentencePiece model of type {}; LLaMA's is BPE, and only that is supported",
            model_type.as_str_name()
        )));
    }
    let Some(normalizer) = model.normalizer() else {
        return Ok(());
    };
    if !normalizer.precompiled_charsmap().is_empty()
        || normalizer.remove_extra_whitespaces()
        || !normalizer.escape_whitespaces()
    {
        return Err(Error::model(
            "normalizes text before it is split; LLaMA's tokenizer does not, and that is not supported",
        ));
    }
    Ok(())
}

fn pieces(model: &SentencePieceModel) -> Result<Vec<Piece>> {
    model
        .pieces()
        .iter()
        .enumerate()
        .map(|(id, piece)| {
            let number = piece.r#type.unwrap_or(PieceType::Normal as i32);
            Ok(Piece {
                text: piece.piece().to_owned(),
                score: piece.score(),
                piece_type: PieceType::from_number(number).ok_or_else(|| {
                    Error::model(format!(
                        "piece {id} has type {number}, which does not exist"
                    ))
                })?,
            })
        })
        .collect()
}

/// Adds the tokens that a fine-tune put behind the vocabulary (`added_tokens.json`: text to id) as
/// control tokens. Those that repeat a piece, as transformers writes for `<s>`, change nothing.
fn add_tokens(pieces: &mut Vec<Piece>, json: &Object) -> Result<()> {
    let mut added = json
        .iter()
        .map(|(text, id)| match id.as_u64() {
            Some(id) => Ok((id, text)),
            None => Err(json.error(text, "is no token id")),
        })
        .collect::<Result<Vec<_>>>()?;
    added.sort_unstable();
    for (id, text) in added {
        let n_pieces = pieces.len() as u64;
        match usize::try_from(id).ok().and_then(|id| pieces.get(id)) {
            Some(piece) if piece.text == text => {}
            None if id == n_pieces => pieces.push(Piece {
                text: text.to_owned(),
                score: 0.0,
                piece_type: PieceType::Control,
            }),
            _ => {
                return Err(json.error(
                    text,
                    format!("has id {id}, which is taken or leaves a gap after {n_pieces} tokens"),
                ));
            }
        }
    }
    Ok(())
}

/// The id of the special token that the first of `files` to have `key` names: by a string, or by
/// an object with the string as `content`.
fn special_id(files: &[Object], pieces: &[Piece], key: &str) -> Result<Option<u32>> {
    let named = files
        .iter()
        .find_map(|json| json.get(key).map(|token| (json, token)));
    let Some((json, token)) = named else {
        return Ok(None);
    };
    let text = match token {
        Value::Object(token) => token.get("content").and_then(Value::as_str),
        token => token.as_str(),
    };
    let text = text.ok_or_else(|| json.error(key, "is neither a string nor has a content"))?;
    pieces
        .iter()
        .position(|piece| piece.text == text)
        .and_then(|id| u32::try_from(id).ok())
        .map(Some)
        .ok_or_else(|| json.error(key, format!("is '{text}', which is not in the vocabulary")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// 768 pieces; see `tests/data/README.md`.
    const MODEL: &[u8] = include_bytes!("../tests/data/tokenizer.model");
    const N_PIECES: usize = 768;

    fn dir_with(model: &[u8], files: &[(&str, &str)]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(MODEL_FILE), model).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn rejects(model: &[u8], files: &[(&str, &str)], vocab_size: usize, part: &str) {
        let dir = dir_with(model, files);
        let message = read(dir.path(), vocab_size).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn the_model_file_alone_is_enough() {
        let vocabulary = read(dir_with(MODEL, &[]).path(), N_PIECES).unwrap();
        assert_eq!(vocabulary.pieces.len(), N_PIECES);
        assert_eq!(
            (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id),
            (0, 1, 2)
        );
        assert_eq!(vocabulary.pad_id, None);
        assert!(vocabulary.add_bos && vocabulary.add_space_prefix && vocabulary.legacy);
        let piece = |id: usize| &vocabulary.pieces[id];
        assert_eq!(piece(0).piece_type, PieceType::Unknown);
        assert_eq!(piece(2).piece_type, PieceType::Control);
        assert_eq!(
            (&*piece(3).text, piece(3).piece_type),
            ("<0x00>", PieceType::Byte)
        );
        assert_eq!(piece(259).piece_type, PieceType::Normal);
        assert!(piece(259).score > piece(260).score);
    }

    #[test]
    fn the_files_beside_it_decide_flags_and_special_tokens() {
        let files = [
            (
                TOKENIZER_CONFIG_FILE,
                r#"{"legacy": false, "add_bos_token": false, "pad_token": null,
                    "bos_token": {"__type": "AddedToken", "content": "</s>"}}"#,
            ),
            (
                SPECIAL_TOKENS_FILE,
                r#"{"pad_token": "<unk>", "bos_token": {"content": "<s>"}}"#,
            ),
        ];
        let vocabulary = read(dir_with(MODEL, &files).path(), N_PIECES).unwrap();
        assert!(!vocabulary.legacy && !vocabulary.add_bos);
        assert_eq!((vocabulary.pad_id, vocabulary.bos_id), (Some(0), 1));
    }

    #[test]
    fn rows_without_a_piece_are_unused_and_added_tokens_are_control() {
        let files = [(ADDED_TOKENS_FILE, r#"{"<pad>": 768, "<s>": 1}"#)];
        let vocabulary = read(dir_with(MODEL, &files).path(), 770).unwrap();
        let types: Vec<_> = vocabulary.pieces[767..]
            .iter()
            .map(|piece| piece.piece_type)
            .collect();
        assert_eq!(
            types,
            [PieceType::Normal, PieceType::Control, PieceType::Unused]
        );
        assert_eq!(vocabulary.pieces[768].text, "<pad>");
    }

    #[test]
    fn refuses_what_cannot_be_right() {
        let config = TOKENIZER_CONFIG_FILE;
        rejects(MODEL, &[], N_PIECES - 1, "767 rows");
        rejects(MODEL, &[], N_PIECES + MAX_UNUSED + 1, "far fewer");
        rejects(
            MODEL,
            &[(config, r#"{"add_eos_token": true}"#)],
            768,
            "add_eos",
        );
        rejects(
            MODEL,
            &[(config, r#"{"eos_token": "<end>"}"#)],
            768,
            "<end>",
        );
        rejects(MODEL, &[(config, r#"{"eos_token": 2}"#)], 768, "eos_token");
        rejects(MODEL, &[(ADDED_TOKENS_FILE, r#"{"<x>": 800}"#)], 900, "800");
        rejects(&MODEL[..MODEL.len() - 1], &[], N_PIECES, "SentencePiece");
        rejects(b"version https://git-lfs", &[], N_PIECES, "SentencePiece");
        // Protocol buffers merge what is appended: model_type = UNIGRAM; a character map.
        rejects(
            &[MODEL, &[0x12, 2, 0x18, 1]].concat(),
            &[],
            N_PIECES,
            "UNIGRAM",
        );
        rejects(
            &[MODEL, &[0x1a, 3, 0x12, 1, 7]].concat(),
            &[],
            N_PIECES,
            "normalizes",
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = read(dir.path(), N_PIECES).unwrap_err().to_string();
        assert!(message.contains(MODEL_FILE), "{message}");
    }
}
