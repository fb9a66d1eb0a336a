"""The list of presets is complete, and so is the page that says what of PyTorch's checks is covered and what isn't.

Catches: a new preset that no check runs on, a citation in docs/inside/torch-checks.md of a test that is gone.
"""

import ast
import re
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.conftest import REPOSITORY
from tests.torch_checks.infos import CASES, INFOS, OWN_ERRORS, ROSENBROCK_LR, TORCH_FLAGS, each_info, midway, presets
from tests.torch_checks.schedules import BASES, SCHEDULERS
from tests.torch_checks.torch_helpers import get_error_inputs_for_all_optims, optim_db, profile

PAGE = (REPOSITORY / "docs" / "inside" / "torch-checks.md").read_text()


@pytest.fixture(autouse=True)
def engine():
    """Nothing here runs one."""


def test_every_preset_has_its_line():
    assert set(presets()) <= set(ROSENBROCK_LR), "a new preset needs a line in ROSENBROCK_LR"
    assert {info.name for info in INFOS} == set(presets())


def test_every_scheduler_of_torch_is_listed():
    assert set(torch.optim.lr_scheduler.__all__) - BASES <= set(SCHEDULERS)


def test_the_helpers_of_torch_leave_the_process_as_it_was():
    assert not torch.backends.flags_frozen()
    assert hypothesis.settings.get_current_profile_name() == profile
    for path in Path(__file__).parent.glob("*.py"):
        assert path.name in ("torch_helpers.py", "test_infos.py") or "torch.testing._internal" not in path.read_text()


@each_info
def test_inputs_choose_no_implementation_and_are_new_each_time(info):
    first, second = (info.optim_inputs_func(device="cpu") for _ in range(2))
    assert len({x.desc for x in first}) == len(first)
    for x, y in zip(first, second, strict=True):
        assert not set(x.kwargs) & set(TORCH_FLAGS)
        assert all(x.kwargs[name] is not y.kwargs[name] for name in x.kwargs if torch.is_tensor(x.kwargs[name]))


def test_every_preset_starts_other_coefficients_elsewhere():
    """An input that repeats the defaults would check nothing more."""
    default = {case.info.name: case for case in CASES if case.desc == "default"}
    for case in (case for case in CASES if case.desc in ("other coefficients", "learning")):
        params = [torch.nn.Parameter(torch.ones(1))]
        usual, own = default[case.info.name].make(params), case.make(params)
        for name in midway(own.rule):
            assert own.coefficients()[name] != usual.coefficients()[name]


def test_own_errors_replace_errors_that_torch_has():
    common = get_error_inputs_for_all_optims("cpu", torch.float32)
    assert set(OWN_ERRORS) <= {x.optimizer_error_input.desc for x in common}


def defined_tests(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_page_cites_tests_that_exist():
    cited = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(cited) > 30
    for path, name in cited:
        assert name in defined_tests(REPOSITORY / path), (path, name)


def test_every_check_is_on_the_page():
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        assert f"tests/torch_checks/{path.name}" in PAGE, path.name


def test_every_flag_of_torch_is_on_the_page():
    flags = {flag for info in optim_db for flag in (*info.supported_impls, *info.not_og_supported_flags)}
    assert {"foreach", "fused", "differentiable", "capturable", "maximize"} <= flags
    assert all(f"`{flag}`" in PAGE for flag in flags)
