//! Checkpoints whose weights somebody has quantized already, in formats that are not read: which one it is, from what
//! `config.json` says and from the names of the tensors. Found when the tensors are not those of a plain model, so that the
//! message names this and not the first tensor that is missing.

use crate::dtype::DType;
use crate::source::TensorInfo;
use serde_json::Value;

/// `quant_method` values, and how people call them.
const METHODS: [(&str, &str); 16] = [
    ("gptq", "GPTQ"),
    ("awq", "AWQ"),
    ("bitsandbytes", "bitsandbytes"),
    ("fp8", "FP8"),
    ("fbgemm_fp8", "FP8 (FBGEMM)"),
    ("compressed-tensors", "compressed-tensors"),
    ("mxfp4", "MXFP4"),
    ("hqq", "HQQ"),
    ("aqlm", "AQLM"),
    ("vptq", "VPTQ"),
    ("exl2", "EXL2"),
    ("exl3", "EXL3"),
    ("modelopt", "ModelOpt (FP8 or NVFP4)"),
    ("quark", "Quark"),
    ("torchao", "torchao"),
    ("bitnet", "BitNet"),
];

/// Last parts of tensors' names that only quantized weights have, and who writes them.
const PARTS: [(&[&str], &str); 12] = [
    (&["g_idx"], "GPTQ"),
    (&["qweight", "qzeros"], "GPTQ or AWQ"),
    (&["absmax", "quant_map", "nested_absmax", "SCB", "weight_format"], "bitsandbytes"),
    (&["weight_scale_inv"], "FP8 in blocks"),
    (&["weight_packed", "weight_global_scale"], "compressed-tensors"),
    (&["gate_up_proj_blocks", "down_proj_blocks", "weight_blocks"], "MXFP4"),
    (&["W_q"], "HQQ"),
    (&["codes", "codebooks"], "AQLM"),
    (&["q_weight", "q_scale_max", "q_invperm", "q_perm"], "EXL2"),
    (&["trellis", "suh", "svh"], "EXL3"),
    (&["weight_scale", "input_scale", "weight_scale_2"], "FP8, or 8 or 4 bits with scales"),
    (&["scales", "biases"], "MLX or another format with scales"),
];

/// What a checkpoint is quantized by, and where that shows.
pub(super) fn format(config: &Value, tensors: &[TensorInfo]) -> Option<String> {
    let named = by_names(tensors);
    let said = by_config(config);
    match (said, named) {
        (Some(said), Some((_, tensor))) => Some(format!("{said}, and there is a tensor {tensor}")),
        (Some(said), None) => Some(said),
        (None, Some((format, tensor))) => Some(format!("{format}: there is a tensor {tensor}")),
        (None, None) => None,
    }
}

/// Whether tensors show that weights are quantized: by their names, or by types that plain weights do not have.
pub(super) fn shows(tensors: &[TensorInfo]) -> bool {
    let plain = |tensor: &TensorInfo| tensor.dtype.is_weight();
    by_names(tensors).is_some() || !tensors.iter().all(plain)
}

/// What `config.json` says.
pub(super) fn by_config(config: &Value) -> Option<String> {
    let text = config.get("text_config").unwrap_or(&Value::Null);
    for (holder, key) in
        [config, text].iter().flat_map(|c| ["quantization_config", "compression_config"].map(|k| (c, k)))
    {
        let Some(said) = holder.get(key).and_then(Value::as_object) else { continue };
        let text = |key: &str| said.get(key).and_then(Value::as_str);
        let flag = |key: &str| said.get(key).and_then(Value::as_bool) == Some(true);
        let method = match text("quant_method").or(text("quant_algo")) {
            Some(method) => {
                let known = METHODS.iter().find(|(name, _)| method.eq_ignore_ascii_case(name));
                known.map_or_else(|| method.chars().take(40).collect(), |(_, known)| (*known).to_owned())
            }
            None if flag("load_in_4bit") || flag("load_in_8bit") => "bitsandbytes".to_owned(),
            None => "a method it does not name".to_owned(),
        };
        let bits = ["bits", "w_bit"].iter().find_map(|key| said.get(*key)?.as_u64());
        let bits = bits.map_or_else(String::new, |bits| format!(", {bits} bits"));
        return Some(format!("{method}{bits}: config.json has `{key}`"));
    }
    let mlx = config.get("quantization").and_then(Value::as_object)?;
    let bits = mlx.get("bits")?.as_u64()?;
    Some(format!("MLX, {bits} bits: config.json has `quantization`"))
}

/// What the tensors' names and types say, with the first such tensor.
fn by_names(tensors: &[TensorInfo]) -> Option<(&'static str, &str)> {
    for (parts, format) in PARTS {
        let ends = |tensor: &&TensorInfo| tensor.name.rsplit('.').next().is_some_and(|last| parts.contains(&last));
        if let Some(tensor) = tensors.iter().find(ends) {
            return Some((format, &tensor.name));
        }
    }
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.name.contains(".quant_state.")) {
        return Some(("bitsandbytes", &tensor.name));
    }
    let fp8 = |dtype| matches!(dtype, DType::F8E4m3 | DType::F8E5m2 | DType::F8E4m3Fnuz | DType::F8E5m2Fnuz);
    let tensor = tensors.iter().find(|tensor| fp8(tensor.dtype))?;
    Some(("FP8", &tensor.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(config: Value, names: &[&str]) -> Option<String> {
        let info = |name: &&str| TensorInfo { name: (*name).into(), dtype: DType::I32, shape: vec![1] };
        format(&config, &names.iter().map(info).collect::<Vec<_>>())
    }

    #[test]
    fn formats_by_config_and_by_names() {
        let by_config = |config| of(config, &[]).expect("quantized");
        for (method, name) in METHODS {
            let said = by_config(json!({"quantization_config": {"quant_method": method}}));
            assert!(said.starts_with(&format!("{name}: ")), "{said}");
        }
        let gptq = json!({"text_config": {"quantization_config": {"quant_method": "gptq", "bits": 4}}});
        assert!(by_config(gptq).starts_with("GPTQ, 4 bits"));
        assert!(by_config(json!({"quantization_config": {"load_in_4bit": true}})).starts_with("bitsandbytes"));
        assert!(by_config(json!({"quantization_config": {"quant_method": "new"}})).starts_with("new: "));
        assert!(by_config(json!({"quantization": {"group_size": 64, "bits": 4}})).starts_with("MLX, 4 bits"));
        for (part, name) in [
            ("g_idx", "GPTQ"),
            ("qweight", "GPTQ or AWQ"),
            ("SCB", "bitsandbytes"),
            ("weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
            ("weight_scale_inv", "FP8"),
            ("weight_packed", "compressed-tensors"),
            ("W_q", "HQQ"),
            ("codebooks", "AQLM"),
            ("q_invperm", "EXL2"),
            ("trellis", "EXL3"),
        ] {
            let tensor = format!("model.layers.0.mlp.up_proj.{part}");
            let said = of(json!({}), &["model.norm.weight", &tensor]).expect("quantized");
            assert!(said.starts_with(name) && said.ends_with(&tensor), "{said}");
        }
        assert_eq!(of(json!({"quantization_config": null}), &["model.norm.weight", "k_scale"]), None);
    }
}
