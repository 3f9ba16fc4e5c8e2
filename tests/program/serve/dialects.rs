//! Questions in each dialect, and the answers' shapes.

use base64::Engine;
use serde_json::{Value, json};

use super::http::{Reply, Server, asked_alone, picture, question};

const CAT: &str = "What is this?";

fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn alone(name: &str, text: &str) -> String {
    let path = format!("{}/assets/{name}", env!("CARGO_MANIFEST_DIR"));
    asked_alone(&["--image", &path, "-p", text])
}

/// The data of server-sent events.
fn events(reply: &Reply) -> Vec<Value> {
    let text = reply.text();
    let data: Vec<_> = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .collect();
    assert_eq!(data.last(), Some(&"[DONE]"), "{text}");
    data[..data.len() - 1]
        .iter()
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

fn lines(reply: &Reply) -> Vec<Value> {
    reply
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn openai_answers_are_those_of_the_command_line() {
    let server = Server::start(&[]);
    let wanted = alone("cat.png", CAT);
    let cat = picture("cat.png");
    let reply = server.post("/v1/chat/completions", &question(CAT, Some(&cat)));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["choices"][0]["message"]["content"], wanted);
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["object"], "chat.completion");
    let usage = &body["usage"];
    let total =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], total);

    let streamed = with(
        question(CAT, Some(&cat)),
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let reply = server.post("/v1/chat/completions", &streamed);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let chunks = events(&reply);
    let first = &chunks[0]["choices"][0]["delta"];
    assert_eq!(
        (&first["role"], &first["content"]),
        (&json!("assistant"), &Value::Null)
    );
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, wanted);
    let usage = chunks.iter().find(|chunk| chunk["usage"].is_object());
    assert!(usage.unwrap()["timings"]["predicted_n"].is_u64());
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    let last = &chunks[chunks.len() - 1];
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], total);
    assert_eq!(
        chunks[chunks.len() - 2]["choices"][0]["finish_reason"],
        "stop"
    );
}

/// A photo whose last rows are missing, in base64.
fn cut_photo() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jpeg/photo.jpg");
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(bytes.len() * 65 / 100);
    bytes.extend([0xff, 0xd9]);
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Whoever is answered about a damaged picture is told, in every dialect, and nobody else.
#[test]
fn what_a_picture_lacks_is_said_beside_the_answer() {
    let server = Server::start(&[]);
    let base64 = cut_photo();
    let data = format!("data:image/jpeg;base64,{base64}");
    let whole = picture("cat.png");
    let says = |answer: &Value| {
        let warnings = answer["warnings"].as_array().expect("warnings");
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}");
        };
        let warning = warning.as_str().unwrap();
        assert!(warning.contains("blocks is missing"), "{warning}");
    };
    let asked = with(question(CAT, Some(&data)), json!({"max_tokens": 2}));
    says(&server.post("/v1/chat/completions", &asked).json());
    let streamed = with(asked, json!({"stream": true}));
    let chunks = events(&server.post("/v1/chat/completions", &streamed));
    let (last, before) = chunks.split_last().unwrap();
    says(last);
    assert!(before.iter().all(|chunk| chunk.get("warnings").is_none()));
    let asked = json!({"prompt": CAT, "images": [whole, base64], "options": {"num_predict": 2}});
    let pieces = lines(&server.post("/api/generate", &asked));
    says(pieces.last().unwrap());
    let warning = pieces.last().unwrap()["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("picture 2: data for "), "{warning}");
    let rated = json!({"rule": "q-align", "images": [whole, data]});
    let scores = server.post("/owl2/score", &rated).json();
    assert!(scores["scores"][0].get("warnings").is_none(), "{scores}");
    says(&scores["scores"][1]);
    let asked = with(question(CAT, Some(&whole)), json!({"max_tokens": 2}));
    let answer = server.post("/v1/chat/completions", &asked).json();
    assert!(answer.get("warnings").is_none(), "{answer}");
}

