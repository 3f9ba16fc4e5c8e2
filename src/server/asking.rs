//! A question from a client, whichever dialect it came in.

use serde_json::{Value, json};

use super::fields::{Fields, Read, wrong};
use super::refusal::Refusal;
use super::settings::ServerSettings;
use crate::constrain::Constraint;
use crate::prompt::{IMAGE_MARKER, Message, Role};
use crate::request::{Prompt, Request, Source};
use crate::sampler::Sampling;

/// What a client asks, read and checked as far as that goes without the model.
#[derive(Clone, Debug)]
pub struct ClientQuestion {
    /// All of it, pictures included.
    pub request: Request,
    /// Whether the answer is wanted as it comes.
    pub is_streamed: bool,
    /// Whether a streamed answer ends with the numbers of tokens (OpenAI's `include_usage`).
    pub wants_usage: bool,
    /// What the files of its pictures lack; known once they are decoded.
    pub warnings: Vec<String>,
}

/// The largest temperature; beyond OpenAI's 2 there is nothing but noise.
const MAX_TEMPERATURE: f64 = 100.0;

/// A conversation while it is read.
#[derive(Debug, Default)]
pub struct ClientMessages {
    system: Vec<String>,
    messages: Vec<Message>,
    pictures: Vec<Source>,
    n_text_bytes: usize,
    n_messages: usize,
}

/// Messages of a conversation at most; no context holds as many.
const MAX_MESSAGES: usize = 2000;

/// What a message holds.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    Text(&'a str),
    Picture(Source),
}

impl ClientMessages {
    /// Adds a message. `path` is that of its field.
    pub fn push(
        &mut self,
        settings: &ServerSettings,
        role: &str,
        contents: Vec<Content>,
        path: &str,
    ) -> Read<()> {
        for content in &contents {
            if let Content::Text(text) = content {
                self.n_text_bytes += text.len();
            }
        }
        let limits = &settings.limits;
        self.n_messages += 1;
        if self.n_messages > MAX_MESSAGES {
            return Err(Refusal::field(
                path,
                format!("there are more than {MAX_MESSAGES} messages"),
            ));
        }
        if self.n_text_bytes > limits.text_bytes {
            return Err(Refusal::field(
                path,
                format!("the texts have more than {} bytes", limits.text_bytes),
            ));
        }
        match role {
            "system" | "developer" => self.system.push(plain(contents, path)?),
            "user" => {
                let text = self.user_text(contents, path)?;
                if self.pictures.len() > limits.pictures {
                    return Err(Refusal::field(
                        path,
                        format!(
                            "has more than {} pictures together with those before",
                            limits.pictures
                        ),
                    ));
                }
                // The template has one turn of each in turn.
                match self.messages.last_mut() {
                    Some(last) if last.role == Role::User => {
                        last.text.push('\n');
                        last.text.push_str(&text);
                    }
                    _ => self.messages.push(Message::user(text)),
                }
            }
            "assistant" => {
                let text = plain(contents, path)?;
                match self.messages.last_mut() {
                    Some(last) if last.role == Role::Assistant => last.text.push_str(&text),
                    _ => self.messages.push(Message::assistant(text)),
                }
            }
            _ => {
                return Err(Refusal::field(
                    path,
                    "its role is not one of system, developer, user, assistant",
                ));
            }
        }
        Ok(())
    }

    /// The text of a user's message with a slot for each picture.
    fn user_text(&mut self, contents: Vec<Content>, path: &str) -> Read<String> {
        let is_picture = |content: &Content| matches!(content, Content::Picture(_));
        // Most clients put the picture after the only text; the model was trained with it before.
        let n_texts = contents
            .iter()
            .filter(|content| !is_picture(content))
            .count();
        let (pictures, texts): (Vec<_>, Vec<_>) = contents
            .into_iter()
            .partition(|content| n_texts == 1 && is_picture(content));
        let mut text = String::new();
        let mut was_text = false;
        for content in pictures.into_iter().chain(texts) {
            match content {
                Content::Picture(source) => {
                    text.push_str(IMAGE_MARKER);
                    self.pictures.push(source);
                    was_text = false;
                }
                Content::Text(part) => {
                    check_text(part, path)?;
                    if was_text {
                        text.push('\n');
                    }
                    text.push_str(part);
                    was_text = true;
                }
            }
        }
        Ok(text)
    }

