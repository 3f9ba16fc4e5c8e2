//! The shell snippets of README and docs, run where the files that they name are there: the small
//! model under the names of large ones, and pictures of `assets`.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::Parser;

/// Programs that take a network, or hours, or are not here.
const NOT_RUN: [&str; 6] = [
    "cargo",
    "hf",
    "llama-bench",
    ".ci/",
    "owl2 serve",
    "OWL2_ISA=scalar cargo",
];
/// Stands in for the converter and notes its arguments, a line each; an empty line ends a call.
const CONVERTER: &str = "#!/bin/sh\nprintf '%s\\n' \"$@\" '' >> \"$CONVERT_CALLS\"\n";

/// A fenced block of a page.
struct Block {
    /// The page, and the line where it begins.
    place: String,
    language: String,
    lines: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages_of_docs() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let paths = docs.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "md"))
        .collect()
}

fn blocks() -> Vec<Block> {
    let mut pages = pages_of_docs();
    pages.sort();
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    let mut blocks = Vec::new();
    for page in pages {
        let name = page.file_name().unwrap().display().to_string();
        let mut open: Option<Block> = None;
        for (number, line) in (1..).zip(fs::read_to_string(&page).unwrap().lines()) {
            let Some(language) = line.strip_prefix("```") else {
                if let Some(block) = &mut open {
                    block.lines.push(line.to_owned());
                }
                continue;
            };
            match open.take() {
                Some(block) => blocks.push(block),
                None => {
                    open = Some(Block {
                        place: format!("{name}:{number}"),
                        language: language.to_owned(),
                        lines: Vec::new(),
                    });
                }
            }
        }
        assert!(open.is_none(), "{name}: a block is not closed");
    }
    blocks
}

/// Where the pages say that a server listens.
const SERVED: &str = "http://127.0.0.1:8080";

/// A folder with all that snippets name.
struct Sandbox(tempfile::TempDir);

impl Sandbox {
    fn new() -> Self {
        let sandbox = Sandbox(tempfile::tempdir().unwrap());
        for folder in ["bin", "photos", "frames", "assets", "docs/rated"] {
            fs::create_dir_all(sandbox.path(folder)).unwrap();
        }
        for picture in fs::read_dir(root().join("docs/rated")).unwrap() {
            let picture = picture.unwrap();
            let to = sandbox.path("docs/rated").join(picture.file_name());
            fs::copy(picture.path(), to).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_owl2"), sandbox.path("bin/owl2")).unwrap();
        fs::write(sandbox.path("bin/owl2-convert"), CONVERTER).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(sandbox.path("bin/owl2-convert"), executable).unwrap();
        let assets = root().join("assets");
        for (from, to) in [
            ("cat.png", "cat.png"),
            ("cat.png", "assets/cat.png"),
            ("cat.png", "cat.jpg"),
            ("cat.png", "menu.jpg"),
            ("cat.png", "a.png"),
            ("three-apples.png", "b.png"),
            ("dog-and-car.png", "dog-and-car.png"),
            ("cat.png", "photos/cat.png"),
            ("dog-and-car.png", "photos/dog-and-car.png"),
            ("cat.png", "frames/1.png"),
        ] {
            fs::copy(assets.join(from), sandbox.path(to)).unwrap();
        }
        fs::write(sandbox.path("photos/broken.png"), "no picture").unwrap();
        fs::write(sandbox.path("book.txt"), "a cat and a dog ".repeat(40)).unwrap();
        let ids: Vec<u8> = (3..603u32)
            .flat_map(|id| (id % 200).to_le_bytes())
            .collect();
        fs::write(sandbox.path("windows.u32"), ids).unwrap();
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts the small model under every name of a model file in a script.
    fn add_models(&self, script: &str) {
        let words = script.split(|c: char| c.is_whitespace() || c == '"');
        for word in words.filter(|word| word.ends_with(".gguf")) {
            let model = root().join("models/tiny/owl2-tiny.gguf");
            let at = self.path(word);
            if !at.exists() {
                symlink(model, at).unwrap();
            }
        }
    }

    fn run(&self, script: &str) -> Output {
        self.add_models(script);
        let path = std::env::var("PATH").unwrap();
        let bin = self.path("bin").display().to_string();
        Command::new("bash")
            .current_dir(self.0.path())
            .env("PATH", format!("{bin}:{path}"))
            .env("CONVERT_CALLS", self.path("convert-calls"))
            .args(["-c", script])
            .output()
            .unwrap()
    }
}

/// Fails for a page whose commands do not do what it says.
#[test]
fn shell_snippets_run() {
    let sandbox = Sandbox::new();
    let server = crate::serve::http::Server::start(&["--log", "none"]);
    let served = format!("http://{}", server.address);
    let mut n_run = 0;
    for block in blocks().iter().filter(|block| block.language == "sh") {
        let is_run = |line: &&String| !NOT_RUN.iter().any(|name| line.starts_with(name));
        for line in block.lines.iter().filter(is_run) {
            let output = sandbox.run(&line.replace(SERVED, &served));
            // The folder of pictures has a broken one, which is a partial failure.
            let is_partial = line.contains("photos");
            let code = output.status.code();
            assert!(
                code == Some(0) || (is_partial && code == Some(1)),
                "{}: {line}: {code:?}: {}",
                block.place,
                String::from_utf8_lossy(&output.stderr)
            );
            n_run += 1;
        }
    }
    assert!(n_run >= 15, "{n_run}");
    let calls = fs::read_to_string(sandbox.path("convert-calls")).unwrap();
    let calls: Vec<&str> = calls
        .split("\n\n")
        .filter(|call| !call.is_empty())
        .collect();
    for call in &calls {
        let arguments = std::iter::once("owl2-convert").chain(call.lines());
        let parsed = owl2_convert::args::Args::try_parse_from(arguments);
        assert!(parsed.is_ok(), "{call}: {}", parsed.unwrap_err());
    }
    assert!(calls.len() >= 3, "{calls:?}");
}

/// What follows a `$ ` is typed, and what follows that is printed. Chats are not typed.
#[test]
fn transcripts_are_what_is_printed() {
    let sandbox = Sandbox::new();
    let mut n_checked = 0;
    for block in blocks().iter().filter(|block| block.language == "text") {
        let is_chat = block.lines.iter().any(|line| line.starts_with("> "));
        let mut lines = block.lines.iter().peekable();
        while let Some(line) = lines.next() {
            let Some(command) = line.strip_prefix("$ ").filter(|_| !is_chat) else {
                continue;
            };
            let mut wanted = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
                wanted.push(line.as_str());
            }
            let output = sandbox.run(&format!("{command} 2>&1"));
            let printed = String::from_utf8(output.stdout).unwrap();
            let printed: Vec<&str> = printed.lines().collect();
            assert_eq!(printed, wanted, "{}: {command}", block.place);
            n_checked += 1;
        }
    }
    assert!(n_checked >= 3, "{n_checked}");
}

/// Links between pages lead to files that are there.
#[test]
fn links_of_pages_lead_somewhere() {
    let mut pages = pages_of_docs();
    let more = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ];
    pages.extend(more.map(|name| root().join(name)));
    let mut n_checked = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap();
            if target.is_empty() || target.starts_with("https://") {
                continue;
            }
            let path = page.parent().unwrap().join(target);
            assert!(path.exists(), "{}: {target}", page.display());
            n_checked += 1;
        }
    }
    assert!(n_checked > 20, "{n_checked}");
}
