//! Families whose layers are not all alike, as a converter writes them: keys of their own, decays as they count, heads of values in
//! another order, factors multiplied into weights.

use super::{Converted, Stored};
use crate::support::gguf::{Writer, kind};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;

/// `model_type` and `general.architecture`.
const CONVERSIONS: [(&str, &str); 9] = [
    ("falcon_h1", "falcon-h1"),
    ("gemma4_text", "gemma4"),
    ("granitemoehybrid", "granitehybrid"),
    ("lfm2", "lfm2"),
    ("lfm2_moe", "lfm2moe"),
    ("nemotron_h", "nemotron_h"),
    ("qwen3_5_text", "qwen35"),
    ("qwen3_5_moe_text", "qwen35moe"),
    ("qwen3_next", "qwen3next"),
];

/// A converted fixture; `None` for other families, and for what no file has.
pub fn of_fixture(whole: &Value, weights: &[u8], fused: bool) -> Option<Converted> {
    let mut config = whole.clone();
    let mut text = if whole["text_config"].is_object() { whole["text_config"].clone() } else { whole.clone() };
    let model_type = text["model_type"].as_str()?;
    let (_, mut arch) = *CONVERSIONS.iter().find(|(known, _)| *known == model_type)?;
    if text["n_routed_experts"].is_u64() {
        arch = "nemotron_h_moe";
    }
    // Files say of no state space that positions rotate beside it.
    if text["position_embedding_type"] == "rope" {
        text["position_embedding_type"] = "nope".into();
        config["position_embedding_type"] = "nope".into();
    }
    let mut writer = Writer::default();
    let mut made = Conversion { arch, config: &text, all: Vec::new(), stacks: BTreeMap::new(), fused };
    let tensors = SafeTensors::deserialize(weights).unwrap();
    let mut names: Vec<&str> = tensors.names();
    names.sort_unstable();
    for name in names {
        let view = tensors.tensor(name).unwrap();
        let stored = Stored { shape: view.shape().to_vec(), kind: kind(view.dtype()), bytes: view.data().to_vec() };
        made.tensor(&name.replace("model.language_model.", "model."), stored);
    }
    made.stack();
    made.metadata(&mut writer);
    for (name, stored) in made.all {
        writer.tensor(&name, &stored.shape, stored.kind, stored.bytes);
    }
    Some(Converted { arch, writer, config })
}

struct Conversion<'a> {
    arch: &'static str,
    config: &'a Value,
    all: Vec<(String, Stored)>,
    /// Experts of a layer and part, by their numbers.
    stacks: BTreeMap<(String, String), BTreeMap<usize, Stored>>,
    fused: bool,
}

fn floats(stored: &Stored) -> Vec<f32> {
    match stored.kind {
        0 => stored.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        _ => stored.bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
    }
}

