//! What must hold of the model whatever its weights: caching, batching, threads and instruction
//! sets change nothing; the order of pictures and the modality of a run change the answer.

use crate::{files, machine, tiny};
use owl2::gguf::DType;
use owl2::kernels::Isa;
use owl2::model::{Model, layout};
use owl2::ops::RowRole;
use owl2::quant::Rotation;
use owl2::session::{Input, Sequence, SequencePart, Session};
use owl2::workspace::Workspace;
use owl2::{Kind, Result};

/// Summing in another order moves f32 values near 1 by no more than this.
const BOUND: f32 = 2e-5;

fn logits(model: &Model, inputs: &[Input]) -> Vec<f32> {
    let mut session = Session::new(model, 1024);
    session.extend(inputs).unwrap();
    session.logits().to_vec()
}

fn assert_near(got: &[f32], wanted: &[f32], what: &str) {
    let distance = tiny::distance(got, wanted);
    assert!(distance <= BOUND, "{what}: differs by {distance}");
}

fn assert_apart(a: &[f32], b: &[f32], what: &str) {
    let distance = tiny::distance(a, b);
    assert!(
        distance > 100.0 * BOUND,
        "{what}: differs by only {distance}"
    );
}

#[test]
fn logits_are_of_useful_size() {
    let model = tiny::model();
    let logits = logits(&model, &[Input::Tokens(&tiny::ids(9, 1))]);
    let largest = tiny::distance(&logits, &vec![0.0; logits.len()]);
    assert!((0.1..100.0).contains(&largest), "{largest}");
}

#[test]
fn incremental_decoding_equals_a_full_pass() {
    let model = tiny::model();
    let picture = model.encode_image(&tiny::pixels(1)).unwrap();
    let ids = tiny::ids(20, 2);
    let mut session = Session::new(&model, 64);
    session
        .extend(&[Input::Tokens(&ids[..3]), Input::Image(&picture)])
        .unwrap();
    for end in 4..=ids.len() {
        session.step(ids[end - 1]).unwrap();
        let full = logits(
            &model,
            &[
                Input::Tokens(&ids[..3]),
                Input::Image(&picture),
                Input::Tokens(&ids[3..end]),
            ],
        );
        assert_near(session.logits(), &full, &format!("after {end} tokens"));
    }
    assert_eq!(session.len(), 20 + tiny::PICTURE_POSITIONS);
}

#[test]
fn chunked_prefill_equals_one_pass() {
    let model = tiny::model();
    let picture = model.encode_image(&tiny::pixels(1)).unwrap();
    let ids = tiny::ids(40, 3);
    let row = picture.len() / tiny::PICTURE_POSITIONS;
    let whole = logits(
        &model,
        &[
            Input::Tokens(&ids[..7]),
            Input::Image(&picture),
            Input::Tokens(&ids[7..]),
        ],
    );
    // A picture may be cut in two as well.
    let mut session = Session::new(&model, 64);
    for chunk in [
        Input::Tokens(&ids[..2]),
        Input::Tokens(&ids[2..7]),
        Input::Image(&picture[..2 * row]),
        Input::Image(&picture[2 * row..]),
        Input::Tokens(&ids[7..38]),
        Input::Tokens(&ids[38..]),
    ] {
        session.extend(&[chunk]).unwrap();
    }
    assert_near(session.logits(), &whole, "in six chunks");
}

/// A prompt longer than what the session computes together is cut inside.
#[test]
fn a_long_prompt_equals_its_pieces() {
    let model = tiny::model();
    let picture = model.encode_image(&tiny::pixels(1)).unwrap();
    let ids = tiny::ids(1010, 4);
    // Positions 509 to 513 are the picture's, so a batch of 512 ends inside it.
    let inputs = [
        Input::Tokens(&ids[..509]),
        Input::Image(&picture),
        Input::Tokens(&ids[509..]),
    ];
    let whole = logits(&model, &inputs);
    let mut session = Session::new(&model, 1024);
    for piece in ids[..509].chunks(100) {
        session.extend(&[Input::Tokens(piece)]).unwrap();
    }
    session.extend(&[Input::Image(&picture)]).unwrap();
    for piece in ids[509..].chunks(77) {
        session.extend(&[Input::Tokens(piece)]).unwrap();
    }
    assert_near(session.logits(), &whole, "in pieces");
}

#[test]
fn the_order_of_two_pictures_matters() {
    let model = tiny::model();
    let first = model.encode_image(&tiny::pixels(1)).unwrap();
    let second = model.encode_image(&tiny::pixels(2)).unwrap();
    let (before, after) = (tiny::ids(2, 5), tiny::ids(6, 6));
    let ask = |a: &[f32], b: &[f32]| {
        logits(
            &model,
            &[
                Input::Tokens(&before),
                Input::Image(a),
                Input::Image(b),
                Input::Tokens(&after),
            ],
        )
    };
    let forwards = ask(&first, &second);
    assert_apart(&forwards, &ask(&second, &first), "swapped");
    assert_apart(&forwards, &ask(&first, &first), "second replaced");
    assert_apart(&forwards, &ask(&second, &second), "first replaced");
    assert_eq!(forwards, ask(&first, &second), "the same question again");
}

