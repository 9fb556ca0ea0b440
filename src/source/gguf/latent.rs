//! DeepSeek's latent attention in GGUF files: sizes of heads that are made of a latent, and the matrix that makes them. Newer
//! files have it in two stacks of a matrix for each head, `attn_k_b` of them transposed, where a checkpoint has one:
//! `kv_b_proj`, of each head the rows of its keys and then those of its values. It is put together again whenever it is asked
//! for, in memory of its own.

use super::architectures::{Architecture, Experts, GROUPED_NUMBERS, PLAIN, QWEN_EXPERTS};
use super::config::Reading;
use super::rows::Rows;
use crate::dtype::DType;
use crate::error::{Error, Result, filled};
use crate::limits;
use crate::os::aligned::AlignedBytes;
use crate::source::TensorInfo;
use crate::source::files::quoted;
use serde_json::Value;

/// DeepSeek V2 and V3, and what has their attention and experts: Kimi K2, GLM-4.7-Flash and others.
pub(super) const DEEPSEEK2: Architecture = Architecture {
    name: "deepseek2",
    model_type: "deepseek_v2",
    experts: Some(Experts { model_type: "deepseek_v2", renormalised: false, gating: 0, grouped: true, ..QWEN_EXPERTS }),
    latent: true,
    names: &[
        ("attn_q_a", "self_attn.q_a_proj"),
        ("attn_q_a_norm", "self_attn.q_a_layernorm"),
        ("attn_q_b", "self_attn.q_b_proj"),
        ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
        ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
        ("attn_kv_b", "self_attn.kv_b_proj"),
        ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
        ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
        ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
    ],
    numbers: &GROUPED_NUMBERS,
    more: deepseek,
    ..PLAIN
};

/// Which of the two routers there is, and what older files leave out.
fn deepseek(reading: &mut Reading) -> Result<()> {
    let experts = reading.size("expert_count")?;
    reading.refuse("attention.temperature_scale")?;
    // Files without the key: what sigmoids come with tells.
    let sigmoid = reading.any_has("exp_probs_b.bias");
    let gating = reading.whole("expert_gating_func")?.filter(|&gating| gating != 0);
    let model_type = match gating.unwrap_or(if sigmoid { 2 } else { 1 }) {
        1 => "deepseek_v2",
        2 => "deepseek_v3",
        other => {
            let key = reading.key("expert_gating_func");
            return Err(reading.unsupported(format!("{key} is {other}, which is not supported")));
        }
    };
    reading.set("model_type", model_type);
    reading.set_absent("first_k_dense_replace", 0);
    reading.set_absent("n_shared_experts", 0);
    if reading.get("routed_scaling_factor").and_then(Value::as_f64).is_none_or(|factor| factor == 0.0) {
        reading.set("routed_scaling_factor", 1.0);
    }
    // Older files say nothing of groups: those of V2 and of V3 are known.
    let (groups, chosen) = match (reading.layers(), experts) {
        (60, 160) => (8, 3),
        (61, 256) => (8, 4),
        _ => (1, 1),
    };
    if reading.get("n_group").is_none() {
        reading.set("n_group", groups);
        reading.set("topk_group", chosen);
    }
    let grouped = reading.get("n_group").and_then(Value::as_u64).is_some_and(|groups| groups > 1);
    reading.set("topk_method", if grouped { "group_limited_greedy" } else { "greedy" });
    Ok(())
}

impl Reading<'_> {
    /// Sizes of heads whose keys and values are made of a latent. Newer files have under the usual keys what lies in a cache,
    /// which is the same for all heads; the sizes of heads have keys of their own.
    pub(super) fn latent_sizes(&mut self, heads: u64) -> Result<()> {
        let own = self.whole("attention.key_length_mla")?.is_some_and(|length| length > 0);
        let [key, value] = match own {
            true => ["attention.key_length_mla", "attention.value_length_mla"],
            false => ["attention.key_length", "attention.value_length"],
        };
        let (length, rotated) = (self.size(key)?, self.size("rope.dimension_count")?);
        let Some(nope) = length.checked_sub(rotated).filter(|&nope| nope > 0) else {
            let key = self.key(key);
            return Err(self.unsupported(format!("{key} is {length}, but {rotated} elements of a head rotate")));
        };
        self.set("qk_nope_head_dim", nope);
        self.set("qk_rope_head_dim", rotated);
        self.set_size("v_head_dim", value)?;
        self.set_size("kv_lora_rank", "attention.kv_lora_rank")?;
        self.set("q_lora_rank", Value::Null);
        if self.any_has("attn_q_a.weight") {
            self.set_size("q_lora_rank", "attention.q_lora_rank")?;
        }
        self.set("num_key_value_heads", heads);
        Ok(())
    }
}