    /// The prompt, and the pictures in it.
    pub fn finish(mut self, path: &str) -> Read<(Prompt, Vec<Source>)> {
        match self.messages.last() {
            None => return Err(Refusal::field(path, "has no message of a user")),
            Some(last) if last.role == Role::User => self.messages.push(Message::assistant("")),
            // The model goes on with what is there.
            Some(_) => {}
        }
        let prompt = Prompt::Turns {
            messages: self.messages,
            system: (!self.system.is_empty()).then(|| self.system.join("\n")),
            template: None,
        };
        Ok((prompt, self.pictures))
    }
}

/// A text that a person wrote has no picture slots of its own making.
fn check_text(text: &str, path: &str) -> Read<()> {
    match text.contains(IMAGE_MARKER) {
        false => Ok(()),
        true => Err(Refusal::field(
            path,
            format!(
                "has {IMAGE_MARKER} in its text, which stands for a picture; send pictures beside \
                 the text"
            ),
        )),
    }
}

/// The text of a message that cannot have pictures.
fn plain(contents: Vec<Content>, path: &str) -> Read<String> {
    let texts = contents.into_iter().map(|content| match content {
        Content::Text(text) => Ok(text),
        Content::Picture(_) => Err(Refusal::field(path, "only a user's message has pictures")),
    });
    Ok(texts.collect::<Read<Vec<_>>>()?.join("\n"))
}

/// How tokens are chosen. The names are the same in every dialect; where nothing is said, the
/// likeliest token is taken always, as the program does.
pub fn sampling(fields: &Fields, defaults: &Sampling) -> Read<Sampling> {
    let number = |name, least, most, default: f32| -> Read<f32> {
        Ok(fields
            .number(name, least, most)?
            .map_or(default, |number| number as f32))
    };
    let repeat_penalty = number("repeat_penalty", 0.0, 100.0, 1.0)?;
    if repeat_penalty == 0.0 {
        return Err(fields.refuse("repeat_penalty", "is 0, expected more than 0"));
    }
    Ok(Sampling {
        temperature: number("temperature", 0.0, MAX_TEMPERATURE, 0.0)?,
        top_p: number("top_p", 0.0, 1.0, defaults.top_p)?,
        min_p: number("min_p", 0.0, 1.0, 0.0)?,
        repeat_penalty,
        top_k: match fields.integer("top_k")? {
            None => defaults.top_k,
            // Below zero is off, as in llama.cpp.
            Some(top_k) => usize::try_from(top_k).unwrap_or(0),
        },
        seed: match fields.integer("seed")? {
            None => 0,
            // Below zero is any, as in llama.cpp.
            Some(seed) => u64::try_from(seed).unwrap_or_else(|_| any_seed()),
        },
    })
}

/// A seed that nobody chose.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// Texts that end the answer: one, or an array.
pub fn stops(fields: &Fields, name: &str, settings: &ServerSettings) -> Read<Vec<String>> {
    let values = match fields.get(name) {
        None => return Ok(Vec::new()),
        Some(value @ Value::String(_)) => std::slice::from_ref(value),
        Some(Value::Array(values)) => values,
        Some(other) => {
            return Err(wrong(
                &fields.path(name),
                other,
                "a text or an array of texts",
            ));
        }
    };
    /// Longer ones are no signs of an end.
    const MAX_BYTES: usize = 256;
    let limit = settings.limits.stops;
    if values.len() > limit {
        return Err(fields.refuse(name, format!("has more than {limit} texts")));
    }
    let texts = values.iter().enumerate().map(|(index, value)| match value {
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) if text.len() <= MAX_BYTES => Ok(Some(text.clone())),
        Value::String(_) => {
            Err(fields.refuse(name, format!("has a text of more than {MAX_BYTES} bytes")))
        }
        other => Err(wrong(
            &format!("{}[{index}]", fields.path(name)),
            other,
            "a text",
        )),
    });
    texts.filter_map(Result::transpose).collect()
}

