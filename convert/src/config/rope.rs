//! Rotary positions in `config.json`, as every version of transformers writes them: `rope_theta`
//! and `rope_scaling` side by side, or `rope_parameters` with all of it.

use owl2::model::config::RopeScaling;
use owl2::{Error, Result};

use crate::json::Object;

/// LLaMA's base, where the file names none.
const DEFAULT_THETA: f64 = 10000.0;
/// Keys that a description of rotary positions may have.
const KEYS: [&str; 6] = [
    "type",
    "rope_type",
    "factor",
    "rope_theta",
    PARTIAL,
    ORIGINAL_POSITIONS,
];
const PARTIAL: &str = "partial_rotary_factor";
const ORIGINAL_POSITIONS: &str = "original_max_position_embeddings";

/// Reads base and scaling of the rotary positions.
pub(super) fn read(json: &Object) -> Result<(f32, Option<RopeScaling>)> {
    let [scaling, parameters] = ["rope_scaling", "rope_parameters"].map(|key| json.object(key));
    let (scaling, parameters) = (scaling?, parameters?);
    let mut theta = None;
    for object in [json, &scaling, &parameters] {
        let Some(value) = object.number("rope_theta")? else {
            continue;
        };
        if theta.is_some_and(|other| other != value) {
            return Err(contradicts(object, "rope_theta", "rope_theta"));
        }
        theta = Some(value);
    }
    let by_scaling = read_scaling(json, &scaling)?;
    let by_parameters = read_scaling(json, &parameters)?;
    let scaling = match (by_scaling, by_parameters) {
        (Some(one), Some(other)) if one != other => {
            return Err(contradicts(json, "rope_parameters", "rope_scaling"));
        }
        (one, other) => one.or(other).flatten(),
    };
    Ok((theta.unwrap_or(DEFAULT_THETA) as f32, scaling))
}

fn contradicts(json: &Object, key: &str, other: &str) -> Error {
    json.error(
        key,
        format!("contradicts the other '{other}' of this file; remove the one that is wrong"),
    )
}

/// What one object says of scaling: nothing at all, that there is none, or which.
fn read_scaling(config: &Object, json: &Object) -> Result<Option<Option<RopeScaling>>> {
    if json.iter().next().is_none() {
        return Ok(None);
    }
    for (key, _) in json.iter().filter(|(key, _)| !KEYS.contains(key)) {
        if json.get(key).is_some() {
            return Err(json.error(
                key,
                "is not known to this program, and may move the positions",
            ));
        }
    }
    if json.number(PARTIAL)?.is_some_and(|part| part != 1.0) {
        return Err(json.error(PARTIAL, "is not 1; partial rotation is not supported"));
    }
    let names = [json.text("rope_type")?, json.text("type")?];
    let (key, kind) = match names {
        [Some(new), Some(old)] if new != old => return Err(contradicts(json, "rope_type", "type")),
        [Some(kind), _] => ("rope_type", kind),
        [None, Some(kind)] => ("type", kind),
        [None, None] if json.get("factor").is_some() => {
            return Err(json.error("rope_type", "is missing"));
        }
        [None, None] => ("rope_type", "default"),
    };
    if kind == "default" {
        return Ok(Some(None));
    }
    let kind = kind
        .parse()
        .map_err(|e: Error| json.error(key, e.to_string()))?;
    if let Some(original) = json.count(ORIGINAL_POSITIONS)?
        && config.count("max_position_embeddings")? != Some(original)
    {
        return Err(json.error(
            ORIGINAL_POSITIONS,
            "differs from max_position_embeddings, which is not supported",
        ));
    }
    match json.number("factor")? {
        Some(factor) if factor > 1.0 => Ok(Some(Some(RopeScaling {
            kind,
            factor: factor as f32,
        }))),
        _ => Err(json.error("factor", "has to be a number greater than 1")),
    }
}
