//! `owl2 perplexity` on a plain LLaMA model of random weights: what it measures, and what it refuses.

use crate::{room, tiny};
use std::num::NonZeroUsize;

use owl2::gguf::names::tokenizer;
use owl2::kernels::Isa;
use owl2::model::Model;
use owl2::model::config::{Config, DecoderConfig};
use owl2::model::layout;
use owl2::perplexity::{Measurement, Mode, windows};
use owl2::session::{Input, Session};
use owl2_convert::input::ConversionInput as Source;
use owl2_convert::pack;
use owl2_convert::progress::Progress;
use owl2_convert::recipe::{Quant, Recipe};
use serde_json::Value;

use room::Room;

/// A LLaMA model whose matrices blocks of 32 divide.
fn config() -> Config {
    Config {
        decoder: DecoderConfig {
            hidden_size: 64,
            intermediate_size: 96,
            max_position_embeddings: 600,
            ..tiny::config().decoder
        },
        visual: None,
    }
}

/// With `f32.gguf`, `q8_0.gguf` and `ids`, of which there are 50.
fn room() -> Room {
    let room = Room::new();
    std::fs::write(room.path("f32.gguf"), tiny::file(&config(), 5)).unwrap();
    quantize(&room, "f32.gguf", "q8_0.gguf");
    write_ids(&room, "ids", &tiny::ids(50, 1));
    room
}

/// Makes a Q8_0 file that is not rotated.
fn quantize(room: &Room, from: &str, to: &str) {
    let input = Source::open_gguf(&room.path(from)).unwrap();
    let recipe = Recipe {
        quant: Quant::Q8_0,
        rotate: false,
        ..Recipe::default()
    };
    let (plan, mapped) = (
        recipe.plan(&input.config).unwrap(),
        input.map().unwrap().tensors,
    );
    let writer = pack::create(&room.path(to), &input, Quant::Q8_0, &plan, false).unwrap();
    let mut progress = Progress::start(0, true);
    let source = input.tensors.as_ref();
    let one = NonZeroUsize::MIN;
    pack::pack(source, &mapped, &plan, writer, one, &mut progress).unwrap();
}

fn write_ids(room: &Room, name: &str, ids: &[u32]) {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    std::fs::write(room.path(name), bytes).unwrap();
}

#[track_caller]
fn measure(room: &Room, line: &str) -> Value {
    let line = format!("perplexity --json -t 2 {line}");
    room.json(&line.split(' ').collect::<Vec<_>>())
}

fn number(report: &Value, key: &str) -> f64 {
    let value = report[key].as_f64();
    value.unwrap_or_else(|| panic!("{key} is no number in {report}"))
}

#[test]
fn batch_and_single_agree_on_floats() {
    let room = room();
    // Windows of 20, 20 and 10.
    let batch = measure(&room, "-m f32.gguf --ids ids --window 20");
    let single = measure(&room, "-m f32.gguf --ids ids --window 20 --mode single");
    assert_eq!(batch["n"], 19 + 19 + 9);
    assert_eq!(batch["windows"], 3);
    let difference = number(&batch, "perplexity") - number(&single, "perplexity");
    assert!(
        difference.abs() < 1e-4 * number(&batch, "perplexity"),
        "{difference}"
    );
    for key in [
        "reference",
        "reference_perplexity",
        "kl_mean",
        "kl_p99",
        "kl_windows",
        "top1",
    ] {
        assert!(batch[key].is_null(), "{key}");
    }
}

/// The perplexity that the session's plain way gives, window by window.
#[test]
fn it_is_the_perplexity_of_the_logits() {
    let (config, ids) = (config(), tiny::ids(530, 2));
    let compute = tiny::compute_on(2, Isa::detect().unwrap());
    let model = Model::new(&tiny::open(&tiny::file(&config, 5)), compute).unwrap();
    // Longer than what is computed together.
    let windows = windows(&ids, 520, None);
    let (mut nll, mut n) = (0.0, 0);
    for window in &windows {
        let mut session = Session::new(&model, window.len());
        for pair in window.windows(2) {
            session.extend(&[Input::Tokens(&pair[..1])]).unwrap();
            let exponentials = session.logits().iter().map(|&x| f64::from(x).exp());
            let sum: f64 = exponentials.sum();
            nll -= (f64::from(session.logits()[pair[1] as usize]).exp() / sum).ln();
            n += 1;
        }
    }
    let wanted = (nll / f64::from(n)).exp();
    for mode in [Mode::Batch, Mode::Single] {
        let measurement = Measurement {
            model: &model,
            reference: None,
            mode,
        };
        let mut n_told = 0;
        let statistics = measurement
            .run(&windows, &mut |so_far| n_told = so_far.n)
            .unwrap();
        assert_eq!((statistics.n, n_told), (519 + 9, 519 + 9));
        let relative = statistics.perplexity() / wanted - 1.0;
        assert!(relative.abs() < 1e-4, "{mode}: {relative}");
    }
}

