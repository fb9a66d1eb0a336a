"""The reference engine: a loop over tensors, in any dtype.

It is slow and plain on purpose: every faster engine is held equal to it. Nothing here reads a value on the host: what
depends on values is selected on the device, so that a step which must change nothing changes no bit.

What a parameter's state holds. Where nothing is learned: `step` (t) and the rule's slots after step t. While something
is learned: the slots *before* step t, and with them the `gradient` of step t and `applied`, the learning rate and the
coefficients that it was applied with. The slots after step t follow from those; keeping the ones before makes the
hypergradient a derivative of the very update that was applied, at the price of one copy of the gradient. An lr that is
learned from its trace needs the `anchor`, from which the trace is measured (hyper/gradient.py), and nothing else of
that.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mada_optim.engines.rounding import narrowed
from mada_optim.layouts import Layout
from mada_optim.rule import Rule, Slots, option_key


def scalar_dtype(device: torch.device) -> torch.dtype:
    """The dtype of coefficients and of scalars per tensor: fp64, and fp32 on MPS, which has no fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


def compute_dtype(p: Tensor) -> torch.dtype:
    """The dtype that updates of `p` are computed in: at least fp32, fp64 for fp64."""
    return torch.promote_types(p.dtype, torch.float32)


def canvas(x: Tensor) -> Tensor:
    """A view of `x` as the rules see it: real, and at least 1-d.

    A complex tensor is two real ones (as in torch.optim); a 0-d tensor would be promoted to the coefficients' fp64.
    """
    if x.is_complex():
        x = torch.view_as_real(x)
    return x if x.ndim else x.reshape(1)


def largest_gradient(dtype: torch.dtype) -> float:
    """The largest element of a gradient that a step takes; beyond it, as with NaN, the step doesn't count.

    Its square, and a sum of 2^24 such squares, are numbers of `dtype`: 4.5e15 in fp32. Past that, v would be infinite
    for good, and with it every later update 0 or NaN.
    """
    return math.ldexp(math.sqrt(torch.finfo(dtype).max), -12)


def scalar(x: float | Tensor, device: torch.device) -> Tensor:
    """`x` as a 0-d tensor on `device`, in the dtype of coefficients."""
    if isinstance(x, Tensor):
        if x.ndim == 0 and x.dtype is torch.float64 and x.device == device:  # as most are: for speed
            return x
        return x.to(device, scalar_dtype(device)).reshape(())
    return torch.full((), x, dtype=scalar_dtype(device), device=device)


def learning_rate(options: Mapping[str, Any], device: torch.device) -> Tensor:
    """The lr of a group as a 0-d tensor on `device`, times the learned factor where there is one.

    What is learned doesn't take lr to where weight decay is more than all of a weight, and turns into growth.
    """
    lr, learned = scalar(options["lr"], device), options.get(option_key("lr"))
    if learned is None:
        return lr
    alpha, decay = lr * scalar(learned, device).exp(), options["weight_decay"]
    return torch.minimum(alpha, lr.clamp(min=1 / decay)) if decay else alpha


class Cell(NamedTuple):
    """One parameter tensor in one step.

    Attributes:
        rule: The rule that moves it, without what its group's fixed coefficients switch off.
        p: The parameter, a canvas.
        g: The gradient to descend, a canvas in the dtype of computation.
        state: The parameter's state, empty before its first step.
        options: The parameter's group: lr, weight_decay, hyper-parameters, and its coefficients, 0-d or plain numbers.
        scope: The row of its learned coefficients, among all that are learned.
        whole: The DTensor that `p` is a shard of, where the rule needs matrices of which `p` has parts; None for what
            has whole ones.
        layout: Where the matrices are, in the whole.
        plain: Whether parameter and gradient are known to be dense fp32 tensors in CPU memory, as compiled loops take.
    """

    rule: Rule
    p: Tensor
    g: Tensor
    state: dict[str, Tensor]
    options: Mapping[str, Any]
    scope: int = 0
    whole: Tensor | None = None
    layout: Layout = True
    plain: bool = False

    def slots(self) -> dict[str, Tensor]:
        """The slots as they are stored."""
        return {slot.name: self.state[slot.name] for slot in self.rule.slots}

    def coefficients(self) -> dict[str, Tensor | float]:
        """Coefficients and hyper-parameters as they are now."""
        fixed = {name: self.options[name] for name in self.rule.hyper_parameters}
        return {**fixed, **{q: scalar(self.options[q], self.p.device) for q in self.rule.coefficient_names()}}

    def last_update(self) -> tuple[Tensor, dict[str, Tensor | float], Tensor]:
        """Learning rate, coefficients and gradient of the last update, where the state keeps them."""
        lr, *coefficients = self.state["applied"].unbind()
        then = dict(zip(self.rule.coefficient_names(), coefficients, strict=True))
        return lr, {**self.coefficients(), **then}, self.state["gradient"].to(self.g.dtype)


