//! Routed experts: the choice and its lists, and a whole layer through grouped products, against sums in f64; law 1.

use super::host::{Memory, launch, param, shape};
use super::products::{Format, Kernel, Matrix, Product, Products, kernels, pitch, rows_of_bf16};
use super::{Random, begin, close, rounded, same_bits};
use astrai::dtype::BlockFormat;

const EXPERTS: usize = 11;
const CHOSEN: usize = 3;

/// The mirror of `Slots` in kernels/experts.cu.
#[repr(C)]
struct Slots {
    rows: *mut u32,
    of_entry: *mut u32,
    tiles: *mut [i32; 3],
    tile_count: *mut i32,
}

/// The lists of a step.
struct Lists {
    chosen: Memory,
    weights: Memory,
    rows: Memory,
    of_entry: Memory,
    tiles: Memory,
    tile_count: Memory,
    tiles_max: usize,
}

fn route(logits: &[f32], renormalise: bool, tile_rows: usize) -> Lists {
    let rows = logits.len() / EXPERTS;
    let entries = rows * CHOSEN;
    let [chosen, weights, of_rows, of_entry] = [0; 4].map(|_| Memory::new(entries * 4));
    let tiles_max = entries / tile_rows + EXPERTS;
    let (input, counts) = (Memory::of(logits), Memory::new(EXPERTS * 4));
    let lists = Lists {
        chosen,
        weights,
        rows: of_rows,
        of_entry,
        tiles: Memory::new(tiles_max * 12),
        tile_count: Memory::new(4),
        tiles_max,
    };
    let numbers = [rows, EXPERTS, CHOSEN, usize::from(renormalise), entries, tile_rows].map(|n| n as i32);
    let [r, e, c, n, entries, tile_rows] = [0, 1, 2, 3, 4, 5].map(|i| param(&numbers[i]));
    let params = [input.param(), lists.chosen.param(), lists.weights.param(), r, e, c, n];
    launch("experts_route", shape([rows.div_ceil(4), 1, 1], 128, 4 * CHOSEN * 8), &params);
    launch("experts_count", shape([EXPERTS, 1, 1], 256, 0), &[lists.chosen.param(), counts.param(), entries]);
    let slots = Slots {
        rows: lists.rows.at(),
        of_entry: lists.of_entry.at(),
        tiles: lists.tiles.at(),
        tile_count: lists.tile_count.at(),
    };
    let params = [lists.chosen.param(), counts.param(), param(&slots), entries, c, tile_rows];
    launch("experts_place", shape([EXPERTS, 1, 1], 256, 0), &params);
    lists
}

/// The experts of a row in ascending order, and their weights.
fn expected_choice(logits: &[f32], renormalise: bool) -> Vec<(usize, f64)> {
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let mut all: Vec<(usize, f64)> = logits.iter().map(|&l| f64::from(l).exp() / total).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(CHOSEN);
    let sum: f64 = if renormalise { all.iter().map(|c| c.1).sum() } else { 1.0 };
    all.iter_mut().for_each(|c| c.1 /= sum);
    all.sort_by_key(|c| c.0);
    all
}

fn logits(rows: usize, random: &mut Random) -> Vec<f32> {
    let mut logits: Vec<f32> = random.vec(rows * EXPERTS).iter().map(|v| v * 3.0).collect();
    // Equals: the lower ones are chosen.
    logits[..EXPERTS].fill(0.5);
    logits
}

#[test]
fn rows_go_to_their_most_probable_experts() {
    if !begin() {
        return;
    }
    for (rows, renormalise, tile_rows) in [(1, true, 8), (7, false, 8), (200, true, 16)] {
        let logits = logits(rows, &mut Random(rows as u64));
        let lists = route(&logits, renormalise, tile_rows);
        let expected: Vec<(usize, f64)> =
            logits.chunks(EXPERTS).flat_map(|row| expected_choice(row, renormalise)).collect();
        let chosen: Vec<usize> = lists.chosen.read::<u32>().iter().map(|&e| e as usize).collect();
        assert_eq!(chosen, expected.iter().map(|c| c.0).collect::<Vec<_>>());
        close("weights", &lists.weights.read(), &expected.iter().map(|c| c.1).collect::<Vec<_>>(), 1e-6);
        // Slots: by expert, then by row.
        let mut order: Vec<usize> = (0..rows * CHOSEN).collect();
        order.sort_by_key(|&entry| (chosen[entry], entry));
        let (slot_rows, of_entry) = (lists.rows.read::<u32>(), lists.of_entry.read::<u32>());
        for (slot, &entry) in order.iter().enumerate() {
            assert_eq!((slot_rows[slot] as usize, of_entry[entry] as usize), (entry / CHOSEN, slot));
        }
        let count = lists.tile_count.read::<i32>()[0] as usize;
        let mut next = 0;
        for [expert, first, rows] in lists.tiles.read::<[i32; 3]>().into_iter().take(count) {
            assert_eq!(first, next);
            assert!(rows >= 1 && rows <= tile_rows as i32);
            for slot in first..first + rows {
                assert_eq!(chosen[order[slot as usize]] as i32, expert);
            }
            next += rows;
        }
        assert!(next as usize == rows * CHOSEN && count <= lists.tiles_max);
    }
}