/// What an answer must be that is held to a schema, or to JSON of any kind.
pub fn json_constraint(schema: Option<&Value>, path: &str) -> Read<Constraint> {
    let any = json!({"type": "object"});
    let schema = schema.unwrap_or(&any);
    if !schema.is_object() {
        return Err(wrong(path, schema, "an object, a JSON schema"));
    }
    Constraint::schema(schema.clone()).map_err(|e| Refusal::field(path, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(messages: &[(&str, &[Content])]) -> Read<(Prompt, Vec<Source>)> {
        let settings = ServerSettings::new("m");
        let mut conversation = ClientMessages::default();
        for (role, contents) in messages {
            conversation.push(&settings, role, contents.to_vec(), "messages[0]")?;
        }
        conversation.finish("messages")
    }

    fn picture(byte: u8) -> Content<'static> {
        Content::Picture(Source::Bytes(vec![byte]))
    }

    #[test]
    fn pictures_come_first_unless_texts_stand_between_them() {
        let one = [Content::Text("What is it?"), picture(1), picture(2)];
        let (prompt, pictures) = conversation(&[("user", &one)]).unwrap();
        let text = format!("{IMAGE_MARKER}{IMAGE_MARKER}What is it?");
        let open = Message::assistant("");
        assert_eq!(
            prompt,
            Prompt::turns(vec![Message::user(text), open.clone()])
        );
        assert_eq!(pictures, [Source::Bytes(vec![1]), Source::Bytes(vec![2])]);

        let labelled = [
            Content::Text("First:"),
            picture(1),
            Content::Text("Second:"),
            picture(2),
            Content::Text("Which?"),
            Content::Text("Why?"),
        ];
        let (prompt, _) = conversation(&[("user", &labelled)]).unwrap();
        let text = format!("First:{IMAGE_MARKER}Second:{IMAGE_MARKER}Which?\nWhy?");
        assert_eq!(prompt, Prompt::turns(vec![Message::user(text), open]));
    }

    #[test]
    fn turns_follow_one_another_and_an_answer_begun_is_gone_on_with() {
        let text = |text| [Content::Text(text)];
        let (prompt, _) = conversation(&[
            ("system", &text("Be short.")),
            ("user", &text("Hello")),
            ("user", &text("you")),
            ("assistant", &text("Hi")),
        ])
        .unwrap();
        let wanted = Prompt::Turns {
            messages: vec![Message::user("Hello\nyou"), Message::assistant("Hi")],
            system: Some("Be short.".to_owned()),
            template: None,
        };
        assert_eq!(prompt, wanted);
    }

    #[test]
    fn what_no_template_has_is_refused() {
        let text = |text| [Content::Text(text)];
        for messages in [
            vec![],
            vec![("system", &text("x")[..])],
            vec![("tool", &text("x")[..])],
            vec![("assistant", &[picture(1)][..])],
            vec![("user", &text("a <|image|> b")[..])],
        ] {
            let refusal = conversation(&messages).unwrap_err();
            assert_eq!(refusal.status, 400, "{messages:?}");
        }
        let many: Vec<_> = (0..9).map(picture).collect();
        assert!(conversation(&[("user", &many)]).is_err());
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (body, name) in [
            (json!({"temperature": -1}), "temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"top_p": 1.5}), "top_p"),
            (json!({"min_p": -0.1}), "min_p"),
            (json!({"repeat_penalty": 0}), "repeat_penalty"),
            (json!({"top_k": 1.5}), "top_k"),
            (json!({"seed": 1e300}), "seed"),
        ] {
            let fields = Fields::of_body(&body).unwrap();
            let refusal = sampling(&fields, &Sampling::default()).unwrap_err();
            assert_eq!(refusal.param.as_deref(), Some(name));
        }
        let body = json!({"temperature": 0.5, "top_k": -1, "seed": 7, "top_p": null});
        let sampling = sampling(&Fields::of_body(&body).unwrap(), &Sampling::default()).unwrap();
        assert_eq!(
            (sampling.temperature, sampling.top_k, sampling.seed),
            (0.5, 0, 7)
        );
    }
}
