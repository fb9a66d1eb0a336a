"""Hooks of torch.optim.Optimizer: around step, state_dict and load_state_dict, their order, and what they may change.

Catches: a method that bypasses its hooks, a hook that sees half of a state, and one whose result is not used.
"""

import copy

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from mada_optim import AutoMuon, HyperAdam, HyperTorch
from tests.problems import give_gradients, learning, parameters, train
from tests.representatives import on_one_engine
from tests.torch_checks.infos import LEARNING, each_info
from tests.torch_checks.problems import alike, least_squares

pytestmark = on_one_engine

ORDERS = pytest.mark.parametrize("prepend", [False, True])


@pytest.fixture
def opt(info):
    problem = least_squares()
    opt = info.optim_cls(problem.params)
    problem.train(opt, 1)
    return opt


@each_info
def test_step_hooks_run_in_order_until_they_are_removed(opt):
    """Global before local on the way in, local before global on the way out; another optimizer runs its own."""
    other, calls = torch.optim.SGD([torch.ones(1)]), []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global post")),
        opt.register_step_pre_hook(lambda *_: calls.append("pre")),
        opt.register_step_post_hook(lambda *_: calls.append("post")),
    ]
    try:
        opt.step()
        assert calls == ["global pre", "pre", "post", "global post"]
        other.step()
        assert calls[4:] == ["global pre", "global post"]
    finally:
        for handle in handles:
            handle.remove()
    opt.step()
    assert len(calls) == 6


@each_info
def test_a_step_hook_gets_the_optimizer_and_the_closure_and_may_replace_it(opt):
    seen = []

    def pre(optimizer, args, kwargs):
        seen.append((optimizer, args[1:], kwargs))
        return (args[0], lambda: 2.0), {}

    opt.register_step_pre_hook(pre)

    def closure():
        return 1.0

    assert opt.step(closure) == 2.0
    assert seen == [(opt, (closure,), {})]


@each_info
def test_a_hook_sees_the_step_done_and_not_done(opt):
    p, seen = opt.param_groups[0]["params"][0], []
    opt.register_step_pre_hook(lambda *_: seen.append(p.detach().clone()))
    opt.register_step_post_hook(lambda *_: seen.append(p.detach().clone()))
    before = p.detach().clone()
    opt.step()
    assert torch.equal(seen[0], before)
    assert torch.equal(seen[1], p)
    assert not torch.equal(p, before)


@each_info
def test_state_dict_hooks_run_before_and_after(opt):
    """The one before may add to the state; the one after may change or replace what is returned."""
    handles = [
        opt.register_state_dict_pre_hook(lambda optimizer: optimizer.state.update(mark={"seen": True})),
        opt.register_state_dict_post_hook(lambda _, state_dict: {**state_dict, "ran": "mark" in state_dict["state"]}),
    ]
    assert opt.state_dict()["ran"]
    for handle in handles:
        handle.remove()
    assert "ran" not in opt.state_dict()


@ORDERS
@each_info
def test_state_dict_hooks_run_in_the_order_asked_for(opt, prepend):
    calls = []
    opt.register_state_dict_pre_hook(lambda *_: calls.append("pre first"))
    opt.register_state_dict_pre_hook(lambda *_: calls.append("pre second"), prepend=prepend)
    opt.register_state_dict_post_hook(lambda *_: calls.append("post first"))
    opt.register_state_dict_post_hook(lambda *_: calls.append("post second"), prepend=prepend)
    opt.state_dict()
    order = ["second", "first"] if prepend else ["first", "second"]
    assert calls == [f"{when} {which}" for when in ("pre", "post") for which in order]


@ORDERS
@each_info
def test_load_hooks_run_in_the_order_asked_for(opt, prepend):
    calls = []
    opt.register_load_state_dict_pre_hook(lambda *_: calls.append("pre first"))
    opt.register_load_state_dict_pre_hook(lambda *_: calls.append("pre second"), prepend=prepend)
    opt.register_load_state_dict_post_hook(lambda *_: calls.append("post first"))
    opt.register_load_state_dict_post_hook(lambda *_: calls.append("post second"), prepend=prepend)
    opt.load_state_dict(opt.state_dict())
    order = ["second", "first"] if prepend else ["first", "second"]
    assert calls == [f"{when} {which}" for when in ("pre", "post") for which in order]


def with_lr(state_dict, lr):
    state_dict = copy.deepcopy(state_dict)
    state_dict["param_groups"][0]["lr"] = lr
    return state_dict


@each_info
def test_a_load_hook_before_may_replace_options(opt):
    """The last one's word stands; the caller's state dict stays as it was."""
    state_dict = opt.state_dict()
    original = copy.deepcopy(state_dict)
    opt.register_load_state_dict_pre_hook(lambda _, x: with_lr(x, 0.002))
    opt.load_state_dict(state_dict)
    assert opt.param_groups[0]["lr"] == 0.002
    opt.register_load_state_dict_pre_hook(lambda _, x: with_lr(x, 0.003), prepend=True)
    opt.load_state_dict(state_dict)
    assert opt.param_groups[0]["lr"] == 0.002
    assert alike(state_dict, original)


def by_name(opt, state_dict):
    """The recipe of torch's documentation: state by the names of parameters instead of their order."""
    state_dict = copy.deepcopy(state_dict)
    for ours, theirs in zip(opt.param_groups, state_dict["param_groups"], strict=True):
        number = dict(zip(theirs["param_names"], theirs["params"], strict=True))
        theirs["params"] = [number[name] for name in ours["param_names"]]
        theirs["param_names"] = ours["param_names"]
    return state_dict


@each_info
def test_a_load_hook_before_may_put_parameters_in_another_order(info):
    """Two parameters of one shape, which nothing but a name tells apart, and one of another."""
    shapes = [(3,), (3,), (2, 2)]
    saved, loaded = ([(f"p{i}", torch.nn.Parameter(torch.ones(shape))) for i, shape in enumerate(shapes)] for _ in "ab")
    source, opt = info.optim_cls(saved, **LEARNING), info.optim_cls(loaded[::-1], **LEARNING)
    give_gradients([p for _, p in saved], 0)
    source.step()
    opt.register_load_state_dict_pre_hook(by_name)
    opt.load_state_dict(source.state_dict())
    for (_, p), (_, q) in zip(saved, loaded, strict=True):
        assert alike(opt.state[q], source.state[p])


def test_a_load_hook_after_sees_the_state_that_was_loaded():
    """Coefficients as they were saved, not rounded to a parameter's bf16."""
    params, seen = parameters(torch.bfloat16), []
    opt = HyperAdam(params, betas=(0.9, 0.9995))
    train(opt, params, range(2))
    expected = copy.deepcopy(opt.state_dict())
    opt.register_load_state_dict_post_hook(lambda x: seen.append(copy.deepcopy(x.state_dict())))
    opt.load_state_dict(opt.state_dict())
    assert alike(seen[0], expected)


@each_info
def test_a_load_hook_after_may_change_what_was_loaded(opt):
    p = opt.param_groups[0]["params"][0]
    opt.register_load_state_dict_post_hook(lambda x: x.state[p].update(step=torch.tensor(7.0).double()))
    opt.load_state_dict(opt.state_dict())
    assert opt.state[p]["step"] == 7


def test_a_state_dict_hook_after_sees_all_that_is_saved():
    seen, params = [], parameters()
    opt = learning(params, learn=HyperTorch("all", make=AutoMuon))
    opt.register_state_dict_post_hook(lambda _, state_dict: seen.append(set(state_dict)))
    saved = opt.state_dict()
    assert seen == [set(saved)]
