//! The limits of a constraint, checked before the grammar engine sees it.
//!
//! The engine limits much of its work, but not all. Its work grows with the divisors of `multipleOf`
//! and is multiplied by the patterns of a text, and it recurses for each `$ref` and property. The
//! checks here look at each value of a schema once. They count a keyword wherever it stands, because a
//! `$ref` can use any part as a schema, even a `default`.

use serde_json::{Map, Number, Value};

use super::patterns;
use crate::error::{Error, Result};

/// Bytes of all choices, or of a schema's text.
pub(super) const MAX_BYTES: usize = 64 << 10;
/// The deepest value of a schema; the reader of JSON allows no more than twice that.
const MAX_DEPTH: usize = 64;
/// Numbers, texts, lists and objects of a schema.
const MAX_VALUES: usize = 4000;
/// Keys of one object, elements of one list.
const MAX_LENGTH: usize = 2000;
/// References of a schema, each of which the engine may put in its place.
const MAX_REFERENCES: usize = 500;
/// Bytes of a regular expression.
pub(super) const MAX_PATTERN_BYTES: usize = 1000;
/// How often something may be repeated: `minItems`, `maxLength` and the like.
const MAX_REPEATS: f64 = 100_000.0;
/// Divisors of `multipleOf`, as integers: all of them together, and their least common multiple
/// where some may apply to the same number.
const MAX_DIVISOR: u128 = 10_000;
/// Decimal places of a divisor.
const MAX_DECIMALS: i32 = 9;

/// Keywords that repeat something so often, or set how often at least or at most.
const REPEATS: [&str; 6] = [
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minProperties",
    "maxProperties",
];
/// Keywords under which several schemas apply to the same value.
const COMBINING: [&str; 5] = ["allOf", "anyOf", "oneOf", "$ref", "patternProperties"];

/// Fails for choices that are too many or too long.
pub(super) fn check_choices(choices: &[String]) -> Result<()> {
    let n_bytes: usize = choices.iter().map(String::len).sum();
    match choices.len() <= MAX_LENGTH && n_bytes <= MAX_BYTES {
        true => Ok(()),
        false => Err(Error::usage(format!(
            "are {} texts of {n_bytes} bytes, expected at most {MAX_LENGTH} of {MAX_BYTES}",
            choices.len()
        ))),
    }
}

/// Fails for a schema that could keep the engine busy for long, or take much memory.
pub(super) fn check_schema(schema: &Value) -> Result<()> {
    let mut seen = Seen::default();
    // No calls of itself: a schema that a program made may be of any depth.
    let mut waiting = vec![(schema, 1)];
    while let Some((value, depth)) = waiting.pop() {
        seen.take(value, depth)?;
        match value {
            Value::Array(elements) => {
                waiting.extend(elements.iter().map(|element| (element, depth + 1)));
            }
            Value::Object(object) => {
                waiting.extend(object.values().map(|value| (value, depth + 1)));
            }
            _ => {}
        }
    }
    seen.check_divisors()?;
    patterns::check(schema)
}

/// What was seen of a schema.
#[derive(Default)]
struct Seen {
    n_values: usize,
    n_bytes: usize,
    n_references: usize,
    is_combining: bool,
    /// Coefficient and decimal exponent of each divisor.
    divisors: Vec<(u128, i32)>,
}

impl Seen {
    fn take(&mut self, value: &Value, depth: usize) -> Result<()> {
        self.n_values += 1;
        let len = match value {
            Value::String(text) => {
                self.n_bytes += text.len();
                0
            }
            Value::Array(elements) => elements.len(),
            Value::Object(object) => {
                self.take_object(object)?;
                object.len()
            }
            _ => 0,
        };
        let problem = if depth > MAX_DEPTH {
            format!("is more than {MAX_DEPTH} levels deep")
        } else if self.n_values > MAX_VALUES {
            format!("has more than {MAX_VALUES} values")
        } else if self.n_bytes > MAX_BYTES {
            format!("has more than {MAX_BYTES} bytes of text")
        } else if len > MAX_LENGTH {
            format!("has {len} keys or elements in one place, expected at most {MAX_LENGTH}")
        } else if self.n_references > MAX_REFERENCES {
            format!("has more than {MAX_REFERENCES} references")
        } else {
            return Ok(());
        };
        Err(Error::input(problem + "; ask for less at once"))
    }

