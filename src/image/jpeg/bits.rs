//! The bits of Huffman-coded data.

use super::segments::Segments;
use crate::error::Result;

/// Bits to come, the next one the highest.
#[derive(Default)]
pub(super) struct Bits {
    buffer: u64,
    count: u32,
    /// Whether bits were asked for that the data does not have, up to the marker that ends it.
    /// They are zeros.
    pub is_starved: bool,
}

impl Bits {
    /// Forgets bits that are left, as before a restart.
    pub fn clear(&mut self) {
        self.buffer = 0;
        self.count = 0;
    }

    /// Makes sure of 32 bits at least, or of all up to the next marker.
    pub fn fill(&mut self, segments: &mut Segments<'_>) -> Result<()> {
        if self.count >= 32 {
            return Ok(());
        }
        if let Some(word) = segments.plain_bytes() {
            let n_bytes = (64 - self.count) / 8;
            self.count += 8 * n_bytes;
            let kept = u64::MAX.checked_shl(64 - self.count).unwrap_or(0);
            self.buffer |= word >> (self.count - 8 * n_bytes) & kept;
            segments.skip(n_bytes as usize);
            return Ok(());
        }
        while self.count <= 56 {
            let Some(byte) = segments.coded_byte()? else {
                return Ok(());
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        Ok(())
    }

    /// The next `n` bits (1 to 17), which stay. Zeros stand for those that there are not.
    pub fn peek(&self, n: u32) -> u32 {
        (self.buffer >> (64 - n)) as u32
    }

    /// Goes past `n` bits, which [`fill`](Self::fill) has provided for.
    pub fn consume(&mut self, n: u32) {
        if n > self.count {
            self.is_starved = true;
            self.count = 64;
        }
        self.buffer <<= n;
        self.count -= n;
    }

    /// The next `n` bits (0 to 16).
    pub fn take(&mut self, n: u32, segments: &mut Segments<'_>) -> Result<u32> {
        if n == 0 {
            return Ok(0);
        }
        self.fill(segments)?;
        let bits = self.peek(n);
        self.consume(n);
        Ok(bits)
    }
}
