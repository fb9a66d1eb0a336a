"""Chooses the kernel for each form that a rule takes in the groups."""

from dataclasses import replace

import torch

from mada_optim.checks import ENGINES
from mada_optim.engines import choice
from mada_optim.engines.eager import Eager
from mada_optim.engines.program import Program
from mada_optim.engines.protocol import Kernel
from mada_optim.engines.shared_eager import SharedEager
from mada_optim.graph.specialize import Corners
from mada_optim.sharding.replicated import Sharing


class Dispatcher:
    """The kernels of one optimizer, for the engine that the user requested.

    `sharing` has the processes that divide matrices among them, or is None.
    """

    def __init__(self, requested: str, program: Program, sharing: Sharing | None = None) -> None:
        self._requested, self._program, self._sharing = requested, program, sharing
        #: The kernel of what no other engine takes.
        self.eager = Eager() if sharing is None else SharedEager(sharing)
        self._prepared: dict[Corners, tuple[Program, Kernel]] = {}
        #: Whether a kernel keeps addresses of tensors in states.
        self.keeps_addresses = False
        #: Why tensors run on the eager engine: a reason for each form of the rule that has no other.
        self.reasons: list[str] = []

    def prepare(self, fixed: Corners, device: torch.device) -> tuple[Program, Kernel]:
        """The program with these coefficients fixed, and its kernel. Raises ValueError if the engine can't run it."""
        if fixed not in self._prepared:
            program = replace(self._program, fixed=fixed, device=device)
            kernel = self._chosen(program)
            self._prepared[fixed] = program, kernel
            self.keeps_addresses |= kernel.name in ("triton", "cpu")
        return self._prepared[fixed]

    def _chosen(self, program: Program) -> Kernel:
        if self._requested == "eager":
            return self.eager
        try:
            return choice.choose(self._requested, program, self._sharing)
        except choice.NoKernelError as error:
            if self._requested != "auto":
                raise ValueError(f"engine={self._requested!r}: {error}; leave it at 'auto'") from error
            self.reasons.append(str(error))
            return self.eager

    @property
    def kernels(self) -> list[Kernel]:
        return [kernel for _, kernel in self._prepared.values()]

    @property
    def engine(self) -> str:
        """Name of the fastest engine in use."""
        names = {kernel.name for kernel in self.kernels}
        return next((name for name in ENGINES if name in names), "eager")

    def forget(self) -> None:
        """Makes the kernels drop all addresses."""
        for kernel in self.kernels:
            kernel.forget_others([], [])
