"""Gemma 1, 2 and 3."""

from .common import Nested, base_config, bf16, bf16_new, without

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
    r"embed_tokens": ("normal", 0.0, 0.15),
    r"model\.norm\.": ("uniform", 1.0, 3.0),
    r"post_\w+norm\.": ("uniform", 0.2, 1.0),
}


def fixtures():
    """All of this module."""
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
    wrapped = bf16(without(wrapped, "rms_norm_eps"), draw=DRAW)
    gemma_draw = {k: v for k, v in DRAW.items() if "post" not in k} | {r"o_proj|down_proj": ("normal", 0.0, 0.3)}
    return {
        "gemma3_text": bf16_new(gemma3, draw=DRAW),
        "gemma3": wrapped | {"disk": wrapper},
        "gemma": bf16(without(gemma, "tie_word_embeddings"), draw=gemma_draw),
        "gemma2": bf16(without(gemma2, "tie_word_embeddings"), draw=DRAW),
    }
