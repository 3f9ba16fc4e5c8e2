//! What a file is, told by its content.

use std::fmt;

/// A picture format that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ImageFormat {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
    Qoi,
    Jxl,
}

/// The formats of [`ImageFormat`], for messages.
pub(crate) const FORMATS: &str = "JPEG, PNG, WebP, GIF, BMP, TIFF, QOI and JPEG XL";

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImageFormat::Jpeg => "JPEG",
            ImageFormat::Png => "PNG",
            ImageFormat::WebP => "WebP",
            ImageFormat::Gif => "GIF",
            ImageFormat::Bmp => "BMP",
            ImageFormat::Tiff => "TIFF",
            ImageFormat::Qoi => "QOI",
            ImageFormat::Jxl => "JPEG XL",
        })
    }
}

/// What the beginning of a file says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileContent {
    /// A picture that can be decoded.
    Picture(ImageFormat),
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
const BEGINNINGS: &[(&[u8], FileContent)] = &[
    (b"\xff\xd8\xff", FileContent::Picture(ImageFormat::Jpeg)),
    (b"\x89PNG\r\n\x1a\n", FileContent::Picture(ImageFormat::Png)),
    (b"GIF87a", FileContent::Picture(ImageFormat::Gif)),
    (b"GIF89a", FileContent::Picture(ImageFormat::Gif)),
    (b"qoif", FileContent::Picture(ImageFormat::Qoi)),
    // Camera files that would pass as TIFF, whose first picture is a small one.
    (b"IIRO", foreign("an Olympus camera file", RAW)),
    (b"IIRS", foreign("an Olympus camera file", RAW)),
    (b"MMOR", foreign("an Olympus camera file", RAW)),
    (b"IIU\0", foreign("a Panasonic camera file", RAW)),
    (b"FUJIFILMCCD-RAW", foreign("a Fujifilm camera file", RAW)),
    (b"II*\0", FileContent::Picture(ImageFormat::Tiff)),
    (b"MM\0*", FileContent::Picture(ImageFormat::Tiff)),
    (b"II+\0", foreign("BigTIFF", "magick 'IN[0]' OUT.png")),
    (b"MM\0+", foreign("BigTIFF", "magick 'IN[0]' OUT.png")),
    (b"\xff\x0a", FileContent::Picture(ImageFormat::Jxl)),
    (
        b"\0\0\0\x0cJXL \r\n\x87\n",
        FileContent::Picture(ImageFormat::Jxl),
    ),
    (b"\0\0\0\x0cjP  \r\n\x87\n", foreign("JPEG 2000", MAGICK)),
    (b"\xff\x4f\xff\x51", foreign("JPEG 2000", MAGICK)),
    (
        b"\xff\xd8",
        FileContent::Other("cut off in its first bytes"),
    ),
    (b"II\xbc\x01", foreign("JPEG XR", MAGICK)),
    (
        b"8BPS",
        foreign("PSD (Photoshop)", "magick 'IN[0]' OUT.png"),
    ),
    (b"gimp xcf ", foreign("XCF (GIMP)", MAGICK)),
    (b"%PDF", other("PDF", "pdftoppm -png IN OUT")),
    (b"%!PS", other("PostScript", MAGICK)),
    (b"\xc5\xd0\xd3\xc6", other("PostScript", MAGICK)),
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
        FileContent::Other("a Git LFS pointer: run git lfs pull"),
    ),
    (b"GGUF", FileContent::Other("a model file")),
    (
        b"PK\x03\x04",
        FileContent::Other("a ZIP archive or office document"),
    ),
    (b"\x1f\x8b", FileContent::Other("compressed by gzip")),
    (b"7z\xbc\xaf\x27\x1c", FileContent::Other("a 7z archive")),
    (b"Rar!", FileContent::Other("a RAR archive")),
];

const fn foreign(name: &'static str, command: &'static str) -> FileContent {
    FileContent::Foreign(Foreign {
        name,
        command,
        is_picture: true,
    })
}

const fn other(name: &'static str, command: &'static str) -> FileContent {
    FileContent::Foreign(Foreign {
        name,
        command,
        is_picture: false,
    })
}

