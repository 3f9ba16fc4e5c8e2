//! What a file is, told by its content.

use std::fmt;

/// A picture format that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
    Qoi,
}

/// The formats of [`Format`], for messages.
pub(crate) const FORMATS: &str = "JPEG, PNG, WebP, GIF, BMP, TIFF and QOI";

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::WebP => "WebP",
            Format::Gif => "GIF",
            Format::Bmp => "BMP",
            Format::Tiff => "TIFF",
            Format::Qoi => "QOI",
        })
    }
}

/// What the beginning of a file says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A picture that can be decoded.
    Picture(Format),
    /// Something that shows pictures and cannot be decoded.
    Foreign(Foreign),
    /// Something known that is no picture, by its name.
    Other(&'static str),
    Unknown,
}

/// A picture format that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// Its name.
    pub name: &'static str,
    /// The command that makes a picture of it that can be.
    pub command: &'static str,
    /// Whether it is a picture first of all, unlike a video or a document.
    pub is_picture: bool,
}

/// Bytes of the beginning of a file that [`content`] wants to see.
pub(crate) const HEAD: usize = 4096;

const MAGICK: &str = "magick IN OUT.png";
const RAW: &str = "exiftool -b -PreviewImage IN > OUT.jpg";
const VIDEO: &str = "ffmpeg -i IN -frames:v 1 OUT.png";

/// Beginnings of files that say all.
const BEGINNINGS: &[(&[u8], Content)] = &[
    (b"\xff\xd8\xff", Content::Picture(Format::Jpeg)),
    (b"\x89PNG\r\n\x1a\n", Content::Picture(Format::Png)),
    (b"GIF87a", Content::Picture(Format::Gif)),
    (b"GIF89a", Content::Picture(Format::Gif)),
    (b"qoif", Content::Picture(Format::Qoi)),
    // Camera files that would pass as TIFF, whose first picture is a small one.
    (b"IIRO", foreign("an Olympus camera file", RAW)),
    (b"IIRS", foreign("an Olympus camera file", RAW)),
    (b"MMOR", foreign("an Olympus camera file", RAW)),
    (b"IIU\0", foreign("a Panasonic camera file", RAW)),
    (b"FUJIFILMCCD-RAW", foreign("a Fujifilm camera file", RAW)),
    (b"II*\0", Content::Picture(Format::Tiff)),
    (b"MM\0*", Content::Picture(Format::Tiff)),
    (b"II+\0", foreign("BigTIFF", "magick 'IN[0]' OUT.png")),
    (b"MM\0+", foreign("BigTIFF", "magick 'IN[0]' OUT.png")),
    (b"\xff\x0a", foreign("JPEG XL", "djxl IN OUT.png")),
    (
        b"\0\0\0\x0cJXL \r\n\x87\n",
        foreign("JPEG XL", "djxl IN OUT.png"),
    ),
    (b"\0\0\0\x0cjP  \r\n\x87\n", foreign("JPEG 2000", MAGICK)),
    (b"\xff\x4f\xff\x51", foreign("JPEG 2000", MAGICK)),
    (b"\xff\xd8", Content::Other("cut off in its first bytes")),
    (b"II\xbc\x01", foreign("JPEG XR", MAGICK)),
    (
        b"8BPS",
        foreign("PSD (Photoshop)", "magick 'IN[0]' OUT.png"),
    ),
    (b"gimp xcf ", foreign("XCF (GIMP)", MAGICK)),
    (b"%PDF", other("PDF", "pdftoppm -png IN OUT")),
    (b"%!PS", other("PostScript", MAGICK)),
    (b"\xc5\xd0\xd3\xc6", other("PostScript", MAGICK)),
    (b"\0\0\x01\0", foreign("ICO", "magick 'IN[0]' OUT.png")),
    (b"\0\0\x02\0", foreign("CUR", "magick 'IN[0]' OUT.png")),
    (b"icns", foreign("ICNS", MAGICK)),
    (b"\x76\x2f\x31\x01", foreign("OpenEXR", MAGICK)),
    (b"#?RADIANCE", foreign("Radiance HDR", MAGICK)),
    (b"#?RGBE", foreign("Radiance HDR", MAGICK)),
    (b"DDS ", foreign("DDS", MAGICK)),
    (b"FLIF", foreign("FLIF", MAGICK)),
    (b"BPG\xfb", foreign("BPG", "bpgdec -o OUT.png IN")),
    (b"farbfeld", foreign("farbfeld", MAGICK)),
    (
        b"AT&TFORM",
        foreign("DjVu", "ddjvu -format=tiff IN OUT.tif"),
    ),
    (b"SIMPLE  =", foreign("FITS", MAGICK)),
    (b"\xd7\xcd\xc6\x9a", foreign("WMF", MAGICK)),
    (b"\x1a\x45\xdf\xa3", other("a Matroska video", VIDEO)),
    (
        b"version https://git-lfs",
        Content::Other("a Git LFS pointer: run git lfs pull"),
    ),
    (b"GGUF", Content::Other("a model file")),
    (
        b"PK\x03\x04",
        Content::Other("a ZIP archive or office document"),
    ),
    (b"\x1f\x8b", Content::Other("compressed by gzip")),
    (b"7z\xbc\xaf\x27\x1c", Content::Other("a 7z archive")),
    (b"Rar!", Content::Other("a RAR archive")),
];

