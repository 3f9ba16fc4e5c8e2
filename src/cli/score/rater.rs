//! Rates subjects as the flags say: by a rule, or by the likelihood of words after a prompt.

use std::path::PathBuf;

use super::done::{Columns, Rating};
use super::subjects::Loader;
use crate::cli::args::ScoreArgs;
use crate::cli::each::Pictures;
use crate::error::{Error, Result};
use crate::image::{Aspect, Reading};
use crate::prompt::{Message, place_images};
use crate::request::{Assistant, Prompt, Source, WordLogits, WordsRequest};
use crate::reuse::PromptCache;
use crate::score::{Rule, ScoreSubject, Scorer, Scoring};

/// What rates subjects.
pub enum Rater<'m> {
    Score(Box<Scorer<'m>>),
    Words(Box<WordRater<'m>>),
}

pub struct WordRater<'m> {
    assistant: &'m Assistant,
    /// One for each subject of a group.
    memories: Vec<PromptCache>,
    request: WordsRequest,
}

impl WordRater<'_> {
    fn logits_each(
        &mut self,
        subjects: &[ScoreSubject],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Vec<Result<WordLogits>> {
        let slots = |subject: &ScoreSubject| match subject {
            ScoreSubject::Picture(picture) => vec![vec![picture.clone()]],
            ScoreSubject::Clip(frames) if frames.is_empty() => Vec::new(),
            ScoreSubject::Clip(frames) => vec![frames.clone()],
        };
        let requests: Vec<WordsRequest> = (subjects.iter())
            .map(|subject| WordsRequest {
                slots: slots(subject),
                ..self.request.clone()
            })
            .collect();
        if self.memories.len() < subjects.len() {
            self.memories.resize_with(subjects.len(), PromptCache::new);
        }
        let memories = &mut self.memories[..subjects.len()];
        self.assistant.word_logits_each(memories, &requests, go_on)
    }
}

impl<'m> Rater<'m> {
    pub fn new(args: &ScoreArgs, assistant: &'m Assistant) -> Result<Self> {
        let reading = match args.as_shown {
            true => Reading::Shown,
            false => Reading::Reference,
        };
        if !args.words.is_empty() {
            let request = WordsRequest {
                first_piece: args.first_piece,
                aspect: args.aspect,
                reading,
                ..WordsRequest::new(prompt(args)?, args.words.clone())
            };
            return Ok(Rater::Words(Box::new(WordRater {
                assistant,
                memories: Vec::new(),
                request,
            })));
        }
        let rule = args.rule.or(assistant.score_rule()).ok_or_else(|| {
            let names = Rule::ALL.map(Rule::name).join(", ");
            Error::usage(format!(
                "is missing: the model file does not say that it was trained to rate; give one of \
                 {names} if it was (owl2-convert --score-rule keeps it in the file)"
            ))
            .in_parameter("rule")
        })?;
        for (name, is_given, of) in [
            ("boost", args.boost, Rule::QInstruct),
            ("anchors", args.anchors.is_some(), Rule::Compare2Score),
        ] {
            if is_given && rule != of {
                let message = format!("is for the rule {of}, but this is {rule}");
                return Err(Error::usage(message).in_parameter(name));
            }
        }
        let scoring = Scoring {
            rule,
            task: args.task,
            form: args.prompts,
            boost: args.boost,
            objective: args.objective,
            aspect: args.aspect,
            reading,
        };
        let scorer = Scorer::new(assistant, scoring)?;
        Ok(Rater::Score(Box::new(match &args.anchors {
            Some(folder) => {
                let loader = Loader {
                    assistant,
                    fps: None,
                    aspect: Some(scorer.aspect()),
                    reading,
                };
                scorer.with_anchors(&anchors(folder, &loader)?)?
            }
            None => scorer,
        })))
    }

    /// Rates subjects together; before each but the first, `go_on` says whether to.
    pub fn rate_each(
        &mut self,
        subjects: &[ScoreSubject],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Vec<Result<Rating>> {
        match self {
            Rater::Score(scorer) => {
                let scores = scorer.score_each(subjects, go_on).into_iter();
                scores.map(|score| score.map(Rating::Score)).collect()
            }
            Rater::Words(words) => {
                let logits = words.logits_each(subjects, go_on).into_iter();
                logits.map(|logits| logits.map(Rating::Words)).collect()
            }
        }
    }

    /// What is known of each subject.
    pub fn columns(&self) -> Columns {
        match self {
            Rater::Score(scorer) => Columns::of_scores(scorer.scoring()),
            Rater::Words(words) => Columns::of_words(&words.request.words),
        }
    }

    pub fn aspect(&self) -> Option<Aspect> {
        match self {
            Rater::Score(scorer) => Some(scorer.aspect()),
            Rater::Words(words) => words.request.aspect,
        }
    }

    pub fn reading(&self) -> Reading {
        match self {
            Rater::Score(scorer) => scorer.scoring().reading,
            Rater::Words(words) => words.request.reading,
        }
    }
}

/// The prompt of `--words`, with a slot for each subject where there are any.
fn prompt(args: &ScoreArgs) -> Result<Prompt> {
    let text = args.prompt.as_deref().unwrap_or_default();
    let text = place_images(text, usize::from(!args.paths.is_empty()))?;
    Ok(match args.raw {
        true => Prompt::Raw(text),
        false => Prompt::turns(vec![Message::user(text), Message::assistant("")]),
    })
}

/// The pictures in the folder of `--anchors`, by name.
fn anchors(folder: &PathBuf, loader: &Loader) -> Result<Vec<Source>> {
    let pictures = Pictures::of(std::slice::from_ref(folder), false);
    let pictures: Vec<PathBuf> = pictures
        .collect::<Result<_>>()
        .map_err(|e| e.in_parameter("anchors"))?;
    Scorer::check_n_anchors(pictures.len())?;
    let sources = pictures.iter().map(|picture| loader.picture(picture));
    sources
        .collect::<Result<_>>()
        .map_err(|e| e.in_parameter("anchors"))
}