/// What the stacks are called in a layer, and the matrix of older files.
const KEYS: &str = "attn_k_b.weight";
const VALUES: &str = "attn_v_b.weight";
const WHOLE: &str = "attn_kv_b.weight";

/// A matrix that is made of two stacks.
#[derive(Debug)]
pub struct Joined {
    /// The matrix, `[heads * (nope + values), rank]`.
    pub info: TensorInfo,
    /// `[heads, rank, nope]`.
    pub keys: TensorInfo,
    /// `[heads, values, rank]`.
    pub values: TensorInfo,
}

/// The matrices that have to be put together, with this `config`, and the names of tensors that are no longer needed then.
///
/// # Errors
/// `Format` for a stack without the other, or of another shape; `Unsupported` for one of another type.
pub fn joined(infos: &[TensorInfo], config: &Value, file: &str) -> Result<(Vec<Joined>, Vec<String>)> {
    let (mut all, mut hidden) = (Vec::new(), Vec::new());
    let n = |key: &str| config.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let (heads, rank) = (n("num_attention_heads"), n("kv_lora_rank"));
    let (nope, values) = (n("qk_nope_head_dim"), n("v_head_dim"));
    let find = |name: &str| TensorInfo::find(infos, name);
    for layer in 0..n("num_hidden_layers").min(limits::LAYERS_MAX) {
        let [keys_name, values_name] = [KEYS, VALUES].map(|part| format!("blk.{layer}.{part}"));
        let whole = format!("model.layers.{layer}.self_attn.kv_b_proj.weight");
        let (k, v) = match (find(&keys_name), find(&values_name)) {
            (None, None) => continue,
            // The same twice.
            (k, v) if find(&whole).is_some() => {
                hidden.extend(k.into_iter().chain(v).map(|info| info.name.clone()));
                continue;
            }
            (Some(k), Some(v)) => (k, v),
            (k, _) => {
                let lacks = if k.is_some() { values_name } else { keys_name };
                let message = format!("{file}: tensor {lacks} is missing, and {WHOLE} too; download the file again");
                return Err(Error::format(message).about(file));
            }
        };
        for (info, shape) in [(k, [heads, rank, nope]), (v, [heads, values, rank])] {
            if info.shape != shape {
                let (name, found) = (quoted(&info.name), &info.shape);
                let message = format!("{file}: tensor {name} has shape {found:?}, but the metadata makes it {shape:?}");
                return Err(Error::format(message).about(file));
            }
            if !matches!(info.dtype, DType::F32 | DType::Bf16 | DType::F16 | DType::Blocks(_)) {
                let message = format!("{file}: tensor {} is {}, which is no weight", quoted(&info.name), info.dtype);
                return Err(Error::unsupported(message).about(file));
            }
        }
        let rows = nope.checked_add(values).and_then(|each| each.checked_mul(heads));
        let rows = rows.filter(|rows| rows.checked_mul(rank).and_then(|n| n.checked_mul(size_of::<f32>())).is_some());
        let rows = rows.ok_or_else(|| Error::format(format!("{file}: {whole} would be too large")).about(file))?;
        let info = TensorInfo { name: whole, dtype: made_of(k.dtype, v.dtype), shape: vec![rows, rank] };
        hidden.extend([keys_name, values_name]);
        all.push(Joined { info, keys: k.clone(), values: v.clone() });
    }
    hidden.sort_unstable();
    Ok((all, hidden))
}

