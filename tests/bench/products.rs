//! Matrix products of every tier and weight format, beside what this machine reads from memory and multiplies from registers.
//!
//!     cargo bench --bench products [-- FILTER]          e.g. 'avx512/q8'
//!
//! `decode` reads weights larger than any cache with few rows, and its throughput is bytes of weights; `prefill` is 512 rows
//! on weights that stay in a cache, and its throughput is operations, a multiply-add being two.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use astrai::backend::cpu::{Compute, CpuBackend, Tier, tiers};
use astrai::backend::{Linear, Memory, Operations, Tensor, Weight};
use astrai::dtype::DType;
use astrai::encoding::{Encoding, Quantizer, Scheme};
use astrai::os::aligned::AlignedBytes;
use astrai::os::thread::{ThreadOptions, physical_cores};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::sync::Arc;
use std::time::Duration;

mod limits;

const INS: usize = 1024;
/// 128 MiB of bf16.
const DECODE_OUTS: usize = 64 << 10;
const PREFILL_OUTS: usize = 3072;
const PREFILL_ROWS: usize = 512;

/// A bf16 matrix of small numbers, in the wanted format, and its bytes.
fn weight(b: &mut CpuBackend, scheme: Option<Scheme>, out_features: usize) -> (Weight, usize) {
    let mut bytes = AlignedBytes::zeroed(out_features * INS * 2).expect("memory");
    for (i, two) in bytes.as_mut_slice().chunks_exact_mut(2).enumerate() {
        two.copy_from_slice(&(0x3c00u16 + (i % 251) as u16).to_le_bytes());
    }
    let (bytes, encoding) = match scheme {
        None => (bytes, Encoding::Stored(DType::Bf16)),
        Some(scheme) => {
            let mut panels = AlignedBytes::zeroed(scheme.bytes(out_features, INS).expect("small")).expect("memory");
            let mut quantizer = Quantizer::new(0, ThreadOptions::default()).expect("threads");
            quantizer
                .quantize(bytes.as_slice(), DType::Bf16, [out_features, INS], scheme, panels.as_mut_slice())
                .expect("a matrix");
            (panels, Encoding::Quantized(scheme))
        }
    };
    let len = bytes.as_slice().len();
    (b.weight(Arc::new(bytes), encoding, out_features, INS).expect("the bytes are the format's"), len)
}

fn product(b: &mut CpuBackend, weight: Weight, rows: usize) -> (Tensor, Linear) {
    let x = b.alloc(rows * INS, "x").expect("memory");
    let out = b.alloc(rows * weight.out_features, "out").expect("memory");
    (x, Linear { weight, bias: None, out, accumulate: false })
}

fn main() {
    let threads = physical_cores();
    println!("{threads} threads; memory is read at {:.1} GB/s", limits::read(threads));
    for (name, limit) in limits::registers(threads) {
        println!("{name} from registers: {limit:.0} G operations/s");
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    for tier in tiers().into_iter().filter(|t| *t != Tier::Reference) {
        for (format, scheme) in [("bf16", None), ("q8", Some(Scheme::Q8)), ("q4", Some(Scheme::Q4))] {
            let mut b = CpuBackend::new(tier, Compute::default(), threads, ThreadOptions::default())
                .expect("the tier is one of this machine's");
            let name = format!("{tier:?}/{format}").to_lowercase();
            let mut group = criterion.benchmark_group(name);
            let (large, bytes) = weight(&mut b, scheme, DECODE_OUTS);
            for rows in [1, 4, 8, 16] {
                let (x, linear) = product(&mut b, large, rows);
                group.throughput(Throughput::BytesDecimal(bytes as u64));
                group.bench_function(BenchmarkId::new("decode", rows), |bench| {
                    bench.iter(|| b.linear(x, rows, &[linear]));
                });
            }
            let (small, _) = weight(&mut b, scheme, PREFILL_OUTS);
            let (x, linear) = product(&mut b, small, PREFILL_ROWS);
            group.throughput(Throughput::Elements((2 * PREFILL_ROWS * PREFILL_OUTS * INS) as u64));
            group.bench_function(BenchmarkId::new("prefill", PREFILL_ROWS), |bench| {
                bench.iter(|| b.linear(x, PREFILL_ROWS, &[linear]));
            });
            group.finish();
        }
    }
    criterion.final_summary();
}
