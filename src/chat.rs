//! A conversation about pictures: its turns, their pictures, and which of them fit the context.
//!
//! All turns share one [`PromptCache`], so a turn computes only its own positions. When the context is
//! full, the oldest turns are dropped from the prompt, those with pictures last.

mod file;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::prompt::{IMAGE_MARKER, Message, Template, place_images};
use crate::request::{
    Answer, Assistant, DEFAULT_MAX_TOKENS, Listener, Pixels, Prompt, Request, Source, StopReason,
    UNLIMITED,
};
use crate::reuse::PromptCache;

/// A picture of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its file.
    pub path: PathBuf,
    /// None where its turn was left out before the file was read.
    pixels: Option<Arc<Pixels>>,
}

impl Attachment {
    /// What its file lacks; `None` of a whole picture, and of one that was not read.
    pub fn damage(&self) -> Option<&str> {
        self.pixels.as_ref()?.damage()
    }
}

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What was asked.
    pub question: String,
    /// The pictures that came with the question.
    pub pictures: Vec<Attachment>,
    /// What the model said, perhaps not to its end.
    pub answer: String,
    /// Whether the model no longer reads it.
    pub is_left_out: bool,
}

/// A conversation in progress.
#[derive(Debug)]
pub struct Conversation<'m> {
    assistant: &'m Assistant,
    /// What earlier turns computed.
    pub memory: PromptCache,
    /// How to answer; its prompt and pictures count for nothing.
    pub settings: Request,
    /// What the model is told before the first turn; as in [`Prompt::Turns`].
    pub system: Option<String>,
    /// As in [`Prompt::Turns`].
    pub template: Option<Template>,
    turns: Vec<Turn>,
    /// The pictures of the next question.
    attached: Vec<Attachment>,
    /// How often the last answer was asked for again.
    n_again: u64,
}

impl<'m> Conversation<'m> {
    /// A conversation without turns, which answers as `settings` says.
    pub fn new(assistant: &'m Assistant, memory: PromptCache, settings: Request) -> Self {
        Conversation {
            assistant,
            memory,
            settings,
            system: None,
            template: None,
            turns: Vec::new(),
            attached: Vec::new(),
            n_again: 0,
        }
    }

    /// A conversation without turns, with the default settings, in which nothing is computed twice.
    ///
    /// # Errors
    /// As [`Assistant::context`].
    pub fn begin(assistant: &'m Assistant) -> Result<Self> {
        let memory = PromptCache::with_room(assistant.context(None)?).reusing_answers();
        let settings = Request::new(Prompt::turns(Vec::new()));
        Ok(Self::new(assistant, memory, settings))
    }

    /// All turns, oldest first.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The pictures of the next question.
    pub fn attached(&self) -> &[Attachment] {
        &self.attached
    }

    /// Reads a picture, which the next question is about.
    ///
    /// # Errors
    /// As [`Assistant::pixels`].
    pub fn attach(&mut self, path: &Path) -> Result<()> {
        let picture = self.picture(path)?;
        self.attached.push(picture);
        Ok(())
    }

    fn picture(&self, path: &Path) -> Result<Attachment> {
        let source = Source::File(path.to_owned());
        let (aspect, reading) = (self.settings.aspect, self.settings.reading);
        let pixels = self.assistant.pixels(&source, aspect, reading)?;
        // A picture that is there already is held once, whatever its file is called.
        let of_turns = self.turns.iter().flat_map(|turn| &turn.pictures);
        let mut held = of_turns.chain(&self.attached);
        let same = held.find_map(|other| other.pixels.as_ref().filter(|held| **held == pixels));
        Ok(Attachment {
            path: path.to_owned(),
            pixels: Some(same.cloned().unwrap_or(pixels)),
        })
    }

    /// Forgets all turns and pictures.
    pub fn clear(&mut self) {
        self.turns.clear();
        self.attached.clear();
    }

    /// Answers `question` about the pictures attached since the last one. An answer that the
    /// listener cut off is a turn too, if it had begun.
    ///
    /// # Errors
    /// As [`Assistant::answer`]; the conversation is as it was then.
    pub fn ask(&mut self, question: &str, listener: &mut Listener) -> Result<Answer> {
        self.n_again = 0;
        self.turns.push(Turn {
            question: question.to_owned(),
            pictures: self.attached.clone(),
            answer: String::new(),
            is_left_out: false,
        });
        let answer = self.answer(listener);
        match &answer {
            Ok(answer) if !is_nothing(answer) => self.attached.clear(),
            _ => drop(self.turns.pop()),
        }
        answer
    }

    /// Answers the last question again, with another seed.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where nothing was asked yet, else as
    /// [`Conversation::ask`].
    pub fn ask_again(&mut self, listener: &mut Listener) -> Result<Answer> {
        if self.turns.is_empty() {
            return Err(Error::input("nothing was asked yet"));
        }
        if self.turns.last().is_some_and(|turn| turn.is_left_out) {
            return Err(Error::input(
                "the last question has more pictures than the context holds",
            ));
        }
        self.n_again += 1;
        self.answer(listener)
    }

