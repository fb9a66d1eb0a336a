"""deepcopy, pickle, repr, and the end of an optimizer's life.

Catches: an attribute that a copy loses, a copy that shares what it moves, a cycle that keeps a model's memory.
"""

import copy
import gc
import pickle
import weakref

import pytest

from tests.problems import everything, same_bits
from tests.representatives import on_one_engine
from tests.torch_checks.infos import each_info, each_mode
from tests.torch_checks.problems import least_squares

pytestmark = on_one_engine

WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


def public(opt):
    return {name for name in vars(opt) if not name.startswith("_")}


@pytest.mark.parametrize("through", WAYS.values(), ids=WAYS)
@each_mode
def test_a_copy_has_all_public_attributes_and_goes_its_own_way(case, through):
    problem = least_squares()
    opt = case.make(problem.params)
    problem.train(opt, 3)
    twin = through(opt)
    before = everything(opt)
    assert public(twin) == public(opt) >= {"defaults", "param_groups", "state", "rule", "learned"}
    assert same_bits(everything(twin), before)
    copied = problem.twin()
    copied.params = [p for group in twin.param_groups for p in group["params"]]
    copied.train(twin, 3)
    assert same_bits(everything(opt), before)
    problem.train(opt, 3)
    assert same_bits(everything(twin), everything(opt))


@pytest.mark.parametrize("through", WAYS.values(), ids=WAYS)
@each_info
def test_a_copy_of_a_fresh_optimizer_works(info, through):
    problem = least_squares()
    opt = through(info.optim_cls(problem.params))
    problem.params = [p for group in opt.param_groups for p in group["params"]]
    problem.train(opt, 2)
    assert opt.state[problem.params[0]]["step"] == 2


@each_mode
def test_repr_names_class_and_options_and_changes_nothing(case):
    problem = least_squares()
    opt = case.make([{"params": problem.params[:1]}, {"params": problem.params[1:], "weight_decay": 0.25}])
    problem.train(opt, 2)
    before, text = everything(opt), repr(opt)
    assert text.startswith(f"{case.info.name} (")
    assert "Parameter Group 1" in text
    assert "weight_decay: 0.25" in text
    for name in ("lr", "maximize", *opt.rule.coefficient_names()):
        assert f"    {name}: " in text
    assert same_bits(everything(opt), before)


@each_mode
def test_an_optimizer_without_references_is_gone_at_once(case):
    """No cycle that would wait for the garbage collector, which training loops tend to switch off."""
    problem = least_squares()
    opt = case.make(problem.params)
    problem.train(opt, 2)
    gone = weakref.ref(opt)
    enabled = gc.isenabled()
    gc.disable()
    try:
        del opt
        assert gone() is None
    finally:
        if enabled:
            gc.enable()
