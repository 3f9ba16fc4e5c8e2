//! Chats as a person has them, on a pseudo-terminal.
#![cfg(unix)]

use crate::room;
use rexpect::session::{PtySession, spawn_command};

use room::Room;

/// How long the program may take for anything.
const PATIENCE_MS: u64 = 30_000;
/// What the line editor begins with: bracketed paste is on.
const EDITOR_BEGINS: &str = "\x1b[?2004h";
/// Takes a progress line away.
const ERASE: &str = "\x1b[K";
const QUESTION: &str = "What color is the sky?";

/// A chat in progress.
struct Chat(PtySession);

impl Chat {
    /// Begins a chat and waits for the prompt.
    fn begin(room: &Room, args: &[&str]) -> Self {
        Self::begin_with(room, args, "1")
    }

    /// The same with a value of the variable `NO_COLOR`.
    fn begin_with(room: &Room, args: &[&str], no_color: &str) -> Self {
        let mut command = room.command(&[&["-m", "m.gguf"][..], args].concat());
        command.env("TERM", "xterm").env("NO_COLOR", no_color);
        let mut chat = Chat(spawn_command(command, Some(PATIENCE_MS)).unwrap());
        chat.sees("/help lists the commands");
        chat.sees("> ");
        chat
    }

    /// Waits for a text; what came before it.
    #[track_caller]
    fn sees(&mut self, text: &str) -> String {
        let seen = self.0.exp_string(text);
        seen.unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn types(&mut self, text: &str) {
        self.0.send(text).unwrap();
        self.0.flush().unwrap();
    }

    /// Types a line; what comes between its echo and the next prompt.
    #[track_caller]
    fn sends(&mut self, line: &str) -> String {
        self.types(&format!("{line}\r"));
        self.sees("\n");
        let reply = self.sees(EDITOR_BEGINS);
        self.sees("> ");
        reply.replace('\r', "")
    }

    /// The same without progress lines.
    #[track_caller]
    fn says(&mut self, line: &str) -> String {
        let reply = self.sends(line);
        let (_, answer) = reply.rsplit_once(ERASE).unwrap_or(("", &reply));
        // Answers of random weights hardly end by themselves.
        let lines = answer
            .lines()
            .filter(|line| !line.starts_with("the answer was cut"));
        let answer: Vec<_> = lines.collect();
        answer.join("\n").trim().to_owned()
    }

    /// Leaves with Ctrl-D.
    #[track_caller]
    fn leave(mut self) {
        self.types("\x04");
        self.ends();
    }

    /// Waits for the end of the program, which must be a success.
    #[track_caller]
    fn ends(&mut self) {
        self.0.exp_eof().unwrap();
        let status = self.0.process().wait().unwrap();
        assert!(format!("{status:?}").ends_with(", 0)"), "{status:?}");
    }
}

/// A text as a terminal is given it, and as the session reads that: each byte a character.
fn on_terminal(text: &str) -> String {
    let is_harmful = |c: char| c.is_control() && c != '\n';
    let shown = text.trim().replace(is_harmful, "\u{fffd}");
    shown.bytes().map(char::from).collect()
}

#[test]
fn the_first_answer_is_that_of_a_single_question() {
    let room = Room::with_model();
    let wanted = room.stdout(&["-m", "m.gguf", "-n", "8", "-p", QUESTION]);
    let mut chat = Chat::begin(&room, &["-n", "8"]);
    let shown = chat.sends(QUESTION);
    // A progress line, which is gone before the first word.
    let (progress, answer) = shown.rsplit_once(ERASE).unwrap();
    assert!(
        progress.contains("reading the prompt, 0 of 12"),
        "{progress:?}"
    );
    let (answer, note) = answer.split_once("the answer was cut").unwrap();
    assert_eq!(answer.trim(), on_terminal(&wanted));
    assert!(note.contains("at 8 tokens; /set max_tokens"), "{note}");
    chat.leave();
}

#[test]
fn what_a_picture_lacks_is_said_when_it_is_attached_and_when_it_is_loaded() {
    let room = Room::with_model();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jpeg/photo.jpg");
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(bytes.len() * 65 / 100);
    bytes.extend([0xff, 0xd9]);
    std::fs::write(room.path("cut.jpg"), bytes).unwrap();
    let mut chat = Chat::begin(&room, &["-n", "2"]);
    let wanted = "blocks is missing";
    let said = chat.says("/image cut.jpg");
    assert!(said.contains(wanted), "{said}");
    let saved = r#"{"messages": [{"role": "user", "text": "x", "images": ["cut.jpg"]},
        {"role": "assistant", "text": "y"}]}"#;
    std::fs::write(room.path("talk.json"), saved).unwrap();
    let said = chat.says("/load talk.json");
    assert!(said.contains("1 turn") && said.contains(wanted), "{said}");
    chat.leave();
}

