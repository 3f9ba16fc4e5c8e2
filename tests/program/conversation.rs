//! Conversations through the library: what is left out, and what stays after failures.

use crate::tiny;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use owl2::chat::Conversation;
use owl2::kernels::Isa;
use owl2::prompt::Template;
use owl2::request::{Answer, Assistant, Event, Prompt, Request, StopReason};
use owl2::reuse::PromptCache;
use owl2::{Kind, Result};

fn picture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images/gray.png")
}

fn assistant() -> Assistant {
    let file = tiny::open(&tiny::file(&tiny::config(), 1));
    Assistant::new(&file, tiny::compute_on(2, Isa::detect().unwrap())).unwrap()
}

/// A conversation in `context` positions, with answers of up to 10.
fn conversation(assistant: &Assistant, context: usize) -> Conversation<'_> {
    let settings = Request {
        max_tokens: Some(10),
        context: Some(context),
        ..Request::new(Prompt::turns(Vec::new()))
    };
    let mut conversation = Conversation::new(
        assistant,
        PromptCache::with_room(context).reusing_answers(),
        settings,
    );
    conversation.template = Some(Template::MplugOwl2);
    conversation
}

fn ask(conversation: &mut Conversation, question: &str) -> Result<Answer> {
    conversation.ask(question, &mut |_| ControlFlow::Continue(()))
}

fn left_out(conversation: &Conversation) -> Vec<usize> {
    let turns = conversation.turns().iter().enumerate();
    turns
        .filter_map(|(index, turn)| turn.is_left_out.then_some(index))
        .collect()
}

#[test]
fn old_turns_go_first_and_those_with_pictures_last() {
    let assistant = assistant();
    let mut conversation = conversation(&assistant, 300);
    conversation.attach(&picture()).unwrap();
    while left_out(&conversation).is_empty() {
        assert!(conversation.turns().len() < 20);
        ask(&mut conversation, "one two three").unwrap();
    }
    // From the second on, and some room was made at once.
    let gone = left_out(&conversation);
    assert_eq!(gone, (1..=gone.len()).collect::<Vec<_>>());
    assert!(gone.len() > 1, "{gone:?}");
    let n_positions = ask(&mut conversation, "and now").unwrap().n_prompt;
    assert!(n_positions < 300);

    // One long question leaves room for nothing else.
    ask(&mut conversation, &"abc ".repeat(60)).unwrap();
    let n_earlier = conversation.turns().len() - 1;
    assert_eq!(left_out(&conversation).len(), n_earlier);
}

#[test]
fn a_question_that_fails_leaves_everything_as_it_was() {
    let assistant = assistant();
    let mut conversation = conversation(&assistant, 300);
    ask(&mut conversation, "one two three").unwrap();
    conversation.attach(&picture()).unwrap();
    let before = conversation.turns().to_vec();
    let error = ask(&mut conversation, &"abc ".repeat(300)).unwrap_err();
    assert_eq!(error.kind(), Kind::Capacity);
    let error = ask(&mut conversation, "<|image|><|image|>").unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert_eq!(conversation.turns(), before);
    assert_eq!(conversation.attached().len(), 1);
    ask(&mut conversation, "four").unwrap();
    assert!(conversation.attached().is_empty());
    assert_eq!(conversation.turns()[1].pictures.len(), 1);
}

