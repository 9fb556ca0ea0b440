//! How a folder of sentence-transformers makes embeddings: `modules.json` lists the steps, each with a folder of its own.
//! The format: <https://sbert.net/docs/package_reference/sentence_transformer/models.html>.

use super::files::{self, kind, quoted};
use super::tensor_file::TensorFile;
use super::{Bytes, TensorInfo};
use crate::dtype::DType;
use crate::encoding::widen;
use crate::error::{Error, Result, Unit, filled};
use crate::limits;
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

const MODULES: &str = "modules.json";

/// How the hidden states of all tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The state of the first token.
    First,
    /// The state of the last token.
    Last,
    /// The mean over all tokens.
    Mean,
    /// The largest element over all tokens.
    Max,
}

/// A layer that follows pooling: `activation(weight * x + bias)`.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseModule {
    /// Inputs.
    pub in_features: usize,
    /// Outputs.
    pub out_features: usize,
    /// `[out_features, in_features]`.
    pub weight: Vec<f32>,
    /// `[out_features]`; empty = there is none.
    pub bias: Vec<f32>,
    /// The activation is the hyperbolic tangent, else none.
    pub tanh: bool,
}

/// A step after pooling.
#[derive(Clone, Debug, PartialEq)]
pub enum EmbeddingModule {
    /// A dense layer.
    Dense(DenseModule),
    /// Division by the Euclidean norm.
    Normalize,
}

/// How embeddings are made of hidden states.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingModules {
    /// Pooling.
    pub pooling: Pooling,
    /// Elements of a hidden state, where the files say it.
    pub width: Option<usize>,
    /// What follows, in order; a layer has as many inputs as the one before has outputs.
    pub modules: Vec<EmbeddingModule>,
}

impl Default for EmbeddingModules {
    /// What a model without such files gets: the last token's state, divided by its norm.
    fn default() -> EmbeddingModules {
        EmbeddingModules { pooling: Pooling::Last, width: None, modules: vec![EmbeddingModule::Normalize] }
    }
}

impl EmbeddingModules {
    /// Reads those of a model folder; `None` when it has no `modules.json`.
    ///
    /// # Errors
    /// `Io`, `Format` for files that are not what they should be, `Unsupported` for steps that are not computed here,
    /// `Memory`.
    pub(super) fn read(dir: &Path) -> Result<Option<EmbeddingModules>> {
        let path = dir.join(MODULES);
        let shown = path.to_string_lossy();
        let Some(list) = files::read_json::<Vec<Value>>(&path, limits::CONFIG_BYTES_MAX)? else { return Ok(None) };
        let most = limits::EMBEDDING_MODULES_MAX;
        if list.len() > most {
            let message = format!("{shown} lists {} modules, more than {most}", list.len());
            return Err(Error::format(message).about(shown).numbers(Unit::Count, list.len() as u64, most as u64));
        }
        let (mut pooling, mut width, mut modules) = (None, None, Vec::new());
        for (at, module) in list.iter().enumerate() {
            let field = |key: &str| module.get(key).and_then(Value::as_str);
            let (Some(class), Some(folder)) = (field("type"), field("path")) else {
                let message = format!("{shown}: entry {at} is without the strings \"type\" and \"path\"");
                return Err(Error::format(message).about(shown));
            };
            match (class.rsplit('.').next().unwrap_or(class), pooling) {
                ("Transformer", None) if at == 0 => {}
                ("Pooling", None) => {
                    let (mode, of) = read_pooling(&inside(dir, folder, &shown)?)?;
                    (pooling, width) = (Some(mode), of);
                }
                ("Dense", Some(_)) => {
                    let dense = read_dense(&inside(dir, folder, &shown)?, widest(&modules).or(width))?;
                    modules.push(EmbeddingModule::Dense(dense));
                }
                ("Normalize", Some(_)) => modules.push(EmbeddingModule::Normalize),
                // It does something in training alone.
                ("Dropout", _) => {}
                _ => {
                    let class = quoted(class);
                    return Err(Error::unsupported(format!(
                        "{shown}: module {at} is {class}; a Transformer, then a Pooling, then any of Dense and Normalize \
                         are computed here"
                    ))
                    .about(shown));
                }
            }
        }
        let missing = || Error::format(format!("{shown} lists no Pooling; embeddings need one")).about(&*shown);
        Ok(Some(EmbeddingModules { pooling: pooling.ok_or_else(missing)?, width, modules }))
    }
}

/// Outputs of the last dense layer.
fn widest(modules: &[EmbeddingModule]) -> Option<usize> {
    modules.iter().rev().find_map(|module| match module {
        EmbeddingModule::Dense(dense) => Some(dense.out_features),
        EmbeddingModule::Normalize => None,
    })
}

/// A folder inside the model's, whatever the file says.
fn inside(dir: &Path, folder: &str, shown: &str) -> Result<PathBuf> {
    let plain = Path::new(folder).components().all(|part| matches!(part, Component::Normal(_)));
    if folder.is_empty() || !plain {
        let message = format!("{shown}: path {} does not name a folder of the model", quoted(folder));
        return Err(Error::format(message).about(shown));
    }
    Ok(dir.join(folder))
}

