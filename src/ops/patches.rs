//! Pictures as rows of patches, so that the patch convolution is a matrix product.

/// Copies `pixels: [3, size, size]` to `out: [patches, 3 * patch * patch]`: patches row by row
/// from the top left, each in the order of the convolution's kernel (channel, row, column).
///
/// A convolution whose stride is its kernel's size is the product of these rows with the kernel.
pub fn patches(pixels: &[f32], size: usize, patch: usize, out: &mut [f32]) {
    let grid = size / patch;
    assert_eq!(pixels.len(), 3 * size * size);
    assert_eq!(out.len(), grid * grid * 3 * patch * patch);
    for (index, row) in out.chunks_exact_mut(3 * patch * patch).enumerate() {
        let (top, left) = (index / grid * patch, index % grid * patch);
        for (i, line) in row.chunks_exact_mut(patch).enumerate() {
            let (channel, y) = (i / patch, top + i % patch);
            let start = (channel * size + y) * size + left;
            line.copy_from_slice(&pixels[start..start + patch]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_run_right_then_down_and_keep_channels_apart() {
        let (size, patch) = (4, 2);
        let pixels: Vec<f32> = (0..3 * size * size).map(|i| i as f32).collect();
        let mut out = vec![0.0; pixels.len()];
        patches(&pixels, size, patch, &mut out);
        assert_eq!(out[..4], [0.0, 1.0, 4.0, 5.0]);
        assert_eq!(out[4..8], [16.0, 17.0, 20.0, 21.0]);
        assert_eq!(out[12..16], [2.0, 3.0, 6.0, 7.0]);
        assert_eq!(out[24..28], [8.0, 9.0, 12.0, 13.0]);
    }
}