    fn take_object(&mut self, object: &Map<String, Value>) -> Result<()> {
        for (key, value) in object {
            self.n_bytes += key.len();
            self.is_combining |= COMBINING.contains(&key.as_str());
            match (key.as_str(), value) {
                ("$ref" | "$dynamicRef" | "$recursiveRef", _) => self.n_references += 1,
                ("multipleOf", Value::Number(number)) => self.divisors.push(divisor(number)?),
                ("pattern", Value::String(pattern)) => check_pattern(pattern)?,
                ("patternProperties", Value::Object(patterns)) => {
                    patterns
                        .keys()
                        .try_for_each(|pattern| check_pattern(pattern))?;
                }
                (name, Value::Number(number)) if REPEATS.contains(&name) => {
                    check_repeats(number).map_err(|e| e.in_key(name))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_divisors(&self) -> Result<()> {
        let refused = || {
            Error::input(format!(
                "counts in steps beyond {MAX_DIVISOR} of its last decimal place, those of all the schema \
                 together; leave it out, and check the answer"
            ))
            .in_key("multipleOf")
        };
        let each = self.divisors.iter().map(|&(coefficient, exponent)| {
            scaled(coefficient, exponent, exponent.min(0)).unwrap_or(u128::MAX)
        });
        if each.fold(0, u128::saturating_add) > MAX_DIVISOR {
            return Err(refused());
        }
        let finest = self.divisors.iter().map(|&(_, exponent)| exponent.min(0));
        let finest = finest.min().unwrap_or(0);
        let common = self.divisors.iter().try_fold(1, |common, &divisor| {
            least_common_multiple(common, scaled(divisor.0, divisor.1, finest)?)
        });
        match common {
            Some(common) if common <= MAX_DIVISOR || !self.is_combining => Ok(()),
            _ => Err(refused()),
        }
    }
}

fn check_pattern(pattern: &str) -> Result<()> {
    match pattern.len() <= MAX_PATTERN_BYTES {
        true => Ok(()),
        false => Err(Error::input(format!(
            "is {} bytes long, expected at most {MAX_PATTERN_BYTES}",
            pattern.len()
        ))
        .in_key("pattern")),
    }
}

fn check_repeats(number: &Number) -> Result<()> {
    match number.as_f64().is_none_or(|n| n <= MAX_REPEATS) {
        true => Ok(()),
        false => Err(Error::input(format!(
            "is {number}, expected at most {MAX_REPEATS}"
        ))),
    }
}

/// Coefficient and decimal exponent of a divisor.
fn divisor(number: &Number) -> Result<(u128, i32)> {
    // In this notation, a double has the fewest digits that tell it apart.
    let spelled = match number.as_u64() {
        Some(integer) => format!("{integer}e0"),
        None => format!("{:e}", number.as_f64().unwrap_or(f64::NAN).abs()),
    };
    let parsed = spelled.split_once('e').and_then(|(digits, exponent)| {
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let coefficient: u128 = format!("{whole}{fraction}").parse().ok()?;
        let exponent: i32 = exponent.parse().ok()?;
        let exponent = exponent - fraction.len() as i32;
        (exponent >= -MAX_DECIMALS).then_some((coefficient, exponent))
    });
    parsed.ok_or_else(|| {
        Error::input(format!(
            "is {number}, expected a number of at most {MAX_DECIMALS} decimal places"
        ))
        .in_key("multipleOf")
    })
}

/// A divisor in units of `10^unit`, if that is a number of any size to be used.
fn scaled(coefficient: u128, exponent: i32, unit: i32) -> Option<u128> {
    let power = u32::try_from(exponent - unit).ok()?;
    coefficient.checked_mul(10_u128.checked_pow(power)?)
}

fn least_common_multiple(a: u128, b: u128) -> Option<u128> {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    match divisor {
        0 => Some(0),
        _ => (a / divisor).checked_mul(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nested(depth: usize, schema: Value) -> Value {
        (0..depth).fold(schema, |inner, _| json!({ "items": inner }))
    }

    #[track_caller]
    fn refused(schema: &Value, wanted: &str) {
        let message = check_schema(schema).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
        assert!(message.len() < 300, "{message}");
    }

    #[test]
    fn everyday_schemas_are_within_bounds() {
        let properties: Map<String, Value> = (0..300)
            .map(|i| {
                (
                    format!("field {i}"),
                    json!({ "type": "string", "pattern": "^[a-z]+$" }),
                )
            })
            .collect();
        for schema in [
            json!({}),
            json!({ "properties": properties }),
            json!({ "enum": (0..1000).collect::<Vec<_>>() }),
            json!({ "minItems": 2, "maxLength": 4096, "items": { "$ref": "#" } }),
            nested(50, json!(true)),
        ] {
            check_schema(&schema).unwrap();
        }
    }

    #[test]
    fn what_is_too_deep_long_or_often_is_refused_wherever_it_stands() {
        refused(&nested(500, json!({})), "levels deep");
        refused(
            &json!({ "enum": (0..3000).collect::<Vec<_>>() }),
            "3000 keys or elements",
        );
        refused(&json!(vec![vec![0; 100]; 100]), "more than 4000 values");
        refused(&json!({ "const": "x".repeat(70_000) }), "bytes of text");
        refused(&json!(vec![json!({ "$ref": "#" }); 501]), "references");
        for (keyword, value) in [
            ("minItems", json!(1e9)),
            ("maxLength", json!(u64::MAX)),
            ("minProperties", json!(100_001)),
            ("pattern", json!("a".repeat(1001))),
            ("multipleOf", json!(2_147_483_648_u64)),
            ("multipleOf", json!(1e300)),
            ("multipleOf", json!(1e-300)),
            ("multipleOf", json!(0.000_010_007)),
            ("patternProperties", json!({ "b".repeat(1001): {} })),
        ] {
            let keyword = json!({ keyword: value });
            for schema in [
                keyword.clone(),
                nested(9, keyword.clone()),
                json!({ "$ref": "#/default", "default": keyword }),
            ] {
                let error = check_schema(&schema).unwrap_err();
                assert!(error.subject().is_some(), "{error}");
            }
        }
    }

    #[test]
    fn divisors_count_together() {
        let list = |divisors: &[f64]| {
            let one = |d: &f64| json!({ "type": "number", "multipleOf": d });
            divisors.iter().map(one).collect::<Vec<_>>()
        };
        let apart = |divisors: &[f64]| check_schema(&json!({ "prefixItems": list(divisors) }));
        let together = |divisors: &[f64]| check_schema(&json!({ "allOf": list(divisors) }));
        apart(&[0.01, 500.0, 0.25, 5.0]).unwrap();
        apart(&[97.0, 101.0, 103.0]).unwrap();
        together(&[97.0, 101.0]).unwrap();
        together(&[0.01, 0.05, 1.0]).unwrap();
        assert!(apart(&[9000.0, 9001.0]).is_err());
        assert!(together(&[97.0, 101.0, 103.0]).is_err());
        assert!(together(&[0.01, 997.0]).is_err());
        // Numbers that are no divisors are for the engine to refuse.
        apart(&[0.0, -2.0]).unwrap();
    }

    #[test]
    fn choices_have_bounds() {
        check_choices(&vec!["a".to_owned(); MAX_LENGTH]).unwrap();
        assert!(check_choices(&vec!["a".to_owned(); MAX_LENGTH + 1]).is_err());
        assert!(check_choices(&["a".repeat(MAX_BYTES + 1)]).is_err());
    }
}
