#!/usr/bin/env python3
"""Checks and measures libastrai on this machine's GPU: see docs/gpu.md.

    python3 gpu_check.py                           everything that fits into 8 minutes
    python3 gpu_check.py --part kernels,parity     some parts alone
    python3 gpu_check.py --json out.json           figures and outcomes for programs
    python3 gpu_check.py --minutes 30 --part bench,torch

Needs the bundle around it (`make gpu-bundle`) and Python 3.8, nothing else: no Rust, no network. A part that cannot run says
SKIP and why; one that finds something wrong says FAIL, and the exit status is then 1, as it is where ASTRAI_REQUIRE names gpu
and there is none.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import driver
import speed

HERE = pathlib.Path(__file__).resolve().parent
# Random requests that the law-1 test compares with themselves alone, and how it gets there: processes side by side, each
# over and over with another seed and so many rounds.
# The test program in the bundle.
TESTS = "tests/devices"
LAW_REQUESTS = 10_000
LAW_PROCESSES = max(1, min(8, (os.cpu_count() or 2) // 2))
LAW_ROUNDS = 2
# Tokens of the generation that compute-sanitizer watches.
SANITIZED_TOKENS = 6
# Less is not worth beginning a part with.
PART_SECONDS_MIN = 5
# Lines of a failing program's output that are shown.
TAIL_LINES = 25


class Skip(Exception):
    """A part cannot run, and why."""


class Fail(Exception):
    """A part found something wrong."""


class Out:
    """What a program printed, and how it ended; `code` is None when its time was over."""

    def __init__(self, code, text):
        self.code, self.text = code, text

    def tail(self):
        return "\n".join(self.text.splitlines()[-TAIL_LINES:])


def run(command, seconds, **environment):
    """Runs a program for some seconds at most; then it and its children are ended. Its stderr is part of the text."""
    process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True,
                               text=True, errors="replace")
    try:
        text, _ = process.communicate(timeout=max(seconds, 0.1))
        return Out(process.returncode, text)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return Out(None, process.communicate()[0])


class Check:
    """One run: what is asked for, what time is left, what came."""

    def __init__(self, options):
        self.options = options
        self.begin = time.monotonic()
        self.device = f"cuda:{options.device}"
        self.gpu, self.no_gpu = None, None
        self.limits = {}
        self.rows = []
        self.parts = {}

    def left(self):
        return self.options.minutes * 60 - (time.monotonic() - self.begin)

    def file(self, name):
        """A file of the bundle."""
        path = self.options.bundle / name
        if not path.exists():
            raise Skip(f"{name} is not in {self.options.bundle}; make gpu-bundle makes it")
        return path

    def run(self, command, seconds, **environment):
        return run(command, min(seconds, self.left()), ASTRAI_TEST_DEVICE=self.device,
                   ASTRAI_TEST_ROOT=str(self.options.bundle), **environment)

    def named(self, wanted, part=""):
        """The names of the tests that begin with `wanted` and have `part` in them."""
        listed = self.run([self.file(TESTS), "--list"], 20)
        names = [line.removesuffix(": test") for line in listed.text.splitlines() if line.endswith(": test")]
        names = [name for name in names if name.startswith(wanted) and part in name]
        if not names:
            raise Skip(f"none of the bundle's tests is {wanted}...{part}")
        return names

    def tests(self, seconds, *names, **environment):
        """Runs these tests: (how many passed, their output). Fails as they do."""
        out = self.run([self.file(TESTS), "--nocapture", "--exact", *names], seconds, **environment)
        if out.code is None:
            raise Fail(f"the tests had not ended after {seconds:.0f} s\n{out.tail()}")
        if out.code != 0:
            failed = sorted(set(re.findall(r"^test (\S+) \.\.\. FAILED|^    ([\w:]+)$", out.text, re.M)))
            names = ", ".join(a or b for a, b in failed) or f"exit status {out.code}"
            raise Fail(f"{names}\n{out.tail()}")
        passed = re.search(r"test result: ok\. (\d+) passed", out.text)
        return int(passed.group(1)) if passed else 0, out.text


def skips(text):
    """The reasons that tests gave for not running."""
    return sorted(set(re.findall(r"SKIP: (.*)", text)))


def part_kernels(check, seconds):
    """Every kernel against its reference at edge sizes."""
    fatbin = check.options.bundle / "tests/selftest.fatbin"
    launched = check.options.scratch / "launched.txt"
    launched.unlink(missing_ok=True)
    environment = {"ASTRAI_TEST_LAUNCHED": str(launched)}
    if fatbin.exists():
        environment["ASTRAI_TEST_FATBIN"] = str(fatbin)
    tests = check.named("kernels_cuda::", check.options.kernels or "")
    passed, text = check.tests(seconds, *tests, **environment)
    names = set(launched.read_text(encoding="utf-8").split()) if launched.exists() else set()
    if not names and not check.options.kernels:
        raise Skip("; ".join(skips(text)) or "no kernel was launched")
    listed = re.search(r"KERNELS (.*)", text)
    known = listed.group(1).split() if listed else []
    missing = [name for name in known if name not in names]
    told = f"{passed} tests, {len(names)} kernels launched"
    if missing and not check.options.kernels:
        told += f"; never launched: {', '.join(missing)}"
    return told, {"tests": passed, "launched": sorted(names), "never_launched": missing}


def part_parity(check, seconds):
    """The fixtures of every family, with the reference's numbers."""
    passed, text = check.tests(seconds, "cuda::f32_parity", "cuda::bf16_parity")
    if passed == 0 or "Gpu(" not in text:
        raise Skip("; ".join(skips(text)) or "the bundle's tests compared nothing on a GPU")
    largest = [float(value) for value in re.findall(r"largest difference ([0-9.e+-]+)", text)]
    return f"{passed} tests, {len(largest)} comparisons in f32, largest difference {max(largest, default=0):.2e}", {
        "tests": passed, "largest_difference": max(largest, default=None)}


