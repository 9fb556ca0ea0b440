//! Attention over pages: against a softmax in f64, and law 1: decode and prefill, split and whole, alone and among others.

use super::host::{Memory, launch, param, shape};
use super::rows::Pages;
use super::{Random, begin, close, same_bits};
use astrai::backend::{FrameContent, KvShape};
use astrai::dtype::DType;

/// The mirror of `Unit` in kernels/attention.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct Unit {
    first_row: i32,
    rows: i32,
}

/// The mirror of `Attention`.
#[repr(C)]
struct Args {
    q: *const f32,
    q_row_stride: i64,
    q_head_stride: i64,
    out: *mut f32,
    parts: *mut f32,
    spans_max: i32,
    heads: i32,
    scale: f32,
    window: i32,
    pages: Pages,
    units: *const Unit,
    positions: *const u32,
    sequences: *const u32,
    tables: *const u32,
    table_starts: *const u32,
    soft_cap: f32,
    rounded_pitch: i32,
    rounded: *mut u16,
    sinks: *const f32,
    rows: i32,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    /// Tokens of each sequence.
    tokens: [usize; 2],
    heads: usize,
    kv_heads: usize,
    k_dim: usize,
    v_dim: usize,
    page_tokens: usize,
    window: usize,
    soft_cap: f32,
    sinks: bool,
    /// Values are the beginnings of keys.
    latent: bool,
    /// Queries see later keys, too.
    later: bool,
    dtype: DType,
}

const PLAIN: Case = Case {
    tokens: [1, 70],
    heads: 4,
    kv_heads: 2,
    k_dim: 64,
    v_dim: 64,
    page_tokens: 16,
    window: 0,
    soft_cap: 0.0,
    sinks: false,
    latent: false,
    later: false,
    dtype: DType::Bf16,
};

/// Pages that hold all tokens of the sequences, everything else NaN, and the queries of all tokens.
struct Bench {
    case: Case,
    shape: KvShape,
    pages: Memory,
    /// [tokens of both sequences, heads, k_dim], bf16 numbers.
    q: Vec<f32>,
    /// Keys and values as they are stored: [tokens of both, kv_heads, dim].
    kv: [Vec<f32>; 2],
    /// [heads]: some above every score, some far below.
    sinks: Vec<f32>,
    tables: Vec<u32>,
    starts: Vec<u32>,
}

impl Bench {
    fn new(case: Case) -> Bench {
        let mut random = Random(case.tokens[1] as u64 * 31 + case.k_dim as u64);
        let all: usize = case.tokens.iter().sum();
        let pages_of = case.tokens.map(|n| n.div_ceil(case.page_tokens));
        let frames = pages_of[0] + pages_of[1] + 3;
        let (page_tokens, kv_heads, k_dim, v_dim) = (case.page_tokens, case.kv_heads, case.k_dim, case.v_dim);
        let shape = KvShape {
            layers: 2,
            frames,
            page_tokens,
            kv_heads,
            k_dim,
            v_dim,
            content: if case.latent { FrameContent::Latent } else { FrameContent::KeysValues },
            dtype: case.dtype,
        };
        // Scattered, after a table nobody uses.
        let mut tables = vec![u32::MAX];
        tables.extend((0..pages_of[0] + pages_of[1]).map(|i| ((i * 7 + 2) % frames) as u32));
        if frames.is_multiple_of(7) {
            tables = (0..=(pages_of[0] + pages_of[1]) as u32).map(|i| i + 1).collect();
        }
        let starts = vec![1, 1 + pages_of[0] as u32];
        let pages = Memory::new(0);
        let q = random.vec(all * case.heads * k_dim).into_iter().map(|v| super::rounded(v * 2.0)).collect();
        let kv = [random.vec(all * kv_heads * k_dim), random.vec(all * kv_heads * v_dim)];
        let sinks = random.vec(case.heads).iter().map(|v| v * 5.0).collect();
        let mut bench = Bench { case, shape, pages, q, kv, sinks, tables, starts };
        bench.store();
        bench
    }