/// An error that repeats what was sent does not repeat all of it.
#[test]
fn refusals_are_short_whatever_was_sent() {
    let server = Server::start(&[]);
    let long = "y".repeat(100_000);
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    for (path, body) in [
        (
            "/v1/chat/completions",
            json!({"messages": user(json!([{"type": long, "text": "x"}]))}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": user(json!("x")), "response_format": {"type": long}}),
        ),
        (
            "/api/chat",
            json!({"messages": user(json!("x")), "format": {"type": long}}),
        ),
        ("/owl2/score", json!({"rule": long, "images": ["x"]})),
    ] {
        let reply = server.post(path, &body);
        assert_eq!(reply.status, 400, "{path}");
        assert!(reply.text().len() < 5000, "{path}: {}", reply.text().len());
    }
}

#[test]
fn ollama_answers_are_those_of_the_command_line() {
    let server = Server::start(&[]);
    let wanted = alone("cat.png", CAT);
    let cat = picture("cat.png");
    let base64 = cat.split_once(',').unwrap().1;
    let asked = json!({"model": "owl2-tiny", "prompt": CAT, "images": [base64]});
    let pieces = lines(&server.post("/api/generate", &asked));
    let text: String = pieces
        .iter()
        .filter_map(|piece| piece["response"].as_str())
        .collect();
    assert_eq!(text, wanted);
    let last = pieces.last().unwrap();
    assert_eq!(
        (&last["done"], &last["done_reason"]),
        (&json!(true), &json!("stop"))
    );
    assert!(last["eval_count"].as_u64().unwrap() > 0);
    let whole = server
        .post("/api/generate", &with(asked, json!({"stream": false})))
        .json();
    assert_eq!(whole["response"], wanted);

    let message = json!({"role": "user", "content": CAT, "images": [base64]});
    let asked = json!({"model": "x", "messages": [message], "stream": false});
    // LiteLLM names no content type.
    let reply = server.request("POST", "/api/chat", &[], asked.to_string().as_bytes());
    assert_eq!(reply.json()["message"]["content"], wanted);
}

#[test]
fn answers_are_cut_stopped_and_held_to_schemas() {
    let server = Server::start(&[]);
    let ask = |more: Value| {
        let body = with(
            question("Describe the image.", Some(&picture("four-things.png"))),
            more,
        );
        let body = server.post("/v1/chat/completions", &body).json();
        let choice = body["choices"][0].clone();
        let text = choice["message"]["content"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        (
            text,
            choice["finish_reason"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let (whole, _) = ask(json!({}));
    let (cut, reason) = ask(json!({"max_tokens": 3}));
    assert!(whole.starts_with(&cut) && cut.len() < whole.len());
    assert_eq!(reason, "length");
    let word = whole.split(' ').nth(3).unwrap();
    let (stopped, reason) = ask(json!({"stop": [word]}));
    assert_eq!(whole.split_once(word).unwrap().0, stopped);
    assert_eq!(reason, "stop");
    let schema = json!({"type": "object", "required": ["animal"], "additionalProperties": false,
        "properties": {"animal": {"enum": ["cat", "none"]}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    let (text, _) = ask(json!({"response_format": format}));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(
        ["cat", "none"].contains(&value["animal"].as_str().unwrap()),
        "{text}"
    );
}

#[test]
fn pictures_are_rated_as_the_command_line_does() {
    let server = Server::start(&[]);
    let asked = json!({"images": [picture("cat.png"), picture("two-foxes-and-a-tree.png")], "rule": "q-align"});
    let body = server.post("/owl2/score", &asked).json();
    for (index, name) in ["cat.png", "two-foxes-and-a-tree.png"].iter().enumerate() {
        let path = format!("{}/assets/{name}", env!("CARGO_MANIFEST_DIR"));
        let alone = asked_alone(&["score", "--rule", "q-align", "--json", &path]);
        let alone: Value = serde_json::from_str(alone.trim()).unwrap();
        let score = &body["scores"][index];
        assert_eq!(score["score"], alone["score"], "{name}");
        assert_eq!(score["logits"], alone["logits"], "{name}");
    }
    for (asked, field) in [
        (json!({"images": [], "rule": "q-align"}), "images"),
        (json!({"images": ["x"], "rule": "none"}), "rule"),
        (json!({"images": ["x"], "rule": "compare2score"}), "rule"),
        (
            json!({"images": ["x"], "rule": "q-align", "task": "size"}),
            "task",
        ),
        (json!({"images": [3], "rule": "q-align"}), "images[0]"),
    ] {
        let reply = server.post("/owl2/score", &asked);
        assert_eq!(reply.status, 400, "{asked}");
        assert_eq!(reply.json()["error"]["param"], field);
    }
}

#[test]
fn the_model_is_described_in_every_dialect() {
    let server = Server::start(&["--alias", "owl", "-c", "512"]);
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["id"], "owl");
    assert_eq!(models["data"][0]["max_model_len"], 512);
    assert_eq!(
        models["data"][0]["architecture"]["input_modalities"],
        json!(["text", "image"])
    );
    let props = server.get("/props").json();
    assert_eq!(props["default_generation_settings"]["n_ctx"], 512);
    assert_eq!(props["modalities"]["vision"], true);
    let tags = server.get("/api/tags").json();
    assert_eq!(tags["models"][0]["name"], "owl:latest");
    assert_eq!(tags["models"][0]["details"]["quantization_level"], "Q4_K");
    // LiteLLM asks by "name", others by "model".
    for name in ["name", "model"] {
        let shown = server.post("/api/show", &json!({name: "owl"})).json();
        assert_eq!(shown["capabilities"], json!(["completion", "vision"]));
    }
    assert_eq!(
        server.get("/api/ps").json()["models"][0]["model"],
        "owl:latest"
    );
    assert_eq!(
        server.post("/api/pull", &json!({"model": "owl"})).json()["status"],
        "success"
    );
    assert_eq!(
        server.post("/api/pull", &json!({"model": "llama"})).status,
        404
    );
    assert!(server.get("/api/version").json()["version"].is_string());
    let page = server.get("/");
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .contains("default-src 'none'")
    );
    assert!(page.text().contains("<title>owl2</title>"));
}
