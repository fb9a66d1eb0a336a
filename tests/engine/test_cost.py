"""What a step may cost: no graph kept, no value read on the host, the slots that the rule declares and no more.

Catches: a hypergradient whose graph outlives the step, an `.item()` or an `if` on a tensor, an undeclared buffer.
"""

import gc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mada_optim import HyperOptimizer, HyperSGD, LearnedLR
from mada_optim.rules import RULES
from tests.problems import give_gradients, learning, parameters, train
from tests.representatives import RULES_ON_EVERY_ENGINE


def live_tensors():
    gc.collect()
    tensors = [x for x in gc.get_objects() if isinstance(x, torch.Tensor)]
    return len(tensors), sum(x.numel() for x in tensors)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the collector touches torch's deprecated attributes
@pytest.mark.parametrize("engine", ["auto", "tiled", "eager"])
def test_memory_is_constant_over_100_steps(engine):
    params = parameters()
    opt = learning(params, engine=engine)
    train(opt, params, range(5))
    before = live_tensors()
    for _ in range(100):
        opt.step()
    assert all(now <= then for now, then in zip(live_tensors(), before, strict=True))


def test_nothing_that_is_kept_has_a_graph():
    params = parameters()
    opt = learning(params)
    train(opt, params, range(3))
    kept = [x for state in opt.state.values() for x in state.values()]
    kept += [x for group in opt.param_groups for x in group.values() if isinstance(x, torch.Tensor)]
    assert len(kept) > 30
    assert not any(x.requires_grad or x.grad_fn is not None for x in kept)


class NoHostReads(TorchDispatchMode):
    """Refuses values read on the host, and indices sent from there: on CUDA the host would wait for either."""

    def __init__(self, indices=True):
        super().__init__()
        self.indices = indices

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a step read a tensor's value on the host"
        assert not self.indices or func is not torch.ops.aten.index.Tensor, "a step sent an index from the host"
        return func(*args, **(kwargs or {}))


LEARN = {
    "all": HyperSGD("all", start=0),
    "lr": LearnedLR(start=1),
    "several": [LearnedLR(start=1), HyperSGD("all", start=0, momentum=0.5, scope="tensor")],
    "none": (),
}


#: The eager engine runs a rule's own function; the others run what was made of it, whatever the rule.
ON_ENGINES = [(rule, "eager") for rule in RULES]
ON_ENGINES += [(rule, engine) for rule in RULES_ON_EVERY_ENGINE for engine in ("auto", "tiled")]


@pytest.mark.parametrize("learn", LEARN.values(), ids=LEARN)
@pytest.mark.parametrize(("rule", "engine"), ON_ENGINES)
def test_a_step_reads_nothing_on_the_host(rule, learn, engine):
    params = parameters()
    opt = HyperOptimizer(params, rule=rule, learn=learn, weight_decay=0.1, engine=engine)
    for seed in range(3):
        give_gradients(params, seed)
        with NoHostReads(indices=engine != "tiled"):  # which runs on the CPU alone
            opt.step()


def test_the_detector_of_host_reads_detects():
    with pytest.raises(AssertionError, match="on the host"), NoHostReads():
        torch.ones(()).item()
    with pytest.raises(AssertionError, match="an index from the host"), NoHostReads():
        torch.ones(2, 3)[:, [0, 2]]


@pytest.mark.parametrize("learn", ["all", ()])
@pytest.mark.parametrize("rule", RULES)
def test_slots_allocated_are_slots_declared(rule, learn):
    """With coefficients between the corners, where each has its part."""
    p = torch.nn.Parameter(torch.randn(6, 7))
    inside = {q.name: 0.9 for q in RULES[rule].coefficients}
    opt = HyperOptimizer([{"params": [p], "matrix": True}], rule=rule, learn=learn, **inside)
    train(opt, [p], range(2))
    per_element = [name for name, x in opt.state[p].items() if x.shape == p.shape]
    declared = [x.name for x in RULES[rule].slots if x.per_element]
    rows = [x.name for x in RULES[rule].slots if x.per_row]
    assert per_element == declared + (["gradient"] if opt.learned else [])
    assert all(opt.state[p][name].shape == (6,) for name in rows)
    assert all(opt.state[p][name].ndim == 0 for name in opt.state[p] if name not in [*per_element, *rows, "applied"])
