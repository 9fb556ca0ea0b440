"""Figures of this library and of transformers on the same shapes, and the arithmetic that sets them beside the card's limits."""

import json
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
SHAPES = ["storyteller", "qwen3-0.6b", "llama3.2-1b", "llama3.1-8b"]
WEIGHTS = ["bf16", "q4", "q8"]
# Bits of a weight: of the layers' matrices, of their value projections, of the output matrix. Groups' scales included
# (src/encoding.rs, src/model/recipe.rs).
BITS = {"bf16": (16, 16, 16), "q8": (8.5, 8.5, 8.5), "q4": (4.5, 8.5, 8.5)}
KV_BYTES = 2
# name, workload, tokens of the prompt, tokens generated, streams. Streams generate more than one step of prompts after the
# other takes, so that all decode at once for a while.
COLUMNS = [
    ("decode at 128", "decode", 128, 96, 1),
    ("decode at 2048", "decode", 2048, 64, 1),
    ("8 streams", "streams", 512, 48, 8),
    ("32 streams", "streams", 512, 48, 32),
    ("64 streams", "streams", 512, 48, 64),
    ("256 streams", "streams", 512, 64, 256),
    ("prefill 8192", "prefill", 8192, 1, 1),
]
# What is measured first, and what only while there is time: weights, invariant.
TURNS = [("bf16", 1), ("q4", 1), ("bf16", 0), ("q4", 0), ("q8", 1), ("q8", 0)]
# Tokens of a step: large enough for the card to be busy with a prompt.
STEP_TOKENS = 8192
# Of the free memory, what an engine may have.
MEMORY_SHARE = 0.9
# A run that opens an engine does not begin with less.
RUN_SECONDS_MIN = 8
RUN_SECONDS_MAX = 60


