//! Every CPU tier against the reference tier, through the [`Backend`] trait, at edge sizes; and law 1 for each
//! operation: a row's result does not depend on its neighbours, on threads, or on how a prompt was cut.

#![allow(clippy::print_stdout, reason = "seeds and measured differences belong to a test's report")]

use astrai::backend::cpu::{Compute, CpuBackend, Tier, tiers};
use astrai::backend::{Attention, Backend, Heads, KvShape, Linear, Ragged, Tensor, Weight, scratch_elements};
use astrai::dtype::DType;
use astrai::encoding::{Encoding, Scheme};
use astrai::os::aligned::AlignedBytes;
use astrai::os::thread::ThreadOptions;
use std::sync::Arc;

/// Seeded numbers in [-1, 1).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

#[repr(align(64))]
struct Aligned(Vec<u32>);

/// Bytes of `values` as `dtype`, aligned for it.
struct Stored(Aligned, usize);

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: a Vec<u32> of at least this many bytes, any byte of which is initialised.
        unsafe { std::slice::from_raw_parts(self.0.0.as_ptr().cast(), self.1) }
    }
}

fn stored(values: &[f32], dtype: DType) -> Arc<Stored> {
    let bytes: Vec<u8> = match dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
    };
    let mut words = vec![0u32; bytes.len().div_ceil(4)];
    for (i, b) in bytes.iter().enumerate() {
        words[i / 4] |= (*b as u32) << (8 * (i % 4));
    }
    Arc::new(Stored(Aligned(words), bytes.len()))
}

fn backend(tier: Tier, threads: usize) -> CpuBackend {
    CpuBackend::new(tier, Compute::F32, threads, ThreadOptions::default()).unwrap()
}

fn put(b: &mut CpuBackend, values: &[f32]) -> Tensor {
    // An embedding of one long row is the trait's way to bring host values in.
    let table = b.weight(stored(values, DType::F32), Encoding::Stored(DType::F32), 1, values.len()).unwrap();
    let t = b.alloc(values.len(), "test").unwrap();
    b.embed(table, &[0], t);
    t
}

fn get(b: &mut CpuBackend, t: Tensor, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    b.read(t, &mut out);
    out
}

fn other_tiers() -> Vec<Tier> {
    let all = tiers();
    println!("tiers of this machine: {all:?}");
    all.into_iter().filter(|t| *t != Tier::Reference).collect()
}

fn close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what}: element {i} is {g}, the reference says {w}");
    }
}

struct Product {
    rows: usize,
    outs: usize,
    ins: usize,
    dtype: DType,
    bias: bool,
}

fn linear(tier: Tier, threads: usize, p: &Product, x: &[f32]) -> Vec<f32> {
    let mut r = Random(p.outs as u64 * 31 + p.ins as u64);
    let (w, bias, before) = (r.vec(p.outs * p.ins), r.vec(p.outs), r.next());
    let mut b = backend(tier, threads);
    let weight = b.weight(stored(&w, p.dtype), Encoding::Stored(p.dtype), p.outs, p.ins).unwrap();
    let bias = p.bias.then(|| b.weight(stored(&bias, p.dtype), Encoding::Stored(p.dtype), 1, p.outs).unwrap());
    let x = put(&mut b, x);
    let out = put(&mut b, &vec![before; p.rows * p.outs]);
    let scratch = b.alloc(p.rows * scratch_elements(p.ins), "test").unwrap();
    b.linear(x, p.rows, &[Linear { weight, bias, out, accumulate: p.bias }], scratch);
    get(&mut b, out, p.rows * p.outs)
}

#[test]
fn linear_agrees_with_the_reference_at_edge_sizes() {
    // Sums of up to 1,000 products of numbers below 1 differ by rounding in another order: about 1e-7 * sqrt(1000) each.
    for tier in other_tiers() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for (rows, outs, ins) in
                [(1, 1, 1), (1, 17, 7), (2, 16, 8), (3, 33, 9), (4, 15, 64), (5, 3, 65), (9, 64, 100), (17, 40, 1000)]
            {
                for bias in [false, true] {
                    let p = Product { rows, outs, ins, dtype, bias };
                    let x = Random(5).vec(rows * ins);
                    let want = linear(Tier::Reference, 1, &p, &x);
                    close(&linear(tier, 2, &p, &x), &want, 3e-5, &format!("{tier:?} {dtype} {rows}x{outs}x{ins}"));
                }
            }
        }
    }
}

