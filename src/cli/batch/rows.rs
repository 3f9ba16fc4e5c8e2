//! The input: JSON lines in either of two formats, or the pictures of a folder.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Defaults, Shard};
use crate::cli::ahead::Asking;
use crate::cli::each::Pictures;
use crate::cli::setup;
use crate::error::{Error, Result};
use crate::files;
use crate::prompt::{Message, place_images};
use crate::request::{Prompt, Request, Source};
use crate::server::fields::{Fields, Read as ReadFields};
use crate::server::{ServerSettings, asking, openai};

/// A line of an input at most; pictures may stand in it.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Something to be done.
#[derive(Debug)]
pub struct Row {
    /// What it is called in its outcome.
    pub id: Value,
    /// Its number in the input, from 1.
    pub number: usize,
    pub shape: RowShape,
    /// Its pictures as the row names them.
    pub image: Value,
    /// Hash of all that the outcome depends on.
    pub key: u64,
    /// The file that it is about, if that is one picture.
    pub picture: Option<PathBuf>,
}

/// The shape of a row, which is that of its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowShape {
    Own,
    OpenAi,
}

/// Where rows come from.
pub enum Rows {
    Lines {
        reader: BufReader<Box<dyn Read + Send>>,
        /// Where relative paths begin.
        folder: PathBuf,
        name: PathBuf,
    },
    Pictures {
        pictures: Pictures,
        folder: PathBuf,
    },
}

impl Rows {
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where the input cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Rows::Pictures {
                pictures: Pictures::of(&[path.to_owned()], true),
                folder: path.to_owned(),
            });
        }
        let (reader, folder): (Box<dyn Read + Send>, _) =
            match path == Path::new(setup::STANDARD_INPUT) {
                true => (Box::new(std::io::stdin()), PathBuf::new()),
                false => {
                    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                    (Box::new(files::open_argument(path)?), folder)
                }
            };
        Ok(Rows::Lines {
            reader: BufReader::new(reader),
            folder,
            name: path.to_owned(),
        })
    }

    /// The next row of a shard, if there is one. `n_read` counts the rows, also those of others, of
    /// which no picture is looked at.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where the input cannot be read on.
    pub fn next(
        &mut self,
        n_read: &mut usize,
        defaults: &Defaults,
        shard: Option<Shard>,
    ) -> Result<Option<Asking<Row>>> {
        while let Some(line) = self.read(n_read)? {
            let share_key = line.share_key();
            if shard.is_none_or(|shard| shard.has(share_key)) {
                return Ok(Some(Row::of_line(line, self.folder(), *n_read, defaults)));
            }
        }
        Ok(None)
    }

    /// Where relative paths begin.
    fn folder(&self) -> &Path {
        match self {
            Rows::Lines { folder, .. } => folder,
            Rows::Pictures { .. } => Path::new(""),
        }
    }

    /// The next row, and its number in `n_read`: that of its line, empty ones included.
    fn read(&mut self, n_read: &mut usize) -> Result<Option<Line>> {
        match self {
            Rows::Pictures { pictures, folder } => {
                *n_read += 1;
                Ok(pictures.next().map(|picture| match picture {
                    Ok(picture) => {
                        let id = picture.strip_prefix(&*folder).unwrap_or(&picture);
                        let (id, image) = (id.to_string_lossy(), picture.to_string_lossy());
                        Line::Object(json!({"id": id, "image": image}))
                    }
                    // A folder that cannot be listed is a failure like any other.
                    Err(e) => Line::Unreadable(e.to_string().into_bytes(), e),
                }))
            }
            Rows::Lines { reader, name, .. } => loop {
                let mut line = Vec::new();
                let mut bounded = reader.by_ref().take(MAX_LINE_BYTES);
                let cannot_read = |e| Error::io("cannot read", name, e);
                *n_read += 1;
                match bounded.read_until(b'\n', &mut line).map_err(cannot_read)? {
                    0 => return Ok(None),
                    _ if line.trim_ascii().is_empty() => continue,
                    _ => {}
                }
                if line.len() as u64 == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
                    skip_line(reader).map_err(cannot_read)?;
                    let error = Error::input(format!("has more than {MAX_LINE_BYTES} bytes"));
                    line.truncate(64);
                    return Ok(Some(Line::Unreadable(line, error)));
                }
                return Ok(Some(match serde_json::from_slice::<Value>(&line) {
                    Ok(row @ Value::Object(_)) => Line::Object(row),
                    Ok(_) => Line::Unreadable(line, Error::input("is not a JSON object")),
                    Err(e) => {
                        let error = Error::input(format!("is not JSON: {e}"));
                        Line::Unreadable(line, error)
                    }
                }));
            },
        }
    }
}

