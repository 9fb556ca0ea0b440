"""DeepSeek and the GLM models that route as it does."""

from .common import Extra, base_config, bf16, bf16_new

SIZES = dict(
    vocab_size=96,
    num_hidden_layers=2,
    num_key_value_heads=4,
    intermediate_size=36,
    moe_intermediate_size=20,
    first_k_dense_replace=1,
    n_routed_experts=6,
    n_shared_experts=1,
    num_experts_per_tok=2,
    moe_layer_freq=1,
)
LATENT = dict(hidden_size=28, kv_lora_rank=14, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=8)
YARN = {
    "type": "yarn",
    "factor": 8,
    "original_max_position_embeddings": 32,
    "beta_fast": 32,
    "beta_slow": 0.1,
    "mscale": 0.9,
    "mscale_all_dim": 0.6,
}
DRAW = {r"e_score_correction_bias": ("normal", 0.0, 0.2)}
KEEP_F32 = r"e_score_correction_bias"


def fixtures():
    """All of this module."""
    v2 = base_config(
        "deepseek_v2",
        "DeepseekV2ForCausalLM",
        aux_loss_alpha=0.001,
        attention_bias=False,
        norm_topk_prob=False,
        rms_norm_eps=1e-6,
        rope_scaling=YARN,
        rope_theta=10000,
        scoring_func="softmax",
        seq_aux=True,
        **SIZES,
        **LATENT,
    )
    v3 = base_config(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        attention_bias=False,
        ep_size=1,
        n_group=3,
        topk_group=2,
        topk_method="noaux_tc",
        norm_topk_prob=True,
        num_nextn_predict_layers=1,
        q_lora_rank=18,
        rms_norm_eps=1e-5,
        rope_scaling=YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        rope_theta=10000,
        routed_scaling_factor=1.7,
        scoring_func="sigmoid",
        **SIZES,
        **LATENT,
    )
    glm4_moe = base_config(
        "glm4_moe",
        "Glm4MoeForCausalLM",
        head_dim=12,
        attention_bias=True,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        num_nextn_predict_layers=1,
        partial_rotary_factor=0.5,
        rope_scaling=None,
        rope_theta=1000000,
        routed_scaling_factor=1.7,
        use_qk_norm=True,
        **SIZES | {"num_key_value_heads": 2, "moe_intermediate_size": 18},
    )
    lite = base_config(
        "glm4_moe_lite",
        "Glm4MoeLiteForCausalLM",
        attention_bias=False,
        n_group=1,
        topk_group=1,
        topk_method="noaux_tc",
        norm_topk_prob=True,
        num_nextn_predict_layers=1,
        partial_rotary_factor=1.0,
        q_lora_rank=18,
        rope_parameters={"rope_theta": 1000000, "rope_type": "default"},
        routed_scaling_factor=1.8,
        **SIZES | {"first_k_dense_replace": 1},
        **LATENT | {"v_head_dim": 12},
    )
    # The layer after the last, which guesses tokens ahead.
    mtp = {
        "model.layers.2.eh_proj.weight": (32, 64),
        "model.layers.2.enorm.weight": (32,),
        "model.layers.2.self_attn.q_proj.weight": (48, 32),
        "model.layers.2.shared_head.norm.weight": (32,),
    }
    grouped = {
        "q_lora_rank": 18,
        "topk_method": "group_limited_greedy",
        "n_group": 3,
        "topk_group": 2,
        "routed_scaling_factor": 2.3,
        "n_shared_experts": 2,
    }
    greedy = {
        "q_lora_rank": None,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
    }
    sigmoid = dict(draw=DRAW, keep_f32=KEEP_F32)
    return {
        "glm4_moe": bf16(glm4_moe, disk=Extra(mtp), **sigmoid),
        "deepseek_v2": bf16(v2 | greedy),
        "deepseek_v2_grouped": bf16(v2 | grouped),
        "deepseek_v3": bf16(v3, **sigmoid),
        "glm4_moe_lite": bf16_new(lite, **sigmoid),
    }
