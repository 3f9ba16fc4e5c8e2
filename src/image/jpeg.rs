//! JPEG files to RGB, with the pixels of libjpeg-turbo, which the reference decodes with.
//!
//! Baseline, extended and progressive files of 8 bits, Huffman or arithmetic coding, any order of
//! scans, any sampling that libjpeg takes; gray, YCbCr, RGB, CMYK and YCCK. The inverse transform,
//! upsampling and colours are libjpeg-turbo's defaults in exact integers, so that an undamaged
//! file has the very pixels that Pillow shows.
//!
//! What is damaged is read as libjpeg reads it, and refused where Pillow refuses it; beyond that a
//! file is refused where a progressive picture is unfinished (libjpeg would make up smooth blocks),
//! and where much of the picture is missing ([`MAX_LOST`]). `docs/pictures.md` says why this is no
//! library's decoder.
//!
//! A file of one scan is decoded a row of blocks at a time and needs memory for little but the
//! result; one of several scans needs all coefficients at once ([`JpegHeader::working_bytes`]).

mod arithmetic;
mod bits;
mod color;
mod frame;
mod huffman;
mod idct;
mod progressive;
mod samples;
mod scan;
mod segments;
mod sequential;
mod upsample;

use std::ops::Range;

use super::decode::{Task, damaged, zeros};
use super::sniff::ImageFormat;
use super::{CHANNELS, Picture};
use crate::error::{Error, Result};
use color::Colors;
use frame::Frame;
use samples::Samples;
use scan::{Coefficients, Scan};
use segments::{Marker, Segments, Tables};

/// Coefficients, or samples, of a block of 8 by 8.
const BLOCK: usize = 64;

/// Edge of a block.
const EDGE: usize = 8;

/// Most scans to read. Each goes through the whole picture, and may be a few bytes in the file.
const MAX_SCANS: usize = 200;

/// How often scans may go through a picture that is not small. Encoders that look for the smallest
/// file have some 12 scans.
const MAX_PASSES: usize = 20;

/// Blocks that scans may go through in any picture, however often: a fraction of a second.
const FREE_BLOCKS: usize = 4_000_000;

/// A picture of which more than one part in this many is missing is not answered about.
const MAX_LOST: usize = 2;

/// What the headers of a file say, before anything is decoded.
struct JpegHeader {
    width: usize,
    height: usize,
    n_coefficients: usize,
    row_bytes: usize,
}

impl JpegHeader {
    /// Memory in bytes that decoding takes beside the result.
    fn working_bytes(&self) -> u64 {
        let of_coefficients = (self.n_coefficients as u64).saturating_mul(2);
        of_coefficients.saturating_add(self.row_bytes as u64)
    }
}

/// The error for a file that cannot be decoded.
fn bad(why: impl std::fmt::Display) -> Error {
    damaged(ImageFormat::Jpeg, why)
}

/// Reads the headers up to the first scan.
fn header(bytes: &[u8]) -> Result<JpegHeader> {
    let mut decoder = JpegDecoder::new(bytes)?;
    let Some(first) = decoder.next_scan()? else {
        return Err(bad("it holds no picture"));
    };
    let frame = decoder.frame()?;
    let blocks = |rows| n_blocks(&frame.components, frame, rows);
    let strip = BLOCK * blocks(1);
    let is_whole = first.components.len() < frame.components.len() || frame.is_progressive;
    Ok(JpegHeader {
        width: frame.width,
        height: frame.height,
        n_coefficients: match is_whole {
            true => BLOCK.saturating_mul(blocks(frame.mcus_down())),
            false => strip,
        },
        // Two rows of samples, and the upsampled ones.
        row_bytes: 2 * strip + 5 * CHANNELS * frame.width,
    })
}

