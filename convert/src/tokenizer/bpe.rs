//! `tokenizer.json`, the file of the `tokenizers` package, as far as it describes a vocabulary that
//! SentencePiece trained.
//!
//! There, BPE is a list of pairs by rank; here, it is a score for each piece. The two agree where
//! every way to put a piece together is in the list, and no other piece comes between: what
//! transformers makes of a `tokenizer.model`. Other files are refused.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use owl2::gguf::lfs;
use owl2::tokenizer::vocabulary::{Piece, PieceType};
use owl2::{Error, Result, files};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokenizers::models::bpe::BPE;

use super::added::{Added, Numbered};
use super::{Trained, fill};

/// LLaMA's file has 2 to 4 MB.
const MAX_BYTES: u64 = 8 << 20;
/// Ids that no token has, all in all.
const MAX_GAPS: usize = 1 << 16;
/// What stands for a space.
const SPACE: &str = "\u{2581}";

/// What is not the model.
#[derive(Deserialize)]
struct Description {
    #[serde(default)]
    added_tokens: Vec<Numbered>,
    normalizer: Option<Step>,
    pre_tokenizer: Option<Step>,
    model: BpeModel,
}

/// What decides whether the model can be read at all.
#[derive(Deserialize)]
struct BpeModel {
    r#type: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    merges: Option<IgnoredAny>,
}

/// A step of what is done with a text before it is split.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Step {
    Sequence {
        #[serde(alias = "normalizers", alias = "pretokenizers")]
        steps: Vec<Step>,
    },
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Metaspace {
        replacement: String,
        prepend_scheme: Option<String>,
        add_prefix_space: Option<bool>,
        split: Option<bool>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(IgnoredAny),
}

/// How spaces are put before texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Prefix {
    /// Before every stretch of text, or before the first alone.
    everywhere: bool,
    at_first: bool,
}

/// The text of the file at `path`.
pub(super) fn read_text(path: &Path) -> Result<Vec<u8>> {
    let text = files::read_at_most(files::open(path)?, path, MAX_BYTES)?.ok_or_else(|| {
        Error::model(format!(
            "is longer than {} MiB, which no vocabulary of this family is",
            MAX_BYTES >> 20
        ))
    })?;
    lfs::check(&text)?;
    Ok(text)
}

/// Parses a file of the `tokenizers` package.
pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|e| Error::model(format!("is not a description of a tokenizer: {e}")).caused_by(e))
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<Trained> {
    #[derive(Deserialize)]
    struct File {
        model: BPE,
    }
    let text = read_text(path)?;
    let description: Description = parse(&text)?;
    check_model(&description.model)?;
    let prefix = prefix(description.normalizer, description.pre_tokenizer)?;
    // Only now, since the package panics for some of the models that are refused above.
    let File { model } = parse(&text)?;
    let added: Vec<Added> = description
        .added_tokens
        .into_iter()
        .map(|token| token.in_file(path))
        .collect();
    let pieces = pieces(&model, &added)?;
    let id = |text: &str| {
        let index = pieces.iter().position(|piece| piece.text == text)?;
        u32::try_from(index).ok()
    };
    Ok(Trained {
        bos_id: id("<s>"),
        eos_id: id("</s>"),
        unk_id: model.unk_token.as_deref().and_then(id),
        pad_id: None,
        add_space_prefix: prefix.at_first,
        legacy: Some(prefix.everywhere),
        added,
        pieces,
    })
}

