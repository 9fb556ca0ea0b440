//! Every CPU tier against the reference tier, through the [`Backend`] trait, at edge sizes; and law 1 for each
//! operation: a row's result does not depend on its neighbours, on threads, or on how a prompt was cut.

use crate::support::random::Random;
use astrai::backend::cpu::{Compute, CpuBackend, Tier, tiers};
use astrai::backend::{Activation, Gating, Heads, Linear, MaxBatchShape, Memory, Norm, Operations, Steps, Tensor};
use astrai::dtype::DType;
use astrai::encoding::{Encoding, Quantizer, Scheme};
use astrai::os::aligned::AlignedBytes;
use astrai::os::thread::ThreadOptions;
use std::sync::Arc;

mod attention;

#[repr(align(64))]
struct Aligned(Vec<u32>);

/// Bytes of `values` as `dtype`, aligned for it.
pub struct Stored(Aligned, usize);

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: a Vec<u32> of at least this many bytes, any byte of which is initialised.
        unsafe { std::slice::from_raw_parts(self.0.0.as_ptr().cast(), self.1) }
    }
}

pub fn stored(values: &[f32], dtype: DType) -> Arc<Stored> {
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
    backend_computing(Compute::F32, tier, threads)
}

fn backend_computing(compute: Compute, tier: Tier, threads: usize) -> CpuBackend {
    let mut b = CpuBackend::new(tier, compute, threads, ThreadOptions::default()).unwrap();
    b.reserve(&LARGEST).unwrap();
    b
}

/// Lets the attention of every case be cut in spans.
const LARGEST: MaxBatchShape = MaxBatchShape {
    rows: 4096,
    positions: 4096,
    in_features: 64,
    best: 0,
    heads_per_kv: 64,
    k_dim: 512,
    v_dim: 512,
    experts: 0,
    conv_kernel: 0,
    state_dim: 0,
    chosen: 0,
    sequences: 1,
    logits_rows: 0,
    groups: 1,
    page_tokens: 16,
    table_pages: 0,
    frequencies: 0,
    heads: 64,
    expert_inner: 0,
    hidden: 64,
    vocab: 0,
};

fn put(b: &mut CpuBackend, values: &[f32]) -> Tensor {
    // An embedding of one long row is the trait's way to bring host values in.
    let table = b.weight(stored(values, DType::F32), Encoding::Stored(DType::F32), 1, values.len()).unwrap();
    let t = b.alloc(values.len(), "test").unwrap();
    b.step().tokens = vec![0];
    b.embed(table, 1.0, t);
    t
}

fn get(b: &mut CpuBackend, t: Tensor, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    b.read(t, &mut out).unwrap();
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

#[test]
fn auto_is_the_fastest_tier_there_is() {
    assert_eq!(Some(&backend(Tier::Auto, 1).tier()), tiers().last());
}

struct Product {
    rows: usize,
    out_features: usize,
    in_features: usize,
    dtype: DType,
    bias: bool,
}

fn linear(tier: Tier, threads: usize, p: &Product, x: &[f32]) -> Vec<f32> {
    linear_computing(Compute::F32, tier, threads, p, x)
}

fn linear_computing(compute: Compute, tier: Tier, threads: usize, p: &Product, x: &[f32]) -> Vec<f32> {
    product(
        backend_computing(compute, tier, threads),
        Random(p.out_features as u64 * 31 + p.in_features as u64),
        None,
        p,
        x,
    )
}

/// The product of `x` with weights drawn from `r`, as stored or quantized.
fn product(mut b: CpuBackend, mut r: Random, scheme: Option<Scheme>, p: &Product, x: &[f32]) -> Vec<f32> {
    let (w, bias, before) = (r.vec(p.out_features * p.in_features), r.vec(p.out_features), r.next());
    let w = stored(&w, p.dtype);
    let weight = match scheme {
        None => b.weight(w, Encoding::Stored(p.dtype), p.out_features, p.in_features).unwrap(),
        Some(scheme) => {
            let mut panels = AlignedBytes::zeroed(scheme.bytes(p.out_features, p.in_features).unwrap()).unwrap();
            let mut quantizer = Quantizer::new(b.threads(), ThreadOptions::default()).unwrap();
            let shape = [p.out_features, p.in_features];
            quantizer.quantize((*w).as_ref(), p.dtype, shape, scheme, panels.as_mut_slice()).unwrap();
            b.weight(Arc::new(panels), Encoding::Quantized(scheme), p.out_features, p.in_features).unwrap()
        }
    };
    let bias = p.bias.then(|| b.weight(stored(&bias, p.dtype), Encoding::Stored(p.dtype), 1, p.out_features).unwrap());
    let x = put(&mut b, x);
    let out = put(&mut b, &vec![before; p.rows * p.out_features]);
    b.linear(x, p.rows, &[Linear { weight, bias, out, accumulate: p.bias }]);
    get(&mut b, out, p.rows * p.out_features)
}

#[test]
fn linear_agrees_with_the_reference_at_edge_sizes() {
    // Sums of up to 1,000 products of numbers below 1 differ by rounding in another order: about 1e-7 * sqrt(1000) each.
    for tier in other_tiers() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for (rows, out_features, in_features) in
                [(1, 1, 1), (1, 17, 7), (2, 16, 8), (3, 33, 9), (4, 15, 64), (5, 3, 65), (9, 64, 100), (17, 40, 1000)]
            {
                for bias in [false, true] {
                    let p = Product { rows, out_features, in_features, dtype, bias };
                    let x = Random(5).vec(rows * in_features);
                    let want = linear(Tier::Reference, 1, &p, &x);
                    close(
                        &linear(tier, 2, &p, &x),
                        &want,
                        3e-5,
                        &format!("{tier:?} {dtype} {rows}x{out_features}x{in_features}"),
                    );
                }
            }
        }
    }
}