def all_usable(cells: list[Cell], device: torch.device) -> Tensor:
    """A 0-d boolean on `device`: is every element of every gradient a number that the cell's dtypes can take?"""
    limits = [min(largest_gradient(x.dtype) for x in (cell.g, *cell.slots().values())) for cell in cells]
    verdicts = [(cell.g.abs() <= limit).all().to(device) for cell, limit in zip(cells, limits, strict=True)]
    return torch.stack([torch.ones((), dtype=torch.bool, device=device), *verdicts]).all()


class Memory(NamedTuple):
    """What is kept beside the slots.

    Attributes:
        last_update: The last update, for hypergradients of one step: `gradient` and `applied`.
        trace: The anchor, from which the trace is measured that lr is learned from.
    """

    last_update: bool
    trace: bool = False


def state_names(rule: Rule, memory: Memory) -> list[str]:
    """The keys of a parameter's state."""
    last_update = ["gradient", "applied"] * memory.last_update
    return ["step", *rule.slot_names(), *last_update, *["anchor"] * memory.trace]


def per_element(rule: Rule) -> tuple[str, ...]:
    """Names of what a state has for each element of its parameter; the rest is scalars and short vectors."""
    return (*(slot.name for slot in rule.slots if not slot.scalar), "gradient", "anchor")


def new_state(rule: Rule, p: Tensor, slot_dtype: torch.dtype, memory: Memory) -> dict[str, Tensor]:
    """The state of the canvas `p` at t = 0."""
    state = {"step": scalar(0.0, p.device)}
    for slot in rule.slots:
        whole = torch.full_like(p, slot.init, dtype=slot_dtype)
        state[slot.name] = scalar(slot.init, p.device) if slot.scalar else whole
    if memory.last_update:
        state["gradient"] = torch.zeros_like(p, dtype=min(p.dtype, slot_dtype, key=lambda dtype: dtype.itemsize))
        state["applied"] = torch.zeros(1 + len(rule.coefficients), dtype=scalar_dtype(p.device), device=p.device)
    if memory.trace:
        # never narrower: the trace is the small difference between it and the weights
        state["anchor"] = torch.zeros_like(p, dtype=compute_dtype(p))
    return state


def slots_after_last_update(cell: Cell) -> dict[str, Tensor]:
    """The slots at step t in the dtype of computation, whether the state holds those or the ones before."""
    stored, t = widen(cell.slots(), cell.g.dtype), cell.state["step"]
    if "applied" not in cell.state:
        return stored
    _, c, g = cell.last_update()
    _, after = cell.rule.update(c, g, stored, t.clamp(min=1))
    return {name: torch.where(t > 0, after[name], x) for name, x in stored.items()}


def widen(s: Slots, dtype: torch.dtype) -> dict[str, Tensor]:
    """Slots as the rule computes with them: one per element in `dtype`, scalars as they are."""
    return {name: x if x.ndim == 0 else x.to(dtype) for name, x in s.items()}


def advance(cell: Cell, where: Tensor) -> None:
    """Moves slots and weights by one step, with the coefficients as they are now, where `where` (0-d boolean) holds."""
    c, t = cell.coefficients(), cell.state["step"]
    lr = learning_rate(cell.options, cell.p.device)
    now = slots_after_last_update(cell)
    u, after = cell.rule.update(c, cell.g, now, t + 1)

    learning, weight_decay, p = "applied" in cell.state, cell.options["weight_decay"], cell.p.to(u.dtype)
    keep = 1 - lr * weight_decay
    if "anchor" in cell.state:
        anchor, share = cell.state["anchor"].to(u.dtype), torch.where(t > 0, 1 - cell.options["horizon"] * keep, 1.0)
        store(cell.state["anchor"], anchor + share * (p - anchor), where)
    kept = {**(now if learning else after), "gradient": cell.g}
    whole = [slot.name for slot in cell.rule.slots if not slot.scalar] + ["gradient"] * learning
    for slot in cell.rule.slots:
        if slot.scalar:
            store(cell.state[slot.name], kept[slot.name], where)
    for i, name in enumerate(whole):
        x = cell.state[name]
        store(x, narrowed(kept[name], x.dtype, t, i), where)
    store(cell.p, keep * p - lr * u, where)  # after its gradient was kept, which may share its memory
    if learning:
        applied = torch.stack([lr, *(scalar(c[q], cell.p.device) for q in cell.rule.coefficient_names())])
        store(cell.state["applied"], applied, where)
    store(t, t + 1, where)


def store(target: Tensor, new: Tensor, where: Tensor) -> None:
    """Overwrites `target` by `new` in place, where the 0-d boolean `where` holds."""
    target.copy_(torch.where(where, new.to(target.dtype), target))
