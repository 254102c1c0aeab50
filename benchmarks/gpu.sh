#!/bin/sh
# The GPU figures, on a machine with one NVIDIA GPU, PyTorch and torchvision; no network, nothing to install.
# Each call takes at most 9 minutes and continues where the last one stopped; call it until it prints "all done".
# The figures are in benchmarks/results/gpu.json ($OUT/gpu.json where OUT names a folder).
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src:$PWD"
into="${OUT:-benchmarks/results}/gpu.json"
# What an earlier call on another machine brought back is continued.
[ -e "$into" ] || { [ -e benchmarks/results/gpu.json ] && cp benchmarks/results/gpu.json "$into"; } || true
exec timeout 540 python3 -m benchmarks.gpu --seconds 300 --out "$into" "$@"
