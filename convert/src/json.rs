//! The JSON files of a checkpoint, read so that every error names the file and the key.
//!
//! As in the reference's configuration classes, keys nobody asks for are ignored. A key that is
//! `null` counts as missing.

use std::path::{Path, PathBuf};

use owl2::gguf::lfs;
use owl2::{Error, Result, files};
use serde_json::{Map, Value};

/// Many times the size of any real configuration or index. The values of a hostile file of this
/// size take some 130 MiB.
const MAX_JSON_BYTES: u64 = 4 << 20;

/// What some editors put before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A JSON object, and where it stands.
pub(crate) struct Object {
    path: PathBuf,
    /// What comes before the keys in messages: empty, or `visual_config.visual_model.`.
    prefix: String,
    values: Map<String, Value>,
}

impl Object {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let read = files::read_at_most(files::open(path)?, path, MAX_JSON_BYTES)?;
        let text = read.ok_or_else(|| {
            Error::model(format!(
                "is longer than {} MiB; a file of a checkpoint with this name is much shorter",
                MAX_JSON_BYTES >> 20
            ))
            .in_file(path)
        })?;
        lfs::check(&text).map_err(|e| e.in_file(path))?;
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
        match serde_json::from_slice(text) {
            Ok(Value::Object(values)) => Ok(Object {
                path: path.to_owned(),
                prefix: String::new(),
                values,
            }),
            Ok(_) => Err(Error::model("is not a JSON object").in_file(path)),
            Err(e) => Err(Error::model(format!("is not valid JSON: {e}"))
                .in_file(path)
                .caused_by(e)),
        }
    }

    /// Reads the file at `path`, or gives an empty object where there is none.
    pub(crate) fn read_optional(path: &Path) -> Result<Self> {
        if path.exists() {
            return Self::read(path);
        }
        Ok(Object {
            path: path.to_owned(),
            prefix: String::new(),
            values: Map::new(),
        })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The object under `key`, empty where that is missing.
    pub(crate) fn object(&self, key: &str) -> Result<Object> {
        let values = match self.get(key) {
            None => Map::new(),
            Some(Value::Object(values)) => values.clone(),
            Some(_) => return Err(self.error(key, "is not an object")),
        };
        Ok(Object {
            path: self.path.clone(),
            prefix: format!("{}{key}.", self.prefix),
            values,
        })
    }

    /// The value of `key`, unless it is missing or `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Every key and value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The count under `key`.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a non-negative integer", |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok())
        })
    }

    /// The number under `key`.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// The truth value under `key`.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// The text under `key`.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An error about `key` of this file.
    pub(crate) fn error(&self, key: &str, message: impl Into<String>) -> Error {
        Error::model(message)
            .in_key(format!("{}{key}", self.prefix))
            .in_file(&self.path)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key)
            .map(|value| {
                convert(value)
                    .ok_or_else(|| self.error(key, format!("is {value}, expected {wanted}")))
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Object> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        Object::read(&path)
    }

    #[test]
    fn null_is_missing_and_wrong_types_are_named() {
        let object = parsed(r#"{"a": null, "b": {"c": -1, "d": "x"}}"#).unwrap();
        assert_eq!(object.count("a").unwrap(), None);
        let inner = object.object("b").unwrap();
        let message = inner.count("c").unwrap_err().to_string();
        assert!(
            message.contains("config.json: key 'b.c': is -1"),
            "{message}"
        );
        assert!(inner.number("d").is_err());
    }

    #[test]
    fn refuses_what_is_no_object_or_too_deep() {
        for text in ["", "[1]", "{", "{\"a\": \u{1}}", &"[".repeat(1 << 20)] {
            assert!(parsed(text).is_err(), "{}", &text[..text.len().min(20)]);
        }
    }

    #[test]
    fn reads_decimals_exactly() {
        let object = parsed("\u{feff}{\"rescale_factor\": 0.00392156862745098}").unwrap();
        assert_eq!(object.number("rescale_factor").unwrap(), Some(1.0 / 255.0));
    }
}
