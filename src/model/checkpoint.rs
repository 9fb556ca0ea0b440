//! Whether a checkpoint has the tensors of the model that `config.json` describes, from the headers of its files alone, and
//! what it is if not: quantized by others, the inside of a multimodal model, without an output matrix. Called before anything
//! is sized by the model.

use super::architecture::{Architecture, Head};
use super::binder::{Change, TensorPart, Tensors, walk};
use super::families::{self, Family};
use super::float8::{self, Found};
use super::leftovers::{Unread, harmless};
use super::prequantized;
use super::recipe::Recipe;
use crate::backend::Weight;
use crate::dtype::DType;
use crate::encoding::Scheme;
use crate::error::{Error, Result};
use crate::limits;
use crate::source::{ModelSource, TensorInfo};
use serde_json::Value;

/// Checks name, shape and type of every tensor of the model, and that nothing is left over that would change it. Returns what
/// is worth a warning.
///
/// # Errors
/// `Format` and `Unsupported`, by the cause as far as it can be told.
pub fn check(architecture: &Architecture, family: &Family, source: &dyn ModelSource) -> Result<Vec<String>> {
    let all = source.tensors()?;
    let mut found = FoundTensors {
        all,
        used: vec![false; all.len()],
        missing: None,
        missing_count: 0,
        last_missing: String::new(),
        wrong: None,
        mxfp4: false,
        f8: false,
        config: source.config()?,
    };
    walk(architecture, Recipe::Stored, &mut found)?;
    let (mut unread, mut unknown) = (Unread::default(), Vec::new());
    found.input_scales(&mut unread);
    let FoundTensors { used, missing, missing_count, wrong, mxfp4, f8, .. } = found;
    let quantized = mxfp4 || f8;
    for (info, _) in all.iter().zip(&used).filter(|(_, used)| !**used) {
        match harmless(architecture, family, info) {
            Some(reason) => unread.add(&info.name, reason),
            None => unknown.push(info.name.as_str()),
        }
    }
    let cause = Cause { architecture, source, all, config: source.config()? };
    let fault = match (missing, wrong, unknown.is_empty()) {
        (Some((name, shape)), ..) => cause.missing(&name, &shape, missing_count)?,
        (None, Some(wrong), _) => wrong,
        (None, None, false) => cause.left_over(&unknown),
        (None, None, true) => {
            let mut warnings: Vec<String> = unread.warning().into_iter().collect();
            if let Some(format) = prequantized::by_config(cause.config).filter(|_| !quantized) {
                warnings.push(format!(
                    "the weights are not quantized although config.json says so ({format}); they are used as they are"
                ));
            }
            return Ok(warnings);
        }
    };
    Err(if quantized { fault } else { cause.explain(fault) })
}

/// Looks up every tensor and writes down the first that is not there, and the first that is not as it should be.
struct FoundTensors<'a> {
    /// Sorted by name.
    all: &'a [TensorInfo],
    used: Vec<bool>,
    missing: Option<(String, Vec<usize>)>,
    /// Tensors that are missing; the parts of one are taken one after the other.
    missing_count: usize,
    last_missing: String,
    wrong: Option<Error>,
    /// Weights in 4-bit floats were asked for.
    mxfp4: bool,
    /// There are weights in 8-bit floats with their scales.
    f8: bool,
    config: &'a Value,
}

impl FoundTensors<'_> {
    fn place(&self, name: &str) -> Option<usize> {
        self.all.binary_search_by(|info| info.name.as_str().cmp(name)).ok()
    }
}

impl Tensors for FoundTensors<'_> {
    fn take(&mut self, part: TensorPart, _scheme: Option<Scheme>) -> Result<Weight> {
        let (out_features, in_features) = part.matrix();
        if let Some(scales) = part.scales() {
            self.mxfp4 = true;
            self.look(scales);
        }
        self.look(part);
        Ok(Weight { id: 0, out_features, in_features })
    }

    fn has(&self, name: &str) -> Result<bool> {
        Ok(self.place(name).is_some())
    }
}

