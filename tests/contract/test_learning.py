"""When and how the coefficients move.

Catches: a hyper-step too early, a forgotten clip or projection, momentum of another form, a coefficient that moves
though it is not named in `learn`.
"""

import copy
import itertools
import math

import pytest
import torch

from mada_optim import MADA, PAPER_GPT2, PAPER_SHAKESPEARE, HyperAdam, HyperSGD, HyperTorch
from mada_optim.rules import RULES
from tests.problems import MIDWAY, fast, give_gradients, learning, parameters, step_info, train
from tests.representatives import on_one_engine


@pytest.mark.parametrize(("start", "first"), [(0, 2), (1, 2), (5, 6), (50, 51)])
def test_the_first_hyper_step(start, first):
    """Step 1 has no update before it; with start = n the coefficients stay for n steps."""
    params = parameters()
    opt = learning(params, learn=fast(start=start))
    coefficients = opt.coefficients()
    for step in range(1, first + 1):
        train(opt, params, [step])
        assert (opt.coefficients() != coefficients) == (step == first)


def test_a_skipped_step_does_not_count_towards_the_start():
    params = parameters()
    opt = learning(params, learn=fast(start=3))
    coefficients = opt.coefficients()
    for seed in range(4):
        give_gradients(params, seed)
        if seed == 1:
            params[0].grad[0] = float("nan")
        opt.step()
    assert opt.coefficients() == coefficients
    train(opt, params, [4])
    assert opt.coefficients() != coefficients


def test_only_what_is_named_is_learned():
    params = parameters()
    opt = MADA(params, learn=HyperSGD("rho", "beta2", start=0), **MIDWAY)
    before = opt.coefficients()
    train(opt, params, range(6))
    after = opt.coefficients()
    assert {q for q in after if after[q] != before[q]} == {"rho", "beta2"}
    assert set(opt.hypergradients()) == set(after)
    assert opt.hypergradients()["gamma"] == 0.0


def test_hypergradient_is_the_derivative_of_the_next_loss():
    """On a quadratic, by central differences through one whole step: d loss(theta_t) / d q of step t, in float64."""
    target = torch.randn(6, dtype=torch.float64)
    curvature = torch.rand(6, dtype=torch.float64) + 0.5

    def run(shift, name, steps):
        theta = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
        opt = MADA([theta], lr=0.05, learn=HyperSGD("all", lr=0.0, start=0), **MIDWAY)
        for t in range(steps):
            opt.zero_grad()
            (curvature * (theta - target) ** 2).sum().backward()
            if t == steps - 1:
                opt.param_groups[0][name] += shift
            opt.step()
        loss = (curvature * (theta - target) ** 2).sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item(), opt.hypergradients()[name]

    for name in ("beta1", "beta2", "beta3", "rho", "c", "gamma"):
        for steps in (1, 2, 9):
            h = 1e-5
            quotient = (run(h, name, steps)[0] - run(-h, name, steps)[0]) / (2 * h)
            assert run(0.0, name, steps)[1] == pytest.approx(quotient, rel=1e-5, abs=1e-9), (name, steps)


def test_an_update_is_differentiated_with_the_coefficients_that_it_was_made_with():
    """Coefficients changed by hand between two steps, as they change while a parameter sits out."""
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = learning(params), learning(twin_params)
    train(opt, params, range(3))
    train(twin, twin_params, range(3))
    for q, x in {"beta1": 0.5, "beta2": 0.6, "rho": 0.1, "gamma": 0.3}.items():
        opt.param_groups[0][q].fill_(x)
    opt.param_groups[0]["lr"] = 0.5
    assert all(
        torch.equal(x, y)
        for x, y in zip(opt.slots(params[0]).values(), twin.slots(twin_params[0]).values(), strict=True)
    )
    train(opt, params, [3])
    train(twin, twin_params, [3])
    assert opt.hypergradients() == twin.hypergradients()
    assert any(opt.hypergradients().values())


