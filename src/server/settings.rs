//! The settings of the server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::score::Rule;

/// How the server runs.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Where it listens.
    pub address: Address,
    /// What the model is called; requests may name any other unless [`ServerSettings::strict_model`].
    pub model_name: String,
    /// How most of its weights are stored, such as `Q4_K`.
    pub quantization: String,
    /// The rule by which pictures are rated where a request names none; `None` is the model file's.
    pub score_rule: Option<Rule>,
    /// Refuse requests for a model of another name.
    pub strict_model: bool,
    /// Who may ask. Without a key, everybody who reaches the address.
    pub keys: ApiKeys,
    /// Serve an address that others can reach although there is no key.
    pub insecure: bool,
    /// Names of this server, besides those of its address, that requests may be sent to (`Host`).
    pub allowed_hosts: Vec<String>,
    /// Other sites, such as `https://photos.example`, whose pages may ask (`Origin`).
    pub allowed_origins: Vec<String>,
    /// The folder whose files requests may name as `file://` addresses; none may without it.
    pub media_root: Option<PathBuf>,
    /// Bounds of requests.
    pub limits: RequestLimits,
    /// Context of each request in positions; `None` is as for [`Assistant::context`].
    ///
    /// [`Assistant::context`]: crate::Assistant::context
    pub context: Option<usize>,
    /// Requests that are computed together.
    pub parallel: usize,
    /// Bytes of the caches of all requests that are computed together, and of those that are kept for
    /// the next ones; `None` is what the machine has.
    pub kv_memory: Option<u64>,
    /// Requests that may wait.
    pub queue: usize,
    /// The longest time from a request's arrival to the end of its answer.
    pub request_timeout: Duration,
    /// How often an answer that is not there yet shows that it is coming, which keeps clients from
    /// giving up; zero is never.
    pub heartbeat: Duration,
    /// How long requests may take to end once the server is to stop.
    pub drain_timeout: Duration,
    /// Let requests send whole prompts in which control tokens count.
    pub allow_raw: bool,
    /// How requests are logged, on standard error.
    pub log: LogFormat,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A network address; port 0 is any that is free.
    Tcp(SocketAddr),
    /// A UNIX socket.
    Unix(PathBuf),
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are held at once.
    pub bodies_bytes: usize,
    /// Pictures of a request.
    pub pictures: usize,
    /// Bytes of all texts of a request.
    pub text_bytes: usize,
    /// Texts that end an answer.
    pub stops: usize,
    /// Connections at once.
    pub connections: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        RequestLimits {
            body_bytes: 64 << 20,
            bodies_bytes: 256 << 20,
            pictures: 8,
            text_bytes: 1 << 20,
            stops: 16,
            connections: 64,
        }
    }
}

/// A line for each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// Nothing.
    None,
}

/// Digests of the keys that let requests in. The keys themselves are not kept.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    /// The keys in a text, one a line; empty lines and those that begin with `#` do not count.
    pub fn read(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        ApiKeys(keys.map(digest).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are several, so that requests may be different people's.
    pub fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Which key this is. Takes as long for a wrong one as for a right one.
    pub fn find(&self, key: &str) -> Option<usize> {
        let wanted = digest(key);
        let mut found = None;
        for (index, known) in self.0.iter().enumerate() {
            let difference = known
                .iter()
                .zip(&wanted)
                .fold(0, |sum, (a, b)| sum | (a ^ b));
            if difference == 0 {
                found = Some(index);
            }
        }
        found
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl ServerSettings {
    /// The defaults: this machine alone, at port 8080.
    pub fn new(model_name: impl Into<String>) -> Self {
        ServerSettings {
            address: Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080))),
            model_name: model_name.into(),
            quantization: String::new(),
            score_rule: None,
            strict_model: false,
            keys: ApiKeys::default(),
            insecure: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            media_root: None,
            limits: RequestLimits::default(),
            context: None,
            parallel: 4,
            kv_memory: None,
            queue: 64,
            request_timeout: Duration::from_secs(3600),
            heartbeat: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            allow_raw: false,
            log: LogFormat::default(),
        }
    }

    /// Fails where anybody could ask who was not meant to.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage).
    pub fn check(&self) -> Result<()> {
        let Address::Tcp(address) = &self.address else {
            return Ok(());
        };
        if is_loopback(address.ip()) || self.insecure || !self.keys.is_empty() {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{} can be reached by other machines, and there is no key; give one with \
             --api-key-file, or let everybody ask with --insecure",
            address.ip()
        ))
        .in_parameter("host"))
    }
}

/// Whether only this machine reaches an address.
fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lines_and_are_told_apart() {
        let keys = ApiKeys::read("# people\n\nanna-1\r\n  ben-2  \n");
        assert!(keys.are_several());
        assert_eq!(keys.find("anna-1"), Some(0));
        assert_eq!(keys.find("ben-2"), Some(1));
        for wrong in ["", "anna", "anna-1 ", "# people", "ANNA-1"] {
            assert_eq!(keys.find(wrong), None, "{wrong}");
        }
        assert_eq!(ApiKeys::read("# none\n").find(""), None);
    }

    #[test]
    fn an_address_that_others_reach_wants_a_key() {
        let at = |address: &str| ServerSettings {
            address: Address::Tcp(address.parse().unwrap()),
            ..ServerSettings::new("m")
        };
        for inside in [
            "127.0.0.1:1",
            "127.8.9.1:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            at(inside).check().unwrap();
        }
        for outside in ["0.0.0.0:1", "[::]:1", "192.168.1.5:1", "10.0.0.1:1"] {
            let error = at(outside).check().unwrap_err().to_string();
            assert!(error.contains("--api-key-file"), "{error}");
            let keys = ApiKeys::read("k");
            ServerSettings {
                keys,
                ..at(outside)
            }
            .check()
            .unwrap();
            let insecure = true;
            ServerSettings {
                insecure,
                ..at(outside)
            }
            .check()
            .unwrap();
        }
    }
}
