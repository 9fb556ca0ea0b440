//! The architectures whose layers are not all alike: those that keep states, and Gemma 4. What a layer is shows in which tensors
//! it has.

use super::architectures::{
    Architecture, Experts, GRANITE_EXPERTS, GRANITE_NUMBERS, LocalBase, PLAIN, QWEN_EXPERTS, SANDWICH, Windows,
};
use super::config::Reading;
use crate::error::Result;
use serde_json::{Value, json};

/// The gated delta rule of Qwen3.5 and Qwen3-Next.
const LINEAR: [(&str, &str); 10] = [
    ("post_attention_norm", "post_attention_layernorm"),
    ("attn_qkv", "linear_attn.in_proj_qkv"),
    ("attn_gate", "linear_attn.in_proj_z"),
    ("ssm_alpha", "linear_attn.in_proj_a"),
    ("ssm_beta", "linear_attn.in_proj_b"),
    ("ssm_ba", "linear_attn.in_proj_ba"),
    ("ssm_conv1d", "linear_attn.conv1d"),
    ("ssm_norm", "linear_attn.norm"),
    ("ssm_out", "linear_attn.out_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
];
const LINEAR_MOE: [(&str, &str); 13] = {
    let [a, b, c, d, e, f, g, h, i, j] = LINEAR;
    let shared = [
        ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
        ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
        ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    ];
    [a, b, c, d, e, f, g, h, i, j, shared[0], shared[1], shared[2]]
};
const LINEAR_WHOLE: [(&str, &str); 2] = [("ssm_a", "linear_attn.A_log"), ("ssm_dt.bias", "linear_attn.dt_bias")];

/// State spaces, named as in Bamba.
const MAMBA: [(&str, &str); 4] = [
    ("ssm_in", "mamba.in_proj"),
    ("ssm_conv1d", "mamba.conv1d"),
    ("ssm_norm", "mamba.norm"),
    ("ssm_out", "mamba.out_proj"),
];
const MAMBA_WHOLE: [(&str, &str); 3] =
    [("ssm_a", "mamba.A_log"), ("ssm_d", "mamba.D"), ("ssm_dt.bias", "mamba.dt_bias")];

/// LFM2.
const SHORT_CONV: [(&str, &str); 11] = [
    ("attn_norm", "operator_norm"),
    ("ffn_norm", "ffn_norm"),
    ("shortconv.in_proj", "conv.in_proj"),
    ("shortconv.conv", "conv.conv"),
    ("shortconv.out_proj", "conv.out_proj"),
    ("attn_output", "self_attn.out_proj"),
    ("attn_q_norm", "self_attn.q_layernorm"),
    ("attn_k_norm", "self_attn.k_layernorm"),
    ("ffn_gate", "feed_forward.w1"),
    ("ffn_up", "feed_forward.w3"),
    ("ffn_down", "feed_forward.w2"),
];
const SHORT_CONV_OUTSIDE: [(&str, &str); 2] =
    [("token_embd_norm", "model.embedding_norm"), ("output_norm", "model.embedding_norm")];

/// Nemotron-H.
const MIXER: [(&str, &str); 14] = [
    ("attn_norm", "norm"),
    ("ssm_in", "mixer.in_proj"),
    ("ssm_conv1d", "mixer.conv1d"),
    ("ssm_norm", "mixer.norm"),
    ("ssm_out", "mixer.out_proj"),
    ("attn_q", "mixer.q_proj"),
    ("attn_k", "mixer.k_proj"),
    ("attn_v", "mixer.v_proj"),
    ("attn_output", "mixer.o_proj"),
    ("ffn_up", "mixer.up_proj"),
    ("ffn_down", "mixer.down_proj"),
    ("ffn_up_shexp", "mixer.shared_experts.up_proj"),
    ("ffn_down_shexp", "mixer.shared_experts.down_proj"),
    ("ffn_latent_down", "mixer.fc1_latent_proj"),
];
const MIXER_MOE: [(&str, &str); 15] = {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = MIXER;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, ("ffn_latent_up", "mixer.fc2_latent_proj")]
};
const MIXER_WHOLE: [(&str, &str); 4] = [
    ("ssm_a", "mixer.A_log"),
    ("ssm_d", "mixer.D"),
    ("ssm_dt.bias", "mixer.dt_bias"),
    ("exp_probs_b.bias", "mixer.gate.e_score_correction_bias"),
];
const MIXER_OUTSIDE: [(&str, &str); 2] = [("token_embd", "backbone.embeddings"), ("output_norm", "backbone.norm_f")];

