"""One run of transformers on torch, bf16 or f32: reads a JSON job from stdin, prints one JSON object.

A static batch, as `generate` has it: one forward pass over all prompts, then one for each token of every stream. The
cache is the library's own.
"""

import json
import sys
import time

import torch
import transformers

from rates import prompts


def run(model, column, vocab, seed):
    """Seconds to the first token, then seconds of each further pass."""
    ids = torch.tensor(prompts(column["streams"], column["prompt"], vocab, seed))
    times = []
    begin = time.perf_counter()
    out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    ids = out.logits[:, -1:].argmax(-1)
    times.append(time.perf_counter() - begin)
    for _ in range(max(1, column["generate"]) - 1):
        begin = time.perf_counter()
        out = model(input_ids=ids, past_key_values=out.past_key_values, use_cache=True)
        ids = out.logits[:, -1:].argmax(-1)
        times.append(time.perf_counter() - begin)
    return times


def measure(model, column, vocab, seed):
    rates = []
    for i in range(column["repeat"]):
        first, *others = run(model, column, vocab, seed + i)
        if column["generate"] == 0:
            rates.append(column["prompt"] * column["streams"] / first)
        else:
            rates.append(column["streams"] * len(others) / sum(others))
    return sorted(rates)[len(rates) // 2]


def main():
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    begin = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16)
    opened = time.perf_counter() - begin
    run(model, {"prompt": 64, "generate": 4, "streams": 1}, job["vocab"], 0)
    figures = {c["name"]: measure(model, c, job["vocab"], job["seed"]) for c in job["columns"]}
    print(json.dumps({"figures": figures, "open_s": opened}))


if __name__ == "__main__":
    main()
