#!/usr/bin/env bash
# Builds tools/soak.c against the release library and runs it: tools/soak.sh [minutes] [model folder] [KiB it may grow]
# The exit code says whether memory stayed flat, the accounting were right and every page came back.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-30}
model=${2:-models/storyteller}
growth_kib=${3:-8192}
libraries=${ASTRAI_LIBRARIES:-target/release}

if [ -z "${ASTRAI_LIBRARIES:-}" ]; then make build; fi
program=$(mktemp -d)/soak
trap 'rm -rf "$(dirname "$program")"' EXIT
"${CC:-cc}" -std=gnu99 -Wall -Wextra -O2 -Iinclude tools/soak.c -L"$libraries" -lastrai -lpthread \
    -Wl,-rpath,"$(realpath "$libraries")" -o "$program"
"$program" "$model" "$minutes" "$growth_kib"
