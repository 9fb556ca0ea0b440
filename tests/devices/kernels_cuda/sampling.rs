//! From logits to tokens and log probabilities: random mixes of rows against the CPU's sampler; law 1.

use super::host::{Memory, launch, param, shape};
use super::{Random, begin, same_bits};
use astrai::sampling::math::Portable;
use astrai::sampling::{AllowedTokens, LogitAdjustments, NO_FINITE_LOGIT, Sampler, SamplingParams, mask_words};

/// The mirror of `SamplingRequest` in kernels/draw.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct SamplingRequest {
    seed: u64,
    position: u64,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: i32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    logprobs: i32,
    first_adjustment: i32,
    adjustments: i32,
    kind: i32,
    given: u32,
    mask: u32,
    xtc_threshold: f32,
}

const IDLE: i32 = 0;
const SAMPLE: i32 = 1;
const GIVEN: i32 = 2;

/// The mirror of `LogitAdjustment`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct LogitAdjustment {
    token: u32,
    in_prompt: u32,
    outputs: u32,
    bias: f32,
    raw: f32,
}

/// The mirror of `Sampling`.
#[repr(C)]
struct Args {
    logits: *mut f32,
    stride: i64,
    vocab: i32,
    limit: i32,
    holes: *const u32,
    masks: *const u32,
    draws: *const SamplingRequest,
    adjustments: *mut LogitAdjustment,
    keys: *mut u64,
    values: *mut f32,
    ids: *mut u32,
    count: i32,
    tops: i32,
    tokens: *mut u32,
    logprobs: *mut f32,
    top_ids: *mut u32,
    top_logprobs: *mut f32,
}

const CHUNK: usize = 4096;
const BEST_MAX: usize = 64;
const TOPS: usize = 256;
/// What nothing was written to.
const UNTOUCHED: u32 = u32::MAX - 1;

#[test]
fn the_largest_logits_are_found() {
    if !begin() {
        return;
    }
    let mut random = Random(1);
    for (stride, limit, count) in
        [(1usize, 1usize, 1), (300, 300, 5), (300, 290, 64), (9000, 8999, 64), (4097, 4097, 1)]
    {
        let mut logits = random.vec(3 * stride);
        for (i, bad) in [(7, f32::NAN), (11, f32::INFINITY), (13, f32::NEG_INFINITY), (17, 0.9), (19, 0.9), (23, -0.0)]
        {
            if let Some(x) = logits.get_mut(stride + i) {
                *x = bad;
            }
        }
        // The last row has nothing finite.
        logits[2 * stride..].fill(f32::NAN);
        let chunks = limit.div_ceil(CHUNK);
        let (x, keys) = (Memory::of(&logits), Memory::new(3 * chunks * count * 8));
        let (values, ids) = (Memory::new(3 * count * 4), Memory::new(3 * count * 4));
        let args = Args {
            logits: x.at(),
            stride: stride as i64,
            vocab: stride as i32,
            limit: limit as i32,
            holes: std::ptr::null(),
            masks: std::ptr::null(),
            draws: std::ptr::null(),
            adjustments: std::ptr::null_mut(),
            keys: keys.at(),
            values: values.at(),
            ids: ids.at(),
            count: count as i32,
            tops: 0,
            tokens: std::ptr::null_mut(),
            logprobs: std::ptr::null_mut(),
            top_ids: std::ptr::null_mut(),
            top_logprobs: std::ptr::null_mut(),
        };
        launch("best_in_chunks", shape([chunks, 3, 1], 256, 0), &[param(&args)]);
        launch("best_of_chunks", shape([3, 1, 1], 256, 0), &[param(&args)]);
        for row in 0..3 {
            let row_logits = &logits[row * stride..row * stride + limit];
            let mut all: Vec<(f32, u32)> = row_logits
                .iter()
                .enumerate()
                .filter(|(_, x)| x.is_finite())
                .map(|(i, &x)| (x + 0.0, i as u32))
                .collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            all.resize(all.len().max(count), (f32::NEG_INFINITY, u32::MAX));
            let got = values.read::<f32>().into_iter().zip(ids.read::<u32>());
            assert_eq!(got.skip(row * count).take(count).collect::<Vec<_>>(), all[..count]);
        }
    }
}

