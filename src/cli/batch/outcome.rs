//! The output line of a row, in the format of the row.

use serde_json::{Value, json};

use super::rows::{Row, RowShape};
use crate::cli::ahead::Prepared;
use crate::error::{Error, Result};
use crate::request::Answer;
use crate::score::Score;
use crate::server::dialect::with_warnings;
use crate::server::openai;

/// A row's failure.
pub fn failed(row: &Row, error: &Error) -> Value {
    match row.shape {
        RowShape::Own => json!({
            "id": row.id,
            "image": row.image,
            "error": error_of(row, error),
        }),
        RowShape::OpenAi => json!({
            "id": format!("owl2-{:016x}", row.key),
            "custom_id": row.id,
            "response": {"status_code": 400, "request_id": null, "body": null},
            "error": error_of(row, error),
        }),
    }
}

fn error_of(row: &Row, error: &Error) -> Value {
    let message = format!("row {}: {error}", row.number);
    let kind = format!("{:?}", error.kind()).to_lowercase();
    match row.shape {
        RowShape::Own => json!({"kind": kind, "message": message}),
        RowShape::OpenAi => json!({"code": kind, "message": message}),
    }
}

/// An answer, in the shape of its row. Where the sidecar could not be written, that is an error beside
/// it.
pub fn answered(
    prepared: &Prepared<Row>,
    answer: &Answer,
    sidecar: Result<Option<String>>,
    seconds: f64,
) -> Value {
    let row = &prepared.row;
    let finish_reason = openai::finish_reason(answer.stop);
    let mut outcome = match row.shape {
        RowShape::Own => json!({
            "id": row.id,
            "image": row.image,
            "text": answer.text,
            "finish_reason": finish_reason,
            "fulfilled": answer.is_fulfilled,
            "usage": openai::usage(answer),
            "seconds": seconds,
        }),
        RowShape::OpenAi => in_response(
            row,
            json!({
                "id": format!("chatcmpl-{:016x}", row.key),
                "object": "chat.completion",
                "model": "owl2",
                "choices": [{
                    "index": 0,
                    "message": {"role": "assistant", "content": answer.text, "refusal": null},
                    "logprobs": null,
                    "finish_reason": finish_reason,
                }],
                "usage": openai::usage(answer),
            }),
        ),
    };
    let mut warnings = prepared.damage.clone();
    match sidecar {
        Ok(warning) => warnings.extend(warning),
        Err(e) => outcome["error"] = error_of(row, &e),
    }
    with_warnings(outcome, &warnings)
}

/// What a row of OpenAI's shape gets, with the body that a server would answer.
fn in_response(row: &Row, body: Value) -> Value {
    let id = format!("owl2-{:016x}", row.key);
    json!({
        "id": id,
        "custom_id": row.id,
        "response": {"status_code": 200, "request_id": id, "body": body},
        "error": null,
    })
}

/// A rating, in the shape of its row.
pub fn rated(prepared: &Prepared<Row>, score: &Score, seconds: f64) -> Value {
    let row = &prepared.row;
    let probabilities = score
        .probabilities
        .iter()
        .map(|&(word, p)| (word.to_owned(), p.into()));
    let probabilities: serde_json::Map<_, _> = probabilities.collect();
    let outcome = match row.shape {
        RowShape::Own => json!({
            "id": row.id,
            "image": row.image,
            "score": score.score,
            "score_unit": score.unit,
            "deviation": score.deviation,
            "probabilities": probabilities,
            "seconds": seconds,
        }),
        RowShape::OpenAi => in_response(
            row,
            json!({
                "object": "score",
                "model": "owl2",
                "score": score.score,
                "score_unit": score.unit,
                "deviation": score.deviation,
                "probabilities": probabilities,
            }),
        ),
    };
    with_warnings(outcome, &prepared.damage)
}
