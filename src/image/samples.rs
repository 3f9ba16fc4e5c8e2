//! Samples of decoders to 8-bit RGB.

use super::decode::Reading;
use super::{CHANNELS, Picture, decode::zeros};
use crate::error::Result;

/// How a pixel is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SampleLayout {
    /// 1 for gray, 2 for gray and alpha, 3 for RGB, 4 with alpha.
    pub channels: usize,
    pub depth: Depth,
    /// Whether the reference clips 16-bit samples, as Pillow does for gray without a channel of
    /// alpha.
    pub is_clipped: bool,
    /// Whether colours have been multiplied by alpha.
    pub is_premultiplied: bool,
}

/// Bits of a sample, and the order of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Eight,
    SixteenBig,
    SixteenNative,
}

impl SampleLayout {
    /// Bytes of a pixel.
    pub fn bytes(self) -> usize {
        match self.depth {
            Depth::Eight => self.channels,
            _ => 2 * self.channels,
        }
    }

    /// Pixels of `samples` to RGB, as many as there is room for in `out`.
    pub fn convert(self, reading: Reading, samples: &[u8], out: &mut [u8]) {
        let (out, _) = out.as_chunks_mut::<CHANNELS>();
        for (out, pixel) in out.iter_mut().zip(samples.chunks_exact(self.bytes())) {
            *out = self.pixel(reading, pixel);
        }
    }

    /// A whole picture, in the memory of its samples where that is enough.
    pub fn picture(
        self,
        reading: Reading,
        width: usize,
        height: usize,
        mut samples: Vec<u8>,
    ) -> Result<Picture> {
        let n_bytes = width * height * CHANNELS;
        let len = self.bytes();
        if len < CHANNELS {
            let mut rgb = zeros(n_bytes as u64)?;
            self.convert(reading, &samples, &mut rgb);
            return Picture::from_rgb(width, height, rgb);
        }
        if self != Self::rgb() {
            for i in 0..samples.len() / len {
                let pixel = self.pixel(reading, &samples[i * len..][..len]);
                samples[i * CHANNELS..][..CHANNELS].copy_from_slice(&pixel);
            }
            samples.truncate(n_bytes);
        }
        Picture::from_rgb(width, height, samples)
    }

    fn rgb() -> Self {
        SampleLayout {
            channels: CHANNELS,
            depth: Depth::Eight,
            is_clipped: false,
            is_premultiplied: false,
        }
    }

    #[inline]
    fn pixel(self, reading: Reading, pixel: &[u8]) -> [u8; CHANNELS] {
        let is_reference = reading == Reading::Reference;
        let sample = |i: usize| match self.depth {
            Depth::Eight => pixel[i],
            _ => {
                let bytes = [pixel[2 * i], pixel[2 * i + 1]];
                let value = match self.depth {
                    Depth::SixteenBig => u16::from_be_bytes(bytes),
                    _ => u16::from_ne_bytes(bytes),
                };
                match is_reference && self.is_clipped {
                    true => value.min(255) as u8,
                    false => (value >> 8) as u8,
                }
            }
        };
        let (color, alpha) = match self.channels {
            1 => ([sample(0); CHANNELS], None),
            2 => ([sample(0); CHANNELS], Some(1)),
            3 => ([sample(0), sample(1), sample(2)], None),
            _ => ([sample(0), sample(1), sample(2)], Some(3)),
        };
        match (alpha, self.is_premultiplied) {
            (None, _) => color,
            (Some(_), false) if is_reference => color,
            (Some(alpha), false) => on_white(color, sample(alpha)),
            (Some(alpha), true) if is_reference => divided(color, sample(alpha)),
            (Some(alpha), true) => color.map(|value| value.saturating_add(255 - sample(alpha))),
        }
    }
}

/// A colour over white.
fn on_white(color: [u8; CHANNELS], alpha: u8) -> [u8; CHANNELS] {
    let alpha = u16::from(alpha);
    // At most 255 times 255, and half.
    color.map(|value| ((u16::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}

/// A colour before it was multiplied by alpha, rounded as Pillow rounds.
fn divided(color: [u8; CHANNELS], alpha: u8) -> [u8; CHANNELS] {
    match alpha {
        0 | 255 => color,
        _ => color.map(|value| (255 * u16::from(value) / u16::from(alpha)).min(255) as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_shows_white_and_is_dropped_for_the_reference() {
        let layout = SampleLayout {
            channels: 4,
            depth: Depth::Eight,
            is_clipped: false,
            is_premultiplied: false,
        };
        let samples = vec![10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 255, 128];
        let pixels = |reading| {
            let picture = layout.picture(reading, 3, 1, samples.clone()).unwrap();
            picture.rgb().to_vec()
        };
        let shown = [10, 20, 30, 255, 255, 255, 127, 177, 255];
        assert_eq!(pixels(Reading::Shown), shown);
        assert_eq!(pixels(Reading::Unturned), shown);
        let dropped = [10, 20, 30, 10, 20, 30, 0, 100, 255];
        assert_eq!(pixels(Reading::Reference), dropped);
    }

    #[test]
    fn premultiplied_colours_are_not_multiplied_again() {
        let layout = SampleLayout {
            channels: 4,
            depth: Depth::Eight,
            is_clipped: false,
            is_premultiplied: true,
        };
        let pixels = |reading| {
            let samples = vec![10, 20, 30, 255, 0, 0, 0, 0, 0, 50, 128, 128];
            layout
                .picture(reading, 3, 1, samples)
                .unwrap()
                .rgb()
                .to_vec()
        };
        assert_eq!(
            pixels(Reading::Shown),
            [10, 20, 30, 255, 255, 255, 127, 177, 255]
        );
        assert_eq!(
            pixels(Reading::Reference),
            [10, 20, 30, 0, 0, 0, 0, 99, 255]
        );
    }

    #[test]
    fn sixteen_bits_are_scaled_and_gray_clipped_for_the_reference() {
        for is_clipped in [false, true] {
            let layout = SampleLayout {
                channels: 1,
                depth: Depth::SixteenBig,
                is_clipped,
                is_premultiplied: false,
            };
            let samples = vec![0x12, 0xff, 0x00, 0x34, 0xff, 0x00];
            let pixels = |reading| {
                let picture = layout.picture(reading, 3, 1, samples.clone()).unwrap();
                [0, 3, 6].map(|i| picture.rgb()[i])
            };
            assert_eq!(pixels(Reading::Shown), [0x12, 0, 0xff]);
            let wanted = if is_clipped {
                [255, 0x34, 255]
            } else {
                [0x12, 0, 0xff]
            };
            assert_eq!(pixels(Reading::Reference), wanted);
        }
    }
}
