//! From the bytes of a body to what is asked: everything up to where a request waits for the model.

use hyper::StatusCode;
use serde_json::Value;

use super::admission;
use super::asking::ClientQuestion;
use super::fields::{Fields, Read};
use super::refusal::Refusal;
use super::routes::Server;
use super::score;
use super::settings::ServerSettings;
use crate::request::Source;
use crate::sampler::Sampling;
use crate::score::{ScoreSubject, Scoring};

/// Values in a body at most. Each takes many times its bytes once it is read.
const MAX_VALUES: usize = 100_000;

/// About how many values a JSON text has: a comma, colon or bracket outside of texts stands before each
/// but the first.
fn n_values(json: &[u8]) -> usize {
    let (mut n, mut in_text, mut is_escaped) = (1, false, false);
    for &byte in json {
        match (in_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b',' | b':' | b'[' | b'{') => n += 1,
            _ => {}
        }
    }
    n
}

fn json(body: &[u8]) -> Read<Value> {
    if n_values(body) > MAX_VALUES {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the JSON has more than {MAX_VALUES} values"),
        ));
    }
    serde_json::from_slice(body).map_err(|e| Refusal::bad(format!("the body is not JSON: {e}")))
}

/// A question in one of the dialects, of which `read` takes the JSON. Its pictures are decoded, and
/// whatever the model could refuse is checked.
pub fn question(
    server: &Server,
    body: &[u8],
    read: impl Fn(&Value, &ServerSettings, &Sampling) -> Read<ClientQuestion>,
    key: Option<usize>,
) -> Read<ClientQuestion> {
    let body = json(body)?;
    server
        .card
        .check_name(&Fields::of_body(&body)?, server.settings.strict_model)?;
    let mut question = read(&body, &server.settings, server.assistant.sampling())?;
    question.request = admission::ready(server, question.request, key)?;
    let damages = (1..).zip(&question.request.pictures);
    let damages = damages.filter_map(|(number, picture)| {
        damage(picture).map(|damage| format!("picture {number}: {damage}"))
    });
    question.warnings = damages.collect();
    Ok(question)
}

/// What the file of a picture lacks that was decoded.
pub fn damage(picture: &Source) -> Option<&str> {
    match picture {
        Source::Pixels(pixels) => pixels.damage(),
        Source::File(_) | Source::Bytes(_) => None,
    }
}

/// Pictures to be rated, decoded.
pub fn rating(
    server: &Server,
    body: &[u8],
    key: Option<usize>,
) -> Read<(Scoring, Vec<ScoreSubject>)> {
    let (scoring, sources) = score::question(&json(body)?, server)?;
    let subjects = admission::ready_to_rate(server, &sources, &scoring, key)?;
    Ok((scoring, subjects))
}

/// A body that names a model; with `is_strict`, this one.
pub fn name(server: &Server, body: &[u8], is_strict: bool) -> Read<()> {
    let body = json(body)?;
    server.card.check_name(&Fields::of_body(&body)?, is_strict)
}
