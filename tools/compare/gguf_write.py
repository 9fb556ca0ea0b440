"""A model folder of random weights as a bf16 GGUF file, with the `gguf` package: gguf_write.py FOLDER FILE.

llama.cpp's own converter goes by a list of known tokenizers and refuses all others, so a checkpoint with a tokenizer of
its own needs this. Norms and biases are f32, matrices bf16, as the converter has them. Dense Llama, Mistral, Qwen2 and 3,
Gemma 3, LFM2 and Qwen3.5 only.
"""

import json
import math
import pathlib
import sys

import gguf
import numpy

from checkpoint import vocabulary

# model_type to GGUF's architecture. Mistral is Llama there.
ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3",
                 "gemma3_text": "GEMMA3", "lfm2": "LFM2", "qwen3_5_text": "QWEN35"}
# Those whose checkpoints store the gains of norms less one, but for the norm behind a recurrence.
WHOLE_GAINS = ("GEMMA3", "QWEN35")


def tensors(path):
    """Names, shapes and bf16 bits of a safetensors file, mapped."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = numpy.memmap(path, dtype=numpy.uint8, mode="r", offset=8 + length)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise SystemExit(f"compare: {path}: {name} is {entry['dtype']}, expected BF16")
        begin, end = entry["data_offsets"]
        yield name, data[begin:end].view(numpy.uint16).reshape(entry["shape"])


def interleaved(weight, heads):
    """Rows of a query or key projection in the order of GGUF's Llama, which rotates neighbours instead of halves."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, rows, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def rope_factors(config, head_dim):
    """What Llama 3 divides each frequency by; None for other models."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return None
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (i / head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return numpy.array(factors, dtype=numpy.float32)


def write_metadata(writer, config, head_dim):
    writer.add_name("random")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    tokens, merges = vocabulary(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    types = [gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL]
    writer.add_token_types(types)
    writer.add_eos_token_id(len(tokens) - 1)


def write_own_metadata(writer, name, config, head_dim):
    """The keys of one architecture alone."""
    if name == "GEMMA3":
        writer.add_sliding_window(config["sliding_window"])
    if name == "LFM2":
        attends = [kind == "full_attention" for kind in config["layer_types"]]
        writer.add_head_count_kv([config["num_key_value_heads"] if here else 0 for here in attends])
        writer.add_shortconv_l_cache(config["conv_L_cache"])
        width = -(-(2 * config["block_ff_dim"] // 3) // config["block_multiple_of"]) * config["block_multiple_of"]
        writer.add_feed_forward_length(width)
    if name == "QWEN35":
        writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        writer.add_ssm_state_size(config["linear_key_head_dim"])
        writer.add_ssm_group_count(config["linear_num_key_heads"])
        writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
        writer.add_ssm_inner_size(config["linear_num_value_heads"] * config["linear_value_head_dim"])
        writer.add_full_attention_interval(config["full_attention_interval"])
        writer.add_rope_dimension_count(int(head_dim * config["partial_rotary_factor"]))
        writer.add_rope_dimension_sections([11, 11, 10, 0])


def changed(name, source, values):
    """A vector as the converter leaves it."""
    if source.endswith("A_log"):
        return -numpy.exp(values)
    if name in WHOLE_GAINS and source.endswith("norm.weight") and "linear_attn" not in source:
        return values + 1
    return values


def main(folder, target):
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = ARCHITECTURES[config["model_type"]]
    arch = gguf.MODEL_ARCH[name]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[arch])
    write_metadata(writer, config, head_dim)
    write_own_metadata(writer, name, config, head_dim)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    factors = rope_factors(config, head_dim)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for source, bits in tensors(folder / "model.safetensors"):
        bits = bits.squeeze(1) if bits.ndim == 3 else bits
        known = source.replace(".dt_bias", ".dt_proj.bias")
        there = names.get_name(known, try_suffixes=(".weight", ".bias"))
        if there is None:
            raise SystemExit(f"compare: GGUF has no name for {source}")
        count = heads.get(source.split(".")[-2])
        if name == "LLAMA" and count:
            bits = interleaved(bits, count)
        if bits.ndim == 1:
            values = (bits.astype(numpy.uint32) << 16).view(numpy.float32)
            writer.add_tensor(there, changed(name, source, values))
        elif "conv" in source and bits.shape[-1] < 32:
            writer.add_tensor(there, (bits.astype(numpy.uint32) << 16).view(numpy.float32))
        else:
            raw = numpy.ascontiguousarray(bits).view(numpy.uint8)
            writer.add_tensor(there, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
