//! Arithmetic-coded blocks (T.81, annexes D, F.1.4 and G.1.3), sequential and progressive.

use super::frame::Frame;
use super::scan::{Entropy, Scan};
use super::segments::{NATURAL_ORDER, Segments, Tables};
use super::{BLOCK, bad};
use crate::error::Result;

/// An estimate of the probability of a decision: table D.3.
struct Estimate {
    /// Size of the less probable part of the interval.
    less: u32,
    after_less: u8,
    after_more: u8,
    is_switched: bool,
}

const fn estimate(less: u32, after_less: u8, after_more: u8, switch: u8) -> Estimate {
    Estimate {
        less,
        after_less,
        after_more,
        is_switched: switch == 1,
    }
}

/// The last entry is for decisions of even chances, which stay there.
#[rustfmt::skip]
const ESTIMATES: [Estimate; 114] = [
    estimate(0x5a1d, 1, 1, 1), estimate(0x2586, 14, 2, 0), estimate(0x1114, 16, 3, 0),
    estimate(0x080b, 18, 4, 0), estimate(0x03d8, 20, 5, 0), estimate(0x01da, 23, 6, 0),
    estimate(0x00e5, 25, 7, 0), estimate(0x006f, 28, 8, 0), estimate(0x0036, 30, 9, 0),
    estimate(0x001a, 33, 10, 0), estimate(0x000d, 35, 11, 0), estimate(0x0006, 9, 12, 0),
    estimate(0x0003, 10, 13, 0), estimate(0x0001, 12, 13, 0), estimate(0x5a7f, 15, 15, 1),
    estimate(0x3f25, 36, 16, 0), estimate(0x2cf2, 38, 17, 0), estimate(0x207c, 39, 18, 0),
    estimate(0x17b9, 40, 19, 0), estimate(0x1182, 42, 20, 0), estimate(0x0cef, 43, 21, 0),
    estimate(0x09a1, 45, 22, 0), estimate(0x072f, 46, 23, 0), estimate(0x055c, 48, 24, 0),
    estimate(0x0406, 49, 25, 0), estimate(0x0303, 51, 26, 0), estimate(0x0240, 52, 27, 0),
    estimate(0x01b1, 54, 28, 0), estimate(0x0144, 56, 29, 0), estimate(0x00f5, 57, 30, 0),
    estimate(0x00b7, 59, 31, 0), estimate(0x008a, 60, 32, 0), estimate(0x0068, 62, 33, 0),
    estimate(0x004e, 63, 34, 0), estimate(0x003b, 32, 35, 0), estimate(0x002c, 33, 9, 0),
    estimate(0x5ae1, 37, 37, 1), estimate(0x484c, 64, 38, 0), estimate(0x3a0d, 65, 39, 0),
    estimate(0x2ef1, 67, 40, 0), estimate(0x261f, 68, 41, 0), estimate(0x1f33, 69, 42, 0),
    estimate(0x19a8, 70, 43, 0), estimate(0x1518, 72, 44, 0), estimate(0x1177, 73, 45, 0),
    estimate(0x0e74, 74, 46, 0), estimate(0x0bfb, 75, 47, 0), estimate(0x09f8, 77, 48, 0),
    estimate(0x0861, 78, 49, 0), estimate(0x0706, 79, 50, 0), estimate(0x05cd, 48, 51, 0),
    estimate(0x04de, 50, 52, 0), estimate(0x040f, 50, 53, 0), estimate(0x0363, 51, 54, 0),
    estimate(0x02d4, 52, 55, 0), estimate(0x025c, 53, 56, 0), estimate(0x01f8, 54, 57, 0),
    estimate(0x01a4, 55, 58, 0), estimate(0x0160, 56, 59, 0), estimate(0x0125, 57, 60, 0),
    estimate(0x00f6, 58, 61, 0), estimate(0x00cb, 59, 62, 0), estimate(0x00ab, 61, 63, 0),
    estimate(0x008f, 61, 32, 0), estimate(0x5b12, 65, 65, 1), estimate(0x4d04, 80, 66, 0),
    estimate(0x412c, 81, 67, 0), estimate(0x37d8, 82, 68, 0), estimate(0x2fe8, 83, 69, 0),
    estimate(0x293c, 84, 70, 0), estimate(0x2379, 86, 71, 0), estimate(0x1edf, 87, 72, 0),
    estimate(0x1aa9, 87, 73, 0), estimate(0x174e, 72, 74, 0), estimate(0x1424, 72, 75, 0),
    estimate(0x119c, 74, 76, 0), estimate(0x0f6b, 74, 77, 0), estimate(0x0d51, 75, 78, 0),
    estimate(0x0bb6, 77, 79, 0), estimate(0x0a40, 77, 48, 0), estimate(0x5832, 80, 81, 1),
    estimate(0x4d1c, 88, 82, 0), estimate(0x438e, 89, 83, 0), estimate(0x3bdd, 90, 84, 0),
    estimate(0x34ee, 91, 85, 0), estimate(0x2eae, 92, 86, 0), estimate(0x299a, 93, 87, 0),
    estimate(0x2516, 86, 71, 0), estimate(0x5570, 88, 89, 1), estimate(0x4ca9, 95, 90, 0),
    estimate(0x44d9, 96, 91, 0), estimate(0x3e22, 97, 92, 0), estimate(0x3824, 99, 93, 0),
    estimate(0x32b4, 99, 94, 0), estimate(0x2e17, 93, 86, 0), estimate(0x56a8, 95, 96, 1),
    estimate(0x4f46, 101, 97, 0), estimate(0x47e5, 102, 98, 0), estimate(0x41cf, 103, 99, 0),
    estimate(0x3c3d, 104, 100, 0), estimate(0x375e, 99, 93, 0), estimate(0x5231, 105, 102, 0),
    estimate(0x4c0f, 106, 103, 0), estimate(0x4639, 107, 104, 0), estimate(0x415e, 103, 99, 0),
    estimate(0x5627, 105, 106, 1), estimate(0x50e7, 108, 107, 0), estimate(0x4b85, 109, 103, 0),
    estimate(0x5597, 110, 109, 0), estimate(0x504f, 111, 107, 0), estimate(0x5a10, 110, 111, 1),
    estimate(0x5522, 112, 109, 0), estimate(0x59eb, 112, 111, 1), estimate(0x5a1d, 113, 113, 0),
];

