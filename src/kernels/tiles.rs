//! Hands out the tiles of an output matrix to several threads, each tile once.
//!
//! Every parallel operation writes through this: a tile's columns of one row are a slice of their
//! own, no two tiles share an element, and an atomic counter sees to it that no two callers get
//! the same tile. Threads that are ahead simply take more tiles.
//!
//! Tiles may be parted into shares, one for each thread: neighbours in the matrix, so that whoever
//! begins with its own share reads what belongs to it as one stream.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most shares; with more threads several have the same one.
const MAX_SHARES: usize = 16;

/// The tiles of a row-major matrix that have not been handed out yet.
#[derive(Debug)]
pub struct Tiles<'a> {
    data: *mut f32,
    n_rows: usize,
    n_cols: usize,
    /// Distance of one row to the next.
    stride: usize,
    tile_rows: usize,
    tile_cols: usize,
    n_shares: usize,
    /// Tiles that were taken of each share.
    taken: [AtomicUsize; MAX_SHARES],
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for an exclusive borrow of the matrix, and `take` gives each part of
// it to one caller only, so sharing the queue shares no element.
unsafe impl Sync for Tiles<'_> {}

/// One tile, exclusively held.
#[derive(Debug)]
pub struct Tile<'a> {
    data: *mut f32,
    stride: usize,
    /// The matrix's rows that it covers.
    rows: Range<usize>,
    /// The matrix's columns that it covers.
    cols: Range<usize>,
    matrix: PhantomData<&'a mut [f32]>,
}

impl<'a> Tiles<'a> {
    /// Splits `matrix: [n_rows, n_cols]` into tiles of at most `tile_rows` by `tile_cols`.
    pub fn new(matrix: &'a mut [f32], n_cols: usize, tile_rows: usize, tile_cols: usize) -> Self {
        Self::strided(matrix, n_cols, n_cols, tile_rows, tile_cols)
    }

    /// Likewise for rows of `n_cols` that are `stride` apart.
    pub fn strided(
        matrix: &'a mut [f32],
        stride: usize,
        n_cols: usize,
        tile_rows: usize,
        tile_cols: usize,
    ) -> Self {
        assert!(n_cols > 0 && n_cols <= stride && tile_rows > 0 && tile_cols > 0);
        assert!(matrix.len().is_multiple_of(stride));
        Tiles {
            data: matrix.as_mut_ptr(),
            n_rows: matrix.len() / stride,
            n_cols,
            stride,
            tile_rows,
            tile_cols,
            n_shares: 1,
            taken: [const { AtomicUsize::new(0) }; MAX_SHARES],
            matrix: PhantomData,
        }
    }

    /// Tiles of whole rows, `tile_rows` at a time.
    pub fn of_rows(matrix: &'a mut [f32], n_cols: usize, tile_rows: usize) -> Self {
        Self::new(matrix, n_cols, tile_rows, n_cols)
    }

    /// Parts the tiles, of which none was taken yet, into shares for `n_threads`.
    pub fn shared_among(self, n_threads: usize) -> Self {
        Tiles {
            n_shares: n_threads.clamp(1, MAX_SHARES),
            taken: [const { AtomicUsize::new(0) }; MAX_SHARES],
            ..self
        }
    }

    /// The next tile of any share, row by row of tiles, or `None` when all are taken.
    pub fn take(&self) -> Option<Tile<'_>> {
        (0..self.n_shares).find_map(|share| self.take_of(share))
    }

    /// The next tile of a thread's share, or `None` when all of them are taken.
    pub fn take_of(&self, thread: usize) -> Option<Tile<'_>> {
        let tiles_across = self.n_cols.div_ceil(self.tile_cols);
        let n_tiles = tiles_across * self.n_rows.div_ceil(self.tile_rows);
        let share = thread % self.n_shares;
        let first = share * n_tiles / self.n_shares;
        let end = (share + 1) * n_tiles / self.n_shares;
        // The counter publishes no data, so it needs no ordering; whoever joins the threads does.
        // A share that is empty is only looked at, so that many threads can.
        if self.taken[share].load(Ordering::Relaxed) >= end - first {
            return None;
        }
        let index = first + self.taken[share].fetch_add(1, Ordering::Relaxed);
        if index >= end {
            return None;
        }
        let row = index / tiles_across * self.tile_rows;
        let col = index % tiles_across * self.tile_cols;
        Some(Tile {
            data: self.data,
            stride: self.stride,
            rows: row..(row + self.tile_rows).min(self.n_rows),
            cols: col..(col + self.tile_cols).min(self.n_cols),
            matrix: PhantomData,
        })
    }
}