/// One product of every expert that has rows.
fn grouped(kernel: &Kernel, weights: &[Matrix], lists: &Lists, x: &Memory, by_row: bool, slots: usize) -> Vec<f32> {
    let (out_features, in_features) = (weights[0].out_features, weights[0].in_features);
    let table: Vec<*const u8> = weights.iter().map(|w| w.memory.at::<u8>().cast_const()).collect();
    // SAFETY: addresses are plain numbers of eight bytes.
    let table = Memory::of(unsafe { std::slice::from_raw_parts(table.as_ptr().cast::<u64>(), table.len()) });
    let out = Memory::new(slots * out_features * 4);
    let product = Product {
        weight: std::ptr::null(),
        experts: table.at(),
        bias: std::ptr::null(),
        out: out.at(),
        out_features: out_features as i32,
        accumulate: 0,
        first_block: 0,
        expert_stride: 1,
    };
    let f32s = kernel.format == Format::F32;
    let args = Products {
        products: [product; 4],
        count: 1,
        in_features: in_features as i32,
        pitch: if f32s { in_features } else { pitch(in_features) } as i32,
        rows: 0,
        x: x.at(),
        tiles: lists.tiles.at(),
        tile_count: lists.tile_count.at(),
        x_rows: if by_row { lists.rows.at() } else { std::ptr::null() },
    };
    launch(
        &kernel.name,
        shape([out_features.div_ceil(kernel.out_features), lists.tiles_max, 1], 256, kernel.shared()),
        &[param(&args)],
    );
    out.read()
}

/// out += sum_j p_j * down_j(up_j(x)), the gate left out.
fn layer(kernel: &Kernel, up: &[Matrix], down: &[Matrix], logits: &[f32], x: &[f32]) -> Vec<f32> {
    let (hidden, inner, rows) = (up[0].in_features, up[0].out_features, x.len() / up[0].in_features);
    let lists = route(logits, true, kernel.rows);
    let form = |x: &[f32], width| {
        if kernel.format == Format::F32 { Memory::of(x) } else { Memory::of(&rows_of_bf16(x, width)) }
    };
    let slots = rows * CHOSEN;
    let between = grouped(kernel, up, &lists, &form(x, hidden), true, slots);
    let y = Memory::of(&grouped(kernel, down, &lists, &form(&between, inner), false, slots));
    let out = Memory::of(&vec![1f32; rows * hidden]);
    let sizes = [rows, CHOSEN, hidden].map(|n| n as i32);
    let params = [y.param(), lists.of_entry.param(), lists.weights.param(), out.param()];
    let params: Vec<_> = params.into_iter().chain([0, 1, 2].map(|i| param(&sizes[i]))).collect();
    launch("experts_combine", shape([2, 1, 1], 256, 0), &params);
    out.read()
}

#[test]
fn experts_agree_with_exact_sums_and_rows_keep_their_bits() {
    if !begin() {
        return;
    }
    let rows = 26;
    // Blocks of any format are found in the same way.
    let serves = |k: &Kernel| !matches!(k.format, Format::Blocks(format) if format != BlockFormat::Q4K);
    for kernel in kernels().iter().filter(|k| serves(k) && (k.rows == 8 || k.rows == 64)) {
        let [hidden, inner] = [72, 40].map(|width| kernel.format.width(width));
        let mut random = Random(9);
        let mut matrices = |out_features, in_features| -> Vec<Matrix> {
            (0..EXPERTS).map(|_| Matrix::new(kernel.format, out_features, in_features, &mut random)).collect()
        };
        let (up, down) = (matrices(inner, hidden), matrices(hidden, inner));
        let logits = logits(rows, &mut random);
        let x: Vec<f32> = random.vec(rows * hidden).into_iter().map(rounded).collect();
        let got = layer(kernel, &up, &down, &logits, &x);
        for row in 0..rows {
            let of_row = (&logits[row * EXPERTS..(row + 1) * EXPERTS], &x[row * hidden..(row + 1) * hidden]);
            let mut expected = vec![1f64; hidden];
            for (expert, weight) in expected_choice(of_row.0, true) {
                let between: Vec<f32> = (0..inner).map(|o| up[expert].dot(of_row.1, o).0 as f32).collect();
                for (o, sum) in expected.iter_mut().enumerate() {
                    *sum += weight * down[expert].dot(&between, o).0;
                }
            }
            // The product between is rounded to bf16 but for f32.
            let tolerance = if kernel.format == Format::F32 { 1e-4 } else { 0.15 };
            close(&kernel.name, &got[row * hidden..(row + 1) * hidden], &expected, tolerance);
            if row == 17 {
                let alone = layer(kernel, &up, &down, of_row.0, of_row.1);
                same_bits(&kernel.name, &got[row * hidden..(row + 1) * hidden], &alone);
            }
        }
    }
}
