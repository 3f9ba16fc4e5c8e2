//! What one request leaves to the next: answers stay the same, and only what is new is computed.

use crate::tiny;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use owl2::kernels::Isa;
use owl2::model::config::{Config, DecoderConfig, RopeScaling, RopeScalingKind};
use owl2::model::kv_cache::CacheType;
use owl2::ops::RowRole;
use owl2::prompt::{Message, Template};
use owl2::request::{Answer, Assistant, Event, Prompt, Request, Source};
use owl2::reuse::{Position, PromptCache, Restored};
use owl2::session::{Input, Session};
use owl2::{Kind, Result};

fn picture(name: &str) -> Source {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    Source::File(images.join(name))
}

fn assistant_with(config: &Config, seed: u64) -> Assistant {
    let file = tiny::open(&tiny::file(config, seed));
    Assistant::new(&file, tiny::compute_on(2, Isa::detect().unwrap())).unwrap()
}

fn assistant() -> Assistant {
    assistant_with(&tiny::config(), 1)
}

/// A conversation that ends with an open turn.
fn request(turns: &[&str], pictures: &[&str]) -> Request {
    let messages = turns.iter().enumerate().map(|(i, text)| match i % 2 {
        0 => Message::user(*text),
        _ => Message::assistant(*text),
    });
    let mut messages: Vec<_> = messages.collect();
    messages.push(Message::assistant(""));
    Request {
        pictures: pictures.iter().map(|name| picture(name)).collect(),
        max_tokens: Some(12),
        ..Request::new(Prompt::Turns {
            messages,
            system: None,
            template: Some(Template::MplugOwl2),
        })
    }
}

/// The answer, and how many pictures were encoded for it.
fn ask(assistant: &Assistant, memory: &mut PromptCache, request: &Request) -> (Answer, usize) {
    let mut n_encoded = 0;
    let answer = assistant.answer_from(memory, request, &mut |event| {
        n_encoded += usize::from(matches!(event, Event::Encoding { .. }));
        ControlFlow::Continue(())
    });
    (answer.unwrap(), n_encoded)
}

