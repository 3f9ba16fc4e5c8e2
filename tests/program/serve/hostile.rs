//! Requests that are wrong, too large, too slow, too many or never finished.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Server, picture, question, read_reply};

#[test]
fn wrong_bodies_are_refused_in_words() {
    let server = Server::start(&["--max-body", "1"]);
    let deep = "[".repeat(50_000);
    // Each value takes many times its two bytes once it is read.
    let many = format!("[{}0]", "0,".repeat(150_000));
    let huge = vec![b' '; (1 << 20) + 1];
    for (body, status) in [
        (&b"{"[..], 400),
        (b"", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (
            b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}",
            400,
        ),
        (deep.as_bytes(), 400),
        (many.as_bytes(), 413),
        (&huge, 413),
    ] {
        for path in [
            "/v1/chat/completions",
            "/api/generate",
            "/api/chat",
            "/owl2/score",
        ] {
            let reply = server.request("POST", path, &[], body);
            let start = String::from_utf8_lossy(&body[..body.len().min(30)]).into_owned();
            assert_eq!(reply.status, status, "{path} {start}: {}", reply.text());
            assert!(reply.json()["error"].is_object() || reply.json()["error"].is_string());
        }
    }
    for (method, path, status) in [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/api/tags", 405),
        ("POST", "/api/create", 404),
        ("POST", "/v1/completions", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/api/blobs/sha256:0", 404),
    ] {
        assert_eq!(
            server.request(method, path, &[], b"").status,
            status,
            "{method} {path}"
        );
    }
    let long = format!("X-Long: {}", "x".repeat(100_000));
    assert_eq!(server.request("GET", "/health", &[&long], b"").status, 431);
    assert_eq!(server.get("/health").status, 200);
}

/// Every number that a field may hold, in every field that takes one.
#[test]
fn numbers_are_in_their_range_or_name_their_field() {
    let server = Server::start(&[]);
    let fields = [
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repeat_penalty",
        "seed",
        "n",
        "frequency_penalty",
        "presence_penalty",
        "top_logprobs",
    ];
    let values = [
        "-1",
        "-9223372036854775809",
        "1e308",
        "-1e308",
        "18446744073709551616",
        "0.5",
        "\"1\"",
        "true",
        "[]",
        "{}",
    ];
    for field in fields {
        for value in values {
            let body = format!(
                "{{\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}],\"max_tokens\":2,\"{field}\":{value}}}"
            );
            let reply = server.request("POST", "/v1/chat/completions", &[], body.as_bytes());
            match reply.status {
                200 => assert!(reply.json()["choices"][0]["message"]["content"].is_string()),
                400 => {
                    let message = reply.json()["error"]["message"]
                        .as_str()
                        .unwrap()
                        .to_owned();
                    assert!(
                        message.contains(field) || message.contains("max_tokens"),
                        "{body}: {message}"
                    );
                }
                status => panic!("{body}: {status} {}", reply.text()),
            }
        }
    }
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = Server::start(&["--queue", "1"]);
    let slow = slow_question();
    let replies: Vec<_> = thread::scope(|scope| {
        let asking: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| server.post("/v1/chat/completions", &slow)))
            .collect();
        asking
            .into_iter()
            .map(|asking| asking.join().unwrap())
            .collect()
    });
    let n_answered = replies.iter().filter(|reply| reply.status == 200).count();
    assert!((1..6).contains(&n_answered), "{n_answered} were answered");
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!(reply.status, 429);
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!(seconds >= 1);
        assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    }
}

/// Takes a while on any machine.
fn slow_question() -> Value {
    let mut body = question("Hello", None);
    body["max_tokens"] = json!(200);
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "n", "schema":
        {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "minLength": 400}}}}});
    body
}

#[test]
fn work_for_clients_that_left_is_stopped() {
    let server = Server::start(&[]);
    let mut slow = slow_question();
    slow["max_tokens"] = json!(400);
    slow["stream"] = json!(true);
    let body = slow.to_string();
    for _ in 0..20 {
        let mut stream = server.connect();
        let head = server.head("POST", "/v1/chat/completions", &[], body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(5));
        drop(stream);
    }
    // Heads and bodies that are never finished.
    let unfinished: Vec<_> = (0..20)
        .map(|i| {
            let mut stream = server.connect();
            let text = match i % 2 {
                0 => "POST /v1/chat/completions HTTP/1.1\r\nHost: local".to_owned(),
                _ => server.head("POST", "/v1/chat/completions", &[], 1000) + "{\"messages\"",
            };
            stream.write_all(text.as_bytes()).unwrap();
            stream
        })
        .collect();
    let reply = server.post(
        "/v1/chat/completions",
        &question("What color is the sky?", None),
    );
    assert_eq!(reply.status, 200);
    let metrics = server.get("/metrics").text();
    assert!(
        metrics.contains("owl2_num_requests_waiting 0\n"),
        "{metrics}"
    );
    for mut stream in unfinished {
        // A body that breaks off is told so, where anybody still listens.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.flush();
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn texts_of_a_request_do_not_reach_the_log() {
    let server = Server::start(&[]);
    let body = question("a secret\u{1b}[2J", Some(&picture("cat.png")));
    server.post("/v1/chat/completions", &body);
    server.request("GET", "/%1b[2Jforged%0aline", &[], b"");
    server.post("/v1/chat/completions", &json!({"messages": "a secret"}));
    let (_, log) = server.end(nix::sys::signal::Signal::SIGTERM);
    assert!(!log.contains("secret") && !log.contains('\u{1b}'), "{log}");
    assert!(log.contains("POST /v1/chat/completions 200"), "{log}");
    assert!(log.contains("POST /v1/chat/completions 400"), "{log}");
}

#[test]
fn requests_on_one_connection_follow_one_another() {
    let server = Server::start(&[]);
    let body = question("What color is the sky?", None).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n",
        server.address,
        body.len()
    );
    let mut stream = server.connect();
    let both = format!("{head}\r\n{body}{head}Connection: close\r\n\r\n{body}");
    stream.write_all(both.as_bytes()).unwrap();
    let reply = read_reply(&mut stream);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.text().matches("\"chat.completion\"").count(), 2);
}
