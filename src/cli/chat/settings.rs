//! What `/set` changes.

use std::str::FromStr;

use crate::cli::args::Seed;
use crate::error::{Error, Result, flag};
use crate::request::{Request, UNLIMITED};

/// The names of all settings.
pub const NAMES: [&str; 7] = [
    "max_tokens",
    "min_p",
    "repeat_penalty",
    "seed",
    "temp",
    "top_k",
    "top_p",
];

/// How a chat spells a parameter: as `/set` does, where that changes it, else as a flag.
pub fn spelled(parameter: &str) -> String {
    let name = match parameter {
        "temperature" => "temp",
        _ => parameter,
    };
    match NAMES.contains(&name) {
        true => format!("/set {name}"),
        false => flag(parameter),
    }
}

/// Gives a setting a value; nothing is changed where that fails.
pub fn set(settings: &mut Request, name: &str, value: &str) -> Result<()> {
    let mut sampling = settings.sampling.clone();
    match name {
        "temp" => sampling.temperature = number(name, value)?,
        "top_k" if value == "-1" => sampling.top_k = 0,
        "top_k" => sampling.top_k = number(name, value)?,
        "top_p" => sampling.top_p = number(name, value)?,
        "min_p" => sampling.min_p = number(name, value)?,
        "repeat_penalty" => sampling.repeat_penalty = number(name, value)?,
        "seed" => {
            let seed = value
                .parse::<Seed>()
                .map_err(|_| not_a_number(name, value))?;
            sampling.seed = seed.value();
        }
        "max_tokens" => {
            settings.max_tokens = match value {
                "0" => None,
                "-1" => Some(UNLIMITED),
                _ => Some(number(name, value)?),
            };
            return Ok(());
        }
        _ => {
            let names = NAMES.join(", ");
            return Err(Error::usage(format!(
                "unknown setting '{name}' (expected one of {names})"
            ))
            .in_parameter("/set"));
        }
    }
    sampling.check()?;
    settings.sampling = sampling;
    Ok(())
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| not_a_number(name, value))
}

fn not_a_number(name: &str, value: &str) -> Error {
    Error::usage(format!(
        "invalid value '{value}' for {name}: expected a number"
    ))
    .in_parameter("/set")
}

/// All settings and their values.
pub fn list(settings: &Request) -> String {
    let sampling = &settings.sampling;
    let max_tokens = match settings.max_tokens {
        Some(UNLIMITED) => "-1 (as many as fit)".to_owned(),
        Some(n) => n.to_string(),
        None => "0 (as many as fit, up to 512)".to_owned(),
    };
    format!(
        "temp {}\ntop_k {}\ntop_p {}\nmin_p {}\nrepeat_penalty {}\nseed {}\nmax_tokens {max_tokens}",
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.min_p,
        sampling.repeat_penalty,
        sampling.seed,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Prompt;

    #[test]
    fn settings_take_what_is_in_range() {
        let mut settings = Request::new(Prompt::turns(Vec::new()));
        for name in NAMES {
            set(&mut settings, name, "1").expect(name);
        }
        assert_eq!(settings.sampling.temperature, 1.0);
        assert_eq!(settings.max_tokens, Some(1));
        let before = settings.sampling.clone();
        for (name, value) in [("temp", "-1"), ("top_k", "1.5"), ("top_p", "2"), ("n", "1")] {
            assert!(set(&mut settings, name, value).is_err(), "{name}");
        }
        assert_eq!(settings.sampling, before);
        let error = set(&mut settings, "temp", "-1").unwrap_err();
        let message = error.spelled(&spelled).to_string();
        assert!(message.starts_with("/set temp: "), "{message}");
        assert_eq!(spelled("context"), "--ctx-size");
        for name in NAMES {
            assert!(list(&settings).contains(&format!("{name} 1")), "{name}");
        }
        set(&mut settings, "max_tokens", "0").expect("no limit");
        assert_eq!(settings.max_tokens, None);
    }
}
