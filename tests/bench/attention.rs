//! Attention and the storing of keys and values, on every tier and page type: GB of keys and values read per second,
//! GFLOP/s, and microseconds, beside what this machine reads from memory and multiplies from registers.
//!
//!     cargo bench --bench attention [-- THREADS [TIER [PAGES]]]
//!
//! Shapes: 16 query heads on 8 KV heads of 128. The layers of the pages together are larger than caches, and each
//! measurement goes through all of them, as a step does. The median over the rounds counts.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use astrai::backend::cpu::{Compute, CpuBackend, Tier, tiers};
use astrai::backend::{
    Attention, Cache, FrameContent, Heads, KvShape, MaxBatchShape, Memory, Operations, Placement, Steps, Tables, Tensor,
};
use astrai::dtype::DType;
use astrai::os::thread::ThreadOptions;
use std::time::Instant;

mod limits;

const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const DIM: usize = 128;
const PAGE_TOKENS: usize = 16;
const ROUNDS: usize = 5;
/// Bytes of keys and values a measurement reads at least, if layers suffice.
const BYTES_MIN: usize = 256 << 20;
const LAYERS_MAX: usize = 64;

struct Work {
    name: &'static str,
    sequences: usize,
    /// Tokens before the first row.
    before: usize,
    /// Rows of each sequence.
    rows: usize,
}

const WORKS: [Work; 6] = [
    Work { name: "decode, 16 x 512", sequences: 16, before: 511, rows: 1 },
    Work { name: "decode, 1 x 512", sequences: 1, before: 511, rows: 1 },
    Work { name: "decode, 1 x 8192", sequences: 1, before: 8191, rows: 1 },
    Work { name: "decode, 4 x 48", sequences: 4, before: 47, rows: 1 },
    Work { name: "prefill, 512 at 0", sequences: 1, before: 0, rows: 512 },
    Work { name: "prefill, 256 at 7936", sequences: 1, before: 7936, rows: 256 },
];

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let threads = args.next().and_then(|a| a.parse().ok()).unwrap_or(2);
    let only = args.next().map(|a| a.to_lowercase());
    let pages = args.next();
    println!("{threads} threads; memory is read at {:.1} GB/s", limits::read(threads));
    for &(name, limit) in &limits::registers(threads) {
        println!("{name} from registers: {limit:.0} GFLOP/s");
    }
    println!(
        "{:<9} {:<5} {:<22} {:>9} {:>9} {:>9} {:>9}",
        "tier", "pages", "work", "us/layer", "GB/s", "GFLOP/s", "store us"
    );
    for tier in tiers().into_iter().filter(|t| *t != Tier::Reference) {
        if only.as_ref().is_some_and(|o| *o != format!("{tier:?}").to_lowercase()) {
            continue;
        }
        for dtype in [DType::F32, DType::Bf16, DType::I8] {
            if pages.as_ref().is_some_and(|p| *p != dtype.to_string()) {
                continue;
            }
            for work in &WORKS {
                measure(tier, threads, dtype, work);
            }
        }
    }
}

/// A pseudo-random order of `n` frames.
fn scattered(n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut state = 7u64;
    for i in (1..n).rev() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}

fn measure(tier: Tier, threads: usize, dtype: DType, work: &Work) {
    let mut b = CpuBackend::new(tier, Compute::default(), threads, ThreadOptions::default())
        .expect("the tier is one of this machine's");
    let (rows, positions) = (work.rows * work.sequences, work.before + work.rows);
    let max_shape =
        MaxBatchShape { rows, positions, heads_per_kv: HEADS / KV_HEADS, v_dim: DIM, ..MaxBatchShape::default() };
    b.reserve(&max_shape).expect("memory");
    let each = (work.before + work.rows).div_ceil(PAGE_TOKENS);
    let frames = each * work.sequences;
    let mut shape = KvShape {
        layers: 1,
        frames,
        page_tokens: PAGE_TOKENS,
        kv_heads: KV_HEADS,
        k_dim: DIM,
        v_dim: DIM,
        content: FrameContent::KeysValues,
        dtype,
    };
    let layer_bytes = shape.frame_bytes().expect("small") * frames;
    shape.layers = if work.rows > 1 { 4 } else { BYTES_MIN.div_ceil(layer_bytes).clamp(1, LAYERS_MAX) };
    let pages = b.kv_pages(shape).expect("memory");
    let tables = scattered(frames);
    let starts: Vec<u32> = (0..work.sequences).map(|s| (s * each) as u32).collect();
    let rows = work.rows * work.sequences;
    let positions: Vec<u32> = (0..rows).map(|r| (work.before + r % work.rows) as u32).collect();
    let sequences: Vec<u32> = (0..rows).map(|r| (r / work.rows) as u32).collect();
    let heads =
        |tensor: Tensor, heads: usize| Heads { tensor, row_stride: heads * DIM, head_stride: DIM, heads, dim: DIM };
    let q = heads(b.alloc(rows * HEADS * DIM, "q").expect("memory"), HEADS);
    let k = heads(b.alloc(rows * KV_HEADS * DIM, "k").expect("memory"), KV_HEADS);
    let keys: f64 = positions.iter().map(|p| *p as f64 + 1.0).sum();
    let step = b.step();
    (step.positions, step.sequences, step.tables) = (positions, sequences, vec![Tables { pages: tables, starts }]);
    let placement =
        Placement { q, k, v: k, norms: None, norm_last: false, eps: 0.0, rotary: None, store: true, pages, layer: 0 };
    let out = b.alloc(rows * HEADS * DIM, "out").expect("memory");
    // Every page is written, so that it is memory of its own.
    let page: Vec<u8> = (0..shape.frame_bytes().expect("small")).map(|i| (i % 60) as u8).collect();
    (0..frames as u32).for_each(|f| b.write_page(pages, f, &page).expect("in range"));
    let (mut times, mut stores) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        (0..shape.layers).for_each(|layer| b.place_heads(&Placement { layer, ..placement }));
        stores.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for layer in 0..shape.layers {
            b.attention(Attention {
                q,
                out,
                pages,
                layer,
                scale: 0.1,
                window: None,
                bidirectional: false,
                softcap: None,
                sinks: None,
            });
        }
        times.push(start.elapsed().as_secs_f64());
    }
    let (time, store) = (median(&mut times) / shape.layers as f64, median(&mut stores) / shape.layers as f64);
    let flops = keys * (HEADS * 4 * DIM) as f64;
    let bytes = (work.sequences * (work.before + work.rows) * KV_HEADS * shape.token_bytes()) as f64;
    println!(
        "{:<9} {:<5} {:<22} {:>9.1} {:>9.2} {:>9.1} {:>9.1}",
        format!("{tier:?}"),
        dtype.to_string(),
        work.name,
        time * 1e6,
        bytes / time / 1e9,
        flops / time / 1e9,
        store * 1e6
    );
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
