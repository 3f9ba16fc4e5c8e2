//! How many patterns of a schema may apply to the same text.
//!
//! The engine looks for a text that all of them match before it counts its own work, and what that
//! takes grows exponentially with their number.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::bounds::MAX_PATTERN_BYTES;
use crate::error::{Error, Result};

/// Patterns and formats that may apply to the same text. Of the harder ones, the engine follows
/// three.
const MAX_TOGETHER: usize = 6;
/// How often references are followed. One more step settles those that are declared in any order,
/// except where they refer to each other in circles that add a pattern each time.
const MAX_ROUNDS: usize = 20;

/// Fails where too many patterns may apply to the same text. The schema has no more levels than
/// [`bounds`](super::bounds) allows.
pub(super) fn check(schema: &Value) -> Result<()> {
    match together(schema) {
        Some(patterns) if patterns.are_few() => Ok(()),
        _ => Err(Error::input(format!(
            "has more than {MAX_TOGETHER} patterns and formats, or {MAX_PATTERN_BYTES} bytes of \
             patterns, that may apply to the same text; put them into one pattern, or leave some out"
        ))
        .in_key("pattern")),
    }
}

/// The most that may apply to the same text, or `None` where that does not settle.
fn together(schema: &Value) -> Option<Patterns> {
    let mut references = References {
        root: schema,
        names: Vec::new(),
        known: HashMap::new(),
    };
    for _ in 0..MAX_ROUNDS {
        let top = references.seen_in(schema).all();
        if !top.are_few() {
            return Some(top);
        }
        let mut is_settled = true;
        // A definition refers to later ones as a rule, and so those come first.
        let mut i = references.names.len();
        while i > 0 {
            i -= 1;
            let name = references.names[i];
            let n_before = references.names.len();
            let seen = target(schema, name).map(|schema| references.seen_in(schema));
            let seen = seen.unwrap_or_default();
            is_settled &= references.known[name] == seen;
            references.known.insert(name, seen);
            // Those that are new come before the ones that lead to them.
            if references.names.len() > n_before {
                is_settled = false;
                i = references.names.len();
            }
        }
        if is_settled {
            return Some(top);
        }
    }
    None
}

/// Patterns that may apply to one text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Patterns {
    n: usize,
    n_bytes: usize,
}

impl Patterns {
    fn are_few(self) -> bool {
        self.n <= MAX_TOGETHER && (self.n < 2 || self.n_bytes <= MAX_PATTERN_BYTES)
    }

    /// Both apply. Beyond the bounds, one is like another.
    fn and(self, other: Patterns) -> Patterns {
        Patterns {
            n: (self.n + other.n).min(MAX_TOGETHER + 1),
            n_bytes: (self.n_bytes + other.n_bytes).min(MAX_PATTERN_BYTES + 1),
        }
    }

    /// Either applies.
    fn or(self, other: Patterns) -> Patterns {
        Patterns {
            n: self.n.max(other.n),
            n_bytes: self.n_bytes.max(other.n_bytes),
        }
    }
}

/// What a schema says of a value.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen<'a> {
    /// Of the value itself, if it is a text.
    own: Patterns,
    /// Of properties by name, and of whatever is in them.
    named: BTreeMap<&'a str, Patterns>,
    /// Of any other property or element, and of whatever is in it.
    inner: Patterns,
}

impl<'a> Seen<'a> {
    /// What may apply to the value or anything in it.
    fn all(&self) -> Patterns {
        let named = self.named.values().copied();
        named.fold(self.own.or(self.inner), Patterns::or)
    }

    fn of(&self, name: &str) -> Patterns {
        self.named.get(name).copied().unwrap_or(self.inner)
    }

    fn join(&mut self, other: &Seen<'a>, patterns: fn(Patterns, Patterns) -> Patterns) {
        for (name, known) in &mut self.named {
            *known = patterns(*known, other.of(name));
        }
        for (&name, &of_other) in &other.named {
            let inner = self.inner;
            let entry = self.named.entry(name);
            entry.or_insert_with(|| patterns(inner, of_other));
        }
        self.own = patterns(self.own, other.own);
        self.inner = patterns(self.inner, other.inner);
    }
}

/// What is known so far of the schemas that references lead to.
struct References<'a> {
    root: &'a Value,
    /// In the order in which they were found.
    names: Vec<&'a str>,
    known: HashMap<&'a str, Seen<'a>>,
}

