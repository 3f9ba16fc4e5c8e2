//! Prints the events and the result of a request.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use crate::cli::{interrupt, print, progress};
use crate::error::{Error, Kind, Result};
use crate::request::{Answer, Event, StopReason};
use crate::sampler::Sampling;
use crate::timing::Stage;

/// Writes the events of a request where they belong.
pub struct Output {
    is_streaming: bool,
    /// What the first line begins with; printed with the first text.
    prefix: String,
    /// Line ends that go out only when more text follows, so that the output ends with one.
    n_held_newlines: usize,
    /// Whether standard output still takes text.
    state: Result<bool>,
}

impl Output {
    /// An output that prints text as it comes if `is_streaming`, after `prefix`.
    pub fn new(is_streaming: bool, prefix: String) -> Self {
        Output {
            is_streaming,
            prefix,
            n_held_newlines: 0,
            state: Ok(true),
        }
    }

    /// Takes an event; whether the request should go on.
    pub fn receive(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Encoding { index, n_pictures } => progress::show(&format!(
                "looking at picture {} of {n_pictures} ...",
                index + 1
            )),
            Event::Reading {
                n_done,
                n_positions,
            } => progress::show(&format!(
                "reading the prompt, {n_done} of {n_positions} positions ..."
            )),
            Event::Text("") => {}
            Event::Text(text) => {
                progress::clear();
                if self.is_streaming {
                    self.write(text);
                }
            }
        }
        match self.state {
            Ok(true) if !interrupt::is_requested() => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    fn write(&mut self, text: &str) {
        let line = text.trim_end_matches('\n');
        if !line.is_empty() {
            let prefix = std::mem::take(&mut self.prefix);
            let held = "\n".repeat(std::mem::take(&mut self.n_held_newlines));
            let text = prefix + &held + line;
            self.state = print(&text);
        }
        self.n_held_newlines += text.len() - line.len();
    }

    /// Ends the line, where the answer came to its end; whether the output is still read. Nothing can
    /// be written after that.
    pub fn finish(&mut self, is_answered: bool) -> Result<bool> {
        progress::clear();
        let is_read = std::mem::replace(&mut self.state, Ok(false))?;
        match self.is_streaming && is_answered && is_read {
            true => print(&(std::mem::take(&mut self.prefix) + "\n")),
            false => Ok(is_read),
        }
    }
}

/// What to say where the model had more to say, if it had. `context` is what the request had room
/// for, `length` how a longer answer is asked for.
///
/// # Errors
/// [`Kind::Unfinished`] where the answer is only the beginning of what its constraint asks for.
pub fn note_of_cut(answer: &Answer, context: usize, length: &str) -> Result<Option<String>> {
    let (cut, hint) = match &answer.stop {
        StopReason::Cancelled => return Ok(None),
        StopReason::MaxTokens => {
            let plural = if answer.ids.len() == 1 { "" } else { "s" };
            let cut = format!("at {} token{plural}", answer.ids.len());
            (cut, format!("; {length} gives more"))
        }
        StopReason::ContextFull => {
            let cut = format!("where the context of {context} positions ends");
            (cut, "; --ctx-size gives more".to_owned())
        }
        StopReason::StopText => ("by a stop text".to_owned(), String::new()),
        StopReason::EndOfText => ("by the model".to_owned(), String::new()),
    };
    match (answer.is_fulfilled, answer.stop.is_cut()) {
        (false, _) => Err(Error::new(
            Kind::Unfinished,
            format!("the answer was cut {cut} and does not meet --choices or --json-schema{hint}"),
        )),
        (true, true) => Ok(Some(format!("the answer was cut {cut}{hint}"))),
        (true, false) => Ok(None),
    }
}

/// An answer as one JSON object; `finish_reason` and `usage` are as in OpenAI's API.
pub fn as_json(answer: &Answer, sampling: &Sampling) -> Value {
    let seconds: serde_json::Map<_, _> = Stage::ALL
        .iter()
        .map(|&stage| {
            let time = answer.timings.of(stage).as_secs_f64();
            (stage.name().to_owned(), time.into())
        })
        .collect();
    let mut object = json!({
        "text": answer.text,
        "finish_reason": answer.stop.finish_reason(),
        "stop": answer.stop.name(),
        "fulfilled": answer.is_fulfilled,
        "usage": {
            "prompt_tokens": answer.n_prompt,
            "completion_tokens": answer.ids.len(),
            "total_tokens": answer.n_prompt + answer.ids.len(),
        },
        "tokens": {
            "prompt": answer.n_prompt,
            "image": answer.n_image,
            "reused": answer.n_reused,
            "generated": answer.ids.len(),
            "drafted": answer.n_drafted,
            "accepted": answer.n_accepted,
        },
        "ids": answer.ids,
        "warnings": answer.warnings,
        "seconds": seconds,
    });
    if !sampling.is_greedy() {
        object["seed"] = sampling.seed.into();
    }
    object
}

/// A table of the stages that took place, with the speed of the two that work on tokens.
pub fn timings(answer: &Answer) -> String {
    let mut table = String::new();
    for stage in Stage::ALL {
        let time = answer.timings.of(stage);
        if time.is_zero() {
            continue;
        }
        let ms = time.as_secs_f64() * 1000.0;
        table += &format!("{:<13} {ms:>10.1} ms", stage.name());
        // The first token comes out of the prompt's pass.
        let n_computed = match stage {
            Stage::Prefill => answer.n_prompt - answer.n_reused,
            Stage::Decode => answer.ids.len().saturating_sub(1),
            _ => 0,
        };
        if n_computed > 0 {
            let rate = n_computed as f64 / time.as_secs_f64();
            table += &format!("  {n_computed} tokens, {rate:.2} per second");
        }
        table.push('\n');
    }
    if answer.n_drafted > 0 {
        table += &format!(
            "{:<13} {:>10} of {} tokens were right\n",
            "drafted", answer.n_accepted, answer.n_drafted
        );
    }
    let ms = answer.timings.total().as_secs_f64() * 1000.0;
    table + &format!("{:<13} {ms:>10.1} ms\n", "total")
}
