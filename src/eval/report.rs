//! What came of an evaluation: counts, and the questions that came out otherwise than given.

use std::collections::BTreeMap;

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
pub struct Answer {
    /// Its ids, with the `</s>` that ended it.
    pub ids: Vec<u32>,
    /// By how much the likeliest token's logit was above the next one's, for each id.
    pub gaps: Vec<f32>,
    /// Its text, without space around it.
    pub text: String,
}

/// A question that was answered otherwise than another implementation did.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Index of the question, from 0.
    pub index: usize,
    /// What was answered.
    pub answer: Answer,
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
pub struct Report {
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

impl Report {
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
        let answer = Answer {
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
    fn totals_add_up() {
        let mut report = Report::default();
        report.exact.entry("a".into()).or_default().count(true);
        report.exact.entry("b".into()).or_default().count(false);
        assert_eq!(report.exact_total(), Tally { n_right: 1, n: 2 });
        assert_eq!(report.exact_total().share(), 0.5);
        assert_eq!(Tally::default().share(), 1.0);
    }
}
