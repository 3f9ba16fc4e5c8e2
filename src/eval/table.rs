//! Tables of questions, read as pandas (and so VLMEvalKit) reads them.
//!
//! This matters because cells become prompts: pandas treats some words as missing cells, and reads a
//! column of numbers with gaps as decimals.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::eval::metrics::vqa::python_float;
use crate::files;

/// Texts that pandas takes for a missing cell.
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
];
/// Longer cells, which are pictures, stay in the file until they are wanted.
const LONG: usize = 4096;
/// The longest row: a few pictures as text.
const MAX_ROW_BYTES: usize = 1 << 28;
/// The most text of all rows without their pictures.
const MAX_TEXT_BYTES: usize = 1 << 30;

/// Says that a table is of commas and has no header: columns are called by their numbers.
pub const NO_HEADER: u8 = 0;

/// A table with a header.
pub struct Table {
    path: PathBuf,
    columns: Vec<String>,
    /// Cells as they are in the file; `None` for long ones.
    rows: Vec<Row>,
    kinds: Vec<Kind>,
    reader: Mutex<csv::Reader<BufReader<File>>>,
}

struct Row {
    cells: Vec<Option<String>>,
    position: csv::Position,
}

/// What pandas takes a column for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integers,
    Floats,
    Text,
}

impl Table {
    /// Reads the first `limit` rows; cells are parted by `delimiter`, or it is [`NO_HEADER`].
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it cannot be read, [`Kind::Input`](crate::Kind::Input)
    /// with the line where it is no table.
    pub fn read(path: &Path, delimiter: u8, limit: usize) -> Result<Self> {
        Self::read_with(path, delimiter, limit).map_err(|e| e.in_file(path))
    }

