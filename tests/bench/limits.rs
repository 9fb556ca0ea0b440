//! What the machine could do at best: the denominators of the kernels' figures. Best of some rounds, since a disturbed round
//! only shows less.

use astrai::backend::cpu::{Tier, tiers};
use std::time::Instant;

const ROUNDS: usize = 5;

/// Seconds of the fastest of some rounds in which all threads run `f`.
fn fastest(threads: usize, f: &(dyn Fn(usize) + Sync)) -> f64 {
    let round = || {
        let start = Instant::now();
        std::thread::scope(|s| (0..threads).for_each(|t| drop(s.spawn(move || f(t)))));
        start.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// GB/s of summing a large buffer.
pub fn read(threads: usize) -> f64 {
    let data = vec![1u64; 64 << 20];
    let part = data.len() / threads;
    let time = fastest(threads, &|t| {
        let mut sums = [0u64; 16];
        for chunk in data[t * part..(t + 1) * part].chunks_exact(16) {
            sums.iter_mut().zip(chunk).for_each(|(s, v)| *s = s.wrapping_add(*v));
        }
        std::hint::black_box(sums);
    });
    (data.len() * 8) as f64 / time / 1e9
}

/// 10^9 operations a second from registers, a multiply-add being two, for each kind of instruction the machine has.
#[cfg(target_arch = "x86_64")]
pub fn registers(threads: usize) -> Vec<(&'static str, f64)> {
    use std::arch::x86_64::*;
    const TURNS: usize = 2_000_000;
    const SUMS: usize = 12;

    #[target_feature(enable = "avx2,fma")]
    fn f32_avx2() {
        let (mut sums, x) = ([_mm256_setzero_ps(); SUMS], std::hint::black_box(_mm256_set1_ps(0.5)));
        for _ in 0..TURNS {
            sums.iter_mut().for_each(|s| *s = _mm256_fmadd_ps(x, x, *s));
        }
        std::hint::black_box(sums);
    }
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_avx512() {
        let mut sums = [_mm512_setzero_ps(); SUMS];
        let x = std::hint::black_box(_mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.5)));
        for _ in 0..TURNS {
            sums.iter_mut().for_each(|s| *s = _mm512_dpbf16_ps(*s, x, x));
        }
        std::hint::black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8_avx512() {
        let (mut sums, x) = ([_mm512_setzero_si512(); SUMS], std::hint::black_box(_mm512_set1_epi8(1)));
        for _ in 0..TURNS {
            sums.iter_mut().for_each(|s| *s = _mm512_dpbusd_epi32(*s, x, x));
        }
        std::hint::black_box(sums);
    }

    let rate = |flops: usize, f: &(dyn Fn() + Sync)| {
        (threads * TURNS * SUMS * flops) as f64 / fastest(threads, &|_| f()) / 1e9
    };
    let mut limits = Vec::new();
    if tiers().contains(&Tier::Avx2) {
        // SAFETY: the tier's instructions exist.
        limits.push(("AVX2 f32", rate(16, &|| unsafe { f32_avx2() })));
    }
    if tiers().contains(&Tier::Avx512) {
        // SAFETY: the tier's instructions exist.
        limits.push(("AVX-512 bf16", rate(64, &|| unsafe { bf16_avx512() })));
        // SAFETY: as above.
        limits.push(("AVX-512 int8", rate(128, &|| unsafe { int8_avx512() })));
    }
    limits
}

/// Nothing is measured here.
#[cfg(not(target_arch = "x86_64"))]
pub fn registers(_threads: usize) -> Vec<(&'static str, f64)> {
    Vec::new()
}