/// Blocks of components in rows of MCUs.
fn n_blocks<'c>(
    components: impl IntoIterator<Item = &'c frame::Component>,
    frame: &Frame,
    rows: usize,
) -> usize {
    let of = |c: &frame::Component| c.padded_across(frame).saturating_mul(rows * c.v);
    components
        .into_iter()
        .map(of)
        .fold(0, usize::saturating_add)
}

/// The contents of the segments up to the first scan where EXIF and XMP data are, as far as they
/// can be read, and no more than any writer makes.
pub(super) fn application_segments(bytes: &[u8]) -> Vec<&[u8]> {
    const APP1: u8 = 0xe1;
    const MOST: usize = 64;
    let mut found = Vec::new();
    let Ok(mut segments) = Segments::new(bytes) else {
        return found;
    };
    while found.len() < MOST
        && let Ok(marker) = segments.next_marker()
    {
        match marker {
            Marker::EndOfImage | Marker::Scan => break,
            Marker::Alone => {}
            Marker::Frame(_) | Marker::Segment(_) => match segments.segment() {
                Ok(segment) if marker == Marker::Segment(APP1) => found.push(segment),
                Ok(_) => {}
                Err(_) => break,
            },
        }
    }
    found
}

/// Decodes the picture of a file.
pub(super) fn picture(task: &Task<'_>) -> Result<Picture> {
    let header = header(task.bytes)?;
    task.admit(header.width, header.height, header.working_bytes())?;
    let (rgb, share) = decode(task.bytes)?;
    let mut picture = Picture::from_rgb(header.width, header.height, rgb)?;
    picture.damage = (share.lost > 0).then(|| format!("{share}; it is gray there"));
    Ok(picture)
}

/// The pixels, `[height, width, 3]`, and how much of them is missing.
fn decode(bytes: &[u8]) -> Result<(Vec<u8>, Share)> {
    let mut decoder = JpegDecoder::new(bytes)?;
    let Some(first) = decoder.next_scan()? else {
        return Err(bad("it holds no picture"));
    };
    let frame = decoder.frame()?.clone();
    let output = Output::new(&frame, &decoder.tables)?;
    if first.components.len() < frame.components.len() || frame.is_progressive {
        decoder.several_scans(first, &frame, output)
    } else {
        decoder.one_scan(first, &frame, output)
    }
}

struct JpegDecoder<'a> {
    segments: Segments<'a>,
    tables: Tables,
    frame: Option<Frame>,
}

