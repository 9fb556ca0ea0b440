//! The reference tier, which specifies every operation: plain f32 loops, one element at a time, in textbook order.
//! Every other tier agrees with it within the tolerance of its tests.

use super::Tier;
use super::attention::{AttentionArgs, AttentionKernels};
use super::head_products::HeadArgs;
use super::kernels::{Elements, Kernels, no_bf16, sampling_kernels};
use super::kv::{PageLayout, no_group};
use super::linear::{Input, Int8RowMut, Int8Rows, LinearArgs, Matrix, plain_form};
use super::recurrent::{ConvArgs, RecurrenceArgs, Strided};
use crate::backend::Activation;
use crate::dtype::BlockFormat;
use crate::encoding::blocks::{self, GROUP, PARTS_MAX, Parts, WEIGHTS_MAX};
use crate::encoding::{PANEL, Scheme};
use std::ops::Range;

/// The reference tier.
pub static KERNELS: Kernels = Kernels {
    tier: Tier::Reference,
    form: plain_form,
    to_bf16: no_bf16,
    to_int8,
    linear,
    attention: ATTENTION,
    sampling: sampling_kernels!(),
    rms_norm,
    centre,
    head_product,
    gate,
    activate,
    softcap,
    conv,
    recurrence,
    sigmoid_mul,
};

/// # Safety
/// See [`Kernels::linear`].
unsafe fn linear(args: &LinearArgs, range: Range<usize>, scratch: &mut Vec<f32>) {
    for row in 0..args.rows {
        for out in range.clone() {
            let sum = match (args.weight, args.x) {
                (Matrix::Stored(w), Input::F32(x)) => {
                    let w = w.slice(out * args.in_features..(out + 1) * args.in_features);
                    let x = &x[row * args.in_features..(row + 1) * args.in_features];
                    let mut sum = 0.0;
                    for (i, x) in x.iter().enumerate() {
                        sum += x * w.get(i);
                    }
                    sum
                }
                (Matrix::Panels(scheme, bytes), Input::Int8(x)) => {
                    quantized_dot(scheme, bytes, args.in_features, out, &x, row)
                }
                (Matrix::Blocks(format, bytes), Input::Int8(x)) => {
                    block_dot(format, bytes, args.in_features, out, &x, row)
                }
                (Matrix::Blocks(..) | Matrix::F8(_), Input::F32(x)) => {
                    scratch.resize(scratch.len().max(args.in_features), 0.0);
                    let w = &mut scratch[..args.in_features];
                    args.weight.widen_row(out, args.in_features, w);
                    let x = &x[row * args.in_features..(row + 1) * args.in_features];
                    x.iter().zip(&*w).fold(0.0, |sum, (x, w)| sum + x * w)
                }
                _ => unreachable!("inputs come in the form that the table asks for"),
            };
            // SAFETY: the row and column belong to this task (contract of `linear`).
            unsafe { args.put(row, out, sum) };
        }
    }
}

/// One output of a quantized product, as specified in [`super::linear`].
fn quantized_dot(scheme: Scheme, bytes: &[u8], in_features: usize, out: usize, x: &Int8Rows, row: usize) -> f32 {
    let size = scheme.panel_bytes(in_features);
    let (panel, out) = (&bytes[out / PANEL * size..][..size], out % PANEL);
    let mut sum = 0.0f32;
    for g in 0..x.groups {
        let at = row * x.groups + g;
        let group = g * GROUP..in_features.min((g + 1) * GROUP);
        let products = group
            .clone()
            .map(|i| scheme.integer(panel, in_features, out, i) * x.codes[at * GROUP + i - group.start] as i32);
        sum = (products.sum::<i32>() as f32).mul_add(scheme.scale(panel, out, g) * x.scales[at], sum);
    }
    sum
}

/// One output of a product with weights in blocks, as specified in [`super::linear::decoded`].
fn block_dot(format: BlockFormat, bytes: &[u8], in_features: usize, out: usize, x: &Int8Rows, row: usize) -> f32 {
    let (weights, block_bytes, each) = (format.weights(), format.bytes(), format.part());
    let row_bytes = in_features / weights * block_bytes;
    let (mut integers, mut scales, mut minima) = ([0; WEIGHTS_MAX], [0.0; PARTS_MAX], [0.0; PARTS_MAX]);
    let mut sum = 0.0f32;
    for (i, block) in bytes[out * row_bytes..(out + 1) * row_bytes].chunks_exact(block_bytes).enumerate() {
        blocks::decode_any(format, block, &mut integers, &mut Parts { scales: &mut scales, minima: &mut minima });
        for (p, integers) in integers[..weights].chunks_exact(each).enumerate() {
            let part = i * weights / each + p;
            let codes = &x.codes[row * x.groups * GROUP + part * each..];
            let dot: i32 = integers.iter().zip(codes).map(|(w, x)| *w as i32 * *x as i32).sum();
            let per_group = GROUP / each;
            sum = (dot as f32).mul_add(scales[p] * x.scales[row * x.groups + part / per_group], sum);
            if format.has_minima() {
                sum = minima[p].mul_add(x.negative_sum(row, part, per_group), sum);
            }
        }
    }
    sum
}

