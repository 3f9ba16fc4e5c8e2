//! The promise of docs/numerics.md: the same request gives the same bits. Every logit of a request
//! equals that of any other way to compute it: a prompt cut anywhere, answers together or one by one,
//! a prefix that was there, any number of threads, others at the same time or in the same pass; on every
//! instruction set and in every format, with rotated columns and without.

use crate::{files, machine, tiny};
use owl2::gguf::DType;
use owl2::kernels::Isa;
use owl2::model::Model;
use owl2::model::kv_cache::CacheType;
use owl2::ops::RowRole;
use owl2::session::{Input, Sequence, SequencePart, Session};
use owl2::workspace::Workspace;

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
/// that `is_wanted` takes, and with two types of cache each. Under emulation, which is slow, it is one
/// type, another for the next format, since attention knows nothing of how weights are stored; and
/// the schedules on three threads alone.
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
                let n_skipped = usize::from(machine::is_emulated());
                for model in models.iter().skip(n_skipped) {
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
    let formats = [(DType::Q8_0, false), (DType::Q4_K, true)];
    for (dtype, is_rotated) in fewer_if_emulated(&formats) {
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

/// What does not differ by format need not be seen in several where it takes long: other tests have all
/// formats there, too.
fn fewer_if_emulated(formats: &[(DType, bool)]) -> impl Iterator<Item = (DType, bool)> {
    let n = if machine::is_emulated() {
        1
    } else {
        formats.len()
    };
    formats[..n].iter().copied()
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

/// Every format, and rotated where that is possible.
fn formats() -> impl Iterator<Item = (DType, bool)> {
    let ways = |dtype: DType| [(dtype, false), (dtype, true)];
    let all = DType::ALL.into_iter().flat_map(ways);
    all.filter(|(dtype, is_rotated)| !(*is_rotated && dtype.is_float()))
}

/// A request that is computed beside others.
struct Running<'r> {
    request: &'r Request,
    sequence: Sequence,
    /// Positions of the prompt, then tokens of the answer, that were computed.
    n_prompt: usize,
    n_answer: usize,
    logits: Vec<Vec<f32>>,
}

/// A request's share of a pass: which positions of its prompt, or which tokens of its answer.
struct Share<'r> {
    inputs: Vec<Input<'r>>,
    n_logits: usize,
}

impl<'r> Running<'r> {
    fn new(request: &'r Request, model: &Model, cache_type: CacheType) -> Self {
        Running {
            request,
            sequence: Sequence::with_cache(model, MAX_PROMPT + N_ANSWER, cache_type),
            n_prompt: 0,
            n_answer: 0,
            logits: Vec::new(),
        }
    }

    fn n_left(&self, role: RowRole) -> usize {
        match role {
            RowRole::Prompt => self.request.n_prompt() - self.n_prompt,
            RowRole::Answer if self.n_left(RowRole::Prompt) > 0 => 0,
            RowRole::Answer => self.request.answer.len() - self.n_answer,
        }
    }

    /// The next `n` positions.
    fn share(&self, role: RowRole, n: usize) -> Share<'r> {
        let request = self.request;
        match role {
            RowRole::Prompt => Share {
                inputs: request.inputs(self.n_prompt, self.n_prompt + n),
                // Those in the middle of a prompt are of no use, but may be asked for.
                n_logits: usize::from(n == self.n_left(role)),
            },
            RowRole::Answer => Share {
                inputs: vec![Input::Tokens(&request.answer[self.n_answer..][..n])],
                n_logits: n,
            },
        }
    }

    fn note(&mut self, role: RowRole, n: usize) {
        match role {
            RowRole::Prompt => self.n_prompt += n,
            RowRole::Answer => self.n_answer += n,
        }
    }
}

/// Computes the next positions of some of the requests in one call: `n` says how many of each.
fn compute_together(
    workspace: &mut Workspace,
    running: &mut [Running],
    role: RowRole,
    mut n: impl FnMut(&Running) -> usize,
) {
    let lengths: Vec<usize> = running.iter().map(&mut n).collect();
    let pairs = running.iter().zip(&lengths);
    let shares: Vec<Share> = pairs.map(|(running, &n)| running.share(role, n)).collect();
    let parts = running.iter_mut().zip(&shares);
    let parts = parts.map(|(running, share)| {
        SequencePart::new(&mut running.sequence, &share.inputs, share.n_logits)
    });
    let mut parts: Vec<SequencePart> = (parts.zip(&lengths))
        .filter_map(|(part, &n)| (n > 0).then_some(part))
        .collect();
    workspace.compute(role, &mut parts).unwrap();
    let mut row = 0;
    for ((running, share), n) in running.iter_mut().zip(&shares).zip(lengths) {
        if n == 0 {
            continue;
        }
        for _ in 0..share.n_logits {
            running.logits.push(workspace.logits(row).to_vec());
            row += 1;
        }
        running.note(role, n);
    }
}

