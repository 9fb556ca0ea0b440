//! Products of every format and tile shape: against sums in f64, and law 1.

use super::host::{Memory, launch, param, shape};
use super::{Random, begin, close, rounded, same_bits};
use crate::support::gguf::random_blocks;
use astrai::dtype::BlockFormat;
use astrai::encoding::{Scheme, blocks};

/// The mirror of `Product` in kernels/linear.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Product {
    pub weight: *const u8,
    pub experts: *const *const u8,
    pub bias: *const f32,
    pub biases: *const *const f32,
    pub out: *mut f32,
    pub out_features: i32,
    pub accumulate: i32,
    pub first_block: i32,
    pub expert_stride: i32,
    pub bias_stride: i32,
}

/// The mirror of `Products`.
#[repr(C)]
pub struct Products {
    pub products: [Product; 4],
    pub count: i32,
    pub in_features: i32,
    pub pitch: i32,
    pub rows: i32,
    pub x: *const u8,
    pub tiles: *const u8,
    pub tile_count: *const i32,
    pub x_rows: *const u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    Bf16,
    Q8,
    Q4,
    F32,
    Blocks(BlockFormat),
}

impl Format {
    /// The next number of inputs that rows may have.
    pub fn width(self, in_features: usize) -> usize {
        match self {
            Format::Blocks(format) => in_features.next_multiple_of(format.weights()),
            _ => in_features,
        }
    }
}

/// A kernel: its name, the format of its weights, outputs and rows of a block, and bytes of a stage.
pub struct Kernel {
    pub name: String,
    pub format: Format,
    pub out_features: usize,
    pub rows: usize,
}

/// Every kernel of products; those of a format by the rows of a block.
pub fn kernels() -> Vec<Kernel> {
    let kernel = |name: &str, format, out_features, rows| Kernel { name: name.to_owned(), format, out_features, rows };
    let mut all = vec![
        kernel("linear_few8_bf16", Format::Bf16, 16, 8),
        kernel("linear_few16_bf16", Format::Bf16, 16, 16),
        kernel("linear_few32_bf16", Format::Bf16, 16, 32),
        kernel("linear_64x64_bf16", Format::Bf16, 64, 64),
        kernel("linear_128x128_bf16", Format::Bf16, 128, 128),
        kernel("linear_few8_q8", Format::Q8, 16, 8),
        kernel("linear_few16_q8", Format::Q8, 16, 16),
        kernel("linear_few32_q8", Format::Q8, 16, 32),
        kernel("linear_128x64_q8", Format::Q8, 128, 64),
        kernel("linear_128x128_q8", Format::Q8, 128, 128),
        kernel("linear_few8_q4", Format::Q4, 16, 8),
        kernel("linear_few16_q4", Format::Q4, 16, 16),
        kernel("linear_few32_q4", Format::Q4, 16, 32),
        kernel("linear_128x64_q4", Format::Q4, 128, 64),
        kernel("linear_128x128_q4", Format::Q4, 128, 128),
        kernel("linear_f32", Format::F32, 8, 8),
    ];
    for format in BlockFormat::ALL {
        let name = format.name();
        all.push(kernel(&format!("linear_few8_{name}"), Format::Blocks(format), 16, 8));
        all.push(kernel(&format!("linear_few32_{name}"), Format::Blocks(format), 16, 32));
        all.push(kernel(&format!("linear_128x64_{name}"), Format::Blocks(format), 128, 64));
    }
    all
}

/// The kernels of a format.
fn kernels_of(format: Format) -> Vec<Kernel> {
    kernels().into_iter().filter(|kernel| kernel.format == format).collect()
}

/// Every format.
fn formats() -> Vec<Format> {
    let mut all = vec![Format::Bf16, Format::Q8, Format::Q4, Format::F32];
    all.extend(BlockFormat::ALL.map(Format::Blocks));
    all
}

