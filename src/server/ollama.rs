//! `/api/...` as Ollama's clients use it.

use serde_json::{Value, json};

use super::asking::{ClientMessages, ClientQuestion, Content, json_constraint, sampling, stops};
use super::dialect::{Dialect, Frames, with_warnings};
use super::fields::{Fields, Read, wrong};
use super::pictures;
use super::refusal::Refusal;
use super::settings::ServerSettings;
use super::time;
use crate::constrain::Constraint;
use crate::request::{Answer, Prompt, Request, Source, StopReason};
use crate::sampler::Sampling;
use crate::timing::Stage;

/// Which of the two paths was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/api/generate`: a prompt.
    Generate,
    /// `/api/chat`: messages.
    Chat,
}

/// Reads the body of a request.
pub fn question(
    path: Endpoint,
    body: &Value,
    settings: &ServerSettings,
    defaults: &Sampling,
) -> Read<ClientQuestion> {
    let fields = Fields::of_body(body)?;
    fields.unsupported("tools", &[], "this model calls no tools; leave them out")?;
    fields.unsupported(
        "think",
        &[json!("false")],
        "this model does not think aloud",
    )?;
    fields.unsupported("suffix", &[], "this model fills in no gaps")?;
    fields.unsupported("template", &[], "the model file has one")?;
    fields.unsupported("logprobs", &[], "leave it out, or ask /owl2/score")?;
    // A conversation's ids are no longer sent by Ollama's own clients.
    fields.unsupported("context", &[], "use /api/chat")?;
    let (prompt, pictures) = match path {
        Endpoint::Generate => generate_prompt(&fields, settings)?,
        Endpoint::Chat => chat_prompt(&fields, settings)?,
    };
    let none = json!({});
    let options = match fields.object("options")? {
        Some(options) => options,
        None => Fields::of(&none, "options".to_owned())?,
    };
    let max_tokens = match options.count("num_predict")? {
        Some(0) => return Err(options.refuse("num_predict", "is 0, expected 1 or more")),
        max_tokens => max_tokens,
    };
    Ok(ClientQuestion {
        request: Request {
            pictures,
            sampling: sampling(&options, defaults)?,
            constraint: format(&fields)?,
            max_tokens,
            stops: stops(&options, "stop", settings)?,
            context: context(&options, settings)?,
            ..Request::new(prompt)
        },
        is_streamed: fields.flag("stream")?.unwrap_or(true),
        wants_usage: true,
        warnings: Vec::new(),
    })
}

/// A request may want less context than the server has, not more.
fn context(options: &Fields, settings: &ServerSettings) -> Read<Option<usize>> {
    let wanted = options.count("num_ctx")?;
    Ok(match (wanted, settings.context) {
        (Some(wanted), Some(context)) => Some(wanted.min(context)),
        // What the machine has room for is the model's business.
        (_, context) => context,
    })
}

fn generate_prompt(fields: &Fields, settings: &ServerSettings) -> Read<(Prompt, Vec<Source>)> {
    // LLM Vision sends an empty array for no prompt.
    let text = match fields.get("prompt") {
        Some(Value::Array(values)) if values.is_empty() => "",
        _ => fields.text("prompt")?.unwrap_or_default(),
    };
    let images = images(fields, settings)?;
    if fields.flag("raw")?.unwrap_or(false) {
        return raw_prompt(text, images, settings);
    }
    let mut conversation = ClientMessages::default();
    if let Some(system) = fields.text("system")?.filter(|system| !system.is_empty()) {
        let contents = vec![Content::Text(system)];
        conversation.push(settings, "system", contents, &fields.path("system"))?;
    }
    let contents = with_text(images, text);
    conversation.push(settings, "user", contents, &fields.path("prompt"))?;
    conversation.finish("prompt")
}

/// A whole prompt that a program wrote, where the operator lets programs do that.
fn raw_prompt(
    text: &str,
    images: Vec<Source>,
    settings: &ServerSettings,
) -> Read<(Prompt, Vec<Source>)> {
    if !settings.allow_raw {
        return Err(Refusal::field(
            "raw",
            "is true, which this server does not take; it runs with --allow-raw to let prompts \
             have control tokens",
        ));
    }
    if text.len() > settings.limits.text_bytes {
        let limit = settings.limits.text_bytes;
        return Err(Refusal::field(
            "prompt",
            format!("has more than {limit} bytes"),
        ));
    }
    Ok((Prompt::Raw(text.to_owned()), images))
}

