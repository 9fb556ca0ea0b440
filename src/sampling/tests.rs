//! The sampler against a slow, literal specification in double precision, and against the distributions it promises.

use super::*;
use philox::uniform;

/// A seeded stream of test numbers.
struct Random(u64, u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.1 += 1;
        uniform(self.0, 99, self.1, 1)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    /// Roughly normal.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// Tokens that a sequence has seen.
#[derive(Default)]
struct TokenCounts {
    prompt: Vec<u32>,
    output: Vec<u32>,
}

impl TokenCounts {
    /// Whether `token` is in the prompt, and how often it is in the output.
    fn get(&self, token: u32) -> (bool, usize) {
        (self.prompt.contains(&token), self.output.iter().filter(|id| **id == token).count())
    }
}

/// A case: everything `sample` takes.
struct Case {
    logits: Vec<f32>,
    allowed: AllowedTokens,
    params: SamplingParams,
    counts: TokenCounts,
    position: u64,
}

fn random_case(random: &mut Random) -> Case {
    let vocab = random.pick(&[1, 2, 5, 17, 64, 300, 2000]);
    let spread = random.pick(&[0.0, 0.1, 1.0, 5.0, 30.0]);
    let mut logits: Vec<f32> = (0..vocab).map(|_| (random.normal() * spread) as f32).collect();
    if random.unit() < 0.3 {
        // Ties.
        logits.iter_mut().for_each(|x| *x = x.round());
    }
    if random.unit() < 0.3 && vocab > 1 {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let at = 1 + random.below(vocab - 1);
            logits[at] = bad;
        }
    }
    let allowed = if random.unit() < 0.3 {
        let skip = 2 + random.below(5) as u32;
        AllowedTokens::from_ids(vocab, (0..vocab as u32).filter(|id| id % skip != 1)).expect("id 0 is in")
    } else {
        AllowedTokens::all(vocab)
    };
    let mut params = SamplingParams {
        temperature: random.pick(&[0.0, 0.3, 0.8, 1.0, 2.5]),
        top_k: random.pick(&[0, 0, 1, 3, 20, 150, 100_000]),
        top_p: random.pick(&[1.0, 1.0, 1e-6, 0.5, 0.9, 0.99]),
        min_p: random.pick(&[0.0, 0.0, 0.05, 0.5, 1.0]),
        xtc_probability: random.pick(&[0.0, 0.0, 1.0]),
        xtc_threshold: random.pick(&[0.01, 0.1, 0.3, 0.6]),
        seed: random.below(1 << 40) as u64,
        logprobs: random.pick(&[None, Some(0), Some(1)]),
        ..SamplingParams::default()
    };
    let mut counts = TokenCounts::default();
    if random.unit() < 0.5 {
        params.repetition_penalty = random.pick(&[1.0, 1.3, 0.8]);
        params.presence_penalty = random.pick(&[0.0, 0.5, -0.5]);
        params.frequency_penalty = random.pick(&[0.0, 0.25, -0.1]);
        counts.prompt = (0..20).map(|_| random.below(vocab) as u32).collect();
        counts.output = (0..30).map(|_| random.below(vocab) as u32).collect();
        for _ in 0..3 {
            params.bias.push((random.below(vocab) as u32, random.pick(&[2.5, -1.0])));
        }
    }
    Case { logits, allowed, params, counts, position: random.below(1 << 30) as u64 }
}

/// Logits after penalties and bias; `None` for what may not be sampled.
fn spec_adjusted(case: &Case) -> Vec<Option<f64>> {
    let p = &case.params;
    let adjust = |(id, &x): (usize, &f32)| {
        let id = id as u32;
        if !x.is_finite() || !case.allowed.contains(id) {
            return None;
        }
        let (mut y, (in_prompt, outputs)) = (f64::from(x), case.counts.get(id));
        if in_prompt || outputs > 0 {
            let penalty = f64::from(p.repetition_penalty);
            y = if y > 0.0 { y / penalty } else { y * penalty };
        }
        if outputs > 0 {
            y -= f64::from(p.frequency_penalty) * outputs as f64 + f64::from(p.presence_penalty);
        }
        Some(y + p.bias.iter().filter(|(token, _)| *token == id).map(|(_, b)| f64::from(*b)).sum::<f64>())
    };
    case.logits.iter().enumerate().map(adjust).collect()
}

