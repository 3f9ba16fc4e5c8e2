//! The files of a checkpoint that describe its vocabulary.
//!
//! The reference loads the slow tokenizer, so `tokenizer.model` decides where it is there;
//! a checkpoint that newer versions of transformers saved has `tokenizer.json` in its place. Tokens
//! that were added later stand in up to three JSON files beside it. The embedding may have more rows
//! than there are tokens (fine-tunes pad it); such ids become pieces of type `Unused`, which are
//! neither made from text nor shown. More tokens than rows cannot work and are refused.

mod added;
mod bpe;
mod sentencepiece;

use std::path::Path;

use owl2::tokenizer::Vocabulary;
use owl2::tokenizer::vocabulary::{Piece, PieceType, filler};
use owl2::{Error, Result};
use serde_json::Value;

use crate::config::foreign::is_set;
use crate::json::Object;
use added::Added;

/// Name of the SentencePiece file.
pub(crate) const MODEL_FILE: &str = "tokenizer.model";
/// Name of the file of the `tokenizers` package.
pub(crate) const FAST_FILE: &str = "tokenizer.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
const ADDED_TOKENS_FILE: &str = "added_tokens.json";

/// Rows of the embedding behind the last token. Fine-tunes pad to a multiple of 64 or 128; a row
/// costs some 50 bytes here, which a file of a few words must not be able to ask for at will.
const MAX_UNUSED: usize = 1 << 16;
/// The score that llama.cpp's converter gives to ids that are no pieces.
const UNUSED_SCORE: f32 = -10000.0;

/// What a file says of a vocabulary as it was trained.
struct Trained {
    pieces: Vec<Piece>,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    unk_id: Option<u32>,
    pad_id: Option<u32>,
    add_space_prefix: bool,
    /// transformers' `legacy` flag, where the file implies it.
    legacy: Option<bool>,
    /// Tokens that were added later, where the file lists them too.
    added: Vec<Added>,
}

/// Reads the vocabulary of the checkpoint in `dir`, whose embedding has `vocab_size` rows.
pub(crate) fn read(dir: &Path, vocab_size: usize) -> Result<Vocabulary> {
    let model = dir.join(MODEL_FILE);
    let fast = dir.join(FAST_FILE);
    let (path, mut trained) = match (model.exists(), fast.exists()) {
        (true, has_fast) => {
            let mut trained = sentencepiece::read(&model).map_err(|e| e.in_file(&model))?;
            if has_fast {
                trained.added = added::of_fast_file(&fast).map_err(|e| {
                    let message = format!(
                        "{e}; it is read for its added tokens: if {MODEL_FILE} and \
                         {ADDED_TOKENS_FILE} have all of them, remove it"
                    );
                    Error::new(e.kind(), message)
                })?;
            }
            (model, trained)
        }
        (false, true) => {
            let trained = bpe::read(&fast).map_err(|e| e.in_file(&fast))?;
            (fast, trained)
        }
        (false, false) => {
            return Err(Error::model(format!(
                "has no {MODEL_FILE}, nor a {FAST_FILE}; copy the first from the base model, or \
                 from any copy of LLaMA 2 if the vocabulary is its own"
            ))
            .in_file(dir));
        }
    };
    let config = Object::read_optional(&dir.join(TOKENIZER_CONFIG_FILE))?;
    if config.flag("add_eos_token")?.unwrap_or(false) {
        return Err(config.error(
            "add_eos_token",
            "is true; the reference never ends a prompt with </s>, and neither can the runtime",
        ));
    }
    if config.get("sp_model_kwargs").is_some_and(is_set) {
        return Err(config.error(
            "sp_model_kwargs",
            "is set: text would be split in another way, which is not supported",
        ));
    }
    if config.flag("add_prefix_space")? == Some(false) {
        trained.add_space_prefix = false;
    }
    // special_tokens_map.json wins in transformers 4.31.
    let special_tokens = Object::read_optional(&dir.join(SPECIAL_TOKENS_FILE))?;
    let named = [&special_tokens, &config];
    let mut added = std::mem::take(&mut trained.added);
    added.extend(added::of_config(&config)?);
    let listed = Object::read_optional(&dir.join(ADDED_TOKENS_FILE))?;
    added.extend(added::of_list(&listed)?);
    let added =
        added::add(&mut trained.pieces, added, &named, vocab_size).map_err(|e| e.in_file(&path))?;

    let mut pieces = trained.pieces;
    check_size(pieces.len(), vocab_size).map_err(|e| e.in_file(&path))?;
    fill(&mut pieces, vocab_size);
    // What no file names, the vocabulary's own numbers.
    let optional = |key, id: Option<u32>| Ok(special_id(&named, &pieces, key)?.or(id));
    let required = |key, id| {
        optional(key, id)?.ok_or_else(|| {
            Error::model(format!("names no {key}, nor do the files beside it")).in_file(&path)
        })
    };
    let mut vocabulary = Vocabulary {
        bos_id: required("bos_token", trained.bos_id)?,
        eos_id: required("eos_token", trained.eos_id)?,
        unk_id: required("unk_token", trained.unk_id)?,
        pad_id: optional("pad_token", trained.pad_id)?,
        add_bos: config.flag("add_bos_token")?.unwrap_or(true),
        add_space_prefix: trained.add_space_prefix,
        // Missing means true in transformers 4.31.
        legacy: match config.flag("legacy")? {
            Some(legacy) => legacy,
            None => trained.legacy.unwrap_or(true),
        },
        pieces,
        added,
    };
    let own = [vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id];
    vocabulary.added.retain(|token| !own.contains(&token.id));
    vocabulary.check().map_err(|e| e.in_file(&path))?;
    Ok(vocabulary)
}

