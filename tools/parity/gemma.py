"""Gemma 1 to 4."""

from .common import Extra, Nested, base_config, bf16, bf16_new, without

SIGLIP = {
    "vision_tower.vision_model.embeddings.patch_embedding.weight": (4, 3, 2, 2),
    "vision_tower.vision_model.embeddings.patch_embedding.bias": (4,),
    "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": (4, 4),
    "vision_tower.vision_model.post_layernorm.weight": (4,),
    "multi_modal_projector.mm_input_projection_weight": (4, 20),
    "multi_modal_projector.mm_soft_emb_norm.weight": (4,),
}

# Scaled embeddings at the usual spread would outweigh every layer, and a tied head would repeat the last token.
DRAW = {
    r"embed_tokens\.": ("normal", 0.0, 0.15),
    r"model\.norm\.": ("uniform", 1.0, 3.0),
    r"post_\w+norm\.": ("uniform", 0.2, 1.0),
}


def fixtures():
    """All of this module."""
    return gemma_fixtures() | gemma4_fixtures()


def gemma4_fixtures():
    """Gemma 4 as E2B (per-layer embeddings, shared keys), 31B (values from keys) and 26B-A4B (experts) have it."""
    types = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    base = base_config(
        "gemma4_text",
        "Gemma4ForCausalLM",
        hidden_size=20,
        head_dim=8,
        global_head_dim=16,
        intermediate_size=28,
        num_hidden_layers=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_k_eq_v=False,
        enable_moe_block=False,
        final_logit_softcapping=7.0,
        hidden_activation="gelu_pytorch_tanh",
        hidden_size_per_layer_input=0,
        layer_types=types,
        moe_intermediate_size=None,
        num_experts=None,
        num_global_key_value_heads=None,
        num_kv_shared_layers=0,
        rms_norm_eps=1e-6,
        rope_parameters={
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        sliding_window=16,
        tie_word_embeddings=True,
        top_k_experts=None,
        use_bidirectional_attention=None,
        use_double_wide_mlp=False,
        vocab_size_per_layer_input=128,
    )
    base = without(base, "hidden_act")
    per_layer = base | {"hidden_size_per_layer_input": 6, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
    k_eq_v = base | {
        "num_hidden_layers": 3,
        "layer_types": types[:3],
        "hidden_size": 28,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 2,
    }
    experts = k_eq_v | {
        "hidden_size": 20,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "enable_moe_block": True,
        "moe_intermediate_size": 14,
        "num_experts": 5,
        "top_k_experts": 2,
    }
    draw = DRAW | {
        r"model\.norm\.": ("uniform", 2.0, 4.0),
        r"post_\w+norm(_[12])?\.": ("uniform", 1.0, 2.0),
        r"layer_scalar$": ("uniform", 0.6, 1.1),
        r"router\.(per_expert_)?scale$": ("uniform", 0.7, 1.3),
        r"router\.proj": ("normal", 0.0, 0.5),
    }
    vision = {
        "model.vision_tower.patch_embedder.input_proj.weight": (4, 12),
        "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight": (4, 4),
        "model.embed_vision.embedding_projection.weight": (28, 4),
    }
    wrapper = Nested(
        "gemma4",
        "Gemma4ForConditionalGeneration",
        [("model.", "model.language_model.")],
        vision,
        boi_token_id=120,
        dtype="bfloat16",
        eoi_token_id=121,
        eos_token_id=[2, 106],
        image_token_id=122,
        tie_word_embeddings=True,
        vision_config={"hidden_size": 4, "model_type": "gemma4_vision", "num_hidden_layers": 1},
        vision_soft_tokens_per_image=4,
    )
    # Published files have keys and values of the layers that share those of another.
    unused = {f"model.layers.3.self_attn.{name}.weight": (8, 20) for name in ("k_proj", "v_proj")}
    unused |= {f"model.layers.4.self_attn.{name}.weight": (16, 20) for name in ("k_proj", "v_proj")}
    unused |= {"model.layers.3.self_attn.k_norm.weight": (8,), "model.layers.4.self_attn.k_norm.weight": (16,)}
    plain = dict(store="bfloat16", spelling="as_given", draw=draw)
    return {
        "gemma4_text": bf16(per_layer, draw=draw, disk=Extra(unused)),
        "gemma4_text_k_eq_v": bf16_new(k_eq_v, draw=draw),
        "gemma4_text_moe": bf16(experts, draw=draw),
        "gemma4": dict(
            config=k_eq_v | {"num_key_value_heads": 2, "num_global_key_value_heads": 1}, disk=wrapper, **plain
        ),
    }


def gemma_fixtures():
    """Gemma 1, 2 and 3."""
    # The hub's "gelu" of Gemma 1 means the tanh approximation; tied by default, so the config does not say it.
    gemma = base_config(
        "gemma",
        "GemmaForCausalLM",
        hidden_size=28,
        head_dim=12,
        num_key_value_heads=1,
        intermediate_size=44,
        hidden_act="gelu",
        hidden_activation=None,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
    )
    # Caps low enough to bend what they cap; the window is on even layers, though no field says so.
    gemma2 = base_config(
        "gemma2",
        "Gemma2ForCausalLM",
        num_hidden_layers=3,
        hidden_size=28,
        head_dim=10,
        intermediate_size=44,
        hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=14,
        attn_logit_softcapping=4.0,
        final_logit_softcapping=7.0,
        sliding_window=16,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        cache_implementation="hybrid",
    )
    gemma3 = base_config(
        "gemma3_text",
        "Gemma3ForCausalLM",
        num_hidden_layers=3,
        hidden_size=28,
        head_dim=12,
        intermediate_size=44,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=14,
        sliding_window=16,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_bias=False,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
    )
    # As the 4b checkpoint: little in text_config, the rest by default (bases 1e6 and 1e4, scalar 256, pattern 6).
    wrapped = base_config(
        "gemma3_text",
        "Gemma3ForCausalLM",
        num_hidden_layers=6,
        hidden_size=20,
        head_dim=12,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=28,
        rope_scaling={"factor": 8.0, "rope_type": "linear"},
        sliding_window=16,
        tie_word_embeddings=True,
    )
    omitted = ("tie_word_embeddings", "hidden_act", "initializer_range", "rms_norm_eps", "use_cache")
    wrapper = Nested(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        [("model.", "language_model.model.")],
        SIGLIP,
        omitted=(*omitted, "bos_token_id", "eos_token_id"),
        boi_token_index=125,
        eoi_token_index=126,
        image_token_index=127,
        mm_tokens_per_image=4,
        eos_token_id=[2, 106],
        initializer_range=0.02,
        vision_config={"hidden_size": 4, "model_type": "siglip_vision_model", "num_hidden_layers": 1, "patch_size": 2},
    )
    # Gains that make up for a scale of 1 / 16 at this head size.
    sharp = DRAW | {r"[qk]_norm\.": ("uniform", 0.6, 2.0)}
    wrapped = bf16(without(wrapped, "rms_norm_eps"), draw=sharp)
    gemma_draw = {k: v for k, v in DRAW.items() if "post" not in k} | {r"o_proj|down_proj": ("normal", 0.0, 0.3)}
    return {
        "gemma3_text": bf16_new(gemma3, draw=DRAW),
        "gemma3": wrapped | {"disk": wrapper},
        "gemma": bf16(without(gemma, "tie_word_embeddings"), draw=gemma_draw),
        "gemma2": bf16(without(gemma2, "tie_word_embeddings"), draw=DRAW),
    }
