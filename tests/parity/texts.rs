//! Tokenizer, conversation and sampling vectors.

use owl2::prompt::{Message, Segment, Template, tokenize_raw};
use owl2::sampler::{Sampler, Sampling};
use owl2::tokenizer::{Tokenizer, Vocabulary};
use serde_json::Value;

use crate::golden::{Golden, count, elements, integers, members, text};
use crate::report::Report;

/// What the vectors write for a picture slot.
const IMAGE_ID: i64 = -200;
/// The softmax of a few dozen float32 logits, summed in another order, moves no further.
const PROBABILITY_TOLERANCE: f32 = 1e-6;
/// Conversations, beside the vocabularies' files.
pub const CONVERSATIONS: &str = "tokenizer/conversations.json";

/// A prompt's ids as the vectors write them.
pub fn prompt_ids(tokenizer: &Tokenizer, prompt: &str) -> Vec<i64> {
    let segments = tokenize_raw(tokenizer, prompt);
    let ids = segments.iter().flat_map(|segment| match segment {
        Segment::Tokens(ids) => ids.iter().map(|&id| id.into()).collect(),
        Segment::Image(_) => vec![IMAGE_ID],
    });
    ids.collect()
}

/// Every file of tokenizer vectors.
pub fn check_tokenizers(
    golden: &Golden,
    report: &mut Report,
    vocabulary_in: impl Fn(&str) -> Vocabulary,
) {
    let files = golden.files("tokenizer/");
    for file in files.into_iter().filter(|&file| file != CONVERSATIONS) {
        let vectors = golden.json(file);
        let vocabulary = vocabulary_in(text(&vectors["tokenizer"]));
        for (key, value) in members(&vectors) {
            match key {
                "note" | "rule" | "tokenizer" => {}
                "add_bos" => report.equal(
                    "add_bos",
                    file,
                    &vocabulary.add_bos,
                    &value.as_bool().unwrap(),
                ),
                "encode" => check_encoding(report, file, &vocabulary, value, "text", |t, text| {
                    t.encode_trusted(text).into_iter().map(i64::from).collect()
                }),
                "image_prompts" => {
                    check_encoding(report, file, &vocabulary, value, "prompt", prompt_ids);
                }
                "decode" => check_decoding(report, file, &vocabulary, value),
                _ => report.fail("vectors", file, &format!("nothing checks '{key}'")),
            }
        }
    }
}

/// Vectors of text to ids, with the vocabulary's own `legacy` flag or with both.
fn check_encoding(
    report: &mut Report,
    file: &str,
    vocabulary: &Vocabulary,
    vectors: &Value,
    input: &str,
    encode: impl Fn(&Tokenizer, &str) -> Vec<i64>,
) {
    let with_flag = |legacy: bool| {
        let vocabulary = vocabulary.clone();
        Tokenizer::new(Vocabulary {
            legacy,
            added: Vec::new(),
            ..vocabulary
        })
        .unwrap()
    };
    let (legacy, other) = (with_flag(true), with_flag(false));
    let own = if vocabulary.legacy { &legacy } else { &other };
    for vector in elements(vectors) {
        let source = text(&vector[input]);
        let at = format!("{file}: {source:?}");
        let get = |key: &str| vector.get(key);
        let expected = [
            ("ids", own, get("ids")),
            ("ids, legacy", &legacy, get("ids_legacy")),
            // "ids_nonlegacy is given only where it differs from ids_legacy"
            (
                "ids, not legacy",
                &other,
                get("ids_nonlegacy").or(get("ids_legacy")),
            ),
        ];
        for (stage, tokenizer, ids) in expected {
            if let Some(ids) = ids {
                report.equal(stage, &at, &encode(tokenizer, source), &integers(ids));
            }
        }
    }
}