/// # Safety
/// No requirements; `unsafe` only to match the type in the function table.
unsafe fn to_int8(x: &[f32], row: Int8RowMut) {
    let Int8RowMut { codes, scales, corrections, half_corrections } = row;
    for (g, codes) in codes.chunks_exact_mut(GROUP).enumerate() {
        let x = &x[g * GROUP..x.len().min((g + 1) * GROUP)];
        let mut largest = 0.0f32;
        for x in x {
            if x.is_nan() || x.abs() > largest {
                largest = x.abs();
            }
        }
        scales[g] = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        codes.fill(0);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (x * inverse).clamp(-127.0, 127.0).round_ties_even() as i8;
        }
        let sum = |codes: &[i8]| codes.iter().map(|c| *c as i32).sum::<i32>();
        corrections[g] = -128 * sum(codes);
        half_corrections[2 * g] = -128 * sum(&codes[..GROUP / 2]);
        half_corrections[2 * g + 1] = -128 * sum(&codes[GROUP / 2..]);
    }
}

const ATTENTION: AttentionKernels = AttentionKernels {
    layout: |_| PageLayout::Rows,
    attend,
    attend_f32: attend,
    store_group: no_group,
    combine: |_, _, _| unreachable!("this tier does not split items into spans"),
};

/// Attention with a softmax over all visible keys at once.
///
/// # Safety
/// See [`AttentionKernels::attend`].
unsafe fn attend(args: &AttentionArgs, scratch: &mut Vec<f32>) {
    let shape = args.pages.shape;
    scratch.clear();
    scratch.resize(shape.k_dim + shape.v_dim + args.visible_to_any().len(), 0.0);
    let (key, rest) = scratch.split_at_mut(shape.k_dim);
    let (value, all) = rest.split_at_mut(shape.v_dim);
    let page = |p: usize| args.pages.head(args.table[p / shape.page_tokens], args.kv_head);
    for query in 0..args.queries() {
        let visible = args.visible(args.first_position + query / args.q_heads.len());
        let q = args.query(query);
        let scores = &mut all[..visible.len()];
        for (score, p) in scores.iter_mut().zip(visible.clone()) {
            page(p).read(false, p % shape.page_tokens, key);
            let dot: f32 = q.iter().zip(&*key).map(|(q, k)| q * k).sum();
            *score = dot * args.scale;
            if let Some(cap) = args.softcap {
                *score = cap * (*score / cap).tanh();
            }
        }
        let sink = args.sink(query);
        let max = scores.iter().copied().fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
        let mut total = sink.map_or(0.0, |sink| (sink - max).exp());
        for s in scores.iter_mut() {
            *s = (*s - max).exp();
            total += *s;
        }
        // SAFETY: the row and head belong to this task (contract of `attend`).
        let out = unsafe { args.result(query) };
        out.fill(0.0);
        for (s, p) in scores.iter().zip(visible) {
            page(p).read(true, p % shape.page_tokens, value);
            out.iter_mut().zip(&*value).for_each(|(out, v)| *out += s / total * v);
        }
    }
}

/// # Safety
/// No requirements; `unsafe` only to match the type in the function table.
unsafe fn rms_norm(x: &mut [f32], gain: Option<Elements>, eps: f32) {
    let mut square = 0.0;
    for v in x.iter() {
        square += v * v;
    }
    let factor = 1.0 / (square / x.len() as f32 + eps).sqrt();
    for (i, v) in x.iter_mut().enumerate() {
        *v = *v * factor * gain.map_or(1.0, |gain| gain.get(i));
    }
}

/// # Safety
/// As [`rms_norm`].
unsafe fn centre(x: &mut [f32]) {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    x.iter_mut().for_each(|x| *x -= mean);
}

/// # Safety
/// See [`Kernels::head_product`].
unsafe fn head_product(args: &HeadArgs, scratch: &mut Vec<f32>) {
    scratch.resize(scratch.len().max(args.width), 0.0);
    let weights = &mut scratch[..args.width];
    for row in 0..args.rows {
        // SAFETY: the row belongs to this task (contract of `head_product`).
        let (x, out) = (args.input(row), unsafe { args.result(row) });
        out.fill(0.0);
        for (index, weight_row) in args.weight_rows.clone().enumerate() {
            args.weight.widen_row(weight_row, args.width, weights);
            if args.transposed {
                out.iter_mut().zip(&*weights).for_each(|(out, w)| *out += x[index] * w);
            } else {
                x.iter().zip(&*weights).for_each(|(x, w)| out[index] += x * w);
            }
        }
    }
}

