//! Who may ask: a request is refused before its path and body are looked at.
//!
//! - `Host` must be a name of this server, else a page elsewhere could reach it by a name of its own
//!   that resolves to this machine (DNS rebinding).
//! - `Origin`, which browsers send, must be this server's own page or an allowed site; a request
//!   that a page makes has to be JSON by its type, which a plain form cannot say.
//! - Where there are keys, everything but the page and the state of health wants one.

use hyper::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN,
};
use hyper::{Method, StatusCode};

use super::refusal::Refusal;
use super::settings::{Address, ServerSettings};

/// Ollama's and llama.cpp's clients may send a key here.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What is known of a request that was let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Which key it has, where there are any.
    pub key: Option<usize>,
    /// The site whose page asks, where that is another than this server's.
    pub origin: Option<String>,
    /// Whether it only asks what it may ask.
    pub is_preflight: bool,
}

/// Lets a request in, or refuses it. `path` is the request's.
pub fn check(
    settings: &ServerSettings,
    method: &Method,
    path: &str,
    authority: Option<&str>,
    headers: &HeaderMap,
) -> Result<Caller, Refusal> {
    let host = check_host(settings, authority, headers)?;
    let (origin, is_cross) = match headers.get(ORIGIN) {
        None => (None, false),
        Some(origin) => {
            let origin = origin.to_str().unwrap_or("null");
            let is_own = host.is_some_and(|host| is_same_site(origin, host));
            let is_allowed = settings
                .allowed_origins
                .iter()
                .any(|allowed| allowed == origin);
            if !is_own && !is_allowed {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    format!("pages of {origin} may not ask; --allow-origin lets them"),
                ));
            }
            (Some(origin), !is_own)
        }
    };
    let is_preflight = method == Method::OPTIONS
        && origin.is_some()
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut pass = Caller {
        key: None,
        origin: origin.filter(|_| is_cross).map(str::to_owned),
        is_preflight,
    };
    if is_preflight {
        return Ok(pass);
    }
    if !settings.keys.is_empty() && !is_open(path) {
        pass.key = Some(check_key(settings, headers)?);
    }
    if method == Method::POST && origin.is_some() && !is_json(headers) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a page has to send JSON as application/json",
        ));
    }
    Ok(pass)
}

/// Paths that need no key.
fn is_open(path: &str) -> bool {
    matches!(
        path,
        "/" | "/index.html" | "/health" | "/v1/health" | "/readyz"
    )
}

/// The host that the request is for. A UNIX socket has no names to be mistaken for.
fn check_host<'h>(
    settings: &ServerSettings,
    authority: Option<&'h str>,
    headers: &'h HeaderMap,
) -> Result<Option<&'h str>, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts
        .next()
        .and_then(|host| host.to_str().ok())
        .or(authority);
    if hosts.next().is_some() {
        return Err(Refusal::bad("has two Host headers"));
    }
    let Address::Tcp(address) = &settings.address else {
        return Ok(host);
    };
    let Some(host) = host else {
        return Err(Refusal::bad("has no Host header"));
    };
    let name = host_name(host);
    let is_loopback = |ip: std::net::IpAddr| ip.to_canonical().is_loopback();
    let is_own = name.eq_ignore_ascii_case("localhost")
        || name
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| {
                is_loopback(ip)
                    || ip == address.ip()
                    || (address.ip().is_unspecified() && settings.insecure)
            });
    let allowed = &settings.allowed_hosts;
    let is_allowed = allowed
        .iter()
        .any(|allowed| allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(host));
    match is_own || is_allowed {
        true => Ok(Some(host)),
        false => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "the Host header is not a name of this server; --allow-host adds one",
        )),
    }
}

/// A host without its port.
fn host_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if host[colon + 1..].bytes().all(|byte| byte.is_ascii_digit()) => {
            // The colons of an address of version 6 stand in brackets.
            match host[..colon].contains(':') && !host[..colon].ends_with(']') {
                true => host,
                false => &host[..colon],
            }
        }
        _ => host,
    }
}

/// Whether an origin is that of the server that `host` names.
fn is_same_site(origin: &str, host: &str) -> bool {
    let rest = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
}