/// The kept ids, ascending, with their probabilities. The flag is set when a cut falls within rounding of a boundary.
fn spec_kept(case: &Case) -> (Vec<(u32, f64)>, bool) {
    let p = &case.params;
    // Adding 0 makes the two zeros equal.
    let mut kept: Vec<(u32, f64)> = (0..)
        .zip(spec_adjusted(case))
        .filter_map(|(id, x)| Some((id, (x? + 0.0) / f64::from(p.temperature))))
        .collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut doubtful = false;
    let near = |a: f64, b: f64| (a - b).abs() < 1e-5 * b.abs().max(1e-9);
    if p.top_k > 0 && (p.top_k as usize) < case.allowed.end() && (p.top_k as usize) < kept.len() {
        let k = p.top_k as usize;
        // Distinct doubles may be equal once rounded to f32, and the other way round.
        doubtful |= kept[k - 1].1 != kept[k].1 && (kept[k - 1].1 - kept[k].1).abs() < 1e-4;
        doubtful |= kept[k - 1].1 == kept[k].1 && (!p.bias.is_empty() || p.uses_counts());
        kept.truncate(k);
    }
    let best = kept[0].1;
    let mut kept: Vec<(u32, f64)> = kept.into_iter().map(|(id, x)| (id, (x - best).exp())).collect();
    if p.top_p < 1.0 {
        let total: f64 = kept.iter().map(|(_, w)| w).sum();
        let (mut sum, mut count) = (0.0, 0);
        for (_, w) in &kept {
            sum += w;
            count += 1;
            doubtful |= near(sum, f64::from(p.top_p) * total);
            if sum >= f64::from(p.top_p) * total {
                break;
            }
        }
        // Which of equals cross the boundary is decided by id, if they are equal in single precision too.
        doubtful |= kept
            .get(count)
            .is_some_and(|(_, w)| near(*w, kept[count - 1].1) && (!p.bias.is_empty() || p.uses_counts()));
        kept.truncate(count);
    }
    doubtful |= kept.iter().any(|(_, w)| p.min_p < 1.0 && p.min_p > 0.0 && near(*w, f64::from(p.min_p)));
    doubtful |= p.min_p == 1.0 && kept.iter().any(|(_, w)| *w != 1.0 && near(*w, 1.0));
    doubtful |= p.min_p == 1.0 && (!p.bias.is_empty() || p.uses_counts());
    kept.retain(|(_, w)| *w >= f64::from(p.min_p));
    let total: f64 = kept.iter().map(|(_, w)| w).sum();
    kept.iter_mut().for_each(|(_, w)| *w /= total);
    if p.xtc_probability == 1.0 && p.xtc_threshold <= 0.5 {
        let threshold = f64::from(p.xtc_threshold);
        doubtful |= kept.iter().any(|(_, share)| near(*share, threshold));
        // Still the likeliest first.
        let top = kept.iter().filter(|(_, share)| *share >= threshold).count();
        if top > 1 {
            doubtful |= near(kept[top - 1].1, kept[top - 2].1) && (!p.bias.is_empty() || p.uses_counts());
            kept.drain(..top - 1);
            let total: f64 = kept.iter().map(|(_, w)| w).sum();
            kept.iter_mut().for_each(|(_, w)| *w /= total);
        }
    }
    kept.sort_by_key(|(id, _)| *id);
    (kept, doubtful)
}

