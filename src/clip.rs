//! Which frames of a video are looked at, and the frames of animated pictures.


/// The frames that Q-Align rates a video of `n_frames` by: one a second, of `fps` frames each.
/// None where it is shorter than a second.
pub fn one_a_second(n_frames: usize, fps: f64) -> Vec<usize> {
    let is_rate = fps.is_finite() && fps > 0.0;
    let n_seconds = match is_rate {
        true => (n_frames as f64 / fps) as usize,
        false => 0,
    };
    // A rate below one frame a second would name frames twice.
    let indices =
        (0..n_seconds.min(n_frames.saturating_mul(2))).map(|second| (fps * second as f64) as usize);
    indices.filter(|&index| index < n_frames).collect()
}
