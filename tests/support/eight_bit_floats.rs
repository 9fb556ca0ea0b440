//! Models in 8-bit floats, made of the fixtures.

use super::models::fixture;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// Type, shape and bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// What shares a scale.
#[derive(Clone, Copy, Debug)]
pub enum Scales {
    /// All of a matrix.
    Matrix,
    /// A row, in a matrix of one column.
    Row,
    /// A block of rows and columns; in powers of two where that is said.
    Block([usize; 2], Dtype),
}

pub fn read(dir: &Path) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    for file in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            let bytes = std::fs::read(file).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter();
            all.extend(tensors.map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))));
        }
    }
    all
}

pub fn write(dir: &Path, config: &Value, tensors: &BTreeMap<String, Tensor>) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a sound tensor"))
    });
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

pub fn config(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
}

fn floats((dtype, _, bytes): &Tensor) -> Vec<f32> {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect(),
        Dtype::BF16 => pairs().map(|&x| half::bf16::from_le_bytes(x).to_f32()).collect(),
        Dtype::F16 => pairs().map(|&x| half::f16::from_le_bytes(x).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

/// Whether checkpoints have the tensor in 8 bits: a matrix of an attention, a network or an expert.
fn in_8_bits(name: &str, shape: &[usize]) -> bool {
    let part = ["proj", "kv_b", "gate_up", "down", "w1", "w2", "w3"].iter().any(|part| name.contains(part));
    part && shape.len() >= 2 && !name.contains("bias") && !name.contains("conv")
}

/// The nearest code, of the 254 that are numbers.
fn code(table: &[(f32, u8)], x: f32) -> u8 {
    let at = table.partition_point(|(number, _)| *number < x).min(table.len() - 1);
    let below = at.saturating_sub(1);
    let near = |i: usize| (table[i].0 - x).abs();
    if near(below) < near(at) { table[below].1 } else { table[at].1 }
}

/// By the definition of the format: a sign, 4 bits of exponent, 3 of fraction; no infinities.
fn number(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction * 2f32.powi(-6),
        _ => (1.0 + fraction) * 2f32.powi(exponent - 7),
    };
    if code < 128 { magnitude } else { -magnitude }
}

fn table() -> Vec<(f32, u8)> {
    let mut table: Vec<(f32, u8)> = (0..=255).map(|code| (number(code), code)).filter(|c| c.0.is_finite()).collect();
    table.sort_by(|a, b| a.0.total_cmp(&b.0));
    table
}

/// A scale and how it is stored.
fn stored(scale: f32, dtype: Dtype) -> (f32, Vec<u8>) {
    match dtype {
        Dtype::F8_E8M0 => {
            let exponent = scale.log2().ceil() as i32;
            (2f32.powi(exponent), vec![(exponent + 127) as u8])
        }
        Dtype::BF16 => {
            let rounded = half::bf16::from_f32(scale);
            (rounded.to_f32(), rounded.to_le_bytes().into())
        }
        _ => (scale, scale.to_le_bytes().into()),
    }
}

/// The matrices of a stack in 8-bit floats, their scales, and the numbers that both stand for.
fn rounded(tensor: &Tensor, scales: Scales) -> (Tensor, Tensor, Vec<f32>) {
    let (table, shape) = (table(), &tensor.1);
    let (stack, [rows, columns]) = (&shape[..shape.len() - 2], [shape[shape.len() - 2], shape[shape.len() - 1]]);
    let ([down, right], dtype) = match scales {
        Scales::Matrix => ([rows, columns], Dtype::F32),
        Scales::Row => ([1, columns], Dtype::BF16),
        Scales::Block(block, dtype) => (block, dtype),
    };
    let grid = [rows.div_ceil(down), columns.div_ceil(right)];
    let (mut codes, mut of_blocks, mut wide) = (Vec::new(), Vec::new(), Vec::new());
    for matrix in floats(tensor).chunks(rows * columns) {
        let mut largest = vec![0f32; grid[0] * grid[1]];
        let block = |at: usize| at / columns / down * grid[1] + at % columns / right;
        matrix.iter().enumerate().for_each(|(at, x)| largest[block(at)] = largest[block(at)].max(x.abs()));
        let made: Vec<_> = largest.iter().map(|l| stored((l / 448.0).max(1e-9), dtype)).collect();
        for (at, x) in matrix.iter().enumerate() {
            let scale = made[block(at)].0;
            let code = code(&table, x / scale);
            codes.push(code);
            wide.push(number(code) * scale);
        }
        made.into_iter().for_each(|(_, bytes)| of_blocks.extend(bytes));
    }
    let ends = match scales {
        Scales::Matrix if stack.is_empty() => vec![],
        Scales::Matrix => vec![1, 1],
        Scales::Row => vec![rows, 1],
        Scales::Block(..) => grid.to_vec(),
    };
    let shape_of_scales = stack.iter().copied().chain(ends).collect();
    ((Dtype::F8_E4M3, shape.clone(), codes), (dtype, shape_of_scales, of_blocks), wide)
}

/// Three folders: a fixture in 8-bit floats, what these stand for in f32, and the same rounded to bf16.
pub fn folders(name: &str, scales: Scales) -> [TempDir; 3] {
    let dirs = [(); 3].map(|()| TempDir::new().unwrap());
    let (from, mut plain) = (fixture(name), config(&fixture(name)));
    plain.as_object_mut().unwrap().remove("quantization_config");
    let mut said = plain.clone();
    said["quantization_config"] = match scales {
        Scales::Block(block, _) => json!({"quant_method": "fp8", "weight_block_size": block}),
        Scales::Row => json!({"quant_method": "compressed-tensors", "format": "float-quantized"}),
        Scales::Matrix => json!({"quant_method": "fp8", "activation_scheme": "static"}),
    };
    let end = if matches!(scales, Scales::Row) { "_scale" } else { "_scale_inv" };
    let [mut eight, mut wide, mut narrow] = [(); 3].map(|()| BTreeMap::new());
    let mut count = 0;
    for (name, tensor) in read(&from) {
        if !in_8_bits(&name, &tensor.1) {
            for all in [&mut eight, &mut wide, &mut narrow] {
                all.insert(name.clone(), tensor.clone());
            }
            continue;
        }
        let (codes, of_blocks, numbers) = rounded(&tensor, scales);
        let shape = &tensor.1;
        let f32s = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let bf16s = numbers.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
        wide.insert(name.clone(), (Dtype::F32, shape.clone(), f32s));
        narrow.insert(name.clone(), (Dtype::BF16, shape.clone(), bf16s));
        eight.insert(format!("{name}{end}"), of_blocks);
        if matches!(scales, Scales::Matrix) && name.ends_with(".weight") {
            let one = (Dtype::F32, vec![], 1f32.to_le_bytes().to_vec());
            eight.insert(name.replace(".weight", ".activation_scale"), one);
        }
        eight.insert(name, codes);
        count += 1;
    }
    assert!(count > 6, "{count} matrices of {name}");
    write(dirs[0].path(), &said, &eight);
    write(dirs[1].path(), &plain, &wide);
    write(dirs[2].path(), &plain, &narrow);
    dirs
}
