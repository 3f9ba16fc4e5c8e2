//! Scans: which components and coefficients they bring, and going through their MCUs.

use std::ops::Range;

use super::arithmetic::Arithmetic;
use super::frame::Frame;
use super::progressive::Progressive;
use super::segments::{Segments, Tables};
use super::sequential::Sequential;
use super::{BLOCK, Share, bad};
use crate::error::{Error, Result};

/// Most blocks in an MCU.
const MAX_MCU_BLOCKS: usize = 10;

/// One component of a scan.
pub(super) struct ScanComponent {
    /// Its place in the frame.
    pub index: usize,
    /// Slots of its tables.
    pub dc: usize,
    pub ac: usize,
}

/// The header of a scan.
pub(super) struct Scan {
    pub components: Vec<ScanComponent>,
    /// The coefficients, in the order of the file; all in a sequential picture.
    pub spectrum: Range<usize>,
    /// The lowest bit that came before, 0 where this scan is the first.
    pub high: u32,
    /// The lowest bit that this scan brings.
    pub low: u32,
}

impl Scan {
    pub fn parse(segment: &[u8], frame: &Frame) -> Result<Self> {
        let wrong_length = || bad("a scan header has a wrong length");
        let (&n, rest) = segment.split_first().ok_or_else(wrong_length)?;
        let n = usize::from(n);
        let (specs, last) = rest.split_at_checked(2 * n).ok_or_else(wrong_length)?;
        let &[start, end, approximation] = last else {
            return Err(wrong_length());
        };
        if !(1..=frame.components.len()).contains(&n) {
            return Err(bad(format!("a scan has {n} components")));
        }
        let mut components: Vec<ScanComponent> = Vec::new();
        for &[id, slots] in specs.as_chunks::<2>().0 {
            let is_taken = |index| components.iter().any(|c| c.index == index);
            let index = frame
                .find(id, is_taken)
                .ok_or_else(|| bad("a scan has a component that the frame lacks"))?;
            components.push(ScanComponent {
                index,
                dc: usize::from(slots >> 4),
                ac: usize::from(slots & 15),
            });
        }
        let scan = Scan {
            components,
            spectrum: match frame.is_progressive {
                true => usize::from(start)..usize::from(end) + 1,
                // libjpeg takes whatever stands there.
                false => 0..BLOCK,
            },
            high: u32::from(approximation >> 4),
            low: match frame.is_progressive {
                true => u32::from(approximation & 15),
                false => 0,
            },
        };
        scan.check(frame)?;
        Ok(scan)
    }

    fn check(&self, frame: &Frame) -> Result<()> {
        let blocks = |c: &ScanComponent| frame.components[c.index].h * frame.components[c.index].v;
        let n_blocks: usize = self.components.iter().map(blocks).sum();
        if self.components.len() > 1 && n_blocks > MAX_MCU_BLOCKS {
            return Err(bad("a scan has too many blocks in an MCU"));
        }
        if !frame.is_progressive {
            return Ok(());
        }
        let is_band = match self.spectrum.start {
            0 => self.spectrum.end == 1,
            start => start < self.spectrum.end && self.components.len() == 1,
        };
        let is_refinement = self.high > 0;
        if !is_band
            || self.spectrum.end > BLOCK
            || self.low > 13
            || (is_refinement && self.high != self.low + 1)
        {
            return Err(bad("a progressive scan has impossible parameters"));
        }
        Ok(())
    }

    /// Makes ready to decode the data that follows.
    pub fn start<'p, 'a>(
        &'p self,
        frame: &'p Frame,
        tables: &'p Tables,
        segments: &'p mut Segments<'a>,
    ) -> Result<ScanPass<'p, 'a>> {
        let entropy: Box<dyn Entropy> = match (frame.is_arithmetic, frame.is_progressive) {
            (true, _) => Box::new(Arithmetic::new(self, frame, tables)?),
            (false, true) => Box::new(Progressive::new(self, tables)?),
            (false, false) => Box::new(Sequential::new(self, tables)?),
        };
        Ok(ScanPass {
            scan: self,
            frame,
            segments,
            entropy,
            restarts: Restarts {
                interval: usize::from(tables.restart_interval),
                left: usize::from(tables.restart_interval),
                next: 0,
            },
            share: Share::default(),
        })
    }
}

/// A way of coding coefficients.
pub(super) trait Entropy {
    /// Starts afresh after a restart marker.
    fn restart(&mut self);
    /// Whether the data has run out, so that nothing is to be had before the next restart.
    fn is_starved(&self) -> bool;
    /// Sets [`is_starved`](Self::is_starved) back.
    fn feed(&mut self);
    /// Decodes a block of the component `slot` of the scan.
    fn block(
        &mut self,
        slot: usize,
        block: &mut [i16; BLOCK],
        segments: &mut Segments<'_>,
    ) -> Result<()>;
}

/// The coefficients of some rows of MCUs, all zero at first.
pub(super) struct Coefficients {
    /// By component.
    planes: Vec<Plane>,
}

struct Plane {
    blocks: Vec<[i16; BLOCK]>,
    across: usize,
    /// Rows of blocks that there is room for.
    down: usize,
}

