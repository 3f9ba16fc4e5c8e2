//! The result of an evaluation: counts, and the questions with other answers than given.

use std::collections::BTreeMap;

use crate::perplexity::statistics::{divergence, log_sum_exp};

/// How many of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many are right or equal.
    pub n_right: usize,
    /// Out of how many.
    pub n: usize,
}

impl Tally {
    /// Counts one more.
    pub fn count(&mut self, right: bool) {
        self.n_right += usize::from(right);
        self.n += 1;
    }

    /// The share that is right, 0 to 1; 1 of nothing.
    pub fn share(&self) -> f64 {
        match self.n {
            0 => 1.0,
            n => self.n_right as f64 / n as f64,
        }
    }
}

/// An answer, token by token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GreedyAnswer {
    /// Its ids, with the `</s>` that ended it.
    pub ids: Vec<u32>,
    /// By how much the likeliest token's logit was above the next one's, for each id.
    pub gaps: Vec<f32>,
    /// Its text, without space around it.
    pub text: String,
}

impl GreedyAnswer {
    /// Adds the likeliest token, of equals the one with the lowest id, and returns it.
    pub(super) fn push(&mut self, logits: &[f32]) -> u32 {
        let (mut best, mut next) = ((0, f32::NEG_INFINITY), f32::NEG_INFINITY);
        for (id, &logit) in (0..).zip(logits) {
            if logit > best.1 {
                next = best.1;
                best = (id, logit);
            } else {
                next = next.max(logit);
            }
        }
        self.ids.push(best.0);
        self.gaps.push(best.1 - next);
        best.0
    }
}

/// How far next-token distributions are from those of a reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    /// Kullback-Leibler divergences from the reference's distributions, in nats, added up.
    pub sum: f64,
    /// Of how many tokens.
    pub n: usize,
}

impl Divergence {
    /// Adds that of one token, by the logits of both.
    pub(super) fn add(&mut self, reference: &[f32], logits: &[f32]) {
        let log_sums = (log_sum_exp(reference), log_sum_exp(logits));
        self.sum += divergence(reference, logits, log_sums);
        self.n += 1;
    }

    /// The mean; 0 of nothing.
    pub fn mean(&self) -> f64 {
        self.sum / self.n.max(1) as f64
    }
}

/// A question that was answered otherwise than another implementation did.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Index of the question, from 0.
    pub index: usize,
    /// What was answered.
    pub answer: GreedyAnswer,
    /// First position of the answer at which the ids differ, where ids were given.
    pub position: Option<usize>,
}

impl Difference {
    /// By how much the chosen token was above the next one at the first position that differs: a
    /// small gap tells a near-tie.
    pub fn gap(&self) -> Option<f32> {
        self.answer.gaps.get(self.position?).copied()
    }
}

/// Counts over all questions. Each covers the questions that give what is compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvalReport {
    /// Answers that are exactly the right one, by kind of question.
    pub exact: BTreeMap<String, Tally>,
    /// Prompts that have the given ids.
    pub prompt_ids: Tally,
    /// Answers that have the given ids.
    pub output_ids: Tally,
    /// Answers that have the given text of another implementation.
    pub model_answer: Tally,
    /// Greatest distance from a given logit, and how many were given.
    pub logits: WorstLogit,
    /// Answers that were cut at their greatest length, or by the context.
    pub n_cut: usize,
    /// What files of pictures lack, which the model was shown gray or shifted.
    pub warnings: Vec<String>,
    /// Answers that have the ids of the reference's.
    pub reference_ids: Tally,
    /// How far from the reference's the next-token distributions are, along its answers.
    pub divergence: Divergence,
    /// Questions whose prompts have other ids than given, from 0.
    pub differing_prompts: Vec<usize>,
    /// Answers that differ from the given ids or text.
    pub differences: Vec<Difference>,
}

/// The greatest distance from given logits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorstLogit {
    /// That distance.
    pub error: f32,
    /// How many logits were compared.
    pub n: usize,
}

impl WorstLogit {
    /// Compares the first logits of `ours` with `given`.
    pub(super) fn compare(&mut self, ours: &[f32], given: &[f32]) {
        for (ours, given) in ours.iter().zip(given) {
            self.error = self.error.max((ours - given).abs());
            self.n += 1;
        }
    }
}

impl EvalReport {
    /// Exact answers of all kinds together.
    pub fn exact_total(&self) -> Tally {
        let mut total = Tally::default();
        for tally in self.exact.values() {
            total.n_right += tally.n_right;
            total.n += tally.n;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_that_of_the_first_position_that_differs() {
        let answer = GreedyAnswer {
            ids: vec![5, 6, 2],
            gaps: vec![3.0, 0.01, 4.0],
            text: "ab".into(),
        };
        let at = |position| Difference {
            index: 0,
            answer: answer.clone(),
            position,
        };
        assert_eq!(at(Some(1)).gap(), Some(0.01));
        assert_eq!(at(Some(3)).gap(), None);
        assert_eq!(at(None).gap(), None);
    }

    #[test]
    fn the_likeliest_is_the_lowest_of_equals() {
        let mut answer = GreedyAnswer::default();
        assert_eq!(answer.push(&[1.0, 3.0, 2.5]), 1);
        assert_eq!(answer.push(&[2.0, 2.0]), 0);
        assert_eq!((answer.ids, answer.gaps), (vec![1, 0], vec![0.5, 0.0]));
    }

    #[test]
    fn divergence_is_that_of_the_distributions() {
        let mut divergence = Divergence::default();
        assert_eq!(divergence.mean(), 0.0);
        divergence.add(&[1.0, 2.0, 3.0], &[-1.0, 0.0, 1.0]);
        assert!(divergence.mean().abs() < 1e-12);
        // Halves against a quarter and three quarters.
        divergence.add(&[0.0, 0.0], &[0.0, 3f32.ln()]);
        let exact = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((divergence.sum - exact).abs() < 1e-6);
        assert_eq!(divergence.n, 2);
    }

    #[test]
    fn totals_add_up() {
        let mut report = EvalReport::default();
        report.exact.entry("a".into()).or_default().count(true);
        report.exact.entry("b".into()).or_default().count(false);
        assert_eq!(report.exact_total(), Tally { n_right: 1, n: 2 });
        assert_eq!(report.exact_total().share(), 0.5);
        assert_eq!(Tally::default().share(), 1.0);
    }
}