def test_an_external_learner_steps_as_often_as_the_coefficients_move():
    """Not at step 1, which has no update before it, and not at a step that is skipped."""
    params = parameters()
    opt = learning(params, learn=HyperTorch("all", make=lambda q: torch.optim.Adam(q, lr=1e-3), start=0))
    for seed in range(7):
        give_gradients(params, seed)
        if seed == 4:
            params[0].grad[0] = float("nan")
        opt.step()
    inner = opt.state_dict()["hyper_optimizer"]["state"]
    assert {state["step"].item() for state in inner.values()} == {5.0}


def test_hyper_sgd_by_hand():
    """Three steps with numbers that one can follow: clip at 1, lr .1, momentum .5."""
    learner, info = HyperSGD("beta1", lr=0.1, momentum=0.5, clip=1.0), step_info(names=("beta1",), ends=(0.0, 0.35))
    q = torch.tensor([[0.3]], dtype=torch.float64)
    memory = learner.init(q, info)
    q, memory = learner.step(q, torch.full_like(q, 3.0), memory, info)
    assert q.item() == pytest.approx(0.2)
    q, memory = learner.step(q, torch.full_like(q, -0.5), memory, info)
    assert memory["velocity"].item() == pytest.approx(0.0, abs=1e-6)  # the clip is torch's, off by a millionth
    q, memory = learner.step(q, torch.full_like(q, -2.0), memory, info)
    assert memory["velocity"].item() == pytest.approx(-1.0)
    assert q.item() == pytest.approx(0.3)


