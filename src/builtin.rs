//! owl2-tiny, the small trained model that is part of the program.
//!
//! It knows drawings of some 80 things on plain grounds; `models/tiny` has the checkpoint that it is made
//! from, and how that was trained.

use crate::error::Result;
use crate::gguf::{Bytes, Gguf};

/// What it is called.
pub const NAME: &str = "owl2-tiny";

/// A file's bytes, aligned as a map of it would be.
#[repr(C, align(64))]
struct Aligned<B: ?Sized> {
    bytes: B,
}

static FILE: &Aligned<[u8]> = &Aligned {
    bytes: *include_bytes!("../models/tiny/owl2-tiny.gguf"),
};

/// Opens it; nothing is copied.
///
/// # Errors
/// As [`Gguf::from_bytes`]; none for the file that is there.
pub fn open() -> Result<Gguf> {
    Gguf::from_bytes(Bytes::from_static(&FILE.bytes)).map_err(|e| e.in_file(NAME.as_ref()))
}