fn of_floats(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Stored {
    let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
    Stored { shape: shape.to_vec(), kind: 0, bytes }
}

/// Rows in another order.
fn rows(stored: &Stored, order: &[usize]) -> Stored {
    let row = stored.bytes.len() / stored.shape[0];
    let bytes = order.iter().flat_map(|&r| stored.bytes[r * row..(r + 1) * row].to_vec()).collect();
    let mut shape = stored.shape.clone();
    shape[0] = order.len();
    Stored { shape, kind: stored.kind, bytes }
}

impl Conversion<'_> {
    fn n(&self, key: &str) -> Option<usize> {
        self.config[key].as_u64().map(|n| n as usize)
    }

    fn x(&self, key: &str) -> Option<f32> {
        self.config[key].as_f64().map(|x| x as f32)
    }

    /// Elements of heads of values, of which those with one key head follow each other, in the order that files have.
    fn tiled(&self, head: usize) -> Vec<usize> {
        let (keys, values) = (self.n("linear_num_key_heads").unwrap(), self.n("linear_num_value_heads").unwrap());
        if !self.arch.starts_with("qwen35") {
            return (0..values * head).collect();
        }
        let each = values / keys;
        let heads = (0..each).flat_map(|j| (0..keys).map(move |key| key * each + j));
        heads.flat_map(|h| h * head..(h + 1) * head).collect()
    }

    fn put(&mut self, name: String, stored: Stored) {
        self.all.push((name, stored));
    }

    fn tensor(&mut self, name: &str, stored: Stored) {
        if name.starts_with("mtp.") || name.contains("visual") || name.contains("vision") {
            return;
        }
        let whole = [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("backbone.embeddings.weight", "token_embd.weight"),
            ("model.embedding_norm.weight", "token_embd_norm.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("model.final_layernorm.weight", "output_norm.weight"),
            ("backbone.norm_f.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight"),
            ("model.per_layer_model_projection.weight", "per_layer_model_proj.weight"),
            ("model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight"),
        ];
        let stored = self.changed(name, stored);
        if let Some((_, to)) = whole.iter().find(|(from, _)| *from == name) {
            return self.put((*to).to_owned(), stored);
        }
        let rest = name.split_once("layers.").unwrap_or_else(|| panic!("{name}")).1;
        let (layer, part) = rest.split_once('.').unwrap();
        self.in_layer(layer, part, stored);
    }

    /// What is baked into weights.
    fn changed(&self, name: &str, stored: Stored) -> Stored {
        let times =
            |stored: Stored, factor: f32| of_floats(&stored.shape, floats(&stored).into_iter().map(|v| v * factor));
        if name.ends_with("A_log") {
            return of_floats(&stored.shape, floats(&stored).into_iter().map(|v| -v.exp()));
        }
        if self.arch.starts_with("qwen3") && name.ends_with("norm.weight") && !name.contains("linear_attn") {
            return of_floats(&stored.shape, floats(&stored).into_iter().map(|v| v + 1.0));
        }
        if self.arch != "falcon-h1" {
            return stored;
        }
        let x = |key: &str| self.x(key).unwrap();
        let list = |key: &str| -> Vec<f32> { serde_json::from_value(self.config[key].clone()).unwrap() };
        let ends = |end: &str| name.ends_with(&format!("{end}.weight"));
        let factor = match name {
            _ if ends("down_proj") => list("mlp_multipliers")[1],
            _ if ends("gate_proj") => list("mlp_multipliers")[0],
            _ if ends("k_proj") => x("key_multiplier") * x("attention_in_multiplier"),
            _ if ends("q_proj") || ends("v_proj") => x("attention_in_multiplier"),
            _ if ends("o_proj") => x("attention_out_multiplier"),
            _ if ends("mamba.out_proj") => x("ssm_out_multiplier"),
            _ if ends("lm_head") => x("lm_head_multiplier"),
            _ if ends("embed_tokens") => x("embedding_multiplier"),
            _ if ends("mamba.in_proj") => {
                let (inner, state) = (self.n("mamba_d_ssm").unwrap(), self.n("mamba_d_state").unwrap());
                let (group, heads) = (state * self.n("mamba_n_groups").unwrap(), self.n("mamba_n_heads").unwrap());
                let parts = [inner, inner, group, group, heads].into_iter().zip(list("ssm_multipliers"));
                let of_row =
                    parts.flat_map(|(rows, factor)| std::iter::repeat_n(factor * x("ssm_in_multiplier"), rows));
                let width = stored.shape[1];
                let factors = of_row.flat_map(|factor| std::iter::repeat_n(factor, width));
                return of_floats(&stored.shape, floats(&stored).into_iter().zip(factors).map(|(v, f)| v * f));
            }
            _ => return stored,
        };
        times(stored, factor)
    }

    fn in_layer(&mut self, layer: &str, part: &str, mut stored: Stored) {
        let (stem, end) = part.rsplit_once('.').unwrap_or((part, ""));
        if let Some((_, rest)) = part.split_once("experts.")
            && rest.starts_with(|c: char| c.is_ascii_digit())
        {
            let (number, matrix) = rest.split_once('.').unwrap();
            let matrix = match matrix.split('.').next().unwrap() {
                "gate_proj" | "w1" => "gate",
                "up_proj" | "w3" => "up",
                _ => "down",
            };
            let of = self.stacks.entry((layer.to_owned(), matrix.to_owned())).or_default();
            of.insert(number.parse().unwrap(), stored);
            return;
        }
        let named = |name: &str| format!("blk.{layer}.{name}");
        let (d, heads) = (self.n("linear_value_head_dim").unwrap_or(1), self.n("linear_num_value_heads"));
        let mixer = stem.rsplit_once('.').map_or(stem, |(_, last)| last);
        match (stem, mixer) {
            ("linear_attn.in_proj_qkv", _) => {
                let first = 2 * self.n("linear_num_key_heads").unwrap() * self.n("linear_key_head_dim").unwrap();
                let order: Vec<usize> = (0..first).chain(self.tiled(d).into_iter().map(|r| first + r)).collect();
                return self.put(named("attn_qkv.weight"), rows(&stored, &order));
            }
            ("linear_attn.in_proj_z", _) => return self.put(named("attn_gate.weight"), rows(&stored, &self.tiled(d))),
            ("linear_attn.in_proj_a", _) => return self.put(named("ssm_alpha.weight"), rows(&stored, &self.tiled(1))),
            ("linear_attn.in_proj_b", _) => return self.put(named("ssm_beta.weight"), rows(&stored, &self.tiled(1))),
            ("linear_attn.in_proj_ba", _) => return self.put(named("ssm_ba.weight"), stored),
            ("linear_attn.in_proj_qkvz", _) => return self.apart(layer, &stored),
            ("linear_attn.conv1d", _) => {
                let first = 2 * self.n("linear_num_key_heads").unwrap() * self.n("linear_key_head_dim").unwrap();
                let order: Vec<usize> = (0..first).chain(self.tiled(d).into_iter().map(|r| first + r)).collect();
                stored.shape.retain(|&n| n != 1);
                return self.put(named("ssm_conv1d.weight"), rows(&stored, &order));
            }
            ("linear_attn.out_proj", _) => {
                let order = self.tiled(d);
                let (values, width) = (floats(&stored), stored.shape[1]);
                let made = values.chunks(width).flat_map(|row| order.iter().map(|&c| row[c]).collect::<Vec<_>>());
                return self.put(named("ssm_out.weight"), of_floats(&stored.shape, made));
            }
            ("layer_scalar", _) => return self.put(named("layer_output_scale.weight"), stored),
            ("router", _) if end == "scale" => return self.put(named("ffn_gate_inp.scale"), stored),
            ("router", _) if end == "per_expert_scale" => return self.put(named("ffn_down_exps.scale"), stored),
            ("experts", _) if end == "gate_up_proj" => return self.put(named("ffn_gate_up_exps.weight"), stored),
            ("experts", _) if end == "down_proj" => return self.put(named("ffn_down_exps.weight"), stored),
            ("mlp.experts", _) if end == "gate_up_proj" => return self.put(named("ffn_gate_up_exps.weight"), stored),
            ("mlp.experts", _) if end == "down_proj" => return self.put(named("ffn_down_exps.weight"), stored),
            ("block_sparse_moe.input_linear" | "shared_mlp.input_linear", _) => {
                let shared = if self.n("num_local_experts") == Some(0) { "" } else { "_shexp" };
                let shared = if stem.starts_with("block") { "_exps" } else { shared };
                let at = stored.shape.len() - 2;
                let (mut shape, each) =
                    (stored.shape.clone(), stored.bytes.len() / stored.shape[..at].iter().product::<usize>());
                shape[at] /= 2;
                for (index, part) in ["gate", "up"].into_iter().enumerate() {
                    let bytes = stored.bytes.chunks(each / 2).skip(index).step_by(2).flatten().copied().collect();
                    let half = Stored { shape: shape.clone(), kind: stored.kind, bytes };
                    self.put(named(&format!("ffn_{part}{shared}.weight")), half);
                }
                return;
            }
            ("block_sparse_moe.output_linear", _) => return self.put(named("ffn_down_exps.weight"), stored),
            ("shared_mlp.output_linear", _) => {
                let shared = if self.n("num_local_experts") == Some(0) { "" } else { "_shexp" };
                return self.put(named(&format!("ffn_down{shared}.weight")), stored);
            }
            _ => {}
        }
        let order = || heads.map(|_| self.tiled(1));
        match part.rsplit('.').next().unwrap() {
            "A_log" => {
                if let Some(order) = order().filter(|_| part.starts_with("linear")) {
                    stored = rows(&stored, &order);
                } else {
                    stored.shape.push(1);
                }
                return self.put(named("ssm_a"), stored);
            }
            "D" => {
                stored.shape.push(1);
                return self.put(named("ssm_d"), stored);
            }
            "dt_bias" => {
                if let Some(order) = order().filter(|_| part.starts_with("linear")) {
                    stored = rows(&stored, &order);
                }
                return self.put(named("ssm_dt.bias"), stored);
            }
            "expert_bias" | "e_score_correction_bias" => return self.put(named("exp_probs_b.bias"), stored),
            _ => {}
        }
        let to = self.name(stem, mixer);
        if to == "ssm_norm" && !stem.starts_with("linear") {
            let groups = self.n("mamba_n_groups").or(self.n("n_groups")).unwrap();
            stored.shape = vec![groups, stored.shape[0] / groups];
        }
        // Dimensions of one are left out.
        if !to.ends_with("latent_down") {
            stored.shape.retain(|&n| n != 1);
        }
        self.put(named(&format!("{to}.{end}")), stored);
    }

    /// The name of a tensor that is as it was.
    fn name(&self, stem: &str, mixer: &str) -> &'static str {
        let gemma = self.arch == "gemma4";
        match stem {
            "input_layernorm" | "operator_norm" | "norm" => "attn_norm",
            "post_attention_layernorm" if gemma || self.arch.starts_with("qwen") => "post_attention_norm",
            "post_attention_layernorm" | "pre_ff_layernorm" | "ffn_norm" | "pre_feedforward_layernorm" => "ffn_norm",
            "post_feedforward_layernorm" => "post_ffw_norm",
            "post_feedforward_layernorm_1" => "post_ffw_norm_1",
            "post_feedforward_layernorm_2" => "post_ffw_norm_2",
            "pre_feedforward_layernorm_2" => "pre_ffw_norm_2",
            "per_layer_input_gate" => "inp_gate",
            "per_layer_projection" => "proj",
            "post_per_layer_input_norm" => "post_norm",
            "router.proj" | "mlp.gate" | "feed_forward.gate" | "mixer.gate" | "block_sparse_moe.router.layer" => {
                "ffn_gate_inp"
            }
            "mlp.shared_expert_gate" => "ffn_gate_inp_shexp",
            "mlp.shared_expert.gate_proj" => "ffn_gate_shexp",
            "mlp.shared_expert.up_proj" | "mixer.shared_experts.up_proj" => "ffn_up_shexp",
            "mlp.shared_expert.down_proj" | "mixer.shared_experts.down_proj" => "ffn_down_shexp",
            "mixer.fc1_latent_proj" => "ffn_latent_down",
            "mixer.fc2_latent_proj" => "ffn_latent_up",
            "conv.conv" => "shortconv.conv",
            "conv.in_proj" => "shortconv.in_proj",
            "conv.out_proj" => "shortconv.out_proj",
            "linear_attn.norm" | "mamba.norm" | "mixer.norm" => "ssm_norm",
            _ => match mixer {
                "q_proj" => "attn_q",
                "k_proj" => "attn_k",
                "v_proj" => "attn_v",
                "o_proj" => "attn_output",
                "out_proj" if stem.starts_with("self_attn") => "attn_output",
                "q_norm" | "q_layernorm" => "attn_q_norm",
                "k_norm" | "k_layernorm" => "attn_k_norm",
                "gate_proj" | "w1" => "ffn_gate",
                "up_proj" | "w3" => "ffn_up",
                "down_proj" | "w2" => "ffn_down",
                "in_proj" => "ssm_in",
                "out_proj" => "ssm_out",
                "conv1d" => "ssm_conv1d",
                other => panic!("{stem} {other}"),
            },
        }
    }

    /// Queries, keys, values and gates that were grouped by key heads.
    fn apart(&mut self, layer: &str, stored: &Stored) {
        let n = |key: &str| self.n(key).unwrap();
        let (keys, k) = (n("linear_num_key_heads"), n("linear_key_head_dim"));
        let v = n("linear_num_value_heads") / keys * n("linear_value_head_dim");
        let each = 2 * k + 2 * v;
        let of =
            |first: usize, count: usize| (0..keys).flat_map(move |h| (0..count).map(move |i| h * each + first + i));
        let qkv: Vec<usize> = of(0, k).chain(of(k, k)).chain(of(2 * k, v)).collect();
        let gates: Vec<usize> = of(2 * k + v, v).collect();
        let (qkv, gates) = (rows(stored, &qkv), rows(stored, &gates));
        self.put(format!("blk.{layer}.attn_qkv.weight"), qkv);
        self.put(format!("blk.{layer}.attn_gate.weight"), gates);
    }

    fn stack(&mut self) {
        for ((layer, part), members) in std::mem::take(&mut self.stacks) {
            let first = &members[&0];
            let (shape, kind) = (vec![members.len(), first.shape[0], first.shape[1]], first.kind);
            let bytes = members.into_values().flat_map(|one| one.bytes).collect();
            self.put(format!("blk.{layer}.ffn_{part}_exps.weight"), Stored { shape, kind, bytes });
        }
        if self.fused {
            super::fuse_experts(&mut self.all);
        }
    }

    fn has(&self, layer: usize, part: &str) -> bool {
        self.all.iter().any(|(name, _)| *name == format!("blk.{layer}.{part}"))
    }

    fn metadata(&self, writer: &mut Writer) {
        let key = |name: &str| format!("{}.{name}", self.arch);
        let layers = self.n("num_hidden_layers").unwrap();
        let heads = self.n("num_attention_heads").unwrap();
        writer.text("general.architecture", self.arch);
        for (name, to) in [
            ("max_position_embeddings", "context_length"),
            ("hidden_size", "embedding_length"),
            ("num_hidden_layers", "block_count"),
            ("num_attention_heads", "attention.head_count"),
            ("sliding_window", "attention.sliding_window"),
            ("hidden_size_per_layer_input", "embedding_length_per_layer_input"),
            ("num_kv_shared_layers", "attention.shared_kv_layers"),
            ("conv_L_cache", "shortconv.l_cache"),
            ("num_dense_layers", "leading_dense_block_count"),
            ("linear_conv_kernel_dim", "ssm.conv_kernel"),
            ("linear_key_head_dim", "ssm.state_size"),
            ("linear_num_key_heads", "ssm.group_count"),
            ("linear_num_value_heads", "ssm.time_step_rank"),
            ("mamba_d_conv", "ssm.conv_kernel"),
            ("mamba_d_state", "ssm.state_size"),
            ("mamba_n_groups", "ssm.group_count"),
            ("mamba_n_heads", "ssm.time_step_rank"),
            ("conv_kernel", "ssm.conv_kernel"),
            ("ssm_state_size", "ssm.state_size"),
            ("n_groups", "ssm.group_count"),
            ("mamba_num_heads", "ssm.time_step_rank"),
            ("moe_intermediate_size", "expert_feed_forward_length"),
            ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
            ("moe_shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
            ("moe_latent_size", "moe_latent_size"),
            ("n_group", "expert_group_count"),
            ("topk_group", "expert_group_used_count"),
        ] {
            self.n(name).into_iter().for_each(|n| writer.whole(&key(to), n as u64));
        }
        let eps =
            ["norm_eps", "layer_norm_epsilon", "rms_norm_eps"].iter().find_map(|name| self.config[*name].as_f64());
        writer.number(&key("attention.layer_norm_rms_epsilon"), eps.unwrap());
        for (name, to) in [
            ("attention_multiplier", "attention.scale"),
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("logits_scaling", "logit_scale"),
            ("routed_scaling_factor", "expert_weights_scale"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ] {
            if self.arch != "falcon-h1" {
                self.config[name].as_f64().into_iter().for_each(|number| writer.number(&key(to), number));
            }
        }
        self.inner(writer);
        self.attention(writer, layers, heads);
        let count = ["num_local_experts", "num_experts", "n_routed_experts"].iter().find_map(|name| self.n(name));
        if let Some(count) = count.filter(|count| *count > 0) {
            writer.whole(&key("expert_count"), count as u64);
            let chosen = self.n("num_experts_per_tok").or(self.n("top_k_experts")).unwrap();
            writer.whole(&key("expert_used_count"), chosen as u64);
            let sigmoid = self.arch.starts_with("lfm2") || self.arch.starts_with("nemotron");
            writer.whole(&key("expert_gating_func"), if sigmoid { 2 } else { 1 });
            self.config["norm_topk_prob"]
                .as_bool()
                .into_iter()
                .for_each(|b| writer.flag(&key("expert_weights_norm"), b));
            if let Some(width) = self.n("shared_intermediate_size") {
                writer.whole(&key("expert_shared_feed_forward_length"), width as u64);
            }
        }
        self.widths(writer, layers);
    }

    /// The width of state spaces.
    fn inner(&self, writer: &mut Writer) {
        let of = |heads: &str, dim: &str| Some(self.n(heads)? * self.n(dim)?);
        let inner = of("linear_num_value_heads", "linear_value_head_dim")
            .or(self.n("mamba_d_ssm"))
            .or(of("mamba_n_heads", "mamba_d_head"))
            .or(of("mamba_num_heads", "mamba_head_dim"));
        inner.into_iter().for_each(|n| writer.whole(&format!("{}.ssm.inner_size", self.arch), n as u64));
    }

    fn attention(&self, writer: &mut Writer, layers: usize, heads: usize) {
        let key = |name: &str| format!("{}.{name}", self.arch);
        let head = self.n("head_dim").unwrap_or_else(|| self.n("hidden_size").unwrap() / heads);
        let kv = self.n("num_key_value_heads").unwrap_or(heads);
        let gemma = self.arch == "gemma4";
        let own = &self.config["per_layer_config"]["2"];
        let full = self.n("global_head_dim").or(own["head_dim"].as_u64().map(|n| n as usize)).unwrap_or(head);
        let global = self.n("num_global_key_value_heads").or(own["num_key_value_heads"].as_u64().map(|n| n as usize));
        let slides: Vec<bool> = match self.config["layer_types"].as_array() {
            Some(types) => types.iter().map(|kind| kind == "sliding_attention").collect(),
            None => vec![false; layers],
        };
        let of_layer = |layer: usize| match (gemma, self.has(layer, "attn_q.weight")) {
            (true, _) if !slides[layer] => global.unwrap_or(kv) as i32,
            (false, false) => 0,
            _ => kv as i32,
        };
        match self.arch.starts_with("qwen") || self.arch == "falcon-h1" {
            true => writer.whole(&key("attention.head_count_kv"), kv as u64),
            false => writer.wholes(&key("attention.head_count_kv"), &(0..layers).map(of_layer).collect::<Vec<_>>()),
        }
        writer.whole(&key("attention.key_length"), if gemma { full } else { head } as u64);
        writer.whole(&key("attention.value_length"), if gemma { full } else { head } as u64);
        let new = &self.config["rope_parameters"];
        let full_rope = if new["full_attention"].is_object() { &new["full_attention"] } else { new };
        let theta = self.config["rope_theta"].as_f64().or(full_rope["rope_theta"].as_f64()).unwrap_or(1e4);
        writer.number(&key("rope.freq_base"), theta);
        if self.arch.starts_with("qwen") {
            let share = self.x("partial_rotary_factor").unwrap_or(0.25);
            writer.whole(&key("rope.dimension_count"), (head as f32 * share) as u64);
        }
        if self.arch == "granitehybrid" {
            writer.flag(&key("rope.scaling.finetuned"), false);
        }
        if gemma {
            writer.whole(&key("attention.key_length_swa"), head as u64);
            writer.whole(&key("attention.value_length_swa"), head as u64);
            writer.whole(&key("rope.dimension_count"), full as u64);
            writer.number(&key("rope.freq_base_swa"), 1e4);
            let slides: Vec<i32> = slides.iter().map(|s| i32::from(*s)).collect();
            writer.wholes(&key("attention.sliding_window_pattern"), &slides);
            let factors = (0..full / 2).map(|i| if i < full / 8 { 1.0 } else { 1e30 });
            let Stored { shape, kind, bytes } = of_floats(&[full / 2], factors);
            writer.tensor("rope_freqs.weight", &shape, kind, bytes);
        }
    }

    /// Widths of networks, of each layer where they differ.
    fn widths(&self, writer: &mut Writer, layers: usize) {
        let key = format!("{}.feed_forward_length", self.arch);
        let width = match self.arch {
            "lfm2" => {
                let (_, down) = self.all.iter().find(|(name, _)| name == "blk.0.ffn_down.weight").unwrap();
                down.shape[1]
            }
            "granitehybrid" if self.n("num_local_experts") == Some(0) => self.n("shared_intermediate_size").unwrap(),
            _ => self.n("intermediate_size").unwrap(),
        };
        let of_layer = |layer: usize| match self.arch {
            "gemma4" if self.config["use_double_wide_mlp"] == true => {
                let shares = layer + self.n("num_kv_shared_layers").unwrap_or(0) >= layers;
                if shares { 2 * width } else { width }
            }
            "nemotron_h" if !self.has(layer, "ffn_up.weight") => 0,
            _ => width,
        };
        match matches!(self.arch, "gemma4" | "nemotron_h") {
            true => writer.wholes(&key, &(0..layers).map(|l| of_layer(l) as i32).collect::<Vec<_>>()),
            false => writer.whole(&key, width as u64),
        }
    }
}
