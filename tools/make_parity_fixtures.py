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
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
import astrai_reference  # noqa: E402
from parity import FIXTURES  # noqa: E402

PROMPT_LENS = (1, 7, 40, 170)
GENERATED_LEN = 8
TOP = 16
DENSE_POSITIONS = 12
DIRECTORY_BYTES_MAX = 200_000
# A greedy choice whose lead over the runner-up is smaller than this could flip by rounding: take other prompts.
GREEDY_MARGIN_MIN = 0.02


def random_tensor(fixture, name, shape, gain_centre=None, draw=None):
    """A tensor with a spread large enough that a wrong mask, rotation or norm shows in the logits.

    `gain_centre` is 1 for the gain of a norm (0 where the norm adds 1 to it), None for any other tensor. `draw` is
    `(kind, a, b)`: normal with mean a and deviation b, uniform from a to b, or log, the logarithm of uniform.
    """
    rng = np.random.default_rng([zlib.crc32(fixture.encode()), zlib.crc32(name.encode())])
    leaf = name.rsplit(".", 1)[0]
    if draw:
        kind, a, b = draw
        values = rng.normal(a, b, shape) if kind == "normal" else rng.uniform(a, b, shape)
        values = np.log(values) if kind == "log" else values
    elif name.endswith("bias"):
        values = rng.normal(0.0, 0.2, shape)
    elif gain_centre is not None:
        values = gain_centre + rng.uniform(-0.2, 0.2, shape)
    else:
        values = rng.normal(0.0, weight_std(leaf), shape)
    return torch.from_numpy(np.asarray(values).astype(np.float32))


def weight_std(leaf):
    """Sharper attention and routing than 0.15 gives at these widths, and logits some nats apart."""
    is_router = leaf.endswith("router") or (leaf.startswith("model.") and leaf.endswith("mlp.gate"))
    if is_router or leaf.endswith(("q_proj", "k_proj", "kv_b_proj")):
        return 0.3
    if leaf.endswith(("embed_tokens", "lm_head")):
        return 0.4
    return 0.15


def stored_tensors(model):
    """Name, tensor and module of everything that a checkpoint of `model` holds, what is tied once."""
    stored = set(model.state_dict())
    modules = dict(model.named_modules())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in stored:
            yield name, tensor, modules[name.rpartition(".")[0]]


def gain_centre(name, tensor, module):
    """What a new model has in the gain of a norm, 1 or 0; None for tensors that are no such gain."""
    if "Norm" not in type(module).__name__ or not name.endswith(".weight"):
        return None
    centre = float(tensor.mean())
    assert centre in (0.0, 1.0) and not tensor.std(correction=0), f"{name}: not the gain of a norm"
    return centre


def first_match(table, name):
    """The value of the first pattern in `table` that is found in `name`."""
    return next((value for pattern, value in (table or {}).items() if re.search(pattern, name)), None)


def write_transformers_checkpoint(name, spec, directory):
    """Config and random weights of a transformers fixture, saved by transformers under the hub's tensor names."""
    directory.mkdir(parents=True)
    write_json(directory / "config.json", spec["config"])
    config = transformers.AutoConfig.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    dtype, keep_f32 = getattr(torch, spec.get("store", "float32")), spec.get("keep_f32")
    for tensor_name, tensor, module in stored_tensors(model):
        centre, draw = gain_centre(tensor_name, tensor, module), first_match(spec.get("draw"), tensor_name)
        values = random_tensor(name, tensor_name, tuple(tensor.shape), centre, draw)
        tensor.data = values if keep_f32 and re.search(keep_f32, tensor_name) else values.to(dtype)
    model.save_pretrained(directory, max_shard_size=spec.get("shard_bytes", "1GB"))
    if spec.get("spelling") == "as_given":
        write_json(directory / "config.json", spec["config"])
    if "disk" in spec:
        rewrite_checkpoint(directory, directory, spec["disk"].encode)


def rewrite_checkpoint(source, target, rewrite):
    """The checkpoint in `source` as `rewrite` changes its config and weights, written to `target`."""
    config = json.loads((source / "config.json").read_text())
    config, weights = rewrite(config, load_file(source / "model.safetensors"))
    weights = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    write_json(target / "config.json", config)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def write_astrai_checkpoint(name, spec, directory):
    """Config and random weights of an AstrAI fixture."""
    directory.mkdir(parents=True)
    write_json(directory / "config.json", spec["config"])
    dtype = getattr(torch, spec["store"])
    shapes = astrai_reference.tensor_shapes(spec["config"])
    centres = {n: 1.0 if n.endswith("norm.weight") else None for n in shapes}
    weights = {n: random_tensor(name, n, shape, centres[n]).to(dtype) for n, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def transformers_logits(spec, directory, dtype):
    """A function from token ids to logits [T, V], run in `dtype` on the checkpoint in `directory`."""
    if "disk" in spec:
        with tempfile.TemporaryDirectory() as plain:
            rewrite_checkpoint(directory, Path(plain), spec["disk"].decode)
            return transformers_logits({}, Path(plain), dtype)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    model.eval()
    return lambda ids: model(torch.tensor([ids]), use_cache=False).logits[0]


def astrai_logits(_spec, directory, dtype):
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
    cases = make_cases(name, run(spec, directory, torch.float32), spec["config"]["vocab_size"])
    reference = {
        "family": json.loads((directory / "config.json").read_text()).get("model_type", "autoregressive_lm"),
        "transformers_version": None if spec.get("astrai") else transformers.__version__,
        "stored_dtype": spec.get("store", "float32"),
        "min_greedy_margin": round(min(case[2] for case in cases), 6),
        "cases": [
            {"prompt": ids[:length], "generated": ids[length:]}
            for length, (ids, _, _) in zip(PROMPT_LENS, cases, strict=True)
        ],
        "bf16": bf16_deltas(cases, run(spec, directory, torch.bfloat16)),
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
        f"{name:20} {size:7} bytes  margin {margin:.3f}  bf16 mean {bf16['bf16_mean_abs_delta']:.4f} "
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
