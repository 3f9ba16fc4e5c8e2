//! One question, one streamed answer.

use std::io::{self, IsTerminal};
use std::path::Path;

use crate::cli::args::AskArgs;
use crate::cli::cache::CacheFile;
use crate::cli::output::{self, Output};
use crate::cli::score::subjects::{Loader, Named, clips};
use crate::cli::setup::{self, Checked, STANDARD_INPUT};
use crate::cli::{chat, each, piped, print_json, progress};
use crate::error::{Error, Result};
use crate::files;
use crate::prompt::{Message, place_images};
use crate::request::{Answer, Assistant, Prompt, Request, Source};
use crate::reuse::PromptCache;
use crate::sampler::Sampling;
use crate::score::ScoreSubject;

/// Answers what the flags ask: one question, one about each of several pictures, or whatever comes
/// up in a chat. Whatever needs no model is checked before it is opened.
pub(super) fn run(args: &AskArgs) -> Result<()> {
    check_standard_input(args)?;
    let checked = setup::check(args)?;
    if is_chat(args) {
        return chat::run(args, &checked, &setup::open(args)?);
    }
    let text = text(args)?;
    if !args.question.each.is_empty() {
        return each::run(args, &checked, &setup::open(args)?, &text);
    }
    let about = About::of(args)?;
    let assistant = setup::open(args)?;
    let request = about.request(args, &checked, &assistant, &text)?;
    let mut memory = PromptCache::new();
    let cache = CacheFile::open(args, &assistant, &mut memory)?;
    let mut output = Output::new(!args.output.json, String::new());
    let answer = assistant.answer_from(&mut memory, &request, &mut |event| output.receive(event));
    let mut is_read = output.finish(answer.is_ok())?;
    let answer = answer?;
    if args.output.json && is_read {
        is_read = print_json(&output::as_json(&answer, &request.sampling))?;
    }
    report(args, &answer, &request.sampling);
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
        progress::note(warning);
    }
    let context = assistant.context(args.running.ctx_size)?;
    if let Some(note) = output::note_of_cut(answer, context, "--max-tokens")? {
        progress::note(&format!("{name}{note}"));
    }
    Ok(())
}

/// What a single question is about.
enum About {
    Pictures(Vec<Source>),
    /// The frames of a video stand where one picture would.
    Video(Named),
}

impl About {
    fn of(args: &AskArgs) -> Result<Self> {
        let question = &args.question;
        if !question.frames.is_empty() {
            let mut clips = clips(&question.frames, false)?;
            return match (clips.pop(), clips.is_empty()) {
                (Some(clip), true) => Ok(About::Video(clip)),
                _ => {
                    Err(Error::usage("names several videos; ask about one").in_parameter("frames"))
                }
            };
        }
        let sources = question.image.iter().map(|path| setup::source(path));
        let mut sources: Vec<Source> = sources.collect::<Result<_>>()?;
        let is_prompt_there = question
            .prompt
            .as_deref()
            .is_some_and(|p| p != STANDARD_INPUT);
        if sources.is_empty() && is_prompt_there && !setup::is_interactive() {
            sources.extend(piped::picture()?.map(Source::Bytes));
        }
        Ok(About::Pictures(sources))
    }

    fn request(
        self,
        args: &AskArgs,
        checked: &Checked,
        assistant: &Assistant,
        text: &str,
    ) -> Result<Request> {
        let clip = match self {
            About::Pictures(pictures) => {
                let request = request(args, checked, assistant, text, pictures.len())?;
                return Ok(Request {
                    pictures,
                    ..request
                });
            }
            About::Video(clip) => clip,
        };
        let mut request = request(args, checked, assistant, text, 1)?;
        let loader = Loader {
            assistant,
            fps: args.question.fps,
            aspect: request.aspect,
            reading: request.reading,
        };
        let ScoreSubject::Clip(frames) = loader.load(&clip)? else {
            return Err(Error::input("is not a video").in_parameter("frames"));
        };
        request.prompt.repeat_pictures(frames.len());
        request.pictures = frames;
        Ok(request)
    }
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
        "standard input can be one picture and not the prompt as well; give the prompt with -p",
    )
    .in_parameter("image"))
}

/// The text of the question.
fn text(args: &AskArgs) -> Result<String> {
    let text = match args.question.prompt.as_deref() {
        Some(STANDARD_INPUT) => setup::standard_text()?,
        Some(text) => return Ok(files::without_mark(text).to_owned()),
        None if setup::is_interactive() => String::new(),
        None => setup::standard_text()?,
    };
    if text.is_empty() {
        return Err(Error::usage(
            "no prompt given; ask as in owl2 cat.png \"What is it?\", use -p TEXT, pipe a text in, or \
             run on a terminal to chat",
        ));
    }
    Ok(text)
}

/// The request for `text` with a slot for each of `n_pictures`, which are still to be added.
pub(super) fn request(
    args: &AskArgs,
    checked: &Checked,
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
    setup::request(args, checked, prompt, assistant)
}

/// Says how long it took and what the text depends on, where that is wanted.
pub(super) fn report(args: &AskArgs, answer: &Answer, sampling: &Sampling) {
    if !args.output.verbose {
        return;
    }
    let mut text = output::timings(answer);
    if !sampling.is_greedy() {
        text += &format!("{:<13} {:>10}\n", "seed", sampling.seed);
    }
    progress::say(&text);
}