/// An activation of one input; those with long formulas in f64.
fn activation_of(x: f32, activation: Activation) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-f64::from(x)).exp());
    let wide = f64::from(x);
    match activation {
        // Its bits are those of saved results: see `NUMERICS_VERSION`.
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            (wide / 2.0 * (1.0 + (root * (wide + 0.044715 * wide * wide * wide)).tanh())) as f32
        }
        Activation::Gelu => (wide / 2.0 * (1.0 + erf(wide / std::f64::consts::SQRT_2))) as f32,
        Activation::Relu2 if x < 0.0 => 0.0,
        Activation::Relu2 => x * x,
        Activation::Clamped { alpha, limit } => {
            let x = if x > limit { limit } else { x };
            (f64::from(x) * sigmoid(alpha * x)) as f32
        }
    }
}

/// The error function by its series; beyond 4 it is 1 in f32.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// # Safety
/// As [`rms_norm`].
unsafe fn gate(gate: &mut [f32], up: &[f32], activation: Activation) {
    for (g, &u) in gate.iter_mut().zip(up) {
        let u = match activation {
            Activation::Clamped { limit, .. } => u.clamp(-limit, limit) + 1.0,
            _ => u,
        };
        *g = activation_of(*g, activation) * u;
    }
}

/// # Safety
/// As [`rms_norm`].
unsafe fn activate(x: &mut [f32], activation: Activation) {
    x.iter_mut().for_each(|x| *x = activation_of(*x, activation));
}

/// # Safety
/// As [`rms_norm`].
unsafe fn softcap(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
}

/// # Safety
/// As [`rms_norm`].
unsafe fn sigmoid_mul(x: &mut [f32], gate: &[f32]) {
    for (x, g) in x.iter_mut().zip(gate) {
        *x /= 1.0 + (-g).exp();
    }
}

/// # Safety
/// As [`Kernels::conv`].
unsafe fn conv(a: &ConvArgs, scratch: &mut Vec<f32>) {
    let past = a.kernel - 1;
    for c in 0..a.channels {
        // SAFETY: guaranteed by the caller.
        let at = |rows: Strided, row: usize| unsafe { rows.row(row, a.channels) }[c];
        scratch.clear();
        scratch.extend((0..past).map(|j| a.last.map_or(0.0, |last| at(last, j))));
        for t in 0..a.tokens {
            let u = at(a.x, t) * a.before.map_or(1.0, |before| at(before, t));
            scratch.push(u);
            let seen = &scratch[scratch.len() - a.kernel..];
            let bias = a.bias.as_ref().map_or(0.0, |bias| bias.get(c));
            let sum: f32 = seen.iter().enumerate().map(|(j, u)| a.weight.get(c * a.kernel + j) * u).sum();
            let y = if a.silu { activation_of(bias + sum, Activation::Silu) } else { bias + sum };
            // SAFETY: as above; the input of this row was read.
            let out = unsafe { a.out.row_mut(t, a.channels) };
            out[c] = y * a.after.map_or(1.0, |after| at(after, t));
        }
        for (j, u) in scratch[scratch.len() - past..].iter().enumerate() {
            // SAFETY: as above.
            let next = unsafe { a.next.row_mut(j, a.channels) };
            next[c] = *u;
        }
    }
}

/// # Safety
/// As [`Kernels::recurrence`].
unsafe fn recurrence(a: &RecurrenceArgs, scratch: &mut Vec<f32>) {
    for c in 0..a.v_dim {
        scratch.clear();
        // SAFETY: guaranteed by the caller.
        scratch.extend((0..a.k_dim).map(|i| a.last.map_or(0.0, |last| unsafe { last.row(i, a.v_dim) }[c])));
        for t in 0..a.tokens {
            // SAFETY: as above.
            let (k, q, value) = unsafe { (a.k.row(t, a.k_dim), a.q.row(t, a.k_dim), a.v.row(t, a.v_dim)[c]) };
            // SAFETY: as above.
            let [decay, rate] = unsafe { a.rates(t) };
            scratch.iter_mut().for_each(|s| *s *= decay);
            let product = |state: &[f32], x: &[f32]| state.iter().zip(x).map(|(s, x)| s * x).sum::<f32>();
            let has = if a.parts.is_some() { a.k_scale * product(scratch, k) } else { 0.0 };
            let added = rate * (value - has);
            scratch.iter_mut().zip(k).for_each(|(s, k)| *s += a.k_scale * k * added);
            // SAFETY: as above.
            let out = unsafe { a.out.row_mut(t, a.v_dim) };
            out[c] = a.q_scale * product(scratch, q) + a.skip * value;
        }
        for (i, s) in scratch.iter().enumerate() {
            // SAFETY: as above.
            let next = unsafe { a.next.row_mut(i, a.v_dim) };
            next[c] = *s;
        }
    }
}
