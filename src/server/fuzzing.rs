//! Access to what the server does with bytes from anywhere, without sockets and without a model's answers,
//! for `tests/fuzz`.

use std::path::Path;

use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::guard;
use super::ollama;
use super::openai;
use super::pictures;
use super::reading::{name, question, rating};
use super::routes::Server;
use super::settings::ServerSettings;
use crate::error::Result;
use crate::request::{Assistant, Source};
use crate::sampler::Sampling;

/// A server that takes bodies and nothing else.
#[derive(Debug)]
pub struct Bodies(Server);

impl Bodies {
    /// # Errors
    /// As for a server.
    pub fn new(assistant: Assistant, settings: ServerSettings) -> Result<Self> {
        Server::new(assistant, settings, "http://localhost".to_owned()).map(Bodies)
    }

    /// Reads a body that was sent to a path, with the functions that the server reads it with.
    ///
    /// # Errors
    /// The refusal that the client gets, as JSON.
    pub fn read(&self, path: &str, body: &[u8]) -> std::result::Result<(), Value> {
        let Bodies(server) = self;
        let of_ollama = |kind| {
            move |body: &Value, settings: &ServerSettings, defaults: &Sampling| {
                ollama::question(kind, body, settings, defaults)
            }
        };
        match path {
            "/v1/chat/completions" => question(server, body, openai::question, None)
                .map(drop)
                .map_err(|refusal| refusal.as_openai()),
            "/api/chat" => question(server, body, of_ollama(ollama::Endpoint::Chat), None)
                .map(drop)
                .map_err(|refusal| refusal.as_ollama()),
            "/api/generate" => question(server, body, of_ollama(ollama::Endpoint::Generate), None)
                .map(drop)
                .map_err(|refusal| refusal.as_ollama()),
            "/owl2/score" => rating(server, body, None)
                .map(drop)
                .map_err(|refusal| refusal.as_openai()),
            _ => name(server, body, true).map_err(|refusal| refusal.as_ollama()),
        }
    }
}

/// The picture at an address of a request, of OpenAI's dialect or of Ollama's.
///
/// # Errors
/// What the client is told.
pub fn picture(
    address: &str,
    is_of_ollama: bool,
    media_root: Option<&Path>,
) -> std::result::Result<Source, String> {
    let source = match is_of_ollama {
        true => pictures::from_base64_or_data(address, "picture"),
        false => pictures::from_address(address, "picture", media_root),
    };
    source.map_err(|refusal| refusal.message)
}

/// Which key a request has that is let in, where there are keys. Headers of which no request could be made
/// are left out.
///
/// # Errors
/// What the client is told.
pub fn let_in(
    settings: &ServerSettings,
    method: &[u8],
    path: &str,
    headers: &[(&[u8], &[u8])],
) -> std::result::Result<Option<usize>, String> {
    let method = Method::from_bytes(method).unwrap_or_default();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    guard::check(settings, &method, path, None, &map)
        .map(|pass| pass.key)
        .map_err(|refusal| refusal.message)
}
