//! Access to the readers of this command, which runs them on files of others, for `tests/fuzz`.

use std::path::Path;

use super::Defaults;
use super::output::OutcomeFile;
use super::rows::Rows;
use super::sidecar;
use crate::error::Result;
use crate::image::Reading;
use crate::request::{Assistant, Request};

/// What the rows of an input ask, or why they cannot. `rates` is whether pictures are rated.
///
/// # Errors
/// Where the input cannot be read.
pub fn rows(path: &Path, assistant: &Assistant, rates: bool) -> Result<Vec<Result<Request>>> {
    let defaults = Defaults {
        prompt: None,
        sampling: assistant.sampling().clone(),
        max_tokens: None,
        context: None,
        constraint: None,
        aspect: None,
        reading: Reading::default(),
        rates,
        by_bytes: true,
        fingerprint: Vec::new(),
    };
    let mut rows = Rows::open(path)?;
    let (mut asked, mut n_read) = (Vec::new(), 0);
    while let Some((_, request)) = rows.next(&mut n_read, &defaults, None)? {
        asked.push(request);
    }
    Ok(asked)
}

/// Opens outcomes of an earlier run to add to them, and says whether a row of this key is done.
///
/// # Errors
/// Where they are something else.
pub fn is_done(path: &Path, key: u64) -> Result<bool> {
    let (_, mut done) = OutcomeFile::open(path, false)?;
    Ok(!done.takes(key))
}

/// An XMP document with the words of an answer in it, if they were not there.
///
/// # Errors
/// Where it is no XMP document.
pub fn with_words(document: &str, answer: &str) -> Result<Option<String>> {
    sidecar::with_words(document, answer)
}
