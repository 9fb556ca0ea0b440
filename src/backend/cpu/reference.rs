//! The specification: plain f32 loops, one element at a time, in the order a textbook would write them. Every other
//! tier agrees with these within its stated tolerance.

use super::Tier;
use super::kernels::{AttentionArgs, Elements, Kernels, no_bf16};
use super::linear::{Input, Int8Rows, LinearArgs, Matrix, plain_form};
use crate::encoding::{PANEL, Scheme};
use std::ops::Range;

/// The reference tier.
pub static KERNELS: Kernels = Kernels {
    tier: Tier::Reference,
    form: plain_form,
    to_bf16: no_bf16,
    to_int8,
    linear,
    attention,
    rms_norm,
    silu_mul,
    sigmoid_mul,
};

/// # Safety
/// See [`Kernels::linear`].
unsafe fn linear(args: &LinearArgs, range: Range<usize>, _scratch: &mut Vec<f32>) {
    for row in 0..args.rows {
        for out in range.clone() {
            let sum = match (args.weight, args.x) {
                (Matrix::Stored(w), Input::F32(x)) => {
                    let w = w.slice(out * args.ins..(out + 1) * args.ins);
                    let x = &x[row * args.ins..(row + 1) * args.ins];
                    let mut sum = 0.0;
                    for (i, x) in x.iter().enumerate() {
                        sum += x * w.get(i);
                    }
                    sum
                }
                (Matrix::Panels(scheme, bytes), Input::Int8(x)) => quantized_dot(scheme, bytes, args.ins, out, &x, row),
                _ => unreachable!("inputs come in the form that the table asks for"),
            };
            // SAFETY: the row and column are this task's (contract of `linear`).
            unsafe { args.put(row, out, sum) };
        }
    }
}

/// One output of a quantized product, as [`super::linear`] defines it.
fn quantized_dot(scheme: Scheme, bytes: &[u8], ins: usize, out: usize, x: &Int8Rows, row: usize) -> f32 {
    let size = scheme.panel_bytes(ins);
    let (panel, out) = (&bytes[out / PANEL * size..][..size], out % PANEL);
    let mut sum = 0.0f32;
    for g in 0..x.groups {
        let at = row * x.groups + g;
        let group = g * x.group..ins.min((g + 1) * x.group);
        let products =
            group.clone().map(|i| scheme.integer(panel, ins, out, i) * x.codes[at * x.group + i - group.start] as i32);
        sum = (products.sum::<i32>() as f32).mul_add(scheme.scale(panel, out, g) * x.scales[at], sum);
    }
    sum
}

/// # Safety
/// None beyond the types; `unsafe` for the table's sake.
unsafe fn to_int8(x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], corrections: &mut [i32]) {
    for (g, codes) in codes.chunks_exact_mut(group).enumerate() {
        let x = &x[g * group..x.len().min((g + 1) * group)];
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
        corrections[g] = -128 * codes.iter().map(|c| *c as i32).sum::<i32>();
    }
}

/// Softmax over all visible keys at once.
///
/// # Safety
/// See [`Kernels::attention`].
unsafe fn attention(args: &AttentionArgs, scores: &mut Vec<f32>) {
    let shape = args.pages.shape;
    for row in args.rows.clone() {
        let visible = args.visible(args.first_position + row - args.rows.start);
        for head in args.q_heads.clone() {
            let q = args.query(row, head);
            scores.clear();
            for p in visible.clone() {
                let keys = args.pages.keys(args.table[p / shape.page_tokens], args.kv_head);
                let k = keys.slice(p % shape.page_tokens * shape.k_dim..(p % shape.page_tokens + 1) * shape.k_dim);
                let dot: f32 = q.iter().enumerate().map(|(i, q)| q * k.get(i)).sum();
                scores.push(dot * args.scale);
            }
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0.0;
            for s in scores.iter_mut() {
                *s = (*s - max).exp();
                total += *s;
            }
            // SAFETY: the row and head are this task's (contract of `attention`).
            let out = unsafe { args.result(row, head) };
            out.fill(0.0);
            for (s, p) in scores.iter().zip(visible.clone()) {
                let values = args.pages.values(args.table[p / shape.page_tokens], args.kv_head);
                for (d, out) in out.iter_mut().enumerate() {
                    *out += s / total * values.get(p % shape.page_tokens * shape.v_dim + d);
                }
            }
        }
    }
}

/// # Safety
/// None beyond the types; `unsafe` for the table's sake.
unsafe fn rms_norm(x: &mut [f32], gain: Elements, eps: f32) {
    let mut square = 0.0;
    for v in x.iter() {
        square += v * v;
    }
    let factor = 1.0 / (square / x.len() as f32 + eps).sqrt();
    for (i, v) in x.iter_mut().enumerate() {
        *v = *v * factor * gain.get(i);
    }
}

/// # Safety
/// As [`rms_norm`].
unsafe fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + (-*g).exp()) * u;
    }
}

/// # Safety
/// As [`rms_norm`].
unsafe fn sigmoid_mul(x: &mut [f32], gate: &[f32]) {
    for (x, g) in x.iter_mut().zip(gate) {
        *x /= 1.0 + (-g).exp();
    }
}
