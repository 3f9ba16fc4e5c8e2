//! Elementary functions and reductions in `f32`.
//!
//! They are plain code that the compiler vectorises where it is inlined into [`Isa::run`], with no
//! operation that rounds differently from one instruction set to another: same bits everywhere.
//!
//! [`Isa::run`]: super::Isa::run

use pulp::Simd;

/// `ln 2` in two parts, the first of few bits.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding and subtracting this rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;
/// Below this the exponential is no normal number.
const LEAST_EXPONENT: f32 = -87.336_54;
/// `(e^r - 1 - r) / r^2` near zero, highest power first (Cephes' `expf`).
const EXP_POLYNOMIAL: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    5e-1,
];

/// Partial sums of a reduction: enough for two 512-bit registers, the same on every processor.
const LANES: usize = 32;

/// `e^x`, within 2 units in the last place for results that are normal numbers; smaller results
/// are flushed to zero and larger ones are infinite. NaN stays NaN.
///
/// Range reduction by `ln 2` in two parts and a polynomial of degree 6 (Cephes' `expf`).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = x.clamp(LEAST_EXPONENT, 88.722_83);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // The low bits of `shifted` are the integer; a float-to-integer cast would have to saturate.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = EXP_POLYNOMIAL[0];
    for coefficient in &EXP_POLYNOMIAL[1..] {
        p = p * r + coefficient;
    }
    let mantissa = p * (r * r) + r + 1.0;
    // Two steps, since 2^128 alone would be infinite where the product is not.
    let half = exponent >> 1;
    let result = mantissa * power_of_two(half) * power_of_two(exponent.wrapping_sub(half));
    if x > 88.722_83 {
        f32::INFINITY
    } else if x < LEAST_EXPONENT {
        0.0
    } else {
        result
    }
}

/// `e^x` for `x <= 0`, within 2 units in the last place; results below the normal numbers are
/// flushed to zero, and NaN stays NaN. The polynomial of [`exp`], in registers.
#[inline(always)]
pub fn exp_nonpositive<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value| simd.splat_f32s(value);
    // Below the least exponent this computes something, which is not used: a maximum would, on some
    // processors, make a number of NaN.
    let shifted = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), splat(ROUND));
    let n = simd.sub_f32s(shifted, splat(ROUND));
    let r = simd.mul_add_e_f32s(n, splat(-LN2_HIGH), x);
    let r = simd.mul_add_e_f32s(n, splat(-LN2_LOW), r);
    let mut p = splat(EXP_POLYNOMIAL[0]);
    for coefficient in &EXP_POLYNOMIAL[1..] {
        p = simd.mul_add_e_f32s(p, r, splat(*coefficient));
    }
    let p = simd.mul_add_e_f32s(p, simd.mul_f32s(r, r), r);
    let mantissa = simd.add_f32s(p, splat(1.0));
    // The integer stands in the low bits of `shifted`, whose other bits leave on the left.
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.add_u32s(exponent, simd.splat_u32s(1f32.to_bits()));
    let result = simd.mul_f32s(mantissa, simd.transmute_f32s_u32s(power));
    let is_least = simd.less_than_f32s(x, splat(LEAST_EXPONENT));
    simd.select_f32s(is_least, splat(0.0), result)
}

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `x / (1 + e^(-1.702 x))`, CLIP's approximation of GELU.
#[inline(always)]
pub fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

/// `x * Phi(x)` with the error function.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// What an MLP does to its hidden layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^(-1.702 x))`, CLIP's approximation of GELU.
    QuickGelu,
    /// `x * Phi(x)` with the error function.
    Gelu,
}

impl Activation {
    /// Replaces values by what becomes of them.
    #[inline(always)]
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Activation::QuickGelu => {
                for x in values {
                    *x = quick_gelu(*x);
                }
            }
            Activation::Gelu => {
                for x in values {
                    *x = gelu(*x);
                }
            }
        }
    }
}

