//! Collects every comparison: the worst error of each stage, and all failures.

use std::fmt::Debug;

/// Failures printed; the rest are counted.
const MAX_LISTED: usize = 50;

/// The outcome of many comparisons.
#[derive(Default)]
pub struct Report {
    stages: Vec<Stage>,
    failures: Vec<String>,
}

struct Stage {
    name: String,
    n_checks: usize,
    worst: f32,
    at: String,
}

impl Report {
    /// Compares values of `stage` in the case `at`: the largest absolute difference must not
    /// exceed `tolerance`.
    pub fn near(&mut self, stage: &str, at: &str, got: &[f32], wanted: &[f32], tolerance: f32) {
        if got.len() != wanted.len() {
            let (got, wanted) = (got.len(), wanted.len());
            return self.fail(stage, at, &format!("{got} values, expected {wanted}"));
        }
        let differences = got.iter().zip(wanted).map(|(a, b)| (a - b).abs());
        let worst = differences.fold(
            0.0,
            |worst, x| if x > worst || x.is_nan() { x } else { worst },
        );
        self.count(stage, at, worst);
        if worst > tolerance || worst.is_nan() {
            self.fail(
                stage,
                at,
                &format!("off by {worst:e}, allowed {tolerance:e}"),
            );
        }
    }

    /// Compares values that must have the same bits.
    pub fn bits(&mut self, stage: &str, at: &str, got: &[f32], wanted: &[f32]) {
        self.near(stage, at, got, wanted, f32::INFINITY);
        let differ = |(a, b): &(&f32, &f32)| a.to_bits() != b.to_bits();
        let n = got.iter().zip(wanted).filter(differ).count();
        if n > 0 {
            self.fail(
                stage,
                at,
                &format!("{n} of {} bit patterns differ", got.len()),
            );
        }
    }

    /// Compares anything else.
    pub fn equal<T: PartialEq + Debug + ?Sized>(
        &mut self,
        stage: &str,
        at: &str,
        got: &T,
        wanted: &T,
    ) {
        let is_equal = got == wanted;
        self.count(stage, at, if is_equal { 0.0 } else { f32::INFINITY });
        if !is_equal {
            self.fail(stage, at, &format!("got {got:?}\n    wanted {wanted:?}"));
        }
    }

    /// Unwraps a result, or notes its error.
    pub fn ok<T>(&mut self, stage: &str, at: &str, result: owl2::Result<T>) -> Option<T> {
        result
            .map_err(|error| self.fail(stage, at, &error.to_string()))
            .ok()
    }

    /// Notes a failure.
    pub fn fail(&mut self, stage: &str, at: &str, what: &str) {
        self.failures.push(format!("{stage} of {at}: {what}"));
    }

    fn count(&mut self, name: &str, at: &str, error: f32) {
        let index = self.stages.iter().position(|stage| stage.name == name);
        let index = index.unwrap_or_else(|| {
            self.stages.push(Stage {
                name: name.to_owned(),
                n_checks: 0,
                worst: 0.0,
                at: at.to_owned(),
            });
            self.stages.len() - 1
        });
        let stage = &mut self.stages[index];
        stage.n_checks += 1;
        if error > stage.worst || error.is_nan() {
            stage.worst = error;
            stage.at = at.to_owned();
        }
    }

    /// Prints the table, and fails with all failures, or if nothing was checked.
    pub fn finish(self) {
        println!("{:<24} {:>6} {:>12}  at", "stage", "checks", "worst error");
        for Stage {
            name,
            n_checks,
            worst,
            at,
        } in &self.stages
        {
            println!("{name:<24} {n_checks:>6} {worst:>12.3e}  {at}");
        }
        assert!(!self.stages.is_empty(), "nothing was checked");
        let listed = self.failures.iter().take(MAX_LISTED);
        let lines: Vec<_> = listed.map(|line| format!("\n  {line}")).collect();
        assert!(
            self.failures.is_empty(),
            "{} failures:{}",
            self.failures.len(),
            lines.concat()
        );
    }
}
