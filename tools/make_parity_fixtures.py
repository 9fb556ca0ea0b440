#!/usr/bin/env python3
"""Write the parity fixtures: tiny random checkpoints with what a reference implementation computes from them.

    python tools/make_parity_fixtures.py [--out tests/fixtures/parity] [NAME ...]

Needs torch, transformers, safetensors and numpy. The transformers families are run by transformers itself (eager
attention, eager experts, f32); AstrAI by `astrai_reference.py`. Weights come from numpy generators seeded by fixture
and tensor name, so one fixture does not depend on another. The checkpoint is read back from disk before it is run:
what is measured is what the directory holds. The format of the result is in tests/fixtures/parity/README.md.
"""

import argparse
import copy
import json
import re
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
import astrai_reference  # noqa: E402

PROMPT_LENS = (1, 7, 40, 170)
GENERATED_LEN = 8
TOP = 16
DENSE_POSITIONS = 12
DIRECTORY_BYTES_MAX = 200_000
# A greedy choice whose lead over the runner-up is smaller than this could flip by rounding: take other prompts.
GREEDY_MARGIN_MIN = 0.02

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def base_config(model_type, architecture, **fields):
    """The fields every transformers fixture shares, overridden by `fields`."""
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "use_cache": True,
    }
    return config | fields


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


def astrai_fixtures():
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


FIXTURES = llama_fixtures() | mistral_fixtures() | qwen_fixtures() | astrai_fixtures()


def random_tensor(fixture, name, shape):
    """A tensor with a spread large enough that a wrong mask, rotation or norm shows in the logits."""
    rng = np.random.default_rng([zlib.crc32(fixture.encode()), zlib.crc32(name.encode())])
    leaf = name.rsplit(".", 1)[0]
    if leaf.endswith("norm"):
        values = 1.0 + rng.uniform(-0.2, 0.2, shape)
    elif name.endswith("bias"):
        values = rng.normal(0.0, 0.2, shape)
    else:
        values = rng.normal(0.0, weight_std(leaf), shape)
    return torch.from_numpy(values.astype(np.float32))


def weight_std(leaf):
    """Sharper attention and routing than 0.15 gives at these widths, and logits some nats apart."""
    is_router = leaf.endswith("router") or (leaf.startswith("model.") and leaf.endswith("mlp.gate"))
    if is_router or leaf.endswith(("q_proj", "k_proj", "kv_b_proj")):
        return 0.3
    if leaf.endswith(("embed_tokens", "lm_head")):
        return 0.4
    return 0.15


def write_transformers_checkpoint(name, spec, directory):
    """Config and random weights of a transformers fixture, saved by transformers under the hub's tensor names."""
    directory.mkdir(parents=True)
    write_json(directory / "config.json", spec["config"])
    config = transformers.AutoConfig.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for tensor_name, parameter in model.named_parameters():
            parameter.copy_(random_tensor(name, tensor_name, tuple(parameter.shape)))
    model = model.to(getattr(torch, spec.get("store", "float32")))
    model.save_pretrained(directory, max_shard_size=spec.get("shard_bytes", "1GB"))
    if spec.get("spelling") == "as_given":
        write_json(directory / "config.json", spec["config"])


