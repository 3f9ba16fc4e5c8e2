//! Conversations as JSON files: the messages, and where their pictures are.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Attachment, Conversation, Turn};
use crate::error::{Error, Kind, Result};
use crate::{atomic_file, files};

/// Larger files hold no conversation that anybody had.
const MAX_FILE_BYTES: u64 = 16 << 20;

#[derive(Debug, Deserialize, Serialize)]
struct Saved {
    /// What the model is told first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    /// Questions and answers in turn.
    messages: Vec<SavedMessage>,
}

#[derive(Debug, Deserialize, Serialize)]
struct SavedMessage {
    role: SavedRole,
    text: String,
    /// Absolute, or relative to the folder of the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    images: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum SavedRole {
    User,
    Assistant,
}

impl Conversation<'_> {
    /// Writes all turns to `path`, in place of an older conversation: all of it or nothing.
    ///
    /// # Errors
    /// [`Kind::Io`] where it cannot be written, [`Kind::Input`] where `path` is a file that holds
    /// something else.
    pub fn save(&self, path: &Path) -> Result<()> {
        let is_other = |file: fs::Metadata| file.is_file() && file.len() > 0 && read(path).is_err();
        if fs::metadata(path).is_ok_and(is_other) {
            let message = "exists and is not a saved conversation; choose another name";
            return Err(Error::input(message).in_file(path));
        }
        let messages = self.turns.iter().flat_map(|turn| {
            let images = turn.pictures.iter().map(|picture| absolute(&picture.path));
            let question = SavedMessage {
                role: SavedRole::User,
                text: turn.question.clone(),
                images: images.collect(),
            };
            let answer = SavedMessage {
                role: SavedRole::Assistant,
                text: turn.answer.clone(),
                images: Vec::new(),
            };
            [question, answer]
        });
        let saved = Saved {
            system: self.system.clone(),
            messages: messages.collect(),
        };
        atomic_file::write(path, |out| {
            serde_json::to_writer_pretty(&mut *out, &saved)?;
            out.write_all(b"\n")
        })
    }

    /// Reads a conversation in place of this one. A picture that is named more than once is read
    /// once, and of more pictures than the context has room for, those of the oldest turns are not:
    /// these turns are left out. `go_on` is asked before each picture.
    ///
    /// # Errors
    /// [`Kind::Io`] where it or a picture cannot be read,
    /// [`Kind::Input`] where it holds no conversation or a picture is none,
    /// [`Kind::Interrupted`] where it is not to go on; the conversation is
    /// as it was then.
    pub fn load(&mut self, path: &Path, go_on: &mut dyn FnMut() -> bool) -> Result<()> {
        let saved = read(path).map_err(|e| e.in_file(path))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let turns = saved.messages.chunks(2).map(|pair| turn(pair, folder));
        let turns: Result<Vec<Turn>> = turns.collect();
        let mut turns = turns.map_err(|e| e.in_file(path))?;
        self.read_pictures(&mut turns, go_on)
            .map_err(|e| e.in_file(path))?;
        self.turns = turns;
        self.system = saved.system;
        self.attached.clear();
        Ok(())
    }

    /// Reads the pictures of as many of the last turns as may fit the context.
    fn read_pictures(&self, turns: &mut [Turn], go_on: &mut dyn FnMut() -> bool) -> Result<()> {
        let context = self.assistant.context(self.settings.context)?;
        let mut n_left = context / self.assistant.picture_rows().max(1);
        let mut known = HashMap::<PathBuf, Attachment>::new();
        let with_pictures = turns
            .iter_mut()
            .rev()
            .filter(|turn| !turn.pictures.is_empty());
        for turn in with_pictures {
            if turn.pictures.len() > n_left {
                turn.is_left_out = true;
                continue;
            }
            n_left -= turn.pictures.len();
            for picture in &mut turn.pictures {
                let read = match known.get(&picture.path) {
                    Some(picture) => picture.clone(),
                    None if go_on() => self.saved_picture(&picture.path)?,
                    None => return Err(Error::new(Kind::Interrupted, "interrupted")),
                };
                known.insert(picture.path.clone(), read.clone());
                *picture = read;
            }
        }
        Ok(())
    }

    /// A picture that a file names, not the person who loads it: no pipe or device, which could
    /// keep its reader waiting for ever.
    fn saved_picture(&self, path: &Path) -> Result<Attachment> {
        let metadata = fs::metadata(path).map_err(|e| Error::io("cannot open", path, e))?;
        if !metadata.is_file() {
            return Err(Error::input("is not an ordinary file").in_file(path));
        }
        self.picture(path)
    }
}

/// The turn of a question and its answer, whose pictures are still to be read.
fn turn(pair: &[SavedMessage], folder: &Path) -> Result<Turn> {
    let [question, answer] = pair else {
        return Err(Error::input("the last question has no answer"));
    };
    if (question.role, answer.role) != (SavedRole::User, SavedRole::Assistant) {
        return Err(Error::input(
            "the messages are not those of user and assistant in turn",
        ));
    }
    let pictures = question.images.iter().map(|path| Attachment {
        path: folder.join(path),
        pixels: None,
    });
    let turn = Turn {
        question: question.text.clone(),
        pictures: pictures.collect(),
        answer: answer.text.clone(),
        is_left_out: false,
    };
    turn.message().map(|_| turn)
}

fn read(path: &Path) -> Result<Saved> {
    let text = files::read_at_most(files::open(path)?, path, MAX_FILE_BYTES)?;
    let text = text.ok_or_else(|| {
        Error::input(format!(
            "is larger than {MAX_FILE_BYTES} bytes, so it is not a saved conversation"
        ))
    })?;
    serde_json::from_str(&files::text(text, path)?)
        .map_err(|e| Error::input(format!("is not a saved conversation: {e}")).caused_by(e))
}

/// The whole path, where the system tells.
fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
