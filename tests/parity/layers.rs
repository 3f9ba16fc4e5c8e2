//! A case of the forward pass: every stage from the picture to the generated ids.

use std::collections::HashMap;

use owl2::image::Preprocess;
use owl2::model::Model;
use owl2::model::observer::{ForwardStage, Observer};
use owl2::prompt::{Segment, tokenize_raw};
use owl2::session::{Input, Session};
use owl2::tokenizer::Tokenizer;
use serde_json::Value;

use crate::argmax;
use crate::golden::{Golden, Tensors, count, elements, members, text};
use crate::pictures;
use crate::report::Report;
use crate::texts;

/// A converted checkpoint.
pub struct Loaded {
    pub model: Model,
    pub tokenizer: Tokenizer,
}

/// Keeps what it sees, the pictures of a case one behind the other.
#[derive(Default)]
struct Recorder(HashMap<ForwardStage, Vec<f32>>);

impl Observer for Recorder {
    fn observe(&mut self, stage: ForwardStage, values: &[f32]) {
        self.0.entry(stage).or_default().extend(values);
    }
}

/// The stage that a tensor of the vectors holds.
fn stage_of(tensor: &str) -> Option<ForwardStage> {
    let layer = |prefix: &str| tensor.strip_prefix(prefix)?.parse().ok();
    match tensor {
        "vit.patch_embeds" => Some(ForwardStage::PatchEmbeddings),
        "vit.embeddings" => Some(ForwardStage::VitEmbeddings),
        "vit.output" => Some(ForwardStage::VitOutput),
        "abstractor.output" => Some(ForwardStage::AbstractorOutput),
        "inputs_embeds" => Some(ForwardStage::Embeddings),
        "llm.norm" => Some(ForwardStage::FinalNorm),
        _ => layer("vit.layer.")
            .map(ForwardStage::VitLayer)
            .or_else(|| layer("abstractor.layer.").map(ForwardStage::AbstractorLayer))
            .or_else(|| layer("llm.layer.").map(ForwardStage::DecoderLayer)),
    }
}

/// A case, ready to be compared.
struct Case<'a> {
    golden: &'a Golden,
    at: String,
    entry: &'a Value,
    tensors: Tensors,
    loaded: &'a Loaded,
}

/// Compares everything that the vectors have of one case.
pub fn check_case(
    golden: &Golden,
    report: &mut Report,
    loaded: &Loaded,
    checkpoint: &str,
    name: &str,
    entry: &Value,
) {
    let case = Case {
        golden,
        at: format!("{checkpoint}/{name}"),
        entry,
        tensors: golden.tensors(text(&entry["file"])),
        loaded,
    };
    case.check_listing(report);
    case.check_prompt(report);
    let mut recorder = Recorder::default();
    let Some(rows) = case.encode_pictures(report, &mut recorder) else {
        return;
    };
    case.check_decoder(report, &rows, &mut recorder);
}

