//! How well scores agree with people's: correlations, and the curve that is fitted before.

use super::mean;

/// How well predicted scores agree with true ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Spearman's correlation of ranks.
    pub srcc: f64,
    /// Pearson's correlation.
    pub plcc: f64,
    /// Kendall's, tau-b.
    pub krcc: f64,
}

impl Agreement {
    /// That of pairs of scores. Not numbers where one of both lists is constant.
    pub fn of(predicted: &[f64], truth: &[f64]) -> Self {
        Agreement {
            srcc: spearman(predicted, truth),
            plcc: pearson(predicted, truth),
            krcc: kendall(predicted, truth),
        }
    }

    /// That after a logistic curve with four parameters is fitted from predictions to truth, as
    /// papers on picture quality do; none where no curve can be.
    pub fn after_fit(predicted: &[f64], truth: &[f64]) -> Option<Self> {
        let curve = Logistic::fit(predicted, truth)?;
        let fitted: Vec<f64> = predicted.iter().map(|&x| curve.at(x)).collect();
        Some(Self::of(&fitted, truth))
    }
}

/// Pearson's correlation of two lists of equal length.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let centred = |values: &[f64]| {
        let centre = mean(values.iter().copied());
        values.iter().map(|v| v - centre).collect::<Vec<f64>>()
    };
    let (x, y) = (centred(x), centred(y));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (norm_x, norm_y) = (product(&x, &x).sqrt(), product(&y, &y).sqrt());
    if norm_x == 0.0 || norm_y == 0.0 {
        return f64::NAN;
    }
    (product(&x, &y) / (norm_x * norm_y)).clamp(-1.0, 1.0)
}

/// Spearman's correlation of two lists of equal length; ties have their mean rank.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    pearson(&ranks(x), &ranks(y))
}

/// Kendall's tau-b of two lists of equal length, by counting pairs.
pub fn kendall(x: &[f64], y: &[f64]) -> f64 {
    let (mut agreeing, mut in_x, mut in_y) = (0i64, 0i64, 0i64);
    for i in 0..x.len() {
        for j in 0..i {
            let sign = |values: &[f64]| match values[i].partial_cmp(&values[j]) {
                Some(order) => order as i64,
                None => 0,
            };
            let (a, b) = (sign(x), sign(y));
            agreeing += a * b;
            in_x += a.abs();
            in_y += b.abs();
        }
    }
    agreeing as f64 / ((in_x as f64).sqrt() * (in_y as f64).sqrt())
}

/// Ranks from 1, the mean for ties.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..].iter();
        let n_tied = tied
            .take_while(|&&i| values[i] == values[order[start]])
            .count()
            .max(1);
        let rank = start as f64 + (n_tied as f64 + 1.0) / 2.0;
        for &i in &order[start..start + n_tied] {
            ranks[i] = rank;
        }
        start += n_tied;
    }
    ranks
}

/// Parameters of [`Logistic`].
const N: usize = 4;

/// The curve `b2 + (b1 - b2) / (1 + exp(-(x - b3) / b4))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logistic(pub [f64; N]);

/// What ends a fit: relative changes of the sum of squares or of the parameters that are less. Both
/// are those of MINPACK as SciPy calls it, which the scripts use.
const TOLERANCE: f64 = 1.49012e-8;
/// Its first bound on a step, in lengths of the parameters.
const FIRST_BOUND: f64 = 100.0;
const MAX_STEPS: usize = 10_000;

impl Logistic {
    /// The curve with the least squares that Levenberg and Marquardt's method reaches from the
    /// scripts' start; none where it cannot start, as with scores that are no numbers or constant.
    pub fn fit(x: &[f64], y: &[f64]) -> Option<Self> {
        let is_constant = x.iter().all(|value| *value == x[0]);
        let is_finite = x.iter().chain(y).all(|value| value.is_finite());
        if x.len() < N || is_constant || !is_finite {
            return None;
        }
        let greatest = y.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = y.iter().copied().fold(f64::INFINITY, f64::min);
        let middle = mean(x.iter().copied());
        let deviation = mean(x.iter().map(|x| (x - middle).powi(2))).sqrt();
        let start = [greatest, least, middle, deviation / 4.0];
        Some(Logistic(least_squares(start, x, y)))
    }

    /// The curve at `x`.
    pub fn at(&self, x: f64) -> f64 {
        let [top, bottom, middle, width] = self.0;
        bottom + (top - bottom) * rise(x, middle, width)
    }

