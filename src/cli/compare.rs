//! `owl2 compare`: which of a few pictures is better.

use serde_json::json;

use crate::cli::args::CompareArgs;
use crate::cli::model_file::ModelFile;
use crate::cli::output::{self, Output};
use crate::cli::score::subjects::Loader;
use crate::cli::{print, print_json, progress, setup};
use crate::error::{Error, Result};
use crate::image::{Aspect, Reading};
use crate::ops::Compute;
use crate::request::{Assistant, Prompt, Request, Source};
use crate::score::{Rule, Scorer, Scoring};

/// What Co-Instruct's authors ask of two pictures.
const QUESTION: &str = "Which image has better quality, and why?";
const ORDINALS: [&str; 4] = ["first", "second", "third", "fourth"];

/// Runs the command.
pub(super) fn run(args: &CompareArgs) -> Result<()> {
    let model = ModelFile::new(args.model.as_deref())?;
    let n_threads = setup::n_threads(args.threads);
    let assistant = model.assistant(Compute::new(n_threads)?)?;
    let rule = args.rule.or(assistant.score_rule());
    match (rule, &args.prompt) {
        (Some(Rule::Compare2Score), None) => by_words(args, &assistant),
        (Some(rule), _) if args.rule.is_some() && rule != Rule::Compare2Score => Err(Error::usage(
            format!("is {rule}, which cannot compare pictures"),
        )
        .in_parameter("rule")),
        _ => by_question(args, &assistant),
    }
}

fn by_words(args: &CompareArgs, assistant: &Assistant) -> Result<()> {
    let [first, second] = &args.pictures[..] else {
        return Err(
            Error::usage("are more than two, but Compare2Score compares two pictures")
                .in_parameter("PICTURE"),
        );
    };
    let scoring = Scoring {
        aspect: args.aspect,
        ..Scoring::new(Rule::Compare2Score)
    };
    let loader = Loader {
        assistant,
        fps: None,
        aspect: Some(args.aspect.unwrap_or(scoring.rule.aspect())),
        reading: scoring.reading,
    };
    let (from, to) = (loader.picture(first)?, loader.picture(second)?);
    let comparison = Scorer::new(assistant, scoring)?.compare(&from, &to)?;
    if args.json {
        let map = |pairs: Vec<(&str, f64)>| {
            let pairs = pairs
                .into_iter()
                .map(|(word, x)| (word.to_owned(), x.into()));
            serde_json::Value::Object(pairs.collect())
        };
        let logits = comparison.logits.iter();
        return print_json(&json!({
            "first": first.display().to_string(),
            "second": second.display().to_string(),
            "second_is_better": comparison.second_is_better,
            "probabilities": map(comparison.probabilities),
            "logits": map(logits.map(|&(word, x)| (word, x.into())).collect()),
        }))
        .map(drop);
    }
    let line = format!(
        "{:.3}: how likely {} is better than {}\n",
        comparison.second_is_better,
        second.display(),
        first.display()
    );
    print(&line).map(drop)
}

fn by_question(args: &CompareArgs, assistant: &Assistant) -> Result<()> {
    let question = args.prompt.as_deref().unwrap_or(QUESTION);
    let request = Request {
        pictures: args.pictures.iter().cloned().map(Source::File).collect(),
        aspect: Some(args.aspect.unwrap_or(Aspect::Pad)),
        reading: Reading::Reference,
        max_tokens: args.max_tokens.map(|length| length.0),
        ..Request::new(Prompt::Raw(co_instruct(args.pictures.len(), question)))
    };
    let mut output = Output::new(!args.json, String::new());
    let answer = assistant.answer(&request, &mut |event| output.receive(event));
    let is_read = output.finish(answer.is_ok())?;
    let answer = answer?;
    if args.json && is_read {
        print_json(&output::as_json(&answer, &request.sampling))?;
    }
    answer
        .warnings
        .iter()
        .for_each(|warning| progress::note(warning));
    Ok(())
}

/// Co-Instruct's prompt about two to four pictures.
fn co_instruct(n_pictures: usize, question: &str) -> String {
    let pictures = ORDINALS.iter().take(n_pictures);
    let pictures = pictures.map(|ordinal| format!("The {ordinal} image: <|image|>"));
    let pictures: Vec<String> = pictures.collect();
    format!("USER: {}{question} ASSISTANT:", pictures.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_the_published_one() {
        assert_eq!(
            co_instruct(2, QUESTION),
            "USER: The first image: <|image|>\nThe second image: <|image|>Which image has better \
             quality, and why? ASSISTANT:"
        );
    }
}
