#!/usr/bin/env python3
"""Makes the folder and the archive that gpu_check.py runs from on a machine with a GPU and no Rust: see docs/gpu.md.

    tools/gpu_check/bundle.py --out build/gpu-check      with cargo and nvcc here

The kernels are compiled for all targets of a release, or for those that ASTRAI_CUDA_TARGETS names.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FEATURES = "cli,cuda"
TESTS = ["devices"]
SCRIPTS = ["gpu_check.py", "driver.py", "speed.py", "torch_peer.py"]
FOLDERS = ["models/storyteller", "tests/fixtures/parity"]
# Most bytes of the archive.
BYTES_MAX = 60 << 20
# As in build.rs.
TARGETS = "sm_80,sm_86,sm_89,sm_90a,sm_100,sm_120"
PTX = "compute_80"


def stop(why):
    sys.exit(f"error: {why}")


def find_nvcc():
    """The compiler that build.rs finds."""
    if os.environ.get("ASTRAI_NVCC"):
        return os.environ["ASTRAI_NVCC"]
    homes = [pathlib.Path(os.environ[name]) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    paths = [pathlib.Path(path) for path in os.environ.get("PATH", "").split(os.pathsep)]
    for folder in [*homes, *paths, pathlib.Path("/usr/local/cuda/bin")]:
        if (folder / "nvcc").is_file():
            return str(folder / "nvcc")
    try:
        import nvidia
    except ImportError:
        return None
    found = [path for root in nvidia.__path__ for path in sorted(pathlib.Path(root).glob("*/bin/nvcc"))]
    return str(found[0]) if found else None


def cargo(arguments, profile, environment):
    """Runs cargo; every file that it made, with its target's name and kind."""
    command = [os.environ.get("CARGO", "cargo"), *arguments, "--features", FEATURES, "--profile", profile,
               "--message-format", "json-render-diagnostics"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        stop(f"{' '.join(command)} failed")
    made = []
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact":
            made.append((message["target"]["name"], message["target"]["kind"], message.get("executable"),
                         message["filenames"]))
    return made


def place(source, target, strip=False):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    if strip:
        subprocess.run(["strip", "--strip-unneeded", str(target)], check=False)


def selftest(nvcc, targets, target):
    """The kernels that try what device.cuh offers."""
    command = [nvcc, "-std=c++17", "-O3", "-fmad=false", "-fatbin"]
    command += [f"-gencode=arch={name.replace('sm_', 'compute_')},code={name}" for name in targets]
    command += [f"-gencode=arch={PTX},code={PTX}", "-o", str(target), str(ROOT / "tests/devices/kernels_cuda/selftest.cu")]
    if subprocess.run(command).returncode != 0:
        stop(f"{' '.join(command)} failed")


def commit():
    def git(*arguments):
        done = subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return done.stdout.strip() if done.returncode == 0 else None
    head = git("rev-parse", "HEAD")
    return f"{head}{' with changes' if git('status', '--porcelain') else ''}" if head else None


def check_size(archive, limit):
    size = archive.stat().st_size
    if size > limit:
        archive.unlink()
        stop(f"the archive has {size} bytes, more than {limit}; name fewer targets in ASTRAI_CUDA_TARGETS")
    return size


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/gpu-check")
    parser.add_argument("--profile", default="release", help="of cargo [default: release]")
    parser.add_argument("--bytes-max", type=int, default=BYTES_MAX, help="of the archive")
    options = parser.parse_args(argv)
    nvcc = find_nvcc() or stop("nvcc is needed to compile the kernels: see docs/gpu.md")
    chosen = os.environ.get("ASTRAI_CUDA_TARGETS") or "all"
    targets = (TARGETS if chosen == "all" else chosen.replace(" ", ",")).strip(",").split(",")
    # Also where the profile's own choice would be another one.
    environment = {**os.environ, "ASTRAI_CUDA_TARGETS": ",".join(targets), "ASTRAI_NVCC": nvcc}
    out = options.out
    for path in (out / "tests", out / "bin", out / "lib", out / "models"):
        shutil.rmtree(path, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)

    for name, kind, executable, files in cargo(["build"], options.profile, environment):
        if name == "astrai" and executable:
            place(executable, out / "bin/astrai", strip=True)
        elif name == "astrai" and "cdylib" in kind:
            place(next(file for file in files if file.endswith(".so")), out / "lib/libastrai.so", strip=True)
    wanted = [argument for name in TESTS for argument in ("--test", name)]
    for name, kind, executable, _ in cargo(["test", "--no-run", *wanted], options.profile, environment):
        if name in TESTS and executable:
            place(executable, out / "tests" / name, strip=True)
    selftest(nvcc, targets, out / "tests/selftest.fatbin")
    for script in SCRIPTS:
        place(HERE / script, out / script)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, out / folder, dirs_exist_ok=True)

    files = sorted(path for path in out.rglob("*") if path.is_file() and "scratch" not in path.relative_to(out).parts
                   and path.suffix not in (".pyc",) and path.name != "MANIFEST.json")
    version = next(line.split('"')[1] for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version"))
    manifest = {"version": version, "commit": commit(), "targets": ",".join(targets), "profile": options.profile,
                "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "files": {str(path.relative_to(out)): path.stat().st_size for path in files}}
    (out / "MANIFEST.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    archive = out.parent / f"{out.name}.tar.xz"
    # The executables share the kernels' code: the window of this compression is wide enough to see it.
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in [*files, out / "MANIFEST.json"]:
            tar.add(path, arcname=f"{out.name}/{path.relative_to(out)}")
    size = check_size(archive, options.bytes_max)
    unpacked = sum(manifest["files"].values())
    print(f"{archive}: {size / 2 ** 20:.1f} MiB, {unpacked / 2 ** 20:.1f} MiB unpacked")


if __name__ == "__main__":
    main()
