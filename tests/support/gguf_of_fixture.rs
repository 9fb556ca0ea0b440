//! The fixtures' checkpoints as a converter writes them into GGUF files: with its names and keys, rows of queries and keys
//! permuted and one added to the gains of norms where it does so, experts stacked.

mod changed;
mod hybrid;

use crate::support::gguf::{Writer, kind};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::Path;

/// A converted fixture.
pub struct Converted {
    /// `general.architecture`.
    pub arch: &'static str,
    pub writer: Writer,
    /// The config of the folder that the file stands for: what GGUF has no key for is as it is in published models.
    pub config: Value,
}

/// What the converter does with a family.
#[derive(Clone, Copy)]
struct Conversion {
    model_type: &'static str,
    arch: &'static str,
    /// Rows of queries and keys are permuted.
    permuted: bool,
    /// One is added to the gains of norms.
    whole_gains: bool,
    /// A part of a head may rotate.
    partial: bool,
}

const PLAIN: Conversion = Conversion { model_type: "", arch: "", permuted: false, whole_gains: false, partial: false };

const CONVERSIONS: [Conversion; 37] = [
    Conversion { model_type: "llama", arch: "llama", permuted: true, ..PLAIN },
    Conversion { model_type: "mistral", arch: "llama", permuted: true, ..PLAIN },
    Conversion { model_type: "mixtral", arch: "llama", permuted: true, ..PLAIN },
    Conversion { model_type: "arcee", arch: "arcee", permuted: true, ..PLAIN },
    Conversion { model_type: "cohere2", arch: "cohere2", ..PLAIN },
    Conversion { model_type: "deepseek_v2", arch: "deepseek2", ..PLAIN },
    Conversion { model_type: "deepseek_v3", arch: "deepseek2", ..PLAIN },
    Conversion { model_type: "glm4_moe_lite", arch: "deepseek2", ..PLAIN },
    Conversion { model_type: "ernie4_5", arch: "ernie4_5", ..PLAIN },
    Conversion { model_type: "exaone4", arch: "exaone4", ..PLAIN },
    Conversion { model_type: "gemma", arch: "gemma", whole_gains: true, ..PLAIN },
    Conversion { model_type: "gemma2", arch: "gemma2", whole_gains: true, ..PLAIN },
    Conversion { model_type: "gemma3_text", arch: "gemma3", whole_gains: true, ..PLAIN },
    Conversion { model_type: "glm", arch: "chatglm", partial: true, ..PLAIN },
    Conversion { model_type: "glm4", arch: "glm4", partial: true, ..PLAIN },
    Conversion { model_type: "glm4_moe", arch: "glm4moe", partial: true, ..PLAIN },
    Conversion { model_type: "gpt_neox", arch: "gptneox", partial: true, ..PLAIN },
    Conversion { model_type: "gpt_oss", arch: "gpt-oss", ..PLAIN },
    Conversion { model_type: "granite", arch: "granite", permuted: true, ..PLAIN },
    Conversion { model_type: "granitemoe", arch: "granitemoe", permuted: true, ..PLAIN },
    Conversion { model_type: "hunyuan_v1_dense", arch: "hunyuan-dense", ..PLAIN },
    Conversion { model_type: "mellum", arch: "mellum", ..PLAIN },
    Conversion { model_type: "ministral3", arch: "mistral3", permuted: true, ..PLAIN },
    Conversion { model_type: "nemotron", arch: "nemotron", whole_gains: true, partial: true, ..PLAIN },
    Conversion { model_type: "olmo2", arch: "olmo2", ..PLAIN },
    Conversion { model_type: "olmo3", arch: "olmo2", ..PLAIN },
    Conversion { model_type: "olmoe", arch: "olmoe", ..PLAIN },
    Conversion { model_type: "phi", arch: "phi2", partial: true, ..PLAIN },
    Conversion { model_type: "phi3", arch: "phi3", partial: true, ..PLAIN },
    Conversion { model_type: "qwen2", arch: "qwen2", ..PLAIN },
    Conversion { model_type: "qwen2_moe", arch: "qwen2moe", ..PLAIN },
    Conversion { model_type: "qwen3", arch: "qwen3", ..PLAIN },
    Conversion { model_type: "qwen3_moe", arch: "qwen3moe", ..PLAIN },
    Conversion { model_type: "seed_oss", arch: "seed_oss", ..PLAIN },
    Conversion { model_type: "smollm3", arch: "smollm3", permuted: true, ..PLAIN },
    Conversion { model_type: "stablelm", arch: "stablelm", partial: true, ..PLAIN },
    Conversion { model_type: "starcoder2", arch: "starcoder2", ..PLAIN },
];

