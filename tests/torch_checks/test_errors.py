"""What is refused, by message: torch's list of errors for all optimizers, and the same of ours for each preset.

Catches: a wrong option that is taken, a message that names neither the value nor what is allowed, and a parameter that
gets two updates.
"""

import pytest
import torch

from tests.representatives import on_one_engine
from tests.torch_checks.infos import each_info
from tests.torch_checks.torch_helpers import OptimizerErrorEnum

pytestmark = on_one_engine


@each_info
def test_what_should_fail_fails_and_says_why(info):
    for error in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        given = error.optimizer_error_input
        at_step = error.error_on is OptimizerErrorEnum.STEP_ERROR
        params = [torch.nn.Parameter(torch.ones(2))] if given.params is None else given.params
        opt = info.optim_cls(params, **given.kwargs) if at_step else None
        with pytest.raises(error.error_type, match=error.error_regex):
            opt.step() if at_step else info.optim_cls(params, **given.kwargs)


@each_info
def test_parameters_must_be_leaf_tensors_and_some(info):
    leaf = torch.ones(2, requires_grad=True)
    for params, kind, message in (
        ([], ValueError, "empty parameter list"),
        ([leaf * 2], ValueError, "non-leaf"),
        ([1.0], TypeError, "can only optimize Tensors"),
        ([{"params": {leaf}}], TypeError, "ordered collections"),
    ):
        with pytest.raises(kind, match=message):
            info.optim_cls(params)


@each_info
def test_a_late_group_is_checked_and_not_added(info):
    p = torch.nn.Parameter(torch.ones(2))
    opt = info.optim_cls([p])
    for group, message in (
        ({"params": [p]}, "more than one parameter group"),
        ({"params": [torch.ones(2)], "lr": -1.0}, "lr=-1.0: expected a number"),
        ({"params": [torch.ones(2)], "weight_decay": float("nan")}, "weight_decay=nan: expected a number"),
    ):
        with pytest.raises(ValueError, match=message):
            opt.add_param_group(group)
    with pytest.raises(TypeError, match="must be a dict"):
        opt.add_param_group([p])
    assert len(opt.param_groups) == 1


@each_info
def test_a_parameter_twice_is_refused_however_it_is_given(info):
    p = torch.nn.Parameter(torch.ones(2))
    for params in ([("a", p), ("b", p)], [{"params": iter([p, p])}], [{"params": [("a", p), ("b", p)]}]):
        with pytest.raises(ValueError, match="expected each parameter once"):
            info.optim_cls(params)
