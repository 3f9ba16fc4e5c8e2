//! Ratings of pictures and clips.

use owl2::image::Aspect;
use owl2::score::{Rule, ScoreSubject, Scorer, Scoring};
use owl2::{Assistant, Error, Result};
use pyo3::prelude::*;

use crate::pictures::{self, Given};
use crate::words::reading;
use crate::work::Stop;

/// The keyword arguments of `Model.score`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Options {
    task: String,
    rule: Option<String>,
    prompts: String,
    boost: bool,
    objective: String,
    anchors: Option<Vec<Given>>,
    aspect: Option<String>,
    as_shown: bool,
}

/// The fields of `owl2.Score`.
#[derive(IntoPyObject)]
pub struct Score {
    score: f64,
    unit: f64,
    deviation: Option<f64>,
    logits: Vec<(&'static str, f32)>,
    probabilities: Vec<(&'static str, f64)>,
    preferences: Vec<f64>,
}

/// What is rated: whether it is a clip, and the picture or the frames.
pub type GivenSubject = (bool, Vec<Given>);

/// Rates subjects, group by group, until `stop` is asked.
pub fn scores(
    assistant: &Assistant,
    subjects: Vec<GivenSubject>,
    options: Options,
    stop: &Stop,
) -> Result<Vec<Result<Score>>> {
    let (scoring, anchors) = options.scoring(assistant)?;
    let mut scorer = Scorer::new(assistant, scoring)?;
    let aspect = scorer.aspect();
    if let Some(anchors) = anchors {
        let anchors = pictures::sources(anchors, assistant, Some(aspect))?;
        scorer = scorer.with_anchors(&anchors)?;
    }
    let mut scores = Vec::with_capacity(subjects.len());
    let mut subjects = subjects.into_iter().peekable();
    while subjects.peek().is_some() && !stop.is_asked() {
        let group = subjects.by_ref().take(Scorer::TOGETHER);
        let group = group.map(|given| subject(given, assistant, aspect));
        let group: Vec<Result<ScoreSubject>> = group.collect();
        let usable: Vec<ScoreSubject> = group.iter().flatten().cloned().collect();
        let rated = scorer.score_each(&usable, &mut || !stop.is_asked());
        let mut rated = rated.into_iter();
        for subject in group {
            match subject {
                Err(e) => scores.push(Err(e)),
                // After a stop there are only those that had begun.
                Ok(_) => scores.extend(rated.next().map(|score| score.map(Score::from))),
            }
        }
    }
    Ok(scores)
}

/// What is rated, as the scorer takes it.
fn subject(
    (is_clip, mut given): GivenSubject,
    assistant: &Assistant,
    aspect: Aspect,
) -> Result<ScoreSubject> {
    match (is_clip, given.pop()) {
        (_, None) => Err(Error::input("a clip has no frames")),
        (false, Some(picture)) => {
            let source = picture.source(assistant, Some(aspect));
            source.map(ScoreSubject::Picture)
        }
        (true, Some(last)) => {
            given.push(last);
            pictures::sources(given, assistant, Some(aspect)).map(ScoreSubject::Clip)
        }
    }
}

impl Options {
    fn scoring(self, assistant: &Assistant) -> Result<(Scoring, Option<Vec<Given>>)> {
        let rule = match &self.rule {
            Some(name) => name.parse()?,
            None => assistant.score_rule().ok_or_else(|| {
                let names = Rule::ALL.map(Rule::name).join(", ");
                Error::usage(format!(
                    "is missing: the model file does not say that it was trained to rate; give one \
                     of {names} if it was"
                ))
                .in_parameter("rule")
            })?,
        };
        for (name, is_given, of) in [
            ("boost", self.boost, Rule::QInstruct),
            ("anchors", self.anchors.is_some(), Rule::Compare2Score),
        ] {
            if is_given && rule != of {
                let message = format!("is for the rule {of}, but this is {rule}");
                return Err(Error::usage(message).in_parameter(name));
            }
        }
        let scoring = Scoring {
            rule,
            task: self.task.parse()?,
            form: self.prompts.parse()?,
            boost: self.boost,
            objective: self.objective.parse()?,
            aspect: self.aspect.as_deref().map(str::parse).transpose()?,
            reading: reading(self.as_shown),
        };
        Ok((scoring, self.anchors))
    }
}

impl From<owl2::score::Score> for Score {
    fn from(score: owl2::score::Score) -> Self {
        Score {
            score: score.score,
            unit: score.unit,
            deviation: score.deviation,
            logits: score.logits,
            probabilities: score.probabilities,
            preferences: score.preferences,
        }
    }
}