/// A tensor of a checkpoint.
#[derive(Clone)]
struct Stored {
    shape: Vec<usize>,
    kind: u32,
    bytes: Vec<u8>,
}

/// A fixture of a family that GGUF files have; `None` for other families. `fused`: queries, keys and values in one tensor, and
/// experts' gates and ups, as the converter writes them if asked to; keys and values of DeepSeek's heads, as in older files.
pub fn of_fixture(dir: &Path, fused: bool) -> Option<Converted> {
    let read = |name: &str| std::fs::read(dir.join(name)).ok();
    // Some hold what is no JSON.
    let text = String::from_utf8(read("config.json")?).ok()?.replace("Infinity", "null");
    let whole: Value = serde_json::from_str(&text).ok()?;
    if let Some(bytes) = read("model.safetensors")
        && let Some(converted) = hybrid::of_fixture(&whole, &bytes, fused)
    {
        return Some(converted);
    }
    let text = if whole["text_config"].is_object() { &whole["text_config"] } else { &whole };
    let mut of = *CONVERSIONS.iter().find(|of| text["model_type"] == of.model_type)?;
    if text["use_bidirectional_attention"] == true {
        of.arch = "gemma-embedding";
    }
    if text["qk_layernorm"] == true {
        return None;
    }
    let mut config = whole.clone();
    let text = if whole["text_config"].is_object() { &mut config["text_config"] } else { &mut config };
    as_published(text);
    let mut text = text.clone();
    defaults(&mut text);
    let mut files = Vec::new();
    match read("model.safetensors") {
        Some(bytes) => files.push(bytes),
        None => {
            let index: Value = serde_json::from_slice(&read("model.safetensors.index.json")?).unwrap();
            let mut names: Vec<&str> = index["weight_map"].as_object()?.values().filter_map(Value::as_str).collect();
            names.sort_unstable();
            names.dedup();
            files.extend(names.iter().filter_map(|name| read(name)));
        }
    }
    let mut writer = Writer::default();
    metadata(&mut writer, of, &text);
    if of.arch == "deepseek2" {
        changed::latent_sizes(&mut writer, &text, fused);
    }
    let mut tensors = std::collections::BTreeMap::new();
    for file in &files {
        for (name, view) in SafeTensors::deserialize(file).unwrap().iter() {
            let name = name.strip_prefix("language_model.").unwrap_or(name);
            // Embedding models are saved so.
            let bare = ["layers.", "embed_tokens.", "norm."].iter().any(|begin| name.starts_with(begin));
            let name = &if bare { format!("model.{name}") } else { name.to_owned() };
            let (mut kind, mut bytes) = (kind(view.dtype()), view.data().to_vec());
            if of.whole_gains && name.ends_with("norm.weight") {
                assert_eq!(view.dtype(), Dtype::BF16);
                let halves = bytes.as_chunks::<2>().0.iter();
                (kind, bytes) =
                    (0, halves.flat_map(|&b| (half::bf16::from_le_bytes(b).to_f32() + 1.0).to_le_bytes()).collect());
            }
            if ["model.", "lm_head", "gpt_neox.", "embed_out"].iter().any(|begin| name.starts_with(begin)) {
                tensors.insert(name.to_owned(), Stored { shape: view.shape().to_vec(), kind, bytes });
            }
        }
    }
    convert(&mut writer, of, &text, tensors, fused);
    if dir.join("modules.json").is_file() {
        changed::embedding(&mut writer, of.arch, dir);
    }
    Some(Converted { arch: of.arch, writer, config })
}

/// Gives keys that GGUF has no place for the value that published models have.
fn as_published(config: &mut Value) {
    match config["model_type"].as_str().unwrap() {
        "gemma2" | "gemma3_text" => config["query_pre_attn_scalar"] = config["head_dim"].as_u64().unwrap_or(256).into(),
        "deepseek_v2" if config["rope_scaling"].is_object() => {
            config["rope_scaling"]["mscale"] = config["rope_scaling"]["mscale_all_dim"].clone();
        }
        "gpt_oss" => {
            config.as_object_mut().unwrap().remove("swiglu_limit");
        }
        "smollm3" => config["no_rope_layers"] = Value::Null,
        // The converter leaves it out.
        "starcoder2" => config["sliding_window"] = Value::Null,
        _ => {}
    }
}

