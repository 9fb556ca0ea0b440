"""Layers with a state: gated delta rule, short convolutions, Mamba 2."""

import torch

from .common import GRANITE_DRAW, Chain, Nested, base_config, bf16, bf16_new, without

DELTA_DRAW = {
    r"A_log$": ("log", 1.0, 8.0),
    r"dt_bias$": ("uniform", -1.0, 1.0),
    r"conv1d\.weight": ("normal", 0.0, 0.4),
    r"in_proj_(qkv|z|b|a|ba|qkvz)\.": ("normal", 0.0, 0.25),
}
MAMBA_DRAW = {
    r"A_log$": ("log", 1.0, 8.0),
    r"dt_bias$": ("uniform", -1.0, 1.0),
    r"\.D$": ("uniform", 0.5, 1.5),
    r"conv1d\.weight": ("normal", 0.0, 0.4),
    r"(mamba|mixer)\.in_proj": ("normal", 0.0, 0.25),
}
INFINITE = float("inf")


class FusedExperts:
    """Experts in one tensor: [experts, 2 * intermediate, hidden], gate first, and [experts, hidden, intermediate]."""

    def encode(self, config, weights):
        """Fused."""
        fused = {name: tensor for name, tensor in weights.items() if ".mlp.experts." not in name}
        stems = sorted({name.split(".experts.")[0] for name in weights if ".mlp.experts." in name})
        for stem in stems:

            def stacked(kind, stem=stem):
                return torch.stack([weights[f"{stem}.experts.{i}.{kind}.weight"] for i in range(config["num_experts"])])

            fused[f"{stem}.experts.gate_up_proj"] = torch.cat([stacked("gate_proj"), stacked("up_proj")], 1)
            fused[f"{stem}.experts.down_proj"] = stacked("down_proj")
        return config, fused

    def decode(self, config, weights):
        """transformers reads fused experts as they are."""
        return config, weights


def fixtures():
    """All of this module."""
    return qwen_fixtures() | lfm_fixtures() | granite_fixtures() | nemotron_fixtures() | falcon_fixtures()


def qwen_fixtures():
    """Gated delta rule beside gated full attention."""
    common = dict(
        hidden_size=28,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
        intermediate_size=30,
        attention_bias=False,
        linear_conv_kernel_dim=4,
        linear_key_head_dim=10,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_value_head_dim=12,
        rms_norm_eps=1e-6,
    )
    rope = {
        "mrope_interleaved": True,
        "mrope_section": [1, 1, 1],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000.0,
        "rope_type": "default",
    }
    text = base_config(
        "qwen3_5_text",
        "Qwen3_5ForCausalLM",
        attn_output_gate=True,
        full_attention_interval=2,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        mamba_ssm_dtype="float32",
        rope_parameters=rope,
        **common,
    )
    experts = dict(
        vocab_size=96,
        num_hidden_layers=2,
        moe_intermediate_size=12,
        num_experts=5,
        num_experts_per_tok=2,
        output_router_logits=False,
        router_aux_loss_coef=0.001,
        shared_expert_intermediate_size=18,
    )
    moe = base_config(
        "qwen3_5_moe_text",
        "Qwen3_5MoeForCausalLM",
        attn_output_gate=True,
        full_attention_interval=2,
        mamba_ssm_dtype="float32",
        rope_parameters=rope,
        **common | experts,
    )
    following = base_config(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        decoder_sparse_step=1,
        full_attention_interval=2,
        mlp_only_layers=[],
        norm_topk_prob=True,
        partial_rotary_factor=0.25,
        rope_scaling=None,
        rope_theta=10000000,
        **common | experts,
    )
    extra = {
        "model.visual.patch_embed.proj.weight": (4, 3, 2, 2, 2),
        "model.visual.blocks.0.attn.qkv.weight": (12, 4),
        "model.visual.merger.norm.weight": (4,),
        "mtp.fc.weight": (28, 56),
        "mtp.layers.0.self_attn.q_proj.weight": (96, 28),
        "mtp.norm.weight": (28,),
    }

    def wrapper(model_type, architecture):
        return Nested(
            model_type,
            architecture,
            [("model.", "model.language_model."), ("lm_head.", "lm_head.")],
            extra,
            image_token_id=120,
            tie_word_embeddings=False,
            video_token_id=121,
            vision_config={"depth": 1, "hidden_size": 4, "model_type": f"{model_type}_vision", "patch_size": 2},
            vision_end_token_id=122,
            vision_start_token_id=123,
        )

    dense = without(text, "layer_types") | {
        "num_hidden_layers": 2,
        "dtype": "bfloat16",
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
    }
    delta = dict(store="bfloat16", spelling="as_given", draw=DELTA_DRAW, keep_f32=r"A_log|linear_attn\.norm")
    moe_disk = Chain(FusedExperts(), wrapper("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration"))
    return {
        "qwen3_5_text": dict(config=text, store="bfloat16", draw=DELTA_DRAW),
        "qwen3_5": dict(config=dense, disk=wrapper("qwen3_5", "Qwen3_5ForConditionalGeneration"), **delta),
        "qwen3_5_moe": dict(config=moe | {"dtype": "bfloat16"}, disk=moe_disk, **delta),
        "qwen3_next": bf16(following, draw=DELTA_DRAW),
    }


