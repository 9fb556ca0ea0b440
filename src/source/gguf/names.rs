//! The tensors of a GGUF file under the names they have in a checkpoint. What conversion has put together is taken apart again
//! where it lies: experts that are stacked into one tensor, and queries, keys and values, or gates and ups, in one.

use super::architectures::{Architecture, Experts};
use crate::dtype::DType;
use crate::error::{Error, Result, reserved};
use crate::limits;
use crate::source::TensorInfo;
use crate::source::files::quoted;
use crate::source::safetensors::Stored;
use serde_json::Value;

/// Tensors outside of layers, without `.weight`, and their names in a checkpoint.
const WHOLE: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of a layer, without `blk.N.` and without `.weight` or `.bias`.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Queries, keys and values in one tensor.
const QKV: &str = "attn_qkv";
/// Stacked experts of a layer, in the order of [`Experts::parts`].
const STACKED: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
/// Stacked experts with gate and up in one matrix.
const STACKED_GATE_UP: &str = "ffn_gate_up_exps";
/// As [`STACKED`], of files in which every expert has tensors of its own: `ffn_gate.E`.
const APART: [&str; 3] = ["ffn_gate", "ffn_up", "ffn_down"];
/// The router.
pub const ROUTER: &str = "ffn_gate_inp";
/// What counts for the choice of experts alone, and its name in a checkpoint, both in full.
const CHOICE_BIAS: (&str, &str) = ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias");
/// Convolutions, stored without the dimension of one.
const CONVS: [&str; 2] = ["ssm_conv1d.weight", "shortconv.conv.weight"];
/// Vectors that may be stored as matrices.
const VECTORS: [&str; 3] = ["ssm_a", "ssm_d", "ssm_norm.weight"];
/// A projection to one number, stored as a vector.
const TO_ONE: &str = "ffn_gate_inp_shexp";

/// Consecutive rows of a tensor, as one of their own.
struct Piece {
    name: String,
    shape: Vec<usize>,
}

impl Piece {
    /// A row is of the last dimension; of a vector, an element.
    fn rows(&self) -> usize {
        match self.shape.split_last() {
            Some((_, rest)) if !rest.is_empty() => rest.iter().product(),
            _ => self.shape.iter().product(),
        }
    }
}

impl Architecture {
    /// Tensors under the names they have in a checkpoint with this `config`. What has no such name keeps its own.
    ///
    /// # Errors
    /// `Format` for a stack that is no stack, or rows that do not add up; `Memory`.
    pub fn tensors(&self, stored: Vec<Stored>, config: &Value, file: &str) -> Result<Vec<Stored>> {
        let mut all = reserved("the list of tensors", stored.len())?;
        for stored in stored {
            if let Some(pieces) = self.pieces(&stored.info, config, file)? {
                take_apart(stored, pieces, file, &mut all)?;
                continue;
            }
            let name = self.renamed(&stored.info.name, config).unwrap_or_else(|| stored.info.name.clone());
            let mut info = TensorInfo { name, ..stored.info.clone() };
            let part = in_layer(&stored.info.name).map_or("", |(_, part)| part);
            match info.shape.as_slice() {
                // A convolution of each channel alone.
                &[channels, kernel] if CONVS.contains(&part) => info.shape = vec![channels, 1, kernel],
                shape if VECTORS.contains(&part) => info.shape = vec![shape.iter().product()],
                _ => {}
            }
            if let (&[inputs], true) = (info.shape.as_slice(), stored.info.name.ends_with(&format!("{TO_ONE}.weight")))
            {
                info.shape = vec![1, inputs];
            }
            all.push(Stored { info, ..stored });
        }
        Ok(all)
    }

    /// What a tensor is taken apart into; `None` when it stays whole.
    fn pieces(&self, info: &TensorInfo, config: &Value, file: &str) -> Result<Option<Vec<Piece>>> {
        let wrong = |what: String| Error::format(format!("{file}: tensor {} {what}", quoted(&info.name))).about(file);
        let Some((layer, part)) = in_layer(&info.name) else { return Ok(None) };
        let Some((part, end)) = part.rsplit_once('.') else { return Ok(None) };
        if part == QKV && !self.names.iter().any(|(from, _)| *from == QKV) {
            let n = |key: &str| config.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            let rows = |heads: &str| n(heads)?.checked_mul(n("head_dim")?);
            let both = rows("num_attention_heads").zip(rows("num_key_value_heads"));
            let (q, kv) = both.ok_or_else(|| Error::internal("a config without heads"))?;
            let named = |(part, rows): (&str, usize)| {
                let shape = [rows].iter().chain(info.shape.iter().skip(1)).copied().collect();
                let name = self.in_checkpoint(part).unwrap_or(part);
                Piece { name: format!("{}.layers.{layer}.{name}.{end}", self.stem), shape }
            };
            return Ok(Some([("attn_q", q), ("attn_k", kv), ("attn_v", kv)].map(named).into()));
        }
        let has = |experts: &&Experts| end == "weight" || experts.biased && end == "bias";
        let Some(experts) = self.experts.as_ref().filter(has) else { return Ok(None) };
        let names: &[&str] = match STACKED.iter().position(|stacked| *stacked == part) {
            Some(at) => experts.parts.get(at..=at).unwrap_or_default(),
            None if part == STACKED_GATE_UP => &experts.parts[..2],
            None => return Ok(None),
        };
        let (count, outputs, inputs) = match (info.shape.as_slice(), end) {
            (&[count, outputs, inputs], "weight") => (count, outputs, Some(inputs)),
            (&[count, outputs], "bias") => (count, outputs, None),
            (shape, "bias") => {
                return Err(wrong(format!("has shape {shape:?}, but a stack of biases has two dimensions")));
            }
            (shape, _) => {
                return Err(wrong(format!("has shape {shape:?}, but a stack of matrices has three dimensions")));
            }
        };
        if count > limits::EXPERTS_MAX {
            return Err(wrong(format!("holds {count} experts, more than are supported")));
        }
        let mut pieces = reserved("the names of experts", count.saturating_mul(names.len()))?;
        for expert in 0..count {
            pieces.extend(names.iter().map(|name| Piece {
                name: format!("{}.layers.{layer}.{}.{end}", self.stem, name.replace("{e}", &expert.to_string())),
                shape: [outputs / names.len().max(1)].into_iter().chain(inputs).collect(),
            }));
        }
        Ok(Some(pieces))
    }