impl Coefficients {
    /// Room for `n_rows` rows of MCUs.
    pub fn of_rows(frame: &Frame, n_rows: usize) -> Result<Self> {
        let mut planes = Vec::new();
        for component in &frame.components {
            let across = component.padded_across(frame);
            let down = n_rows * component.v;
            let mut blocks = Vec::new();
            blocks
                .try_reserve_exact(across * down)
                .map_err(|_| Error::capacity("no memory for the coefficients of a JPEG picture"))?;
            blocks.resize(across * down, [0; BLOCK]);
            planes.push(Plane {
                blocks,
                across,
                down,
            });
        }
        Ok(Coefficients { planes })
    }

    /// All zero again.
    pub fn clear(&mut self) {
        for plane in &mut self.planes {
            plane.blocks.fill([0; BLOCK]);
        }
    }

    /// A row of blocks. Rows count from the top of the picture, or from the top of the row of MCUs
    /// where there is room for one.
    pub fn row(&self, component: usize, row: usize) -> &[[i16; BLOCK]] {
        let plane = &self.planes[component];
        &plane.blocks[row % plane.down * plane.across..][..plane.across]
    }

    fn block(&mut self, component: usize, row: usize, column: usize) -> &mut [i16; BLOCK] {
        let plane = &mut self.planes[component];
        &mut plane.blocks[row % plane.down * plane.across + column]
    }
}

/// Where restart markers are due.
struct Restarts {
    /// MCUs from one to the next; 0 for none.
    interval: usize,
    left: usize,
    /// The number of the next one, 0 to 7.
    next: u8,
}

/// A scan that is being decoded.
pub(super) struct ScanPass<'p, 'a> {
    scan: &'p Scan,
    frame: &'p Frame,
    segments: &'p mut Segments<'a>,
    entropy: Box<dyn Entropy>,
    restarts: Restarts,
    share: Share,
}

impl ScanPass<'_, '_> {
    /// Decodes rows of MCUs, as a scan of all components would have them.
    pub fn rows(&mut self, rows: Range<usize>, coefficients: &mut Coefficients) -> Result<()> {
        let frame = self.frame;
        if let [only] = &self.scan.components[..] {
            // Its MCUs are its blocks, without any that fill up.
            let component = &frame.components[only.index];
            let end = (rows.end * component.v).min(component.blocks_down());
            for row in rows.start * component.v..end {
                for column in 0..component.blocks_across() {
                    let is_there = self.begin_mcu()?;
                    if is_there {
                        let block = coefficients.block(only.index, row, column);
                        self.entropy.block(0, block, self.segments)?;
                    }
                }
            }
            return Ok(());
        }
        for row in rows {
            for column in 0..frame.mcus_across() {
                if self.begin_mcu()? {
                    self.mcu(row, column, coefficients)?;
                }
            }
        }
        Ok(())
    }

    fn mcu(&mut self, row: usize, column: usize, coefficients: &mut Coefficients) -> Result<()> {
        for (slot, scanned) in self.scan.components.iter().enumerate() {
            let component = &self.frame.components[scanned.index];
            for y in 0..component.v {
                for x in 0..component.h {
                    let (row, column) = (row * component.v + y, column * component.h + x);
                    let block = coefficients.block(scanned.index, row, column);
                    self.entropy.block(slot, block, self.segments)?;
                }
            }
        }
        Ok(())
    }

    /// Restarts where that is due; whether there is data for the next MCU.
    fn begin_mcu(&mut self) -> Result<bool> {
        if self.restarts.interval > 0 {
            if self.restarts.left == 0 {
                self.restart()?;
            }
            self.restarts.left -= 1;
        }
        let is_there = !self.entropy.is_starved();
        self.share.all += 1;
        self.share.lost += usize::from(!is_there);
        Ok(is_there)
    }

    fn restart(&mut self) -> Result<()> {
        let wanted = self.restarts.next;
        if self.segments.pending.is_none() {
            self.segments.pending = Some(self.segments.next_code()?);
        }
        self.synchronize(wanted)?;
        self.restarts.next = (wanted + 1) % 8;
        self.restarts.left = self.restarts.interval;
        self.entropy.restart();
        if self.segments.pending.is_none() {
            self.entropy.feed();
        }
        Ok(())
    }

    /// Makes of the marker that is there what libjpeg makes of it: the restart `wanted`, or a sign
    /// that data was lost before it or after it.
    fn synchronize(&mut self, wanted: u8) -> Result<()> {
        const FIRST_FRAME: u8 = 0xc0;
        const RESTART: u8 = 0xd0;
        while let Some(code) = self.segments.pending {
            let ahead = code.wrapping_sub(RESTART).wrapping_sub(wanted) % 8;
            match (code, ahead) {
                // No marker at all, or a restart that is past: look for the next.
                (..FIRST_FRAME, _) | (RESTART..=0xd7, 6 | 7) => {
                    self.segments.pending = Some(self.segments.next_code()?);
                }
                // One that comes soon, or the end of the scan: what belongs here is lost.
                (RESTART..=0xd7, 1 | 2) => return Ok(()),
                (RESTART..=0xd7, _) => self.segments.pending = None,
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// How much the scan lacked.
    pub fn finish(self) -> Share {
        self.share
    }
}