const GEMMA4: [(&str, &str); 9] = [
    SANDWICH[0],
    SANDWICH[1],
    SANDWICH[2],
    ("post_ffw_norm_1", "post_feedforward_layernorm_1"),
    ("pre_ffw_norm_2", "pre_feedforward_layernorm_2"),
    ("post_ffw_norm_2", "post_feedforward_layernorm_2"),
    ("inp_gate", "per_layer_input_gate"),
    ("proj", "per_layer_projection"),
    ("post_norm", "post_per_layer_input_norm"),
];

/// Those architectures.
pub(super) static HYBRIDS: [Architecture; 10] = [
    Architecture {
        name: "falcon-h1",
        model_type: "falcon_h1",
        names: &[
            MAMBA[0],
            MAMBA[1],
            MAMBA[2],
            MAMBA[3],
            ("ffn_norm", "pre_ff_layernorm"),
            ("ffn_gate", "feed_forward.gate_proj"),
            ("ffn_up", "feed_forward.up_proj"),
            ("ffn_down", "feed_forward.down_proj"),
        ],
        whole_names: &MAMBA_WHOLE,
        outside: &[("output_norm", "model.final_layernorm")],
        // Its factors are in its weights.
        more: |reading| {
            mamba(reading)?;
            reading.set_size("mamba_d_ssm", "ssm.inner_size")?;
            let normed = reading.has("blk.0.ssm_norm.weight");
            reading.set("mamba_rms_norm", normed);
            reading.set("mamba_norm_before_gate", false);
            Ok(())
        },
        ..PLAIN
    },
    Architecture {
        name: "gemma4",
        model_type: "gemma4_text",
        experts: Some(Experts {
            model_type: "gemma4_text",
            router: "router.proj",
            parts: ["experts.{e}.gate_proj", "experts.{e}.up_proj", "experts.{e}.down_proj"],
            ..QWEN_EXPERTS
        }),
        windows: Windows::AllBut(6),
        local_base: Some(LocalBase::Usual),
        names: &GEMMA4,
        whole_names: &[
            ("layer_output_scale.weight", "layer_scalar"),
            ("ffn_gate_inp.scale", "router.scale"),
            ("ffn_down_exps.scale", "router.per_expert_scale"),
        ],
        outside: &[
            ("per_layer_token_embd", "model.embed_tokens_per_layer"),
            ("per_layer_model_proj", "model.per_layer_model_projection"),
            ("per_layer_proj_norm", "model.per_layer_projection_norm"),
        ],
        numbers: &[
            ("final_logit_softcapping", "final_logit_softcapping"),
            ("embedding_length_per_layer_input", "hidden_size_per_layer_input"),
            ("attention.shared_kv_layers", "num_kv_shared_layers"),
        ],
        more: gemma4,
        ..PLAIN
    },
    Architecture {
        name: "granitehybrid",
        model_type: "granitemoehybrid",
        experts: Some(Experts { model_type: "granitemoehybrid", ..GRANITE_EXPERTS }),
        adjacent_pairs: true,
        numbers: &GRANITE_NUMBERS,
        names: &[
            MAMBA[0],
            MAMBA[1],
            MAMBA[2],
            MAMBA[3],
            ("ffn_gate", "shared_mlp.gate_proj"),
            ("ffn_up", "shared_mlp.up_proj"),
            ("ffn_down", "shared_mlp.output_linear"),
            ("ffn_gate_shexp", "shared_mlp.gate_proj"),
            ("ffn_up_shexp", "shared_mlp.up_proj"),
            ("ffn_down_shexp", "shared_mlp.output_linear"),
        ],
        whole_names: &MAMBA_WHOLE,
        more: |reading| {
            mamba(reading)?;
            reading.granite_factors()?;
            let expand = quotient(reading, "mamba_width", "hidden_size");
            reading.set("mamba_expand", expand);
            kinds(reading, "attn_q.weight", ["full_attention", "linear_attention"]);
            let shared = reading.whole("expert_shared_feed_forward_length")?.filter(|&width| width > 0);
            let width = shared.or(reading.largest("feed_forward_length")?);
            reading.set("shared_intermediate_size", json!(width));
            reading.set("shared_mlp_apart", true);
            Ok(())
        },
        ..PLAIN
    },
    Architecture {
        name: "lfm2",
        model_type: "lfm2",
        names: &SHORT_CONV,
        outside: &SHORT_CONV_OUTSIDE,
        more: short_conv,
        ..PLAIN
    },
    Architecture {
        name: "lfm2moe",
        model_type: "lfm2_moe",
        experts: Some(Experts {
            model_type: "lfm2_moe",
            router: "feed_forward.gate",
            parts: ["feed_forward.experts.{e}.w1", "feed_forward.experts.{e}.w3", "feed_forward.experts.{e}.w2"],
            gating: 2,
            grouped: true,
            ..QWEN_EXPERTS
        }),
        names: &SHORT_CONV,
        whole_names: &[("exp_probs_b.bias", "feed_forward.expert_bias")],
        outside: &SHORT_CONV_OUTSIDE,
        numbers: &[
            ("leading_dense_block_count", "num_dense_layers"),
            ("expert_weights_scale", "routed_scaling_factor"),
        ],
        more: short_conv,
        ..PLAIN
    },
    NEMOTRON_H,
    Architecture {
        name: "nemotron_h_moe",
        experts: Some(Experts {
            model_type: "nemotron_h",
            router: "mixer.gate",
            parts: ["mixer.experts.{e}.gate_proj", "mixer.experts.{e}.up_proj", "mixer.experts.{e}.down_proj"],
            gating: 2,
            grouped: true,
            ..QWEN_EXPERTS
        }),
        names: &MIXER_MOE,
        numbers: &[
            ("expert_weights_scale", "routed_scaling_factor"),
            ("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size"),
            ("expert_group_count", "n_group"),
            ("expert_group_used_count", "topk_group"),
            ("moe_latent_size", "moe_latent_size"),
        ],
        ..NEMOTRON_H
    },
    Architecture {
        name: "qwen35",
        model_type: "qwen3_5_text",
        partial: true,
        names: &LINEAR,
        whole_names: &LINEAR_WHOLE,
        more: |reading| linear(reading, true),
        ..PLAIN
    },
    Architecture {
        name: "qwen35moe",
        model_type: "qwen3_5_moe_text",
        experts: Some(Experts { model_type: "qwen3_5_moe_text", ..QWEN_EXPERTS }),
        partial: true,
        names: &LINEAR_MOE,
        whole_names: &LINEAR_WHOLE,
        more: |reading| linear(reading, true),
        ..PLAIN
    },
    Architecture {
        name: "qwen3next",
        model_type: "qwen3_next",
        experts: Some(Experts { model_type: "qwen3_next", ..QWEN_EXPERTS }),
        partial: true,
        names: &LINEAR_MOE,
        whole_names: &LINEAR_WHOLE,
        more: |reading| {
            reading.set("linear_apart", true);
            linear(reading, false)
        },
        ..PLAIN
    },
];