/// What a row of a step asks for, on both sides.
#[derive(Clone)]
struct Request {
    kind: i32,
    given: u32,
    logits: Vec<f32>,
    params: SamplingParams,
    prompt: Vec<u32>,
    output: Vec<u32>,
    position: u64,
    /// Bits of the tokens that may be sampled.
    mask: Option<Vec<u32>>,
}

impl Request {
    /// As the device is told.
    fn draw(&self, adjustments: &mut Vec<LogitAdjustment>) -> SamplingRequest {
        let p = &self.params;
        let first = adjustments.len();
        if self.kind == SAMPLE {
            let mut tokens: Vec<u32> = self.prompt.iter().chain(&self.output).copied().collect();
            if !p.uses_counts() {
                tokens.clear();
            }
            tokens.extend(p.bias.iter().map(|b| b.0));
            tokens.sort_unstable();
            tokens.dedup();
            for token in tokens {
                let of = |list: &[u32]| list.iter().filter(|&&t| t == token).count() as u32;
                let counted = |count: u32| if p.uses_counts() { count } else { 0 };
                let biases: Vec<f32> = p.bias.iter().filter(|b| b.0 == token).map(|b| b.1).collect();
                for i in 0..biases.len().max(1) {
                    let (in_prompt, outputs) = if i == 0 { (of(&self.prompt), of(&self.output)) } else { (0, 0) };
                    adjustments.push(LogitAdjustment {
                        token,
                        in_prompt: counted(in_prompt).min(1),
                        outputs: counted(outputs),
                        bias: biases.get(i).copied().unwrap_or(0.0),
                        raw: f32::NAN,
                    });
                }
            }
        }
        SamplingRequest {
            seed: p.seed,
            position: self.position,
            temperature: p.temperature,
            top_p: p.top_p,
            min_p: p.min_p,
            top_k: p.top_k as i32,
            repetition_penalty: p.repetition_penalty,
            presence_penalty: p.presence_penalty,
            frequency_penalty: p.frequency_penalty,
            logprobs: p.logprobs.map_or(-1, |n| n as i32),
            first_adjustment: first as i32,
            adjustments: (adjustments.len() - first) as i32,
            kind: self.kind,
            given: self.given,
            mask: 0,
            xtc_threshold: if p.xtc_probability == 1.0 && p.xtc_threshold <= 0.5 { p.xtc_threshold } else { 0.0 },
        }
    }
}

/// What a step gives for a row: the bits of everything that is written.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    token: u32,
    logprob: u32,
    top_ids: Vec<u32>,
    top_logprobs: Vec<u32>,
}

