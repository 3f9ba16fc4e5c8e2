//! The promise of docs/numerics.md: the same request gives the same bits. Every logit of a request
//! equals that of any other way to compute it: a prompt cut anywhere, answers together or one by one,
//! a prefix that was there, any number of threads, others at the same time; on every instruction set
//! and in every format, with rotated columns and without.

use crate::{files, machine, tiny};
use owl2::gguf::DType;
use owl2::kernels::Isa;
use owl2::model::Model;
use owl2::model::kv_cache::CacheType;
use owl2::session::{Input, Session};

use tiny::Random;

/// Names a number that other schedules are drawn from. What fails prints it.
const SEED: &str = "OWL2_TEST_SEED";
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

fn model(dtype: DType, is_rotated: bool, n_threads: usize, isa: Isa) -> Model {
    let file = files::open(dtype, is_rotated);
    Model::new(&file, tiny::compute_on(n_threads, isa)).unwrap()
}

/// Where the random numbers of a test begin: `OWL2_TEST_SEED`, or `otherwise`.
fn seed(otherwise: u64) -> u64 {
    match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("OWL2_TEST_SEED is a number"),
        Err(_) => otherwise,
    }
}

/// Compares schedules on one thread and on three with what is computed plainly, for files of all formats
/// that `is_wanted` takes, and with two types of cache each. Under emulation it is one type, another
/// for the next format: attention knows nothing of how weights are stored.
fn check(is_rotated: bool, is_wanted: impl Fn(DType) -> bool) {
    let seed = seed(11);
    let mut random = Random(seed);
    for isa in machine::instruction_sets() {
        let dtypes = DType::ALL.into_iter().filter(|&dtype| is_wanted(dtype));
        for (i, dtype) in dtypes.enumerate() {
            let models = [1, 3].map(|n| model(dtype, is_rotated, n, isa));
            let cache_types = [CacheType::F32, CacheType::F16, CacheType::Q8_0];
            let n_types = if machine::is_emulated() { 1 } else { 2 };
            for cache_type in cache_types.into_iter().cycle().skip(i).take(n_types) {
                let request = Request::random(&models[0], &mut random);
                let wanted = request.plainly(&models[0], cache_type);
                for model in &models {
                    let got = request.at_random(model, cache_type, &mut random);
                    for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                        assert!(
                            got == wanted,
                            "{isa} {dtype} {cache_type} rotated: {is_rotated}, {} threads: the logits \
                             after {i} tokens of the answer differ ({SEED}={seed})",
                            model.compute().threads.count()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_same_request_has_the_same_bits_with_float_weights() {
    check(false, DType::is_float);
}

#[test]
fn the_same_request_has_the_same_bits_with_quantized_weights() {
    check(false, |dtype| !dtype.is_float());
}

#[test]
fn the_same_request_has_the_same_bits_with_rotated_weights() {
    check(true, |dtype| !dtype.is_float());
}

#[test]
fn requests_at_once_have_the_bits_of_each_alone() {
    let seed = seed(12);
    let mut random = Random(seed);
    for (dtype, is_rotated) in [(DType::Q8_0, false), (DType::Q4_K, true)] {
        let model = model(dtype, is_rotated, 2, Isa::detect().unwrap());
        let requests: Vec<_> = (0..6)
            .map(|_| Request::random(&model, &mut random))
            .collect();
        let plainly = |request: &Request| request.plainly(&model, CacheType::F16);
        let alone: Vec<_> = requests.iter().map(plainly).collect();
        std::thread::scope(|scope| {
            let running: Vec<_> = (requests.iter().enumerate())
                .map(|(i, request)| {
                    let model = &model;
                    let mut random = Random(seed ^ i as u64);
                    let schedule = move || request.at_random(model, CacheType::F16, &mut random);
                    scope.spawn(schedule)
                })
                .collect();
            for (running, alone) in running.into_iter().zip(&alone) {
                assert!(running.join().unwrap() == *alone, "{dtype} ({SEED}={seed})");
            }
        });
    }
}

/// A picture's rows do not depend on the threads that compute them.
#[test]
fn a_picture_has_the_same_bits_on_any_number_of_threads() {
    for isa in machine::instruction_sets() {
        for dtype in DType::ALL {
            for is_rotated in [false, true] {
                if is_rotated && dtype.is_float() {
                    continue;
                }
                let rows = |n| {
                    let model = model(dtype, is_rotated, n, isa);
                    model.encode_image(&tiny::pixels(3)).unwrap()
                };
                assert!(rows(1) == rows(3), "{isa} {dtype} rotated: {is_rotated}");
            }
        }
    }
}