/// The state of [`ESTIMATES`] for even chances.
const EVEN: u8 = 113;

/// The sense of the more probable decision, beside the estimate.
const SENSE: u8 = 0x80;

/// Statistics of the size of DC differences begin here; T.81 calls it X1.
const DC_SIZES: usize = 20;

/// From the statistics of a magnitude to those of its bits.
const BITS_BESIDE: usize = 14;

/// Statistics of the magnitude of AC coefficients of low and of high frequency.
const AC_LOW: usize = 189;
const AC_HIGH: usize = 217;

/// A magnitude that is too great.
const TOO_GREAT: i32 = 0x8000;

/// The decoder of single decisions.
struct Decisions {
    code: u32,
    interval: u32,
    /// Shifts until the next byte is needed; below zero, bytes that are needed at first.
    shifts: i32,
}

impl Decisions {
    fn new() -> Self {
        Decisions {
            code: 0,
            interval: 0,
            shifts: -16,
        }
    }

    fn decide(&mut self, state: &mut u8, segments: &mut Segments<'_>) -> Result<bool> {
        while self.interval < 0x8000 {
            self.shifts -= 1;
            if self.shifts < 0 {
                let byte = segments.coded_byte()?.unwrap_or(0);
                self.code = self.code << 8 | u32::from(byte);
                self.shifts += 8;
                if self.shifts < 0 {
                    self.shifts += 1;
                    if self.shifts == 0 {
                        self.interval = 0x8000;
                    }
                }
            }
            self.interval <<= 1;
        }
        let sense = *state & SENSE;
        let estimate = &ESTIMATES[usize::from(*state & !SENSE)];
        self.interval -= estimate.less;
        let bound = self.interval << self.shifts;
        let is_small = self.interval < estimate.less;
        let is_less = if self.code >= bound {
            self.code -= bound;
            self.interval = estimate.less;
            !is_small
        } else if self.interval < 0x8000 {
            is_small
        } else {
            return Ok(sense != 0);
        };
        let switched = match is_less && estimate.is_switched {
            true => SENSE,
            false => 0,
        };
        *state = match is_less {
            true => (sense ^ switched) | estimate.after_less,
            false => sense | estimate.after_more,
        };
        Ok((sense != 0) != is_less)
    }
}