/// The five launches; the logits are checked to be as before.
fn step(requests: &[Request], allowed: &AllowedTokens) -> Vec<Outcome> {
    let (rows, vocab, limit) = (requests.len(), requests[0].logits.len(), allowed.end());
    let stride = vocab + 3;
    let mut logits = vec![f32::NAN; rows * stride];
    for (row, request) in logits.chunks_mut(stride).zip(requests) {
        row[..vocab].copy_from_slice(&request.logits);
    }
    let mut adjustments = Vec::new();
    let mut masks: Vec<u32> = Vec::new();
    let draws: Vec<SamplingRequest> = requests
        .iter()
        .map(|request| {
            let mut draw = request.draw(&mut adjustments);
            if let Some(mask) = &request.mask {
                masks.extend(mask);
                draw.mask = (masks.len() / mask.len()) as u32;
            }
            draw
        })
        .collect();
    let mut bits = vec![0u32; limit.div_ceil(32)];
    allowed.holes().iter().for_each(|&hole| bits[hole as usize / 32] |= 1 << (hole % 32));
    let chunks = limit.div_ceil(CHUNK);
    let (x, draws, adjustments, holes) =
        (Memory::of(&logits), Memory::of(&draws), Memory::of(&adjustments), Memory::of(&bits));
    let masks = Memory::of(&masks);
    // Less room for the search where a row is alone, which its token does not show.
    let count = if rows == 1 { 8 } else { BEST_MAX };
    let keys = Memory::new(rows * chunks * count * 8);
    let [values, ids] = [0, 1].map(|_| Memory::new(rows * count * 4));
    let [tokens, logprobs] = [0, 1].map(|_| Memory::of(&vec![UNTOUCHED; rows]));
    let [top_ids, top_logprobs] = [0, 1].map(|_| Memory::of(&vec![UNTOUCHED; rows * TOPS]));
    let args = Args {
        logits: x.at(),
        stride: stride as i64,
        vocab: vocab as i32,
        limit: limit as i32,
        holes: if allowed.holes().is_empty() { std::ptr::null() } else { holes.at() },
        masks: masks.at(),
        draws: draws.at(),
        adjustments: adjustments.at(),
        keys: keys.at(),
        values: values.at(),
        ids: ids.at(),
        count: count as i32,
        tops: TOPS as i32,
        tokens: tokens.at(),
        logprobs: logprobs.at(),
        top_ids: top_ids.at(),
        top_logprobs: top_logprobs.at(),
    };
    launch("adjust_logits", shape([rows, 1, 1], 256, 0), &[param(&args)]);
    launch("best_in_chunks", shape([chunks, rows, 1], 256, 0), &[param(&args)]);
    launch("best_of_chunks", shape([rows, 1, 1], 256, 0), &[param(&args)]);
    launch("sample_rows", shape([rows, 1, 1], 512, 0), &[param(&args)]);
    launch("logprob_rows", shape([rows, 1, 1], 512, 0), &[param(&args)]);
    same_bits("raw logits", &x.read(), &logits);
    let (tokens, logprobs) = (tokens.read::<u32>(), logprobs.read::<u32>());
    let (top_ids, top_logprobs) = (top_ids.read::<u32>(), top_logprobs.read::<u32>());
    let written = |all: &[u32], row: usize| {
        all[row * TOPS..(row + 1) * TOPS].iter().copied().filter(|&bits| bits != UNTOUCHED).collect()
    };
    (0..rows)
        .map(|row| Outcome {
            token: tokens[row],
            logprob: logprobs[row],
            top_ids: written(&top_ids, row),
            top_logprobs: written(&top_logprobs, row),
        })
        .collect()
}

/// Log probabilities are sums in another order, rounded once.
/// Where nearly all probability is one token's, what is left of it are the last bits of sums in double precision, in two orders.
#[track_caller]
fn same_logprob(what: &str, bits: u32, expected: f32) {
    let got = f32::from_bits(bits);
    assert!(got == expected || (got - expected).abs() <= expected.abs() * 2e-7 + 1e-14, "{what}: {got} for {expected}");
}

/// Against the CPU's sampler.
fn check(what: &str, request: &Request, allowed: &AllowedTokens, got: &Outcome) {
    let mut sampler = Sampler::new(request.logits.len()).unwrap();
    if request.kind == IDLE {
        let nothing = Outcome { token: UNTOUCHED, logprob: UNTOUCHED, top_ids: vec![], top_logprobs: vec![] };
        assert_eq!(*got, nothing, "{what}");
        return;
    }
    let Request { logits, params, position, mask: own_mask, .. } = request;
    let count = params.logprobs.unwrap_or(0) as usize;
    let (mut ids, mut logprobs) = (vec![0; count], vec![0.0; count]);
    let mut sample = |params: &SamplingParams, allowed: &AllowedTokens, prompt: &[u32], output: &[u32]| {
        let mut adjustments = LogitAdjustments::new(params, prompt).unwrap();
        if params.uses_counts() {
            output.iter().for_each(|&token| adjustments.push(token).unwrap());
        }
        let entries = adjustments.entries();
        let request = params.request(*position, entries.len());
        let sampled = sampler.sample(
            &Portable,
            logits,
            allowed,
            &request,
            (entries, own_mask.as_deref()),
            (&mut ids, &mut logprobs),
        );
        (sampled.token < NO_FINITE_LOGIT).then_some(sampled)
    };
    if request.kind == GIVEN {
        assert_eq!(got.token, UNTOUCHED, "{what}");
        // What stands beside the token does not depend on how it was chosen.
        let greedy = SamplingParams { temperature: 0.0, bias: vec![], ..params.clone() };
        let every = AllowedTokens::all(logits.len());
        let chosen = sample(&greedy, &every, &[], &[]);
        if params.logprobs.is_some() {
            same_logprob(
                what,
                got.logprob,
                Sampler::new(logits.len()).unwrap().logprob(&Portable, logits, request.given),
            );
        }
        if chosen.is_none() {
            return;
        }
    } else {
        params.validate(logits.len()).unwrap();
        match sample(params, allowed, &request.prompt, &request.output) {
            None => {
                assert_eq!(got.token, u32::MAX, "{what}");
                return;
            }
            Some(sampled) => {
                assert_eq!(got.token, sampled.token, "{what}");
                if params.logprobs.is_some() {
                    same_logprob(what, got.logprob, sampled.logprob);
                }
            }
        }
    }
    if params.logprobs.is_none() {
        assert_eq!(got.logprob, UNTOUCHED, "{what}");
    }
    assert_eq!(got.top_ids, ids, "{what}");
    for (&bits, &expected) in got.top_logprobs.iter().zip(&logprobs) {
        same_logprob(what, bits, expected);
    }
}

