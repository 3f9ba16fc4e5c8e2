//! The GGUF container: bytes, types and names, no model.

pub mod dtype;

pub use dtype::DType;