impl<'a> JpegDecoder<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        Ok(JpegDecoder {
            segments: Segments::new(bytes)?,
            tables: Tables::default(),
            frame: None,
        })
    }

    fn frame(&self) -> Result<&Frame> {
        self.frame
            .as_ref()
            .ok_or_else(|| bad("a scan comes before the frame header"))
    }

    /// Reads segments up to the next scan; `None` at the end of the picture.
    fn next_scan(&mut self) -> Result<Option<Scan>> {
        loop {
            match self.segments.next_marker()? {
                Marker::EndOfImage => return Ok(None),
                Marker::Alone => {}
                Marker::Frame(process) => {
                    let segment = self.segments.segment()?;
                    if self.frame.is_some() {
                        return Err(bad("it has two frame headers"));
                    }
                    self.frame = Some(Frame::parse(process, segment)?);
                }
                Marker::Scan => {
                    let segment = self.segments.segment()?;
                    return Scan::parse(segment, self.frame()?).map(Some);
                }
                Marker::Segment(code) => {
                    let segment = self.segments.segment()?;
                    self.tables.read(code, segment)?;
                }
            }
        }
    }

    /// A picture whose only scan has all components.
    fn one_scan(
        mut self,
        scan: Scan,
        frame: &Frame,
        mut output: Output<'_>,
    ) -> Result<(Vec<u8>, Share)> {
        let quants = latch(&self.tables, frame)?;
        let mut coefficients = Coefficients::of_rows(frame, 1)?;
        let mut pass = scan.start(frame, &self.tables, &mut self.segments)?;
        for row in 0..frame.mcus_down() {
            coefficients.clear();
            pass.rows(row..row + 1, &mut coefficients)?;
            output.strip(row, &coefficients, &quants);
        }
        let lost = pass.finish();
        self.check_end()?;
        output.finish(lost)
    }

    /// Goes on to the end after all pixels are there. Anything wrong is a sign of damage, and Pillow
    /// looks too; but it takes a file that ends before it should.
    fn check_end(&mut self) -> Result<()> {
        loop {
            let marker = match self.segments.next_marker() {
                Err(_) if self.segments.is_truncated => return Ok(()),
                marker => marker?,
            };
            match marker {
                Marker::EndOfImage => return Ok(()),
                Marker::Alone => {}
                Marker::Frame(_) => return Err(bad("it has two frame headers")),
                Marker::Scan => return Err(bad("a scan follows the whole picture")),
                Marker::Segment(code) => match self.segments.segment() {
                    Err(_) if !Tables::are_in(code) => return Ok(()),
                    segment => self.tables.read(code, segment?)?,
                },
            }
        }
    }

    /// A picture whose coefficients are spread over several scans.
    fn several_scans(
        mut self,
        first: Scan,
        frame: &Frame,
        mut output: Output<'_>,
    ) -> Result<(Vec<u8>, Share)> {
        let mut coefficients = Coefficients::of_rows(frame, frame.mcus_down())?;
        let mut quants = vec![None; frame.components.len()];
        let mut received = Received::new(frame);
        let mut lost = Lost::default();
        let mut next = Some(first);
        let mut n_scans = 0;
        let rows = frame.mcus_down();
        let n_all = n_blocks(&frame.components, frame, rows);
        let mut blocks_left = n_all.saturating_mul(MAX_PASSES).max(FREE_BLOCKS);
        while let Some(scan) = next {
            n_scans += 1;
            if n_scans > MAX_SCANS {
                return Err(bad(format!("it has more than {MAX_SCANS} scans")));
            }
            let scanned = scan.components.iter().map(|c| &frame.components[c.index]);
            blocks_left = blocks_left
                .checked_sub(n_blocks(scanned, frame, rows))
                .ok_or_else(|| {
                    bad(format!(
                        "its scans go through the picture more than {MAX_PASSES} times"
                    ))
                })?;
            for component in &scan.components {
                let quant = &mut quants[component.index];
                if quant.is_none() {
                    *quant = Some(self.tables.quant(frame.components[component.index].quant)?);
                }
            }
            received.note(&scan, frame)?;
            let mut pass = scan.start(frame, &self.tables, &mut self.segments)?;
            pass.rows(0..frame.mcus_down(), &mut coefficients)?;
            lost.add(pass.finish(), &scan);
            next = self.next_scan()?;
        }
        received.check()?;
        let quants: Vec<_> = quants.into_iter().flatten().collect();
        for row in 0..frame.mcus_down() {
            output.strip(row, &coefficients, &quants);
        }
        output.finish(lost.most())
    }
}

/// The quantization table of each component, as they are where its first scan begins.
fn latch(tables: &Tables, frame: &Frame) -> Result<Vec<[u16; BLOCK]>> {
    let of = |component: &frame::Component| tables.quant(component.quant);
    frame.components.iter().map(of).collect()
}

/// How much of a picture a scan did not have: units lost, of all.
#[derive(Clone, Copy, Default)]
pub(super) struct Share {
    lost: usize,
    all: usize,
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "data for {} of {} blocks is missing",
            self.lost, self.all
        )
    }
}

/// What the scans that matter most lost. Refinements may be lost without much harm.
#[derive(Default)]
struct Lost(Vec<Share>);

impl Lost {
    fn add(&mut self, share: Share, scan: &Scan) {
        if scan.spectrum.start == 0 {
            self.0.push(share);
        }
    }

