//! Operations on rows and heads: against plain sums in f64 and the CPU's reference tier.

use super::host::{Memory, launch, param, shape};
use super::products::{device_rows, pitch, rows_of_bf16};
use super::{Random, begin, close, same_bits};
use crate::support::gguf::random_blocks;
use astrai::backend::cpu::{Compute, CpuBackend, Tier};
use astrai::backend::{
    self, Cache, FrameContent, KvShape, Memory as _, Operations, Placement, Rotary, Steps, Tables, Tensor, Weight,
};
use astrai::dtype::{BlockFormat, DType};
use astrai::encoding::{Encoding, blocks};
use astrai::os::thread::ThreadOptions;
use std::sync::Arc;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

#[test]
fn embedding_and_gather_copy_rows() {
    if !begin() {
        return;
    }
    WIDTHS.into_iter().for_each(embedding_and_gather);
}

/// Rows of blocks have the values that the CPU gives them, to the bit, in every format.
#[test]
fn embeddings_in_blocks_have_the_bits_of_the_cpu() {
    if !begin() {
        return;
    }
    let (vocab, tokens) = (9, [3u32, 0, 8, 3]);
    for format in BlockFormat::ALL {
        for width in [format.weights(), 1280] {
            let mut random = Random(1);
            let stored = random_blocks(format, vocab * width, &mut random);
            let mut table = vec![0.0; vocab * width];
            blocks::widen(format, &stored, &mut table);
            let expected: Vec<f32> =
                tokens.iter().flat_map(|&t| table[t as usize * width..][..width].iter().map(|v| v * 6.5)).collect();
            let (matrix, out) = (Memory::of(&device_rows(format, &stored, width)), Memory::new(4 * width * 4));
            let (ids, sampled) = (Memory::of(&tokens), Memory::of(&[0u32]));
            let (none, rows, columns, scale) = (0i32, 4i32, width as i32, 6.5f32);
            let params = [
                matrix.param(),
                param(&none),
                ids.param(),
                sampled.param(),
                param(&scale),
                out.param(),
                param(&rows),
                param(&columns),
            ];
            let kernel = format!("embed_{}", format.name());
            launch(&kernel, shape([2, 1, 1], 256, 0), &params);
            same_bits(&kernel, &out.read(), &expected);
        }
    }
}

/// Rows of elements are taken four at a time, of which they may have some left; more than a block takes at once.
pub const WIDTHS: [usize; 4] = [3, 64, 70, 1100];

fn embedding_and_gather(width: usize) {
    let mut random = Random(1);
    let vocab = 50;
    let table = random.vec(vocab * width);
    let tokens = [3u32, 0, 49, 3];
    let (ids, out) = (Memory::of(&tokens), Memory::new(4 * width * 4));
    let (rows, width_of, pitch_of, one, scale) = (4i32, width as i32, pitch(width) as i32, 1f32, -2.5f32);
    let expected = |round: fn(f32) -> f32| -> Vec<f32> {
        tokens.iter().flat_map(|&t| table[t as usize * width..][..width].iter().map(|&v| round(v))).collect()
    };
    let bf16 = Memory::of(&rows_of_bf16(&table, width));
    // Two of them as draws of the step before, one of which gave none.
    let sampled = Memory::of(&[u32::MAX, tokens[3]]);
    let given = Memory::of(&[tokens[0], tokens[1], tokens[2], 1 << 31 | 1]);
    let params = [
        bf16.param(),
        param(&pitch_of),
        given.param(),
        sampled.param(),
        param(&scale),
        out.param(),
        param(&rows),
        param(&width_of),
    ];
    launch("embed_bf16", shape([2, 1, 1], 256, 0), &params);
    same_bits("embed_bf16", &out.read(), &expected(|v| super::rounded(v) * -2.5));
    let floats = Memory::of(&table);
    let params = [
        floats.param(),
        param(&width_of),
        ids.param(),
        sampled.param(),
        param(&one),
        out.param(),
        param(&rows),
        param(&width_of),
    ];
    launch("embed_f32", shape([1, 1, 1], 256, 0), &params);
    same_bits("embed_f32", &out.read(), &expected(|v| v));
    let none = Memory::of(&[1u32 << 31; 4]);
    let params = [
        floats.param(),
        param(&width_of),
        none.param(),
        sampled.param(),
        param(&one),
        out.param(),
        param(&rows),
        param(&width_of),
    ];
    launch("embed_f32", shape([1, 1, 1], 256, 0), &params);
    same_bits("embed_f32 of no token", &out.read(), &table[..width].repeat(4));
    let out = Memory::new(4 * width * 4);
    let params = [floats.param(), ids.param(), out.param(), param(&rows), param(&width_of)];
    launch("gather_rows", shape([3, 1, 1], 256, 0), &params);
    same_bits("gather_rows", &out.read(), &expected(|v| v));
}

