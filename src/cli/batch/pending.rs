//! The rows that are still to be done.

use super::output::DoneRows;
use super::rows::{Row, Rows};
use super::{Defaults, Shard};
use crate::cli::ahead::Asking;
use crate::cli::interrupt;
use crate::error::Result;

/// Rows of a shard that no earlier run has done, until an interrupt.
pub struct Pending<'a> {
    rows: Rows,
    done: DoneRows,
    defaults: &'a Defaults,
    shard: Option<Shard>,
    n_read: usize,
}

impl<'a> Pending<'a> {
    pub fn new(rows: Rows, done: DoneRows, defaults: &'a Defaults, shard: Option<Shard>) -> Self {
        Pending {
            rows,
            done,
            defaults,
            shard,
            n_read: 0,
        }
    }

    /// What was done before.
    pub fn into_done(self) -> DoneRows {
        self.done
    }
}

impl Iterator for Pending<'_> {
    type Item = Result<Asking<Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        while !interrupt::is_requested() {
            let read = self.rows.next(&mut self.n_read, self.defaults, self.shard);
            match read.transpose()? {
                Ok((row, request)) if self.done.takes(row.key) => return Some(Ok((row, request))),
                Ok(_) => {}
                Err(e) => return Some(Err(e)),
            }
        }
        None
    }
}
