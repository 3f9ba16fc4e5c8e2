//! JPEG XL, by the `jxl-oxide` crates.
//!
//! A few bytes of a file can expand to hundreds of megabytes: hidden frames, colour profiles, boxes.
//! So boxes other than the picture's are skipped, the size of the profile is checked before it is
//! unpacked, and frames are loaded one by one until there is one to show. Memory is checked before
//! frames are decoded.

use std::collections::BTreeMap;

use jxl_bitstream::Bitstream;
use jxl_oxide::color::{ColourEncoding, ColourSpace, Primaries, TransferFunction, WhitePoint};
use jxl_oxide::image::ImageHeader;
use jxl_oxide::{
    AllocTracker, EnumColourEncoding, Frame, FrameHeader, InitializeResult, JxlImage, PixelFormat,
    RenderingIntent,
};
use jxl_oxide_common::Bundle;

use super::Picture;
use super::decode::{Task, damaged, zeros};
use super::samples::{Depth, SampleLayout};
use super::sniff::ImageFormat;
use crate::error::{Error, Result};

/// The beginning of files that are boxes; the others are the picture alone.
const CONTAINER: &[u8] = b"\0\0\0\x0cJXL \r\n\x87\n";

/// Longest colour profile as it is stored, in bytes. It is kept, and not applied.
const MAX_PROFILE: u64 = 4 << 20;

/// Bytes that one channel of a pixel of a frame takes while it is decoded: two floats by measuring
/// what pictures of `cjxl` need (25 bytes of RGB, 29 of RGBA), and half as much again.
const CHANNEL: u64 = 12;

/// What decoding takes beside that: tables, and rounding to groups of 1024 pixels.
const HELD: u64 = 16 << 20;

/// Bytes for each pixel of a frame that may be patched with parts of others: at most one place for four
/// pixels, and what a channel adds to it.
const PATCHES: u64 = 24;
const PATCH_CHANNEL: u64 = 3;

/// Most channels beside those of colour.
const MAX_EXTRA: usize = 16;

/// Most frames that one picture may be made of.
const MAX_FRAMES: usize = 256;

/// How often those frames may cover the picture, and patches again.
const MAX_COVERS: u64 = 20;

/// A picture of fewer pixels may be covered as often as one of so many: that takes no time.
const SMALL: u64 = 1 << 20;

/// Bytes after which it is looked how many frames there are by now.
const PIECE: usize = 1 << 16;

/// Decodes a JPEG XL file; of an animation the first frame.
///
/// Orientation is part of the picture, as with all decoders of this format.
pub(super) fn picture(task: &Task<'_>) -> Result<Picture> {
    let parts = codestream(task.bytes)?;
    check_profile(&parts)?;
    let tracker = AllocTracker::with_limit(HELD as usize);
    let mut source = Source::new(&parts);
    let mut image = open(&mut source, &tracker)?;
    let channels = channels(image.image_header())?;
    let size = &image.image_header().size;
    let (width, height) = (size.width, size.height);
    let pixels = u64::from(width) * u64::from(height);
    // The file once more, and one frame.
    let file = task.bytes.len() as u64;
    let one = pixels
        .saturating_mul(CHANNEL * channels)
        .saturating_add(HELD);
    task.admit(width as usize, height as usize, file.saturating_add(one))?;

    load_frame(&mut image, &mut source, pixels)?;
    let frames = bytes_of_frames(&image, channels).saturating_add(HELD);
    let working = file.saturating_add(frames);
    task.admit(width as usize, height as usize, working)?;
    // The limit must not overflow with what it was.
    tracker.expand_limit(usize::try_from(frames).unwrap_or(usize::MAX / 2));
    check_drawings(&image, pixels)?;
    choose_colours(&mut image)?;
    render(&image, task)
}

/// The error for a file that cannot be decoded.
fn refused(why: impl std::fmt::Display) -> Error {
    damaged(ImageFormat::Jxl, why)
}

/// Colours, and what else there is for each pixel.
fn channels(header: &ImageHeader) -> Result<u64> {
    match header.metadata.ec_info.len() {
        n @ 0..=MAX_EXTRA => Ok(3 + n as u64),
        n => Err(refused(format!(
            "it has {n} channels beside its colours, more than the limit of {MAX_EXTRA}"
        ))),
    }
}

