//! Pictures in requests: `data:` addresses, base64, and files below the media root. Nothing is
//! fetched.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::fields::Read;
use super::refusal::Refusal;
use crate::files;
use crate::request::Source;

/// Strict but for the padding at the end, which some clients leave out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The picture at an address. `path` is that of the field, for refusals.
pub fn from_address(address: &str, path: &str, media_root: Option<&Path>) -> Read<Source> {
    let scheme = address
        .split_once(':')
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("data") => from_data(&address[5..], path),
        Some("http" | "https") => Err(Refusal::field(
            path,
            "is a web address, and the server downloads nothing; send the picture itself, as \
             data:image/jpeg;base64,...",
        )),
        Some("file") => from_file(address, path, media_root),
        // A bare base64 text is what some clients send.
        None if address.len() > 64 => from_base64(address, path),
        _ => Err(Refusal::field(
            path,
            "is not a picture; send it as data:image/jpeg;base64,...",
        )),
    }
}

/// The picture in the rest of a `data:` address (RFC 2397). Its type is not looked at: what a
/// picture is, its bytes tell.
fn from_data(rest: &str, path: &str) -> Read<Source> {
    let Some((kind, data)) = rest.split_once(',') else {
        return Err(Refusal::field(path, "is a data: address without a comma"));
    };
    let is_base64 = kind
        .rsplit(';')
        .next()
        .is_some_and(|last| last.trim().eq_ignore_ascii_case("base64"));
    match is_base64 {
        true => from_base64(data, path),
        false => Err(Refusal::field(
            path,
            "is a data: address that is not in base64",
        )),
    }
}

/// The picture in a base64 text; a `data:` address is taken too, as Ollama's clients send either.
pub fn from_base64_or_data(text: &str, path: &str) -> Read<Source> {
    match text.get(..5) {
        Some(scheme) if scheme.eq_ignore_ascii_case("data:") => from_data(&text[5..], path),
        _ => from_base64(text, path),
    }
}

fn from_base64(text: &str, path: &str) -> Read<Source> {
    let text = text.trim();
    let decoded = match text.contains(['\n', '\r']) {
        // Lines of 76 letters, as mail has them.
        true => BASE64.decode(text.replace(['\n', '\r'], "")),
        false => BASE64.decode(text),
    };
    match decoded {
        Ok(bytes) if bytes.is_empty() => Err(Refusal::field(path, "is empty, expected a picture")),
        Ok(bytes) => Ok(Source::Bytes(bytes)),
        Err(e) => Err(Refusal::field(path, format!("is no base64: {e}"))),
    }
}

/// The file at a `file://` address, which has to lie below `root`, links resolved.
fn from_file(address: &str, path: &str, root: Option<&Path>) -> Read<Source> {
    let Some(root) = root else {
        return Err(Refusal::field(
            path,
            "is a file address, which this server does not open; send the picture itself, as \
             data:image/jpeg;base64,...",
        ));
    };
    // What is not there and what may not be seen look alike.
    let outside = || Refusal::field(path, "is no file below the media root");
    let file = files::of_address(address).ok_or_else(outside)?;
    // One that is not absolute lies in the root, never where the server was started.
    let (root, file) = (canonical(root), canonical(&root.join(file)));
    match (root, file) {
        (Some(root), Some(file)) if file.starts_with(&root) && file.is_file() => {
            Ok(Source::File(file))
        }
        _ => Err(outside()),
    }
}

fn canonical(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> String {
        from_address(address, "url", None).unwrap_err().message
    }

    #[test]
    fn data_addresses_are_decoded_and_nothing_else() {
        let wanted = Source::Bytes(b"cat".to_vec());
        for address in [
            "data:image/png;base64,Y2F0",
            "DATA:;base64,Y2F0",
            "data:image/jpeg;charset=x;BASE64,Y2F0\n",
        ] {
            assert_eq!(
                from_address(address, "url", None).unwrap(),
                wanted,
                "{address}"
            );
        }
        assert_eq!(from_base64_or_data("Y2F0", "url").unwrap(), wanted);
        assert_eq!(
            from_base64_or_data("data:;base64,Y2F0", "url").unwrap(),
            wanted
        );
        assert_eq!(
            from_base64_or_data("Y2E=", "url").unwrap(),
            from_base64_or_data("Y2E", "url").unwrap()
        );
        for address in [
            "data:image/png;base64,Y2F*",
            "data:image/png;base64",
            "data:image/png,cat",
            "data:image/png;base64,",
            "",
            "cat.png",
            "data:image/png;base64,Y2F0Y",
        ] {
            assert!(refused(address).starts_with("url: "), "{address}");
        }
        for address in [
            "http://a.example/x.png",
            "https://a.example/x.png",
            "HTTP://a",
        ] {
            assert!(refused(address).contains("downloads nothing"), "{address}");
        }
        assert!(refused("file:///etc/hostname").contains("does not open"));
        assert!(refused("ftp://a.example/x.png").contains("not a picture"));
    }

    #[test]
    fn files_are_read_below_the_media_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("media");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("in.png"), "x").unwrap();
        std::fs::write(dir.path().join("out.png"), "x").unwrap();
        let open = |name: &str| {
            let address = format!("file://{}/{name}", root.display());
            from_address(&address, "url", Some(&root))
        };
        assert!(matches!(open("in.png"), Ok(Source::File(_))));
        let relative = |address: &str| from_address(address, "url", Some(&root)).is_ok();
        assert!(relative("file://in.png") && relative("file://./in.png"));
        assert!(!relative("file://Cargo.toml") && !relative("file://../out.png"));
        for name in ["../out.png", "missing.png", "", ".", "%2e%2e/out.png"] {
            let message = open(name).unwrap_err().message;
            assert_eq!(message, "url: is no file below the media root", "{name}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path().join("out.png"), root.join("link.png")).unwrap();
            assert!(open("link.png").is_err());
            std::os::unix::fs::symlink(root.join("in.png"), root.join("good.png")).unwrap();
            assert!(open("good.png").is_ok());
        }
    }
}
