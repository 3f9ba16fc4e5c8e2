//! Drafted tokens change nothing but the time: the same answer, whatever is drafted.

use crate::{machine, tiny};
use std::ops::ControlFlow;

use owl2::kernels::Isa;
use owl2::request::{Answer, Assistant, Prompt, Request};
use owl2::reuse::PromptCache;
use owl2::sampler::Sampling;

/// Texts that repeat themselves, which answers then go on with.
const PROMPTS: [&str; 3] = [
    "<s> a b c d a b c d a b c d a b",
    "<s> up and down and up and down and up",
    "<s>1 2 3 4 5 6 1 2 3 4 5 6 1 2 3 4",
];

fn request(prompt: &str) -> Request {
    Request::new(Prompt::Raw(prompt.to_owned()))
}

fn answer(assistant: &Assistant, memory: &mut PromptCache, request: &Request) -> Answer {
    let answer = assistant.answer_from(memory, request, &mut |_| ControlFlow::Continue(()));
    answer.unwrap()
}

/// Lengths of drafts, the default among them.
const LOOKUPS: [Option<usize>; 5] = [Some(1), Some(3), Some(7), Some(100), None];

/// Asks at a temperature with drafts of some lengths; returns how many drafted tokens were right.
fn check(
    assistant: &Assistant,
    request: &Request,
    temperature: f32,
    lookups: &[Option<usize>],
) -> usize {
    let isa = assistant.model().compute().isa;
    let with = |lookup| Request {
        sampling: Sampling {
            temperature,
            seed: 7,
            ..Sampling::default()
        },
        max_tokens: Some(48),
        lookup,
        ..request.clone()
    };
    let plain = answer(assistant, &mut PromptCache::new(), &with(Some(0)));
    assert_eq!(plain.n_drafted, 0);
    let mut n_accepted = 0;
    for &lookup in lookups {
        let mut memory = PromptCache::new();
        let with = with(lookup);
        let drafted = answer(assistant, &mut memory, &with);
        assert_eq!(drafted.ids, plain.ids, "{isa} {lookup:?}");
        assert_eq!(drafted.text, plain.text);
        assert!(drafted.n_accepted <= drafted.n_drafted);
        n_accepted += drafted.n_accepted;
        // Nothing is left of what was drafted in vain.
        let n_chosen = plain.n_prompt + plain.ids.len();
        assert!(memory.held().len() <= n_chosen, "{lookup:?}");
        let again = answer(assistant, &mut memory, &with);
        assert_eq!(again.ids, plain.ids, "{lookup:?}");
    }
    n_accepted
}

#[test]
fn float_weights() {
    let file = tiny::open(&tiny::file(&tiny::config(), 1));
    let compute = tiny::compute_on(2, Isa::detect().unwrap());
    let assistant = Assistant::new(&file, compute).unwrap();
    let mut n_accepted = 0;
    for prompt in PROMPTS {
        for temperature in [0.0, 0.6] {
            n_accepted += check(&assistant, &request(prompt), temperature, &LOOKUPS);
        }
    }
    assert!(n_accepted > 0);
}

#[cfg(feature = "tiny")]
#[test]
fn quantized_weights() {
    use owl2::prompt::Message;
    use owl2::request::Source;

    let file = owl2::builtin::open().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    // "There is a rocket in the top left corner. There is a whale in ..."
    let question = Message::user("<|image|>Where is everything?");
    let request = Request {
        pictures: vec![Source::File(root.join("assets/four-things.png"))],
        ..Request::new(Prompt::turns(vec![question, Message::assistant("")]))
    };
    // The number of rows of a pass, which is what a draft changes, does not depend on how tokens are
    // chosen. So the best instruction set has every length, and the others, which are slow, two of them.
    let sets = machine::instruction_sets();
    for (i, &isa) in sets.iter().enumerate() {
        let assistant = Assistant::new(&file, tiny::compute_on(2, isa)).unwrap();
        let is_best = i + 1 == sets.len();
        let lookups = if is_best {
            &LOOKUPS[..]
        } else {
            &[Some(3), None]
        };
        assert!(check(&assistant, &request, 0.0, lookups) > 0, "{isa}");
        if is_best {
            check(&assistant, &request, 0.6, &[Some(3), None]);
        }
    }
}
