//! Rates one subject after another, and computes the common part of their prompts once.

use super::preference::{self, N_ANCHORS};
use super::rule::{COMPARISON_TEMPERATURE, COMPARISONS};
use super::{Rule, Score, ScoreSubject, Scoring};
use crate::error::{Error, Result};
use crate::request::{Assistant, Prompt, Source, WordLogits, WordsRequest, softmax};
use crate::reuse::PromptCache;

/// A model that rates subjects.
#[derive(Debug)]
pub struct Scorer<'m> {
    assistant: &'m Assistant,
    scoring: Scoring,
    /// One for each subject of a group; all but the first are made when there is one.
    memories: Vec<PromptCache>,
    /// What Compare2Score compares with, the worst first.
    anchors: Vec<Source>,
    /// For each of these, what was computed of its prompt, up to the picture that is compared with it.
    of_anchors: Vec<PromptCache>,
}

/// What Compare2Score says of two pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// How likely the second picture is better, 0 to 1; 0.5 says that they are alike.
    pub second_is_better: f64,
    /// The words, with their logits.
    pub logits: Vec<(&'static str, f32)>,
    /// The words, with their probabilities.
    pub probabilities: Vec<(&'static str, f64)>,
}

impl<'m> Scorer<'m> {
    /// Pictures whose prompts are computed together at the most: about as many as a pass has room for.
    pub const TOGETHER: usize = 5;

    /// A scorer without anchors.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the model has no image branch,
    /// [`Kind::Usage`](crate::Kind::Usage) where the rule has no such task.
    pub fn new(assistant: &'m Assistant, scoring: Scoring) -> Result<Self> {
        assistant.visual()?;
        let has_tasks = matches!(scoring.rule, Rule::QAlign | Rule::Deqa);
        if !has_tasks && scoring.task != Default::default() {
            return Err(Error::usage(format!(
                "is {}, but {} rates quality alone",
                scoring.task, scoring.rule
            ))
            .in_parameter("task"));
        }
        Ok(Scorer {
            assistant,
            scoring,
            memories: vec![PromptCache::new()],
            anchors: Vec::new(),
            of_anchors: Vec::new(),
        })
    }

    /// The same, with the five pictures that Compare2Score compares others with, the worst first.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) for another number,
    /// [`Kind::Input`](crate::Kind::Input) and [`Kind::Io`](crate::Kind::Io) for a picture that
    /// cannot be used.
    pub fn with_anchors(mut self, anchors: &[Source]) -> Result<Self> {
        Self::check_n_anchors(anchors.len())?;
        let (aspect, reading) = (self.aspect(), self.scoring.reading);
        let prepared = anchors.iter().map(|anchor| {
            let pixels = self.assistant.pixels(anchor, Some(aspect), reading)?;
            Ok(Source::Pixels(pixels))
        });
        self.anchors = prepared.collect::<Result<_>>()?;
        self.of_anchors = anchors.iter().map(|_| PromptCache::new()).collect();
        Ok(self)
    }

    /// Fails unless there are as many anchors as there have to be.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage).
    pub(crate) fn check_n_anchors(n_anchors: usize) -> Result<()> {
        match n_anchors {
            N_ANCHORS => Ok(()),
            _ => Err(Error::usage(format!(
                "has {n_anchors} pictures, expected {N_ANCHORS}, whose names sort from the worst to the \
                 best"
            ))
            .in_parameter("anchors")),
        }
    }

    /// How it rates.
    pub fn scoring(&self) -> &Scoring {
        &self.scoring
    }

    /// Rates a subject.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) where the rule needs anchors and there are none, the
    /// others as [`Assistant::word_logits`].
    pub fn score(&mut self, subject: &ScoreSubject) -> Result<Score> {
        let mut scores = self.score_each(std::slice::from_ref(subject), &mut || true);
        scores
            .pop()
            .unwrap_or_else(|| Err(Error::input("there is nothing to rate")))
    }

    /// Rates subjects whose prompts are computed together, which share the readings of the weights;
    /// each gets the score that it would get alone, to the last bit. Before each but the first, `go_on`
    /// says whether it should be rated too; those before it are in any case.
    ///
    /// More than [`Scorer::TOGETHER`] pictures gain nothing, and take memory.
    pub fn score_each(
        &mut self,
        subjects: &[ScoreSubject],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Vec<Result<Score>> {
        if self.scoring.rule == Rule::Compare2Score {
            // Those with its anchors are computed together already.
            let goes_on = |i: usize| i == 0 || go_on();
            let subjects = subjects.iter().enumerate();
            let subjects = subjects.scan(goes_on, |goes_on, (i, subject)| {
                goes_on(i).then_some(subject)
            });
            return subjects
                .map(|subject| self.score_by_anchors(subject))
                .collect();
        }
        let requests: Vec<WordsRequest> = (subjects.iter())
            .map(|subject| self.request(subject, vec![frames(subject)]))
            .collect();
        if self.memories.len() < subjects.len() {
            self.memories.resize_with(subjects.len(), PromptCache::new);
        }
        let memories = &mut self.memories[..subjects.len()];
        let logits = self.assistant.word_logits_each(memories, &requests, go_on);
        let scores = logits.into_iter();
        scores
            .map(|logits| logits.map(|logits| self.scoring.rate(&logits)))
            .collect()
    }

    /// Compares two pictures as Compare2Score does.
    ///
    /// # Errors
    /// As [`Assistant::word_logits`].
    pub fn compare(&mut self, first: &Source, second: &Source) -> Result<Comparison> {
        let slots = vec![vec![first.clone()], vec![second.clone()]];
        let request = self.request(&ScoreSubject::Picture(second.clone()), slots);
        let logits = self
            .assistant
            .word_logits_from(&mut self.memories[0], &request)?;
        Ok(comparison(&logits))
    }

    fn score_by_anchors(&mut self, subject: &ScoreSubject) -> Result<Score> {
        if self.anchors.is_empty() {
            return Err(Error::usage(format!(
                "is missing; Compare2Score rates by comparison with {N_ANCHORS} pictures (the \
                 authors' are VQA-CityU/Anchor_images)"
            ))
            .in_parameter("anchors"));
        }
        // The picture is decoded once, and encoded once since encoded pictures are kept.
        let (aspect, reading) = (self.aspect(), self.scoring.reading);
        let prepared = frames(subject).into_iter().map(|frame| {
            let pixels = self.assistant.pixels(&frame, Some(aspect), reading)?;
            Ok(Source::Pixels(pixels))
        });
        let frames: Vec<Source> = prepared.collect::<Result<_>>()?;
        let anchors = self.anchors.iter();
        let requests: Vec<WordsRequest> = anchors
            .map(|anchor| self.request(subject, vec![vec![anchor.clone()], frames.clone()]))
            .collect();
        let memories = &mut self.of_anchors;
        let each = (self.assistant).word_logits_each(memories, &requests, &mut || true);
        let mut preferences = [0.0; N_ANCHORS];
        let (mut n_prompt, mut n_reused) = (0, 0);
        for (preference, logits) in preferences.iter_mut().zip(each) {
            let logits = logits?;
            *preference = comparison(&logits).second_is_better;
            (n_prompt, n_reused) = (logits.n_prompt, logits.n_reused);
        }
        let placement = preference::place(&preferences, self.scoring.objective);
        Ok(Score {
            score: placement.score,
            unit: placement.score / 100.0,
            deviation: None,
            logits: Vec::new(),
            probabilities: Vec::new(),
            preferences: preferences.to_vec(),
            n_prompt,
            n_reused,
        })
    }

    fn request(&self, subject: &ScoreSubject, slots: Vec<Vec<Source>>) -> WordsRequest {
        WordsRequest {
            slots,
            // As the authors' scripts do; "moderate" alone has more than one piece.
            first_piece: true,
            aspect: Some(self.aspect()),
            reading: self.scoring.reading,
            ..WordsRequest::new(
                Prompt::Raw(self.scoring.prompt(subject)),
                self.scoring.words(),
            )
        }
    }

    /// What becomes of pictures that are not square.
    pub fn aspect(&self) -> crate::image::Aspect {
        self.scoring.aspect.unwrap_or(self.scoring.rule.aspect())
    }
}

fn frames(subject: &ScoreSubject) -> Vec<Source> {
    match subject {
        ScoreSubject::Picture(picture) => vec![picture.clone()],
        ScoreSubject::Clip(frames) => frames.clone(),
    }
}

fn comparison(logits: &WordLogits) -> Comparison {
    let values = logits.logits();
    let scaled = values
        .iter()
        .map(|&logit| f64::from(logit) / COMPARISON_TEMPERATURE);
    let probabilities = softmax(scaled);
    let terms = probabilities.iter().zip(COMPARISONS);
    let words = COMPARISONS.map(|(word, _)| word);
    Comparison {
        second_is_better: terms.map(|(p, (_, worth))| p * worth).sum(),
        logits: words.into_iter().zip(values).collect(),
        probabilities: words.into_iter().zip(probabilities).collect(),
    }
}
