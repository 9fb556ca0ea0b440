//! Attention and KV pages of every tier, for every page type: against the reference, and law 1.

use super::{LARGEST, Random, backend, close, get, other_tiers, put, stored};
use astrai::backend::cpu::{CpuBackend, Tier, tiers};
use astrai::backend::{
    Attention, Cache, FrameContent, Heads, KvPages, KvShape, MaxBatchShape, Memory, Operations, Placement, Steps,
    Tables, Weight,
};
use astrai::dtype::DType;
use astrai::encoding::Encoding;

#[derive(Clone, Copy, Debug)]
struct Case {
    /// Of each sequence.
    tokens: usize,
    sequences: usize,
    heads: usize,
    kv_heads: usize,
    k_dim: usize,
    v_dim: usize,
    page_tokens: usize,
    window: Option<u32>,
    softcap: Option<f32>,
    sinks: bool,
    dtype: DType,
}

impl Case {
    fn shape(&self) -> KvShape {
        KvShape {
            layers: 2,
            frames: self.sequences * self.pages() + 3,
            page_tokens: self.page_tokens,
            kv_heads: self.kv_heads,
            k_dim: self.k_dim,
            v_dim: self.v_dim,
            content: FrameContent::KeysValues,
            dtype: self.dtype,
        }
    }

    fn pages(&self) -> usize {
        self.tokens.div_ceil(self.page_tokens)
    }
}

const ONE: Case = Case {
    tokens: 1,
    sequences: 1,
    heads: 4,
    kv_heads: 2,
    k_dim: 64,
    v_dim: 64,
    page_tokens: 16,
    window: None,
    softcap: None,
    sinks: false,
    dtype: DType::Bf16,
};

/// A backend with the pages of a case, and the inputs of its sequences.
struct Bench {
    case: Case,
    b: CpuBackend,
    pages: KvPages,
    /// `[sequences, tokens, heads, dim]` each.
    inputs: [Vec<f32>; 3],
    sinks: Weight,
    tables: Vec<u32>,
    starts: Vec<u32>,
}

impl Bench {
    /// Queries are bf16 numbers, so that a tier which rounds them to bf16 is not measured by that. With `poison`, pages hold
    /// the bits of NaN before they are stored to.
    fn new(tier: Tier, threads: usize, case: Case, poison: bool) -> Bench {
        let mut r = Random(case.tokens as u64 * 7 + case.k_dim as u64);
        let all = case.sequences * case.tokens;
        let q = r.vec(all * case.heads * case.k_dim).iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
        let inputs = [q, r.vec(all * case.kv_heads * case.k_dim), r.vec(all * case.kv_heads * case.v_dim)];
        let mut b = backend(tier, threads);
        let shape = case.shape();
        let pages = b.kv_pages(shape).unwrap();
        // Some of them above every score, some far below.
        let sinks: Vec<f32> = r.vec(case.heads).iter().map(|v| v * 6.0).collect();
        let sinks = b.weight(stored(&sinks, DType::F32), Encoding::Stored(DType::F32), 1, case.heads).unwrap();
        if poison {
            for frame in 0..shape.frames as u32 {
                b.write_page(pages, frame, &vec![0xff; shape.frame_bytes().unwrap()]).unwrap();
            }
        }
        // Frames in a scattered order, after a table nobody uses.
        let mut tables = vec![0];
        let mut starts = vec![0];
        for sequence in 0..case.sequences {
            starts.push(tables.len() as u32);
            tables.extend((0..case.pages()).map(|i| (shape.frames - 1 - (i * case.sequences + sequence)) as u32));
        }
        Bench { case, b, pages, inputs, sinks, tables, starts }
    }

    /// Stores and attends the tokens (sequence, position) in one step.
    fn step(&mut self, tokens: &[(usize, usize)]) -> Vec<f32> {
        self.run(tokens, true)
    }

