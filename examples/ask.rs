//! One question about pictures: `cargo run --release --example ask -- assets/cat.png "What is it?"`.
//!
//! The last argument is the question, the others are pictures. `OWL2_MODEL` names a model file;
//! without it the built-in model answers.

use std::error::Error;
use std::io::{self, Write};

use owl2::{Assistant, Question};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let owl = match std::env::var_os("OWL2_MODEL") {
        Some(file) => Assistant::open(file)?,
        None => Assistant::built_in()?,
    };
    ask(&owl, &arguments, &mut io::stdout())
}

/// Prints the answer to the question at the end of `arguments`.
pub fn ask(
    owl: &Assistant,
    arguments: &[String],
    out: &mut dyn Write,
) -> Result<(), Box<dyn Error>> {
    let (text, pictures) = arguments
        .split_last()
        .ok_or("usage: ask PICTURE... QUESTION")?;
    let mut question = Question::new(text);
    for picture in pictures {
        question = question.picture(picture.as_str());
    }
    let answer = owl.ask(question)?;
    writeln!(out, "{answer}")?;
    Ok(())
}
