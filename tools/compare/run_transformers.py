"""One run of transformers on torch in bf16, see runner.py.

A static batch, as `generate` has it: one forward pass over all prompts, then one for each token of every stream. The
cache is the library's own.
"""

import time

import torch
import transformers

from rates import prompts
from runner import serve, together


def opened(job):
    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    return transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16)


def run(model, job, column, seed):
    ids = torch.tensor(prompts(column["streams"], column["prompt"], job["vocab"], seed))
    times, cache = [], None
    for _ in range(max(1, column["generate"])):
        begin = time.perf_counter()
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
        times.append(time.perf_counter() - begin)
    return together(times, column["streams"])


if __name__ == "__main__":
    serve(opened, run)
