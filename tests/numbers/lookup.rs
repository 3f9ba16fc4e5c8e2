//! Drafted tokens change nothing but the time: the same answer, whatever is drafted.

use crate::tiny;
use std::ops::ControlFlow;

use owl2::gguf::Gguf;
use owl2::kernels::Isa;
use owl2::request::{Answer, Assistant, Prompt, Request};
use owl2::reuse::Memory;
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

fn answer(assistant: &Assistant, memory: &mut Memory, request: &Request) -> Answer {
    let answer = assistant.answer_from(memory, request, &mut |_| ControlFlow::Continue(()));
    answer.unwrap()
}

/// Asks with drafts of every length; returns how many drafted tokens were right.
fn check(file: &Gguf, isa: Isa, requests: &[Request]) -> usize {
    let assistant = Assistant::new(file, tiny::compute_on(2, isa)).unwrap();
    let mut n_accepted = 0;
    for request in requests {
        for temperature in [0.0, 0.6] {
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
            let plain = answer(&assistant, &mut Memory::new(), &with(Some(0)));
            assert_eq!(plain.n_drafted, 0);
            for lookup in [Some(1), Some(3), Some(7), Some(100), None] {
                let mut memory = Memory::new();
                let with = with(lookup);
                let drafted = answer(&assistant, &mut memory, &with);
                assert_eq!(drafted.ids, plain.ids, "{isa} {lookup:?}");
                assert_eq!(drafted.text, plain.text);
                assert!(drafted.n_accepted <= drafted.n_drafted);
                n_accepted += drafted.n_accepted;
                // Nothing is left of what was drafted in vain.
                let n_chosen = plain.n_prompt + plain.ids.len();
                assert!(memory.held().len() <= n_chosen, "{lookup:?}");
                let again = answer(&assistant, &mut memory, &with);
                assert_eq!(again.ids, plain.ids, "{lookup:?}");
            }
        }
    }
    n_accepted
}

#[test]
fn float_weights() {
    let file = tiny::open(&tiny::file(&tiny::config(), 1));
    let isa = Isa::detect().unwrap();
    assert!(check(&file, isa, &PROMPTS.map(request)) > 0);
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
    for isa in Isa::available() {
        assert!(
            check(&file, isa, std::slice::from_ref(&request)) > 0,
            "{isa}"
        );
    }
}
