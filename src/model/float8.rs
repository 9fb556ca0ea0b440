//! Weights in 8-bit floats whose scales are tensors beside them: where those are, what each is a scale of, and how both become rows
//! of [`DType::ScaledF8`].
//!
//! A scale is of a whole matrix, of a row, or of a block of rows and columns; `weight = scale * code` in each case, also where
//! the tensor is called an inverse. Scales of inputs are for products in 8 bits; inputs are not rounded so far here, and those
//! scales are left.

use super::binder::{Change, TensorPart};
use super::checkpoint;
use crate::backend::cpu::kernels::Elements;
use crate::dtype::DType;
use crate::encoding::f8;
use crate::error::{Error, Result};
use crate::os::aligned::AlignedBytes;
use crate::source::TensorInfo;
use serde_json::Value;

/// What the name of the scales adds to that of the weights.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];
/// What stands in place of `weight` in the name of a scale of inputs.
const INPUT_SCALES: [&str; 3] = ["input_scale", "activation_scale", "input_scale_ub"];
/// Rows and columns of a block where the configuration does not say.
const BLOCK: [usize; 2] = [128, 128];

/// The scales of a matrix, or of each matrix of a stack.
#[derive(Clone, Debug)]
pub(super) struct Scales {
    /// The tensor; `None` where all are one.
    pub tensor: Option<TensorInfo>,
    /// Rows and columns of a matrix.
    matrix: [usize; 2],
    /// Rows and columns that share a scale.
    block: [usize; 2],
    /// From the scale of a matrix to that of the next, and from that of a block to that of the block below it.
    strides: [usize; 2],
}

/// What was found beside a tensor.
#[derive(Debug)]
pub(super) enum Found {
    /// It is of another type, or no matrix that is used as it is.
    Other,
    /// Its scales.
    Scales(Scales),
    /// The name of a tensor that is not there.
    Missing(String),
}

/// The scales of the tensor that `part` is of. `all` is sorted by name.
///
/// # Errors
/// `Format` for scales of another shape than any that is known; `Unsupported` for their type.
pub(super) fn scales(all: &[TensorInfo], config: &Value, info: &TensorInfo, part: &TensorPart) -> Result<Found> {
    let &[ref stack @ .., rows, columns] = info.shape.as_slice() else { return Ok(Found::Other) };
    if info.dtype != DType::F8E4m3 || part.change != Change::None || part.shape.len() != 2 {
        return Ok(Found::Other);
    }
    if info.shape != part.stored {
        return Err(checkpoint::misshapen(info, part));
    }
    let matrix = [rows, columns];
    let names = SCALES.map(|end| format!("{}{end}", info.name));
    let Some(tensor) = names.iter().find_map(|name| TensorInfo::find(all, name)) else {
        let [name, _] = names;
        // A checkpoint may have been cast to this type and no more.
        return Ok(match quantization(config) {
            Some(_) => Found::Missing(name),
            None => Found::Scales(Scales { tensor: None, matrix, block: matrix, strides: [0, 0] }),
        });
    };
    if !matches!(tensor.dtype, DType::F32 | DType::Bf16 | DType::F16 | DType::F8E8m0) {
        let message = format!("tensor {} is {}, expected scales in f32, bf16 or f16", tensor.name, tensor.dtype);
        return Err(Error::unsupported(message).about(&*tensor.name));
    }
    let block = block(config);
    let (block, strides) = layout(stack, matrix, block, &tensor.shape).ok_or_else(|| {
        let [down, right] = block;
        let message = format!(
            "tensor {} has shape {:?}, but scales of {} of shape {:?} are one, one for each row, or one for each {down} x {right}",
            tensor.name, tensor.shape, info.name, info.shape
        );
        Error::format(message).about(&*tensor.name)
    })?;
    Ok(Found::Scales(Scales { tensor: Some(tensor.clone()), matrix, block, strides }))
}

/// The tensors beside one in 8-bit floats that say how its inputs would be rounded.
pub(super) fn input_scales(name: &str) -> impl Iterator<Item = String> {
    let (stem, dot) = name.strip_suffix("weight").map_or((name, "_"), |stem| (stem, ""));
    INPUT_SCALES.into_iter().map(move |end| format!("{stem}{dot}{end}"))
}

