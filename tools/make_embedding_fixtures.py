#!/usr/bin/env python3
"""Write the embedding fixtures: tiny random sentence-transformers folders with the embeddings of a reference.

    python tools/make_embedding_fixtures.py [--out tests/fixtures/embeddings] [NAME ...]

Needs what make_parity_fixtures.py needs, from which the weights come in the same way. The reference is transformers'
base model (eager attention, f32), then what modules.json lists. The format is in tests/fixtures/embeddings/README.md.
"""

import argparse
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
import make_parity_fixtures as parity_fixtures  # noqa: E402
from parity.common import base_config, without  # noqa: E402
from parity.gemma import DRAW  # noqa: E402

PROMPTS = {
    "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
    "document": "",
}
GEMMA_PROMPTS = {"query": "task: search result | query: ", "document": "title: none | text: "}


def fixtures():
    """Config, pooling and the widths of dense layers, by name."""
    qwen3 = base_config(
        "qwen3",
        "Qwen3ForCausalLM",
        head_dim=12,
        hidden_size=28,
        num_attention_heads=4,
        attention_bias=False,
        max_window_layers=2,
        rms_norm_eps=1e-6,
        rope_scaling=None,
        rope_theta=1000000,
        sliding_window=None,
        tie_word_embeddings=True,
        use_sliding_window=False,
        torch_dtype="bfloat16",
    )
    # The window of the file, 16, is halved: |i - j| < 9.
    gemma = base_config(
        "gemma3_text",
        "Gemma3TextModel",
        head_dim=12,
        hidden_size=28,
        num_hidden_layers=3,
        _sliding_window_pattern=6,
        attention_bias=False,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        hidden_activation="gelu_pytorch_tanh",
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        num_key_value_heads=1,
        query_pre_attn_scalar=14,
        rms_norm_eps=1e-6,
        rope_local_base_freq=500.0,
        rope_scaling=None,
        rope_theta=50000.0,
        sliding_window=16,
        use_bidirectional_attention=True,
        dtype="bfloat16",
    )
    gemma = without(gemma, "hidden_act", "tie_word_embeddings")
    return {
        "qwen3_embedding": dict(config=qwen3, pooling="lasttoken", dense=(), prompts=PROMPTS, draw={}),
        "embeddinggemma": dict(config=gemma, pooling="mean_tokens", dense=(44, 28), prompts=GEMMA_PROMPTS, draw=DRAW),
    }


def write_model(name, spec, directory):
    """The transformer: config and weights, named as published ones, without a prefix."""
    parity_fixtures.write_json(directory / "config.json", spec["config"])
    config = transformers.AutoConfig.from_pretrained(directory)
    model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    weights = {}
    for tensor_name, tensor, module in parity_fixtures.stored_tensors(model):
        centre, draw = (
            parity_fixtures.gain_centre(tensor_name, tensor, module),
            parity_fixtures.first_match(spec["draw"], f"model.{tensor_name}"),
        )
        values = parity_fixtures.random_tensor(name, tensor_name, tuple(tensor.shape), centre, draw)
        weights[tensor_name] = values.to(torch.bfloat16)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def write_modules(name, spec, directory):
    """modules.json and the folders that it names."""
    hidden = spec["config"]["hidden_size"]
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {f"pooling_mode_{mode}": mode == spec["pooling"] for mode in modes}
    pooling = {"word_embedding_dimension": hidden, **pooling, "include_prompt": True}
    (directory / "1_Pooling").mkdir()
    parity_fixtures.write_json(directory / "1_Pooling/config.json", pooling)
    paths = ["", "1_Pooling"]
    for index, width in enumerate(spec["dense"], 2):
        path = directory / f"{index}_Dense"
        path.mkdir()
        identity = "torch.nn.modules.linear.Identity"
        dense = {"in_features": hidden, "out_features": width, "bias": False, "activation_function": identity}
        parity_fixtures.write_json(path / "config.json", dense)
        weight = parity_fixtures.random_tensor(name, f"{index}_Dense.linear.weight", (width, hidden)).to(torch.bfloat16)
        save_file({"linear.weight": weight}, path / "model.safetensors", metadata={"format": "pt"})
        paths.append(path.name)
        hidden = width
    paths.append(f"{len(paths)}_Normalize")
    kinds = [path.partition("_")[2] or "Transformer" for path in paths]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    parity_fixtures.write_json(directory / "modules.json", modules)
    settings = {"prompts": spec["prompts"], "default_prompt_name": None, "similarity_fn_name": "cosine"}
    parity_fixtures.write_json(directory / "config_sentence_transformers.json", settings)


def embed(directory, pooling, dtype):
    """A function from token ids to pooled hidden state and embedding, run in `dtype` on the folder."""
    model = transformers.AutoModel.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()
    dense = [load_file(path)["linear.weight"].to(dtype) for path in sorted(directory.glob("*_Dense/model.safetensors"))]

    def run(ids):
        hidden = model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        pooled = hidden[-1] if pooling == "lasttoken" else hidden.mean(0)
        value = pooled
        for weight in dense:
            value = weight @ value
        return pooled.float(), torch.nn.functional.normalize(value.float(), dim=0)

    return run


def make_fixture(name, spec, directory):
    """Write one folder anew."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    write_model(name, spec, directory)
    write_modules(name, spec, directory)
    run, rounded = (embed(directory, spec["pooling"], dtype) for dtype in (torch.float32, torch.bfloat16))
    cases, tensors, cosines = [], {}, []
    for index, length in enumerate(parity_fixtures.PROMPT_LENS):
        rng = np.random.default_rng([zlib.crc32(name.encode()), index])
        ids = rng.integers(3, spec["config"]["vocab_size"], length).tolist()
        pooled, embedding = run(ids)
        cases.append({"prompt": ids})
        tensors |= {f"case{index}.pooled": pooled, f"case{index}.embedding": embedding}
        cosines.append(float(embedding @ rounded(ids)[1]))
    reference = {
        "family": spec["config"]["model_type"],
        "transformers_version": transformers.__version__,
        "stored_dtype": "bfloat16",
        "cases": cases,
        "bf16_min_cosine": round(min(cosines), 6),
    }
    parity_fixtures.write_json(directory / "reference.json", reference)
    save_file(tensors, directory / "reference.safetensors")
    cosine = reference["bf16_min_cosine"]
    pairs = torch.stack([tensors[f"case{i}.embedding"] for i in range(len(cases))])
    apart = (pairs @ pairs.T).fill_diagonal_(-1).max()
    print(f"{name:20} bf16 min cosine {cosine:.6f}  closest two embeddings {apart:.3f}")


def main():
    """Make the named fixtures, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    specs = fixtures()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(specs)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests/fixtures/embeddings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in arguments.names or specs:
        make_fixture(name, specs[name], arguments.out / name)


if __name__ == "__main__":
    main()