/// Asks a process that knows nothing.
fn ask_anew(config: &Config, request: &Request) -> Answer {
    let assistant = assistant_with(config, 1);
    assistant
        .answer(request, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

#[test]
fn a_second_turn_computes_only_its_own_positions() {
    let assistant = assistant();
    for reuses_answers in [false, true] {
        let mut memory = PromptCache::with_room(400);
        if reuses_answers {
            memory = memory.reusing_answers();
        }
        let first = request(&["<|image|>what is it"], &["gray.png"]);
        let (answer, _) = ask(&assistant, &mut memory, &first);
        assert_eq!(answer.n_reused, 0);
        assert_eq!(answer.ids, ask_anew(&tiny::config(), &first).ids);

        let second = request(
            &["<|image|>what is it", &answer.text, "and why"],
            &["gray.png"],
        );
        let (later, n_encoded) = ask(&assistant, &mut memory, &second);
        // All of the first prompt, and perhaps what the answer's text has in common with its tokens.
        let most = match reuses_answers {
            true => answer.n_prompt + answer.ids.len(),
            false => answer.n_prompt,
        };
        assert!(later.n_reused >= answer.n_prompt, "{later:?}");
        assert!(later.n_reused <= most, "{later:?}");
        assert_eq!(n_encoded, 0);
        assert_eq!(later.ids, ask_anew(&tiny::config(), &second).ids);
    }
}

#[test]
fn the_same_prompt_again_computes_one_position() {
    let assistant = assistant();
    let mut memory = PromptCache::with_room(400);
    let request = request(&["<|image|>what is it"], &["gray.png"]);
    let (first, _) = ask(&assistant, &mut memory, &request);
    let (again, n_encoded) = ask(&assistant, &mut memory, &request);
    assert_eq!(again.n_reused, again.n_prompt - 1);
    assert_eq!(n_encoded, 0);
    assert_eq!(again.ids, first.ids);
}

#[test]
fn a_memory_that_is_just_large_enough_is_kept() {
    let assistant = assistant();
    let mut memory = PromptCache::new();
    let request = request(&["<|image|>what is it"], &["gray.png"]);
    ask(&assistant, &mut memory, &request);
    let (again, _) = ask(&assistant, &mut memory, &request);
    assert_eq!(again.n_reused, again.n_prompt - 1);
}

#[test]
fn another_model_or_type_of_cache_begins_anew() {
    let request = request(&["what is it"], &[]);
    let first = assistant();
    let other_weights = assistant_with(&tiny::config(), 2);
    let mut other_cache = assistant();
    let cache_type = match first.model().cache_type() {
        CacheType::F32 => CacheType::F16,
        _ => CacheType::F32,
    };
    other_cache.set_cache_type(cache_type).unwrap();
    for other in [other_weights, other_cache] {
        let mut memory = PromptCache::with_room(400);
        ask(&first, &mut memory, &request);
        let (answer, _) = ask(&other, &mut memory, &request);
        assert_eq!(answer.n_reused, 0);
        let (fresh, _) = ask(&other, &mut PromptCache::new(), &request);
        assert_eq!(answer.ids, fresh.ids);
    }
}

#[test]
fn answers_are_kept_only_where_that_is_asked_for() {
    let assistant = assistant();
    let request = request(&["what is it"], &[]);
    for reuses_answers in [false, true] {
        let mut memory = PromptCache::with_room(400);
        if reuses_answers {
            memory = memory.reusing_answers();
        }
        let (answer, _) = ask(&assistant, &mut memory, &request);
        let n_held = memory.held().len();
        assert!(n_held > answer.n_prompt);
        let held = memory.held().iter().map(|held| held.position);
        let wanted: Vec<_> = held.chain([Position::Token(0)]).collect();
        let n_kept = match reuses_answers {
            true => n_held,
            false => answer.n_prompt,
        };
        assert_eq!(memory.keep(&wanted), n_kept);
        assert_eq!(memory.held().len(), n_kept);
        assert_eq!(memory.keep(&[]), 0);
    }
}

#[test]
fn another_picture_is_computed_and_the_first_one_known_again() {
    let assistant = assistant();
    let mut memory = PromptCache::with_room(400);
    let of = |name| request(&["<|image|>what is it"], &[name]);
    let (first, _) = ask(&assistant, &mut memory, &of("gray.png"));
    let (other, n_encoded) = ask(&assistant, &mut memory, &of("wide_rgb.png"));
    // <s> USER: and nothing of the picture.
    assert!(other.n_reused < first.n_prompt - tiny::PICTURE_POSITIONS);
    assert_eq!(n_encoded, 1);
    assert_eq!(
        other.ids,
        ask_anew(&tiny::config(), &of("wide_rgb.png")).ids
    );
    let (again, n_encoded) = ask(&assistant, &mut memory, &of("gray.png"));
    assert_eq!((again.n_reused, n_encoded), (other.n_reused, 0));
    assert_eq!(again.ids, first.ids);
}

/// Keys and values that are kept give the logits that a fresh session gives.
#[test]
fn logits_are_those_of_a_fresh_session() {
    let model = tiny::model();
    let ids = tiny::ids(40, 7);
    let rows = model.encode_image(&tiny::pixels(3)).unwrap();
    let mut fresh = Session::new(&model, 64);
    let inputs = [Input::Tokens(&ids[..10]), Input::Image(&rows)];
    fresh.extend(&inputs).unwrap();
    fresh.extend(&[Input::Tokens(&ids[10..])]).unwrap();

    let mut kept = Session::new(&model, 64);
    kept.extend(&inputs).unwrap();
    kept.extend(&[Input::Tokens(&tiny::ids(20, 8))]).unwrap();
    kept.truncate(10 + tiny::PICTURE_POSITIONS);
    kept.extend(&[Input::Tokens(&ids[10..20])]).unwrap();
    for &id in &ids[20..] {
        kept.step(id).unwrap();
    }
    assert!(tiny::distance(kept.logits(), fresh.logits()) < 1e-4);
}

/// Dynamic rotary scaling turns keys by an angle that depends on the length of the sequence.
#[test]
fn nothing_is_kept_where_keys_depend_on_the_length() {
    let mut config = tiny::config();
    config.decoder = DecoderConfig {
        max_position_embeddings: 40,
        rope_scaling: Some(RopeScaling {
            kind: RopeScalingKind::Dynamic,
            factor: 2.0,
        }),
        ..config.decoder
    };
    let assistant = assistant_with(&config, 1);
    let mut memory = PromptCache::with_room(400);
    let request = |text: &str| Request {
        context: Some(400),
        ..request(&[text], &[])
    };
    let (short, long) = (request("abc"), request(&"abc ".repeat(20)));
    ask(&assistant, &mut memory, &short);
    assert!(ask(&assistant, &mut memory, &short).0.n_reused > 0);
    let (answer, _) = ask(&assistant, &mut memory, &long);
    assert_eq!(answer.n_reused, 0);
    assert_eq!(answer.ids, ask_anew(&config, &long).ids);
    // A saved state says how long it was.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    memory.save(&path, &assistant.fingerprint()).unwrap();
    let (restored, mut restored_memory) = restore(&assistant, &path, 400);
    assert!(matches!(restored, Ok(Restored::Positions(_))));
    for memory in [&mut memory, &mut restored_memory] {
        let (answer, _) = ask(&assistant, memory, &short);
        assert_eq!(answer.n_reused, 0);
        assert_eq!(answer.ids, ask_anew(&config, &short).ids);
        // What was computed anew serves again.
        assert!(ask(&assistant, memory, &short).0.n_reused > 0);
    }
}

#[test]
fn a_cancelled_request_leaves_what_it_computed() {
    let assistant = assistant();
    let mut memory = PromptCache::with_room(4000);
    let long = Request {
        context: Some(4000),
        ..request(&["a b c ".repeat(300).as_str()], &[])
    };
    let mut n_told = 0;
    let answer = assistant.answer_from(&mut memory, &long, &mut |event| match event {
        Event::Reading { n_done, .. } if n_done > 0 => ControlFlow::Break(()),
        _ => {
            n_told += 1;
            ControlFlow::Continue(())
        }
    });
    assert_eq!((answer.unwrap().ids.len(), n_told), (0, 1));
    // One of equal pieces, each of up to 512.
    let n_held = memory.held().len();
    assert!((256..=512).contains(&n_held), "{n_held}");
    let (answer, _) = ask(&assistant, &mut memory, &long);
    assert_eq!(answer.n_reused, n_held);
    assert_eq!(answer.ids, ask_anew(&tiny::config(), &long).ids);
}

/// A directory, and a state file in it after one answer.
fn saved(assistant: &Assistant) -> (tempfile::TempDir, PathBuf, Answer) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut memory = PromptCache::new();
    let request = request(&["<|image|>what is it"], &["gray.png"]);
    let (answer, _) = ask(assistant, &mut memory, &request);
    memory.save(&path, &assistant.fingerprint()).unwrap();
    (directory, path, answer)
}

fn restore(assistant: &Assistant, path: &Path, room: usize) -> (Result<Restored>, PromptCache) {
    let mut memory = PromptCache::new();
    let fingerprint = assistant.fingerprint();
    let restored = memory.restore(assistant.model(), room, path, &fingerprint);
    (restored, memory)
}

#[test]
fn a_saved_state_serves_the_next_process() {
    let first = assistant();
    let (directory, path, answer) = saved(&first);
    let second = assistant();
    let (restored, mut memory) = restore(&second, &path, 300);
    let n_held = memory.held().len();
    assert_eq!(restored.unwrap(), Restored::Positions(n_held));
    // The last token was chosen, but not computed.
    assert_eq!(n_held, answer.n_prompt + answer.ids.len() - 1);
    let request = request(&["<|image|>what is it"], &["gray.png"]);
    let (again, n_encoded) = ask(&second, &mut memory, &request);
    assert_eq!((again.n_reused, n_encoded), (again.n_prompt - 1, 0));
    assert_eq!(again.ids, answer.ids);
    // The temporary file is gone.
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);

    let (restored, memory) = restore(&second, &directory.path().join("none"), 300);
    assert_eq!(restored.unwrap(), Restored::Absent);
    assert!(memory.held().is_empty());
}