#[test]
fn products_of_bf16_weights_round_their_inputs_at_most() {
    // Inputs that bf16 holds exactly leave only the order of the sum, and that the dot instruction flushes subnormal products.
    for tier in other_tiers() {
        for (rows, out_features, in_features) in [
            (1, 1, 1),
            (1, 17, 7),
            (2, 16, 32),
            (3, 33, 65),
            (4, 15, 64),
            (5, 3, 31),
            (6, 130, 96),
            (9, 64, 100),
            (17, 40, 1000),
        ] {
            for bias in [false, true] {
                let p = Product { rows, out_features, in_features, dtype: DType::Bf16, bias };
                let x: Vec<f32> =
                    Random(5).vec(rows * in_features).iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
                let want = linear(Tier::Reference, 1, &p, &x);
                let got = linear_computing(Compute::Bf16, tier, 2, &p, &x);
                close(&got, &want, 3e-5, &format!("{tier:?} {rows}x{out_features}x{in_features}"));
            }
        }
    }
}

#[test]
fn a_row_of_a_product_does_not_depend_on_the_others() {
    for tier in tiers() {
        for (dtype, compute) in [(DType::F32, Compute::F32), (DType::Bf16, Compute::F32), (DType::Bf16, Compute::Bf16)]
        {
            let (out_features, in_features) = (137, 203);
            let x = Random(9).vec(19 * in_features);
            for rows in [2, 3, 4, 5, 11, 19] {
                let together = Product { rows, out_features, in_features, dtype, bias: true };
                let all = linear_computing(compute, tier, 3, &together, &x[..rows * in_features]);
                for row in 0..rows {
                    let alone = Product { rows: 1, out_features, in_features, dtype, bias: true };
                    let one =
                        linear_computing(compute, tier, 1, &alone, &x[row * in_features..(row + 1) * in_features]);
                    assert_eq!(
                        all[row * out_features..(row + 1) * out_features],
                        one,
                        "{tier:?} {dtype} {compute:?}, row {row} of {rows}"
                    );
                }
            }
        }
    }
}

/// As [`linear`], with a quantized weight.
fn quantized(tier: Tier, threads: usize, scheme: Scheme, p: &Product, x: &[f32]) -> Vec<f32> {
    product(backend(tier, threads), Random(p.out_features as u64 * 17 + p.in_features as u64), Some(scheme), p, x)
}

