//! How to answer, as a dictionary.

use owl2::image::Aspect;
use owl2::{Constraint, Error, Result, Settings};
use pyo3::prelude::*;

/// The keyword arguments of `Model.ask`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct AskSettings {
    system: Option<String>,
    temperature: f32,
    top_k: Option<i64>,
    top_p: Option<f32>,
    seed: i64,
    max_tokens: Option<i64>,
    stop: Vec<String>,
    context: Option<i64>,
    aspect: Option<String>,
    choices: Option<Vec<String>>,
    /// The text of a JSON schema.
    schema: Option<String>,
}

impl AskSettings {
    pub fn aspect(&self) -> Result<Option<Aspect>> {
        self.aspect.as_deref().map(str::parse).transpose()
    }

    pub fn settings(self) -> Result<Settings> {
        let aspect = self.aspect()?;
        let mut settings = Settings::default()
            .temperature(self.temperature)
            .seed(whole("seed", self.seed)?);
        if let Some(text) = self.system {
            settings = settings.system(text);
        }
        if let Some(k) = self.top_k {
            settings = settings.top_k(whole("top_k", k)?);
        }
        if let Some(p) = self.top_p {
            settings = settings.top_p(p);
        }
        if let Some(n) = self.max_tokens {
            settings = settings.max_tokens(whole("max_tokens", n)?);
        }
        for text in self.stop {
            settings = settings.stop(text);
        }
        if let Some(n) = self.context {
            settings = settings.context(whole("context", n)?);
        }
        if let Some(aspect) = aspect {
            settings = settings.aspect(aspect);
        }
        let constraint = match (self.choices, self.schema) {
            (None, None) => return Ok(settings),
            (Some(choices), None) => Constraint::choices(choices)?,
            (None, Some(schema)) => Constraint::json_schema(&schema)?,
            (Some(_), Some(_)) => {
                return Err(
                    Error::usage("stands beside choices; give one of them").in_parameter("schema")
                );
            }
        };
        Ok(settings.constraint(constraint))
    }
}

/// A number that is not negative.
pub fn whole<T: TryFrom<i64>>(name: &str, value: i64) -> Result<T> {
    value
        .try_into()
        .map_err(|_| Error::usage(format!("is {value}, expected 0 or more")).in_parameter(name))
}
