"""The engines: how each is installed, given the checkpoint, and measured.

An engine that cannot be had raises [`Absent`] with the reason, and so does a precision or a setting it refuses; the
table then says SKIP. What is installed, built and converted stays in the work folder and is made once.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import machine

HERE = pathlib.Path(__file__).resolve().parent
# Types of GGUF file, as llama.cpp's quantizer names them: one file that llama.cpp and astrai both open.
GGUF = ("Q8_0", "Q4_0", "Q4_K_M", "Q6_K")
PRECISIONS = ("bf16", "q8", "q4", *GGUF)
LLAMA_CPP = "llama_cpp_python==0.3.36"


class Absent(Exception):
    """An engine, a precision or a setting that cannot be measured here, and why."""


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)


def step(what, command, **options):
    """A command of an installation; its output is of interest only when it fails."""
    say(what)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Absent(f"{what} failed: {lines[-1][:300] if lines else done.returncode}")
    return done.stdout


class Work:
    """The folder with everything that is not in the checkout."""

    def __init__(self, folder, shape, seed, astrai):
        self.folder = pathlib.Path(folder).expanduser().resolve()
        self.shape, self.seed, self.astrai = shape, seed, astrai
        self.models = self.folder / "models" / f"{shape}-{seed}"

    def python(self, name, requirements):
        """The Python of a virtual environment with the packages of a requirements file, made when it is not there."""
        folder = self.folder / name
        wanted = (HERE / requirements).read_text(encoding="utf-8")
        marker = folder / "installed.txt"
        if not marker.exists() or marker.read_text(encoding="utf-8") != wanted:
            step(f"making {folder}", [sys.executable, "-m", "venv", folder])
            install = [folder / "bin/python", "-m", "pip", "install", "-q", "-r", HERE / requirements]
            step(f"installing {requirements} into {folder}", install)
            marker.write_text(wanted, encoding="utf-8")
        return folder / "bin/python"

    def tools(self):
        return self.python("venv", "requirements.txt")

    def export(self):
        return self.python("venv-export", "requirements-export.txt")

    def checkpoint(self):
        """The model folder; made under another name first, so that what is there is whole."""
        return self.made("hf", lambda target: step(
            f"making random weights of {self.shape}",
            [self.tools(), HERE / "checkpoint.py", self.astrai, self.shape, self.seed, target]))

    def made(self, name, make):
        """A file or folder of this model, made by `make` when it is not there."""
        path = self.models / name
        if not path.exists():
            self.models.mkdir(parents=True, exist_ok=True)
            partial = self.models / f"{name}.partial"
            if partial.is_dir():
                shutil.rmtree(partial)
            make(partial)
            partial.rename(path)
        return path

    def gguf(self):
        """The checkpoint as a GGUF file in bf16."""
        return self.made(gguf_name("BF16"), lambda target: step(
            "writing GGUF", [self.tools(), HERE / "gguf_write.py", self.checkpoint(), target]))

    def vocab(self):
        return json.loads((self.checkpoint() / "config.json").read_text(encoding="utf-8"))["vocab_size"]


def gguf_name(kind):
    return f"model-{kind}.gguf"


def size_of(path):
    """Bytes of a model file, or of the weights in a model folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.iterdir() if p.name.endswith((".safetensors", "model.bin", ".data")))
    return path.stat().st_size


class Peer:
    """An engine. `settings` of a measurement: threads, seed."""

    name = ""
    label = ""

    def install(self, work):
        """Puts the engine where `measure` finds it; returns its version."""
        raise NotImplementedError

    def model(self, work, precision):
        """The converted checkpoint."""
        raise NotImplementedError

    def variants(self, precision):
        """Settings of which the best counts in each cell."""
        return ["default"]

    def measure(self, work, model, precision, variant, columns, settings):
        """Runs, each as tokens a second by column name and the part of the processors that others took meanwhile."""
        raise NotImplementedError


def finished(outcome):
    if outcome.code != 0:
        raise Absent(outcome.why())
    return outcome