fn check_decoding(report: &mut Report, file: &str, vocabulary: &Vocabulary, vectors: &Value) {
    let tokenizer = Tokenizer::new(vocabulary.clone()).unwrap();
    for vector in elements(vectors) {
        let ids: Vec<u32> = integers(&vector["ids"])
            .iter()
            .map(|&id| id as u32)
            .collect();
        let at = format!("{file}: {ids:?}");
        for (key, value) in members(vector) {
            match key {
                "ids" => {}
                "text" => report.equal(
                    "text",
                    &at,
                    tokenizer.decode_with_specials(&ids).as_str(),
                    text(value),
                ),
                "text_skip_special" => {
                    report.equal(
                        "text, no specials",
                        &at,
                        tokenizer.decode(&ids).as_str(),
                        text(value),
                    );
                }
                "stream_chunks" => {
                    let wanted: Vec<_> = elements(value).map(|v| text(v).to_owned()).collect();
                    report.equal("streamed text", &at, &streamed(&tokenizer, &ids), &wanted);
                }
                _ => report.fail("vectors", &at, &format!("nothing checks '{key}'")),
            }
        }
    }
}

/// What a stream gives after each id, and at the end.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut chunks: Vec<String> = ids.iter().map(|&id| stream.push(id).to_owned()).collect();
    chunks.push(stream.finish().to_owned());
    chunks
}

/// Conversations to prompts, and what ends an answer.
pub fn check_conversations(golden: &Golden, report: &mut Report) {
    for conversation in elements(&golden.json(CONVERSATIONS)) {
        let name = text(&conversation["template"]);
        let at = format!("{name}: {}", conversation["messages"]);
        let Some(template) = report.ok("template", &at, name.parse::<Template>()) else {
            continue;
        };
        let messages: Vec<_> = elements(&conversation["messages"]).map(message).collect();
        let prompt = template.render(&messages);
        report.equal(
            "prompt",
            &at,
            prompt.as_str(),
            text(&conversation["prompt"]),
        );
        report.equal("stop", &at, template.stop(), text(&conversation["stop"]));
    }
}

fn message(message: &Value) -> Message {
    let said = message[1].as_str().unwrap_or_default();
    match text(&message[0]).to_ascii_uppercase().as_str() {
        "USER" | "HUMAN" => Message::user(said),
        _ => Message::assistant(said),
    }
}

/// The prompt of a case, from its turns: user first, and the assistant to answer.
pub fn conversation_prompt(turns: &Value) -> String {
    let mut messages: Vec<_> = elements(turns)
        .enumerate()
        .map(|(i, said)| match i % 2 {
            0 => Message::user(text(said)),
            _ => Message::assistant(text(said)),
        })
        .collect();
    messages.push(Message::assistant(""));
    Template::MplugOwl2.render(&messages)
}

/// Logits to probabilities.
pub fn check_sampling(golden: &Golden, report: &mut Report) {
    let tensors = golden.tensors("sampling/sampling.safetensors");
    let n_vocab = tensors.shape("logits")[1];
    let logits = tensors.f32s("logits");
    for combo in elements(&golden.json("sampling/sampling.json")["combos"]) {
        let i = &combo["i"];
        let number = |key: &str| combo[key].as_f64().unwrap() as f32;
        let sampling = Sampling {
            temperature: number("temperature"),
            top_k: count(&combo["top_k"]),
            top_p: number("top_p"),
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling, n_vocab).unwrap();
        let wanted = tensors.f32s(&format!("probs.{i}"));
        let kept = tensors.u8s(&format!("kept.{i}"));
        for (row, logits) in logits.chunks_exact(n_vocab).enumerate() {
            let at = format!("{combo}, row {row}");
            let columns = row * n_vocab..(row + 1) * n_vocab;
            let mut probabilities = vec![0.0; n_vocab];
            let mut is_kept = vec![0; n_vocab];
            for candidate in sampler.probabilities(&mut logits.to_vec(), &[]) {
                probabilities[candidate.id as usize] = candidate.probability;
                is_kept[candidate.id as usize] = 1;
            }
            report.equal(
                "kept tokens",
                &at,
                is_kept.as_slice(),
                &kept[columns.clone()],
            );
            let n_kept = is_kept.iter().filter(|&&kept| kept == 1).count();
            report.equal("kept tokens", &at, &n_kept, &count(&combo["kept"][row]));
            report.near(
                "probabilities",
                &at,
                &probabilities,
                &wanted[columns],
                PROBABILITY_TOLERANCE,
            );
        }
    }
}
