//! Text to token ids and back.

pub mod vocabulary;

pub use vocabulary::Vocabulary;
