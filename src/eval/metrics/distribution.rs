//! The distance of predicted score distributions from people's, as in DeQA-Score: both are taken as
//! normal distributions.

use super::mean;

/// A normal distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normal {
    /// Its mean.
    pub mean: f64,
    /// Its standard deviation, greater than 0.
    pub deviation: f64,
}

/// Means over pictures of how far distributions are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// Kullback-Leibler divergence of the prediction from the truth, in nats.
    pub kl: f64,
    /// Jensen-Shannon divergence, by way of the normal distribution with mean and variance half way.
    pub js: f64,
    /// Wasserstein distance of second order.
    pub wasserstein: f64,
}

impl Gap {
    /// The means over pairs of truth and prediction; not numbers of none.
    pub fn of(pairs: &[(Normal, Normal)]) -> Self {
        let over = |distance: fn(Normal, Normal) -> f64| {
            mean(
                pairs
                    .iter()
                    .map(|&(truth, predicted)| distance(truth, predicted)),
            )
        };
        Gap {
            kl: over(kl),
            js: over(js),
            wasserstein: over(wasserstein),
        }
    }
}

fn kl(p: Normal, q: Normal) -> f64 {
    let (variance, other) = (p.deviation.powi(2), q.deviation.powi(2));
    0.5 * ((other / variance).ln() + (variance + (p.mean - q.mean).powi(2)) / other - 1.0)
}

fn js(p: Normal, q: Normal) -> f64 {
    let middle = Normal {
        mean: (p.mean + q.mean) / 2.0,
        deviation: ((p.deviation.powi(2) + q.deviation.powi(2)) / 2.0).sqrt(),
    };
    (kl(p, middle) + kl(q, middle)) / 2.0
}

fn wasserstein(p: Normal, q: Normal) -> f64 {
    (p.mean - q.mean).hypot(p.deviation - q.deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_no_distance_from_itself() {
        let one = Normal {
            mean: 3.5,
            deviation: 0.7,
        };
        let other = Normal {
            mean: 3.0,
            deviation: 0.2,
        };
        let gap = Gap::of(&[(one, one)]);
        assert_eq!((gap.kl, gap.js, gap.wasserstein), (0.0, 0.0, 0.0));
        let gap = Gap::of(&[(one, other)]);
        assert!(gap.kl > gap.js && gap.js > 0.0);
        assert!((gap.wasserstein - 0.5f64.hypot(0.5)).abs() < 1e-12);
    }
}