    /// Writes the keys and values, and keeps them as they were rounded.
    fn store(&mut self) {
        let (case, shape) = (self.case, self.shape);
        let size = case.dtype.size();
        let layer = shape.frame_bytes().unwrap() / 2;
        let rows = case.kv_heads * case.page_tokens;
        // Of the pages; what is not written is NaN.
        let mut bytes = vec![0xFFu8; shape.frames * shape.frame_bytes().unwrap()];
        for at in 0..case.tokens[0] + case.tokens[1] {
            let (sequence, position) = if at < case.tokens[0] { (0, at) } else { (1, at - case.tokens[0]) };
            let frame = self.tables[self.starts[sequence] as usize + position / case.page_tokens] as usize;
            let stored = if case.latent { 1 } else { 2 };
            for (which, dim) in [case.k_dim, case.v_dim].into_iter().enumerate().take(stored) {
                for head in 0..case.kv_heads {
                    let row = head * case.page_tokens + position % case.page_tokens;
                    let start = frame * 2 * layer + layer;
                    let place = start + (which * rows * case.k_dim + row * dim) * size;
                    let values = &mut self.kv[which][(at * case.kv_heads + head) * dim..][..dim];
                    let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
                    // As place_heads has it: not finite where any of the row is not.
                    let factor = largest / 127.0 + values.iter().map(|v| v * 0.0).sum::<f32>();
                    for (v, to) in values.iter_mut().zip(bytes[place..].chunks_exact_mut(size)) {
                        match case.dtype {
                            DType::F32 => to.copy_from_slice(&v.to_ne_bytes()),
                            DType::I8 => {
                                let code = (*v / factor).round() as i8;
                                to.copy_from_slice(&code.to_ne_bytes());
                                *v = f32::from(code) * factor;
                            }
                            _ => {
                                *v = super::rounded(*v);
                                to.copy_from_slice(&half::bf16::from_f32(*v).to_bits().to_ne_bytes());
                            }
                        }
                    }
                    if case.dtype == DType::I8 {
                        let factors = start + rows * shape.stored().0 + (which * rows + row) * 4;
                        bytes[factors..][..4].copy_from_slice(&factor.to_ne_bytes());
                    }
                }
            }
        }
        if case.latent {
            let keys = self.kv[0].chunks(case.k_dim);
            self.kv[1] = keys.flat_map(|key| key[..case.v_dim].to_vec()).collect();
        }
        self.pages = Memory::of(&bytes);
    }