/// Decodes blocks, or what one scan brings of them.
pub(super) struct Arithmetic {
    decisions: Decisions,
    /// By component of the scan.
    coded: Vec<Coded>,
    /// Statistics by slot.
    dc: Vec<[u8; 64]>,
    ac: Vec<[u8; 256]>,
    step: Step,
    low: u32,
    start: usize,
    end: usize,
    is_damaged: bool,
}

struct Coded {
    dc: usize,
    ac: usize,
    /// Bounds of small differences.
    bounds: (u8, u8),
    /// Where high frequencies begin.
    high: usize,
    /// The DC coefficient of the block before, and where the statistics of its difference are.
    last: i32,
    context: usize,
}

#[derive(Clone, Copy)]
enum Step {
    Whole,
    DcFirst,
    DcRefine,
    AcFirst,
    AcRefine,
}

/// Decoding ran into something impossible.
struct Impossible;

impl Arithmetic {
    pub fn new(scan: &Scan, frame: &Frame, tables: &Tables) -> Result<Self> {
        let conditioning = &tables.conditioning;
        let coded = |component: &super::scan::ScanComponent| {
            let (Some(&bounds), Some(&high)) = (
                conditioning.dc.get(component.dc),
                conditioning.ac.get(component.ac),
            ) else {
                return Err(bad("a scan has an impossible table"));
            };
            Ok(Coded {
                dc: component.dc,
                ac: component.ac,
                bounds,
                high: usize::from(high),
                last: 0,
                context: 0,
            })
        };
        Ok(Arithmetic {
            decisions: Decisions::new(),
            coded: scan.components.iter().map(coded).collect::<Result<_>>()?,
            dc: vec![[0; 64]; conditioning.dc.len()],
            ac: vec![[0; 256]; conditioning.ac.len()],
            step: match (frame.is_progressive, scan.spectrum.start, scan.high) {
                (false, ..) => Step::Whole,
                (_, 0, 0) => Step::DcFirst,
                (_, 0, _) => Step::DcRefine,
                (.., 0) => Step::AcFirst,
                _ => Step::AcRefine,
            },
            low: scan.low,
            start: scan.spectrum.start,
            end: scan.spectrum.end,
            is_damaged: false,
        })
    }
}

impl Entropy for Arithmetic {
    fn restart(&mut self) {
        self.decisions = Decisions::new();
        self.dc.fill([0; 64]);
        self.ac.fill([0; 256]);
        for coded in &mut self.coded {
            (coded.last, coded.context) = (0, 0);
        }
        self.is_damaged = false;
    }

    fn is_starved(&self) -> bool {
        self.is_damaged
    }

    fn feed(&mut self) {}

    fn block(
        &mut self,
        slot: usize,
        block: &mut [i16; BLOCK],
        segments: &mut Segments<'_>,
    ) -> Result<()> {
        let coded = &mut self.coded[slot];
        let mut coding = Coding {
            decisions: &mut self.decisions,
            segments,
        };
        let dc = &mut self.dc[coded.dc];
        let ac = &mut self.ac[coded.ac];
        let band = self.start.max(1)..self.end;
        let outcome = match self.step {
            Step::Whole => match coding.dc(coded, dc)? {
                Ok(()) => {
                    block[0] = coded.last as i16;
                    coding.ac(coded, ac, band, 0, block)?
                }
                Err(impossible) => Err(impossible),
            },
            Step::DcFirst => coding.dc(coded, dc)?.map(|()| {
                block[0] = (coded.last << self.low) as i16;
            }),
            Step::DcRefine => {
                if coding.even()? {
                    block[0] |= 1 << self.low;
                }
                Ok(())
            }
            Step::AcFirst => coding.ac(coded, ac, band, self.low, block)?,
            Step::AcRefine => coding.ac_refine(ac, band, 1 << self.low, block)?,
        };
        self.is_damaged = outcome.is_err();
        Ok(())
    }
}

/// The procedures for coefficients.
struct Coding<'d, 's, 'a> {
    decisions: &'d mut Decisions,
    segments: &'s mut Segments<'a>,
}

