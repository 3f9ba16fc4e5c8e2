//! Describes the model to each kind of client.

use serde_json::{Value, json};

use super::fields::{Fields, Read};
use super::refusal::Refusal;
use super::settings::ServerSettings;
use super::time;
use crate::error::Result;
use crate::model::layout;
use crate::request::Assistant;

/// What is told of the model.
#[derive(Clone, Debug)]
pub struct Card {
    /// What it is called.
    pub name: String,
    address: String,
    quantization: String,
    /// When the server started.
    since_s: u64,
    /// SHA-256, in hexadecimal digits.
    digest: String,
    n_params: u64,
    file_bytes: u64,
    context: usize,
    parallel: usize,
    trained_context: usize,
    sees: bool,
    rates: bool,
}

/// The family of models, as Ollama's clients are told.
const FAMILY: &str = "mplug_owl2";

impl Card {
    /// # Errors
    /// As [`Assistant::context`].
    pub fn new(assistant: &Assistant, settings: &ServerSettings, address: String) -> Result<Self> {
        let model = assistant.model();
        let config = model.config();
        let tensors = layout::tensors(config);
        let n_params = tensors.iter().map(|tensor| {
            let n: u64 = tensor.shape.iter().map(|&n| n as u64).product();
            n
        });
        let digest = assistant.fingerprint();
        Ok(Card {
            name: settings.model_name.clone(),
            address,
            quantization: settings.quantization.clone(),
            since_s: time::unix_s(),
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            n_params: n_params.sum(),
            file_bytes: model.file_bytes(),
            context: assistant.context(settings.context)?,
            parallel: settings.parallel,
            trained_context: config.decoder.max_position_embeddings,
            sees: config.visual.is_some(),
            rates: settings.score_rule.or(assistant.score_rule()).is_some(),
        })
    }

    /// The name with the tag that Ollama's clients expect.
    pub fn tag(&self) -> String {
        match self.name.contains(':') {
            true => self.name.clone(),
            false => format!("{}:latest", self.name),
        }
    }

    /// Fails for a request that names another model, where that matters.
    pub fn check_name(&self, fields: &Fields, is_strict: bool) -> Read<()> {
        let field = if fields.get("model").is_some() {
            "model"
        } else {
            "name"
        };
        let name = fields.text(field)?.unwrap_or(&self.name);
        if !is_strict || name == self.name || name == self.tag() {
            return Ok(());
        }
        Err(Refusal {
            status: hyper::StatusCode::NOT_FOUND,
            ..fields.refuse(
                field,
                format!("there is no such model; this one is {}", self.name),
            )
        })
    }

    fn modalities(&self) -> &'static [&'static str] {
        match self.sees {
            true => &["text", "image"],
            false => &["text"],
        }
    }

    fn capabilities(&self) -> &'static [&'static str] {
        match self.sees {
            true => &["completion", "vision"],
            false => &["completion"],
        }
    }

    /// `/v1/models`.
    pub fn models(&self) -> Value {
        json!({
            "object": "list",
            "data": [{
                "id": self.name,
                "object": "model",
                "created": self.since_s,
                "owned_by": "owl2",
                "max_model_len": self.context,
                "aliases": [],
                "architecture": {
                    "input_modalities": self.modalities(),
                    "output_modalities": ["text"],
                },
                "meta": {
                    "n_ctx": self.context,
                    "n_ctx_train": self.trained_context,
                    "n_params": self.n_params,
                    "size": self.file_bytes,
                },
            }],
            "models": [{
                "name": self.name,
                "model": self.name,
                "capabilities": match self.sees {
                    true => vec!["completion", "multimodal"],
                    false => vec!["completion"],
                },
            }],
        })
    }

    /// `/props`, llama.cpp's.
    pub fn props(&self) -> Value {
        json!({
            "default_generation_settings": {"n_ctx": self.context},
            "total_slots": self.parallel,
            "model_alias": self.name,
            "model_path": self.name,
            "modalities": {"vision": self.sees, "audio": false},
            "chat_template": "",
            "media_marker": crate::prompt::IMAGE_MARKER,
            "build_info": super::openai::fingerprint(),
            "address": self.address,
            "rates": self.rates,
        })
    }

    fn details(&self) -> Value {
        json!({
            "parent_model": "",
            "format": "gguf",
            "family": FAMILY,
            "families": [FAMILY],
            "parameter_size": parameter_size(self.n_params),
            "quantization_level": self.quantization,
        })
    }

    fn entry(&self) -> Value {
        json!({
            "name": self.tag(),
            "model": self.tag(),
            "modified_at": time::rfc3339(self.since_s),
            "size": self.file_bytes,
            "digest": self.digest,
            "details": self.details(),
        })
    }

    /// `/api/tags`.
    pub fn tags(&self) -> Value {
        json!({"models": [self.entry()]})
    }

    /// `/api/ps`.
    pub fn running(&self) -> Value {
        let mut entry = self.entry();
        entry["size_vram"] = 0.into();
        entry["context_length"] = self.context.into();
        // It stays for as long as the server does.
        entry["expires_at"] = "9999-12-31T23:59:59Z".into();
        json!({"models": [entry]})
    }

    /// `/api/show`.
    pub fn show(&self) -> Value {
        json!({
            "modelfile": "",
            "parameters": "",
            "template": "",
            "modified_at": time::rfc3339(self.since_s),
            "details": self.details(),
            "model_info": {
                "general.architecture": FAMILY,
                "general.parameter_count": self.n_params,
                "mplug_owl2.context_length": self.trained_context,
            },
            "capabilities": self.capabilities(),
        })
    }
}

/// Such as 8.2B.
fn parameter_size(n_params: u64) -> String {
    match n_params {
        1_000_000_000.. => format!("{:.1}B", n_params as f64 / 1e9),
        _ => format!("{:.1}M", n_params as f64 / 1e6),
    }
}
