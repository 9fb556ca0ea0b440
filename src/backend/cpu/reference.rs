//! The specification: plain f32 loops, one element at a time, in the order a textbook would write them. Every other
//! tier agrees with these within its stated tolerance.

use super::Tier;
use super::kernels::{AttentionArgs, Elements, Kernels, LinearArgs};
use std::ops::Range;

/// The reference tier.
pub static KERNELS: Kernels = Kernels { tier: Tier::Reference, linear, attention, rms_norm, silu_mul, sigmoid_mul };

/// # Safety
/// See [`Kernels::linear`].
unsafe fn linear(args: &LinearArgs, range: Range<usize>, _scratch: &mut Vec<f32>) {
    for row in 0..args.rows {
        let x = &args.x[row * args.ins..(row + 1) * args.ins];
        for out in range.clone() {
            let w = args.weight.slice(out * args.ins..(out + 1) * args.ins);
            let mut sum = 0.0;
            for (i, x) in x.iter().enumerate() {
                sum += x * w.get(i);
            }
            // SAFETY: the row and column are this task's (contract of `linear`).
            unsafe { args.put(row, out, sum) };
        }
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
