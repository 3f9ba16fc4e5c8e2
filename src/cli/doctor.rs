//! `owl2 doctor`: what this machine has, what a model file would do on it, and what to change.

mod advice;
mod system;

use serde_json::{Value, json};

use crate::bench;
use crate::board::{Machine, Work};
use crate::capacity;
use crate::cli::args::DoctorArgs;
use crate::cli::model_file::ModelFile;
use crate::cli::{human_bytes, print, print_json};
use crate::error::Result;
use crate::gguf::Gguf;
use crate::kernels::Isa;
use crate::model::Model;
use crate::ops::Compute;
use crate::quant::Rotation;
use crate::session::Session;
use crate::threads;
use system::System;

/// Positions of the prompt that the cost model is asked about: a picture and a question.
const PROMPT: usize = 100;
/// Tokens of its answer.
const ANSWER: usize = 64;

const BUG_REPORT: &str = "\
A bug report should contain the output of 'owl2 doctor --json -m FILE', the whole command line, what
it printed, what you expected, and the answer with OWL2_ISA=scalar if it is wrong or strange. Attach
the picture if you may share it.";

/// All that is found out.
struct Findings {
    system: System,
    isa: Isa,
    n_threads: usize,
    machine: Machine,
    file: Option<FileFindings>,
}

/// What a model file would do here.
struct FileFindings {
    name: String,
    file_bytes: u64,
    /// Whether matrices in blocks have their columns rotated; `None` where all are floats.
    is_rotated: Option<bool>,
    trained_context: usize,
    default_context: usize,
    session_bytes: u64,
    picture_bytes: u64,
    picture_s: Option<f64>,
    prompt_s: f64,
    tokens_per_s: f64,
}

impl FileFindings {
    fn memory_bytes(&self) -> u64 {
        self.file_bytes + self.session_bytes + self.picture_bytes
    }
}

pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    let path = args.file.as_deref().or(args.model.as_deref());
    let compute = Compute::new(threads::default_count())?;
    let (isa, n_threads) = (compute.isa, compute.threads.count());
    let machine = bench::machine(&compute, true)?;
    let file = path.map(ModelFile::Path);
    let file = file.map(|file| gather(file, compute, machine).map_err(|e| file.blame(e)));
    let findings = Findings {
        system: System::look(),
        isa,
        n_threads,
        machine,
        file: file.transpose()?,
    };
    match args.json {
        true => print_json(&as_json(&findings)).map(drop),
        false => print(&as_text(&findings)).map(drop),
    }
}

fn gather(file: ModelFile, compute: Compute, machine: Machine) -> Result<FileFindings> {
    let gguf = file.open()?;
    let is_rotated = is_rotated(&gguf)?;
    // Other limits may be those of files that are not.
    let machine = match is_rotated {
        Some(false) => bench::machine(&compute, false)?,
        _ => machine,
    };
    let model = Model::new(&gguf, compute)?;
    let work = Work::new(&gguf, &model);
    let default_context = capacity::default_context(&model);
    Ok(FileFindings {
        name: file.name().display().to_string(),
        file_bytes: gguf.file_bytes() as u64,
        is_rotated,
        trained_context: model.config().decoder.max_position_embeddings,
        default_context,
        session_bytes: Session::bytes(&model, default_context),
        picture_bytes: model.picture_bytes(),
        picture_s: machine.picture_s(&work),
        prompt_s: machine.prefill_s(&work, PROMPT),
        tokens_per_s: 1.0 / machine.token_s(&work, PROMPT, ANSWER),
    })
}

fn is_rotated(gguf: &Gguf) -> Result<Option<bool>> {
    let is_quantized = gguf.tensors().iter().any(|tensor| !tensor.dtype.is_float());
    let rotation = Rotation::read(gguf)?;
    Ok(is_quantized.then_some(rotation.is_some()))
}