#[test]
fn a_turn_computes_what_is_new_and_a_picture_is_encoded_once() {
    let room = Room::with_model();
    let image = [
        "-m",
        "m.gguf",
        "-n",
        "8",
        "-p",
        "What?",
        "--image",
        "wide_rgb.png",
    ];
    let wanted = room.stdout(&image);
    let mut chat = Chat::begin(&room, &["-n", "8"]);
    // The rest of the name is completed.
    chat.types("/image wide\t");
    chat.sees("wide_rgb.png");
    assert!(chat.says("").contains("attached wide_rgb.png"));
    assert_eq!(chat.says("What?"), on_terminal(&wanted));
    let first = chat.says("/stats");
    assert!(
        first.contains("9 of pictures, 0 computed before"),
        "{first}"
    );
    assert!(first.contains("vit"), "{first}");
    chat.says("And what else?");
    let second = chat.says("/stats");
    assert!(second.contains("9 of pictures"), "{second}");
    assert!(!second.contains(" 0 computed before"), "{second}");
    assert!(!second.contains("vit"), "{second}");
    assert_eq!(chat.says("/images"), "wide_rgb.png (turn 1)");
    chat.leave();
}

#[test]
fn an_interrupt_stops_the_answer_and_keeps_the_chat() {
    let room = Room::with_model();
    // An answer that goes on for long.
    let long = room::long_text();
    let flags = ["-c", "100000", "-n", "90000", "--choices", &long];
    let mut chat = Chat::begin(&room, &flags);
    chat.types(&format!("{QUESTION}\r"));
    chat.sees("the the the");
    chat.types("\x03");
    chat.sees("stopped");
    chat.sees("> ");
    assert_eq!(chat.says("/set max_tokens 5"), "");
    chat.says("hello again");
    let said = chat.says("/stats");
    assert!(said.contains("answer 5 tokens"), "{said}");
    // Where nothing is to be stopped it says how to leave.
    chat.types("\x03");
    chat.sees("Ctrl-D or /quit quits");
    chat.sees("> ");
    chat.leave();
}

#[test]
fn the_last_question_can_be_answered_again() {
    let room = Room::with_model();
    let mut chat = Chat::begin(&room, &["-n", "12"]);
    assert!(chat.says("/regen").contains("nothing was asked yet"));
    let first = chat.says(QUESTION);
    let again = chat.says("/regen");
    assert!(again.ends_with(&first), "{again}");
    assert!(chat.says("/stats").contains("11 computed before"));
    chat.says("/set temp 1.5");
    let (a, b) = (chat.says("/regen"), chat.says("/regen"));
    assert_ne!(a, b);
    assert!(chat.says("/set").contains("temp 1.5"));
    assert!(chat.says("/set temp -1").contains("/set temp: is -1"));
    chat.says("/clear");
    chat.says("/set temp 0");
    assert_eq!(chat.says(QUESTION), first);
    chat.leave();
}

