//! Position tables: the abstractor's sines and cosines, and the ViT's resized grid.

/// Edge of the position table of every checkpoint without a class token (`[256, C]`).
pub(super) const STORED_GRID: usize = 16;

/// The cubic kernel's parameter in PyTorch's `interpolate(mode="bicubic")`.
const CUBIC_A: f32 = -0.75;

/// Base of the frequencies (the reference's `get_1d_sincos_pos_embed_from_grid`).
const FREQUENCY_BASE: f64 = 10000.0;

/// Writes the one-dimensional table's row for `position`: all sines, then all cosines.
pub(super) fn line_row(position: usize, out: &mut [f32]) {
    let half = out.len() / 2;
    let (sines, cosines) = out.split_at_mut(half);
    for (t, (sine, cosine)) in sines.iter_mut().zip(cosines).enumerate() {
        // The reference works in 32-bit floats; so each step is rounded to one.
        let exponent = t as f32 / half as f32;
        let frequency = 1.0 / FREQUENCY_BASE.powf(exponent.into()) as f32;
        let angle = f64::from(position as f32 * frequency);
        (*sine, *cosine) = (angle.sin() as f32, angle.cos() as f32);
    }
}

/// Writes the two-dimensional table's row for `token` of a `grid` by `grid` picture: the column's
/// one-dimensional row, then the line's. The class token, if any, comes first and has zeros.
pub(super) fn grid_row(token: usize, grid: usize, has_class_token: bool, out: &mut [f32]) {
    let Some(patch) = token.checked_sub(usize::from(has_class_token)) else {
        out.fill(0.0);
        return;
    };
    let (across, down) = out.split_at_mut(out.len() / 2);
    line_row(patch % grid, across);
    line_row(patch / grid, down);
}

/// Four source indices and their weights for output `i` of `to` from `from` samples: half-pixel
/// centres, indices clamped at the border, no antialiasing.
fn taps(i: usize, from: usize, to: usize) -> [(usize, f32); 4] {
    let scale = from as f32 / to as f32;
    let centre = (i as f32 + 0.5) * scale - 0.5;
    let floor = centre.floor();
    let t = centre - floor;
    let near = |x: f32| ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((CUBIC_A * x - 5.0 * CUBIC_A) * x + 8.0 * CUBIC_A) * x - 4.0 * CUBIC_A;
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|k| {
        let index = (floor as isize + k as isize - 1).clamp(0, from as isize - 1);
        (index as usize, weights[k])
    })
}

/// Writes rows `first_row ..` of `table: [STORED_GRID^2, width]` resized to `grid` by `grid`.
pub(super) fn resized_rows(
    table: &[f32],
    width: usize,
    grid: usize,
    first_row: usize,
    out: &mut [f32],
) {
    for (i, row) in out.chunks_exact_mut(width).enumerate() {
        let (y, x) = ((first_row + i) / grid, (first_row + i) % grid);
        let across = taps(x, STORED_GRID, grid);
        let down = taps(y, STORED_GRID, grid);
        for (c, value) in row.iter_mut().enumerate() {
            let line = |y: usize| -> f32 {
                let at = |x: usize| table[(y * STORED_GRID + x) * width + c];
                across.iter().map(|&(x, weight)| at(x) * weight).sum()
            };
            *value = down.iter().map(|&(y, weight)| line(y) * weight).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() < 4e-6, "{a:?} is not {b:?}");
        }
    }

    /// sin and cos of 3 and 3 / 10000^(1/2) = 0.03, by hand.
    #[test]
    fn a_line_has_sines_then_cosines() {
        let mut row = [0.0; 4];
        line_row(3, &mut row);
        close(&row, &[0.141_12, 0.029_995_5, -0.989_992_5, 0.999_55]);
    }

    #[test]
    fn a_grid_has_the_column_first_and_zeros_for_the_class_token() {
        let mut row = [1.0; 4];
        grid_row(0, 3, true, &mut row);
        assert_eq!(row, [0.0; 4]);
        // Token 6 is patch 5: column 2, line 1.
        grid_row(6, 3, true, &mut row);
        let expected = [2.0_f32.sin(), 2.0_f32.cos(), 1.0_f32.sin(), 1.0_f32.cos()];
        close(&row, &expected);
        let mut without = [0.0; 4];
        grid_row(5, 3, false, &mut without);
        assert_eq!(row, without);
    }

    /// At a half-pixel offset of 1/4 the weights are a = -0.75's: t = 1/4 exactly.
    #[test]
    fn taps_are_the_cubic_kernel_clamped_at_the_border() {
        // Doubling 16 to 32: output 3 has its centre at 1.25.
        let weights = [-0.105_468_75, 0.878_906_25, 0.261_718_75, -0.035_156_25];
        let taps = taps(3, 16, 32);
        close(&taps.map(|(_, weight)| weight), &weights);
        assert_eq!(taps.map(|(index, _)| index), [0, 1, 2, 3]);
        assert_eq!(super::taps(0, 16, 32).map(|(i, _)| i), [0, 0, 0, 1]);
        assert_eq!(super::taps(31, 16, 32).map(|(i, _)| i), [14, 15, 15, 15]);
    }

    #[test]
    fn resizing_keeps_constants_and_places_channels() {
        let table: Vec<f32> = (0..256).flat_map(|_| [2.0, -3.0]).collect();
        let mut out = vec![0.0; 5 * 5 * 2];
        resized_rows(&table, 2, 5, 0, &mut out);
        let expected: Vec<f32> = (0..25).flat_map(|_| [2.0, -3.0]).collect();
        close(&out, &expected);
    }

    /// A table that grows by 1 along x: away from the border the cubic reproduces a line.
    #[test]
    fn resizing_goes_along_x_within_a_row() {
        let table: Vec<f32> = (0..256).map(|i| (i % 16) as f32).collect();
        let mut whole = vec![0.0; 32 * 32];
        resized_rows(&table, 1, 32, 0, &mut whole);
        // Output 7 has its centre at 3.25: by the kernel, not by a straight line.
        let expected =
            2.0 * -0.105_468_75 + 3.0 * 0.878_906_25 + 4.0 * 0.261_718_75 - 5.0 * 0.035_156_25;
        close(&[whole[32 * 9 + 7]], &[expected]);
        let mut part = vec![0.0; 32];
        resized_rows(&table, 1, 32, 9 * 32, &mut part);
        assert_eq!(part, whole[9 * 32..10 * 32]);
    }
}
