//! A request through the library: what the listener hears, and how it can stop the work.

use crate::tiny;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use owl2::image::{self, Aspect, Limits, Reading};
use owl2::kernels::Isa;
#[cfg(feature = "tiny")]
use owl2::prompt::Message;
use owl2::request::{Answer, Assistant, Event, Prompt, Request, Source, StopReason};
use owl2::session::Session;

/// Pictures of the golden set.
fn pictures() -> [PathBuf; 2] {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    ["wide_rgb.png", "gray.png"].map(|name| images.join(name))
}

/// The same, to be read when they are needed.
fn files() -> Vec<Source> {
    pictures().map(Source::File).into()
}

fn assistant() -> Assistant {
    let file = tiny::open(&tiny::file(&tiny::config(), 1));
    Assistant::new(&file, tiny::compute_on(2, Isa::detect().unwrap())).unwrap()
}

fn request(pictures: Vec<Source>) -> Request {
    Request {
        prompt: Prompt::Raw("ab<|image|>c<|image|>".into()),
        pictures,
        max_tokens: Some(40),
        ..Request::new(Prompt::Raw(String::new()))
    }
}

/// The answer, and the names of the events before each text; `wanted` says when to go on.
fn ask(request: &Request, mut wanted: impl FnMut(Event) -> bool + Send) -> (Answer, Vec<String>) {
    let mut heard = Vec::new();
    let answer = assistant().answer(request, &mut |event| {
        heard.push(match event {
            Event::Text(text) => text.to_owned(),
            other => format!("{other:?}"),
        });
        match wanted(event) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    (answer.unwrap(), heard)
}

#[test]
fn tells_of_pictures_prompt_and_text_in_order() {
    let request = request(files());
    let (answer, heard) = ask(&request, |_| true);
    assert_eq!(
        heard[..3],
        [
            "Encoding { index: 0, n_pictures: 2 }",
            "Encoding { index: 1, n_pictures: 2 }",
            "Reading { n_done: 0, n_positions: 16 }",
        ]
    );
    assert_eq!(heard[3..].concat(), answer.text);
    assert_eq!(answer.n_prompt, 16);
    assert_eq!(answer.n_image, 2 * tiny::PICTURE_POSITIONS);
    assert_eq!(answer.ids.len(), 40);
    assert_eq!(answer.stop, StopReason::MaxTokens);
}

#[test]
fn embeds_a_picture_as_the_model_encodes_it() {
    let assistant = assistant();
    let [wide, _] = pictures();
    let picture = image::open(&wide, Reading::Shown, &Limits::default()).unwrap();
    let visual = assistant.model().config().visual.clone().unwrap();
    for (aspect, used) in [(None, visual.aspect), (Some(Aspect::Crop), Aspect::Crop)] {
        let pixels = visual.preprocess.pixels(&picture, used).unwrap();
        let wanted = assistant.model().encode_image(&pixels).unwrap();
        let source = Source::File(wide.clone());
        // The second time it is known already.
        for _ in 0..2 {
            let embedding = assistant.embed_image(&source, aspect, Reading::Shown);
            let embedding = embedding.unwrap();
            assert_eq!(embedding.n_rows, tiny::PICTURE_POSITIONS);
            assert_eq!(embedding.values[..], wanted[..]);
        }
    }
    let missing = Source::File("missing.png".into());
    let error = assistant.embed_image(&missing, None, Reading::Shown);
    assert_eq!(error.unwrap_err().kind(), owl2::Kind::Io);
}

#[test]
fn pictures_may_be_files_or_bytes() {
    let (from_files, _) = ask(&request(files()), |_| true);
    let bytes = pictures().map(|path| Source::Bytes(std::fs::read(path).unwrap()));
    let (from_bytes, _) = ask(&request(bytes.into()), |_| true);
    assert_eq!(from_files.ids, from_bytes.ids);
    let assistant = assistant();
    let pixels = files().into_iter().map(|source| {
        let pixels = assistant.pixels(&source, None, Reading::default()).unwrap();
        Source::Pixels(pixels)
    });
    let (from_pixels, _) = ask(&request(pixels.collect()), |_| true);
    assert_eq!(from_files.ids, from_pixels.ids);
}

#[test]
fn a_picture_that_comes_twice_is_encoded_once() {
    let [picture, _] = pictures();
    let (_, heard) = ask(&request(vec![Source::File(picture); 2]), |_| true);
    assert!(heard[0].starts_with("Encoding"), "{heard:?}");
    assert!(heard[1].starts_with("Reading"), "{heard:?}");
}

/// They share the workers, and each must find its own numbers there.
#[cfg(feature = "tiny")]
#[test]
fn requests_at_once_are_answered_as_if_alone() {
    let gguf = owl2::builtin::open().unwrap();
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images/wide_rgb.png");
    let request = |index: usize| {
        let (question, pictures) = match index % 2 {
            0 => (
                "<|image|>Describe the image.",
                vec![Source::File(picture.clone())],
            ),
            _ => ("What is a circle?", Vec::new()),
        };
        Request {
            pictures,
            max_tokens: Some(12 + index),
            context: Some(256),
            ..Request::new(Prompt::turns(vec![
                Message::user(question),
                Message::assistant(""),
            ]))
        }
    };
    for n_threads in [1, 2, 3] {
        let compute = tiny::compute_on(n_threads, Isa::detect().unwrap());
        let assistant = &Assistant::new(&gguf, compute).unwrap();
        let answer = |index| {
            let mut heard = String::new();
            let answer = assistant.answer(&request(index), &mut |event| {
                if let Event::Text(text) = event {
                    heard += text;
                }
                ControlFlow::Continue(())
            });
            let answer = answer.unwrap();
            assert_eq!(answer.text, heard);
            (answer.text, answer.ids)
        };
        let answer = &answer;
        let alone: Vec<_> = (0..6).map(answer).collect();
        for _ in 0..5 {
            std::thread::scope(|scope| {
                let at_once = [0, 1, 2, 3, 4, 5].map(|index| scope.spawn(move || answer(index)));
                for (at_once, alone) in at_once.into_iter().zip(&alone) {
                    assert_eq!(at_once.join().unwrap(), *alone);
                }
            });
        }
    }
}

/// Each position is a turn, as two sessions of a server's would take them.
#[test]
fn sessions_at_once_compute_what_each_does_alone() {
    let model = &tiny::model_on(tiny::compute_on(2, Isa::detect().unwrap()));
    let logits = |first: u32| {
        let mut session = Session::new(model, 64);
        (0..40)
            .flat_map(|i| {
                session.step(first + i % 5).unwrap();
                session.logits().to_vec()
            })
            .collect::<Vec<f32>>()
    };
    let alone = [1, 4, 9].map(logits);
    let logits = &logits;
    std::thread::scope(|scope| {
        let at_once = [1, 4, 9].map(|first| scope.spawn(move || logits(first)));
        for (at_once, alone) in at_once.into_iter().zip(alone) {
            assert!(at_once.join().unwrap() == alone);
        }
    });
}

#[test]
fn nothing_is_computed_or_told_once_the_listener_has_enough() {
    let request = request(files());
    let is_text = |event: Event| matches!(event, Event::Text(_));
    let is_second = |event: Event| matches!(event, Event::Encoding { index: 1, .. });
    let is_reading = |event: Event| matches!(event, Event::Reading { .. });
    let (answer, heard) = ask(&request, |event| !is_second(event));
    assert_eq!((answer.stop, heard.len()), (StopReason::Cancelled, 2));
    let (answer, heard) = ask(&request, |event| !is_reading(event));
    assert_eq!((answer.stop, heard.len()), (StopReason::Cancelled, 3));
    let (answer, heard) = ask(&request, |event| !is_text(event));
    assert_eq!((answer.stop, heard.len()), (StopReason::Cancelled, 4));
    assert!(answer.ids.len() < 40);
}
