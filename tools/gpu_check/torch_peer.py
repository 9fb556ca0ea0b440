#!/usr/bin/env python3
"""transformers on torch: random weights made on the device in bf16, static cache, compiled where that works.

    torch_peer.py --config FOLDER --columns '[{"column": ..., "workload": ...}]'    a JSON line for each figure
    torch_peer.py --limits                                                          the rate of a bf16 product

What cannot run is a line {"skip": why}. Columns are those of speed.py.
"""

import argparse
import json
import sys
import time

# Side of the product, passes, products of a pass; as in driver.py.
SIDE, PASSES, PRODUCTS = 8192, 7, 4
# Steps before the clock starts: the first ones of a compiled step compile it and record its graph.
WARM_STEPS = 6


def say(**line):
    print(json.dumps(line), flush=True)


def limits(torch, device, side=SIDE):
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = None
    for timed in range(PASSES + 1):
        synchronise(torch, device)
        begin = time.perf_counter()
        for _ in range(PRODUCTS):
            torch.matmul(a, b)
        synchronise(torch, device)
        seconds = (time.perf_counter() - begin) / PRODUCTS
        if timed and (best is None or seconds < best):
            best = seconds
    say(tflops=2 * side ** 3 / best / 1e12, torch=torch.__version__)


def synchronise(torch, device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


class Peer:
    def __init__(self, torch, transformers, folder, device, end):
        self.torch, self.transformers, self.device, self.end = torch, transformers, device, end
        config = transformers.AutoConfig.from_pretrained(folder)
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(device):
                # Made where they lie; speed does not depend on the values.
                self.model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        finally:
            torch.set_default_dtype(usual)
        self.model.eval().requires_grad_(False)
        self.vocab = config.vocab_size
        # Whether we compiled the forward pass, as `generate` of this version does not.
        self.forward_compiled = False

    def prompts(self, streams, length):
        return self.torch.randint(0, self.vocab, (streams, length), device=self.device)

    def prefill(self, column):
        """Tokens a second of a prompt, until its first token is on the host: the best of three."""
        ids = self.prompts(1, column["prompt"])
        best = None
        for timed in range(4):
            synchronise(self.torch, self.device)
            begin = time.perf_counter()
            # Of the prompt, the last row alone has logits, as with us.
            logits = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).logits
            int(logits[0, -1].argmax())
            seconds = time.perf_counter() - begin
            if timed and (best is None or seconds < best):
                best = seconds
        return column["prompt"] / best

    def decode(self, column, compiled):
        """Tokens a second of `generate`. With a static cache it compiles the decode step itself where it sees fit; where it
        does not, the forward pass is compiled."""
        rate = self.generate(column, compiled)
        if compiled and not self.forward_compiled and not hasattr(self.model, "_compiled_call"):
            self.model.forward = self.torch.compile(self.model.forward, mode="reduce-overhead")
            self.forward_compiled = True
            rate = self.generate(column, compiled)
        return rate

    def generate(self, column, compiled):
        """Tokens a second after the first steps, all streams together."""
        times = []
        peer = self

        class Clock(self.transformers.StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                synchronise(peer.torch, peer.device)
                times.append(time.perf_counter())
                return peer.torch.zeros(input_ids.shape[0], dtype=peer.torch.bool, device=input_ids.device)

        tokens = column["generate"] + WARM_STEPS
        ids = self.prompts(column["streams"], column["prompt"])
        settings = dict(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, cache_implementation="static",
                        disable_compile=not compiled, pad_token_id=0)
        self.model.generate(ids, attention_mask=self.torch.ones_like(ids), generation_config=self.generation(settings),
                            stopping_criteria=self.transformers.StoppingCriteriaList([Clock()]))
        steps = times[WARM_STEPS:]
        return column["streams"] * (len(steps) - 1) / (steps[-1] - steps[0])

    def generation(self, settings):
        config = self.transformers.GenerationConfig(**settings)
        config.eos_token_id = None
        return config

    def measure(self, column, mode):
        """The column in that mode, if there is time."""
        what = f"{column['column']} {mode}"
        if time.monotonic() > self.end:
            return say(what=what, skip="no time")
        try:
            rate = self.prefill(column) if column["workload"] == "prefill" else self.decode(column, mode == "compiled")
            say(**column, mode=mode, tokens_per_s=round(rate, 2))
        except Exception as error:  # Whatever torch or a compiler of its may throw: a figure less.
            say(what=what, skip=" ".join(f"{type(error).__name__}: {error}".split())[:200])
            if self.device.startswith("cuda"):
                self.torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--columns", default="[]")
    parser.add_argument("--device", default="0", help="index of the GPU, or cpu to try the script")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--limits", action="store_true")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    try:
        import torch
    except ImportError as error:
        return say(skip=f"torch is not installed ({error})")
    device = options.device if options.device == "cpu" else f"cuda:{options.device}"
    if device != "cpu" and not torch.cuda.is_available():
        return say(skip="torch finds no CUDA device")
    if options.limits:
        return limits(torch, device, SIDE if device != "cpu" else 512)
    try:
        import transformers
    except ImportError as error:
        return say(skip=f"transformers is not installed ({error})")
    transformers.logging.set_verbosity_error()
    with torch.inference_mode():
        peer = Peer(torch, transformers, options.config, device, end)
        columns = json.loads(options.columns)
        # Compiling takes tens of seconds: what is sure comes first.
        for column in columns:
            peer.measure(column, "eager")
        for column in columns:
            if column["workload"] != "prefill":
                peer.measure(column, "compiled")


if __name__ == "__main__":
    sys.exit(main())
