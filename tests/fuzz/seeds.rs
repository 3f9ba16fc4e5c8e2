//! Small good files of every kind, to begin damaging from.

use std::fs;

use owl2::reuse::{Position, PromptCache};
use owl2::session::Input;
use owl2::workspace::Workspace;

use super::{DESCRIPTIONS, FINGERPRINT, assistant, checkpoint, root, tiny};

/// A picture of one pixel, in base64.
pub const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// Saved conversations, and brackets without end.
pub fn chat_file() -> Vec<Vec<u8>> {
    let picture = root().join("tests/fixtures/image/palette2.png");
    let chat = serde_json::json!({"system": "x", "messages": [
        {"role": "user", "text": "<|image|> what", "images": [picture]},
        {"role": "assistant", "text": "\u{e9}"},
    ]});
    let chat = chat.to_string();
    let without = chat.replace("<|image|>", "").replace("images", "ignored");
    vec![chat.into(), without.into(), "[".repeat(10_000).into()]
}

/// A model file.
pub fn gguf() -> Vec<Vec<u8>> {
    vec![tiny::file(&tiny::smallest_config(), 1)]
}

/// Each description of a checkpoint.
pub fn json() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = (0..)
        .zip(&DESCRIPTIONS[..4])
        .map(|(number, name)| [vec![number], of_checkpoint(name)].concat())
        .collect();
    seeds.push(
        [
            b"\x01",
            &br#"{"legacy": false, "additional_special_tokens": ["</s>", {"content": "<s>"}],
                "added_tokens_decoder": {"0": {"content": "<unk>", "special": true},
                "767": {"content": "[PAD767]", "lstrip": true, "special": false}}}"#[..],
        ]
        .concat(),
    );
    seeds.push(b"\x05{\"<s>\": 1, \"<unk>\": 0}".to_vec());
    seeds.push(
        b"\x00{\"model_type\": \"mplug_owl2\", \"rope_parameters\": {\"rope_theta\": 5e5, \
          \"rope_type\": \"linear\", \"factor\": 2.0}, \"layer_types\": [\"full_attention\"]}"
            .to_vec(),
    );
    seeds.push(b"\x04{\"weight_map\": {\"lm_head.weight\": \"model.safetensors\"}}".to_vec());
    seeds
}

/// A picture of each format.
pub fn picture() -> Vec<Vec<u8>> {
    let names = [
        "baseline_420.jpg",
        "cmyk_progressive.jpg",
        "interlaced.gif",
        "lossless.webp",
        "lossy_alpha.webp",
        "orientation8.png",
        "palette8.bmp",
        "rgba16.png",
    ];
    let jxl = ["tests/fixtures/jxl/lossy.jxl".to_owned()];
    let jpeg = [
        "alone_restarts_2x1.jpg",
        "arithmetic_2x2.jpg",
        "arithmetic_progressive_1x1.jpg",
        "progressive_1x2.jpg",
        "refined_2x2.jpg",
        "restarts_1x1.jpg",
    ];
    let images = names.map(|name| format!("tests/fixtures/image/{name}"));
    // Two pixels each.
    let tiff =
        b"II*\0\x08\0\0\0\x06\0\0\x01\x03\0\x01\0\0\0\x02\0\0\0\x01\x01\x03\0\x01\0\0\0\x01\0\0\0\
        \x02\x01\x03\0\x01\0\0\0\x08\0\0\0\x06\x01\x03\0\x01\0\0\0\x01\0\0\0\
        \x11\x01\x04\0\x01\0\0\0\x56\0\0\0\x17\x01\x04\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x40\x80";
    let qoi = b"qoif\0\0\0\x02\0\0\0\x01\x03\0\xfe\x10\x20\x30\xc0\0\0\0\0\0\0\0\x01";
    let jpeg = jpeg.map(|name| format!("tests/fixtures/jpeg/{name}"));
    images
        .iter()
        .chain(&jpeg)
        .chain(&jxl)
        .map(|name| read(name))
        .chain([tiff.to_vec(), qoi.to_vec()])
        .collect()
}

