"""What a step computes doesn't depend on the modes of torch that the script is in, bit for bit, for every preset.

Catches: products that autocast rounds, state that inference mode makes unwritable, a VJP that needs gradients to be on,
errors that only anomaly detection or deterministic algorithms raise, casts of weights that autocast has kept.
"""

import contextlib
import copy

import pytest
import torch

from mada_optim import MADA, AutoMuon
from tests.problems import everything, same_bits
from tests.torch_checks.infos import LEARNING, each_info
from tests.torch_checks.problems import give

#: Embedding, matrices that are wide, tall and nearly square, which take different products, a bias, and the head.
SHAPES = {
    "wte.weight": (20, 6),
    "a.weight": (6, 40),
    "b.weight": (40, 6),
    "c.weight": (9, 8),
    "c.bias": (9,),
    "head.weight": (5, 8),
}


@contextlib.contextmanager
def setting(read, write, value):
    """One of torch's global settings, for a while."""
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


@contextlib.contextmanager
def deterministic():
    with setting(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True):
        yield


@contextlib.contextmanager
def checking():
    """Anomaly detection, whose own warning is that it is on."""
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        yield


class Passing(torch.overrides.TorchFunctionMode):
    """A mode that sees every function and changes none."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


MODES = {
    "autocast to bf16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to fp16": lambda: torch.autocast("cpu", torch.float16),
    "gradients on": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "deterministic algorithms": deterministic,
    "anomaly detection": checking,
    "saved tensors kept elsewhere": torch.autograd.graph.save_on_cpu,
    "default dtype fp64": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default dtype bf16": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "a function mode": Passing,
}


def parameters(dtype=torch.float32):
    torch.manual_seed(0)
    return [(name, torch.nn.Parameter(torch.randn(shape).to(dtype))) for name, shape in SHAPES.items()]


def steps(opt, seeds, mode=contextlib.nullcontext):
    params = [p for group in opt.param_groups for p in group["params"]]
    for seed in seeds:
        give(params, SHAPES.values(), seed)
        with mode():
            opt.step()


def assert_no_mode_matters(make):
    """Steps in one mode after the other, and steps in none after each, against a twin's that are all in none."""
    opt, twin = make(), make()
    for i, (name, mode) in enumerate(MODES.items()):
        steps(opt, (2 * i,), mode)
        steps(opt, (2 * i + 1,))
        steps(twin, (2 * i, 2 * i + 1))
        assert same_bits(everything(opt), everything(twin)), name


@pytest.mark.parametrize("options", [{}, LEARNING, {"learn": ()}], ids=["default", "learning", "plain"])
@each_info
def test_a_step_is_the_same_in_every_mode(info, options):
    assert_no_mode_matters(lambda: info.optim_cls(parameters(), **options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{}, {**LEARNING, "omega": 0.5}], ids=["default", "learning"])
def test_a_step_of_other_dtypes_is_the_same_in_every_mode(dtype, options):
    assert_no_mode_matters(lambda: AutoMuon(parameters(dtype), **options))


@pytest.mark.parametrize("mode", MODES)
def test_an_optimizer_made_saved_and_loaded_in_a_mode_goes_on_outside(mode):
    params, twins = parameters(), parameters()
    with MODES[mode]():
        opt = MADA(params[:-1], **LEARNING)
        opt.add_param_group({"params": params[-1:]})
    twin = MADA(twins[:-1], **LEARNING)
    twin.add_param_group({"params": twins[-1:]})
    for one in (opt, twin):
        steps(one, range(3))
    with MODES[mode]():
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))
        slots = opt.slots(params[1][1])
        assert opt.skipped_steps == 0
    steps(opt, range(3, 6))
    steps(twin, range(3, 6))
    assert same_bits(everything(opt), everything(twin))
    assert all(not x.requires_grad for x in slots.values())


def test_autocast_forgets_casts_of_weights_that_a_step_has_moved():
    """A whole loop under one autocast: the next forward pass sees the weights as the step has left them."""
    p = torch.nn.Parameter(torch.ones(4, 4))
    opt, x = MADA([p], lr=0.5, learn=()), torch.eye(4)
    p.grad = torch.ones(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = x @ p
        opt.step()
        after = x @ p
    assert torch.equal(before.float(), torch.ones(4, 4))
    torch.testing.assert_close(after.float(), torch.full((4, 4), 0.5), rtol=0, atol=1e-2)


def test_the_closure_stays_in_the_modes_of_the_script():
    """Its loss is the user's; gradients are on for it."""
    p = torch.nn.Parameter(torch.ones(2, 2))
    seen = []

    def closure():
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        p.grad = torch.ones(2, 2)
        return 1.0

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert MADA([p]).step(closure) == 1.0
    assert seen == [(True, True)]
