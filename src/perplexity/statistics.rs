//! Sums over predictions.

use crate::error::{Error, Result};

/// What has come of the predictions so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Number of predictions.
    pub n: usize,
    /// Negative log probabilities of the tokens that came next, in nats, added up.
    nll: f64,
    /// How they compare with a reference's, if there is one.
    pub comparison: Option<ReferenceComparison>,
}

/// Predictions beside those of a reference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceComparison {
    /// The reference's negative log probabilities, in nats, added up.
    nll: f64,
    /// Divergence of each prediction from the reference's, in nats.
    divergences: Vec<f64>,
    /// How many there were at the end of each window.
    window_ends: Vec<usize>,
    /// How many have the reference's likeliest token as their own.
    n_same: usize,
}

impl Statistics {
    /// Counts the prediction of `logits`, where `next` came, beside a reference's.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) for logits that are not finite.
    ///
    /// # Panics
    /// For a `next` outside the vocabulary, or vocabularies of different sizes.
    pub fn add(&mut self, next: u32, logits: &[f32], reference: Option<&[f32]>) -> Result<()> {
        let log_sum = finite_log_sum(logits, "model")?;
        let nll = |logits: &[f32], log_sum: f64| log_sum - f64::from(logits[next as usize]);
        if let Some(reference) = reference {
            let reference_sum = finite_log_sum(reference, "reference")?;
            let comparison = self.comparison.get_or_insert_default();
            comparison.nll += nll(reference, reference_sum);
            let log_sums = (reference_sum, log_sum);
            comparison
                .divergences
                .push(divergence(reference, logits, log_sums));
            comparison.n_same += usize::from(likeliest(reference) == likeliest(logits));
        }
        self.nll += nll(logits, log_sum);
        self.n += 1;
        Ok(())
    }

    /// Notes that all predictions of a window have been counted.
    pub fn end_window(&mut self) {
        if let Some(comparison) = &mut self.comparison {
            comparison.window_ends.push(comparison.divergences.len());
        }
    }

    /// The perplexity: 1 where every token was certain.
    pub fn perplexity(&self) -> f64 {
        perplexity(self.nll, self.n)
    }
}

impl ReferenceComparison {
    /// The reference's perplexity.
    pub fn reference_perplexity(&self) -> f64 {
        perplexity(self.nll, self.divergences.len())
    }

    /// Mean divergence, in nats.
    pub fn mean(&self) -> f64 {
        self.divergences.iter().sum::<f64>() / self.divergences.len().max(1) as f64
    }

    /// Mean divergence of each window, in nats. Predictions of one window have much in common, so how
    /// sure a mean is, or the difference of two files, shows between windows.
    pub fn of_windows(&self) -> impl Iterator<Item = f64> {
        let starts = std::iter::once(0).chain(self.window_ends.iter().copied());
        let windows = starts.zip(&self.window_ends);
        windows.map(|(start, &end)| {
            let divergences = &self.divergences[start..end];
            divergences.iter().sum::<f64>() / divergences.len().max(1) as f64
        })
    }

    /// The standard error of the mean of [`ReferenceComparison::of_windows`], in nats; `None` for fewer than two.
    pub fn standard_error(&self) -> Option<f64> {
        let n = self.window_ends.len() as f64;
        if n < 2.0 {
            return None;
        }
        let mean = self.of_windows().sum::<f64>() / n;
        let squares: f64 = self.of_windows().map(|x| (x - mean).powi(2)).sum();
        Some((squares / (n - 1.0) / n).sqrt())
    }

    /// The divergence that a share of the predictions, 0 to 1, does not exceed; between two of
    /// them it is interpolated.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.divergences.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return 0.0;
        };
        let at = share.clamp(0.0, 1.0) * last as f64;
        let below = sorted[at as usize];
        let above = sorted[(at as usize + 1).min(last)];
        below + at.fract() * (above - below)
    }

    /// Share of the predictions, 0 to 1, that have the reference's likeliest token as their own.
    pub fn same(&self) -> f64 {
        self.n_same as f64 / self.divergences.len().max(1) as f64
    }
}

fn perplexity(nll: f64, n: usize) -> f64 {
    (nll / n.max(1) as f64).exp()
}

