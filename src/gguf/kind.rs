//! Recognizes GGUF files that are not a whole model.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::names::general;

/// What llama.cpp says of a file by its [`general::TYPE`].
const TYPES: [(&str, &str); 3] = [
    ("adapter", LORA),
    ("imatrix", "is an importance matrix, not a model"),
    ("mmproj", PROJECTOR),
];
const LORA: &str = "is a LoRA adapter, not a model; merge it into the model it was made for first \
     (llama-export-lora), or give owl2-convert the adapter as PEFT saved it, with --lora";
const PROJECTOR: &str = "is the picture part of another program's model (mmproj), not a model; \
     owl2 keeps both parts of mPLUG-Owl2 in one file, which owl2-convert makes of its checkpoint";

/// Number of files that a model is split into, and which of them this is, from 0.
const SPLIT_COUNT: &str = "split.count";
const SPLIT_NUMBER: &str = "split.no";

/// Fails where a file says that it is something else than a whole model.
///
/// # Errors
/// [`Kind::Model`](crate::Kind::Model), naming the key that says so.
pub fn check_is_model(gguf: &Gguf) -> Result<()> {
    let n_files = gguf.find::<usize>(SPLIT_COUNT)?.unwrap_or(1);
    if n_files > 1 {
        let part = match gguf.find::<usize>(SPLIT_NUMBER)? {
            Some(number) => format!("part {}", number.saturating_add(1)),
            None => "one part".to_owned(),
        };
        return Err(Error::model(format!(
            "is {n_files}: the file is {part} of {n_files} of a model; join them with \
             `llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf`"
        ))
        .in_key(SPLIT_COUNT));
    }
    let says = |key: &'static str, what: &str| Err(Error::model(what).in_key(key));
    if let Some(file_type) = gguf.find::<&str>(general::TYPE)?
        && let Some((_, what)) = TYPES.iter().find(|(name, _)| *name == file_type)
    {
        return says(general::TYPE, what);
    }
    match gguf.find::<&str>(general::ARCHITECTURE)? {
        Some("clip") => says(general::ARCHITECTURE, PROJECTOR),
        Some("imatrix") => says(general::ARCHITECTURE, TYPES[1].1),
        _ => Ok(()),
    }
}
