//! `generation_config.json`: how the reference would choose tokens if it were not told.

use std::path::Path;

use owl2::Result;
use owl2::sampler::Sampling;

use crate::json::Object;

/// Name of the file; a checkpoint may lack it.
pub(crate) const GENERATION_FILE: &str = "generation_config.json";

/// Reads the file in `dir`, or gives the defaults where there is none.
///
/// What it says is for those who sample; programs choose the likeliest token unless they are told
/// otherwise. A file that says nothing of temperature has 0, or 1 with `do_sample`.
pub(crate) fn read(dir: &Path) -> Result<Sampling> {
    let json = Object::read_optional(&dir.join(GENERATION_FILE))?;
    let default = Sampling::default();
    let unsaid = match json.flag("do_sample")?.unwrap_or(false) {
        true => 1.0,
        false => default.temperature,
    };
    let temperature = json.number("temperature")?.map_or(unsaid, |t| t as f32);
    if !(temperature.is_finite() && temperature >= 0.0) {
        return Err(json.error("temperature", "has to be a number of at least 0"));
    }
    let top_p = json
        .number("top_p")?
        .map_or(default.top_p, |top_p| top_p as f32);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(json.error("top_p", "has to be greater than 0 and at most 1"));
    }
    Ok(Sampling {
        temperature,
        top_k: json.count("top_k")?.unwrap_or(default.top_k),
        top_p,
        ..default
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Sampling> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(GENERATION_FILE), text).unwrap();
        read(dir.path())
    }

    #[test]
    fn keeps_what_the_file_says_for_those_who_sample() {
        let missing = read(tempfile::tempdir().unwrap().path()).unwrap();
        assert_eq!(missing, Sampling::default());
        let greedy = read_text(r#"{"temperature": 0.6, "top_p": 0.9, "top_k": 20}"#).unwrap();
        assert_eq!(
            (greedy.temperature, greedy.top_p, greedy.top_k),
            (0.6, 0.9, 20)
        );
        let sampled = read_text(r#"{"do_sample": true, "temperature": 0.6}"#).unwrap();
        assert_eq!((sampled.temperature, sampled.top_k), (0.6, 50));
        assert_eq!(
            read_text(r#"{"do_sample": true}"#).unwrap().temperature,
            1.0
        );
    }

    #[test]
    fn refuses_impossible_numbers() {
        for text in [
            r#"{"top_p": 0}"#,
            r#"{"temperature": -1}"#,
            r#"{"top_k": "x"}"#,
        ] {
            assert!(read_text(text).is_err(), "{text}");
        }
    }
}