/// The parts of a file that are the picture, without the boxes for anything else.
fn codestream(bytes: &[u8]) -> Result<Vec<&[u8]>> {
    /// The bit of the last part.
    const LAST: u32 = 1 << 31;
    let Some(mut rest) = bytes.strip_prefix(CONTAINER) else {
        return Ok(vec![bytes]);
    };
    let mut parts = BTreeMap::new();
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let [len, name] = [0, 4].map(|at| [head[at], head[at + 1], head[at + 2], head[at + 3]]);
        // Short lengths count the head; 1 says that a long one follows, 0 that this is the last box.
        let (after, len) = match (u32::from_be_bytes(len), after.split_first_chunk::<8>()) {
            (0, _) => (after, Some(after.len() as u64)),
            (1, Some((long, after))) => (after, u64::from_be_bytes(*long).checked_sub(16)),
            (short, _) => (after, u64::from(short).checked_sub(8)),
        };
        let len = len.ok_or_else(|| refused("a box is shorter than its head"))?;
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(after.len());
        let (data, next) = after.split_at(len);
        let mut add = |number: u32, data| match parts.insert(number, data) {
            None => Ok(()),
            Some(_) => Err(refused("a part of the picture is there twice")),
        };
        match &name {
            b"jxlc" => add(0, data)?,
            b"jxlp" => {
                let (number, data) = data
                    .split_first_chunk()
                    .ok_or_else(|| refused("a part of it has no number"))?;
                add(u32::from_be_bytes(*number) & !LAST, data)?;
            }
            _ => {}
        }
        rest = next;
    }
    if parts.keys().copied().ne(0..parts.len() as u32) || parts.is_empty() {
        return Err(refused("a part of the picture is missing"));
    }
    Ok(parts.into_values().collect())
}

/// Fails for a colour profile that would take much memory.
fn check_profile(parts: &[&[u8]]) -> Result<()> {
    /// More than any header has, which is at most 256 descriptions of channels.
    const MAX_HEADER: usize = 1 << 20;
    let mut head = Vec::new();
    for part in parts {
        let room = MAX_HEADER - head.len();
        head.extend_from_slice(&part[..part.len().min(room)]);
    }
    let mut bits = Bitstream::new(&head);
    let header = ImageHeader::parse(&mut bits, ()).map_err(refused)?;
    if !header.metadata.colour_encoding.want_icc() {
        return Ok(());
    }
    match bits.read_u64() {
        Ok(len) if len <= MAX_PROFILE => Ok(()),
        Ok(len) => Err(refused(format!(
            "its colour profile has {len} bytes, more than the limit of {MAX_PROFILE}"
        ))),
        Err(e) => Err(refused(e)),
    }
}

/// The bytes of the picture, to be handed over piece by piece.
struct Source<'p> {
    parts: std::slice::Iter<'p, &'p [u8]>,
    rest: &'p [u8],
}

impl<'p> Source<'p> {
    fn new(parts: &'p [&'p [u8]]) -> Self {
        Source {
            parts: parts.iter(),
            rest: &[],
        }
    }

    /// At most `len` bytes more; nothing at the end.
    fn next(&mut self, len: usize) -> Option<&'p [u8]> {
        while self.rest.is_empty() {
            self.rest = self.parts.next()?;
        }
        let (piece, rest) = self.rest.split_at(self.rest.len().min(len));
        self.rest = rest;
        Some(piece)
    }
}

/// Reads the header and the colour profile.
fn open(source: &mut Source, tracker: &AllocTracker) -> Result<JxlImage> {
    let mut builder = JxlImage::builder()
        .alloc_tracker(tracker.clone())
        .build_uninit();
    let mut len = PIECE;
    loop {
        let piece = source.next(len).ok_or_else(|| refused(CUT))?;
        feed(piece, |piece| builder.feed_bytes(piece))?;
        match builder.try_init().map_err(refused)? {
            InitializeResult::Initialized(image) => return Ok(image),
            // It begins anew each time, so twice as much each time.
            InitializeResult::NeedMoreData(same) => builder = same,
        }
        len = len.saturating_mul(2);
    }
}

