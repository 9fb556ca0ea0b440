//! Convolutions and recurrences on any device: all agree with the CPU's reference tier; a sequence has the same bits in steps of any
//! lengths, alone or with others, and a state that was read is as it was.

use crate::kernels::stored;
use crate::support::plain_device;
use crate::support::random::Random;
use astrai::backend::cpu::{Tier, tiers};
use astrai::backend::device::{Device, DeviceOptions, ProbedDevice, probe};
use astrai::backend::*;
use astrai::dtype::DType;
use astrai::encoding::Encoding;
use astrai::sampling::AllowedTokens;

const TOKENS: usize = 45;
const SEQUENCES: usize = 3;
const LAYERS: usize = 2;

/// Sizes of a recurrence and the convolution before it.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    k_heads: usize,
    k_dim: usize,
    v_heads: usize,
    v_dim: usize,
    kernel: usize,
    delta: bool,
}

const SIZES: [Sizes; 4] = [
    Sizes { k_heads: 1, k_dim: 5, v_heads: 1, v_dim: 1, kernel: 1, delta: true },
    Sizes { k_heads: 2, k_dim: 10, v_heads: 4, v_dim: 12, kernel: 4, delta: true },
    Sizes { k_heads: 2, k_dim: 16, v_heads: 2, v_dim: 40, kernel: 3, delta: false },
    Sizes { k_heads: 1, k_dim: 64, v_heads: 3, v_dim: 33, kernel: 7, delta: false },
];

/// Tokens of each sequence in a step: sequence and how many.
type Steps = Vec<Vec<(usize, usize)>>;

/// Each sequence whole, one after the other.
fn whole() -> Steps {
    (0..SEQUENCES).map(|sequence| vec![(sequence, TOKENS)]).collect()
}

/// All at once, in pieces of other lengths each.
fn mixed(seed: u64) -> Steps {
    let mut random = Random(seed);
    let mut left = [TOKENS; SEQUENCES];
    let mut steps = Steps::new();
    while left.iter().any(|&left| left > 0) {
        let step = left.iter_mut().enumerate().filter(|(_, left)| **left > 0);
        let taken = step.map(|(sequence, left)| {
            let count = (1 + random.below(9)).min(*left);
            *left -= count;
            (sequence, count)
        });
        steps.push(taken.collect());
    }
    steps
}

/// Token by token.
fn single() -> Steps {
    (0..TOKENS).map(|_| (0..SEQUENCES).map(|sequence| (sequence, 1)).collect()).collect()
}

struct Weights {
    table: Weight,
    conv: Weight,
    conv_bias: Weight,
    step_bias: Weight,
    decay: Weight,
    skip: Weight,
}

/// Rows of results of each sequence, and the bytes of its last two states.
type Outcome = Vec<(Vec<f32>, [Vec<u8>; 2])>;

