//! A tensor's values where they lie in a file: element type, first byte, shape and strides.

use std::sync::Arc;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use owl2::{Error, Result};

use super::ElementType;
use super::shard::ShardFile;

/// Elements converted at a time: 64 KiB of 16-bit values stay in the fastest caches.
const CHUNK: usize = 1 << 15;

/// Values of a tensor in a file, checked to lie inside it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    shard: Arc<ShardFile>,
    element: ElementType,
    first_byte: u64,
    /// The dimensions that are not part of a run, slowest first, with their strides in elements.
    outer: Vec<(usize, usize)>,
    /// Elements that lie one after the other: the whole tensor, unless it is a strided view.
    run: usize,
    n_elements: usize,
}

impl Stored {
    /// Values that start at `first_byte` of `shard`, `strides` elements apart in each dimension.
    ///
    /// Fails unless all of them lie before byte `end`, and `end` inside the file.
    pub(crate) fn new(
        shard: Arc<ShardFile>,
        element: ElementType,
        first_byte: u64,
        end: u64,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Self> {
        let n_elements = n_elements(shape)?;
        let span = span(shape, strides).ok_or_else(too_large)?;
        let last = (span as u64)
            .checked_mul(element.n_bytes() as u64)
            .and_then(|n_bytes| n_bytes.checked_add(first_byte))
            .ok_or_else(too_large)?;
        if last > end || end > shard.n_bytes() {
            return Err(Error::model(format!(
                "reaches to byte {last}, but its data ends at {}; the file is truncated or damaged",
                end.min(shard.n_bytes())
            )));
        }
        let (outer, run) = split_runs(shape, strides);
        Ok(Stored {
            shard,
            element,
            first_byte,
            outer,
            run,
            n_elements,
        })
    }

    /// Number of elements.
    pub(crate) fn n_elements(&self) -> usize {
        self.n_elements
    }

    /// Reads elements `start .. start + out.len()` in row-major order, which must exist.
    pub(crate) fn read(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let mut bits = match self.element {
            ElementType::F32 => Vec::new(),
            ElementType::F16 | ElementType::BF16 => vec![0; out.len().min(self.run).min(CHUNK)],
        };
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let (run, within) = (at / self.run, at % self.run);
            let n = rest.len().min(self.run - within).min(CHUNK);
            let (piece, after) = rest.split_at_mut(n);
            self.read_contiguous(self.run_start(run) + within, &mut bits, piece)?;
            at += n;
            rest = after;
        }
        Ok(())
    }

    /// The position of the first element of a run, in elements after the tensor's first.
    fn run_start(&self, mut run: usize) -> usize {
        let mut position = 0;
        for &(extent, stride) in self.outer.iter().rev() {
            position += run % extent * stride;
            run /= extent;
        }
        position
    }

    /// Reads elements that lie one after the other; `bits` has room for them where they are 16-bit.
    fn read_contiguous(&self, position: usize, bits: &mut [u16], out: &mut [f32]) -> Result<()> {
        let offset = self.first_byte + (position * self.element.n_bytes()) as u64;
        if self.element == ElementType::F32 {
            self.shard.read_at(bytemuck::cast_slice_mut(out), offset)?;
            for x in out {
                *x = f32::from_bits(u32::from_le(x.to_bits()));
            }
            return Ok(());
        }
        let bits = &mut bits[..out.len()];
        self.shard.read_at(bytemuck::cast_slice_mut(bits), offset)?;
        for x in &mut *bits {
            *x = u16::from_le(*x);
        }
        if self.element == ElementType::F16 {
            bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
        } else {
            bits.reinterpret_cast::<bf16>().convert_to_f32_slice(out);
        }
        Ok(())
    }
}

/// The number of elements of a tensor of this shape.
pub(crate) fn n_elements(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &extent| n.checked_mul(extent))
        .ok_or_else(too_large)
}

/// The strides of a tensor whose elements lie in row-major order.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        // Saturates only for shapes that `n_elements` refuses.
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

fn too_large() -> Error {
    Error::model("has more elements than a file can hold; the file is damaged")
}

/// Elements from the first to behind the last, or `None` where that overflows.
fn span(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .zip(strides)
        .try_fold(1usize, |span, (&extent, &stride)| {
            span.checked_add((extent - 1).checked_mul(stride)?)
        })
}