/// The embeddings of some tokens, passed off as a picture, take the image branch.
#[test]
fn the_modality_of_a_run_matters() {
    let model = tiny::model();
    let ids = tiny::ids(12, 7);
    let embedded = embeddings(&model, &ids[3..8]);
    let as_text = logits(&model, &[Input::Tokens(&ids)]);
    let as_image = logits(
        &model,
        &[
            Input::Tokens(&ids[..3]),
            Input::Image(&embedded),
            Input::Tokens(&ids[8..]),
        ],
    );
    assert_apart(&as_text, &as_image, "modality swapped");
}

/// A plain LLaMA has one branch, which pictures' rows then go through too.
#[test]
fn a_model_without_an_image_branch_has_one_modality() {
    let mut config = tiny::config();
    config.visual = None;
    let gguf = tiny::open(&tiny::file(&config, 1));
    let model = Model::new(&gguf, tiny::compute_on(1, Isa::scalar())).unwrap();
    let ids = tiny::ids(6, 8);
    let embedded = embeddings(&model, &ids[2..4]);
    let mixed = [
        Input::Tokens(&ids[..2]),
        Input::Image(&embedded),
        Input::Tokens(&ids[4..]),
    ];
    let text = logits(&model, &[Input::Tokens(&ids)]);
    assert_near(&logits(&model, &mixed), &text, "one branch");

    let error = model.encode_image(&tiny::pixels(1)).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("without a picture"), "{error}");
}

fn embeddings(model: &Model, ids: &[u32]) -> Vec<f32> {
    use owl2::model::observer::{ForwardStage, Observer};
    #[derive(Default)]
    struct Embeddings(Vec<f32>);
    impl Observer for Embeddings {
        fn observe(&mut self, stage: ForwardStage, values: &[f32]) {
            if stage == ForwardStage::Embeddings {
                self.0.extend(values);
            }
        }
    }
    let mut embeddings = Embeddings::default();
    Session::new(model, ids.len())
        .extend_observed(&[Input::Tokens(ids)], &mut embeddings)
        .unwrap();
    embeddings.0
}

/// An observer sees the logits that are computed without one.
#[test]
fn observing_changes_nothing() {
    use owl2::model::observer::{ForwardStage, Observer};
    struct LastRow(Vec<f32>);
    impl Observer for LastRow {
        fn observe(&mut self, stage: ForwardStage, values: &[f32]) {
            if stage == ForwardStage::FinalNorm {
                self.0 = values.to_vec();
            }
        }
    }
    let model = tiny::model();
    let ids = tiny::ids(10, 9);
    let plain = logits(&model, &[Input::Tokens(&ids)]);
    let mut session = Session::new(&model, 16);
    let mut normed = LastRow(Vec::new());
    session
        .extend_observed(&[Input::Tokens(&ids)], &mut normed)
        .unwrap();
    assert_eq!(session.logits(), plain);
    let width = model.config().decoder.hidden_size;
    assert_eq!(normed.0.len(), ids.len() * width);
    let head = model.output_head(&normed.0[normed.0.len() - width..]);
    assert_near(&head, &plain, "head of the last normed row");
}

#[test]
fn threads_and_instruction_sets_change_nothing() {
    let ids = tiny::ids(33, 10);
    let answer = |n_threads, isa| {
        let model = tiny::model_on(tiny::compute_on(n_threads, isa));
        let picture = model.encode_image(&tiny::pixels(3)).unwrap();
        let mut session = Session::new(&model, 64);
        session
            .extend(&[Input::Image(&picture), Input::Tokens(&ids)])
            .unwrap();
        let mut all = session.logits().to_vec();
        session.step(5).unwrap();
        all.extend(session.logits());
        all
    };
    let scalar = answer(1, Isa::scalar());
    for isa in Isa::available() {
        let one = answer(1, isa);
        assert_near(&one, &scalar, isa.name());
        for n_threads in [2, 3] {
            let several = answer(n_threads, isa);
            assert_eq!(several, one, "{n_threads} threads, {isa}");
        }
    }
}