/// Samples as a device does; with the most probable tokens and their log probabilities.
fn sample(
    sampler: &mut Sampler,
    logits: &[f32],
    allowed: &AllowedTokens,
    params: &SamplingParams,
    counts: &TokenCounts,
    position: u64,
) -> (Sampled, Vec<u32>, Vec<f32>) {
    let mut adjustments = LogitAdjustments::new(params, &counts.prompt).expect("memory");
    if params.uses_counts() {
        counts.output.iter().for_each(|token| adjustments.push(*token).expect("memory"));
    }
    let entries = adjustments.entries();
    let request = params.request(position, entries.len());
    let count = params.logprobs.unwrap_or(0) as usize;
    let (mut ids, mut logprobs) = (vec![0; count], vec![0.0; count]);
    let top = (&mut *ids, &mut *logprobs);
    let sampled = sampler.sample(&math::Portable, logits, allowed, &request, (entries, None), top);
    (sampled, ids, logprobs)
}

/// A mask of the row's own forbids tokens as a bias of minus infinity does, and changes no log probability.
#[test]
fn a_mask_of_the_row_forbids_all_others() {
    let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin() * 4.0).collect();
    let mut sampler = Sampler::new(100).expect("memory");
    let all = AllowedTokens::all(100);
    for seed in 0..300 {
        let words: Vec<u32> = (0..4).map(|k| philox::uniform(seed, k, 1, 1).to_bits() as u32).collect();
        let set = |id: usize| words[id / 32] >> (id % 32) & 1 == 1;
        let params = SamplingParams {
            temperature: [0.0, 0.7, 1.5][seed as usize % 3],
            top_k: [0, 5][seed as usize % 2],
            top_p: [1.0, 0.9][seed as usize / 2 % 2],
            logprobs: Some(3),
            seed,
            ..SamplingParams::default()
        };
        let request = SamplingRequest { mask: 1, ..params.request(7, 0) };
        let (mut ids, mut logprobs) = ([0; 3], [0.0; 3]);
        let masked =
            sampler.sample(&math::Portable, &logits, &all, &request, (&[], Some(&words)), (&mut ids, &mut logprobs));
        assert!(set(masked.token as usize), "seed {seed}: {masked:?}");
        let bias = (0..100u32).filter(|id| !set(*id as usize)).map(|id| (id, f32::NEG_INFINITY)).collect();
        let params = SamplingParams { bias, ..params };
        let biased = sample(&mut sampler, &logits, &all, &params, &TokenCounts::default(), 7);
        assert_eq!((masked, ids.to_vec(), logprobs.to_vec()), biased, "seed {seed}");
    }
    let request = SamplingRequest { mask: 1, ..SamplingParams::default().request(7, 0) };
    let none = sampler.sample(&math::Portable, &logits, &all, &request, (&[], Some(&[0; 4])), Default::default());
    assert_eq!(none.token, NO_TOKEN);
    assert_eq!(Sampler::enough(&all, &request), None, "a row with a mask is looked at whole");
}

fn run(case: &Case) -> crate::Result<(Sampled, Vec<u32>, Vec<f32>)> {
    case.params.validate(case.logits.len())?;
    let Case { logits, allowed, params, counts, position } = case;
    Ok(sample(&mut Sampler::new(logits.len())?, logits, allowed, params, counts, *position))
}

fn spec_logprob(logits: &[f32], token: usize) -> f64 {
    let finite = || logits.iter().filter(|x| x.is_finite()).map(|&x| f64::from(x));
    let max = finite().fold(f64::NEG_INFINITY, f64::max);
    f64::from(logits[token]) - max - finite().map(|x| (x - max).exp()).sum::<f64>().ln()
}

