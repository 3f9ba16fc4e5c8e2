//! The output file: one line per row, only ever appended to.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Kind, Result};

/// How long outcomes may be lost by a failure of power.
const SYNC: Duration = Duration::from_secs(1);
/// A line that no row of ours is as long as.
const MAX_LINE_BYTES: usize = 64 << 20;

/// The file.
#[derive(Debug)]
pub struct OutcomeFile {
    file: File,
    path: PathBuf,
    synced: Instant,
    is_synced: bool,
}

/// Which rows need not be done.
#[derive(Debug, Default)]
pub struct DoneRows {
    /// Their keys.
    keys: HashSet<u64>,
    /// Those that failed in earlier runs and were not done since.
    failed: HashSet<u64>,
    /// How many of those the input still has.
    n_failed: usize,
}

impl OutcomeFile {
    /// Opens or makes the file, cuts off a last line that was not written to its end, and reads which
    /// rows are done. With `retry_errors`, those that failed are not.
    ///
    /// # Errors
    /// [`Kind::Io`] where that fails or another run writes to it, [`Kind::Input`] where it holds
    /// something else.
    pub fn open(path: &Path, retry_errors: bool) -> Result<(Self, DoneRows)> {
        let failed = |doing: &'static str| move |e| Error::io(doing, path, e);
        if let Ok(metadata) = std::fs::metadata(path)
            && !metadata.is_file()
        {
            let message = "is no ordinary file, which outcomes could be appended to";
            return Err(Error::new(Kind::Io, message).in_file(path));
        }
        let mut options = File::options();
        let file = options.read(true).append(true).create(true).open(path);
        let file = file.map_err(failed("cannot open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = "another 'owl2 batch' is writing to it";
                return Err(Error::new(Kind::Io, message).in_file(path));
            }
            Err(TryLockError::Error(e)) => return Err(failed("cannot lock")(e)),
        }
        let mut output = OutcomeFile {
            file,
            path: path.to_owned(),
            synced: Instant::now(),
            is_synced: true,
        };
        let done = output.read(retry_errors)?;
        Ok((output, done))
    }

    fn read(&mut self, retry_errors: bool) -> Result<DoneRows> {
        let failed = |doing: &str| {
            let path = self.path.clone();
            let doing = doing.to_owned();
            move |e| Error::io(&doing, &path, e)
        };
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(failed("cannot read"))?;
        let mut reader = BufReader::new(&self.file);
        let (mut line, mut n_lines, mut whole_bytes) = (Vec::new(), 0, 0_u64);
        let (mut done, mut of_errors) = (HashSet::new(), HashSet::new());
        loop {
            line.clear();
            let mut bounded = std::io::Read::take(&mut reader, MAX_LINE_BYTES as u64);
            let n = bounded
                .read_until(b'\n', &mut line)
                .map_err(failed("cannot read"))?;
            if n == 0 || (line.last() != Some(&b'\n') && n < MAX_LINE_BYTES) {
                break;
            }
            n_lines += 1;
            whole_bytes += n as u64;
            let Some((key, is_error)) = key_of(&line) else {
                return Err(Error::input(format!(
                    "line {n_lines} is no outcome of a batch; name another file with -o"
                ))
                .in_file(&self.path));
            };
            if !is_error {
                of_errors.remove(&key);
                done.insert(key);
            } else if !done.contains(&key) {
                of_errors.insert(key);
            }
        }
        drop(reader);
        let len = self.file.metadata().map_err(failed("cannot read"))?.len();
        if len > whole_bytes {
            self.file
                .set_len(whole_bytes)
                .map_err(failed("cannot write"))?;
        }
        if retry_errors {
            of_errors.clear();
        }
        done.extend(&of_errors);
        Ok(DoneRows {
            keys: done,
            failed: of_errors,
            n_failed: 0,
        })
    }

    /// Appends an outcome, all of it or, where the system fails in the middle, what the next run cuts
    /// off.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn append(&mut self, outcome: &Value) -> Result<()> {
        let line = format!("{outcome}\n");
        self.file
            .write_all(line.as_bytes())
            .map_err(|e| Error::io("cannot write", &self.path, e))?;
        self.is_synced = false;
        self.sync_if_due()
    }

    /// Sees to it that nothing waits for longer than a second to be on the disk.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn sync_if_due(&mut self) -> Result<()> {
        match !self.is_synced && self.synced.elapsed() >= SYNC {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// Sees to it that what was appended is on the disk.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn sync(&mut self) -> Result<()> {
        if !self.is_synced {
            self.file
                .sync_data()
                .map_err(|e| Error::io("cannot write", &self.path, e))?;
            self.is_synced = true;
        }
        self.synced = Instant::now();
        Ok(())
    }
}

impl DoneRows {
    /// Whether a row is still to be done; it counts as done from then on, so that the same row is done
    /// once.
    pub fn takes(&mut self, key: u64) -> bool {
        if self.keys.insert(key) {
            return true;
        }
        self.n_failed += usize::from(self.failed.remove(&key));
        false
    }

    /// Rows of this run's input that failed in earlier runs and are not done again.
    pub fn n_failed_before(&self) -> usize {
        self.n_failed
    }
}

/// The key of an outcome, and whether it is an error.
fn key_of(line: &[u8]) -> Option<(u64, bool)> {
    let outcome: Value = serde_json::from_slice(line).ok()?;
    let key = outcome.get("key")?.as_str()?;
    let is_error = outcome.get("error").is_some_and(|error| !error.is_null());
    Some((u64::from_str_radix(key, 16).ok()?, is_error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_torn_line_is_cut_and_whole_ones_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let (mut output, _) = OutcomeFile::open(&path, false).unwrap();
        assert!(
            OutcomeFile::open(&path, false)
                .unwrap_err()
                .to_string()
                .contains("another")
        );
        output
            .append(&json!({"id": "a", "key": "00000000000000aa"}))
            .unwrap();
        output
            .append(&json!({"id": "b", "key": "bb", "error": {"message": "x"}}))
            .unwrap();
        output.sync().unwrap();
        drop(output);
        let whole = std::fs::read(&path).unwrap();
        for torn in [&b"{"[..], b"{\"key\": \"cc\"}", b"\xff", b""] {
            std::fs::write(&path, [&whole, torn].concat()).unwrap();
            let (output, mut done) = OutcomeFile::open(&path, false).unwrap();
            assert!(!done.takes(0xaa) && !done.takes(0xbb) && done.takes(0xcc));
            assert!(!done.takes(0xcc), "twice in one run");
            assert_eq!(done.n_failed_before(), 1);
            assert!(!done.takes(0xbb), "counted once");
            assert_eq!(done.n_failed_before(), 1);
            drop(output);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        let (output, mut done) = OutcomeFile::open(&path, true).unwrap();
        assert!(!done.takes(0xaa) && done.takes(0xbb));
        drop(output);
        std::fs::write(&path, "{\"image\": 3}\n").unwrap();
        let error = OutcomeFile::open(&path, false).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"image\": 3}\n");
        assert!(OutcomeFile::open(dir.path(), false).is_err());
    }
}