#[test]
fn a_restored_state_holds_what_was_saved() {
    let assistant = assistant();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut memory = PromptCache::new();
    memory.save(&path, &assistant.fingerprint()).unwrap();
    assert!(!path.exists(), "nothing was computed");
    let request = request(&["<|image|>what is it"], &["gray.png"]);
    ask(&assistant, &mut memory, &request);
    memory.save(&path, &assistant.fingerprint()).unwrap();
    // Room for these positions and no more.
    let (restored, restored_memory) = restore(&assistant, &path, memory.held().len());
    assert!(matches!(restored, Ok(Restored::Positions(_))));
    assert_eq!(restored_memory.held(), memory.held());
    for role in [RowRole::Prompt, RowRole::Answer] {
        assert!(memory.held().iter().any(|held| held.role == role));
    }
}

#[test]
fn a_state_of_another_model_is_not_used() {
    let (_directory, path, _) = saved(&assistant());
    // The same shapes and names, but other weights.
    let other = assistant_with(&tiny::config(), 2);
    let (restored, memory) = restore(&other, &path, 300);
    assert!(matches!(restored, Ok(Restored::Unusable(_))));
    assert!(memory.held().is_empty());
    let same = assistant();
    let (restored, memory) = restore(&same, &path, 5);
    assert!(matches!(restored, Ok(Restored::Unusable(_))));
    assert!(memory.held().is_empty());
}

#[test]
fn a_damaged_state_is_not_used() {
    let assistant = assistant();
    let (_directory, path, _) = saved(&assistant);
    let whole = std::fs::read(&path).unwrap();
    let unusable = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let (restored, memory) = restore(&assistant, &path, 300);
        assert!(matches!(restored, Ok(Restored::Unusable(_))));
        assert!(memory.held().is_empty());
    };
    for len in (8..whole.len()).step_by(997) {
        unusable(&whole[..len]);
    }
    for at in (6..whole.len()).step_by(499) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        unusable(&flipped);
    }
    let mut counts = whole.clone();
    counts[48..56].fill(0xff);
    unusable(&counts);
    unusable(&[&whole[..], b"x"].concat());
    // What is no state at all might be precious.
    for bytes in [&b""[..], b"owl2", b"a letter to somebody"] {
        std::fs::write(&path, bytes).unwrap();
        let (restored, _) = restore(&assistant, &path, 300);
        assert_eq!(restored.unwrap_err().kind(), Kind::Input);
    }
}