fn run(device: &dyn ProbedDevice, sizes: Sizes, steps: &Steps) -> Outcome {
    let Sizes { k_heads, k_dim, v_heads, v_dim, kernel, delta } = sizes;
    let mut b = device.open(1 << 20, &mut |_| {}).unwrap().backend;
    let (k_width, v_width) = (k_heads * k_dim, v_heads * v_dim);
    let channels = 2 * k_width + v_width;
    // Queries, keys, values; factors of them; steps and parts.
    let width = 3 * channels + 2 * v_heads;
    let mut random = Random(29);
    let mut weight = |values: Vec<f32>, outs: usize| {
        let bytes = stored(&values, DType::Bf16);
        b.weight(bytes, Encoding::Stored(DType::Bf16), outs, values.len() / outs).unwrap()
    };
    let weights = Weights {
        table: weight(random.vec(SEQUENCES * TOKENS * width), SEQUENCES * TOKENS),
        conv: weight(random.vec(channels * kernel), 1),
        conv_bias: weight(random.vec(channels), 1),
        step_bias: weight(random.vec(v_heads), 1),
        // As a logarithm, or below 0.
        decay: weight(random.vec(v_heads).iter().map(|v| if delta { *v } else { -v.abs() }).collect(), 1),
        skip: weight(random.vec(v_heads), 1),
    };
    let elements = (kernel - 1) * channels + v_heads * k_dim * v_dim;
    // One of another layer, which nobody writes.
    let shape = KvShape::states(LAYERS, 2 * SEQUENCES, elements);
    let rows_max = SEQUENCES * TOKENS;
    let [x, y, z] = [width, channels, v_width].map(|width| b.alloc(rows_max * width, "test").unwrap());
    b.reserve(&MaxBatchShape {
        rows: rows_max,
        sequences: SEQUENCES,
        positions: TOKENS,
        groups: 1,
        page_tokens: 16,
        table_pages: 64,
        in_features: width,
        conv_kernel: kernel,
        state_dim: k_dim,
        hidden: width,
        vocab: SEQUENCES * TOKENS,
        logits_rows: 8,
        ..MaxBatchShape::default()
    })
    .unwrap();
    b.set_vocabulary_mask(&AllowedTokens::all(SEQUENCES * TOKENS)).unwrap();
    let pages = b.kv_pages(shape).unwrap();
    let frame = shape.frame_bytes().unwrap();
    let mut last = [NO_STATE; SEQUENCES];
    let mut done = [0; SEQUENCES];
    let mut results = vec![Vec::new(); SEQUENCES];
    for taken in steps {
        let before: Vec<Vec<u8>> =
            taken.iter().map(|&(sequence, _)| read(&mut *b, pages, last[sequence], frame)).collect();
        fill(b.step(), taken, &done, &last);
        b.begin();
        let rows = taken.iter().map(|(_, count)| count).sum::<usize>();
        b.embed(weights.table, 1.0, x);
        let of = |tensor: Tensor, first: usize, row: usize, heads: usize, dim: usize| Heads {
            tensor: tensor.at(first),
            row_stride: row,
            head_stride: dim,
            heads,
            dim,
        };
        let state = |first| StatePart { pages, layer: 1, first };
        let at = |part: usize| of(x, part * channels, width, 1, channels);
        let bias = Some(weights.conv_bias);
        let conv = Conv {
            x: at(0),
            before: None,
            after: None,
            out: of(y, 0, channels, 1, channels),
            weight: weights.conv,
            bias: None,
            kernel,
            silu: false,
            state: state(0),
        };
        match delta {
            // In place, as heads.
            true => {
                let x = Heads { heads: channels, head_stride: 1, dim: 1, ..at(0) };
                b.conv(&Conv { x, out: x, bias, silu: true, ..conv });
            }
            false => b.conv(&Conv { before: Some(at(1)), after: Some(at(2)), ..conv }),
        }
        let (from, row) = if delta { (x, width) } else { (y, channels) };
        let scalars = |first: usize| of(x, 3 * channels + first, width, 1, v_heads);
        b.recurrence(&Recurrence {
            q: of(from, 0, row, k_heads, k_dim),
            k: of(from, k_width, row, k_heads, k_dim),
            v: of(from, 2 * k_width, row, v_heads, v_dim),
            out: of(z, 0, v_width, v_heads, v_dim),
            q_scale: 0.5,
            k_scale: 0.7,
            steps: scalars(0),
            step_bias: weights.step_bias,
            step_range: [0.1, 1.2],
            decay: weights.decay,
            decay_is_log: delta,
            tiled: k_dim == 10,
            parts: delta.then(|| scalars(v_heads)),
            skip: (!delta).then_some(weights.skip),
            state: state((kernel - 1) * channels),
        });
        let (mut convolved, mut out) = (vec![0.0; rows * row], vec![0.0; rows * v_width]);
        b.read(from, &mut convolved).unwrap();
        b.read(z, &mut out).unwrap();
        let mut rows = convolved.chunks(row).zip(out.chunks(v_width));
        for (&(sequence, count), before) in taken.iter().zip(before) {
            for (convolved, out) in rows.by_ref().take(count) {
                results[sequence].extend_from_slice(&convolved[..channels]);
                results[sequence].extend_from_slice(out);
            }
            assert_eq!(read(&mut *b, pages, last[sequence], frame), before, "what is read stays as it is");
            done[sequence] += count;
            last[sequence] = next(last[sequence], sequence);
        }
    }
    let states = last.map(|last| [last, last ^ 1].map(|last| read(&mut *b, pages, last, frame)));
    results.into_iter().zip(states).collect()
}

