//! Latent pages on every tier: the bits of pages that hold the same values apart, and law 1.

use super::*;
use crate::backend::{Placement, Tables};

const HEADS: usize = 5;
/// Odd, so that no tier has pages of lanes for what is stored apart.
const KEY: usize = 33;
const VALUE: usize = 27;
const TOKENS: usize = 150;
const PAGE_TOKENS: usize = 7;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 / 32_768.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The results of a sequence that is computed in steps which end at `cuts`.
fn run(tier: Tier, threads: usize, latent: bool, dtype: DType, cuts: &[usize]) -> Vec<u32> {
    let mut b = CpuBackend::new(tier, Compute::F32, threads, ThreadOptions::default()).unwrap();
    let frames = TOKENS.div_ceil(PAGE_TOKENS);
    let content = if latent { FrameContent::Latent } else { FrameContent::KeysValues };
    let shape =
        KvShape { layers: 2, frames, page_tokens: PAGE_TOKENS, kv_heads: 1, k_dim: KEY, v_dim: VALUE, content, dtype };
    let pages = b.kv_pages(shape).unwrap();
    let (queries, keys) = (numbers(TOKENS * HEADS * KEY, 3), numbers(TOKENS * KEY, 5));
    let mut all = Vec::new();
    let mut first = 0;
    for &end in cuts.iter().chain([&TOKENS]) {
        let rows = end - first;
        let mut put = |values: &[f32]| {
            let tensor = b.alloc(values.len(), "inputs").unwrap();
            b.floats_mut(tensor, values.len()).copy_from_slice(values);
            tensor
        };
        let heads = |tensor, heads: usize| Heads { tensor, row_stride: heads * KEY, head_stride: KEY, heads, dim: KEY };
        let q = heads(put(&queries[first * HEADS * KEY..end * HEADS * KEY]), HEADS);
        let k = heads(put(&keys[first * KEY..end * KEY]), 1);
        let step = b.step();
        step.positions = (first as u32..end as u32).collect();
        step.sequences = vec![0; rows];
        step.tables = vec![Tables { pages: (0..frames as u32).rev().collect(), starts: vec![0] }];
        let v = Heads { dim: VALUE, ..k };
        let (norms, norm_last, eps, rotary, layer) = (None, false, 0.0, None, 1);
        b.place_heads(&Placement { q, k, v, norms, norm_last, eps, rotary, store: true, pages, layer });
        let out = b.alloc(rows * HEADS * VALUE, "results").unwrap();
        let (scale, window, softcap, sinks) = (0.3, None, None, None);
        b.attention(Attention { q, out, pages, layer, scale, window, bidirectional: false, softcap, sinks });
        all.extend(b.floats(out, rows * HEADS * VALUE).iter().map(|v| v.to_bits()));
        first = end;
    }
    all
}

#[test]
fn values_inside_of_keys_are_those_that_would_be_stored_apart() {
    for tier in tiers() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let apart = run(tier, 2, false, dtype, &[70]);
            assert!(run(tier, 2, true, dtype, &[70]) == apart, "{tier:?} {dtype}");
        }
        // The scale is that of the whole key: an error of at most half of a 127th.
        let (apart, inside) = (run(tier, 2, false, DType::F32, &[]), run(tier, 2, true, DType::I8, &[]));
        for (apart, inside) in apart.into_iter().zip(inside).map(|(a, b)| (f32::from_bits(a), f32::from_bits(b))) {
            assert!((apart - inside).abs() < 0.03, "{tier:?}: {inside} for {apart}");
        }
    }
}

#[test]
fn latent_pages_do_not_tell_of_steps_or_threads() {
    for tier in tiers() {
        for dtype in [DType::F32, DType::Bf16, DType::F16, DType::I8] {
            let whole = run(tier, 1, true, dtype, &[]);
            for (threads, cuts) in [(2, vec![1, 64, 65]), (3, (20..40).collect()), (1, vec![149])] {
                assert!(run(tier, threads, true, dtype, &cuts) == whole, "{tier:?} {dtype}, cut at {cuts:?}");
            }
        }
    }
}
