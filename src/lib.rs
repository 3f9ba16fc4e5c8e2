//! mPLUG-Owl2 on ordinary CPUs, from one memory-mapped GGUF file.

pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
pub mod error;
pub mod gguf;
pub mod image;
pub mod kernels;
pub mod model;
pub mod ops;
pub mod prompt;
pub mod quant;
pub mod sampler;
pub mod session;
pub mod threads;
pub mod tokenizer;

pub use error::{Error, Kind, Result};