    /// The name in a checkpoint of a tensor of a layer.
    fn in_checkpoint(&self, part: &str) -> Option<&'static str> {
        self.names.iter().chain(&LAYER).find(|(from, _)| *from == part).map(|(_, to)| *to)
    }

    fn renamed(&self, name: &str, config: &Value) -> Option<String> {
        let layers = config.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(u64::MAX);
        if let Some((layer, part)) = in_layer(name)
            && layer.parse::<u64>().is_ok_and(|layer| layer >= layers)
        {
            // Guesses tokens ahead; what is left unread is found by its place.
            return Some(format!("{}.layers.{layer}.{part}", self.stem));
        }
        if let Some((layer, part)) = in_layer(name)
            && let Some((_, to)) = self.whole_names.iter().find(|(from, _)| *from == part)
        {
            return Some(format!("{}.layers.{layer}.{to}", self.stem));
        }
        let (stem, end) = name.rsplit_once('.').filter(|(_, end)| matches!(*end, "weight" | "bias"))?;
        if let Some((_, to)) = self.outside.iter().chain(&WHOLE).find(|(from, _)| *from == stem) {
            return Some(format!("{to}.{end}"));
        }
        let (layer, part) = in_layer(stem)?;
        if in_layer(name)?.1 == CHOICE_BIAS.0 {
            return Some(format!("{}.layers.{layer}.{}", self.stem, CHOICE_BIAS.1));
        }
        let found = match self.in_checkpoint(part) {
            Some(to) => to.to_owned(),
            None => named_expert(self.experts.as_ref()?, part)?,
        };
        Some(format!("{}.layers.{layer}.{found}.{end}", self.stem))
    }
}

/// The layer of a tensor and its name there.
fn in_layer(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("blk.")?.split_once('.')
}

/// The name of a router or of a matrix of one expert.
fn named_expert(experts: &Experts, part: &str) -> Option<String> {
    if part == ROUTER {
        return Some(experts.router.to_owned());
    }
    let (part, expert) = part.rsplit_once('.').filter(|(_, e)| e.bytes().all(|b| b.is_ascii_digit()))?;
    let at = APART.iter().position(|apart| *apart == part)?;
    Some(experts.parts.get(at)?.replace("{e}", expert))
}

/// Adds the pieces of a tensor, which follow each other in it: rows, or elements where they are vectors.
fn take_apart(stored: Stored, pieces: Vec<Piece>, file: &str, all: &mut Vec<Stored>) -> Result<()> {
    let Stored { info, begin, end } = stored;
    let wrong = |what: String| Error::format(format!("{file}: tensor {} {what}", quoted(&info.name))).about(file);
    let vectors = pieces.iter().all(|piece| piece.shape.len() < 2);
    let shape = if vectors { vec![info.shape.iter().product()] } else { info.shape.clone() };
    let whole = Piece { name: String::new(), shape };
    let rows = pieces.iter().map(Piece::rows).fold(0, usize::saturating_add);
    if rows != whole.rows() || vectors && matches!(info.dtype, DType::Blocks(_)) {
        return Err(wrong(format!("has shape {:?}, which cannot be taken apart into {rows} rows", info.shape)));
    }
    if all.len().saturating_add(pieces.len()) > limits::TENSORS_MAX {
        return Err(wrong(format!("holds {} tensors, more than are supported", pieces.len())));
    }
    all.try_reserve(pieces.len())
        .map_err(|_| Error::memory("the list of tensors", size_of::<Stored>() as u64 * pieces.len() as u64))?;
    let row = (end - begin).checked_div(rows as u64).unwrap_or(0);
    let mut begin = begin;
    for piece in pieces {
        // Within the tensor: the rows of all pieces are its own.
        let end = begin + row * piece.rows() as u64;
        all.push(Stored { info: TensorInfo { name: piece.name, dtype: info.dtype, shape: piece.shape }, begin, end });
        begin = end;
    }
    Ok(())
}