#[test]
fn truncating_and_extending_equals_a_fresh_session() {
    let model = tiny::model();
    let picture = model.encode_image(&tiny::pixels(1)).unwrap();
    let (kept, dropped, next) = (tiny::ids(6, 11), tiny::ids(9, 12), tiny::ids(4, 13));
    let mut session = Session::new(&model, 64);
    session
        .extend(&[Input::Tokens(&kept), Input::Image(&picture)])
        .unwrap();
    let len = session.len();
    session.extend(&[Input::Tokens(&dropped)]).unwrap();
    session.truncate(len);
    assert_eq!(session.len(), len);
    session.extend(&[Input::Tokens(&next)]).unwrap();
    let fresh = logits(
        &model,
        &[
            Input::Tokens(&kept),
            Input::Image(&picture),
            Input::Tokens(&next),
        ],
    );
    assert_near(session.logits(), &fresh, "after truncation");
    session.truncate(0);
    assert!(session.is_empty());
    session.extend(&[Input::Tokens(&next)]).unwrap();
    assert_near(
        session.logits(),
        &logits(&model, &[Input::Tokens(&next)]),
        "after truncation to nothing",
    );
}

#[test]
fn an_overflowing_context_is_refused_with_the_numbers() {
    let model = tiny::model();
    let mut session = Session::new(&model, 10);
    session.extend(&[Input::Tokens(&tiny::ids(7, 1))]).unwrap();
    let before = session.logits().to_vec();
    let error = session
        .extend(&[Input::Tokens(&tiny::ids(4, 2))])
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Capacity);
    let message = error.to_string();
    for number in ["7", "4", "10", "context"] {
        assert!(message.contains(number), "{message}");
    }
    // Nothing has happened, and what fits still goes in.
    assert_eq!((session.len(), session.logits()), (7, before.as_slice()));
    session.extend(&[Input::Tokens(&tiny::ids(3, 2))]).unwrap();
    assert_eq!(session.len(), session.capacity());
    assert_eq!(session.step(1).unwrap_err().kind(), Kind::Capacity);
}

/// One part that cannot be computed leaves the others as they were too.
#[test]
fn a_pass_is_computed_as_a_whole_or_not_at_all() {
    let model = tiny::model();
    let mut workspace = Workspace::new(&model);
    let ids = tiny::ids(7, 1);
    let inputs = [Input::Tokens(&ids)];
    let mut good = Sequence::new(&model, 20);
    let mut full = Sequence::new(&model, 6);
    let mut foreign = Sequence::new(&tiny::model(), 20);
    for (bad, n_logits, kind) in [
        (&mut full, 1, Kind::Capacity),
        (&mut foreign, 1, Kind::Input),
        (&mut Sequence::new(&model, 20), 8, Kind::Input),
    ] {
        let mut parts = [
            SequencePart::new(&mut good, &inputs, 1),
            SequencePart::new(bad, &inputs, n_logits),
        ];
        let error = workspace.compute(RowRole::Prompt, &mut parts).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(good.is_empty() && bad.is_empty());
    }
    workspace.compute(RowRole::Prompt, &mut []).unwrap();
    let mut parts = [SequencePart::new(&mut good, &inputs, 1)];
    workspace.compute(RowRole::Prompt, &mut parts).unwrap();
    assert_eq!(good.len(), ids.len());

    let damaged = damaged(DType::F32, false, "output.weight", f32::NAN);
    let model = Model::new(
        &tiny::open(&damaged),
        tiny::compute_on(2, Isa::detect().unwrap()),
    );
    let model = model.unwrap();
    let mut workspace = Workspace::new(&model);
    let mut sequences = [Sequence::new(&model, 20), Sequence::new(&model, 20)];
    let mut parts = sequences
        .each_mut()
        .map(|sequence| SequencePart::new(sequence, &inputs, 1));
    let error = workspace.compute(RowRole::Answer, &mut parts).unwrap_err();
    assert!(error.to_string().contains("output head"), "{error}");
    assert!(sequences.iter().all(Sequence::is_empty));
}

#[test]
fn unusable_inputs_are_refused() {
    let model = tiny::model();
    let mut session = Session::new(&model, 16);
    let row = model.config().decoder.hidden_size;
    let vocab = model.config().decoder.vocab_size as u32;
    for (inputs, wanted) in [
        (vec![], "nothing"),
        (vec![Input::Tokens(&[])], "nothing"),
        (vec![Input::Tokens(&[1, vocab])], "vocabulary"),
        (vec![Input::Tokens(&[u32::MAX])], "vocabulary"),
        (vec![Input::Image(&vec![0.0; row + 1])], "whole rows"),
    ] {
        let error = session.extend(&inputs).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert!(session.is_empty());

    let wrong: Result<_> = model.encode_image(&[0.0; 7]);
    assert_eq!(wrong.unwrap_err().kind(), Kind::Input);
}

/// The weights are views of the file's bytes, which therefore must outlive the handle.
#[test]
fn a_model_outlives_the_file_handle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    std::fs::write(&path, tiny::file(&tiny::config(), 1)).unwrap();
    let gguf = owl2::gguf::Gguf::open(&path).unwrap();
    let model = Model::new(&gguf, tiny::compute_on(1, Isa::scalar())).unwrap();
    let before = logits(&model, &[Input::Tokens(&[1, 2, 3])]);
    drop(gguf);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(logits(&model, &[Input::Tokens(&[1, 2, 3])]), before);
}

