//! Tokens that were added to a vocabulary after its training, as transformers lists them.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use owl2::tokenizer::vocabulary::{AddedToken, Piece, PieceType};
use owl2::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{bpe, content, fill};
use crate::json::Object;

/// Keys of a tokenizer's description whose values are special tokens.
const SPECIAL_KEYS: [&str; 9] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
    "additional_special_tokens",
    "extra_special_tokens",
];

/// A token as one file lists it.
#[derive(Debug)]
pub(super) struct Added {
    id: u64,
    /// Where it stands, for errors.
    file: PathBuf,
    token: Description,
}

/// What is said of a token. Missing flags are false, but for `special`, which others may tell.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Description {
    content: String,
    special: Option<bool>,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
}

/// An element of `added_tokens` of `tokenizer.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Numbered {
    id: u64,
    #[serde(flatten)]
    token: Description,
}

impl Numbered {
    pub(super) fn in_file(self, path: &Path) -> Added {
        Added {
            id: self.id,
            file: path.to_owned(),
            token: self.token,
        }
    }
}

impl Added {
    pub(super) fn is_special(&self) -> bool {
        self.token.special == Some(true)
    }

    pub(super) fn text(&self) -> &str {
        &self.token.content
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::model(message)
            .in_key(&self.token.content)
            .in_file(&self.file)
    }
}

/// Those of a `tokenizer.json` that stands beside the file with the vocabulary.
pub(super) fn of_fast_file(path: &Path) -> Result<Vec<Added>> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Numbered>,
    }
    let text = bpe::read_text(path).map_err(|e| e.in_file(path))?;
    let file: File = bpe::parse(&text).map_err(|e| e.in_file(path))?;
    let numbered = file.added_tokens.into_iter();
    Ok(numbered.map(|token| token.in_file(path)).collect())
}

/// Those of `tokenizer_config.json`: `added_tokens_decoder`, id to description.
pub(super) fn of_config(config: &Object) -> Result<Vec<Added>> {
    let decoder = config.object("added_tokens_decoder")?;
    decoder
        .iter()
        .map(|(id, token)| {
            let wrong = |what: String| decoder.error(id, what);
            Ok(Added {
                id: id
                    .parse()
                    .map_err(|_| wrong("is not a token id".to_owned()))?,
                file: config.path().to_owned(),
                token: Description::deserialize(token)
                    .map_err(|e| wrong(format!("describes no token: {e}")))?,
            })
        })
        .collect()
}

/// Those of `added_tokens.json`: text to id.
pub(super) fn of_list(list: &Object) -> Result<Vec<Added>> {
    list.iter()
        .map(|(text, id)| {
            Ok(Added {
                id: id
                    .as_u64()
                    .ok_or_else(|| list.error(text, "is not a token id"))?,
                file: list.path().to_owned(),
                token: Description {
                    content: text.to_owned(),
                    ..Description::default()
                },
            })
        })
        .collect()
}

/// The texts of the special tokens that `files` name.
fn special_texts<'a>(files: &[&'a Object]) -> HashSet<&'a str> {
    let values = files
        .iter()
        .flat_map(|file| SPECIAL_KEYS.iter().filter_map(|key| file.get(key)));
    let tokens = values.flat_map(|value| match value {
        Value::Array(tokens) => tokens.iter().collect::<Vec<_>>(),
        Value::Object(named) if !named.contains_key("content") => named.values().collect(),
        token => vec![token],
    });
    tokens.filter_map(content).collect()
}

/// Adds the tokens in `lists` to `pieces`: special ones as control tokens, others as text that is
/// always one token. What repeats a piece, as transformers writes of `<s>`, changes nothing, unless
/// it makes a token of its own of a piece that text was merged to. `named` are the files that name
/// special tokens.
pub(super) fn add(
    pieces: &mut Vec<Piece>,
    lists: Vec<Added>,
    named: &[&Object],
    vocab_size: usize,
) -> Result<Vec<AddedToken>> {
    let special = special_texts(named);
    let mut texts: BTreeMap<String, u64> = BTreeMap::new();
    let mut added = BTreeMap::new();
    for one in unite(lists)? {
        let text = one.token.content.clone();
        if let Some(other) = texts.insert(text.clone(), one.id)
            && other != one.id
        {
            return Err(one.error(format!("has two ids, {other} and {}", one.id)));
        }
        if one.token.single_word {
            return Err(
                one.error("is added with single_word, which is not supported; add it without")
            );
        }
        let id = match usize::try_from(one.id) {
            Ok(id) if id < vocab_size => id,
            _ => {
                return Err(one.error(format!(
                    "has id {}, but the embedding has only {vocab_size} rows (vocab_size of \
                     config.json); take the token out of this file if the model does not use it",
                    one.id
                )));
            }
        };
        let is_special = one.token.special.unwrap_or(false) || special.contains(&*text);
        let piece_type = match is_special {
            true => PieceType::Control,
            false => PieceType::UserDefined,
        };
        // Ids between the vocabulary and the token may be nobody's.
        fill(pieces, id);
        match pieces.get_mut(id) {
            Some(piece) if piece.text != text => {
                return Err(one.error(format!("has id {id}, which is taken by '{}'", piece.text)));
            }
            Some(piece) if piece.piece_type != PieceType::Normal => continue,
            Some(piece) => piece.piece_type = piece_type,
            None => pieces.push(Piece {
                text,
                score: 0.0,
                piece_type,
            }),
        }
        let token = AddedToken {
            id: id as u32,
            strips_left: one.token.lstrip,
            strips_right: one.token.rstrip,
        };
        added.insert(token.id, token);
    }
    Ok(added.into_values().collect())
}

/// One token for each id, by id. A file that says less than another agrees with it.
fn unite(lists: Vec<Added>) -> Result<Vec<Added>> {
    let mut by_id: BTreeMap<u64, Added> = BTreeMap::new();
    for one in lists {
        if one.token.content.is_empty() {
            return Err(one.error(format!("the token with id {} has no text", one.id)));
        }
        let Some(known) = by_id.get(&one.id) else {
            by_id.insert(one.id, one);
            continue;
        };
        let says_less = Description {
            content: known.token.content.clone(),
            ..Description::default()
        } == one.token;
        if one.token != known.token && !says_less {
            return Err(one.error(format!(
                "has id {}, of which {} says something else ('{}')",
                one.id,
                known.file.display(),
                known.token.content
            )));
        }
    }
    Ok(by_id.into_values().collect())
}
