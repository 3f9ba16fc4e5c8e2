//! Tables that grow row by row. A later run continues after the last row.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// The largest table that is read: some ten million rows.
const MAX_BYTES: u64 = 1 << 31;

/// An open table. Cells are parted by tabs where its name ends in `.tsv`, else by commas.
pub struct TableFile {
    path: PathBuf,
    file: File,
    delimiter: u8,
}

impl TableFile {
    /// A new table. One that is there already is left alone.
    pub fn create(path: &Path, columns: &[String]) -> Result<Self> {
        let opened = File::options().write(true).create_new(true).open(path);
        let file = opened.map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::usage(format!(
                "exists already; continue it with --resume {}, or remove it",
                path.display()
            ))
            .in_file(path),
            _ => Error::io("cannot write", path, e),
        })?;
        let mut rows = TableFile {
            path: path.to_owned(),
            file,
            delimiter: delimiter(path),
        };
        rows.add(columns)?;
        Ok(rows)
    }

    /// The table of an earlier run and its rows, or a new one where there is none.
    pub fn resume(path: &Path, columns: &[String]) -> Result<(Self, Vec<Vec<String>>)> {
        if files::open_if_there(path)?.is_none() {
            return Ok((Self::create(path, columns)?, Vec::new()));
        }
        let cannot_open = |e| Error::io("cannot open", path, e);
        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .open(path)
            .map_err(cannot_open)?;
        let bytes = files::read_at_most(&mut file, path, MAX_BYTES)?;
        let bytes = bytes.ok_or_else(|| {
            Error::input(format!("has more than {MAX_BYTES} bytes")).in_file(path)
        })?;
        let delimiter = delimiter(path);
        let (earlier, n_bytes) = read(&bytes, columns, delimiter).map_err(|e| e.in_file(path))?;
        // The last row is cut off where a process was killed in the middle of it.
        let end = file
            .set_len(n_bytes)
            .and_then(|()| file.seek(SeekFrom::Start(n_bytes)));
        end.map_err(|e| Error::io("cannot write", path, e))?;
        let mut rows = TableFile {
            path: path.to_owned(),
            file,
            delimiter,
        };
        if n_bytes == 0 {
            rows.add(columns)?;
        }
        Ok((rows, earlier))
    }

    /// Adds a row.
    pub fn add(&mut self, cells: &[String]) -> Result<()> {
        let mut writer = csv::WriterBuilder::new()
            .delimiter(self.delimiter)
            .from_writer(Vec::new());
        let row = writer
            .write_record(cells)
            .map_err(std::io::Error::other)
            .and_then(|()| writer.into_inner().map_err(|e| e.into_error()));
        let written = row.and_then(|row| self.file.write_all(&row));
        written.map_err(|e| Error::io("cannot write", &self.path, e))
    }
}

fn delimiter(path: &Path) -> u8 {
    let is_tsv = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("tsv"));
    if is_tsv { b'\t' } else { b',' }
}

/// The whole rows of a table, and where the last one ends.
fn read(bytes: &[u8], columns: &[String], delimiter: u8) -> Result<(Vec<Vec<String>>, u64)> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes);
    let mut record = csv::ByteRecord::new();
    let (mut earlier, mut end, mut has_header) = (Vec::new(), 0, false);
    while reader
        .read_byte_record(&mut record)
        .map_err(|e| Error::input(format!("is not a table: {e}")))?
    {
        let mut n_read = reader.position().byte();
        // The reader leaves the second half of a line's end to the next row.
        let is_half = bytes[..n_read as usize].ends_with(b"\r");
        n_read += u64::from(is_half && bytes[n_read as usize..].starts_with(b"\n"));
        // The last row may be cut off in the middle of a number, or of a text with lines.
        let row = &bytes[end as usize..n_read as usize];
        let n_quotes = row.iter().filter(|&&byte| byte == b'"').count();
        let is_balanced = n_quotes.is_multiple_of(2);
        let is_whole = matches!(row.last(), Some(b'\n' | b'\r')) && is_balanced;
        if n_read == bytes.len() as u64 && (!is_whole || record.len() != columns.len()) {
            break;
        }
        let cells = record.iter();
        let cells = cells.map(|cell| String::from_utf8_lossy(cell).into_owned());
        let cells: Vec<String> = cells.collect();
        end = n_read;
        if !has_header {
            has_header = true;
            if cells != columns {
                return Err(Error::usage(
                    "has other columns: it was made by another rule, prompt or words, or is no \
                     table of results; give another file",
                )
                .in_parameter("resume"));
            }
            continue;
        }
        if cells.len() != columns.len() {
            let line = record.position().map_or(0, csv::Position::line);
            return Err(Error::input(format!(
                "the row in line {line} has {} cells, expected {}; remove it",
                cells.len(),
                columns.len()
            )));
        }
        // As the last row it would count as cut off by the next run.
        if !is_balanced {
            let line = record.position().map_or(0, csv::Position::line);
            return Err(Error::input(format!(
                "the row in line {line} has quotes that do not match; remove it"
            )));
        }
        earlier.push(cells);
    }
    Ok((earlier, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    #[test]
    fn ends_of_lines_of_other_systems_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.csv");
        let columns = cells(["name", "value"]);
        for text in ["name,value\r\nx,1\r\n", "name,value\rx,1\r"] {
            std::fs::write(&path, text).unwrap();
            for _ in 0..2 {
                let (_, earlier) = TableFile::resume(&path, &columns).unwrap();
                assert_eq!(earlier, [cells(["x", "1"])], "{text:?}");
                assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            }
        }
    }

    #[test]
    fn a_row_that_was_cut_off_is_done_again() {
        let directory = tempfile::tempdir().unwrap();
        let columns = cells(["name", "value"]);
        let all = [
            cells(["one", "1.5"]),
            cells(["a, \"quoted\"\nname\tx", "22"]),
            cells(["three", "several\n\"lines\"\n"]),
        ];
        for name in ["t.csv", "t.tsv"] {
            let path = directory.path().join(name);
            let mut rows = TableFile::create(&path, &columns).unwrap();
            for row in &all {
                rows.add(row).unwrap();
            }
            drop(rows);
            assert!(TableFile::create(&path, &columns).is_err());
            let whole = std::fs::read(&path).unwrap();
            for n_lost in 0..=whole.len() {
                std::fs::write(&path, &whole[..whole.len() - n_lost]).unwrap();
                let (mut rows, earlier) = TableFile::resume(&path, &columns).unwrap();
                assert_eq!(earlier, all[..earlier.len()], "{n_lost}");
                for row in &all[earlier.len()..] {
                    rows.add(row).unwrap();
                }
                assert_eq!(std::fs::read(&path).unwrap(), whole, "{n_lost}");
            }
        }
    }

    #[test]
    fn tables_of_something_else_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.csv");
        for text in [
            "name,other\nx,1\n",
            "name,value\nx\ny,1\n",
            "name,value\n\"a\" b\"c,1\nz,2\n",
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(TableFile::resume(&path, &cells(["name", "value"])).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