    fn run(&mut self, tokens: &[(usize, usize)], attend: bool) -> Vec<f32> {
        let Case { heads, kv_heads, k_dim, v_dim, window, softcap, .. } = self.case;
        let mut view = |input: usize, heads: usize, dim: usize| {
            let width = heads * dim;
            let rows: Vec<f32> = tokens
                .iter()
                .flat_map(|(s, p)| &self.inputs[input][(s * self.case.tokens + p) * width..][..width])
                .copied()
                .collect();
            Heads { tensor: put(&mut self.b, &rows), row_stride: width, head_stride: dim, heads, dim }
        };
        let (q, k, v) = (view(0, heads, k_dim), view(1, kv_heads, k_dim), view(2, kv_heads, v_dim));
        let positions: Vec<u32> = tokens.iter().map(|t| t.1 as u32).collect();
        let sequences: Vec<u32> = tokens.iter().map(|t| t.0 as u32 + 1).collect();
        let step = self.b.step();
        (step.positions, step.sequences) = (positions, sequences);
        step.tables = vec![Tables { pages: self.tables.clone(), starts: self.starts.clone() }];
        let (norms, norm_last, eps, rotary, pages, layer) = (None, false, 0.0, None, self.pages, 1);
        self.b.place_heads(&Placement { q, k, v, norms, norm_last, eps, rotary, store: true, pages, layer });
        if !attend {
            return Vec::new();
        }
        let out = self.b.alloc(tokens.len() * heads * v_dim, "out").unwrap();
        let scale = 4.0 / k_dim as f32;
        let sinks = self.case.sinks.then_some(self.sinks);
        self.b.attention(Attention {
            q,
            out,
            pages: self.pages,
            layer: 1,
            scale,
            window,
            bidirectional: false,
            softcap,
            sinks,
        });
        get(&mut self.b, out, tokens.len() * heads * v_dim)
    }
}

/// The results of sequence 0, stored and computed in chunks that end at `cuts`.
fn attention(tier: Tier, threads: usize, case: Case, cuts: &[usize]) -> Vec<f32> {
    chunks(&mut Bench::new(tier, threads, case, false), cuts)
}

fn chunks(bench: &mut Bench, cuts: &[usize]) -> Vec<f32> {
    let mut result = Vec::new();
    let mut first = 0;
    let last = bench.case.tokens;
    for &end in cuts.iter().chain([&last]) {
        if end > first {
            let tokens: Vec<_> = (first..end).map(|p| (0, p)).collect();
            result.extend(bench.step(&tokens));
        }
        first = end;
    }
    result
}

/// Sizes at and around the edges of pages, groups of 16, blocks of 64 and spans of 512 keys; windows across them; head
/// sizes that fill registers and that do not.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::I8] {
        let one = Case { dtype, ..ONE };
        for tokens in [1, 15, 16, 17, 63, 64, 65, 130] {
            cases.push(Case { tokens, ..one });
        }
        for window in [1, 5, 16, 17, 50, 64, 70] {
            cases.push(Case { tokens: 140, window: Some(window), ..one });
        }
        for page_tokens in [1, 7, 16, 32, 48, 64] {
            cases.push(Case { tokens: 70, page_tokens, window: Some(60), ..one });
        }
        for (k_dim, v_dim) in [
            (2, 2),
            (10, 10),
            (2, 16),
            (32, 48),
            (33, 16),
            (66, 80),
            (80, 80),
            (192, 128),
            (256, 256),
            (96, 112),
            (512, 512),
        ] {
            cases.push(Case { tokens: 70, k_dim, v_dim, ..one });
        }
        for (heads, kv_heads) in [(1, 1), (3, 1), (10, 2), (6, 1), (7, 1), (8, 1), (26, 2), (70, 1)] {
            cases.push(Case { tokens: 40, heads, kv_heads, k_dim: 32, v_dim: 32, ..one });
        }
        for (softcap, sinks) in [(Some(0.7), false), (None, true), (Some(30.0), true)] {
            for (tokens, window) in [(1, None), (70, None), (140, Some(50))] {
                cases.push(Case { tokens, window, softcap, sinks, ..one });
            }
            cases.push(Case { tokens: 1030, heads: 2, kv_heads: 1, k_dim: 32, v_dim: 16, softcap, sinks, ..one });
        }
        for (tokens, window) in [(511, None), (513, None), (1030, None), (1030, Some(530))] {
            cases.push(Case { tokens, window, heads: 1, kv_heads: 1, k_dim: 32, v_dim: 16, ..one });
        }
    }
    cases
}

