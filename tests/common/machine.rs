//! The machine that tests run on, which may be an emulated one.
//!
//! Every test binary that computes includes this, so that none of them can pass on other
//! instructions than was meant.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::process::Command;

use owl2::kernels::Isa;

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

/// The instruction sets to test: all that the processor has. Of an emulated one, which is slow, the best:
/// each has a processor whose best it is, and scalar code is tested where nothing is emulated.
pub fn instruction_sets() -> Vec<Isa> {
    let mut all = Isa::available();
    if is_emulated() {
        all.drain(..all.len() - 1);
    }
    all
}

/// Whether the processor is an emulated one.
pub fn is_emulated() -> bool {
    std::env::var_os(RUNNER).is_some()
}

#[test]
fn the_expected_instruction_set_is_in_use() {
    if let Ok(expected) = std::env::var(EXPECTED_ISA) {
        assert_eq!(Isa::detect().unwrap().name(), expected);
    }
}