fn chat_prompt(fields: &Fields, settings: &ServerSettings) -> Read<(Prompt, Vec<Source>)> {
    let Some(messages) = fields.array("messages")? else {
        return Err(fields.refuse("messages", "is missing"));
    };
    // LLM Vision sends a message's pictures beside the messages too; they are the same ones.
    let mut conversation = ClientMessages::default();
    for (index, message) in messages.iter().enumerate() {
        let message = Fields::of(message, format!("messages[{index}]"))?;
        message.unsupported("tool_calls", &[], "this model calls no tools")?;
        let Some(role) = message.text("role")? else {
            return Err(message.refuse("role", "is missing"));
        };
        let text = message.text("content")?.unwrap_or_default();
        let images = images(&message, settings)?;
        let path = message.path("content");
        conversation.push(settings, role, with_text(images, text), &path)?;
    }
    conversation.finish("messages")
}

fn with_text(images: Vec<Source>, text: &str) -> Vec<Content<'_>> {
    let mut contents: Vec<_> = images.into_iter().map(Content::Picture).collect();
    contents.push(Content::Text(text));
    contents
}

/// The pictures of a message, in base64.
fn images(fields: &Fields, settings: &ServerSettings) -> Read<Vec<Source>> {
    let images = fields.array("images")?.unwrap_or_default();
    let limit = settings.limits.pictures;
    if images.len() > limit {
        return Err(fields.refuse("images", format!("has more than {limit} pictures")));
    }
    let images = images.iter().enumerate().map(|(index, image)| {
        let path = format!("{}[{index}]", fields.path("images"));
        match image {
            Value::String(text) => pictures::from_base64_or_data(text, &path),
            other => Err(wrong(&path, other, "a picture in base64")),
        }
    });
    images.collect()
}

/// `"json"`, or a schema.
fn format(fields: &Fields) -> Read<Option<Constraint>> {
    match fields.get("format") {
        None => Ok(None),
        Some(Value::String(format)) if format.is_empty() => Ok(None),
        Some(Value::String(format)) if format == "json" => {
            json_constraint(None, "format").map(Some)
        }
        Some(schema @ Value::Object(_)) => json_constraint(Some(schema), "format").map(Some),
        Some(other) => Err(wrong("format", other, "\"json\" or a JSON schema")),
    }
}

/// How answers look to Ollama's clients.
#[derive(Clone, Debug)]
pub struct Ollama {
    path: Endpoint,
    model: String,
    warnings: Vec<String>,
}

impl Ollama {
    pub fn new(path: Endpoint, model: &str, question: &ClientQuestion) -> Self {
        Ollama {
            path,
            model: model.to_owned(),
            warnings: question.warnings.clone(),
        }
    }

    fn object(&self, text: &str) -> Value {
        let mut object = json!({
            "model": self.model,
            "created_at": time::now(),
            "done": false,
        });
        match self.path {
            Endpoint::Generate => object["response"] = text.into(),
            Endpoint::Chat => object["message"] = json!({"role": "assistant", "content": text}),
        }
        object
    }

    fn last(&self, text: &str, answer: &Answer) -> Value {
        let ns = |stage| answer.timings.of(stage).as_nanos() as u64;
        let mut object = self.object(text);
        object["done"] = true.into();
        object["done_reason"] = match answer.stop {
            StopReason::MaxTokens | StopReason::ContextFull | StopReason::Cancelled => "length",
            StopReason::EndOfText | StopReason::StopText => "stop",
        }
        .into();
        object["total_duration"] = (answer.timings.total().as_nanos() as u64).into();
        object["load_duration"] = ns(Stage::Load).into();
        object["prompt_eval_count"] = answer.n_prompt.into();
        object["prompt_eval_duration"] =
            (ns(Stage::Vit) + ns(Stage::Abstractor) + ns(Stage::Prefill)).into();
        object["eval_count"] = answer.ids.len().into();
        object["eval_duration"] = ns(Stage::Decode).into();
        with_warnings(object, &self.warnings)
    }
}