def last_object(text):
    """The last line that is a JSON object."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                continue
    return None


class Shape:
    """Sizes of a model, from its config.json."""

    def __init__(self, config):
        hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        dim = config.get("head_dim") or hidden // heads
        attention = hidden * (heads + 2 * kv_heads) * dim + heads * dim * hidden
        self.values = layers * hidden * kv_heads * dim
        self.layers = layers * (attention + 3 * hidden * config["intermediate_size"])
        self.head = config["vocab_size"] * hidden
        self.context = config["max_position_embeddings"]
        self.kv_bytes = layers * kv_heads * dim * 2 * KV_BYTES

    def weight_bytes(self, weights):
        """Bytes of the matrices that a step reads."""
        layers, values, head = BITS[weights]
        return ((self.layers - self.values) * layers + self.values * values + self.head * head) / 8

    def lengths(self, prompt, generate):
        """Prompt and output, within the context."""
        generate = min(generate, max(self.context // 4, 1))
        return min(prompt, self.context - generate - 1), generate

    def achieved(self, row):
        """(GB/s, TFLOP/s) of a row: bytes read for each step times steps, operations for each token times tokens."""
        rate, streams = row["tokens_per_s"], row["streams"]
        if row["workload"] == "prefill":
            # The output matrix is multiplied by the last row of a prompt alone.
            return None, 2 * self.layers * rate / 1e12
        context = row["prompt"] + row["generate"] / 2
        step_bytes = self.weight_bytes(row["weights"]) + streams * context * self.kv_bytes
        return step_bytes * rate / streams / 1e9, 2 * (self.layers + self.head) * rate / 1e12


def fractions(check, row):
    """Beside the limits, as far as they are known."""
    limits = check.limits
    copy, rate = limits.get("copy_gb_per_s"), limits.get("bf16_tflop_per_s")
    row["of_copy"] = round(row["gb_per_s"] / copy, 3) if copy and row["gb_per_s"] else None
    row["of_bf16"] = round(row["tflop_per_s"] / rate, 3) if rate else None


def note(check, shape, row):
    """Completes a row and keeps it."""
    gb, tflop = shape.achieved(row)
    row["gb_per_s"] = round(gb, 1) if gb is not None else None
    row["tflop_per_s"] = round(tflop, 2)
    fractions(check, row)
    check.rows.append(row)


def config(check, name):
    """The config.json of a shape, as `astrai bench` has it."""
    out = check.run([check.file("bin/astrai"), "bench", "--shape", name, "--print-config"], 20)
    found = last_object(out.text)
    if found is None:
        raise RuntimeError(f"astrai bench --shape {name} --print-config: {out.tail()}")
    return found


def bench_command(check, shape, name, weights, invariant, column):
    label, workload, prompt, generate, streams = column
    prompt, generate = shape.lengths(prompt, generate)
    # Room for what the warm-up and a whole page more take.
    context = min(shape.context, prompt + generate + 32)
    free = check.gpu["free_bytes"] if check.gpu else 0
    command = [check.file("bin/astrai"), "bench", "--json", "--shape", name, "--device", check.device, "--workload", workload,
               "--weights", weights, "--invariant", invariant, "--prompt-len", prompt, "--context", context,
               "--step-tokens", STEP_TOKENS, "--memory-mib", max(int(free * MEMORY_SHARE) >> 20, 64)]
    if workload == "prefill":
        command += ["--requests", 3, "--slots", 1]
    elif workload == "decode":
        command += ["--requests", 2, "--slots", 1, "--gen-len", generate]
    else:
        command += ["--streams", streams, "--gen-len", generate]
    return command, {"column": label, "workload": workload, "prompt": prompt, "generate": generate, "streams": streams}


def ours(check, seconds, skip, fail):
    """`astrai bench`, turn by turn, as long as there is time."""
    end = time.monotonic() + seconds
    names = check.options.shape or SHAPES
    wanted = check.options.weights or WEIGHTS
    shapes = {name: Shape(config(check, name)) for name in names}
    done, left, refused = 0, [], []
    for weights, invariant in TURNS:
        for name in names:
            for column in COLUMNS:
                if weights not in wanted:
                    continue
                what = f"{name} {weights} {'invariant' if invariant else 'relaxed'}, {column[0]}"
                if end - time.monotonic() < RUN_SECONDS_MIN:
                    left.append(what)
                    continue
                command, row = bench_command(check, shapes[name], name, weights, invariant, column)
                out = check.run(command, min(end - time.monotonic(), RUN_SECONDS_MAX))
                answer = last_object(out.text) if out.code == 0 else None
                if answer is None:
                    lines = out.tail().splitlines() or [f"exit status {out.code}"]
                    why = "it took too long" if out.code is None else lines[-1]
                    # A card that is too small or too slow for a shape is no fault.
                    fault = out.code is not None and "memory" not in why
                    print(f"  {'FAIL' if fault else 'SKIP'} {what}: {why}", flush=True)
                    refused.append({"what": what, "why": why, "fault": fault})
                    continue
                rate = rate_of(answer, row["workload"])
                if rate is None:
                    refused.append({"what": what, "why": "its streams did not decode at once", "fault": False})
                    continue
                row.update(engine="astrai", shape=name, weights=weights, invariant=invariant, tokens_per_s=round(rate, 2),
                           open_to_first_token_s=answer.get("open_to_first_token_s"), host_us_per_step=answer.get("host_us_per_step"),
                           device_name=answer["config"]["device_name"])
                note(check, shapes[name], row)
                done += 1
                print(f"  {what}: {rate:.1f} tokens/s", flush=True)
    faults = [entry for entry in refused if entry["fault"]]
    if faults:
        raise fail(f"{len(faults)} of {done + len(refused)} runs; the first: {faults[0]['what']}: {faults[0]['why']}")
    if done == 0:
        raise skip(refused[0]["why"] if refused else "no time for a single run")
    told = f"{done} runs"
    if left:
        told += f"; SKIP {len(left)} for lack of time, from {left[0]} on"
    if refused:
        told += f"; {len(refused)} gave no figure"
    return told, {"runs": done, "no_time": left, "refused": refused}


def rate_of(answer, workload):
    """Tokens a second: of prompts; of one stream from token to token; of streams while all of them decode."""
    if workload == "prefill":
        # The median prompt, from its submission to its first token.
        first = (answer.get("ttft_ms") or {}).get("p50")
        return answer["prompt_tokens"] / answer["requests"] / first * 1e3 if first else None
    if workload == "decode":
        between = (answer.get("itl_ms") or {}).get("mean")
        return 1e3 / between if between else None
    return answer.get("decode_tokens_per_s")


def torch(check, seconds, skip):
    """transformers, each shape in a process of its own that says what it has as it goes."""
    end = time.monotonic() + seconds
    names = check.options.shape or SHAPES
    rows, why = 0, []
    for at, name in enumerate(names):
        # What is left is shared among the shapes that are left.
        limit = (end - time.monotonic()) / (len(names) - at)
        if limit < RUN_SECONDS_MIN:
            why.append(f"{name}: no time")
            continue
        described = config(check, name)
        shape = Shape(described)
        folder = check.options.scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
        columns = []
        for label, workload, prompt, generate, streams in COLUMNS:
            prompt, generate = shape.lengths(prompt, generate)
            columns.append({"column": label, "workload": workload, "prompt": prompt, "generate": generate, "streams": streams})
        command = [sys.executable, HERE / "torch_peer.py", "--config", folder, "--columns", json.dumps(columns), "--device",
                   check.options.device, "--seconds", f"{limit:.0f}"]
        out = check.run(command, limit)
        before = rows
        for line in out.text.splitlines():
            row = last_object(line)
            if row and "tokens_per_s" in row:
                row.update(engine="torch", shape=name, weights="bf16")
                note(check, shape, row)
                rows += 1
            elif row and "skip" in row:
                why.append(f"{name}, {row.get('what', 'all')}: {row['skip']}")
        if rows == before and not why:
            why.append(f"{name}: {out.tail() or 'nothing within its time'}")
        if rows == 0 and any("is not installed" in reason or "no CUDA" in reason for reason in why):
            break
    if rows == 0:
        raise skip("; ".join(why) or "no time")
    return f"{rows} figures" + (f"; SKIP {'; '.join(why)}" if why else ""), {"figures": rows, "skipped": why}


def table(check):
    """What was measured, ours beside torch's best of the same shape and column."""
    if not check.rows:
        return ""
    # The limits may have been measured after a figure.
    for row in check.rows:
        fractions(check, row)
    best = {}
    for row in check.rows:
        key = row["shape"], row["column"]
        if row["engine"] == "torch" and row["tokens_per_s"] > best.get(key, {"tokens_per_s": 0})["tokens_per_s"]:
            best[key] = row
    lines = ["| shape | weights | column | tokens/s | GB/s | of copy | TFLOP/s | of bf16 | host us/step | torch bf16 | ratio |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    text = lambda value, form="{}": form.format(value) if value is not None else "–"
    share = lambda value: text(value if value is None else 100 * value, "{:.0f}%")
    mine = [row for row in check.rows if row["engine"] == "astrai"]
    keys = {(row["shape"], row["column"]) for row in mine}
    for row in mine + [row for key, row in best.items() if key not in keys]:
        other = best.get((row["shape"], row["column"]))
        is_ours = row["engine"] == "astrai"
        weights = row["weights"] + ("" if row.get("invariant", 1) else ", relaxed") if is_ours else "torch"
        cells = [row["shape"], weights, row["column"], text(row["tokens_per_s"] if is_ours else None, "{:.1f}"),
                 text(row["gb_per_s"], "{:.0f}"), share(row["of_copy"]), text(row["tflop_per_s"], "{:.1f}"),
                 share(row["of_bf16"]), text(row.get("host_us_per_step")),
                 f"{other['tokens_per_s']:.1f} ({other['mode']})" if other else "–",
                 f"{row['tokens_per_s'] / other['tokens_per_s']:.2f}" if other and is_ours else "–"]
        lines.append("| " + " | ".join(cells) + " |")
    limits = check.limits
    first = min((row["open_to_first_token_s"] for row in mine if row.get("open_to_first_token_s")), default=None)
    lines += ["", f"Limits of the card in this run: copy {text(limits.get('copy_gb_per_s'), '{:.0f}')} GB/s, read and written; bf16 "
              f"{text(limits.get('bf16_tflop_per_s'), '{:.0f}')} TFLOP/s by {limits.get('bf16_by', 'nobody')}.",
              "GB/s = (bytes of the layers' matrices and the output matrix + streams x context x KV bytes of a token) x tokens/s / "
              "streams;",
              "context = prompt + half of what is generated; a weight has 16, 8.5 (q8) or 4.5 bits (q4; its output matrix 8.5).",
              "TFLOP/s = 2 x parameters x tokens/s; without the output matrix for prompts, and without attention.",
              "host us/step: what the engine's thread spends on a step that only decodes, without its waits for the device.",
              f"Opening to the first token, shortest run, weights made on the device: {text(first, '{:.2f}')} s."]
    return "\n".join(lines)