#[test]
fn angles_are_those_of_the_positions() {
    if !begin() {
        return;
    }
    let (positions, half, scale) = ([0u32, 1, 1000, 131071], 8usize, 1.25f32);
    let frequencies: Vec<f32> = (0..half).map(|i| 10000f32.powf(-(i as f32) / half as f32)).collect();
    let (at, frequency, out) = (Memory::of(&positions), Memory::of(&frequencies), Memory::new(4 * 2 * half * 4));
    let sizes = [4, half as i32];
    let [rows, half_of] = [0, 1].map(|i| param(&sizes[i]));
    let params = [at.param(), frequency.param(), param(&scale), out.param(), rows, half_of];
    launch("rotary_angles", shape([1, 1, 1], 256, 0), &params);
    let angle = |p: u32, i: usize| f64::from(p as f32 * frequencies[i]);
    let expected: Vec<f64> = (positions.iter())
        .flat_map(|&p| (0..2 * half).map(move |i| (p, i)))
        .map(|(p, i)| f64::from(scale) * if i < half { angle(p, i).cos() } else { angle(p, i - half).sin() })
        .collect();
    close("angles", &out.read(), &expected, 1e-6);
}

#[repr(C)]
struct Norm {
    x: *mut f32,
    add: *const f32,
    gain: *const f32,
    bias: *const f32,
    out: *mut f32,
    rounded: *mut u16,
    width: i32,
    pitch: i32,
    eps: f32,
    centred: i32,
    row_stride: i64,
    head_stride: i64,
    heads: i32,
}

#[test]
fn norms_with_residual_and_rounding() {
    if !begin() {
        return;
    }
    let mut random = Random(3);
    for (rows, width) in [(1, 1), (3, 64), (2, 255), (2, 256), (4, 257), (1, 1100)] {
        // Away from 0, so that the mean is something.
        let [x, add] = [0, 1].map(|_| random.vec(rows * width).iter().map(|v| v + 0.3).collect::<Vec<f32>>());
        let [gain, bias] = [0, 1].map(|_| random.vec(width));
        for kind in 0..16 {
            let [with_add, with_gain, with_bias, centred] = [1, 2, 4, 8].map(|bit| kind & bit != 0);
            let (memory, added) = (Memory::of(&x), Memory::of(&add));
            let (gains, biases) = (Memory::of(&gain), Memory::of(&bias));
            let (out, bf16) = (Memory::new(rows * width * 4), Memory::new(rows * pitch(width) * 2));
            let given = |memory: &Memory, given: bool| if given { memory.at::<f32>() } else { std::ptr::null_mut() };
            let args = Norm {
                x: memory.at(),
                add: given(&added, with_add),
                gain: given(&gains, with_gain),
                bias: given(&biases, with_bias),
                out: out.at(),
                rounded: bf16.at(),
                width: width as i32,
                pitch: pitch(width) as i32,
                eps: 1e-5,
                centred: centred.into(),
                row_stride: width as i64,
                head_stride: 0,
                heads: 1,
            };
            launch("norm_rows", shape([rows, 1, 1], 256, 0), &[param(&args)]);
            let sums: Vec<f32> = x.iter().zip(&add).map(|(x, y)| if with_add { x + y } else { *x }).collect();
            same_bits("residual", &memory.read(), &sums);
            let normed = |row: &[f32]| -> Vec<f64> {
                let mean = if centred { wide(row).iter().sum::<f64>() / width as f64 } else { 0.0 };
                let square: f64 = wide(row).iter().map(|v| (v - mean).powi(2)).sum();
                let factor = 1.0 / (square / width as f64 + 1e-5).sqrt();
                let one = |(i, v): (usize, f64)| {
                    let (gain, bias) = (f64::from(gain[i]), f64::from(bias[i]));
                    (v - mean) * factor * if with_gain { gain } else { 1.0 } + if with_bias { bias } else { 0.0 }
                };
                wide(row).into_iter().enumerate().map(one).collect()
            };
            let expected: Vec<f64> = sums.chunks(width).flat_map(normed).collect();
            let got = out.read::<f32>();
            close("norm_rows", &got, &expected, 1e-5);
            assert_eq!(bf16.read::<u16>(), rows_of_bf16(&got, width));
        }
    }
}

