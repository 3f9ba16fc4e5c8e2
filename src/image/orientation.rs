//! Which way up a picture is, as cameras and editors note it: in EXIF data, or where that says
//! nothing, in XMP's `tiff:Orientation`.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::decode::zeros;
use super::sniff::ImageFormat;
use super::{CHANNELS, Picture, jpeg};
use crate::error::Result;

/// Longest text of a PNG file to look into, decompressed, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// Most such texts.
const MAX_TEXTS: usize = 8;

/// The eight ways to lie, by EXIF's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orientation {
    /// Rows and columns are exchanged, at last.
    is_transposed: bool,
    /// The stored picture has its left on the right.
    is_mirrored: bool,
    /// It has its top at the bottom.
    is_upside_down: bool,
}

impl Orientation {
    /// What a number from 1 to 8 says; anything else says nothing.
    fn of_number(number: u32) -> Self {
        let (is_transposed, is_mirrored, is_upside_down) = match number {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, false, true),
            7 => (true, true, true),
            8 => (true, true, false),
            _ => (false, false, false),
        };
        Orientation {
            is_transposed,
            is_mirrored,
            is_upside_down,
        }
    }

    /// What a picture file says.
    pub fn of_file(format: ImageFormat, bytes: &[u8]) -> Self {
        let notes = match format {
            ImageFormat::Jpeg => of_jpeg(bytes),
            ImageFormat::Png => of_png(bytes),
            ImageFormat::WebP => of_webp(bytes),
            ImageFormat::Tiff => Notes {
                exif: exif_number(bytes),
                xmp: None,
            },
            // The decoder of JPEG XL does it: there it is part of the picture, and EXIF does not count.
            ImageFormat::Gif | ImageFormat::Bmp | ImageFormat::Qoi | ImageFormat::Jxl => {
                Notes::default()
            }
        };
        Self::of_number(notes.exif.or(notes.xmp).unwrap_or(1))
    }

    /// Whether the stored picture is upright.
    pub fn is_upright(self) -> bool {
        self == Self::default()
    }

    /// The picture upright.
    pub fn apply(self, picture: Picture) -> Result<Picture> {
        if self.is_upright() {
            return Ok(picture);
        }
        let (width, height) = match self.is_transposed {
            true => (picture.height, picture.width),
            false => (picture.width, picture.height),
        };
        let mut rgb = zeros((width * height * CHANNELS) as u64)?;
        let (stored, _) = picture.rgb.as_chunks::<CHANNELS>();
        let (pixels, _) = rgb.as_chunks_mut::<CHANNELS>();
        for (y, row) in pixels.chunks_exact_mut(width).enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                let (mut column, mut line) = if self.is_transposed { (y, x) } else { (x, y) };
                if self.is_mirrored {
                    column = picture.width - 1 - column;
                }
                if self.is_upside_down {
                    line = picture.height - 1 - line;
                }
                *pixel = stored[line * picture.width + column];
            }
        }
        Picture::from_rgb(width, height, rgb)
    }
}

/// The numbers of a file, from both sources.
#[derive(Default)]
struct Notes {
    exif: Option<u32>,
    xmp: Option<u32>,
}

fn of_jpeg(bytes: &[u8]) -> Notes {
    const EXIF: &[u8] = b"Exif\0\0";
    const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
    let segments = jpeg::application_segments(bytes);
    let exif: Vec<&[u8]> = segments
        .iter()
        .filter_map(|s| s.strip_prefix(EXIF))
        .collect();
    // More than 64 kB of it is spread over several segments; some writers add another of their own.
    let alone = || exif.iter().find_map(|data| exif_number(data));
    Notes {
        exif: exif_number(&exif.concat()).or_else(alone),
        xmp: segments
            .iter()
            .filter_map(|s| s.strip_prefix(XMP))
            .find_map(xmp_number),
    }
}

