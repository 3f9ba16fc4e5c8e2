//! One question, one streamed answer.

use std::io::{self, IsTerminal};
use std::path::Path;

use crate::cli::args::AskArgs;
use crate::cli::cache::CacheFile;
use crate::cli::output::{self, Output};
use crate::cli::score::subjects::{Loader, clips};
use crate::cli::setup::{self, STANDARD_INPUT};
use crate::cli::{chat, each, print_json, progress};
use crate::error::{Error, Result};
use crate::files;
use crate::prompt::{Message, place_images};
use crate::request::{Answer, Assistant, Prompt, Request};
use crate::reuse::Memory;
use crate::score::Subject;

/// Answers what the flags ask: one question, one about each of several pictures, or whatever comes
/// up in a chat.
pub(super) fn run(args: &AskArgs) -> Result<()> {
    check_standard_input(args)?;
    let assistant = setup::open(args)?;
    if is_chat(args) {
        return chat::run(args, &assistant);
    }
    let text = text(args)?;
    if !args.question.each.is_empty() {
        return each::run(args, &assistant, &text);
    }
    let request = match args.question.frames.is_empty() {
        true => about_pictures(args, &assistant, &text)?,
        false => about_frames(args, &assistant, &text)?,
    };
    let mut memory = Memory::new();
    let cache = CacheFile::open(args, &assistant, &mut memory)?;
    let mut output = Output::new(!args.output.json, String::new());
    let answer = assistant.answer_from(&mut memory, &request, &mut |event| output.receive(event));
    let mut is_read = output.finish(answer.is_ok())?;
    let answer = answer?;
    if args.output.json && is_read {
        is_read = print_json(&output::as_json(&answer))?;
    }
    report(args, &answer);
    cache.save(&memory)?;
    if is_read {
        check_whole(args, &assistant, &answer, "")?;
    }
    Ok(())
}

/// Says so where a picture was damaged or an answer was cut, and fails where it is not what was asked for. `name` comes first.
pub(super) fn check_whole(
    args: &AskArgs,
    assistant: &Assistant,
    answer: &Answer,
    name: &str,
) -> Result<()> {
    for warning in &answer.warnings {
        progress::say(&format!("owl2: {warning}\n"));
    }
    let context = assistant.context(args.running.ctx_size)?;
    if let Some(note) = output::note_of_cut(answer, context, "--max-tokens")? {
        progress::say(&format!("owl2: {name}{note}\n"));
    }
    Ok(())
}

fn about_pictures(args: &AskArgs, assistant: &Assistant, text: &str) -> Result<Request> {
    let sources = args.question.image.iter().map(|path| setup::source(path));
    Ok(Request {
        pictures: sources.collect::<Result<_>>()?,
        ..request(args, assistant, text, args.question.image.len())?
    })
}

/// The frames stand where one picture would.
fn about_frames(args: &AskArgs, assistant: &Assistant, text: &str) -> Result<Request> {
    let mut clips = clips(&args.question.frames, false)?;
    let (Some(clip), true) = (clips.pop(), clips.is_empty()) else {
        return Err(Error::usage("names several videos; ask about one").in_flag("--frames"));
    };
    let mut request = request(args, assistant, text, 1)?;
    let loader = Loader {
        assistant,
        fps: args.question.fps,
        aspect: request.aspect,
        reading: request.reading,
    };
    let Subject::Clip(frames) = loader.load(&clip)? else {
        return Err(Error::input("is no video").in_flag("--frames"));
    };
    request.prompt.repeat_pictures(frames.len());
    request.pictures = frames;
    Ok(request)
}

/// Whether a person is to be asked for questions.
fn is_chat(args: &AskArgs) -> bool {
    let is_asked = args.question.prompt.is_some()
        || !args.question.each.is_empty()
        || !args.question.frames.is_empty();
    let is_for_programs = args.output.json || args.prompt.raw;
    !is_asked && !is_for_programs && setup::is_interactive() && io::stdout().is_terminal()
}

/// Standard input can be read once.
fn check_standard_input(args: &AskArgs) -> Result<()> {
    let question = &args.question;
    let images = question.image.iter();
    let n_pictures = images
        .filter(|path| *path == Path::new(STANDARD_INPUT))
        .count();
    let is_text = question.prompt.as_deref().unwrap_or(STANDARD_INPUT) == STANDARD_INPUT;
    if n_pictures == 0 || (n_pictures == 1 && !is_text) {
        return Ok(());
    }
    Err(Error::usage(
        "takes '-' once, and standard input cannot be the prompt as well; give the prompt with -p",
    )
    .in_flag("--image"))
}

/// The text of the question.
fn text(args: &AskArgs) -> Result<String> {
    const FLAG: &str = "--prompt";
    let text = match args.question.prompt.as_deref() {
        Some(STANDARD_INPUT) => setup::standard_text()?,
        Some(text) => return Ok(files::without_mark(text).to_owned()),
        None if setup::is_interactive() => String::new(),
        None => setup::standard_text()?,
    };
    if text.is_empty() {
        return Err(Error::usage(
            "is missing; say what you want to know, as in: -p \"Describe the image.\"",
        )
        .in_flag(FLAG));
    }
    Ok(text)
}

/// The request for `text` with a slot for each of `n_pictures`, which are still to be added.
pub(super) fn request(
    args: &AskArgs,
    assistant: &Assistant,
    text: &str,
    n_pictures: usize,
) -> Result<Request> {
    let text = place_images(text, n_pictures)?;
    let prompt = match args.prompt.raw {
        true => Prompt::Raw(text),
        false => Prompt::Turns {
            messages: vec![Message::user(text), Message::assistant("")],
            system: args.prompt.system.clone(),
            template: args.prompt.template,
        },
    };
    setup::request(args, prompt, assistant)
}

/// Says how long it took, where that is wanted.
pub(super) fn report(args: &AskArgs, answer: &Answer) {
    if args.output.verbose {
        progress::say(&output::timings(answer));
    }
}