fn request(random: &mut Random, vocab: usize) -> Request {
    let spread = random.pick(&[0.0, 0.5, 3.0, 12.0, 60.0]);
    let mut logits: Vec<f32> = (0..vocab).map(|_| (random.next() + random.next() + random.next()) * spread).collect();
    if random.below(3) == 0 {
        // Ties.
        logits.iter_mut().for_each(|x| *x = (*x * 2.0).round() / 2.0);
    }
    if random.below(3) == 0 {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            logits[random.below(vocab)] = bad;
        }
    }
    if random.below(16) == 0 {
        logits.fill(f32::NAN);
    }
    let mut params = SamplingParams {
        temperature: random.pick(&[0.0, 0.3, 0.8, 1.0, 2.5]),
        top_k: random.pick(&[0, 0, 0, 1, 3, 40, 64, 65, 150, 100_000]),
        top_p: random.pick(&[1.0, 1.0, 1e-6, 0.5, 0.9, 0.999]),
        min_p: random.pick(&[0.0, 0.0, 0.05, 0.5, 1.0]),
        xtc_probability: random.pick(&[0.0, 0.0, 1.0]),
        xtc_threshold: random.pick(&[0.001, 0.1, 0.3, 0.6]),
        seed: u64::from(random.word()) << 32 | u64::from(random.word()),
        logprobs: random.pick(&[None, None, Some(0), Some(1), Some(20), Some(256)]).map(|n: u32| n.min(vocab as u32)),
        ..SamplingParams::default()
    };
    let (mut prompt, mut output) = (Vec::new(), Vec::new());
    if random.below(2) == 0 {
        params.repetition_penalty = random.pick(&[1.0, 1.3, 0.8]);
        params.presence_penalty = random.pick(&[0.0, 0.5, -0.5]);
        params.frequency_penalty = random.pick(&[0.0, 0.25, -0.1]);
        prompt.extend((0..30).map(|_| random.below(vocab) as u32));
        output.extend((0..300).map(|_| random.below(vocab) as u32));
    }
    for _ in 0..random.pick(&[0, 0, 3, 10]) {
        // Some of them twice, or of tokens that were seen.
        let token = random.below(vocab.min(2000)) as u32;
        params.bias.push((token, random.pick(&[2.5, -1.0, 0.3, f32::NEG_INFINITY, 3e38])));
    }
    let kind = random.pick(&[IDLE, SAMPLE, SAMPLE, SAMPLE, SAMPLE, SAMPLE, GIVEN]);
    let position = u64::from(random.word()) << 8;
    // Nearly all, a few, one word, none.
    let words = mask_words(vocab);
    let mask = match random.below(8) {
        0 => Some((0..words).map(|_| random.word() | random.word() | random.word()).collect()),
        1 => Some((0..words).map(|_| random.word() & random.word() & random.word() & random.word()).collect()),
        2 => Some((0..words).map(|word| if word == words / 2 { u32::MAX } else { 0 }).collect()),
        3 if random.below(4) == 0 => Some(vec![0; words]),
        _ => None,
    };
    let mask = mask.filter(|_| kind == SAMPLE);
    Request { kind, given: random.below(vocab + 1) as u32, logits, params, prompt, output, position, mask }
}