fn of_webp(bytes: &[u8]) -> Notes {
    let mut notes = Notes::default();
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let [name, len] = [0, 4].map(|at| [head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let len = u32::from_le_bytes(len) as usize;
        let data = after.get(..len).unwrap_or(after);
        match &name {
            b"EXIF" => notes.exif = notes.exif.or(exif_number(data)),
            b"XMP " => notes.xmp = notes.xmp.or(xmp_number(data)),
            _ => {}
        }
        // Chunks begin at even places.
        rest = after.get(len.saturating_add(len % 2)..).unwrap_or_default();
    }
    notes
}

fn of_png(bytes: &[u8]) -> Notes {
    let mut notes = Notes::default();
    let mut n_texts = 0;
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let [len, name] = [0, 4].map(|at| [head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let len = u32::from_be_bytes(len) as usize;
        let data = after.get(..len).unwrap_or(after);
        if &name == b"eXIf" {
            notes.exif = notes.exif.or(exif_number(data));
        } else if n_texts < MAX_TEXTS
            && let Some((keyword, text)) = png_text(&name, data)
        {
            n_texts += 1;
            match keyword {
                b"Raw profile type exif" | b"Raw profile type APP1" => {
                    let profile = raw_profile(&text);
                    notes.exif = notes.exif.or(exif_number(&profile));
                    notes.xmp = notes.xmp.or(xmp_number(&profile));
                }
                b"Raw profile type xmp" => {
                    notes.xmp = notes.xmp.or(xmp_number(raw_profile(&text)));
                }
                _ => notes.xmp = notes.xmp.or(xmp_number(&text)),
            }
        }
        // A checksum follows.
        rest = after.get(len.saturating_add(4)..).unwrap_or_default();
    }
    notes
}

/// Keyword and text of a chunk that may tell of orientation.
fn png_text<'a>(name: &[u8; 4], data: &'a [u8]) -> Option<(&'a [u8], Vec<u8>)> {
    let (keyword, rest) = split_at_zero(data)?;
    if keyword != b"XML:com.adobe.xmp" && !keyword.starts_with(b"Raw profile type ") {
        return None;
    }
    let text = match name {
        b"tEXt" => shortened(rest),
        b"zTXt" => inflated(rest.get(1..)?),
        b"iTXt" => {
            // Whether and how it is compressed, then language and translated keyword.
            let (&[is_compressed, _], rest) = rest.split_first_chunk()?;
            let (_, rest) = split_at_zero(rest)?;
            let (_, text) = split_at_zero(rest)?;
            match is_compressed {
                0 => shortened(text),
                _ => inflated(text),
            }
        }
        _ => return None,
    };
    Some((keyword, text))
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn shortened(text: &[u8]) -> Vec<u8> {
    text[..text.len().min(MAX_TEXT)].to_vec()
}

/// Decompresses as much as there is, up to [`MAX_TEXT`].
fn inflated(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    // What was read before an error is as good as any.
    let _ = ZlibDecoder::new(bytes)
        .take(MAX_TEXT as u64)
        .read_to_end(&mut text);
    text
}

/// The bytes of a profile as ImageMagick writes it: a name, a length, and hexadecimal digits.
fn raw_profile(text: &[u8]) -> Vec<u8> {
    let lines = text.split(|&byte| byte == b'\n').skip(3);
    let digits: Vec<u8> = lines
        .flatten()
        .filter_map(|&byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect();
    let (pairs, _) = digits.as_chunks::<2>();
    pairs.iter().map(|[high, low]| high << 4 | low).collect()
}

/// The number in EXIF data, which is a TIFF file without pixels, perhaps after the name that it has
/// in JPEG files.
fn exif_number(data: &[u8]) -> Option<u32> {
    const ORIENTATION: u32 = 0x112;
    tiff_number(data.strip_prefix(b"Exif\0\0").unwrap_or(data), ORIENTATION)
}

/// The first number of an entry in the first directory of a TIFF file.
pub(super) fn tiff_number(data: &[u8], tag: u32) -> Option<u32> {
    const ENTRY: usize = 12;
    let is_little = match data.first_chunk()? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, len: usize| {
        let bytes = data.get(at..at.checked_add(len)?)?;
        let append = |number: u32, &byte: &u8| number << 8 | u32::from(byte);
        Some(match is_little {
            true => bytes.iter().rev().fold(0, append),
            false => bytes.iter().fold(0, append),
        })
    };
    let directory = number(4, 4)? as usize;
    let n_entries = number(directory, 2)? as usize;
    let mut entries = (0..n_entries).map(|i| directory + 2 + i * ENTRY);
    let entry = entries.find(|&entry| number(entry, 2) == Some(tag))?;
    let len = match number(entry + 2, 2)? {
        // Bytes, words and long words, with and without sign.
        1 | 6 => 1,
        3 | 8 => 2,
        4 | 9 => 4,
        _ => return None,
    };
    let count = number(entry + 4, 4)? as usize;
    match count.checked_mul(len)? {
        0 => None,
        1..=4 => number(entry + 8, len),
        _ => number(number(entry + 8, 4)? as usize, len),
    }
}

/// The number in an XMP packet, as an attribute or an element.
fn xmp_number(packet: impl AsRef<[u8]>) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let packet = packet.as_ref();
    let mut at = 0;
    while let Some(found) = packet[at..].windows(NAME.len()).position(|w| w == NAME) {
        at += found + NAME.len();
        let mut rest = packet[at..].trim_ascii_start();
        if let Some(value) = rest.strip_prefix(b"=") {
            rest = value.trim_ascii_start();
        }
        if let [b'"' | b'\'' | b'>', value @ ..] = rest
            && let Some(digit) = value.trim_ascii_start().first()
            && digit.is_ascii_digit()
        {
            return Some(u32::from(digit - b'0'));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF data of one entry.
    fn exif(is_little: bool, kind: u16, count: u32, value: [u8; 4]) -> Vec<u8> {
        let order = |bytes: &[u8]| -> Vec<u8> {
            match is_little {
                true => bytes.iter().rev().copied().collect(),
                false => bytes.to_vec(),
            }
        };
        let mut data = if is_little {
            b"II*\0".to_vec()
        } else {
            b"MM\0*".to_vec()
        };
        data.extend(order(&8_u32.to_be_bytes()));
        data.extend(order(&1_u16.to_be_bytes()));
        data.extend(order(&0x112_u16.to_be_bytes()));
        data.extend(order(&kind.to_be_bytes()));
        data.extend(order(&count.to_be_bytes()));
        data.extend(value);
        data.extend([0; 4]);
        data
    }

    #[test]
    fn reads_all_that_writers_make_of_one_number() {
        let cases = [
            (false, 3, 1, [0, 6, 0, 0], Some(6)),
            (true, 3, 1, [6, 0, 0, 0], Some(6)),
            (false, 4, 1, [0, 0, 0, 6], Some(6)),
            (true, 4, 1, [6, 0, 0, 0], Some(6)),
            (true, 1, 1, [6, 0, 0, 0], Some(6)),
            (true, 3, 2, [6, 0, 1, 0], Some(6)),
            (true, 3, 0, [6, 0, 0, 0], None),
            (true, 2, 1, [6, 0, 0, 0], None),
            // A value somewhere else, which is not there.
            (true, 4, 2, [200, 0, 0, 0], None),
            (true, 4, u32::MAX, [200, 0, 0, 0], None),
        ];
        for (is_little, kind, count, value, wanted) in cases {
            let data = exif(is_little, kind, count, value);
            assert_eq!(exif_number(&data), wanted, "{is_little} {kind} {count}");
            let prefixed = [&b"Exif\0\0"[..], &data].concat();
            assert_eq!(exif_number(&prefixed), wanted);
            for len in 0..data.len() - 4 {
                assert_eq!(exif_number(&data[..len.min(18)]), None);
            }
        }
    }

    #[test]
    fn xmp_has_it_as_attribute_or_element() {
        for (packet, wanted) in [
            (&b"<x tiff:Orientation=\"6\"/>"[..], Some(6)),
            (b"<x tiff:Orientation = '8' />", Some(8)),
            (b"<tiff:Orientation> 3</tiff:Orientation>", Some(3)),
            (b"tiff:Orientation tiff:Orientation=\"5\"", Some(5)),
            (b"tiff:Orientation", None),
            (b"tiff:OrientationOf=\"6\"", None),
            (b"", None),
        ] {
            assert_eq!(xmp_number(packet), wanted);
        }
    }

    #[test]
    fn eight_numbers_turn_eight_ways() {
        // A picture of 3 by 2, whose pixels count from 0.
        let turned = [
            [0, 1, 2, 3, 4, 5],
            [2, 1, 0, 5, 4, 3],
            [5, 4, 3, 2, 1, 0],
            [3, 4, 5, 0, 1, 2],
            [0, 3, 1, 4, 2, 5],
            [3, 0, 4, 1, 5, 2],
            [5, 2, 4, 1, 3, 0],
            [2, 5, 1, 4, 0, 3],
        ];
        for (number, wanted) in (1..).zip(turned) {
            let rgb = (0..6).flat_map(|value| [value; CHANNELS]).collect();
            let picture = Picture::from_rgb(3, 2, rgb).unwrap();
            let upright = Orientation::of_number(number).apply(picture).unwrap();
            let values: Vec<u8> = upright.rgb.iter().step_by(CHANNELS).copied().collect();
            assert_eq!(values, wanted, "orientation {number}");
            assert_eq!(upright.width, if number > 4 { 2 } else { 3 });
        }
        for number in [0, 9, u32::MAX] {
            assert!(Orientation::of_number(number).is_upright());
        }
    }

    #[test]
    fn a_profile_of_imagemagick_is_hexadecimal() {
        let hex: String = b"Exif\0\0II"
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let text = format!("\nexif\n       8\n{}\n{}\n", &hex[..6], &hex[6..]);
        assert_eq!(raw_profile(text.as_bytes()), b"Exif\0\0II");
        assert_eq!(raw_profile(b"\nexif\n"), b"");
    }
}