impl FoundTensors<'_> {
    /// Looks up one tensor.
    fn look(&mut self, part: TensorPart) {
        match self.place(&part.name).and_then(|at| Some((at, self.all.get(at)?))) {
            None => {
                if self.last_missing != part.name {
                    self.missing_count += 1;
                    self.last_missing.clone_from(&part.name);
                }
                self.missing.get_or_insert((part.name, part.stored));
            }
            Some((at, info)) => {
                if let Some(used) = self.used.get_mut(at) {
                    *used = true;
                }
                match float8::scales(self.all, self.config, info, &part) {
                    Ok(Found::Other) => self.keep(fits(info, &part)),
                    Ok(Found::Scales(scales)) => {
                        self.f8 = true;
                        let at = scales.tensor.and_then(|tensor| self.place(&tensor.name));
                        if let Some(used) = at.and_then(|at| self.used.get_mut(at)) {
                            *used = true;
                        }
                    }
                    Ok(Found::Missing(name)) => {
                        let message = format!("the checkpoint has no tensor {name}, the scales of {}", info.name);
                        let message = format!("{message}, which is {}; the download is incomplete", info.dtype);
                        self.keep(Err(Error::format(message).about(&*name)));
                    }
                    Err(error) => self.keep(Err(error)),
                }
            }
        }
    }

    /// Keeps the first fault.
    fn keep(&mut self, fit: Result<()>) {
        if self.wrong.is_none() {
            self.wrong = fit.err();
        }
    }

    /// Notes what stands beside weights in 8-bit floats and says how to round their inputs.
    fn input_scales(&mut self, unread: &mut Unread) {
        let weights = self.all.iter().zip(&self.used).filter(|(info, used)| **used && info.dtype == DType::F8E4m3);
        let names: Vec<String> = weights.flat_map(|(info, _)| float8::input_scales(&info.name)).collect();
        for name in names {
            if let Some(used) = self.place(&name).and_then(|at| self.used.get_mut(at)).filter(|used| !**used) {
                *used = true;
                unread.add(&name, "a scale of inputs in 8 bits, which are computed in more");
            }
        }
    }
}

/// Refuses a tensor of another shape, or of a type that no kernel reads.
pub(super) fn fits(info: &TensorInfo, part: &TensorPart) -> Result<()> {
    let (TensorInfo { name, dtype, shape: found }, shape) = (info, &part.stored);
    let bytes = matches!(part.change, Change::Mxfp4 { .. });
    if bytes && *dtype != DType::U8 {
        return Err(Error::unsupported(format!("tensor {name} is {dtype}, expected bytes of 4-bit floats")).about(name));
    }
    // What is read element by element is stored so.
    let by_element = shape.len() < 2 || part.change != Change::None;
    if !bytes && (!dtype.is_weight() || matches!(dtype, DType::Blocks(_)) && by_element) {
        return Err(Error::unsupported(format!("tensor {name} is {dtype}, expected f32, bf16 or f16")).about(name));
    }
    if found != shape {
        return Err(misshapen(info, part));
    }
    Ok(())
}

/// What is said of a tensor of another shape.
pub(super) fn misshapen(info: &TensorInfo, part: &TensorPart) -> Error {
    let TensorInfo { name, shape, .. } = info;
    Error::format(format!("tensor {name} has shape {shape:?}, but config.json makes it {:?}", part.stored)).about(name)
}

/// Finds out why the tensors are not those of the model.
struct Cause<'a> {
    architecture: &'a Architecture,
    source: &'a dyn ModelSource,
    all: &'a [TensorInfo],
    config: &'a Value,
}

