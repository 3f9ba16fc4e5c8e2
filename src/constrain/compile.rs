//! Compiles grammars on a thread of their own, with a large stack and a deadline.
//!
//! The engine recurses for each level of a schema, and the schema's size does not limit its time.
//! Schemas that pass [`bounds`](super::bounds) usually take milliseconds. If one takes too long, the
//! request fails, and the thread goes on until it is done or the process ends.

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};

use super::Constraint;
use crate::error::{Error, Result};
use crate::harmless;

/// Stack of the thread: the deepest schema within bounds takes less than half of it, some 6 kB for
/// each level.
const STACK_BYTES: usize = 64 << 20;
/// How long a grammar may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// The most that is shown of what the engine says, which repeats the schema.
const MAX_REASON_BYTES: usize = 300;

/// What the engine says before what is wrong with a schema.
const SCHEMA_FAILED: &str = "failed to compile JSON schema: ";
/// What the engine says in words of its own, and what it means.
const IN_PLAIN_WORDS: [(&str, &str); 4] = [
    ("NoExtensionBias", "no answer of any length would be it"),
    (
        "Current row has",
        "too much could come next at one place; ask for less at once",
    ),
    (
        "Unable to determine if regex is empty",
        "its patterns are too hard to follow together, if any text matches them; ask for something \
         simpler",
    ),
    (
        "lexer precomputation failed",
        "its patterns are too hard to follow; ask for something simpler",
    ),
];

/// Compiles grammars, and keeps the last one.
pub(super) struct Compiler {
    factory: Arc<ParserFactory>,
    last: Mutex<Option<(Constraint, Compiled)>>,
    /// Held once here, and by every thread that runs.
    running: Arc<()>,
    deadline: Duration,
}

/// A matcher in its first state, or why there is none.
type Compiled = Result<Matcher, String>;

impl Compiler {
    pub fn new(factory: ParserFactory) -> Self {
        Compiler {
            factory: Arc::new(factory),
            last: Mutex::default(),
            running: Arc::new(()),
            deadline: DEADLINE,
        }
    }

    /// A matcher of `grammar`, which is that of `constraint`.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the engine cannot follow it or takes too long,
    /// [`Kind::Capacity`](crate::Kind::Capacity) where another one still takes too long.
    pub fn matcher(
        &self,
        constraint: &Constraint,
        grammar: impl FnOnce() -> String,
    ) -> Result<Matcher> {
        // A grammar that fails is kept too: a thread that takes too long is not started twice.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = match &*last {
            Some((of, compiled)) if of == constraint => compiled,
            _ => {
                let compiled = self.compile(grammar())?;
                &last.insert((constraint.clone(), compiled)).1
            }
        };
        match compiled {
            // What one answer computes of the grammar is not kept for the next: it grows.
            Ok(matcher) => Ok(matcher.deep_clone()),
            Err(reason) => Err(Error::input(format!("cannot be followed: {reason}"))),
        }
    }

    fn compile(&self, grammar: String) -> Result<Compiled> {
        if Arc::strong_count(&self.running) > 1 {
            return Err(Error::capacity(
                "an earlier constraint is still being worked on, which took too long",
            ));
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let (factory, running) = (self.factory.clone(), self.running.clone());
        let work = move || {
            let grammar = TopLevelGrammar::from_lark(grammar);
            let compiled = checked(Matcher::new(factory.create_parser(grammar)));
            // Whoever receives the matcher may come with the next grammar at once.
            drop((factory, running));
            // Nobody waits for one that took too long.
            let _ = sender.send(compiled);
        };
        thread::Builder::new()
            .name("owl2-grammar".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(work)
            .map_err(|e| {
                let size = STACK_BYTES >> 20;
                Error::capacity(format!("no thread with a stack of {size} MiB for it: {e}"))
                    .caused_by(e)
            })?;
        Ok(match receiver.recv_timeout(self.deadline) {
            Ok(compiled) => compiled,
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "it is not ready after {} s; ask for something simpler",
                self.deadline.as_secs()
            )),
            Err(RecvTimeoutError::Disconnected) => Err("the grammar engine gave up".to_owned()),
        })
    }
}

/// A matcher that knows what an answer may begin with. Some of what the engine cannot follow shows
/// only there.
fn checked(mut matcher: Matcher) -> Compiled {
    let said = |e: &dyn fmt::Display| short(&e.to_string());
    let allowed = matcher.compute_mask_or_eos().map_err(|e| said(&e))?;
    let tokens = matcher.tok_env().map_err(|e| said(&e))?;
    // The space before an answer does not tell yet.
    if let Some(space) = tokens.tok_trie().token_id(b" ")
        && allowed.is_allowed(space)
    {
        let mut after = matcher.deep_clone();
        after.consume_token(space).map_err(|e| said(&e))?;
        after.compute_mask_or_eos().map_err(|e| said(&e))?;
    }
    Ok(matcher)
}

