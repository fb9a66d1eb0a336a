"""A step in a CUDA graph, shown on the CPU: its operations are recorded, and played again on the same memory.

Catches: a number of the host that a graph would keep, memory that a replay doesn't see, state that a replay makes anew.
The engine is the reference; the loops of the CPU are never captured, and Triton's kernels need a GPU (tests/gpu).
"""

import copy
import itertools

import pytest
import torch

from mada_optim import MADA, AutoMuon, HyperAdam, HyperSGD, HyperTorch, LearnedLR, modes
from mada_optim.engines.numbers import scalar
from mada_optim.engines.triton.engine import DeviceTables
from tests.engine.recording import Recording
from tests.problems import MIDWAY, everything, same_bits
from tests.torch_checks.infos import each_info

SHAPES = [(8, 6), (6, 6), (6,), ()]
LEARN = {
    "six": HyperSGD("all", start=0, lr=1e-2, momentum=0.5),
    "lr": LearnedLR(start=1),
    "several": [LearnedLR(start=1), HyperSGD("all", start=0, scope="tensor")],
    "tower": HyperTorch("all", start=0, make=lambda leaves: HyperAdam(leaves, lr=1e-2, engine="eager")),
}


@pytest.fixture
def captured(monkeypatch):
    """The code takes the way of a capture."""
    monkeypatch.setattr(modes, "capturing", lambda _: True)


def optimizer(cls=MADA, **options):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    for p in params:
        p.grad = torch.zeros_like(p)
    return cls(params, **{"lr": torch.tensor(0.1), "engine": "eager", **options})


def params_of(opt):
    return [p for group in opt.param_groups for p in group["params"]]


def give(opt, seed, bad=False):
    """New gradients in the memory of the old ones, and the lr of a schedule."""
    generator = torch.Generator().manual_seed(seed)
    for p in params_of(opt):
        p.grad.copy_(torch.randn(p.shape, generator=generator))
    if bad:
        params_of(opt)[0].grad[2, 3] = float("nan")
    opt.param_groups[0]["lr"].fill_(0.1 / (1 + seed))


def step(opt, seed):
    give(opt, seed)
    opt.step()


def recorded(opt, seed):
    """The operations of a step, in the way of a capture."""
    give(opt, seed)
    with Recording() as recording, pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "capturing", lambda _: True)
        opt.step()
    return recording


def assert_replays_are_steps(cls=MADA, **options):
    ours, plain = (optimizer(cls, **options) for _ in range(2))
    for opt, seed in itertools.product((ours, plain), range(3)):
        step(opt, seed)
    recording = recorded(ours, 3)
    step(plain, 3)
    for seed in range(4, 10):
        for opt in (ours, plain):
            give(opt, seed, bad=seed == 6)
        recording.replay()
        plain.step()
        assert same_bits(everything(ours), everything(plain)), seed
    assert ours.hypergradients() == plain.hypergradients()
    assert (ours.skipped_steps, plain.skipped_steps) == (1, 1)


@pytest.mark.parametrize("learn", LEARN.values(), ids=LEARN)
def test_replays_are_the_steps_bit_for_bit(learn):
    """With another lr in each, and a gradient that is not finite in one."""
    assert_replays_are_steps(learn=learn, weight_decay=0.1, **MIDWAY)


@each_info
def test_every_optimizer_can_be_replayed(info):
    assert_replays_are_steps(info.optim_cls)


@each_info
def test_no_later_step_differs_in_its_operations_or_their_constants(info):
    """So a graph of one is a graph of each."""
    opt = optimizer(info.optim_cls)
    step(opt, 0)
    second, _, later = (recorded(opt, seed) for seed in range(1, 4))
    assert second.constants() == later.constants()


def test_a_number_is_a_constant_of_the_graph():
    """Which the test above would see: an lr that is no tensor."""
    opt = optimizer()
    step(opt, 0)
    recordings = []
    for lr in (0.1, 0.2):
        opt.param_groups[0]["lr"] = lr
        with Recording() as recording:
            opt.step()
        recordings.append(recording.constants())
    assert recordings[0] != recordings[1]


def test_a_capture_without_a_step_before_is_refused(captured):
    """Each replay would make the state anew."""
    opt = optimizer()
    with pytest.raises(RuntimeError, match="step once before"):
        opt.step()
    assert not any(opt.state.values())


def test_a_capture_after_loading_needs_a_step_for_its_counts(captured, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(modes, "capturing", lambda _: False)
        opt = optimizer()
        opt.step()
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    with pytest.raises(RuntimeError, match="step once before"):
        opt.step()


def test_a_coefficient_set_anew_in_a_capture_is_refused():
    opt = optimizer(learn=LEARN["six"])
    step(opt, 0)
    opt.param_groups[0]["beta1"] = 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "capturing", lambda _: True)
        with pytest.raises(RuntimeError, match="'beta1' in a parameter group was set anew"):
            opt.step()
    opt.step()
    opt.step()


def test_a_number_on_the_cpu_is_sent_without_waiting_and_refused_in_a_capture():
    x, device = torch.tensor(0.1), torch.device("meta")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", None)
        assert scalar(x, device).device == device
        patch.setattr(modes, "capturing", lambda _: True)
        with pytest.raises(RuntimeError, match="got a tensor on the CPU"):
            scalar(x, device)


def test_a_table_that_is_sent_in_a_capture_is_not_used_outside_of_it():
    """It has no numbers before the first replay."""
    tables = DeviceTables(torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "capturing", lambda _: True)
        in_graph = tables.get("rows", [(1, 2)], torch.int64)
    outside = tables.get("rows", [(1, 2)], torch.int64)
    assert outside is not in_graph
    assert tables.get("rows", [(1, 2)], torch.int64) is outside


def test_muon_with_a_learned_lr_can_be_replayed():
    assert_replays_are_steps(AutoMuon, learn=LearnedLR(start=1), weight_decay=0.1)
