"""Several learners in one optimizer, of different coefficients and scopes.

Catches: coarse and fine scopes that don't add up, a learner that moves or remembers for another, and a state in which
one of several is missed.
"""

import copy
import math
import pickle

import pytest
import torch

from mada_optim import MADA, HyperAdam, HyperSGD, HyperTorch, LearnedLR
from tests.contract.test_learners import Along, rows, saved, two_groups
from tests.problems import everything, fast, give_gradients, learning, parameters, same_bits, train, with_muon
from tests.representatives import on_one_engine

RATES = {"beta1": 1e-3, "beta2": 1e-4, "rho": 1e-2}


def three(moving=tuple(RATES), last=HyperSGD):
    """beta1 over all, beta2 by group, rho by tensor; those that aren't `moving` have a rate of 0."""
    rate = {name: x if name in moving else 0.0 for name, x in RATES.items()}
    numbers = {"lr": rate["rho"]} if last is HyperSGD else {"make": lambda q: torch.optim.SGD(q, lr=rate["rho"])}
    return [
        HyperSGD("beta1", lr=rate["beta1"], start=0),
        HyperSGD("beta2", lr=rate["beta2"], start=0, scope="group"),
        last("rho", start=0, scope="tensor", **numbers),
    ]


@on_one_engine
def test_a_list_keeps_its_order_and_names_are_one_learner_more():
    opt = MADA(parameters(), learn=["rho", LearnedLR(), "beta1", HyperSGD("c", scope="tensor")])
    assert opt.learners == (LearnedLR(), HyperSGD("c", scope="tensor"), HyperSGD("rho", "beta1"))
    assert opt.learned == ("beta1", "rho", "c", "lr")


def test_coarse_hypergradients_are_sums_over_finer_rows():
    """Of the same weights: nothing moves but they."""
    params, twins = (p := parameters()), copy.deepcopy(p)
    mixed = learning(two_groups(params), learn=three(moving=()))
    apart = learning(two_groups(twins), learn=HyperSGD(*RATES, lr=0.0, scope="tensor"))
    for seed in range(6):
        train(mixed, params, [seed])
        train(apart, twins, [seed])
        found, parts = (list(opt.hypergradients().values()) for opt in (mixed, apart))
        close = {"rel": 1e-9, "abs": 1e-15}
        for name, members in (("beta1", [[0, 1, 2, 3]] * 4), ("beta2", [[0], *[[1, 2, 3]] * 3])):
            expected = [sum(parts[i][name] for i in own) for own in members]
            assert [row[name] for row in found] == pytest.approx(expected, **close)
        assert [row["rho"] for row in found] == pytest.approx([row["rho"] for row in parts], **close)
    assert same_bits(list(params), list(twins))
    assert all(abs(row[name]) > 0 for row in found[:3] for name in RATES)


@pytest.mark.parametrize("last", [HyperSGD, HyperTorch])
@pytest.mark.parametrize("moving", RATES)
def test_each_moves_as_alone(moving, last):
    """Against a run in which nothing else is learned."""
    params, twins = (p := parameters()), copy.deepcopy(p)
    mixed = learning(two_groups(params), learn=three((moving,), last))
    alone = learning(two_groups(twins), learn=next(x for x in three() if x.names == (moving,)))
    before = rows(mixed)
    for seed in range(10):
        train(mixed, params, [seed])
        train(alone, twins, [seed])
        single = alone.coefficients()
        by_tensor = [single] * 4 if moving == "beta1" else list(single.values())
        by_tensor = [by_tensor[0], *[by_tensor[1]] * 3] if moving == "beta2" else by_tensor
        assert [row[moving] for row in rows(mixed)] == pytest.approx([row[moving] for row in by_tensor], rel=1e-9)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    moved = {name for name in before[0] if rows(mixed)[0][name] != before[0][name]}
    assert moved == {moving}


@pytest.mark.parametrize("last", [HyperSGD, HyperTorch])
def test_all_move_at_once_by_their_own_hypergradients(last, engine):
    """By hand, and on every engine as on the eager one."""
    params, twins = (p := parameters()), copy.deepcopy(p)
    opt, slow = learning(two_groups(params), learn=three(last=last)), None
    slow = learning(two_groups(twins), learn=three(last=last), engine="eager")
    expected = rows(opt)
    for seed in range(10):
        train(opt, params, [seed])
        train(slow, twins, [seed])
        for row, h in zip(expected, opt.hypergradients().values(), strict=True):
            row |= {name: row[name] - rate * h[name] for name, rate in RATES.items()}
        assert [tuple(row.values()) for row in rows(opt)] == [pytest.approx(tuple(x.values())) for x in expected]
    fast_rows, slow_rows = ([tuple(row.values()) for row in rows(x)] for x in (opt, slow))
    assert fast_rows == [pytest.approx(row, rel=1e-5) for row in slow_rows]
    assert len({row["beta1"] for row in rows(opt)}) == 1
    assert len({row["beta2"] for row in rows(opt)}) == 2
    assert len({row["rho"] for row in rows(opt)}) == 4
    assert opt.engine == {"auto": opt.engine, "tiled": "tiled", "eager": "eager"}[engine]


