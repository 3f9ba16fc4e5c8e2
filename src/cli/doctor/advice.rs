//! What would make a model run better on this machine.

use super::{FileFindings, Findings};
use crate::cli::human_bytes;
use crate::kernels::{ISA_VARIABLE, Isa};

/// Generation below this many tokens a second is slower than people read.
const READING_SPEED: f64 = 4.0;

/// One sentence for each thing to change, the most useful first.
pub fn advice(findings: &Findings) -> Vec<String> {
    let mut advice = Vec::new();
    if cfg!(debug_assertions) {
        advice.push("this is a debug build, many times slower: build with --release".to_owned());
    }
    let best = Isa::available().last().map_or("", |isa| isa.name());
    if findings.isa.name() != best {
        advice.push(format!(
            "{ISA_VARIABLE} forces {}: unset it to use {best}",
            findings.isa
        ));
    } else if best == Isa::scalar().name() {
        advice.push(
            "this processor has none of the instruction sets that owl2 knows (AVX2, NEON), so it runs \
             portable code"
                .to_owned(),
        );
    }
    if findings.system.governor.as_deref() == Some("powersave") {
        advice.push(
            "the clock is governed by 'powersave': 'cpupower frequency-set -g performance' may be \
             faster"
                .to_owned(),
        );
    }
    match &findings.file {
        Some(file) => about_file(findings, file, &mut advice),
        None => advice.push("give a model file to see what it would do here".to_owned()),
    }
    advice
}

fn about_file(findings: &Findings, file: &FileFindings, advice: &mut Vec<String>) {
    let memory = &findings.system.memory;
    // What the cache of pages holds can be read again, and counts as available.
    let available = [memory.available, memory.control_group];
    let available = available.into_iter().flatten().min();
    if let Some(available) = available
        && file.memory_bytes() > available
    {
        let what = match file.file_bytes > available {
            true => "the file is read from the disk again for each token",
            false => "other programs' memory has to go first",
        };
        advice.push(format!(
            "the model needs {} and {} are available, so {what}: use a smaller file (owl2-convert \
             --quant q4_k), a shorter context (-c), or --cache-type q8_0",
            human_bytes(file.memory_bytes()),
            human_bytes(available)
        ));
    }
    if file.default_context < file.trained_context {
        advice.push(format!(
            "the context is {} instead of {} for lack of memory: --cache-type q8_0 halves what it \
             takes",
            file.default_context, file.trained_context
        ));
    }
    match file.is_rotated {
        Some(false) => advice.push(
            "the columns of the file are not rotated, so prompts are slower: convert the original \
             with owl2-convert"
                .to_owned(),
        ),
        None => advice.push(
            "the weights are floats: owl2-convert --quant q8_0 makes a file half to a quarter of \
             the size that is as much faster"
                .to_owned(),
        ),
        Some(true) => {}
    }
    if file.tokens_per_s < READING_SPEED && file.is_rotated.is_some() {
        advice.push(format!(
            "generation is limited by the memory at {:.1} tokens/s: fewer bits per weight are faster, \
             more threads are not",
            file.tokens_per_s
        ));
    }
}
