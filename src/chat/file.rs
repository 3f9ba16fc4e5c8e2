//! Conversations as JSON files: the messages, and where their pictures are.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Conversation, Picture, Turn};
use crate::error::{Error, Result};
use crate::whole_file;

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
    /// Writes all turns to `path`, in place of what is there: all of it or nothing.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
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
        whole_file::write(path, |out| {
            serde_json::to_writer_pretty(&mut *out, &saved)?;
            out.write_all(b"\n")
        })
    }

    /// Reads a conversation in place of this one.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it or a picture cannot be read,
    /// [`Kind::Input`](crate::Kind::Input) where it holds no conversation or a picture is none; the
    /// conversation is as it was then.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let saved = read(path).map_err(|e| e.in_file(path))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut turns = Vec::new();
        for pair in saved.messages.chunks(2) {
            let turn = self.turn(pair, folder).map_err(|e| e.in_file(path))?;
            turns.push(turn);
        }
        self.turns = turns;
        self.system = saved.system;
        self.attached.clear();
        Ok(())
    }

    /// The turn of a question and its answer.
    fn turn(&self, pair: &[SavedMessage], folder: &Path) -> Result<Turn> {
        let [question, answer] = pair else {
            return Err(Error::input("the last question has no answer"));
        };
        if (question.role, answer.role) != (SavedRole::User, SavedRole::Assistant) {
            return Err(Error::input(
                "the messages are not those of user and assistant in turn",
            ));
        }
        let pictures = question.images.iter();
        let turn = Turn {
            question: question.text.clone(),
            pictures: pictures
                .map(|path| self.saved_picture(&folder.join(path)))
                .collect::<Result<_>>()?,
            answer: answer.text.clone(),
            is_left_out: false,
        };
        turn.message().map(|_| turn)
    }

    /// A picture that a file names, not the person who loads it: no pipe or device, which could
    /// keep its reader waiting for ever.
    fn saved_picture(&self, path: &Path) -> Result<Picture> {
        let metadata = fs::metadata(path).map_err(|e| Error::io("cannot open", path, e))?;
        if !metadata.is_file() {
            return Err(Error::input("is no ordinary file").in_file(path));
        }
        self.picture(path)
    }
}

fn read(path: &Path) -> Result<Saved> {
    let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|e| Error::io("cannot read", path, e))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::input(format!(
            "is larger than {MAX_FILE_BYTES} bytes and no saved conversation"
        )));
    }
    serde_json::from_slice(&text)
        .map_err(|e| Error::input(format!("is no saved conversation: {e}")).caused_by(e))
}

/// The whole path, where the system tells.
fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