#[test]
fn a_row_of_a_product_does_not_depend_on_the_others() {
    for tier in tiers() {
        for dtype in [DType::F32, DType::Bf16] {
            let (outs, ins, rows) = (137, 203, 11);
            let x = Random(9).vec(rows * ins);
            let all = linear(tier, 3, &Product { rows, outs, ins, dtype, bias: true }, &x);
            for row in 0..rows {
                let alone = Product { rows: 1, outs, ins, dtype, bias: true };
                let one = linear(tier, 1, &alone, &x[row * ins..(row + 1) * ins]);
                assert_eq!(all[row * outs..(row + 1) * outs], one, "{tier:?} {dtype}, row {row}");
            }
        }
    }
}

/// As [`linear`], with a quantized weight.
fn quantized(tier: Tier, threads: usize, scheme: Scheme, p: &Product, x: &[f32]) -> Vec<f32> {
    let mut r = Random(p.outs as u64 * 17 + p.ins as u64);
    let (w, bias, before) = (r.vec(p.outs * p.ins), r.vec(p.outs), r.next());
    let mut b = backend(tier, threads);
    let mut panels = AlignedBytes::zeroed(scheme.bytes(p.outs, p.ins).unwrap()).unwrap();
    b.quantize((*stored(&w, p.dtype)).as_ref(), p.dtype, p.outs, p.ins, scheme, panels.as_mut_slice()).unwrap();
    let weight = b.weight(Arc::new(panels), Encoding::Quantized(scheme), p.outs, p.ins).unwrap();
    let bias = p.bias.then(|| b.weight(stored(&bias, p.dtype), Encoding::Stored(p.dtype), 1, p.outs).unwrap());
    let x = put(&mut b, x);
    let out = put(&mut b, &vec![before; p.rows * p.outs]);
    let scratch = b.alloc(p.rows * scratch_elements(p.ins), "test").unwrap();
    b.linear(x, p.rows, &[Linear { weight, bias, out, accumulate: p.bias }], scratch);
    get(&mut b, out, p.rows * p.outs)
}

#[test]
fn quantized_products_are_the_same_bits_on_every_tier() {
    for tier in other_tiers() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            for (rows, outs, ins) in [
                (1, 1, 1),
                (1, 17, 7),
                (2, 16, 32),
                (3, 33, 65),
                (4, 15, 64),
                (5, 48, 96),
                (6, 65, 127),
                (7, 130, 256),
                (9, 64, 100),
                (17, 40, 1000),
            ] {
                for (dtype, bias) in [(DType::Bf16, false), (DType::F32, true)] {
                    let p = Product { rows, outs, ins, dtype, bias };
                    let x = Random(5).vec(rows * ins);
                    let want = quantized(Tier::Reference, 1, scheme, &p, &x);
                    for threads in 1..=3 {
                        let got = quantized(tier, threads, scheme, &p, &x);
                        assert_eq!(got, want, "{tier:?} {scheme:?} {rows}x{outs}x{ins}, {threads} threads");
                    }
                }
            }
        }
    }
}

#[test]
fn a_quantized_product_is_close_to_the_product() {
    for (scheme, bound) in [(Scheme::Q8, 0.02), (Scheme::Q4, 0.2)] {
        let p = Product { rows: 3, outs: 40, ins: 512, dtype: DType::F32, bias: false };
        let x = Random(5).vec(p.rows * p.ins);
        let w = Random(p.outs as u64 * 17 + p.ins as u64).vec(p.outs * p.ins);
        let got = quantized(Tier::Reference, 1, scheme, &p, &x);
        let (mut error, mut size) = (0.0, 0.0);
        for (i, got) in got.iter().enumerate() {
            let (row, out) = (i / p.outs, i % p.outs);
            let want: f32 = (0..p.ins).map(|i| x[row * p.ins + i] * w[out * p.ins + i]).sum();
            (error, size) = (error + (got - want).powi(2), size + want.powi(2));
        }
        assert!((error / size).sqrt() < bound, "{scheme:?}: relative error {}", (error / size).sqrt());
    }
}

#[test]
fn a_quantized_product_does_not_hide_a_nan() {
    for tier in tiers() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            let p = Product { rows: 2, outs: 16, ins: 70, dtype: DType::F32, bias: false };
            let mut x = Random(5).vec(p.rows * p.ins);
            x[66] = f32::NAN;
            let got = quantized(tier, 1, scheme, &p, &x);
            assert!(
                got[..16].iter().all(|v| v.is_nan()) && got[16..].iter().all(|v| v.is_finite()),
                "{tier:?} {got:?}"
            );
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    page_tokens: usize,
    window: Option<u32>,
    dtype: DType,
}

