//! The examples, run as their users run them but for the arguments.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use owl2::{Assistant, Kind, Question};

#[path = "../../examples/ask.rs"]
#[allow(dead_code, reason = "main is for the program")]
mod ask;
#[path = "../../examples/chat.rs"]
#[allow(dead_code, reason = "main is for the program")]
mod chat;
#[path = "../../examples/folder.rs"]
#[allow(dead_code, reason = "main is for the program")]
mod folder;
#[path = "../../examples/stream.rs"]
#[allow(dead_code, reason = "main is for the program")]
mod stream;

fn asset(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    folder.join(name).display().to_string()
}

fn owl() -> Assistant {
    Assistant::built_in().unwrap()
}

#[test]
fn ask_prints_the_answer() {
    let mut out = Vec::new();
    let arguments = [asset("cat.png"), "Describe the image.".to_owned()];
    ask::ask(&owl(), &arguments, &mut out).unwrap();
    assert_eq!(out, b"A cat on a blue background.\n");
    assert!(ask::ask(&owl(), &[], &mut out).is_err());
}

#[test]
fn chat_remembers_the_picture() {
    let mut out = Vec::new();
    let questions = "What animal is this?\nWhat color is the background?\n";
    let pictures = [PathBuf::from(asset("cat.png"))];
    chat::chat(&owl(), &pictures, questions.as_bytes(), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "a cat\nblue\n");
}

#[test]
fn folder_describes_every_picture_and_skips_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["cat.png", "dog-and-car.png"] {
        std::fs::copy(asset(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("broken.png"), "no picture").unwrap();
    let mut out = Vec::new();
    folder::folder_captions(&owl(), folder.path(), &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "cat.png: A cat on a blue background.\n\
         dog-and-car.png: A dog and a car on a green background.\n"
    );
}

#[test]
fn stream_sends_pieces_and_errors() {
    let owl = Arc::new(owl());
    let question = Question::new("Describe the image.").picture(asset("cat.png"));
    let pieces = stream::stream(owl.clone(), question);
    let pieces: Vec<String> = pieces.into_iter().map(|piece| piece.unwrap()).collect();
    assert!(pieces.len() > 2, "{pieces:?}");
    assert_eq!(pieces.concat(), "A cat on a blue background.");
    let failing = stream::stream(owl, Question::new("What?").picture("none.png"));
    let pieces: Vec<_> = failing.into_iter().collect();
    let [Err(error)] = &pieces[..] else {
        panic!("{pieces:?}");
    };
    assert_eq!(error.kind(), Kind::Io);
}
