//! Bodies and seeds of what `owl2 serve` and `owl2 batch` read.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use owl2::cli::fuzzing as program;
use owl2::harmless;
use owl2::request::{Assistant, Source};
use owl2::server::fuzzing::{Bodies, let_in, picture};
use owl2::server::{ApiKeys, ServerSettings};
use serde_json::json;

use super::{new_assistant, root, seeds};

/// The paths that take bodies, in the order of the numbers that [`server_body`] tells them by.
const PATHS: [&str; 5] = [
    "/v1/chat/completions",
    "/api/chat",
    "/api/generate",
    "/owl2/score",
    "/api/pull",
];
/// The longest refusal: a message has room for a schema's error, and none for the request.
const MAX_REFUSAL_BYTES: usize = 8 << 10;
/// The columns of the table of results.
const COLUMNS: [&str; 2] = ["image", "score"];

/// Reads the body of a request; the first byte says to which path it is sent.
pub fn server_body(data: &[u8]) {
    static BODIES: OnceLock<Bodies> = OnceLock::new();
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let bodies = BODIES.get_or_init(|| {
        let settings = ServerSettings {
            media_root: Some(root().join("tests/fixtures/image")),
            allow_raw: true,
            ..ServerSettings::new("owl2")
        };
        Bodies::new(new_assistant(), settings).unwrap()
    });
    let path = PATHS[usize::from(*first) % PATHS.len()];
    if let Err(refusal) = bodies.read(path, body) {
        let refusal = refusal.to_string();
        assert!(refusal.len() < MAX_REFUSAL_BYTES, "{refusal}");
    }
}

/// Takes a picture from its address: what is decoded is what stood there, and no file is opened that does
/// not lie below the media root.
pub fn picture_address(data: &[u8]) {
    let address = String::from_utf8_lossy(data);
    let media = root().join("tests/fixtures/image");
    for (is_of_ollama, media) in [(false, None), (false, Some(&*media)), (true, None)] {
        match picture(&address, is_of_ollama, media) {
            Ok(Source::Bytes(bytes)) => assert!(!bytes.is_empty() && bytes.len() < address.len()),
            Ok(Source::File(path)) => {
                let media = media.expect("a file only below a media root");
                assert!(path.starts_with(media.canonicalize().unwrap()));
            }
            Ok(_) => panic!("a picture from nowhere"),
            Err(message) => assert!(message.starts_with("picture: ")),
        }
    }
}

/// Lets a request in, or not: method, path and headers are lines. Nobody passes without the key and the name
/// of the server.
pub fn request_head(data: &[u8]) {
    let mut lines = data.split(|&byte| byte == b'\n');
    let method = lines.next().unwrap_or_default();
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let headers: Vec<_> = lines
        .map(|line| {
            let colon = line.iter().position(|&byte| byte == b':');
            let (name, value) = line.split_at(colon.unwrap_or(line.len()));
            (name, value.get(1..).unwrap_or_default().trim_ascii())
        })
        .collect();
    let settings = ServerSettings {
        keys: ApiKeys::read("a-key\nanother"),
        ..ServerSettings::new("owl2")
    };
    let Ok(key) = let_in(&settings, method, &path, &headers) else {
        return;
    };
    let has = |wanted: &str| {
        let wanted = wanted.as_bytes();
        let mut values = headers.iter().map(|(_, value)| value);
        values.any(|value| {
            value
                .windows(wanted.len())
                .any(|part| part.eq_ignore_ascii_case(wanted))
        })
    };
    assert!(["localhost", "127.", ":"].into_iter().any(has));
    match key {
        Some(0) => assert!(has("a-key")),
        Some(1) => assert!(has("another")),
        Some(_) => panic!("a key that is none"),
        None => assert!(
            method == b"OPTIONS"
                || ["/", "/index.html", "/health", "/v1/health", "/readyz"].contains(&&*path)
        ),
    }
}