const CUT: &str = "it ends before its pixels do";

/// Hands over all of `piece`.
fn feed(mut piece: &[u8], mut take: impl FnMut(&[u8]) -> jxl_oxide::Result<usize>) -> Result<()> {
    while !piece.is_empty() {
        match take(piece).map_err(refused)? {
            // What comes after the last frame.
            0 => return Ok(()),
            n => piece = &piece[n.min(piece.len())..],
        }
    }
    Ok(())
}

/// Loads frames until there is one to show.
fn load_frame(image: &mut JxlImage, source: &mut Source, pixels: u64) -> Result<()> {
    loop {
        if frames(image).count() > MAX_FRAMES {
            return Err(refused(format!(
                "it is made of more than {MAX_FRAMES} frames"
            )));
        }
        let areas = frames(image).map(|frame| area(frame.header()));
        if areas.fold(0, u64::saturating_add) > MAX_COVERS * pixels.max(SMALL) {
            return Err(refused(format!(
                "its frames cover it more than {MAX_COVERS} times"
            )));
        }
        if image.num_loaded_keyframes() > 0 {
            return Ok(());
        }
        let piece = source.next(PIECE).ok_or_else(|| refused(CUT))?;
        feed(piece, |piece| image.feed_bytes(piece))?;
    }
}

/// The frames that were loaded, or are being loaded, up to the first one that is shown.
fn frames(image: &JxlImage) -> impl Iterator<Item = &Frame> {
    let shown = image.frame_by_keyframe(0).map(|frame| frame.index());
    let indices = 0..=shown.unwrap_or(usize::MAX - 1);
    indices.map_while(move |index| image.frame(index).map(|frame| &**frame))
}

/// Pixels of a frame, whose edges are below 2^30.
fn area(header: &FrameHeader) -> u64 {
    u64::from(header.width) * u64::from(header.height)
}

/// Bytes that the frames take while they are decoded, all at once.
fn bytes_of_frames(image: &JxlImage, channels: u64) -> u64 {
    let bytes = frames(image).map(Frame::header).map(|header| {
        let patches = match header.flags.patches() {
            true => PATCHES + PATCH_CHANNEL * channels,
            false => 0,
        };
        area(header).saturating_mul(CHANNEL * channels + patches)
    });
    bytes.fold(0, u64::saturating_add)
}

/// Fails for frames on which more is drawn than decoding them takes: patches of other frames, and
/// curves, of which a few bytes may fill the picture thousands of times.
fn check_drawings(image: &JxlImage, pixels: u64) -> Result<()> {
    let most = MAX_COVERS * pixels.max(SMALL);
    let mut drawn = 0u64;
    for frame in frames(image) {
        let header = frame.header();
        if header.flags.splines() {
            return Err(refused(
                "it has curves drawn on it (splines), which are not supported; `djxl IN OUT.png` converts it",
            ));
        }
        if !header.flags.patches() {
            continue;
        }
        let global = frame.try_parse_lf_global::<i32>();
        let global = global.ok_or_else(|| refused(CUT))?.map_err(refused)?;
        for patch in global.patches.iter().flat_map(|patches| &patches.patches) {
            // What lies outside is not drawn.
            let width = u64::from(patch.width.min(header.width));
            let height = u64::from(patch.height.min(header.height));
            let n = patch.patch_targets.len() as u64;
            drawn = drawn.saturating_add((width * height).saturating_mul(n));
        }
    }
    match drawn <= most {
        true => Ok(()),
        false => Err(refused(format!(
            "patches cover it more than {MAX_COVERS} times"
        ))),
    }
}