impl Coding<'_, '_, '_> {
    fn decide(&mut self, state: &mut u8) -> Result<bool> {
        self.decisions.decide(state, self.segments)
    }

    fn even(&mut self) -> Result<bool> {
        self.decide(&mut { EVEN })
    }

    /// The DC coefficient, into `coded.last` (F.1.4.4.1).
    fn dc(&mut self, coded: &mut Coded, stats: &mut [u8; 64]) -> Result<Result<(), Impossible>> {
        let at = coded.context;
        if !self.decide(&mut stats[at])? {
            coded.context = 0;
            return Ok(Ok(()));
        }
        let is_negative = self.decide(&mut stats[at + 1])?;
        let mut at = at + 2 + usize::from(is_negative);
        let mut magnitude = i32::from(self.decide(&mut stats[at])?);
        if magnitude != 0 {
            at = DC_SIZES;
            while self.decide(&mut stats[at])? {
                magnitude <<= 1;
                if magnitude == TOO_GREAT {
                    return Ok(Err(Impossible));
                }
                at += 1;
            }
        }
        let (lower, upper) = coded.bounds;
        let signed = 4 * usize::from(is_negative);
        coded.context = if magnitude < (1 << lower) >> 1 {
            0
        } else if magnitude > (1 << upper) >> 1 {
            12 + signed
        } else {
            4 + signed
        };
        let difference = self.bits(magnitude, &mut stats[at + BITS_BESIDE], is_negative)?;
        coded.last = (coded.last + difference) & 0xffff;
        Ok(Ok(()))
    }

    /// AC coefficients, shifted by `low` (F.1.4.4.2).
    fn ac(
        &mut self,
        coded: &Coded,
        stats: &mut [u8; 256],
        band: std::ops::Range<usize>,
        low: u32,
        block: &mut [i16; BLOCK],
    ) -> Result<Result<(), Impossible>> {
        let mut k = band.start;
        while k < band.end {
            let mut at = 3 * (k - 1);
            if self.decide(&mut stats[at])? {
                break;
            }
            while !self.decide(&mut stats[at + 1])? {
                at += 3;
                k += 1;
                if k >= band.end {
                    return Ok(Err(Impossible));
                }
            }
            let is_negative = self.even()?;
            at += 2;
            let mut magnitude = i32::from(self.decide(&mut stats[at])?);
            if magnitude != 0 && self.decide(&mut stats[at])? {
                magnitude <<= 1;
                at = if k <= coded.high { AC_LOW } else { AC_HIGH };
                while self.decide(&mut stats[at])? {
                    magnitude <<= 1;
                    if magnitude == TOO_GREAT {
                        return Ok(Err(Impossible));
                    }
                    at += 1;
                }
            }
            let value = self.bits(magnitude, &mut stats[at + BITS_BESIDE], is_negative)?;
            block[usize::from(NATURAL_ORDER[k])] = (value << low) as i16;
            k += 1;
        }
        Ok(Ok(()))
    }

    /// The lower bits of a magnitude, and its sign.
    fn bits(&mut self, magnitude: i32, state: &mut u8, is_negative: bool) -> Result<i32> {
        let (mut value, mut bit) = (magnitude, magnitude >> 1);
        while bit > 0 {
            if self.decide(state)? {
                value |= bit;
            }
            bit >>= 1;
        }
        Ok(match is_negative {
            true => -(value + 1),
            false => value + 1,
        })
    }

    /// One more bit of AC coefficients (G.1.3.3).
    fn ac_refine(
        &mut self,
        stats: &mut [u8; 256],
        band: std::ops::Range<usize>,
        bit: i16,
        block: &mut [i16; BLOCK],
    ) -> Result<Result<(), Impossible>> {
        let is_known = |&k: &usize| block[usize::from(NATURAL_ORDER[k])] != 0;
        let last_known = (1..band.end).rev().find(is_known).unwrap_or(0);
        let mut k = band.start;
        while k < band.end {
            let mut at = 3 * (k - 1);
            if k > last_known && self.decide(&mut stats[at])? {
                break;
            }
            loop {
                let coefficient = &mut block[usize::from(NATURAL_ORDER[k])];
                if *coefficient != 0 {
                    if self.decide(&mut stats[at + 2])? {
                        let change = if *coefficient < 0 { -bit } else { bit };
                        *coefficient = coefficient.wrapping_add(change);
                    }
                    break;
                }
                if self.decide(&mut stats[at + 1])? {
                    *coefficient = if self.even()? { -bit } else { bit };
                    break;
                }
                at += 3;
                k += 1;
                if k >= band.end {
                    return Ok(Err(Impossible));
                }
            }
            k += 1;
        }
        Ok(Ok(()))
    }
}
