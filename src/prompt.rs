//! Turns the messages of a conversation into tokens and picture slots.
//!
//! ```text
//!   messages -> Template::parts -> text, </s>, picture slots -> tokenize -> token runs and pictures
//! ```
//!
//! User text can place pictures with the marker [`IMAGE_MARKER`], but it cannot contain control tokens:
//! only the template inserts those. [`tokenize_raw`] is for whole prompts that a program wrote. It
//! recognizes every control token by its spelling, like the reference.

mod template;

pub use template::Template;

use crate::error::{Error, Result};
use crate::tokenizer::{Span, Tokenizer};

/// What stands for a picture in a text (`DEFAULT_IMAGE_TOKEN` of the reference's `constants.py`).
pub const IMAGE_MARKER: &str = "<|image|>";

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The person who asks.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whose turn it is.
    pub role: Role,
    /// What is said. An empty text leaves the turn open: a conversation to be answered ends with
    /// an open turn of the assistant.
    pub text: String,
}

impl Message {
    /// A turn of the person who asks; each [`IMAGE_MARKER`] in it is a picture slot.
    pub fn user(text: impl Into<String>) -> Self {
        Message {
            role: Role::User,
            text: text.into(),
        }
    }

    /// An answer of the model, without `</s>`; a marker in it is mere text.
    pub fn assistant(text: impl Into<String>) -> Self {
        Message {
            role: Role::Assistant,
            text: text.into(),
        }
    }
}

/// A part of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Plain text.
    Text(&'a str),
    /// The control token `</s>`.
    EndOfText,
    /// The place of the next picture.
    Image,
}

/// A run of a tokenized prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Token ids, at least one.
    Tokens(Vec<u32>),
    /// The rows of the picture with this number, counted from 0.
    Image(usize),
}

/// Tokenizes the parts of a prompt.
pub fn tokenize(tokenizer: &Tokenizer, parts: &[Part]) -> Vec<Segment> {
    let eos_id = tokenizer.vocabulary().eos_id;
    let chunks = parts.split(|part| *part == Part::Image).map(|chunk| {
        let spans = chunk.iter().filter_map(|part| match *part {
            Part::Text("") | Part::Image => None,
            Part::Text(text) => Some(Span::Text(text)),
            Part::EndOfText => Some(Span::Special(eos_id)),
        });
        spans.collect()
    });
    tokenize_chunks(tokenizer, chunks)
}

/// Tokenizes a whole prompt that a program wrote: `<s>`, `</s>`, `<unk>` and the picture marker
/// count wherever they stand.
pub fn tokenize_raw(tokenizer: &Tokenizer, prompt: &str) -> Vec<Segment> {
    let chunks = prompt.split(IMAGE_MARKER);
    tokenize_chunks(tokenizer, chunks.map(|chunk| tokenizer.spans(chunk)))
}

/// The reference's `tokenizer_image_token` (`mm_utils.py`): each chunk between pictures is encoded
/// by itself. The first chunk alone has a `<s>`, unless it is empty: then every chunk has one.
fn tokenize_chunks<'a>(
    tokenizer: &Tokenizer,
    chunks: impl Iterator<Item = Vec<Span<'a>>>,
) -> Vec<Segment> {
    let add_bos = tokenizer.vocabulary().add_bos;
    let mut image_first = false;
    let mut segments = Vec::new();
    for (index, spans) in chunks.enumerate() {
        if index == 0 {
            image_first = spans.is_empty();
        } else {
            segments.push(Segment::Image(index - 1));
        }
        if !spans.is_empty() {
            let with_bos = add_bos && (index == 0 || image_first);
            let ids = tokenizer.encode_spans(spans, with_bos);
            if !ids.is_empty() {
                segments.push(Segment::Tokens(ids));
            }
        }
    }
    segments
}

/// A person's text with the slots of `n_images` pictures: as it is where it has that many markers,
/// with all of them in front where it has none.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) where the numbers of markers and pictures differ.
pub fn place_images(text: &str, n_images: usize) -> Result<String> {
    match text.matches(IMAGE_MARKER).count() {
        0 => Ok(IMAGE_MARKER.repeat(n_images) + text),
        n_markers if n_markers == n_images => Ok(text.to_owned()),
        n_markers => Err(Error::input(format!(
            "the prompt has {n_markers} '{IMAGE_MARKER}', but the number of pictures is {n_images}; give as many, or leave the markers out"
        ))),
    }
}
