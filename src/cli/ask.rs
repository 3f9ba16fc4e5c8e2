//! One question, one streamed answer.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use crate::cli::args::AskArgs;
use crate::cli::{print, print_json, progress};
use crate::error::{Error, Result};
use crate::image::Exif;
use crate::ops::Compute;
use crate::prompt::{Message, place_images};
use crate::request::{Answer, Assistant, Event, Prompt, Request, Source};
use crate::sampler::Sampling;
use crate::threads;
use crate::timing::Stage;

pub(super) fn run(args: &AskArgs) -> Result<()> {
    let model = args.model.as_deref().ok_or_else(|| {
        Error::usage(
            "is missing; give a model file and a prompt, as in: owl2 -m model.gguf --image \
             cat.jpg -p \"Describe the image.\" (owl2-convert makes model files, --help says more)",
        )
        .in_flag("--model")
    })?;
    let prompt = prompt(args)?;
    let compute = Compute::new(args.threads.unwrap_or_else(threads::default_count))?;
    let assistant = Assistant::open(model, compute)?;
    let request = request(args, prompt, assistant.sampling());

    let mut output = Output::new(!args.json);
    let answer = assistant.answer(&request, &mut |event| output.receive(event));
    let is_read = output.finish(answer.is_ok())?;
    let answer = answer?;
    if args.json && is_read {
        print_json(&as_json(&answer))?;
    }
    if args.verbose {
        progress::say(&timings(&answer));
    }
    Ok(())
}

/// The prompt with a slot for each picture.
fn prompt(args: &AskArgs) -> Result<Prompt> {
    let text = args.prompt.as_deref().ok_or_else(|| {
        Error::usage("is missing; say what you want to know, as in: -p \"Describe the image.\"")
            .in_flag("--prompt")
    })?;
    let text = place_images(text, args.image.len())?;
    if args.raw {
        return Ok(Prompt::Raw(text));
    }
    Ok(Prompt::Turns {
        messages: vec![Message::user(text), Message::assistant("")],
        template: args.template,
    })
}

fn request(args: &AskArgs, prompt: Prompt, defaults: &Sampling) -> Request {
    Request {
        pictures: args.image.iter().cloned().map(Source::File).collect(),
        aspect: args.aspect,
        exif: match args.no_exif {
            true => Exif::Ignore,
            false => Exif::Apply,
        },
        sampling: Sampling {
            temperature: args.temp,
            top_k: args.top_k.unwrap_or(defaults.top_k),
            top_p: args.top_p.unwrap_or(defaults.top_p),
            min_p: args.min_p,
            repeat_penalty: args.repeat_penalty,
            seed: args.seed,
        },
        max_tokens: args.max_tokens,
        stops: args.stop.clone(),
        context: args.ctx_size,
        ..Request::new(prompt)
    }
}

/// Writes the events of a request where they belong.
struct Output {
    is_streaming: bool,
    /// Line ends that go out only when more text follows, so that the output ends with one.
    n_held_newlines: usize,
    /// Whether standard output still takes text.
    state: Result<bool>,
}

impl Output {
    fn new(is_streaming: bool) -> Self {
        Output {
            is_streaming,
            n_held_newlines: 0,
            state: Ok(true),
        }
    }

    fn receive(&mut self, event: Event) -> ControlFlow<()> {
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
            Ok(true) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    fn write(&mut self, text: &str) {
        let line = text.trim_end_matches('\n');
        if !line.is_empty() {
            let held = "\n".repeat(std::mem::take(&mut self.n_held_newlines));
            self.state = print(&(held + line));
        }
        self.n_held_newlines += text.len() - line.len();
    }

    /// Ends the line, where the answer came to its end; whether the output is still read.
    fn finish(self, is_answered: bool) -> Result<bool> {
        progress::clear();
        let is_read = self.state?;
        match self.is_streaming && is_answered && is_read {
            true => print("\n"),
            false => Ok(is_read),
        }
    }
}

fn as_json(answer: &Answer) -> Value {
    let seconds: serde_json::Map<_, _> = Stage::ALL
        .iter()
        .map(|&stage| {
            let time = answer.timings.of(stage).as_secs_f64();
            (stage.name().to_owned(), time.into())
        })
        .collect();
    json!({
        "text": answer.text,
        "stop": answer.stop.name(),
        "tokens": {
            "prompt": answer.n_prompt,
            "image": answer.n_image,
            "reused": answer.n_reused,
            "generated": answer.ids.len(),
        },
        "ids": answer.ids,
        "seconds": seconds,
    })
}

/// A table of the stages that took place, with the speed of the two that work on tokens.
fn timings(answer: &Answer) -> String {
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
            Stage::Prefill => answer.n_prompt,
            Stage::Decode => answer.ids.len().saturating_sub(1),
            _ => 0,
        };
        if n_computed > 0 {
            let rate = n_computed as f64 / time.as_secs_f64();
            table += &format!("  {n_computed} tokens, {rate:.2} per second");
        }
        table.push('\n');
    }
    let ms = answer.timings.total().as_secs_f64() * 1000.0;
    table + &format!("{:<13} {ms:>10.1} ms\n", "total")
}
