//! Recognizes Git LFS pointers: the placeholders of files that were not fetched.

use crate::error::{Error, Result};

/// What such a file begins with.
pub const POINTER: &[u8] = b"version https://git-lfs";

/// Fails where a file that begins with `bytes` is a pointer to the real one.
///
/// # Errors
/// [`Kind::Model`](crate::Kind::Model).
pub fn check(bytes: &[u8]) -> Result<()> {
    if !bytes.starts_with(POINTER) {
        return Ok(());
    }
    Err(Error::model(
        "is a Git LFS pointer, not the file itself; run `git lfs pull` to fetch it",
    ))
}