const NEMOTRON_H: Architecture = Architecture {
    name: "nemotron_h",
    model_type: "nemotron_h",
    names: &MIXER,
    whole_names: &MIXER_WHOLE,
    outside: &MIXER_OUTSIDE,
    stem: "backbone",
    more: |reading| {
        let of = |reading: &Reading, layer: u64| {
            let has = |part: &str| reading.has(&format!("blk.{layer}.{part}.weight"));
            match (has("ssm_in"), has("attn_q"), has("ffn_gate_inp")) {
                (true, ..) => "mamba",
                (_, true, _) => "attention",
                (.., true) => "moe",
                _ => "mlp",
            }
        };
        let types: Vec<&str> = (0..reading.layers()).map(|layer| of(reading, layer)).collect();
        reading.set("layers_block_type", types);
        mamba(reading)?;
        for (name, key) in [
            ("ssm_state_size", "mamba_d_state"),
            ("n_groups", "mamba_n_groups"),
            ("conv_kernel", "mamba_d_conv"),
            ("mamba_num_heads", "mamba_n_heads"),
            ("mamba_head_dim", "mamba_d_head"),
            ("use_conv_bias", "mamba_conv_bias"),
            ("use_bias", "mamba_proj_bias"),
            ("layer_norm_epsilon", "rms_norm_eps"),
        ] {
            let value = reading.get(key).cloned().unwrap_or_default();
            reading.set(name, value);
        }
        Ok(())
    },
    ..PLAIN
};

/// The kind of each layer, by whether it has a tensor.
fn kinds(reading: &mut Reading, tensor: &str, [with, without]: [&str; 2]) {
    let there = |layer: u64| reading.has(&format!("blk.{layer}.{tensor}"));
    let types: Vec<&str> = (0..reading.layers()).map(|layer| if there(layer) { with } else { without }).collect();
    reading.set("layer_types", types);
}