def write_astrai_checkpoint(name, spec, directory):
    """Config and random weights of an AstrAI fixture."""
    directory.mkdir(parents=True)
    write_json(directory / "config.json", spec["config"])
    dtype = getattr(torch, spec["store"])
    shapes = astrai_reference.tensor_shapes(spec["config"])
    weights = {n: random_tensor(name, n, shape).to(dtype) for n, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def transformers_logits(directory, dtype):
    """A function from token ids to logits [T, V], run in `dtype` on the checkpoint in `directory`."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    model.eval()
    return lambda ids: model(torch.tensor([ids]), use_cache=False).logits[0]


def astrai_logits(directory, dtype):
    """The same for AstrAI."""
    config = json.loads((directory / "config.json").read_text())
    weights = {n: t.to(dtype) for n, t in load_file(directory / "model.safetensors").items()}
    return lambda ids: astrai_reference.forward(config, weights, torch.tensor(ids))


def make_case(logits, prompt):
    """Greedy continuation of `prompt`, the log-probabilities of the whole, and the smallest greedy lead."""
    ids, margin = list(prompt), float("inf")
    for _ in range(GENERATED_LEN):
        best = logits(ids)[-1].float().topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids, logits(ids).float().log_softmax(-1), margin


def make_cases(name, logits, vocab):
    """One case per prompt length, from the first seed for which no greedy choice is a near tie."""
    cases = []
    for index, length in enumerate(PROMPT_LENS):
        for attempt in range(1000):
            rng = np.random.default_rng([zlib.crc32(name.encode()), index, attempt])
            case = make_case(logits, rng.integers(3, vocab, length).tolist())
            if case[2] >= GREEDY_MARGIN_MIN and len(set(case[0][length:])) > 1:
                break
        else:
            raise SystemExit(f"{name}: every prompt of {length} tokens has a near tie or repeats one token")
        cases.append(case)
    return cases


def dense_positions(count):
    """Positions whose whole distribution is kept: all of a short case, else a spread one plus the last four."""
    if count <= DENSE_POSITIONS:
        return list(range(count))
    spread = np.linspace(0, count - 5, DENSE_POSITIONS - 4).round().astype(int).tolist()
    return spread + list(range(count - 4, count))


def reference_tensors(index, ids, logprobs):
    """The stored part of one case's log-probabilities."""
    top = logprobs.topk(TOP)
    dense = torch.tensor(dense_positions(len(ids)))
    following = torch.tensor(ids[1:])
    return {
        f"case{index}.top_ids": top.indices.to(torch.int32),
        f"case{index}.top_logprobs": top.values.contiguous(),
        f"case{index}.next_logprobs": logprobs[:-1].gather(1, following[:, None])[:, 0].contiguous(),
        f"case{index}.dense_positions": dense.to(torch.int32),
        f"case{index}.dense_logprobs": logprobs[dense].contiguous(),
    }


def bf16_deltas(cases, logits):
    """How far the reference itself moves in bf16: |logprob - f32 logprob| over the stored top ids, teacher-forced."""
    deltas, agree = [], []
    for ids, logprobs, _ in cases:
        rounded = logits(ids).float().log_softmax(-1)
        top = logprobs.topk(TOP)
        deltas.append((rounded.gather(1, top.indices) - top.values).abs().flatten())
        agree.append(rounded.argmax(-1) == logprobs.argmax(-1))
    deltas, agree = torch.cat(deltas), torch.cat(agree).float()
    return {
        "bf16_mean_abs_delta": round(float(deltas.mean()), 6),
        "bf16_median_abs_delta": round(float(deltas.median()), 6),
        "bf16_p99_abs_delta": round(float(deltas.quantile(0.99)), 6),
        "bf16_max_abs_delta": round(float(deltas.max()), 6),
        "bf16_top1_agreement": round(float(agree.mean()), 6),
        "compared": deltas.numel(),
    }


def make_fixture(name, spec, directory):
    """Write one fixture directory anew."""
    shutil.rmtree(directory, ignore_errors=True)
    write, run = write_transformers_checkpoint, transformers_logits
    if spec.get("astrai"):
        write, run = write_astrai_checkpoint, astrai_logits
    write(name, copy.deepcopy(spec), directory)
    cases = make_cases(name, run(directory, torch.float32), spec["config"]["vocab_size"])
    reference = {
        "family": spec["config"].get("model_type", "autoregressive_lm"),
        "transformers_version": None if spec.get("astrai") else transformers.__version__,
        "stored_dtype": spec.get("store", "float32"),
        "min_greedy_margin": round(min(case[2] for case in cases), 6),
        "cases": [
            {"prompt": ids[:length], "generated": ids[length:]}
            for length, (ids, _, _) in zip(PROMPT_LENS, cases, strict=True)
        ],
        "bf16": bf16_deltas(cases, run(directory, torch.bfloat16)),
    }
    write_json(directory / "reference.json", reference)
    tensors = {}
    for index, (ids, logprobs, _) in enumerate(cases):
        tensors |= reference_tensors(index, ids, logprobs)
    save_file(tensors, directory / "reference.safetensors")
    size = sum(f.stat().st_size for f in directory.iterdir())
    assert size <= DIRECTORY_BYTES_MAX, f"{name}: {size} bytes"
    margin, bf16 = reference["min_greedy_margin"], reference["bf16"]
    print(
        f"{name:16} {size:7} bytes  margin {margin:.3f}  bf16 mean {bf16['bf16_mean_abs_delta']:.4f} "
        f"median {bf16['bf16_median_abs_delta']:.4f} p99 {bf16['bf16_p99_abs_delta']:.4f}"
    )


def write_json(path, value):
    """Indented JSON, with lists of numbers on one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    text = re.sub(
        r"\[[\s\d,]*\]", lambda match: re.sub(r"\s+", " ", match[0]).replace("[ ", "[").replace(" ]", "]"), text
    )
    path.write_text(text + "\n")


def main():
    """Make the named fixtures, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(FIXTURES)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests/fixtures/parity")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in arguments.names or FIXTURES:
        make_fixture(name, FIXTURES[name], arguments.out / name)


if __name__ == "__main__":
    main()
