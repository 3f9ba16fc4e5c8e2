//! `owl2 score`: ratings of pictures and videos, as they are done.

mod chosen;
mod done;
mod groups;
mod rater;
pub(super) mod subjects;

use std::collections::HashSet;
use std::io::{self, IsTerminal};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::cli::args::ScoreArgs;
use crate::cli::each::is_of_one;
use crate::cli::interrupt::{self, Hold};
use crate::cli::model_file::ModelFile;
use crate::cli::rows::TableFile;
use crate::cli::{print, progress, setup};
use crate::error::{Error, Kind, Result};
use crate::harmless;
use crate::ops::Compute;
use crate::request::Assistant;
use crate::score::{ScoreSubject, Scorer};

use chosen::Selection;
use done::{Columns, RatedSubject};
use groups::{Groups, Loaded};
use rater::Rater;
use subjects::{Loader, Named};

/// Pictures that are decoded while others are computed: a group of the most there can be.
const N_AHEAD: usize = Scorer::TOGETHER;
/// Clips likewise; each may have many frames.
const N_CLIPS_AHEAD: usize = 2;

/// Runs the command.
pub(super) fn run(args: &ScoreArgs) -> Result<()> {
    check(args)?;
    let model = ModelFile::new(args.model.as_deref())?;
    let n_threads = setup::n_threads(args.threads);
    let assistant = model.assistant(Compute::new(n_threads)?)?;
    let mut rater = Rater::new(args, &assistant).map_err(|e| model.blame(e))?;
    let columns = rater.columns();
    let (mut table, earlier) = match (&args.resume, &args.csv) {
        (Some(path), _) => {
            let (rows, earlier) = TableFile::resume(path, columns.names())?;
            (Some(rows), earlier)
        }
        (None, Some(path)) => {
            let rows = TableFile::create(path, columns.names());
            (Some(rows.map_err(|e| e.in_parameter("csv"))?), Vec::new())
        }
        (None, None) => (None, Vec::new()),
    };
    let earlier: Vec<RatedSubject> = earlier.into_iter().map(RatedSubject::of_row).collect();

    let (subjects, mut report) = subjects::named(args)?;
    let mut outcome = Outcome::new(args, columns);
    let names: HashSet<&str> = earlier.iter().map(|done| done.name.as_str()).collect();
    let new = subjects.into_iter();
    let new: Vec<Named> = new
        .filter(|subject| !names.contains(subject.shown().as_str()))
        .collect();
    let n_earlier = earlier.len();
    for done in earlier {
        outcome.chosen.add(done);
    }

    let hold = Hold::new();
    let went = go_through(
        &assistant,
        args,
        new,
        &mut rater,
        &mut table,
        &mut outcome,
        &mut report,
    );
    let is_interrupted = hold.end();
    progress::clear();
    if went? {
        outcome.finish(is_interrupted)?;
    }
    if let Some(notice) = report.left_out {
        progress::note(&notice);
    }
    let n_all = outcome.n_done + report.n_failed;
    match () {
        () if is_interrupted => Err(Error::new(
            Kind::Interrupted,
            format!("interrupted after {} of {}", outcome.n_done, report.n_all),
        )),
        () if n_all + n_earlier == 0 => Err(Error::input("there are no pictures to score")),
        () if report.n_failed > 0 => Err(Error::new(
            Kind::Partial,
            format!("{} of {n_all} failed", report.n_failed),
        )),
        () => Ok(()),
    }
}

/// Fails for flags that do not go together.
fn check(args: &ScoreArgs) -> Result<()> {
    let usage = |name: &str, message: &str| Err(Error::usage(message).in_parameter(name));
    match (args.words.is_empty(), &args.prompt) {
        (false, None) => usage(
            "prompt",
            "is missing; give the question that the words answer",
        ),
        (true, Some(_)) => usage(
            "words",
            "is missing; give the words that could answer --prompt",
        ),
        (true, None) if args.paths.is_empty() => {
            usage("PATH", "is missing; give pictures, or folders of pictures")
        }
        (false, _) if args.video && args.paths.is_empty() => usage("PATH", "is missing"),
        (false, _) if args.sort || args.best.or(args.worst).is_some() || args.min.is_some() => {
            usage("words", "gives no score to sort or choose by")
        }
        _ => Ok(()),
    }
}

/// What became of subjects before they were rated, and of those that failed.
pub(super) struct ScoreSummary {
    n_all: usize,
    n_failed: usize,
    /// A line about files that were left out of folders.
    left_out: Option<String>,
}

