//! Questions with known answers, asked one by one: how many come out right, and how many as
//! another implementation of the model answered them.
//!
//! Answers are greedy, pictures are squashed and taken as they are stored: the reference's defaults,
//! so that a file it made can be held against this implementation.

mod questions;
mod report;

use std::path::Path;

pub use questions::{Question, read};
pub use report::{Answer, Difference, Report, Tally, WorstLogit};

use crate::error::Result;
use crate::image::{self, Aspect, Exif, Limits};
use crate::prompt::{Message, Segment, place_images};
use crate::request::{Assistant, Prompt};
use crate::session::{Input, Session};

/// What stands for a picture in prompt ids (`IMAGE_TOKEN_INDEX` of the reference's `constants.py`).
const IMAGE_ID: i64 = -200;

/// Counts for questions that name no kind.
const NO_KIND: &str = "other";

/// Asks `assistant` all questions. Answers end after `max_tokens`, or where the context does.
/// Pictures are looked for in `image_root`, and encoded once for questions in a row about the same
/// one. `answered` is called after each question.
///
/// # Errors
/// The first picture that cannot be used, and [`Kind::Capacity`](crate::Kind::Capacity) for a
/// prompt longer than the model's context.
pub fn evaluate(
    assistant: &Assistant,
    questions: &[Question],
    image_root: &Path,
    max_tokens: usize,
    mut answered: impl FnMut(&Report) + Send,
) -> Result<Report> {
    assistant.model().compute().threads.enter(|| {
        let prompts = questions.iter().map(|question| prompt(assistant, question));
        let prompts: Vec<_> = prompts.collect::<Result<_>>()?;
        let mut asking = Asking::new(assistant, &prompts, image_root, max_tokens);
        let mut report = Report::default();
        for (index, (question, prompt)) in questions.iter().zip(&prompts).enumerate() {
            compare_prompt(&mut report, index, question, prompt);
            let answer = asking.ask(question, prompt, &mut report)?;
            compare_answer(&mut report, index, question, answer);
            answered(&report);
        }
        Ok(report)
    })
}

fn prompt(assistant: &Assistant, question: &Question) -> Result<Vec<Segment>> {
    let text = place_images(&question.question, usize::from(question.image.is_some()))?;
    let messages = vec![Message::user(text), Message::assistant("")];
    let (segments, _) = assistant.segments(&Prompt::turns(messages));
    Ok(segments)
}

/// Positions of a prompt.
fn n_positions(assistant: &Assistant, prompt: &[Segment]) -> usize {
    let visual = assistant.model().config().visual.as_ref();
    let per_image = visual.map_or(0, |visual| visual.abstractor.n_positions());
    let positions = prompt.iter().map(|segment| match segment {
        Segment::Tokens(ids) => ids.len(),
        Segment::Image(_) => per_image,
    });
    positions.sum()
}

/// The decoder's inputs for a picture.
fn encode(assistant: &Assistant, path: &Path) -> Result<Vec<f32>> {
    let visual = assistant.visual()?;
    let picture = image::open(path, Exif::Ignore, &Limits::default())?;
    let pixels = visual.preprocess.pixels(&picture, Aspect::Squash);
    assistant
        .model()
        .encode_image(&pixels.map_err(|e| e.in_file(path))?)
}

/// An evaluation in progress.
struct Asking<'e> {
    assistant: &'e Assistant,
    image_root: &'e Path,
    max_tokens: usize,
    session: Session<'e>,
    /// The last picture asked about and its inputs to the decoder.
    picture: Option<(&'e str, Vec<f32>)>,
}

impl<'e> Asking<'e> {
    /// A session with room for each prompt and the longest answer to it.
    fn new(
        assistant: &'e Assistant,
        prompts: &[Vec<Segment>],
        image_root: &'e Path,
        max_tokens: usize,
    ) -> Self {
        let lengths = prompts.iter().map(|prompt| n_positions(assistant, prompt));
        let context = lengths.max().unwrap_or(0).saturating_add(max_tokens);
        let trained = assistant.model().config().decoder.max_position_embeddings;
        Asking {
            assistant,
            image_root,
            max_tokens,
            session: Session::new(assistant.model(), context.min(trained)),
            picture: None,
        }
    }

    /// Asks one question, and compares the first logits with those given.
    fn ask(
        &mut self,
        question: &'e Question,
        prompt: &[Segment],
        report: &mut Report,
    ) -> Result<Answer> {
        if let Some(name) = &question.image {
            self.look_at(name)?;
        }
        let rows = self.picture.as_ref().map_or(&[][..], |(_, rows)| rows);
        let inputs: Vec<Input> = prompt
            .iter()
            .map(|segment| match segment {
                Segment::Tokens(ids) => Input::Tokens(ids),
                Segment::Image(_) => Input::Image(rows),
            })
            .collect();
        self.session.truncate(0);
        self.session.extend(&inputs)?;
        if let Some(given) = &question.logits8 {
            report.logits.compare(self.session.logits(), given);
        }
        self.answer()
    }

