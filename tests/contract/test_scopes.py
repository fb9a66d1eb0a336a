"""scope: over what a learned coefficient is one. Global as in the paper, one per group, one per tensor.

Catches: rows of one scope that mix with another's, a name that belongs to another parameter, a learner that moves (or
forgets) the coefficients of a scope that had no gradient, a late group that moves the rows before it.
"""

import copy
import io
import math
import pickle

import pytest
import torch

from mada_optim import SGD, AdaGrad, HyperAdam, HyperOptimizer, HyperSGD, HyperTorch
from mada_optim.rules import RULES
from tests.problems import everything, fast, give_gradients, learning, parameters, same_bits, train
from tests.representatives import on_one_engine

PARTED = ["group", "tensor"]
EVERY_SCOPE = ["global", *PARTED]
EVERY = ("beta1", "beta2", "beta3", "rho", "c", "gamma", "lr")


def one_each(params):
    """Groups of one tensor each, with something of their own."""
    return [{"params": [p], "weight_decay": 0.1 * i} for i, p in enumerate(params)]


def rows(opt):
    """Coefficients by scope, as one reads them."""
    return list(opt.coefficients().values())


def adam_of_coefficients(q):
    return torch.optim.Adam(q, lr=1e-3)


def tower_of_sgd(q):
    return SGD(q, lr=1e-3, learn=HyperSGD("lr", lr=1e-2, start=0))


def with_lr(scope, **numbers):
    return fast(*EVERY, scope=scope, **{"lr": {"lr": 0.1}, **numbers})


def external(scope, make=adam_of_coefficients, names=EVERY):
    return HyperTorch(*names, make=make, start=0, scope=scope)


#: By scope: a learner, and options of the optimizer.
OPTIONS = {
    "paper": (lambda scope: fast(scope=scope), {}),
    "momentum": (lambda scope: fast(momentum=0.9, lr=1e-4, scope=scope), {}),
    "late start": (lambda scope: fast(start=4, scope=scope), {}),
    "with lr": (with_lr, {}),
    "hyper Adam": (external, {}),
    "clipped": (lambda scope: fast(clip=1e-3, scope=scope), {}),
    "decay": (lambda scope: fast(scope=scope), {"weight_decay": 0.3}),
}
LEARNERS = {
    "SGD": lambda scope, names=("all",): fast(*names, momentum=0.9, scope=scope),
    "Adam": lambda scope, names=("all",): external(scope, names=names),
    "tower": lambda scope, names=("all",): external(scope, tower_of_sgd, names),
}


@pytest.mark.parametrize("scope", PARTED)
@pytest.mark.parametrize(("learner", "options"), OPTIONS.values(), ids=OPTIONS)
def test_one_tensor_per_scope_is_an_optimizer_per_tensor(learner, options, scope):
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    together = learning(one_each(params), learn=learner(scope), **options)
    apart = [learning([group], learn=learner("global"), **options) for group in one_each(twin_params)]
    for seed in range(12):
        train(together, params, [seed])
        give_gradients(twin_params, seed)
        for opt in apart:
            opt.step()
        assert rows(together) == [opt.coefficients() for opt in apart], seed
        assert list(together.hypergradients().values()) == [opt.hypergradients() for opt in apart], seed
        assert same_bits(list(params), list(twin_params)), seed
        for p, q, opt in zip(params, twin_params, apart, strict=True):
            assert same_bits(list(together.state[p].values()), list(opt.state[q].values()))
    assert len({tuple(row.values()) for row in rows(together)}) == 4  # the empty tensor's stay where they were


def every_row(opt):
    """Coefficients and hypergradients of every scope, whatever it is called."""
    readings = opt.coefficients(), opt.hypergradients()
    return [list(x.values()) if isinstance(next(iter(x.values())), dict) else [x] for x in readings]


@pytest.mark.parametrize("rule", RULES)
def test_scopes_agree_for_every_rule(rule):
    """One tensor per group: group and tensor; one tensor in all: all three."""
    for tensors, scopes in ((3, PARTED), (1, EVERY_SCOPE)):
        runs = []
        for scope in scopes:
            torch.manual_seed(0)
            params = parameters()[:tensors]
            learner = HyperSGD(*RULES[rule].coefficient_names(), "lr", lr=1e-3, start=0, scope=scope)
            opt = HyperOptimizer(one_each(params), lr=1e-2, rule=rule, learn=learner)
            train(opt, params, range(6))
            runs.append((opt, [p.detach() for p in params]))
        for opt, moved in runs[1:]:
            assert same_bits(moved, runs[0][1])
            assert every_row(opt) == every_row(runs[0][0])