def part_law1(check, seconds):
    """Random requests among others, each compared bit for bit with itself alone."""
    names = check.named("cuda::neighbours::")
    end = time.monotonic() + seconds
    total, seed, why = 0, int(check.options.seed), []

    def one(seed):
        limit = end - time.monotonic()
        out = check.run([check.file(TESTS), "--nocapture", "--test-threads=1", "--exact", *names], limit,
                        ASTRAI_TEST_ROUNDS=str(LAW_ROUNDS), ASTRAI_TEST_SEED=str(seed))
        counted = sum(int(n) for n in re.findall(r"Tally { requests: (\d+)", out.text))
        return seed, out, counted

    with concurrent.futures.ThreadPoolExecutor(LAW_PROCESSES) as pool:
        running = set()
        while total < LAW_REQUESTS and time.monotonic() < end:
            while len(running) < LAW_PROCESSES:
                running.add(pool.submit(one, seed))
                # Each takes seeds up to 100 for each round.
                seed += 1000 * LAW_ROUNDS
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for which, out, counted in (task.result() for task in done):
                total += counted
                if out.code not in (0, None):
                    for task in running:
                        task.cancel()
                    raise Fail(f"ASTRAI_TEST_SEED={which} ASTRAI_TEST_ROUNDS={LAW_ROUNDS}\n{out.tail()}")
                why += skips(out.text)
            if why and total == 0:
                break
    if total == 0:
        raise Skip("; ".join(sorted(set(why))) or f"no round ended within {seconds:.0f} s")
    short = "" if total >= LAW_REQUESTS else f" of {LAW_REQUESTS}, then the time was over"
    return f"{total} requests{short}, each as if it were alone", {"requests": total}


def part_sanitizer(check, seconds):
    """compute-sanitizer's memcheck and racecheck on a short generation."""
    tool = shutil.which("compute-sanitizer") or next(
        (str(path) for path in sorted(pathlib.Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))), None)
    if tool is None:
        raise Skip("compute-sanitizer is not on this machine; it comes with the CUDA toolkit")
    command = [check.file("bin/astrai"), "run", "--model", check.file("models/storyteller"), "--device", check.device,
               "--raw", "--temperature", "0", "--max-tokens", SANITIZED_TOKENS, "Once upon a time"]
    clean = []
    for watch in ("memcheck", "racecheck"):
        out = check.run([tool, "--tool", watch, "--error-exitcode", "86", *command], seconds / 2)
        if out.code is None:
            clean.append(f"{watch}: SKIP, it had not ended after {seconds / 2:.0f} s")
        elif out.code == 86 or "Target application returned an error" in out.text:
            raise Fail(f"{watch}\n{out.tail()}")
        elif out.code != 0:
            raise Skip(f"{watch} could not run: {out.tail()}")
        else:
            clean.append(f"{watch}: nothing found")
    if all("SKIP" in line for line in clean):
        raise Skip("; ".join(clean))
    return "; ".join(clean), {"tools": clean}