/// Sum of `f(x)` over `xs`, in an order that does not depend on the processor.
#[inline(always)]
fn sum_of(xs: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, tail) = xs.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane += f(x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of `xs`.
#[inline(always)]
pub fn sum(xs: &[f32]) -> f32 {
    sum_of(xs, |x| x)
}

/// Sum of the squares of `x - center` over `xs`.
#[inline(always)]
pub fn sum_of_squares(xs: &[f32], center: f32) -> f32 {
    sum_of(xs, |x| (x - center) * (x - center))
}

/// Largest of `xs`, or minus infinity where there are none.
#[inline(always)]
pub fn max(xs: &[f32]) -> f32 {
    xs.iter()
        .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// Whether no value is infinite or NaN.
pub fn all_finite(xs: &[f32]) -> bool {
    const SIZE: u32 = i32::MAX as u32;
    // The largest of all, rather than the first that is too large, so that registers can be used.
    let largest = xs.iter().fold(0, |max, x| max.max(x.to_bits() & SIZE));
    largest < f32::INFINITY.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    fn ulps(a: f32, exact: f64) -> f64 {
        let nearest = exact as f32;
        let ulp = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
        (f64::from(a) - exact).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_ulps() {
        let mut worst = 0.0f64;
        let mut x = -87.3f32;
        while x < 88.7 {
            worst = worst.max(ulps(exp(x), f64::from(x).exp()));
            x += 0.000_37;
        }
        assert!(worst < 2.0, "{worst} ulps");
    }

    struct ExpOf<'a>(&'a mut [f32]);

    impl pulp::WithSimd for ExpOf<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            assert!(rest.is_empty());
            for x in vectors {
                *x = exp_nonpositive(simd, *x);
            }
        }
    }

    #[test]
    fn exp_in_registers_is_within_two_ulps() {
        for isa in Isa::available() {
            let xs: Vec<f32> = (0..1 << 18).map(|i| i as f32 * -3.33e-4).collect();
            let mut results = xs.clone();
            isa.run(ExpOf(&mut results));
            for (x, result) in xs.iter().zip(results) {
                assert!(
                    ulps(result, f64::from(*x).exp()) < 2.0,
                    "{isa} {x}: {result}"
                );
            }
            let mut edges = [-87.4, -1e4, f32::NEG_INFINITY, -0.0].repeat(4);
            isa.run(ExpOf(&mut edges));
            assert_eq!(edges, [0.0, 0.0, 0.0, 1.0].repeat(4), "{isa}");
            let mut mixed = [f32::NAN, -1.0, f32::MIN, f32::NAN].repeat(4);
            isa.run(ExpOf(&mut mixed));
            for mixed in mixed.chunks(4) {
                assert!(mixed[0].is_nan() && mixed[3].is_nan(), "{isa}");
                assert!(ulps(mixed[1], (-1f64).exp()) < 2.0, "{isa}");
                assert_eq!(mixed[2], 0.0, "{isa}");
            }
        }
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(88.72).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_match_their_definitions() {
        for i in -400..=400 {
            let x = i as f32 * 0.05;
            let wide = f64::from(x);
            let close = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-6 * (1.0 + b.abs());
            assert!(close(silu(x), wide / (1.0 + (-wide).exp())), "{x}");
            assert!(
                close(quick_gelu(x), wide / (1.0 + (-1.702 * wide).exp())),
                "{x}"
            );
            let phi = 0.5 * (1.0 + libm::erf(wide / 2f64.sqrt()));
            assert!(close(gelu(x), wide * phi), "{x}");
        }
        assert_eq!(silu(-200.0), 0.0);
        assert_eq!(quick_gelu(200.0), 200.0);
    }

    #[test]
    fn reductions_are_the_same_bits_on_every_instruction_set() {
        for len in [0usize, 1, 31, 32, 33, 100, 4096] {
            let xs: Vec<f32> = (0..len)
                .map(|i| ((i * 7919) % 1013) as f32 * 0.37 - 150.0)
                .collect();
            let reference = (sum(&xs), sum_of_squares(&xs, 0.5), max(&xs));
            let exact: f64 = xs.iter().map(|&x| f64::from(x)).sum();
            assert!((f64::from(reference.0) - exact).abs() < 0.05);
            let squares = xs.iter().map(|&x| (f64::from(x) - 0.5).powi(2));
            let exact: f64 = squares.sum();
            assert!((f64::from(reference.1) - exact).abs() <= 1e-5 * exact);
            let largest = xs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(reference.2, largest);
            for isa in Isa::available() {
                let got = isa.run(|| (sum(&xs), sum_of_squares(&xs, 0.5), max(&xs)));
                assert_eq!(got, reference, "{isa} {len}");
            }
        }
    }
}