/// The type of what is made of two: theirs, half precision of blocks, else f32.
fn made_of(keys: DType, values: DType) -> DType {
    let half = |dtype| matches!(dtype, DType::F16 | DType::Blocks(_));
    match half(keys) && half(values) {
        true => DType::F16,
        false if keys == values => keys,
        false => DType::F32,
    }
}

impl Joined {
    /// Puts the matrix together from the bytes of both stacks.
    ///
    /// # Errors
    /// `Memory`; `Internal` for bytes of another length.
    pub fn make(&self, keys: &[u8], values: &[u8]) -> Result<AlignedBytes> {
        let (&[heads, rank, nope], &[_, v_dim, _]) = (self.keys.shape.as_slice(), self.values.shape.as_slice()) else {
            return Err(Error::internal("stacks of heads without three dimensions"));
        };
        let len = self.info.shape.iter().product::<usize>().saturating_mul(self.info.dtype.size());
        let memory = || Error::memory(quoted(&self.info.name), len as u64);
        let mut made = AlignedBytes::zeroed(len).ok_or_else(memory)?;
        let mut out = Narrow { dtype: self.info.dtype, bytes: made.as_mut_slice() };
        let mut wide = filled("a row of a matrix", nope.max(rank), 0.0)?;
        let (keys, values) = (Rows::new(&self.keys, keys, nope)?, Rows::new(&self.values, values, rank)?);
        for head in 0..heads {
            let first = head * (nope + v_dim);
            for r in 0..rank {
                let row = wide.get_mut(..nope).unwrap_or_default();
                keys.row(head * rank + r, row)?;
                row.iter().enumerate().for_each(|(n, &value)| out.put((first + n) * rank + r, value));
            }
            for v in 0..v_dim {
                let row = wide.get_mut(..rank).unwrap_or_default();
                values.row(head * v_dim + v, row)?;
                row.iter().enumerate().for_each(|(r, &value)| out.put((first + nope + v) * rank + r, value));
            }
        }
        Ok(made)
    }
}

/// Elements that are written one by one.
struct Narrow<'a> {
    dtype: DType,
    bytes: &'a mut [u8],
}

