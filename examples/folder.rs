//! A question about each picture of a folder: `cargo run --release --example folder -- assets`.
//!
//! A file that is not a picture is reported, and the rest go on.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use owl2::{Assistant, Kind, Question};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: folder DIR")?;
    let owl = match std::env::var_os("OWL2_MODEL") {
        Some(file) => Assistant::open(file)?,
        None => Assistant::built_in()?,
    };
    folder_captions(&owl, Path::new(&folder), &mut io::stdout())
}

/// Prints `FILE: description` for each file of a folder, by name.
pub fn folder_captions(
    owl: &Assistant,
    folder: &Path,
    out: &mut dyn Write,
) -> Result<(), Box<dyn Error>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files = entries.collect::<io::Result<Vec<PathBuf>>>()?;
    files.sort();
    for file in files {
        let question = Question::new("Describe the image.").picture(file.as_path());
        let name = file.file_name().unwrap_or_default().display();
        match owl.ask(question) {
            Ok(answer) => writeln!(out, "{name}: {answer}")?,
            Err(error) if error.kind() == Kind::Input => eprintln!("{error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
