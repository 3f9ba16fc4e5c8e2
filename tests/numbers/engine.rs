//! The engine's promise: the same request gives the same answer, whatever else is computed at the time.
//!
//! Random arrivals, cancellations, sizes of steps, drafts, constraints and pictures, at every
//! instruction set; the text and every token have to be those of the lone request. `OWL2_SEED` repeats
//! a schedule that failed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use owl2::constrain::Constraint;
use owl2::engine::{Engine, Id, StepLimits};
use owl2::kernels::Isa;
use owl2::ops::Compute;
use owl2::prompt::{IMAGE_MARKER, Message};
use owl2::request::{Answer, Assistant, Event, Prompt, Request, Source, StopReason};
use owl2::sampler::Sampling;
use owl2::session::Sequence;

use crate::machine;
use crate::tiny::{self, Random};

/// How an answer is known.
type Outcome = (Vec<u32>, String);

fn asked(text: &str, picture: Option<&str>) -> Request {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let marker = if picture.is_some() { IMAGE_MARKER } else { "" };
    let turns = vec![
        Message::user(format!("{marker}{text}")),
        Message::assistant(""),
    ];
    Request {
        pictures: picture
            .map(|name| Source::File(assets.join(name)))
            .into_iter()
            .collect(),
        max_tokens: Some(24),
        ..Request::new(Prompt::turns(turns))
    }
}

/// Requests of every kind: with and without pictures, greedy and drawn, drafted, stopped, held to a
/// schema, cut, and longer than a piece of a prompt.
fn requests() -> Vec<Request> {
    let schema = r#"{"type": "object", "required": ["animal"], "additionalProperties": false,
        "properties": {"animal": {"enum": ["cat", "dog", "none"]}}}"#;
    let long = "What color is the sky? ".repeat(8);
    vec![
        asked("What is this?", Some("cat.png")),
        asked("Describe the image.", Some("four-things.png")),
        asked("What color is the sky?", None),
        Request {
            sampling: Sampling {
                temperature: 0.9,
                seed: 7,
                ..Sampling::default()
            },
            lookup: Some(0),
            ..asked("Describe the image.", Some("dog-and-car.png"))
        },
        Request {
            lookup: Some(7),
            ..asked(&long, None)
        },
        Request {
            constraint: Some(Constraint::json_schema(schema).unwrap()),
            ..asked("What is this?", Some("cat.png"))
        },
        Request {
            stops: vec!["a".to_owned()],
            ..asked("Describe the image.", Some("three-apples.png"))
        },
        Request {
            max_tokens: Some(2),
            ..asked("Is there a dog?", Some("dog-and-car.png"))
        },
    ]
}

fn outcome(answer: &Answer) -> Outcome {
    (answer.ids.clone(), answer.text.clone())
}

fn assistant(isa: Isa) -> Assistant {
    let compute: Compute = tiny::compute_on(2, isa);
    Assistant::new(&owl2::builtin::open().unwrap(), compute).unwrap()
}

/// A number below `n`.
fn below(random: &mut Random, n: usize) -> usize {
    (random.next() >> 33) as usize % n
}

fn cache_bytes(assistant: &Assistant, n_positions: usize) -> u64 {
    Sequence::bytes(assistant.model(), n_positions)
}

