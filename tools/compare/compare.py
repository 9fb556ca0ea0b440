#!/usr/bin/env python3
"""Measures this library and other engines on the same machine in one run, in turns: see README.md.

    tools/compare/compare.py                        everything; installs what is missing
    tools/compare/compare.py --quick                fewer columns, one round
    tools/compare/compare.py --from results.json    print and plot again what was measured

Everything but this library is installed into a folder outside the checkout. Needs Python 3.10 and nothing else to begin.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys

import chart
import machine
import peers
import report

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
# name, label, tokens of the prompt, tokens generated (0: the prompt is what is timed), streams, repetitions in a round.
# With more streams each generates more: an engine that computes prompts in pieces between decode steps has its first
# stream decode while the last one's prompt is computed, and what is timed is when all decode.
COLUMNS = [
    ("prefill", "prefill 512", 512, 0, 1, 3),
    ("prefill-4k", "prefill 4096", 4096, 0, 1, 1),
    ("short", "1 stream, short", 16, 48, 1, 1),
    ("s1", "1 stream", 512, 48, 1, 1),
    ("s1-4k", "1 stream at 4096", 4096, 32, 1, 1),
    ("s4", "4 streams", 512, 32, 4, 1),
    ("s8", "8 streams", 512, 48, 8, 1),
    ("s16", "16 streams", 512, 80, 16, 1),
    ("busy", "1 stream, busy", 16, 24, 1, 1),
    ("prefill-8k", "prefill 8192", 8192, 0, 1, 1),
    ("s1-8k", "1 stream at 8192", 8192, 32, 1, 1),
]
COLUMNS_DEFAULT = "prefill,prefill-4k,short,s1,s1-4k,s4,s8,s16,busy"
# Measured while other programs want every processor.
BUSY = "busy"
COLUMNS_QUICK = "prefill,s1,s4"
PRECISIONS_DEFAULT = "bf16,q8,q4"
# Columns that tell which of an engine's variants can win, and how far behind the best a variant may be to be measured.
SCREEN = ("prefill", "s1", "s4")
SCREEN_MARGIN = 0.85
# With patience, the longest wait for other programs to leave the processors alone.
PATIENCE_S = 120


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--from", dest="source", metavar="RESULTS.json", help="print and plot these, measure nothing")
    parser.add_argument("--out", metavar="FILE.json", help="where the results go [default: WORK/results-SHAPE.json]")
    parser.add_argument("--svg", metavar="FILE.svg", help="draw a bar chart")
    parser.add_argument("--work", default="~/.cache/astrai-compare", help="folder for everything installed and made")
    parser.add_argument("--astrai", default=str(REPOSITORY / "target/release/astrai"), help="the program to measure")
    parser.add_argument("--shape", default="qwen3-0.6b", help="a shape of `astrai bench --shape` [default: qwen3-0.6b]")
    parser.add_argument("--seed", default="1", help="seed of weights and prompts")
    parser.add_argument("--peers", default=None, help=f"comma-separated, of {', '.join(peers.PEERS)}; none for no peer")
    parser.add_argument("--precisions", default=PRECISIONS_DEFAULT, help="of " + ", ".join(peers.PRECISIONS))
    parser.add_argument("--columns", default=None, help="of " + ", ".join(column[0] for column in COLUMNS))
    parser.add_argument("--rounds", type=int, default=3, help="times the whole is repeated; the median counts")
    parser.add_argument("--threads", type=int, default=None, help="threads of every engine [default: physical cores]")
    parser.add_argument("--tier", default=None, help="instruction set of astrai; avx2: against llama.cpp built for it")
    parser.add_argument("--kv", default=None, help="astrai's format of the KV cache [default: bf16]")
    parser.add_argument("--no-astrai", action="store_true", help="measure the peers alone")
    parser.add_argument("--patience", type=int, default=0, metavar="N",
                        help="measure again, up to N times, what other programs disturbed")
    parser.add_argument("--screen", action="store_true", help="find out again which variants of an engine are worth measuring")
    parser.add_argument("--quick", action="store_true", help=f"one round of {COLUMNS_QUICK}")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds = 1
    options.columns = chosen(parser, options.columns or (COLUMNS_QUICK if options.quick else COLUMNS_DEFAULT),
                             [column[0] for column in COLUMNS])
    default = "llama.cpp-avx2" if options.tier == "avx2" else "llama.cpp,openvino"
    wanted = options.peers if options.peers is not None else default
    options.peers = [] if wanted in ("", "none") else chosen(parser, wanted, list(peers.PEERS))
    options.precisions = chosen(parser, options.precisions, list(peers.PRECISIONS))
    options.threads = options.threads or machine.physical_cores()
    return options


def chosen(parser, text, known):
    """A comma-separated list, in the order of what is known."""
    names = text.split(",")
    for name in names:
        if name not in known:
            parser.error(f"there is no {name}; there are {', '.join(known)}")
    return [name for name in known if name in names]


def columns_of(names):
    """The columns of these names, as the engines and the results have them."""
    keys = ("name", "label", "prompt", "generate", "streams", "repeat")
    return [dict(zip(keys, column)) for column in COLUMNS if column[0] in names]


class Comparison:
    """One run: engines that could be had, and what was measured."""

    def __init__(self, options):
        self.options = options
        self.work = peers.Work(options.work, options.shape, options.seed, options.astrai)
        self.columns = columns_of(options.columns)
        self.settings = {"threads": options.threads, "seed": int(options.seed)}
        self.path = pathlib.Path(options.out or self.work.folder / f"results-{options.shape}.json")
        self.engines, self.samples, self.skipped = {}, [], []
        self.versions, self.sizes, self.models = {}, {}, {}

    def skip(self, what, why):
        peers.say(f"SKIP {what}: {why}")
        entry = {"what": what, "why": str(why)}
        if entry not in self.skipped:
            self.skipped.append(entry)

    def prepare(self):
        """Installs and converts; what cannot be had is skipped."""
        candidates = [peers.PEERS[name]() for name in self.options.peers]
        if not self.options.no_astrai:
            candidates.append(peers.Astrai(self.options.tier, self.options.kv))
        for engine in candidates:
            try:
                self.versions[engine.name] = engine.install(self.work)
            except peers.Absent as absent:
                self.skip(engine.label, absent)
                continue
            self.engines[engine.name] = engine
            for precision in self.options.precisions:
                try:
                    self.models[engine.name, precision] = engine.model(self.work, precision)
                except peers.Absent as absent:
                    self.skip(f"{engine.label}, {precision}", absent)
                    continue
                # Ours is made from the checkpoint at open, so its file says nothing about the precision.
                if engine.name != report.OURS:
                    size = peers.size_of(self.models[engine.name, precision])
                    self.sizes.setdefault(engine.name, {})[precision] = size

    def screened(self):
        """{(engine, precision): {column: variants worth measuring}}: a variant far behind in the column most like this one
        is left out. Kept in the work folder, as it takes long, unless other programs disturbed it."""
        path = self.work.models / "variants.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8")) if not self.options.screen else {}
        except OSError:
            kept = {}
        plan, lasting = {}, dict(kept)
        for name, precision in self.models:
            variants = self.engines[name].variants(precision)
            key = f"{self.versions[name]}, {precision}, {self.options.threads} threads"
            if len(variants) > 1 and key not in kept:
                kept[key], calm = self.screen(name, precision, variants)
                if calm:
                    lasting[key] = kept[key]
                    path.write_text(json.dumps(lasting, indent=2) + "\n", encoding="utf-8")
            for column in self.columns:
                like = "prefill" if column["generate"] == 0 else "s1" if column["streams"] == 1 else "s4"
                plan[name, precision, column["name"]] = (kept[key][like] or variants) if len(variants) > 1 else variants
        return plan

    def screen(self, name, precision, variants):
        """By column, the variants within the margin of the best; and whether the machine was calm."""
        columns = columns_of(SCREEN)
        figures, calm = {}, True
        for variant in variants:
            peers.say(f"which variant: {self.engines[name].label}, {precision}, {variant}")
            for found, others in self.measured(name, precision, variant, columns):
                calm = calm and (others or 0) <= report.CALM
                for column, value in found.items():
                    if value:
                        figures.setdefault(column, {})[variant] = value
        worth = {}
        for column in SCREEN:
            by = figures.get(column, {})
            best = max(by.values(), default=0)
            worth[column] = [variant for variant, value in by.items() if value >= SCREEN_MARGIN * best]
        return worth, calm

    def measured(self, name, precision, variant, columns):
        """The engine's runs; what it refuses is skipped. With patience, each column is a run of its own that waits for a
        calm machine, and what others disturbed is measured again; all is kept. The busy column is a run of its own, which
        nobody else disturbs."""
        engine, patience = self.engines[name], self.options.patience
        model, runs = self.models[name, precision], []
        calm = [column for column in columns if column["name"] != BUSY]
        busy = [[column] for column in columns if column["name"] == BUSY]
        try:
            for group in ([[column] for column in calm] if patience else [calm] if calm else []) + busy:
                for _ in range(patience + 1):
                    machine.wait_for_calm(PATIENCE_S if patience else 0, report.CALM)
                    if group in busy:
                        with machine.kept_busy():
                            more = engine.measure(self.work, model, precision, variant, group, self.settings)
                        more = [(figures, None) for figures, _ in more]
                    else:
                        more = engine.measure(self.work, model, precision, variant, group, self.settings)
                    runs.extend(more)
                    self.tell(name, precision, variant, more)
                    if all((others or 0) <= report.CALM for _, others in more):
                        break
            return runs
        # An engine of another version may print something else.
        except (peers.Absent, ValueError, KeyError, IndexError, TypeError) as error:
            absent = error if isinstance(error, peers.Absent) else f"unexpected output: {error!r}"
            what = f"{engine.label}, {precision}" + (f", {variant}" if variant != "default" else "")
            self.skip(what, absent)
            return runs

    def tell(self, name, precision, variant, runs):
        told = ", ".join(f"{column} {report.number(value)}" + ("*" if (others or 0) > report.CALM else "")
                         for figures, others in runs for column, value in figures.items() if value)
        peers.say(f"{self.engines[name].label}, {precision}, {variant}: {told or 'nothing'}")

    def rounds(self, plan, facts):
        """All in turns. The results are written after each engine's turn, so that a run that is broken off is of use."""
        refused = set()
        for number in range(self.options.rounds):
            peers.say(f"round {number + 1} of {self.options.rounds}")
            for precision in self.options.precisions:
                for name in self.engines:
                    if (name, precision) not in self.models:
                        continue
                    for variant in self.engines[name].variants(precision):
                        columns = [c for c in self.columns if variant in plan[name, precision, c["name"]]]
                        if not columns or (name, precision, variant) in refused:
                            continue
                        runs = self.measured(name, precision, variant, columns)
                        if not runs:
                            refused.add((name, precision, variant))
                        self.keep(number, name, precision, variant, runs)
                        write(self.path, self.results(facts))

    def keep(self, number, name, precision, variant, runs):
        for figures, others in runs:
            for column, value in figures.items():
                sample = {"peer": name, "precision": precision, "variant": variant, "column": column, "round": number,
                          "value": round(value, 3) if value else None,
                          "others": round(others, 3) if others is not None else None}
                self.samples.append(sample)

    def results(self, facts):
        config = json.loads((self.work.checkpoint() / "config.json").read_text(encoding="utf-8"))
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        return {
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit(), "shape": self.options.shape, "seed": self.options.seed, "threads": self.options.threads,
            "rounds": self.options.rounds, "machine": facts, "columns": self.columns, "precisions": self.options.precisions,
            "kv_bytes_per_token": 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim,
            "peers": {name: {"label": engine.label, "version": self.versions[name]} for name, engine in self.engines.items()},
            "model_bytes": self.sizes, "skipped": self.skipped, "samples": self.samples,
        }