    /// In f64, of one token.
    fn expected(&self, sequence: usize, position: usize) -> Vec<f64> {
        let case = self.case;
        let first = if sequence == 0 { 0 } else { case.tokens[0] };
        let begin = if case.window > 0 { (position + 1).saturating_sub(case.window) } else { 0 };
        let mut out = Vec::new();
        for head in 0..case.heads {
            let q = &self.q[((first + position) * case.heads + head) * case.k_dim..][..case.k_dim];
            let of = |which: usize, dim: usize, p: usize| {
                let kv_head = head / (case.heads / case.kv_heads);
                &self.kv[which][((first + p) * case.kv_heads + kv_head) * dim..][..dim]
            };
            let score = |p: usize| -> f64 {
                let dot: f64 = q.iter().zip(of(0, case.k_dim, p)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let (score, cap) = (dot * 0.25, f64::from(case.soft_cap));
                if cap > 0.0 { (cap * (score / cap).tanh()).exp() } else { score.exp() }
            };
            let end = match (case.later, case.window) {
                (false, _) => position,
                (true, 0) => case.tokens[sequence] - 1,
                (true, window) => (position + window).min(case.tokens[sequence]) - 1,
            };
            let weights: Vec<f64> = (begin..=end).map(score).collect();
            let sink = if case.sinks { f64::from(self.sinks[head]).exp() } else { 0.0 };
            let total: f64 = weights.iter().sum::<f64>() + sink;
            for d in 0..case.v_dim {
                let value = |(p, w): (usize, &f64)| w * f64::from(of(1, case.v_dim, p + begin)[d]);
                out.push(weights.iter().enumerate().map(value).sum::<f64>() / total);
            }
        }
        out
    }

    /// Attention of some runs of rows, (sequence, positions), in one launch; `split` over keys or whole, with `queries` for
    /// a block. The rounded results are checked to be those.
    fn run(&self, runs: &[(usize, std::ops::Range<usize>)], queries: usize, split: bool) -> Vec<f32> {
        let (out, both) = self.run_into(runs, queries, split, [true, true]);
        let (width, pitch) = (self.case.heads * self.case.v_dim, self.rounded_pitch());
        for (out, rounded) in out.chunks(width).zip(both.chunks(pitch)) {
            let mut expected: Vec<u16> = out.iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect();
            expected.resize(pitch, 0);
            if out.iter().all(|v| v.is_finite()) {
                assert_eq!(rounded, expected, "{:?}", self.case);
            }
        }
        out
    }

    fn rounded_pitch(&self) -> usize {
        (self.case.heads * self.case.v_dim).next_multiple_of(64)
    }

    /// The results and the rounded results, each if `wanted`.
    fn run_into(
        &self,
        runs: &[(usize, std::ops::Range<usize>)],
        queries: usize,
        split: bool,
        wanted: [bool; 2],
    ) -> (Vec<f32>, Vec<u16>) {
        let case = self.case;
        let (mut q, mut units): (Vec<f32>, Vec<Unit>) = (Vec::new(), Vec::new());
        let (mut positions, mut sequences): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for (sequence, range) in runs {
            units.push(Unit { first_row: positions.len() as i32, rows: range.len() as i32 });
            for p in range.clone() {
                let token = if *sequence == 0 { p } else { case.tokens[0] + p };
                let at = token * case.heads * case.k_dim;
                q.extend(&self.q[at..at + case.heads * case.k_dim]);
                positions.push(p as u32);
                sequences.push(*sequence as u32);
            }
        }
        let rows = positions.len();
        let longest = runs.iter().map(|run| run.1.len()).max().unwrap();
        let spans = case.tokens.iter().max().unwrap().div_ceil(256);
        let out = Memory::new(rows * case.heads * case.v_dim * 4);
        let rounded = Memory::new(rows * self.rounded_pitch() * 2);
        let parts = Memory::new(if split { rows * case.heads * spans * (2 + case.v_dim) * 4 } else { 0 });
        let (q, unit_list, sinks) = (Memory::of(&q), Memory::of(&units), Memory::of(&self.sinks));
        let integers = [&positions[..], &sequences, &self.tables, &self.starts].map(Memory::of);
        let args = Args {
            q: q.at(),
            q_row_stride: (case.heads * case.k_dim) as i64,
            q_head_stride: case.k_dim as i64,
            out: if wanted[0] { out.at() } else { std::ptr::null_mut() },
            parts: if split { parts.at() } else { std::ptr::null_mut() },
            spans_max: spans as i32,
            heads: case.heads as i32,
            scale: 0.25,
            window: case.window as i32,
            pages: Pages::new(&self.shape, 1, &self.pages),
            units: unit_list.at(),
            positions: integers[0].at(),
            sequences: integers[1].at(),
            tables: integers[2].at(),
            table_starts: integers[3].at(),
            soft_cap: case.soft_cap,
            rounded_pitch: self.rounded_pitch() as i32,
            rounded: if wanted[1] { rounded.at() } else { std::ptr::null_mut() },
            sinks: if case.sinks { sinks.at() } else { std::ptr::null() },
            rows: if case.later { rows as i32 } else { 0 },
        };
        if case.dtype == DType::F32 {
            launch("attention_f32", shape([rows, case.heads, 1], 128, (64 + case.v_dim) * 4), &[param(&args)]);
            return (out.read(), rounded.read());
        }
        let dim = [64, 128, 256, 512, 576].into_iter().find(|&d| d >= case.k_dim.max(case.v_dim)).unwrap();
        // The widest have kernels of 16 queries only.
        let queries = if dim >= 512 { 16 } else { queries };
        let pages = if case.dtype == DType::I8 { "i8" } else { "bf16" };
        let name = format!("attention_{pages}_{dim}x{queries}");
        let blocks = case.kv_heads * (longest * (case.heads / case.kv_heads)).div_ceil(queries);
        let stages = if dim >= 256 && queries == 16 { 1 } else { 2 };
        let factors = if case.dtype == DType::I8 { 512 } else { 0 };
        let totals = if split { 0 } else { queries * dim.min(512) * 4 };
        let tile = if dim >= 512 { 64 * 256 * 2 } else { 2 * 64 * dim * 2 };
        let shared = queries * dim * 2 + stages * (tile + factors) + totals;
        let grid = [units.len(), blocks, if split { spans } else { 1 }];
        launch(&name, shape(grid, 128, shared), &[param(&args)]);
        if split {
            launch("attention_merge", shape([units.len(), longest, case.heads], 128, 0), &[param(&args)]);
        }
        (out.read(), rounded.read())
    }

    /// Makes something of a token's keys or values not finite: an element of each head, or with 8-bit pages a row's factor.
    fn damage(&mut self, values: bool, position: usize, bad: f32) {
        let (case, which) = (self.case, usize::from(values));
        let dim = if values { case.v_dim } else { case.k_dim };
        for head in 0..case.kv_heads {
            let row = ((case.tokens[0] + position) * case.kv_heads + head) * dim;
            self.kv[which][row + (position + head) % dim] = bad;
        }
        self.store();
    }

    fn check(&self, sequence: usize, positions: std::ops::Range<usize>) {
        let tolerance = if self.case.dtype == DType::F32 { 1e-5 } else { 8e-3 };
        let expected: Vec<f64> = positions.clone().flat_map(|p| self.expected(sequence, p)).collect();
        for (queries, split) in [(16, true), (64, false)] {
            let got = self.run(&[(sequence, positions.clone())], queries, split);
            close(&format!("{:?} {positions:?} split {split}", self.case), &got, &expected, tolerance);
        }
    }
}

fn cases() -> Vec<Case> {
    let i8 = DType::I8;
    vec![
        PLAIN,
        Case { tokens: [15, 129], dtype: DType::F32, k_dim: 24, v_dim: 16, window: 50, ..PLAIN },
        Case { tokens: [5, 80], dtype: DType::F32, soft_cap: 0.7, ..PLAIN },
        Case { tokens: [64, 300], heads: 8, k_dim: 128, v_dim: 128, ..PLAIN },
        Case { tokens: [3, 270], heads: 3, kv_heads: 3, k_dim: 72, v_dim: 40, soft_cap: 0.6, window: 90, ..PLAIN },
        Case { tokens: [65, 270], heads: 2, k_dim: 80, v_dim: 64, page_tokens: 32, window: 100, ..PLAIN },
        Case { tokens: [3, 66], heads: 20, kv_heads: 1, k_dim: 256, v_dim: 192, page_tokens: 5, ..PLAIN },
        Case { tokens: [63, 260], dtype: i8, soft_cap: 1.5, ..PLAIN },
        Case { tokens: [1, 100], dtype: i8, heads: 6, k_dim: 96, v_dim: 128, window: 33, ..PLAIN },
        Case { tokens: [2, 65], dtype: i8, kv_heads: 1, k_dim: 256, v_dim: 256, ..PLAIN },
        Case { sinks: true, ..PLAIN },
        Case { tokens: [15, 129], dtype: DType::F32, sinks: true, soft_cap: 0.9, window: 50, ..PLAIN },
        Case { tokens: [3, 600], heads: 2, kv_heads: 1, sinks: true, window: 300, ..PLAIN },
        Case { tokens: [3, 270], dtype: i8, heads: 2, sinks: true, soft_cap: 1.5, ..PLAIN },
        Case { tokens: [3, 70], k_dim: 112, v_dim: 96, ..PLAIN },
        Case { tokens: [3, 70], heads: 2, k_dim: 192, v_dim: 128, ..PLAIN },
        Case { tokens: [3, 300], heads: 3, kv_heads: 1, k_dim: 512, v_dim: 512, sinks: true, ..PLAIN },
        Case { tokens: [3, 90], heads: 4, kv_heads: 1, k_dim: 200, v_dim: 408, window: 40, soft_cap: 2.0, ..PLAIN },
        Case { tokens: [1, 270], heads: 2, kv_heads: 2, dtype: i8, k_dim: 512, v_dim: 320, ..PLAIN },
        Case { tokens: [3, 100], heads: 20, kv_heads: 1, latent: true, k_dim: 576, v_dim: 512, ..PLAIN },
        Case { tokens: [3, 90], heads: 3, kv_heads: 1, latent: true, k_dim: 536, v_dim: 512, page_tokens: 5, ..PLAIN },
        Case { tokens: [3, 70], heads: 3, kv_heads: 1, latent: true, k_dim: 48, v_dim: 32, window: 40, ..PLAIN },
        Case { tokens: [1, 80], heads: 3, kv_heads: 1, latent: true, dtype: i8, k_dim: 576, v_dim: 512, ..PLAIN },
        Case { tokens: [3, 70], heads: 4, kv_heads: 1, latent: true, dtype: i8, k_dim: 96, v_dim: 64, ..PLAIN },
        Case { tokens: [3, 70], heads: 4, kv_heads: 1, latent: true, dtype: DType::F32, k_dim: 24, v_dim: 16, ..PLAIN },
    ]
}

/// Attention to later tokens, too: against a softmax, and the same bits however the rows of a sequence are divided.
#[test]
fn later_tokens_are_seen_where_they_are_asked_for() {
    if !begin() {
        return;
    }
    let later = Case { later: true, ..PLAIN };
    for case in [
        later,
        Case { tokens: [9, 150], window: 20, ..later },
        Case { tokens: [9, 400], heads: 2, kv_heads: 1, k_dim: 256, v_dim: 256, window: 300, ..later },
        Case { tokens: [9, 150], heads: 3, kv_heads: 1, k_dim: 512, v_dim: 512, window: 90, ..later },
        Case { tokens: [9, 150], dtype: DType::I8, sinks: true, ..later },
        Case { tokens: [9, 150], dtype: DType::F32, window: 70, soft_cap: 0.8, ..later },
    ] {
        let bench = Bench::new(case);
        let ([a, b], tolerance) = (case.tokens, if case.dtype == DType::F32 { 1e-5 } else { 8e-3 });
        let expected: Vec<f64> = (0..b).flat_map(|p| bench.expected(1, p)).collect();
        let whole = bench.run(&[(1, 0..b)], 64, false);
        close(&format!("{case:?}"), &whole, &expected, tolerance);
        same_bits("few queries", &bench.run(&[(1, 0..b)], 16, false), &whole);
        let among = bench.run(&[(0, 0..a), (1, 0..b / 3), (1, b / 3..b - 1), (1, b - 1..b)], 64, false);
        same_bits("cut, and after another", &among[a * case.heads * case.v_dim..], &whole);
        // A last row that is a unit of its own may have its keys split.
        let row = case.heads * case.v_dim;
        same_bits("split", &bench.run(&[(1, b - 1..b)], 16, true), &whole[(b - 1) * row..]);
    }
}

/// Values that are not finite are seen by those within the window alone, in both directions.
#[test]
fn damage_of_later_tokens_stays_with_those_who_see_them() {
    if !begin() {
        return;
    }
    for dtype in [DType::Bf16, DType::F32, DType::I8] {
        let mut bench = Bench::new(Case { tokens: [1, 150], window: 20, later: true, dtype, ..PLAIN });
        bench.damage(true, 70, f32::NAN);
        let (got, row) = (bench.run(&[(1, 0..150)], 64, false), 4 * 64);
        for (position, row) in got.chunks(row).enumerate() {
            let sees = (70usize.saturating_sub(19)..=70 + 19).contains(&position);
            assert_eq!(row.iter().all(|x| x.is_finite()), !sees, "{dtype} {position}");
        }
    }
}

#[test]
fn attention_agrees_with_a_softmax() {
    if !begin() {
        return;
    }
    for case in cases() {
        let bench = Bench::new(case);
        let [a, b] = case.tokens;
        bench.check(0, 0..a.min(3));
        bench.check(1, b - 1..b);
        bench.check(1, b.saturating_sub(10)..b);
    }
}

/// Law 1.
#[test]
fn a_row_of_attention_has_the_same_bits_however_it_is_cut() {
    if !begin() {
        return;
    }
    for case in cases() {
        let bench = Bench::new(case);
        let [a, b] = case.tokens;
        let first = b.saturating_sub(40);
        let width = case.heads * case.v_dim;
        let whole = bench.run(&[(0, 0..a.min(20)), (1, first..b)], 64, false);
        let (other, rows) = whole.split_at(a.min(20) * width);
        let what = |how: &str| format!("{case:?} {how}");
        same_bits(&what("split, few"), &bench.run(&[(1, first..b)], 16, true), rows);
        same_bits(&what("split"), &bench.run(&[(1, first..b), (0, 0..a.min(20))], 64, true)[..rows.len()], rows);
        same_bits(&what("whole, few"), &bench.run(&[(0, 0..a.min(20))], 16, false), other);
        for p in [first, first + 7, b - 1] {
            let alone = &rows[(p - first) * width..][..width];
            same_bits(&what("alone"), &bench.run(&[(1, p..p + 1)], 16, true), alone);
            same_bits(&what("alone, whole"), &bench.run(&[(1, p..p + 1)], 64, false), alone);
        }
    }
}

/// More spans than are loaded together, with and without some that a window hides.
#[test]
fn many_spans_are_merged_as_they_are_taken_whole() {
    if !begin() {
        return;
    }
    for window in [0, 2100] {
        let bench = Bench::new(Case { tokens: [1, 2600], heads: 2, kv_heads: 1, window, ..PLAIN });
        for p in [2047, 2048, 2599] {
            let runs = [(1, p..p + 1)];
            let what = format!("window {window}, position {p}");
            same_bits(&what, &bench.run(&runs, 16, true), &bench.run(&runs, 64, false));
        }
        bench.check(1, 2598..2600);
    }
}

#[test]
fn attention_gives_either_form_of_its_result_alone() {
    if !begin() {
        return;
    }
    for case in [PLAIN, Case { tokens: [3, 66], heads: 3, kv_heads: 3, v_dim: 24, ..PLAIN }] {
        for dtype in [DType::Bf16, DType::I8, DType::F32] {
            // Rows of 8-bit pages are whole multiples of 16.
            let bench = Bench::new(Case { dtype, v_dim: if dtype == DType::I8 { 48 } else { case.v_dim }, ..case });
            for (queries, split) in [(16, true), (64, false)] {
                let run = |wanted| bench.run_into(&[(1, 60..66)], queries, split, wanted);
                let both = run([true, true]);
                same_bits("not rounded", &run([true, false]).0, &both.0);
                assert_eq!(run([false, true]).1, both.1);
            }
        }
    }
}

/// Values and keys that are not finite reach the queries that see their tokens, as they do in plain loops, and nobody else:
/// not earlier rows of the tile, not later ones whose window has passed.
#[test]
fn damage_stays_with_those_who_see_it() {
    if !begin() {
        return;
    }
    let i8 = DType::I8;
    let all = [
        PLAIN,
        Case { tokens: [1, 100], dtype: DType::F32, k_dim: 24, v_dim: 16, window: 20, ..PLAIN },
        Case { tokens: [1, 270], heads: 2, kv_heads: 1, k_dim: 128, v_dim: 72, ..PLAIN },
        Case { tokens: [1, 200], heads: 3, kv_heads: 1, window: 20, ..PLAIN },
        Case { tokens: [1, 260], heads: 1, kv_heads: 1, dtype: i8, ..PLAIN },
        Case { tokens: [1, 200], heads: 2, kv_heads: 1, window: 20, dtype: i8, ..PLAIN },
        Case { tokens: [1, 200], heads: 1, kv_heads: 1, window: 20, k_dim: 512, v_dim: 512, sinks: true, ..PLAIN },
        Case { tokens: [1, 200], heads: 1, kv_heads: 1, k_dim: 320, v_dim: 512, dtype: i8, ..PLAIN },
    ];
    for case in all {
        let [_, b] = case.tokens;
        let (first, width) = (b.saturating_sub(100), case.heads * case.v_dim);
        let clean = Bench::new(case).run(&[(1, first..b)], 64, false);
        for values in [true, false] {
            let mut bench = Bench::new(case);
            let damaged = [b - 1, b - 12, b / 64 * 64 - 1, first + 3];
            for (position, bad) in damaged.into_iter().zip([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]) {
                bench.damage(values, position, if values { bad } else { f32::NAN });
            }
            let sees = |p: usize| damaged.iter().any(|&d| d <= p && (case.window == 0 || d + case.window > p));
            let what = |p: usize| format!("{case:?}, values {values} at {damaged:?}, row {p}");
            let runs = [(64, false, first..b), (16, true, b - 13..b), (16, false, b - 13..b)];
            for (queries, split, rows) in runs {
                let got = bench.run(&[(1, rows.clone())], queries, split);
                for (p, got) in rows.zip(got.chunks(width)) {
                    if !sees(p) {
                        same_bits(&what(p), got, &clean[(p - first) * width..][..width]);
                        continue;
                    }
                    for (d, (got, expected)) in got.iter().zip(bench.expected(1, p)).enumerate() {
                        let same = if expected.is_finite() {
                            (f64::from(*got) - expected).abs() <= 8e-3
                        } else {
                            got.is_nan() == expected.is_nan() && got.is_infinite() == expected.is_infinite()
                        };
                        assert!(same, "{}, element {d}: {got} for {expected}", what(p));
                    }
                }
            }
        }
    }
}