/// How far a tier may be from the reference, both reading the same stored keys and values.
fn tolerance(tier: Tier, dtype: DType) -> f32 {
    match (tier, dtype) {
        // Weights are rounded to bf16 (2^-9 of each) and divided by the sum of the rounded ones: 2^-8 of the largest value.
        (Tier::Avx512 | Tier::Amx, DType::Bf16) => 4e-3,
        // Queries have 15 bits and a sign: an error of at most 4 * 2^-16 in a score (the scale times the dimension is 4), and
        // the weights as much again.
        (_, DType::I8) => 2e-4,
        // Scores below 4; sums of at most 1,030 terms in another order.
        _ => 2e-5,
    }
}

#[test]
fn attention_agrees_with_the_reference() {
    for case in cases() {
        let want = attention(Tier::Reference, 1, case, &[]);
        for tier in other_tiers() {
            let tolerance = tolerance(tier, case.dtype);
            close(&attention(tier, 2, case, &[]), &want, tolerance, &format!("{tier:?} {case:?}"));
        }
    }
}

#[test]
fn attention_does_not_depend_on_chunks_or_threads() {
    for tier in tiers() {
        for case in cases().into_iter().filter(|c| tier != Tier::Reference || c.tokens < 100) {
            let whole = attention(tier, 1, case, &[]);
            let third = case.tokens / 3;
            let single: Vec<usize> = (third..case.tokens.min(third + 20)).collect();
            for (threads, cuts) in [(2, vec![case.tokens / 2]), (3, single), (3, vec![third, case.tokens - 1])] {
                let cut = attention(tier, threads, case, &cuts);
                assert!(bits(&whole) == bits(&cut), "{tier:?} {case:?} cut at {cuts:?}, {threads} threads");
            }
        }
    }
}

#[test]
fn what_a_page_held_before_does_not_matter() {
    for tier in tiers() {
        for case in cases().into_iter().filter(|c| c.tokens < 200) {
            let clean = chunks(&mut Bench::new(tier, 2, case, false), &[case.tokens / 2]);
            let stale = chunks(&mut Bench::new(tier, 2, case, true), &[case.tokens / 2]);
            assert!(bits(&clean) == bits(&stale), "{tier:?} {case:?}");
        }
    }
}

