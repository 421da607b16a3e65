#!/usr/bin/env bash
# Trains a network taught by critics on a bare machine with a GPU, many cores and no network, within some minutes:
#
#     benchmarks/one_gpu.sh MINUTES ARCH [WHEELS]
#
# WHEELS: folder of what its Python lacks (pip download --no-deps on a machine with a network); critics travel in
# critics/mixed40. What comes back lies in $OUT (runs/one_gpu by default): weights in parts of at most 15 MB, which
# `python -m benchmarks.one_gpu join` puts together again, and the logs. Given more minutes it resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
minutes=$1 arch=$2 wheels=${3:-wheels}
if [ -d "$wheels" ]; then
  python3 -m pip install --quiet --no-index --no-deps "$wheels"/*.whl
fi
exec python3 -m benchmarks.one_gpu run --minutes "$minutes" --arch "$arch" --out "${OUT:-runs/one_gpu}"
