//! A conversation on a terminal.

mod command;
mod editor;
pub(super) mod history;
mod line;
mod settings;

use std::ops::ControlFlow;
use std::path::Path;

use crate::chat::{Attachment, Conversation};
use crate::cli::args::AskArgs;
use crate::cli::cache::CacheFile;
use crate::cli::interrupt::{self, Hold};
use crate::cli::output::{self, Output};
use crate::cli::progress;
use crate::cli::setup::{self, Checked};
use crate::error::Result;
use crate::request::{Answer, Assistant, Listener, Prompt};
use crate::reuse::PromptCache;
use command::ChatCommand;
use editor::{Editor, Typed};

/// What stands before every line to be typed.
const PROMPT: &str = "> ";

/// Talks until the person leaves.
pub(super) fn run(args: &AskArgs, checked: &Checked, assistant: &Assistant) -> Result<()> {
    let room = assistant.context(args.running.ctx_size)?;
    let mut memory = PromptCache::with_room(room).reusing_answers();
    let cache = CacheFile::open(args, assistant, &mut memory)?;
    let mut editor = Editor::open(args.running.history.as_deref())?;
    let mut chat = Chat::new(args, checked, assistant, memory)?;
    for picture in &args.question.image {
        chat.conversation.attach(&setup::file_path(picture))?;
        chat.note_damage();
    }
    progress::notice(&format!(
        "context of {room} positions; /help lists the commands, Ctrl-D quits"
    ));
    chat.talk(&mut editor)?;
    editor.save()?;
    cache.save(&chat.conversation.memory)
}

struct Chat<'m> {
    conversation: Conversation<'m>,
    last: Option<Answer>,
    /// The context.
    room: usize,
}

impl<'m> Chat<'m> {
    fn new(
        args: &AskArgs,
        checked: &Checked,
        assistant: &'m Assistant,
        memory: PromptCache,
    ) -> Result<Self> {
        let nothing = Prompt::turns(Vec::new());
        let settings = setup::request(args, checked, nothing, assistant)?;
        let mut conversation = Conversation::new(assistant, memory, settings);
        conversation.system = args.prompt.system.clone();
        conversation.template = args.prompt.template;
        Ok(Chat {
            conversation,
            last: None,
            room: assistant.context(args.running.ctx_size)?,
        })
    }

    /// Reads lines and does what they say. Only a terminal that fails ends it with an error.
    fn talk(&mut self, editor: &mut Editor) -> Result<()> {
        loop {
            let done = match editor.read(PROMPT)? {
                Typed::End => return Ok(()),
                Typed::Interrupted => {
                    progress::notice("Ctrl-D or /quit quits");
                    continue;
                }
                Typed::Line(line) => self.take(&line, editor),
            };
            match done {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(()),
                Err(error) => {
                    progress::say(&format!("owl2: {}\n", error.spelled(&settings::spelled)))
                }
            }
        }
    }

    /// Does what a line says; whether to go on.
    fn take(&mut self, line: &str, editor: &mut Editor) -> Result<ControlFlow<()>> {
        if let Some(command) = ChatCommand::parse(line) {
            return self.obey(command?);
        }
        let question = self.take_pictures(line, editor)?;
        if question.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        self.answer(|conversation, listener| conversation.ask(&question, listener))
    }

    /// Offers to attach the pictures whose paths are in a line; the rest of it is the question.
    fn take_pictures(&mut self, line: &str, editor: &mut Editor) -> Result<String> {
        let mut question = String::new();
        let mut rest = 0;
        for (range, path) in line::pictures(line) {
            let offer = format!("attach {} as a picture? [Y/n] ", path.display());
            if editor.confirm(&offer)? {
                self.attach(&path)?;
                question += &line[rest..range.start];
                rest = range.end;
            }
        }
        question += &line[rest..];
        Ok(question.trim().to_owned())
    }

    fn attach(&mut self, path: &Path) -> Result<()> {
        setup::check_picture(path)?;
        self.conversation.attach(path)?;
        progress::notice(&format!("attached {} to the next question", path.display()));
        self.note_damage();
        Ok(())
    }

    /// Says so where the picture attached last lacks something.
    fn note_damage(&self) {
        if let Some(picture) = self.conversation.attached().last() {
            note_damage(picture);
        }
    }

