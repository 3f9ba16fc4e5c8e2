//! Frames of animated pictures, one for each second that they last.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Frame, Frames, ImageDecoder, ImageError, RgbaImage};

use super::decode::{Reading, damaged};
use super::sniff::{self, FileContent, ImageFormat};
use super::{CHANNELS, Limits, Picture};
use crate::capacity;
use crate::error::{Error, Result};

/// The longest animation, in seconds: as frames, it would take more positions than any model has.
const MAX_SECONDS: u64 = 1024;
/// What decoding takes: a canvas with transparency, a frame, and two pictures without.
const BYTES_PER_PIXEL: u64 = 4 + 4 + 2 * CHANNELS as u64;
/// Frames that would be shown for less than this, in milliseconds, are shown for [`USUAL_DELAY`], as
/// programs that show animations do.
const MIN_DELAY: f64 = 20.0;
const USUAL_DELAY: f64 = 100.0;

/// Whether the file at `path` is a GIF or an animated WebP.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io) where it cannot be read.
#[cfg(feature = "cli")]
pub(crate) fn is_animation(path: &Path) -> Result<bool> {
    Ok(match super::content(path)? {
        Some(FileContent::Picture(ImageFormat::Gif)) => true,
        Some(FileContent::Picture(ImageFormat::WebP)) => {
            let bytes = super::decode::read(path, &Limits::default())?;
            WebPDecoder::new(Cursor::new(bytes)).is_ok_and(|decoder| decoder.has_animation())
        }
        _ => false,
    })
}

/// Gives `each` the frame that the animation in a file shows at the beginning of each whole second
/// that it lasts; the first frame alone where it lasts less.
///
/// # Errors
/// As [`decode`](super::decode), those of `each`, and [`Kind::Input`](crate::Kind::Input) for one
/// that lasts too long.
pub(crate) fn seconds(
    path: &Path,
    reading: Reading,
    each: &mut dyn FnMut(&Picture) -> Result<()>,
) -> Result<()> {
    let limits = Limits::default();
    let bytes = super::decode::read(path, &limits)?;
    // As where one picture is decoded: decoders may panic, and nothing of theirs is used after it.
    let given = catch_unwind(AssertUnwindSafe(|| {
        frames(&bytes, &limits).and_then(|frames| pick(frames, reading, each))
    }));
    let given = given.unwrap_or_else(|_| Err(Error::input("the decoder gave up on it")));
    given.map_err(|e| e.in_file(path))
}

fn frames<'b>(bytes: &'b [u8], limits: &Limits) -> Result<(ImageFormat, Frames<'b>)> {
    let format = match sniff::content(bytes) {
        FileContent::Picture(format) => format,
        _ => return Err(Error::input("is not an animation")),
    };
    let failed = |e: ImageError| damaged(format, &e).caused_by(e);
    let check = |(width, height): (u32, u32)| {
        limits.check(width as usize, height as usize)?;
        let bytes = u64::from(width) * u64::from(height) * BYTES_PER_PIXEL;
        capacity::hold(bytes).map_err(|short| {
            Error::capacity(format!(
                "the animation of {width}x{height} pixels takes {short}; shrink it"
            ))
        })
    };
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some((limits.max_pixels as u64).saturating_mul(4 * CHANNELS as u64));
    let frames = match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(failed)?;
            check(decoder.dimensions())?;
            decoder.set_limits(bounds).map_err(failed)?;
            decoder.into_frames()
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(failed)?;
            check(decoder.dimensions())?;
            decoder.set_limits(bounds).map_err(failed)?;
            decoder.into_frames()
        }
        _ => return Err(Error::input("is not an animation")),
    };
    Ok((format, frames))
}