/// What a line of the input is.
enum Line {
    Object(Value),
    /// What is there of one that is no row, and why it is none.
    Unreadable(Vec<u8>, Error),
}

impl Line {
    /// What tells the share that it belongs to: its id, or where it has none, what it says.
    fn share_key(&self) -> u64 {
        match self {
            Line::Object(row) => match named(row) {
                Some(id) => hash(&[id.to_string().as_bytes()]),
                None => hash(&[row.to_string().as_bytes()]),
            },
            Line::Unreadable(line, _) => hash(&[line]),
        }
    }
}

/// The shape of a row.
fn shape(row: &Value) -> RowShape {
    match row.get("body").is_some() || row.get("custom_id").is_some() {
        true => RowShape::OpenAi,
        false => RowShape::Own,
    }
}

/// The id that a row has, if it has one.
fn named(row: &Value) -> Option<&Value> {
    let name = match shape(row) {
        RowShape::Own => "id",
        RowShape::OpenAi => "custom_id",
    };
    row.get(name).filter(|id| !id.is_null())
}

fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let n = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(n);
        if end.is_some() {
            return Ok(());
        }
    }
}

impl Row {
    fn of_line(line: Line, folder: &Path, number: usize, defaults: &Defaults) -> Asking<Row> {
        match line {
            Line::Object(row) => Self::of_value(row, folder, number, defaults),
            Line::Unreadable(line, error) => {
                let row = Row {
                    id: Value::Null,
                    number,
                    shape: RowShape::Own,
                    image: Value::Null,
                    key: hash(&[b"line", &number.to_le_bytes(), &line]),
                    picture: None,
                };
                (row, Err(error))
            }
        }
    }

    fn of_value(row: Value, folder: &Path, number: usize, defaults: &Defaults) -> Asking<Row> {
        let shape = shape(&row);
        let text = row.to_string();
        let id = named(&row).cloned().unwrap_or_else(|| Value::from(number));
        let image = row.get("image").cloned().unwrap_or_default();
        let request = match shape {
            RowShape::Own => own_request(&row, folder, defaults),
            RowShape::OpenAi => openai_request(&row, folder, defaults),
        };
        let request = request.and_then(|request| match request.pictures.len() {
            n if defaults.rates && n != 1 => Err(Error::input(format!(
                "has {n} pictures, expected one to rate"
            ))),
            _ => Ok(request),
        });
        let pictures = request.as_ref().map(|request| request.pictures.as_slice());
        let pictures = pictures.unwrap_or_default();
        let picture = match pictures {
            [Source::File(path)] => Some(path.clone()),
            _ => None,
        };
        let pictures = pictures.iter().map(|source| defaults.identity(source));
        let pictures: Vec<u8> = pictures.collect::<Vec<_>>().concat();
        let key = hash(&[&defaults.fingerprint, text.as_bytes(), &pictures]);
        let row = Row {
            id,
            number,
            shape,
            image,
            key,
            picture,
        };
        (row, request)
    }
}