/// A matrix of blocks as kernels/blocks.cuh has it: of every row, the blocks without their odd bytes, then the odd bytes.
pub fn device_rows(format: BlockFormat, blocks: &[u8], in_features: usize) -> Vec<u8> {
    let (bytes, odd) = (format.bytes(), format.bytes() % 4);
    let mut out = Vec::new();
    for row in blocks.chunks(in_features / format.weights() * bytes) {
        let parts: Vec<(&[u8], &[u8])> = row
            .chunks(bytes)
            .map(
                |block| {
                    if format.weights() == 256 { block.split_at(bytes - odd) } else { (&block[odd..], &block[..odd]) }
                },
            )
            .collect();
        parts.iter().for_each(|(body, _)| out.extend_from_slice(body));
        parts.iter().for_each(|(_, odd)| out.extend_from_slice(odd));
        out.resize(out.len().next_multiple_of(16), 0);
    }
    out
}

impl Kernel {
    pub fn shared(&self) -> usize {
        let weights = match self.format {
            _ if self.out_features <= 16 => return 0,
            Format::Q8 => self.out_features / 16 * (1024 + 64),
            Format::Q4 => self.out_features / 16 * (512 + 64),
            Format::Blocks(format) => {
                let parts = 32 / format.part() * if format.has_minima() { 2 } else { 1 };
                self.out_features * (64 + 2 * parts * 4)
            }
            _ => self.out_features * 128,
        };
        let stages = match (self.format, self.rows) {
            (Format::Bf16, 64) => 6,
            (Format::Q8, 64) => 5,
            (Format::Q4, 64) => 7,
            _ => 3,
        };
        stages * (weights + self.rows * 128)
    }
}

/// A weight on the device, and its values as they are multiplied.
pub struct Matrix {
    pub memory: Memory,
    pub values: Vec<f32>,
    pub out_features: usize,
    pub in_features: usize,
}

pub fn pitch(in_features: usize) -> usize {
    in_features.next_multiple_of(64)
}

/// Rows of bf16 bits, padded with zeros.
pub fn rows_of_bf16(x: &[f32], width: usize) -> Vec<u16> {
    let mut out = Vec::new();
    for row in x.chunks(width) {
        out.extend(row.iter().map(|&v| half::bf16::from_f32(v).to_bits()));
        out.resize(out.len().next_multiple_of(pitch(width)).max(pitch(width)), 0);
    }
    out
}

impl Matrix {
    pub fn new(format: Format, out_features: usize, in_features: usize, random: &mut Random) -> Matrix {
        if let Format::Blocks(format) = format {
            let stored = random_blocks(format, out_features * in_features, random);
            let mut values = vec![0.0; out_features * in_features];
            blocks::widen(format, &stored, &mut values);
            let memory = Memory::of(&device_rows(format, &stored, in_features));
            return Matrix { memory, values, out_features, in_features };
        }
        let values = random.vec(out_features * in_features);
        let scheme = match format {
            Format::F32 => return Matrix { memory: Memory::of(&values), values, out_features, in_features },
            Format::Bf16 => {
                let memory = Memory::of(&rows_of_bf16(&values, in_features));
                return Matrix {
                    memory,
                    values: values.iter().map(|&v| rounded(v)).collect(),
                    out_features,
                    in_features,
                };
            }
            Format::Q8 => Scheme::Q8,
            Format::Q4 => Scheme::Q4,
            Format::Blocks(_) => unreachable!("done above"),
        };
        let size = scheme.panel_bytes(in_features);
        let mut bytes = vec![0; scheme.bytes(out_features, in_features).unwrap()];
        for (rows, panel) in values.chunks(16 * in_features).zip(bytes.chunks_exact_mut(size)) {
            scheme.quantize(rows, in_features, panel);
        }
        let value = |i: usize| {
            let (out, input) = (i / in_features, i % in_features);
            let panel = &bytes[out / 16 * size..][..size];
            scheme.scale(panel, out % 16, input / scheme.group())
                * scheme.integer(panel, in_features, out % 16, input) as f32
        };
        Matrix {
            values: (0..out_features * in_features).map(value).collect(),
            memory: Memory::of(&bytes),
            out_features,
            in_features,
        }
    }

    /// One element of a product in f64; with how much its terms amount to.
    pub fn dot(&self, x: &[f32], out: usize) -> (f64, f64) {
        let terms = x.iter().zip(&self.values[out * self.in_features..(out + 1) * self.in_features]);
        let terms = terms.map(|(&x, &w)| f64::from(x) * f64::from(w));
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    }
}

