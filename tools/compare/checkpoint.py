"""The random-weight checkpoint that every engine is measured on: a model folder as Hugging Face has it.

Shape, tensor names and weights come from `astrai bench --shape NAME --save DIR`, so that they are the ones `astrai bench`
makes in memory. What other engines want besides is added here: the class name in config.json, a tokenizer of the right
size, a generation config. Everything is seeded. Runs in the work folder's Python, which has `tokenizers`.
"""

import json
import pathlib
import subprocess
import sys

# model_type of config.json to the class transformers has for it.
ARCHITECTURES = {
    "gemma3_text": "Gemma3ForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
}
END = "<|endoftext|>"


def byte_symbols():
    """How byte-level BPE writes the 256 bytes as printable characters (the GPT-2 table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return [table[byte] for byte in range(256)]


def vocabulary(size):
    """Tokens and merges of a byte-level BPE with `size` tokens, the last of which ends a text: all bytes, then pairs,
    then pairs and a byte. Each beyond the bytes is one merge, as in a trained vocabulary."""
    symbols = byte_symbols()
    if size < len(symbols) + 1:
        raise SystemExit(f"compare: a vocabulary of {size} has no room for 256 bytes and an end token")
    tokens, merges = list(symbols), []
    level = symbols
    while len(tokens) < size - 1:
        longer = []
        for left in level:
            for right in symbols:
                if len(tokens) == size - 1:
                    break
                tokens.append(left + right)
                merges.append((left, right))
                longer.append(left + right)
        level = longer
    return [*tokens, END], merges


def write_tokenizer(folder, size):
    """tokenizer.json and tokenizer_config.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = vocabulary(size)
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END, "bos_token": None}
    write_json(folder / "tokenizer_config.json", config)


def spelt_out(config):
    """What a family leaves to its defaults, and others want to read."""
    layers = range(config["num_hidden_layers"])
    if config["model_type"] == "lfm2":
        attends = config["full_attn_idxs"]
        return {"layer_types": ["full_attention" if i in attends else "conv" for i in layers], "conv_L_cache": 3,
                "conv_bias": False, "block_auto_adjust_ff_dim": True, "block_ffn_dim_multiplier": 1.0,
                "block_multiple_of": 256, "norm_eps": 1e-5}
    if config["model_type"] == "qwen3_5_text":
        return {"layer_types": ["linear_attention" if (i + 1) % 4 else "full_attention" for i in layers],
                "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
                "linear_num_key_heads": 16, "full_attention_interval": 4,
                "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"],
                                    "partial_rotary_factor": config["partial_rotary_factor"]}}
    if config["model_type"] == "gemma3_text":
        return {"layer_types": ["sliding_attention" if (i + 1) % 6 else "full_attention" for i in layers]}
    return {}


def complete_config(config):
    """config.json with what transformers needs to choose a class and to end a text; as it is where others have no such
    class, and can only be skipped."""
    model_type = config["model_type"]
    if model_type not in ARCHITECTURES:
        return config
    end = config["vocab_size"] - 1
    return {**config, **spelt_out(config), "architectures": [ARCHITECTURES[model_type]], "attention_bias": model_type == "qwen2",
            "bos_token_id": None, "eos_token_id": end, "use_cache": True}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main(astrai, shape, seed, folder):
    """Makes `folder`; a marker written last says that it is whole."""
    folder = pathlib.Path(folder)
    command = [astrai, "bench", "--shape", shape, "--seed", seed, "--save", str(folder)]
    subprocess.run(command, check=True)
    path = folder / "config.json"
    config = complete_config(json.loads(path.read_text(encoding="utf-8")))
    write_json(path, config)
    write_json(folder / "generation_config.json", {"eos_token_id": config["eos_token_id"], "do_sample": False})
    write_tokenizer(folder, config["vocab_size"])


if __name__ == "__main__":
    main(*sys.argv[1:])
