//! The table of `--csv` and `--resume`: a row is there whole as soon as its subject is done.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::done::{Columns, Done, Value};
use crate::error::{Error, Result};
use crate::files;

/// The largest table that is read: some ten million rows.
const MAX_BYTES: u64 = 1 << 31;

/// An open table.
pub struct Sheet {
    path: PathBuf,
    file: File,
    earlier: Vec<Done>,
}

impl Sheet {
    /// A new table. One that is there already is left alone.
    pub fn create(path: &Path, columns: &Columns) -> Result<Self> {
        let opened = File::options().write(true).create_new(true).open(path);
        let file = opened.map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::usage(format!(
                "is there already; go on with it by --resume {}, or remove it",
                path.display()
            ))
            .in_flag("--csv")
            .in_file(path),
            _ => Error::io("cannot write", path, e),
        })?;
        let mut sheet = Sheet {
            path: path.to_owned(),
            file,
            earlier: Vec::new(),
        };
        sheet.write(columns.names())?;
        Ok(sheet)
    }

    /// The table of an earlier run, or a new one where there is none.
    pub fn resume(path: &Path, columns: &Columns) -> Result<Self> {
        if files::open_if_there(path)?.is_none() {
            return Self::create(path, columns);
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
        let (earlier, n_bytes) = read(&bytes, columns).map_err(|e| e.in_file(path))?;
        // The last row is cut off where a process was killed in the middle of it.
        let end = file
            .set_len(n_bytes)
            .and_then(|()| file.seek(SeekFrom::Start(n_bytes)));
        end.map_err(|e| Error::io("cannot write", path, e))?;
        let mut sheet = Sheet {
            path: path.to_owned(),
            file,
            earlier,
        };
        if n_bytes == 0 {
            sheet.write(columns.names())?;
        }
        Ok(sheet)
    }

    /// What earlier runs rated.
    pub fn take_earlier(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.earlier)
    }

    /// Adds a row.
    pub fn add(&mut self, done: &Done) -> Result<()> {
        self.write(&done.row())
    }

    fn write(&mut self, cells: &[String]) -> Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let row = writer
            .write_record(cells)
            .map_err(std::io::Error::other)
            .and_then(|()| writer.into_inner().map_err(|e| e.into_error()));
        let written = row.and_then(|row| self.file.write_all(&row));
        written.map_err(|e| Error::io("cannot write", &self.path, e))
    }
}

/// The whole rows of a table, and where the last one ends.
fn read(bytes: &[u8], columns: &Columns) -> Result<(Vec<Done>, u64)> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes);
    let mut record = csv::ByteRecord::new();
    let (mut earlier, mut end, mut has_header) = (Vec::new(), 0, false);
    while reader
        .read_byte_record(&mut record)
        .map_err(|e| Error::input(format!("is no table: {e}")))?
    {
        let n_read = reader.position().byte();
        // The last row may end without a line end, in the middle of a number even.
        let is_whole = n_read < bytes.len() as u64 || bytes.ends_with(b"\n");
        if !is_whole || record.len() != columns.names().len() && n_read == bytes.len() as u64 {
            break;
        }
        let cells: Vec<String> = record
            .iter()
            .map(|cell| String::from_utf8_lossy(cell).into_owned())
            .collect();
        end = n_read;
        if !has_header {
            has_header = true;
            if cells != columns.names() {
                return Err(Error::usage(
                    "has other columns: it was made by another rule, prompt or words, or is no \
                     table of scores; give another file",
                )
                .in_flag("--resume"));
            }
            continue;
        }
        let number = |index: usize| cells.get(index)?.parse::<f64>().ok();
        if cells.len() != columns.names().len() || columns.is_scores() && number(1).is_none() {
            let line = record.position().map_or(0, csv::Position::line);
            return Err(Error::input(format!(
                "has a row in line {line} that is none of scores; remove it"
            )));
        }
        earlier.push(Done {
            name: cells[0].clone(),
            path: Some(PathBuf::from(&cells[0])),
            value: Value::Row(cells),
            seconds: 0.0,
        });
    }
    Ok((earlier, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::{Rule, Scoring};

    fn columns() -> Columns {
        Columns::of_words(&["a".to_owned()])
    }

    #[test]
    fn a_row_that_was_cut_off_is_done_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.csv");
        let row = |name: &str| Done {
            name: name.to_owned(),
            path: None,
            value: Value::Row(vec![
                name.to_owned(),
                "1".into(),
                "1".into(),
                "2".into(),
                "-3".into(),
            ]),
            seconds: 0.0,
        };
        let mut sheet = Sheet::create(&path, &columns()).unwrap();
        for name in ["one", "a, \"quoted\"\nname", "three"] {
            sheet.add(&row(name)).unwrap();
        }
        drop(sheet);
        assert!(Sheet::create(&path, &columns()).is_err());
        let whole = std::fs::read(&path).unwrap();
        for n_lost in 0..whole.len() {
            std::fs::write(&path, &whole[..whole.len() - n_lost]).unwrap();
            let mut sheet = Sheet::resume(&path, &columns()).unwrap();
            let earlier: Vec<String> = sheet.take_earlier().into_iter().map(|d| d.name).collect();
            let all = ["one", "a, \"quoted\"\nname", "three"];
            assert_eq!(earlier, all[..earlier.len()], "{n_lost}");
            for name in &all[earlier.len()..] {
                sheet.add(&row(name)).unwrap();
            }
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{n_lost}");
        }
    }

    #[test]
    fn tables_of_something_else_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.csv");
        let scores = Columns::of_scores(&Scoring::new(Rule::QAlign));
        for text in ["name,value\nx,1\n", "\"\n\n\n", "image,seconds\n\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(Sheet::resume(&path, &scores).is_err() || text.starts_with('"'));
            if !text.starts_with('"') {
                assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            }
        }
    }
}