#[test]
fn random_cases_agree_with_the_specification() {
    const SEED: u64 = 20_260_101;
    let mut random = Random(SEED, 0);
    let (mut exact, mut skipped) = (0, 0);
    for round in 0..4000 {
        let case = random_case(&mut random);
        let context = || format!("seed {SEED} round {round} vocab {} {:?}", case.logits.len(), case.params);
        let (sampled, ids, logprobs) = run(&case).unwrap_or_else(|e| panic!("{e}: {}", context()));
        let token = sampled.token as usize;
        assert!(case.logits[token].is_finite() && case.allowed.contains(sampled.token), "{}", context());
        match case.params.logprobs {
            None => assert!(sampled.logprob.is_nan()),
            Some(k) => {
                assert!((f64::from(sampled.logprob) - spec_logprob(&case.logits, token)).abs() < 1e-5, "{}", context());
                assert_eq!((ids.len(), logprobs.len()), (k as usize, k as usize));
            }
        }
        if case.params.temperature == 0.0 {
            let adjusted = spec_adjusted(&case);
            let best = adjusted.iter().flatten().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let chosen = adjusted[token].expect("allowed");
            assert!(chosen >= best - 1e-5 * best.abs().max(1.0), "{}", context());
            if case.params.bias.is_empty() && !case.params.uses_counts() {
                let first = adjusted.iter().position(|x| *x == Some(best)).expect("there");
                assert_eq!(token, first, "{}", context());
            }
            exact += 1;
            continue;
        }
        let (kept, doubtful) = spec_kept(&case);
        if doubtful {
            skipped += 1;
            continue;
        }
        // The draw lands in this id's part of the unit interval.
        let u = uniform(case.params.seed, 0, case.position, 0);
        let before: f64 = kept.iter().take_while(|(id, _)| *id < sampled.token).map(|(_, p)| p).sum();
        let own = kept.iter().find(|(id, _)| *id == sampled.token).map(|(_, p)| p);
        let own = own.unwrap_or_else(|| panic!("token {token} was cut: {}", context()));
        assert!(u > before - 1e-6 && u < before + own + 1e-6, "u {u} not in {before}+{own}: {}", context());
        exact += 1;
    }
    assert!(exact > 3000, "only {exact} compared, {skipped} skipped");
}

/// Chi-square of 20,000 draws at successive positions against probabilities; also its degrees of freedom.
fn chi2(logits: &[f32], params: &SamplingParams, expected: &[f64]) -> (f64, usize) {
    const DRAWS: u64 = 20_000;
    let mut sampler = Sampler::new(logits.len()).expect("memory");
    let (allowed, none) = (AllowedTokens::all(logits.len()), TokenCounts::default());
    let mut seen = vec![0u32; logits.len()];
    for position in 0..DRAWS {
        let (sampled, ..) = sample(&mut sampler, logits, &allowed, params, &none, position);
        seen[sampled.token as usize] += 1;
    }
    let term = |(&n, &p): (&u32, &f64)| {
        assert!(p > 0.0 || n == 0, "a cut token was drawn");
        let expected = p * DRAWS as f64;
        if p > 0.0 { (f64::from(n) - expected).powi(2) / expected } else { 0.0 }
    };
    (seen.iter().zip(expected).map(term).sum(), expected.iter().filter(|p| **p > 0.0).count() - 1)
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = (0..30).map(|i| ((i * 7) % 30) as f32 * 0.1).collect();
    let variants = [
        SamplingParams { temperature: 1.0, seed: 1, ..Default::default() },
        SamplingParams { temperature: 0.5, seed: 2, ..Default::default() },
        SamplingParams { temperature: 1.0, top_k: 10, seed: 3, ..Default::default() },
        SamplingParams { temperature: 1.5, top_p: 0.7, seed: 4, ..Default::default() },
        SamplingParams { temperature: 1.0, min_p: 0.31, seed: 5, ..Default::default() },
        SamplingParams { temperature: 0.8, top_k: 20, top_p: 0.8, min_p: 0.1, seed: 6, ..Default::default() },
    ];
    for params in variants {
        let allowed = AllowedTokens::all(30);
        let case = Case { logits: logits.clone(), allowed, params, counts: TokenCounts::default(), position: 0 };
        let (kept, doubtful) = spec_kept(&case);
        assert!(!doubtful, "{:?}", case.params);
        let mut expected = vec![0.0; 30];
        kept.iter().for_each(|(id, p)| expected[*id as usize] = *p);
        let (chi2, freedom) = chi2(&logits, &case.params, &expected);
        // Four standard deviations of the chi-square distribution; the seeds are fixed, so this holds or not for ever.
        let freedom = freedom as f64;
        assert!((chi2 - freedom).abs() < 4.0 * (2.0 * freedom).sqrt(), "chi2 {chi2} of {freedom}: {:?}", case.params);
    }
}