/// The mirror of `Pages` in kernels/pages.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pages {
    pub start: *mut u8,
    pub frame_bytes: i64,
    pub layer_bytes: i64,
    pub layer: i32,
    pub page_tokens: i32,
    pub kv_heads: i32,
    pub k_dim: i32,
    pub v_dim: i32,
    pub element: i32,
    pub latent: i32,
}

impl Pages {
    pub fn new(shape: &KvShape, layer: usize, memory: &Memory) -> Pages {
        let bytes = shape.frame_bytes().unwrap();
        Pages {
            start: memory.at(),
            frame_bytes: bytes as i64,
            layer_bytes: (bytes / shape.layers) as i64,
            layer: layer as i32,
            page_tokens: shape.page_tokens as i32,
            kv_heads: shape.kv_heads as i32,
            k_dim: shape.k_dim as i32,
            v_dim: shape.v_dim as i32,
            element: shape.dtype.size() as i32,
            latent: i32::from(shape.latent()),
        }
    }
}

/// The mirror of `Heads` in kernels/norm.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Heads {
    pub start: *mut f32,
    pub row_stride: i64,
    pub head_stride: i64,
    pub heads: i32,
    pub dim: i32,
}

/// The mirror of `Place`.
#[repr(C)]
pub struct Place {
    pub q: Heads,
    pub k: Heads,
    pub v: Heads,
    pub q_gain: *const f32,
    pub k_gain: *const f32,
    pub angles: *const f32,
    pub rotary_start: i32,
    pub rotary_dims: i32,
    pub interleaved: i32,
    pub norm_last: i32,
    pub eps: f32,
    pub store: i32,
    pub pages: Pages,
    pub positions: *const u32,
    pub sequences: *const u32,
    pub tables: *const u32,
    pub table_starts: *const u32,
    pub rows: i32,
}

struct F32s(Vec<f32>);

impl AsRef<[u8]> for F32s {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: floats are plain bytes.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 4) }
    }
}

fn put(b: &mut CpuBackend, values: &[f32]) -> Tensor {
    let bytes = Arc::new(F32s(values.to_vec()));
    let table = b.weight(bytes, Encoding::Stored(DType::F32), 1, values.len()).unwrap();
    let tensor = b.alloc(values.len(), "test").unwrap();
    b.step().tokens = vec![0];
    b.embed(table, 1.0, tensor);
    tensor
}

fn vector(b: &mut CpuBackend, values: &[f32]) -> Weight {
    b.weight(Arc::new(F32s(values.to_vec())), Encoding::Stored(DType::F32), 1, values.len()).unwrap()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: DType,
    norms: bool,
    norm_last: bool,
    interleaved: bool,
    start: usize,
    dims: usize,
    /// Keys and values of a head lie together, as a latent projection leaves them.
    together: bool,
    /// Heads know no position.
    unrotated: bool,
}

const Q_HEADS: usize = 3;
const KV_HEADS: usize = 2;
const DIM: usize = 48;
const ROWS: usize = 5;

/// Two sequences of 3 and 2 rows over pages of 16 tokens, the first across a page's end.
struct Inputs {
    q: Vec<f32>,
    kv: [Vec<f32>; 2],
    gains: [Vec<f32>; 2],
    angles: Vec<f32>,
    positions: [u32; ROWS],
    sequences: [u32; ROWS],
    tables: [u32; 4],
    starts: [u32; 2],
}

impl Inputs {
    fn new(case: Case, random: &mut Random) -> Inputs {
        let turns: Vec<f32> = random.vec(ROWS * case.dims / 2).iter().map(|v| v * 3.0).collect();
        let angles = turns.chunks(case.dims / 2).flat_map(|row| {
            let (cos, sin) = (row.iter().map(|v| v.cos()), row.iter().map(|v| v.sin()));
            cos.chain(sin).collect::<Vec<_>>()
        });
        Inputs {
            q: random.vec(ROWS * Q_HEADS * DIM),
            kv: [0, 1].map(|_| random.vec(ROWS * KV_HEADS * DIM)),
            gains: [0, 1].map(|_| random.vec(DIM)),
            angles: angles.collect(),
            positions: [14, 15, 16, 0, 1],
            sequences: [0, 0, 0, 1, 1],
            tables: [9, 4, 2, 7],
            starts: [1, 3],
        }
    }