/// JPEG XL of each kind, without what the body puts in front.
pub fn jxl() -> Vec<Vec<u8>> {
    let names = [
        "lossy",
        "lossless",
        "modular",
        "progressive",
        "upsampled",
        "noise",
        "patches",
        "gray_alpha",
        "premultiplied",
        "lossy_p3",
        "animation",
    ];
    let bare = names.map(|name| read(&format!("tests/fixtures/jxl/{name}.jxl"))[2..].to_vec());
    let boxed = ["boxes", "from_jpeg"]
        .map(|name| read(&format!("tests/fixtures/jxl/{name}.jxl"))[12..].to_vec());
    bare.into_iter().chain(boxed).collect()
}

/// Weights.
pub fn safetensors() -> Vec<Vec<u8>> {
    let header = br#"{"__metadata__": {"format": "pt"},
        "lm_head.weight": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
        "model.norm.weight": {"dtype": "BF16", "shape": [3], "data_offsets": [12, 18]},
        "model.embed_tokens.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [18, 26]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    vec![[&length[..], header, &[0; 26]].concat()]
}

/// An animation.
pub fn animation() -> Vec<Vec<u8>> {
    ["animated.webp", "interlaced.gif", "offset_transparent.gif"]
        .map(|name| read(&format!("tests/fixtures/image/{name}")))
        .into()
}

/// Tables of VLMEvalKit: choices with a picture of another row, yes or no, open answers.
pub fn table() -> Vec<Vec<u8>> {
    let picture = PNG;
    let choices = "index\timage\tquestion\thint\tA\tB\tanswer\tcategory\n";
    let texts = [
        format!(
            "{choices}1\t{picture}\t\"a\n\"\"b\"\"\"\tNone\t1\t2.5\tA\tx\n1000001\t1\ta\t\tN/A\t7\tB\tx\n"
        ),
        format!(
            "index\timage\tquestion\tanswer\n0\t['{picture}', '{picture}']\tis it?\tYes\n1\t0\tis it?\tNo\n"
        ),
        format!("index\timage\tquestion\tanswer\n5\t{picture}\twhat?\t['a', \"b'\", 'c']\n"),
    ];
    texts.map(String::into_bytes).into()
}

