//! `/v1/chat/completions` as OpenAI's clients use it.

use serde_json::{Value, json};

use super::asking::{ClientMessages, ClientQuestion, Content, json_constraint, sampling, stops};
use super::dialect::{Dialect, Frames, with_warnings};
use super::fields::{Fields, Read, wrong};
use super::pictures;
use super::refusal::Refusal;
use super::settings::ServerSettings;
use super::time;
use crate::constrain::Constraint;
use crate::request::{Answer, Request, StopReason};
use crate::sampler::Sampling;
use crate::timing::Stage;

/// Reads the body of a request.
pub fn question(
    body: &Value,
    settings: &ServerSettings,
    defaults: &Sampling,
) -> Read<ClientQuestion> {
    let fields = Fields::of_body(body)?;
    refuse_unsupported(&fields)?;
    let (prompt, pictures) = messages(&fields, settings)?;
    let stream_options = fields.object("stream_options")?;
    let wants_usage = match &stream_options {
        Some(options) => options.flag("include_usage")?.unwrap_or(false),
        None => false,
    };
    Ok(ClientQuestion {
        request: Request {
            pictures,
            sampling: sampling(&fields, defaults)?,
            constraint: response_format(&fields)?,
            max_tokens: max_tokens(&fields)?,
            stops: stops(&fields, "stop", settings)?,
            context: settings.context,
            ..Request::new(prompt)
        },
        is_streamed: fields.flag("stream")?.unwrap_or(false),
        wants_usage,
        warnings: Vec::new(),
    })
}

/// Fails for what would silently change the answer if it were left out.
fn refuse_unsupported(fields: &Fields) -> Read<()> {
    let one = [json!(1)];
    let zero = [json!(0)];
    fields.unsupported("n", &one, "ask once for each answer")?;
    fields.unsupported("tools", &[], "this model calls no tools; leave them out")?;
    fields.unsupported(
        "functions",
        &[],
        "this model calls no functions; leave them out",
    )?;
    let no_tools = [json!("none"), json!("auto")];
    fields.unsupported("tool_choice", &no_tools, "this model calls no tools")?;
    fields.unsupported("logprobs", &[], "leave it out, or ask /owl2/score")?;
    fields.unsupported("top_logprobs", &zero, "leave it out, or ask /owl2/score")?;
    fields.unsupported("audio", &[], "answers are texts")?;
    fields.unsupported("modalities", &[json!(["text"])], "answers are texts")?;
    fields.unsupported("logit_bias", &[], "leave it out")?;
    fields.unsupported("frequency_penalty", &zero, "use repeat_penalty")?;
    fields.unsupported("presence_penalty", &zero, "use repeat_penalty")?;
    fields.unsupported("grammar", &[], "use response_format")?;
    fields.unsupported("prediction", &[], "leave it out")
}

fn max_tokens(fields: &Fields) -> Read<Option<usize>> {
    let old = fields.count("max_tokens")?;
    let max_tokens = fields.count("max_completion_tokens")?.or(old);
    match max_tokens {
        Some(0) => Err(fields.refuse("max_tokens", "is 0, expected 1 or more")),
        max_tokens => Ok(max_tokens),
    }
}

fn messages(
    fields: &Fields,
    settings: &ServerSettings,
) -> Read<(crate::request::Prompt, Vec<crate::request::Source>)> {
    let Some(messages) = fields.array("messages")? else {
        return Err(fields.refuse("messages", "is missing"));
    };
    let mut conversation = ClientMessages::default();
    for (index, message) in messages.iter().enumerate() {
        let message = Fields::of(message, format!("{}[{index}]", fields.path("messages")))?;
        message.unsupported("tool_calls", &[], "this model calls no tools")?;
        let Some(role) = message.text("role")? else {
            return Err(message.refuse("role", "is missing"));
        };
        let contents = contents(&message, settings)?;
        let path = message.path("content");
        conversation.push(settings, role, contents, &path)?;
    }
    conversation.finish("messages")
}

/// The parts of a message: a text, or an array of texts and pictures.
fn contents<'a>(message: &Fields<'a>, settings: &ServerSettings) -> Read<Vec<Content<'a>>> {
    let parts = match message.get("content") {
        Some(Value::String(text)) => return Ok(vec![Content::Text(text)]),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(wrong(&message.path("content"), other, "a text or an array")),
        None => return Err(message.refuse("content", "is missing")),
    };
    let mut n_pictures = 0;
    let parts = parts.iter().enumerate().map(|(index, part)| {
        let part = Fields::of(part, format!("{}[{index}]", message.path("content")))?;
        match part.text("type")? {
            Some("text") | Some("input_text") => match part.text("text")? {
                Some(text) => Ok(Content::Text(text)),
                None => Err(part.refuse("text", "is missing")),
            },
            Some("image_url") | Some("input_image") => {
                n_pictures += 1;
                if n_pictures > settings.limits.pictures {
                    let message = format!("has more than {} pictures", settings.limits.pictures);
                    return Err(Refusal::field("messages", message));
                }
                picture(&part, settings)
            }
            Some(other) => {
                Err(part.refuse("type", format!("is {other:?}, expected text or image_url")))
            }
            None => Err(part.refuse("type", "is missing")),
        }
    });
    parts.collect()
}