impl Case<'_> {
    /// The tensors are those of the manifest, in their shapes, and each is compared below.
    fn check_listing(&self, report: &mut Report) {
        for (name, listed) in members(&self.entry["tensors"]) {
            match self.tensors.has(name) {
                true => {
                    let shape: Vec<usize> = elements(&listed[1]).map(count).collect();
                    report.equal("tensor shape", &self.at, &self.tensors.shape(name), &shape);
                }
                false => report.fail("listing", &self.at, &format!("the file lacks '{name}'")),
            }
        }
        for name in self.tensors.names() {
            let is_step = name.strip_prefix("gen_logits_step");
            let is_step = is_step.is_some_and(|step| step.parse::<usize>().is_ok());
            let known = [
                "pixel_values",
                "input_ids",
                "modality",
                "logits",
                "logits_last",
            ]
            .iter()
            .chain(&["gen_logits", "gen_ids"])
            .any(|known| *known == name);
            if !known && !is_step && stage_of(&name).is_none() {
                report.fail("listing", &self.at, &format!("nothing checks '{name}'"));
            }
        }
    }

    fn check_prompt(&self, report: &mut Report) {
        let prompt = text(&self.entry["prompt"]);
        if self.entry["conversation"].is_array() {
            let rendered = texts::conversation_prompt(&self.entry["conversation"]);
            report.equal("prompt", &self.at, rendered.as_str(), prompt);
        }
        let ids = texts::prompt_ids(&self.loaded.tokenizer, prompt);
        if self.tensors.has("input_ids") {
            report.equal("input ids", &self.at, &ids, &self.tensors.i64s("input_ids"));
        }
    }

    /// Pixel values, ViT and abstractor; gives the decoder's inputs of each picture.
    fn encode_pictures(
        &self,
        report: &mut Report,
        recorder: &mut Recorder,
    ) -> Option<Vec<Vec<f32>>> {
        let model = &self.loaded.model;
        let mut all_pixels = Vec::new();
        let mut rows = Vec::new();
        for name in elements(&self.entry["images"]).map(text) {
            let visual = model.config().visual.as_ref().expect("has an image branch");
            let preprocess: &Preprocess = &visual.preprocess;
            let picture = pictures::reference(self.golden, name);
            let aspect = pictures::aspect(&self.entry["aspect"]);
            let pixels = report.ok(
                "pixel_values",
                &self.at,
                preprocess.pixels(&picture, aspect),
            )?;
            let encoded = model.encode_image_observed(&pixels, recorder);
            rows.push(report.ok("pictures", &self.at, encoded)?);
            all_pixels.extend(pixels);
        }
        if self.tensors.has("pixel_values") {
            report.bits(
                "pixel_values",
                &self.at,
                &all_pixels,
                &self.tensors.f32s("pixel_values"),
            );
        }
        Some(rows)
    }

    /// The decoder on the whole prompt, then a token at a time.
    fn check_decoder(&self, report: &mut Report, rows: &[Vec<f32>], recorder: &mut Recorder) {
        let model = &self.loaded.model;
        let segments = tokenize_raw(&self.loaded.tokenizer, text(&self.entry["prompt"]));
        let n_slots = segments
            .iter()
            .filter(|s| matches!(s, Segment::Image(_)))
            .count();
        if n_slots > rows.len() {
            return report.fail("prompt", &self.at, "has more slots than pictures");
        }
        let inputs: Vec<Input> = segments
            .iter()
            .map(|segment| match segment {
                Segment::Tokens(ids) => Input::Tokens(ids),
                Segment::Image(index) => Input::Image(&rows[*index]),
            })
            .collect();
        let width = model.config().decoder.hidden_size;
        let modality: Vec<i64> = inputs
            .iter()
            .flat_map(|input| match input {
                Input::Tokens(ids) => vec![0; ids.len()],
                Input::Image(rows) => vec![1; rows.len() / width],
            })
            .collect();
        if self.tensors.has("modality") {
            report.equal(
                "modality",
                &self.at,
                &modality,
                &self.tensors.i64s("modality"),
            );
        }
        let n_generated = match self.tensors.has("gen_ids") {
            true => self.tensors.i64s("gen_ids").len(),
            false => 0,
        };
        let mut session = Session::new(model, modality.len() + n_generated.max(1));
        let extended = session.extend_observed(&inputs, recorder);
        if report.ok("decoder", &self.at, extended).is_none() {
            return;
        }
        self.check_stages(report, recorder);
        self.check_logits(report, recorder, session.logits());
        self.check_generation(report, &mut session);
    }

    fn check_stages(&self, report: &mut Report, recorder: &Recorder) {
        let tolerance = self.golden.tolerance("float32_layers");
        for name in self.tensors.names() {
            let Some(stage) = stage_of(&name) else {
                continue;
            };
            let nothing = Vec::new();
            let got = recorder.0.get(&stage).unwrap_or(&nothing);
            let mut wanted = self.tensors.f32s(&name);
            if stage == ForwardStage::FinalNorm && !got.is_empty() && got.len() < wanted.len() {
                // Of a prompt longer than a batch, only the last batch is normed.
                wanted.drain(..wanted.len() - got.len());
            }
            report.near(&name, &self.at, got, &wanted, tolerance);
        }
    }

    /// Logits of all positions, through the output head, and of the last as the session has them.
    fn check_logits(&self, report: &mut Report, recorder: &Recorder, last: &[f32]) {
        let model = &self.loaded.model;
        let tolerance = self.golden.tolerance("logits");
        if self.tensors.has("logits") {
            let width = model.config().decoder.hidden_size;
            let normed = &recorder.0[&ForwardStage::FinalNorm];
            let got: Vec<f32> = normed
                .chunks_exact(width)
                .flat_map(|row| model.output_head(row))
                .collect();
            let mut wanted = self.tensors.f32s("logits");
            wanted.drain(..wanted.len().saturating_sub(got.len()));
            report.near("logits", &self.at, &got, &wanted, tolerance);
            let wanted_last = &wanted[wanted.len() - last.len()..];
            report.near("logits, last", &self.at, last, wanted_last, tolerance);
        }
        if self.tensors.has("logits_last") {
            let wanted = self.tensors.f32s("logits_last");
            report.near("logits, last", &self.at, last, &wanted, tolerance);
        }
    }

    /// Greedy ids, and the logits that each was chosen from.
    fn check_generation(&self, report: &mut Report, session: &mut Session) {
        if !self.tensors.has("gen_ids") {
            return;
        }
        let wanted = self.tensors.i64s("gen_ids");
        let all_logits = self
            .tensors
            .has("gen_logits")
            .then(|| self.tensors.f32s("gen_logits"));
        let tolerance = self.golden.tolerance("logits");
        let mut ids = Vec::new();
        for (step, &wanted_id) in wanted.iter().enumerate() {
            let logits = session.logits();
            if let Some(all) = &all_logits {
                let row = &all[step * logits.len()..(step + 1) * logits.len()];
                report.near("generated logits", &self.at, logits, row, tolerance);
            }
            let name = format!("gen_logits_step{step}");
            if self.tensors.has(&name) {
                let row = self.tensors.f32s(&name);
                report.near("generated logits", &self.at, logits, &row, tolerance);
            }
            let id = argmax(logits);
            ids.push(i64::from(id));
            if i64::from(id) != wanted_id {
                break;
            }
            let stepped = session.step(id);
            if report.ok("generated ids", &self.at, stepped).is_none() {
                break;
            }
        }
        let is_equal = ids == wanted;
        report.equal("generated ids", &self.at, &ids, &wanted);
        if is_equal && let Some(wanted) = self.entry["gen_text"].as_str() {
            let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
            let decoded = self.loaded.tokenizer.decode(&ids);
            report.equal("generated text", &self.at, decoded.as_str(), wanted);
        }
    }
}
