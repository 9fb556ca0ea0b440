"""Measures on a real model what quantizing costs, beside llama.cpp's types: the first table of docs/quality.md.

    python tools/quality_real.py OUT [--astrai PROGRAM] [--quantize LLAMA_QUANTIZE] [--tokens N]

needs numpy and gguf; `make real` has brought the model. LLAMA_QUANTIZE is llama.cpp's `llama-quantize`, as tools/compare builds it;
without it only this library's formats are measured.

The model comes as Q4_1. Values that lie on the grid of a 4-bit format would favour formats with the same grid, so each weight is
moved by a random part of its step, as if it had been rounded to it: OUT/dithered.gguf, in bf16. All formats are made of that file,
and are compared with it, all as the engine runs them by default. The text is the reference manual of Python that comes with the interpreter.
"""

import argparse
import json
import os
import pydoc_data.topics
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SEED = 20261129
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
OURS = ("q8", "q5", "q4")
# llama.cpp's types with a block of 32 weights, which every row of this model is a multiple of; then its own mixture, with what it
# takes instead where rows are no multiple of 256.
TYPES = ("Q8_0", "Q5_1", "Q5_0", "IQ4_NL", "Q4_1", "Q4_0")
MIXTURE = "Q4_K_M"


def dithered(source, target):
    """The file with every matrix in bf16, each weight moved by up to half a step of its block."""
    reader, rng = gguf.GGUFReader(source), np.random.default_rng(SEED)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim == 2:
            # The step of a block is the smallest difference of its values.
            blocks = np.sort(values.reshape(-1, 32), axis=1)
            steps = np.diff(blocks, axis=1)
            step = np.where(steps > 1e-7, steps, np.inf).min(axis=1, keepdims=True)
            step[~np.isfinite(step)] = 0
            values = (values.reshape(-1, 32) + (rng.random((len(step), 32)) - 0.5) * step).reshape(values.shape)
            bits = values.astype(np.float32).view(np.uint32)
            bits = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
            writer.add_tensor(tensor.name, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def bits(path):
    """Bits a weight of the layers' matrices."""
    layers = [t for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2 and t.name.startswith("blk.")]
    return sum(int(t.n_bytes) * 8 for t in layers) / sum(int(np.prod(t.shape)) for t in layers)


def own_bits(path, weights):
    """The same of a recipe of this library: 8.5 and 4.5 bits, and which matrices have which."""
    total = elements = 0
    reader = gguf.GGUFReader(path)
    layers = next(field.contents() for name, field in reader.fields.items() if name.endswith(".block_count"))
    for tensor in reader.tensors:
        if len(tensor.shape) != 2 or not tensor.name.startswith("blk."):
            continue
        layer, name = int(tensor.name.split(".")[1]), tensor.name.split(".")[2]
        first, last = layers // 8, 7 * layers // 8
        matters = layer < first or layer >= last or (layer - first) % 2 == 0
        eight = weights == "q8" or name == "attn_v" or weights == "q5" and (name == "attn_k" or name == "ffn_down" and matters)
        total += int(np.prod(tensor.shape)) * (8.5 if eight else 4.5)
        elements += int(np.prod(tensor.shape))
    return total / elements


def measured(program, model, against, text, tokens, weights=None):
    command = [program, "quality", "--model", model, "--against", against, "--text", text, "--limit", tokens,
               *(["--weights", weights] if weights else [])]
    return json.loads(subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--astrai", default=ROOT / "target/release/astrai")
    parser.add_argument("--quantize", type=Path)
    parser.add_argument("--tokens", type=int, default=51200)
    parser.add_argument("--only", help="formats, comma-separated")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    source = Path(os.environ.get("ASTRAI_REAL_MODELS") or Path.home() / ".cache/astrai/real") / MODEL
    if not source.exists():
        sys.exit(f"error: there is no {source}: `make real` brings it")
    base, text = options.out / "dithered.gguf", options.out / "manual.txt"
    if not base.exists():
        dithered(source, base)
    topics = pydoc_data.topics.topics
    text.write_text("\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")

    rows = [(name, base, name, own_bits(base, name)) for name in OURS]
    if options.quantize:
        for kind in (*TYPES, MIXTURE):
            # The embedding, which is the output matrix too, has 8 bits in every row but the mixture's, as this library makes it.
            pure = [] if kind == MIXTURE else ["--pure", "--token-embedding-type", "q8_0"]
            path = options.out / f"{kind}.gguf"
            if not path.exists():
                command = [options.quantize, *pure, base, path, kind]
                subprocess.run([str(part) for part in command], check=True, capture_output=True)
            rows.append((kind, path, None, bits(path)))
    print("| | bits of the layers | divergence | same likeliest token | perplexity |\n|---|---|---|---|---|", flush=True)
    for name, model, weights, width in rows:
        if options.only and name not in options.only.split(","):
            continue
        found = measured(options.astrai, model, base, text, options.tokens, weights)
        print(f"| {name} | {width:.2f} | {found['divergence']:.4f} ± {found['divergence_error']:.4f} "
              f"| {found['same_top']:.1%} | {found['perplexity']:.3f} ({found['perplexity_against']:.3f}) |", flush=True)


main()