/// `"image_url": {"url": ...}`, or the address itself as some clients have it.
fn picture<'a>(part: &Fields<'a>, settings: &ServerSettings) -> Read<Content<'a>> {
    let (address, path) = match part.get("image_url") {
        Some(Value::String(address)) => (Some(address.as_str()), part.path("image_url")),
        _ => match part.object("image_url")? {
            Some(image) => (image.text("url")?, image.path("url")),
            None => (None, part.path("image_url")),
        },
    };
    let Some(address) = address else {
        return Err(Refusal::field(path, "is missing"));
    };
    let root = settings.media_root.as_deref();
    pictures::from_address(address, &path, root).map(Content::Picture)
}

/// `response_format`, and llama.cpp's `json_schema` beside it.
fn response_format(fields: &Fields) -> Read<Option<Constraint>> {
    if let Some(schema) = fields.get("json_schema") {
        return json_constraint(Some(schema), &fields.path("json_schema")).map(Some);
    }
    let Some(format) = fields.object("response_format")? else {
        return Ok(None);
    };
    match format.text("type")? {
        None | Some("text") => Ok(None),
        // llama.cpp has a schema here too.
        Some("json_object") => {
            json_constraint(format.get("schema"), &format.path("schema")).map(Some)
        }
        Some("json_schema") => {
            let Some(inner) = format.object("json_schema")? else {
                return Err(format.refuse("json_schema", "is missing"));
            };
            let Some(schema) = inner.get("schema") else {
                return Err(inner.refuse("schema", "is missing"));
            };
            json_constraint(Some(schema), &inner.path("schema")).map(Some)
        }
        Some(other) => Err(format.refuse(
            "type",
            format!("is {other:?}, expected text, json_object or json_schema"),
        )),
    }
}

/// How answers look to OpenAI's clients.
#[derive(Clone, Debug)]
pub struct OpenAi {
    id: String,
    model: String,
    created_s: u64,
    wants_usage: bool,
    warnings: Vec<String>,
}

impl OpenAi {
    pub fn new(id: u64, model: &str, question: &ClientQuestion) -> Self {
        OpenAi {
            id: format!("chatcmpl-{id:016x}"),
            model: model.to_owned(),
            created_s: time::unix_s(),
            wants_usage: question.wants_usage,
            warnings: question.warnings.clone(),
        }
    }

    fn chunk(&self, choices: Value, more: Value) -> Vec<u8> {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": fingerprint(),
            "choices": choices,
        });
        if let (Value::Object(chunk), Value::Object(more)) = (&mut chunk, more) {
            chunk.extend(more);
        }
        event(&chunk)
    }

    fn delta(&self, delta: Value, finish_reason: Option<&str>, more: Value) -> Vec<u8> {
        let choice = json!({
            "index": 0,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish_reason,
        });
        self.chunk(json!([choice]), more)
    }
}

/// The program that answered.
pub fn fingerprint() -> &'static str {
    concat!("b-owl2-", env!("CARGO_PKG_VERSION"))
}

/// A message of a stream of server-sent events.
fn event(value: &Value) -> Vec<u8> {
    format!("data: {value}\n\n").into_bytes()
}

pub fn finish_reason(stop: StopReason) -> &'static str {
    match stop {
        StopReason::MaxTokens | StopReason::ContextFull | StopReason::Cancelled => "length",
        StopReason::EndOfText | StopReason::StopText => "stop",
    }
}

pub fn usage(answer: &Answer) -> Value {
    json!({
        "prompt_tokens": answer.n_prompt,
        "completion_tokens": answer.ids.len(),
        "total_tokens": answer.n_prompt + answer.ids.len(),
        "prompt_tokens_details": {"cached_tokens": answer.n_reused},
    })
}

/// How long it took, under llama.cpp's names.
pub fn timings(answer: &Answer) -> Value {
    let ms = |stage| answer.timings.of(stage).as_secs_f64() * 1e3;
    let rate = |n: usize, ms: f64| if ms > 0.0 { n as f64 / ms * 1e3 } else { 0.0 };
    let n_prompt = answer.n_prompt - answer.n_reused;
    let n_predicted = answer.ids.len();
    let (prompt_ms, predicted_ms) = (ms(Stage::Prefill), ms(Stage::Decode));
    json!({
        "cache_n": answer.n_reused,
        "prompt_n": n_prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_second": rate(n_prompt, prompt_ms),
        "predicted_n": n_predicted,
        "predicted_ms": predicted_ms,
        "predicted_per_second": rate(n_predicted, predicted_ms),
        "picture_ms": ms(Stage::DecodeImage) + ms(Stage::Preprocess) + ms(Stage::Vit) + ms(Stage::Abstractor),
    })
}

