//! `/owl2/score`: ratings of pictures, by the rules of `owl2 score`.

use serde_json::{Map, Value, json};

use super::dialect::with_warnings;
use super::fields::{Fields, Read, wrong};
use super::pictures;
use super::reading;
use super::routes::Server;
use crate::request::Source;
use crate::score::{Rule, Score, ScoreSubject, Scoring};

/// Reads the body of a request.
pub fn question(body: &Value, server: &Server) -> Read<(Scoring, Vec<Source>)> {
    let fields = Fields::of_body(body)?;
    server
        .card
        .check_name(&fields, server.settings.strict_model)?;
    let rule = match fields.text("rule")? {
        Some(name) => name
            .parse()
            .map_err(|e: crate::Error| fields.refuse("rule", e.to_string()))?,
        None => server
            .settings
            .score_rule
            .or(server.assistant.score_rule())
            .ok_or_else(|| {
                let known = Rule::ALL.map(Rule::name).join(", ");
                fields.refuse(
                    "rule",
                    format!("is missing, and the model file names none; one of {known}"),
                )
            })?,
    };
    if rule == Rule::Compare2Score {
        return Err(fields.refuse(
            "rule",
            "is compare2score, which needs anchors; use 'owl2 score'",
        ));
    }
    let mut scoring = Scoring::new(rule);
    if let Some(task) = fields.text("task")? {
        scoring.task = task
            .parse()
            .map_err(|e: crate::Error| fields.refuse("task", e.to_string()))?;
    }
    scoring.boost = fields.flag("boost")?.unwrap_or(false);
    Ok((scoring, images(&fields, server)?))
}

fn images(fields: &Fields, server: &Server) -> Read<Vec<Source>> {
    let images = match fields.array("images")? {
        Some(images) if !images.is_empty() => images,
        _ => return Err(fields.refuse("images", "is missing, expected an array of pictures")),
    };
    let limit = server.settings.limits.pictures;
    if images.len() > limit {
        return Err(fields.refuse("images", format!("has more than {limit} pictures")));
    }
    let root = server.settings.media_root.as_deref();
    let images = images.iter().enumerate().map(|(index, image)| {
        let path = format!("images[{index}]");
        match image {
            Value::String(address) if address.contains(':') => {
                pictures::from_address(address, &path, root)
            }
            Value::String(text) => pictures::from_base64_or_data(text, &path),
            other => Err(wrong(&path, other, "a picture as data: or in base64")),
        }
    });
    images.collect()
}

/// What the file of each picture lacks.
pub fn warnings(subjects: &[ScoreSubject]) -> Vec<Vec<String>> {
    let of_subject = |subject: &ScoreSubject| {
        let pictures = match subject {
            ScoreSubject::Picture(picture) => std::slice::from_ref(picture),
            ScoreSubject::Clip(frames) => frames,
        };
        let damages = pictures.iter().filter_map(reading::damage);
        damages.map(str::to_owned).collect()
    };
    subjects.iter().map(of_subject).collect()
}

/// The response. Each score has its `warnings`.
pub fn as_json(
    model: &str,
    scoring: &Scoring,
    scores: &[Score],
    warnings: &[Vec<String>],
) -> Value {
    let scores = scores.iter().zip(warnings);
    let scores = scores.map(|(score, warnings)| with_warnings(one_as_json(score), warnings));
    let scores: Vec<_> = scores.collect();
    json!({
        "object": "list",
        "model": model,
        "rule": scoring.rule.name(),
        "task": scoring.task.to_string(),
        "scores": scores,
    })
}

fn one_as_json(score: &Score) -> Value {
    let probabilities: Map<_, _> = score
        .probabilities
        .iter()
        .map(|&(word, p)| (word.to_owned(), p.into()))
        .collect();
    let logits: Map<_, _> = score
        .logits
        .iter()
        .map(|&(word, logit)| (word.to_owned(), logit.into()))
        .collect();
    json!({
        "score": score.score,
        "score_unit": score.unit,
        "deviation": score.deviation,
        "probabilities": probabilities,
        "logits": logits,
    })
}
