//! `owl2 serve`: the model behind HTTP.

use std::env;
use std::path::Path;
use std::time::Duration;

use crate::capacity;
use crate::cli::args::ServeArgs;
use crate::cli::interrupt::{self, Hold};
use crate::cli::model_file::ModelFile;
use crate::cli::{progress, setup};
use crate::error::{Error, Result};
use crate::files;
use crate::gguf::Gguf;
use crate::request::Assistant;
use crate::server::{self, Address, ApiKeys, RequestLimits, ServerSettings};

/// Holds keys too, so that they need not be in a file; never in a flag, which others on the machine
/// can read.
const KEY_VARIABLE: &str = "OWL2_SERVE_API_KEY";
/// A file of keys at most.
const MAX_KEYS_BYTES: u64 = 1 << 20;

pub(super) fn run(args: &ServeArgs) -> Result<()> {
    let model = ModelFile::new(args.model.as_deref())?;
    let mut settings = settings(args, &model)?;
    settings.check()?;
    let gguf = model.open()?;
    settings.quantization = quantization(&gguf);
    let assistant = args
        .running
        .open(|compute| Assistant::new(&gguf, compute).map_err(|e| model.blame(e)))?;
    if let Some(line) = capacity::warning(assistant.model()) {
        progress::say(&format!("owl2: {line}\n"));
    }
    // The first interrupt is the server's, which stops in its own time; a second one ends it.
    let _hold = Hold::new();
    let mut is_ready = |address: &str| progress::say(&format!("owl2: listening on {address}\n"));
    server::run(assistant, settings, &mut is_ready, interrupt::is_requested)
}

fn settings(args: &ServeArgs, model: &ModelFile) -> Result<ServerSettings> {
    let name = match &args.alias {
        Some(alias) => alias.clone(),
        None => {
            let stem = model.name().file_stem();
            stem.map_or("owl2".to_owned(), |stem| {
                stem.to_string_lossy().into_owned()
            })
        }
    };
    let root = args.media_root.as_deref();
    if let Some(root) = root.filter(|root| !root.is_dir()) {
        return Err(Error::usage("is not a folder")
            .in_file(root)
            .in_parameter("media-root"));
    }
    Ok(ServerSettings {
        address: match &args.socket {
            Some(path) => Address::Unix(path.clone()),
            None => Address::Tcp((args.host, args.port).into()),
        },
        score_rule: args.score_rule,
        strict_model: args.strict_model,
        keys: keys(args.api_key_file.as_deref())?,
        insecure: args.insecure,
        allowed_hosts: args.allow_host.clone(),
        allowed_origins: args
            .allow_origin
            .iter()
            .map(|origin| origin.trim_end_matches('/').to_owned())
            .collect(),
        media_root: args.media_root.clone(),
        limits: RequestLimits {
            body_bytes: args.max_body.get().saturating_mul(1 << 20),
            bodies_bytes: args.max_body.get().saturating_mul(4 << 20),
            pictures: args.max_pictures,
            // Whoever waits holds a connection, and others still have to be told that it is full.
            connections: match args.max_connections {
                Some(n) => n.get(),
                None => args
                    .queue
                    .saturating_add(args.parallel)
                    .saturating_add(64)
                    .min(4096),
            },
            ..RequestLimits::default()
        },
        context: args.running.ctx_size,
        parallel: args.parallel,
        kv_memory: args
            .kv_memory
            .map(|mib| (mib.get() as u64).saturating_mul(1 << 20)),
        queue: args.queue,
        request_timeout: Duration::from_secs(args.request_timeout),
        heartbeat: Duration::from_secs(args.heartbeat),
        drain_timeout: Duration::from_secs(args.drain_timeout),
        allow_raw: args.allow_raw,
        log: args.log.into(),
        ..ServerSettings::new(name)
    })
}

/// The keys in the file and in the environment.
fn keys(path: Option<&Path>) -> Result<ApiKeys> {
    let mut text = env::var(KEY_VARIABLE).unwrap_or_default();
    if let Some(path) = path {
        let file = files::open_argument(path)?;
        text.push('\n');
        text.push_str(&setup::read_text(file, path, MAX_KEYS_BYTES)?);
        if ApiKeys::read(&text).is_empty() {
            // An empty file would let everybody in.
            return Err(Error::usage("contains no key")
                .in_file(path)
                .in_parameter("api-key-file"));
        }
    }
    Ok(ApiKeys::read(&text))
}

/// How most of the weights are stored.
fn quantization(gguf: &Gguf) -> String {
    let mut bytes = std::collections::BTreeMap::new();
    for tensor in gguf.tensors() {
        *bytes.entry(tensor.dtype).or_insert(0) += tensor.range.len();
    }
    let most = bytes.into_iter().max_by_key(|&(_, bytes)| bytes);
    most.map_or(String::new(), |(dtype, _)| dtype.to_string())
}