/// The first 64 bits of a hash of pieces, each with its length.
fn hash(pieces: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for piece in pieces {
        hash.update((piece.len() as u64).to_le_bytes());
        hash.update(piece);
    }
    let digest: [u8; 32] = hash.finalize().into();
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

impl Defaults {
    /// What tells a picture from another.
    fn identity(&self, source: &Source) -> Vec<u8> {
        let Source::File(path) = source else {
            // It stands in the row itself.
            return Vec::new();
        };
        let Ok(metadata) = fs::metadata(path) else {
            return b"missing".to_vec();
        };
        if self.by_bytes && metadata.is_file() {
            return hash_file(path).unwrap_or_default();
        }
        let changed = metadata.modified().ok();
        let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let changed = changed.map_or(0, |since| since.as_nanos() as u64);
        [metadata.len().to_le_bytes(), changed.to_le_bytes()].concat()
    }
}

fn hash_file(path: &Path) -> Option<Vec<u8>> {
    let mut file = files::open(path).ok()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hash.finalize().to_vec()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// What a row of our own asks.
fn own_request(row: &Value, folder: &Path, defaults: &Defaults) -> Result<Request> {
    let read = || -> ReadFields<_> {
        let fields = Fields::of_body(row)?;
        let paths = match fields.get("image") {
            None => Vec::new(),
            Some(Value::String(path)) => vec![path.as_str()],
            Some(Value::Array(paths)) => {
                let paths = paths.iter().map(|path| match path {
                    Value::String(path) => Ok(path.as_str()),
                    other => Err(crate::server::fields::wrong(
                        "image",
                        other,
                        "a file's name",
                    )),
                });
                paths.collect::<ReadFields<_>>()?
            }
            Some(other) => {
                return Err(crate::server::fields::wrong(
                    "image",
                    other,
                    "a file's name, or an array",
                ));
            }
        };
        let settings = ServerSettings::new("");
        Ok((
            paths,
            fields.text("prompt")?,
            fields.text("system")?,
            fields.count("max_tokens")?,
            asking::sampling(&fields, &defaults.sampling)?,
            asking::stops(&fields, "stop", &settings)?,
        ))
    };
    let (paths, prompt, system, max_tokens, sampling, stops) =
        read().map_err(|refusal| Error::input(refusal.message))?;
    let pictures: Vec<_> = paths
        .iter()
        .map(|path| Source::File(file(path, folder)))
        .collect();
    let text = match (prompt.or(defaults.prompt.as_deref()), defaults.rates) {
        (Some(text), _) => text,
        (None, true) => "",
        (None, false) => {
            return Err(Error::input(
                "prompt: is missing; --prompt gives one to all rows",
            ));
        }
    };
    let text = place_images(text, pictures.len())?;
    let turns = vec![Message::user(text), Message::assistant("")];
    Ok(Request {
        pictures,
        aspect: defaults.aspect,
        reading: defaults.reading,
        sampling,
        stops,
        max_tokens: max_tokens.or(defaults.max_tokens),
        context: defaults.context,
        constraint: defaults.constraint.clone(),
        ..Request::new(Prompt::Turns {
            messages: turns,
            system: system.map(str::to_owned),
            template: None,
        })
    })
}

/// The path that a row means.
fn file(name: &str, folder: &Path) -> PathBuf {
    let path = setup::file_path(Path::new(name));
    match path.is_absolute() {
        true => path,
        false => folder.join(path),
    }
}

/// What a row of OpenAI's shape asks. Its pictures are `data:` addresses, or files below the rows'
/// folder.
fn openai_request(row: &Value, folder: &Path, defaults: &Defaults) -> Result<Request> {
    let url = row.get("url").and_then(Value::as_str).unwrap_or_default();
    if !url.ends_with("/chat/completions") {
        return Err(Error::input(format!(
            "url: is {url:?}, expected /v1/chat/completions"
        )));
    }
    let none = Value::Object(Map::new());
    let body = row.get("body").unwrap_or(&none);
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let settings = ServerSettings {
        media_root: Some(folder.to_owned()),
        context: defaults.context,
        ..ServerSettings::new("")
    };
    let question = openai::question(body, &settings, &defaults.sampling);
    let request = question
        .map_err(|refusal| Error::input(refusal.message))?
        .request;
    Ok(Request {
        aspect: defaults.aspect,
        reading: defaults.reading,
        max_tokens: request.max_tokens.or(defaults.max_tokens),
        constraint: request
            .constraint
            .clone()
            .or_else(|| defaults.constraint.clone()),
        ..request
    })
}