def test_a_learned_lr_beside_an_omega_of_each_matrix():
    """lr's factor is one for all, learned from its trace; each matrix has its own share of Muon."""
    learn = [LearnedLR(start=1, horizon=0.9), HyperSGD("omega", lr=1.0, start=0, scope="tensor")]
    torch.manual_seed(0)
    shapes = [(6, 6), (8, 6), (6,), (4, 6)]  # the last is taken for the head
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    opt, trace = with_muon(params, lr=1e-2, omega=0.5, learn=learn), [torch.zeros_like(p) for p in params]
    for seed in range(8):
        give_gradients(params, seed)
        expected = sum((p.grad * s).sum() for p, s in zip(params, trace, strict=True))
        before = [p.detach().clone() for p in params]
        opt.step()
        (found,) = {row["lr"] for row in opt.hypergradients().values()}
        assert found == pytest.approx(float(expected), rel=1e-6, abs=1e-12)
        trace = [0.9 * s + p.detach() - x for s, p, x in zip(trace, params, before, strict=True)]
    omegas = [row["omega"] for row in rows(opt)]
    assert len({*omegas[:2], 0.5}) == 3
    assert omegas[2:] == [0.5, 0.5]  # of no matrix
    (factor,) = {row["lr"] / 1e-2 for row in rows(opt)}
    assert factor != 1.0
    assert opt.param_groups[0]["log_lr"].shape == ()
    assert opt.param_groups[0]["omega"].shape == (4,)


def test_a_coarse_one_rests_where_no_finer_row_counts():
    """A group without gradients: its own learner and those of its tensors rest; that of all goes on."""
    params = parameters()[:3]
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    opt = learning(groups, learn=[Along(("beta1",)), Along(("beta2",), scope="group"), Along(("rho",), scope="tensor")])
    train(opt, params, range(3))
    steps = ["hyper_steps", "hyper_steps.1", "hyper_steps.2"]
    before = rows(opt)
    for seed in range(3, 5):
        give_gradients(params, seed)
        params[1].grad = params[2].grad = None
        opt.step()
    assert [[group[key].tolist() for key in steps] for group in opt.param_groups] == [
        [5.0, 5.0, [5.0]],
        [5.0, 3.0, [3.0, 3.0]],
    ]
    assert rows(opt)[0]["beta1"] == rows(opt)[1]["beta1"] != before[1]["beta1"]
    assert [{**row, "beta1": 0} for row in rows(opt)[1:]] == [{**row, "beta1": 0} for row in before[1:]]


def test_a_hypergradient_that_is_not_finite_stops_those_that_sum_over_it():
    params = parameters()[:3]
    opt = learning(params, learn=[Along(("beta1",)), Along(("rho",), scope="tensor")])
    train(opt, params, range(3))
    opt.state[params[0]]["applied"][1] = math.nan
    before = rows(opt)
    train(opt, params, [3])
    assert rows(opt)[0] == before[0]
    assert [row["beta1"] for row in rows(opt)] == [row["beta1"] for row in before]
    assert all(now["rho"] != then["rho"] for now, then in zip(rows(opt)[1:], before[1:], strict=True))


def several():
    return [
        HyperSGD("beta1", momentum=0.5, start=0),
        HyperTorch("beta2", start=0, scope="group"),
        LearnedLR(start=1, horizon=0.9, scope="group"),
        HyperTorch("rho", make=lambda q: HyperAdam(q, lr=1e-2), start=0, scope="tensor"),
        Along(("gamma",), scope="tensor"),
    ]


@on_one_engine
@pytest.mark.parametrize("through", ["state dict", "copy", "pickle"])
def test_several_save_and_load(through):
    params = parameters()
    opt = learning(two_groups(params), learn=several())
    train(opt, params, range(5))
    assert len(opt.hyper_optimizers) == 2
    if through == "state dict":
        state = saved(opt)
        assert {"hyper_optimizer", "hyper_optimizer.1"} < set(state)
        twins = copy.deepcopy(params)
        twin = learning(two_groups(twins), learn=several())
        train(twin, twins, range(50, 53))
        with torch.no_grad():
            torch._foreach_copy_(twins, params)
        twin.load_state_dict(state)
    else:
        twin = copy.deepcopy(opt) if through == "copy" else pickle.loads(pickle.dumps(opt))
        twins = [p for group in twin.param_groups for p in group["params"]]
    for seed in range(100, 108):
        assert same_bits(everything(opt), everything(twin)), seed
        assert opt.coefficients() == twin.coefficients()
        train(opt, params, [seed])
        train(twin, twins, [seed])
    assert same_bits(everything(opt), everything(twin))