#[test]
fn the_system_text_comes_first() {
    let room = Room::with_model();
    let args = [
        "-m",
        "m.gguf",
        "-n",
        "8",
        "-p",
        QUESTION,
        "--system",
        "Be brief.",
    ];
    let wanted = room.stdout(&args);
    let mut chat = Chat::begin(&room, &["-n", "8"]);
    let without = chat.says(QUESTION);
    assert_ne!(without, on_terminal(&wanted));
    chat.says("/clear");
    assert_eq!(chat.says("/system Be brief."), "");
    assert_eq!(chat.says("/system"), "Be brief.");
    assert_eq!(chat.says(QUESTION), on_terminal(&wanted));
    chat.leave();
}

#[test]
fn a_conversation_can_be_saved_and_gone_on_with() {
    let room = Room::with_model();
    let mut chat = Chat::begin(&room, &["-n", "8", "--image", "gray.png"]);
    chat.says("What is this?");
    assert_eq!(chat.says("/save talk.json"), "wrote talk.json (1 turn)");
    let wanted = chat.says("And this?");
    chat.leave();

    let saved = std::fs::read(room.path("talk.json")).unwrap();
    let saved: serde_json::Value = serde_json::from_slice(&saved).unwrap();
    let question = &saved["messages"][0];
    assert_eq!(
        (&question["role"], &question["text"]),
        (&"user".into(), &"What is this?".into())
    );
    let picture = question["images"][0].as_str().unwrap();
    assert!(picture.ends_with("/gray.png"), "{picture}");
    assert_eq!(saved["messages"][1]["role"], "assistant");

    let mut chat = Chat::begin(&room, &["-n", "8"]);
    assert!(chat.says("/load talk.json").contains("1 turn"));
    assert!(chat.says("/images").contains("gray.png (turn 1)"));
    assert_eq!(chat.says("And this?"), wanted);
    for (content, wanted) in [
        ("{", "not a saved conversation"),
        ("[[[[[[", "not a saved conversation"),
        (
            r#"{"messages": [{"role": "user", "text": "x"}]}"#,
            "no answer",
        ),
        (
            r#"{"messages": [{"role": "user", "text": "x", "images": ["no.png"]}, {"role": "assistant", "text": ""}]}"#,
            "no.png",
        ),
    ] {
        std::fs::write(room.path("bad.json"), content).unwrap();
        let said = chat.says("/load bad.json");
        assert!(said.contains(wanted), "{content}: {said}");
    }
    // A pipe would keep its reader waiting for ever.
    let made = std::process::Command::new("mkfifo")
        .arg(room.path("pipe.png"))
        .status();
    assert!(made.unwrap().success());
    let pipe = r#"{"messages": [{"role": "user", "text": "x", "images": ["pipe.png"]}, {"role": "assistant", "text": ""}]}"#;
    std::fs::write(room.path("bad.json"), pipe).unwrap();
    assert!(chat.says("/load bad.json").contains("not an ordinary file"));
    // What could not be loaded has changed nothing.
    assert!(chat.says("/images").contains("gray.png (turn 1)"));
    chat.leave();
}

#[test]
fn several_lines_can_be_pasted_or_typed() {
    let room = Room::with_model();
    let question = "one two\nthree four";
    let wanted = room.stdout(&["-m", "m.gguf", "-n", "8", "-p", question]);
    let mut chat = Chat::begin(&room, &["-n", "8"]);
    chat.types("\x1b[200~one two\r\nthree four\x1b[201~");
    chat.sees("three four");
    assert_eq!(chat.says(""), on_terminal(&wanted));
    chat.says("/clear");
    chat.types("one two\\\r");
    chat.sees("\n");
    assert_eq!(chat.says("three four"), on_terminal(&wanted));
    chat.leave();
}

#[test]
fn the_oldest_turns_go_when_the_context_fills() {
    let room = Room::with_model();
    let flags = ["-c", "100", "-n", "10", "--image", "gray.png"];
    let mut chat = Chat::begin(&room, &flags);
    let mut replies = vec![chat.says("What is this?")];
    while !replies.last().unwrap().contains("the context is full") {
        assert!(replies.len() < 10, "{replies:?}");
        replies.push(chat.says("one two three four"));
    }
    // The picture's turn is still there.
    assert_eq!(chat.says("/images"), "gray.png (turn 1)");
    chat.leave();
}

