//! An answer that is sent through a channel as it is generated, as a web socket or a window would
//! take it: `cargo run --release --example stream -- assets/cat.png "Describe the image."`.
//!
//! Dropping the receiver ends the answer.

use std::error::Error;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use owl2::{Assistant, Question, Settings};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(picture), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err("usage: stream PICTURE QUESTION".into());
    };
    let owl = match std::env::var_os("OWL2_MODEL") {
        Some(file) => Assistant::open(file)?,
        None => Assistant::built_in()?,
    };
    for piece in stream(Arc::new(owl), Question::new(text).picture(picture)) {
        print!("{}", piece?);
        io::stdout().flush()?;
    }
    println!();
    Ok(())
}

/// The pieces of an answer, which another thread computes.
pub fn stream(owl: Arc<Assistant>, question: Question) -> Receiver<owl2::Result<String>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let pieces = sender.clone();
        let answer = owl.ask_with(question, &Settings::default(), &mut |text| match pieces
            .send(Ok(text.to_owned()))
        {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
        if let Err(error) = answer {
            // Where the receiver is gone, nobody wants to know.
            let _ = sender.send(Err(error));
        }
    });
    receiver
}
