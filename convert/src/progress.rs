//! What the user sees while it runs: a bar on a terminal, a plain line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use owl2::harmless;

/// Between two plain lines at least: this much of the work, in percent,
const PERCENT_STEP: u64 = 5;
/// and this long.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

const BAR: &str = "{bar:30} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";

/// Writes a line to standard error, where text from files may not command a terminal.
pub fn say(text: &str) {
    // Where nobody reads standard error, there is nobody to tell about it.
    let _ = writeln!(io::stderr(), "{}", harmless::text(text));
}

/// The progress of work that is counted in bytes.
pub struct Progress {
    shown: Shown,
    started: Instant,
    total: u64,
    done: u64,
}

enum Shown {
    Nothing,
    Lines(NextLine),
    Bar(ProgressBar),
}

/// When the next plain line is due: after both.
struct NextLine {
    percent: u64,
    elapsed: Duration,
}

impl NextLine {
    fn after(percent: u64, elapsed: Duration) -> Self {
        NextLine {
            percent: percent / PERCENT_STEP * PERCENT_STEP + PERCENT_STEP,
            elapsed: elapsed + LINE_INTERVAL,
        }
    }
}

impl Progress {
    /// Starts counting to `total` bytes. Shows nothing if `quiet`.
    pub fn start(total: u64, quiet: bool) -> Self {
        let shown = if quiet {
            Shown::Nothing
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(BAR).expect("a valid template");
            Shown::Bar(bar.with_style(style))
        } else {
            Shown::Lines(NextLine::after(0, Duration::ZERO))
        };
        Progress {
            shown,
            started: Instant::now(),
            total,
            done: 0,
        }
    }

    /// Counts `bytes` more.
    pub fn advance(&mut self, bytes: usize) {
        self.done += bytes as u64;
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.set_position(self.done),
            Shown::Lines(next) => {
                let percent = self.done * 100 / self.total.max(1);
                let elapsed = self.started.elapsed();
                if percent >= next.percent && elapsed >= next.elapsed {
                    *next = NextLine::after(percent, elapsed);
                    say(&line(self.done, self.total, elapsed));
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

fn line(done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let left = Duration::from_secs_f64(total.saturating_sub(done) as f64 / rate.max(1.0));
    format!(
        "{:>3}%  {} of {}  {}/s  {} left",
        done * 100 / total.max(1),
        HumanBytes(done),
        HumanBytes(total),
        HumanBytes(rate as u64),
        HumanDuration(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let text = line(1 << 30, 4 << 30, Duration::from_secs(2));
        assert_eq!(
            text,
            " 25%  1.00 GiB of 4.00 GiB  512.00 MiB/s  6 seconds left"
        );
    }
}
