//! The flags of the server.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::together::{TogetherArgs, together};
use crate::score::Rule;
use crate::server::LogFormat;

const SERVE_NOTES: &str = "\
Paths: /v1/chat/completions, /v1/models (OpenAI clients), /api/generate, /api/chat, /api/tags,
/api/show, /api/ps, /api/version (Ollama clients), /owl2/score, /props, /health, /readyz, /metrics,
and a web page at /. docs/serving.md describes each path and the settings of common clients.

Requests contain their pictures (data: addresses or base64); the server downloads nothing. The same
question gets the same answer as on the command line, however many others ask at the time. Without a
temperature, the likeliest token is always picked.

SIGTERM and Ctrl-C stop the server after it has answered the requests it has accepted. A second
Ctrl-C stops it at once.

Examples:
  owl2 serve -m model.gguf
  owl2 serve -m model.gguf --host 0.0.0.0 --api-key-file keys.txt
  owl2 serve -m one-align.gguf --socket /run/owl2.sock --log json";

/// Arguments of `owl2 serve`.
#[derive(Debug, Args)]
#[command(after_long_help = SERVE_NOTES)]
pub(in crate::cli) struct ServeArgs {
    /// Model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Address to listen on; one that other machines can reach needs --api-key-file or --insecure
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen on; 0 picks a free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub port: u16,

    /// Listen on a UNIX socket instead of an address
    #[arg(long, value_name = "FILE", conflicts_with_all = ["host", "port"])]
    pub socket: Option<PathBuf>,

    /// Model name in responses [default: the file's name]
    #[arg(long, value_name = "NAME")]
    pub alias: Option<String>,

    /// Scoring rule for requests without one: q-align, deqa or q-instruct [default: as the model
    /// file says]
    #[arg(long, value_name = "NAME")]
    pub score_rule: Option<Rule>,

    /// Refuse requests that name another model
    #[arg(long)]
    pub strict_model: bool,

    /// Require one of the keys in this file, one per line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Allow an address that other machines can reach without keys
    #[arg(long)]
    pub insecure: bool,

    /// Additional host name of this server; repeat for several
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,

    /// Allow requests from pages of this site, such as `https://photos.example`; repeat for several
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,

    /// Allow file:// addresses of pictures in this folder
    #[arg(long, value_name = "DIR")]
    pub media_root: Option<PathBuf>,

    /// Allow prompts without a template, in which control tokens are recognized (Ollama's raw)
    #[arg(long)]
    pub allow_raw: bool,

    /// Number of requests to compute at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = together())]
    pub parallel: usize,

    /// Maximum number of waiting requests; others are told to retry later
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub queue: usize,

    /// Time limit of a request in seconds, waiting included
    #[arg(long, value_name = "S", default_value_t = 3600)]
    pub request_timeout: u64,

    /// Seconds between signs of life while a client waits; 0 disables
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub heartbeat: u64,

    /// Seconds to finish running requests when the server is stopped
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub drain_timeout: u64,

    /// Memory for the KV caches of all running requests, in MiB; requests that do not fit wait
    /// [default: what the machine has at the start]
    #[arg(long, value_name = "MIB")]
    pub kv_memory: Option<NonZeroUsize>,

    /// Maximum number of pictures in a request
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub max_pictures: usize,

    /// Maximum size of a request in MiB
    #[arg(long, value_name = "MIB", default_value_t = NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN))]
    pub max_body: NonZeroUsize,

    /// Maximum number of connections [default: --queue + --parallel + 64]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,

    /// Format of the request log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log: Log,

    #[command(flatten)]
    pub running: TogetherArgs,
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Log {
    #[default]
    Text,
    Json,
    None,
}

impl From<Log> for LogFormat {
    fn from(log: Log) -> Self {
        match log {
            Log::Text => LogFormat::Text,
            Log::Json => LogFormat::Json,
            Log::None => LogFormat::None,
        }
    }
}