fn one(logits: &[f32], params: SamplingParams) -> crate::Result<u32> {
    let allowed = AllowedTokens::all(logits.len());
    run(&Case { logits: logits.to_vec(), allowed, params, counts: TokenCounts::default(), position: 5 })
        .map(|(s, ..)| s.token)
}

#[test]
fn a_set_of_one_leaves_no_choice() {
    let logits = [0.5, 3.0, 3.0, -1.0];
    for seed in 0..50 {
        let base = SamplingParams { temperature: 5.0, seed, ..Default::default() };
        assert_eq!(one(&logits, SamplingParams { top_k: 1, ..base.clone() }), Ok(1));
        assert_eq!(one(&logits, SamplingParams { top_p: 1e-9, ..base.clone() }), Ok(1));
        assert_ne!(one(&logits, SamplingParams { min_p: 1.0, ..base.clone() }), Ok(0));
        let finite = [f32::NAN, f32::NEG_INFINITY, -40.0, f32::INFINITY];
        assert_eq!(one(&finite, base.clone()), Ok(2));
        assert_eq!(one(&finite, SamplingParams { top_k: 3, top_p: 0.9, min_p: 0.5, ..base.clone() }), Ok(2));
        assert_eq!(one(&finite, SamplingParams::default()), Ok(2));
        // Temperatures so small that quotients overflow.
        assert_eq!(one(&[1.0, 2.0, 0.0], SamplingParams { temperature: 1e-45, ..base }), Ok(1));
    }
}