def test_tensors_of_one_group_are_optimizers_of_their_own():
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    together = learning([{"params": params[:1]}, {"params": params[1:]}], learn=with_lr("tensor"))
    apart = [learning([p], learn=with_lr("global")) for p in twin_params]
    for seed in range(8):
        train(together, params, [seed])
        give_gradients(twin_params, seed)
        for opt in apart:
            opt.step()
        assert rows(together) == [opt.coefficients() for opt in apart], seed
    assert same_bits(list(params), list(twin_params))


def test_a_group_of_several_tensors_learns_from_all_of_them_and_no_others():
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    together = learning([{"params": params[:2]}, {"params": params[2:]}], learn=fast(scope="group"))
    apart = [learning(twin_params[:2]), learning(twin_params[2:])]
    for seed in range(8):
        train(together, params, [seed])
        give_gradients(twin_params, seed)
        for opt in apart:
            opt.step()
    assert rows(together) == [opt.coefficients() for opt in apart]
    assert same_bits(list(params), list(twin_params))


def test_the_global_hypergradient_is_the_sum_over_scopes():
    found = []
    for scope in EVERY_SCOPE:
        torch.manual_seed(0)
        params = parameters()
        opt = learning(one_each(params), learn=fast(scope=scope, lr=0.0))
        train(opt, params, range(5))
        h = opt.hypergradients()
        found.append(
            h
            if scope == "global"
            else {q: sum(row[q] for row in h.values()) for q in h["0" if scope == "group" else "0.0"]}
        )
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[2] == pytest.approx(found[0], rel=1e-9)


def scoped(params, scope):
    return HyperAdam(params, learn=HyperSGD("all", scope=scope))