/// Fails unless a vocabulary of `n` tokens fits an embedding.
fn check_size(n: usize, vocab_size: usize) -> Result<()> {
    if n > vocab_size {
        return Err(Error::model(format!(
            "has {n} tokens, but the embedding has only {vocab_size} rows (vocab_size of config.json)"
        )));
    }
    if vocab_size - n > MAX_UNUSED {
        return Err(Error::model(format!(
            "has {n} tokens, far fewer than the {vocab_size} rows of the embedding (vocab_size of config.json)"
        )));
    }
    Ok(())
}

/// Adds pieces that stand for no token up to the id `end`.
fn fill(pieces: &mut Vec<Piece>, end: usize) {
    for id in pieces.len()..end {
        pieces.push(Piece {
            text: filler(id as u32),
            score: UNUSED_SCORE,
            piece_type: PieceType::Unused,
        });
    }
}

/// The id of the special token that the first of `files` to have `key` names: by a string, or by
/// an object with the string as `content`.
fn special_id(files: &[&Object], pieces: &[Piece], key: &str) -> Result<Option<u32>> {
    let named = files
        .iter()
        .find_map(|json| json.get(key).map(|token| (json, token)));
    let Some((json, token)) = named else {
        return Ok(None);
    };
    let text =
        content(token).ok_or_else(|| json.error(key, "is neither a string nor has a content"))?;
    pieces
        .iter()
        .position(|piece| piece.text == text)
        .and_then(|id| u32::try_from(id).ok())
        .map(Some)
        .ok_or_else(|| json.error(key, format!("is '{text}', which is not in the vocabulary")))
}