    /// Keys and values in one array, and the first element, row stride and head stride of both.
    fn layout(&self, case: Case) -> (Vec<f32>, [(usize, usize, usize); 2]) {
        let row = KV_HEADS * DIM;
        if !case.together {
            let all = [self.kv[0].clone(), self.kv[1].clone()].concat();
            return (all, [(0, row, DIM), (ROWS * row, row, DIM)]);
        }
        let heads = self.kv[0].chunks(DIM).zip(self.kv[1].chunks(DIM));
        let all = heads.flat_map(|(k, v)| [k, v].concat()).collect();
        (all, [(0, 2 * row, 2 * DIM), (DIM, 2 * row, 2 * DIM)])
    }
}

fn shape_of(case: Case) -> KvShape {
    KvShape {
        layers: 2,
        frames: 10,
        page_tokens: 16,
        kv_heads: KV_HEADS,
        k_dim: DIM,
        v_dim: DIM,
        content: FrameContent::KeysValues,
        dtype: case.dtype,
    }
}

/// Queries, keys and values after it, and the pages, by the CPU's reference.
fn reference(case: Case, inputs: &Inputs) -> (Vec<f32>, Vec<f32>, Vec<u8>) {
    let mut b = CpuBackend::new(Tier::Reference, Compute::F32, 1, ThreadOptions::default()).unwrap();
    let (all, [k, v]) = inputs.layout(case);
    let (q, kv, angles) = (put(&mut b, &inputs.q), put(&mut b, &all), put(&mut b, &inputs.angles));
    let pages = b.kv_pages(shape_of(case)).unwrap();
    let heads = |tensor: Tensor, heads, (first, row_stride, head_stride): (usize, usize, usize)| backend::Heads {
        tensor: tensor.at(first),
        row_stride,
        head_stride,
        heads,
        dim: DIM,
    };
    let norms = case.norms.then(|| [vector(&mut b, &inputs.gains[0]), vector(&mut b, &inputs.gains[1])]);
    let placement = Placement {
        q: heads(q, Q_HEADS, (0, Q_HEADS * DIM, DIM)),
        k: heads(kv, KV_HEADS, k),
        v: heads(kv, KV_HEADS, v),
        norms,
        norm_last: case.norm_last,
        eps: 1e-6,
        rotary: (!case.unrotated).then_some(Rotary {
            angles,
            start: case.start,
            dims: case.dims,
            interleaved: case.interleaved,
        }),
        store: true,
        pages,
        layer: 1,
    };
    let Inputs { positions, sequences, tables, starts, .. } = inputs;
    let step = b.step();
    (step.positions, step.sequences) = (positions.to_vec(), sequences.to_vec());
    step.tables = vec![Tables { pages: tables.to_vec(), starts: starts.to_vec() }];
    b.place_heads(&placement);
    let mut out = (vec![0.0; inputs.q.len()], vec![0.0; all.len()], Vec::new());
    b.read(q, &mut out.0).unwrap();
    b.read(kv, &mut out.1).unwrap();
    let bytes = shape_of(case).frame_bytes().unwrap();
    for frame in 0..10 {
        let mut page = vec![0; bytes];
        b.read_page(pages, frame, &mut page).unwrap();
        out.2.extend(page);
    }
    out
}

/// The same by the kernel.
fn device(case: Case, inputs: &Inputs) -> (Vec<f32>, Vec<f32>, Vec<u8>) {
    let kv_shape = shape_of(case);
    let (all, [k, v]) = inputs.layout(case);
    let (q, kv, angles) = (Memory::of(&inputs.q), Memory::of(&all), Memory::of(&inputs.angles));
    let pages = Memory::of(&vec![0u8; kv_shape.frame_bytes().unwrap() * kv_shape.frames]);
    let gains = [0, 1].map(|i| Memory::of(&inputs.gains[i]));
    let gain = |i: usize| if case.norms { gains[i].at() } else { std::ptr::null_mut() };
    let integers = [&inputs.positions[..], &inputs.sequences, &inputs.tables, &inputs.starts].map(Memory::of);
    let heads = |memory: &Memory, heads: usize, (first, row, head): (usize, usize, usize)| Heads {
        start: memory.at::<f32>().wrapping_add(first),
        row_stride: row as i64,
        head_stride: head as i64,
        heads: heads as i32,
        dim: DIM as i32,
    };
    let args = Place {
        q: heads(&q, Q_HEADS, (0, Q_HEADS * DIM, DIM)),
        k: heads(&kv, KV_HEADS, k),
        v: heads(&kv, KV_HEADS, v),
        q_gain: gain(0),
        k_gain: gain(1),
        angles: if case.unrotated { std::ptr::null() } else { angles.at() },
        rotary_start: case.start as i32,
        rotary_dims: case.dims as i32,
        interleaved: case.interleaved.into(),
        norm_last: case.norm_last.into(),
        eps: 1e-6,
        store: 1,
        pages: Pages::new(&kv_shape, 1, &pages),
        positions: integers[0].at(),
        sequences: integers[1].at(),
        tables: integers[2].at(),
        table_starts: integers[3].at(),
        rows: ROWS as i32,
    };
    let name = match case.dtype {
        DType::F32 => "place_heads_f32",
        DType::I8 => "place_heads_i8",
        _ => "place_heads_bf16",
    };
    let warps = ROWS * (Q_HEADS + 2 * KV_HEADS);
    launch(name, shape([warps.div_ceil(4), 1, 1], 128, 4 * DIM * 4), &[param(&args)]);
    (q.read(), kv.read(), pages.read())
}

