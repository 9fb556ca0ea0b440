"""AstrAI's own checkpoints."""


def astrai_config(**fields):
    """The fields every AstrAI fixture shares, overridden by `fields`."""
    config = {
        "model_type": "autoregressive_lm",
        "vocab_size": 128,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "rms_norm_eps": 1e-5,
        "intermediate_size": 48,
        "tie_word_embeddings": True,
        "max_position_embeddings": 256,
        "rope_theta": 10000.0,
        "attn_type": "gqa",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "use_qk_norm": False,
        "use_gated_attention": False,
        "ffn_type": "mlp",
    }
    return config | fields


def fixtures():
    """Both attention types and both feed-forward types of AstrAI."""
    mla = {
        "attn_type": "mla",
        "hidden_size": 40,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 6,
        "intermediate_size": 40,
    }
    unused = (
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "n_routed_experts",
        "n_shared_experts",
        "n_activated_experts",
        "topk_method",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "mlp_only_layers",
        "rope_scaling",
    )
    # 6:1 like the published model; every key that does not apply written out as null.
    gqa = astrai_config(hidden_size=48, num_attention_heads=6, num_key_value_heads=1, **dict.fromkeys(unused))
    full = astrai_config(
        use_qk_norm=True,
        use_gated_attention=True,
        tie_word_embeddings=False,
        rope_scaling={"type": "ntk", "factor": 4.0},
    )
    # Scaling types other than ntk leave the base unchanged.
    plain_mla = astrai_config(rope_scaling={"type": "linear", "factor": 4.0}, **mla)
    norm_mla = astrai_config(use_qk_norm=True, use_gated_attention=True, **mla)
    del norm_mla["model_type"]  # absent means autoregressive_lm
    # Layers 0 and 2 dense by the step, 3 by mlp_only_layers, 1 sparse; null rope_theta means 10000.
    moe = astrai_config(
        num_hidden_layers=4,
        ffn_type="moe",
        rope_theta=None,
        n_routed_experts=6,
        n_shared_experts=2,
        n_activated_experts=2,
        topk_method="greedy",
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        norm_topk_prob=True,
        decoder_sparse_step=2,
        mlp_only_layers=[3],
        tie_word_embeddings=False,
    )
    configs = {
        "astrai_gqa": gqa,
        "astrai_full": full,
        "astrai_mla": plain_mla,
        "astrai_mla_norm": norm_mla,
        "astrai_moe": moe,
    }
    stores = {"astrai_moe": "bfloat16"}
    return {name: dict(config=c, store=stores.get(name, "float32"), astrai=True) for name, c in configs.items()}
