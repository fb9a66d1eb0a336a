"""Makes results independent of the caller's modes of torch: autocast, inference mode, anomaly detection, capture."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

#: The types of devices that autocast may be on for.
AUTOCAST = tuple(x for x in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(x))
#: The settings with which torch doesn't round the factors of products in fp32.
EXACT = ("none", "ieee")

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def neutral() -> Iterator[None]:
    """Turns off gradients, inference mode, autocast and anomaly detection, as a context or a decorator.

    Inference mode would make tensors that no later step can write to. Anomaly detection would raise an error for a
    hypergradient that is not finite, which must only keep its coefficients.
    """
    with ExitStack() as modes:
        _leave_autocast(modes)
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        if torch.is_anomaly_enabled():
            modes.enter_context(torch.autograd.set_detect_anomaly(False))
        modes.enter_context(torch.no_grad())  # last: the end of inference mode enables gradients
        yield


@contextmanager
def without_autocast() -> Iterator[None]:
    """Computes products in the dtypes of their factors."""
    with ExitStack() as modes:
        _leave_autocast(modes)
        yield


def _leave_autocast(modes: ExitStack) -> None:
    for device_type in filter(torch.is_autocast_enabled, AUTOCAST):
        modes.callback(torch.clear_autocast_cache)  # it has casts of weights, which a step moves
        modes.enter_context(torch.autocast(device_type, enabled=False))


def products_are_exact(x: Tensor) -> bool:
    """Whether products of matrices like `x` are computed in its dtype, fp32 or fp64.

    `torch.set_float32_matmul_precision`, and the options of `torch.backends`, let torch round factors in fp32.
    """
    if x.dtype is not torch.float32:
        return x.dtype is torch.float64
    backend = torch.backends.cuda if x.is_cuda else torch.backends.mkldnn
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None)  # since torch 2.9
    return torch.get_float32_matmul_precision() == "highest" if precision is None else precision in EXACT


def capturing(device: torch.device) -> bool:
    """Whether work on `device` is captured in a CUDA graph now, which runs it later, again and again."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def refuse_capture(device: torch.device, fault: str) -> None:
    """Refuses (RuntimeError) what each replay of a CUDA graph would do again, or could not do."""
    if capturing(device):
        raise RuntimeError(f"a step in the capture of a CUDA graph: {fault}")


def opaque(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, called by torch.compile without tracing it.

    Importing torch.compile is slow, so it is told at the first call.
    """
    hidden: list[Callable[P, R]] = []

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not hidden:
            hidden.append(torch.compiler.disable(function))
        return hidden[0](*args, **kwargs)

    return call