    fn read_with(path: &Path, delimiter: u8, limit: usize) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(if delimiter == NO_HEADER {
                b','
            } else {
                delimiter
            })
            .has_headers(false)
            .flexible(true)
            .from_reader(BufReader::new(files::open(path)?));
        let mut columns = Vec::new();
        let mut rows = Vec::new();
        let mut record = csv::ByteRecord::new();
        let mut n_bytes = 0;
        while rows.len() < limit {
            let is_there = reader.read_byte_record(&mut record);
            if !is_there.map_err(|e| Error::input(format!("is not a table: {e}")))? {
                break;
            }
            let position = record
                .position()
                .cloned()
                .unwrap_or_else(csv::Position::new);
            let line = position.line();
            if record.as_slice().len() > MAX_ROW_BYTES {
                return Err(Error::input(format!(
                    "the row in line {line} has more than {MAX_ROW_BYTES} bytes"
                )));
            }
            let mut cells = Vec::with_capacity(record.len());
            for cell in &record {
                cells.push(match cell.len() > LONG && !columns.is_empty() {
                    true => None,
                    false => Some(text(cell, line)?),
                });
            }
            if columns.is_empty() && delimiter == NO_HEADER {
                columns = (0..cells.len()).map(|column| column.to_string()).collect();
            } else if columns.is_empty() {
                columns = cells.into_iter().flatten().collect();
                if let Some(first) = columns.first_mut() {
                    *first = files::without_mark(first).to_owned();
                }
                continue;
            }
            if cells.len() > columns.len() {
                return Err(Error::input(format!(
                    "the row in line {line} has {} cells, more than the {} columns",
                    cells.len(),
                    columns.len()
                )));
            }
            n_bytes += cells.iter().flatten().map(String::len).sum::<usize>();
            if n_bytes > MAX_TEXT_BYTES {
                return Err(Error::input("has too much text").advise("use", "limit", ""));
            }
            rows.push(Row { cells, position });
        }
        if rows.is_empty() {
            return Err(Error::input("has no rows"));
        }
        let kinds = (0..columns.len()).map(|column| kind(&rows, column));
        Ok(Table {
            path: path.to_owned(),
            kinds: kinds.collect(),
            columns,
            rows,
            reader: Mutex::new(reader),
        })
    }

    /// Names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is a column of that name.
    pub fn has(&self, column: &str) -> bool {
        self.index(column).is_some()
    }

    fn index(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| name == column)
    }

    /// A cell as pandas would print it; `None` where it is missing.
    ///
    /// # Errors
    /// Those of reading a long cell from the file.
    pub fn cell(&self, row: usize, column: &str) -> Result<Option<String>> {
        let Some(index) = self.index(column) else {
            return Ok(None);
        };
        let Some(cell) = self.rows[row].cells.get(index) else {
            return Ok(None);
        };
        let Some(cell) = cell else {
            return self.long_cell(row, index).map(Some);
        };
        if is_missing(cell) {
            return Ok(None);
        }
        Ok(Some(match self.kinds[index] {
            Kind::Text => cell.clone(),
            Kind::Integers => integer(cell).map_or_else(|| cell.clone(), |n| n.to_string()),
            Kind::Floats => python_float(cell).map_or_else(|| cell.clone(), printed),
        }))
    }

    /// The cells of a row as they are in the file.
    ///
    /// # Errors
    /// As [`Table::cell`].
    pub fn raw(&self, row: usize, column: usize) -> Result<String> {
        match self.rows[row].cells.get(column) {
            None => Ok(String::new()),
            Some(Some(cell)) => Ok(cell.clone()),
            Some(None) => self.long_cell(row, column),
        }
    }

    fn long_cell(&self, row: usize, column: usize) -> Result<String> {
        let failed =
            |e: csv::Error| Error::input(format!("cannot be read again: {e}")).in_file(&self.path);
        let position = &self.rows[row].position;
        let mut reader = self.reader.lock().unwrap_or_else(|e| e.into_inner());
        reader.seek(position.clone()).map_err(failed)?;
        let mut record = csv::ByteRecord::new();
        reader.read_byte_record(&mut record).map_err(failed)?;
        let changed = || Error::input("was changed while it was read").in_file(&self.path);
        let cell = record.get(column).ok_or_else(changed)?;
        text(cell, position.line()).map_err(|e| e.in_file(&self.path))
    }

    /// Rows by what stands in a column.
    ///
    /// # Errors
    /// As [`Table::cell`].
    pub fn rows_by(&self, column: &str) -> Result<HashMap<String, usize>> {
        let mut rows = HashMap::new();
        for row in 0..self.n_rows() {
            if let Some(cell) = self.cell(row, column)? {
                rows.entry(cell).or_insert(row);
            }
        }
        Ok(rows)
    }
}

fn text(cell: &[u8], line: u64) -> Result<String> {
    let text = std::str::from_utf8(cell);
    text.map(str::to_owned)
        .map_err(|_| Error::input(format!("the row in line {line} is not UTF-8 text")))
}

fn is_missing(cell: &str) -> bool {
    MISSING.contains(&cell)
}

/// What pandas takes a column for: integers only where none is missing.
fn kind(rows: &[Row], column: usize) -> Kind {
    let mut kind = Kind::Integers;
    let mut is_empty = true;
    for row in rows {
        match row.cells.get(column) {
            Some(None) => return Kind::Text,
            Some(Some(cell)) if !is_missing(cell) => {
                is_empty = false;
                match (integer(cell), number(cell)) {
                    (Some(_), _) => {}
                    (None, Some(_)) => kind = Kind::Floats,
                    (None, None) => return Kind::Text,
                }
            }
            _ if kind == Kind::Integers => kind = Kind::Floats,
            _ => {}
        }
    }
    if is_empty { Kind::Text } else { kind }
}

fn integer(cell: &str) -> Option<i64> {
    cell.trim_matches(' ').parse().ok()
}

/// A number as pandas reads it, which knows no underscores.
fn number(cell: &str) -> Option<f64> {
    match cell.contains('_') {
        true => None,
        false => python_float(cell),
    }
}

/// A number as Python prints it.
fn printed(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let size = value.abs();
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{value:?}");
    }
    // Python has a sign and at least two digits in the exponent.
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The texts of a cell that holds a Python list of strings, or its own text alone.
pub fn listed(cell: &str) -> Vec<String> {
    let inner = cell
        .trim()
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inner.and_then(strings) {
        Some(texts) => texts,
        None => vec![cell.to_owned()],
    }
}

