//! The promise of docs/numerics.md: the same request gives the same bits. Every logit of a request
//! equals that of any other way to compute it: a prompt cut anywhere, answers together or one by one,
//! a prefix that was there, any number of threads, others at the same time; on every instruction set
//! and in every format, with rotated columns and without.

use crate::{machine, tiny};
use owl2::gguf::DType;
use owl2::kernels::Isa;
use owl2::model::Model;
use owl2::model::kv_cache::CacheType;
use owl2::model::layout;
use owl2::quant::Rotation;
use owl2::session::{Input, Session};

use tiny::Random;

/// The longest prompt, in positions.
const MAX_PROMPT: usize = 110;
/// Tokens of an answer.
const N_ANSWER: usize = 20;

/// A prompt with a picture in it, and the answer that is given to it.
struct Request {
    before: Vec<u32>,
    picture: Vec<f32>,
    after: Vec<u32>,
    answer: Vec<u32>,
}

impl Request {
    fn random(model: &Model, random: &mut Random) -> Self {
        let mut ids = |most: usize| {
            let n = 1 + random.next() as usize % most;
            tiny::ids(n, random.next())
        };
        let (before, after) = (ids(20), ids(MAX_PROMPT - 20 - tiny::PICTURE_POSITIONS));
        Request {
            before,
            picture: model.encode_image(&tiny::pixels(random.next())).unwrap(),
            after,
            answer: tiny::ids(N_ANSWER, random.next()),
        }
    }

    fn n_prompt(&self) -> usize {
        self.before.len() + tiny::PICTURE_POSITIONS + self.after.len()
    }

    /// What stands at positions `from..to` of the prompt.
    fn inputs(&self, from: usize, to: usize) -> Vec<Input<'_>> {
        let (n_before, width) = (
            self.before.len(),
            self.picture.len() / tiny::PICTURE_POSITIONS,
        );
        let part = |start: usize, len: usize| {
            let clamp = |at: usize| at.clamp(start, start + len) - start;
            clamp(from)..clamp(to)
        };
        let rows = part(n_before, tiny::PICTURE_POSITIONS);
        let inputs = [
            Input::Tokens(&self.before[part(0, n_before)]),
            Input::Image(&self.picture[rows.start * width..rows.end * width]),
            Input::Tokens(&self.after[part(n_before + tiny::PICTURE_POSITIONS, self.after.len())]),
        ];
        let is_there = |input: &Input| match input {
            Input::Tokens(ids) => !ids.is_empty(),
            Input::Image(rows) => !rows.is_empty(),
        };
        inputs.into_iter().filter(is_there).collect()
    }

    /// The logits after the prompt and after each token of the answer: in one pass, then one by one.
    fn plainly(&self, model: &Model, cache_type: CacheType) -> Vec<Vec<f32>> {
        let mut session = Session::with_cache(model, MAX_PROMPT + N_ANSWER, cache_type);
        session.extend(&self.inputs(0, self.n_prompt())).unwrap();
        let mut logits = vec![session.logits().to_vec()];
        for &id in &self.answer {
            session.step(id).unwrap();
            logits.push(session.logits().to_vec());
        }
        logits
    }

    /// The same logits, by a random schedule.
    fn at_random(
        &self,
        model: &Model,
        cache_type: CacheType,
        random: &mut Random,
    ) -> Vec<Vec<f32>> {
        let mut session = Session::with_cache(model, MAX_PROMPT + N_ANSWER, cache_type);
        let n_prompt = self.n_prompt();
        let mut n = 0;
        while n < n_prompt {
            let end = n + 1 + random.next() as usize % (n_prompt - n).min(70);
            session.extend(&self.inputs(n, end)).unwrap();
            n = end;
            match random.next() % 4 {
                // What follows is forgotten again, be it of an answer or of another prompt.
                0 if n < n_prompt => {
                    session.step(7).unwrap();
                    session.truncate(n);
                }
                1 if n_prompt - n > 9 => {
                    session
                        .extend(&[Input::Tokens(&tiny::ids(9, n as u64))])
                        .unwrap();
                    session.truncate(n);
                }
                // A prefix is computed anew.
                2 if n < n_prompt => {
                    n -= random.next() as usize % n.min(40);
                    session.truncate(n);
                }
                _ => {}
            }
        }
        let mut logits = vec![session.logits().to_vec()];
        let mut answer = &self.answer[..];
        while !answer.is_empty() {
            let n_rows = 1 + random.next() as usize % answer.len();
            session.look_ahead(&answer[..n_rows]).unwrap();
            logits.push(session.logits().to_vec());
            for _ in 1..n_rows {
                session.next_logits();
                logits.push(session.logits().to_vec());
            }
            answer = &answer[n_rows..];
        }
        logits
    }
}

