"""Shared by all tests: one thread per worker, and where the reference material lies, if it is there."""

from pathlib import Path

import pytest
import torch

from mada_optim.engines import choice
from mada_optim.engines.program import Program
from mada_optim.rules import RULES
from tests.representatives import is_repetition

#: Folders that `pytest` doesn't collect unless they are named, and what runs them.
ELSEWHERE = {
    "triton": "make test-triton",
    **({} if torch.cuda.is_available() else {"gpu": "benchmarks/gpu.sh, on CUDA"}),
}
collect_ignore = list(ELSEWHERE)
REPOSITORY = Path(__file__).parents[1]
REFERENCE = REPOSITORY.parent / "shared"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.default_generator.manual_seed(0)


@pytest.fixture
def reference() -> Path:
    """The folder of reference traces and data, which the project does not ship."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference material is not beside this checkout")
    return REFERENCE


def pytest_collection_modifyitems(config, items):
    """Leaves out what `representatives` stand for.

    Tests of the C++ loops need a compiler, which a fresh machine may lack; all others must pass without.
    """
    repetitions = {item: None for item in items if is_repetition(item)}
    items[:] = [item for item in items if item not in repetitions]
    config.hook.pytest_deselected(items=list(repetitions))
    try:
        choice.choose("cpu", Program(RULES["adam"]))
    except choice.NoKernelError as error:
        for item in items:
            if item.get_closest_marker("kernel"):
                item.add_marker(pytest.mark.skip(reason=str(error)))


def pytest_terminal_summary(terminalreporter, config):
    """Says which folders were left out."""
    named = {Path(word.partition("::")[0]).resolve() for word in config.args}
    for folder, run_by in ELSEWHERE.items():
        whole = Path(__file__).parent
        if named & {whole, whole.parent}:
            terminalreporter.write_line(f"not collected: tests/{folder} ({run_by})")