/// What the text configs inside of Gemma 3's leave out.
fn defaults(config: &mut Value) {
    if config["model_type"] == "gemma3_text" {
        let usual = serde_json::json!({ "max_position_embeddings": 131_072, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6, "sliding_window": 4096 });
        for (key, value) in usual.as_object().unwrap() {
            config.as_object_mut().unwrap().entry(key.as_str()).or_insert(value.clone());
        }
    }
}

fn metadata(writer: &mut Writer, of: Conversion, config: &Value) {
    let key = |name: &str| format!("{}.{name}", of.arch);
    let n = |name: &str| config[name].as_u64();
    let x = |name: &str| config[name].as_f64();
    writer.text("general.architecture", of.arch);
    let (heads, layers) = (n("num_attention_heads").unwrap(), n("num_hidden_layers").unwrap());
    let without_them = config["model_type"] == "deepseek_v3";
    let ahead = n("num_nextn_predict_layers").filter(|_| !without_them).unwrap_or(0);
    let head_dim = n("head_dim").unwrap_or_else(|| n("hidden_size").unwrap() / heads);
    writer.whole(&key("context_length"), n("max_position_embeddings").unwrap());
    writer.whole(&key("embedding_length"), n("hidden_size").unwrap());
    writer.whole(&key("block_count"), layers + ahead);
    writer.whole(&key("feed_forward_length"), n("intermediate_size").unwrap());
    writer.whole(&key("attention.head_count"), heads);
    if of.arch != "deepseek2" {
        writer.whole(&key("attention.head_count_kv"), n("num_key_value_heads").unwrap_or(heads));
    }
    if ahead > 0 {
        writer.whole(&key("nextn_predict_layers"), ahead);
    }
    if config["head_dim"].is_u64() {
        writer.whole(&key("attention.key_length"), head_dim);
        writer.whole(&key("attention.value_length"), head_dim);
    }
    for (name, to) in [
        ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        ("layer_norm_eps", "attention.layer_norm_epsilon"),
        ("norm_epsilon", "attention.layer_norm_epsilon"),
        ("norm_eps", "attention.layer_norm_epsilon"),
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
        ("logit_scale", "logit_scale"),
        ("routed_scaling_factor", "expert_weights_scale"),
    ] {
        x(name).into_iter().for_each(|number| writer.number(&key(to), number));
    }
    if of.partial {
        let share = x("partial_rotary_factor").or(x("rotary_pct")).unwrap();
        writer.whole(&key("rope.dimension_count"), (head_dim as f64 * share) as u64);
    }
    if let Some(beside) = config["use_parallel_residual"].as_bool() {
        writer.flag(&key("use_parallel_residual"), beside);
    }
    rope(writer, of, config, head_dim);
    let windowed = config["use_sliding_window"].as_bool().unwrap_or(true);
    if let Some(window) = n("sliding_window").filter(|_| windowed) {
        writer.whole(&key("attention.sliding_window"), window);
        // The windows of Gemma 2 and Cohere 2 are where they are by default; of other layers alone, the file says it.
        if let Some(types) = config["layer_types"].as_array().filter(|_| of.arch != "gpt-oss") {
            let slides: Vec<i32> = types.iter().map(|kind| i32::from(kind == "sliding_attention")).collect();
            writer.wholes(&key("attention.sliding_window_pattern"), &slides);
        }
    }
    if let Some(count) = n("num_local_experts").or(n("num_experts")).or(n("n_routed_experts")) {
        writer.whole(&key("expert_count"), count);
        writer.whole(&key("expert_used_count"), n("num_experts_per_tok").unwrap());
        for (name, to) in [
            ("moe_intermediate_size", "expert_feed_forward_length"),
            ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
            ("n_shared_experts", "expert_shared_count"),
            ("first_k_dense_replace", "leading_dense_block_count"),
            ("n_group", "expert_group_count"),
            ("topk_group", "expert_group_used_count"),
        ] {
            n(name).into_iter().for_each(|n| writer.whole(&key(to), n));
        }
        if of.arch == "gpt-oss" {
            writer.whole(&key("expert_feed_forward_length"), n("intermediate_size").unwrap());
        }
        if of.arch == "glm4moe" {
            writer.whole(&key("expert_gating_func"), 2);
        }
        // What is false for all models of an architecture has no key.
        if !matches!(of.arch, "olmoe" | "qwen2moe") {
            let renormalised = config["norm_topk_prob"].as_bool().filter(|b| *b || of.arch != "deepseek2");
            renormalised.into_iter().for_each(|b| writer.flag(&key("expert_weights_norm"), b));
        }
    }
}