/// One schedule: requests come at random, some twice and some cancelled, steps are of random sizes.
fn run(assistant: &Assistant, requests: &[Request], alone: &[Outcome], seed: u64) {
    let mut random = Random(seed);
    let limits = StepLimits {
        together: 1 + below(&mut random, 6),
        rows_beside_answers: 1 + below(&mut random, 70),
        rows: 1 + below(&mut random, 200),
        blocks_beside_answers: 1 + below(&mut random, 3),
        blocks: 1 + below(&mut random, 5),
        kept: below(&mut random, 4),
        // For two or three of the requests.
        cache_bytes: (below(&mut random, 3) == 0).then(|| 3 * cache_bytes(assistant, 400)),
    };
    let mut engine = Engine::new(assistant, limits);
    let mut waiting: Vec<usize> = (0..requests.len() + 4)
        .map(|_| below(&mut random, requests.len()))
        .collect();
    let mut running: BTreeMap<Id, (usize, bool, Arc<Mutex<String>>)> = BTreeMap::new();
    let mut id = 0;
    while !(waiting.is_empty() && engine.is_empty()) {
        while engine.has_room()
            && below(&mut random, 3) > 0
            && let Some(index) = waiting.pop()
        {
            id += 1;
            let heard = Arc::new(Mutex::new(String::new()));
            let text = heard.clone();
            let listener = move |event: Event| {
                if let Event::Text(more) = event {
                    text.lock().unwrap().push_str(more);
                }
                ControlFlow::Continue(())
            };
            let group = below(&mut random, 2);
            engine
                .begin(id, group, requests[index].clone(), Box::new(listener))
                .unwrap();
            running.insert(id, (index, false, heard));
        }
        if below(&mut random, 20) == 0
            && let Some((&id, (_, is_cancelled, _))) = running.iter_mut().next()
        {
            *is_cancelled = true;
            engine.cancel(id);
        }
        for (id, answer) in engine.step() {
            let (index, is_cancelled, heard) = running.remove(&id).unwrap();
            let answer = answer.unwrap();
            let (ids, text) = &alone[index];
            let what = format!("request {index}, OWL2_SEED={seed}, {limits:?}");
            if is_cancelled {
                assert!(ids.starts_with(&answer.ids), "{what}");
            } else {
                assert_eq!((&answer.ids, &answer.text), (ids, text), "{what}");
                assert_eq!(&*heard.lock().unwrap(), text, "{what}");
            }
        }
    }
    assert!(running.is_empty(), "OWL2_SEED={seed}");
}

#[test]
fn an_answer_does_not_depend_on_what_else_is_computed() {
    let requests = requests();
    let best = Isa::detect().unwrap().name();
    for isa in machine::instruction_sets() {
        // Scalar code and emulated processors are slow, and schedules do not depend on either.
        let n_schedules = if isa.name() == best && !machine::is_emulated() {
            6
        } else {
            1
        };
        let seeds: Vec<u64> = match std::env::var("OWL2_SEED") {
            Ok(seed) => vec![seed.parse().unwrap()],
            Err(_) => (1..=n_schedules).collect(),
        };
        let alone: Vec<Outcome> = {
            let assistant = assistant(isa);
            let answers = requests.iter().map(|request| {
                assistant
                    .answer(request, &mut |_| ControlFlow::Continue(()))
                    .unwrap()
            });
            answers.map(|answer| outcome(&answer)).collect()
        };
        // The answers differ, or nothing could be told from them.
        assert!(
            alone
                .iter()
                .collect::<std::collections::BTreeSet<_>>()
                .len()
                > 5
        );
        let assistant = assistant(isa);
        for &seed in &seeds {
            run(&assistant, &requests, &alone, seed);
        }
    }
}

