"""One step, in order: the tensors, the hypergradients, the learned coefficients, the weights; and a count of steps."""

import warnings
from collections.abc import Callable, MutableMapping
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mada_optim import checks, modes
from mada_optim.engines.numbers import scalar
from mada_optim.engines.program import CPU, Program
from mada_optim.learning.banks import Banks
from mada_optim.learning.observation import Observation
from mada_optim.sharding import dtensors
from mada_optim.sharding.replicated import Sharing
from mada_optim.stepping.collect import FIRST_STEP, Group, State, StepCollector
from mada_optim.stepping.dispatch import Dispatcher
from mada_optim.stepping.reuse import StepReuse

States = MutableMapping[Tensor, State]

#: Verdicts that are collected before they are counted together: appending to a list is cheaper than an addition.
PENDING = 100
#: Steps after which a warning says that all were skipped; a scaled loss may overflow in the first ones.
STEPS_BEFORE_WARNING = 3


class Stepper:
    """Makes the steps of one optimizer.

    `owner` is the optimizer's name, for messages. `program` has nothing fixed. `settle_keys` checks and translates the
    keys of groups that have changed. `taken` is called with groups that were added, loaded or copied. `reduce_group` is
    the process group over which parameters are sharded by hand, and `share_matrices` that whose processes share the
    work of matrices.
    """

    def __init__(
        self,
        owner: str,
        program: Program,
        engine: str,
        banks: Banks,
        settle_keys: Callable[[list[Group]], None],
        taken: Callable[[list[Group]], None],
        reduce_group: Any = None,
        share_matrices: Any = None,
    ) -> None:
        self._owner, self._learned, self._banks = owner, program.learned, banks
        self._settle_keys, self._reduce_group, self._taken = settle_keys, reduce_group, taken
        self._sharing = None if share_matrices is None else Sharing(share_matrices)
        self.dispatcher = Dispatcher(engine, program, self._sharing)
        self._collector = StepCollector(
            owner, program, banks, self.dispatcher, settle_keys, is_summed=reduce_group is not None
        )
        self._rows = banks.rows
        self._tensors = StepReuse(self._collector, self.dispatcher)
        self._has_compared = False  # whether plain parameters beside sharded ones have equal gradients

    def home(self, groups: list[Group]) -> torch.device:
        """The device of the learned coefficients, or else of the first parameter."""
        params = (p for group in groups for p in group["params"])
        return next((x.device for x in chain(self._banks.columns().values(), params)), CPU)

    def take(self, groups: list[Group]) -> None:
        """Remembers groups that were loaded or copied."""
        self._rows = self._banks.rows
        self._collector.take(groups)
        self._taken(groups)

    def add(self, groups: list[Group]) -> None:
        """Remembers a new group, the last one, and chooses its kernels. Raises ValueError if there is none."""
        self.take(groups)
        self._collector.prepare_kernels(groups[-1], self.home(groups))

    def follow(self, groups: list[Group]) -> None:
        """Applies a user's changes of values in groups, unless parameters were changed by hand too."""
        if self._collector.has_members(groups):
            self._tensors.follow(groups)
        else:
            self._settle_keys(groups)

    def step(self, groups: list[Group], states: States, observed: Observation | None) -> Tensor | None:
        """Makes one step; returns whether it was applied, 0-d, or None if no parameter has a gradient.

        `observed` has hypergradients to use instead of those of the present gradients.
        """
        work, home = self._tensors.work(groups, states), self.home(groups)
        agreed = None if self._sharing is None else self._agreed(self._sharing, groups, home)
        if not self._has_compared:
            dtensors.require_replicas((p for group in groups for p in group["params"]), self._tensors.reduction)
            self._has_compared = True
        if not work.scopes and self._reduce_group is None:
            return None
        if observed is None:
            finite, h = self._summed(*work.hypergradients(self._rows, len(self._learned), home))
        else:
            finite, _ = self._summed(work.usable(home), observed.h[:0])  # the observed ones have been summed
            h = observed.h
        finite = finite if agreed is None else finite & agreed
        if self._learned:
            counts = finite & self._active(work.scopes, home)
            counts = counts if observed is None else counts & observed.seen
            self._banks.step(h, counts, lambda: [scalar(group["lr"], home) for group in groups])
        work.advance(finite)
        return finite

    def observe(
        self, groups: list[Group], states: States, grad_scale: float | Tensor, process_group: Any
    ) -> Observation:
        """The hypergradients of the present gradients (`HyperOptimizer.observe`)."""
        if not self._learned:
            raise RuntimeError(
                f"{self._owner}.observe: expected learned coefficients, got none; name them in `learn`, or "
                "leave the call out where opt.learned is empty"
            )
        if process_group is not None:
            checks.process_group("group", process_group)
        work, home = self._tensors.work(groups, states, begin=False), self.home(groups)
        scopes = self._collector.scopes_of_gradients(groups)
        if not scopes and self._reduce_group is None:
            raise RuntimeError(
                f"{self._owner}.observe: expected gradients, got None for every parameter; call it between "
                "backward() and zero_grad(), and with fully_shard while gradients are synchronized"
            )
        # the members of a group have different gradients
        with nullcontext() if self._sharing is None else self._sharing.paused(where=process_group is not None):
            _, h = self._summed(*work.hypergradients(self._rows, len(self._learned), home))
        observed = Observation(h, self._active(scopes, home)).unscaled(grad_scale)
        return observed if process_group is None else observed.averaged(process_group)

    def _summed(self, finite: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the shards in one message; a shard that is not finite skips the step on all processes."""
        if self._reduce_group is None:
            groups, device_type = self._tensors.reduction
        else:
            groups, device_type = (self._reduce_group,), h.device.type
        if not groups:
            return finite, h
        message = dtensors.summed(torch.cat([h.flatten(), (~finite).to(h.dtype).reshape(1)]), groups, device_type)
        return message[-1] == 0, message[:-1].reshape(h.shape)

    def _agreed(self, sharing: Sharing, groups: list[Group], home: torch.device) -> Tensor:
        """Whether the same parameters have a gradient on all processes that share matrices, 0-d.

        Raises RuntimeError if not and the answer is on the CPU; elsewhere the step is skipped, as nothing may wait.
        """
        present = [p.grad is not None for group in groups for p in group["params"]]
        agreed = sharing.agree(present, home)
        if agreed.device.type == "cpu" and not agreed:
            raise RuntimeError(
                f"{self._owner}, share_matrices: expected gradients of the same parameters on all processes, got "
                f"{sum(present)} of {len(present)} on this one and others elsewhere; average gradients over the group "
                "before the step, as DDP does, or leave share_matrices out"
            )
        return agreed

    def _active(self, scopes: set[int], home: torch.device) -> Tensor:
        """Which scopes have a gradient in this step, (rows,). The others don't move."""
        rows, count = scopes if self._reduce_group is None else set(range(self._rows)), self._rows
        active = torch.full((count,), len(rows) == count, device=home)
        for row in rows if len(rows) < count else ():
            active[row] = True
        return active


class StepCount:
    """Counts applied and skipped steps since construction or `load_state_dict`. No step waits for the device."""

    def __init__(self, owner: str) -> None:
        self._owner, self._warned = owner, False
        self._pending: list[Tensor] = []
        self._counts: Tensor | None = None  # applied and skipped

    def add(self, finite: Tensor | None) -> None:
        """Counts a step; `finite` (0-d boolean) says whether it was applied, and must not change later. None: none."""
        if finite is None:
            return
        begun = self._counts is not None and self._counts.device == finite.device
        if begun and modes.capturing(finite.device):
            self._count(finite.reshape(1))  # each replay counts
            return
        modes.refuse_capture(finite.device, FIRST_STEP)
        self._pending.append(finite)
        if len(self._pending) >= PENDING or not begun:
            self._fold()

    @modes.neutral()
    def _fold(self) -> None:
        for device in {x.device for x in self._pending}:  # one, unless parameters have moved
            self._count(torch.stack([x for x in self._pending if x.device == device]))
        self._pending = []

    def _count(self, verdicts: Tensor) -> None:
        counts = torch.stack([verdicts.sum(), (~verdicts).sum()])
        if self._counts is None or self._counts.device != counts.device:
            self._counts = counts if self._counts is None else counts + self._counts.to(counts.device)
        else:
            self._counts += counts

    def read(self) -> tuple[int, int]:
        """Applied and skipped steps; waits for the device. Warns once if all so far were skipped."""
        self._fold()
        applied, skipped = (0, 0) if self._counts is None else map(int, self._counts.tolist())
        if skipped >= STEPS_BEFORE_WARNING and not applied and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._owner}: every step so far was skipped ({skipped}), as a gradient was not finite, or so large "
                "that its square is not; the weights have not moved. Look for NaN or inf in the loss and the data, or "
                "for a loss scale that is not taken off the gradients",
                stacklevel=3,
            )
        return applied, skipped

    def __getstate__(self) -> dict[str, object]:
        """The counts on the CPU, so that a copy can go to any device."""
        self._fold()
        return {**self.__dict__, "_counts": None if self._counts is None else self._counts.cpu()}