impl Narrow<'_> {
    fn put(&mut self, at: usize, value: f32) {
        match self.dtype {
            DType::F16 => self.store(at, half::f16::from_f32(value).to_le_bytes()),
            DType::Bf16 => self.store(at, half::bf16::from_f32(value).to_le_bytes()),
            _ => self.store(at, value.to_le_bytes()),
        }
    }

    fn store<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        if let Some(to) = self.bytes.as_chunks_mut().0.get_mut(at) {
            *to = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::BlockFormat;
    use crate::encoding::blocks;
    use serde_json::json;

    const HEADS: usize = 2;
    const RANK: usize = 64;
    const NOPE: usize = 32;
    const VALUE: usize = 3;

    fn config() -> Value {
        json!({ "num_hidden_layers": 1, "num_attention_heads": HEADS, "kv_lora_rank": RANK, "qk_nope_head_dim": NOPE,
            "v_head_dim": VALUE })
    }

    fn infos(keys: DType, values: DType) -> Vec<TensorInfo> {
        let info = |name: &str, dtype, shape: &[usize]| TensorInfo { name: name.into(), dtype, shape: shape.into() };
        vec![
            info("blk.0.attn_k_b.weight", keys, &[HEADS, RANK, NOPE]),
            info("blk.0.attn_v_b.weight", values, &[HEADS, VALUE, RANK]),
        ]
    }

    /// Bytes that are blocks of 8 bits: a scale in half precision, and 32 integers.
    fn blocks_of(count: usize) -> Vec<u8> {
        let block = |b: usize| {
            let scale = half::f16::from_f32(0.01 + b as f32 / 512.0).to_le_bytes();
            scale.into_iter().chain((0..32).map(move |i| ((b * 37 + i * 11) % 251) as u8)).collect::<Vec<u8>>()
        };
        (0..count / 32).flat_map(block).collect()
    }

    #[test]
    fn blocks_and_plain_elements_are_put_together() {
        let q8 = DType::Blocks(BlockFormat::Q8_0);
        let plain: Vec<f32> = (0..HEADS * VALUE * RANK).map(|i| i as f32 / 64.0 - 3.0).collect();
        let bf16: Vec<u8> = plain.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        let f32s: Vec<u8> = plain.iter().flat_map(|v| v.to_le_bytes()).collect();
        let keys = blocks_of(HEADS * RANK * NOPE);
        let mut wide = vec![0.0; HEADS * RANK * NOPE];
        blocks::widen(BlockFormat::Q8_0, &keys, &mut wide);
        for (dtype, bytes, made) in [
            (q8, blocks_of(HEADS * VALUE * RANK), DType::F16),
            (DType::Bf16, bf16, DType::F32),
            (DType::F32, f32s, DType::F32),
        ] {
            let (all, hidden) = joined(&infos(q8, dtype), &config(), "file").expect("good");
            assert_eq!(hidden, ["blk.0.attn_k_b.weight", "blk.0.attn_v_b.weight"]);
            let [one] = all.as_slice() else { panic!("{all:?}") };
            assert_eq!((one.info.dtype, one.info.shape.as_slice()), (made, &[HEADS * (NOPE + VALUE), RANK][..]));
            assert_eq!(one.info.name, "model.layers.0.self_attn.kv_b_proj.weight");
            let got = one.make(&keys, &bytes).expect("good");
            let whole = Rows::new(&one.info, got.as_slice(), RANK).expect("no blocks");
            let values = Rows::new(&one.values, &bytes, RANK).expect("whole blocks");
            let (mut row, mut want) = ([0.0; RANK], [0.0; RANK]);
            let rounded = |v: f32| if made == DType::F16 { half::f16::from_f32(v).to_f32() } else { v };
            for head in 0..HEADS {
                for n in 0..NOPE {
                    whole.row(head * (NOPE + VALUE) + n, &mut row).expect("there");
                    for (r, got) in row.iter().enumerate() {
                        assert_eq!(*got, rounded(wide[(head * RANK + r) * NOPE + n]), "{dtype:?} {head} {n} {r}");
                    }
                }
                for v in 0..VALUE {
                    whole.row(head * (NOPE + VALUE) + NOPE + v, &mut row).expect("there");
                    values.row(head * VALUE + v, &mut want).expect("there");
                    assert_eq!(row, want.map(rounded), "{dtype:?} {head} {v}");
                }
            }
            assert!(one.make(&keys[1..], &bytes).is_err() && one.make(&keys, &bytes[1..]).is_err());
        }
    }

    #[test]
    fn stacks_have_to_fit_and_belong_together() {
        let refused = |infos: &[TensorInfo], config: &Value, words: &[&str]| {
            let error = joined(infos, config, "file").map(|_| ()).expect_err("wrong");
            assert!(words.iter().all(|word| error.message.contains(word)), "{words:?}: {error}");
        };
        let good = infos(DType::F16, DType::F16);
        refused(&good[..1], &config(), &["attn_v_b.weight is missing"]);
        refused(&good[1..], &config(), &["attn_k_b.weight is missing"]);
        let mut odd = good.clone();
        odd[0].shape = vec![HEADS, NOPE, RANK];
        refused(&odd, &config(), &["attn_k_b.weight", "[2, 32, 64]", "[2, 64, 32]"]);
        odd[0].shape = vec![HEADS * RANK, NOPE];
        refused(&odd, &config(), &["attn_k_b.weight", "[128, 32]"]);
        refused(&infos(DType::I8, DType::F16), &config(), &["attn_k_b.weight", "no weight"]);
        let mut huge = config();
        huge["num_attention_heads"] = (1u64 << 62).into();
        refused(&good, &huge, &["attn_k_b.weight", "the metadata makes it"]);
        // Of a file that has both forms the joined one counts.
        let mut both = good;
        let name = "model.layers.0.self_attn.kv_b_proj.weight".to_owned();
        both.push(TensorInfo { name, dtype: DType::F16, shape: vec![HEADS * (NOPE + VALUE), RANK] });
        let (all, hidden) = joined(&both, &config(), "file").expect("good");
        assert!(all.is_empty() && hidden.len() == 2);
    }
}
