//! From the colours of a file to RGB.

use super::frame::Frame;
use super::segments::Tables;
use crate::image::{CHANNELS, wide};

/// What the components of a picture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colors {
    Gray,
    Rgb,
    YCbCr,
    /// Inverted, as Adobe's programs write it and Pillow takes it.
    Cmyk,
    Ycck,
}

/// Fraction bits of [`rgb`]'s factors.
const FRACTION: u32 = 16;
const HALF: i32 = 1 << (FRACTION - 1);

impl Colors {
    /// As libjpeg tells them, from markers and the names of components.
    pub fn of(frame: &Frame, tables: &Tables) -> Self {
        match (frame.components.len(), tables.adobe) {
            (1, _) => Colors::Gray,
            (3, _) if tables.is_jfif => Colors::YCbCr,
            (3, Some(0)) => Colors::Rgb,
            (3, None) if frame.ids() == *b"RGB" => Colors::Rgb,
            (3, _) => Colors::YCbCr,
            (_, None | Some(0)) => Colors::Cmyk,
            _ => Colors::Ycck,
        }
    }

    /// A row of pixels from a row of each component.
    pub fn convert(self, components: &[Vec<u8>], out: &mut [u8]) {
        wide(
            #[inline(always)]
            || self.convert_row(components, out),
        );
    }

    #[inline(always)]
    fn convert_row(self, components: &[Vec<u8>], out: &mut [u8]) {
        let (pixels, _) = out.as_chunks_mut::<CHANNELS>();
        match (self, components) {
            (Colors::Rgb, [r, g, b]) => {
                for (pixel, ((&r, &g), &b)) in pixels.iter_mut().zip(r.iter().zip(g).zip(b)) {
                    *pixel = [r, g, b];
                }
            }
            (Colors::YCbCr, [y, cb, cr]) => {
                for (pixel, ((&y, &cb), &cr)) in pixels.iter_mut().zip(y.iter().zip(cb).zip(cr)) {
                    *pixel = rgb(y, cb, cr);
                }
            }
            (Colors::Cmyk | Colors::Ycck, [a, b, c, k]) => {
                let samples = a.iter().zip(b).zip(c).zip(k);
                for (pixel, (((&a, &b), &c), &k)) in pixels.iter_mut().zip(samples) {
                    let ink = match self {
                        // The colour without ink, as which the luminance is coded.
                        Colors::Ycck => rgb(a, b, c).map(|value| 255 - value),
                        _ => [a, b, c],
                    };
                    *pixel = ink.map(|ink| without_ink(255 - ink, k));
                }
            }
            (_, [gray, ..]) => {
                for (pixel, &gray) in pixels.iter_mut().zip(gray) {
                    *pixel = [gray; CHANNELS];
                }
            }
            (_, []) => {}
        }
    }
}

/// The colour of luminance and colour differences.
#[inline(always)]
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; CHANNELS] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let clamped = |value: i32| value.clamp(0, 255) as u8;
    [
        clamped(y + ((91_881 * cr + HALF) >> FRACTION)),
        clamped(y + ((-22_554 * cb - 46_802 * cr + HALF) >> FRACTION)),
        clamped(y + ((116_130 * cb + HALF) >> FRACTION)),
    ]
}

/// What is left of white under `ink` of a colour and, inverted, `light` of black; Pillow's formula.
fn without_ink(ink: u8, light: u8) -> u8 {
    let product = u32::from(ink) * u32::from(light) + 128;
    let covered = ((product >> 8) + product) >> 8;
    light.saturating_sub(covered as u8)
}