#[test]
fn a_dropped_path_is_offered_as_a_picture() {
    let room = Room::with_model();
    let image = [
        "-m", "m.gguf", "-n", "8", "-p", "What?", "--image", "gray.png",
    ];
    let wanted = room.stdout(&image);
    let mut chat = Chat::begin(&room, &["-n", "8"]);
    let path = room.path("gray.png").display().to_string();
    chat.types(&format!("'{path}' What?\r"));
    chat.sees("as a picture? [Y/n]");
    assert!(chat.says("").ends_with(&on_terminal(&wanted)));
    chat.says("/clear");
    chat.types(&format!("{path}\r"));
    chat.sees("as a picture? [Y/n]");
    chat.says("n");
    assert!(chat.says("/images").contains("no pictures"));
    chat.leave();
}

#[test]
fn mistakes_are_told_and_the_chat_goes_on() {
    let room = Room::with_model();
    std::fs::write(room.path("text.png"), "no picture").unwrap();
    let mut chat = Chat::begin(&room, &["-n", "4"]);
    for (line, wanted) in [
        ("/frobnicate", "/frobnicate: unknown command"),
        ("/image none.png", "none.png"),
        ("/image text.png", "text.png"),
        ("/image", "needs a file name"),
        ("/save no/such/folder", "no/such: cannot create"),
        ("is <|image|> it?", "no picture is attached"),
        ("/help", "/image FILE"),
        ("/stats", "no answer yet"),
    ] {
        let said = chat.says(line);
        assert!(said.contains(wanted), "{line}: {said}");
    }
    chat.types("/quit\r");
    chat.ends();
}

#[test]
fn a_chat_can_be_saved_over_itself_alone_and_left_in_many_ways() {
    let room = Room::with_model();
    std::fs::write(room.path("letter"), "dear reader").unwrap();
    let mut chat = Chat::begin(&room, &["-n", "4"]);
    chat.says("hello");
    assert_eq!(chat.says("/save talk.json"), "wrote talk.json (1 turn)");
    assert_eq!(chat.says("/save talk.json"), "replaced talk.json (1 turn)");
    assert!(
        chat.says("/save letter")
            .contains("is not a saved conversation")
    );
    assert_eq!(std::fs::read(room.path("letter")).unwrap(), b"dear reader");
    chat.types("exit\r");
    chat.ends();
    for word in ["/bye", "/exit"] {
        let mut chat = Chat::begin(&room, &[]);
        chat.types(&format!("{word}\r"));
        chat.ends();
    }
}

#[test]
fn pictures_without_a_flag_belong_to_the_first_question() {
    let room = Room::with_model();
    let mut chat = Chat::begin(&room, &["gray.png"]);
    assert_eq!(chat.says("/images"), "gray.png (next question)");
    chat.leave();
}

#[test]
fn notices_are_faint_unless_colours_are_off() {
    let room = Room::with_model();
    for (no_color, is_faint) in [("1", false), ("", true)] {
        let mut chat = Chat::begin_with(&room, &[], no_color);
        let said = chat.sends("/images");
        assert_eq!(said.contains("\x1b[2mno pictures"), is_faint, "{said:?}");
        chat.leave();
    }
}

#[test]
fn history_and_computed_positions_outlast_the_chat() {
    let room = Room::with_model();
    let flags = ["-n", "8", "--history", "lines", "--cache", "state"];
    let mut chat = Chat::begin(&room, &flags);
    let wanted = chat.says(QUESTION);
    chat.leave();
    let mut chat = Chat::begin(&room, &flags);
    // The key that goes up.
    chat.types("\x1b[A");
    chat.sees(QUESTION);
    assert_eq!(chat.says(""), wanted);
    assert!(chat.says("/stats").contains("11 computed before"));
    chat.leave();
}
