//! Answers as dictionaries, of which `owl2._answers` makes dataclasses.

use std::collections::HashMap;

use owl2::timing::{Stage, Timings};
use pyo3::prelude::*;

/// The fields of `owl2.Answer`.
#[derive(IntoPyObject)]
pub struct Answer {
    text: String,
    ids: Vec<u32>,
    stop: &'static str,
    is_fulfilled: bool,
    n_prompt: usize,
    n_image: usize,
    warnings: Vec<String>,
    seconds: HashMap<&'static str, f64>,
}

impl From<owl2::Answer> for Answer {
    fn from(answer: owl2::Answer) -> Self {
        Answer {
            seconds: seconds(&answer.timings),
            text: answer.text,
            ids: answer.ids,
            stop: answer.stop.name(),
            is_fulfilled: answer.is_fulfilled,
            n_prompt: answer.n_prompt,
            n_image: answer.n_image,
            warnings: answer.warnings,
        }
    }
}

/// The time of each stage of a request; opening the file is none.
fn seconds(timings: &Timings) -> HashMap<&'static str, f64> {
    let stages = Stage::ALL.into_iter();
    stages
        .filter(|stage| *stage != Stage::Load)
        .map(|stage| (stage.name(), timings.of(stage).as_secs_f64()))
        .collect()
}
