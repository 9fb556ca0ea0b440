#!/bin/sh
# Continuous batching against static batches and against groups of one position: forward passes, simulated, then wall
# time on random weights of two shapes, the policies taking turns. Prints tables.
#
#     tools/bench_policies.sh [REQUESTS] [REQUESTS_LARGER]
#
# 2,048 requests, prompts of 16 tokens, outputs exponential with mean 64, 16 slots. The larger shape has fewer requests.
# ASTRAI names the program (target/release/astrai), LARGER the larger shape, ROUNDS how often each is repeated.
set -eu
cd "$(dirname "$0")/.."

requests=${1:-2048}
requests_larger=${2:-128}
larger=${LARGER:-smollm2-135m}
rounds=${ROUNDS:-3}
astrai=${ASTRAI:-target/release/astrai}
if [ ! -x "$astrai" ]; then
    echo "$astrai is not there: cargo build --release --features cli, or name another in ASTRAI" >&2
    exit 1
fi

batch="--workload batch --slots 16 --prompt-len 16 --gen-len 64"
echo "load before: $(cut -d ' ' -f 1-3 /proc/loadavg 2>/dev/null || echo unknown)"
# shellcheck disable=SC2086  # the options are words
"$astrai" bench $batch --simulate --requests 2048 --seeds 10 --policy continuous,static,grouped
echo
# shellcheck disable=SC2086
"$astrai" bench $batch --shape storyteller --requests "$requests" --rounds "$rounds" --policy continuous,static
echo
# shellcheck disable=SC2086
"$astrai" bench $batch --shape "$larger" --requests "$requests_larger" --rounds "$rounds" --policy continuous,static
echo
# shellcheck disable=SC2086
"$astrai" bench $batch --shape storyteller --requests "$((requests / 8))" --policy continuous,static,grouped
echo "load after: $(cut -d ' ' -f 1-3 /proc/loadavg 2>/dev/null || echo unknown)"