    /// Answers the last turn.
    fn answer(&mut self, listener: &mut Listener) -> Result<Answer> {
        let are_left_out: Vec<bool> = self.turns.iter().map(|turn| turn.is_left_out).collect();
        let answer = self.fit().and_then(|()| {
            let request = self.request()?;
            self.assistant
                .answer_from(&mut self.memory, &request, listener)
        });
        match (&answer, self.turns.last_mut()) {
            (Ok(answer), Some(turn)) if !is_nothing(answer) => {
                turn.answer = answer.text.trim().to_owned();
            }
            (Ok(_), _) => {}
            (Err(_), _) => {
                for (turn, is_left_out) in self.turns.iter_mut().zip(are_left_out) {
                    turn.is_left_out = is_left_out;
                }
            }
        }
        answer
    }

    /// The request for an answer to the last turn.
    fn request(&self) -> Result<Request> {
        let mut messages = Vec::new();
        let mut pictures = Vec::new();
        let n_answered = self.turns.len().saturating_sub(1);
        for (index, turn) in self.turns.iter().enumerate() {
            if turn.is_left_out {
                continue;
            }
            messages.push(turn.message()?);
            let answer = if index < n_answered { &turn.answer } else { "" };
            messages.push(Message::assistant(answer));
            for picture in &turn.pictures {
                let pixels = picture.pixels.clone().ok_or_else(|| {
                    Error::input("the picture was not read").in_file(&picture.path)
                })?;
                pictures.push(Source::Pixels(pixels));
            }
        }
        let mut request = Request {
            prompt: Prompt::Turns {
                messages,
                system: self.system.clone(),
                template: self.template,
            },
            pictures,
            ..self.settings.clone()
        };
        request.sampling.seed = request.sampling.seed.wrapping_add(self.n_again);
        Ok(request)
    }

    /// Leaves out old turns until the prompt and an answer fit the context. However many turns there
    /// are, only those that may fit are tokenized.
    fn fit(&mut self) -> Result<()> {
        let context = self.assistant.context(self.settings.context)?;
        let longest = DEFAULT_MAX_TOKENS.min(context / 4);
        let wanted = self.settings.max_tokens.filter(|&n| n != UNLIMITED);
        let answer = wanted.unwrap_or(longest);
        let order = self.keeping_order();
        let fits_all = self.n_fitting(&order, context.saturating_sub(answer))? == order.len();
        if fits_all && self.n_positions()?.saturating_add(answer) <= context {
            return Ok(());
        }
        // What follows a turn that is left out is computed anew, so room is made for a while.
        let wanted = context / 4 * 3;
        let n_fitting = self.n_fitting(&order, wanted.saturating_sub(answer))?;
        // The last turn stays, whatever its length.
        for &index in order.iter().skip(n_fitting.max(1)) {
            self.turns[index].is_left_out = true;
        }
        // Turns were counted one by one, and may take a little more together.
        for &index in order.iter().take(n_fitting).skip(1).rev() {
            if self.n_positions()?.saturating_add(answer) <= wanted {
                break;
            }
            self.turns[index].is_left_out = true;
        }
        Ok(())
    }

    /// The turns that are read, those first that are left out last: the last one, which is always
    /// read, then those with pictures, and of these the newest first.
    fn keeping_order(&self) -> Vec<usize> {
        let Some(last) = self.turns.len().checked_sub(1) else {
            return Vec::new();
        };
        let read = |index: &usize| !self.turns[*index].is_left_out;
        let has_pictures = |index: &usize| !self.turns[*index].pictures.is_empty();
        let (with, without): (Vec<_>, Vec<_>) =
            (0..last).rev().filter(read).partition(has_pictures);
        [vec![last], with, without].concat()
    }

    /// How many of the turns in `order` fit `room` positions.
    fn n_fitting(&self, order: &[usize], room: usize) -> Result<usize> {
        let prompt = |messages, system: Option<String>| Prompt::Turns {
            messages,
            system,
            template: self.template,
        };
        let beginning = prompt(Vec::new(), self.system.clone());
        let mut n_positions = self.assistant.n_positions(&beginning, 0)?;
        let n_bos = usize::from(self.assistant.tokenizer.vocabulary().add_bos);
        for (n_fitting, &index) in order.iter().enumerate() {
            let turn = &self.turns[index];
            let left = room.saturating_sub(n_positions);
            if self.assistant.is_beyond(turn.n_bytes(), left) {
                return Ok(n_fitting);
            }
            let messages = vec![turn.message()?, Message::assistant(&turn.answer)];
            // Without a system text of its own, and without <s>.
            let alone = prompt(messages, Some(String::new()));
            let n_alone = self.assistant.n_positions(&alone, turn.pictures.len())?;
            n_positions += n_alone.saturating_sub(n_bos);
            if n_positions > room {
                return Ok(n_fitting);
            }
        }
        Ok(order.len())
    }

    /// Positions of the prompt.
    fn n_positions(&self) -> Result<usize> {
        let request = self.request()?;
        self.assistant
            .n_positions(&request.prompt, request.pictures.len())
    }
}

/// Whether an answer was cut off before it had begun.
fn is_nothing(answer: &Answer) -> bool {
    answer.stop == StopReason::Cancelled && answer.text.trim().is_empty()
}

impl Turn {
    /// Bytes of its texts.
    fn n_bytes(&self) -> usize {
        self.question.len() + self.answer.len()
    }

    /// The question with a slot for each picture.
    fn message(&self) -> Result<Message> {
        if self.pictures.is_empty() && self.question.contains(IMAGE_MARKER) {
            return Err(Error::input(format!(
                "the question has a '{IMAGE_MARKER}', but no picture is attached"
            )));
        }
        place_images(&self.question, self.pictures.len()).map(Message::user)
    }
}
