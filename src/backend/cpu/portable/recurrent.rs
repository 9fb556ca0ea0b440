//! Convolutions and recurrences over the tokens of a sequence. Lanes are channels, or elements of a value: no sum crosses lanes.

use super::{activate_any, fma};
use crate::backend::Activation;
use crate::backend::cpu::recurrent::{ConvArgs, PIECE, RecurrenceArgs, TILE};

/// Implements [`crate::backend::cpu::kernels::Kernels::conv`]: the sum begins with the bias and goes from the oldest input to the
/// newest.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn conv_any<const FMA: bool>(a: &ConvArgs, scratch: &mut Vec<f32>) {
    let (n, past) = (a.channels, a.kernel - 1);
    let floats = (a.kernel + past + PIECE) * n;
    scratch.resize(scratch.len().max(floats), 0.0);
    let (weights, inputs) = scratch[..floats].split_at_mut(a.kernel * n);
    for (j, row) in weights.chunks_exact_mut(n).enumerate() {
        row.iter_mut().enumerate().for_each(|(c, w)| *w = a.weight.get(c * a.kernel + j));
    }
    for (j, row) in inputs.chunks_exact_mut(n).take(past).enumerate() {
        match a.last {
            // SAFETY: guaranteed by the caller.
            Some(last) => row.copy_from_slice(unsafe { last.row(j, n) }),
            None => row.fill(0.0),
        }
    }
    for first in (0..a.tokens).step_by(PIECE) {
        let count = PIECE.min(a.tokens - first);
        for (t, row) in inputs[past * n..].chunks_exact_mut(n).take(count).enumerate() {
            // SAFETY: guaranteed by the caller.
            row.copy_from_slice(unsafe { a.x.row(first + t, n) });
            if let Some(before) = a.before {
                // SAFETY: as above.
                row.iter_mut().zip(unsafe { before.row(first + t, n) }).for_each(|(u, b)| *u *= b);
            }
        }
        for t in 0..count {
            // SAFETY: as above; the inputs of this row have been read.
            let out = unsafe { a.out.row_mut(first + t, n) };
            match &a.bias {
                Some(bias) => out.iter_mut().enumerate().for_each(|(c, y)| *y = bias.get(c)),
                None => out.fill(0.0),
            }
            for (w, u) in weights.chunks_exact(n).zip(inputs[t * n..].chunks_exact(n)) {
                for ((y, w), u) in out.iter_mut().zip(w).zip(u) {
                    *y = fma::<FMA>(*w, *u, *y);
                }
            }
            if a.silu {
                activate_any::<FMA>(out, Activation::Silu);
            }
            if let Some(after) = a.after {
                // SAFETY: as above.
                out.iter_mut().zip(unsafe { after.row(first + t, n) }).for_each(|(y, c)| *y *= c);
            }
        }
        inputs.copy_within(count * n..(count + past) * n, 0);
    }
    for (j, row) in inputs.chunks_exact(n).take(past).enumerate() {
        // SAFETY: as above.
        unsafe { a.next.row_mut(j, n) }.copy_from_slice(row);
    }
}

/// One row of a tile: the lanes of some elements of a value, for one element of a key.
type Row = [f32; TILE];

