//! Answers that must be one of several texts, or JSON of a given schema.
//!
//! Before a token is chosen, every token that could not lead to such an answer is ruled out; the
//! grammar engine (`llguidance`) walks the vocabulary for that. What a token stands for is taken
//! from the model's own vocabulary. An answer that is cut off by its greatest length or the
//! context may be only the beginning of what was asked for:
//! [`Answer::is_fulfilled`](crate::request::Answer::is_fulfilled) tells.
//!
//! Constraints come from anywhere, so they have bounds, and their grammars are compiled apart from
//! everything else and with a deadline.

mod bounds;
mod compile;
mod patterns;

use std::fmt;
use std::sync::Arc;

use llguidance::toktrie::{
    InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv,
};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;
use crate::tokenizer::vocabulary::PieceType;
use crate::tokenizer::{SPACE, Tokenizer};
use compile::Compiler;

/// Bytes of a schema's text at most.
pub const MAX_SCHEMA_BYTES: usize = bounds::MAX_BYTES;
/// States of the engine's lexer at most, of one or two kilobytes each.
const MAX_LEXER_STATES: usize = 50_000;
/// What the engine may consider at one place of an answer: four for each property that may come
/// next, of as many as the bounds allow in one object.
const MAX_ALTERNATIVES: usize = 10_000;

/// The longest token, and the bytes of all together, that `toktrie` has room for.
const MAX_TOKEN_BYTES: usize = 1 << 10;
const MAX_VOCABULARY_BYTES: usize = (1 << 22) - 2;

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
    compiler: Compiler,
    /// Whether an answer begins with a space that its text does not have.
    has_space_prefix: bool,
}

/// An answer that is held to a constraint while it grows.
pub(crate) struct Guide(Matcher);

impl Constraint {
    /// One of `choices`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) where there are none, an empty one, or more than the
    /// engine should have.
    pub fn choices(choices: Vec<String>) -> Result<Self> {
        if choices.is_empty() || choices.iter().any(String::is_empty) {
            return Err(
                Error::usage("expected one or more texts, none of them empty")
                    .in_parameter("choices"),
            );
        }
        bounds::check_choices(&choices).map_err(|e| e.in_parameter("choices"))?;
        Ok(Constraint::Choices(choices))
    }

    /// JSON as the text of a schema describes it.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where it is no JSON object, or is larger or asks for more
    /// than the engine should have.
    pub fn json_schema(text: &str) -> Result<Self> {
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(Error::input(format!(
                "has {} bytes, expected at most {MAX_SCHEMA_BYTES}; ask for less at once",
                text.len()
            )));
        }
        match serde_json::from_str(files::without_mark(text)) {
            Ok(schema) => Self::schema(schema),
            Err(e) => Err(Error::input(format!("is not JSON: {e}")).caused_by(e)),
        }
    }

    /// JSON as a schema describes it.
    ///
    /// # Errors
    /// As [`Constraint::json_schema`].
    pub fn schema(schema: Value) -> Result<Self> {
        if !schema.is_object() {
            return Err(Error::input("is not a JSON object, as a schema is"));
        }
        bounds::check_schema(&schema)?;
        Ok(Constraint::JsonSchema(schema))
    }

    /// The grammar in llguidance's variant of Lark.
    fn grammar(&self, has_space_prefix: bool) -> String {
        let space = match has_space_prefix {
            true => r#"" "?"#,
            false => "",
        };
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

    /// Its name in errors.
    fn name(&self) -> &'static str {
        match self {
            Constraint::Choices(_) => "choices",
            Constraint::JsonSchema(_) => "json_schema",
        }
    }
}

impl Grammars {
    /// Takes what a vocabulary's tokens stand for.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) where the vocabulary is beyond the engine's limits.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let tokens: TokEnv = Arc::new(Tokens(trie(tokenizer)?));
        let no_slices = [];
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &no_slices)
            .map_err(|e| Error::model(format!("its vocabulary cannot be constrained: {e}")))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = MAX_LEXER_STATES;
        limits.max_items_in_row = MAX_ALTERNATIVES;
        Ok(Grammars {
            compiler: Compiler::new(factory),
            has_space_prefix: tokenizer.vocabulary().add_space_prefix,
        })
    }

    /// The guide of an answer.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the engine cannot follow the constraint, and
    /// [`Kind::Capacity`](crate::Kind::Capacity) where it is still busy with another one.
    pub fn guide(&self, constraint: &Constraint) -> Result<Guide> {
        let checked = match constraint {
            Constraint::Choices(choices) => bounds::check_choices(choices),
            Constraint::JsonSchema(schema) => bounds::check_schema(schema),
        };
        checked
            .and_then(|()| {
                let grammar = || constraint.grammar(self.has_space_prefix);
                self.compiler.matcher(constraint, grammar)
            })
            .map(Guide)
            .map_err(|e| e.in_parameter(constraint.name()))
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

    /// Whether the tokens taken so far are all that was asked for.
    pub fn is_fulfilled(&mut self) -> bool {
        self.0.is_accepting().unwrap_or(false)
    }
}

fn failed(reason: impl fmt::Display) -> Error {
    let reason = compile::short(&reason.to_string());
    Error::input(format!(
        "the answer cannot be held to its constraint: {reason}"
    ))
}

/// The bytes of every token, as a tree.
fn trie(tokenizer: &Tokenizer) -> Result<TokTrie> {
    let vocabulary = tokenizer.vocabulary();
    let ids = 0..vocabulary.pieces.len() as u32;
    let words: Vec<_> = ids.map(|id| bytes_of(tokenizer, id)).collect();
    let n_bytes: usize = words.iter().map(Vec::len).sum();
    if n_bytes > MAX_VOCABULARY_BYTES || words.iter().any(|word| word.len() > MAX_TOKEN_BYTES) {
        return Err(Error::model(
            "its vocabulary is too large for answers to be constrained",
        ));
    }
    let info = TokRxInfo::new(words.len() as u32, vocabulary.eos_id);
    Ok(TokTrie::from(&info, &words))
}

/// What a token stands for: nothing where it never comes, and a marked name where it is no text.
fn bytes_of(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let piece = &tokenizer.vocabulary().pieces[id as usize];
    let name = || [&[TokTrie::SPECIAL_TOKEN_MARKER], piece.text.as_bytes()].concat();
    match piece.piece_type {
        _ if tokenizer.is_special(id) => name(),
        PieceType::Control | PieceType::Unknown => name(),
        PieceType::Unused => Vec::new(),
        PieceType::Normal | PieceType::UserDefined => piece.text.replace(SPACE, " ").into_bytes(),
        PieceType::Byte => match piece.byte() {
            // The model never says a character by its byte that has a token of its own.
            Some(byte) if !has_character(tokenizer, byte) => vec![byte],
            _ => Vec::new(),
        },
    }
}

/// Whether there is a token for the ASCII character `byte`.
fn has_character(tokenizer: &Tokenizer, byte: u8) -> bool {
    let character = match char::from(byte) {
        ' ' => SPACE,
        character => character,
    };
    byte.is_ascii() && tokenizer.has_piece(character.encode_utf8(&mut [0; 4]))
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
