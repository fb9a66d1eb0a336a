"""Complex parameters, and parameters and gradients in every layout.

Catches: a layout that is read in the wrong order, a complex number moved as one.
"""

import pytest
import torch

from tests.torch_checks.infos import MODES, each_case, each_mode
from tests.torch_checks.problems import banana, give

#: Rounding in sums over elements that lie in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


def run_pair(opt, twin, shapes):
    """Both optimizers on the same gradients, for a few steps."""
    for step in range(4):
        for each in (opt, twin):
            give([p for group in each.param_groups for p in group["params"]], shapes, step)
            each.step()


@each_case
def test_complex_is_two_reals(case):
    """Bit for bit, beside a real parameter in the same optimizer; but shapes are others, which say where lr="auto"
    starts and what is a hidden matrix."""
    shapes = [(4, 3, 2), (5, 2), (4, 3)]
    real = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    mixed = [torch.nn.Parameter(torch.view_as_complex(p.detach().clone())) for p in real[:2]]
    mixed.append(torch.nn.Parameter(real[2].detach().clone()))
    takes_all = case.info.name in ("Muon", "NorMuon")  # every parameter is a matrix
    said = {} if takes_all else {"matrix": False}
    groups = [[{"params": params, **said}] for params in (mixed, real)]
    run_pair(*(case.make(group, lr=case.kwargs().get("lr", 1e-3)) for group in groups), shapes)
    for z, x in zip(mixed, real, strict=True):
        assert torch.equal(torch.view_as_real(z) if z.is_complex() else z, x)


@pytest.mark.parametrize("case", [case for case in MODES if case.info.name not in ("Muon", "NorMuon")], ids=str)
def test_complex_is_its_real_and_imaginary_parts(case):
    """As two parameters, with gradients by autograd through a complex function. Not under Muon, to which a parameter is
    one thing."""
    z = torch.nn.Parameter(torch.randn(2, dtype=torch.complex64))
    x, y = (torch.nn.Parameter(part.detach().clone()) for part in (z.real, z.imag))
    opt, twin = case.make([z]), case.make([x, y])
    for _ in range(3):
        opt.zero_grad()
        twin.zero_grad()
        banana(z).abs().backward()
        banana(torch.complex(x, y)).abs().backward()
        torch.testing.assert_close(z.grad, torch.complex(x.grad, y.grad))
        x.grad, y.grad = z.grad.real.clone(), z.grad.imag.clone()
        opt.step()
        twin.step()
        torch.testing.assert_close(z.detach(), torch.complex(x, y).detach(), **CLOSE)


LAYOUTS = {
    "transposed": lambda shape: torch.randn(*shape[::-1]).permute(*reversed(range(len(shape)))),
    "strided": lambda shape: torch.randn(*shape, 2)[..., 0],
    "channels last": lambda shape: torch.randn(shape).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@each_mode
def test_a_layout_moves_as_the_contiguous_one(case, layout):
    shape = (2, 3, 4, 2)
    p = torch.nn.Parameter(layout(shape))
    q = torch.nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format))
    before = p.detach().stride()
    opt = case.make([p])
    run_pair(opt, case.make([q]), [shape])
    assert not p.is_contiguous()
    assert p.stride() == before
    torch.testing.assert_close(p.detach(), q.detach(), **CLOSE)


GRADIENTS = {
    "expanded": lambda shape: torch.randn(1, shape[1]).expand(shape),
    "one number": lambda shape: torch.randn(()).expand(shape),
    "transposed": lambda shape: torch.randn(shape[::-1]).T,
}


@pytest.mark.parametrize("make", GRADIENTS.values(), ids=GRADIENTS)
@each_mode
def test_a_gradient_of_another_layout_than_its_parameter(case, make):
    p, q = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    opt, twin = case.make([p]), case.make([q])
    for _ in range(4):
        p.grad = make((3, 4))
        q.grad = p.grad.contiguous()
        assert not p.grad.is_contiguous()
        opt.step()
        twin.step()
    torch.testing.assert_close(p.detach(), q.detach(), **CLOSE)