/// Rows and columns that share a scale of the shape, and the strides of [`Scales`].
fn layout(
    stack: &[usize],
    [rows, columns]: [usize; 2],
    [down, right]: [usize; 2],
    shape: &[usize],
) -> Option<([usize; 2], [usize; 2])> {
    let grid = [rows.div_ceil(down), columns.div_ceil(right)];
    let is = |ends: &[&[usize]]| ends.iter().any(|end| shape.strip_prefix(stack) == Some(end));
    if is(&[&grid]) {
        return Some(([down, right], [grid[0] * grid[1], grid[1]]));
    }
    if is(&[&[rows], &[rows, 1]]) {
        return Some(([1, columns], [rows, 1]));
    }
    if is(&[&[], &[1], &[1, 1]]) {
        return Some(([rows, columns], [1, 0]));
    }
    (shape.iter().product::<usize>() == 1).then_some(([rows, columns], [0, 0]))
}

impl Scales {
    /// The type of the rows that are made.
    pub fn made(&self) -> DType {
        let group = self.block[1].min(self.matrix[1]).max(1);
        DType::ScaledF8(u32::try_from(group).ok().and_then(f8::Group::new).unwrap_or(f8::Group::MAX))
    }

    /// The rows of `part`, made of their codes and of the bytes of the scales' tensor.
    pub fn rows(&self, part: &TensorPart, codes: &[u8], scales: &[u8]) -> Result<AlignedBytes> {
        let ([rows, columns], [down, right]) = (self.matrix, self.block);
        let scales = Numbers::of(self.tensor.as_ref(), scales)?;
        let (out_features, in_features) = part.matrix();
        let row_bytes = self.made().bytes(in_features).unwrap_or(usize::MAX);
        let bytes = row_bytes.saturating_mul(out_features);
        let room = || Error::memory("8-bit floats with their scales", bytes as u64);
        let mut out = AlignedBytes::zeroed(bytes).ok_or_else(room)?;
        let made = out.as_mut_slice().chunks_exact_mut(row_bytes.max(1));
        for ((row, out), codes) in (part.first..).zip(made).zip(codes.chunks_exact(in_features.max(1))) {
            let (to, of_row) = out.split_at_mut(in_features);
            to.copy_from_slice(codes);
            let first = row / rows.max(1) * self.strides[0] + row % rows.max(1) / down.max(1) * self.strides[1];
            let of_row = of_row.as_chunks_mut::<4>().0.iter_mut().take(columns.div_ceil(right.max(1)));
            for ((scale, to), codes) in (first..).zip(of_row).zip(codes.chunks(right.max(1))) {
                let scale = scales.get(scale).ok_or_else(|| Error::internal("fewer scales than there are blocks"))?;
                if scale.is_finite() && scale.abs() >= f8::SCALE_END {
                    let name = self.tensor.as_ref().map_or(&*part.name, |tensor| &tensor.name);
                    let message = format!("tensor {name} has a scale of {scale}, expected less than {}", f8::SCALE_END);
                    return Err(Error::unsupported(message).about(name));
                }
                let number = scale.is_finite() && !codes.iter().any(|code| f8::is_nan(*code));
                let scale = if number { scale } else { f32::NAN };
                *to = scale.to_le_bytes();
            }
        }
        Ok(out)
    }
}