/// Reads the rows of a batch.
pub fn batch_rows(data: &[u8]) {
    static ASSISTANT: OnceLock<Assistant> = OnceLock::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.jsonl");
    fs::write(&path, data).unwrap();
    let assistant = ASSISTANT.get_or_init(new_assistant);
    for rates in [false, true] {
        let rows = program::batch::rows(&path, assistant, rates).unwrap();
        let lines = data.split(|&byte| byte == b'\n');
        let n_lines = lines.filter(|line| !line.trim_ascii().is_empty()).count();
        assert_eq!(rows.len(), n_lines);
        for request in rows.iter().flatten() {
            let _ = assistant.n_positions(&request.prompt, request.pictures.len());
        }
    }
}

/// Goes on with what an earlier run wrote: a table of results in commas or tabs, outcomes of a batch, lines
/// of chats; the first byte says which. What cannot be gone on with stays as it is.
pub fn earlier_results(data: &[u8]) {
    let Some((first, file)) = data.split_first() else {
        return;
    };
    let names = ["results.csv", "results.tsv", "outcomes.jsonl", "history"];
    let which = usize::from(*first) % names.len();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(names[which]);
    fs::write(&path, file).unwrap();
    let once = goes_on(which, &path);
    let after = fs::read(&path).unwrap();
    let Some(once) = once else {
        assert_eq!(after, file);
        return;
    };
    // The next run finds what this one left.
    let again = goes_on(which, &path).expect("what was gone on with before");
    match which {
        0..3 => assert_eq!((once, after), (again, fs::read(&path).unwrap())),
        _ => assert!(again.iter().all(|line| harmless::text(&line[0]) == line[0])),
    }
}

/// The cells, or whatever tells what there is.
fn goes_on(which: usize, path: &Path) -> Option<Vec<Vec<String>>> {
    match which {
        0 | 1 => program::rows(path, &COLUMNS.map(str::to_owned)).ok(),
        2 => {
            let is_done = program::batch::is_done(path, 0xaa).ok()?;
            Some(vec![vec![is_done.to_string()]])
        }
        _ => {
            let lines = program::history(path, "a\nb\\").ok()?;
            Some(lines.into_iter().map(|line| vec![line]).collect())
        }
    }
}

/// Adds an answer to the XMP document of another program, which then has it.
pub fn sidecar(data: &[u8]) {
    let document = String::from_utf8_lossy(data);
    let answers = [
        r#"{"caption": "A cat & <dog>", "keywords": ["cat", "]]>"]}"#,
        "another\u{1}",
    ];
    let mut before = document.clone();
    for answer in answers {
        let Ok(merged) = program::batch::with_words(&before, answer) else {
            // Whatever was written here can be read.
            assert_eq!(before, document);
            return;
        };
        if let Some(merged) = merged {
            assert!(merged.len() > before.len() || before != document);
            let again = program::batch::with_words(&merged, answer);
            assert_eq!(again.expect("a document"), None, "{merged}");
            before = merged.into();
        }
    }
}

/// Bodies for each path as clients send them.
pub fn server_body_seeds() -> Vec<Vec<u8>> {
    let data = data_address();
    let bare = data.split_once(',').expect("data").1.to_owned();
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let bodies = [
        json!({"model": "owl2", "stream": true, "stream_options": {"include_usage": true},
            "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["\n"], "max_tokens": 5, "n": 1,
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": data}}]},
                {"role": "assistant", "content": "A"}]}),
        json!({"model": "owl2", "format": schema, "options": {"num_predict": 4, "top_k": 3, "num_ctx": 64},
            "messages": [{"role": "user", "content": "What?", "images": [bare]}]}),
        json!({"model": "owl2", "prompt": "USER: <|image|>x</s>", "raw": true, "images": [data],
            "format": "json", "stream": false}),
        json!({"rule": "q-align", "task": "quality", "images": [data, "file://localhost/x%20y"]}),
        json!({"name": "owl2:latest"}),
    ];
    let mut seeds: Vec<_> = (0u8..)
        .zip(bodies)
        .map(|(path, body)| [vec![path], body.to_string().into_bytes()].concat())
        .collect();
    let with_schema = json!({"messages": [{"role": "user", "content": "x"}], "response_format":
        {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}});
    seeds.push([&b"\0"[..], with_schema.to_string().as_bytes()].concat());
    seeds
}

