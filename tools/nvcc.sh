#!/bin/sh
# Prints the path of an nvcc that can compile the CUDA kernels: one that is there already (ASTRAI_NVCC, CUDA_HOME, PATH, or the
# toolkit's usual place), else one that pip brings into target/nvcc, which needs neither a GPU nor its driver. Prints nothing and
# says why where there is none; fails then if ASTRAI_REQUIRE names nvcc.
set -u
cd "$(dirname "$0")/.." || exit 1

folder=target/nvcc
# One release of all parts.
packages="nvidia-cuda-nvcc==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-crt==13.0.* nvidia-nvvm==13.0.*"

works() { "$1" --version >/dev/null 2>&1; }

for nvcc in "${ASTRAI_NVCC:-}" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" "$(command -v nvcc 2>/dev/null)" /usr/local/cuda/bin/nvcc \
    $folder/nvidia/*/bin/nvcc; do
    if [ -n "$nvcc" ] && works "$nvcc"; then
        case $nvcc in
        /*) echo "$nvcc" ;;
        *) echo "$PWD/$nvcc" ;;
        esac
        exit 0
    fi
done

say() { echo "tools/nvcc.sh: $*" >&2; }

say "no nvcc is there; pip brings one into $folder"
# shellcheck disable=SC2086
if python3 -m pip install --quiet --disable-pip-version-check --no-compile --target "$folder" $packages >&2; then
    for nvcc in $folder/nvidia/*/bin/nvcc; do
        if works "$nvcc"; then
            echo "$PWD/$nvcc"
            exit 0
        fi
    done
fi
say "SKIP: the CUDA backend is neither built nor tested; install the CUDA toolkit, or pip and a network"
case ",${ASTRAI_REQUIRE:-}," in
*,nvcc,*) exit 1 ;;
esac