/// The numbers of a tensor of scales.
enum Numbers<'a> {
    /// All are one.
    Ones,
    Floats(Elements<'a>),
    /// Powers of two, by their exponent + 127.
    Exponents(&'a [u8]),
}

impl<'a> Numbers<'a> {
    fn of(tensor: Option<&TensorInfo>, bytes: &'a [u8]) -> Result<Numbers<'a>> {
        let Some(tensor) = tensor else { return Ok(Numbers::Ones) };
        match tensor.dtype {
            DType::F8E8m0 => Ok(Numbers::Exponents(bytes)),
            dtype => {
                let wrong = || Error::internal(format!("scales of {dtype} that are not aligned")).about(&*tensor.name);
                Elements::new(bytes, dtype).map(Numbers::Floats).ok_or_else(wrong)
            }
        }
    }

    fn get(&self, index: usize) -> Option<f32> {
        match self {
            Numbers::Ones => Some(1.0),
            Numbers::Floats(floats) => (index < floats.len()).then(|| floats.get(index)),
            Numbers::Exponents(bytes) => bytes.get(index).map(|&exponent| match exponent {
                255 => f32::NAN,
                0 => f32::from_bits(1 << 22),
                exponent => f32::from_bits(u32::from(exponent) << 23),
            }),
        }
    }
}

/// What `config.json` says of how the weights are quantized.
fn quantization(config: &Value) -> Option<&Value> {
    let text = config.get("text_config").unwrap_or(&Value::Null);
    let holders = [config, text].into_iter();
    holders
        .flat_map(|c| ["quantization_config", "compression_config"].map(|key| c.get(key)))
        .flatten()
        .find(|v| v.is_object())
}

/// Rows and columns of a block.
fn block(config: &Value) -> [usize; 2] {
    let Some(said) = quantization(config) else { return BLOCK };
    let groups = said.get("config_groups").and_then(Value::as_object).into_iter().flat_map(|groups| groups.values());
    let structures = groups.filter_map(|group| group.get("weights")?.get("block_structure"));
    let sizes = said.get("weight_block_size").into_iter().chain(structures);
    let numbers = |size: &Value| -> Option<[usize; 2]> {
        let text =
            size.as_str().map(|text| text.split('x').filter_map(|n| n.trim().parse().ok()).collect::<Vec<u64>>());
        let list = || Some(size.as_array()?.iter().filter_map(Value::as_u64).collect());
        let both: [u64; 2] = text.or_else(list)?.try_into().ok()?;
        let [down, right] = both.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        (down > 0 && right > 0).then_some([down, right])
    };
    sizes.filter_map(numbers).next().unwrap_or(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn info(name: &str, dtype: DType, shape: &[usize]) -> TensorInfo {
        TensorInfo { name: name.into(), dtype, shape: shape.into() }
    }

    fn part(stored: &[usize], first: usize, rows: usize) -> TensorPart {
        let shape = vec![rows, stored[stored.len() - 1]];
        TensorPart { first, shape, ..TensorPart::whole("w.weight".into(), stored) }
    }

    /// The scale of every weight of a part, where the scales of the tensor are 0, 1, 2 and so on.
    fn numbered(stored: &[usize], shape: &[usize], config: &Value, first: usize, rows: usize) -> Vec<Vec<f32>> {
        let weights = info("w.weight", DType::F8E4m3, stored);
        let all = [weights.clone(), info("w.weight_scale_inv", DType::F32, shape)];
        let part = part(stored, first, rows);
        let Found::Scales(scales) = scales(&all, config, &weights, &part).unwrap() else { panic!("they are there") };
        let count: usize = shape.iter().product();
        let mut held = AlignedBytes::zeroed(count * 4).unwrap();
        held.as_mut_slice().chunks_mut(4).zip(0..).for_each(|(to, i)| to.copy_from_slice(&(i as f32).to_le_bytes()));
        let width = stored[stored.len() - 1];
        // The code of one.
        let made = scales.rows(&part, &vec![0x38; rows * width], held.as_slice()).unwrap();
        let DType::ScaledF8(group) = scales.made() else { panic!("made rows") };
        let made = f8::Rows { bytes: made.as_slice(), in_features: width, group };
        let wide = |row| {
            let mut out = vec![0.0; width];
            made.widen(row, 0, &mut out);
            out
        };
        (0..rows).map(wide).collect()
    }

    #[test]
    fn each_weight_meets_its_scale() {
        let none = json!({});
        let blocks = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 4]}});
        let nested = json!({"text_config": {"quantization_config": {"config_groups": {"a": {"weights": {
            "block_structure": "2x4"}}}}}});
        // Of one matrix of 5 x 6: rows 1 to 3.
        for config in [&blocks, &nested] {
            let made = numbered(&[5, 6], &[3, 2], config, 1, 3);
            assert_eq!(made, [[0., 0., 0., 0., 1., 1.], [2., 2., 2., 2., 3., 3.], [2., 2., 2., 2., 3., 3.]]);
        }
        assert_eq!(numbered(&[5, 6], &[1], &none, 0, 5), vec![vec![0.0; 6]; 5]);
        for shape in [&[5][..], &[5, 1]] {
            assert_eq!(numbered(&[5, 6], shape, &none, 2, 2), [[2.0; 6], [3.0; 6]]);
        }
        // Of a stack of three: the last row of the second and the first of the third.
        let made = numbered(&[3, 5, 6], &[3, 3, 2], &blocks, 9, 2);
        assert_eq!(made, [[10., 10., 10., 10., 11., 11.], [12., 12., 12., 12., 13., 13.]]);
        assert_eq!(numbered(&[3, 5, 6], &[3, 1, 1], &none, 9, 2), [[1.0; 6], [2.0; 6]]);
        assert_eq!(numbered(&[3, 5, 6], &[3, 5, 1], &none, 9, 2), [[9.0; 6], [10.0; 6]]);
        assert_eq!(numbered(&[3, 5, 6], &[1], &none, 9, 2), [[0.0; 6], [0.0; 6]]);
    }

    #[test]
    fn blocks_are_of_128_by_128_unless_something_else_is_said() {
        let made = numbered(&[200, 200], &[2, 2], &json!({"quantization_config": {"quant_method": "fp8"}}), 127, 2);
        assert_eq!((made[0][127], made[0][128], made[1][127], made[1][128]), (0.0, 1.0, 2.0, 3.0));
    }

    #[test]
    fn scales_that_fit_nothing_are_refused() {
        let weights = info("w.weight", DType::F8E4m3, &[256, 256]);
        let wrong = |dtype, shape: &[usize]| {
            let all = [weights.clone(), info("w.weight_scale", dtype, shape)];
            scales(&all, &json!({}), &weights, &part(&[256, 256], 0, 256)).unwrap_err().to_string()
        };
        for shape in [&[2][..], &[2, 3], &[256, 2], &[1, 256], &[2, 2, 1]] {
            assert!(wrong(DType::F32, shape).contains("w.weight_scale has shape"), "{shape:?}");
        }
        assert!(wrong(DType::I32, &[1]).contains("is i32"));
    }

    #[test]
    fn without_scales_only_a_plain_model_is_read() {
        let weights = info("w.weight", DType::F8E4m3, &[2, 2]);
        let of =
            |config: Value| scales(std::slice::from_ref(&weights), &config, &weights, &part(&[2, 2], 0, 2)).unwrap();
        assert!(matches!(of(json!({})), Found::Scales(Scales { tensor: None, .. })));
        let missing = of(json!({"quantization_config": {"quant_method": "fp8"}}));
        assert!(matches!(missing, Found::Missing(name) if name == "w.weight_scale_inv"));
        let other = info("w.weight", DType::F8E5m2, &[2, 2]);
        assert!(matches!(scales(&[], &json!({}), &other, &part(&[2, 2], 0, 2)), Ok(Found::Other)));
    }

    #[test]
    fn exponents_are_powers_of_two() {
        let tensor = info("s", DType::F8E8m0, &[4]);
        let numbers = Numbers::of(Some(&tensor), &[127, 120, 0, 255]).unwrap();
        let got: Vec<f32> = (0..4).filter_map(|i| numbers.get(i)).collect();
        assert_eq!(got[..3], [1.0, 0.007_812_5, 2f64.powi(-127) as f32]);
        assert!(got[3].is_nan() && numbers.get(4).is_none());
    }

    #[test]
    fn scales_of_inputs_are_known_by_name() {
        let names = |name| input_scales(name).collect::<Vec<_>>();
        assert!(names("a.up_proj.weight").contains(&"a.up_proj.activation_scale".to_owned()));
        assert!(names("a.experts.down_proj").contains(&"a.experts.down_proj_input_scale".to_owned()));
    }
}
