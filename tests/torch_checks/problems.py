"""Two tiny problems with a known way down, and a comparison of whatever a state dict may hold."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.torch_checks.schedules import advance


@dataclass
class Problem:
    """Parameters, and the loss that they are to lower."""

    params: list[torch.nn.Parameter]
    loss: Callable[..., Tensor]

    def value(self):
        with torch.no_grad():
            return self.loss(*self.params).item()

    def backward(self, opt):
        opt.zero_grad()
        loss = self.loss(*self.params)
        loss.backward()
        return loss

    def train(self, opt, steps, schedulers=()):
        for _ in range(steps):
            loss = self.backward(opt)
            opt.step()
            for scheduler in schedulers:
                advance(scheduler, loss.detach())

    def named(self):
        return [(f"name{i}", p) for i, p in enumerate(self.params)]

    def twin(self):
        """The same problem with parameters of its own."""
        return copy.deepcopy(self)


def least_squares(contiguous=True, dtype=torch.float32):
    """|| weight x + bias ||^2: curvature below 5, so that gradient descent at any usual lr converges."""
    weight, bias = torch.randn(4, 3, 2, dtype=dtype)[..., 0], torch.randn(4, 2, dtype=dtype)[..., 0]
    if contiguous:
        weight, bias = weight.contiguous(), bias.contiguous()
    x = torch.tensor([0.6, -0.8, 0.7], dtype=dtype)
    params = [torch.nn.Parameter(weight), torch.nn.Parameter(bias)]
    assert all(p.is_contiguous() == contiguous for p in params)
    return Problem(params, lambda w, b: (w.mv(x) + b).pow(2).sum())


def banana(point):
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rosenbrock():
    return Problem([torch.nn.Parameter(torch.tensor([1.5, 1.5]))], banana)


def alike(x, y):
    """Whether two nests of dicts, lists, tensors and plain values are the same, tensors bit for bit."""
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(alike(x[key], y[key]) for key in x)
    if isinstance(x, list | tuple):
        return len(x) == len(y) and all(map(alike, x, y))
    if isinstance(x, Tensor):
        return isinstance(y, Tensor) and x.dtype == y.dtype and torch.equal(x, y)
    return type(x) is type(y) and x == y


def give(params, shapes, step):
    """Gradients that `step`, the place in the list and the shape decide, whatever dtype and layout a parameter has.

    A complex parameter takes the last dimension of its shape as the two parts.
    """
    for i, (p, shape) in enumerate(zip(params, shapes, strict=True)):
        g = torch.randn(shape, generator=torch.Generator().manual_seed(100 * step + i), dtype=torch.float64)
        p.grad = torch.empty_like(p).copy_(torch.view_as_complex(g) if p.is_complex() else g)
