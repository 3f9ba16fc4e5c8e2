//! The inverse cosine transform of libjpeg's `islow`, the accurate one in integers, bit for bit.
//!
//! Sums and products overflow, and results saturate, where libjpeg-turbo's vector code has 16 bits,
//! so that even damaged coefficients give its samples.

use super::{BLOCK, EDGE};

/// Fraction bits of the constants.
const FRACTION: u32 = 13;

/// Fraction bits that the first pass leaves for the second.
const BETWEEN: u32 = 2;

const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

type Rows = [[i16; EDGE]; EDGE];

/// Samples of a block, by rows, from its coefficients and quantization table in natural order.
#[inline(always)]
pub(super) fn transform(block: &[i16; BLOCK], quant: &[u16; BLOCK]) -> [[u8; EDGE]; EDGE] {
    let mut rows: Rows = [[0; EDGE]; EDGE];
    for (value, (&coefficient, &step)) in rows
        .as_flattened_mut()
        .iter_mut()
        .zip(block.iter().zip(quant))
    {
        *value = coefficient.wrapping_mul(step as i16);
    }
    if block[1..].iter().all(|&coefficient| coefficient == 0) {
        let between = i32::from(rows[0][0] << BETWEEN);
        let sample = (between + (1 << (BETWEEN + 2))) >> (BETWEEN + 3);
        return [[level(sample); EDGE]; EDGE];
    }
    if block[EDGE..].iter().all(|&coefficient| coefficient == 0) {
        // The first pass has constants to transform. They overflow, where its sums saturate.
        let constants = rows[0].map(|value| value << BETWEEN);
        rows = [constants; EDGE];
    } else {
        pass::<{ FRACTION - BETWEEN }>(&mut rows);
    }
    transpose(&mut rows);
    pass::<{ FRACTION + BETWEEN + 3 }>(&mut rows);
    transpose(&mut rows);
    let mut samples = [[0; EDGE]; EDGE];
    let values = rows.as_flattened().iter();
    for (sample, &value) in samples.as_flattened_mut().iter_mut().zip(values) {
        *sample = level(i32::from(value));
    }
    samples
}

#[inline(always)]
fn level(sample: i32) -> u8 {
    (sample.clamp(-128, 127) + 128) as u8
}

#[inline(always)]
fn transpose(rows: &mut Rows) {
    let from = *rows;
    for (y, row) in rows.iter_mut().enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            *value = from[x][y];
        }
    }
}

/// Transforms the eight columns.
#[inline(always)]
fn pass<const SHIFT: u32>(rows: &mut Rows) {
    (0..EDGE).for_each(|x| column::<SHIFT>(rows, x));
}

#[inline(always)]
fn column<const SHIFT: u32>(rows: &mut Rows, x: usize) {
    let value = |y: usize| i32::from(rows[y][x]);
    let sum = |a: usize, b: usize| i32::from(rows[a][x].wrapping_add(rows[b][x]));
    let difference = |a: usize, b: usize| i32::from(rows[a][x].wrapping_sub(rows[b][x]));

    let even_3 = value(2) * (F_0_541 + F_0_765) + value(6) * F_0_541;
    let even_2 = value(2) * F_0_541 + value(6) * (F_0_541 - F_1_847);
    let even_0 = sum(0, 4) << FRACTION;
    let even_1 = difference(0, 4) << FRACTION;
    let evens = [
        even_0.wrapping_add(even_3),
        even_1.wrapping_add(even_2),
        even_1.wrapping_sub(even_2),
        even_0.wrapping_sub(even_3),
    ];

    let (z3, z4) = (sum(3, 7), sum(1, 5));
    let odd_3 = (z3 * (F_1_175 - F_1_961)).wrapping_add(z4 * F_1_175);
    let odd_4 = (z3 * F_1_175).wrapping_add(z4 * (F_1_175 - F_0_390));
    let pair = |a: usize, fa: i32, b: usize, fb: i32| (value(a) * fa).wrapping_add(value(b) * fb);
    let odds = [
        pair(1, F_1_501 - F_0_899, 7, -F_0_899).wrapping_add(odd_4),
        pair(3, F_3_072 - F_2_562, 5, -F_2_562).wrapping_add(odd_3),
        pair(5, F_2_053 - F_2_562, 3, -F_2_562).wrapping_add(odd_4),
        pair(7, F_0_298 - F_0_899, 1, -F_0_899).wrapping_add(odd_3),
    ];

    let rounded = |sum: i32| {
        let shifted = sum.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
        shifted.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
    };
    for (y, (even, odd)) in evens.into_iter().zip(odds).enumerate() {
        rows[y][x] = rounded(even.wrapping_add(odd));
        rows[EDGE - 1 - y][x] = rounded(even.wrapping_sub(odd));
    }
}
