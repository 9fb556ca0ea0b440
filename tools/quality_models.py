"""Writes what `astrai quality` can be run on: held-out text of the storyteller, and a random model with structure.

    python tools/quality_models.py OUT

needs numpy and tokenizers. OUT/heldout.txt are chats and tales whose (name, place, object) the training set does not hold,
as the storyteller reads them, special tokens included. OUT/structured is a llama of 26 million parameters that nobody has
trained: its matrices have decaying spectra and heavy tails, some hidden channels are tens of times larger than others, as
in trained models, and its logits are spread as widely as theirs. It has no tokenizer:

    astrai quality --model models/storyteller --weights q4 --text OUT/heldout.txt
    astrai quality --model OUT/structured --weights q4 --random 8192
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from storyteller import grammar  # noqa: E402

SEED = 4242
DOCUMENTS = 160
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408,
    "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 4096,
    "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1,
}


def write_safetensors(path, tensors):
    """`tensors`: name -> (dtype name, array of raw elements)."""
    header, offset = {}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in tensors.values():
            file.write(array.tobytes())


def bf16(values):
    """Rounded to nearest even, as raw bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + ((bits >> 16) & 1) + 0x7FFF) >> 16).astype(np.uint16)


def matrix(rng, outs, ins, columns):
    """Heavy-tailed noise plus directions of falling weight, each input scaled by the inverse of its channel's size."""
    noise = rng.standard_t(6, (outs, ins)) * np.sqrt(4 / 6)
    rank = min(outs, ins) // 4
    spectrum = np.arange(1, rank + 1) ** -0.7
    low = (rng.standard_normal((outs, rank)) * spectrum) @ rng.standard_normal((rank, ins))
    low *= 0.7 / low.std()
    return (noise + low) / np.sqrt(1.49 * ins) / np.sqrt(columns)


def structured(folder):
    """The random model."""
    rng = np.random.default_rng(SEED)
    hidden, inner, vocab = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    kv = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    tensors = {}

    def add(name, values):
        tensors[name + ".weight"] = ("BF16", bf16(values))

    def gain():
        sizes = np.exp(0.3 * rng.standard_normal(hidden))
        sizes[rng.choice(hidden, 6, replace=False)] *= rng.uniform(10, 30, 6)
        return sizes

    add("model.embed_tokens", rng.standard_t(6, (vocab, hidden)) * 0.7)
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        first, second = gain(), gain()
        add(at + "input_layernorm", first)
        add(at + "self_attn.q_proj", 0.7 * matrix(rng, hidden, hidden, first))
        add(at + "self_attn.k_proj", 0.7 * matrix(rng, kv, hidden, first))
        add(at + "self_attn.v_proj", matrix(rng, kv, hidden, first))
        add(at + "self_attn.o_proj", 0.3 * matrix(rng, hidden, hidden, np.ones(hidden)))
        add(at + "post_attention_layernorm", second)
        add(at + "mlp.gate_proj", 0.7 * matrix(rng, inner, hidden, second))
        add(at + "mlp.up_proj", matrix(rng, inner, hidden, second))
        add(at + "mlp.down_proj", 0.3 * matrix(rng, hidden, inner, np.ones(inner)))
    last = gain()
    add("model.norm", last)
    add("lm_head", 0.6 * matrix(rng, vocab, hidden, last))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    write_safetensors(folder / "model.safetensors", tensors)


def heldout():
    """Chats and tales one after the other."""
    parts = []
    for index in range(DOCUMENTS):
        doc = grammar.document(SEED, index, want_held_out=True, kind=["tale", "inn"][index % 4 == 3])
        parts.append("<|bos|>" + "".join(f"<|{m['role']}|>{m['content'].strip()}<|end|>" for m in doc.messages))
    return "".join(parts)


def main():
    """Writes both."""
    out = Path(sys.argv[1])
    structured(out / "structured")
    (out / "heldout.txt").write_text(heldout())


if __name__ == "__main__":
    main()