/// Addresses of every kind.
pub fn picture_address_seeds() -> Vec<Vec<u8>> {
    let file = root().join("tests/fixtures/image/gray2.png");
    let seeds = [
        data_address(),
        "DATA:image/jpeg;charset=x;BASE64,Y2F0\nY2F0\r\nY2E".to_owned(),
        format!("file://{}", file.display()),
        "file://localhost/%2e%2e/etc/hostname".to_owned(),
        "https://a.example/x.png".to_owned(),
        "Y2F0".repeat(20) + "==",
    ];
    seeds.map(String::into_bytes).into()
}

/// Heads of requests as clients and pages send them.
pub fn request_head_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "GET\n/health\nhost: localhost:8080\n",
        "POST\n/v1/chat/completions\nhost: 127.0.0.1:8080\nauthorization: Bearer a-key\n",
        "POST\n/api/chat\nhost: [::1]:80\norigin: http://[::1]:80\nx-api-key: another\ncontent-type: \
         application/json; charset=utf-8\n",
        "OPTIONS\n/v1/models\nhost: localhost\norigin: http://localhost\naccess-control-request-method: \
         POST\n",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// Rows of both shapes.
pub fn batch_rows_seeds() -> Vec<Vec<u8>> {
    let own = json!({"id": 7, "image": ["a.png", "file:///b%20c.jpg"], "prompt": "What?", "system": "x",
        "max_tokens": 3, "temperature": 0.5, "stop": "\n"});
    let theirs = json!({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body":
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"},
            {"type": "image_url", "image_url": {"url": data_address()}}]}]}});
    vec![
        format!("{own}\r\n\n{theirs}\n").into(),
        format!("{theirs}\n[]\nx\n{{\"image\": \"a\"}}").into(),
    ]
}

/// Files of earlier runs, the last line of some cut off.
pub fn earlier_results_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "\0image,score\n\"a, \"\"b\"\"\nc\",1.5\nd,2\ne",
        "\x01image\tscore\na\t1\nb\t2\n",
        "\x02{\"id\": \"a\", \"key\": \"00000000000000aa\"}\n{\"key\": \"bb\", \"error\": {\"message\": \
         \"x\"}}\n{\"ke",
        "\x03#V2\na\\nb\\\\\nc\n",
        "\x03old line\n",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// Documents as darktable, digiKam and Lightroom write them, in short.
pub fn sidecar_seeds() -> Vec<Vec<u8>> {
    let rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";
    let dc = "http://purl.org/dc/elements/1.1/";
    let seeds = [
        format!(
            "<?xml version=\"1.0\"?>\n<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"{rdf}\">\n \
             <rdf:Description rdf:about=\"\" xmlns:dc=\"{dc}\" dc:rights=\"x\"><dc:subject><rdf:Bag>\
             <rdf:li>cat</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
        ),
        format!(
            "\u{feff}<r:RDF xmlns:r='{rdf}'><!-- x --><r:Description xmlns:d='{dc}'><d:description><r:Alt>\
             <r:li xml:lang='x-default'>a &amp; <![CDATA[b]]></r:li></r:Alt></d:description>\
             </r:Description><r:Description/></r:RDF>"
        ),
        format!("<rdf:RDF xmlns:rdf=\"{rdf}\"/>"),
    ];
    seeds.map(String::into_bytes).into()
}

/// A picture as an address.
fn data_address() -> String {
    format!("data:image/png;base64,{}", seeds::PNG)
}