#[test]
fn equal_logits_keep_the_lowest_ids() {
    let logits = [1.0; 100];
    let tokens = |params: SamplingParams| -> Vec<u32> {
        let mut all: Vec<u32> =
            (0..400).map(|seed| one(&logits, SamplingParams { seed, ..params.clone() }).expect("finite")).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let base = SamplingParams { temperature: 1.0, ..Default::default() };
    assert_eq!(tokens(SamplingParams { top_k: 4, ..base.clone() }), [0, 1, 2, 3]);
    // A quarter of 100 equals: exactly 25 reach it.
    assert_eq!(tokens(SamplingParams { top_p: 0.25, ..base }), (0..25).collect::<Vec<u32>>());
}

#[test]
fn a_whole_vocabulary_top_k_changes_nothing() {
    let logits: Vec<f32> = (0..500).map(|i| (i as f32 * 1.7).sin()).collect();
    for seed in 0..100 {
        let base = SamplingParams { temperature: 0.9, top_p: 0.8, seed, ..Default::default() };
        assert_eq!(one(&logits, base.clone()), one(&logits, SamplingParams { top_k: 500, ..base }));
    }
}

#[test]
fn nothing_to_sample_is_an_error() {
    for temperature in [0.0, 1.0] {
        let base = SamplingParams { temperature, logprobs: Some(1), ..Default::default() };
        assert_eq!(one(&[f32::NAN, f32::INFINITY], base.clone()), Ok(NO_FINITE_LOGIT), "no finite logit");
        let bias = vec![(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)];
        assert_eq!(one(&[1.0, 2.0], SamplingParams { bias, ..base.clone() }), Ok(NO_TOKEN), "all forbidden");
        let huge = SamplingParams { bias: vec![(1, 3e38), (1, 3e38)], ..base };
        assert_eq!(one(&[1.0, 2.0], huge), Ok(1), "an overflowing bias stays the best");
    }
}

#[test]
fn top_logprobs_are_of_the_raw_logits_and_appended() {
    let logits = [1.0f32, 4.0, f32::NAN, 4.0, 2.0];
    let params = SamplingParams {
        bias: vec![(1, -100.0), (3, -100.0)],
        logprobs: Some(5),
        temperature: 0.0,
        ..Default::default()
    };
    let mut sampler = Sampler::new(5).expect("memory");
    let allowed = AllowedTokens::from_ids(5, [0, 1, 2, 4]).expect("some");
    let (sampled, ids, logprobs) = sample(&mut sampler, &logits, &allowed, &params, &TokenCounts::default(), 0);
    assert_eq!(sampled.token, 4);
    assert_eq!(ids, [1, 3, 4, 0, 2]);
    assert_eq!(logprobs[4], f32::NEG_INFINITY);
    assert_eq!(sampled.logprob, logprobs[2]);
    for (&id, &logprob) in ids.iter().zip(&logprobs).take(4) {
        assert!((f64::from(logprob) - spec_logprob(&logits, id as usize)).abs() < 1e-6);
        assert_eq!(sampler.logprob(&math::Portable, &logits, id), logprob);
    }
    assert_eq!(sampler.logprob(&math::Portable, &logits, 2), f32::NEG_INFINITY);
    assert_eq!(sampler.logprob(&math::Portable, &logits, 5), f32::NEG_INFINITY);
    assert_eq!(sampler.logprob(&math::Portable, &[f32::NAN; 5], 0), f32::NEG_INFINITY);
}

#[test]
fn penalties_follow_their_definition() {
    let counts = TokenCounts { prompt: vec![0], output: vec![1, 1] };
    let greedy = |logits: [f32; 4], change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams::default();
        change(&mut params);
        let mut sampler = Sampler::new(4).expect("memory");
        let allowed = AllowedTokens::all(4);
        sample(&mut sampler, &logits, &allowed, &params, &counts, 0).0.token
    };
    // 4/2 = 2 for prompt and output alike, so 2.5 wins; negative logits are multiplied.
    assert_eq!(greedy([4.0, 4.0, 2.5, 0.0], |p| p.repetition_penalty = 2.0), 2);
    assert_eq!(greedy([-1.0, -1.0, -1.5, -9.0], |p| p.repetition_penalty = 2.0), 2);
    // Presence and frequency leave the prompt alone.
    assert_eq!(greedy([4.0, 4.5, 2.5, 0.0], |p| p.presence_penalty = 1.0), 0);
    assert_eq!(greedy([4.0, 4.5, 2.5, 0.0], |p| p.frequency_penalty = 0.2), 1);
    assert_eq!(greedy([4.0, 4.5, 2.5, 0.0], |p| p.frequency_penalty = 0.3), 0);
}

#[test]
fn steady_state_keeps_its_buffers() {
    let vocab = 5000;
    let logits: Vec<f32> = (0..vocab).map(|i| (i as f32 * 0.9).cos()).collect();
    let mut sampler = Sampler::new(vocab).expect("memory");
    let before = format!("{:?}", sampler.buffers());
    for (top_k, top_p) in [(0, 1.0), (40, 1.0), (4000, 0.999_99), (0, 0.999_999), (4999, 1.0)] {
        let params = SamplingParams {
            temperature: 9.0,
            top_k,
            top_p,
            logprobs: Some(3),
            bias: vec![(1, 0.5)],
            ..Default::default()
        };
        let allowed = AllowedTokens::all(vocab);
        sample(&mut sampler, &logits, &allowed, &params, &TokenCounts::default(), 1);
        assert_eq!(format!("{:?}", sampler.buffers()), before, "a buffer moved or grew");
    }
}
