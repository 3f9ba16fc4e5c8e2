//! The model behind HTTP: the paths that OpenAI's, Ollama's and llama.cpp's clients use, scores of
//! pictures, and a page for people.
//!
//! ```text
//!   socket -> guard (host, origin, key) -> path -> its JSON to a question -> pictures decoded
//!     -> queue, first come first served -> the engine's thread -> text as it comes -> frames
//! ```
//!
//! One thread does everything with sockets and JSON that is short; pictures and schemas are made
//! ready on a few others; one more asks the model. A request's answer depends on nothing but the
//! request: it is the one that the `owl2` program gives, whoever else asks.

mod access;
mod admission;
mod answering;
pub(crate) mod asking;
mod body;
mod connection;
pub(crate) mod dialect;
pub(crate) mod fields;
pub mod fuzzing;
mod guard;
mod metrics;
mod ollama;
pub(crate) mod openai;
mod page;
mod patience;
mod pictures;
mod queue;
mod reading;
mod refusal;
mod routes;
mod score;
mod settings;
mod status;
mod time;
mod worker;

pub use settings::{Address, ApiKeys, LogFormat, RequestLimits, ServerSettings};

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::request::Assistant;
use connection::Listener;
use routes::Server;

/// Answers requests until `stop` is told to, or the process gets SIGINT or SIGTERM. Then no new
/// requests are taken, and those that were are finished, unless that takes longer than
/// [`ServerSettings::drain_timeout`].
///
/// `is_ready` is called with the address, once requests are answered. `was_interrupted` tells of a signal
/// that came before this function listened for it.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) where an address that others can reach has no key,
/// [`Kind::Io`](crate::Kind::Io) where it cannot be listened at.
pub fn run(
    assistant: Assistant,
    settings: ServerSettings,
    is_ready: &mut dyn FnMut(&str),
    was_interrupted: fn() -> bool,
) -> Result<()> {
    settings.check()?;
    let runtime = connection::runtime()?;
    runtime.block_on(async {
        let listener = Listener::bind(&settings.address).await?;
        let server = Arc::new(Server::new(assistant, settings, listener.name())?);
        let end = connection::asked_to_end(was_interrupted)?;
        let worker = worker::start(server.clone())?;
        is_ready(&listener.name());
        connection::serve(listener, &server, end).await;
        server.queue.close();
        // All clients have their answers, or are gone.
        if !server.queue.wait_until_idle(Duration::from_secs(5)).await {
            server.queue.cancel_all();
            // What is being computed ends with its step.
            server.queue.wait_until_idle(Duration::from_secs(60)).await;
        }
        worker.end();
        Ok(())
    })
}