def part_limits(check, seconds):
    """What the card can do at most: bandwidth of a copy, rate of a bf16 product."""
    device = driver.Driver(check.options.device)
    try:
        size = min(check.options.copy_mib << 20, device.facts()["free_bytes"] // 4)
        check.limits["copy_gb_per_s"] = device.copy_gb_per_s(size)
        check.limits["copy_bytes"] = size
    finally:
        device.close()
    told = [f"copy {check.limits['copy_gb_per_s']:.0f} GB/s"]
    out = check.run([sys.executable, HERE / "torch_peer.py", "--limits", "--device", check.options.device], seconds / 2)
    answer = speed.last_object(out.text)
    if answer and "tflops" in answer:
        check.limits.update(bf16_tflop_per_s=answer["tflops"], bf16_by="torch.matmul")
    else:
        device = driver.Driver(check.options.device)
        try:
            check.limits.update(bf16_tflop_per_s=device.cublas_tflops(), bf16_by="cuBLAS")
        except driver.Refused as refused:
            told.append(f"rate of bf16 unknown: {refused}")
        finally:
            device.close()
    if "bf16_tflop_per_s" in check.limits:
        told.append(f"bf16 {check.limits['bf16_tflop_per_s']:.0f} TFLOP/s by {check.limits['bf16_by']}")
    return "; ".join(told), dict(check.limits)


def part_bench(check, seconds):
    """`astrai bench` on random weights made on the device."""
    return speed.ours(check, seconds, Skip, Fail)


def part_torch(check, seconds):
    """The same shapes by transformers on torch."""
    return speed.torch(check, seconds, Skip)


MINUTES = 8.0

# Name, function, seconds it may take at most of the usual eight minutes; with more minutes, as much longer. Those that come
# first leave time to those that follow.
PARTS = [
    ("kernels", part_kernels, 75),
    ("parity", part_parity, 45),
    ("law1", part_law1, 90),
    ("sanitizer", part_sanitizer, 60),
    ("limits", part_limits, 30),
    ("bench", part_bench, 210),
    ("torch", part_torch, 120),
]


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = [name for name, _, _ in PARTS]
    parser.add_argument("--part", action="append", metavar="NAME", help="of " + ", ".join(names) + "; all when left away")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything; what would not fit is skipped")
    parser.add_argument("--json", metavar="FILE", help="write outcomes and figures")
    parser.add_argument("--device", type=int, default=0, help="which GPU")
    parser.add_argument("--bundle", type=pathlib.Path, default=HERE, help="folder that make gpu-bundle made")
    parser.add_argument("--scratch", type=pathlib.Path, default=None, help="folder for files of the run")
    parser.add_argument("--seed", default="20260101", help="of the random requests")
    parser.add_argument("--kernels", metavar="NAME", help="only the kernel tests whose name has this in it")
    parser.add_argument("--copy-mib", type=int, default=driver.COPY_BYTES >> 20, help="of the copy that tells the bandwidth")
    parser.add_argument("--shape", action="append", choices=speed.SHAPES, help="only these shapes")
    parser.add_argument("--weights", action="append", choices=speed.WEIGHTS, help="only these formats")
    options = parser.parse_args(argv)
    wanted = [name for given in options.part or [",".join(names)] for name in given.split(",")]
    for name in wanted:
        if name not in names:
            parser.error(f"there is no part {name}; there are {', '.join(names)}")
    options.part = wanted
    options.bundle = options.bundle.resolve()
    return options


def look(check):
    """Whether there is a GPU; says so."""
    try:
        device = driver.Driver(check.options.device)
        try:
            check.gpu = device.facts()
        finally:
            device.close()
    except driver.Refused as refused:
        check.no_gpu = str(refused)
        print(f"no GPU: {refused}", flush=True)
        return
    gpu = check.gpu
    print(f"{gpu['name']}, {gpu['memory_bytes'] / 1e9:.1f} GB, compute capability {gpu['capability']}, driver for CUDA "
          f"{gpu['driver_cuda']}", flush=True)


def perform(check, name, function, limit):
    """Runs a part; what came of it."""
    begin = time.monotonic()
    # Alone, a part may take all the time there is.
    share = limit * check.options.minutes / MINUTES if len(check.options.part) > 1 else check.left()
    seconds = min(check.left(), share)
    outcome = {}
    try:
        if check.no_gpu:
            raise Skip(check.no_gpu)
        if seconds < PART_SECONDS_MIN:
            raise Skip(f"no time: the {check.options.minutes:g} minutes are over (--minutes)")
        status, (why, outcome) = "PASS", function(check, seconds)
    except (Skip, driver.Refused) as skip:
        status, why = "SKIP", str(skip)
    except Fail as fail:
        status, why = "FAIL", str(fail)
    taken = time.monotonic() - begin
    print(f"{status} {name} ({taken:.1f} s): {why}", flush=True)
    check.parts[name] = {"status": status, "why": why, "seconds": round(taken, 2), **outcome}


def main(argv=None):
    options = arguments(argv)
    options.scratch = (options.scratch or options.bundle / "scratch").resolve()
    options.scratch.mkdir(parents=True, exist_ok=True)
    check = Check(options)
    try:
        manifest = json.loads((options.bundle / "MANIFEST.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = {}
    print(f"libastrai {manifest.get('version', '?')} of commit {manifest.get('commit', '?')}, kernels for "
          f"{manifest.get('targets', '?')}", flush=True)
    look(check)
    for name, function, limit in PARTS:
        if name in options.part:
            perform(check, name, function, limit)
    table = speed.table(check)
    if table:
        print("\n" + table)
    if options.json:
        results = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "manifest": manifest,
                   "gpu": check.gpu, "no_gpu": check.no_gpu, "limits": check.limits, "parts": check.parts,
                   "seconds": round(time.monotonic() - check.begin, 1), "rows": check.rows}
        pathlib.Path(options.json).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    required = "gpu" in re.split(r"[, ]+", os.environ.get("ASTRAI_REQUIRE", ""))
    if required and check.no_gpu:
        print("ASTRAI_REQUIRE names gpu, which is not there")
        return 1
    return int(any(part["status"] == "FAIL" for part in check.parts.values()))


if __name__ == "__main__":
    sys.exit(main())