/// The `config.json` of a module, which has to be there.
fn config(folder: &Path) -> Result<(Value, String)> {
    let path = folder.join("config.json");
    let shown = path.to_string_lossy().into_owned();
    let missing = || Error::format(format!("{shown} is not there; the download is incomplete")).about(&*shown);
    let config = files::read_object(&path, limits::CONFIG_BYTES_MAX)?.ok_or_else(missing)?;
    Ok((config, shown))
}

/// A number of elements.
fn size(config: &Value, key: &str, shown: &str) -> Result<Option<usize>> {
    let most = limits::EMBEDDING_WIDTH_MAX;
    let Some(value) = config.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=most).contains(n));
    number.map(Some).ok_or_else(|| {
        let found = if value.is_number() { value.to_string() } else { kind(value).to_owned() };
        Error::format(format!("{shown}: {key} is {found}; a number from 1 to {most} is expected")).about(shown)
    })
}

/// The kind of pooling, and the width of what is pooled.
fn read_pooling(folder: &Path) -> Result<(Pooling, Option<usize>)> {
    const MODE: &str = "pooling_mode";
    let (config, shown) = config(folder)?;
    // One flag for each mode, or one name.
    let flags = config.as_object().into_iter().flatten();
    let set = flags.filter(|(_, value)| **value == true).filter_map(|(key, _)| key.strip_prefix("pooling_mode_"));
    let mut modes: Vec<&str> = set.collect();
    modes.extend(config.get(MODE).and_then(Value::as_str));
    let mode = match modes.as_slice() {
        ["cls_token" | "cls"] => Pooling::First,
        ["lasttoken"] => Pooling::Last,
        ["mean_tokens" | "mean"] => Pooling::Mean,
        ["max_tokens" | "max"] => Pooling::Max,
        [] => return Err(Error::format(format!("{shown}: no pooling_mode is set")).about(shown)),
        modes => {
            let named: Vec<String> = modes.iter().take(8).map(|mode| quoted(mode)).collect();
            let message = format!(
                "{shown}: pooling {} is not computed here; cls_token, lasttoken, mean_tokens or max_tokens is, one of them",
                named.join(" and ")
            );
            return Err(Error::unsupported(message).about(shown));
        }
    };
    Ok((mode, size(&config, "word_embedding_dimension", &shown)?))
}

/// A dense layer whose inputs are `wanted` wide, where that is known.
fn read_dense(folder: &Path, wanted: Option<usize>) -> Result<DenseModule> {
    let (config, shown) = config(folder)?;
    let need = |key| {
        let missing = || Error::format(format!("{shown}: {key} is missing")).about(&*shown);
        size(&config, key, &shown)?.ok_or_else(missing)
    };
    let (in_features, out_features) = (need("in_features")?, need("out_features")?);
    if let Some(wanted) = wanted.filter(|&wanted| wanted != in_features) {
        let message = format!("{shown}: in_features is {in_features}, but what comes before gives {wanted}");
        return Err(Error::format(message).about(shown));
    }
    let activation = config.get("activation_function").and_then(Value::as_str).unwrap_or("torch.nn.Tanh");
    let tanh = match activation.rsplit('.').next() {
        Some("Identity") => false,
        Some("Tanh") => true,
        _ => {
            let message = format!("{shown}: activation_function {} is not computed here", quoted(activation));
            return Err(Error::unsupported(message).about(shown));
        }
    };
    let with_bias = config.get("bias").and_then(Value::as_bool).unwrap_or(true);
    let path = folder.join("model.safetensors");
    let file = path.to_string_lossy();
    let missing = || {
        Error::format(format!("{file} is not there; the layer's weights are read from a safetensors file"))
            .about(&*file)
    };
    let tensors = TensorFile::find(&path)?.ok_or_else(missing)?.load(true, &mut || true)?;
    let floats = |name: &str, shape: &[usize]| {
        let found = tensors.iter().find(|(info, _)| info.name == name);
        let (info, bytes) = found
            .filter(|(info, _)| info.shape == shape)
            .ok_or_else(|| Error::format(format!("{file} has no tensor {name} of shape {shape:?}")).about(&*file))?;
        widened(info, bytes, &file)
    };
    let weight = floats("linear.weight", &[out_features, in_features])?;
    let bias = if with_bias { floats("linear.bias", &[out_features])? } else { Vec::new() };
    Ok(DenseModule { in_features, out_features, weight, bias, tanh })
}

/// The elements of a tensor as f32.
fn widened(info: &TensorInfo, bytes: &Bytes, file: &str) -> Result<Vec<f32>> {
    let elements: usize = info.shape.iter().product();
    let (needed, most) = (elements.saturating_mul(size_of::<f32>()), limits::EMBEDDING_DENSE_BYTES_MAX);
    if needed > most {
        let message = format!("{file}: tensor {} takes {needed} bytes, more than {most}", quoted(&info.name));
        return Err(Error::format(message).about(file).numbers(Unit::Bytes, needed as u64, most as u64));
    }
    if !matches!(info.dtype, DType::F32 | DType::Bf16 | DType::F16) {
        let message = format!("{file}: tensor {} is {}, expected f32, bf16 or f16", quoted(&info.name), info.dtype);
        return Err(Error::unsupported(message).about(file));
    }
    let mut out = filled("the weights of a dense layer", elements, 0.0)?;
    widen(info.dtype, bytes.as_slice(), elements, &mut out);
    Ok(out)
}
