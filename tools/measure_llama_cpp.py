"""Writes tests/fixtures/real/smollm2_llama_cpp.json: how far llama.cpp is from transformers on the file that `make real` brings.

    python tools/measure_llama_cpp.py SmolLM2-135M-Instruct.Q4_1.gguf

needs llama-cpp-python and numpy. The texts and their log probabilities are those of tests/fixtures/real/smollm2.json
(tools/make_real_fixtures.py); the figure is the mean difference of the log probabilities, computed as llama.cpp does by default, which
rounds inputs to 8 bits. The library's own default is held to 1.2 times as much (tests/models/real.rs).
"""

import json
import os
import platform
import sys
from pathlib import Path

import llama_cpp
import numpy as np

FIXTURES = Path(__file__).resolve().parent.parent / "tests/fixtures/real"


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def logprobs(model, ids):
    """Of every token but the first, given those before it."""
    model.reset()
    model.eval(ids)
    logits = model.scores[: len(ids) - 1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    totals = np.log(np.exp(logits).sum(axis=1))
    return logits[np.arange(len(ids) - 1), ids[1:]] - totals


def main():
    path = os.path.abspath(sys.argv[1])
    fixture = json.loads((FIXTURES / "smollm2.json").read_text())
    if fixture["file"] != os.path.basename(path):
        sys.exit(f"error: the reference is of {fixture['file']}")
    model = llama_cpp.Llama(path, n_ctx=512, logits_all=True, verbose=False)
    differences = [np.abs(logprobs(model, one["ids"]) - one["logprobs"]) for one in fixture["scored"]]
    found = {
        "file": fixture["file"],
        "llama_cpp_python": llama_cpp.__version__,
        "processor": processor(),
        "tokens": sum(map(len, differences)),
        "distance": round(float(np.concatenate(differences).mean()), 6),
    }
    (FIXTURES / "smollm2_llama_cpp.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


main()
