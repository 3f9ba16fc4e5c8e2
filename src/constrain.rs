//! Answers that must be one of several texts, or JSON of a given schema.
//!
//! Before a token is chosen, every token that could not lead to such an answer is ruled out; the
//! grammar engine (`llguidance`) walks the vocabulary for that. What a token stands for is taken
//! from the model's own vocabulary. An answer that is cut off by its greatest length or the
//! context is only the beginning of what was asked for: [`StopReason`](crate::request::StopReason)
//! tells.

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{
    InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv,
};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::tokenizer::vocabulary::PieceType;
use crate::tokenizer::{SPACE, Vocabulary};

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// One of these texts.
    Choices(Vec<String>),
    /// JSON that this schema describes, on one line.
    JsonSchema(Value),
}

/// What the engine needs to know of a vocabulary; made once a model.
pub(crate) struct Grammars {
    factory: ParserFactory,
    /// Whether an answer begins with a space that its text does not have.
    has_space_prefix: bool,
}

/// An answer that is held to a constraint while it grows.
pub(crate) struct Guide(Matcher);

impl Constraint {
    /// One of `choices`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) where there are none, or an empty one.
    pub fn choices(choices: Vec<String>) -> Result<Self> {
        if choices.is_empty() || choices.iter().any(String::is_empty) {
            return Err(Error::usage("wants texts that are not empty").in_flag("--choices"));
        }
        Ok(Constraint::Choices(choices))
    }

    /// JSON as the text of a schema describes it.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where it is no JSON object.
    pub fn json_schema(text: &str) -> Result<Self> {
        match serde_json::from_str(text) {
            Ok(schema @ Value::Object(_)) => Ok(Constraint::JsonSchema(schema)),
            Ok(_) => Err(Error::input("is no JSON object, as a schema is")),
            Err(e) => Err(Error::input(format!("is no JSON: {e}")).caused_by(e)),
        }
    }

    /// The grammar in llguidance's variant of Lark.
    fn grammar(&self, has_space_prefix: bool) -> String {
        let space = if has_space_prefix { "\" \"?" } else { "" };
        match self {
            Constraint::Choices(choices) => {
                // A string of Lark is one of JSON.
                let quoted = choices.iter().map(|choice| Value::from(choice.as_str()));
                let quoted: Vec<_> = quoted.map(|choice| choice.to_string()).collect();
                format!("start: ANSWER\nANSWER: {space} ({})", quoted.join(" | "))
            }
            Constraint::JsonSchema(schema) => {
                let mut schema = schema.clone();
                if let Value::Object(object) = &mut schema {
                    // Else white space could go on for ever.
                    object.entry("x-guidance").or_insert_with(|| {
                        serde_json::json!({
                            "whitespace_flexible": false,
                            "item_separator": ", ",
                            "key_separator": ": ",
                        })
                    });
                }
                format!("start: {space} json\njson: %json {schema}")
            }
        }
    }

    /// The flag that it comes from, for errors.
    fn flag(&self) -> &'static str {
        match self {
            Constraint::Choices(_) => "--choices",
            Constraint::JsonSchema(_) => "--json-schema",
        }
    }
}

impl Grammars {
    /// Takes what a vocabulary's tokens stand for.
    pub fn new(vocabulary: &Vocabulary) -> Result<Self> {
        let tokens: TokEnv = Arc::new(Tokens(trie(vocabulary)));
        let no_slices = [];
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &no_slices)
            .map_err(|e| Error::model(format!("its vocabulary cannot be constrained: {e}")))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Grammars {
            factory,
            has_space_prefix: vocabulary.add_space_prefix,
        })
    }

    /// The guide of an answer.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the engine cannot follow the constraint.
    pub fn guide(&self, constraint: &Constraint) -> Result<Guide> {
        let grammar = TopLevelGrammar::from_lark(constraint.grammar(self.has_space_prefix));
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(reason) => {
                Err(Error::input(format!("cannot be followed: {reason}"))
                    .in_flag(constraint.flag()))
            }
            None => Ok(Guide(matcher)),
        }
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Guide {
    /// Rules out, by a logit of minus infinity, every token that cannot come next.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the constraint is beyond the engine's limits.
    pub fn restrict(&mut self, logits: &mut [f32]) -> Result<()> {
        let allowed = self.0.compute_mask_or_eos().map_err(failed)?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= allowed.len() || !allowed.get(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes the token that was chosen; whether the answer is complete with it, so that nothing but
    /// `</s>` could follow.
    ///
    /// # Errors
    /// As [`Guide::restrict`].
    pub fn accept(&mut self, id: u32) -> Result<bool> {
        self.0.consume_token(id).map_err(failed)?;
        Ok(self.0.is_stopped())
    }
}

fn failed(reason: impl fmt::Display) -> Error {
    Error::input(format!(
        "the answer cannot be held to its constraint: {reason}"
    ))
}

/// The bytes of every token, as a tree.
fn trie(vocabulary: &Vocabulary) -> TokTrie {
    let has_character = |byte: u8| {
        let character = match char::from(byte) {
            ' ' => SPACE,
            character => character,
        };
        let mut buffer = [0; 4];
        let spelled = &*character.encode_utf8(&mut buffer);
        byte.is_ascii()
            && (vocabulary.pieces.iter())
                .any(|piece| piece.piece_type == PieceType::Normal && piece.text == spelled)
    };
    let bytes = vocabulary
        .pieces
        .iter()
        .map(|piece| match piece.piece_type {
            PieceType::Normal | PieceType::UserDefined => {
                piece.text.replace(SPACE, " ").into_bytes()
            }
            // The model never says a character by its byte that has a token of its own.
            PieceType::Byte => match piece.byte() {
                Some(byte) if !has_character(byte) => vec![byte],
                _ => Vec::new(),
            },
            PieceType::Control | PieceType::Unknown => {
                let marker = TokTrie::SPECIAL_TOKEN_MARKER;
                [&[marker], piece.text.as_bytes()].concat()
            }
            PieceType::Unused => Vec::new(),
        });
    let words: Vec<_> = bytes.collect();
    let info = TokRxInfo::new(words.len() as u32, vocabulary.eos_id);
    TokTrie::from(&info, &words)
}

/// The model's vocabulary as the engine sees it.
struct Tokens(TokTrie);

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    /// No token is forced: each is chosen by the model.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
