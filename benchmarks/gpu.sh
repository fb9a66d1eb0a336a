#!/usr/bin/env bash
# On a machine with a CUDA device: what the CPU can't show, built, checked and timed in one command, from the repository
# root; tables in Markdown.
#   PYTHON=python benchmarks/gpu.sh
set -euo pipefail
PYTHON=${PYTHON:-.venv/bin/python}
"$PYTHON" -c "import torch; assert torch.cuda.is_available(), 'no CUDA device'; print(torch.cuda.get_device_name(), torch.__version__)"
"$PYTHON" -c "import triton; print('triton', triton.__version__)"

# equality with the eager engine, no synchronisation, capture in a CUDA graph, nothing compiled anew
"$PYTHON" -m pytest -q tests/gpu

steps=("$PYTHON" benchmarks/step_time.py --device cuda --markdown)
ours=("MADA, all six learned" "MADA, six and lr learned" "MADA, bf16 state" "MADA, none learned" AutoAdam HyperAdam Adam Lion)
for model in 3.2M 26M 124M 200x1000; do "${steps[@]}" --model "$model" --only "${ours[@]}"; done
for model in 3.2M 200x1000; do "${steps[@]}" --model "$model" --graph --only "${ours[@]}"; done
"${steps[@]}" --model 3.2M  # and torch's foreach, the eager engine, one scope per tensor, AutoMuon
"${steps[@]}" --model 124M --only AutoMuon "torch Muon and AdamW fused"

"$PYTHON" benchmarks/training_step.py --device cuda
"$PYTHON" benchmarks/training_step.py --device cuda --model 124M --bf16

run=$(mktemp -d)
"$PYTHON" -m mada_lab train configs/demo.toml --device=cuda --dtype=bfloat16 --compile=True --out_dir="$run/mada"
"$PYTHON" -m mada_lab train configs/demo.toml --device=cuda --dtype=bfloat16 --compile=True --optimizer=adamw --out_dir="$run/adamw"
"$PYTHON" -m mada_lab report "$run/mada" "$run/adamw"

# the bench's runs side by side, and a part of it
"$PYTHON" -m benchmarks.side_by_side --device cuda --tasks digits_mlp gpt_pydoc --runs 4 32 --repeats 3 --data-dir "$run/data"
"$PYTHON" -m mada_lab bench --device=cuda --together=32 --tasks=digits_mlp,gpt_pydoc --sections=defaults,tuned --families=adamw --out="$run/bench" --data-dir="$run/data"