/// Runs products that share an input of `rows` rows; the results start as `before`.
fn multiply(
    kernel: &Kernel,
    weights: &[&Matrix],
    x: &[f32],
    bias: Option<&[f32]>,
    before: Option<f32>,
) -> Vec<Vec<f32>> {
    let in_features = weights[0].in_features;
    let rows = x.len() / in_features;
    let f32s = kernel.format == Format::F32;
    let input = if f32s { Memory::of(x) } else { Memory::of(&rows_of_bf16(x, in_features)) };
    let bias: Option<Memory> = bias.map(Memory::of);
    let out_features: Vec<Memory> =
        weights.iter().map(|w| Memory::of(&vec![before.unwrap_or(f32::NAN); rows * w.out_features])).collect();
    let mut blocks = 0;
    let mut products: Vec<Product> = Vec::new();
    for (weight, out) in weights.iter().zip(&out_features) {
        products.push(Product {
            weight: weight.memory.at(),
            experts: std::ptr::null(),
            bias: bias.as_ref().map_or(std::ptr::null(), |b| b.at()),
            biases: std::ptr::null(),
            out: out.at(),
            out_features: weight.out_features as i32,
            accumulate: before.is_some().into(),
            first_block: blocks as i32,
            expert_stride: 0,
            bias_stride: 0,
        });
        blocks += weight.out_features.div_ceil(kernel.out_features);
    }
    let count = products.len() as i32;
    products.resize(4, products[0]);
    let args = Products {
        products: [products[0], products[1], products[2], products[3]],
        count,
        in_features: in_features as i32,
        pitch: if f32s { in_features } else { pitch(in_features) } as i32,
        rows: rows as i32,
        x: input.at(),
        tiles: std::ptr::null(),
        tile_count: std::ptr::null(),
        x_rows: std::ptr::null(),
    };
    launch(&kernel.name, shape([blocks, rows.div_ceil(kernel.rows), 1], 256, kernel.shared()), &[param(&args)]);
    out_features.iter().map(|out| out.read()).collect()
}

/// Each element within what rounding its sum may cost.
#[track_caller]
fn check(what: &str, weight: &Matrix, x: &[f32], got: &[f32], offset: impl Fn(usize) -> f64) {
    for (row, (x, got)) in x.chunks(weight.in_features).zip(got.chunks(weight.out_features)).enumerate() {
        for (out, &got) in got.iter().enumerate() {
            let (sum, size) = weight.dot(x, out);
            let expected = sum + offset(out);
            // Sums of up to a few thousand terms in f32.
            close(&format!("{what}, row {row}, output {out}"), &[got], &[expected], 3e-6 * (size + 1.0));
        }
    }
}

fn bf16_rows(random: &mut Random, n: usize) -> Vec<f32> {
    random.vec(n).into_iter().map(rounded).collect()
}

#[test]
fn products_agree_with_exact_sums() {
    if !begin() {
        return;
    }
    for kernel in &kernels() {
        let mut random = Random(5);
        let sizes = [(1, 1, 1), (kernel.out_features, 64, 2), (kernel.out_features + 1, 33, 1), (17, 600, 3)];
        let sizes = sizes.into_iter().chain([(19, 97, kernel.rows), (5, 65, kernel.rows + 1), (7, 1100, 1)]);
        for (out_features, in_features, rows) in sizes {
            let in_features = kernel.format.width(in_features);
            let what = format!("{} [{out_features}, {in_features}] {rows} rows", kernel.name);
            let weight = Matrix::new(kernel.format, out_features, in_features, &mut random);
            let x = bf16_rows(&mut random, rows * in_features);
            check(&what, &weight, &x, &multiply(kernel, &[&weight], &x, None, None)[0], |_| 0.0);
            let bias = random.vec(out_features);
            let got = multiply(kernel, &[&weight], &x, Some(&bias), Some(3.0));
            check(&what, &weight, &x, &got[0], |out| 3.0 + f64::from(bias[out]));
        }
    }
}

