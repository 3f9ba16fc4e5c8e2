//! The rows of a pass: the sequence and the modality of each.
//!
//! Linear layers see only rows. Norms, keys and values work on runs of one modality, which may span
//! sequences. Rotary positions, the cache and attention work on parts of one sequence, which may span
//! modalities.

use std::ops::Range;

use crate::model::adaptive::{Modality, Run};

/// The rows that one sequence has in a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its rows; none where it is not its turn.
    pub rows: Range<usize>,
    /// Where the first of them stands in the sequence.
    pub first_position: usize,
}

/// Rows that are computed together, twice over: by modality, and by sequence.
#[derive(Debug, Default)]
pub(super) struct BatchRows {
    /// Neighbours of one modality.
    pub runs: Vec<Run>,
    /// One for each part, in order.
    pub spans: Vec<Span>,
}

/// What is computed in one go.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// All rows.
    pub(super) all: BatchRows,
    /// Those whose outcome is wanted, numbered anew. Of the others, the last block computes keys and
    /// values alone.
    pub(super) wanted: BatchRows,
    /// Which of all rows these are; they ascend.
    pub(super) indices: Vec<usize>,
    /// For each part, the positions that its sequence has reached or will reach in this prompt, on
    /// which dynamic rotary scaling depends.
    pub(super) longest: Vec<usize>,
}

impl BatchRows {
    fn clear(&mut self) {
        self.runs.clear();
        self.spans.clear();
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.spans.last().map_or(0, |span| span.rows.end)
    }

    /// Begins the rows of the next part.
    fn begin(&mut self, first_position: usize) {
        let n = self.n();
        self.spans.push(Span {
            rows: n..n,
            first_position,
        });
    }

    /// Adds `n` rows to the part that was begun last.
    fn add(&mut self, modality: Modality, n: usize) {
        if n == 0 {
            return;
        }
        let end = self.n() + n;
        match self.runs.last_mut() {
            Some(run) if run.modality == modality => run.rows.end = end,
            _ => self.runs.push(Run {
                modality,
                rows: end - n..end,
            }),
        }
        if let Some(span) = self.spans.last_mut() {
            span.rows.end = end;
        }
    }
}

impl Pass {
    /// Makes room for `n_rows`, of as many parts at the most.
    pub fn reserve(&mut self, n_rows: usize) {
        for rows in [&mut self.all, &mut self.wanted] {
            rows.clear();
            rows.runs.reserve(n_rows);
            rows.spans.reserve(n_rows);
        }
        self.indices.clear();
        self.indices.reserve(n_rows);
        self.longest.clear();
        self.longest.reserve(n_rows);
    }

    /// Makes it one of no rows.
    pub fn clear(&mut self) {
        self.all.clear();
        self.wanted.clear();
        self.indices.clear();
        self.longest.clear();
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.all.n()
    }

    /// Number of rows whose outcome is wanted.
    pub fn n_wanted(&self) -> usize {
        self.indices.len()
    }

    /// Begins a part: the next rows stand in one sequence from `first_position` on.
    pub fn begin(&mut self, first_position: usize, longest: usize) {
        self.all.begin(first_position);
        self.longest.push(longest);
    }

    /// Adds `n` rows to it.
    pub fn add(&mut self, modality: Modality, n: usize) {
        self.all.add(modality, n);
    }

    /// Ends it; the outcome of its last `n_wanted` rows is wanted.
    pub fn end(&mut self, n_wanted: usize) {
        let Some(span) = self.all.spans.last() else {
            return;
        };
        let rows = span.rows.end - n_wanted..span.rows.end;
        assert!(rows.start >= span.rows.start);
        self.wanted
            .begin(span.first_position + (rows.start - span.rows.start));
        for run in &self.all.runs {
            let start = run.rows.start.max(rows.start);
            let end = run.rows.end.min(rows.end);
            self.wanted.add(run.modality, end.saturating_sub(start));
        }
        self.indices.extend(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_grouped_by_modality_and_by_sequence() {
        let mut pass = Pass::default();
        // What an earlier pass left does not count.
        pass.begin(9, 9);
        pass.add(Modality::Image, 3);
        pass.end(3);
        pass.clear();

        pass.begin(4, 20);
        pass.add(Modality::Text, 2);
        pass.add(Modality::Image, 3);
        pass.add(Modality::Text, 1);
        pass.end(2);
        pass.begin(7, 7);
        pass.end(0);
        pass.begin(0, 2);
        pass.add(Modality::Text, 2);
        pass.end(1);

        let run = |modality, rows| Run { modality, rows };
        let span = |rows, first_position| Span {
            rows,
            first_position,
        };
        use Modality::{Image, Text};
        assert_eq!((pass.n(), pass.n_wanted()), (8, 3));
        let runs = [run(Text, 0..2), run(Image, 2..5), run(Text, 5..8)];
        assert_eq!(pass.all.runs, runs);
        assert_eq!(
            pass.all.spans,
            [span(0..6, 4), span(6..6, 7), span(6..8, 0)]
        );
        assert_eq!(pass.indices, [4, 5, 7]);
        assert_eq!(pass.wanted.runs, [run(Image, 0..1), run(Text, 1..3)]);
        assert_eq!(
            pass.wanted.spans,
            [span(0..2, 8), span(2..2, 7), span(2..3, 1)]
        );
        assert_eq!(pass.longest, [20, 7, 2]);
    }
}
