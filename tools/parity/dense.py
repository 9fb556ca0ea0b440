"""Decoders without experts: SmolLM 3 to Apertus."""

from .common import GRANITE_DRAW, LLAMA3_SCALING, Nested, base_config, bf16, bf16_new, without

PIXTRAL = {
    "vision_tower.patch_conv.weight": (4, 3, 2, 2),
    "vision_tower.ln_pre.weight": (4,),
    "vision_tower.transformer.layers.0.attention.q_proj.weight": (4, 4),
    "multi_modal_projector.norm.weight": (4,),
    "multi_modal_projector.linear_1.weight": (5, 4),
}


class LongFactors:
    """LongRoPE for a context beyond the original one: the long set at every position.

    transformers takes the set by the longest sequence of a call, so a token's values would depend on what comes after
    it. The reference has the long set as both; the attention factor is the same for either.
    """

    def encode(self, config, weights):
        """The published layout is that of transformers."""
        return config, weights

    def decode(self, config, weights):
        """Long factors in the place of the short ones."""
        scaling = config["rope_scaling"]
        return config | {"rope_scaling": scaling | {"short_factor": scaling["long_factor"]}}, weights


def fixtures():
    """All of this module."""
    return phi_fixtures() | post_norm_fixtures() | llama_like_fixtures() | layer_norm_fixtures() | mistral3_fixtures()


def phi_fixtures():
    """Fused projections, partial rotary embeddings, LongRoPE; and Phi 1 and 2."""
    phi3 = base_config(
        "phi3",
        "Phi3ForCausalLM",
        hidden_size=40,
        intermediate_size=44,
        rope_theta=10000.0,
        attention_bias=False,
        pad_token_id=0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    )
    long = {"type": "longrope", "short_factor": [1.0, 1.35, 2.1], "long_factor": [1.2, 3.7, 9.5]}
    phi = base_config(
        "phi",
        "PhiForCausalLM",
        hidden_size=40,
        num_key_value_heads=None,
        hidden_act="gelu_new",
        layer_norm_eps=1e-5,
        partial_rotary_factor=0.4,
        qk_layernorm=False,
        rope_scaling=None,
        rope_theta=10000.0,
    )
    # Six of ten dimensions turn.
    partial = {"partial_rotary_factor": 0.6, "tie_word_embeddings": True}
    return {
        "phi3": bf16(
            phi3
            | {
                "partial_rotary_factor": 0.8,
                "sliding_window": 16,
                "rope_scaling": None,
                "original_max_position_embeddings": 256,
            }
        ),
        "phi3_long": bf16(
            phi3 | partial | {"rope_scaling": long, "original_max_position_embeddings": 64, "sliding_window": None},
            disk=LongFactors(),
        ),
        "phi3_short": bf16(
            phi3
            | partial
            | {
                "rope_scaling": long | {"attention_factor": 1.19},
                "original_max_position_embeddings": 256,
                "sliding_window": 4096,
            }
        ),
        "phi": bf16(without(phi, "rms_norm_eps")),
        "phi_norm": bf16(without(phi, "rms_norm_eps") | {"qk_layernorm": True, "num_key_value_heads": 2}),
    }