/// Several weights share an input in one launch, each with the bits it has alone.
#[test]
fn products_in_a_group_have_the_bits_they_have_alone() {
    if !begin() {
        return;
    }
    for kernel in kernels().iter().filter(|k| k.rows <= 64) {
        let mut random = Random(6);
        let width = kernel.format.width(130);
        let weights = [40, 16, 3, 70].map(|out_features| Matrix::new(kernel.format, out_features, width, &mut random));
        let x = bf16_rows(&mut random, 2 * width);
        let weights: Vec<&Matrix> = weights.iter().collect();
        let together = multiply(kernel, &weights, &x, None, None);
        for (weight, together) in weights.iter().zip(together) {
            same_bits(&kernel.name, &together, &multiply(kernel, &[weight], &x, None, None)[0]);
        }
    }
}

/// Law 1: one row alone, through the kernel for the fewest rows, and among many, through every tile shape.
#[test]
fn a_row_has_the_same_bits_in_every_kernel_of_its_format() {
    if !begin() {
        return;
    }
    for format in formats() {
        let mut random = Random(7);
        // 11 steps: segments of two, the last one shorter; an odd number of groups of 32.
        for (out_features, in_features) in [(21, 64 * 10 + 20), (130, 64)] {
            let in_features = format.width(in_features);
            let weight = Matrix::new(format, out_features, in_features, &mut random);
            let rows = 131;
            let x = bf16_rows(&mut random, rows * in_features);
            let kernels = kernels_of(format);
            let alone = |row: usize| {
                multiply(&kernels[0], &[&weight], &x[row * in_features..(row + 1) * in_features], None, Some(0.5))
                    .remove(0)
            };
            let alone: Vec<(usize, Vec<f32>)> = [0, 1, 7, 8, 31, 63, 64, 127, 128, 130].map(|r| (r, alone(r))).into();
            for kernel in &kernels {
                for count in [1, 2, 9, kernel.rows, 131] {
                    let together = multiply(kernel, &[&weight], &x[..count * in_features], None, Some(0.5)).remove(0);
                    for (row, alone) in alone.iter().filter(|(row, _)| *row < count) {
                        let what = format!("{} row {row} of {count}", kernel.name);
                        same_bits(&what, &together[row * out_features..(row + 1) * out_features], alone);
                    }
                }
            }
        }
    }
}

/// More tiles of rows than are taken together, and some of them left over: every tile of the result is there.
#[test]
fn many_tiles_of_rows_have_the_bits_of_few_rows() {
    if !begin() {
        return;
    }
    let blocks = [BlockFormat::Q8_0, BlockFormat::Q4_1, BlockFormat::Q6K].map(Format::Blocks);
    for format in [Format::Bf16, Format::Q8, Format::Q4].into_iter().chain(blocks) {
        let mut random = Random(8);
        let width = format.width(64);
        let weights = [130, 70].map(|out_features| Matrix::new(format, out_features, width, &mut random));
        let weights: Vec<&Matrix> = weights.iter().collect();
        let kernels = kernels_of(format);
        let largest = kernels.iter().rfind(|k| k.rows <= 32).unwrap();
        for kernel in kernels.iter().filter(|k| k.rows >= 64) {
            let x = bf16_rows(&mut random, (10 * kernel.rows + 5) * width);
            let few = multiply(largest, &weights, &x, None, None);
            let tiled = multiply(kernel, &weights, &x, None, None);
            for (few, tiled) in few.iter().zip(&tiled) {
                same_bits(&kernel.name, tiled, few);
            }
        }
    }
}

/// Mean and standard deviation.
fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    (mean, (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt())
}

