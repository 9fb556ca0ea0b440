"""A small, independent forward pass for AstrAI checkpoints (`model_type` "autoregressive_lm").

Written from the description of the checkpoint layout, for the parity fixtures: the whole sequence at once, no
cache, one function per step of the block. Everything runs in the dtype of the weights; the steps that a bf16
engine keeps in f32 (norm statistics, rotation, attention scores and softmax, router softmax) are f32 here too, so
the same code is the f32 reference and the bf16 emulation.

Shapes: T tokens, D hidden size, H query heads, K key/value heads, E head size, V vocabulary.
"""

import torch
from torch.nn.functional import linear, silu


def forward(config, weights, ids):
    """Logits [T, V] of the token ids `ids` [T]; `weights` maps tensor name to tensor."""
    x = weights["embed_tokens.weight"][ids]
    angles = rotary_angles(config, len(ids))
    for index in range(config["num_hidden_layers"]):
        layer = _Scope(weights, f"layers.{index}.")
        normed = rms_norm(x, layer["input_norm.weight"], config["rms_norm_eps"])
        x = x + attention(config, layer.under("attention."), normed, angles)
        normed = rms_norm(x, layer["post_attention_norm.weight"], config["rms_norm_eps"])
        ffn = mixture if is_sparse(config, index) else mlp
        x = x + ffn(config, layer.under("mlp."), normed)
    x = rms_norm(x, weights["norm.weight"], config["rms_norm_eps"])
    head = "embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
    return linear(x, weights[head])


def head_dim(config):
    """Size of one query or key head; a value head has the same size."""
    if config.get("attn_type", "gqa") == "mla":
        return config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    return config["hidden_size"] // config["num_attention_heads"]


def is_sparse(config, index):
    """Whether layer `index` has experts rather than one dense mlp."""
    if config.get("ffn_type", "mlp") != "moe" or index in (config.get("mlp_only_layers") or []):
        return False
    return (index + 1) % (config.get("decoder_sparse_step") or 1) == 0


def rotary_angles(config, tokens):
    """Angle of every (position, pair), f32 [T, d/2] for the rotary dimension d; `ntk` scaling raises the base."""
    is_mla = config.get("attn_type", "gqa") == "mla"
    d = config["qk_rope_head_dim"] if is_mla else head_dim(config)
    base = config.get("rope_theta") or 10000.0
    scaling = config.get("rope_scaling")
    if scaling and scaling.get("type", "ntk") == "ntk":
        base = base * scaling.get("factor", 1.0) ** (d / (d - 2))
    inverse = base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    return torch.outer(torch.arange(tokens, dtype=torch.float64), inverse).float()


def rotate(x, angles):
    """Turn the ADJACENT pairs (2i, 2i+1) of x [T, heads, d] by angles [T, d/2]."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    cos, sin = angles.cos()[:, None, :], angles.sin()[:, None, :]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def rms_norm(x, gain, eps):
    """x / rms(x) * gain over the last axis, in f32, rounded once."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * gain.float()).to(x.dtype)


def attention(config, layer, x, angles):
    """Causal grouped-query attention over x [T, D]; the rotation comes before the optional q/k norms."""
    project = _project_mla if config.get("attn_type", "gqa") == "mla" else _project_gqa
    q, k, v = project(config, layer, x, angles)
    if config.get("use_qk_norm"):
        q = rms_norm(q, layer["q_norm.weight"], config["rms_norm_eps"])
        k = rms_norm(k, layer["k_norm.weight"], config["rms_norm_eps"])
    tokens, heads, size = q.shape
    repeat = heads // k.shape[1]
    k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    scores = torch.einsum("qhe,khe->hqk", q.float(), k.float()) / size**0.5
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    probs = scores.masked_fill(hidden, float("-inf")).softmax(-1).to(x.dtype)
    out = torch.einsum("hqk,khe->qhe", probs, v).flatten(-2)
    if config.get("use_gated_attention"):
        out = out * torch.sigmoid(linear(x, layer["gate.weight"]))
    return linear(out, layer["o_proj.weight"])


def _project_gqa(config, layer, x, angles):
    size = head_dim(config)
    q, k, v = (linear(x, layer[f"{n}_proj.weight"]).unflatten(-1, (-1, size)) for n in "qkv")
    return rotate(q, angles), rotate(k, angles), v