/// The value of an element of a page: on the CPU a head's keys, values and factors lie together, here a layer's.
fn element(case: Case, bytes: &[u8], cpu: bool, at: [usize; 4], values: bool) -> f64 {
    let [frame, head, token, d] = at;
    let (size, rows) = (case.dtype.size(), KV_HEADS * 16);
    let layer = shape_of(case).frame_bytes().unwrap() / 2;
    let start = frame * 2 * layer + layer;
    let (which, row) = (usize::from(values), head * 16 + token);
    let (place, factor) = if cpu {
        let block = start + head * (layer / KV_HEADS);
        (block + ((which * 16 + token) * DIM + d) * size, block + 2 * 16 * DIM * size + 4 * (which * 16 + token))
    } else {
        (start + ((which * rows + row) * DIM + d) * size, start + 2 * rows * DIM * size + 4 * (which * rows + row))
    };
    let float = |at: usize| f64::from(f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    match case.dtype {
        DType::F32 => float(place),
        DType::I8 => f64::from(bytes[place] as i8) * float(factor),
        _ => f64::from(half::bf16::from_le_bytes([bytes[place], bytes[place + 1]]).to_f32()),
    }
}

#[test]
fn heads_are_placed_as_the_reference_places_them() {
    if !begin() {
        return;
    }
    let plain = Case {
        dtype: DType::Bf16,
        norms: false,
        norm_last: false,
        interleaved: false,
        start: 0,
        dims: DIM,
        together: false,
        unrotated: false,
    };
    let variants = [
        plain,
        Case { norms: true, ..plain },
        Case { norms: true, norm_last: true, together: true, ..plain },
        Case { interleaved: true, norms: true, ..plain },
        Case { norms: true, unrotated: true, ..plain },
        Case { start: 16, dims: 32, together: true, ..plain },
        Case { start: 8, dims: 24, interleaved: true, norms: true, norm_last: true, ..plain },
    ];
    for (i, variant) in variants.into_iter().enumerate() {
        for dtype in [DType::Bf16, DType::F32, DType::I8] {
            let case = Case { dtype, ..variant };
            let inputs = Inputs::new(case, &mut Random(i as u64));
            let (expected, got) = (reference(case, &inputs), device(case, &inputs));
            let what = format!("{case:?}");
            close(&what, &got.0, &wide(&expected.0), 1e-5);
            close(&what, &got.1, &wide(&expected.1), 1e-5);
            // A value near the middle of two may be rounded either way: one step of bf16, or of the row's factor.
            let tolerance = if dtype == DType::F32 { 1e-5 } else { 0.04 };
            let mut different = 0;
            for at in (0..10 * KV_HEADS * 16 * DIM)
                .map(|i| [i / DIM / 16 / KV_HEADS, i / DIM / 16 % KV_HEADS, i / DIM % 16, i % DIM])
            {
                for values in [false, true] {
                    let [e, g] =
                        [(&expected.2, true), (&got.2, false)].map(|(b, cpu)| element(case, b, cpu, at, values));
                    assert!((e - g).abs() <= tolerance, "{what} {at:?} {values}: {g} for {e}");
                    different += usize::from((e - g).abs() > 1e-5);
                }
            }
            // 960 elements are stored.
            assert!(different <= 20, "{what}: {different} elements are rounded differently");
        }
    }
}