/// Weights made on the device: zeros where the format has them, the deviation that was asked for, the same from any grid.
#[test]
fn random_weights_have_the_form_and_the_deviation_asked_for() {
    if !begin() {
        return;
    }
    let (out_features, in_features, deviation) = (37usize, 1000usize, 0.02f32);
    let sizes = [out_features as i32, in_features as i32, pitch(in_features) as i32];
    let [rows, width, pitch_of] = [0, 1, 2].map(|i| param(&sizes[i]));
    let fill = |kernel: &str, bytes: usize, seed: u64, blocks: usize| -> Vec<u8> {
        let to = Memory::new(bytes);
        let mut params = vec![to.param(), param(&seed), param(&deviation), rows, width];
        if kernel.ends_with("f32") || kernel.ends_with("bf16") {
            params.push(pitch_of);
        }
        launch(kernel, shape([blocks, 1, 1], 256, 0), &params);
        to.read()
    };
    let bytes = |format: Format| match format {
        Format::F32 => out_features * pitch(in_features) * 4,
        Format::Bf16 => out_features * pitch(in_features) * 2,
        Format::Q8 => Scheme::Q8.bytes(out_features, in_features).unwrap(),
        Format::Q4 => Scheme::Q4.bytes(out_features, in_features).unwrap(),
        Format::Blocks(_) => unreachable!("not made on the device"),
    };
    for (kernel, format) in [
        ("fill_random_f32", Format::F32),
        ("fill_random_bf16", Format::Bf16),
        ("fill_random_q8", Format::Q8),
        ("fill_random_q4", Format::Q4),
    ] {
        let filled = fill(kernel, bytes(format), 1, 3);
        assert_eq!(filled, fill(kernel, bytes(format), 1, 1), "{kernel} of another grid");
        assert_ne!(filled, fill(kernel, bytes(format), 2, 3), "{kernel} of another seed");
        let value = |out: usize, i: usize| match format {
            Format::F32 => f32::from_le_bytes(filled[(out * pitch(in_features) + i) * 4..][..4].try_into().unwrap()),
            Format::Bf16 => {
                let at = (out * pitch(in_features) + i) * 2;
                half::bf16::from_le_bytes([filled[at], filled[at + 1]]).to_f32()
            }
            Format::Q8 | Format::Q4 | Format::Blocks(_) => {
                let scheme = if format == Format::Q8 { Scheme::Q8 } else { Scheme::Q4 };
                let panel = &filled[out / 16 * scheme.panel_bytes(in_features)..][..scheme.panel_bytes(in_features)];
                let (integer, scale) = (
                    scheme.integer(panel, in_features, out % 16, i),
                    scheme.scale(panel, out % 16, i / scheme.group()),
                );
                assert!((-127..=127).contains(&integer) && scale > 0.0, "{kernel} {out} {i}: {scale} * {integer}");
                scale * integer as f32
            }
        };
        let values: Vec<f32> =
            (0..out_features * in_features).map(|at| value(at / in_features, at % in_features)).collect();
        let (mean, found) = moments(&values);
        // 37,000 weights: the error of the mean is half a percent of the deviation. Integers are not quite even around zero.
        assert!(
            mean.abs() < 0.03 * 0.02 && (found / 0.02 - 1.0).abs() < 0.02,
            "{kernel}: mean {mean}, deviation {found}"
        );
        assert!(values.iter().any(|v| v.abs() > 0.04), "{kernel}: no tails");
        // Neighbours have nothing to do with each other.
        let products: Vec<f32> = values.windows(2).map(|pair| pair[0] * pair[1]).collect();
        assert!(moments(&products).0.abs() < 0.03 * 0.02 * 0.02, "{kernel}");
        match format {
            Format::F32 | Format::Bf16 => {
                let padding =
                    (0..out_features).flat_map(|out| (in_features..pitch(in_features)).map(move |i| (out, i)));
                assert!(padding.into_iter().all(|(out, i)| value(out, i) == 0.0), "{kernel}");
            }
            Format::Q8 | Format::Q4 | Format::Blocks(_) => {
                let scheme = if format == Format::Q8 { Scheme::Q8 } else { Scheme::Q4 };
                let last = &filled[out_features / 16 * scheme.panel_bytes(in_features)..];
                for group in 0..scheme.groups(in_features) {
                    assert!((out_features % 16..16).all(|out| scheme.scale(last, out, group) == 0.0), "{kernel}");
                }
                let padding = scheme.groups(in_features) * 32..scheme.scale_bytes(in_features);
                assert!(filled[padding].iter().all(|&byte| byte == 0), "{kernel}");
            }
        }
    }
}