    /// Derivatives by the parameters.
    fn slopes(&self, x: f64) -> [f64; N] {
        let [top, bottom, middle, width] = self.0;
        let rise = rise(x, middle, width);
        let steep = (top - bottom) * rise * (1.0 - rise) / width;
        let slopes = [rise, 1.0 - rise, -steep, -steep * (x - middle) / width];
        slopes.map(|slope| if slope.is_finite() { slope } else { 0.0 })
    }
}

fn rise(x: f64, middle: f64, width: f64) -> f64 {
    1.0 / (1.0 + (-(x - middle) / width).exp())
}

/// Levenberg and Marquardt's method with Moré's bound on the length of scaled steps.
fn least_squares(start: [f64; N], x: &[f64], y: &[f64]) -> [f64; N] {
    let residuals = |at: &[f64; N]| -> Vec<f64> {
        let curve = Logistic(*at);
        x.iter().zip(y).map(|(&x, y)| curve.at(x) - y).collect()
    };
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let mut at = start;
    let mut residual = residuals(&at);
    let mut length = norm(&residual);
    let (mut scale, mut bound, mut damping) = ([0.0; N], 0.0, 0.0);
    for step in 0..MAX_STEPS {
        let system = LinearSystem::new(&Logistic(at), x, &residual);
        for (scale, column) in scale.iter_mut().zip(system.column_norms()) {
            *scale = f64::max(*scale, column);
            if step == 0 && *scale == 0.0 {
                *scale = 1.0;
            }
        }
        let scaled =
            |values: &[f64; N]| norm(&std::array::from_fn::<f64, N, _>(|i| scale[i] * values[i]));
        if step == 0 {
            bound = match scaled(&at) {
                0.0 => FIRST_BOUND,
                size => FIRST_BOUND * size,
            };
        }
        loop {
            let change;
            (change, damping) = system.step(&scale, bound, damping);
            let size = scaled(&change);
            if step == 0 {
                bound = f64::min(bound, size);
            }
            let next: [f64; N] = std::array::from_fn(|i| at[i] + change[i]);
            let next_residual = residuals(&next);
            let next_length = norm(&next_residual);
            let actual = match next_length < 10.0 * length {
                true => 1.0 - (next_length / length).powi(2),
                false => -1.0,
            };
            let (linear, damped) = (
                system.reached(&change) / length,
                damping.sqrt() * size / length,
            );
            let predicted = linear.powi(2) + 2.0 * damped.powi(2);
            let ratio = match predicted {
                0.0 => 0.0,
                predicted => actual / predicted,
            };
            if ratio <= 0.25 {
                let slope = -(linear.powi(2) + damped.powi(2));
                let mut factor = match actual >= 0.0 {
                    true => 0.5,
                    false => 0.5 * slope / (slope + 0.5 * actual),
                };
                if 0.1 * next_length >= length || factor < 0.1 {
                    factor = 0.1;
                }
                bound = factor * f64::min(bound, size * 10.0);
                damping /= factor;
            } else if damping == 0.0 || ratio >= 0.75 {
                bound = size * 2.0;
                damping *= 0.5;
            }
            if ratio >= 1e-4 {
                (at, residual, length) = (next, next_residual, next_length);
            }
            let is_flat = actual.abs() <= TOLERANCE && predicted <= TOLERANCE && ratio * 0.5 <= 1.0;
            if is_flat || bound <= TOLERANCE * scaled(&at) || !bound.is_normal() {
                return at;
            }
            if ratio >= 1e-4 {
                break;
            }
        }
        if length == 0.0 {
            break;
        }
    }
    at
}

/// The linear least squares problem around a point: `J^T J` and `J^T r`.
struct LinearSystem {
    squares: [[f64; N]; N],
    gradient: [f64; N],
}

impl LinearSystem {
    fn new(curve: &Logistic, x: &[f64], residual: &[f64]) -> Self {
        let mut system = LinearSystem {
            squares: [[0.0; N]; N],
            gradient: [0.0; N],
        };
        for (&x, residual) in x.iter().zip(residual) {
            let slopes = curve.slopes(x);
            for i in 0..N {
                system.gradient[i] += slopes[i] * residual;
                for j in 0..N {
                    system.squares[i][j] += slopes[i] * slopes[j];
                }
            }
        }
        system
    }

    fn column_norms(&self) -> [f64; N] {
        std::array::from_fn(|i| self.squares[i][i].sqrt())
    }