fn check_model(model: &BpeModel) -> Result<()> {
    let refuse = |key: &str, what: &str| Err(Error::model(what).in_key(format!("model.{key}")));
    match model.r#type.as_deref() {
        None | Some("BPE") => {}
        Some(other) => {
            return refuse(
                "type",
                &format!("is {other}; LLaMA's is BPE, and only that is supported"),
            );
        }
    }
    if model.merges.is_none() {
        return refuse("merges", "is missing");
    }
    for (key, text) in [
        (
            "continuing_subword_prefix",
            &model.continuing_subword_prefix,
        ),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if text.as_ref().is_some_and(|text| !text.is_empty()) {
            return refuse(key, "is set, which LLaMA's tokenizer does not do");
        }
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return refuse("dropout", "is set, which makes every text another one");
    }
    if model.ignore_merges {
        return refuse(
            "ignore_merges",
            "is set, which LLaMA's tokenizer does not do",
        );
    }
    if !model.byte_fallback {
        return refuse(
            "byte_fallback",
            "is not set; LLaMA's tokenizer spells what has no token in bytes",
        );
    }
    if model.unk_token.is_none() {
        return refuse("unk_token", "is missing");
    }
    Ok(())
}

/// How spaces are put before texts, where that is all that is done with a text.
fn prefix(normalizer: Option<Step>, pre_tokenizer: Option<Step>) -> Result<Prefix> {
    let mut prefix = Prefix::default();
    let mut replaces_spaces = false;
    let mut steps: Vec<_> = [("pre_tokenizer", pre_tokenizer), ("normalizer", normalizer)]
        .into_iter()
        .filter_map(|(key, step)| Some((key, step?)))
        .collect();
    while let Some((key, step)) = steps.pop() {
        match step {
            Step::Sequence { steps: inner } => {
                steps.extend(inner.into_iter().rev().map(|step| (key, step)));
            }
            Step::Prepend { prepend } if prepend == SPACE && !replaces_spaces => {
                prefix.at_first = true;
                prefix.everywhere = true;
            }
            Step::Replace {
                pattern: Pattern::String(pattern),
                content,
            } if pattern == " " && content == SPACE => replaces_spaces = true,
            Step::Metaspace {
                replacement,
                prepend_scheme,
                add_prefix_space,
                split: Some(false),
            } if replacement == SPACE => {
                replaces_spaces = true;
                let scheme = match (prepend_scheme.as_deref(), add_prefix_space) {
                    (Some(scheme), _) => scheme,
                    (None, Some(false)) => "never",
                    (None, _) => "always",
                };
                prefix.at_first |= matches!(scheme, "always" | "first");
                prefix.everywhere |= scheme == "always";
            }
            _ => {
                return Err(Error::model(
                    "changes or splits text in another way than LLaMA's tokenizer, which is not \
                     supported; take tokenizer.model, if the model has one",
                )
                .in_key(key));
            }
        }
    }
    if !replaces_spaces {
        return Err(Error::model(format!(
            "does not make {SPACE} of spaces, as LLaMA's tokenizer does"
        ))
        .in_key("normalizer"));
    }
    Ok(prefix)
}

/// The pieces by id, with scores that give the order of the merges.
fn pieces(model: &BPE, added: &[Added]) -> Result<Vec<Piece>> {
    let vocab = model_vocab(model)?;
    let merges = Merges::new(model, &vocab)?;
    let unk = model.unk_token.as_deref().unwrap_or_default();
    let special = |text: &str| {
        added
            .iter()
            .any(|one| one.is_special() && one.text() == text)
    };
    let mut pieces = Vec::with_capacity(vocab.len());
    for (id, text) in vocab {
        fill(&mut pieces, id as usize);
        let mut piece = Piece {
            score: 0.0,
            piece_type: PieceType::Byte,
            text,
        };
        let rank = merges.ranks.get(piece.text.as_str());
        if piece.text == unk {
            piece.piece_type = PieceType::Unknown;
        } else if special(&piece.text) {
            piece.piece_type = PieceType::Control;
        } else if piece.byte().is_none() {
            piece.piece_type = match piece.text.chars().count() > 1 && rank.is_none() {
                // Nothing leads to it.
                true => PieceType::Unused,
                false => PieceType::Normal,
            };
        }
        // Characters are no joined pieces; SentencePiece lists them behind those.
        piece.score = match rank {
            Some(&rank) => -(rank as f32),
            None => -(merges.pairs.len() as f32) - id as f32,
        };
        pieces.push(piece);
    }
    merges.check(&pieces)?;
    Ok(pieces)
}