def post_norm_fixtures():
    """Norms on what the branches give: OLMo 2 and 3, EXAONE 4, GLM 4; GLM without."""
    olmo3_yarn = {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32.0,
        "beta_slow": 0.1,
    }
    types = ["sliding_attention", "sliding_attention", "full_attention"]
    glm = dict(
        head_dim=12,
        intermediate_size=44,
        partial_rotary_factor=0.5,
        attention_bias=True,
        rope_theta=10000.0,
        rms_norm_eps=1.5625e-07,
        eos_token_id=[2, 3, 4],
        pad_token_id=2,
    )
    return {
        "olmo2": bf16(
            base_config("olmo2", "Olmo2ForCausalLM", rope_theta=500000.0, rope_scaling=None, attention_bias=False)
        ),
        # YaRN on the full layer only.
        "olmo3": bf16(
            base_config(
                "olmo3",
                "Olmo3ForCausalLM",
                num_hidden_layers=3,
                layer_types=types,
                sliding_window=16,
                rope_theta=500000.0,
                rope_scaling=olmo3_yarn,
                attention_bias=False,
            )
        ),
        # The full layer has no rotary embedding.
        "exaone4": bf16(
            base_config(
                "exaone4",
                "Exaone4ForCausalLM",
                num_hidden_layers=3,
                head_dim=10,
                intermediate_size=36,
                layer_types=types,
                sliding_window=16,
                sliding_window_pattern="LLG",
                rope_theta=10000.0,
                rope_scaling=LLAMA3_SCALING,
            )
        ),
        "exaone4_full": bf16_new(
            base_config(
                "exaone4",
                "Exaone4ForCausalLM",
                layer_types=["full_attention", "full_attention"],
                sliding_window=None,
                tie_word_embeddings=True,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            )
        ),
        "glm": bf16(base_config("glm", "GlmForCausalLM", **glm)),
        "glm4": bf16(base_config("glm4", "Glm4ForCausalLM", **glm)),
    }


def llama_like_fixtures():
    """One or two things different from Llama."""
    granite = base_config(
        "granite",
        "GraniteForCausalLM",
        attention_bias=False,
        attention_multiplier=0.21,
        embedding_multiplier=3.7,
        residual_multiplier=0.63,
        logits_scaling=0.8,
        mlp_bias=False,
        rope_scaling=None,
        rope_theta=10000.0,
        tie_word_embeddings=True,
    )
    smollm3 = base_config(
        "smollm3",
        "SmolLM3ForCausalLM",
        num_hidden_layers=3,
        no_rope_layers=[1, 0, 1],
        no_rope_layer_interval=4,
        layer_types=["full_attention"] * 3,
        sliding_window=None,
        use_sliding_window=False,
        pretraining_tp=2,
        pad_token_id=0,
        rope_theta=5000000.0,
        rope_scaling=None,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=True,
    )
    arcee_yarn = {
        "rope_type": "yarn",
        "type": "yarn",
        "factor": 8.0,
        "mscale": 1.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 4.0,
        "beta_slow": 1.0,
    }
    hunyuan = base_config(
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
        head_dim=12,
        attention_bias=False,
        use_qk_norm=True,
        tie_word_embeddings=True,
        rope_theta=10000.0,
        rope_scaling={
            "alpha": 50.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "type": "dynamic",
        },
    )
    apertus = base_config(
        "apertus",
        "ApertusForCausalLM",
        hidden_act="xielu",
        attention_bias=False,
        mlp_bias=False,
        post_norm=False,
        qk_norm=True,
        rope_theta=10000.0,
        rope_scaling=LLAMA3_SCALING,
    )
    xielu = {
        r"alpha_[pn]$": ("normal", 0.3, 0.5),
        r"beta$": ("uniform", 0.4, 0.6),
        r"eps$": ("uniform", -2e-6, -1e-6),
    }
    return {
        "smollm3": bf16(smollm3),
        "granite": bf16(granite, draw=GRANITE_DRAW),
        "arcee": bf16(
            base_config(
                "arcee",
                "ArceeForCausalLM",
                head_dim=12,
                hidden_act="relu2",
                attention_bias=False,
                mlp_bias=False,
                rope_theta=1000.0,
                rope_scaling=arcee_yarn,
            ),
            draw={r"down_proj": ("normal", 0.0, 0.3)},
        ),
        "seed_oss": bf16(
            base_config(
                "seed_oss",
                "SeedOssForCausalLM",
                head_dim=12,
                attention_bias=True,
                attention_out_bias=False,
                mlp_bias=False,
                rope_theta=10000000.0,
                rope_scaling={"rope_type": "default"},
            )
        ),
        "ernie4_5": bf16(
            base_config(
                "ernie4_5",
                "Ernie4_5ForCausalLM",
                head_dim=12,
                use_bias=False,
                rope_theta=500000.0,
                rope_scaling=None,
                tie_word_embeddings=True,
            )
        ),
        "hunyuan_v1_dense": bf16(hunyuan),
        "apertus": bf16(apertus, draw=xielu),
    }


