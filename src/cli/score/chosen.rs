//! Selects the best and the worst at the end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::done::RatedSubject;
use crate::cli::args::ScoreArgs;
use crate::error::{Error, Result};

/// What was rated, where it is wanted at the end.
pub struct Selection {
    best: Option<usize>,
    worst: Option<usize>,
    is_sorted: bool,
    all: Vec<RatedSubject>,
}

impl Selection {
    /// Nothing yet.
    pub fn new(args: &ScoreArgs) -> Self {
        Selection {
            best: args.best,
            worst: args.worst,
            is_sorted: args.sort,
            all: Vec::new(),
        }
    }

    /// Whether all are printed at the end, rather than each when it is done.
    pub fn is_at_end(&self) -> bool {
        self.is_sorted || self.best.or(self.worst).is_some()
    }

    /// Takes one.
    pub fn add(&mut self, done: RatedSubject) {
        if self.is_at_end() {
            self.all.push(done);
        }
    }

    /// The best first; of equals, those that were rated first.
    fn sorted(&self) -> Vec<&RatedSubject> {
        let mut sorted: Vec<&RatedSubject> = self.all.iter().collect();
        let score = |done: &RatedSubject| done.value.score().unwrap_or(f64::NEG_INFINITY);
        sorted.sort_by(|a, b| score(b).total_cmp(&score(a)));
        sorted
    }

    /// What is to be printed at the end, in order.
    pub fn listed(&self) -> Vec<&RatedSubject> {
        if !self.is_at_end() {
            return Vec::new();
        }
        let sorted = self.sorted();
        match (self.best, self.worst) {
            (None, None) => sorted,
            (best, worst) => {
                let best = sorted.iter().take(best.unwrap_or(0));
                let worst = sorted.iter().rev().take(worst.unwrap_or(0));
                best.chain(worst).copied().collect()
            }
        }
    }

    /// Copies or links the best where that is wanted.
    pub fn keep(&self, args: &ScoreArgs) -> Result<()> {
        let folders = [(&args.copy_best, copy as Keep), (&args.link_best, link)];
        for (folder, keep) in folders {
            let Some(folder) = folder else { continue };
            fs::create_dir_all(folder).map_err(|e| Error::io("cannot make", folder, e))?;
            let sorted = self.sorted();
            let best = sorted.iter().take(self.best.unwrap_or(0));
            for path in best.filter_map(|done| done.path.as_deref()) {
                keep_one(path, folder, keep)?;
            }
        }
        Ok(())
    }
}

type Keep = fn(&Path, &Path) -> io::Result<()>;

/// Puts a picture into a folder, under another name where its own is taken.
fn keep_one(path: &Path, folder: &Path, keep: Keep) -> Result<()> {
    let Some(name) = path.file_name().map(Path::new) else {
        return Ok(());
    };
    for number in 1u32.. {
        let target = folder.join(numbered(name, number));
        match keep(path, &target) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            kept => return kept.map_err(|e| Error::io("cannot write", &target, e)),
        }
    }
    Ok(())
}

/// `name.jpg`, then `name-2.jpg`, and so on.
fn numbered(name: &Path, number: u32) -> PathBuf {
    if number == 1 {
        return name.to_owned();
    }
    let mut numbered = name.file_stem().unwrap_or_default().to_owned();
    numbered.push(format!("-{number}"));
    if let Some(extension) = name.extension() {
        numbered.push(".");
        numbered.push(extension);
    }
    numbered.into()
}

/// Nothing that is there is written to.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::options().write(true).create_new(true).open(to)?;
    io::copy(&mut source, &mut target).map(drop)
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    let from = fs::canonicalize(from)?;
    #[cfg(unix)]
    return std::os::unix::fs::symlink(from, to);
    // Links of other systems need rights that users do not have.
    #[cfg(not(unix))]
    return fs::hard_link(from, to);
}
