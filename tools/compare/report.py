"""What a comparison prints: the table with medians, spreads and ratios. Pure: results in, text out, no engine needed.

Results are one JSON object; `samples` has a figure for each engine, precision, variant, column and round. A cell is the
best variant's median over the rounds.
"""

import statistics

PRECISION_LABELS = {"bf16": "16-bit weights", "q8": "8-bit weights", "q4": "4-bit weights", "Q8_0": "GGUF Q8_0",
                    "Q4_0": "GGUF Q4_0", "Q4_K_M": "GGUF Q4_K_M", "Q6_K": "GGUF Q6_K"}
OURS = "astrai"
# A sample during which other programs took more of the processors than this counts only where there is no calmer one.
CALM = 0.10


class Cell:
    """Median, lowest and highest of a cell, in tokens a second, and of which variant they are."""

    def __init__(self, values, variant, disturbed):
        self.median = statistics.median(values)
        self.low, self.high, self.count = min(values), max(values), len(values)
        self.variant, self.disturbed = variant, disturbed

    def text(self):
        mark = "*" if self.disturbed else ""
        if self.count == 1:
            return f"{number(self.median)}{mark}"
        return f"{number(self.median)}{mark} ({number(self.low)}–{number(self.high)})"


def number(value):
    """Three digits at least: what figures of this kind repeat to."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def cells(results):
    """{(peer, precision, column): Cell}."""
    values = {}
    for sample in results["samples"]:
        if sample["value"] is None:
            continue
        key = (sample["peer"], sample["precision"], sample["column"])
        values.setdefault(key, {}).setdefault(sample["variant"], []).append((sample["value"], sample.get("others") or 0))
    best = {}
    for key, variants in values.items():
        for variant, samples in variants.items():
            calm = [value for value, others in samples if others <= CALM]
            cell = Cell(calm or [value for value, _ in samples], variant, not calm)
            if key not in best or cell.median > best[key].median:
                best[key] = cell
    return best


def best_peer(results, found, precision, column):
    """(name, Cell) of the fastest other engine, or None."""
    others = [(name, found[(name, precision, column)]) for name in results["peers"]
              if name != OURS and (name, precision, column) in found]
    return max(others, key=lambda pair: pair[1].median, default=None)


def ratios(results, found, precision):
    """By column, our median to the best peer's; columns that lack one of them are left out."""
    out = {}
    for column in results["columns"]:
        ours = found.get((OURS, precision, column["name"]))
        best = best_peer(results, found, precision, column["name"])
        if ours and best:
            out[column["name"]] = ours.median / best[1].median
    return out


def bound(results, precision, column):
    """Tokens a second when nothing but reading the smallest model of this precision and the KV cache, in bf16, took time;
    None for prompts, for busy processors, and where the machine's memory was not measured."""
    if column["name"] == "busy":
        return None
    rate = results["machine"].get("read_gb_s_n")
    sizes = [by[precision] for by in results.get("model_bytes", {}).values() if by.get(precision)]
    if not rate or not sizes or column["generate"] == 0:
        return None
    context = column["prompt"] + column["generate"] / 2
    step_bytes = min(sizes) + column["streams"] * context * results["kv_bytes_per_token"]
    return column["streams"] * rate * 1e9 / step_bytes


def rows(results):
    """The table's rows: precision, engine, then a text for each column."""
    found = cells(results)
    names = list(results["peers"])
    ordered = [name for name in names if name != OURS] + [name for name in names if name == OURS]
    for precision in results["precisions"]:
        for name in ordered:
            texts = [found.get((name, precision, column["name"])) for column in results["columns"]]
            if any(texts):
                yield precision, results["peers"][name]["label"], [cell.text() if cell else "–" for cell in texts]
        limit = [bound(results, precision, column) for column in results["columns"]]
        if any(limit):
            yield precision, "bound of memory alone", [number(value) if value else "–" for value in limit]
        by_column = ratios(results, found, precision)
        if by_column:
            texts = [f"{by_column[c['name']]:.2f}×" if c["name"] in by_column else "–" for c in results["columns"]]
            yield precision, "astrai / best peer", texts


def markdown(results):
    """The table, as Markdown that reads well on a terminal too."""
    head = ["engine", *(column["label"] for column in results["columns"])]
    out = []
    current = None
    body = []
    for precision, label, texts in rows(results):
        if precision != current:
            current = precision
            body.append([f"**{PRECISION_LABELS[precision]}**", *[""] * len(texts)])
        body.append([label, *texts])
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    line = lambda row: "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |"
    out.append(line(head))
    out.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    out.extend(line(row) for row in body)
    return "\n".join(out)


def heading(results):
    """What was measured, on what."""
    machine = results["machine"]
    lines = [
        f"{results['shape']} with random weights, {results['threads']} threads, {results['rounds']} rounds in turns, "
        f"{results['date']}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; {' '.join(machine['flags'])}",
    ]
    if machine.get("read_gb_s_n"):
        lines.append(f"memory: {machine['read_gb_s_1']} GB/s read with 1 thread, {machine['read_gb_s_n']} GB/s with "
                     f"{results['threads']}")
    lines.extend(f"{peer['label']}: {peer['version']}" for peer in results["peers"].values())
    return "\n".join(lines)


def notes(results):
    """Variants that won, what was skipped, and how calm the machine was."""
    found = cells(results)
    out = []
    for name, peer in results["peers"].items():
        for precision in results["precisions"]:
            chosen = {}
            for column in results["columns"]:
                cell = found.get((name, precision, column["name"]))
                if cell:
                    chosen.setdefault(cell.variant, []).append(column["label"])
            if chosen and list(chosen) != ["default"]:
                parts = "; ".join(f"{variant}: {', '.join(columns)}" for variant, columns in chosen.items())
                out.append(f"{peer['label']}, {PRECISION_LABELS[precision]}: {parts}")
    for name, by in results.get("model_bytes", {}).items():
        sizes = ", ".join(f"{precision} {size / 1e6:.0f} MB" for precision, size in by.items())
        out.append(f"{results['peers'][name]['label']}, model file: {sizes}")
    out.extend(f"SKIP {skip['what']}: {skip['why']}" for skip in results.get("skipped", []))
    shares = [sample["others"] for sample in results["samples"] if sample.get("others") is not None]
    disturbed = sum(share > CALM for share in shares)
    if disturbed:
        out.append(f"other programs took more than {CALM:.0%} of the processors in {disturbed} of {len(shares)} samples "
                   f"(at most {max(shares):.0%}); these count only where there is no calmer one, marked *")
    return "\n".join(out)


def text(results):
    """Everything that is printed."""
    return "\n\n".join(part for part in (heading(results), markdown(results), notes(results)) if part)
