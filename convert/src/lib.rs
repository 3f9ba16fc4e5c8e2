//! Reads mPLUG-Owl2 checkpoints, as published and as fine-tuned, and packs them into a GGUF file.

pub mod checkpoint;
mod config;
mod json;
mod lora;
mod preprocessor;
mod sampling;
mod tokenizer;
