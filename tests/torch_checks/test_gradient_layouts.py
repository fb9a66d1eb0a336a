"""A gradient moves a parameter by its numbers, however memory holds them.

Catches: loops that read memory whose numbers torch negates, conjugates or makes on reading, one number that stands for
many, numbers that overlap, and a tensor in the midst of another's memory.
"""

import copy

import pytest
import torch

from tests.problems import everything, same_bits
from tests.torch_checks.infos import MODES

#: What a layout meets is the same for all rules: two without matrices, one with them, one of signs.
CASES = [case for case in MODES if case.info.name in ("Adam", "MADA", "AutoMuon", "Lion")]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
SHAPES = [(), (1,), (4,), (1, 1), (4, 6), (2, 3, 4)]


def imaginary_parts(g):
    """With the lazy negative bit, as autograd gives them of what is under a complex conjugate."""
    x = torch.complex(torch.zeros_like(g), -g).conj().imag
    assert x.is_neg()
    return x


def one_for_all(g):
    return g.flatten()[:1].clone().reshape([1] * g.ndim).expand(g.shape)


def overlapping(g):
    """Rows that begin where the one before has its second number."""
    return torch.cat([g.flatten(), g.flatten()]).as_strided(g.shape, [1] * g.ndim)


def inside(g):
    """A part of a larger tensor, as a bucket of gradients has it."""
    bucket = torch.full((g.numel() + 7,), torch.nan)
    bucket[3 : 3 + g.numel()] = g.flatten()
    return bucket[3 : 3 + g.numel()].view(g.shape)


def every_second(g):
    x = torch.full((*g.shape, 2), torch.nan)
    x[..., 0] = g
    return x[..., 0]


def reversed_dimensions(g):
    order = list(reversed(range(g.ndim)))
    return g.permute(order).contiguous().permute(order)


def lazy_zeros(g):
    """Zeros that have no memory, as autograd makes them for what nothing depends on."""
    return torch._efficientzerotensor(g.shape)


LAYOUTS = [imaginary_parts, one_for_all, overlapping, inside, every_second, reversed_dimensions, lazy_zeros]


@pytest.mark.parametrize("layout", LAYOUTS)
@each_case
def test_a_gradient_counts_by_its_numbers(case, layout):
    """Steps with it, after steps with a plain one, against steps with its copy."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    opt = case.make(params)
    twin = copy.deepcopy(opt)
    twins = twin.param_groups[0]["params"]
    for seed in range(6):
        torch.manual_seed(seed)
        for p, q in zip(params, twins, strict=True):
            g = torch.randn(p.shape)
            p.grad = layout(g) if seed > 2 else g
            q.grad = torch.zeros(p.shape) + p.grad  # numbers of its own
        opt.step()
        twin.step()
        for x, y in zip(everything(opt), everything(twin), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)


@each_case
def test_a_complex_gradient_may_be_conjugated_lazily(case):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.complex64)) for shape in SHAPES]
    opt = case.make(params)
    twin = copy.deepcopy(opt)
    for seed in range(6):
        torch.manual_seed(seed)
        for p, q in zip(params, twin.param_groups[0]["params"], strict=True):
            p.grad = torch.randn_like(p).conj()
            assert p.grad.is_conj()
            q.grad = p.grad.resolve_conj()
        opt.step()
        twin.step()
    assert same_bits(everything(opt), everything(twin))


@each_case
def test_parameters_may_share_a_gradient(case):
    """One tensor is the gradient of two, and is left as it is."""
    params, twins = ([torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.full((3, 4), 2.0))] for _ in "ab")
    opt, twin = case.make(params), case.make(twins)
    for seed in range(4):
        g = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        before = g.clone()
        for p, q in zip(params, twins, strict=True):
            p.grad, q.grad = g, g.clone()
        opt.step()
        twin.step()
        assert torch.equal(g, before)
    assert same_bits(everything(opt), everything(twin))


@each_case
def test_a_parameter_may_be_its_own_gradient(case):
    """The gradient of |p|^2 / 2, without a copy: it is what it was before the step moved it."""
    torch.manual_seed(0)
    p, q = (torch.nn.Parameter(torch.arange(1.0, 13.0).reshape(3, 4)) for _ in "ab")
    opt, twin = case.make([p]), case.make([q])
    for _ in range(5):
        p.grad, q.grad = p.detach(), q.detach().clone()
        opt.step()
        twin.step()
    for x, y in zip(everything(opt), everything(twin), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)