/// Questions with all that is known of them, and with little.
pub fn questions() -> Vec<Vec<u8>> {
    let seeds = [
        "{\"question\": \"what\", \"image\": null, \"answer\": \"a\", \"type\": \"b\"}\n",
        "\u{feff}{\"question\": \"\", \"prompt_ids\": [1, -200], \"output_ids\": [2]}\r\n\n{\"question\": \"x\", \"logits8\": [0.5]}",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// Schemas with references, patterns and alternatives.
pub fn schema() -> Vec<Vec<u8>> {
    let seeds = [
        r#"{"type": "object", "properties": {"a": {"enum": ["x", 1]}}, "required": ["a"]}"#,
        r#"{"type": "array", "items": {"type": "string", "pattern": "^[a-c]{2,9}$"}}"#,
        r##"{"anyOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "number"}}}"##,
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// The state of a session after three tokens.
pub fn state_file() -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut memory = PromptCache::new();
    let mut workspace = Workspace::new(assistant().model());
    memory.reserve(&mut workspace, 64).unwrap();
    let ids = [1, 5, 9];
    memory
        .extend(
            &mut workspace,
            &[Input::Tokens(&ids)],
            &ids.map(Position::Token),
            &mut |_| true,
        )
        .unwrap();
    memory.save(&path, &FINGERPRINT).unwrap();
    vec![fs::read(path).unwrap()]
}

/// Texts that look like control tokens, and other scripts.
pub fn text() -> Vec<Vec<u8>> {
    let seeds = [
        "",
        "<s>a cat</s>",
        "\u{2581}\u{e9} \u{732b}\n\0",
        "<unk><|image|>",
        " <a><a>\u{e9}  <a <a> ",
    ];
    seeds.map(|text| text.as_bytes().repeat(3)).into()
}

/// Files of benchmarks, each after the number of its format.
pub fn benchmark() -> Vec<Vec<u8>> {
    let seeds = [
        "\0[{\"image\": \"a.png\", \"gt_score\": \"3.5\", \"gt_score_norm\": 2, \"std_norm\": 0.5},\n\
         {\"img_path\": [\"b.png\"], \"id\": \"b->4.63\"}]",
        "\x01[{\"question\": \"x\", \"image\": \"a.png\", \"answers\": [{\"answer\": \"a\"}, \"b\", 3], \
         \"question_id\": 7}, {\"question\": \"\", \"answer\": \"a\"}]",
        "\x02[{\"img_path\": \"a.png\", \"question\": \"x\", \"candidates\": [\"a\", \"b\"], \"correct_ans\": \"b\", \
         \"type\": 1, \"concern\": null}]",
        "\x03question,1,2,3,4,A\n\"a, \"\"b\"\"\",x,y,z,w,D\n",
        "\x04a.png\tIs it?\tYes\na.png\tIs it not?\tNo\n",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).into()
}

/// Files of an adapter, each after its number.
pub fn lora() -> Vec<Vec<u8>> {
    vec![
        [&[0], LORA_CONFIG].concat(),
        [vec![1], adapter()].concat(),
        [vec![2], read("tests/fixtures/torch/small.bin")].concat(),
        [vec![3], read("tests/fixtures/torch/small.bin")].concat(),
    ]
}

/// What says how an adapter is applied.
pub const LORA_CONFIG: &[u8] = br#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "bias": "none",
    "use_rslora": true, "target_modules": ["q_proj"], "init_lora_weights": "gaussian"}"#;

/// The weights of an adapter, of one matrix.
pub fn adapter() -> Vec<u8> {
    const N: usize = 32;
    let module = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
    let header = format!(
        "{{\"{module}A.weight\": {{\"dtype\": \"F32\", \"shape\": [1, {N}], \"data_offsets\": [0, {}]}}, \
         \"{module}B.weight\": {{\"dtype\": \"F32\", \"shape\": [{N}, 1], \"data_offsets\": [{}, {}]}}}}",
        4 * N,
        4 * N,
        8 * N
    );
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &[0; 8 * N]].concat()
}

/// EXIF data of both byte orders, and XMP, each after the number of what it stands in.
pub fn orientation() -> Vec<Vec<u8>> {
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let big = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\0";
    let xmp =
        b"<x:xmpmeta><rdf:Description tiff:Orientation='3'/><tiff:Orientation>5</tiff:Orientation>";
    (0..5)
        .flat_map(|place| [&exif[..], big, xmp].map(|notes| [&[place], notes].concat()))
        .collect()
}

/// A vocabulary in the format of the `tokenizers` package, with strings and pairs as merges, and
/// added tokens.
pub fn tokenizer_json() -> Vec<Vec<u8>> {
    let whole = read("tests/golden/checkpoints/tiny/tokenizer.json");
    let mut vocab: serde_json::Map<_, _> = (0..256u32)
        .map(|byte| (format!("<0x{byte:02X}>"), (byte + 3).into()))
        .collect();
    for (id, text) in ["<unk>", "<s>", "</s>"].into_iter().enumerate() {
        vocab.insert(text.into(), id.into());
    }
    for (id, text) in (259u32..).zip(["a", "b", "\u{2581}", "ab", "\u{2581}a"]) {
        vocab.insert(text.into(), id.into());
    }
    let small = serde_json::json!({
        "added_tokens": [
            {"id": 1, "content": "<s>", "special": true},
            {"id": 300, "content": "<loc>", "rstrip": true, "special": false},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}",
            "prepend_scheme": "first", "split": false},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": [["a", "b"], ["\u{2581}", "a"]]},
    });
    vec![whole, small.to_string().into()]
}

/// A vocabulary.
pub fn tokenizer_model() -> Vec<Vec<u8>> {
    vec![of_checkpoint("tokenizer.model")]
}

/// Weights.
pub fn torch() -> Vec<Vec<u8>> {
    vec![read("tests/fixtures/torch/small.bin")]
}

fn read(name: &str) -> Vec<u8> {
    fs::read(root().join(name)).expect(name)
}

fn of_checkpoint(name: &str) -> Vec<u8> {
    fs::read(checkpoint().join(name)).expect(name)
}