/// Splits dimensions into those whose elements lie one after the other, as the length of such a
/// run, and those outside. Dimensions of extent 1 belong to neither.
fn split_runs(shape: &[usize], strides: &[usize]) -> (Vec<(usize, usize)>, usize) {
    let mut dimensions: Vec<_> = shape
        .iter()
        .copied()
        .zip(strides.iter().copied())
        .filter(|&(extent, _)| extent != 1)
        .collect();
    let mut run = 1;
    while let Some(&(extent, stride)) = dimensions.last() {
        if stride != run {
            break;
        }
        run *= extent;
        dimensions.pop();
    }
    (dimensions, run.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn shard_of(values: &[f32]) -> (tempfile::NamedTempFile, Arc<ShardFile>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytemuck::cast_slice(values)).unwrap();
        let shard = ShardFile::open(file.path()).unwrap();
        (file, shard)
    }

    /// The obvious way: one element at a time.
    fn gather(values: &[f32], shape: &[usize], strides: &[usize]) -> Vec<f32> {
        let n: usize = shape.iter().product();
        (0..n)
            .map(|mut index| {
                let mut position = 0;
                for (extent, stride) in shape.iter().zip(strides).rev() {
                    position += index % extent * stride;
                    index /= extent;
                }
                values[position]
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_piece_of_any_view_is_what_gathering_gives(
            dimensions in prop::collection::vec((1usize..5, 0usize..7), 0..4),
            cut in (0.0f64..1.0, 0.0f64..1.0),
        ) {
            let (shape, strides): (Vec<_>, Vec<_>) = dimensions.into_iter().unzip();
            let values: Vec<f32> = (0..span(&shape, &strides).unwrap()).map(|i| i as f32).collect();
            let (_file, shard) = shard_of(&values);
            let n_bytes = shard.n_bytes();
            let stored =
                Stored::new(shard, ElementType::F32, 0, n_bytes, &shape, &strides).unwrap();
            let wanted = gather(&values, &shape, &strides);
            prop_assert_eq!(stored.n_elements(), wanted.len());
            let start = (cut.0 * wanted.len() as f64) as usize;
            let len = (cut.1 * (wanted.len() - start) as f64).ceil() as usize;
            let mut out = vec![0.0; len];
            stored.read(start, &mut out).unwrap();
            prop_assert_eq!(&out, &wanted[start..start + len]);
        }
    }

    #[test]
    fn converts_across_chunks() {
        let numbers: Vec<f32> = (0..CHUNK + 3).map(|i| (i % 1000) as f32).collect();
        let halves: Vec<u16> = numbers
            .iter()
            .map(|&x| f16::from_f32(x).to_bits())
            .collect();
        let brains: Vec<u16> = numbers
            .iter()
            .map(|&x| bf16::from_f32(x).to_bits())
            .collect();
        for (bits, element) in [(halves, ElementType::F16), (brains, ElementType::BF16)] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(bytemuck::cast_slice(&bits)).unwrap();
            let shard = ShardFile::open(file.path()).unwrap();
            let n_bytes = shard.n_bytes();
            let shape = [numbers.len()];
            let stored = Stored::new(shard, element, 0, n_bytes, &shape, &[1]).unwrap();
            let mut out = vec![0.0; numbers.len()];
            stored.read(0, &mut out).unwrap();
            let wanted: Vec<f32> = match element {
                ElementType::F16 => numbers.clone(),
                _ => numbers
                    .iter()
                    .map(|&x| bf16::from_f32(x).to_f32())
                    .collect(),
            };
            assert_eq!(out, wanted);
        }
    }

    #[test]
    fn refuses_what_lies_outside() {
        let (_file, shard) = shard_of(&[0.0; 6]);
        for (first_byte, end, shape, strides) in [
            (0, 24, vec![7], vec![1]),
            (4, 24, vec![6], vec![1]),
            (0, 28, vec![7], vec![1]),
            (0, 24, vec![2, 3], vec![4, 1]),
            (u64::MAX, 24, vec![1], vec![1]),
            (0, 24, vec![usize::MAX, 2], vec![0, 0]),
            (0, 24, vec![3], vec![usize::MAX]),
        ] {
            let stored = Stored::new(
                shard.clone(),
                ElementType::F32,
                first_byte,
                end,
                &shape,
                &strides,
            );
            assert!(stored.is_err(), "{first_byte} {end} {shape:?} {strides:?}");
        }
    }
}