/// A request that fails while others are computed with it takes none of them along.
#[test]
fn what_fails_fails_alone() {
    let assistant = assistant(Isa::detect().unwrap());
    let mut engine = Engine::new(
        &assistant,
        StepLimits {
            together: 4,
            ..StepLimits::default()
        },
    );
    let good = asked("What is this?", Some("cat.png"));
    let wanted = assistant
        .answer(&good, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let quiet = || Box::new(|_: Event| ControlFlow::Continue(()));
    engine.begin(1, 0, good, quiet()).unwrap();
    for bad in [
        asked("What is this?", Some("missing.png")),
        Request {
            context: Some(4),
            ..asked("What is this?", None)
        },
        Request {
            max_tokens: Some(0),
            ..asked("What is this?", None)
        },
        asked("Two <|image|> here?", None),
    ] {
        engine.begin(2, 0, bad, quiet()).unwrap_err();
    }
    assert_eq!(engine.len(), 1);
    let mut ended = Vec::new();
    while !engine.is_empty() {
        ended.extend(engine.step());
    }
    assert_eq!(ended.len(), 1);
    assert_eq!(outcome(ended[0].1.as_ref().unwrap()), outcome(&wanted));
}

/// A panic in what is done for one request ends that one, wherever it comes; the answers beside it are
/// those that they would be alone, and the next ones too.
#[test]
fn a_panic_ends_its_request_alone() {
    let assistant = assistant(Isa::detect().unwrap());
    let requests = requests();
    let alone: Vec<Outcome> = requests
        .iter()
        .map(|request| {
            let answer = assistant.answer(request, &mut |_| ControlFlow::Continue(()));
            outcome(&answer.unwrap())
        })
        .collect();
    let mut random = Random(5);
    let limits = StepLimits {
        together: 6,
        rows_beside_answers: 9,
        ..StepLimits::default()
    };
    let mut engine = Engine::new(&assistant, limits);
    let mut n_panicked = 0;
    let mut running = BTreeMap::new();
    for id in 0..40 {
        let index = below(&mut random, requests.len());
        // Of the events of every other request, one panics: while it begins, reads or answers.
        let mut left = below(&mut random, 12);
        let panics = id % 2 == 1;
        let listener = move |_: Event| {
            if panics {
                left = left.checked_sub(1).expect("a listener's mistake");
            }
            ControlFlow::Continue(())
        };
        let begun = engine.begin(id, 0, requests[index].clone(), Box::new(listener));
        match begun {
            Ok(()) => {
                running.insert(id, (index, panics));
            }
            Err(e) => {
                assert!(panics && e.kind() == owl2::Kind::Bug, "{e}");
                n_panicked += 1;
            }
        }
        while !engine.has_room() || (id == 39 && !engine.is_empty()) {
            for (id, answer) in engine.step() {
                let (index, panics) = running.remove(&id).unwrap();
                match answer {
                    Ok(answer) => assert_eq!(outcome(&answer), alone[index]),
                    Err(e) => {
                        assert!(panics && e.kind() == owl2::Kind::Bug, "{e}");
                        assert!(e.to_string().contains("a listener's mistake"), "{e}");
                        n_panicked += 1;
                    }
                }
            }
        }
    }
    assert!(running.is_empty());
    assert!((8..=20).contains(&n_panicked), "{n_panicked}");
}

/// A request for which there is no memory waits, in its turn, and may be cancelled; one for which there
/// can be none is refused.
#[test]
fn memory_is_waited_for() {
    let assistant = assistant(Isa::detect().unwrap());
    let request = asked("What color is the sky?", None);
    let alone = outcome(
        &assistant
            .answer(&request, &mut |_| ControlFlow::Continue(()))
            .unwrap(),
    );
    let begin = |engine: &mut Engine, id: Id, request: &Request| {
        let listener = Box::new(|_: Event| ControlFlow::Continue(()));
        engine.begin(id, 0, request.clone(), listener)
    };
    let room = 120;
    let mut engine = Engine::new(
        &assistant,
        StepLimits {
            together: 8,
            cache_bytes: Some(cache_bytes(&assistant, room)),
            ..StepLimits::default()
        },
    );
    let greedy = Request {
        max_tokens: Some(1000),
        ..request.clone()
    };
    let error = begin(&mut engine, 1, &greedy).unwrap_err();
    assert_eq!(error.parameter(), Some("max_tokens"), "{error}");
    assert!(engine.is_empty() && engine.has_room());

    // As many as fit, then one that waits, and keeps others out.
    let mut id = 1;
    while engine.has_room() {
        id += 1;
        begin(&mut engine, id, &request).unwrap();
    }
    assert!(engine.len() == id as usize - 1 && (2..8).contains(&engine.len()));
    let mut answers = Vec::new();
    while !engine.is_empty() {
        answers.extend(engine.step());
    }
    assert_eq!(answers.len(), id as usize - 1);
    for (_, answer) in answers {
        assert_eq!(outcome(&answer.unwrap()), alone);
    }

    let mut waiting = 10;
    while engine.has_room() {
        waiting += 1;
        begin(&mut engine, waiting, &request).unwrap();
    }
    engine.cancel(waiting);
    let ended = engine.step();
    let cancelled = ended.iter().find(|(id, _)| *id == waiting).unwrap();
    let answer = cancelled.1.as_ref().unwrap();
    assert_eq!(answer.stop, StopReason::Cancelled);
}