/// What the config has under one key, divided by what it has under another.
fn quotient(reading: &Reading, width: &str, by: &str) -> Value {
    let n = |key: &str| reading.get(key).and_then(Value::as_u64);
    json!(n(width).zip(n(by)).and_then(|(width, by)| width.checked_div(by)))
}

/// The sizes of state spaces.
fn mamba(reading: &mut Reading) -> Result<()> {
    reading.set_size("mamba_n_heads", "ssm.time_step_rank")?;
    reading.set_size("mamba_d_state", "ssm.state_size")?;
    reading.set_size("mamba_n_groups", "ssm.group_count")?;
    reading.set_size("mamba_d_conv", "ssm.conv_kernel")?;
    reading.set_size("mamba_width", "ssm.inner_size")?;
    let head = quotient(reading, "mamba_width", "mamba_n_heads");
    reading.set("mamba_d_head", head);
    let any = |reading: &Reading, part: &str| (0..reading.layers()).any(|l| reading.has(&format!("blk.{l}.{part}")));
    let (conv, bias) = (any(reading, "ssm_conv1d.bias"), any(reading, "ssm_in.bias"));
    reading.set("mamba_conv_bias", conv);
    reading.set("mamba_proj_bias", bias);
    reading.set("projectors_bias", bias);
    Ok(())
}

/// The sizes of the gated delta rule. `tiled`: heads of values that have a key head in common are apart.
fn linear(reading: &mut Reading, tiled: bool) -> Result<()> {
    reading.set_size("linear_num_value_heads", "ssm.time_step_rank")?;
    reading.set_size("linear_num_key_heads", "ssm.group_count")?;
    reading.set_size("linear_key_head_dim", "ssm.state_size")?;
    reading.set_size("linear_conv_kernel_dim", "ssm.conv_kernel")?;
    reading.set_size("linear_width", "ssm.inner_size")?;
    let head = quotient(reading, "linear_width", "linear_num_value_heads");
    reading.set("linear_value_head_dim", head);
    reading.set("linear_tiled", tiled);
    kinds(reading, "ssm_a", ["linear_attention", "full_attention"]);
    let width = reading.whole("expert_shared_feed_forward_length")?;
    if let Some(width) = width {
        reading.set("shared_expert_intermediate_size", width);
    }
    Ok(())
}

/// LFM2's own keys.
fn short_conv(reading: &mut Reading) -> Result<()> {
    reading.set_size("conv_L_cache", "shortconv.l_cache")?;
    reading.set("block_auto_adjust_ff_dim", false);
    let eps = reading.get("rms_norm_eps").cloned().unwrap_or_default();
    reading.set("norm_eps", eps);
    kinds(reading, "attn_q.weight", ["full_attention", "conv"]);
    Ok(())
}

/// Gemma 4's heads of two sizes, layers that share, and experts.
fn gemma4(reading: &mut Reading) -> Result<()> {
    let full = reading.get("head_dim").cloned().unwrap_or_default();
    reading.set("global_head_dim", full);
    reading.set_size("head_dim", "attention.key_length_swa")?;
    let slides: Vec<bool> = match reading.get("layer_types").and_then(Value::as_array) {
        Some(types) => types.iter().map(|kind| kind == "sliding_attention").collect(),
        None => Vec::new(),
    };
    let first = |sliding: bool| slides.iter().position(|slides| *slides == sliding);
    if let Some(heads) = reading.of_layers("attention.head_count_kv")? {
        let of = |sliding: bool| first(sliding).and_then(|layer| heads.get(layer)).map(|n| *n as u64);
        let (sliding, full) = (of(true), of(false));
        reading.set("num_key_value_heads", json!(sliding.or(full)));
        reading.set("num_global_key_value_heads", json!(full));
    }
    let key_is_value = first(false).is_some_and(|layer| !reading.has(&format!("blk.{layer}.attn_v.weight")));
    reading.set("attention_k_eq_v", key_is_value);
    if let Some(widths) = reading.of_layers("feed_forward_length")? {
        let (first, last) = (widths.first().copied().unwrap_or(0.0), widths.last().copied().unwrap_or(0.0));
        reading.set("intermediate_size", first as u64);
        reading.set("use_double_wide_mlp", last == 2.0 * first);
    }
    let experts = reading.get("num_experts").is_some();
    reading.set("enable_moe_block", experts);
    let chosen = reading.get("num_experts_per_tok").cloned().unwrap_or_default();
    reading.set("top_k_experts", chosen);
    Ok(())
}