/// Ids and texts, by id.
fn model_vocab(model: &BPE) -> Result<Vec<(u32, String)>> {
    let mut vocab: Vec<_> = model
        .get_vocab()
        .into_iter()
        .map(|(text, id)| (id, text))
        .collect();
    vocab.sort_unstable();
    let wrong = |what: String| Err(Error::model(what).in_key("model.vocab"));
    if let Some(pair) = vocab.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return wrong(format!("gives id {} to two tokens", pair[0].0));
    }
    match vocab.last() {
        None => wrong("is empty".to_owned()),
        Some((id, text)) if *id as usize >= vocab.len() + MAX_GAPS => wrong(format!(
            "gives '{text}' the id {id}, but has only {} tokens",
            vocab.len()
        )),
        Some(_) => Ok(vocab),
    }
}

/// The merges of a model.
struct Merges {
    /// Left and right side, by rank.
    pairs: Vec<(String, String)>,
    /// The first rank of each piece that they make.
    ranks: HashMap<String, usize>,
}

impl Merges {
    fn new(model: &BPE, vocab: &[(u32, String)]) -> Result<Self> {
        /// The one way to get at them.
        #[derive(Deserialize)]
        struct Serialized {
            merges: Vec<(String, String)>,
        }
        let serialized = serde_json::to_vec(model).map_err(unreadable)?;
        let Serialized { merges: pairs } =
            serde_json::from_slice(&serialized).map_err(unreadable)?;
        let pairs = [forgotten(&pairs, vocab), pairs].concat();
        let mut ranks = HashMap::new();
        for (rank, (left, right)) in pairs.iter().enumerate() {
            ranks.entry(format!("{left}{right}")).or_insert(rank);
        }
        Ok(Merges { pairs, ranks })
    }

    /// Fails unless a piece's score alone says when two symbols are joined: all pairs that make a
    /// piece follow one another, and each way to cut it into two pieces is among them.
    fn check(&self, pieces: &[Piece]) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::model(format!(
                "{what}, so this is not a vocabulary that SentencePiece trained, and only such can be run"
            ))
            .in_key("model.merges"))
        };
        let mut previous = String::new();
        for (rank, (left, right)) in self.pairs.iter().enumerate() {
            let text = format!("{left}{right}");
            if text != previous && self.ranks[&text] != rank {
                return refuse(format!("'{text}' is made at different ranks"));
            }
            previous = text;
        }
        let known: HashSet<(&str, &str)> = self
            .pairs
            .iter()
            .map(|(left, right)| (left.as_str(), right.as_str()))
            .collect();
        let normal = pieces
            .iter()
            .filter(|piece| piece.piece_type == PieceType::Normal);
        let normal: HashSet<&str> = normal.map(|piece| piece.text.as_str()).collect();
        for text in normal.iter().filter(|text| self.ranks.contains_key(**text)) {
            for (cut, _) in text.char_indices().skip(1) {
                let pair = text.split_at(cut);
                if normal.contains(pair.0) && normal.contains(pair.1) && !known.contains(&pair) {
                    let (left, right) = pair;
                    return refuse(format!("'{left}' and '{right}' are not joined to '{text}'"));
                }
            }
        }
        Ok(())
    }
}

