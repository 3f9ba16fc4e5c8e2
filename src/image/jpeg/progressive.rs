//! Huffman-coded blocks of progressive pictures, which several scans complete.

use super::bits::Bits;
use super::huffman::{Huffman, extend};
use super::scan::{Entropy, Scan};
use super::segments::{HuffmanSpec, NATURAL_ORDER, Segments, Tables};
use super::{BLOCK, bad};
use crate::error::Result;

/// Decodes what one scan brings of blocks.
pub(super) struct Progressive {
    bits: Bits,
    step: Step,
    low: u32,
    /// Of AC coefficients, in the order of the file.
    start: usize,
    end: usize,
    /// Blocks to come that the last run of ends leaves as they are.
    ended: u32,
}

/// What a scan does.
enum Step {
    /// The first bits of DC coefficients: by component of the scan, its table and the value before.
    DcFirst(Vec<(Huffman, i32)>),
    DcRefine,
    AcFirst(Huffman),
    AcRefine(Huffman),
}

impl Progressive {
    pub fn new(scan: &Scan, tables: &Tables) -> Result<Self> {
        let dc = |component: &super::scan::ScanComponent| {
            Ok((huffman(&tables.dc, component.dc, true)?, 0))
        };
        let ac = || huffman(&tables.ac, scan.components[0].ac, false);
        Ok(Progressive {
            bits: Bits::default(),
            step: match (scan.spectrum.start, scan.high) {
                (0, 0) => Step::DcFirst(scan.components.iter().map(dc).collect::<Result<_>>()?),
                (0, _) => Step::DcRefine,
                (_, 0) => Step::AcFirst(ac()?),
                _ => Step::AcRefine(ac()?),
            },
            low: scan.low,
            start: scan.spectrum.start,
            end: scan.spectrum.end,
            ended: 0,
        })
    }
}

fn huffman(slots: &[Option<HuffmanSpec>], slot: usize, is_dc: bool) -> Result<Huffman> {
    match slots.get(slot) {
        Some(Some(spec)) => Huffman::new(spec, is_dc),
        _ => Err(bad(format!("the Huffman table {slot} is missing"))),
    }
}

impl Entropy for Progressive {
    fn restart(&mut self) {
        self.bits.clear();
        self.ended = 0;
        if let Step::DcFirst(coded) = &mut self.step {
            coded.iter_mut().for_each(|(_, last)| *last = 0);
        }
    }

    fn is_starved(&self) -> bool {
        self.bits.is_starved
    }

    fn feed(&mut self) {
        self.bits.is_starved = false;
    }

    fn block(
        &mut self,
        slot: usize,
        block: &mut [i16; BLOCK],
        segments: &mut Segments<'_>,
    ) -> Result<()> {
        let bits = &mut self.bits;
        match &mut self.step {
            Step::DcFirst(coded) => {
                let (table, last) = &mut coded[slot];
                let size = u32::from(table.symbol(bits, segments)?);
                let difference = extend(bits.take(size, segments)?, size);
                *last = last.wrapping_add(difference);
                block[0] = (*last << self.low) as i16;
            }
            Step::DcRefine => {
                if bits.take(1, segments)? == 1 {
                    block[0] |= 1 << self.low;
                }
            }
            Step::AcFirst(_) if self.ended > 0 => self.ended -= 1,
            Step::AcFirst(table) => {
                let mut k = self.start;
                while k < self.end {
                    let symbol = table.symbol(bits, segments)?;
                    let (run, size) = (symbol >> 4, u32::from(symbol & 15));
                    if size > 0 {
                        k += usize::from(run);
                        let value = extend(bits.take(size, segments)?, size) << self.low;
                        block[usize::from(NATURAL_ORDER[k])] = value as i16;
                    } else if run == 15 {
                        k += 15;
                    } else {
                        self.ended = run_of_ends(run, bits, segments)? - 1;
                        break;
                    }
                    k += 1;
                }
            }
            Step::AcRefine(table) => {
                let mut refinement = Refinement {
                    block,
                    bits,
                    segments,
                    bit: 1 << self.low,
                };
                let mut k = self.start;
                if self.ended == 0 {
                    (k, self.ended) = refinement.with_new(table, k, self.end)?;
                }
                if self.ended > 0 {
                    refinement.known(k, self.end)?;
                    self.ended -= 1;
                }
            }
        }
        Ok(())
    }
}

/// The number of blocks that end here and after this one, this one included.
fn run_of_ends(run: u8, bits: &mut Bits, segments: &mut Segments<'_>) -> Result<u32> {
    let more = bits.take(u32::from(run), segments)?;
    Ok((1 << run) + more)
}

/// One more bit for the AC coefficients of a block.
struct Refinement<'b, 's, 'a> {
    block: &'b mut [i16; BLOCK],
    bits: &'b mut Bits,
    segments: &'s mut Segments<'a>,
    bit: i16,
}

impl Refinement<'_, '_, '_> {
    /// Refines known coefficients and puts in new ones. The coefficient that comes next, and the
    /// number of blocks that end there.
    fn with_new(&mut self, table: &Huffman, start: usize, end: usize) -> Result<(usize, u32)> {
        let mut k = start;
        while k < end {
            let symbol = table.symbol(self.bits, self.segments)?;
            let (mut run, size) = (symbol >> 4, symbol & 15);
            let mut new = 0;
            if size > 0 {
                // A size above 1 is damage, which libjpeg takes for 1.
                new = match self.bits.take(1, self.segments)? {
                    1 => self.bit,
                    _ => -self.bit,
                };
            } else if run != 15 {
                return Ok((k, run_of_ends(run, self.bits, self.segments)?));
            }
            while k < end {
                if self.block[usize::from(NATURAL_ORDER[k])] != 0 {
                    self.refine(NATURAL_ORDER[k])?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                k += 1;
            }
            if new != 0 {
                self.block[usize::from(NATURAL_ORDER[k])] = new;
            }
            k += 1;
        }
        Ok((k, 0))
    }

    /// Refines the known coefficients from `start` on.
    fn known(&mut self, start: usize, end: usize) -> Result<()> {
        for &place in &NATURAL_ORDER[start..end] {
            if self.block[usize::from(place)] != 0 {
                self.refine(place)?;
            }
        }
        Ok(())
    }

    fn refine(&mut self, place: u8) -> Result<()> {
        let coefficient = &mut self.block[usize::from(place)];
        if self.bits.take(1, self.segments)? == 1 && *coefficient & self.bit == 0 {
            let change = if *coefficient >= 0 {
                self.bit
            } else {
                -self.bit
            };
            *coefficient = coefficient.wrapping_add(change);
        }
        Ok(())
    }
}
