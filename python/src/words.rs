//! How likely words are at the end of a prompt.

use owl2::image::Reading;
use owl2::prompt::{Message, place_images};
use owl2::request::{Prompt, WordLogits, WordsRequest};
use owl2::{Assistant, Result};
use pyo3::prelude::*;

use crate::pictures::{self, Given};

/// The keyword arguments of `Model.word_logits`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Options {
    prompt: String,
    words: Vec<String>,
    pictures: Vec<Given>,
    raw: bool,
    first_piece: bool,
    as_shown: bool,
    aspect: Option<String>,
}

/// The fields of `owl2.WordLogit`.
#[derive(IntoPyObject)]
pub struct Word {
    word: String,
    ids: Vec<u32>,
    logit: f32,
    log_probability: f64,
    probability: f64,
}

/// How likely the words are.
pub fn logits(assistant: &Assistant, options: Options) -> Result<Vec<Word>> {
    let aspect = options.aspect.as_deref().map(str::parse).transpose()?;
    let text = place_images(&options.prompt, options.pictures.len())?;
    let prompt = match options.raw {
        true => Prompt::Raw(text),
        false => Prompt::turns(vec![Message::user(text), Message::assistant("")]),
    };
    let sources = pictures::sources(options.pictures, assistant, aspect)?;
    let request = WordsRequest {
        slots: sources.into_iter().map(|source| vec![source]).collect(),
        first_piece: options.first_piece,
        aspect,
        reading: reading(options.as_shown),
        ..WordsRequest::new(prompt, options.words)
    };
    assistant.word_logits(&request).map(words)
}

/// How pictures are decoded.
pub fn reading(as_shown: bool) -> Reading {
    match as_shown {
        true => Reading::Shown,
        false => Reading::Reference,
    }
}

fn words(logits: WordLogits) -> Vec<Word> {
    let probabilities = logits.probabilities();
    let words = logits.words.into_iter().zip(probabilities);
    words
        .map(|(word, probability)| Word {
            word: word.word,
            ids: word.ids,
            logit: word.logit,
            log_probability: word.log_probability,
            probability,
        })
        .collect()
}