/// Attention over one sequence of `case.tokens`, stored and computed in chunks that end at `cuts`.
fn attention(tier: Tier, threads: usize, case: Case, cuts: &[usize]) -> Vec<f32> {
    let Case { tokens, heads, kv_heads, dim, page_tokens, window, dtype } = case;
    let mut r = Random(tokens as u64 * 7 + dim as u64);
    let (q, k, v) = (r.vec(tokens * heads * dim), r.vec(tokens * kv_heads * dim), r.vec(tokens * kv_heads * dim));
    let mut b = backend(tier, threads);
    let frames = tokens.div_ceil(page_tokens);
    let pages = b
        .kv_pages(KvShape { layers: 2, frames: frames + 3, page_tokens, kv_heads, k_dim: dim, v_dim: dim, dtype })
        .unwrap();
    // Frames in a scattered order, after another sequence's table.
    let table: Vec<u32> = std::iter::once(0).chain((0..frames as u32).map(|i| frames as u32 + 2 - i)).collect();
    let mut result = Vec::new();
    let mut first = 0;
    for &end in cuts.iter().chain([&tokens]) {
        let n = end - first;
        if n == 0 {
            continue;
        }
        let view = |b: &mut CpuBackend, data: &[f32], heads: usize| Heads {
            tensor: put(b, &data[first * heads * dim..end * heads * dim]),
            row_stride: heads * dim,
            head_stride: dim,
            heads,
            dim,
        };
        let (q, k, v) = (view(&mut b, &q, heads), view(&mut b, &k, kv_heads), view(&mut b, &v, kv_heads));
        let positions: Vec<u32> = (first as u32..end as u32).collect();
        let ragged = Ragged { positions: &positions, sequences: &vec![1; n], tables: &table, table_starts: &[0, 1] };
        b.store_kv(pages, 1, k, v, ragged);
        let out = b.alloc(n * heads * dim, "out").unwrap();
        b.attention(Attention { q, out, pages, layer: 1, scale: 0.5, window }, ragged);
        result.extend(get(&mut b, out, n * heads * dim));
        first = end;
    }
    result
}

fn attention_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (tokens, window) in [(1, None), (7, None), (16, None), (17, Some(5)), (40, Some(16)), (70, None), (70, Some(1))]
    {
        for (heads, kv_heads, dim) in [(1, 1, 2), (6, 1, 10), (4, 2, 64)] {
            for dtype in [DType::F32, DType::Bf16] {
                cases.push(Case { tokens, heads, kv_heads, dim, page_tokens: 16, window, dtype });
            }
        }
    }
    cases
}

#[test]
fn attention_agrees_with_the_reference() {
    // Scores below dim / 2 in size; the running softmax reorders sums of at most 70 terms.
    for tier in other_tiers() {
        for case in attention_cases() {
            let want = attention(Tier::Reference, 1, case, &[]);
            close(&attention(tier, 2, case, &[]), &want, 2e-5, &format!("{tier:?} {case:?}"));
        }
    }
}

#[test]
fn attention_does_not_depend_on_chunks_or_threads() {
    for tier in tiers() {
        for case in attention_cases() {
            let whole = attention(tier, 1, case, &[]);
            for cuts in [vec![case.tokens / 2], (1..case.tokens).collect(), vec![case.tokens / 3, case.tokens - 1]] {
                assert_eq!(whole, attention(tier, 3, case, &cuts), "{tier:?} {case:?} cut at {cuts:?}");
            }
        }
    }
}

#[test]
fn element_wise_operations_agree_with_the_reference() {
    for tier in other_tiers() {
        for n in [1usize, 7, 8, 9, 100, 20_000] {
            let run = |tier| {
                let mut r = Random(n as u64);
                let (mut x, y) = (r.vec(n), r.vec(n));
                x.iter_mut().for_each(|v| *v *= 20.0);
                let mut b = backend(tier, 2);
                let gain: Weight = b.weight(stored(&y, DType::Bf16), Encoding::Stored(DType::Bf16), 1, n).unwrap();
                let (a, c, d, e) = (put(&mut b, &x), put(&mut b, &x), put(&mut b, &x), put(&mut b, &y));
                b.silu_mul(a, e, n);
                b.sigmoid_mul(c, e, n);
                b.rms_norm(d, gain, 1e-5, 1, d);
                b.add_scaled(e, d, 0.25, n);
                [a, c, d, e].map(|t| get(&mut b, t, n)).concat()
            };
            close(
                &run(tier),
                &run(Tier::Reference),
                2e-6 * (n as f32).sqrt().max(4.0),
                &format!("{tier:?}, {n} elements"),
            );
        }
    }
}
