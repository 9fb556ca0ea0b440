"""Decoders with experts and plain attention, and gpt-oss."""

import torch

from .common import GRANITE_DRAW, base_config, bf16, bf16_new

FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
BLOCK = 32


def mxfp4_encode(matrix):
    """[..., in] as blocks [..., in / 32, 16] of two 4-bit values a byte, low half first, and scales [..., in / 32]."""
    groups = matrix.float().unflatten(-1, (-1, BLOCK))
    exponents = groups.abs().amax(-1).log2().floor() - 2
    scaled = groups * (-exponents).exp2()[..., None]
    codes = (scaled.abs()[..., None] - FP4).abs().argmin(-1) + 8 * (scaled < 0)
    codes = codes.to(torch.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponents + 127).to(torch.uint8)


def mxfp4_decode(blocks, scales):
    """The values of such blocks, [..., in]."""
    codes = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()
    values = torch.cat([FP4, -FP4])[codes]
    return (values * (scales.float() - 127).exp2()[..., None]).flatten(-2)


class Mxfp4Experts:
    """The experts of gpt-oss as published: [experts, out, in] in MXFP4 instead of [experts, in, out]."""

    quantization = {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    }

    def encode(self, config, weights):
        """Blocks and scales in the place of the matrices."""
        packed = {}
        for name, tensor in weights.items():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                packed[f"{name}_blocks"], packed[f"{name}_scales"] = mxfp4_encode(tensor.transpose(1, 2))
            else:
                packed[name] = tensor
        return config | {"quantization_config": self.quantization}, packed

    def decode(self, config, weights):
        """The values that blocks and scales stand for."""
        plain = {}
        for name, tensor in weights.items():
            if name.endswith("_blocks"):
                stem = name.removesuffix("_blocks")
                values = mxfp4_decode(tensor, weights[f"{stem}_scales"])
                plain[stem] = values.transpose(1, 2).to(torch.bfloat16)
            elif not name.endswith("_scales"):
                plain[name] = tensor
        return {name: value for name, value in config.items() if name != "quantization_config"}, plain


def fixtures():
    """All of this module."""
    return moe_fixtures() | gpt_oss_fixtures()


def moe_fixtures():
    """Experts with the attention of a family without."""
    qwen2_moe = base_config(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        vocab_size=96,
        hidden_size=28,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        decoder_sparse_step=1,
        max_window_layers=1,
        mlp_only_layers=[1],
        moe_intermediate_size=16,
        norm_topk_prob=False,
        num_experts=4,
        num_experts_per_tok=2,
        output_router_logits=False,
        qkv_bias=True,
        router_aux_loss_coef=0.001,
        shared_expert_intermediate_size=24,
        sliding_window=16,
        use_sliding_window=False,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
    )
    mellum = base_config(
        "mellum",
        "MellumForCausalLM",
        vocab_size=96,
        hidden_size=28,
        num_hidden_layers=3,
        head_dim=12,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        mlp_layer_types=["sparse", "sparse", "dense"],
        moe_intermediate_size=18,
        norm_topk_prob=True,
        num_experts=4,
        num_experts_per_tok=2,
        sliding_window=16,
        rms_norm_eps=1e-6,
        rope_parameters={
            "full_attention": {
                "rope_type": "yarn",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 32.0,
                "beta_slow": 0.1,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
    )
    return {
        "olmoe": bf16(
            base_config(
                "olmoe",
                "OlmoeForCausalLM",
                vocab_size=96,
                intermediate_size=20,
                attention_bias=False,
                clip_qkv=None,
                norm_topk_prob=False,
                num_experts=5,
                num_experts_per_tok=2,
                output_router_logits=False,
                rope_scaling=None,
                rope_theta=10000.0,
            )
        ),
        "granitemoe": bf16(
            base_config(
                "granitemoe",
                "GraniteMoeForCausalLM",
                intermediate_size=20,
                attention_bias=False,
                attention_multiplier=0.21,
                embedding_multiplier=3.7,
                residual_multiplier=0.63,
                logits_scaling=0.8,
                num_experts_per_tok=2,
                num_local_experts=5,
                output_router_logits=False,
                rope_scaling=None,
                rope_theta=10000.0,
                tie_word_embeddings=True,
            ),
            draw=GRANITE_DRAW,
        ),
        "qwen2_moe": bf16(qwen2_moe),
        "mellum": bf16_new(mellum),
    }


def gpt_oss_fixtures():
    """The same model kind with plain experts and with experts as published."""
    config = base_config(
        "gpt_oss",
        "GptOssForCausalLM",
        vocab_size=96,
        head_dim=12,
        intermediate_size=32,
        attention_bias=True,
        experts_per_token=2,
        initial_context_length=128,
        layer_types=["sliding_attention", "full_attention"],
        num_experts_per_tok=2,
        num_local_experts=4,
        output_router_logits=False,
        # Some frequencies lie on the ramp, where it matters whether its ends are rounded.
        rope_scaling={
            "beta_fast": 8.0,
            "beta_slow": 1.0,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "rope_type": "yarn",
            "truncate": False,
        },
        rope_theta=1000,
        router_aux_loss_coef=0.9,
        sliding_window=16,
        # Low enough to clamp.
        swiglu_limit=1.1,
    )
    draw = {r"sinks$": ("normal", 2.0, 1.5)}
    return {
        "gpt_oss": bf16(config | {"intermediate_size": 24}, draw=draw),
        "gpt_oss_mxfp4": bf16(
            config | {"intermediate_size": 64, "num_attention_heads": 5, "num_key_value_heads": 1},
            draw=draw,
            disk=Mxfp4Experts(),
        ),
    }