/// The merges of the piece that comes before all others, if the list has none of it: transformers
/// long took its score, which is 0, for a missing one.
fn forgotten(pairs: &[(String, String)], vocab: &[(u32, String)]) -> Vec<(String, String)> {
    let Some((left, right)) = pairs.first() else {
        return Vec::new();
    };
    let first = format!("{left}{right}");
    let first = vocab.iter().position(|(_, text)| *text == first);
    let Some((_, text)) = first.and_then(|first| vocab.get(first.checked_sub(1)?)) else {
        return Vec::new();
    };
    let has = |part: &str| vocab.iter().any(|(_, text)| text == part);
    let cuts = text
        .char_indices()
        .skip(1)
        .map(|(cut, _)| text.split_at(cut));
    let ways = cuts.filter(|(left, right)| has(left) && has(right));
    ways.map(|(left, right)| (left.to_owned(), right.to_owned()))
        .collect()
}

fn unreadable(e: serde_json::Error) -> Error {
    Error::model(format!("its merges cannot be read: {e}")).caused_by(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use owl2::tokenizer::Tokenizer;
    use serde_json::{Value, json};

    use super::super::{FAST_FILE, MODEL_FILE, TOKENIZER_CONFIG_FILE};

    /// The golden checkpoint whose tokenizer.json transformers made of its tokenizer.model.
    const GOLDEN: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/checkpoints/tiny"
    );
    const TEXTS: &str = include_str!("../../../tests/golden/tokenizer/tiny.json");

    fn golden() -> Value {
        serde_json::from_slice(&std::fs::read(Path::new(GOLDEN).join(FAST_FILE)).unwrap()).unwrap()
    }

    fn read_json(json: &Value, config: &str, n: usize) -> Result<Tokenizer> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FAST_FILE), json.to_string()).unwrap();
        std::fs::write(dir.path().join(TOKENIZER_CONFIG_FILE), config).unwrap();
        Tokenizer::new(super::super::read(dir.path(), n)?)
    }

    /// As transformers 5 writes it.
    fn with_metaspace(mut json: Value, scheme: &str) -> Value {
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] = json!({
            "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false,
        });
        json
    }

    /// Merges as pairs in place of strings with a space.
    fn with_pairs(mut json: Value) -> Value {
        for merge in json["model"]["merges"].as_array_mut().unwrap() {
            let (left, right) = merge.as_str().unwrap().split_once(' ').unwrap();
            *merge = json!([left, right]);
        }
        json
    }

    /// Without the merges of the first piece, as older versions of transformers wrote it.
    fn without_first(mut json: Value) -> Value {
        let piece = |merge: &Value| merge.as_str().unwrap().replace(' ', "");
        let merges = json["model"]["merges"].as_array_mut().unwrap();
        let first = piece(&merges[0]);
        merges.retain(|merge| piece(merge) != first);
        json
    }

    #[test]
    fn gives_the_ids_of_the_sentencepiece_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(
            Path::new(GOLDEN).join(MODEL_FILE),
            dir.path().join(MODEL_FILE),
        )
        .unwrap();
        let wanted = |config: &str| {
            std::fs::write(dir.path().join(TOKENIZER_CONFIG_FILE), config).unwrap();
            Tokenizer::new(super::super::read(dir.path(), 770).unwrap()).unwrap()
        };
        let golden_texts: Value = serde_json::from_str(TEXTS).unwrap();
        let encoded = golden_texts["encode"].as_array().unwrap();
        assert!(encoded.len() > 50);
        for (json, config, wanted) in [
            (golden(), "{}", wanted("{}")),
            (with_pairs(golden()), "{}", wanted("{}")),
            (without_first(golden()), "{}", wanted("{}")),
            (with_metaspace(golden(), "always"), "{}", wanted("{}")),
            (
                with_metaspace(golden(), "first"),
                "{}",
                wanted(r#"{"legacy": false}"#),
            ),
            (
                golden(),
                r#"{"legacy": false}"#,
                wanted(r#"{"legacy": false}"#),
            ),
        ] {
            let tokenizer = read_json(&json, config, 770).unwrap();
            let (ours, theirs) = (tokenizer.vocabulary(), wanted.vocabulary());
            assert_eq!(ours.legacy, theirs.legacy);
            assert_eq!(
                (ours.bos_id, ours.eos_id, ours.unk_id, &ours.added),
                (theirs.bos_id, theirs.eos_id, theirs.unk_id, &theirs.added)
            );
            for (id, (ours, theirs)) in ours.pieces.iter().zip(&theirs.pieces).enumerate() {
                assert_eq!(ours.text, theirs.text);
                assert_eq!(ours.piece_type, theirs.piece_type, "{id}");
            }
            for text in encoded {
                let text = text["text"].as_str().unwrap();
                assert_eq!(tokenizer.encode_trusted(text), wanted.encode_trusted(text));
                let ids = wanted.encode(text);
                assert_eq!(tokenizer.encode(text), ids, "{text}");
                assert_eq!(tokenizer.decode(&ids), wanted.decode(&ids), "{text}");
            }
        }
    }

    #[test]
    fn added_tokens_of_the_file_count() {
        let mut json = golden();
        let tokens = json["added_tokens"].as_array_mut().unwrap();
        tokens.push(json!({"id": 768, "content": "<loc>", "special": false}));
        tokens.push(json!({"id": 769, "content": "<end>", "special": true}));
        let tokenizer = read_json(&json, "{}", 770).unwrap();
        let ids = tokenizer.encode("a<loc>a");
        assert_eq!(ids[2], 768);
        assert_eq!(tokenizer.decode(&ids), "a<loc> a");
        assert!(tokenizer.is_special(769));
        assert!(read_json(&json, "{}", 769).is_err());
    }

    #[test]
    fn refuses_what_sentencepiece_did_not_train() {
        let rejects = |change: fn(&mut Value), wanted: &str| {
            let mut json = golden();
            change(&mut json);
            let error = read_json(&json, "{}", 768).expect_err(wanted).to_string();
            assert!(
                error.contains(wanted) && error.contains(FAST_FILE),
                "{error}"
            );
        };
        rejects(|j| j["model"]["type"] = json!("Unigram"), "is Unigram");
        rejects(
            |j| j["model"]["ignore_merges"] = json!(true),
            "ignore_merges",
        );
        rejects(
            |j| j["model"]["byte_fallback"] = json!(false),
            "byte_fallback",
        );
        rejects(
            |j| j["model"]["continuing_subword_prefix"] = json!("é##"),
            "continuing_subword_prefix",
        );
        rejects(|j| j["model"]["dropout"] = json!(0.1), "dropout");
        rejects(|j| j["model"]["unk_token"] = Value::Null, "unk_token");
        rejects(|j| j["model"]["vocab"] = json!({}), "out of vocabulary");
        rejects(|j| j["model"]["vocab"]["new"] = json!(5), "two tokens");
        rejects(|j| j["model"]["vocab"]["new"] = json!(1 << 30), "only 769");
        rejects(|j| j["normalizer"] = json!({"type": "NFC"}), "normalizer");
        rejects(|j| j["normalizer"] = Value::Null, "normalizer");
        rejects(
            |j| j["pre_tokenizer"] = json!({"type": "ByteLevel", "use_regex": true}),
            "pre_tokenizer",
        );
        fn piece(merge: &Value) -> String {
            merge.as_str().unwrap().replace(' ', "")
        }
        /// A merge of a piece that the merge before it makes too.
        fn second_way(merges: &[Value]) -> usize {
            let same = |i: &usize| piece(&merges[*i]) == piece(&merges[*i - 1]);
            (1..merges.len())
                .find(same)
                .expect("a piece made in two ways")
        }
        rejects(
            |j| {
                let merges = j["model"]["merges"].as_array_mut().unwrap();
                merges.remove(second_way(merges));
            },
            "not joined",
        );
        rejects(
            |j| {
                let merges = j["model"]["merges"].as_array_mut().unwrap();
                let (way, last) = (second_way(merges), merges.len() - 1);
                merges.swap(way, last);
            },
            "different ranks",
        );
        rejects(|j| j["model"] = json!(3), "not a description");
    }
}
