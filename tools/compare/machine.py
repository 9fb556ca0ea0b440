"""What belongs beside a figure: the processor, its memory, and who else was using it."""

import contextlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# Instruction sets that decide which kernels an engine takes, as /proc/cpuinfo has them.
FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
         "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve")


def cpuinfo():
    """(model name, flags) of the first processor."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = {}
    for line in text.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    family = " ".join(f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields)
    name = fields.get("model name", platform.machine())
    return f"{name} ({family})" if family else name, [flag for flag in FLAGS if flag in flags]


def physical_cores():
    """Cores this process may use, two threads of one core counted once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = pathlib.Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def memory_gb():
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def facts():
    """The machine as it goes into the results."""
    name, flags = cpuinfo()
    return {"cpu": name, "flags": flags, "cores": physical_cores(), "cpus": os.cpu_count(), "memory_gb": memory_gb(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}"}


def limits(work, threads, compiler):
    """GB/s read with 1 thread and with `threads`, by limits.c."""
    program = work / "limits"
    command = [compiler, "-O3", "-march=native", "-pthread", str(HERE / "limits.c"), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    out = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True).stdout
    found = json.loads(out)
    return {"read_gb_s_1": found["read_gb_s_1"], "read_gb_s_n": found["read_gb_s_n"]}


def busy_s():
    """Seconds all processors together have computed since the start of the system; None where nobody knows. What the
    hypervisor took away (steal) counts."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_for_calm(seconds, share):
    """Waits until others have left the processors alone for a second, at most so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = busy_s()
        if before is None:
            return
        time.sleep(1)
        if busy_s() - before <= share * (os.cpu_count() or 1):
            return


@contextlib.contextmanager
def kept_busy():
    """While this lasts, another program wants each of the processors, all of the time, at the same priority."""
    spin = [sys.executable, "-c", "while True: pass"]
    programs = []
    try:
        programs = [subprocess.Popen(spin) for _ in os.sched_getaffinity(0)]
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


class Outcome:
    """How a program ended, and what it cost."""

    def __init__(self, code, out, err, seconds, others):
        self.code, self.out, self.err = code, out, err
        self.seconds, self.others = seconds, others

    def why(self):
        """The last line it said, for a table."""
        lines = [line.strip() for line in (self.err + "\n" + self.out).splitlines() if line.strip()]
        telling = [line for line in lines if "rror" in line or line.startswith("astrai:")] or lines
        return f"ended with {self.code}" if not telling else telling[-1][:200]


def run(command, job=None, env=None, timeout=3600):
    """Runs a program to its end. `job` is written to its stdin as JSON. `others` of the outcome is the part of all
    processors' time that other programs took meanwhile, 0 to 1."""
    before, begin = busy_s(), time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, **(env or {})})
    usage_before = os.times()
    try:
        out, err = process.communicate(json.dumps(job) if job is not None else "", timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        err += f"\nerror: not done after {timeout} s"
    seconds, usage = time.monotonic() - begin, os.times()
    own = usage.children_user + usage.children_system - usage_before.children_user - usage_before.children_system
    after = busy_s()
    others = None
    if before is not None and after is not None:
        others = min(1.0, max(0.0, (after - before - own) / (seconds * (os.cpu_count() or 1))))
    return Outcome(process.returncode, out, err, seconds, others)