fn pick(
    (format, frames): (ImageFormat, Frames),
    reading: Reading,
    each: &mut dyn FnMut(&Picture) -> Result<()>,
) -> Result<()> {
    let mut end = 0.0;
    let mut n_seconds = 0;
    // What is shown when the next second begins counts only if that second is whole.
    let mut waiting: Option<Picture> = None;
    for frame in frames {
        let frame = frame.map_err(|e: ImageError| damaged(format, &e).caused_by(e))?;
        end += delay(&frame);
        let mut picture = None;
        while end > n_seconds as f64 * 1000.0 {
            if n_seconds == MAX_SECONDS {
                return Err(Error::input(format!(
                    "lasts more than {MAX_SECONDS} seconds; cut it, or give some of its frames as files"
                )));
            }
            if let Some(picture) = waiting.take() {
                each(&picture)?;
            }
            if picture.is_none() {
                picture = Some(flat(frame.buffer(), reading)?);
            }
            waiting = picture.clone();
            n_seconds += 1;
        }
    }
    let is_whole = end >= n_seconds as f64 * 1000.0;
    match waiting {
        Some(picture) if is_whole || n_seconds == 1 => each(&picture),
        Some(_) => Ok(()),
        None => Err(damaged(format, "it has no frame")),
    }
}

/// Milliseconds that a frame is shown.
fn delay(frame: &Frame) -> f64 {
    let (numerator, denominator) = frame.delay().numer_denom_ms();
    let delay = f64::from(numerator) / f64::from(denominator.max(1));
    match delay < MIN_DELAY {
        true => USUAL_DELAY,
        false => delay,
    }
}

/// A frame without transparency.
fn flat(frame: &RgbaImage, reading: Reading) -> Result<Picture> {
    let (width, height) = frame.dimensions();
    let pixels = frame.pixels().flat_map(|pixel| {
        let [red, green, blue, alpha] = pixel.0;
        let below_white = |level: u8| {
            let (level, alpha) = (u32::from(level), u32::from(alpha));
            ((level * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        };
        match reading {
            Reading::Reference => [red, green, blue],
            _ => [red, green, blue].map(below_white),
        }
    });
    Picture::from_rgb(width as usize, height as usize, pixels.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::gif::GifEncoder;
    use image::{Delay, Rgba};

    /// An animation of frames that are red in the given levels, each shown so many milliseconds.
    fn animation(frames: &[(u8, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = GifEncoder::new(&mut bytes);
        for &(level, milliseconds) in frames {
            let picture = RgbaImage::from_pixel(4, 3, Rgba([level, 0, 0, 255]));
            let delay = Delay::from_numer_denom_ms(milliseconds, 1);
            encoder
                .encode_frame(Frame::from_parts(picture, 0, 0, delay))
                .unwrap();
        }
        drop(encoder);
        bytes
    }

    fn levels(bytes: &[u8]) -> Result<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.gif");
        std::fs::write(&path, bytes).unwrap();
        #[cfg(feature = "cli")]
        assert!(is_animation(&path).unwrap());
        let mut levels = Vec::new();
        seconds(&path, Reading::Reference, &mut |picture| {
            assert_eq!((picture.width(), picture.height()), (4, 3));
            levels.push(picture.rgb()[0]);
            Ok(())
        })?;
        Ok(levels)
    }

    #[test]
    fn a_frame_is_taken_for_each_whole_second() {
        for (frames, wanted) in [
            (
                &[(10, 500), (20, 500), (30, 500), (40, 500)][..],
                &[10, 30][..],
            ),
            (&[(10, 500), (20, 500), (30, 500)], &[10]),
            (&[(10, 300)], &[10]),
            (&[(10, 2000), (20, 1000)], &[10, 10, 20]),
            (&[(10, 0), (20, 0)], &[10]),
            (&[(10, 990), (20, 1010)], &[10, 20]),
        ] {
            assert_eq!(levels(&animation(frames)).unwrap(), wanted, "{frames:?}");
        }
    }

    #[test]
    fn animations_that_are_cut_off_or_endless_are_refused() {
        let whole = animation(&[(10, 700), (20, 700), (30, 700)]);
        for n_bytes in [10, 20, whole.len() - 20] {
            assert!(levels(&whole[..n_bytes]).is_err(), "{n_bytes} bytes");
        }
        let long: Vec<(u8, u32)> = vec![(10, 600_000); 2];
        assert!(levels(&animation(&long)).is_err());
    }
}
