"""`observe`: hypergradients from the gradients as they stand, for the next step.

Catches: an observation that moves something, keeps a gradient alive or reads it later; one that is used twice, is lost,
or goes on into a loaded state; hypergradients of another gradient than the one that stood; a step whose finiteness is
decided by the observed gradients; work that is done twice.
"""

import contextlib
import copy
import math
import pickle
import weakref

import pytest
import torch

from mada_optim import MADA, AutoAdam, AutoMuon, HyperAdam, HyperSGD, HyperTorch, LearnedLR
from mada_optim.stepping import reuse
from tests import problems
from tests.problems import everything, fast, give_gradients, parameters, same_bits

ALL_SEVEN = ("beta1", "beta2", "beta3", "rho", "c", "gamma", "lr")
KEYS = (*ALL_SEVEN[:-1], "log_lr")  # of them in a group
EARLY = LearnedLR(start=2)


def learning(params, scope="global", **options):
    """All seven coefficients, moving from the first possible step."""
    return problems.learning(params, **{"learn": fast(*ALL_SEVEN, scope=scope), **options})


def adam(leaves):
    return torch.optim.Adam(leaves, lr=1e-3)


MAKERS = {
    "global": learning,
    "group": lambda params: learning(params, "group"),
    "tensor": lambda params: learning(params, "tensor"),
    "two learners": lambda params: learning(params, learn=[EARLY, HyperSGD("beta1", "c", start=1, scope="tensor")]),
    "lr from its trace": lambda params: AutoAdam(params, lr=1e-2, learn=EARLY),
    "with matrices": lambda params: AutoMuon(params, learn=EARLY),
    "hyperadam": lambda params: HyperAdam(params, lr=1e-2, learn=HyperSGD("all", start=1)),
    "tower": lambda params: learning(params, learn=HyperTorch("all", make=adam, start=1)),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def groups(params):
    return [{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:]}]


def pair(make):
    """An optimizer and its parameters, twice, with the same numbers.

    None is 0-d, so that all may go through one table of the loops, which a step leaves to the next.
    """
    params = [p for p in parameters() if p.ndim]
    twins = copy.deepcopy(params)
    return (make(groups(params)), params), (make(groups(twins)), twins)


def numbers(reading):
    """A reading in one list, whatever the scope."""
    nested = [x if isinstance(x, dict) else {"": x} for x in reading.values()]
    return [x for inner in nested for x in inner.values()]


def assert_equal(one, other):
    assert one.coefficients() == other.coefficients()
    assert one.hypergradients() == other.hypergradients()
    assert same_bits(everything(one), everything(other))


def same_gradients(params, twins, seed):
    give_gradients(params, seed)
    give_gradients(twins, seed)