/// A sequence has two frames, of which it writes the one it does not read.
fn next(last: u32, sequence: usize) -> u32 {
    if last == NO_STATE { 2 * sequence as u32 } else { last ^ 1 }
}

fn read(b: &mut dyn Backend, pages: KvPages, frame: u32, bytes: usize) -> Vec<u8> {
    let mut state = vec![0; bytes];
    if frame != NO_STATE {
        b.read_page(pages, frame, &mut state).unwrap();
    }
    state
}

fn fill(step: &mut Step, taken: &[(usize, usize)], done: &[usize], last: &[u32]) {
    step.clear();
    if step.tables.is_empty() {
        step.tables.push(Tables::default());
    }
    for (index, &(sequence, count)) in taken.iter().enumerate() {
        let positions = done[sequence]..done[sequence] + count;
        step.tokens.extend(positions.clone().map(|p| (sequence * TOKENS + p) as u32));
        step.positions.extend(positions.map(|p| p as u32));
        step.sequences.extend(std::iter::repeat_n(index as u32, count));
        step.tables[0].starts.push(2 * index as u32);
        step.tables[0].pages.extend([last[sequence], next(last[sequence], sequence)]);
    }
}

fn cpu(tier: Tier, threads: usize) -> Box<dyn ProbedDevice> {
    probe(Device::Cpu, DeviceOptions { tier, threads, ..DeviceOptions::default() }).unwrap()
}

/// What a device computes, against the reference tier.
pub fn agree(what: &str, device: &dyn ProbedDevice, tolerance: f32) {
    for sizes in SIZES {
        let expected = run(&*cpu(Tier::Reference, 1), sizes, &whole());
        let got = run(device, sizes, &whole());
        for (sequence, ((got, _), (expected, _))) in got.iter().zip(&expected).enumerate() {
            assert_eq!(got.len(), expected.len());
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                let bound = tolerance * (1.0 + expected.abs());
                assert!((got - expected).abs() <= bound, "{what} {sizes:?}, {sequence}, {i}: {got} for {expected}");
            }
        }
    }
}

/// Sequences have the same bits in all kinds of steps, and end with the same states.
pub fn steps_change_nothing(what: &str, open: &dyn Fn() -> Box<dyn ProbedDevice>) {
    for sizes in SIZES {
        let all = run(&*open(), sizes, &whole());
        for (how, steps) in [("token by token", single()), ("mixed 3", mixed(3)), ("mixed 4", mixed(4))] {
            for (sequence, (few, all)) in run(&*open(), sizes, &steps).iter().zip(&all).enumerate() {
                let bits = |v: &[f32]| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&few.0), bits(&all.0), "{what} {sizes:?}, {how}, sequence {sequence}");
                assert_eq!(few.1[0], all.1[0], "{what} {sizes:?}, {how}, the state of sequence {sequence}");
            }
        }
    }
}

#[test]
fn every_tier_agrees_with_the_reference() {
    for tier in tiers().into_iter().filter(|tier| *tier != Tier::Reference) {
        agree(&format!("{tier:?}"), &*cpu(tier, 2), 5e-5);
    }
}

#[test]
fn steps_change_nothing_on_any_tier() {
    for tier in tiers() {
        for threads in [1, 3] {
            steps_change_nothing(&format!("{tier:?}, {threads} threads"), &|| cpu(tier, threads));
        }
    }
}

#[test]
fn plain_loops_agree_with_the_reference() {
    let plain = || plain_device::probe(Device::Cpu, DeviceOptions::default()).unwrap();
    agree("plain", &*plain(), 5e-5);
    steps_change_nothing("plain", &plain);
}

/// Of a GPU.
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub fn on_a_gpu() {
    let compute = astrai::backend::cpu::Compute::F32;
    let open = || probe(Device::Cuda, DeviceOptions { compute, ..DeviceOptions::default() }).unwrap();
    agree("cuda", &*open(), 5e-5);
    steps_change_nothing("cuda", &open);
}
