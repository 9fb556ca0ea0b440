"""One run of OpenVINO GenAI's continuous batching, see runner.py. The pipeline is driven step by step, so that tokens are
timed as they come."""

import time

import numpy
import openvino
import openvino_genai as genai

from rates import prompts
from runner import serve


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


def opened(job):
    return genai.ContinuousBatchingPipeline(job["model"], scheduler(job), "CPU", properties(job))


def run(pipeline, job, column, seed):
    options = genai.GenerationConfig()
    options.max_new_tokens = max(1, column["generate"])
    options.ignore_eos = True
    options.do_sample = False
    begin = time.perf_counter()
    handles = []
    for i, ids in enumerate(prompts(column["streams"], column["prompt"], job["vocab"], seed)):
        tensor = openvino.Tensor(numpy.array([ids], dtype=numpy.int64))
        handles.append(pipeline.add_request(i, tensor, options))
    streams = [[] for _ in handles]
    while pipeline.has_non_finished_requests():
        pipeline.step()
        at = time.perf_counter() - begin
        for handle, arrivals in zip(handles, streams):
            count = 0
            while handle.can_read():
                count += sum(len(output.generated_ids) for output in handle.read().values())
            if count:
                arrivals.append((at, count))
    return streams


if __name__ == "__main__":
    serve(opened, run)