    /// `|J step|`.
    fn reached(&self, step: &[f64; N]) -> f64 {
        let mut sum = 0.0;
        for i in 0..N {
            for j in 0..N {
                sum += step[i] * self.squares[i][j] * step[j];
            }
        }
        sum.max(0.0).sqrt()
    }

    /// The step that is no longer than `bound` where it is scaled, or a tenth more, and its damping.
    fn step(&self, scale: &[f64; N], bound: f64, first: f64) -> ([f64; N], f64) {
        let solve = |damping: f64| {
            let mut matrix = self.squares;
            for i in 0..N {
                matrix[i][i] += damping * scale[i] * scale[i];
            }
            solve(matrix, self.gradient.map(|g| -g))
        };
        let size = |step: &[f64; N]| {
            let squares = step.iter().zip(scale).map(|(s, d)| (s * d).powi(2));
            squares.sum::<f64>().sqrt()
        };
        if let Some(step) = solve(0.0)
            && size(&step) <= 1.1 * bound
        {
            return (step, 0.0);
        }
        // Length falls as damping rises, so it can be bracketed and halved, in logarithms.
        let is_within = |step: &[f64; N]| (size(step) - bound).abs() <= 0.1 * bound;
        let steepest = self.gradient.iter().zip(scale).map(|(g, d)| g / d);
        let greatest = steepest.map(|g| g * g).sum::<f64>().sqrt() / bound;
        let (mut low, mut high) = (greatest * 1e-18, greatest.max(f64::MIN_POSITIVE));
        let mut damping = match first > low && first < high {
            true => first,
            false => (low * high).sqrt(),
        };
        let mut step = [0.0; N];
        for _ in 0..200 {
            match solve(damping) {
                Some(solved) => {
                    step = solved;
                    if is_within(&step) {
                        break;
                    }
                    match size(&step) > bound {
                        true => low = damping,
                        false => high = damping,
                    }
                }
                None => low = damping,
            }
            damping = (low * high).sqrt();
        }
        (step, damping)
    }
}

/// Solves a symmetric system by elimination with pivots on the diagonal; none where it is singular.
fn solve(mut matrix: [[f64; N]; N], mut right: [f64; N]) -> Option<[f64; N]> {
    /// A pivot this much smaller than it was is rounding alone.
    const SINGULAR: f64 = 1e-14;
    let diagonal: [f64; N] = std::array::from_fn(|i| matrix[i][i]);
    for i in 0..N {
        if matrix[i][i] <= SINGULAR * diagonal[i] || !matrix[i][i].is_normal() {
            return None;
        }
        for j in i + 1..N {
            let factor = matrix[j][i] / matrix[i][i];
            let row = matrix[i];
            for (value, above) in matrix[j].iter_mut().zip(row).skip(i) {
                *value -= factor * above;
            }
            right[j] -= factor * right[i];
        }
    }
    let mut solution = [0.0; N];
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|j| matrix[i][j] * solution[j]).sum();
        solution[i] = (right[i] - known) / matrix[i][i];
    }
    solution.iter().all(|s| s.is_finite()).then_some(solution)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_found_again() {
        let curve = Logistic([4.5, 1.2, 2.8, 0.6]);
        let x: Vec<f64> = (0..60).map(|i| 1.0 + f64::from(i) / 15.0).collect();
        let y: Vec<f64> = x.iter().map(|&x| curve.at(x)).collect();
        let found = Logistic::fit(&x, &y).unwrap();
        for (found, wanted) in found.0.iter().zip(curve.0) {
            assert!(
                (found.abs() - wanted).abs() < 1e-5,
                "{found}, expected {wanted}"
            );
        }
        let agreement = Agreement::after_fit(&x, &y).unwrap();
        assert!((agreement.plcc - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_correlated_is_no_number() {
        assert!(pearson(&[2.0; 3], &[1.0, 2.0, 3.0]).is_nan());
        assert!(spearman(&[], &[]).is_nan());
        assert!(kendall(&[1.0], &[1.0]).is_nan());
        assert_eq!(Logistic::fit(&[1.0, 2.0], &[1.0, 2.0]), None);
        assert_eq!(Logistic::fit(&[1.0, f64::NAN, 2.0, 3.0], &[1.0; 4]), None);
        assert_eq!(Logistic::fit(&[1.0; 5], &[1.0, 2.0, 3.0, 4.0, 5.0]), None);
    }

    #[test]
    fn ties_share_their_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(ranks(&[f64::NAN, 1.0]), [2.0, 1.0]);
    }
}