def test_names():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    named = list(model.named_parameters())
    by_name = scoped(named, "tensor")
    assert list(by_name.coefficients()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert list(scoped(model.parameters(), "tensor").coefficients()) == [
        "0.0",
        "0.1",
        "0.2",
        "0.3",
    ]
    groups = [{"params": named[:1], "name": "stem"}, {"params": named[1:]}]
    assert list(scoped(groups, "tensor").hypergradients()) == [name for name, _ in named]
    assert list(scoped(groups, "group").coefficients()) == ["stem", "1"]
    unnamed = [{"params": list(model[0].parameters())}, {"params": list(model[1].parameters())}]
    assert list(scoped(unnamed, "tensor").hypergradients()) == [
        "0.0",
        "0.1",
        "1.0",
        "1.1",
    ]
    assert list(HyperAdam(groups).coefficients()) == ["beta1", "beta2"]


def test_groups_that_share_a_name_are_both_read():
    params = parameters()
    groups = [{"params": params[:2], "name": "decay"}, {"params": params[2:], "name": "decay"}]
    assert len(scoped(groups, "group").coefficients()) == 2


def test_parameters_that_share_a_name_are_both_read():
    groups = [{"params": [("weight", p)]} for p in parameters()[:2]]
    assert len(scoped(groups, "tensor").coefficients()) == 2


def test_names_belong_to_their_parameters():
    """Only one parameter has a gradient: its entry is the one that is not 0."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    opt = learning(model.named_parameters(), learn=fast(scope="tensor"))
    for _ in range(3):
        for name, p in model.named_parameters():
            p.grad = torch.randn(p.shape) if name == "1.weight" else torch.zeros_like(p)
        opt.step()
    assert [name for name, h in opt.hypergradients().items() if any(h.values())] == ["1.weight"]


@on_one_engine
@pytest.mark.parametrize("scope", PARTED)
def test_what_is_not_learned_is_read_by_scope_too(scope):
    params = parameters()
    groups = [{"params": params[:2], "rho": 0.3}, {"params": params[2:]}]
    opt = learning(groups, learn=fast("beta1", "lr", scope=scope))
    train(opt, params, range(3))
    assert [row["rho"] for row in rows(opt)] == ([0.3, 0.6] if scope == "group" else [0.3, 0.3, 0.6, 0.6])
    assert all(set(row) == {*RULES["mada"].coefficient_names(), "lr"} for row in rows(opt))


@pytest.mark.parametrize("scope", PARTED)
@pytest.mark.parametrize("learner", ["SGD", "Adam"])
def test_a_scope_without_gradients_rests(scope, learner):
    """A frozen one: its coefficients and its velocity stay; the others go on as if it were not there."""
    make = LEARNERS[learner]
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt = learning(one_each(params), learn=make(scope))
    alone = learning([one_each(twin_params)[0]], learn=make("global"))
    for seed in range(9):
        give_gradients(params, seed)
        give_gradients(twin_params, seed)
        if seed == 4:
            before, kept = rows(opt), [x[1:].clone() for x in columns(opt)]
        if seed >= 4:
            freeze(params[1:])
        opt.step()
        alone.step()
    assert rows(opt)[1:] == before[1:]
    assert same_bits(kept, [x[1:] for x in columns(opt)])
    assert rows(opt)[0] == alone.coefficients() != before[0]


def columns(opt):
    """What groups hold for each scope, a row each."""
    keys = [key for key, x in opt.param_groups[0].items() if isinstance(x, torch.Tensor)]
    return [torch.stack([group[key].flatten() for group in opt.param_groups]) for key in keys]


def freeze(params):
    for p in params:
        p.grad = None


@on_one_engine
@pytest.mark.parametrize("scope", PARTED)
@pytest.mark.parametrize("learner", ["Adam", "tower"])
def test_the_state_of_an_external_learner_rests_with_its_scope(scope, learner):
    params = parameters()
    opt = learning(one_each(params), learn=LEARNERS[learner](scope))
    train(opt, params, range(4))
    before, states = rows(opt), [x.clone() for x in per_row(*opt.hyper_optimizers)]
    give_gradients(params, 4)
    freeze(params[1:])
    opt.step()
    assert rows(opt)[1:] == before[1:]
    assert len(states) >= 6  # of six coefficients
    for x, then in zip(per_row(*opt.hyper_optimizers), states, strict=True):
        assert torch.equal(x[1:], then[1:])
        assert x[0] != then[0]


def per_row(optimizer):
    """What the optimizer keeps for each row of each coefficient."""
    return [x for state in optimizer.state.values() for x in state.values() if x.shape == (4,)]


@pytest.mark.parametrize("scope", PARTED)
def test_a_scope_starts_to_learn_by_its_own_steps(scope):
    """`start` counts the steps of a scope."""
    params = parameters()
    opt = learning(one_each(params), learn=fast(scope=scope, start=3))
    before = rows(opt)
    for seed in range(6):
        give_gradients(params, seed)
        if seed < 4:
            params[1].grad = None
        opt.step()
    assert rows(opt)[0] != before[0]
    assert rows(opt)[1] == before[1]
    train(opt, params, range(6, 9))
    assert rows(opt)[1] != before[1]


@pytest.mark.parametrize("scope", PARTED)
def test_a_bad_hypergradient_freezes_its_scope_alone(scope):
    params = parameters()
    opt = learning(one_each(params), learn=fast(scope=scope))
    train(opt, params, range(3))
    opt.state[params[0]]["applied"][1] = math.nan  # the beta1 that its last update was made with
    before = rows(opt)
    train(opt, params, [3])
    assert rows(opt)[0] == before[0]
    assert all(now != then for now, then in zip(rows(opt)[1:3], before[1:3], strict=True))


def test_a_bad_gradient_stops_every_scope():
    params = parameters()
    opt = learning(one_each(params), learn=fast(scope="tensor"))
    train(opt, params, range(3))
    before = everything(opt)
    give_gradients(params, 3)
    params[2].grad.fill_(math.inf)
    opt.step()
    assert same_bits(everything(opt), before)


def saved(opt):
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def two_groups(params):
    return [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "lr": 1e-3}]


@on_one_engine
@pytest.mark.parametrize("scope", EVERY_SCOPE)
@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
def test_lock_step_after_a_load(scope, learner):
    params = parameters()
    opt = learning(two_groups(params), learn=learner(scope, EVERY))
    train(opt, params, range(5))
    twin_params = copy.deepcopy(params)
    twin = learning(two_groups(twin_params), learn=learner(scope, EVERY))
    twin.load_state_dict(saved(opt))
    for seed in range(100, 110):
        assert same_bits(everything(opt), everything(twin)), seed
        assert opt.coefficients() == twin.coefficients()
        train(opt, params, [seed])
        train(twin, twin_params, [seed])
    assert same_bits(everything(opt), everything(twin))


@on_one_engine
@pytest.mark.parametrize(
    ("of", "into"), [("global", "tensor"), ("tensor", "global"), ("group", "tensor"), ("tensor", "group")]
)
def test_a_state_of_another_scope_is_refused_and_changes_nothing(of, into):
    params = parameters()
    opt = learning(two_groups(params), learn=fast(scope=of))
    train(opt, params, range(3))
    target_params = copy.deepcopy(params)
    target = learning(two_groups(target_params), learn=fast(scope=into))
    train(target, target_params, range(2))
    before = everything(target)
    with pytest.raises(ValueError, match="state dict, parameter group"):
        target.load_state_dict(saved(opt))
    assert same_bits(everything(target), before)


@pytest.mark.parametrize("scope", PARTED)
def test_a_late_group_is_a_scope_of_its_own(scope):
    """It starts at its own values and its own first step, and the rows before it stay as they are."""
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = (learning([{"params": x[:1]}], learn=fast(scope=scope)) for x in (params, twin_params))
    train(opt, params[:1], range(4))
    train(twin, twin_params[:1], range(4))
    opt.add_param_group({"params": params[1:2], "rho": 0.2, "lr": 1e-3})
    assert [row["rho"] for row in rows(opt)] == [rows(twin)[0]["rho"], 0.2]
    fresh = learning([{"params": twin_params[1:2], "rho": 0.2, "lr": 1e-3}], learn=fast(scope=scope))
    for seed in range(4, 9):
        give_gradients(params, seed)
        give_gradients(twin_params, seed)
        for optimizer in (opt, twin, fresh):
            optimizer.step()
        assert rows(opt) == rows(twin) + rows(fresh)
    assert same_bits(list(params[:2]), list(twin_params[:2]))


@on_one_engine
@pytest.mark.parametrize("scope", PARTED)
def test_a_late_group_is_refused_where_another_optimizer_has_learned(scope):
    params = parameters()
    opt = learning(params[:1], learn=external(scope))
    with pytest.raises(ValueError, match="add_param_group with HyperTorch"):
        opt.add_param_group({"params": params[1:]})
    assert len(opt.param_groups) == 1


@on_one_engine
@pytest.mark.parametrize("scope", PARTED)
def test_groups_may_start_where_they_like(scope):
    params = parameters()
    opt = learning([{"params": params[:2], "betas": (0.5, 0.6)}, {"params": params[2:]}], learn=fast(scope=scope))
    starts = [row["beta1"] for row in rows(opt)]
    assert starts == ([0.5, 0.9] if scope == "group" else [0.5, 0.5, 0.9, 0.9])


@on_one_engine
@pytest.mark.parametrize("scope", PARTED)
def test_a_tower_over_scopes(scope):
    """Each scope's hyper learning rate is its own where the tower is told so; each storey has a row per scope."""

    def storey(q):
        return SGD(q, lr=1e-2, learn=HyperTorch("lr", make=lambda z: AdaGrad(z, lr=1e-2), start=0))

    params = parameters()
    opt = learning(two_groups(params), learn=external(scope, storey, ("beta1", "lr")))
    before = rows(opt)
    train(opt, params, range(8))
    count, (above,) = 2 if scope == "group" else 4, opt.hyper_optimizers
    assert [tuple(q.shape) for q in above.param_groups[0]["params"]] == [(count,), (count,)]
    assert len(rows(opt)) == count
    moved = [now != then for now, then in zip(rows(opt), before, strict=True)]
    assert moved == [True, True] if scope == "group" else moved == [True, True, True, False]  # the last is empty
    assert above.coefficients()["lr"] != 1e-2
    assert [x.rule.name for x in above.hyper_optimizers] == ["adagrad"]


@pytest.mark.parametrize("scope", EVERY_SCOPE)
def test_a_float_in_a_group_is_adopted(scope):
    """It holds from the next step on, as a new start, and learning goes on from there."""
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = (learning(two_groups(x), learn=fast(scope=scope)) for x in (params, twin_params))
    train(opt, params, range(3))
    train(twin, twin_params, range(3))
    for group, twin_group in zip(opt.param_groups, twin.param_groups, strict=True):
        group["rho"] = 0.25
        twin_group["rho"].fill_(0.25)
    train(opt, params, range(3, 6))
    train(twin, twin_params, range(3, 6))
    assert same_bits(everything(opt), everything(twin))
    read = opt.coefficients() if scope == "global" else rows(opt)[0]
    assert read["rho"] != 0.25
    assert abs(read["rho"] - 0.25) < 0.1


def test_a_float_in_one_group_is_its_own_alone():
    params = parameters()
    opt = learning(two_groups(params), learn=fast(scope="group", lr=0.0))
    opt.param_groups[1]["beta1"] = 0.25
    train(opt, params, range(2))
    assert [row["beta1"] for row in rows(opt)] == [0.9, 0.25]


@on_one_engine
@pytest.mark.parametrize("scope", EVERY_SCOPE)
@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
@pytest.mark.parametrize("through", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_deepcopy_and_pickle(scope, learner, through):
    params = parameters()
    opt = learning(two_groups(params), learn=learner(scope, EVERY))
    train(opt, params, range(3))
    before = everything(opt)
    twin = through(opt)
    twin_params = [p for group in twin.param_groups for p in group["params"]]
    train(twin, twin_params, range(3, 8))
    assert same_bits(everything(opt), before)  # the original has not moved
    train(opt, params, range(3, 8))
    assert same_bits(everything(opt), everything(twin))
    assert opt.coefficients() == twin.coefficients()


def test_where_nothing_is_learned_there_is_one_reading():
    params = parameters()
    opt = HyperAdam(one_each(params), learn=())
    train(opt, params, range(3))
    assert opt.coefficients() == {"beta1": 0.9, "beta2": 0.999}
    assert opt.hypergradients() == {"beta1": 0.0, "beta2": 0.0}