    fn most(&self) -> Share {
        let by_share = |a: &&Share, b: &&Share| (a.lost * b.all).cmp(&(b.lost * a.all));
        self.0.iter().max_by(by_share).copied().unwrap_or_default()
    }
}

/// Which coefficients came, and how precisely: the bits that are missing, -1 for all.
struct Received {
    missing: Vec<[i8; BLOCK]>,
    is_progressive: bool,
}

impl Received {
    fn new(frame: &Frame) -> Self {
        Received {
            missing: vec![[-1; BLOCK]; frame.components.len()],
            is_progressive: frame.is_progressive,
        }
    }

    fn note(&mut self, scan: &Scan, frame: &Frame) -> Result<()> {
        for component in &scan.components {
            let missing = &mut self.missing[component.index];
            if !frame.is_progressive && missing[0] == 0 {
                return Err(bad("two scans have the same component"));
            }
            missing[scan.spectrum.clone()].fill(scan.low as i8);
        }
        Ok(())
    }

    /// Fails where libjpeg would make up what is missing.
    fn check(&self) -> Result<()> {
        /// The coefficients that libjpeg guesses from neighbours.
        const GUESSED: Range<usize> = 1..10;
        if self.missing.iter().any(|missing| missing[0] < 0) {
            return Err(bad("a component has no data; the file is incomplete"));
        }
        let is_unfinished = |missing: &[i8; BLOCK]| missing[GUESSED].iter().any(|&bits| bits != 0);
        if self.is_progressive && self.missing.iter().any(is_unfinished) {
            return Err(bad("the progressive picture is unfinished"));
        }
        Ok(())
    }
}

/// From coefficients to pixels, a row of blocks after the other.
struct Output<'f> {
    frame: &'f Frame,
    samples: Samples<'f>,
    colors: Colors,
    rgb: Vec<u8>,
    done: usize,
    upsampled: Vec<Vec<u8>>,
}

impl<'f> Output<'f> {
    fn new(frame: &'f Frame, tables: &Tables) -> Result<Self> {
        let row_bytes = |component: &frame::Component| {
            // Upsampling writes whole multiples.
            zeros((component.width * frame.max_h.div_ceil(component.h)) as u64)
        };
        Ok(Output {
            frame,
            samples: Samples::new(frame)?,
            colors: Colors::of(frame, tables),
            rgb: zeros(frame.width as u64 * frame.height as u64 * CHANNELS as u64)?,
            done: 0,
            upsampled: frame
                .components
                .iter()
                .map(row_bytes)
                .collect::<Result<_>>()?,
        })
    }

    /// Transforms row `row` of MCUs, and makes the pixels that now have their neighbours.
    fn strip(&mut self, row: usize, coefficients: &Coefficients, quants: &[[u16; BLOCK]]) {
        self.samples.transform(row, coefficients, quants);
        let frame = self.frame;
        let ready = match row + 1 == frame.mcus_down() {
            true => frame.height,
            // The last samples wait for those below them.
            false => (row + 1) * EDGE * frame.max_v - frame.max_v,
        };
        let row_len = frame.width * CHANNELS;
        for y in self.done..ready {
            for (index, out) in self.upsampled.iter_mut().enumerate() {
                self.samples.upsample(index, y, out);
            }
            let out = &mut self.rgb[y * row_len..][..row_len];
            self.colors.convert(&self.upsampled, out);
        }
        self.done = ready;
    }

    fn finish(self, share: Share) -> Result<(Vec<u8>, Share)> {
        match share.lost.saturating_mul(MAX_LOST) > share.all {
            true => Err(bad(share)),
            false => Ok((self.rgb, share)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_beyond_all_addresses_are_not_few() {
        let header = JpegHeader {
            width: 65_535,
            height: 65_535,
            n_coefficients: usize::MAX,
            row_bytes: 1 << 20,
        };
        assert!(header.working_bytes() >= usize::MAX as u64);
    }
}
