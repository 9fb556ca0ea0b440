"""Llama, Mistral, Mixtral, Qwen 2 and 3."""

from .common import LLAMA3_SCALING, base_config


def llama_fixtures():
    """Llama in the spellings and storage types that the hub has."""
    arch = "LlamaForCausalLM"
    rope = {"rope_theta": 10000.0, **LLAMA3_SCALING}
    return {
        # New spelling, tied, llama3 rotary: with head size 8 the four wavelengths hit all three of its branches.
        "llama": dict(config=base_config("llama", arch, tie_word_embeddings=True, rope_parameters=rope)),
        # Old spelling, biases everywhere, head size that is not hidden / heads, vocabulary of an odd size.
        "llama_bias": dict(
            config=base_config(
                "llama",
                arch,
                vocab_size=131,
                hidden_size=36,
                head_dim=12,
                attention_bias=True,
                mlp_bias=True,
                rope_theta=500000.0,
                rope_scaling=LLAMA3_SCALING | {"factor": 32.0},
                torch_dtype="float32",
                eos_token_id=[2, 3],
                rms_norm_eps=1e-6,
            ),
            spelling="as_given",
        ),
        "llama_sharded": dict(
            config=base_config("llama", arch, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
            store="bfloat16",
            shard_bytes=20_000,
        ),
        "llama_f16": dict(
            config=base_config("llama", arch, num_hidden_layers=3, rope_theta=10000.0, torch_dtype="float16"),
            store="float16",
            spelling="as_given",
        ),
    }


def mistral_fixtures():
    """Mistral with a window shorter than most prompts; Mixtral without one."""
    mixtral = base_config(
        "mixtral",
        "MixtralForCausalLM",
        intermediate_size=40,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=None,
        rope_theta=1000000.0,
        output_router_logits=False,
        router_aux_loss_coef=0.02,
        torch_dtype="bfloat16",
    )
    return {
        "mistral": dict(
            config=base_config(
                "mistral",
                "MistralForCausalLM",
                sliding_window=16,
                head_dim=8,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            )
        ),
        "mixtral": dict(config=mixtral, store="bfloat16", spelling="as_given"),
    }


def qwen_fixtures():
    """Qwen 2 and 3; `use_sliding_window` false must switch off the window that the config still names."""
    # The published configs carry a window beside use_sliding_window=false: it must not be applied.
    window = {"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 1}
    moe = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16}
    return {
        "qwen2": dict(
            config=base_config(
                "qwen2",
                "Qwen2ForCausalLM",
                tie_word_embeddings=True,
                rope_theta=1000000.0,
                rms_norm_eps=1e-6,
                torch_dtype="float32",
                **window,
            ),
            spelling="as_given",
        ),
        "qwen3": dict(
            config=base_config(
                "qwen3",
                "Qwen3ForCausalLM",
                head_dim=16,
                tie_word_embeddings=True,
                rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            )
        ),
        "qwen3_moe": dict(
            config=base_config(
                "qwen3_moe",
                "Qwen3MoeForCausalLM",
                norm_topk_prob=True,
                decoder_sparse_step=1,
                mlp_only_layers=[],
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                **moe,
            ),
            store="bfloat16",
        ),
        # Layers 0 and 2 dense by the step, 3 by mlp_only_layers, 1 sparse; chosen weights not renormalised.
        "qwen3_moe_mixed": dict(
            config=base_config(
                "qwen3_moe",
                "Qwen3MoeForCausalLM",
                num_hidden_layers=4,
                norm_topk_prob=False,
                decoder_sparse_step=2,
                mlp_only_layers=[3],
                rope_theta=1000000.0,
                rope_scaling=None,
                torch_dtype="bfloat16",
                **window,
                **moe,
            ),
            store="bfloat16",
            spelling="as_given",
        ),
    }


def fixtures():
    """All of this module."""
    return llama_fixtures() | mistral_fixtures() | qwen_fixtures()