@each_maker
def test_observing_what_the_step_sees_changes_no_bit(make):
    (opt, params), (alone, twins) = pair(make)
    for seed in range(10):
        same_gradients(params, twins, seed)
        before = everything(opt)
        opt.observe()
        assert same_bits(everything(opt), before)
        opt.step()
        alone.step()
        assert_equal(opt, alone)
    assert any(numbers(opt.hypergradients()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_of_each_dtype_and_shape(dtype):
    params = parameters(dtype)
    twins = copy.deepcopy(params)
    opt, alone = learning(params), learning(twins)
    for seed in range(6):
        same_gradients(params, twins, seed)
        opt.observe()
        opt.step()
        alone.step()
        assert_equal(opt, alone)


def clipped(params, _):
    torch.nn.utils.clip_grad_norm_(params, 0.1)


def added_to(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad += torch.randn(p.shape, generator=generator)


def replaced(params, seed):
    give_gradients(params, seed)


def overwritten(params, seed):
    """As after `zero_grad(set_to_none=False)` and another backward pass: in the same memory."""
    held = [p.grad for p in params]
    give_gradients(params, seed)
    for p, g in zip(params, held, strict=True):
        p.grad = g.copy_(p.grad)


CHANGES = (clipped, added_to, replaced, overwritten)


@each_maker
def test_hypergradients_are_of_what_was_observed_and_weights_follow_the_step(make):
    """Coefficients are those of a step on the observed gradient; with them, a plain step on the other moves weights."""
    (opt, params), _ = pair(make)
    for seed in range(2 * len(CHANGES)):
        give_gradients(params, seed)
        twin, other = copy.deepcopy((opt, params)), copy.deepcopy((opt, params))
        give_gradients(twin[1], seed)
        opt.observe()
        twin[0].step()
        CHANGES[seed % len(CHANGES)](params, 100 + seed)
        for p, own in zip(params, other[1], strict=True):
            own.grad = p.grad.clone()
        opt.step()
        assert opt.coefficients() == twin[0].coefficients()
        assert opt.hypergradients() == twin[0].hypergradients()
        for mine, theirs in zip(other[0].param_groups, twin[0].param_groups, strict=True):
            mine.update({q: theirs[q].clone() for q in KEYS if torch.is_tensor(theirs.get(q))})
        stopped(other[0]).step()
        for p, own in zip(params, other[1], strict=True):
            assert torch.equal(p, own), seed


def stopped(opt):
    """The same optimizer, whose coefficients stay: no number of steps is enough for its learner."""
    for group in opt.param_groups:
        group.update({key: torch.full_like(x, -1.0) for key, x in group.items() if key.startswith("applied_steps")})
    return opt


def loss(params):
    return sum((torch.sin(p) * torch.arange(1.0, 1 + p.numel()).double().reshape(p.shape)).sum() for p in params)


def differences(params, opt, given, applied, name, h=1e-5):
    """How the loss after an update depends on a coefficient of that update, by central differences.

    Args:
        params: The parameters before the update.
        opt: Their optimizer.
        given: The gradients of the update.
        applied: The coefficients that it was made with, by key in a group.
        name: One of these.
        h: Half of the difference.
    """
    ends = []
    for x in (h, -h):
        twins, twin = copy.deepcopy((params, opt))
        for group in twin.param_groups:
            group.update({**applied, name: applied[name] + x})
        for p, g in zip(twins, given, strict=True):
            p.grad = g
        stopped(twin).step()
        ends.append(loss(twins).item())
    return (ends[0] - ends[1]) / (2 * h)


def test_the_unclipped_gradient_by_differences_of_the_loss():
    """In float64, with a clip so tight that the hypergradients of the clipped gradient would be other numbers."""
    params = parameters(torch.float64)
    opt = learning(params, weight_decay=0.1)
    last = None
    for _ in range(4):
        opt.zero_grad()
        loss(params).backward()
        opt.observe()
        torch.nn.utils.clip_grad_norm_(params, 0.1)
        expected = None if last is None else {q: differences(*last, q) for q in KEYS}
        given, before = [p.grad.clone() for p in params], copy.deepcopy((params, opt))
        opt.step()
        if expected is not None:
            assert list(opt.hypergradients().values()) == pytest.approx(list(expected.values()), rel=1e-5, abs=1e-9)
        last = (*before, given, {q: opt.param_groups[0][q].item() for q in KEYS})
    assert all(opt.hypergradients().values())


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_scaled_loss(as_tensor):
    """A GradScaler's run is the one without it, less the steps that overflow: powers of two change no bit."""

    def network():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def loss_of(model, step):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.sum(-1, keepdim=True)).square().mean()

    model, twin = network(), network()
    opt, other = (learning(x.parameters()) for x in (model, twin))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    scales = set()
    for step in range(14):
        opt.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        if step in (4, 5, 9):
            model[0].weight.grad[0, 0] = float("inf")
        scales.add(scaler.get_scale())
        opt.observe(torch.tensor(scaler.get_scale()) if as_tensor else scaler.get_scale())
        scaler.unscale_(opt)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(opt)
        scaler.update()
        if step not in (4, 5, 9):
            other.zero_grad()
            loss_of(twin, step).backward()
            other.observe()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
            other.step()
        assert_equal(opt, other)
    assert len(scales) > 2


def test_a_micro_batch_whose_loss_was_divided():
    """`grad_scale` of one over the number of micro-batches gives the hypergradients of the undivided loss."""
    (opt, params), (alone, twins) = pair(MAKERS["global"])
    for seed in range(4):
        same_gradients(params, twins, seed)
        for p in params:
            p.grad /= 4
        opt.observe(grad_scale=0.25)
        replaced(params, seed)
        opt.step()
        alone.step()
        assert_equal(opt, alone)


def test_no_gradient_is_kept_or_read_again():
    (opt, params), (alone, twins) = pair(MAKERS["global"])
    for seed in range(5):
        same_gradients(params, twins, seed)
        held = [weakref.ref(p.grad) for p in params]
        opt.observe()
        for p in params:
            p.grad.fill_(float("nan"))
        opt.zero_grad()
        assert not any(ref() is not None for ref in held)
        give_gradients(params, seed)
        opt.step()
        alone.step()
        assert_equal(opt, alone)


def test_a_step_uses_the_last_observation_and_uses_it_once():
    (opt, params), (alone, twins) = pair(MAKERS["global"])
    for seed in range(6):
        same_gradients(params, twins, 50 + seed)
        opt.observe()
        same_gradients(params, twins, seed)
        opt.observe()
        for step in range(2):
            same_gradients(params, twins, 10 * step + seed)
            opt.step()
            alone.step()
            assert_equal(opt, alone)


def test_a_step_that_is_skipped_drops_the_observation():
    """Whether it counts is decided by its own gradients; what was observed goes with it."""
    (opt, params), (alone, twins) = pair(MAKERS["global"])
    for seed in range(6):
        same_gradients(params, twins, seed)
        if seed == 3:
            opt.observe()
            params[0].grad[0, 0] = float("inf")
            before = everything(opt)
            opt.step()
            assert same_bits(everything(opt), before)
            same_gradients(params, twins, 33)
        opt.step()
        alone.step()
        assert_equal(opt, alone)
    assert opt.skipped_steps == 1


def test_a_step_that_raises_or_has_nothing_to_move():
    (opt, params), (alone, twins) = pair(MAKERS["global"])
    for seed in range(3):
        same_gradients(params, twins, seed)
        opt.step()
        alone.step()
    same_gradients(params, twins, 7)
    opt.observe()
    params[0].grad = params[0].grad.to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        opt.step()
    clipped(twins, None)
    for p, twin in zip(params, twins, strict=True):
        p.grad = twin.grad.clone()
    twins_of_observed = copy.deepcopy((alone, twins))
    give_gradients(twins_of_observed[1], 7)
    twins_of_observed[0].step()
    opt.step()
    assert opt.hypergradients() == twins_of_observed[0].hypergradients()
    opt.observe()
    opt.zero_grad()
    before = everything(opt)
    opt.step()
    assert same_bits(everything(opt), before)


def test_hypergradients_that_are_not_finite_leave_the_coefficients_of_their_scope():
    params = parameters()
    opt = learning(params, "tensor")
    for seed in range(3):
        give_gradients(params, seed)
        opt.step()
    give_gradients(params, 3)
    params[0].grad[0, 0] = float("nan")
    opt.observe()
    give_gradients(params, 3)
    before, weights = opt.coefficients(), [p.detach().clone() for p in params]
    opt.step()
    after = opt.coefficients()
    assert after["0.0"] == before["0.0"]
    assert after["0.1"] != before["0.1"]
    assert not any(torch.equal(p, x) for p, x in zip(params, weights, strict=True) if p.numel())
    assert opt.skipped_steps == 0


@pytest.mark.parametrize("grad_scale", [math.ulp(0.0), torch.tensor(0.0)])
def test_a_scale_that_leaves_no_finite_number(grad_scale):
    (opt, params), _ = pair(MAKERS["hyperadam"])
    for seed in range(5):
        give_gradients(params, seed)
        before = opt.coefficients()
        if seed > 2:
            opt.observe(grad_scale)
        opt.step()
        assert seed < 2 or (opt.coefficients() == before) == (seed > 2)


def missing(params, which, seed):
    give_gradients(params, seed)
    for i in which:
        params[i].grad = None


def test_parameters_that_have_a_gradient_on_one_side_alone():
    """Of one set of coefficients, what was observed counts, of whatever parameters."""
    params = parameters()
    opt, twins = learning(params), None
    for seed in range(4):
        give_gradients(params, seed)
        opt.step()
    twin, twins = (x := copy.deepcopy((opt, params)))[0], x[1]
    missing(params, [0], 5)
    missing(twins, [0], 5)
    opt.observe()
    twin.step()
    missing(params, [1], 6)
    weights = [p.detach().clone() for p in params]
    opt.step()
    assert opt.hypergradients() == twin.hypergradients()
    assert opt.coefficients() == twin.coefficients()
    assert [torch.equal(p, x) for p, x in zip(params[:3], weights, strict=False)] == [False, True, False]


def test_scopes_that_have_a_gradient_on_one_side_alone_rest():
    params = parameters()
    opt = learning(params, "tensor")
    for seed in range(4):
        give_gradients(params, seed)
        opt.step()
    before, steps = opt.coefficients(), opt.param_groups[0]["applied_steps"].tolist()
    missing(params, [0], 5)
    opt.observe()
    missing(params, [1], 6)
    opt.step()
    after = opt.coefficients()
    assert [after[name] == x for name, x in before.items()] == [True, True, False, True]
    assert [a - b for a, b in zip(opt.param_groups[0]["applied_steps"].tolist(), steps, strict=True)] == [0, 0, 1, 1]
    give_gradients(params, 7)
    opt.step()
    assert all(opt.coefficients()[name] != x for name, x in after.items() if name != "0.3")


def test_no_state_is_begun():
    """A parameter that had no update yet has no hypergradient, and gets no state from an observation."""
    (opt, params), (alone, twins) = pair(MAKERS["global"])
    for seed in range(6):
        give_gradients(params, seed)
        missing(twins, [0], seed)
        opt.observe()  # also of the first parameter, which has had no step
        alone.observe()
        assert len(opt.state) == (len(params) - 1) * (seed > 0)
        assert opt.slots(params[0]) == {}
        missing(params, [0], 50 + seed)
        missing(twins, [0], 50 + seed)
        opt.step()
        alone.step()
        assert_equal(opt, alone)
    for seed in range(4):
        same_gradients(params, twins, seed)
        opt.observe()
        opt.step()
        alone.step()
        assert_equal(opt, alone)


def test_added_parameters_drop_it():
    for make in (MAKERS["global"], MAKERS["tensor"]):
        (opt, params), (alone, twins) = pair(make)
        new = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
        for seed in range(6):
            same_gradients(params, twins, 90 + seed)
            opt.observe()
            if seed == 3:
                opt.add_param_group({"params": new[:1]})
                alone.add_param_group({"params": new[1:]})
                params, twins = [*params, new[0]], [*twins, new[1]]
            same_gradients(params, twins, seed)
            if seed != 3:
                opt.observe()
            opt.step()
            alone.step()
            assert_equal(opt, alone)


def test_state_dicts_are_without_it_and_loading_drops_it():
    (opt, params), (alone, twins) = pair(MAKERS["global"])
    for seed in range(3):
        same_gradients(params, twins, seed)
        opt.step()
        alone.step()
    give_gradients(params, 50)
    saved = copy.deepcopy(opt.state_dict())
    opt.observe()
    pending = opt.state_dict()
    assert str(pending) == str(saved)
    same_gradients(params, twins, 4)
    with pytest.raises(ValueError, match="state dict"):
        opt.load_state_dict({**saved, "state": {0: {"step": 1.0}}})
    observed = copy.deepcopy((opt, params))
    give_gradients(observed[1], 4)
    opt.load_state_dict(pending)
    opt.step()
    alone.step()
    assert_equal(opt, alone)
    observed[0].step()
    assert observed[0].hypergradients() != opt.hypergradients()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_have_it(copied):
    (opt, params), _ = pair(MAKERS["tensor"])
    for seed in range(3):
        give_gradients(params, seed)
        opt.step()
    give_gradients(params, 50)
    opt.observe()
    twin, twins = copied((opt, params))
    same_gradients(params, twins, 4)
    opt.step()
    twin.step()
    assert_equal(opt, twin)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "gradients on": torch.enable_grad,
    "default dtype": lambda: default_dtype(torch.float64),
}


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("make", [MAKERS["global"], MAKERS["with matrices"]], ids=["global", "with matrices"])
def test_no_mode_matters(make):
    (opt, params), (alone, twins) = pair(make)
    for seed, mode in enumerate([*MODES.values()] * 2):
        same_gradients(params, twins, 50 + seed)
        with mode():
            opt.observe()
        alone.observe()
        same_gradients(params, twins, seed)
        opt.step()
        alone.step()
        assert_equal(opt, alone)


def test_torch_compile_leaves_it_as_it_is():
    (opt, params), (alone, twins) = pair(MAKERS["global"])

    @torch.compile(backend="eager")
    def iteration():
        opt.observe()
        for p in params:
            p.grad.mul_(0.5)
        opt.step()

    for seed in range(4):
        same_gradients(params, twins, seed)
        iteration()
        alone.observe()
        for p in twins:
            p.grad.mul_(0.5)
        alone.step()
        assert_equal(opt, alone)


def test_within_a_closure():
    (opt, params), (alone, twins) = pair(MAKERS["global"])

    def closure():
        opt.observe()
        clipped(params, None)
        return 1.0

    for seed in range(4):
        same_gradients(params, twins, seed)
        assert opt.step(closure) == 1.0
        alone.observe()
        clipped(twins, None)
        alone.step()
        assert_equal(opt, alone)


def test_hypergradients_are_computed_once(monkeypatch):
    calls = []
    computed, usable = reuse.StepWork.hypergradients, reuse.StepWork.usable

    def counted(name, function):
        def call(*arguments):
            calls.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(reuse.StepWork, "hypergradients", counted("hypergradients", computed))
    monkeypatch.setattr(reuse.StepWork, "usable", counted("usable", usable))
    (opt, params), _ = pair(MAKERS["global"])
    for seed in range(3):
        give_gradients(params, seed)
        opt.observe()
        assert calls.pop() == "hypergradients"
        opt.step()
        assert calls.pop() == "usable"
        give_gradients(params, seed)
        opt.step()
        assert calls.pop() == "hypergradients"
        assert not calls


def test_errors():
    params = parameters()
    give_gradients(params, 0)
    with pytest.raises(RuntimeError, match=r"MADA.observe: expected learned coefficients, got none; name them"):
        MADA(params, learn=()).observe()
    opt = learning(params)
    for wrong in (0.0, -1.0, float("nan"), float("inf"), "2", None, "big"):
        with pytest.raises(ValueError, match=r"grad_scale=.*: expected a number in .*scaler.get_scale"):
            opt.observe(wrong)
    with pytest.raises(ValueError, match=r"grad_scale: expected a number or a 0-d tensor, got .* \(2,\); pass"):
        opt.observe(torch.ones(2))
    for wrong in ("x", 1, object()):
        with pytest.raises(ValueError, match=r"group=.*: expected a process group .*; pass the group over"):
            opt.observe(group=wrong)
    opt.zero_grad()
    with pytest.raises(RuntimeError, match=r"MADA.observe: expected gradients, got None for every parameter; call it"):
        opt.observe()
    params[0].grad = torch.ones(3, 4).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        opt.observe()