/// The id with the highest logit, of equals the lowest.
fn likeliest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best
}

/// [`log_sum_exp`] that fails where it is no number; `whose` logits they are.
fn finite_log_sum(logits: &[f32], whose: &str) -> Result<f64> {
    match log_sum_exp(logits) {
        sum if sum.is_finite() => Ok(sum),
        _ => Err(Error::model(format!(
            "the {whose} gives logits that are not finite; its file is damaged, or a weight is too large for its type"
        ))),
    }
}

/// The logarithm of the sum of the exponentials.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - highest).exp()).sum();
    f64::from(highest) + sum.ln()
}

/// Kullback-Leibler divergence of a distribution from a reference's, in nats, by the logits of
/// both and the [`log_sum_exp`] of each, the reference's first.
pub(crate) fn divergence(reference: &[f32], logits: &[f32], log_sums: (f64, f64)) -> f64 {
    let terms = reference.iter().zip(logits).map(|(&reference, &logit)| {
        let log_probability = f64::from(reference) - log_sums.0;
        log_probability.exp() * (log_probability - (f64::from(logit) - log_sums.1))
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn sums_are_those_by_hand() {
        let mut statistics = Statistics::default();
        // One half, a quarter, a quarter; and a quarter, one half, a quarter.
        let (a, b) = ([2f32.ln(), 0.0, 0.0], [0.0, 2f32.ln(), 0.0]);
        statistics.add(0, &a, Some(&a)).unwrap();
        statistics.end_window();
        statistics.add(2, &a, Some(&b)).unwrap();
        assert_eq!(statistics.n, 2);
        assert!(close(statistics.perplexity(), 8f64.sqrt()));
        let comparison = statistics.comparison.unwrap();
        assert!(close(comparison.reference_perplexity(), 8f64.sqrt()));
        assert_eq!(comparison.divergences[0], 0.0);
        // 1/4 ln(1/2) + 1/2 ln 2 + 0.
        let second = 0.25 * 2f64.ln();
        assert!(close(comparison.divergences[1], second));
        assert!(close(comparison.mean(), second / 2.0));
        assert!(close(comparison.quantile(0.75), 0.75 * second));
        assert!(close(comparison.quantile(1.0), second));
        assert_eq!(comparison.same(), 0.5);
    }

    #[test]
    fn windows_are_apart() {
        let mut statistics = Statistics::default();
        let (a, b) = ([2f32.ln(), 0.0, 0.0], [0.0, 2f32.ln(), 0.0]);
        let one = 0.25 * 2f64.ln();
        for (logits, is_last) in [(&a, false), (&b, true), (&a, true), (&b, true)] {
            statistics.add(0, logits, Some(&a)).unwrap();
            let comparison = statistics.comparison.as_ref().unwrap();
            assert_eq!(
                comparison.standard_error().is_some(),
                comparison.window_ends.len() > 1
            );
            if is_last {
                statistics.end_window();
            }
        }
        let comparison = statistics.comparison.unwrap();
        let windows: Vec<f64> = comparison.of_windows().collect();
        assert_eq!(windows.len(), 3);
        for (window, wanted) in windows.into_iter().zip([one / 2.0, 0.0, one]) {
            assert!(close(window, wanted), "{window} {wanted}");
        }
        // Deviations from the mean are 0, 1/2 and 1/2.
        assert!(close(
            comparison.standard_error().unwrap(),
            one * (0.25f64 / 3.0).sqrt()
        ));
    }

    #[test]
    fn nothing_is_compared_without_a_reference() {
        let mut statistics = Statistics::default();
        statistics.add(1, &[0.0, 0.0], None).unwrap();
        assert!(close(statistics.perplexity(), 2.0));
        assert_eq!(statistics.comparison, None);
        assert_eq!(ReferenceComparison::default().quantile(0.99), 0.0);
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        let mut statistics = Statistics::default();
        let bad = [0.0, f32::NAN];
        let error = statistics.add(0, &bad, None).unwrap_err();
        assert!(error.to_string().contains("the model"), "{error}");
        let error = statistics.add(0, &[0.0, 0.0], Some(&bad)).unwrap_err();
        assert!(error.to_string().contains("the reference"), "{error}");
        assert_eq!(statistics.n, 0);
    }
}
