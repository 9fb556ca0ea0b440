"""What the specifications of several families share."""

import zlib

import numpy as np
import torch

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# Embeddings small before their multiplier, so that layers count beside them, and a final norm that spreads logits.
GRANITE_DRAW = {
    r"embed_tokens": ("normal", 0.0, 0.12),
    r"model\.norm\.": ("uniform", 2.0, 4.0),
    r"o_proj|down_proj|output_linear": ("normal", 0.0, 0.3),
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


def without(config, *names):
    """`config` less the fields that published checkpoints of the family do not have."""
    return {name: value for name, value in config.items() if name not in names}


def bf16(config, **fields):
    """A specification stored in bf16, its config in the spelling of published checkpoints."""
    return dict(config=config | {"torch_dtype": "bfloat16"}, store="bfloat16", spelling="as_given", **fields)


def bf16_new(config, **fields):
    """A specification stored in bf16, its config in the spelling of transformers."""
    return dict(config=config, store="bfloat16", **fields)


def filler(name, *shape):
    """A tensor that a reader of the text model has to leave out."""
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).normal(0, 1, shape)).to(torch.bfloat16)


class Nested:
    """A text model inside a multimodal checkpoint: `text_config` in the config, a prefix before its tensors."""

    def __init__(self, model_type, architecture, prefixes, extra, omitted=(), **top):
        """`architecture` is the wrapper's, ending in ForConditionalGeneration; `prefixes` are pairs of a text model's
        prefix and the wrapper's; `extra` maps names to shapes of tensors that are no part of the text model; `omitted`
        are fields that `text_config` leaves to their defaults."""
        self.top = {"architectures": [architecture], "model_type": model_type} | top
        self.prefixes, self.extra, self.omitted = prefixes, extra, omitted

    def encode(self, config, weights):
        """The wrapper's config and weights."""
        text = without(config, "architectures", *self.omitted)
        renamed = {}
        for name, tensor in weights.items():
            ours, theirs = next(pair for pair in self.prefixes if name.startswith(pair[0]))
            renamed[theirs + name.removeprefix(ours)] = tensor
        renamed |= {name: filler(name, *shape) for name, shape in self.extra.items()}
        return self.top | {"text_config": text}, renamed

    def decode(self, config, weights):
        """The text model's own config and weights; what `text_config` omits is left to transformers' defaults."""
        text = dict(config["text_config"])
        if "tie_word_embeddings" in self.top:
            text |= {"tie_word_embeddings": self.top["tie_word_embeddings"]}
        renamed = {}
        for name, tensor in weights.items():
            pair = next((pair for pair in self.prefixes if name.startswith(pair[1])), None)
            if pair:
                renamed[pair[0] + name.removeprefix(pair[1])] = tensor
        return text, renamed


class Chain:
    """Several layouts, one after the other."""

    def __init__(self, *steps):
        self.steps = steps

    def encode(self, config, weights):
        """All steps, first to last."""
        for step in self.steps:
            config, weights = step.encode(config, weights)
        return config, weights

    def decode(self, config, weights):
        """All steps, last to first."""
        for step in reversed(self.steps):
            config, weights = step.decode(config, weights)
        return config, weights


class Extra:
    """Tensors beside the model's that a reader has to leave out, and fields of the config that announce them."""

    def __init__(self, shapes, **fields):
        self.shapes, self.fields = shapes, fields

    def encode(self, config, weights):
        """With the tensors."""
        return config | self.fields, weights | {name: filler(name, *shape) for name, shape in self.shapes.items()}

    def decode(self, config, weights):
        """Without them."""
        return without(config, *self.fields), without(weights, *self.shapes)