def lfm_fixtures():
    """Short convolutions."""
    draw = {
        r"conv\.conv\.weight": ("normal", 0.0, 0.5),
        r"conv\.in_proj": ("normal", 0.0, 0.3),
        r"expert_bias$": ("normal", 0.0, 0.2),
        r"feed_forward\.gate": ("normal", 0.0, 0.3),
        r"embed_tokens\.": ("normal", 0.0, 0.3),
        r"out_proj|w2|experts\.": ("normal", 0.0, 0.3),
    }
    lfm2 = base_config(
        "lfm2",
        "Lfm2ForCausalLM",
        hidden_size=28,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        block_auto_adjust_ff_dim=True,
        block_dim=28,
        block_ff_dim=52,
        block_ffn_dim_multiplier=1.1,
        block_multiple_of=6,
        block_norm_eps=1e-5,
        block_use_swiglu=True,
        conv_L_cache=3,
        conv_bias=False,
        conv_dim=28,
        full_attn_idxs=[1],
        norm_eps=1e-5,
        num_heads=2,
        pad_token_id=0,
        rope_theta=1000000.0,
        use_pos_enc=True,
    )
    lfm2_moe = base_config(
        "lfm2_moe",
        "Lfm2MoeForCausalLM",
        vocab_size=96,
        hidden_size=28,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=36,
        conv_L_cache=3,
        conv_bias=False,
        layer_types=["conv", "full_attention", "conv"],
        moe_intermediate_size=14,
        norm_eps=1e-5,
        norm_topk_prob=True,
        num_dense_layers=1,
        num_experts=5,
        num_experts_per_tok=2,
        pad_token_id=0,
        rope_theta=1000000.0,
        routed_scaling_factor=1.3,
        tie_embedding=True,
        use_expert_bias=True,
    )
    lfm3 = base_config(
        "lfm3",
        "Lfm3ForCausalLM",
        hidden_size=28,
        num_hidden_layers=4,
        intermediate_size=36,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        conv_L_cache=7,
        conv_bias=False,
        layer_types=["conv", "sliding_attention", "full_attention", "conv"],
        norm_eps=1e-5,
        pad_token_id=0,
        sliding_window=16,
        tie_word_embeddings=True,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.5},
        },
    )
    plain = ("rms_norm_eps", "hidden_act", "tie_word_embeddings")
    lfm2 = without(lfm2, "intermediate_size", *plain)
    return {
        "lfm2": bf16(lfm2, draw=draw),
        "lfm2_moe": bf16(without(lfm2_moe, *plain), draw=draw, keep_f32=r"expert_bias"),
        "lfm3": bf16_new(without(lfm3, "rms_norm_eps", "hidden_act"), draw=draw),
    }


def granite_fixtures():
    """Granite 4: Mamba 2 or attention, experts beside a shared mlp; and sinks with windows."""
    hybrid = base_config(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        vocab_size=96,
        hidden_size=28,
        intermediate_size=14,
        attention_bias=False,
        attention_multiplier=0.21,
        embedding_multiplier=3.7,
        residual_multiplier=0.63,
        logits_scaling=0.8,
        layer_types=["mamba", "attention"],
        mamba_chunk_size=16,
        mamba_conv_bias=True,
        mamba_d_conv=4,
        mamba_d_head=14,
        mamba_d_state=10,
        mamba_expand=2,
        mamba_n_groups=1,
        mamba_n_heads=4,
        mamba_proj_bias=False,
        normalization_function="rmsnorm",
        num_experts_per_tok=2,
        num_local_experts=5,
        output_router_logits=False,
        position_embedding_type="nope",
        rope_scaling=None,
        rope_theta=10000,
        shared_intermediate_size=20,
        tie_word_embeddings=True,
    )
    swa = base_config(
        "granite_swa",
        "GraniteSWAForCausalLM",
        num_hidden_layers=3,
        attention_bias=False,
        attention_multiplier=0.31,
        embedding_multiplier=3.7,
        residual_multiplier=0.63,
        logits_scaling=0.8,
        layer_rope_theta=[0, 10000.0, 500.0],
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        mlp_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        sliding_window=16,
        tie_word_embeddings=True,
    )
    dense = hybrid | {
        "vocab_size": 128,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "position_embedding_type": "rope",
        "layer_types": ["mamba", "attention", "mamba"],
        "num_hidden_layers": 3,
        "mamba_n_groups": 2,
        "num_attention_heads": 2,
    }
    draw = GRANITE_DRAW | MAMBA_DRAW
    return {
        "granitemoehybrid": bf16(hybrid, draw=draw),
        "granitemoehybrid_dense": bf16(dense, draw=draw),
        "granite_swa": bf16_new(swa, draw=GRANITE_DRAW | {r"sinks$": ("normal", 0.0, 1.0)}),
    }


