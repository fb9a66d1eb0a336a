#!/usr/bin/env bash
# On a machine with a CUDA device: what the CPU can't show, checked and timed in one command within ten minutes, from
# the repository root. Nothing needs to be installed but torch with Triton, numpy and pytest.
#   PYTHON=python benchmarks/gpu.sh [--minutes 9.5] [--out out/gpu]     writes OUT/gpu.json; benchmarks/gpu.py has more
set -euo pipefail
PYTHON=${PYTHON:-$(test -x .venv/bin/python && echo .venv/bin/python || echo python3)}
PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} exec "$PYTHON" -m benchmarks.gpu "$@"
