//! The largest logits and draws, against the CPU's sampler.

use super::host::{Memory, launch, param, shape};
use super::{Random, begin};
use astrai::sampling::{AllowedTokens, Sampler, SamplingParams, TokenCounts};

/// The mirror of `Draw` in kernels/sampling.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Draw {
    seed: u64,
    position: u64,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: i32,
}

const CHUNK: usize = 4096;

/// (value, id) of each row's best.
fn best(logits: &[f32], stride: usize, limit: usize, count: usize) -> (Memory, Memory) {
    let rows = logits.len() / stride;
    let chunks = limit.div_ceil(CHUNK);
    let (x, keys) = (Memory::of(logits), Memory::new(rows * chunks * count * 8));
    let (limit, count_of, n, stride) = (limit as i32, count as i32, (chunks * count) as i32, stride as i64);
    let params = [x.param(), keys.param(), param(&stride), param(&limit), param(&count_of)];
    launch("best_in_chunks", shape([chunks, rows, 1], 256, 0), &params);
    let (values, ids) = (Memory::new(rows * count * 4), Memory::new(rows * count * 4));
    let params = [keys.param(), values.param(), ids.param(), param(&n), param(&count_of)];
    launch("best_of_chunks", shape([rows, 1, 1], 256, 0), &params);
    (values, ids)
}

#[test]
fn the_largest_logits_are_found() {
    if !begin() {
        return;
    }
    let mut random = Random(1);
    for (stride, limit, count) in [(1, 1, 1), (300, 300, 5), (300, 290, 64), (9000, 8999, 64), (4097, 4097, 1)] {
        let mut logits = random.vec(3 * stride);
        for (i, bad) in [(7, f32::NAN), (11, f32::INFINITY), (13, f32::NEG_INFINITY), (17, 0.9), (19, 0.9), (23, -0.0)]
        {
            if let Some(x) = logits.get_mut(stride + i) {
                *x = bad;
            }
        }
        // The last row has nothing finite.
        logits[2 * stride..].fill(f32::NAN);
        let (values, ids) = best(&logits, stride, limit, count);
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

/// The CPU's token.
fn expected(logits: &[f32], draw: &Draw) -> u32 {
    let params = SamplingParams {
        temperature: draw.temperature,
        top_k: draw.top_k as u32,
        top_p: draw.top_p,
        min_p: draw.min_p,
        seed: draw.seed,
        ..SamplingParams::default()
    };
    let allowed = AllowedTokens::all(logits.len());
    let mut sampler = Sampler::new(logits.len()).unwrap();
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    let counts = TokenCounts::new();
    let sampled = sampler.sample(logits, &allowed, &params, &counts, draw.position, &mut tokens, &mut logprobs);
    sampled.unwrap().token
}

#[test]
fn draws_are_those_of_the_cpu() {
    if !begin() {
        return;
    }
    let mut random = Random(2);
    let vocab = 500;
    let mut differing = std::collections::BTreeSet::new();
    let settings =
        [(0.0, 1.0, 0.0, 1), (0.7, 1.0, 0.0, 40), (1.3, 0.8, 0.0, 40), (1.0, 0.95, 0.05, 64), (2.0, 1.0, 0.1, 7)];
    for (temperature, top_p, min_p, top_k) in settings {
        let rows = 6;
        let logits: Vec<f32> = random.vec(rows * vocab).iter().map(|v| v * 8.0).collect();
        let draws: Vec<Draw> = (0..rows as u64)
            .map(|i| Draw { seed: i * 977 + (i << 35), position: i + (i << 33), temperature, top_p, min_p, top_k })
            .collect();
        let (values, ids) = best(&logits, vocab, vocab, top_k as usize);
        let (of_rows, tokens) = (Memory::of(&draws), Memory::new(rows * 4));
        let params = [values.param(), ids.param(), of_rows.param(), tokens.param(), param(&top_k)];
        launch("sample_best", shape([rows, 1, 1], 32, 0), &params);
        for (row, token) in tokens.read::<u32>().into_iter().enumerate() {
            assert_eq!(token, expected(&logits[row * vocab..(row + 1) * vocab], &draws[row]), "row {row} {top_k}");
            differing.insert(token);
        }
    }
    assert!(differing.len() > 10);
}

#[test]
fn draws_from_whole_rows_are_those_of_the_cpu() {
    if !begin() {
        return;
    }
    let mut random = Random(3);
    for (vocab, min_p) in [(1, 0.0), (100, 0.0), (257, 0.02), (3000, 0.0)] {
        let rows = 20;
        let mut logits: Vec<f32> = random.vec(rows * vocab).iter().map(|v| v * 6.0).collect();
        if vocab > 50 {
            logits[vocab + 3] = f32::NAN;
            logits[vocab + 4] = f32::INFINITY;
        }
        let draws: Vec<Draw> = (0..rows as u64)
            .map(|i| Draw { seed: i, position: 5 * i, temperature: 0.9, top_p: 1.0, min_p, top_k: 0 })
            .collect();
        let (x, of_rows, tokens) = (Memory::of(&logits), Memory::of(&draws), Memory::new(rows * 4));
        let (stride, limit) = (vocab as i64, vocab as i32);
        let params = [x.param(), of_rows.param(), tokens.param(), param(&stride), param(&limit)];
        launch("sample_all", shape([rows, 1, 1], 256, 0), &params);
        for (row, token) in tokens.read::<u32>().into_iter().enumerate() {
            assert_eq!(token, expected(&logits[row * vocab..(row + 1) * vocab], &draws[row]), "row {row} of {vocab}");
        }
    }
    let (x, draw, tokens) = (
        Memory::of(&[f32::NAN; 30]),
        Memory::of(&[Draw { seed: 0, position: 0, temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: 0 }]),
        Memory::new(4),
    );
    let params = [x.param(), draw.param(), tokens.param(), param(&30i64), param(&30i32)];
    launch("sample_all", shape([1, 1, 1], 256, 0), &params);
    assert_eq!(tokens.read::<u32>(), [u32::MAX]);
}