/// What the file is that begins with `head`: [`HEAD`] bytes of it, or all.
pub(crate) fn content(head: &[u8]) -> FileContent {
    let beginning = BEGINNINGS.iter().find(|(bytes, _)| head.starts_with(bytes));
    match beginning {
        Some((_, FileContent::Picture(ImageFormat::Tiff))) if head.get(8..10) == Some(b"CR") => {
            foreign("CR2 (Canon camera file)", RAW)
        }
        Some((_, content)) => *content,
        None if head.starts_with(b"RIFF") => riff(head),
        None if head.get(4..8) == Some(b"ftyp") => boxes(head),
        None if is_bitmap(head) => FileContent::Picture(ImageFormat::Bmp),
        None if is_portable_map(head) => foreign("PBM, PGM or PPM", MAGICK),
        None if is_icon(head, 1) => foreign("ICO", "magick 'IN[0]' OUT.png"),
        None if is_icon(head, 2) => foreign("CUR", "magick 'IN[0]' OUT.png"),
        None if is_targa(head) => foreign("TGA", "magick TGA:IN OUT.png"),
        None if is_pcx(head) => foreign("PCX", "magick PCX:IN OUT.png"),
        None if is_sgi(head) => foreign("SGI", "magick SGI:IN OUT.png"),
        None => text(head),
    }
}

fn riff(head: &[u8]) -> FileContent {
    match head.get(8..12) {
        Some(b"WEBP") => FileContent::Picture(ImageFormat::WebP),
        Some(b"AVI ") => other("an AVI video", VIDEO),
        _ => FileContent::Other("a RIFF file without a picture"),
    }
}