/// All weights that read one input must be rotated, or none.
#[test]
fn exceptions_from_rotation_are_whole_inputs() {
    let config = tiny::quantizable_config();
    let tensors = layout::tensors(&config);
    let open = |names: &[&str]| {
        let mut metadata = tiny::metadata(&config);
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Rotation::write_exceptions(&mut metadata, names);
        let rotation = Rotation::default();
        let file = tiny::file_in(&metadata, &tensors, 5, DType::Q8_0, Some(&rotation));
        Model::new(&tiny::open(&file), tiny::compute_on(1, Isa::scalar()))
    };
    let attention =
        ["q", "k", "v", "k_image", "v_image"].map(|part| format!("blk.0.attn_{part}.weight"));
    let attention = attention.each_ref().map(String::as_str);
    open(&attention).unwrap();
    open(&["mm.blk.0.attn_v.weight", "v.blk.0.ffn_up.weight"]).unwrap();
    for (names, problem) in [
        (&attention[..4], "lacks 'blk.0.attn_v_image.weight'"),
        (
            &["mm.blk.0.attn_k.weight"],
            "lacks 'mm.blk.0.attn_q.weight'",
        ),
        (&["blk.0.ffn_up.weight"], "lacks 'blk.0.ffn_gate.weight'"),
        (&["blk.9.ffn_up.weight"], "no such tensor"),
    ] {
        let error = open(names).map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Model);
        assert!(
            error.to_string().contains("owl2.rotation.except"),
            "{error}"
        );
        assert!(error.to_string().contains(problem), "{error}");
    }
}

/// A file whose tensor `name` has an infinite or NaN value at its end, or such a scale.
fn damaged(dtype: DType, is_rotated: bool, name: &str, bad: f32) -> Vec<u8> {
    let mut file = files::bytes(dtype, is_rotated).to_vec();
    let gguf = tiny::open(&file);
    let tensor = gguf.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let end = tensor.range.end;
    if tensor.dtype == DType::F32 {
        file[end - 4..end].copy_from_slice(&bad.to_le_bytes());
    } else {
        let block = end - tensor.dtype.block_bytes();
        let bits = half::f16::from_f32(bad).to_bits();
        file[block..block + 2].copy_from_slice(&bits.to_le_bytes());
    }
    file
}

#[test]
fn damaged_weights_end_with_an_error_that_names_the_stage() {
    for isa in machine::instruction_sets() {
        for (dtype, is_rotated) in [
            (DType::F32, false),
            (DType::Q8_0, false),
            (DType::Q8_0, true),
            (DType::Q4_K, true),
        ] {
            for bad in [f32::NAN, f32::INFINITY] {
                // Either way for one format, one way for the others.
                if bad.is_nan() && dtype != DType::Q8_0 {
                    continue;
                }
                let model = |name: &str| {
                    let file = damaged(dtype, is_rotated, name, bad);
                    Model::new(&tiny::open(&file), tiny::compute_on(2, isa)).unwrap()
                };
                for (name, stage) in [
                    ("blk.0.attn_v.weight", "layer 0 of the decoder"),
                    ("blk.1.attn_norm.weight", "layer 1 of the decoder"),
                    ("blk.1.ffn_down.weight", "layer 1 of the decoder"),
                    ("output_norm.weight", "final norm"),
                    ("output.weight", "output head"),
                ] {
                    let model = model(name);
                    let mut session = Session::new(&model, 64);
                    let what = format!("{isa} {dtype} {name} {bad}");
                    let error = session
                        .extend(&[Input::Tokens(&tiny::ids(12, 1))])
                        .unwrap_err();
                    assert_eq!(error.kind(), Kind::Model, "{what}");
                    assert!(error.to_string().contains(stage), "{what}: {error}");
                    let error = session.step(3).unwrap_err();
                    assert!(error.to_string().contains(stage), "{what}: {error}");
                    assert!(session.is_empty(), "{what}");
                }
                for (name, stage) in [
                    ("v.blk.0.ffn_up.weight", "layer 0 of the vision tower"),
                    ("mm.blk.0.attn_k.weight", "layer 0 of the abstractor"),
                    ("mm.model.fc.weight", "abstractor's output"),
                ] {
                    let error = model(name).encode_image(&tiny::pixels(1)).unwrap_err();
                    assert_eq!(error.kind(), Kind::Model, "{isa} {name}");
                    assert!(error.to_string().contains(stage), "{isa} {name}: {error}");
                }
            }
        }
    }
}