impl Tile<'_> {
    /// The matrix's rows that it covers.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The matrix's columns that it covers.
    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// What of it lies in `rows` of the matrix, if anything does: a tile of those rows alone, which
    /// are counted from the first of `rows`.
    pub fn within(&mut self, rows: &Range<usize>) -> Option<Tile<'_>> {
        let first = self.rows.start.max(rows.start);
        let end = self.rows.end.min(rows.end);
        (first < end).then(|| Tile {
            // A row of the matrix, since `first` is one and no earlier.
            data: self.data.wrapping_add(rows.start * self.stride),
            stride: self.stride,
            rows: first - rows.start..end - rows.start,
            cols: self.cols.clone(),
            matrix: PhantomData,
        })
    }

    /// This tile's part of row `row` of the matrix.
    #[inline(always)]
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row));
        // SAFETY: `rows` and `cols` lie inside the matrix, whose exclusive borrow outlives the
        // tile; this tile alone covers them (each index is handed out once), and `&mut self`
        // makes sure that only one of its rows is borrowed at a time.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.data.add(row * self.stride + self.cols.start),
                self.cols.len(),
            )
        }
    }

    /// Where a square of this tile starts, and how far its rows are apart: at row `row` and column
    /// `col`, both counted within the tile.
    #[inline(always)]
    pub fn square_mut(&mut self, row: usize, col: usize, len: usize) -> (*mut f32, usize) {
        assert!(row + len <= self.rows.len() && col + len <= self.cols.len());
        let start = (self.rows.start + row) * self.stride + self.cols.start + col;
        (self.data.wrapping_add(start), self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_tile_are_its_rows_counted_from_elsewhere() {
        let (n_rows, n_cols) = (11, 4);
        let mut matrix = vec![0.0; n_rows * n_cols];
        // Some of no rows, some across the ends of tiles.
        let parts = [0..0, 0..2, 2..3, 3..9, 9..9, 9..11];
        let tiles = Tiles::new(&mut matrix, n_cols, 4, 3);
        while let Some(mut tile) = tiles.take() {
            for (i, part) in parts.iter().enumerate() {
                let Some(mut within) = tile.within(part) else {
                    continue;
                };
                for row in within.rows() {
                    let cols = within.cols();
                    for (value, col) in within.row_mut(row).iter_mut().zip(cols) {
                        *value += (100 * i + 10 * row + col) as f32;
                    }
                }
            }
        }
        for (row, values) in matrix.chunks(n_cols).enumerate() {
            let i = parts.iter().position(|part| part.contains(&row)).unwrap();
            for (col, &value) in values.iter().enumerate() {
                let wanted = 100 * i + 10 * (row - parts[i].start) + col;
                assert_eq!(value, wanted as f32, "row {row}, column {col}");
            }
        }
    }

    #[test]
    fn every_element_is_handed_out_once() {
        for (n_rows, n_cols, tile_rows, tile_cols) in [
            (1, 1, 1, 1),
            (5, 7, 2, 3),
            (4, 6, 4, 6),
            (3, 5, 8, 8),
            (0, 4, 2, 2),
            (2, 50, 1, 1),
        ] {
            for n_shares in [1, 2, 3, 7, 40] {
                // Rows that are apart for some, and then what is between them.
                let stride = n_cols + n_shares % 3;
                let mut matrix = vec![0.0; n_rows * stride];
                let tiles = Tiles::strided(&mut matrix, stride, n_cols, tile_rows, tile_cols);
                let tiles = &tiles.shared_among(n_shares);
                std::thread::scope(|scope| {
                    for thread in 0..3 {
                        scope.spawn(move || {
                            let own = std::iter::from_fn(|| tiles.take_of(thread));
                            for mut tile in own.chain(std::iter::from_fn(|| tiles.take())) {
                                for row in tile.rows() {
                                    tile.row_mut(row).iter_mut().for_each(|x| *x += 1.0);
                                }
                            }
                        });
                    }
                });
                for (i, &x) in matrix.iter().enumerate() {
                    let expected = if i % stride < n_cols { 1.0 } else { 0.0 };
                    assert_eq!(x, expected, "{n_rows}x{n_cols}");
                }
            }
        }
    }
}