/// Asks for sRGB, where the file says which other colours it has without a profile; profiles are not
/// applied.
fn choose_colours(image: &mut JxlImage) -> Result<()> {
    let metadata = &image.image_header().metadata;
    let has_own_colours = match &metadata.colour_encoding {
        ColourEncoding::Enum(encoding) => !is_as_srgb(encoding),
        // The pixels are in the format's own colours, which no profile is needed for.
        ColourEncoding::IccProfile(_) => metadata.xyb_encoded,
    };
    if has_own_colours {
        let intent = RenderingIntent::Relative;
        image.request_color_encoding(match image.image_header().metadata.grayscale() {
            true => EnumColourEncoding::gray_srgb(intent),
            false => EnumColourEncoding::srgb(intent),
        });
    }
    match image.pixel_format() {
        PixelFormat::Cmyk | PixelFormat::Cmyka => Err(refused(
            "it has colours for printing (CMYK), which are not supported; `djxl IN OUT.png` converts it",
        )),
        _ => Ok(()),
    }
}

/// Whether its numbers are taken for sRGB as they are: what PNG files say with a gamma of 1/2.2 counts
/// as that, as it does in PNG files.
fn is_as_srgb(encoding: &EnumColourEncoding) -> bool {
    let is_curve = match encoding.tf {
        TransferFunction::Srgb => true,
        TransferFunction::Gamma { g, inverted } => inverted && (4_500_000..=4_600_000).contains(&g),
        _ => false,
    };
    let is_gamut = match encoding.colour_space {
        ColourSpace::Rgb => {
            matches!(encoding.white_point, WhitePoint::D65)
                && matches!(encoding.primaries, Primaries::Srgb)
        }
        ColourSpace::Grey => true,
        _ => false,
    };
    is_curve && is_gamut
}

/// Decodes the frame that is shown.
fn render(image: &JxlImage, task: &Task<'_>) -> Result<Picture> {
    let frame = image.render_frame(0).map_err(refused)?;
    let mut stream = frame.stream();
    let (width, height) = (stream.width() as usize, stream.height() as usize);
    let channels = stream.channels() as usize;
    let mut alphas = image.image_header().metadata.ec_info.iter();
    let layout = SampleLayout {
        channels,
        depth: Depth::Eight,
        is_clipped: false,
        is_premultiplied: alphas.find_map(|info| info.alpha_associated()) == Some(true),
    };
    let mut samples = zeros((width * height * channels) as u64)?;
    if stream.write_to_buffer(&mut samples) != samples.len() {
        return Err(refused(CUT));
    }
    layout.picture(task.reading, width, height, samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxes(parts: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = CONTAINER.to_vec();
        for (name, data) in parts {
            bytes.extend((data.len() as u32 + 8).to_be_bytes());
            bytes.extend(*name);
            bytes.extend(*data);
        }
        bytes
    }

    #[test]
    fn only_boxes_of_the_picture_count() {
        let bytes = boxes(&[
            (b"ftyp", b"jxl "),
            (b"jxlp", b"\x80\0\0\x01two"),
            (b"brob", b"Exif\xff\xff"),
            (b"jxlp", b"\0\0\0\0one"),
        ]);
        assert_eq!(codestream(&bytes).unwrap(), [b"one", b"two"]);
        assert_eq!(codestream(b"\xff\x0aall").unwrap(), [b"\xff\x0aall"]);
        // Lengths of 64 bits, to the end of the file, and beyond it.
        let long = [CONTAINER, b"\0\0\0\x01jxlc\0\0\0\0\0\0\0\x12ab"].concat();
        assert_eq!(codestream(&long).unwrap(), [b"ab"]);
        let last = [CONTAINER, b"\0\0\0\0jxlcabc"].concat();
        assert_eq!(codestream(&last).unwrap(), [b"abc"]);
        let beyond = [CONTAINER, b"\xff\0\0\0jxlcabc"].concat();
        assert_eq!(codestream(&beyond).unwrap(), [b"abc"]);
        for bad in [
            &b"\0\0\0\x07jxlcabc"[..],
            b"\0\0\0\x01jxlc\0\0\0\0\0\0\0\x0f",
            b"",
        ] {
            assert!(codestream(&[CONTAINER, bad].concat()).is_err());
        }
    }

    #[test]
    fn pieces_cross_parts() {
        let parts: [&[u8]; 3] = [b"abc", b"", b"de"];
        let mut source = Source::new(&parts);
        let mut pieces = std::iter::from_fn(|| source.next(2));
        let wanted: [&[u8]; 3] = [b"ab", b"c", b"de"];
        assert!(pieces.by_ref().eq(wanted));
    }
}