    /// Encodes the picture, unless it is the last one again.
    fn look_at(&mut self, name: &'e str) -> Result<()> {
        if self.picture.as_ref().is_none_or(|(last, _)| *last != name) {
            let rows = encode(self.assistant, &self.image_root.join(name))?;
            self.picture = Some((name, rows));
        }
        Ok(())
    }

    /// The greedy answer to what the session holds.
    fn answer(&mut self) -> Result<Answer> {
        let tokenizer = &self.assistant.tokenizer;
        let room = self.session.capacity() - self.session.len();
        let mut answer = Answer::default();
        for n_left in (0..self.max_tokens.min(room)).rev() {
            let (id, gap) = likeliest(self.session.logits());
            answer.ids.push(id);
            answer.gaps.push(gap);
            if id == tokenizer.vocabulary().eos_id {
                break;
            }
            if n_left > 0 {
                self.session.step(id)?;
            }
        }
        answer.text = tokenizer.decode(&answer.ids).trim().to_owned();
        Ok(answer)
    }
}

/// The id of the highest logit, the lowest id on ties, and by how much it is above the next.
fn likeliest(logits: &[f32]) -> (u32, f32) {
    let (mut best, mut next) = ((0, f32::NEG_INFINITY), f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            next = best.1;
            best = (id, logit);
        } else {
            next = next.max(logit);
        }
    }
    (best.0, best.1 - next)
}

fn compare_prompt(report: &mut Report, index: usize, question: &Question, prompt: &[Segment]) {
    let Some(given) = &question.prompt_ids else {
        return;
    };
    let mut ids = Vec::new();
    for segment in prompt {
        match segment {
            Segment::Tokens(tokens) => ids.extend(tokens.iter().map(|&id| i64::from(id))),
            Segment::Image(_) => ids.push(IMAGE_ID),
        }
    }
    report.prompt_ids.count(ids == *given);
    if ids != *given {
        report.differing_prompts.push(index);
    }
}

fn compare_answer(report: &mut Report, index: usize, question: &Question, answer: Answer) {
    if let Some(right) = &question.answer {
        let kind = question.kind.as_deref().unwrap_or(NO_KIND);
        let tally = report.exact.entry(kind.to_owned()).or_default();
        tally.count(answer.text == right.trim());
    }
    let mut same = true;
    let mut position = None;
    if let Some(given) = &question.output_ids {
        position = first_difference(&answer.ids, given);
        report.output_ids.count(position.is_none());
        same = position.is_none();
    }
    if let Some(given) = &question.model_answer {
        let same_text = answer.text == given.trim();
        report.model_answer.count(same_text);
        same &= same_text;
    }
    if !same {
        report.differences.push(Difference {
            index,
            answer,
            position,
        });
    }
}

/// The first index at which `a` and `b` differ, where they do.
fn first_difference(a: &[u32], b: &[u32]) -> Option<usize> {
    let differing = a.iter().zip(b).position(|(a, b)| a != b);
    differing.or_else(|| (a.len() != b.len()).then(|| a.len().min(b.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_is_the_lowest_of_equals() {
        assert_eq!(likeliest(&[1.0, 3.0, 2.5]), (1, 0.5));
        assert_eq!(likeliest(&[2.0, 2.0]), (0, 0.0));
    }

    #[test]
    fn ids_that_go_on_differ_where_the_others_end() {
        assert_eq!(first_difference(&[1, 2], &[1, 2]), None);
        assert_eq!(first_difference(&[1, 3, 2], &[1, 4, 2]), Some(1));
        assert_eq!(first_difference(&[1], &[1, 2]), Some(1));
    }

    #[test]
    fn answers_are_compared_with_all_that_is_given() {
        let question: Question = serde_json::from_str(
            r#"{"question": "?", "answer": "a cat", "type": "naming", "output_ids": [5, 7, 2], "model_answer": "a dog"}"#,
        )
        .unwrap();
        let answer = Answer {
            ids: vec![5, 6, 2],
            gaps: vec![1.0, 0.25, 1.0],
            text: "a cat".into(),
        };
        let mut report = Report::default();
        compare_answer(&mut report, 3, &question, answer);
        assert_eq!(report.exact["naming"], Tally { n_right: 1, n: 1 });
        assert_eq!(report.output_ids, Tally { n_right: 0, n: 1 });
        assert_eq!(report.model_answer, Tally { n_right: 0, n: 1 });
        assert_eq!(report.differences[0].index, 3);
        assert_eq!(report.differences[0].gap(), Some(0.25));
    }
}