/// A line of a stream of JSON objects.
fn line(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

impl Dialect for Ollama {
    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn whole(&self, answer: &Answer) -> Value {
        self.last(&answer.text, answer)
    }
}

impl Frames for Ollama {
    fn begin(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn text(&mut self, text: &str) -> Vec<u8> {
        line(&self.object(text))
    }

    fn heartbeat(&mut self) -> Vec<u8> {
        line(&self.object(""))
    }

    fn end(&mut self, answer: &Answer) -> Vec<u8> {
        line(&self.last("", answer))
    }

    fn fail(&mut self, refusal: &Refusal) -> Vec<u8> {
        line(&refusal.as_ollama())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: Endpoint, body: Value) -> Read<ClientQuestion> {
        question(path, &body, &ServerSettings::new("m"), &Sampling::default())
    }

    #[test]
    fn what_tools_send_is_taken() {
        // PhotoPrism.
        let question = read(
            Endpoint::Generate,
            json!({
                "model": "owl2", "prompt": "Describe it.", "suffix": "", "images": ["Y2F0"],
                "format": "json", "stream": false, "think": false, "keep_alive": "5m",
                "options": {"temperature": 0.1, "num_ctx": 4096, "num_predict": -1, "stop": null, "seed": 0,
                            "mirostat": 0, "num_gpu": null},
            }),
        )
        .unwrap();
        assert!(!question.is_streamed);
        assert_eq!(question.request.pictures, [Source::Bytes(b"cat".to_vec())]);
        assert_eq!(question.request.max_tokens, None);
        // LLM Vision.
        let question = read(
            Endpoint::Chat,
            json!({
                "model": "owl2", "prompt": [], "images": ["Y2F0"], "think": false, "stream": false,
                "messages": [{"role": "user", "content": "What is it?", "images": ["Y2F0"]}],
                "options": null,
            }),
        )
        .unwrap();
        assert_eq!(question.request.pictures.len(), 1);
        // Home Assistant.
        let question = read(
            Endpoint::Chat,
            json!({"model": "owl2", "messages": [{"role": "user", "content": "Hi"}], "keep_alive": -1}),
        )
        .unwrap();
        assert!(question.is_streamed);
    }

    #[test]
    fn what_would_be_silently_wrong_is_refused_by_name() {
        for (path, body, name) in [
            (Endpoint::Generate, json!({"prompt": 3}), "prompt"),
            (
                Endpoint::Generate,
                json!({"prompt": "x", "images": "Y2F0"}),
                "images",
            ),
            (
                Endpoint::Generate,
                json!({"prompt": "x", "images": ["*"]}),
                "images[0]",
            ),
            (
                Endpoint::Generate,
                json!({"prompt": "x", "format": "xml"}),
                "format",
            ),
            (
                Endpoint::Generate,
                json!({"prompt": "x", "raw": true}),
                "raw",
            ),
            (
                Endpoint::Generate,
                json!({"prompt": "x", "think": true}),
                "think",
            ),
            (
                Endpoint::Generate,
                json!({"prompt": "x", "suffix": "y"}),
                "suffix",
            ),
            (
                Endpoint::Generate,
                json!({"prompt": "x", "options": {"num_predict": 0}}),
                "options.num_predict",
            ),
            (
                Endpoint::Generate,
                json!({"prompt": "x", "options": {"temperature": 1e308}}),
                "options.temperature",
            ),
            (
                Endpoint::Generate,
                json!({"prompt": "x", "options": 3}),
                "options",
            ),
            (Endpoint::Chat, json!({}), "messages"),
            (Endpoint::Chat, json!({"messages": [3]}), "messages[0]"),
            (
                Endpoint::Chat,
                json!({"messages": [{"role": "tool", "content": "x"}]}),
                "messages[0].content",
            ),
        ] {
            let refusal = read(path, body).unwrap_err();
            assert_eq!(refusal.param.as_deref(), Some(name));
            assert_eq!(refusal.status, 400);
        }
    }

    #[test]
    fn raw_prompts_are_for_operators_who_let_them() {
        let settings = ServerSettings {
            allow_raw: true,
            ..ServerSettings::new("m")
        };
        let body = json!({"prompt": "USER: x</s>", "raw": true});
        let question =
            question(Endpoint::Generate, &body, &settings, &Sampling::default()).unwrap();
        assert_eq!(
            question.request.prompt,
            Prompt::Raw("USER: x</s>".to_owned())
        );
    }
}