    fn obey(&mut self, command: ChatCommand) -> Result<ControlFlow<()>> {
        match command {
            ChatCommand::Image(path) => self.attach(&path)?,
            ChatCommand::Images => self.list_pictures(),
            ChatCommand::Clear => {
                self.conversation.clear();
                progress::notice("cleared the conversation");
            }
            ChatCommand::Regen => {
                if self.conversation.settings.sampling.is_greedy() {
                    progress::notice(
                        "temp is 0, so the answer stays the same; /set temp 0.7 makes it vary",
                    );
                }
                return self.answer(Conversation::ask_again);
            }
            ChatCommand::System(None) => {
                let system = self.conversation.system.as_deref();
                progress::notice(
                    system.unwrap_or("the system prompt of the template, if it has one"),
                );
            }
            ChatCommand::System(text) => self.conversation.system = text,
            ChatCommand::Set(None) => {
                progress::notice(&settings::list(&self.conversation.settings))
            }
            ChatCommand::Set(Some((name, value))) => {
                settings::set(&mut self.conversation.settings, &name, &value)?;
            }
            ChatCommand::Save(path) => {
                let was_there = path.exists();
                self.conversation.save(&path)?;
                let wrote = if was_there { "replaced" } else { "wrote" };
                let turns = turns(self.conversation.turns().len());
                progress::notice(&format!("{wrote} {} ({turns})", path.display()));
            }
            ChatCommand::Load(path) => {
                let hold = Hold::new();
                self.conversation
                    .load(&path, &mut || !interrupt::is_requested())?;
                drop(hold);
                let (n, n_left_out) = (self.conversation.turns().len(), self.n_left_out());
                let note = match n_left_out {
                    0 => String::new(),
                    n => {
                        format!(" ({n} no longer read: the context has no room for their pictures)")
                    }
                };
                progress::notice(&format!("loaded {} ({}){note}", path.display(), turns(n)));
                let turns = self.conversation.turns().iter();
                turns.flat_map(|turn| &turn.pictures).for_each(note_damage);
            }
            ChatCommand::Stats => self.show_statistics(),
            ChatCommand::Help => progress::notice(command::HELP),
            ChatCommand::Quit => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Lets the model answer, until it ends or an interrupt comes; whether to go on.
    fn answer(
        &mut self,
        ask: impl FnOnce(&mut Conversation<'m>, &mut Listener) -> Result<Answer>,
    ) -> Result<ControlFlow<()>> {
        let n_left_out = self.n_left_out();
        let mut output = Output::new(true, String::new());
        let hold = Hold::new();
        let answer = ask(&mut self.conversation, &mut |event| output.receive(event));
        let was_interrupted = hold.end();
        if !output.finish(answer.is_ok())? {
            return Ok(ControlFlow::Break(()));
        }
        let answer = answer?;
        if was_interrupted {
            progress::notice("stopped");
        }
        let cut = output::note_of_cut(&answer, self.room, "/set max_tokens");
        note_full_context(self.n_left_out() - n_left_out);
        self.last = Some(answer);
        if let Some(note) = cut? {
            progress::notice(&note);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn n_left_out(&self) -> usize {
        let turns = self.conversation.turns().iter();
        turns.filter(|turn| turn.is_left_out).count()
    }

    fn list_pictures(&self) {
        let mut list = String::new();
        for (number, turn) in (1..).zip(self.conversation.turns()) {
            for picture in &turn.pictures {
                let note = match turn.is_left_out {
                    true => ", no longer read",
                    false => "",
                };
                list += &format!("{} (turn {number}{note})\n", picture.path.display());
            }
        }
        for picture in self.conversation.attached() {
            list += &format!("{} (next question)\n", picture.path.display());
        }
        match list.trim_end() {
            "" => progress::notice("no pictures; /image FILE attaches one"),
            list => progress::notice(list),
        }
    }

    fn show_statistics(&self) {
        let Some(answer) = &self.last else {
            progress::notice("no answer yet");
            return;
        };
        let positions = format!(
            "prompt {} positions ({} of pictures, {} computed before), answer {} tokens",
            answer.n_prompt,
            answer.n_image,
            answer.n_reused,
            answer.ids.len()
        );
        let table = output::timings(answer);
        progress::notice(&format!("{positions}\n{}", table.trim_end()));
    }
}

/// Says so where a picture lacks something.
fn note_damage(picture: &Attachment) {
    if let Some(damage) = picture.damage() {
        progress::notice(&format!("{}: {damage}", picture.path.display()));
    }
}

fn turns(n: usize) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} turn{plural}")
}

/// Says so where the context was too small for `n_left_out` more old turns.
fn note_full_context(n_left_out: usize) {
    if n_left_out > 0 {
        progress::notice(&format!(
            "the context is full: the oldest turns are no longer read ({n_left_out} more)"
        ));
    }
}
