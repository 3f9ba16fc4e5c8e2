//! Who may ask.

use std::fs;

use serde_json::json;

use super::http::{Server, picture, question};

#[test]
fn keys_are_wanted_from_files_that_have_some() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    fs::write(&path, "# of the house\nsecret-1\nsecret-2\n").unwrap();
    let server = Server::start(&["--api-key-file", path.to_str().unwrap()]);
    for path in ["/health", "/readyz", "/"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    for path in ["/v1/models", "/metrics", "/props", "/api/tags", "/nothing"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 401, "{path}");
        assert!(!reply.text().contains("secret"));
    }
    for (header, status) in [
        ("Authorization: Bearer secret-2", 200),
        ("X-Api-Key: secret-1", 200),
        ("Authorization: Bearer secret-3", 401),
        ("Authorization: Basic secret-1", 401),
    ] {
        let reply = server.request("GET", "/v1/models", &[header], b"");
        assert_eq!(reply.status, status, "{header}");
        if status == 401 {
            assert_eq!(reply.json()["error"]["type"], "authentication_error");
        }
    }
}

#[test]
fn other_names_and_other_sites_are_turned_away_before_anything_else() {
    let server = Server::start(&[
        "--allow-host",
        "owl.lan",
        "--allow-origin",
        "https://photos.example",
    ]);
    let port = server.address.split_once(':').unwrap().1.to_owned();
    let ask = |host: &str, more: &str| {
        let head =
            format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        server.send(&head, b"")
    };
    for host in [
        format!("localhost:{port}"),
        "owl.lan".to_owned(),
        "127.0.0.1".to_owned(),
    ] {
        assert_eq!(ask(&host, "").status, 200, "{host}");
    }
    for host in ["evil.example", "192.168.0.9", "owl.lan.evil.example"] {
        assert_eq!(ask(host, "").status, 403, "{host}");
    }
    let host = format!("localhost:{port}");
    let own = format!("Origin: http://localhost:{port}\r\n");
    assert_eq!(ask(&host, &own).status, 200);
    let allowed = ask(&host, "Origin: https://photos.example\r\n");
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        Some("https://photos.example")
    );
    assert_eq!(allowed.header("vary"), Some("origin"));
    for origin in [
        "https://evil.example",
        "null",
        "https://photos.example.evil.example",
    ] {
        let reply = ask(&host, &format!("Origin: {origin}\r\n"));
        assert_eq!(reply.status, 403, "{origin}");
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    let preflight = [
        "Origin: https://photos.example",
        "Access-Control-Request-Method: POST",
    ];
    let reply = server.request("OPTIONS", "/v1/chat/completions", &preflight, b"");
    assert_eq!(reply.status, 204);
    let preflight = [
        "Origin: https://evil.example",
        "Access-Control-Request-Method: POST",
    ];
    let reply = server.request("OPTIONS", "/v1/chat/completions", &preflight, b"");
    assert_eq!(reply.status, 403);
    // A form of a page cannot say that it sends JSON.
    let form = ["Origin: https://photos.example", "Content-Type: text/plain"];
    let body = question("What?", None).to_string();
    let reply = server.request("POST", "/v1/chat/completions", &form, body.as_bytes());
    assert_eq!(reply.status, 415);
}

#[test]
fn pictures_are_not_fetched_and_files_are_read_where_they_may() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");
    let server = Server::start(&["--media-root", root]);
    let ask = |address: &str| {
        server.post(
            "/v1/chat/completions",
            &question("What is this?", Some(address)),
        )
    };
    assert_eq!(ask(&format!("file://{root}/cat.png")).status, 200);
    for address in [
        "http://127.0.0.1:1/cat.png",
        "https://photos.example/cat.png",
        "file:///etc/hostname",
        &format!("file://{root}/../Cargo.toml"),
        &format!("file://{root}/missing.png"),
        "cat.png",
        "data:image/png;base64,AAAA",
        "data:image/png;base64,****",
    ] {
        let reply = ask(address);
        assert_eq!(reply.status, 400, "{address}");
        let message = reply.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            !message.contains("Cargo.toml") && !message.contains("hostname"),
            "{message}"
        );
    }
    let without = Server::start(&[]);
    let asked = question("What is this?", Some(&format!("file://{root}/cat.png")));
    assert_eq!(without.post("/v1/chat/completions", &asked).status, 400);
    let raw = json!({"prompt": "</s>", "raw": true});
    assert_eq!(without.post("/api/generate", &raw).status, 400);
    let marker = question("Is <|image|> one?", Some(&picture("cat.png")));
    assert_eq!(without.post("/v1/chat/completions", &marker).status, 400);
}