impl<'a> References<'a> {
    /// What `schema` says, as far as is known of its references.
    fn seen_in(&mut self, schema: &'a Value) -> Seen<'a> {
        let Value::Object(object) = schema else {
            return Seen::default();
        };
        let mut seen = self.seen_directly(object);
        for (key, value) in object {
            match (key.as_str(), value) {
                ("$ref", Value::String(name)) => {
                    let target = self.known(name);
                    seen.join(&target, Patterns::and);
                }
                ("allOf", Value::Array(schemas)) => {
                    for schema in schemas {
                        let each = self.seen_in(schema);
                        seen.join(&each, Patterns::and);
                    }
                }
                ("anyOf" | "oneOf", Value::Array(schemas)) => {
                    let mut any = Seen::default();
                    for schema in schemas {
                        let each = self.seen_in(schema);
                        any.join(&each, Patterns::or);
                    }
                    seen.join(&any, Patterns::and);
                }
                _ => {}
            }
        }
        seen
    }

    /// What the keywords of `object` say that take no other schema for the same value.
    fn seen_directly(&mut self, object: &'a Map<String, Value>) -> Seen<'a> {
        let mut seen = Seen::default();
        let mut by_pattern = Patterns::default();
        for (key, value) in object {
            match (key.as_str(), value) {
                ("pattern", Value::String(pattern)) => {
                    let n_bytes = pattern.len();
                    seen.own = seen.own.and(Patterns { n: 1, n_bytes });
                }
                ("format", Value::String(_)) => {
                    seen.own = seen.own.and(Patterns { n: 1, n_bytes: 0 });
                }
                ("properties", Value::Object(schemas)) => {
                    for (name, schema) in schemas {
                        seen.named.insert(name, self.seen_in(schema).all());
                    }
                }
                // No two of them may apply to the same name.
                ("patternProperties", Value::Object(schemas)) => {
                    by_pattern = self.any(schemas.values());
                }
                ("items" | "prefixItems", Value::Array(schemas)) => {
                    seen.inner = seen.inner.or(self.any(schemas));
                }
                ("items" | "additionalItems" | "additionalProperties", schema) => {
                    seen.inner = seen.inner.or(self.seen_in(schema).all());
                }
                _ => {}
            }
        }
        for named in seen.named.values_mut() {
            *named = named.and(by_pattern);
        }
        seen.inner = seen.inner.or(by_pattern);
        seen
    }

    /// What one of `schemas` may say of a value or anything in it.
    fn any(&mut self, schemas: impl IntoIterator<Item = &'a Value>) -> Patterns {
        let schemas = schemas.into_iter();
        schemas.fold(Patterns::default(), |any, schema| {
            any.or(self.seen_in(schema).all())
        })
    }

    fn known(&mut self, name: &'a str) -> Seen<'a> {
        if let Some(seen) = self.known.get(name) {
            return seen.clone();
        }
        // One that leads nowhere is for the engine to refuse.
        if target(self.root, name).is_some() {
            self.names.push(name);
            self.known.insert(name, Seen::default());
        }
        Seen::default()
    }
}

/// What a reference leads to, as the engine follows it.
fn target<'a>(root: &'a Value, name: &str) -> Option<&'a Value> {
    let path = name.strip_prefix('#')?;
    match path.is_empty() || path == "/" {
        true => Some(root),
        false => path
            .strip_prefix('/')?
            .split('/')
            .try_fold(root, |value, key| match value {
                Value::Array(elements) => elements.get(key.parse::<usize>().ok()?),
                value => value.get(key),
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patterns(n: usize) -> Vec<Value> {
        let pattern = |i| json!({ "pattern": format!(".*x{i}.*y{i}.*") });
        (0..n).map(pattern).collect()
    }

    #[track_caller]
    fn follows(schema: &Value) {
        assert!(check(schema).is_ok(), "{schema}");
    }

    #[track_caller]
    fn refuses(schema: &Value) {
        let error = check(schema).unwrap_err().to_string();
        assert!(error.contains("the same text"), "{schema}: {error}");
    }

    #[test]
    fn patterns_of_different_texts_do_not_count_together() {
        let day = json!({ "type": "string", "pattern": "^[0-9-]+$" });
        let properties = |from: usize| {
            let names = (from..from + 100).map(|i| (format!("p{i}"), day.clone()));
            json!({ "properties": names.collect::<serde_json::Map<_, _>>() })
        };
        let parts: Vec<_> = (0..9).map(|i| properties(100 * i)).collect();
        follows(&json!({ "allOf": parts }));
        follows(&json!({ "anyOf": patterns(200) }));
        follows(&json!({ "prefixItems": patterns(200), "items": { "pattern": "x" } }));
        follows(&json!({ "allOf": patterns(6) }));
        // A tree, and a list of references to the same definition.
        let node = json!({
            "properties": { "name": day, "next": { "$ref": "#/$defs/node" } },
            "additionalProperties": { "$ref": "#/$defs/node" },
        });
        follows(&json!({ "$ref": "#/$defs/node", "$defs": { "node": node } }));
        follows(&json!({ "$defs": { "a": { "allOf": patterns(30) } } }));
        follows(&json!({ "pattern": "a".repeat(1000) }));
    }

    #[test]
    fn patterns_of_the_same_text_do_wherever_they_stand() {
        let many = patterns(7);
        refuses(&json!({ "allOf": many }));
        refuses(&json!({ "items": { "anyOf": [true, { "allOf": many }] } }));
        refuses(&json!({ "pattern": "x", "format": "date", "allOf": patterns(5) }));
        let each = |wrap: fn(&Value) -> Value| many.iter().map(wrap).collect::<Vec<_>>();
        refuses(&json!({ "allOf": each(|p| json!({ "properties": { "a": p } })) }));
        refuses(&json!({ "allOf": each(|p| json!({ "items": [p] })) }));
        refuses(&json!({ "allOf": each(|p| json!({ "anyOf": [p, { "type": "null" }] })) }));
        let (named, others) = (each(|p| json!({ "additionalProperties": p })), patterns(1));
        refuses(&json!({ "properties": { "a": others[0] }, "allOf": named[1..] }));
        refuses(
            &json!({ "allOf": [{ "pattern": "a".repeat(600) }, { "pattern": "b".repeat(600) }] }),
        );
        // Each definition adds one to the next, declared in either order.
        for is_reversed in [false, true] {
            let name = |i: usize| format!("d{:03}", if is_reversed { 300 - i } else { i });
            let mut definitions = serde_json::Map::new();
            for i in 0..300 {
                let next = json!({ "$ref": format!("#/$defs/{}", name(i + 1)) });
                let adds = if i % 40 == 0 {
                    json!({ "pattern": "x" })
                } else {
                    json!(true)
                };
                definitions.insert(name(i), json!({ "allOf": [next, adds] }));
            }
            definitions.insert(name(300), json!({}));
            let first = format!("#/$defs/{}", name(0));
            refuses(&json!({ "$ref": first, "$defs": definitions }));
        }
        refuses(&json!({ "allOf": [{ "$ref": "#" }, { "pattern": "x" }] }));
    }
}
