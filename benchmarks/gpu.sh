#!/usr/bin/env bash
# All benchmarks of a GPU, on a bare machine with torch: bash benchmarks/gpu.sh WHEELS OUT
# WHEELS: a folder of wheels (deepspeed and whatever else is missing); OUT: where results.jsonl and table.txt are put.
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=${1:?a folder with wheels} out=${2:?a folder for the results}
mkdir -p "$out"
python3 -m pip install -q --no-index --no-deps "$wheels"/*.whl
python3 -m benchmarks inference training --device cuda --short --results "$out/results.jsonl" | tee "$out/table.txt"
