//! Markers, and the segments of tables between them.

use super::{BLOCK, bad};
use crate::error::{Error, Result};

/// Where in a block the coefficients of a file go. Run lengths of a damaged file may lead up to 15
/// beyond the end, all of which go to the last place.
pub(super) const NATURAL_ORDER: [u8; BLOCK + 16] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
    63, 63, 63, 63, 63, 63,
];

/// Slots for tables of each sort.
const SLOTS: usize = 4;

/// Slots of arithmetic conditioning.
const CONDITIONING_SLOTS: usize = 16;

/// What a marker begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// The end of the picture.
    EndOfImage,
    /// Nothing; a restart out of its place, for example.
    Alone,
    /// A frame header of a process.
    Frame(Process),
    /// A scan.
    Scan,
    /// A segment of this code.
    Segment(u8),
}

/// How a frame is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub is_progressive: bool,
    pub is_arithmetic: bool,
}

/// The bytes of a file, with the place that reading has come to.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
    /// A marker that entropy-coded data ran into and that nobody has dealt with.
    pub pending: Option<u8>,
    /// Whether more was asked for than there is.
    pub is_truncated: bool,
}

impl<'a> Segments<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        if !bytes.starts_with(&[0xff, 0xd8]) {
            return Err(bad("it does not begin as one"));
        }
        Ok(Segments {
            bytes,
            at: 2,
            pending: None,
            is_truncated: false,
        })
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte.ok_or_else(|| self.truncated())
    }

    /// The code of the next marker. Bytes before it are skipped, as libjpeg and Pillow do.
    pub fn next_code(&mut self) -> Result<u8> {
        loop {
            while self.byte()? != 0xff {}
            let mut code = self.byte()?;
            while code == 0xff {
                code = self.byte()?;
            }
            if code != 0 {
                return Ok(code);
            }
        }
    }

    /// The next marker, or the one that is pending.
    pub fn next_marker(&mut self) -> Result<Marker> {
        let code = match self.pending.take() {
            Some(code) => code,
            None => self.next_code()?,
        };
        let process = |is_progressive, is_arithmetic| {
            Ok(Marker::Frame(Process {
                is_progressive,
                is_arithmetic,
            }))
        };
        match code {
            0xc0 | 0xc1 => process(false, false),
            0xc2 => process(true, false),
            0xc9 => process(false, true),
            0xca => process(true, true),
            0xc3 | 0xc7 | 0xcb | 0xcf => Err(bad("lossless JPEG is not supported")),
            0xc5 | 0xc6 | 0xcd | 0xce => Err(bad("hierarchical JPEG is not supported")),
            0xd9 => Ok(Marker::EndOfImage),
            0xda => Ok(Marker::Scan),
            0x01 | 0xd0..=0xd7 => Ok(Marker::Alone),
            0xc4 | 0xcc | 0xdb..=0xdd | 0xe0..=0xef | 0xfe => Ok(Marker::Segment(code)),
            _ => Err(bad(format!("a marker of the unknown type {code:#04x}"))),
        }
    }

    /// The contents of the segment that follows a marker.
    pub fn segment(&mut self) -> Result<&'a [u8]> {
        let len = usize::from(u16::from_be_bytes([self.byte()?, self.byte()?]));
        // libjpeg takes a length of less than itself for nothing.
        let len = len.saturating_sub(2);
        let segment = self.bytes.get(self.at..self.at + len);
        self.at += len;
        segment.ok_or_else(|| self.truncated())
    }

    fn truncated(&mut self) -> Error {
        self.is_truncated = true;
        bad("the file is truncated")
    }

    /// The next byte of entropy-coded data; `None` from the next marker on, which is then pending.
    pub fn coded_byte(&mut self) -> Result<Option<u8>> {
        if self.pending.is_some() {
            return Ok(None);
        }
        match self.byte()? {
            0xff => {}
            byte => return Ok(Some(byte)),
        }
        let mut code = self.byte()?;
        while code == 0xff {
            code = self.byte()?;
        }
        Ok(match code {
            0 => Some(0xff),
            _ => {
                self.pending = Some(code);
                None
            }
        })
    }

    /// The next eight bytes of entropy-coded data where none of them is special, and what to do to
    /// take some of them.
    pub fn plain_bytes(&self) -> Option<u64> {
        const ONES: u64 = u64::MAX / 0xff;
        if self.pending.is_some() {
            return None;
        }
        let (bytes, _) = self.bytes.get(self.at..)?.split_first_chunk()?;
        let word = u64::from_be_bytes(*bytes);
        // A byte of 0xff is a zero in the complement.
        let has_zero = (!word).wrapping_sub(ONES) & word & (ONES << 7);
        (has_zero == 0).then_some(word)
    }

    /// Goes past bytes of [`plain_bytes`](Self::plain_bytes).
    pub fn skip(&mut self, n_bytes: usize) {
        self.at += n_bytes;
    }
}

/// A Huffman table as it stands in a file.
#[derive(Clone)]
pub(super) struct HuffmanSpec {
    /// Codes of each length from 1 to 16.
    pub counts: [u8; 16],
    /// Symbols in the order of their codes.
    pub symbols: Vec<u8>,
}

