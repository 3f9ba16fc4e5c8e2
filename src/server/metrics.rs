//! Counters for Prometheus, under the second halves of vLLM's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::openai::finish_reason;
use super::queue::Progress;
use crate::timing::Stage;

/// Upper bounds of a histogram's buckets, in seconds.
const BUCKETS_S: [f64; 12] = [
    0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// How often something took how long.
#[derive(Clone, Debug, Default)]
struct Histogram {
    counts: [u64; BUCKETS_S.len()],
    n: u64,
    sum_s: f64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (count, bound) in self.counts.iter_mut().zip(BUCKETS_S) {
            *count += u64::from(seconds <= bound);
        }
        self.n += 1;
        self.sum_s += seconds;
    }

    fn write(&self, name: &str, help: &str, text: &mut String) {
        write_head(text, name, help, "histogram");
        for (count, bound) in self.counts.iter().zip(BUCKETS_S) {
            line(
                text,
                format_args!("{name}_bucket{{le=\"{bound}\"}} {count}"),
            );
        }
        line(
            text,
            format_args!("{name}_bucket{{le=\"+Inf\"}} {}", self.n),
        );
        line(text, format_args!("{name}_sum {}", self.sum_s));
        line(text, format_args!("{name}_count {}", self.n));
    }
}

#[derive(Debug, Default)]
struct Counts {
    responses: BTreeMap<u16, u64>,
    finished: BTreeMap<&'static str, u64>,
    prompt_tokens: u64,
    reused_tokens: u64,
    generated_tokens: u64,
    scores: u64,
    whole: Histogram,
    first_text: Histogram,
    picture: Histogram,
}

/// What has been counted since the start.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counts>);

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered with `status`.
    pub fn request(&self, status: u16, took: Duration, first_text: Option<Duration>) {
        let mut counts = self.lock();
        *counts.responses.entry(status).or_default() += 1;
        if let Some(first_text) = first_text {
            counts.first_text.add(first_text);
            counts.whole.add(took);
        }
    }

    /// The engine has ended a job.
    pub fn ended(&self, done: &Progress) {
        let mut counts = self.lock();
        let reason = match done {
            Progress::Answered(answer) => {
                counts.prompt_tokens += answer.n_prompt as u64;
                counts.reused_tokens += answer.n_reused as u64;
                counts.generated_tokens += answer.ids.len() as u64;
                let picture = answer.timings.of(Stage::Vit) + answer.timings.of(Stage::Abstractor);
                if !picture.is_zero() {
                    counts.picture.add(picture);
                }
                finish_reason(answer.stop)
            }
            Progress::Scored(scores) => {
                counts.scores += scores.len() as u64;
                "stop"
            }
            Progress::Failed(refusal) if refusal.status.as_u16() == 503 => "abort",
            Progress::Failed(_) | Progress::Text(_) => "error",
        };
        *counts.finished.entry(reason).or_default() += 1;
    }

    /// All of it, in Prometheus' text format 0.0.4.
    pub fn text(&self, n_waiting: usize, n_running: usize) -> String {
        let counts = self.lock();
        let mut text = String::new();
        let mut number = |name: &str, kind: &str, help: &str, value: u64| {
            write_head(&mut text, name, help, kind);
            line(&mut text, format_args!("{name} {value}"));
        };
        number(
            "owl2_num_requests_running",
            "gauge",
            "Requests that are computed.",
            n_running as u64,
        );
        number(
            "owl2_num_requests_waiting",
            "gauge",
            "Requests that wait.",
            n_waiting as u64,
        );
        number(
            "owl2_prompt_tokens_total",
            "counter",
            "Positions of prompts.",
            counts.prompt_tokens,
        );
        number(
            "owl2_prefix_cache_hits_total",
            "counter",
            "Positions of prompts that an earlier request had computed.",
            counts.reused_tokens,
        );
        number(
            "owl2_generation_tokens_total",
            "counter",
            "Tokens of answers.",
            counts.generated_tokens,
        );
        number(
            "owl2_scores_total",
            "counter",
            "Pictures that were rated.",
            counts.scores,
        );
        write_head(
            &mut text,
            "owl2_request_success_total",
            "Requests that the engine ended.",
            "counter",
        );
        for (reason, n) in &counts.finished {
            line(
                &mut text,
                format_args!("owl2_request_success_total{{finished_reason=\"{reason}\"}} {n}"),
            );
        }
        write_head(
            &mut text,
            "owl2_responses_total",
            "Responses by status.",
            "counter",
        );
        for (status, n) in &counts.responses {
            line(
                &mut text,
                format_args!("owl2_responses_total{{code=\"{status}\"}} {n}"),
            );
        }
        let histograms = [
            (
                "owl2_time_to_first_token_seconds",
                "From a request's arrival to the first text.",
                &counts.first_text,
            ),
            (
                "owl2_e2e_request_latency_seconds",
                "From a request's arrival to the end of its answer.",
                &counts.whole,
            ),
            (
                "owl2_picture_seconds",
                "Encoding the pictures of a request.",
                &counts.picture,
            ),
        ];
        for (name, help, histogram) in histograms {
            histogram.write(name, help, &mut text);
        }
        text
    }
}

fn write_head(text: &mut String, name: &str, help: &str, kind: &str) {
    line(text, format_args!("# HELP {name} {help}"));
    line(text, format_args!("# TYPE {name} {kind}"));
}

fn line(text: &mut String, line: std::fmt::Arguments) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_what_is_at_most_their_bounds() {
        let mut histogram = Histogram::default();
        for ms in [10, 60, 400_000] {
            histogram.add(Duration::from_millis(ms));
        }
        let mut text = String::new();
        histogram.write("h", "Help.", &mut text);
        for wanted in [
            "h_bucket{le=\"0.01\"} 1\n",
            "h_bucket{le=\"0.05\"} 1\n",
            "h_bucket{le=\"0.1\"} 2\n",
            "h_bucket{le=\"300\"} 2\n",
            "h_bucket{le=\"+Inf\"} 3\n",
            "h_count 3\n",
        ] {
            assert!(text.contains(wanted), "{wanted}{text}");
        }
    }
}
