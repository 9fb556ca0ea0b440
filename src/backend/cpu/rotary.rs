//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864), the same on every tier.

/// Writes to `out[r]` the cosines, then the sines, of `positions[r] * inv_freq[i]`, times `scale`. The angle is rounded
/// to f32 before the cosine, as in the training code of the models.
pub fn angles(positions: &[u32], inv_freq: &[f32], scale: f32, out: &mut [f32]) {
    let half = inv_freq.len();
    for (&position, out) in positions.iter().zip(out.chunks_exact_mut(2 * half)) {
        let (cos, sin) = out.split_at_mut(half);
        for (i, f) in inv_freq.iter().enumerate() {
            let angle = (position as f32 * f) as f64;
            cos[i] = angle.cos() as f32 * scale;
            sin[i] = angle.sin() as f32 * scale;
        }
    }
}

/// Rotates the pairs of `x`: elements (2i, 2i + 1) if interleaved, otherwise (i, i + half). `angles` holds cosines,
/// then sines.
pub fn rotate(x: &mut [f32], angles: &[f32], interleaved: bool) {
    let half = x.len() / 2;
    let (cos, sin) = angles.split_at(half);
    if interleaved {
        for (pair, (cos, sin)) in x.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
        }
    } else {
        let (low, high) = x.split_at_mut(half);
        for ((u, v), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
            (*u, *v) = (*u * cos - *v * sin, *v * cos + *u * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_length_and_turns_by_the_angle() {
        let mut table = [0.0; 4];
        angles(&[3], &[1.0, 0.5], 1.0, &mut table);
        for interleaved in [false, true] {
            let mut x = [1.0, 0.0, 0.0, 0.0];
            rotate(&mut x, &table, interleaved);
            let other = if interleaved { 1 } else { 2 };
            assert!((x[0] - 3f32.cos()).abs() < 1e-6 && (x[other] - 3f32.sin()).abs() < 1e-6, "{x:?}");
        }
    }
}
