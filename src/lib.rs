//! mPLUG-Owl2, a vision-language model, on ordinary CPUs, from one memory-mapped GGUF file.
//!
//! # Ask about a picture
//!
//! Open a model file, and ask. [`Assistant::built_in`] is the small model that is part of the
//! library, so this runs as it stands; `Assistant::open("model.gguf")?` opens a real one.
//!
//! ```
//! # #[cfg(feature = "tiny")]
//! # fn main() -> owl2::Result<()> {
//! use owl2::{Assistant, Question};
//!
//! let owl = Assistant::built_in()?;
//! let answer = owl.ask(Question::new("Describe the image.").picture("assets/cat.png"))?;
//! assert_eq!(answer.text, "A cat on a blue background.");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tiny"))]
//! # fn main() {}
//! ```
//!
//! The answer has the text, the tokens, why it ended ([`StopReason`]), and how long each stage took.
//!
//! # Settings and streaming
//!
//! [`Settings`] say how to answer: the temperature, the longest answer, a system prompt. The text
//! comes as it is generated, and [`ControlFlow::Break`](std::ops::ControlFlow::Break) ends the
//! answer.
//!
//! ```
//! # #[cfg(feature = "tiny")]
//! # fn main() -> owl2::Result<()> {
//! use std::ops::ControlFlow;
//!
//! use owl2::{Assistant, Question, Settings};
//!
//! let owl = Assistant::built_in()?;
//! let question = Question::new("How many apples are there?").picture("assets/three-apples.png");
//! let settings = Settings::default().max_tokens(20).temperature(0.2).seed(1);
//! let mut streamed = String::new();
//! let answer = owl.ask_with(question, &settings, &mut |text| {
//!     streamed += text;
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(streamed, answer.text);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tiny"))]
//! # fn main() {}
//! ```
//!
//! # Answers of a given form
//!
//! With the feature `constrain`, an answer is one of several texts or JSON of a schema.
//!
//! ```
//! # #[cfg(all(feature = "tiny", feature = "constrain"))]
//! # fn main() -> owl2::Result<()> {
//! use std::ops::ControlFlow;
//!
//! use owl2::{Assistant, Constraint, Question, Settings};
//!
//! let owl = Assistant::built_in()?;
//! let choices = Constraint::choices(vec!["yes".into(), "no".into()])?;
//! let settings = Settings::default().constraint(choices);
//! let question = Question::new("Is there a dog?").picture("assets/cat.png");
//! let answer = owl.ask_with(question, &settings, &mut |_| ControlFlow::Continue(()))?;
//! assert_eq!(answer.text, "no");
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "tiny", feature = "constrain")))]
//! # fn main() {}
//! ```
//!
//! # Conversations
//!
//! With the feature `chat`, a [`Conversation`](chat::Conversation) keeps the turns, and computes
//! only what is new of each.
//!
//! ```
//! # #[cfg(all(feature = "tiny", feature = "chat"))]
//! # fn main() -> owl2::Result<()> {
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! use owl2::Assistant;
//! use owl2::chat::Conversation;
//!
//! let owl = Assistant::built_in()?;
//! let mut conversation = Conversation::begin(&owl)?;
//! conversation.attach(Path::new("assets/cat.png"))?;
//! let mut ignore = |_: owl2::Event| ControlFlow::Continue(());
//! conversation.ask("What animal is this?", &mut ignore)?;
//! let answer = conversation.ask("What color is the background?", &mut ignore)?;
//! assert_eq!(answer.text, "blue");
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "tiny", feature = "chat")))]
//! # fn main() {}
//! ```
//!
//! # Several threads
//!
//! An [`Assistant`] is `Sync`: share it by reference or in an `Arc`. Calls from several threads take
//! turns in the order in which they came; each has all worker threads until it is answered. The same
//! request gives the same answer, whatever else is asked.
//!
//! # Errors
//!
//! [`Error`] has a [`Kind`], and the file, tensor, key or parameter it is about
//! ([`Error::file`], [`Error::subject`], [`Error::parameter`]). Bad input is an error, never a panic.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `tiny` | yes | the built-in model, 7 MB |
//! | `constrain` | by `cli` | answers that are one of several texts or JSON of a schema |
//! | `chat` | by `cli` | conversations |
//! | `eval` | by `cli` | benchmarks: questions with known answers |
//! | `serve` | yes | `owl2 serve` and `owl2 batch` |
//! | `cli` | yes | the program `owl2` |
//!
//! Modules that are not listed here are internal: they may change in any release.

/// The programs of the page on the library compile and run.
#[cfg(all(doctest, feature = "tiny"))]
#[doc = include_str!("../docs/library.md")]
struct LibraryPage;

#[cfg(target_endian = "big")]
compile_error!("model files are little-endian, and their weights are used where they lie");

mod atomic_file;
#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod board;
#[cfg(feature = "tiny")]
pub mod builtin;
#[doc(hidden)]
pub mod capacity;
#[cfg(feature = "chat")]
pub mod chat;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod clip;
#[cfg(feature = "constrain")]
pub mod constrain;
#[doc(hidden)]
pub mod engine;
pub mod error;
#[cfg(feature = "eval")]
pub mod eval;
#[doc(hidden)]
pub mod files;
pub mod gguf;
#[doc(hidden)]
pub mod harmless;
pub mod image;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod manual;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod ops;
#[doc(hidden)]
pub mod panics;
#[doc(hidden)]
pub mod perplexity;
pub mod prompt;
pub mod quant;
pub mod request;
#[doc(hidden)]
pub mod reuse;
pub mod sampler;
pub mod score;
#[cfg(feature = "serve")]
#[doc(hidden)]
pub mod server;
#[doc(hidden)]
pub mod session;
mod sysctl;
#[doc(hidden)]
pub mod threads;
pub mod timing;
pub mod tokenizer;
#[doc(hidden)]
pub mod workspace;

#[cfg(feature = "constrain")]
pub use constrain::Constraint;
pub use error::{Error, Kind, Result};
pub use request::{Answer, Assistant, Event, Question, Request, Settings, Source, StopReason};
