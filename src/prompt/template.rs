//! How the turns of a conversation are put together: the reference's `conversation.py`.
//!
//! `v0` of the reference also has one example exchange in front of every conversation; here it
//! begins with its system text.

use std::fmt;
use std::str::FromStr;

use super::{IMAGE_MARKER, Message, Part, Role};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, names};

/// The `</s>` with which the reference's prompt strings end an answer.
const END_OF_TEXT: &str = "</s>";
/// `sep` of the reference's `conv_vicuna_v0`.
const V0_SEPARATOR: &str = "###";
/// `system` of the reference's `conv_vicuna_v1`.
const V1_SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.";
/// `system` of the reference's `conv_vicuna_v0`.
const V0_SYSTEM: &str = "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the human's questions.";

/// A way to put the turns of a conversation together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Template {
    /// `USER: ... ASSISTANT:`, without a system text: what the released model was tuned on.
    #[default]
    MplugOwl2,
    /// Vicuna's: a system text, then as above.
    V1,
    /// `###Human: ...###Assistant:` after a system text.
    V0,
}

impl Template {
    /// The template that a file names; plain LLaMA files name none.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) for one that this version does not know.
    pub fn read(gguf: &Gguf) -> Result<Option<Self>> {
        let key = names::key(names::ARCHITECTURE, names::visual::PROMPT_TEMPLATE);
        match gguf.find::<&str>(&key)? {
            Some(name) => match name.parse() {
                Ok(template) => Ok(Some(template)),
                Err(e) => Err(Error::model(e.to_string()).in_key(key)),
            },
            None => Ok(None),
        }
    }

    /// The text that ends an answer, besides the token `</s>`.
    pub fn stop(self) -> &'static str {
        match self {
            Template::MplugOwl2 | Template::V1 => END_OF_TEXT,
            Template::V0 => V0_SEPARATOR,
        }
    }

    /// The parts of the prompt for `messages`, after a system text: `None` is the template's own,
    /// where it has one, and an empty one is none at all.
    pub fn parts<'a>(self, system: Option<&'a str>, messages: &'a [Message]) -> Vec<Part<'a>> {
        let system = system.unwrap_or(self.system());
        let mut parts = Vec::new();
        if !system.is_empty() {
            parts.extend([system, self.system_separator()].map(Part::Text));
        }
        for message in messages {
            parts.push(Part::Text(self.role_name(message.role)));
            parts.push(Part::Text(":"));
            if !message.text.is_empty() {
                parts.push(Part::Text(" "));
                push_content(&mut parts, message);
                parts.push(self.separator(message.role));
            }
        }
        parts
    }

    /// The prompt for `messages` as the reference has it, one string in which `</s>` and the
    /// picture marker are spelled out.
    pub fn render(self, messages: &[Message]) -> String {
        let spell = |part: &Part<'_>| match *part {
            Part::Text(text) => text.to_owned(),
            Part::EndOfText => END_OF_TEXT.to_owned(),
            Part::Image => IMAGE_MARKER.to_owned(),
        };
        self.parts(None, messages).iter().map(spell).collect()
    }

    /// What comes before the first turn.
    fn system(self) -> &'static str {
        match self {
            Template::MplugOwl2 => "",
            Template::V1 => V1_SYSTEM,
            Template::V0 => V0_SYSTEM,
        }
    }

    fn system_separator(self) -> &'static str {
        match self {
            Template::MplugOwl2 | Template::V1 => " ",
            Template::V0 => V0_SEPARATOR,
        }
    }

    fn role_name(self, role: Role) -> &'static str {
        match (self, role) {
            (Template::V0, Role::User) => "Human",
            (Template::V0, Role::Assistant) => "Assistant",
            (_, Role::User) => "USER",
            (_, Role::Assistant) => "ASSISTANT",
        }
    }

    /// What ends a turn that has a text.
    fn separator(self, role: Role) -> Part<'static> {
        match (self, role) {
            (Template::V0, _) => Part::Text(V0_SEPARATOR),
            (_, Role::User) => Part::Text(" "),
            (_, Role::Assistant) => Part::EndOfText,
        }
    }
}

/// Adds the text of a turn; only a user's can have picture slots.
fn push_content<'a>(parts: &mut Vec<Part<'a>>, message: &'a Message) {
    if message.role == Role::Assistant {
        parts.push(Part::Text(&message.text));
        return;
    }
    for (index, text) in message.text.split(IMAGE_MARKER).enumerate() {
        if index > 0 {
            parts.push(Part::Image);
        }
        parts.push(Part::Text(text));
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Template::MplugOwl2 => "mplug_owl2",
            Template::V1 => "v1",
            Template::V0 => "v0",
        })
    }
}

impl FromStr for Template {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "mplug_owl2" => Ok(Template::MplugOwl2),
            "v1" | "vicuna_v1" => Ok(Template::V1),
            "v0" | "default" => Ok(Template::V0),
            _ => Err(Error::usage(format!(
                "unknown prompt template '{text}' (expected mplug_owl2, v1 or v0)"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::write::{Metadata, Writer};

    const NAMES: [(&str, Template); 5] = [
        ("mplug_owl2", Template::MplugOwl2),
        ("v1", Template::V1),
        ("vicuna_v1", Template::V1),
        ("v0", Template::V0),
        ("default", Template::V0),
    ];

    #[test]
    fn the_names_of_the_reference_are_known() {
        for (name, template) in NAMES {
            assert_eq!(name.parse::<Template>().expect(name), template);
            let shown = template.to_string();
            assert_eq!(shown.parse::<Template>().expect(name), template);
        }
        assert!("v7".parse::<Template>().is_err());
    }

    #[test]
    fn a_file_names_its_template_or_none() {
        let read = |name: Option<&str>| {
            let key = names::key(names::ARCHITECTURE, names::visual::PROMPT_TEMPLATE);
            let mut metadata = Metadata::default();
            if let Some(name) = name {
                metadata.set(key, name);
            }
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("template.gguf");
            let writer = Writer::create(&path, &metadata, &[], false).expect("a file");
            writer.finish().expect("written");
            Template::read(&Gguf::open(&path).expect("a GGUF file"))
        };
        assert_eq!(read(None).expect("none"), None);
        for (name, template) in NAMES {
            assert_eq!(read(Some(name)).expect(name), Some(template));
        }
        let error = read(Some("v7")).expect_err("v7").to_string();
        assert!(error.contains("prompt.template"), "{error}");
    }

    #[test]
    fn a_system_text_replaces_that_of_the_template() {
        for (template, separator) in [
            (Template::MplugOwl2, " "),
            (Template::V1, " "),
            (Template::V0, "###"),
        ] {
            let parts = template.parts(Some("Be brief."), &[]);
            assert_eq!(parts, ["Be brief.", separator].map(Part::Text));
            assert_eq!(template.parts(Some(""), &[]), []);
            let has_its_own = !template.parts(None, &[]).is_empty();
            assert_eq!(has_its_own, template != Template::MplugOwl2);
        }
    }
}
