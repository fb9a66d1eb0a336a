"""The numbers that a parameter group sets, as 0-d tensors, and as rows of doubles for the loops and tiles."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mada_optim import modes
from mada_optim.engines.program import CPU, Program
from mada_optim.graph.specialize import is_corner
from mada_optim.matrices.hidden_matrices import LR_RATIO
from mada_optim.rule import LR, option_key

LOG_LR = option_key(LR.name)


def scalar_dtype(device: torch.device) -> torch.dtype:
    """The dtype of coefficients and of scalars per tensor: fp64, and fp32 on MPS, which has no fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


def scalar(x: float | Tensor, device: torch.device) -> Tensor:
    """`x` as a 0-d tensor on `device`, in the dtype of coefficients."""
    if isinstance(x, Tensor):
        if x.ndim == 0 and x.dtype is torch.float64 and x.device == device:  # the usual case, for speed
            return x
        if not x.is_cpu or device.type == "cpu":
            return x.to(device, scalar_dtype(device)).reshape(())
        modes.refuse_capture(device, f"expected numbers of groups on {device}, got a tensor on the CPU; move it there")
        x = float(x)  # a copy of the tensor would make the host wait for the device
    return torch.full((), x, dtype=scalar_dtype(device), device=device)


def scheduled_lr(options: Mapping[str, Any]) -> Any:
    """The `lr` that was set or scheduled, times the ratio for hidden matrices."""
    ratio = options.get(LR_RATIO, 1.0)
    return options["lr"] if ratio == 1.0 else ratio * options["lr"]


def learning_rate(options: Mapping[str, Any], device: torch.device) -> Tensor:
    """The learning rate of a tensor, 0-d on `device`: the scheduled one times the learned factor.

    Learning doesn't raise it beyond 1 / weight_decay, where weight decay would turn into growth.
    """
    lr, learned = scalar(scheduled_lr(options), device), options.get(LOG_LR)
    if learned is None:
        return lr
    alpha, decay = lr * scalar(learned, device).exp(), options["weight_decay"]
    return torch.minimum(alpha, lr.clamp(min=1 / decay)) if decay else alpha


def settle(group: dict[str, Any], program: Program, device: torch.device) -> None:
    """Makes coefficients that are not learned plain numbers if they are 0 or 1, which `specialize` reads, else 0-d.

    An eps of 0 becomes the smallest normal number, so that an element without a gradient moves by 0, not 0/0.
    """
    if "eps" in program.rule.hyper_parameters:
        group["eps"] = max(float(group["eps"]), torch.finfo(torch.float32).tiny)
    for name in set(program.coefficients) - set(program.learned):
        value = float(group[name])
        group[name] = value if is_corner(value) else scalar(value, device)


class GroupNumbers:
    """Learning rate, coefficients, weight decay, horizon and hyper-parameters: a row of doubles for each group.

    Tensors that share an `options` object share a row. Torch operations are avoided: each takes longer than all of
    this.
    """

    def __init__(self, program: Program, options: Sequence[Mapping[str, Any]]) -> None:
        ids = list(map(id, options))
        groups = dict(zip(ids, options, strict=True))
        place = {key: i for i, key in enumerate(groups)}
        #: The row of each tensor.
        self.rows = [place[key] for key in ids]
        self._groups = list(groups.values())
        self._coefficients = program.coefficients
        self._settings = ("weight_decay", "horizon", *program.rule.hyper_parameters)
        self._width = 1 + len(self._coefficients) + len(self._settings)
        self._values = (ctypes.c_double * (len(self._groups) * self._width))()

    def addresses(self) -> list[int]:
        first, width = ctypes.addressof(self._values), ctypes.sizeof(ctypes.c_double) * self._width
        return [first + row * width for row in self.rows]

    def read_settings(self) -> None:
        """Reads the numbers that aren't learned: weight decay, horizon and hyper-parameters."""
        for i, group in enumerate(self._groups, start=1):
            self._values[i * self._width - len(self._settings) : i * self._width] = _read(group, self._settings)

    def read_all(self) -> None:
        """Reads the settings, learning rates and coefficients."""
        self.read_settings()
        for i, group in enumerate(self._groups):
            lr = number(scheduled_lr(group) if group.get(LOG_LR) is None else learning_rate(group, CPU))
            now: list[ctypes.c_double | float] = [lr, *_read(group, self._coefficients)]
            self._values[i * self._width : i * self._width + len(now)] = now

    def matrix(self) -> Tensor:
        """The rows as a tensor that shares their memory."""
        return torch.frombuffer(self._values, dtype=torch.float64).view(len(self._groups), -1)


def _read(group: Mapping[str, Any], names: Sequence[str]) -> list[ctypes.c_double | float]:
    return [number(group[name]) for name in names]


def number(x: float | Tensor) -> float:
    """A number of a group in double precision; a tensor's is read from its memory."""
    if not isinstance(x, Tensor):
        return float(x)
    held = scalar(x, CPU).resolve_neg()
    return ctypes.c_double.from_address(held.data_ptr()).value