/// Rotary base and scaling.
fn rope(writer: &mut Writer, of: Conversion, config: &Value, head_dim: u64) {
    let key = |name: &str| format!("{}.rope.{name}", of.arch);
    let new = &config["rope_parameters"];
    let (new, local) = match new["full_attention"].is_object() {
        true => (&new["full_attention"], new["sliding_attention"]["rope_theta"].as_f64()),
        false => (new, config["rope_local_base_freq"].as_f64()),
    };
    let usual = if of.arch.starts_with("gemma") { 1e6 } else { 1e4 };
    let theta = config["rope_theta"].as_f64().or(new["rope_theta"].as_f64()).unwrap_or(usual);
    let scaling = if new.is_object() { new } else { &config["rope_scaling"] };
    let x = |name: &str| scaling[name].as_f64();
    local.into_iter().for_each(|local| writer.number(&key("freq_base_swa"), local));
    let mut base = theta;
    match scaling["rope_type"].as_str().or(scaling["type"].as_str()) {
        None | Some("default") => {}
        Some("llama3") => {
            let factors = llama3_factors(scaling, theta, head_dim);
            let bytes = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
            writer.tensor("rope_freqs.weight", &[factors.len()], 0, bytes);
        }
        Some("longrope") => {
            let original = config["original_max_position_embeddings"].as_u64().unwrap();
            let stretch = config["max_position_embeddings"].as_f64().unwrap() / original as f64;
            let usual = if stretch > 1.0 { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() } else { 1.0 };
            writer.whole(&key("scaling.original_context_length"), original);
            writer.number(&key("scaling.attn_factor"), x("attention_factor").unwrap_or(usual));
            for (name, to) in [("long_factor", "rope_factors_long"), ("short_factor", "rope_factors_short")] {
                let factors: Vec<f64> = serde_json::from_value(scaling[name].clone()).unwrap();
                let bytes = factors.iter().flat_map(|f| (*f as f32).to_le_bytes()).collect();
                writer.tensor(&format!("{to}.weight"), &[factors.len()], 0, bytes);
            }
        }
        Some("dynamic") if x("alpha").is_some() => {
            let dims = head_dim as f64;
            base = theta * x("alpha").unwrap().powf(dims / (dims - 2.0));
            writer.text(&key("scaling.type"), "none");
            writer.number(&key("scaling.factor"), 1.0);
        }
        Some(kind) => {
            writer.text(&key("scaling.type"), kind);
            writer.number(&key("scaling.factor"), x("factor").unwrap());
            let original = scaling["original_max_position_embeddings"].as_u64();
            original.into_iter().for_each(|n| writer.whole(&key("scaling.original_context_length"), n));
            for (name, to) in [
                ("attention_factor", "yarn_attn_factor"),
                ("beta_fast", "yarn_beta_fast"),
                ("beta_slow", "yarn_beta_slow"),
                ("mscale_all_dim", "yarn_log_multiplier"),
            ] {
                let by = if of.arch == "deepseek2" && name == "mscale_all_dim" { 0.1 } else { 1.0 };
                x(name).into_iter().for_each(|number| writer.number(&key(&format!("scaling.{to}")), by * number));
            }
        }
    }
    if let Some(beta) = x("llama_4_scaling_beta") {
        writer.number(&format!("{}.attention.temperature_scale", of.arch), beta);
    }
    writer.number(&key("freq_base"), base);
}

