#!/usr/bin/env bash
# On a machine with a CUDA device: what the CPU can't show, checked and timed in one command, from the repository root.
#   PYTHON=python benchmarks/gpu.sh
set -euo pipefail
PYTHON=${PYTHON:-.venv/bin/python}
"$PYTHON" -c "import torch; assert torch.cuda.is_available(), 'no CUDA device'; print(torch.cuda.get_device_name(), torch.__version__)"
"$PYTHON" -m pytest -q tests/gpu
for model in 3.2M 26M 124M 200x1000; do "$PYTHON" benchmarks/step_time.py --device cuda --model "$model"; done
"$PYTHON" benchmarks/training_step.py --device cuda
run=$(mktemp -d)
"$PYTHON" -m mada_lab train configs/demo.toml --device=cuda --dtype=bfloat16 --compile=True --out_dir="$run/mada"
"$PYTHON" -m mada_lab train configs/demo.toml --device=cuda --dtype=bfloat16 --compile=True --optimizer=adamw --out_dir="$run/adamw"
"$PYTHON" -m mada_lab report "$run/mada" "$run/adamw"