/// What the engine says, on one line, in a length that a person reads, and without the grammar that
/// it was given, which no person wrote.
pub(super) fn short(reason: &str) -> String {
    let is_grammar = |line: &&str| {
        let number = line.split_once('|').map_or("", |(number, _)| number.trim());
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let lines = reason.lines().filter(|line| !is_grammar(line));
    let words: Vec<_> = lines.flat_map(str::split_whitespace).collect();
    let said = words.join(" ");
    let said = said
        .split_once(SCHEMA_FAILED)
        .map_or(&*said, |(_, said)| said);
    let said = said.trim_end_matches("<non-verbose/>").trim_end();
    let said = match IN_PLAIN_WORDS
        .iter()
        .find(|(jargon, _)| said.contains(jargon))
    {
        Some((_, plain)) => plain,
        None => said,
    };
    harmless::shortened(said, MAX_REASON_BYTES).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Grammars;
    use super::*;
    use crate::Kind;
    use crate::tokenizer::Tokenizer;
    use crate::tokenizer::tests::vocabulary;

    /// An integer that is a multiple of `divisor`, whatever the bounds are.
    fn multiple_of(divisor: u32) -> Constraint {
        Constraint::JsonSchema(serde_json::json!({ "type": "integer", "multipleOf": divisor }))
    }

    #[test]
    fn what_takes_too_long_fails_once_and_keeps_others_from_it_until_it_ends() {
        let tokenizer = Tokenizer::new(vocabulary(Vec::new())).unwrap();
        let mut compiler = Grammars::new(&tokenizer).unwrap().compiler;
        // Thousands of times what starting a thread takes.
        let (slow, quick) = (multiple_of(100_003), multiple_of(3));
        compiler.deadline = Duration::ZERO;
        let matcher = |compiler: &Compiler, constraint: &Constraint| {
            let compiled = compiler.matcher(constraint, || constraint.grammar(false));
            compiled.map(drop).map_err(|e| e.kind())
        };
        assert_eq!(matcher(&compiler, &slow), Err(Kind::Input));
        // Another thread would be refused.
        assert_eq!(matcher(&compiler, &slow), Err(Kind::Input));
        assert_eq!(matcher(&compiler, &quick), Err(Kind::Capacity));
        while Arc::strong_count(&compiler.running) > 1 {
            thread::yield_now();
        }
        compiler.deadline = DEADLINE;
        assert_eq!(matcher(&compiler, &quick), Ok(()));
    }

    #[test]
    fn the_next_grammar_may_come_as_soon_as_one_is_ready() {
        let tokenizer = Tokenizer::new(vocabulary(Vec::new())).unwrap();
        let compiler = Grammars::new(&tokenizer).unwrap().compiler;
        for divisor in 2..200 {
            let constraint = multiple_of(divisor);
            let compiled = compiler.matcher(&constraint, || constraint.grammar(false));
            assert!(compiled.is_ok());
            assert_eq!(Arc::strong_count(&compiler.running), 1, "{divisor}");
        }
    }

    #[test]
    fn what_no_answer_begins_is_found_before_any_is_asked_for() {
        let tokenizer = Tokenizer::new(vocabulary(Vec::new())).unwrap();
        let grammars = Grammars::new(&tokenizer).unwrap();
        let endless = Constraint::JsonSchema(serde_json::json!({ "$ref": "#" }));
        let error = grammars.guide(&endless).err().unwrap();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.to_string().contains("no answer"), "{error}");
    }

    #[test]
    fn as_many_properties_as_the_bounds_allow_are_followed() {
        let tokenizer = Tokenizer::new(vocabulary(Vec::new())).unwrap();
        let mut grammars = Grammars::new(&tokenizer).unwrap();
        // Whether they are followed, not how fast: machines are busy, or emulated.
        grammars.compiler.deadline = 20 * DEADLINE;
        let names = (0..1990).map(|i| (format!("p{i}"), true.into()));
        let properties: serde_json::Map<_, _> = names.collect();
        let schema = serde_json::json!({ "type": "object", "properties": properties });
        let mut guide = grammars.guide(&Constraint::JsonSchema(schema)).unwrap();
        let brace = guide.0.tok_env().unwrap().tok_trie().token_id(b"{");
        guide.accept(brace.unwrap()).unwrap();
        let mut logits = vec![0.0; tokenizer.vocabulary().pieces.len()];
        guide.restrict(&mut logits).unwrap();
    }

    #[test]
    fn what_the_engine_says_is_brief() {
        let said = "at 2(7): failed to compile JSON schema: no\n  such  key\n   1 | start: json\n";
        assert_eq!(short(said), "no such key");
        assert_eq!(short("lexer error <non-verbose/>"), "lexer error");
        assert!(short("Parser Error: Current row has 9 items; max is 5").starts_with("too much"));
        assert!(short(&"x ".repeat(10_000)).len() < 400);
    }
}
