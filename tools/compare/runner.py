"""What the scripts that drive an engine have in common: a JSON job on stdin, one JSON object on stdout."""

import json
import sys
import time

from rates import decode_rate

# Before the measurement, so that every weight has been read once.
WARM_UP = {"prompt": 64, "generate": 4, "streams": 1}


def together(times, streams):
    """Arrivals of a static batch, whose streams get a token each after each of these times."""
    at, arrivals = 0.0, []
    for seconds in times:
        at += seconds
        arrivals.append((at, 1))
    return [arrivals] * streams


def figure(run, column, seed):
    """Tokens a second of a column: the median of its repetitions, each with other prompts."""
    rates = []
    for i in range(column["repeat"]):
        streams = run(column, seed + i)
        generated = max(1, column["generate"])
        for arrivals in streams:
            got = sum(count for _, count in arrivals)
            if got != generated:
                raise SystemExit(f"error: a stream has {got} tokens, expected {generated}")
        if column["generate"] == 0:
            rates.append(column["streams"] * column["prompt"] / max(arrivals[0][0] for arrivals in streams))
        else:
            rates.append(decode_rate(streams))
    rates = sorted(rate for rate in rates if rate is not None)
    return rates[len(rates) // 2] if rates else None


def serve(opened, run):
    """`opened(job)` gives a model; `run(model, job, column, seed)` gives for each stream when tokens came, in seconds from
    the submission, and how many: [[(seconds, tokens), ...], ...]."""
    job = json.load(sys.stdin)
    begin = time.perf_counter()
    model = opened(job)
    seconds = time.perf_counter() - begin
    run(model, job, WARM_UP, 0)
    figures = {c["name"]: figure(lambda column, seed: run(model, job, column, seed), c, job["seed"]) for c in job["columns"]}
    print(json.dumps({"figures": figures, "open_s": seconds}))
