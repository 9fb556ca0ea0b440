"""One run of ONNX Runtime GenAI, see runner.py. A static batch, one token a step."""

import json
import time

import numpy
import onnxruntime_genai as genai

from rates import prompts
from runner import serve, together


def opened(job):
    config = genai.Config(job["model"])
    options = {"intra_op_num_threads": job["threads"]}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return genai.Model(config)


def run(model, job, column, seed):
    generate = max(1, column["generate"])
    params = genai.GeneratorParams(model)
    length = column["prompt"] + generate
    params.set_search_options(max_length=length, min_length=length, batch_size=column["streams"], do_sample=False)
    generator = genai.Generator(model, params)
    ids = numpy.array(prompts(column["streams"], column["prompt"], job["vocab"], seed), dtype=numpy.int32)
    times = []
    begin = time.perf_counter()
    generator.append_tokens(ids)
    for _ in range(generate):
        generator.generate_next_token()
        times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    return together(times, column["streams"])


if __name__ == "__main__":
    serve(opened, run)