fn check_key(settings: &ServerSettings, headers: &HeaderMap) -> Result<usize, Refusal> {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
    let key = bearer.or_else(|| headers.get(API_KEY)?.to_str().ok());
    key.and_then(|key| settings.keys.find(key)).ok_or_else(|| {
        Refusal::new(
            StatusCode::UNAUTHORIZED,
            "a key of this server is wanted, as Authorization: Bearer KEY",
        )
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::settings::ApiKeys;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn status(settings: &ServerSettings, method: Method, list: &[(&'static str, &str)]) -> u16 {
        match check(
            settings,
            &method,
            "/v1/chat/completions",
            None,
            &headers(list),
        ) {
            Ok(_) => 200,
            Err(refusal) => refusal.status.as_u16(),
        }
    }

    #[test]
    fn only_names_of_this_server_are_taken() {
        let mut settings = ServerSettings::new("m");
        let get =
            |settings: &ServerSettings, host| status(settings, Method::GET, &[("host", host)]);
        for host in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
        ] {
            assert_eq!(get(&settings, host), 200, "{host}");
        }
        let foreign = [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "box.local",
            "192.168.1.2",
            "0.0.0.0",
            "",
            "localhost:80:80",
            "[::2]",
        ];
        for host in foreign {
            assert_eq!(get(&settings, host), 403, "{host}");
        }
        assert_eq!(status(&settings, Method::GET, &[]), 400);
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(status(&settings, Method::GET, &twice), 400);
        settings.allowed_hosts = vec!["owl.lan".to_owned()];
        assert_eq!(get(&settings, "OWL.lan:8080"), 200);
        settings.address = Address::Tcp("192.168.1.2:8080".parse().unwrap());
        assert_eq!(get(&settings, "192.168.1.2:8080"), 200);
        settings.address = Address::Unix("s".into());
        assert_eq!(get(&settings, "anything"), 200);
    }

    #[test]
    fn pages_of_other_sites_may_not_ask_unless_they_are_allowed() {
        let mut settings = ServerSettings::new("m");
        let post = |settings: &ServerSettings, origin, kind| {
            let list = [
                ("host", "localhost:8080"),
                ("origin", origin),
                ("content-type", kind),
            ];
            status(settings, Method::POST, &list)
        };
        let json = "application/json; charset=utf-8";
        assert_eq!(post(&settings, "http://localhost:8080", json), 200);
        assert_eq!(post(&settings, "http://localhost:8080", "text/plain"), 415);
        for origin in [
            "http://localhost:9090",
            "https://evil.example",
            "null",
            "",
            "localhost:8080",
            "http://localhost:8080.evil.example",
            "file://",
        ] {
            assert_eq!(post(&settings, origin, json), 403, "{origin}");
        }
        settings.allowed_origins = vec!["https://photos.example".to_owned()];
        assert_eq!(post(&settings, "https://photos.example", json), 200);
        assert_eq!(post(&settings, "https://photos.example", "text/plain"), 415);
        assert_eq!(post(&settings, "http://photos.example", json), 403);
        let preflight = headers(&[
            ("host", "localhost"),
            ("origin", "https://photos.example"),
            ("access-control-request-method", "POST"),
        ]);
        let pass = check(&settings, &Method::OPTIONS, "/v1/models", None, &preflight).unwrap();
        assert!(pass.is_preflight);
        assert_eq!(pass.origin.as_deref(), Some("https://photos.example"));
    }

    #[test]
    fn a_key_is_wanted_everywhere_but_for_health_and_the_page() {
        let settings = ServerSettings {
            keys: ApiKeys::read("one\ntwo"),
            ..ServerSettings::new("m")
        };
        let with = |name, value| {
            let list = [("host", "localhost"), (name, value)];
            check(&settings, &Method::GET, "/v1/models", None, &headers(&list)).ok()
        };
        assert_eq!(with("authorization", "Bearer two").unwrap().key, Some(1));
        assert_eq!(with("authorization", "bearer  one").unwrap().key, Some(0));
        assert_eq!(with("x-api-key", "one").unwrap().key, Some(0));
        for (name, value) in [
            ("authorization", "Bearer three"),
            ("authorization", "one"),
            ("authorization", "Basic one"),
            ("x-api-key", ""),
            ("x-other", "one"),
        ] {
            assert_eq!(with(name, value), None, "{name}: {value}");
        }
        for path in ["/", "/health", "/readyz"] {
            let host = headers(&[("host", "localhost")]);
            check(&settings, &Method::GET, path, None, &host).unwrap();
        }
    }
}