#[test]
fn quantized_products_are_the_same_bits_on_every_tier() {
    for tier in other_tiers() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            for (rows, out_features, in_features) in [
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
                    let p = Product { rows, out_features, in_features, dtype, bias };
                    let x = Random(5).vec(rows * in_features);
                    let want = quantized(Tier::Reference, 1, scheme, &p, &x);
                    for threads in 1..=3 {
                        let got = quantized(tier, threads, scheme, &p, &x);
                        assert_eq!(
                            got, want,
                            "{tier:?} {scheme:?} {rows}x{out_features}x{in_features}, {threads} threads"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_quantized_product_is_close_to_the_product() {
    for (scheme, bound) in [(Scheme::Q8, 0.02), (Scheme::Q4, 0.2)] {
        let p = Product { rows: 3, out_features: 40, in_features: 512, dtype: DType::F32, bias: false };
        let x = Random(5).vec(p.rows * p.in_features);
        let w = Random(p.out_features as u64 * 17 + p.in_features as u64).vec(p.out_features * p.in_features);
        let got = quantized(Tier::Reference, 1, scheme, &p, &x);
        let (mut error, mut size) = (0.0, 0.0);
        for (i, got) in got.iter().enumerate() {
            let (row, out) = (i / p.out_features, i % p.out_features);
            let want: f32 = (0..p.in_features).map(|i| x[row * p.in_features + i] * w[out * p.in_features + i]).sum();
            (error, size) = (error + (got - want).powi(2), size + want.powi(2));
        }
        assert!((error / size).sqrt() < bound, "{scheme:?}: relative error {}", (error / size).sqrt());
    }
}

#[test]
fn a_quantized_product_does_not_hide_a_nan() {
    for tier in tiers() {
        for scheme in [Scheme::Q8, Scheme::Q4] {
            let p = Product { rows: 2, out_features: 16, in_features: 70, dtype: DType::F32, bias: false };
            let mut x = Random(5).vec(p.rows * p.in_features);
            x[66] = f32::NAN;
            let got = quantized(tier, 1, scheme, &p, &x);
            assert!(
                got[..16].iter().all(|v| v.is_nan()) && got[16..].iter().all(|v| v.is_finite()),
                "{tier:?} {got:?}"
            );
        }
    }
}

/// Activations, one of them with bounds inside the inputs of the tests.
const ACTIVATIONS: [Activation; 5] = [
    Activation::Silu,
    Activation::GeluTanh,
    Activation::Gelu,
    Activation::Relu2,
    Activation::Clamped { alpha: 1.702, limit: 0.6 },
];

/// Rows at edge sizes; more elements than one task has.
const SIZES: [(usize, usize); 7] = [(1, 1), (3, 7), (1, 8), (2, 9), (5, 100), (1, 20_000), (3, 9_001)];

#[test]
fn element_wise_operations_agree_with_the_reference() {
    for tier in other_tiers() {
        for n in SIZES.map(|(rows, width)| rows * width) {
            let run = |tier| {
                let mut r = Random(n as u64);
                let (mut x, y) = (r.vec(n), r.vec(n));
                x.iter_mut().for_each(|v| *v *= 20.0);
                let mut b = backend(tier, 2);
                let one = put(&mut b, &[1.0]);
                let mut results = Vec::new();
                for activation in ACTIVATIONS {
                    // Products by one of the numbers themselves, so that their gate can be looked at.
                    let [(gate, a), (up, rest)] = [&x, &y].map(|values| {
                        let weight = b.weight(stored(values, DType::F32), Encoding::Stored(DType::F32), n, 1).unwrap();
                        let out = b.alloc(n, "test").unwrap();
                        (Linear { weight, bias: None, out, accumulate: false }, out)
                    });
                    assert_ne!(a, rest);
                    b.gated(one, 1, gate, up, activation);
                    let alone = put(&mut b, &x);
                    b.activate(alone, activation, n);
                    results.extend([a, alone]);
                }
                let (capped, scaled, added, other) =
                    (put(&mut b, &x), put(&mut b, &x), put(&mut b, &x), put(&mut b, &y));
                b.softcap(capped, 7.0, n);
                b.scale(scaled, -0.3, n);
                b.add_scaled(added, other, 0.25, n);
                results.extend([capped, scaled, added]);
                results.iter().map(|&t| get(&mut b, t, n)).collect::<Vec<_>>()
            };
            for (i, (got, want)) in run(tier).iter().zip(run(Tier::Reference)).enumerate() {
                close(got, &want, 4e-6, &format!("{tier:?}, operation {i}, {n} elements"));
            }
        }
    }
}

/// A row with a NaN says so, and no other does.
#[test]
fn element_wise_operations_keep_a_nan() {
    for tier in tiers() {
        for activation in ACTIVATIONS {
            for n in [1usize, 8, 37] {
                let mut b = backend(tier, 2);
                let (mut x, at) = (vec![0.5; n], n / 2);
                x[at] = f32::NAN;
                let [alone, capped, gated] = [0; 3].map(|_| put(&mut b, &x));
                let one = put(&mut b, &[1.0]);
                let mut product = |values: &[f32]| {
                    let weight = b.weight(stored(values, DType::F32), Encoding::Stored(DType::F32), n, 1).unwrap();
                    Linear { weight, bias: None, out: b.alloc(n, "test").unwrap(), accumulate: false }
                };
                let (plain, with) = (product(&vec![0.5; n]), product(&x));
                b.gated(one, 1, plain, with, activation);
                b.activate(alone, activation, n);
                b.softcap(capped, 2.0, n);
                let scores = Heads { tensor: alone, row_stride: n, head_stride: n, heads: 1, dim: n };
                b.gate_mul(gated, n, scores, Gating::Sigmoid, 1);
                for t in [alone, capped, gated, plain.out] {
                    for (i, v) in get(&mut b, t, n).iter().enumerate() {
                        assert_eq!(v.is_nan(), i == at, "{tier:?} {activation:?}, {i} of {n}: {v}");
                    }
                }
            }
        }
    }
}

#[test]
fn norms_agree_with_the_reference_and_keep_their_rows_apart() {
    for tier in tiers() {
        for (rows, width) in SIZES {
            for (gained, biased, centred) in
                [(true, false, false), (false, false, false), (true, true, true), (false, true, true)]
            {
                let mut r = Random(width as u64);
                let (x, gain, bias) = (r.vec(rows * width), r.vec(width), r.vec(width));
                let run = |tier, x: &[f32], in_place: bool| {
                    let mut b = backend(tier, 3);
                    let mut vector = |values: &[f32]| {
                        b.weight(stored(values, DType::Bf16), Encoding::Stored(DType::Bf16), 1, width).unwrap()
                    };
                    let norm = Norm {
                        gain: gained.then(|| vector(&gain)),
                        bias: biased.then(|| vector(&bias)),
                        eps: 1e-5,
                        centred,
                    };
                    let from = put(&mut b, x);
                    let to = if in_place { from } else { b.alloc(x.len(), "test").unwrap() };
                    b.norm(from, &norm, width, x.len() / width, to);
                    if !in_place {
                        assert_eq!(get(&mut b, from, x.len()), x, "the input is as it was");
                    }
                    get(&mut b, to, x.len())
                };
                let what = format!("{tier:?}, {rows} x {width}, {gained} {biased} {centred}");
                let got = run(tier, &x, true);
                // Rows of one element have no deviation: what a centred norm divides by is eps.
                close(&got, &run(Tier::Reference, &x, true), 2e-6 * (width as f32).sqrt().max(4.0), &what);
                assert_eq!(got, run(tier, &x, false), "{what}, not in place");
                for row in 0..rows {
                    let range = row * width..(row + 1) * width;
                    assert_eq!(got[range.clone()], run(tier, &x[range], true), "{what}, row {row} alone");
                }
            }
        }
    }
}

/// Gates of every element and of whole heads, in rows of something larger.
#[test]
fn gates_of_heads_agree_with_the_reference() {
    for tier in other_tiers() {
        for (rows, heads, dim) in [(1, 1, 1), (2, 3, 7), (5, 4, 64), (3, 2, 80)] {
            let gatings = [Gating::Sigmoid, Gating::Silu, Gating::Plain];
            for (gate_dim, gating) in gatings.into_iter().flat_map(|gating| [(1, gating), (dim, gating)]) {
                let run = |tier| {
                    let mut r = Random(dim as u64);
                    let (head_stride, row_stride) = (gate_dim + 2, heads * (gate_dim + 2) + 5);
                    let (x, gates) = (r.vec(rows * heads * dim), r.vec(rows * row_stride + 3));
                    let mut b = backend(tier, 2);
                    let (x_at, gates) = (put(&mut b, &x), put(&mut b, &gates));
                    let gate = Heads { tensor: gates.at(3), row_stride, head_stride, heads, dim: gate_dim };
                    b.gate_mul(x_at, dim, gate, gating, rows);
                    get(&mut b, x_at, x.len())
                };
                close(
                    &run(tier),
                    &run(Tier::Reference),
                    1e-6,
                    &format!("{tier:?} {rows} {heads} {dim} {gate_dim} {gating:?}"),
                );
            }
        }
    }
}