def commit():
    """The checkout's commit, and whether it has changes beside; None without git."""
    git = lambda *command: subprocess.run(["git", "-C", str(REPOSITORY), *command], capture_output=True, text=True, check=True)
    try:
        head = git("rev-parse", "--short=12", "HEAD").stdout.strip()
        return head + ("+" if git("status", "--porcelain", "--untracked-files=no").stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def compare(options):
    """Measures everything and writes the results."""
    if not pathlib.Path(options.astrai).is_file():
        raise SystemExit(f"compare: {options.astrai} is not there: cargo build --release --features cli, or --astrai PROGRAM")
    comparison = Comparison(options)
    comparison.prepare()
    if not comparison.models:
        raise SystemExit("compare: no engine is left to measure")
    facts = machine.facts()
    try:
        facts.update(machine.limits(comparison.work.folder, options.threads, "cc"))
    except (OSError, subprocess.CalledProcessError) as error:
        comparison.skip("memory bandwidth", error)
    write(comparison.path, comparison.results(facts))
    try:
        comparison.rounds(comparison.screened(), facts)
    except KeyboardInterrupt:
        peers.say("broken off; what was measured counts")
    results = comparison.results(facts)
    write(comparison.path, results)
    peers.say(f"results are in {comparison.path}")
    return results


def read(path):
    """Results of an earlier run."""
    try:
        results = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        if not {"samples", "columns", "peers", "machine"} <= set(results):
            raise ValueError("it has not the fields of results")
        return results
    except (OSError, ValueError) as error:
        raise SystemExit(f"compare: cannot read {path}: {error}; give a file that this script wrote") from None


def write(path, results):
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main(argv):
    options = arguments(argv)
    if options.source:
        results = read(options.source)
    else:
        results = compare(options)
    print(report.text(results))
    if options.svg:
        pathlib.Path(options.svg).write_text(chart.svg(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