const fn foreign(name: &'static str, command: &'static str) -> Content {
    Content::Foreign(Foreign {
        name,
        command,
        is_picture: true,
    })
}

const fn other(name: &'static str, command: &'static str) -> Content {
    Content::Foreign(Foreign {
        name,
        command,
        is_picture: false,
    })
}

/// What the file is that begins with `head`: [`HEAD`] bytes of it, or all.
pub(crate) fn content(head: &[u8]) -> Content {
    let beginning = BEGINNINGS.iter().find(|(bytes, _)| head.starts_with(bytes));
    match beginning {
        Some((_, Content::Picture(Format::Tiff))) if head.get(8..10) == Some(b"CR") => {
            foreign("CR2 (Canon camera file)", RAW)
        }
        Some((_, content)) => *content,
        None if head.starts_with(b"RIFF") => riff(head),
        None if head.get(4..8) == Some(b"ftyp") => boxes(head),
        None if is_bitmap(head) => Content::Picture(Format::Bmp),
        None if is_portable_map(head) => foreign("PBM, PGM or PPM", MAGICK),
        None => text(head),
    }
}

fn riff(head: &[u8]) -> Content {
    match head.get(8..12) {
        Some(b"WEBP") => Content::Picture(Format::WebP),
        Some(b"AVI ") => other("an AVI video", VIDEO),
        _ => Content::Other("a RIFF file without a picture"),
    }
}

/// Files of boxes, ISO/IEC 14496-12: the first box lists what the file agrees with.
fn boxes(head: &[u8]) -> Content {
    let len = head
        .first_chunk()
        .map_or(0, |len| u32::from_be_bytes(*len) as usize);
    let list = head.get(8..len.min(head.len())).unwrap_or_default();
    let (brands, _) = list.as_chunks::<4>();
    let has = |wanted: &[&[u8; 4]]| brands.iter().any(|brand| wanted.contains(&brand));
    let major = brands.first().copied().unwrap_or_default();
    if has(&[b"avif", b"avis"]) {
        foreign("AVIF", "avifdec IN OUT.png")
    } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"]) {
        foreign("HEIC", "heif-convert IN OUT.jpg")
    } else if has(&[b"mif1", b"msf1", b"mif2"]) {
        foreign("HEIF", "heif-convert IN OUT.jpg")
    } else if &major == b"crx " {
        foreign("CR3 (Canon camera file)", RAW)
    } else if &major == b"jp2 " {
        foreign("JPEG 2000", MAGICK)
    } else {
        other("a video", VIDEO)
    }
}

/// "BM", and the size of a header that there is.
fn is_bitmap(head: &[u8]) -> bool {
    head.starts_with(b"BM") && head.get(14..18).is_some_and(|size| size[1..] == [0; 3])
}

fn is_portable_map(head: &[u8]) -> bool {
    matches!(head, [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n', ..])
}

/// Files of text that show something.
fn text(head: &[u8]) -> Content {
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let lower = text
        .get(..text.len().min(15))
        .unwrap_or_default()
        .to_ascii_lowercase();
    if text.contains("<svg") && text.starts_with('<') {
        foreign("SVG", "rsvg-convert -o OUT.png IN")
    } else if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        Content::Other("a web page")
    } else {
        Content::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_files_of_boxes_apart() {
        let name = |bytes: &[u8]| match content(bytes) {
            Content::Foreign(foreign) => foreign.name,
            other => panic!("{other:?}"),
        };
        assert_eq!(name(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "HEIC");
        assert_eq!(name(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"), "HEIC");
        assert_eq!(name(b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf"), "HEIF");
        assert_eq!(name(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"), "AVIF");
        assert_eq!(name(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"), "a video");
        assert_eq!(
            name(b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom"),
            "CR3 (Canon camera file)"
        );
        // A box that claims to be shorter or longer than it is.
        assert_eq!(name(b"\0\0\0\x01ftypheic"), "a video");
        assert_eq!(name(b"\xff\xff\xff\xffftypheic"), "HEIC");
    }

    #[test]
    fn texts_are_no_pictures_unless_they_draw_one() {
        assert_eq!(content(b"BMW is a car.\n and more text"), Content::Unknown);
        assert_eq!(content(b"Dear owl,"), Content::Unknown);
        assert_eq!(content(b""), Content::Unknown);
        assert_eq!(content(b"<!DOCTYPE HTML><p>"), Content::Other("a web page"));
        let svg = content(b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns=''/>");
        assert!(matches!(svg, Content::Foreign(Foreign { name: "SVG", .. })));
        let cr2 = content(b"II*\0\x10\0\0\0CR\x02\0");
        assert!(matches!(cr2, Content::Foreign(_)), "{cr2:?}");
    }
}
