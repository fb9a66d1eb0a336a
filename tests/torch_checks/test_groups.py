"""Parameter groups are several optimizers; options may be tensors, zero, or set anew; maximize is a sign.

Catches: an option read from the first group, from the defaults or from the constructor instead of the parameter's own.
"""

import pytest
import torch

from tests.problems import everything, fast, same_bits
from tests.torch_checks.infos import each_info, each_mode, keywords, midway, rule_of, unguarded
from tests.torch_checks.problems import least_squares


def own_options(opt):
    """Options that a second group may have of its own, each other than the default."""
    options = {"lr": 3e-3, "weight_decay": 0.3, "maximize": True}
    if opt.defaults.get("eps"):
        options["eps"] = 1e-3
    coefficients = keywords(midway(opt.rule))
    return [*({name: x} for name, x in options.items()), *({name: x} for name, x in coefficients.items())]


@each_info
def test_groups_are_separate_optimizers_where_nothing_is_learned(info):
    problem = least_squares()
    fixed = {"learn": (), "lr": 1e-2, **unguarded(info.optim_cls)}
    for options in own_options(info.optim_cls(problem.params, **fixed)):
        (weight, bias), apart = problem.params, problem.twin()
        opt = info.optim_cls([{"params": [weight]}, {"params": [bias], **options}], **fixed)
        first = info.optim_cls(apart.params[:1], **fixed)
        second = info.optim_cls(apart.params[1:], **{**fixed, **options})
        for _ in range(4):
            problem.train(opt, 1)
            apart.backward(first)
            for p, q in zip(apart.params, problem.params, strict=True):
                p.grad = q.grad.clone()
            first.step()
            second.step()
        assert same_bits(problem.params, apart.params), options


@each_mode
def test_a_late_group_starts_at_its_own_first_step(case):
    """With nothing learned it moves as in an optimizer of its own, made at that time."""
    problem, late = least_squares(), least_squares()
    other = late.twin()
    opt = case.make_plain(problem.params)
    problem.train(opt, 3)
    opt.add_param_group({"params": late.params, "lr": 5e-3})
    own = case.make_plain(other.params, lr=5e-3)
    for _ in range(3):
        for each in (problem, late):
            each.loss(*each.params).backward()
        opt.step()
        opt.zero_grad()
        other.train(own, 1)
    assert same_bits(late.params, other.params)
    assert opt.state[problem.params[0]]["step"] == 6
    assert opt.state[late.params[0]]["step"] == 3


@each_mode
def test_a_late_group_learns_with_the_others(case):
    problem = least_squares()
    weight, bias = problem.params
    opt = case.make([("weight", weight)])
    problem.train(opt, 3)
    opt.add_param_group({"params": [("bias", bias)], "weight_decay": 0.2})
    problem.train(opt, 3)
    assert [group["param_names"] for group in opt.param_groups] == [["weight"], ["bias"]]
    assert opt.state[bias]["step"] == 3
    for name in opt.learned:
        assert float(opt.param_groups[0][name]) == float(opt.param_groups[1][name])


TENSORS = {
    "float64": lambda x: torch.tensor(x, dtype=torch.float64),
    "1-d": lambda x: torch.tensor([x], dtype=torch.float64),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
@each_mode
def test_a_tensor_lr_is_the_float_lr(case, tensor):
    problem = least_squares()
    other = problem.twin()
    opt, twin = case.make(problem.params, lr=tensor(0.01)), case.make(other.params, lr=0.01)
    for factor in (1.0, 0.5, 0.0, 2.0):
        opt.param_groups[0]["lr"].fill_(0.01 * factor)
        twin.param_groups[0]["lr"] = 0.01 * factor
        problem.train(opt, 1)
        other.train(twin, 1)
        assert same_bits(problem.params, other.params)
    assert opt.coefficients() == twin.coefficients()


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)], ids=str)
@each_mode
def test_lr_zero_moves_nothing_and_learns_nothing(case, lr):
    problem = least_squares()
    opt = case.make(problem.params, lr=lr, **unguarded(case.info.optim_cls))
    before, coefficients = [p.detach().clone() for p in problem.params], opt.coefficients()
    problem.train(opt, 3)
    assert same_bits([p.detach() for p in problem.params], before)
    assert opt.coefficients() == coefficients
    assert all(x.isfinite().all() for x in everything(opt))


@each_mode
def test_maximize_is_minimizing_with_the_sign_of_the_gradient_changed(case):
    problem = least_squares()
    other = problem.twin()
    opt, twin = case.make(problem.params, maximize=True), case.make(other.params, maximize=False)
    for _ in range(4):
        problem.backward(opt)
        for p, q in zip(problem.params, other.params, strict=True):
            q.grad = -p.grad
        opt.step()
        twin.step()
    assert same_bits(problem.params, other.params)
    assert opt.coefficients() == twin.coefficients()


@each_mode
def test_decay_and_eps_may_be_set_anew_between_steps(case):
    problem = least_squares()
    other = problem.twin()
    opt, twin = case.make(problem.params), case.make(other.params, weight_decay=0.4, maximize=True)
    opt.param_groups[0].update(weight_decay=0.4, maximize=True)
    problem.train(opt, 3)
    other.train(twin, 3)
    assert same_bits(problem.params, other.params)


@pytest.mark.parametrize("learn", ["all", ()], ids=["learned", "fixed"])
@each_info
def test_a_float_written_into_a_group_is_an_assignment(info, learn):
    """As filling the tensor is; for all groups where they share the coefficient. No value is at a corner of a rule."""
    problem = least_squares()
    other, rule = problem.twin(), rule_of(info.optim_cls)
    options = {"learn": fast(lr=0.0) if learn else (), **unguarded(info.optim_cls), **keywords(midway(rule, 0.3))}
    opt, twin = (info.optim_cls([{"params": [p]} for p in x.params], **options) for x in (problem, other))
    problem.train(opt, 2)
    other.train(twin, 2)
    for name, x in midway(rule, 0.6).items():
        opt.param_groups[1][name] = x
        twin.param_groups[1][name].fill_(x)
        problem.train(opt, 2)
        other.train(twin, 2)
        assert same_bits(problem.params, other.params), name
        assert [float(group[name]) for group in opt.param_groups] == [float(g[name]) for g in twin.param_groups], name
        assert (opt.coefficients()[name] == x) == bool(learn), name
