//! Requests whose prompts are computed together have the numbers of each alone, to the last bit.

use std::path::Path;

use crate::tiny;
use owl2::Kind;
use owl2::kernels::Isa;
use owl2::model::config::{DecoderConfig, RopeScaling, RopeScalingKind};
use owl2::request::{Assistant, Prompt, Source, WordLogits, WordsRequest};
use owl2::reuse::PromptCache;
use owl2::score::{Objective, Rule, ScoreSubject, Scorer, Scoring};

const NAMES: [&str; 6] = [
    "gray.png",
    "wide_rgb.png",
    "gray.png",
    "square_444.jpg",
    "rgba.png",
    "palette_trns.png",
];

fn picture(name: &str) -> Source {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    Source::File(images.join(name))
}

fn assistant_with(config: &owl2::model::config::Config) -> Assistant {
    let file = tiny::open(&tiny::file(config, 1));
    Assistant::new(&file, tiny::compute_on(2, Isa::detect().unwrap())).unwrap()
}

fn assistant() -> Assistant {
    assistant_with(&tiny::config())
}

/// A prompt that is long before its picture, so that the beginning is worth sharing.
fn request(name: &str, question: &str, first_piece: bool) -> WordsRequest {
    let text = format!("how good is what we see here, at last {question}<|image|>it is");
    WordsRequest {
        slots: vec![vec![picture(name)]],
        first_piece,
        ..WordsRequest::new(Prompt::Raw(text), ["good", "bad", "a"])
    }
}

fn assert_same(got: &WordLogits, wanted: &WordLogits, what: &str) {
    assert_eq!(got.words, wanted.words, "{what}");
    assert_eq!(got.n_prompt, wanted.n_prompt, "{what}");
}

#[test]
fn words_after_several_prompts_are_as_likely_as_after_each_alone() {
    let assistant = assistant();
    let requests: Vec<WordsRequest> = (NAMES.iter().enumerate())
        .map(|(i, name)| request(name, ["", "", "or not ", "or bad "][i % 4], i % 2 == 0))
        .collect();
    let alone: Vec<WordLogits> = (requests.iter())
        .map(|request| self::assistant().word_logits(request).unwrap())
        .collect();
    let mut memories: Vec<PromptCache> = (0..4).map(|_| PromptCache::new()).collect();
    // Groups of several sizes, one after the other through the same memories.
    for indices in [
        &[0, 1, 3][..],
        &[5, 4],
        &[2],
        &[1, 1, 0, 5],
        &[3, 2, 4, 0],
        &[],
    ] {
        let group: Vec<WordsRequest> = indices.iter().map(|&i| requests[i].clone()).collect();
        let memories = &mut memories[..group.len()];
        let logits = assistant.word_logits_each(memories, &group, &mut || true);
        assert_eq!(logits.len(), group.len());
        for (logits, &i) in logits.iter().zip(indices) {
            let logits = logits.as_ref().unwrap();
            assert_same(logits, &alone[i], &format!("{i} of {indices:?}"));
        }
    }
}

#[test]
fn the_beginning_of_all_prompts_is_computed_once() {
    let assistant = assistant();
    let requests = ["gray.png", "wide_rgb.png", "rgba.png"].map(|name| request(name, "", true));
    let mut memories = [PromptCache::new(), PromptCache::new(), PromptCache::new()];
    let n_reused = |memories: &mut [PromptCache], requests: &[WordsRequest]| -> Vec<usize> {
        let logits = assistant.word_logits_each(memories, requests, &mut || true);
        let logits = logits.into_iter();
        logits.map(|logits| logits.unwrap().n_reused).collect()
    };
    // All but the picture and what follows it, "it is".
    let n_before = assistant
        .n_positions(&requests[0].prompt, 1)
        .map(|n| n - tiny::PICTURE_POSITIONS - "it is".len())
        .unwrap();
    let first = n_reused(&mut memories, &requests);
    assert!(first.iter().all(|&n| n >= n_before - 1), "{first:?}");
    assert!(first.iter().all(|&n| n == first[0]), "{first:?}");
    let others =
        ["palette_trns.png", "square_444.jpg", "gray.png"].map(|name| request(name, "", true));
    assert_eq!(n_reused(&mut memories, &others), first);
}

