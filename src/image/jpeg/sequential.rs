//! Huffman-coded blocks of sequential pictures.

use super::bits::Bits;
use super::huffman::{Huffman, extend, standard};
use super::scan::{Entropy, Scan};
use super::segments::{HuffmanSpec, NATURAL_ORDER, Segments, Tables};
use super::{BLOCK, bad};
use crate::error::Result;

/// Decodes whole blocks.
pub(super) struct Sequential {
    bits: Bits,
    /// By component of the scan.
    coded: Vec<Coded>,
}

struct Coded {
    dc: Huffman,
    ac: Huffman,
    /// The DC coefficient of the block before.
    last: i32,
}

impl Sequential {
    pub fn new(scan: &Scan, tables: &Tables) -> Result<Self> {
        let coded = |component: &super::scan::ScanComponent| {
            Ok(Coded {
                dc: huffman(&tables.dc, component.dc, true)?,
                ac: huffman(&tables.ac, component.ac, false)?,
                last: 0,
            })
        };
        Ok(Sequential {
            bits: Bits::default(),
            coded: scan.components.iter().map(coded).collect::<Result<_>>()?,
        })
    }
}

fn huffman(slots: &[Option<HuffmanSpec>], slot: usize, is_dc: bool) -> Result<Huffman> {
    let spec = match slots.get(slot) {
        Some(Some(spec)) => Some(spec.clone()),
        _ => standard(slot, is_dc),
    };
    let spec = spec.ok_or_else(|| bad(format!("the Huffman table {slot} is missing")))?;
    Huffman::new(&spec, is_dc)
}

impl Entropy for Sequential {
    fn restart(&mut self) {
        self.bits.clear();
        for coded in &mut self.coded {
            coded.last = 0;
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
        let coded = &mut self.coded[slot];
        let bits = &mut self.bits;
        let size = u32::from(coded.dc.symbol(bits, segments)?);
        let difference = extend(bits.take(size, segments)?, size);
        coded.last = coded.last.wrapping_add(difference);
        block[0] = coded.last as i16;
        let mut k = 1;
        while k < BLOCK {
            let symbol = coded.ac.symbol(bits, segments)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size > 0 {
                k += run;
                let value = extend(bits.take(size, segments)?, size);
                block[usize::from(NATURAL_ORDER[k])] = value as i16;
            } else if run == 15 {
                k += 15;
            } else {
                break;
            }
            k += 1;
        }
        Ok(())
    }
}