#[test]
fn an_answer_that_was_cut_off_is_kept_if_it_had_begun() {
    let assistant = assistant();
    let mut conversation = conversation(&assistant, 300);
    conversation.attach(&picture()).unwrap();
    let answer = conversation.ask("what", &mut |event| match event {
        Event::Reading { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert_eq!(answer.unwrap().stop, StopReason::Cancelled);
    assert!(conversation.turns().is_empty());
    assert_eq!(conversation.attached().len(), 1);

    conversation.settings.max_tokens = Some(150);
    let mut text = String::new();
    let answer = conversation.ask("what", &mut |event| {
        if let Event::Text(more) = event {
            text += more;
        }
        match text.trim().is_empty() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    assert_eq!(answer.unwrap().stop, StopReason::Cancelled);
    assert!(!conversation.turns()[0].answer.is_empty());
    assert!(conversation.attached().is_empty());
}

#[test]
fn answering_again_needs_a_question() {
    let assistant = assistant();
    let mut conversation = conversation(&assistant, 300);
    let again = |conversation: &mut Conversation| {
        conversation.ask_again(&mut |_| ControlFlow::Continue(()))
    };
    assert_eq!(again(&mut conversation).unwrap_err().kind(), Kind::Input);
    let first = ask(&mut conversation, "what").unwrap();
    let second = again(&mut conversation).unwrap();
    assert_eq!(second.ids, first.ids);
    assert_eq!(conversation.turns().len(), 1);
    conversation.settings.sampling.temperature = 2.0;
    let answers = [(); 4].map(|()| again(&mut conversation).unwrap().ids);
    assert!(answers.iter().any(|ids| *ids != answers[0]));
}

/// A saved conversation with a question and answer for each list of pictures.
fn saved(turns: &[Vec<PathBuf>]) -> String {
    let messages = turns.iter().enumerate().flat_map(|(number, images)| {
        [
            serde_json::json!({ "role": "user", "text": format!("question {number}"), "images": images }),
            serde_json::json!({ "role": "assistant", "text": "an answer" }),
        ]
    });
    serde_json::json!({ "messages": messages.collect::<Vec<_>>() }).to_string()
}

#[test]
fn of_a_long_chat_only_what_may_fit_is_read() {
    let assistant = assistant();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chat.json");
    let mut conversation = conversation(&assistant, 300);
    std::fs::write(&file, saved(&vec![Vec::new(); 20_000])).unwrap();
    conversation
        .load(&file, &mut || panic!("no picture"))
        .unwrap();
    let answer = ask(&mut conversation, "and now").unwrap();
    // As much is left as fits, and that is the end of the conversation.
    assert!((150..290).contains(&answer.n_prompt), "{}", answer.n_prompt);
    let gone = left_out(&conversation);
    assert_eq!(gone, (0..gone.len()).collect::<Vec<_>>());
    assert!(gone.len() > 19_950);

    // A turn that is longer than any context is not tokenized either.
    let long = "word ".repeat(1 << 20);
    let text = saved(&vec![Vec::new(); 3]).replace("question 1", &long);
    std::fs::write(&file, text).unwrap();
    conversation.load(&file, &mut || true).unwrap();
    ask(&mut conversation, "and now").unwrap();
    assert_eq!(left_out(&conversation), [0, 1]);
}

#[test]
fn a_picture_that_is_named_often_is_read_once_and_those_beyond_the_context_never() {
    let assistant = assistant();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chat.json");
    let mut conversation = conversation(&assistant, 300);
    let mut turns = vec![vec![PathBuf::from("nowhere.png")], vec![picture(); 5000]];
    turns.extend(vec![vec![picture()]; 10]);
    std::fs::write(&file, saved(&turns)).unwrap();
    let mut n_read = 0;
    let mut count = || {
        n_read += 1;
        true
    };
    // The first picture does not exist, so loading all of them fails.
    let error = conversation.load(&file, &mut count).unwrap_err();
    assert!(error.to_string().contains("nowhere.png"), "{error}");
    let rest = saved(&turns[1..]);
    std::fs::write(&file, rest).unwrap();
    n_read = 0;
    conversation
        .load(&file, &mut || {
            n_read += 1;
            true
        })
        .unwrap();
    assert_eq!(n_read, 1);
    assert_eq!(left_out(&conversation), [0]);
    ask(&mut conversation, "and now").unwrap();

    // What is saved names them all, read or not.
    conversation.save(&file).unwrap();
    let before = conversation.turns().len();
    conversation.load(&file, &mut || true).unwrap();
    assert_eq!(conversation.turns().len(), before);
    assert_eq!(conversation.turns()[0].pictures.len(), 5000);
}

#[test]
fn loading_can_be_stopped_and_leaves_everything_as_it_was() {
    let assistant = assistant();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chat.json");
    let mut conversation = conversation(&assistant, 300);
    ask(&mut conversation, "one").unwrap();
    let before = conversation.turns().to_vec();
    std::fs::write(&file, saved(&[vec![picture()]])).unwrap();
    let error = conversation.load(&file, &mut || false).unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
    assert_eq!(conversation.turns(), before);
}