fn as_text(findings: &Findings) -> String {
    let system = &findings.system;
    let mut text = String::new();
    let mut line = |name: &str, value: String| text += &format!("{name:<13} {value}\n");
    line("owl2", format!("{} for {}", system.version, system.target));
    line("system", system.description.clone());
    line("processor", system.processor.clone());
    let available: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    let available = available.join(", ");
    line(
        "instructions",
        format!("{} (available: {available})", findings.isa),
    );
    line(
        "threads",
        format!(
            "{}, one per physical core that may be used ({} processors)",
            findings.n_threads, system.n_processors
        ),
    );
    line(
        "speed",
        format!(
            "{:.0} G 8-bit multiply-accumulates/s, memory {:.1} GB/s (measured now)",
            findings.machine.macs_per_s / 1e9,
            findings.machine.bytes_per_s / 1e9
        ),
    );
    let size = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), human_bytes);
    let memory = &system.memory;
    line(
        "memory",
        format!(
            "{}, {} available",
            size(memory.total),
            size(memory.available)
        ),
    );
    let limit = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{} left", human_bytes(bytes)),
        None => "none".to_owned(),
    };
    line(
        "limits",
        format!(
            "control group {}, address space {}",
            limit(memory.control_group),
            limit(memory.address_space)
        ),
    );
    line(
        "page cache",
        format!("{} of files are in memory", size(memory.page_cache)),
    );
    let unknown = || "unknown".to_owned();
    let pages = system.huge_pages.clone();
    line("huge pages", pages.unwrap_or_else(unknown));
    if let Some(governor) = &system.governor {
        line("governor", governor.clone());
    }
    if let Some(file) = &findings.file {
        text += &file_text(file);
    }
    let advice = advice::advice(findings);
    text += "\nWhat to change\n";
    if advice.is_empty() {
        text += "  nothing\n";
    }
    for piece in advice {
        text += &format!("  - {piece}\n");
    }
    format!("{text}\n{BUG_REPORT}\n")
}

fn file_text(file: &FileFindings) -> String {
    let mut text = format!("\n{}\n", file.name);
    let mut line = |name: &str, value: String| text += &format!("  {name:<22} {value}\n");
    let picture = match file.picture_bytes {
        0 => String::new(),
        n => format!(", {} while a picture is encoded", human_bytes(n)),
    };
    line(
        "memory",
        format!(
            "{}: the file {}, the context {}{picture}",
            human_bytes(file.memory_bytes()),
            human_bytes(file.file_bytes),
            human_bytes(file.session_bytes)
        ),
    );
    line(
        "context",
        format!(
            "{} of {} trained",
            file.default_context, file.trained_context
        ),
    );
    if let Some(seconds) = file.picture_s {
        line("picture", format!("{seconds:.2} s"));
    }
    line(
        &format!("prompt of {PROMPT}"),
        format!("{:.2} s", file.prompt_s),
    );
    line("generation", format!("{:.2} tokens/s", file.tokens_per_s));
    text + "  The times are what the cost model says of the speeds above, with the file in memory; 'owl2\n  \
            bench' measures them.\n"
}

fn as_json(findings: &Findings) -> Value {
    let system = &findings.system;
    let available: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    let file = findings.file.as_ref().map(|file| {
        json!({
            "name": file.name,
            "file_bytes": file.file_bytes,
            "memory_bytes": file.memory_bytes(),
            "session_bytes": file.session_bytes,
            "picture_bytes": file.picture_bytes,
            "rotated": file.is_rotated,
            "trained_context": file.trained_context,
            "default_context": file.default_context,
            "modelled": {
                "picture_s": file.picture_s,
                "prompt_positions": PROMPT,
                "prompt_s": file.prompt_s,
                "generate_tokens_per_s": file.tokens_per_s,
            },
        })
    });
    json!({
        "version": system.version,
        "target": system.target,
        "system": system.description,
        "processor": system.processor,
        "instructions": findings.isa.name(),
        "available_instructions": available,
        "threads": findings.n_threads,
        "processors": system.n_processors,
        "macs_per_s": findings.machine.macs_per_s,
        "bytes_per_s": findings.machine.bytes_per_s,
        "memory": {
            "total_bytes": system.memory.total,
            "available_bytes": system.memory.available,
            "control_group_left_bytes": system.memory.control_group,
            "address_space_left_bytes": system.memory.address_space,
            "page_cache_bytes": system.memory.page_cache,
        },
        "huge_pages": system.huge_pages,
        "governor": system.governor,
        "file": file,
        "advice": advice::advice(findings),
    })
}