/// Writes the tensors of a checkpoint.
fn convert(
    writer: &mut Writer,
    of: Conversion,
    config: &Value,
    tensors: std::collections::BTreeMap<String, Stored>,
    fused: bool,
) {
    let n = |name: &str| config[name].as_u64().map(|n| n as usize);
    let heads = n("num_attention_heads").unwrap();
    let kv_heads = n("num_key_value_heads").unwrap_or(heads);
    let mut stacks: Vec<(String, Vec<(usize, Stored)>)> = Vec::new();
    let mut all: Vec<(String, Stored)> = Vec::new();
    for (name, mut stored) in tensors.clone() {
        if let Some(made) = changed::tensors(of.arch, &name, &tensors, config, fused) {
            all.extend(made);
        } else if let Some((stack, number)) = expert_of(&name) {
            match stacks.iter_mut().find(|(name, _)| *name == stack) {
                Some((_, members)) => members.push((number, stored)),
                None => stacks.push((stack, vec![(number, stored)])),
            }
        } else if let Some(layer) = name.strip_suffix(".block_sparse_moe.input_linear.weight") {
            let layer = layer.rsplit('.').next().unwrap();
            let half = stored.bytes.len() / stored.shape[0] / 2;
            let shape = vec![stored.shape[0], stored.shape[1] / 2, stored.shape[2]];
            for (at, part) in ["gate", "up"].iter().enumerate() {
                let bytes = stored.bytes.chunks(half).skip(at).step_by(2).flatten().copied().collect();
                let one = Stored { shape: shape.clone(), kind: stored.kind, bytes };
                all.push((format!("blk.{layer}.ffn_{part}_exps.weight"), one));
            }
        } else {
            let to = gguf_name(of.arch, &name).unwrap_or_else(|| panic!("{name}"));
            if of.permuted && (to.contains("attn_q.") || to.contains("attn_k.")) {
                let of = if to.contains("attn_q.") { heads } else { kv_heads };
                stored.bytes = permute(&stored.bytes, stored.shape[0], of);
            }
            // Dimensions of one are left out.
            stored.shape.retain(|&n| n != 1);
            all.push((to, stored));
        }
    }
    for (name, mut members) in stacks {
        members.sort_by_key(|(number, _)| *number);
        let (first, count) = (&members[0].1, members.len());
        let shape = vec![count, first.shape[0], first.shape[1]];
        let (kind, bytes) = (first.kind, members.iter().flat_map(|(_, one)| one.bytes.clone()).collect());
        all.push((name, Stored { shape, kind, bytes }));
    }
    if fused {
        fuse(&mut all);
    }
    for (name, stored) in all {
        writer.tensor(&name, &stored.shape, stored.kind, stored.bytes);
    }
}

/// Takes tensors out of a list by their names.
fn take(all: &mut Vec<(String, Stored)>, name: &str) -> Option<Stored> {
    let at = all.iter().position(|(known, _)| known == name)?;
    Some(all.remove(at).1)
}

/// Puts queries, keys and values of a layer into one tensor, and gates and ups of stacked experts.
fn fuse(all: &mut Vec<(String, Stored)>) {
    for (layer, end) in (0..8).flat_map(|layer| ["weight", "bias"].map(|end| (layer, end))) {
        let names = ["q", "k", "v"].map(|part| format!("blk.{layer}.attn_{part}.{end}"));
        if !names.iter().all(|name| all.iter().any(|(known, _)| known == name)) {
            continue;
        }
        let parts: Vec<Stored> = names.iter().filter_map(|name| take(all, name)).collect();
        if let [q, k, v] = parts.as_slice() {
            let mut shape = q.shape.clone();
            shape[0] += k.shape[0] + v.shape[0];
            let bytes = [&q.bytes[..], &k.bytes, &v.bytes].concat();
            all.push((format!("blk.{layer}.attn_qkv.{end}"), Stored { shape, kind: q.kind, bytes }));
        }
    }
    fuse_experts(all);
}

/// Puts gates and ups of stacked experts into one tensor, and their biases.
fn fuse_experts(all: &mut Vec<(String, Stored)>) {
    for (layer, end) in (0..8).flat_map(|layer| ["weight", "bias"].map(|end| (layer, end))) {
        let name = |part: &str| format!("blk.{layer}.ffn_{part}_exps.{end}");
        if !all.iter().any(|(known, _)| *known == name("gate")) {
            continue;
        }
        let [gate, up] = ["gate", "up"].map(|part| take(all, &name(part)).expect("both are stacked"));
        let each = gate.bytes.len() / gate.shape[0];
        let pairs = gate.bytes.chunks(each).zip(up.bytes.chunks(each));
        let bytes = pairs.flat_map(|(gate, up)| [gate, up].concat()).collect();
        let mut shape = gate.shape.clone();
        shape[1] *= 2;
        all.push((name("gate_up"), Stored { shape, kind: gate.kind, bytes }));
    }
}

