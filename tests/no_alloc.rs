//! Generating a token allocates nothing: the buffers belong to the session.
//!
//! A binary of its own, because the counting allocator sees every thread of the process.

#[path = "common/tiny.rs"]
mod tiny;

use std::alloc::System;

use owl2::kernels::Isa;
use owl2::session::{Input, Session};
use stats_alloc::{Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: StatsAlloc<System> = StatsAlloc::system();

#[test]
fn generating_a_token_allocates_nothing() {
    for n_threads in [1, 2] {
        let model = tiny::model_on(tiny::compute_on(n_threads, Isa::detect().unwrap()));
        let picture = model.encode_image(&tiny::pixels(1)).unwrap();
        let mut session = Session::new(&model, 128);
        let change = model.compute().threads.enter(|| {
            session
                .extend(&[Input::Tokens(&[1, 7]), Input::Image(&picture)])
                .unwrap();
            // The pool's own queues grow to their final size in the first steps.
            generate(&mut session, 8);
            let region = Region::new(&ALLOCATOR);
            generate(&mut session, 64);
            region.change()
        });
        assert_eq!(
            (change.allocations, change.reallocations),
            (0, 0),
            "with {n_threads} threads: {change:?}"
        );
    }
}

fn generate(session: &mut Session, n_tokens: usize) {
    for _ in 0..n_tokens {
        let id = tiny::argmax(session.logits());
        session.step(id).unwrap();
    }
}
