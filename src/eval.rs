//! Asks questions with known answers, and counts how many answers are right, or equal those of another
//! implementation of the model.
//!
//! The settings are the reference's defaults, so that results can be compared: answers are greedy,
//! pictures are squashed, and their orientation is ignored.

mod asking;
pub mod benchmark;
pub mod letters;
pub mod metrics;
pub mod prompts;
pub mod quality;
mod questions;
mod report;
pub mod table;

use std::path::Path;

pub use questions::{EvalQuestion, read};
pub use report::{Difference, Divergence, EvalReport, GreedyAnswer, Tally, WorstLogit};

use asking::Asking;

use crate::error::{Error, Result};
use crate::prompt::{Message, Segment, place_images};
use crate::request::{Assistant, Prompt};

/// What stands for a picture in prompt ids (`IMAGE_TOKEN_INDEX` of the reference's `constants.py`).
const IMAGE_ID: i64 = -200;

/// Counts for questions that name no kind.
const NO_KIND: &str = "other";

/// What questions are put to, and how.
#[derive(Debug)]
pub struct Evaluation<'e> {
    /// The model.
    pub assistant: &'e Assistant,
    /// Another one, whose answers and logits it is compared with: often the same with more bits.
    pub reference: Option<&'e Assistant>,
    /// Where pictures are looked for.
    pub image_root: &'e Path,
    /// Tokens after which an answer ends, unless the context ends it before.
    pub max_tokens: usize,
}

impl Evaluation<'_> {
    /// Asks all questions. A picture is encoded once for questions in a row about it. `answered`
    /// is called after each question.
    ///
    /// # Errors
    /// The first picture that cannot be used, [`Kind::Capacity`](crate::Kind::Capacity) for a
    /// prompt longer than the model's context, and [`Kind::Usage`](crate::Kind::Usage) for a
    /// reference that reads other prompts than the model.
    pub fn run(
        &self,
        questions: &[EvalQuestion],
        mut answered: impl FnMut(&EvalReport),
    ) -> Result<EvalReport> {
        let prompts = questions
            .iter()
            .map(|question| prompt(self.assistant, question));
        let prompts: Vec<_> = prompts.collect::<Result<_>>()?;
        if let Some(reference) = self.reference {
            check_reference(reference, self.assistant, questions, &prompts)?;
        }
        let asking = |of| Asking::new(of, &prompts, self.image_root, self.max_tokens);
        let mut model = asking(self.assistant);
        let mut reference = self.reference.map(asking);
        let mut report = EvalReport::default();
        for (index, (question, prompt)) in questions.iter().zip(&prompts).enumerate() {
            compare_prompt(&mut report, index, question, prompt);
            let picture = question.image.as_deref();
            // Each model has threads of its own, which work while the other's do not.
            let given = match &mut reference {
                None => None,
                Some(reference) => Some(on_threads(reference.assistant(), || {
                    reference.read(prompt, picture)?;
                    reference.give()
                })?),
            };
            let answer = on_threads(self.assistant, || {
                model.read(prompt, picture)?;
                if let Some(given) = &question.logits8 {
                    report.logits.compare(model.logits(), given);
                }
                match &given {
                    None => model.answer(),
                    Some(given) => model.follow(given, &mut report.divergence),
                }
            })?;
            if let Some(given) = given {
                report.reference_ids.count(answer.ids == given.ids());
            }
            let eos_id = self.assistant.tokenizer.vocabulary().eos_id;
            report.warnings.extend(model.take_warnings());
            report.n_cut += usize::from(answer.ids.last() != Some(&eos_id));
            compare_answer(&mut report, index, question, answer);
            answered(&report);
        }
        Ok(report)
    }
}
fn prompt(assistant: &Assistant, question: &EvalQuestion) -> Result<Vec<Segment>> {
    let text = place_images(&question.question, usize::from(question.image.is_some()))?;
    let messages = vec![Message::user(text), Message::assistant("")];
    let (segments, _) = assistant.segments(&Prompt::turns(messages));
    Ok(segments)
}

/// Fails where `reference` reads other prompts or chooses among other tokens than `assistant`.
fn check_reference(
    reference: &Assistant,
    assistant: &Assistant,
    questions: &[EvalQuestion],
    prompts: &[Vec<Segment>],
) -> Result<()> {
    let [theirs, ours] = [reference, assistant].map(|a| a.model().config());
    if theirs.decoder.vocab_size != ours.decoder.vocab_size {
        return Err(another_model("has another vocabulary"));
    }
    for (question, own) in questions.iter().zip(prompts) {
        if prompt(reference, question)? != *own {
            return Err(another_model("reads other ids in a prompt"));
        }
    }
    Ok(())
}

fn another_model(how: &str) -> Error {
    let message = format!("{how} than the model does; give another file of the same model");
    Error::usage(message).in_parameter("reference")
}

/// Does `work` inside the threads of a model.
fn on_threads<R: Send>(assistant: &Assistant, work: impl FnOnce() -> R + Send) -> R {
    assistant.model().compute().threads.enter(work)
}

fn compare_prompt(
    report: &mut EvalReport,
    index: usize,
    question: &EvalQuestion,
    prompt: &[Segment],
) {
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

fn compare_answer(
    report: &mut EvalReport,
    index: usize,
    question: &EvalQuestion,
    answer: GreedyAnswer,
) {
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
    fn ids_that_go_on_differ_where_the_others_end() {
        assert_eq!(first_difference(&[1, 2], &[1, 2]), None);
        assert_eq!(first_difference(&[1, 3, 2], &[1, 4, 2]), Some(1));
        assert_eq!(first_difference(&[1], &[1, 2]), Some(1));
    }

    #[test]
    fn answers_are_compared_with_all_that_is_given() {
        let question: EvalQuestion = serde_json::from_str(
            r#"{"question": "?", "answer": "a cat", "type": "naming", "output_ids": [5, 7, 2], "model_answer": "a dog"}"#,
        )
        .unwrap();
        let answer = GreedyAnswer {
            ids: vec![5, 6, 2],
            gaps: vec![1.0, 0.25, 1.0],
            text: "a cat".into(),
        };
        let mut report = EvalReport::default();
        compare_answer(&mut report, 3, &question, answer);
        assert_eq!(report.exact["naming"], Tally { n_right: 1, n: 1 });
        assert_eq!(report.output_ids, Tally { n_right: 0, n: 1 });
        assert_eq!(report.model_answer, Tally { n_right: 0, n: 1 });
        assert_eq!(report.differences[0].index, 3);
        assert_eq!(report.differences[0].gap(), Some(0.25));
    }
}
