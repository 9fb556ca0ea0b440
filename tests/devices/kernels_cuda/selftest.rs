//! The wrappers of device.cuh in their host form: what they compute, and which faults are found.

use super::host::{Memory, launch, param, shape, try_launch};
use super::{Random, begin, begin_on_host, close, device, rounded};

/// Whether there is a self-test to run: on a device it comes in a file.
fn begin_selftest() -> bool {
    begin() && (device::index().is_none() || device::selftest())
}

#[test]
fn warp_and_block_operations() {
    if !begin_selftest() {
        return;
    }
    let x = Random(1).vec(256);
    let (input, out) = (Memory::of(&x), Memory::new(256 * 4));
    launch("test_block_sum", shape([1, 1, 1], 256, 0), &[input.param(), out.param()]);
    let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
    close("sum", &out.read::<f32>(), &[sum; 256], 1e-5);
    let (out, ballots) = (Memory::new(128 * 4), Memory::new(64 * 4));
    let params = [input.param(), out.param(), ballots.param()];
    launch("test_shuffles", shape([1, 1, 1], 64, 0), &params);
    let out = out.read::<f32>();
    for i in 0..64 {
        let warp = &x[i / 32 * 32..i / 32 * 32 + 32];
        assert_eq!(out[i], warp[31 - i % 32] + warp[(i % 32) ^ 1] * 1000.0);
        assert_eq!(out[64 + i], warp.iter().fold(f32::MIN, |m, &v| m.max(v)));
        let ballot = (0..32).filter(|&lane| warp[lane] > 0.5).map(|lane| 1u32 << lane).sum::<u32>();
        assert_eq!(ballots.read::<u32>()[i], ballot);
    }
    let sum = Memory::of(&[0i32]);
    launch("test_atomics", shape([3, 2, 2], 96, 0), &[sum.param()]);
    assert_eq!(sum.read::<i32>(), [3 * 2 * 2 * 96]);
}

#[test]
fn matrix_fragments() {
    if !begin_selftest() {
        return;
    }
    let mut random = Random(2);
    let bits = |v: &[f32]| -> Vec<u16> { v.iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect() };
    let (a, b) = (random.vec(256), random.vec(128));
    let (left, right, out) = (Memory::of(&bits(&a)), Memory::of(&bits(&b)), Memory::new(128 * 4));
    let params = [left.param(), right.param(), out.param()];
    launch("test_mma", shape([1, 1, 1], 32, 0), &params);
    let dot = |m: usize, n: usize| -> f64 {
        (0..16).map(|k| f64::from(rounded(a[m * 16 + k])) * f64::from(rounded(b[n * 16 + k]))).sum()
    };
    let expected: Vec<f64> = (0..128).map(|i| dot(i / 8, i % 8)).collect();
    close("product", &out.read::<f32>(), &expected, 1e-5);
    let x: Vec<u16> = (0..256).collect();
    let (input, out) = (Memory::of(&x), Memory::new(128 * 4));
    launch("test_transposed", shape([1, 1, 1], 32, 512), &[input.param(), out.param()]);
    for (i, &pair) in out.read::<u32>().iter().enumerate() {
        let (lane, m) = (i / 4, i % 4);
        let at = |row: usize| u32::from(x[(8 * m + row) * 8 + lane / 4]);
        assert_eq!(pair, at(lane % 4 * 2) | at(lane % 4 * 2 + 1) << 16);
    }
}

#[test]
fn bytes_and_conversions() {
    if !begin_selftest() {
        return;
    }
    let mut random = Random(3);
    let x: Vec<u32> = (0..32).map(|_| random.word()).collect();
    let (input, out) = (Memory::of(&x), Memory::new(128));
    launch("test_bytes", shape([1, 1, 1], 32, 0), &[input.param(), out.param()]);
    for (i, (&x, got)) in x.iter().zip(out.read::<u32>()).enumerate() {
        let (low, high) = (x.to_le_bytes(), (!x).to_le_bytes());
        let permuted = u32::from_le_bytes([low[0], high[0], low[2], high[2]]);
        let bits = |v: f32| u32::from(half::bf16::from_f32(v).to_bits());
        assert_eq!(got ^ permuted, bits(i as f32 + 0.5) | bits(-(i as f32)) << 16);
    }
}

/// Asynchronous copies arrive, and reading before they are waited for is seen.
#[test]
fn copies_land_when_they_are_waited_for() {
    if !begin_selftest() {
        return;
    }
    let blocks = 5i32;
    let x = Random(4).vec(256 * blocks as usize);
    let expected = |i: usize| {
        let (block, thread) = (i / 256, i % 256 / 4);
        if block % 2 == 1 { 0.0 } else { x[block * 256 + (thread ^ 33) * 4 + i % 4] }
    };
    let run = |early: i32| {
        let (input, out) = (Memory::of(&x), Memory::new(256 * blocks as usize * 4));
        let params = [input.param(), out.param(), param(&blocks), param(&early)];
        launch("test_copies", shape([1, 1, 1], 64, 2048), &params);
        out.read::<f32>().iter().enumerate().filter(|(i, v)| **v != expected(*i)).count()
    };
    assert_eq!([run(0), run(0), run(0)], [0, 0, 0]);
    // On a device they may have arrived.
    assert!(
        device::index().is_some() || (run(1) > 0 && run(1) > 0),
        "copies that were not waited for must not be there"
    );
}

#[test]
fn faults_are_found_and_named() {
    if !begin_on_host("faults are found") {
        return;
    }
    let out = Memory::new(64 * 4);
    let run = |fault: i32| try_launch("test_faults", shape([2, 1, 1], 64, 0), &[out.param(), param(&fault)]);
    for (fault, what) in [(0, "block_barrier"), (1, "shuffle_xor"), (2, "block_barrier"), (3, "not a multiple of 16")] {
        for _ in 0..3 {
            let message = run(fault).unwrap_err();
            assert!(message.contains("test_faults") && message.contains("selftest.cu:"), "{message}");
            assert!(message.contains(what), "{message}");
        }
    }
    // Places must be the same, also when a warp operation lies before one of them.
    assert!(run(4).is_err());
    assert!(run(5).is_ok());
    assert!(try_launch("test_faults", shape([1, 1, 1], 48, 0), &[out.param(), param(&5i32)]).is_err());
}

/// A missing barrier shows, whatever the seed: here no order of the threads gives the right result.
#[test]
fn a_missing_barrier_shows() {
    if !begin_on_host("a missing barrier always shows") {
        return;
    }
    let run = |barrier: i32| {
        let out = Memory::new(64 * 4);
        launch("test_race", shape([1, 1, 1], 64, 256), &[out.param(), param(&barrier)]);
        (0..64).all(|i| out.read::<f32>()[i] == ((i + 32) % 64) as f32)
    };
    for _ in 0..6 {
        assert!(run(1));
        assert!(!run(0));
    }
}
