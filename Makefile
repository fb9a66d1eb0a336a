# Every target sets up what it needs: a virtual environment with pinned versions in .venv.
#   make demo    train a small GPT with MADA, AutoMuon and AdamW on text that ships with Python, and write a report
#   make test    the tests        make check   lint, format, types, architecture
#   make test-triton   the Triton kernels, without a GPU: Triton's interpreter against the eager engine, and its compiler
#   make docs    the documentation as a site, in out/docs
#   make dist    the wheel and the source distribution, in out/dist; make test-sdist runs the tests of the latter
#   make drill   kills, full disks, flipped bits: the table in docs/lab/reliability.md, in about half an hour
#   make test-versions   the library's tests with the oldest and the newest torch: the table in docs/inside/versions.md
#
# On Linux pip takes torch's CUDA build, several GB. For the CPU build:
#   make demo PIP_FLAGS="--index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple"

PYTHON ?= python3
PIP_FLAGS ?=
DEMO_FLAGS ?=
BIN := .venv/bin
LAB := $(BIN)/python -m mada_lab

.PHONY: demo test test-triton test-versions check docs drill dist test-sdist format clean
.DELETE_ON_ERROR:

# Two layers, so that the demo doesn't wait for the tools of developers. torch comes first and alone: whatever is
# installed later finds it there and keeps it.
.venv/lab: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e ".[lab]"
	touch $@

.venv/dev: .venv/lab
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	touch $@

# Triton stays out of .venv, where torch would find it: `make test` tests what a machine without it has. It needs no
# package but torch, so a folder serves, and no second torch is installed. The interpreter takes the place of the
# compiler in a whole process, hence several runs of pytest. The second one rehearses the tests for CUDA on the CPU.
.venv-triton/ready: .venv/dev
	rm -rf .venv-triton
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt --no-deps --target .venv-triton triton
	touch $@

# Why MADA has these numbers in so short a run: configs/demo.toml.
demo: .venv/lab
	rm -rf out/demo
	$(LAB) train configs/demo.toml --optimizer=mada --gamma=0.9 --hyper_lr=beta1=5e-3,beta2=5e-3 --hyper_start=0 \
		--out_dir=out/demo/mada $(DEMO_FLAGS)
	$(LAB) train configs/demo.toml --optimizer=automuon --learning_rate=auto --out_dir=out/demo/automuon $(DEMO_FLAGS)
	$(LAB) train configs/demo.toml --optimizer=adamw --beta2=0.95 --out_dir=out/demo/adamw $(DEMO_FLAGS)
	$(LAB) report out/demo/mada out/demo/automuon out/demo/adamw --out=out/demo/report.html

test: .venv/dev
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-triton: .venv-triton/ready
	TRITON_INTERPRET=1 PYTHONPATH=.venv-triton $(BIN)/python -m pytest -q -rs -n 2 tests/triton/test_interpreted.py
	TRITON_INTERPRET=1 PYTHONPATH=.venv-triton MADA_GPU_TESTS_ON=cpu $(BIN)/python -m pytest -q -n 2 tests/gpu --once
	PYTHONPATH=.venv-triton $(BIN)/python -m pytest -q -rs -n 2 tests/triton/test_compiled.py

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_architecture.py

docs: .venv/dev
	$(BIN)/python -m sphinx --quiet --fail-on-warning --builder html docs out/docs
	@echo "out/docs/index.html"

drill: .venv/dev
	$(BIN)/python -m tests.reliability.drill --write

dist: .venv/dev
	rm -rf out/dist
	$(BIN)/python -m build --outdir out/dist

# Somewhere else, with an environment of its own: nothing of this checkout is beside it.
test-sdist: dist
	rm -rf out/sdist
	mkdir -p out/sdist
	tar -xzf out/dist/*.tar.gz -C out/sdist --strip-components=1
	$(MAKE) -C out/sdist test PYTHON="$(PYTHON)" PIP_FLAGS="$(PIP_FLAGS)"

# With another Python: make test-versions PYTHON=python3.13
test-versions:
	$(PYTHON) -m tests.versions --write

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-triton out
