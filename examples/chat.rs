//! A conversation, a line per question: `cargo run --release --example chat -- assets/cat.png`.
//!
//! Each turn computes only what is new. Ends with the input.

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use owl2::chat::Conversation;
use owl2::{Assistant, Event};

fn main() -> Result<(), Box<dyn Error>> {
    let pictures: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let owl = match std::env::var_os("OWL2_MODEL") {
        Some(file) => Assistant::open(file)?,
        None => Assistant::built_in()?,
    };
    chat(&owl, &pictures, io::stdin().lock(), &mut io::stdout())
}

/// Answers each line of `questions`; the first one is about `pictures`.
pub fn chat(
    owl: &Assistant,
    pictures: &[PathBuf],
    questions: impl BufRead,
    out: &mut (dyn Write + Send),
) -> Result<(), Box<dyn Error>> {
    let mut conversation = Conversation::begin(owl)?;
    for picture in pictures {
        conversation.attach(picture)?;
    }
    for question in questions.lines() {
        let mut written = Ok(());
        conversation.ask(&question?, &mut |event| {
            if let Event::Text(text) = event {
                written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            }
            match written {
                Ok(()) => ControlFlow::Continue(()),
                // Nobody reads any more.
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        written?;
        writeln!(out)?;
    }
    Ok(())
}