/// Implements [`crate::backend::cpu::kernels::Kernels::recurrence`]: the products of keys and queries with the state are sums of
/// `SUMS` lanes, of which each takes every so many elements of a key.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn recurrence_any<const FMA: bool, const SUMS: usize>(a: &RecurrenceArgs, scratch: &mut Vec<f32>) {
    let floats = 2 * a.tokens + a.k_dim * TILE;
    scratch.resize(scratch.len().max(floats), 0.0);
    let (rates, tile) = scratch[..floats].split_at_mut(2 * a.tokens);
    let (rates, tile) = (rates.as_chunks_mut::<2>().0, tile.as_chunks_mut::<TILE>().0);
    for (token, rates) in rates.iter_mut().enumerate() {
        // SAFETY: guaranteed by the caller.
        *rates = unsafe { a.rates(token) };
    }
    for first in (0..a.v_dim).step_by(TILE) {
        let lanes = first..a.v_dim.min(first + TILE);
        for (i, row) in tile.iter_mut().enumerate() {
            row.fill(0.0);
            if let Some(last) = a.last {
                // SAFETY: as above.
                row[..lanes.len()].copy_from_slice(unsafe { &last.row(i, a.v_dim)[lanes.clone()] });
            }
        }
        for (token, &[decay, rate]) in rates.iter().enumerate() {
            // SAFETY: as above.
            let (k, q) = unsafe { (a.k.row(token, a.k_dim), a.q.row(token, a.k_dim)) };
            let mut value = [0.0; TILE];
            // SAFETY: as above.
            value[..lanes.len()].copy_from_slice(unsafe { &a.v.row(token, a.v_dim)[lanes.clone()] });
            let mut added = value;
            if a.parts.is_some() {
                let has = product::<FMA, SUMS>(tile, k);
                let scale = a.k_scale * decay;
                added.iter_mut().zip(&has).for_each(|(v, has)| *v = fma::<FMA>(-scale, *has, *v));
            }
            added.iter_mut().for_each(|u| *u *= rate * a.k_scale);
            let result = advance::<FMA, SUMS>(tile, k, q, decay, &added);
            // SAFETY: as above.
            let out = unsafe { &mut a.out.row_mut(token, a.v_dim)[lanes.clone()] };
            for ((out, result), value) in out.iter_mut().zip(&result).zip(&value) {
                *out = fma::<FMA>(a.skip, *value, a.q_scale * result);
            }
        }
        for (i, row) in tile.iter().enumerate() {
            // SAFETY: as above.
            unsafe { &mut a.next.row_mut(i, a.v_dim)[lanes.clone()] }.copy_from_slice(&row[..lanes.len()]);
        }
    }
}

/// The sum of lanes of sums, in a fixed order.
#[inline(always)]
fn total<const SUMS: usize>(sums: &[Row; SUMS]) -> Row {
    let mut total = sums[0];
    for sum in &sums[1..] {
        total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
    }
    total
}

/// `x S`.
#[inline(always)]
fn product<const FMA: bool, const SUMS: usize>(tile: &[Row], x: &[f32]) -> Row {
    let mut sums = [[0.0; TILE]; SUMS];
    let (rows, rest) = tile.as_chunks::<SUMS>();
    let (xs, x_rest) = x.as_chunks::<SUMS>();
    for (rows, xs) in rows.iter().zip(xs) {
        for s in 0..SUMS {
            for lane in 0..TILE {
                sums[s][lane] = fma::<FMA>(rows[s][lane], xs[s], sums[s][lane]);
            }
        }
    }
    for (row, x) in rest.iter().zip(x_rest) {
        for lane in 0..TILE {
            sums[0][lane] = fma::<FMA>(row[lane], *x, sums[0][lane]);
        }
    }
    total(&sums)
}

/// `S = decay * S + k added`, and then `q S`.
#[inline(always)]
fn advance<const FMA: bool, const SUMS: usize>(tile: &mut [Row], k: &[f32], q: &[f32], decay: f32, added: &Row) -> Row {
    let mut sums = [[0.0; TILE]; SUMS];
    let (rows, rest) = tile.as_chunks_mut::<SUMS>();
    let ((ks, k_rest), (qs, q_rest)) = (k.as_chunks::<SUMS>(), q.as_chunks::<SUMS>());
    for ((rows, ks), qs) in rows.iter_mut().zip(ks).zip(qs) {
        for s in 0..SUMS {
            for lane in 0..TILE {
                let next = fma::<FMA>(ks[s], added[lane], decay * rows[s][lane]);
                rows[s][lane] = next;
                sums[s][lane] = fma::<FMA>(next, qs[s], sums[s][lane]);
            }
        }
    }
    for ((row, k), q) in rest.iter_mut().zip(k_rest).zip(q_rest) {
        for lane in 0..TILE {
            let next = fma::<FMA>(*k, added[lane], decay * row[lane]);
            row[lane] = next;
            sums[0][lane] = fma::<FMA>(next, *q, sums[0][lane]);
        }
    }
    total(&sums)
}