def _project_mla(config, layer, x, angles):
    nope, rope, size = config["qk_nope_head_dim"], config["qk_rope_head_dim"], head_dim(config)
    q = linear(x, layer["q_proj.weight"]).unflatten(-1, (-1, size))
    latent = rms_norm(linear(x, layer["kv_a_proj.weight"]), layer["kv_norm.weight"], config["rms_norm_eps"])
    kv = linear(latent, layer["kv_b_proj.weight"]).unflatten(-1, (-1, 2 * size))
    q = torch.cat((q[..., :nope], rotate(q[..., nope:], angles)), dim=-1)
    k_nope, k_rope, v = kv.split((nope, rope, size), dim=-1)
    return q, torch.cat((k_nope, rotate(k_rope, angles)), dim=-1), v


def mlp(_config, layer, x):
    """down(up(x) * silu(gate(x)))."""
    return linear(linear(x, layer["up.weight"]) * silu(linear(x, layer["gate.weight"])), layer["down.weight"])


def mixture(config, layer, x):
    """Mean of the shared experts plus the weighted sum of each token's chosen routed experts."""
    shared = [mlp(config, layer.under(f"shared_experts.{j}."), x) for j in range(config["n_shared_experts"])]
    out = sum(shared) / len(shared) if shared else torch.zeros_like(x)
    probs = linear(x, layer["router.weight"]).float().softmax(-1)
    chosen, experts = probs.topk(config["n_activated_experts"], dim=-1)
    if config.get("norm_topk_prob", True):
        chosen = chosen / chosen.sum(-1, keepdim=True)
    routed = torch.zeros_like(x)
    for j in range(config["n_routed_experts"]):
        token, slot = torch.where(experts == j)
        if len(token):
            y = mlp(config, layer.under(f"routed_experts.{j}."), x[token])
            routed.index_add_(0, token, y * chosen[token, slot, None].to(x.dtype))
    return out + routed


def tensor_shapes(config):
    """Name to shape of every tensor of a checkpoint with this config, in file order."""
    shapes = {"embed_tokens.weight": (config["vocab_size"], config["hidden_size"])}
    for index in range(config["num_hidden_layers"]):
        prefix = f"layers.{index}."
        shapes[prefix + "input_norm.weight"] = (config["hidden_size"],)
        shapes |= {f"{prefix}attention.{n}": s for n, s in _attention_shapes(config).items()}
        shapes[prefix + "post_attention_norm.weight"] = (config["hidden_size"],)
        shapes |= {f"{prefix}mlp.{n}": s for n, s in _ffn_shapes(config, index).items()}
    shapes["norm.weight"] = (config["hidden_size"],)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (config["vocab_size"], config["hidden_size"])
    return shapes


def _attention_shapes(config):
    d, size = config["hidden_size"], head_dim(config)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shapes = {"q_proj.weight": (heads * size, d)}
    if config.get("attn_type", "gqa") == "mla":
        rank = config["kv_lora_rank"]
        shapes |= {"kv_a_proj.weight": (rank, d), "kv_norm.weight": (rank,)}
        shapes["kv_b_proj.weight"] = (kv_heads * 2 * size, rank)
    else:
        shapes |= {"k_proj.weight": (kv_heads * size, d), "v_proj.weight": (kv_heads * size, d)}
    shapes["o_proj.weight"] = (d, d)
    if config.get("use_qk_norm"):
        shapes |= {"q_norm.weight": (size,), "k_norm.weight": (size,)}
    if config.get("use_gated_attention"):
        shapes["gate.weight"] = (d, d)
    return shapes


def _ffn_shapes(config, index):
    d, dense = config["hidden_size"], config["intermediate_size"]
    if not is_sparse(config, index):
        return _mlp_shapes("", d, dense)
    shapes = {"router.weight": (config["n_routed_experts"], d)}
    for j in range(config["n_shared_experts"]):
        width = config.get("shared_expert_intermediate_size") or dense
        shapes |= _mlp_shapes(f"shared_experts.{j}.", d, width)
    for j in range(config["n_routed_experts"]):
        shapes |= _mlp_shapes(f"routed_experts.{j}.", d, config.get("moe_intermediate_size") or dense)
    return shapes


def _mlp_shapes(prefix, d, width):
    return {f"{prefix}up.weight": (width, d), f"{prefix}gate.weight": (width, d), f"{prefix}down.weight": (d, width)}


class _Scope:
    """The tensors whose names start with a prefix."""

    def __init__(self, weights, prefix):
        self.weights, self.prefix = weights, prefix

    def __getitem__(self, name):
        return self.weights[self.prefix + name]

    def under(self, prefix):
        return _Scope(self.weights, self.prefix + prefix)
