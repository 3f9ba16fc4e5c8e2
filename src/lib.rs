//! mPLUG-Owl2 on ordinary CPUs, from one memory-mapped GGUF file.
//!
//! A request goes through these rooms: [`gguf`] opens the file, [`model`] binds its weights,
//! [`prompt`] and [`tokenizer`] turn the question into tokens and picture slots, [`image`] turns
//! pictures into pixels, [`model`] turns those into the decoder's inputs, [`workspace`] computes parts
//! of one sequence or several ([`session`]), [`sampler`] chooses the next token, and [`request`] leads through all of it; [`reuse`] keeps what
//! the next request need not compute again. Below them, [`ops`] are the operations of a forward
//! pass and [`kernels`] their arithmetic.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use owl2::ops::Compute;
//! use owl2::prompt::Message;
//! use owl2::request::{Event, Prompt, Source};
//! use owl2::{Assistant, Request};
//!
//! # fn main() -> owl2::Result<()> {
//! let compute = Compute::new(owl2::threads::default_count())?;
//! let assistant = Assistant::open("model.gguf".as_ref(), compute)?;
//! let question = Message::user("<|image|>Describe the image.");
//! let request = Request {
//!     pictures: vec![Source::File("cat.jpg".into())],
//!     ..Request::new(Prompt::turns(vec![question, Message::assistant("")]))
//! };
//! let answer = assistant.answer(&request, &mut |event| {
//!     if let Event::Text(text) = event {
//!         print!("{text}");
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! println!("\n{} tokens", answer.ids.len());
//! # Ok(())
//! # }
//! ```

#[cfg(target_endian = "big")]
compile_error!("model files are little-endian, and their weights are used where they lie");

pub mod bench;
pub mod board;
#[cfg(feature = "tiny")]
pub mod builtin;
pub mod capacity;
#[cfg(feature = "cli")]
pub mod chat;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clip;
#[cfg(feature = "constrain")]
pub mod constrain;
pub mod engine;
pub mod error;
#[cfg(feature = "cli")]
pub mod eval;
pub mod files;
pub mod gguf;
pub mod harmless;
pub mod image;
pub mod kernels;
pub mod mishap;
pub mod model;
pub mod ops;
pub mod perplexity;
pub mod prompt;
pub mod quant;
pub mod request;
pub mod reuse;
pub mod sampler;
pub mod score;
#[cfg(feature = "serve")]
pub mod server;
pub mod session;
mod sysctl;
pub mod threads;
pub mod timing;
pub mod tokenizer;
mod whole_file;
pub mod workspace;

pub use error::{Error, Kind, Result};
pub use request::{Answer, Assistant, Request};
