//! mPLUG-Owl2 on ordinary CPUs, from one memory-mapped GGUF file.

pub mod error;
pub mod gguf;
pub mod image;
pub mod model;
pub mod prompt;
pub mod quant;
pub mod sampler;
pub mod tokenizer;

pub use error::{Error, Kind, Result};
