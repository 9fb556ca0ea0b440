"""One run of OpenVINO GenAI's continuous batching: reads a JSON job from stdin, prints one JSON object.

Runs in a Python that has `openvino_genai`. The pipeline is driven step by step, so that tokens are timed as they come.
"""

import json
import sys
import time

import numpy
import openvino
import openvino_genai as genai

from rates import decode_rate, prompts


def properties(job):
    chosen = {"INFERENCE_PRECISION_HINT": job["hint"], "INFERENCE_NUM_THREADS": job["threads"],
              "PERFORMANCE_HINT": "LATENCY"}
    if job.get("dynamic_quantization") is not None:
        chosen["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(job["dynamic_quantization"])
    return chosen


def scheduler(job):
    config = genai.SchedulerConfig()
    longest = max(c["prompt"] + c["generate"] for c in job["columns"])
    widest = max(c["streams"] for c in job["columns"])
    # One block holds 32 tokens; some to spare.
    config.num_kv_blocks = widest * (longest // 32 + 2) + 8
    config.max_num_batched_tokens = 2048
    config.max_num_seqs = widest
    config.enable_prefix_caching = False
    return config


def run(pipeline, column, vocab, seed):
    """Streams of a column: for each, when tokens came and how many."""
    options = genai.GenerationConfig()
    options.max_new_tokens = max(1, column["generate"])
    options.ignore_eos = True
    options.do_sample = False
    start = time.perf_counter()
    handles = []
    for i, ids in enumerate(prompts(column["streams"], column["prompt"], vocab, seed)):
        tensor = openvino.Tensor(numpy.array([ids], dtype=numpy.int64))
        handles.append(pipeline.add_request(i, tensor, options))
    streams = [[] for _ in handles]
    while pipeline.has_non_finished_requests():
        pipeline.step()
        at = time.perf_counter() - start
        for handle, arrivals in zip(handles, streams):
            count = 0
            while handle.can_read():
                count += sum(len(output.generated_ids) for output in handle.read().values())
            if count:
                arrivals.append((at, count))
    for arrivals in streams:
        got = sum(count for _, count in arrivals)
        if got != options.max_new_tokens:
            raise SystemExit(f"a stream has {got} tokens, expected {options.max_new_tokens}")
    return streams


def measure(pipeline, column, vocab, seed):
    if column["generate"] == 0:
        rates = [column["prompt"] / run(pipeline, column, vocab, seed + i)[0][0][0] for i in range(column["repeat"])]
    else:
        rates = [decode_rate(run(pipeline, column, vocab, seed + i)) for i in range(column["repeat"])]
    rates = sorted(rate for rate in rates if rate is not None)
    return rates[len(rates) // 2] if rates else None


def main():
    job = json.load(sys.stdin)
    begin = time.perf_counter()
    pipeline = genai.ContinuousBatchingPipeline(job["model"], scheduler(job), "CPU", properties(job))
    opened = time.perf_counter() - begin
    run(pipeline, {"prompt": 64, "generate": 4, "streams": 1}, job["vocab"], 0)
    figures = {c["name"]: measure(pipeline, c, job["vocab"], job["seed"]) for c in job["columns"]}
    print(json.dumps({"figures": figures, "open_s": opened}))


if __name__ == "__main__":
    main()
