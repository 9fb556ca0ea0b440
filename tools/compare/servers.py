#!/usr/bin/env python3
"""This library's server beside llama.cpp's on the same model, in one run, in turns: see README.md.

    tools/compare/servers.py [--clients 1,16,64] [--rounds 3] [--precision bf16]

Each server is started for a number of clients, measured by `astrai bench --url` and stopped, then the other. Both have as many
slots as there are clients, and llama.cpp's what it needs of context for them. Printed are the medians over the rounds.
"""

import argparse
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

import machine
import peers

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
START_S = 300


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", default="~/.cache/astrai-compare", help="folder for everything installed and made")
    parser.add_argument("--astrai", default=str(REPOSITORY / "target/release/astrai"), help="the program to measure")
    parser.add_argument("--shape", default="qwen3-0.6b", help="a shape of `astrai bench --shape` [default: qwen3-0.6b]")
    parser.add_argument("--precision", default="bf16", help="bf16, q8 or q4")
    parser.add_argument("--clients", default="1,16,64", help="clients at once [default: 1,16,64]")
    parser.add_argument("--prompt-len", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--gen-len", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3, help="times the whole is repeated; the median counts")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and prompts")
    return parser.parse_args(argv)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A server that runs while this is entered."""

    def __init__(self, command, port):
        self.command, self.port, self.process = [str(part) for part in command], port, None

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise peers.Absent(f"{' '.join(self.command)} ended with {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                time.sleep(0.2)
        raise peers.Absent(f"{self.command[0]} was not ready after {START_S} s")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def measure(options, command, port, clients, seed):
    """What `astrai bench --url` says of a server, after a first pass that reads the weights."""
    bench = [options.astrai, "bench", "--url", f"http://127.0.0.1:{port}", "--model", "model", "--workload", "streams",
             "--streams", clients, "--prompt-len", options.prompt_len, "--gen-len", options.gen_len, "--json"]
    with Server(command, port):
        outcome = None
        for which in (seed + 1000, seed):
            outcome = subprocess.run([str(part) for part in [*bench, "--seed", which]], capture_output=True, text=True, check=False)
            if outcome.returncode != 0:
                raise peers.Absent(outcome.stderr.strip())
        return json.loads(outcome.stdout)


def main():
    options = arguments(sys.argv[1:])
    work = peers.Work(options.work, options.shape, str(options.seed), options.astrai)
    llama = peers.PEERS["llama.cpp"]()
    print(f"llama.cpp: {llama.install(work)}; {machine.cpuinfo()[0]}", flush=True)
    gguf, folder = llama.model(work, options.precision), work.checkpoint()
    ours = [] if options.precision == "bf16" else ["--weights", options.precision]
    rates = {}
    for turn in range(options.rounds):
        for clients in map(int, options.clients.split(",")):
            context = clients * -(-(options.prompt_len + options.gen_len + 8) // 256) * 256
            port = free_port()
            commands = {
                "astrai": [options.astrai, "serve", "--model", f"model={folder}", "--port", port,
                           "--max-running", max(clients, 16), *ours],
                "llama.cpp": [llama.bin(work) / "llama-server", "-m", gguf, "--port", port, "-np", clients, "-c", context,
                              "-t", machine.physical_cores()],
            }
            for name, command in commands.items():
                result = measure(options, command, port, clients, options.seed + turn)
                rates.setdefault((clients, name), []).append(result)
                print(f"round {turn + 1}, {clients} clients, {name}: {json.dumps(result)}", flush=True)
    for clients in map(int, options.clients.split(",")):
        line = [f"{clients} clients"]
        medians = {}
        for name in ("astrai", "llama.cpp"):
            rate = statistics.median(r["tokens_per_s"] for r in rates[clients, name])
            first = statistics.median(r["ttft_ms"]["p50"] for r in rates[clients, name])
            medians[name] = (rate, first)
            line.append(f"{name} {rate:.1f} tokens/s, first token after {first:.0f} ms")
        (rate, first), (rate_of_other, first_of_other) = medians["astrai"], medians["llama.cpp"]
        line.append(f"ratios {rate / rate_of_other:.2f}, {first / first_of_other:.2f}")
        print("; ".join(line))


if __name__ == "__main__":
    try:
        main()
    except peers.Absent as absent:
        sys.exit(f"servers: {absent}")