#[test]
fn one_that_fails_leaves_the_others() {
    let assistant = assistant();
    let mut requests = ["gray.png", "wide_rgb.png", "rgba.png", "gray.png"]
        .map(|name| request(name, "", false))
        .to_vec();
    requests[1].slots = vec![vec![Source::File("nothing.png".into())]];
    requests[2].words.clear();
    let mut memories: Vec<PromptCache> = requests.iter().map(|_| PromptCache::new()).collect();
    let logits = assistant.word_logits_each(&mut memories, &requests, &mut || true);
    let kinds: Vec<Option<Kind>> = (logits.iter())
        .map(|logits| logits.as_ref().err().map(|e| e.kind()))
        .collect();
    assert_eq!(kinds, [None, Some(Kind::Io), Some(Kind::Usage), None]);
    let alone = self::assistant().word_logits(&requests[0]).unwrap();
    for index in [0, 3] {
        assert_same(logits[index].as_ref().unwrap(), &alone, "beside failures");
    }
    // After an interrupt, what had begun is there.
    let mut n_asked = 0;
    let logits = assistant.word_logits_each(&mut memories, &requests, &mut || {
        n_asked += 1;
        n_asked < 2
    });
    assert_eq!((logits.len(), n_asked), (2, 2));
    assert_same(logits[0].as_ref().unwrap(), &alone, "before an interrupt");
}

/// Dynamic rotary scaling turns keys by an angle that depends on the length of the whole prompt, so
/// prompts of other lengths do not share their beginning.
#[test]
fn prompts_whose_keys_depend_on_their_length_share_nothing() {
    let mut config = tiny::config();
    config.decoder = DecoderConfig {
        max_position_embeddings: 40,
        rope_scaling: Some(RopeScaling {
            kind: RopeScalingKind::Dynamic,
            factor: 2.0,
        }),
        ..config.decoder
    };
    let assistant = assistant_with(&config);
    let requests = ["", "or bad "].map(|question| request("gray.png", question, true));
    let mut memories = [PromptCache::new(), PromptCache::new()];
    for _ in 0..2 {
        let logits = assistant.word_logits_each(&mut memories, &requests, &mut || true);
        for (logits, request) in logits.into_iter().zip(&requests) {
            let alone = assistant_with(&config).word_logits(request).unwrap();
            assert_same(&logits.unwrap(), &alone, "with dynamic scaling");
        }
    }
}

#[test]
fn scores_of_several_pictures_are_those_of_each_alone() {
    let assistant = assistant();
    let pictures = NAMES.map(|name| ScoreSubject::Picture(picture(name)));
    let clip = ScoreSubject::Clip(vec![picture("gray.png"), picture("rgba.png")]);
    let subjects = [&pictures[..3], &[clip], &pictures[3..]].concat();
    let anchors = [
        "gray.png",
        "rgba.png",
        "palette_trns.png",
        "wide_rgb.png",
        "square_444.jpg",
    ];
    let anchors = anchors.map(picture);
    for rule in [
        Rule::QAlign,
        Rule::Deqa,
        Rule::QInstruct,
        Rule::Compare2Score,
    ] {
        let scoring = Scoring {
            objective: Objective::Normal,
            ..Scoring::new(rule)
        };
        let scorer = |assistant| {
            let scorer = Scorer::new(assistant, scoring.clone()).unwrap();
            match rule {
                Rule::Compare2Score => scorer.with_anchors(&anchors).unwrap(),
                _ => scorer,
            }
        };
        let fresh = self::assistant();
        let mut together = scorer(&assistant);
        for group in [&subjects[..2], &subjects[2..], &subjects[1..3]] {
            let scores = together.score_each(group, &mut || true);
            assert_eq!(scores.len(), group.len());
            for (score, subject) in scores.into_iter().zip(group) {
                let score = score.unwrap();
                let alone = scorer(&fresh).score(subject).unwrap();
                assert_eq!(score.score.to_bits(), alone.score.to_bits(), "{rule}");
                assert_eq!(score.logits, alone.logits, "{rule}");
                assert_eq!(score.preferences, alone.preferences, "{rule}");
            }
        }
    }
}
