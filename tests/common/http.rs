//! A server of the program, and a client for it that says exactly what a test wants said.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// A server, which ends with the test.
pub struct Server {
    child: Child,
    pub address: String,
    log: Option<thread::JoinHandle<String>>,
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// How long a test waits for anything before it fails.
const PATIENCE: Duration = Duration::from_secs(120);

impl Server {
    /// Starts the program with its built-in model at a port of its own, and waits until it answers.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    pub fn start_with(args: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_owl2"));
        command.args(["serve", "--port", "0"]).args(args);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OWL2_") && name != "OWL2_ISA" {
                command.env_remove(name);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        let log = thread::spawn(move || {
            let mut log = String::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("listening on http://") {
                    let _ = sender.send(address.to_owned());
                }
                log += &line;
                log.push('\n');
            }
            log
        });
        match receiver.recv_timeout(PATIENCE) {
            Ok(address) => Server {
                child,
                address,
                log: Some(log),
            },
            Err(_) => {
                let _ = child.kill();
                panic!("the server did not start: {}", log.join().unwrap());
            }
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends the head of a request as it is, then a body, and reads the response to its end.
    pub fn send(&self, head: &str, body: &[u8]) -> Reply {
        let mut stream = self.connect();
        // A server that refuses early may close before it has read everything.
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body));
        read_reply(&mut stream)
    }

    pub fn request(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        self.send(&self.head(method, path, headers, body.len()), body)
    }

    pub fn head(&self, method: &str, path: &str, headers: &[&str], length: usize) -> String {
        let host = &self.address;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        if length > 0 {
            head += &format!("Content-Length: {length}\r\n");
        }
        for header in headers {
            head += &format!("{header}\r\n");
        }
        head + "\r\n"
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        let json = ["Content-Type: application/json"];
        self.request("POST", path, &json, body.to_string().as_bytes())
    }

    /// Tells it to end by a signal and gives its exit status and all that it wrote.
    pub fn end(mut self, signal: nix::sys::signal::Signal) -> (Option<i32>, String) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
        let status = self.child.wait().unwrap();
        let log = self.log.take().unwrap().join().unwrap();
        (status.code(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a response until the server closes, and undoes chunks.
pub fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A reset after the response is no less of a response.
    let _ = stream.read_to_end(&mut bytes);
    let end = find(&bytes, b"\r\n\r\n").unwrap_or_else(|| {
        panic!("no response: {}", String::from_utf8_lossy(&bytes));
    });
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head[9..12].parse().unwrap();
    let body = &bytes[end + 4..];
    let is_chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = match is_chunked {
        true => unchunked(body),
        false => body.to_vec(),
    };
    Reply { status, head, body }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = find(rest, b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 || rest.len() < size {
            break;
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
    body
}

/// A picture of the assets, as a data: address.
pub fn picture(name: &str) -> String {
    let path = format!("{}/assets/{name}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))
}

/// A question about a picture, or about none, as OpenAI's clients ask.
pub fn question(text: &str, picture: Option<&str>) -> Value {
    let mut content = vec![json!({"type": "text", "text": text})];
    if let Some(address) = picture {
        content.push(json!({"type": "image_url", "image_url": {"url": address}}));
    }
    json!({"model": "any", "messages": [{"role": "user", "content": content}]})
}

/// What the program answers on its command line.
#[track_caller]
pub fn asked_alone(args: &[&str]) -> String {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_owl2"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim_end_matches('\n').to_owned()
}