def layer_norm_fixtures():
    """Mean-centred norms."""
    cohere2 = base_config(
        "cohere2",
        "Cohere2ForCausalLM",
        num_hidden_layers=4,
        hidden_size=24,
        intermediate_size=36,
        attention_bias=False,
        head_dim=6,
        layer_norm_eps=1e-5,
        layer_switch=4,
        logit_scale=0.75,
        order_of_interleaved_layers="local_attn_first",
        position_embedding_type="rope_gptj",
        rope_scaling=None,
        rope_theta=50000.0,
        rotary_pct=1.0,
        sliding_window=16,
        sliding_window_pattern=4,
        use_embedding_sharing=True,
        use_gated_activation=True,
        use_parallel_block=True,
    )
    stablelm = base_config(
        "stablelm",
        "StableLmForCausalLM",
        vocab_size=96,
        hidden_size=48,
        intermediate_size=26,
        layer_norm_eps=1e-5,
        num_attention_heads=3,
        num_key_value_heads=3,
        partial_rotary_factor=0.25,
        rope_theta=10000,
        use_qkv_bias=True,
    )
    stablelm = without(stablelm, "rms_norm_eps")
    neox = base_config(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        hidden_size=36,
        intermediate_size=52,
        num_attention_heads=3,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        rotary_emb_base=10000,
        rotary_pct=0.34,
        use_parallel_residual=True,
    )
    neox = without(neox, "rms_norm_eps", "num_key_value_heads")
    starcoder2 = base_config(
        "starcoder2",
        "Starcoder2ForCausalLM",
        hidden_act="gelu_pytorch_tanh",
        mlp_type="default",
        norm_epsilon=1e-5,
        norm_type="layer_norm",
        rope_theta=999999.4420358813,
        sliding_window=16,
        use_bias=True,
    )
    nemotron = base_config(
        "nemotron",
        "NemotronForCausalLM",
        head_dim=12,
        hidden_act="relu2",
        norm_eps=1e-5,
        partial_rotary_factor=0.5,
        rope_theta=10000,
        attention_bias=False,
        mlp_bias=False,
    )
    return {
        "cohere2": bf16(without(cohere2, "rms_norm_eps", "tie_word_embeddings")),
        "stablelm": bf16(stablelm | {"use_parallel_residual": False, "qk_layernorm": False}),
        "stablelm_parallel": bf16(
            stablelm
            | {
                "use_parallel_residual": True,
                "qk_layernorm": True,
                "num_key_value_heads": 1,
                "use_qkv_bias": False,
            }
        ),
        "gpt_neox": bf16(neox),
        "gpt_neox_sequential": bf16(neox | {"use_parallel_residual": False}),
        "starcoder2": bf16(without(starcoder2, "rms_norm_eps", "tie_word_embeddings")),
        "nemotron": bf16(without(nemotron, "rms_norm_eps"), draw={r"norm\.weight": ("uniform", -0.2, 0.2)}),
    }


def mistral3_fixtures():
    """Queries that grow with the position; alone and inside a model with vision."""
    rope = {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 8.0,
        "llama_4_scaling_beta": 0.37,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 10000.0,
        "rope_type": "yarn",
        "type": "yarn",
    }
    text = base_config("ministral3", "Ministral3ForCausalLM", head_dim=12, rope_parameters=rope, sliding_window=None)
    wrapper = Nested(
        "mistral3",
        "Mistral3ForConditionalGeneration",
        [("model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")],
        PIXTRAL,
        dtype="bfloat16",
        image_token_index=10,
        multimodal_projector_bias=False,
        projector_hidden_act="gelu",
        spatial_merge_size=2,
        vision_config={"head_dim": 4, "hidden_size": 4, "model_type": "pixtral", "num_hidden_layers": 1},
        vision_feature_layer=-1,
    )
    nested = text | {"hidden_size": 28, "intermediate_size": 44, "tie_word_embeddings": False}
    return {
        "ministral3": bf16_new(text),
        "mistral3": dict(config=nested, store="bfloat16", spelling="as_given", disk=wrapper),
    }