/// The strings of a Python list, without its brackets; none where it is something else.
fn strings(list: &str) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut text = String::new();
        let mut characters = rest[1..].char_indices();
        let end = loop {
            match characters.next()? {
                (end, c) if c == quote => break end,
                (_, '\\') => match characters.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    c @ ('\\' | '\'' | '"') => text.push(c),
                    c => text.extend(['\\', c]),
                },
                (_, c) => text.push(c),
            }
        };
        texts.push(text);
        rest = rest[end + 2..].trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Result<Table> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.tsv");
        std::fs::write(&path, text).unwrap();
        Table::read(&path, b'\t', usize::MAX)
    }

    fn column(text: &str) -> Vec<Option<String>> {
        let table = table(&format!("\u{feff}x\ty\n{text}")).unwrap();
        (0..table.n_rows())
            .map(|row| table.cell(row, "x").unwrap())
            .collect()
    }

    #[test]
    fn cells_are_what_pandas_makes_of_them() {
        let some = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| Some(t.to_string()))
                .collect::<Vec<_>>()
        };
        assert_eq!(column("007\ta\n12\tb\n"), some(&["7", "12"]));
        assert_eq!(column("1\ta\nnull\tb\n"), [Some("1.0".to_owned()), None]);
        assert_eq!(column("1.50\ta\n2\tb\n"), some(&["1.5", "2.0"]));
        assert_eq!(column("1e20\ta\n0.00001\tb\n"), some(&["1e+20", "1e-05"]));
        assert_eq!(column("1_0\ta\nx\tb\n"), some(&["1_0", "x"]));
        assert_eq!(
            column("\"a\tb \"\"c\"\"\nd\"\tb\n\"None\"\t\n"),
            [Some("a\tb \"c\"\nd".to_owned()), None]
        );
        assert_eq!(column("N/A\ta\n\tb\n"), [None, None]);
        // A row may be short, and has what it has.
        let short = table("x\ty\n1\n").unwrap();
        assert_eq!(short.cell(0, "y").unwrap(), None);
        assert_eq!(short.cell(0, "z").unwrap(), None);
    }

    #[test]
    fn long_cells_are_read_when_they_are_wanted() {
        let long = "\u{e9}".repeat(LONG);
        let text = format!("x\ty\na\t{long}\n\"b\nc\"\t\"{long}!\"\n");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.tsv");
        std::fs::write(&path, text).unwrap();
        let table = Table::read(&path, b'\t', usize::MAX).unwrap();
        for (row, wanted) in [(1, format!("{long}!")), (0, long)] {
            assert_eq!(table.cell(row, "y").unwrap().unwrap(), wanted);
        }
        assert_eq!(table.cell(1, "x").unwrap().unwrap(), "b\nc");
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for text in ["", "x\ty\n", "x\n1\t2\n"] {
            assert!(table(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn lists_are_told_from_texts() {
        assert_eq!(listed("['a', \"b'\", 'c\\'d']"), ["a", "b'", "c'd"]);
        assert_eq!(listed("[]"), Vec::<String>::new());
        for text in ["red", "[1, 2]", "['a'", "['a' 'b']", "['a\\"] {
            assert_eq!(listed(text), [text]);
        }
    }

    proptest::proptest! {
        /// Whatever stands in a cell, it is a list of texts or the one text.
        #[test]
        fn any_cell_is_listed(cell in "\\[?['\"a,\\\\é\\] ]{0,12}") {
            let texts = listed(&cell);
            proptest::prop_assert!(texts == [cell.clone()] || cell.trim().starts_with('['));
        }

        /// Quoted as Python does, texts come back.
        #[test]
        fn texts_come_back(texts in proptest::collection::vec("[a-z'\"\\\\é, \\]]{0,6}", 0..4)) {
            let quoted = texts.iter().map(|text| {
                format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
            });
            let list = format!("[{}]", quoted.collect::<Vec<_>>().join(", "));
            proptest::prop_assert_eq!(listed(&list), texts);
        }
    }
}