/// The divisors of the frequencies that Llama 3's scaling leads to.
fn llama3_factors(scaling: &Value, theta: f64, head_dim: u64) -> Vec<f32> {
    let n = |key: &str| scaling[key].as_f64().unwrap();
    let (factor, low, high, old) =
        (n("factor"), n("low_freq_factor"), n("high_freq_factor"), n("original_max_position_embeddings"));
    let of = |i: u64| {
        let wave = 2.0 * std::f64::consts::PI * theta.powf(2.0 * i as f64 / head_dim as f64);
        if wave < old / high {
            1.0
        } else if wave > old / low {
            factor
        } else {
            let smooth = (old / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..head_dim / 2).map(|i| of(i) as f32).collect()
}

/// Rows of heads in the order of Llama's files: of each head, row `i` of the first half before row `i` of the second.
fn permute(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (row, half) = (bytes.len() / rows, rows / heads / 2);
    let order = (0..heads).flat_map(|h| (0..half).flat_map(move |i| [0, 1].map(|s| (2 * h + s) * half + i)));
    order.flat_map(|from| bytes[from * row..(from + 1) * row].to_vec()).collect()
}

/// The stack a matrix of an expert belongs to, and its number there.
fn expert_of(name: &str) -> Option<(String, usize)> {
    let (before, after) = name.split_once(".experts.")?;
    let (number, part) = after.split_once('.')?;
    let part = match part.split('.').next()? {
        "gate_proj" | "w1" => "gate",
        "up_proj" | "w3" => "up",
        _ => "down",
    };
    let layer = before.split('.').nth(2)?;
    Some((format!("blk.{layer}.ffn_{part}_exps.weight"), number.parse().ok()?))
}

fn gguf_name(arch: &str, name: &str) -> Option<String> {
    let (stem, end) = name.rsplit_once('.')?;
    let whole = [
        ("model.embed_tokens", "token_embd"),
        ("gpt_neox.embed_in", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.final_layernorm", "output_norm"),
        ("gpt_neox.final_layer_norm", "output_norm"),
        ("lm_head", "output"),
        ("embed_out", "output"),
    ];
    if let Some((_, to)) = whole.iter().find(|(from, _)| *from == stem) {
        return Some(format!("{to}.{end}"));
    }
    let in_layer = stem.strip_prefix("model.layers.").or(stem.strip_prefix("gpt_neox.layers."));
    let (layer, part) = in_layer?.split_once('.')?;
    let after_attention = matches!(
        arch,
        "gpt-oss" | "gemma-embedding" | "gemma2" | "gemma3" | "olmo2" | "exaone4" | "seed_oss" | "glm4moe"
    );
    let part = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if after_attention => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_self_attn_layernorm" => "post_attention_norm",
        "post_feedforward_layernorm" | "post_mlp_layernorm" => "post_ffw_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" | "self_attn.dense" | "attention.dense" => "attn_output",
        "self_attn.q_a_proj" => "attn_q_a",
        "self_attn.q_a_layernorm" => "attn_q_a_norm",
        "self_attn.q_b_proj" => "attn_q_b",
        "self_attn.kv_a_proj_with_mqa" => "attn_kv_a_mqa",
        "self_attn.kv_a_layernorm" => "attn_kv_a_norm",
        "self_attn.kv_b_proj" => "attn_kv_b",
        "self_attn.q_norm" | "self_attn.query_layernorm" => "attn_q_norm",
        "self_attn.k_norm" | "self_attn.key_layernorm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" | "mlp.c_fc" | "mlp.fc1" | "mlp.dense_h_to_4h" => "ffn_up",
        "mlp.down_proj" | "mlp.c_proj" | "mlp.fc2" | "mlp.dense_4h_to_h" => "ffn_down",
        "mlp.gate" if end == "e_score_correction_bias" => return Some(format!("blk.{layer}.exp_probs_b.bias")),
        "mlp.gate" | "mlp.router" | "block_sparse_moe.gate" | "block_sparse_moe.router.layer" => "ffn_gate_inp",
        "block_sparse_moe.output_linear" => "ffn_down_exps",
        "mlp.shared_experts.gate_proj" | "mlp.shared_expert.gate_proj" => "ffn_gate_shexp",
        "mlp.shared_experts.up_proj" | "mlp.shared_expert.up_proj" => "ffn_up_shexp",
        "mlp.shared_experts.down_proj" | "mlp.shared_expert.down_proj" => "ffn_down_shexp",
        "mlp.shared_expert_gate" => "ffn_gate_inp_shexp",
        "eh_proj" | "enorm" | "hnorm" => return Some(format!("blk.{layer}.nextn.{part}.{end}")),
        "embed_tokens" | "shared_head.head" | "shared_head.norm" => {
            return Some(format!("blk.{layer}.nextn.{}.{end}", part.replace("head.", "head_")));
        }
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.{end}"))
}