#[test]
fn a_quantized_file_diverges_and_the_same_file_does_not() {
    let room = room();
    for mode in ["batch", "single"] {
        let line = format!("--reference f32.gguf --ids ids --window 20 --mode {mode}");
        let same = measure(&room, &format!("-m f32.gguf {line}"));
        assert!(number(&same, "kl_mean").abs() < 1e-9, "{same}");
        assert_eq!(number(&same, "top1"), 1.0);
        let other = measure(&room, &format!("-m q8_0.gguf {line}"));
        let (mean, high) = (number(&other, "kl_mean"), number(&other, "kl_p99"));
        assert!(1e-9 < mean && mean < 0.1 && mean < high, "{other}");
        let windows = other["kl_windows"].as_array().unwrap();
        let of_windows: Vec<f64> = windows.iter().map(|x| x.as_f64().unwrap()).collect();
        let [a, b, c] = of_windows[..] else {
            panic!("not three windows: {other}");
        };
        // Windows of 20, 20 and 10 ids.
        let by_windows = (19.0 * a + 19.0 * b + 9.0 * c) / 47.0;
        assert!((by_windows / mean - 1.0).abs() < 1e-9, "{other}");
        let reference = number(&other, "reference_perplexity");
        assert_eq!(reference, number(&same, "reference_perplexity"));
        assert_eq!(other["n"], 47);
    }
    let args = [
        "perplexity",
        "-m",
        "q8_0.gguf",
        "--reference",
        "f32.gguf",
        "--ids",
        "ids",
    ];
    let text = room.stdout(&args);
    for part in [
        "perplexity ",
        "reference perplexity",
        "KL mean",
        "KL 99%",
        "top 1",
        "49 pred",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn windows_of_a_text_begin_as_texts_do() {
    let room = room();
    std::fs::write(room.path("text"), "abcdefg").unwrap();
    // <s>, a space and seven letters; windows of <s> and three of those.
    let report = measure(&room, "-m f32.gguf --text text --window 4");
    assert_eq!((&report["windows"], &report["n"]), (&3.into(), &8.into()));
    let whole = measure(&room, "-m f32.gguf --text text");
    assert_eq!((&whole["windows"], &whole["n"]), (&1.into(), &8.into()));
    assert_eq!(whole["window"], 512);
    let tokens = room.json(&["tokenize", "-m", "f32.gguf", "abcdefg", "--json"]);
    let ids: Vec<_> = tokens["ids"].as_array().unwrap().iter().collect();
    let ids: Vec<u32> = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
    write_ids(&room, "its_ids", &ids);
    let from_ids = measure(&room, "-m f32.gguf --ids its_ids");
    assert_eq!(from_ids["perplexity"], whole["perplexity"]);
}

#[test]
fn a_tokenizer_that_cannot_be_run_is_only_missed_by_texts() {
    let room = room();
    let config = config();
    let mut metadata = tiny::metadata(&config);
    metadata.set(tokenizer::MODEL, "gpt2");
    let file = tiny::file_of(&metadata, &layout::tensors(&config), 5);
    std::fs::write(room.path("gpt2.gguf"), file).unwrap();
    quantize(&room, "gpt2.gguf", "gpt2_q8_0.gguf");
    let line = "-m gpt2_q8_0.gguf --reference gpt2.gguf --ids ids";
    assert!(number(&measure(&room, line), "kl_mean") > 0.0);
    assert!(room.stdout(&["info", "gpt2_q8_0.gguf"]).contains("decoder"));
    std::fs::write(room.path("text"), "abc").unwrap();
    let text = ["perplexity", "-m", "gpt2.gguf", "--text", "text"];
    room.fails(&text, 4, &["gpt2.gguf", "'gpt2'", "SentencePiece"]);
    room.fails(&["-m", "gpt2.gguf", "-p", "x"], 4, &["'gpt2'"]);
}

#[test]
fn bad_input_is_refused_by_name() {
    let room = room();
    let fails = |line: &str, code: i32, expected: &[&str]| {
        let line = format!("perplexity {line}");
        room.fails(&line.split(' ').collect::<Vec<_>>(), code, expected);
    };
    fails("-m f32.gguf", 2, &["--text", "--ids"]);
    fails("-m f32.gguf --ids ids --text ids", 2, &["--text"]);
    fails("-m f32.gguf --ids ids --window 1", 2, &["--window"]);
    fails("-m f32.gguf --ids ids --mode both", 2, &["both", "single"]);
    fails(
        "-m f32.gguf --ids ids --window 601",
        2,
        &["--window", "601", "600"],
    );
    fails("-m f32.gguf --ids none", 5, &["none"]);
    fails("-m none.gguf --ids ids", 5, &["none.gguf"]);
    fails(
        "-m f32.gguf --ids ids --reference none.gguf",
        5,
        &["none.gguf"],
    );

    std::fs::write(room.path("odd"), [0; 9]).unwrap();
    fails("-m f32.gguf --ids odd", 3, &["odd", "9 bytes", "32-bit"]);
    write_ids(&room, "one", &[1]);
    fails("-m f32.gguf --ids one", 3, &["one", "1 ids"]);
    write_ids(&room, "outside", &[1, 2, 288, 3]);
    fails(
        "-m f32.gguf --ids outside",
        3,
        &["outside", "number 2", "288"],
    );
    std::fs::write(room.path("empty"), "").unwrap();
    fails("-m f32.gguf --text empty", 3, &["empty", "longer"]);
    std::fs::write(room.path("bytes"), [b'a', 0xff]).unwrap();
    fails("-m f32.gguf --text bytes", 3, &["bytes", "UTF-8"]);

    let mut other = config();
    other.decoder.vocab_size = 280;
    std::fs::write(room.path("other.gguf"), tiny::file(&other, 1)).unwrap();
    let line = "-m f32.gguf --ids ids --reference other.gguf";
    fails(line, 4, &["280", "288", "same model"]);
}