/// Computes all requests by passes with parts of several, cut anywhere.
fn together_at_random(
    requests: &[Request],
    model: &Model,
    cache_type: CacheType,
    random: &mut Random,
) -> Vec<Vec<Vec<f32>>> {
    let mut workspace = Workspace::new(model);
    let running = requests.iter();
    let running = running.map(|request| Running::new(request, model, cache_type));
    let mut running: Vec<Running> = running.collect();
    loop {
        let is_left = |role| move |running: &Running| running.n_left(role) > 0;
        let roles = [RowRole::Prompt, RowRole::Answer];
        let roles: Vec<RowRole> = roles
            .into_iter()
            .filter(|&role| running.iter().any(is_left(role)))
            .collect();
        if roles.is_empty() {
            break;
        }
        let role = roles[random.next() as usize % roles.len()];
        let most = match role {
            RowRole::Prompt => 70,
            RowRole::Answer => 5,
        };
        // Nobody may be chosen, and then all are.
        let is_chosen: Vec<bool> = running
            .iter()
            .map(|_| !random.next().is_multiple_of(3))
            .collect();
        let mut is_chosen = is_chosen.into_iter();
        let is_everybody = random.next().is_multiple_of(3);
        compute_together(&mut workspace, &mut running, role, |running| {
            let n_left = running.n_left(role);
            match is_chosen.next().unwrap() || is_everybody || roles.len() == 1 {
                true if n_left > 0 => 1 + random.next() as usize % n_left.min(most),
                _ => 0,
            }
        });
        // A prompt is forgotten in part, or taken over from where it was computed before.
        let index = random.next() as usize % running.len();
        let one = &mut running[index];
        if one.n_answer == 0 && one.n_prompt > 1 && one.n_left(RowRole::Prompt) > 0 {
            let n_kept = 1 + random.next() as usize % (one.n_prompt - 1);
            if random.next().is_multiple_of(2) {
                one.sequence.truncate(n_kept);
            } else {
                // A smaller one where the request still fits.
                let needed = one.request.n_prompt() + N_ANSWER;
                let capacity = one.sequence.capacity() - random.next() as usize % 2;
                let capacity = capacity.max(needed);
                let mut copy = Sequence::with_cache(model, capacity, cache_type);
                copy.copy_prefix(&one.sequence, n_kept);
                one.sequence = copy;
            }
            one.n_prompt = n_kept;
        }
    }
    running.into_iter().map(|running| running.logits).collect()
}

#[test]
fn requests_in_one_pass_have_the_bits_of_each_alone() {
    let mut random = Random(13);
    for isa in machine::instruction_sets() {
        for (i, (dtype, is_rotated)) in formats().enumerate() {
            let cache_type = [CacheType::F32, CacheType::F16, CacheType::Q8_0][i % 3];
            let model = model(dtype, is_rotated, 1 + i % 3, isa);
            let requests: Vec<_> = (0..4)
                .map(|_| Request::random(&model, &mut random))
                .collect();
            let seed = random.0;
            let got = together_at_random(&requests, &model, cache_type, &mut random);
            for (request, got) in requests.iter().zip(&got) {
                assert!(
                    *got == request.plainly(&model, cache_type),
                    "{isa} {dtype} {cache_type} rotated: {is_rotated}, seed {seed}"
                );
            }
        }
    }
}

/// Saved states may be used with either.
#[test]
fn amx_has_the_bits_of_avx512() {
    let levels = Isa::available();
    let level = |name| levels.iter().copied().find(|isa| isa.name() == name);
    let (Some(amx), Some(avx512)) = (level("amx"), level("avx512")) else {
        println!("this processor has no AMX");
        return;
    };
    let mut random = Random(15);
    for (dtype, is_rotated) in formats() {
        let models = [amx, avx512].map(|isa| model(dtype, is_rotated, 2, isa));
        let request = Request::random(&models[0], &mut random);
        let [with, without] = models.map(|model| request.plainly(&model, CacheType::F16));
        assert!(with == without, "{dtype} rotated: {is_rotated}");
    }
}

/// Prompts of more rows than a pass has, then 1 to 32 answers side by side.
#[test]
fn many_requests_together_have_the_bits_of_each_alone() {
    let mut random = Random(14);
    let formats = [
        (DType::Q4_0, false),
        (DType::Q4_K, true),
        (DType::F16, false),
    ];
    for (dtype, is_rotated) in fewer_if_emulated(&formats) {
        let model = model(dtype, is_rotated, 2, Isa::detect().unwrap());
        let requests: Vec<_> = (0..32)
            .map(|_| Request::random(&model, &mut random))
            .collect();
        let running = requests.iter();
        let running = running.map(|request| Running::new(request, &model, CacheType::F16));
        let mut running: Vec<Running> = running.collect();
        let mut workspace = Workspace::new(&model);
        compute_together(&mut workspace, &mut running, RowRole::Prompt, |running| {
            running.n_left(RowRole::Prompt)
        });
        let n_positions: usize = running.iter().map(|running| running.sequence.len()).sum();
        assert!(n_positions > 2 * workspace.batch());
        for n_together in (1..=32).rev().step_by(4) {
            let mut n_before = 0;
            compute_together(&mut workspace, &mut running, RowRole::Answer, |_| {
                n_before += 1;
                usize::from(n_before <= n_together)
            });
        }
        for running in running {
            let wanted = running.request.plainly(&model, CacheType::F16);
            let n = running.logits.len();
            assert!(running.logits == wanted[..n], "{dtype} after {n} tokens");
        }
    }
}
