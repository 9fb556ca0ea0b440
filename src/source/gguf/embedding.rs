//! How embeddings are made of hidden states, as a GGUF file says it: `pooling_type`, and the dense layers of EmbeddingGemma, which
//! converters write if asked to. The result is divided by its norm, as llama.cpp does it.

use super::Opened;
use super::metadata::Metadata;
use super::rows::Rows;
use crate::dtype::DType;
use crate::error::{Error, Result, Unit, filled};
use crate::limits;
use crate::source::embedding::{DenseModule, EmbeddingModule, EmbeddingModules, Pooling};
use crate::source::files;
use crate::source::safetensors::Stored;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// The dense layers, in order.
pub const DENSE: [&str; 2] = ["dense_2.weight", "dense_3.weight"];

/// What a file says of embeddings.
#[derive(Debug, Default)]
pub struct Embedding {
    /// The key of the pooling and its value.
    pooling: Option<(String, u64)>,
    dense: Vec<Dense>,
}

/// A dense layer in a file.
#[derive(Debug)]
struct Dense {
    path: PathBuf,
    file_bytes: u64,
    data_begin: u64,
    stored: Stored,
}

impl Embedding {
    /// Reads what the headers say.
    ///
    /// # Errors
    /// `Format` for a pooling that is no number.
    pub(super) fn read(metadata: Metadata, architecture: &str, opened: &[Opened]) -> Result<Embedding> {
        let key = format!("{architecture}.pooling_type");
        let pooling = metadata.whole(&key)?.map(|pooling| (key, pooling));
        let find = |name: &&str| {
            opened.iter().find_map(|of| {
                let stored = of.header.tensors.iter().find(|stored| stored.info.name == *name)?;
                let (path, data_begin) = (of.path.clone(), of.header.data_begin);
                Some(Dense { path, file_bytes: of.file_bytes, data_begin, stored: stored.clone() })
            })
        };
        Ok(Embedding { pooling, dense: DENSE.iter().filter_map(find).collect() })
    }

    /// The steps; `None` where the file says nothing. Reads the dense layers.
    ///
    /// # Errors
    /// `Unsupported` for another pooling; `Format`, `Io` and `Memory` for the dense layers.
    pub fn modules(&self, file: &str) -> Result<Option<EmbeddingModules>> {
        let refused = |what: String| Error::unsupported(format!("{file}: {what}")).about(file);
        let pooling = match &self.pooling {
            None | Some((_, 0)) if self.dense.is_empty() => return Ok(None),
            None | Some((_, 0)) => {
                return Err(refused("there are dense layers for embeddings, but no pooling_type".to_owned()));
            }
            Some((_, 1)) => Pooling::Mean,
            Some((_, 2)) => Pooling::First,
            Some((_, 3)) => Pooling::Last,
            Some((key, other)) => {
                let known = "1 (mean), 2 (first token) or 3 (last token) is";
                return Err(refused(format!("{key} is {other}, which is not computed here; {known}")));
            }
        };
        let (mut modules, mut width) = (Vec::new(), None);
        for dense in &self.dense {
            let layer = dense.load(width)?;
            width = Some(layer.out_features);
            modules.push(EmbeddingModule::Dense(layer));
        }
        modules.push(EmbeddingModule::Normalize);
        Ok(Some(EmbeddingModules { pooling, width: None, modules }))
    }
}

impl Dense {
    /// Reads a layer whose inputs are `wanted` wide, where that is known.
    fn load(&self, wanted: Option<usize>) -> Result<DenseModule> {
        let shown = self.path.to_string_lossy();
        let Stored { info, begin, end } = &self.stored;
        let wrong = |what: String| Error::format(format!("{shown}: tensor {} {what}", info.name)).about(&*shown);
        let most = limits::EMBEDDING_WIDTH_MAX;
        let &[out_features, in_features] = info.shape.as_slice() else {
            return Err(wrong(format!("has shape {:?}, but a dense layer has two dimensions", info.shape)));
        };
        if !(1..=most).contains(&out_features) || wanted.unwrap_or(in_features.clamp(1, most)) != in_features {
            return Err(wrong(format!("has shape {:?}, which does not follow what comes before", info.shape)));
        }
        if !matches!(info.dtype, DType::F32 | DType::Bf16 | DType::F16 | DType::Blocks(_)) {
            return Err(wrong(format!("is {}, which is no weight", info.dtype)));
        }
        let elements = out_features.saturating_mul(in_features);
        let (needed, limit) = (elements.saturating_mul(size_of::<f32>()), limits::EMBEDDING_DENSE_BYTES_MAX);
        if needed > limit {
            let error = wrong(format!("takes {needed} bytes, more than {limit}"));
            return Err(error.numbers(Unit::Bytes, needed as u64, limit as u64));
        }
        let bytes = self.bytes(end.saturating_sub(*begin))?;
        let rows = Rows::new(info, &bytes, in_features)?;
        let mut weight = filled("the weights of a dense layer", elements, 0.0)?;
        for (row, out) in weight.chunks_exact_mut(in_features).enumerate() {
            rows.row(row, out)?;
        }
        Ok(DenseModule { in_features, out_features, weight, bias: Vec::new(), tanh: false })
    }

    fn bytes(&self, len: u64) -> Result<Vec<u8>> {
        let shown = self.path.to_string_lossy();
        let Some((mut file, _)) = files::open(&self.path)?.filter(|(_, bytes)| *bytes == self.file_bytes) else {
            return Err(Error::format(format!("{shown} changed while it was being opened; try again")).about(&*shown));
        };
        let mut bytes = filled("a dense layer", usize::try_from(len).unwrap_or(usize::MAX), 0)?;
        let read = file.seek(SeekFrom::Start(self.data_begin.saturating_add(self.stored.begin)));
        let read = read.and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|e| Error::io(format!("cannot read {shown}"), shown.as_ref(), &e))?;
        Ok(bytes)
    }
}
