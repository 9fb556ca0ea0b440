//! Products of heads on any device: all agree with the CPU's reference tier, also with a matrix in blocks, and a row has the same bits
//! in any step.

use crate::kernels::stored;
use crate::support::gguf::random_blocks;
use crate::support::plain_device;
use crate::support::random::Random;
use astrai::backend::cpu::Tier;
use astrai::backend::device::{Device, DeviceOptions, ProbedDevice, probe};
use astrai::backend::*;
use astrai::dtype::{BlockFormat, DType};
use astrai::encoding::Encoding;
use astrai::os::aligned::AlignedBytes;
use astrai::sampling::AllowedTokens;
use std::sync::Arc;

const ROWS: usize = 37;
const HEADS: usize = 3;
/// Rows of a head that are not multiplied, those that are, and elements of an input beyond.
const OTHERS: usize = 5;
const COUNT: usize = 24;
const BEYOND: usize = 6;

#[derive(Clone, Copy, Debug)]
struct Case {
    width: usize,
    blocks: bool,
    transposed: bool,
}

const CASES: [Case; 4] = [
    Case { width: 64, blocks: false, transposed: false },
    Case { width: 64, blocks: true, transposed: true },
    Case { width: 33, blocks: false, transposed: true },
    Case { width: 256, blocks: true, transposed: false },
];

/// The results of some rows in one step, inputs being the rows of an embedding.
fn run(device: &dyn ProbedDevice, case: Case, rows: &[usize]) -> Vec<Vec<f32>> {
    let Case { width, blocks, transposed } = case;
    let mut b = device.open(1 << 20, &mut |_| {}).unwrap().backend;
    let (ins, outs) = if transposed { (COUNT, width) } else { (width, COUNT) };
    let (x_row, out_row) = (HEADS * (ins + BEYOND), HEADS * (outs + BEYOND));
    let mut random = Random(31);
    let outputs = HEADS * (OTHERS + COUNT);
    let (bytes, dtype): (HostBytes, _) = match blocks {
        true => {
            let blocks = random_blocks(BlockFormat::Q8_0, outputs * width, &mut random);
            let mut held = AlignedBytes::zeroed(blocks.len()).unwrap();
            held.as_mut_slice().copy_from_slice(&blocks);
            (Arc::new(held), DType::Blocks(BlockFormat::Q8_0))
        }
        false => (stored(&random.vec(outputs * width), DType::Bf16), DType::Bf16),
    };
    let weight = b.head_weight(bytes, Encoding::Stored(dtype), outputs, width).unwrap();
    let table = stored(&random.vec(ROWS * x_row), DType::Bf16);
    let table = b.weight(table, Encoding::Stored(DType::Bf16), ROWS, x_row).unwrap();
    let [x, out] = [x_row, out_row].map(|row| b.alloc(ROWS * row, "test").unwrap());
    b.reserve(&MaxBatchShape {
        rows: ROWS,
        sequences: 1,
        positions: ROWS,
        groups: 1,
        page_tokens: 16,
        table_pages: 4,
        in_features: x_row.max(out_row),
        hidden: x_row,
        vocab: ROWS,
        logits_rows: 8,
        ..MaxBatchShape::default()
    })
    .unwrap();
    b.set_vocabulary_mask(&AllowedTokens::all(ROWS)).unwrap();
    let step = b.step();
    step.clear();
    step.tables.resize_with(1, Tables::default);
    step.tables[0].starts.push(0);
    step.tables[0].pages.push(0);
    step.tokens.extend(rows.iter().map(|row| *row as u32));
    step.positions.extend(0..rows.len() as u32);
    step.sequences.extend(rows.iter().map(|_| 0));
    b.begin();
    b.embed(table, 1.0, x);
    let view = |tensor, dim: usize| Heads { tensor, row_stride: HEADS * dim, head_stride: dim, heads: HEADS, dim };
    let (x, to) = (view(x, ins + BEYOND), view(out, outs + BEYOND));
    let products = HeadProducts { weight, first: OTHERS, stride: OTHERS + COUNT, count: COUNT, transposed, x, out: to };
    b.head_products(&products, rows.len());
    let mut all = vec![0.0; rows.len() * out_row];
    b.read(out, &mut all).unwrap();
    all.chunks(out_row).map(<[f32]>::to_vec).collect()
}

/// What a device computes, against the reference tier, with another tolerance for a matrix in blocks; and any rows in any steps.
fn check(what: &str, device: &dyn ProbedDevice, of_blocks: f32) {
    let reference = DeviceOptions { tier: Tier::Reference, threads: 1, ..DeviceOptions::default() };
    let reference = probe(Device::Cpu, reference).unwrap();
    let all: Vec<usize> = (0..ROWS).collect();
    for case in CASES {
        let (want, got) = (run(&*reference, case, &all), run(device, case, &all));
        for (row, (want, got)) in want.iter().zip(&got).enumerate() {
            let tolerance = if case.blocks { of_blocks } else { 2e-5 };
            for (want, got) in want.iter().zip(got) {
                assert!(
                    (want - got).abs() <= tolerance * (1.0 + want.abs()),
                    "{what} {case:?}, row {row}: {got}, {want}"
                );
            }
        }
        for some in [&all[3..4], &all[10..19], &all[..8], &[36, 0, 17]] {
            for (row, alone) in some.iter().zip(run(device, case, some)) {
                let same = alone.iter().zip(&got[*row]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{what} {case:?}: row {row} of {some:?}");
            }
        }
    }
}

#[test]
fn plain_loops_agree_with_the_reference() {
    check("plain", &*plain_device::probe(Device::Cpu, DeviceOptions::default()).unwrap(), 2e-5);
}

#[test]
fn every_tier_agrees_with_the_reference() {
    for tier in astrai::backend::cpu::tiers() {
        let options = DeviceOptions { tier, threads: 2, ..DeviceOptions::default() };
        check(&format!("{tier:?}"), &*probe(Device::Cpu, options).unwrap(), 2e-5);
    }
}

/// Of a GPU.
#[cfg(all(feature = "cuda", target_os = "linux"))]
pub fn on_a_gpu() {
    use astrai::backend::cpu::Compute;

    // The numbers of the others are bf16, and inputs are not rounded; blocks are.
    for (compute, of_blocks) in [(Compute::F32, 2e-5), (Compute::Bf16, 5e-3)] {
        let options = DeviceOptions { compute, ..DeviceOptions::default() };
        let device = probe(Device::Cuda, options).unwrap();
        check(&format!("cuda {compute:?}"), &*device, of_blocks);
    }
}
