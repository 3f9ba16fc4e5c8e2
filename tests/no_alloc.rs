//! Generating tokens allocates nothing: the buffers belong to the session, or to the workspace of many.
//!
//! A binary of its own, because the counting allocator sees every thread of the process.

#[path = "common/machine.rs"]
mod machine;
#[path = "common/tiny.rs"]
mod tiny;

use std::alloc::System;
use std::sync::Mutex;

use owl2::kernels::Isa;
use owl2::model::Model;
use owl2::ops::RowRole;
use owl2::sampler::{Sampler, Sampling};
use owl2::session::{Input, Sequence, SequencePart, Session};
use owl2::workspace::Workspace;
use stats_alloc::{Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: StatsAlloc<System> = StatsAlloc::system();

/// One test at a time, since what it counts is the process's.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn generating_a_token_allocates_nothing() {
    let _turn = TURN.lock();
    for n_threads in [1, 2] {
        let model = tiny::model_on(tiny::compute_on(n_threads, Isa::detect().unwrap()));
        let picture = model.encode_image(&tiny::pixels(1)).unwrap();
        let mut session = Session::new(&model, 128);
        let mut sampler = sampler(&model);
        let change = model.compute().threads.enter(|| {
            session
                .extend(&[Input::Tokens(&[1, 7]), Input::Image(&picture)])
                .unwrap();
            // What is kept for the next step grows to its final size in the first ones.
            generate(&mut session, &mut sampler, 8);
            let region = Region::new(&ALLOCATOR);
            generate(&mut session, &mut sampler, 64);
            region.change()
        });
        assert_eq!(
            (change.allocations, change.reallocations),
            (0, 0),
            "with {n_threads} threads: {change:?}"
        );
    }
}

#[test]
fn generating_tokens_of_several_sequences_allocates_nothing() {
    let _turn = TURN.lock();
    for n_threads in [1, 2] {
        let model = tiny::model_on(tiny::compute_on(n_threads, Isa::detect().unwrap()));
        let mut sequences: [Sequence; 5] = std::array::from_fn(|_| Sequence::new(&model, 128));
        let mut workspace = Workspace::new(&model);
        let mut step = |role, ids: &[u32]| {
            let inputs = [Input::Tokens(ids)];
            let mut parts = sequences
                .each_mut()
                .map(|sequence| SequencePart::new(sequence, &inputs, 1));
            workspace.compute(role, &mut parts).unwrap();
        };
        let change = model.compute().threads.enter(|| {
            step(RowRole::Prompt, &[1, 7, 9]);
            (0..8).for_each(|id| step(RowRole::Answer, &[id]));
            let region = Region::new(&ALLOCATOR);
            (0..64).for_each(|id| step(RowRole::Answer, &[id]));
            region.change()
        });
        assert_eq!(
            (change.allocations, change.reallocations),
            (0, 0),
            "with {n_threads} threads: {change:?}"
        );
    }
}

/// What is asked for before a picture is encoded is what encoding allocates, or more: rows as small as
/// these are counted as padded for the widest registers, whatever the machine has.
#[test]
fn encoding_a_picture_allocates_what_it_is_said_to() {
    let _turn = TURN.lock();
    let model = tiny::model_on(tiny::compute_on(1, Isa::detect().unwrap()));
    let pixels = tiny::pixels(1);
    model.compute().threads.enter(|| {
        // The workers' own buffers are kept from one picture to the next.
        let picture = model.vision(&pixels, &mut ()).unwrap();
        model.abstract_picture(&picture, &mut ()).unwrap();
        let region = Region::new(&ALLOCATOR);
        let picture = model.vision(&pixels, &mut ()).unwrap();
        let vision = region.change().bytes_allocated;
        let region = Region::new(&ALLOCATOR);
        model.abstract_picture(&picture, &mut ()).unwrap();
        let gathering = region.change().bytes_allocated;
        let said = model.picture_bytes() as usize - size_of_val(&pixels[..]);
        let taken = vision.max(gathering);
        assert!(taken <= said && said <= 3 * taken, "{taken} of {said}");
    });
}

/// With every filter on.
fn sampler(model: &Model) -> Sampler {
    let sampling = Sampling {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.01,
        repeat_penalty: 1.1,
        ..Sampling::default()
    };
    Sampler::new(sampling, model.config().decoder.vocab_size).unwrap()
}

fn generate(session: &mut Session, sampler: &mut Sampler, n_tokens: usize) {
    for _ in 0..n_tokens {
        let id = sampler.sample(session.logits_mut(), &[1, 7]);
        session.step(id).unwrap();
    }
}