def nemotron_fixtures():
    """One mixer a layer."""
    base = base_config(
        "nemotron_h",
        "NemotronHForCausalLM",
        hidden_size=28,
        intermediate_size=36,
        head_dim=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=False,
        chunk_size=16,
        conv_kernel=4,
        expand=2,
        layer_norm_epsilon=1e-5,
        mamba_head_dim=14,
        mamba_hidden_act="silu",
        mamba_num_heads=4,
        mamba_proj_bias=False,
        mlp_bias=False,
        mlp_hidden_act="relu2",
        n_groups=2,
        pad_token_id=0,
        rescale_prenorm_residual=True,
        residual_in_fp32=False,
        ssm_state_size=10,
        time_step_floor=0.0001,
        time_step_limit=[0.0, INFINITE],
        time_step_max=0.1,
        time_step_min=0.001,
        time_step_rank=256,
        use_bias=False,
        use_conv_bias=True,
        use_mamba_kernels=True,
    )
    base = without(base, "hidden_act")
    moe = dict(
        moe_intermediate_size=14,
        moe_shared_expert_intermediate_size=18,
        n_group=1,
        n_routed_experts=5,
        n_shared_experts=1,
        norm_topk_prob=True,
        num_experts_per_tok=2,
        routed_scaling_factor=1.3,
        topk_group=1,
    )
    draw = MAMBA_DRAW | {
        r"e_score_correction_bias": ("normal", 0.0, 0.2),
        r"mixer\.gate\.": ("normal", 0.0, 0.3),
        r"embeddings\.": ("normal", 0.0, 0.4),
    }
    keep = r"A_log|\.D$|e_score_correction_bias"
    return {
        "nemotron_h": bf16(base | {"hybrid_override_pattern": "M-*", "num_hidden_layers": 3}, draw=draw),
        "nemotron_h_moe": bf16(
            base | moe | {"vocab_size": 96, "hybrid_override_pattern": "ME*E", "num_hidden_layers": 4},
            draw=draw,
            keep_f32=keep,
        ),
        "nemotron_h_latent": bf16(
            base
            | moe
            | {"vocab_size": 96, "hybrid_override_pattern": "M*E", "num_hidden_layers": 3, "moe_latent_size": 18},
            draw=draw,
            keep_f32=keep,
        ),
    }


def falcon_fixtures():
    """Attention and Mamba 2 side by side."""
    base = base_config(
        "falcon_h1",
        "FalconH1ForCausalLM",
        vocab_size=96,
        hidden_size=28,
        intermediate_size=36,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=12,
        attention_bias=False,
        attention_in_multiplier=1.2,
        attention_out_multiplier=0.7,
        attn_layer_indices=None,
        embedding_multiplier=2.3,
        key_multiplier=0.6,
        lm_head_multiplier=0.8,
        mamba_chunk_size=16,
        mamba_conv_bias=True,
        mamba_d_conv=4,
        mamba_d_head=11,
        mamba_d_ssm=44,
        mamba_d_state=10,
        mamba_expand=2,
        mamba_n_groups=1,
        mamba_n_heads=4,
        mamba_norm_before_gate=False,
        mamba_proj_bias=False,
        mamba_rms_norm=False,
        mamba_use_mlp=True,
        mlp_bias=False,
        mlp_expansion_factor=8,
        mlp_multipliers=[0.9, 0.6],
        num_logits_to_keep=1,
        pad_token_id=0,
        projectors_bias=False,
        rope_scaling=None,
        rope_theta=100000000000.0,
        ssm_in_multiplier=1.3,
        ssm_multipliers=[0.8, 0.7, 1.4, 1.2, 0.9],
        ssm_out_multiplier=0.8,
        time_step_floor=0.0001,
        time_step_max=0.1,
        time_step_min=0.001,
    )
    return {
        "falcon_h1": bf16(base, draw=MAMBA_DRAW),
        "falcon_h1_norm": bf16(base | {"mamba_rms_norm": True, "mamba_n_groups": 2}, draw=MAMBA_DRAW),
    }
