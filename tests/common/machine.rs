//! The machine that tests run on, which may be an emulated one.
//!
//! Every test binary that computes includes this, so that none of them can pass on other
//! instructions than was meant.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::process::Command;

use owl2::kernels::{ISA_VARIABLE, Isa};

/// Names the instruction set that the processor must be found to have.
const EXPECTED_ISA: &str = "OWL2_EXPECT_ISA";
/// Names the program that runs those built for another processor.
const RUNNER: &str = "OWL2_TEST_RUNNER";

/// A command that runs the program at `path`, one that Cargo built with the tests.
pub fn program(path: &str) -> Command {
    match std::env::var_os(RUNNER) {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(path);
            command
        }
        None => Command::new(path),
    }
}

/// The instruction sets to test: all that the processor has, or the one that `OWL2_ISA` names. Of an
/// emulated processor, which is slow, the best: each has a processor whose best it is, and scalar code is
/// tested where nothing is emulated.
pub fn instruction_sets() -> Vec<Isa> {
    let is_chosen = std::env::var_os(ISA_VARIABLE).is_some_and(|isa| !isa.is_empty());
    match is_chosen || is_emulated() {
        true => vec![Isa::detect().unwrap()],
        false => Isa::available(),
    }
}

/// Whether another program runs this one, several times slower than a processor would.
pub fn is_emulated() -> bool {
    std::env::var_os(RUNNER).is_some()
}

#[test]
#[ignore = "OWL2_EXPECT_ISA has to say what is expected, as in .ci"]
fn the_expected_instruction_set_is_in_use() {
    let expected = std::env::var(EXPECTED_ISA).expect(EXPECTED_ISA);
    assert_eq!(Isa::detect().unwrap().name(), expected);
}
