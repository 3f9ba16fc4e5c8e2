//! Access to readers that only the program has, for `tests/fuzz`.

use std::path::Path;

#[cfg(feature = "serve")]
pub use super::batch::fuzzing as batch;

use super::chat::history;
use super::rows::TableFile;
use crate::error::Result;

/// The rows of a table of results that a run goes on with; its columns have to be these.
///
/// # Errors
/// Where it is another table.
pub fn rows(path: &Path, columns: &[String]) -> Result<Vec<Vec<String>>> {
    TableFile::resume(path, columns).map(|(_, earlier)| earlier)
}

/// The lines of earlier chats, after one was added.
///
/// # Errors
/// Where the file is something else.
pub fn history(path: &Path, new: &str) -> Result<Vec<String>> {
    history::append(path, &[new.to_owned()])?;
    history::read(path)
}
