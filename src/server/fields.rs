//! Reads the JSON of clients. A missing or null field is skipped; others must have the right type and
//! range. An error names the whole path of the field.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// A result of reading fields.
pub type Read<T> = Result<T, Refusal>;

/// An object, and where it stands in the body.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// The body as a whole.
    pub fn of_body(value: &'a Value) -> Read<Self> {
        match value {
            Value::Object(object) => Ok(Fields {
                object,
                path: String::new(),
            }),
            _ => Err(Refusal::bad("the body is not a JSON object")),
        }
    }

    /// `value`, which stands at `path`.
    pub fn of(value: &'a Value, path: String) -> Read<Self> {
        match value {
            Value::Object(object) => Ok(Fields { object, path }),
            _ => Err(wrong(&path, value, "an object")),
        }
    }

    /// The path of a field.
    pub fn path(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    /// A field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// A refusal because of a field.
    pub fn refuse(&self, name: &str, message: impl AsRef<str>) -> Refusal {
        Refusal::field(self.path(name), message)
    }

    pub fn object(&self, name: &str) -> Read<Option<Fields<'a>>> {
        let value = self.get(name);
        value
            .map(|value| Fields::of(value, self.path(name)))
            .transpose()
    }

    pub fn text(&self, name: &str) -> Read<Option<&'a str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.path(name), other, "a text")),
        }
    }

    pub fn array(&self, name: &str) -> Read<Option<&'a [Value]>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(wrong(&self.path(name), other, "an array")),
        }
    }

    pub fn flag(&self, name: &str) -> Read<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong(&self.path(name), other, "true or false")),
        }
    }

    /// A number from `least` to `most`.
    pub fn number(&self, name: &str, least: f64, most: f64) -> Read<Option<f64>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(wrong(
                &self.path(name),
                value,
                &format!("a number from {least} to {most}"),
            )),
        }
    }

    /// A whole number; 3.0 is one too.
    pub fn integer(&self, name: &str) -> Read<Option<i64>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let integer = value.as_i64().or_else(|| {
            /// Up to here every whole number has a double of its own.
            const EXACT: f64 = (1_u64 << 53) as f64;
            let number = value.as_f64()?;
            (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
        });
        match integer {
            Some(integer) => Ok(Some(integer)),
            None => Err(wrong(&self.path(name), value, "a whole number")),
        }
    }

    /// A whole number, 0 or more; below is none, which says "no limit" to llama.cpp and Ollama.
    pub fn count(&self, name: &str) -> Read<Option<usize>> {
        let integer = self.integer(name)?;
        Ok(integer.and_then(|integer| usize::try_from(integer).ok()))
    }

    /// Fails where a field asks for what this server does not do. What counts as not asking:
    /// nothing, false, an empty text, array or object, and `idle`.
    pub fn unsupported(&self, name: &str, idle: &[Value], instead: &str) -> Read<()> {
        let is_idle = match self.get(name) {
            None | Some(Value::Bool(false)) => true,
            Some(Value::String(text)) if text.is_empty() => true,
            Some(Value::Array(values)) if values.is_empty() => true,
            Some(Value::Object(object)) if object.is_empty() => true,
            Some(value) => idle.iter().any(|idle| equal(idle, value)),
        };
        match is_idle {
            true => Ok(()),
            false => Err(self.refuse(name, format!("is not supported; {instead}"))),
        }
    }
}

/// Whether two values are the same, numbers by their value.
fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A value of the wrong type or range.
pub fn wrong(path: &str, value: &Value, wanted: &str) -> Refusal {
    let is = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    Refusal::field(path, format!("is {is}, expected {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_have_to_be_in_their_range_and_are_named() {
        let body: Value =
            serde_json::from_str(r#"{"a":-1,"b":1e308,"c":18446744073709551616,"d":"1","e":null}"#)
                .unwrap();
        let fields = Fields::of_body(&body).unwrap();
        for name in ["a", "b", "c", "d"] {
            let refusal = fields.number(name, 0.0, 2.0).unwrap_err();
            assert_eq!(refusal.param.as_deref(), Some(name));
        }
        for name in ["b", "c", "d"] {
            assert!(fields.integer(name).is_err(), "{name}");
        }
        assert_eq!(fields.integer("a").unwrap(), Some(-1));
        assert_eq!(fields.count("a").unwrap(), None);
        assert_eq!(fields.number("e", 0.0, 1.0).unwrap(), None);
        let body = json!({"n": 3.0, "m": 2.5});
        let fields = Fields::of_body(&body).unwrap();
        assert_eq!(fields.integer("n").unwrap(), Some(3));
        assert!(fields.integer("m").is_err());
    }

    #[test]
    fn paths_lead_to_the_field() {
        let body = json!({"a": {"b": [1]}});
        let fields = Fields::of_body(&body).unwrap();
        let inner = fields.object("a").unwrap().unwrap();
        let refusal = inner.text("b").unwrap_err();
        assert_eq!(refusal.message, "a.b: is an array, expected a text");
        assert!(Fields::of_body(&json!([])).is_err());
    }

    #[test]
    fn what_asks_for_nothing_is_let_pass() {
        let body = json!({"n": 1.0, "tools": [], "logprobs": false, "x": 2, "y": {"k": 1}});
        let fields = Fields::of_body(&body).unwrap();
        fields.unsupported("n", &[json!(1)], "").unwrap();
        fields.unsupported("tools", &[], "").unwrap();
        fields.unsupported("logprobs", &[], "").unwrap();
        fields.unsupported("absent", &[], "").unwrap();
        assert!(fields.unsupported("x", &[json!(1)], "ask twice").is_err());
        assert!(fields.unsupported("y", &[], "").is_err());
    }
}