/// The text of a token: a string, or an object with the string as `content`.
fn content(token: &Value) -> Option<&str> {
    match token {
        Value::Object(token) => token.get("content").and_then(Value::as_str),
        token => token.as_str(),
    }
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
                    "add_prefix_space": false, "sp_model_kwargs": {},
                    "bos_token": {"__type": "AddedToken", "content": "</s>"}}"#,
            ),
            (
                SPECIAL_TOKENS_FILE,
                r#"{"pad_token": "<unk>", "bos_token": {"content": "<s>"}}"#,
            ),
        ];
        let vocabulary = read(dir_with(MODEL, &files).path(), N_PIECES).unwrap();
        assert!(!vocabulary.legacy && !vocabulary.add_bos && !vocabulary.add_space_prefix);
        assert_eq!((vocabulary.pad_id, vocabulary.bos_id), (Some(0), 1));
    }

    fn types(vocabulary: &Vocabulary) -> Vec<(&str, PieceType)> {
        let added = vocabulary.pieces[N_PIECES..].iter();
        added
            .map(|piece| (&*piece.text, piece.piece_type))
            .collect()
    }

    #[test]
    fn added_tokens_are_text_unless_something_says_that_they_are_special() {
        const DECODER: &str = r#"{"added_tokens_decoder": {
            "1": {"content": "<s>", "special": true},
            "768": {"content": "<loc>", "lstrip": true},
            "770": {"content": "<end>", "special": true, "rstrip": true}}}"#;
        let list = r#"{"<loc>": 768, "<s>": 1, "<end>": 770}"#;
        let text = ("<loc>", PieceType::UserDefined);
        let nobody = ("[PAD769]", PieceType::Unused);
        let control = ("<end>", PieceType::Control);
        let last = ("[PAD771]", PieceType::Unused);
        for (files, end, strips) in [
            (
                vec![(ADDED_TOKENS_FILE, list)],
                ("<end>", PieceType::UserDefined),
                false,
            ),
            (
                vec![
                    (ADDED_TOKENS_FILE, list),
                    (
                        SPECIAL_TOKENS_FILE,
                        r#"{"additional_special_tokens": ["<end>"]}"#,
                    ),
                ],
                control,
                false,
            ),
            (
                vec![
                    (ADDED_TOKENS_FILE, list),
                    (
                        TOKENIZER_CONFIG_FILE,
                        r#"{"extra_special_tokens": {"e": "<end>"}}"#,
                    ),
                ],
                control,
                false,
            ),
            (
                vec![
                    (ADDED_TOKENS_FILE, list),
                    (
                        TOKENIZER_CONFIG_FILE,
                        r#"{"pad_token": {"content": "<end>"}}"#,
                    ),
                ],
                control,
                false,
            ),
            (vec![(TOKENIZER_CONFIG_FILE, DECODER)], control, true),
            (
                vec![(ADDED_TOKENS_FILE, list), (TOKENIZER_CONFIG_FILE, DECODER)],
                control,
                true,
            ),
            (
                vec![(
                    FAST_FILE,
                    r#"{"added_tokens": [{"id": 768, "content": "<loc>", "lstrip": true},
                        {"id": 770, "content": "<end>", "special": true, "rstrip": true}]}"#,
                )],
                control,
                true,
            ),
        ] {
            let vocabulary = read(dir_with(MODEL, &files).path(), 772).unwrap();
            assert_eq!(types(&vocabulary), [text, nobody, end, last], "{files:?}");
            let added = [(768, strips, false), (770, false, strips)];
            let found = vocabulary.added.iter();
            let found: Vec<_> = found
                .map(|token| (token.id, token.strips_left, token.strips_right))
                .collect();
            assert_eq!(found, added, "{files:?}");
        }
    }

    #[test]
    fn a_piece_can_be_made_a_token_of_its_own() {
        let piece = read(dir_with(MODEL, &[]).path(), N_PIECES).unwrap().pieces[400].clone();
        let list = serde_json::json!({ piece.text.clone(): 400 }).to_string();
        let files = [(ADDED_TOKENS_FILE, &*list)];
        let vocabulary = read(dir_with(MODEL, &files).path(), N_PIECES).unwrap();
        assert_eq!(vocabulary.pieces[400].piece_type, PieceType::UserDefined);
        assert_eq!(vocabulary.added[0].id, 400);
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
        let added =
            |list: &str, part: &str| rejects(MODEL, &[(ADDED_TOKENS_FILE, list)], 900, part);
        added(r#"{"<x>": 900}"#, "900 rows");
        added(r#"{"<x>": 300}"#, "taken");
        added(r#"{"<x>": "300"}"#, "<x>");
        added(r#"{"": 800}"#, "no text");
        added(r#"{"<x>": 800, "<y>": 800}"#, "something else");
        let decoder = |token: &str, part: &str| {
            let text = format!(r#"{{"added_tokens_decoder": {{{token}}}}}"#);
            rejects(MODEL, &[(config, &text)], 900, part);
        };
        rejects(
            MODEL,
            &[(config, r#"{"sp_model_kwargs": {"enable_sampling": true}}"#)],
            768,
            "sp_model_kwargs",
        );
        rejects(MODEL, &[(FAST_FILE, "[")], 768, "remove it");
        let pointer = "version https://git-lfs.github.com/spec/v1";
        rejects(MODEL, &[(FAST_FILE, pointer)], 768, "git lfs pull");
        decoder(
            r#""800": {"content": "<x>", "single_word": true}"#,
            "single_word",
        );
        decoder(
            r#""800": {"content": "<x>"}, "801": {"content": "<x>"}"#,
            "two ids",
        );
        decoder(r#""800": {"content": 3}"#, "describes no token");
        decoder(r#""x": {"content": "<x>"}"#, "not a token id");
        rejects(&MODEL[..MODEL.len() - 1], &[], N_PIECES, "SentencePiece");
        rejects(b"version https://git-lfs", &[], N_PIECES, "git lfs pull");
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
    fn what_is_missing_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let message = read(dir.path(), N_PIECES).unwrap_err().to_string();
        for part in [MODEL_FILE, FAST_FILE, "LLaMA 2"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
