//! Starting, running and stopping.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::http::{Server, asked_alone, picture, question};

#[test]
fn many_at_once_get_the_answers_that_each_gets_alone() {
    let server = Server::start(&[]);
    let asked = [
        ("cat.png", "What is this?"),
        ("dog-and-car.png", "What is on the left?"),
        ("three-apples.png", "How many apples are there?"),
        ("four-things.png", "Describe the image."),
        ("penguin-and-guitar.png", "Is there a dog?"),
    ];
    let wanted: Vec<_> = asked
        .iter()
        .map(|(name, text)| {
            let path = format!("{}/assets/{name}", env!("CARGO_MANIFEST_DIR"));
            asked_alone(&["--image", &path, "-p", text])
        })
        .collect();
    thread::scope(|scope| {
        for round in 0..4 {
            for (index, (name, text)) in asked.iter().enumerate() {
                let (server, wanted) = (&server, &wanted);
                scope.spawn(move || {
                    let mut body = question(text, Some(&picture(name)));
                    body["stream"] = json!(round % 2 == 0);
                    let reply = server.post("/v1/chat/completions", &body);
                    assert_eq!(reply.status, 200);
                    let text = match round % 2 {
                        0 => reply
                            .text()
                            .split("\n\n")
                            .filter_map(|event| event.strip_prefix("data: {"))
                            .map(|rest| serde_json::from_str(&format!("{{{rest}")).unwrap())
                            .filter_map(|chunk: serde_json::Value| {
                                Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned())
                            })
                            .collect(),
                        _ => reply.json()["choices"][0]["message"]["content"]
                            .as_str()
                            .unwrap()
                            .to_owned(),
                    };
                    assert_eq!(text, wanted[index]);
                });
            }
        }
    });
    let metrics = server.get("/metrics").text();
    assert!(
        metrics.contains("owl2_request_success_total{finished_reason=\"stop\"} 20\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("owl2_responses_total{code=\"200\"} 20\n"),
        "{metrics}"
    );
}

/// A signal ends it at whatever moment of its start it comes.
#[test]
fn a_signal_while_it_starts_ends_it() {
    for ms in (0..48).step_by(3) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_owl2"))
            .args(["serve", "--port", "0", "--log", "none"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(ms));
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                panic!("a signal after {ms} ms did not end it");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_signal_ends_it_when_its_requests_are_answered() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Server::start(&[]);
        let mut body = question("Describe the image.", Some(&picture("four-things.png")));
        body["stream"] = json!(true);
        let body = body.to_string();
        let mut stream = server.connect();
        let head = server.head("POST", "/v1/chat/completions", &[], body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
        // The answer has begun: the request was taken.
        let mut first = [0; 16];
        stream.read_exact(&mut first).unwrap();
        let (code, log) = server.end(signal);
        assert_eq!(code, Some(0), "{log}");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("data: [DONE]"), "{rest}");
    }
}

#[test]
fn answers_that_take_long_show_signs_of_life() {
    let server = Server::start(&["--heartbeat", "1"]);
    // Held by one that never reads: the engine is busy for longer than a heartbeat.
    let mut slow = question("Hello", None);
    slow["max_tokens"] = json!(1500);
    slow["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "n", "schema":
        {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "minLength": 6000}}}}});
    let slow_reply = thread::scope(|scope| {
        let asking = scope.spawn(|| server.post("/v1/chat/completions", &slow));
        thread::sleep(Duration::from_millis(100));
        let mut body = question("What color is the sky?", None);
        let whole = server.post("/v1/chat/completions", &body);
        assert_eq!(whole.status, 200);
        assert_eq!(whole.json()["object"], "chat.completion");
        body["stream"] = json!(true);
        let streamed = server.post("/v1/chat/completions", &body);
        assert!(streamed.text().contains("data: [DONE]"));
        asking.join().unwrap()
    });
    // It took more than a second on the slowest machine only.
    assert_eq!(slow_reply.status, 200, "{}", slow_reply.text());
    assert_eq!(slow_reply.json()["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_request_that_takes_too_long_ends() {
    let server = Server::start(&["--request-timeout", "0", "--heartbeat", "0"]);
    let reply = server.post("/v1/chat/completions", &question("Hello", None));
    assert_eq!(reply.status, 504);
    assert!(
        reply.text().contains("--request-timeout"),
        "{}",
        reply.text()
    );
}

#[test]
fn a_unix_socket_is_its_owner_s_and_goes_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("owl2.sock");
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_owl2"))
            .args(["serve", "--socket", path.to_str().unwrap()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut server = start();
    let mut stream = (0..600)
        .find_map(|_| {
            thread::sleep(Duration::from_millis(100));
            UnixStream::connect(&path).ok()
        })
        .unwrap();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let second = start().wait_with_output().unwrap();
    assert_eq!(
        second.status.code(),
        Some(5),
        "{}",
        String::from_utf8_lossy(&second.stderr)
    );
    let pid = nix::unistd::Pid::from_raw(server.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
    assert!(!path.exists());
    // Another's file is not replaced.
    fs::write(&path, "mine").unwrap();
    let refused = start().wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(5));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn what_cannot_be_served_is_said_before_it_starts() {
    let taken = Server::start(&[]);
    let port = taken.address.split_once(':').unwrap().1;
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("keys");
    fs::write(&empty, "# none\n").unwrap();
    let empty = empty.to_str().unwrap();
    for (args, code, part) in [
        (
            &["--host", "0.0.0.0", "--port", "0"][..],
            2,
            "--api-key-file",
        ),
        (&["--port", port], 5, "--port"),
        (&["--api-key-file", empty], 2, "no key"),
        (&["--api-key-file", "missing"], 5, "missing"),
        (&["--media-root", "missing"], 2, "--media-root"),
        (&["-c", "99999999999"], 2, "ctx-size"),
        (&["-m", "missing.gguf"], 5, "missing.gguf"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_owl2"))
            .arg("serve")
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(part), "{args:?}: {said}");
    }
}