#[test]
fn a_later_token_that_is_not_a_number_stays_with_itself() {
    for tier in tiers() {
        for dtype in [DType::F32, DType::Bf16, DType::I8] {
            let case = Case { tokens: 70, dtype, ..ONE };
            let want = attention(tier, 2, case, &[]);
            for (input, what) in [(1, "key"), (2, "value")] {
                for token in [5, 20, 63, 65] {
                    let mut bench = Bench::new(tier, 2, case, false);
                    bench.inputs[input][token * 2 * 64 + 3] = f32::NAN;
                    let (width, got) = (4 * 64, chunks(&mut bench, &[]));
                    let name = format!("{tier:?} {dtype}, {what} {token}");
                    assert!(bits(&got[..token * width]) == bits(&want[..token * width]), "{name}");
                    for row in got[token * width..].chunks(width) {
                        assert!(row.iter().any(|v| v.is_nan()), "{name}: nothing tells of it");
                    }
                }
            }
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_neighbours() {
    for tier in tiers() {
        for dtype in [DType::F32, DType::Bf16, DType::I8] {
            for (tokens, window) in [(70, None), (600, Some(90)), (600, None)] {
                let case = Case { tokens, window, dtype, sequences: 3, k_dim: 32, v_dim: 32, ..ONE };
                if tier == Tier::Reference && tokens > 100 {
                    continue;
                }
                let alone = attention(tier, 1, case, &[]);
                let mut bench = Bench::new(tier, 3, case, false);
                // Prompts of unequal progress, then steps with a row or two of each.
                let ends = [tokens - 6, tokens / 2, tokens - 40];
                let first: Vec<_> = (0..3).flat_map(|s| (0..ends[s]).map(move |p| (s, p))).collect();
                let mut rows = bench.step(&first)[..ends[0] * 4 * 32].to_vec();
                for i in 0..3 {
                    let step: Vec<_> =
                        [2, 0, 1].into_iter().flat_map(|s| [(s, ends[s] + 2 * i), (s, ends[s] + 2 * i + 1)]).collect();
                    let out = bench.step(&step);
                    rows.extend(&out[2 * 4 * 32..4 * 4 * 32]);
                }
                assert!(bits(&alone) == bits(&rows), "{tier:?} {case:?}");
            }
        }
    }
}

#[test]
fn one_long_sequence_is_split_without_a_trace() {
    for tier in other_tiers() {
        for (dtype, window) in [(DType::F32, None), (DType::Bf16, None), (DType::I8, None), (DType::Bf16, Some(2500))] {
            let (softcap, sinks) = (window.map(|_| 2.0), window.is_some() || dtype == DType::F32);
            let case = Case { tokens: 3000, heads: 2, kv_heads: 1, window, softcap, sinks, dtype, ..ONE };
            let results: Vec<_> = [1, 2, 3, 7]
                .into_iter()
                .map(|threads| {
                    let mut bench = Bench::new(tier, threads, case, false);
                    let prompt: Vec<_> = (0..2990).map(|p| (0, p)).collect();
                    bench.run(&prompt, false);
                    (2990..3000).flat_map(|p| bench.step(&[(0, p)])).collect::<Vec<f32>>()
                })
                .collect();
            assert!(results.iter().all(|r| bits(r) == bits(&results[0])), "{tier:?} {dtype} {window:?}");
        }
    }
}

/// Room for the parts of every item, of some, of none.
#[test]
fn how_far_a_sequence_is_split_leaves_no_trace() {
    let some = MaxBatchShape { positions: 600, heads_per_kv: 1, v_dim: 1, ..LARGEST };
    let none = MaxBatchShape { positions: 1, ..LARGEST };
    for tier in other_tiers() {
        for dtype in [DType::F32, DType::Bf16, DType::I8] {
            let case = Case { tokens: 3000, heads: 8, kv_heads: 4, dtype, ..ONE };
            let run = |threads, max_shape| {
                let mut bench = Bench::new(tier, threads, case, false);
                bench.b.reserve(max_shape).unwrap();
                bench.run(&(0..2900).map(|p| (0, p)).collect::<Vec<_>>(), false);
                let mut result: Vec<f32> = (2900..2905).flat_map(|p| bench.step(&[(0, p)])).collect();
                result.extend(bench.step(&(2905..2935).map(|p| (0, p)).collect::<Vec<_>>()));
                bits(&result)
            };
            let whole = run(1, &none);
            for threads in [2, 3] {
                for (max_shape, room) in [(&none, "none"), (&some, "some"), (&LARGEST, "all")] {
                    assert!(run(threads, max_shape) == whole, "{tier:?} {dtype}, {threads} threads, room for {room}");
                }
            }
        }
    }
}

#[test]
fn pages_are_copied_whole() {
    for tier in tiers() {
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::I8] {
            let case = Case { tokens: 40, dtype, ..ONE };
            let bytes = case.shape().frame_bytes().unwrap();
            let (mut from, mut to) = (Bench::new(tier, 1, case, false), Bench::new(tier, 1, case, true));
            let prompt: Vec<_> = (0..39).map(|p| (0, p)).collect();
            from.step(&prompt);
            for frame in from.tables.clone() {
                let mut page = vec![0; bytes];
                from.b.read_page(from.pages, frame, &mut page).unwrap();
                to.b.write_page(to.pages, frame, &page).unwrap();
            }
            assert!(bits(&from.step(&[(0, 39)])) == bits(&to.step(&[(0, 39)])), "{tier:?} {dtype}");
        }
    }
}

#[test]
fn eight_bits_are_within_half_a_step() {
    // One token: the result is its value, whose error is at most half of 1/127 of the row's largest element.
    let case = Case { dtype: DType::I8, ..ONE };
    for tier in tiers() {
        let mut bench = Bench::new(tier, 1, case, false);
        let values = bench.inputs[2].clone();
        let got = bench.step(&[(0, 0)]);
        for head in 0..4 {
            let value = &values[head / 2 * 64..][..64];
            let step = value.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
            for (got, want) in got[head * 64..][..64].iter().zip(value) {
                assert!((got - want).abs() <= step * 0.5001, "{tier:?}: {got} for {want}, step {step}");
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
