//! The order in which a file's rows come from a checkpoint's rows.

/// For each row of the file's tensor, which row of the checkpoint's it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// The same.
    Same,
    /// Queries and keys of the decoder. The checkpoint rotates pairs `(t, t + head_dim / 2)` of a
    /// head, the file adjacent pairs `(2t, 2t + 1)`: llama.cpp's `permute`.
    RotaryPairs {
        /// Rows of one head.
        head_dim: usize,
    },
    /// The ViT's fused projection: `[head][q, k, v][head_dim]` in the checkpoint,
    /// `[q, k, v][head][head_dim]` in the file.
    FusedQkv {
        /// Number of heads.
        n_heads: usize,
        /// Rows of one head of one of the three.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The checkpoint's row that becomes `row` of the file.
    pub fn source_row(self, row: usize) -> usize {
        match self {
            RowOrder::Same => row,
            RowOrder::RotaryPairs { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (pair, half) = (within / 2, within % 2);
                head * head_dim + half * (head_dim / 2) + pair
            }
            RowOrder::FusedQkv { n_heads, head_dim } => {
                let (head_row, within) = (row / head_dim, row % head_dim);
                let (which, head) = (head_row / n_heads, head_row % n_heads);
                (head * 3 + which) * head_dim + within
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(order: RowOrder, n_rows: usize) -> Vec<usize> {
        (0..n_rows).map(|row| order.source_row(row)).collect()
    }

    /// numpy: `arange(12).reshape(2, 2, 3).swapaxes(1, 2).reshape(12)`.
    #[test]
    fn rotary_pairs_become_neighbours() {
        let rows = order(RowOrder::RotaryPairs { head_dim: 6 }, 12);
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    /// numpy: `arange(12).reshape(2, 3, 2).swapaxes(0, 1).reshape(12)`.
    #[test]
    fn fused_projection_becomes_three_blocks() {
        let fused = RowOrder::FusedQkv {
            n_heads: 2,
            head_dim: 2,
        };
        assert_eq!(order(fused, 12), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }
}