impl Dialect for OpenAi {
    fn content_type(&self) -> &'static str {
        "text/event-stream"
    }

    fn whole(&self, answer: &Answer) -> Value {
        let whole = json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": fingerprint(),
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": answer.text, "refusal": null},
                "logprobs": null,
                "finish_reason": finish_reason(answer.stop),
            }],
            "usage": usage(answer),
            "timings": timings(answer),
        });
        with_warnings(whole, &self.warnings)
    }
}

impl Frames for OpenAi {
    fn begin(&mut self) -> Vec<u8> {
        self.delta(
            json!({"role": "assistant", "content": null}),
            None,
            json!({}),
        )
    }

    fn text(&mut self, text: &str) -> Vec<u8> {
        self.delta(json!({"content": text}), None, json!({}))
    }

    fn heartbeat(&mut self) -> Vec<u8> {
        b": working\n\n".to_vec()
    }

    fn end(&mut self, answer: &Answer) -> Vec<u8> {
        let more = with_warnings(json!({"timings": timings(answer)}), &self.warnings);
        let mut bytes = self.delta(json!({}), Some(finish_reason(answer.stop)), more);
        if self.wants_usage {
            // Some clients of llama.cpp look for the timings here.
            let last = json!({"usage": usage(answer), "timings": timings(answer)});
            bytes.extend(self.chunk(json!([]), last));
        }
        bytes.extend(b"data: [DONE]\n\n");
        bytes
    }

    fn fail(&mut self, refusal: &Refusal) -> Vec<u8> {
        event(&refusal.as_openai())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Read<ClientQuestion> {
        question(&body, &ServerSettings::new("m"), &Sampling::default())
    }

    fn with(name: &str, value: Value) -> Value {
        let mut body = json!({"messages": [{"role": "user", "content": "Hello"}]});
        body[name] = value;
        body
    }

    #[test]
    fn what_tools_send_is_taken() {
        let question = read(json!({
            "model": "gpt-3.5-turbo",
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
                {"role": "user", "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,Y2F0", "detail": "low"}},
                ]},
            ],
            "max_tokens": null, "max_completion_tokens": 7, "temperature": 0.2, "top_p": 0.9,
            "seed": 3, "n": 1, "stop": "\n", "stream": true, "tools": [], "tool_choice": "none",
            "stream_options": {"include_usage": true}, "logprobs": false, "user": "x",
            "frequency_penalty": 0.0, "metadata": {"a": 1},
        }))
        .unwrap();
        assert!(question.is_streamed && question.wants_usage);
        let request = question.request;
        assert_eq!(request.pictures.len(), 1);
        assert_eq!(request.max_tokens, Some(7));
        assert_eq!(request.stops, ["\n"]);
        assert_eq!(request.sampling.seed, 3);
    }

    #[test]
    fn what_would_be_silently_wrong_is_refused_by_name() {
        for (name, value) in [
            ("n", json!(2)),
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("required")),
            ("logprobs", json!(true)),
            ("frequency_penalty", json!(0.5)),
            ("logit_bias", json!({"5": 1})),
            ("modalities", json!(["text", "audio"])),
            ("max_tokens", json!(0)),
            ("max_tokens", json!(1.5)),
            ("stop", json!(3)),
            ("stop", json!([3])),
            ("stream", json!("yes")),
            ("messages", json!("Hello")),
            ("messages", json!([])),
            ("messages", json!([{"role": "user"}])),
            ("messages", json!([{"content": "x"}])),
            (
                "messages",
                json!([{"role": "user", "content": [{"type": "video"}]}]),
            ),
            ("response_format", json!({"type": "sound"})),
            (
                "response_format",
                json!({"type": "json_object", "schema": 123}),
            ),
            (
                "response_format",
                json!({"type": "json_schema", "json_schema": {"name": "n"}}),
            ),
        ] {
            let refusal = read(with(name, value.clone())).unwrap_err();
            assert_eq!(refusal.status, 400);
            assert!(
                refusal.message.starts_with(name),
                "{name} {value}: {}",
                refusal.message
            );
        }
        assert!(read(json!([])).is_err());
        assert!(read(json!({})).is_err());
    }

    #[test]
    fn answers_can_be_held_to_a_schema() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let strict = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
        for (name, value, wanted) in [
            ("response_format", strict, schema.clone()),
            (
                "response_format",
                json!({"type": "json_object"}),
                json!({"type": "object"}),
            ),
            (
                "response_format",
                json!({"type": "json_object", "schema": schema}),
                schema.clone(),
            ),
            ("json_schema", schema.clone(), schema.clone()),
        ] {
            let question = read(with(name, value)).unwrap();
            assert_eq!(
                question.request.constraint,
                Some(Constraint::JsonSchema(wanted))
            );
        }
        let text = read(with("response_format", json!({"type": "text"}))).unwrap();
        assert_eq!(text.request.constraint, None);
    }
}