def test_the_state_of_one_of_two_optimizers_is_missed():
    params, twins = parameters(), parameters()
    two = [HyperTorch("beta1", start=0), HyperTorch("rho", start=0, scope="tensor")]
    opt, twin = learning(params, learn=two), learning(twins, learn=two)
    train(opt, params, range(3))
    state = opt.state_dict()
    for key in ("hyper_optimizer", "hyper_optimizer.1"):
        with pytest.raises(ValueError, match=f"expected the key '{key}', got none"):
            twin.load_state_dict({name: x for name, x in state.items() if name != key})
    twin.load_state_dict(state)
    for one, other in zip(opt.hyper_optimizers, twin.hyper_optimizers, strict=True):
        ours, theirs = (list(x.state.values()) for x in (one, other))
        assert same_bits([s["exp_avg"] for s in ours], [s["exp_avg"] for s in theirs])
        assert ours[0]["exp_avg"].any()


@on_one_engine
@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_a_state_dict_is_the_same_in_whatever_order_learners_are_given(order):
    def learners():
        tower = {"make": lambda q: HyperAdam(q, lr=1e-2), "start": 0}
        return [fast("gamma", "beta1"), HyperTorch("beta2", **tower), HyperTorch("rho", "lr", **tower)]

    params = parameters()
    opt = learning(params, learn=learners())
    train(opt, params, range(5))
    twins = copy.deepcopy(params)
    twin = learning(twins, learn=[learners()[i] for i in order])
    assert [x.names for x in twin.learners] == [learners()[i].names for i in order]
    assert saved(twin).keys() == saved(opt).keys()
    assert twin.state_dict()["param_groups"][0].keys() == opt.state_dict()["param_groups"][0].keys()
    twin.load_state_dict(saved(opt))
    for seed in range(5, 10):
        train(opt, params, [seed])
        train(twin, twins, [seed])
        assert same_bits(list(params), list(twins))
    assert twin.coefficients() == opt.coefficients()


OTHERS = {
    "one": [HyperSGD("beta1")],
    "another scope": [HyperSGD("beta1", scope="tensor"), HyperSGD("rho")],
    "another one": [HyperSGD("beta1"), HyperSGD("c", scope="tensor")],
    "together": [HyperSGD("beta1", "rho")],
}


@on_one_engine
@pytest.mark.parametrize("learn", OTHERS.values(), ids=OTHERS)
def test_a_state_of_other_learners_is_refused_and_changes_nothing(learn):
    params, twins = parameters(), parameters()
    opt = learning(params, learn=[HyperSGD("beta1"), HyperSGD("rho", scope="tensor")])
    twin = learning(twins, learn=learn)
    train(opt, params, range(3))
    train(twin, twins, range(2))
    before = everything(twin)
    with pytest.raises(ValueError, match="same rule and the same `learn`"):
        twin.load_state_dict(opt.state_dict())
    assert same_bits(everything(twin), before)


SHARED_OUT = {
    "one of another": (HyperSGD("beta1"), HyperSGD("beta2")),
    "two otherwise": (
        [HyperSGD("beta1", "rho"), HyperSGD("beta2", "c")],
        [HyperSGD("beta1", "c"), HyperSGD("beta2", "rho")],
    ),
    "by an optimizer": (HyperTorch("beta1"), HyperTorch("beta2")),
}


@on_one_engine
@pytest.mark.parametrize(("learn", "other"), SHARED_OUT.values(), ids=SHARED_OUT)
def test_what_was_learned_of_one_is_not_loaded_for_another(learn, other):
    """Of the same shapes, so that nothing but the names tells them apart."""
    params, twins = parameters(), parameters()
    opt, twin = learning(params, learn=learn), learning(twins, learn=other)
    train(opt, params, range(3))
    train(twin, twins, range(2))
    before = everything(twin)
    with pytest.raises(ValueError, match=r"'learned(\.1)?': expected \['beta[12]'.*same `learn`$"):
        twin.load_state_dict(opt.state_dict())
    assert same_bits(everything(twin), before)
    state = opt.state_dict()
    for group in state["param_groups"]:  # version 0.1.0 wrote no names
        del group["learned"]
        group.pop("learned.1", None)
    twin.load_state_dict(state)


def test_a_late_group_is_refused_where_an_optimizer_has_rows_for_the_others():
    opt = learning(parameters()[:2], learn=[fast("beta1"), HyperTorch("rho", scope="tensor")])
    with pytest.raises(ValueError, match="add_param_group with HyperTorch and scope='tensor'"):
        opt.add_param_group({"params": parameters()[2:]})
    assert len(opt.param_groups) == 1
    opt = learning(parameters()[:2], learn=[fast("beta1", scope="tensor"), HyperTorch("rho")])
    opt.add_param_group({"params": parameters()[2:]})
    assert opt.param_groups[1]["rho"] is opt.param_groups[0]["rho"]


def test_own_values_of_a_late_group_are_those_that_are_learned_for_it():
    params = parameters()
    opt = learning(params[:2], learn=[fast("beta1"), fast("rho", scope="group")])
    opt.add_param_group({"params": params[2:], "rho": 0.25})
    assert [row["rho"] for row in rows(opt)] == [0.6, 0.25]
    with pytest.raises(ValueError, match="all groups share"):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "beta1": 0.25})