@on_one_engine
@pytest.mark.parametrize("h", [0.0, 1e-9, 0.5, 2.0, -7.0, 1e30])
@pytest.mark.parametrize("clip", [1.0, 0.0, 10.0, math.inf])
def test_each_hypergradient_is_clipped_as_torch_clips_a_norm(h, clip):
    """By itself: the norm of one number is its size."""
    learner, info = HyperSGD("beta1", "rho", lr=1.0, clip=clip), step_info(names=("beta1", "rho"))
    p = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    p.grad = torch.tensor(h, dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_([p], clip)
    q = torch.zeros(1, 2, dtype=torch.float64)
    moved, _ = learner.step(q, torch.tensor([[h, 0.25]], dtype=torch.float64), learner.init(q, info), info)
    assert -moved[0, 0].item() == pytest.approx(p.grad.item() if clip < math.inf else h, rel=1e-12, abs=0)
    assert -moved[0, 1].item() == pytest.approx(min(0.25, clip), rel=1e-5)


def path(hs, start=0.5, **numbers):
    """Where one coefficient on [0, 1] is after each hypergradient, with a long momentum."""
    learner, info = HyperSGD("rho", lr=0.1, momentum=0.9, **numbers), step_info(names=("rho",), ends=(0.0, 1.0))
    q = torch.full((1, 1), start, dtype=torch.float64)
    memory, found = learner.init(q, info), []
    for h in hs:
        q, memory = learner.step(q, torch.full_like(q, h), memory, info)
        q = q.clamp(0.0, 1.0)
        found.append(q.item())
    return found


@on_one_engine
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_rebound_keeps_the_momentum_from_winding_up_on_a_bound(sign):
    """Hypergradients push outward for long, and turn. Without a rebound the velocity goes on, as the authors' does."""
    bound, hs = 0.0 if sign > 0 else 1.0, [sign] * 40 + [-sign] * 10
    wound, free = path(hs), path(hs, rebound=2.0)
    assert wound[:40] == free[:40]
    assert free[39] == bound
    assert [x != bound for x in free[40:43]] == [False, True, True]
    assert set(wound[40:46]) == {bound}
    assert path(hs, rebound=math.inf) == wound
    assert [x != bound for x in path(hs, rebound=0.0)[40:42]] == [True, True]


def test_a_rebound_is_of_bounds_alone():
    hs = [0.1, -0.3, 0.2, 0.4, -0.1, -0.2]
    assert path(hs, rebound=0.0) == path(hs)
    assert path([5.0, 5.0, -1.0], rebound=0.0) != path([5.0, 5.0, -1.0])


@on_one_engine
@pytest.mark.parametrize("rebound", [-1.0, math.nan, "2", None])
def test_what_is_no_rebound_is_refused(rebound):
    with pytest.raises(ValueError, match=r"rebound=.*: expected a number in \[0, inf\); math.inf is no limit"):
        HyperSGD("beta1", rebound=rebound)


def test_an_sgd_factory_is_the_built_in_hyper_step():
    runs = []
    for learner in (fast(), HyperTorch("all", make=lambda q: torch.optim.SGD(q, lr=1e-3, momentum=0.5), start=0)):
        torch.manual_seed(0)
        params = parameters()
        opt = learning(params, learn=learner)
        for seed in range(10):
            give_gradients(params, seed)
            if seed == 6:
                params[0].grad[0] = float("nan")
            opt.step()
        runs.append(opt.coefficients())
    assert runs[0] == pytest.approx(runs[1], rel=1e-12)


def test_bounds_hold_and_release():
    """A sign that flips drives beta1 down to its bound, one that stays drives it up, and it sticks at neither."""
    p = torch.nn.Parameter(torch.zeros(8))
    opt = HyperAdam([p], lr=0.1, learn=HyperSGD("beta1", lr=1.0, start=0, bounds={"beta1": (0.3, 0.95)}))
    seen = []
    for t in range(120):
        sign = 1.0 if (t // 20) % 2 else (-1.0) ** t
        p.grad = sign * torch.linspace(0.5, 1.5, 8)
        opt.step()
        seen.append(opt.coefficients()["beta1"])
    assert (min(seen), max(seen)) == (0.3, 0.95)
    reached = [x for x in seen if x in (0.3, 0.95)]
    assert any(a != b for a, b in itertools.pairwise(reached))


PAPERS = {
    "GPT-2": (PAPER_GPT2, 1e-6, 0.6, (5e-4, 5e-4, 1e-1, 1e-1, 1e-1, 1e-1), (0.0,) * 6, 50),
    "Shakespeare": (PAPER_SHAKESPEARE, 1e-8, 1.0, (2.5e-3,) * 6, (*(0.5,) * 5, 0.0), 0),
}


@pytest.mark.parametrize(("paper", "eps", "rho", "rates", "momenta", "start"), PAPERS.values(), ids=PAPERS)
def test_the_papers_numbers(paper, eps, rho, rates, momenta, start):
    """Each coefficient moves by its own hyper learning rate and momentum, on the intervals of the authors' code."""
    params = parameters()
    opt = MADA(params, lr=0.1, **paper)
    before = opt.coefficients()
    assert before == {"beta1": 0.9, "beta2": 0.95, "beta3": 0.0, "rho": rho, "c": 1.0, "gamma": 1.0}
    assert (opt.param_groups[0]["eps"], opt.param_groups[0]["weight_decay"]) == (eps, 0.0)
    assert (opt.learned, opt.rule) == (RULES["mada"].coefficient_names(), RULES["mada"])
    train(opt, params, range(start))
    assert opt.coefficients() == before
    q, velocity, turned = before, dict.fromkeys(before, 0.0), set()
    for seed in range(start, start + 12):
        train(opt, params, [seed])
        for x, rate, momentum in zip(RULES["mada_released"].coefficients, rates, momenta, strict=True):
            name, low, high = x.name, x.interval.low, x.interval.high
            h = opt.hypergradients()[name]
            velocity[name] = momentum * velocity[name] + h * min(1.0, 10.0 / (abs(h) + 1e-6))
            q[name] = min(max(q[name] - rate * velocity[name], low), high)
            turned |= {name} if q[name] not in (low, high) else set()
        assert opt.coefficients() == pytest.approx(q, rel=1e-9, abs=1e-12), seed
    assert turned == set(before)