fn model(dtype: DType, rotation: Option<&Rotation>, n_threads: usize, isa: Isa) -> Model {
    let config = tiny::quantizable_config();
    let metadata = tiny::metadata(&config);
    let file = tiny::file_in(&metadata, &layout::tensors(&config), 5, dtype, rotation);
    Model::new(&tiny::open(&file), tiny::compute_on(n_threads, isa)).unwrap()
}

/// Every format with rotated columns and without; floats once.
fn files() -> Vec<(DType, Option<Rotation>)> {
    let mut files = Vec::new();
    for dtype in DType::ALL {
        files.push((dtype, None));
        if dtype.block_len() > 1 {
            files.push((dtype, Some(Rotation::default())));
        }
    }
    files
}

#[test]
fn the_same_request_has_the_same_bits_however_it_is_computed() {
    let mut random = Random(11);
    for isa in machine::instruction_sets() {
        for (i, (dtype, rotation)) in files().into_iter().enumerate() {
            let models = [1, 3].map(|n| model(dtype, rotation.as_ref(), n, isa));
            let cache_types = [CacheType::F32, CacheType::F16, CacheType::Q8_0];
            for cache_type in [cache_types[i % 3], cache_types[(i + 1) % 3]] {
                let request = Request::random(&models[0], &mut random);
                let wanted = request.plainly(&models[0], cache_type);
                for model in &models {
                    let seed = random.0;
                    let got = request.at_random(model, cache_type, &mut random);
                    for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                        assert!(
                            got == wanted,
                            "{isa} {dtype} {cache_type} rotated: {}, {} threads, seed {seed}: the \
                             logits after {i} tokens of the answer differ",
                            rotation.is_some(),
                            model.compute().threads.count()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn requests_at_once_have_the_bits_of_each_alone() {
    let mut random = Random(12);
    for (dtype, rotation) in [
        (DType::Q8_0, None),
        (DType::Q4_K, Some(Rotation::default())),
    ] {
        let model = model(dtype, rotation.as_ref(), 2, Isa::detect().unwrap());
        let requests: Vec<_> = (0..6)
            .map(|_| Request::random(&model, &mut random))
            .collect();
        let plainly = |request: &Request| request.plainly(&model, CacheType::F16);
        let alone: Vec<_> = requests.iter().map(plainly).collect();
        std::thread::scope(|scope| {
            let running: Vec<_> = (requests.iter().enumerate())
                .map(|(i, request)| {
                    let model = &model;
                    let schedule =
                        move || request.at_random(model, CacheType::F16, &mut Random(i as u64));
                    scope.spawn(schedule)
                })
                .collect();
            for (running, alone) in running.into_iter().zip(&alone) {
                assert!(running.join().unwrap() == *alone, "{dtype}");
            }
        });
    }
}

/// A picture's rows do not depend on the threads that compute them.
#[test]
fn a_picture_has_the_same_bits_on_any_number_of_threads() {
    for isa in machine::instruction_sets() {
        for (dtype, rotation) in files() {
            let rows = |n| {
                let model = model(dtype, rotation.as_ref(), n, isa);
                model.encode_image(&tiny::pixels(3)).unwrap()
            };
            assert!(rows(1) == rows(3), "{isa} {dtype}");
        }
    }
}