impl Cause<'_> {
    /// The fault, or what stands behind it.
    fn explain(&self, fault: Error) -> Error {
        let Some(format) = prequantized::format(self.config, self.all) else { return fault };
        if !prequantized::shows(self.all) {
            // What config.json says is left over, or is of tensors that are not there.
            let message = format!("{} (config.json says that the weights are quantized by {format})", fault.message);
            return Error { message, ..fault };
        }
        let subject = self.source.subject();
        Error::unsupported(format!(
            "{subject}: the weights are quantized by {format}; that is not read here: open the original model in bf16, f16 or \
             f32, and let the option weights quantize it ({})",
            fault.message.split(';').next().unwrap_or_default()
        ))
        .about(subject)
    }

    fn missing(&self, name: &str, shape: &[usize], count: usize) -> Result<Error> {
        let all = self.all.len();
        let others = if count > 1 { format!(" and lacks {} others", count - 1) } else { String::new() };
        let what = format!("the checkpoint has no tensor {name}, expected {shape:?}{others}; it has {all} tensors");
        if let Some((prefix, tensor)) = self.other_prefix(name) {
            return Ok(self.prefixed(&what, prefix, tensor).about(name));
        }
        let why = match name.strip_suffix(".weight") {
            Some(stem) if self.is_head(stem) => {
                "; config.json does not say `tie_word_embeddings`: true, so the output matrix has to be there: if the model \
                 ties it to the embedding, say so, else the download is incomplete"
            }
            _ => "; if config.json is that of this model, the download is incomplete",
        };
        Ok(Error::format(format!("{what}{why}")).about(name))
    }

    fn is_head(&self, stem: &str) -> bool {
        let a = self.architecture;
        a.head == Head::Own && stem == a.prefix.apply(a.names.lm_head)
    }

    /// What all names have in front that should not have it (or lack, when it is empty), and one such name.
    fn other_prefix(&self, name: &str) -> Option<(String, &str)> {
        let longer = |info: &&TensorInfo| info.name.strip_suffix(name).is_some_and(|prefix| prefix.ends_with('.'));
        if let Some(info) = self.all.iter().find(longer) {
            return Some((info.name.strip_suffix(name).unwrap_or_default().to_owned(), &info.name));
        }
        // A part between: model.language_model.layers for model.layers.
        let (first, rest) = name.split_once('.')?;
        let between = |info: &&TensorInfo| {
            let inner = info.name.strip_prefix(first).and_then(|name| name.strip_suffix(rest));
            inner.is_some_and(|inner| inner.len() > 2 && inner.starts_with('.') && inner.ends_with('.'))
        };
        if let Some(info) = self.all.iter().find(between) {
            let prefix = info.name.strip_suffix(rest).unwrap_or_default();
            return Some((prefix.to_owned(), &info.name));
        }
        let shorter = self.all.iter().find(|info| info.name == rest)?;
        Some((String::new(), &shorter.name))
    }

    fn prefixed(&self, what: &str, prefix: String, tensor: &str) -> Error {
        if let Some((outer, inner)) = families::wrapper(self.config) {
            return Error::unsupported(format!(
                "{}: a multimodal model ({outer}) around the text model \"{inner}\": its tensors are named like {tensor}; only \
                 text models are opened: export that one by itself, with tensors that do not begin with {prefix:?}",
                self.source.subject()
            ));
        }
        let because = match (self.config.get("model_type").is_some(), prefix.as_str()) {
            (false, _) => {
                format!("it has {tensor}: config.json has no model_type, which means AstrAI's own; is it another?")
            }
            (true, "") => {
                format!("it has {tensor}, which lacks what other names begin with; give all of them the same beginning")
            }
            (true, prefix) => {
                format!(
                    "it has {tensor}: names begin with {prefix:?}, as those inside another model do; export it by itself"
                )
            }
        };
        Error::format(format!("{what}; {because}"))
    }

    fn left_over(&self, unknown: &[&str]) -> Error {
        let first = unknown.first().copied().unwrap_or_default();
        let named: Vec<&str> = unknown.iter().take(limits::NAMED_TENSORS_MAX).copied().collect();
        let adapter = unknown.iter().any(|name| name.contains(".lora_") || name.contains(".base_layer."));
        let hint = match adapter {
            true => "an adapter (LoRA) is stored with the model: merge it",
            false => "leaving them out would make another model of it: does config.json belong to these weights?",
        };
        Error::format(format!(
            "{} tensors of the checkpoint are not part of a {} model as config.json describes it: {}{}; {hint}",
            unknown.len(),
            self.architecture.model_type,
            named.join(", "),
            if unknown.len() > named.len() { ", …" } else { "" }
        ))
        .about(first)
    }
}