/// Rates all subjects, decoding the next ones meanwhile. Whether the output is still read.
fn go_through(
    assistant: &Assistant,
    args: &ScoreArgs,
    subjects: Vec<Named>,
    rater: &mut Rater,
    table: &mut Option<TableFile>,
    outcome: &mut Outcome,
    report: &mut ScoreSummary,
) -> Result<bool> {
    report.n_all = subjects.len();
    let n_subjects = subjects.len();
    let loader = Loader {
        assistant,
        fps: args.fps,
        aspect: rater.aspect(),
        reading: rater.reading(),
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let (sender, loaded) = mpsc::sync_channel(match args.video {
            true => N_CLIPS_AHEAD,
            false => N_AHEAD,
        });
        scope.spawn(move || {
            for named in subjects {
                let subject = loader.load(&named);
                // Nobody takes them any more after an error or an interrupt.
                if interrupt::is_requested() || sender.send((named, subject)).is_err() {
                    break;
                }
            }
        });
        let mut groups = Groups::new(loaded);
        let mut n_before = 0;
        while let Some(group) = groups.next() {
            if interrupt::is_requested() {
                break;
            }
            progress::show(&busy(n_before, n_subjects, started.elapsed()));
            n_before += group.len();
            if !rate_group(group, rater, table, outcome, report)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Rates subjects together, and reports each. Whether the output is still read.
fn rate_group(
    group: Vec<Loaded>,
    rater: &mut Rater,
    table: &mut Option<TableFile>,
    outcome: &mut Outcome,
    report: &mut ScoreSummary,
) -> Result<bool> {
    let start = Instant::now();
    let (named, subjects): (Vec<_>, Vec<_>) = group.into_iter().unzip();
    let readable: Vec<ScoreSubject> = subjects.iter().flatten().cloned().collect();
    let mut rated = rater
        .rate_each(&readable, &mut || !interrupt::is_requested())
        .into_iter();
    // Each has its share of the time.
    let seconds = start.elapsed().as_secs_f64() / readable.len().max(1) as f64;
    for (named, subject) in named.iter().zip(subjects) {
        let value = match subject {
            Ok(_) => match rated.next() {
                Some(rated) => rated,
                // After an interrupt there are only those that had begun.
                None => break,
            },
            Err(error) => Err(error),
        };
        let is_read = match value {
            Ok(value) => {
                let done = RatedSubject {
                    name: named.shown(),
                    path: named.path(),
                    value,
                    seconds,
                };
                if let Some(table) = table {
                    table.add(&done.row())?;
                }
                outcome.add(done)?
            }
            Err(error) if !is_of_one(&error) => return Err(error),
            Err(error) => {
                report.n_failed += 1;
                progress::clear();
                progress::say(&format!("owl2: {error}\n"));
                outcome.add_failed(named, &error)?
            }
        };
        if !is_read {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What the program is busy with.
fn busy(n_done: usize, n_all: usize, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    if n_done == 0 || seconds == 0.0 {
        return format!("0 of {n_all} ...");
    }
    let rate = n_done as f64 / seconds;
    let left = ((n_all - n_done) as f64 / rate).ceil() as u64;
    let left = match left {
        ..120 => format!("{left} s"),
        120..7200 => format!("{} min", left / 60),
        _ => format!("{:.1} h", left as f64 / 3600.0),
    };
    format!("{n_done} of {n_all}, {rate:.2} a second, {left} left ...")
}

/// What is printed, now or at the end.
struct Outcome<'a> {
    args: &'a ScoreArgs,
    columns: Columns,
    chosen: Selection,
    n_done: usize,
}

impl<'a> Outcome<'a> {
    fn new(args: &'a ScoreArgs, columns: Columns) -> Self {
        Outcome {
            args,
            columns,
            chosen: Selection::new(args),
            n_done: 0,
        }
    }

    /// Takes one; whether the output is still read.
    fn add(&mut self, done: RatedSubject) -> Result<bool> {
        self.n_done += 1;
        let is_read = match self.chosen.is_at_end() {
            true => true,
            false => self.print(&done)?,
        };
        self.chosen.add(done);
        Ok(is_read)
    }

    fn add_failed(&mut self, named: &Named, error: &Error) -> Result<bool> {
        match self.args.json {
            true => print(&format!("{}\n", done::failed(&named.shown(), error))),
            false => Ok(true),
        }
    }

    fn print(&self, done: &RatedSubject) -> Result<bool> {
        if let (Some(least), Some(score)) = (self.args.min, done.value.score())
            && score < least
        {
            return Ok(true);
        }
        progress::clear();
        let line = match self.args.json {
            true => done.as_json(&self.columns).to_string(),
            false => done.as_text(&self.columns),
        };
        match io::stdout().is_terminal() {
            true => print(&format!("{}\n", harmless::line(&line))),
            false => print(&format!("{line}\n")),
        }
    }

    /// Prints what waited for the end, and copies what is to be copied, unless better ones may have
    /// been missed.
    fn finish(&self, is_interrupted: bool) -> Result<()> {
        for done in self.chosen.listed() {
            if !self.print(done)? {
                break;
            }
        }
        match is_interrupted {
            true => Ok(()),
            false => self.chosen.keep(self.args),
        }
    }
}
