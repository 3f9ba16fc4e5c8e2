//! The scoring rule that is written into the file.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use owl2::gguf::names;
use owl2::score::Rule;
use owl2::{Error, Result};

use crate::args::Args;
use crate::input::ConversionInput;
use crate::json::Object;

/// What `--score-rule` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreRule {
    /// The model was not trained to rate.
    None,
    /// It was, by this rule.
    Rule(Rule),
}

impl FromStr for ScoreRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(ScoreRule::None),
            rule => rule.parse().map(ScoreRule::Rule),
        }
    }
}

impl fmt::Display for ScoreRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScoreRule::None => f.write_str("none"),
            ScoreRule::Rule(rule) => rule.fmt(f),
        }
    }
}

/// Puts the rule that the flags say, or that names tell, into what the file says. A GGUF file keeps
/// the one it has unless the flags say otherwise.
///
/// # Errors
/// Those of reading `config.json` again.
pub(crate) fn set(input: &mut ConversionInput, args: &Args) -> Result<()> {
    match args.score_rule {
        Some(ScoreRule::Rule(rule)) => rule.write(&mut input.metadata),
        Some(ScoreRule::None) => {
            let key = names::key(names::ARCHITECTURE, names::SCORE_RULE);
            input.metadata.remove(&key);
        }
        None => {
            if let Some(rule) = told(input, args)? {
                rule.write(&mut input.metadata);
            }
        }
    }
    Ok(())
}

/// The rule of the published model that this is, or was made of, by its name: that of the directory,
/// or the one in its `config.json`.
fn told(input: &ConversionInput, args: &Args) -> Result<Option<Rule>> {
    let Some(checkpoint) = args.checkpoint.as_ref().filter(|path| path.is_dir()) else {
        return Ok(None);
    };
    let mut names = vec![input.name.clone()];
    for dir in args.lora.iter().chain([checkpoint]) {
        names.extend(base_name(dir)?);
    }
    // It compares in words, though it was made of a model that rates.
    let is_for_words = |name: &String| {
        let name = name.to_ascii_lowercase();
        name.contains("co-instruct") || name.contains("coinstruct")
    };
    let names = names.iter().take_while(|name| !is_for_words(name));
    Ok(names.filter_map(|name| Rule::of_model(name)).next())
}

/// What the configuration in a directory says the model was made of.
fn base_name(dir: &Path) -> Result<Option<String>> {
    let config = Object::read_optional(&dir.join("config.json"))?;
    Ok(config.text("_name_or_path")?.map(Into::into))
}
