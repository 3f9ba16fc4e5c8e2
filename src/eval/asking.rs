//! One model that is asked question after question.

use std::path::Path;

use super::report::{Divergence, GreedyAnswer};
use crate::error::Result;
use crate::image::{self, Aspect, Limits, Reading};
use crate::prompt::Segment;
use crate::request::Assistant;
use crate::session::{Input, Session};

/// A model in the course of an evaluation.
pub struct Asking<'e> {
    assistant: &'e Assistant,
    image_root: &'e Path,
    max_tokens: usize,
    session: Session,
    /// The last picture asked about and its inputs to the decoder.
    picture: Option<(&'e str, Vec<f32>)>,
    /// What pictures lacked, those encoded since somebody asked.
    warnings: Vec<String>,
}

/// An answer, and the logits that each of its tokens was chosen by.
#[derive(Debug, Default)]
pub struct Given {
    ids: Vec<u32>,
    /// `[ids, vocab_size]`.
    logits: Vec<f32>,
}

impl Given {
    /// Its ids, with the `</s>` that ended it.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl<'e> Asking<'e> {
    /// A session with room for each prompt and the longest answer to it.
    pub fn new(
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
            warnings: Vec::new(),
        }
    }

    /// What the files of pictures lack that were encoded since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Reads a prompt, with the picture of that name where it has one.
    pub fn read(&mut self, prompt: &[Segment], picture: Option<&'e str>) -> Result<()> {
        if let Some(name) = picture {
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
        self.session.extend(&inputs)
    }

    /// Encodes the picture, unless it is the last one again.
    fn look_at(&mut self, name: &'e str) -> Result<()> {
        if self.picture.as_ref().is_none_or(|(last, _)| *last != name) {
            let path = self.image_root.join(name);
            let (rows, damage) = encode(self.assistant, &path)?;
            let warning = damage.map(|damage| format!("{}: {damage}", path.display()));
            self.warnings.extend(warning);
            self.picture = Some((name, rows));
        }
        Ok(())
    }

    /// The model.
    pub fn assistant(&self) -> &'e Assistant {
        self.assistant
    }

    /// The logits of what comes next.
    pub fn logits(&self) -> &[f32] {
        self.session.logits()
    }

    /// The greedy answer to what was read.
    pub fn answer(&mut self) -> Result<GreedyAnswer> {
        let mut answer = GreedyAnswer::default();
        self.go_on(&mut answer, |_, _| ())?;
        Ok(answer)
    }

    /// The same, with logits.
    pub fn give(&mut self) -> Result<Given> {
        let mut given = Given::default();
        self.go_on(&mut GreedyAnswer::default(), |id, logits| {
            given.ids.push(id);
            given.logits.extend_from_slice(logits);
        })?;
        Ok(given)
    }

    /// The greedy answer to what was read, while another model's answer is compared token by token.
    pub fn follow(&mut self, given: &Given, divergence: &mut Divergence) -> Result<GreedyAnswer> {
        let start = self.session.len();
        let mut answer = GreedyAnswer::default();
        let mut is_same = true;
        let logits = given.logits.chunks_exact(self.logits().len());
        for (i, (&id, logits)) in given.ids.iter().zip(logits).enumerate() {
            divergence.add(logits, self.logits());
            if is_same {
                is_same = answer.push(self.logits()) == id;
            }
            if i + 1 < given.ids.len() {
                self.session.step(id)?;
            }
        }
        if !is_same {
            // Its own way begins at the last token of `answer`.
            self.session.truncate(start + answer.ids.len() - 1);
            if self.wants_more(&answer) {
                self.step(&answer)?;
                self.go_on(&mut answer, |_, _| ())?;
            }
        }
        answer.text = self.text(&answer.ids);
        Ok(answer)
    }

    /// Adds tokens to an answer until it ends; `chosen` is called for each.
    fn go_on(
        &mut self,
        answer: &mut GreedyAnswer,
        mut chosen: impl FnMut(u32, &[f32]),
    ) -> Result<()> {
        while self.wants_more(answer) {
            let id = answer.push(self.logits());
            chosen(id, self.logits());
            if self.wants_more(answer) {
                self.step(answer)?;
            }
        }
        answer.text = self.text(&answer.ids);
        Ok(())
    }

    /// Whether an answer can go on, as far as its last token, the tokens wanted and the room say.
    fn wants_more(&self, answer: &GreedyAnswer) -> bool {
        let eos_id = self.assistant.tokenizer.vocabulary().eos_id;
        answer.ids.last() != Some(&eos_id)
            && answer.ids.len() < self.max_tokens
            && self.session.len() < self.session.capacity()
    }

    /// Computes the last token of an answer.
    fn step(&mut self, answer: &GreedyAnswer) -> Result<()> {
        let &id = answer.ids.last().expect("a token");
        self.session.step(id)
    }

    fn text(&self, ids: &[u32]) -> String {
        self.assistant.tokenizer.decode(ids).trim().to_owned()
    }
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

/// The decoder's inputs for a picture, and what its file lacks.
fn encode(assistant: &Assistant, path: &Path) -> Result<(Vec<f32>, Option<String>)> {
    let visual = assistant.visual()?;
    let picture = image::open(path, Reading::Reference, &Limits::default())?;
    let pixels = visual.preprocess.pixels(&picture, Aspect::Squash);
    let pixels = pixels.map_err(|e| e.in_file(path))?;
    let rows = assistant.model().encode_image(&pixels)?;
    Ok((rows, picture.damage().map(str::to_owned)))
}
