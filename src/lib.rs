//! mPLUG-Owl2 on ordinary CPUs, from one memory-mapped GGUF file.

#[cfg(feature = "cli")]
pub mod cli;
pub mod error;
#[cfg(feature = "cli")]
pub mod eval;
pub mod gguf;
pub mod image;
pub mod kernels;
pub mod model;
pub mod ops;
pub mod prompt;
pub mod quant;
pub mod request;
pub mod sampler;
pub mod session;
pub mod threads;
pub mod timing;
pub mod tokenizer;

pub use error::{Error, Kind, Result};
pub use request::{Answer, Assistant, Request};