/// Also law 1: a row alone has the bits it has among others.
#[test]
fn mixed_rows_get_what_the_cpu_gives_them() {
    if !begin() {
        return;
    }
    let mut random = Random(2);
    for (vocab, rows, turns) in [(1, 8, 1), (63, 40, 2), (700, 20, 1), (4097, 12, 1), (33000, 4, 1)] {
        for turn in 0..turns {
            let allowed = match random.below(3) {
                0 => AllowedTokens::all(vocab),
                1 => AllowedTokens::from_ids(vocab, (0..vocab as u32).filter(|id| id % 5 != 1)).unwrap(),
                _ => AllowedTokens::from_ids(vocab, 0..(vocab - vocab / 7) as u32).unwrap(),
            };
            let requests: Vec<Request> = (0..rows).map(|_| request(&mut random, vocab)).collect();
            let outcomes = step(&requests, &allowed);
            for (row, (request, outcome)) in requests.iter().zip(&outcomes).enumerate() {
                let what = format!("vocabulary {vocab}, turn {turn}, row {row}, {:?}", request.params);
                check(&what, request, &allowed, outcome);
                if row % 9 == turn + 1 {
                    assert_eq!(step(std::slice::from_ref(request), &allowed)[0], *outcome, "alone: {what}");
                }
            }
        }
    }
}

fn plain(logits: Vec<f32>, params: SamplingParams) -> Request {
    Request { kind: SAMPLE, given: 0, logits, params, prompt: vec![], output: vec![], position: 5, mask: None }
}

/// Rows that are drawn from whole, at the borders of sets that ties and ids decide.
#[test]
fn ties_are_cut_by_id_and_nothing_left_gives_no_token() {
    if !begin() {
        return;
    }
    let allowed = AllowedTokens::all(100);
    let tokens = |params: SamplingParams| {
        let requests: Vec<Request> = (0..24)
            .map(|seed| plain(vec![1.0; 100], SamplingParams { temperature: 1.0, seed, ..params.clone() }))
            .collect();
        step(&requests, &allowed).iter().map(|outcome| outcome.token).max()
    };
    assert_eq!(tokens(SamplingParams { top_p: 0.0625, ..Default::default() }), Some(6));
    assert_eq!(tokens(SamplingParams { top_k: 80, top_p: 0.0625, ..Default::default() }), Some(4));
    assert!(tokens(SamplingParams { top_k: 70, ..Default::default() }).is_some_and(|most| most > 55 && most < 70));
    for (top_k, top_p) in [(0, 1.0), (0, 0.5), (2, 1.0), (70, 0.9)] {
        for temperature in [0.0, 1.0] {
            let params = SamplingParams { temperature, top_k, top_p, logprobs: Some(2), ..Default::default() };
            let forbidden = (0..100).map(|id| (id, f32::NEG_INFINITY)).collect();
            let requests = [
                plain(vec![1.0; 100], SamplingParams { bias: forbidden, ..params.clone() }),
                plain(vec![f32::NAN; 100], params),
            ];
            for outcome in step(&requests, &allowed) {
                assert_eq!((outcome.token, f32::from_bits(outcome.logprob)), (u32::MAX, f32::NEG_INFINITY));
                assert_eq!(outcome.top_ids, [0, 1]);
            }
        }
    }
}

#[test]
fn draws_follow_the_seed() {
    if !begin() {
        return;
    }
    let mut random = Random(3);
    let logits = random.vec(500);
    for (top_k, top_p) in [(0, 1.0), (0, 0.9), (40, 1.0), (200, 0.95)] {
        let requests: Vec<Request> = (0..16)
            .map(|seed| {
                plain(logits.clone(), SamplingParams { temperature: 1.0, seed, top_k, top_p, ..Default::default() })
            })
            .collect();
        let mut tokens: Vec<u32> = step(&requests, &AllowedTokens::all(500)).iter().map(|o| o.token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert!(tokens.len() > 8, "{tokens:?}");
    }
}
