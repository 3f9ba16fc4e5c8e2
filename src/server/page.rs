//! The page for people: one file, which asks for nothing from elsewhere.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::Response;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::body::Outgoing;
use super::routes::text_response;

const PAGE: &str = include_str!("page.html");

/// What the page may do: run its own script, use its own style, ask this server, and show pictures that
/// it was given.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |tag: &str| {
        let digest = Sha256::digest(inside(PAGE, tag).as_bytes());
        format!("'sha256-{}'", BASE64_STANDARD.encode(digest))
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data: blob:; \
         media-src blob: mediastream:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        hash("script"),
        hash("style")
    )
});

/// What stands in the page's one element of this name.
fn inside<'a>(page: &'a str, tag: &str) -> &'a str {
    let begin = format!("<{tag}>");
    let end = format!("</{tag}>");
    let rest = page.split_once(&begin).map_or("", |(_, rest)| rest);
    rest.split_once(&end).map_or("", |(inside, _)| inside)
}

pub fn response() -> Response<Outgoing> {
    let mut response = text_response("text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    let policy = HeaderValue::from_str(&POLICY);
    // Hashes are letters and digits.
    if let Ok(policy) = policy {
        headers.insert(HeaderName::from_static("content-security-policy"), policy);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        HeaderName::from_static("referrer-policy"),
        HeaderValue::from_static("no-referrer"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_whole_in_itself() {
        assert!(PAGE.len() < 30_000, "{} bytes", PAGE.len());
        for tag in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1, "{tag}");
            assert!(inside(PAGE, tag).len() > 100, "{tag}");
        }
        for outside in [
            "http://",
            "https://",
            "src=\"",
            "@import",
            " onclick=",
            " style=\"",
            "eval(",
        ] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        assert!(POLICY.contains("default-src 'none'"));
    }
}