/// Files of boxes, ISO/IEC 14496-12: the first box lists what the file agrees with.
fn boxes(head: &[u8]) -> FileContent {
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

/// "P1" to "P7", space, and a width or a comment; a key in the last of them.
fn is_portable_map(head: &[u8]) -> bool {
    let [b'P', kind @ b'1'..=b'7', rest @ ..] = head else {
        return false;
    };
    let header = rest.trim_ascii_start();
    let keys: [&[u8]; 5] = [b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL", b"TUPLTYPE"];
    let is_header = match header.first() {
        Some(b'#' | b'0'..=b'9') => true,
        _ => *kind == b'7' && keys.iter().any(|key| header.starts_with(key)),
    };
    header.len() < rest.len() && is_header
}

/// Icons (1) and pointers (2): how many there are, and the entry of the first.
fn is_icon(head: &[u8], kind: u8) -> bool {
    const ENTRY: u32 = 16;
    let Some((&[0, 0, tag, 0, n0, n1, _, _, _, reserved], rest)) = head.split_first_chunk() else {
        return false;
    };
    let Some(&[_, _, _, _, s0, s1, s2, s3, o0, o1, o2, o3]) = rest.first_chunk() else {
        return false;
    };
    let n = u32::from(u16::from_le_bytes([n0, n1]));
    let size = u32::from_le_bytes([s0, s1, s2, s3]);
    let offset = u32::from_le_bytes([o0, o1, o2, o3]);
    // Some writers have 255 where nothing should be.
    let is_entry = [0, 255].contains(&reserved) && size > 0 && offset >= 6 + ENTRY * n;
    tag == kind && n > 0 && is_entry
}

/// TGA has no mark at its beginning: whether all of its header makes sense.
fn is_targa(head: &[u8]) -> bool {
    let Some(
        &[
            _,
            map,
            kind,
            _,
            _,
            m0,
            m1,
            map_bits,
            _,
            _,
            _,
            _,
            w0,
            w1,
            h0,
            h1,
            bits,
            flags,
        ],
    ) = head.first_chunk()
    else {
        return false;
    };
    let has_map = match map {
        0 => false,
        1 if [15, 16, 24, 32].contains(&map_bits) && [m0, m1] != [0, 0] => true,
        _ => return false,
    };
    let is_kind = match kind {
        1 | 9 => has_map && bits == 8,
        2 | 10 => [15, 16, 24, 32].contains(&bits),
        3 | 11 => [8, 16].contains(&bits),
        _ => false,
    };
    let is_size = [w0, w1] != [0, 0] && [h0, h1] != [0, 0];
    // Bits of alpha, where the first row is, and two that are unused.
    is_kind && is_size && flags & 15 <= 8 && flags & 0xc0 == 0
}

fn is_pcx(head: &[u8]) -> bool {
    const RESERVED: usize = 64;
    let is_marked = matches!(head, [10, 0 | 2..=5, 0 | 1, 1 | 2 | 4 | 8, ..]);
    is_marked && matches!(head.get(RESERVED..), Some([0, 1..=4, ..]))
}

fn is_sgi(head: &[u8]) -> bool {
    matches!(head, [1, 0xda, 0 | 1, 1 | 2, 0, 1..=3, ..])
}

/// Files of text that show something.
fn text(head: &[u8]) -> FileContent {
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let lower = text
        .get(..text.len().min(15))
        .unwrap_or_default()
        .to_ascii_lowercase();
    if text.contains("<svg") && text.starts_with('<') {
        foreign("SVG", "rsvg-convert -o OUT.png IN")
    } else if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        FileContent::Other("a web page")
    } else {
        FileContent::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_files_of_boxes_apart() {
        let name = |bytes: &[u8]| match content(bytes) {
            FileContent::Foreign(foreign) => foreign.name,
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
    fn formats_without_a_mark_are_told_by_their_whole_header() {
        let name = |bytes: &[u8]| match content(bytes) {
            FileContent::Foreign(foreign) => Some(foreign.name),
            _ => None,
        };
        let icon = |kind, n, size, offset| {
            let entry = [16, 16, 0, 0, 1, 0, 32, 0, size, 0, 0, 0, offset, 0, 0, 0];
            name(&[&[0, 0, kind, 0, n, 0][..], &entry].concat())
        };
        assert_eq!(icon(1, 1, 40, 22), Some("ICO"));
        assert_eq!(icon(2, 2, 40, 38), Some("CUR"));
        for (n, size, offset) in [(0, 40, 22), (1, 0, 22), (2, 40, 22)] {
            assert_eq!(icon(1, n, size, offset), None);
        }

        let targa = |map: [u8; 5], kind, bits, flags| {
            let [has_map, rest @ ..] = map;
            let head = [&[0, has_map, kind][..], &rest, &[0; 5]].concat();
            name(&[&head[..], &[64, 0, 48, 0, bits, flags]].concat())
        };
        let (none, some) = ([0; 5], [1, 0, 0, 0, 1]);
        assert_eq!(targa(none, 2, 24, 0), Some("TGA"));
        assert_eq!(targa(none, 10, 32, 0x28), Some("TGA"));
        assert_eq!(targa(none, 3, 8, 0), Some("TGA"));
        assert_eq!(targa(none, 2, 23, 0), None);
        assert_eq!(targa(none, 2, 24, 0xc0), None);
        assert_eq!(targa(none, 1, 8, 0), None);
        assert_eq!(targa(some, 1, 8, 0), None);
        let mut mapped = [&[0, 1, 1, 0, 0, 0, 1, 24][..], &[0; 4]].concat();
        mapped.extend([64, 0, 48, 0, 8, 0]);
        assert_eq!(name(&mapped), Some("TGA"));

        let mut pcx = [&[10, 5, 1, 8][..], &[0; 61], &[3, 0]].concat();
        assert_eq!(name(&pcx), Some("PCX"));
        pcx[64] = 1;
        assert_eq!(name(&pcx), None);
        assert_eq!(name(b"\x01\xda\x01\x01\0\x03\0\x40"), Some("SGI"));
        assert_eq!(name(b"\x01\xda\x07\x01\0\x03"), None);
        assert_eq!(name(&[0; 100]), None);

        for text in [
            "P6\n4 4\n255\n",
            "P5 # made\n4",
            "P7\nWIDTH 4\n",
            "P7 332\n",
        ] {
            assert!(name(text.as_bytes()).is_some(), "{text}");
        }
        for text in ["P3 agenda for Monday", "P7 WIDER", "P612", "P6", "P8 4 4"] {
            assert_eq!(name(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn texts_are_no_pictures_unless_they_draw_one() {
        assert_eq!(
            content(b"BMW is a car.\n and more text"),
            FileContent::Unknown
        );
        assert_eq!(content(b"Dear owl,"), FileContent::Unknown);
        assert_eq!(content(b""), FileContent::Unknown);
        assert_eq!(
            content(b"<!DOCTYPE HTML><p>"),
            FileContent::Other("a web page")
        );
        let svg = content(b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns=''/>");
        assert!(matches!(
            svg,
            FileContent::Foreign(Foreign { name: "SVG", .. })
        ));
        let cr2 = content(b"II*\0\x10\0\0\0CR\x02\0");
        assert!(matches!(cr2, FileContent::Foreign(_)), "{cr2:?}");
    }
}