class LlamaCpp(Peer):
    """Built from the source that llama-cpp-python carries; measured with its own llama-bench and llama-batched-bench."""

    FLAVOURS = {
        "native": ["-DGGML_NATIVE=ON"],
        "avx2": ["-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON",
                 "-DGGML_BMI2=ON", "-DGGML_AVX512=OFF"],
    }
    FILES = {"q8": "Q8_0", "q4": "Q4_0"}
    STORED = "as stored"
    TARGETS = ("llama-bench", "llama-batched-bench", "llama-quantize", "llama-perplexity", "llama-server")

    def __init__(self, flavour):
        self.flavour = flavour
        self.name = "llama.cpp" if flavour == "native" else f"llama.cpp-{flavour}"
        self.label = "llama.cpp" if flavour == "native" else f"llama.cpp built for {flavour.upper()}"

    def source(self, work):
        base = work.folder / "src"
        found = sorted(base.glob("llama_cpp_python-*/vendor/llama.cpp"))
        if not found:
            base.mkdir(parents=True, exist_ok=True)
            # Never `--no-binary :all:`, which builds the build tools too.
            fetch = [work.tools(), "-m", "pip", "download", "-q", "--no-deps", "--no-binary",
                     "llama-cpp-python", "--dest", base, LLAMA_CPP]
            archives = sorted(base.glob("llama_cpp_python-*.tar.gz"))
            if not archives:
                step(f"downloading {LLAMA_CPP}", fetch)
                archives = sorted(base.glob("llama_cpp_python-*.tar.gz"))
            step("unpacking it", ["tar", "-xzf", archives[-1], "-C", base])
            found = sorted(base.glob("llama_cpp_python-*/vendor/llama.cpp"))
        if not found:
            raise Absent(f"{LLAMA_CPP} carries no llama.cpp")
        return found[-1]

    def bin(self, work):
        return work.folder / "build" / self.flavour / "bin"

    def install(self, work):
        tools, source = work.tools().parent, self.source(work)
        build = work.folder / "build" / self.flavour
        if not all((self.bin(work) / target).exists() for target in self.TARGETS):
            cc, cxx = compilers()
            configure = [tools / "cmake", "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}",
                         "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_C_COMPILER={cc}", f"-DCMAKE_CXX_COMPILER={cxx}",
                         "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
                         "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_UI=OFF", *self.FLAVOURS[self.flavour]]
            step(f"configuring {self.label} with {cc}", configure)
            step(f"building {self.label}, some minutes", [tools / "cmake", "--build", build, "--target", *self.TARGETS])
        package = source.parent.parent.name.replace("llama_cpp_python-", "llama-cpp-python ")
        cache = (build / "CMakeCache.txt").read_text(encoding="utf-8")
        compiler = next((line.split("=")[1] for line in cache.splitlines() if line.startswith("CMAKE_CXX_COMPILER:")), "?")
        return f"{package}, {pathlib.Path(compiler).name}, {self.flavour}"

    def model(self, work, precision):
        if precision == "bf16":
            return work.gguf()
        kind = self.FILES.get(precision, precision)
        return work.made(gguf_name(kind), lambda target: step(
            f"quantizing to {kind}", [self.bin(work) / "llama-quantize", work.gguf(), target, kind]))

    def variants(self, precision):
        # Its fastest prefill is that of some types as they are stored, its fastest decoding of others repacked.
        return ["repacked", self.STORED] if precision in GGUF else ["default"]

    def measure(self, work, model, precision, variant, columns, settings):
        runs = []
        single = [c for c in columns if c["streams"] == 1]
        several = [c for c in columns if c["streams"] > 1]
        for group in grouped(single, lambda c: (c["generate"] == 0, c["prompt"] if c["generate"] == 0 else c["generate"])):
            runs.append(self.bench(work, model, variant, group, settings))
        for group in grouped(several, lambda c: (c["prompt"], c["generate"])):
            runs.append(self.batched(work, model, variant, group, settings))
        return runs

    def bench(self, work, model, variant, columns, settings):
        """llama-bench: prompts alone, or generation after so many tokens of context."""
        first = columns[0]
        if first["generate"] == 0:
            what = ["-p", first["prompt"], "-n", 0]
        else:
            what = ["-p", 0, "-n", first["generate"], "-d", ",".join(str(c["prompt"]) for c in columns)]
        command = [self.bin(work) / "llama-bench", "-m", model, "-t", settings["threads"], "-r", first["repeat"], "-o", "json",
                   "--repack", int(variant != self.STORED), *what]
        outcome = finished(machine.run([str(part) for part in command]))
        figures = {}
        for entry in json.loads(outcome.out):
            for column in columns:
                if column["generate"] == 0 or column["prompt"] == entry["n_depth"]:
                    figures[column["name"]] = sorted(entry["samples_ts"])[len(entry["samples_ts"]) // 2]
        return figures, outcome.others

    def batched(self, work, model, variant, columns, settings):
        """llama-batched-bench. The streams' prompts are the same tokens, computed once and then copied, which leaves each
        stream a cache of its own and saves the time of the others' prefill."""
        prompt, generate = columns[0]["prompt"], columns[0]["generate"]
        widest = max(c["streams"] for c in columns)
        # A sequence's part of the cache is a multiple of 256 places.
        context = widest * -(-(prompt + generate + 1) // 256) * 256
        command = [self.bin(work) / "llama-batched-bench", "-m", model, "-t", settings["threads"], "-c", context, "-b", 2048,
                   "-ub", 512, "-npp", prompt, "-ntg", generate, "-npl", ",".join(str(c["streams"]) for c in columns),
                   "-pps", "--output-format", "jsonl", *(["--no-repack"] if variant == self.STORED else [])]
        outcome = finished(machine.run([str(part) for part in command]))
        rates = {}
        for line in (outcome.out + "\n" + outcome.err).splitlines():
            if line.startswith("{"):
                entry = json.loads(line)
                rates[entry["pl"]] = entry["speed_tg"]
        return {c["name"]: rates.get(c["streams"]) for c in columns}, outcome.others


def grouped(items, key):
    """Items with an equal key, in lists, in the order of their first."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def compilers():
    """A C and a C++ compiler, clang first. gcc 12 lets an asm in llama.cpp's AMX path clobber memory unseen."""
    for version in ("", *(f"-{n}" for n in range(24, 13, -1))):
        if shutil.which(f"clang{version}") and shutil.which(f"clang++{version}"):
            return f"clang{version}", f"clang++{version}"
    if not (shutil.which("gcc") and shutil.which("g++")):
        raise Absent("there is neither clang nor gcc")
    major = int(subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout.split(".")[0])
    if major < 13 and "amx_int8" in machine.cpuinfo()[1]:
        raise Absent(f"gcc {major} miscompiles its AMX path: install clang")
    return "gcc", "g++"


class Python(Peer):
    """An engine that is driven by a script of ours in a virtual environment."""

    script = ""

    def python(self, work):
        raise NotImplementedError

    def options(self, precision, variant):
        """What of the job the variant says."""
        return {}

    def measure(self, work, model, precision, variant, columns, settings):
        runs = []
        for group in grouped(columns, lambda c: c["streams"] > 1):
            job = {"model": str(model), "threads": settings["threads"], "vocab": work.vocab(), "seed": settings["seed"],
                   "columns": group, **self.options(precision, variant)}
            outcome = finished(machine.run([str(self.python(work)), str(HERE / self.script)], job))
            runs.append((json.loads(outcome.out.strip().splitlines()[-1])["figures"], outcome.others))
        return runs


class OpenVino(Python):
    """OpenVINO GenAI's continuous batching on IR that optimum-intel exports with its defaults."""

    name = "openvino"
    label = "OpenVINO GenAI"
    script = "run_openvino.py"
    FORMATS = {"bf16": "fp16", "q8": "int8", "q4": "int4"}

    def python(self, work):
        return work.tools()

    def install(self, work):
        show = "import openvino, openvino_genai; print(openvino_genai.__version__)"
        return f"openvino-genai {step('looking at openvino-genai', [work.tools(), '-c', show]).strip()}"

    def model(self, work, precision):
        if precision in GGUF:
            raise Absent("converts GGUF files to formats of its own")
        kind = self.FORMATS[precision]
        return work.made(f"openvino-{kind}", lambda target: step(
            f"exporting OpenVINO {kind}, a minute",
            [work.export().parent / "optimum-cli", "export", "openvino", "-m", work.checkpoint(), "--task",
             "text-generation-with-past", "--weight-format", kind, target]))

    def variants(self, precision):
        hints = [f"hint {hint}" for hint in ("f32", "bf16")]
        if precision == "bf16":
            return hints
        return [*hints, *(f"{hint}, weights only" for hint in hints)]

    def options(self, precision, variant):
        weights_only = variant.endswith("weights only")
        return {"hint": variant.split()[1].strip(","), "dynamic_quantization": 0 if weights_only else None}


class Transformers(Python):
    """transformers on torch in bf16, as `generate` does it."""

    name = "transformers"
    label = "transformers, torch"
    script = "run_transformers.py"

    def python(self, work):
        return work.export()

    def install(self, work):
        show = "import torch, transformers; print(transformers.__version__ + ', torch ' + torch.__version__)"
        return f"transformers {step('looking at transformers', [work.export(), '-c', show]).strip()}"

    def model(self, work, precision):
        if precision != "bf16":
            raise Absent("measured in bf16 only")
        return work.checkpoint()


class OnnxRuntime(Python):
    """ONNX Runtime GenAI in int4, as its model builder makes it for a CPU."""

    name = "onnxruntime"
    label = "ONNX Runtime GenAI"
    script = "run_onnx.py"

    def python(self, work):
        return work.export()

    def install(self, work):
        show = "import onnxruntime_genai; print(onnxruntime_genai.__version__)"
        return f"onnxruntime-genai {step('looking at onnxruntime-genai', [work.export(), '-c', show]).strip()}"

    def model(self, work, precision):
        if precision != "q4":
            raise Absent("its builder makes int4 only")
        return work.made("onnx-int4", lambda target: step(
            "building ONNX int4, a minute",
            [work.export(), "-m", "onnxruntime_genai.models.builder", "-m", work.checkpoint(), "-o", target, "-p", "int4",
             "-e", "cpu", "-c", work.models]))


class Astrai(Peer):
    """This library, by `astrai bench` on the checkpoint."""

    name = "astrai"
    label = "astrai"

    def __init__(self, tier=None, kv=None):
        self.tier, self.kv = tier, kv
        self.label = "astrai" + (f", {tier} tier" if tier else "") + (f", KV {kv}" if kv else "")

    def install(self, work):
        return step("looking at astrai", [work.astrai, "--version"]).strip()

    def model(self, work, precision):
        if precision not in GGUF:
            return work.checkpoint()
        path = work.models / gguf_name(precision)
        if not path.exists():
            raise Absent("llama.cpp's quantizer makes the file: it must be one of the peers")
        return path

    def measure(self, work, model, precision, variant, columns, settings):
        return [self.bench(work, model, precision, column, settings) for column in columns]

    def bench(self, work, model, precision, column, settings):
        command = [work.astrai, "bench", model, "--json", "--threads", settings["threads"], "--seed", settings["seed"],
                   *([] if precision in GGUF else ["--weights", precision]), "--prompt-len", column["prompt"], "--slots", column["streams"],
                   "--context", -(-(column["prompt"] + column["generate"] + 1) // 256) * 256]
        if self.tier:
            command += ["--cpu-tier", self.tier]
        if self.kv:
            command += ["--kv", self.kv]
        if column["generate"] == 0:
            command += ["--workload", "prefill", "--requests", column["repeat"]]
        else:
            command += ["--workload", "streams", "--streams", column["streams"], "--requests", column["streams"],
                        "--gen-len", column["generate"], "--rounds", column["repeat"]]
        outcome = finished(machine.run([str(part) for part in command]))
        found = json.loads(outcome.out)
        if not found["config"]["optimised"]:
            raise Absent(f"{work.astrai} is not optimised: cargo build --release --features cli")
        rate = found["tokens_per_s"] if column["generate"] == 0 else found["decode_tokens_per_s"]
        return {column["name"]: rate}, outcome.others


PEERS = {
    "llama.cpp": lambda: LlamaCpp("native"),
    "llama.cpp-avx2": lambda: LlamaCpp("avx2"),
    "openvino": OpenVino,
    "onnxruntime": OnnxRuntime,
    "transformers": Transformers,
}