/// Conditioning of arithmetic decoding.
#[derive(Clone)]
pub(super) struct Conditioning {
    /// Lower and upper bound of differences that count as small.
    pub dc: [(u8, u8); CONDITIONING_SLOTS],
    /// Where high frequencies begin.
    pub ac: [u8; CONDITIONING_SLOTS],
}

/// What segments set for the scans that follow.
pub(super) struct Tables {
    quant: [Option<[u16; BLOCK]>; SLOTS],
    pub dc: [Option<HuffmanSpec>; SLOTS],
    pub ac: [Option<HuffmanSpec>; SLOTS],
    pub conditioning: Conditioning,
    pub restart_interval: u16,
    pub is_jfif: bool,
    /// The colour transform that Adobe's segment names.
    pub adobe: Option<u8>,
}

impl Default for Tables {
    fn default() -> Self {
        Tables {
            quant: [None; SLOTS],
            dc: [const { None }; SLOTS],
            ac: [const { None }; SLOTS],
            conditioning: Conditioning {
                dc: [(0, 1); CONDITIONING_SLOTS],
                ac: [5; CONDITIONING_SLOTS],
            },
            restart_interval: 0,
            is_jfif: false,
            adobe: None,
        }
    }
}

impl Tables {
    /// The quantization table in a slot, in natural order.
    pub fn quant(&self, slot: usize) -> Result<[u16; BLOCK]> {
        let table = self.quant.get(slot).copied().flatten();
        table.ok_or_else(|| bad(format!("the quantization table {slot} is missing")))
    }

    /// Whether segments of this code hold tables, rather than notes and data of applications.
    pub fn are_in(code: u8) -> bool {
        matches!(code, 0xc4 | 0xcc | 0xdb | 0xdd)
    }

    /// Takes in what the segment `code` holds.
    pub fn read(&mut self, code: u8, segment: &[u8]) -> Result<()> {
        match code {
            0xc4 => self.huffman(segment),
            0xcc => self.conditioning(segment),
            0xdb => self.quantization(segment),
            0xdd => match *segment {
                [high, low] => {
                    self.restart_interval = u16::from_be_bytes([high, low]);
                    Ok(())
                }
                _ => Err(bad("the restart interval has a wrong length")),
            },
            0xe0 if segment.len() >= 14 && segment.starts_with(b"JFIF\0") => {
                self.is_jfif = true;
                Ok(())
            }
            0xee if segment.len() >= 12 && segment.starts_with(b"Adobe") => {
                self.adobe = Some(segment[11]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn huffman(&mut self, mut rest: &[u8]) -> Result<()> {
        let wrong = || bad("a Huffman table has a wrong length");
        while let Some((&class_and_slot, after)) = rest.split_first() {
            let (&counts, after) = after.split_first_chunk::<16>().ok_or_else(wrong)?;
            let n_symbols = counts.iter().map(|&n| usize::from(n)).sum::<usize>();
            if n_symbols > 256 {
                return Err(wrong());
            }
            let (symbols, after) = after.split_at_checked(n_symbols).ok_or_else(wrong)?;
            let tables = match class_and_slot >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return Err(bad("a Huffman table is of no known class")),
            };
            let slot = tables
                .get_mut(usize::from(class_and_slot & 15))
                .ok_or_else(|| bad("a Huffman table has a number above 3"))?;
            *slot = Some(HuffmanSpec {
                counts,
                symbols: symbols.to_vec(),
            });
            rest = after;
        }
        Ok(())
    }

    fn quantization(&mut self, mut rest: &[u8]) -> Result<()> {
        let wrong = || bad("a quantization table has a wrong length");
        while let Some((&precision_and_slot, after)) = rest.split_first() {
            let is_wide = precision_and_slot >> 4 != 0;
            let len = BLOCK << u32::from(is_wide);
            let (values, after) = after.split_at_checked(len).ok_or_else(wrong)?;
            let table = self
                .quant
                .get_mut(usize::from(precision_and_slot & 15))
                .ok_or_else(|| bad("a quantization table has a number above 3"))?
                .insert([0; BLOCK]);
            for (i, &place) in NATURAL_ORDER[..BLOCK].iter().enumerate() {
                table[usize::from(place)] = match is_wide {
                    true => u16::from_be_bytes([values[2 * i], values[2 * i + 1]]),
                    false => u16::from(values[i]),
                };
            }
            rest = after;
        }
        Ok(())
    }

    fn conditioning(&mut self, segment: &[u8]) -> Result<()> {
        let (pairs, rest) = segment.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(bad("arithmetic conditioning has a wrong length"));
        }
        for &[class_and_slot, value] in pairs {
            let slot = usize::from(class_and_slot & 15);
            match class_and_slot >> 4 {
                0 if value & 15 <= value >> 4 => {
                    self.conditioning.dc[slot] = (value & 15, value >> 4);
                }
                1 => self.conditioning.ac[slot] = value,
                _ => return Err(bad("arithmetic conditioning has impossible bounds")),
            }
        }
        Ok(())
    }
}
