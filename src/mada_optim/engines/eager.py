"""The reference engine: a loop over tensors, in any dtype.

It is slow and plain on purpose: every faster engine must match it. Nothing here reads a value on the host: values are
selected on the device, so that a step that must change nothing changes no bit.

The state of a parameter. If nothing is learned: `step` (t) and the rule's slots after step t. While coefficients are
learned from the last update: the slots *before* step t, the `gradient` of step t, and `applied`: the learning rate and
the coefficients of that step. The slots after step t follow from those. So the hypergradient is the derivative of the
very update that was applied, at the price of one copy of the gradient. An lr that is learned along its trace needs only
the `anchor`, from which the trace is measured (learning/hypergradient.py), or in 8 bits the `trace` itself: rounded to
8 bits, the anchor would be off by more than the weights have moved from it.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from mada_optim.engines import eight_bits
from mada_optim.engines.numbers import learning_rate, scalar, scalar_dtype
from mada_optim.engines.program import CODES, Program
from mada_optim.engines.protocol import StepInput, TensorBatch
from mada_optim.engines.rounding import MASK, random_bits, stochastic
from mada_optim.layouts import Layout, row_shape, view_shape, viewing
from mada_optim.learning.hypergradient import LastUpdate, along_trace, hypergradient
from mada_optim.placement import fault_of
from mada_optim.rule import Rule, Slots
from mada_optim.sharding import dtensors


def compute_dtype(p: Tensor) -> torch.dtype:
    """The dtype of updates of `p`: at least fp32, fp64 for fp64."""
    return torch.promote_types(p.dtype, torch.float32)


def canvas(x: Tensor) -> Tensor:
    """A view of `x` for the rules: real, and at least 1-d, since a 0-d tensor would become fp64."""
    if x.is_complex():
        x = torch.view_as_real(x)
    return x if x.ndim else x.reshape(1)


def largest_gradient(dtype: torch.dtype) -> float:
    """The largest gradient element that a step accepts: 4.5e15 in fp32. A larger one, or NaN, skips the step.

    A sum of 2^24 squares of it is finite in `dtype`. Beyond that, v would stay infinite, and updates would be 0 or NaN.
    """
    return math.ldexp(math.sqrt(torch.finfo(dtype).max), -12)


def stored_slots(entry: StepInput) -> dict[str, Tensor]:
    """The slots in the state, those in 8 bits unpacked to fp32."""
    rule = entry.program.form
    return {slot.name: eight_bits.read(entry.state, slot.name, rule) for slot in rule.slots}


def coefficients_of(entry: StepInput) -> dict[str, Tensor | float]:
    """The current coefficients, 0-d tensors, and hyper-parameters."""
    fixed = {name: entry.options[name] for name in entry.program.rule.hyper_parameters}
    return {**fixed, **{q: scalar(entry.options[q], entry.p.device) for q in entry.program.coefficients}}


def last_update(entry: StepInput) -> tuple[Tensor, dict[str, Tensor | float], Tensor]:
    """Learning rate, coefficients and gradient of the last update, which the state holds."""
    lr, *coefficients = entry.state["applied"].unbind()
    then = dict(zip(entry.program.coefficients, coefficients, strict=True))
    g = eight_bits.read(entry.state, "gradient", entry.program.form)
    return lr, {**coefficients_of(entry), **then}, g.to(entry.g.dtype)


def all_usable(entries: list[StepInput], device: torch.device) -> Tensor:
    """Whether the state's dtypes can hold the square of every element of every gradient, 0-d on `device`."""
    limits = [min(map(largest_gradient, _dtypes_of_squares(entry))) for entry in entries]
    verdicts = [(entry.g.abs() <= limit).all().to(device) for entry, limit in zip(entries, limits, strict=True)]
    return torch.stack([torch.ones((), dtype=torch.bool, device=device), *verdicts]).all()


def _dtypes_of_squares(entry: StepInput) -> set[torch.dtype]:
    stored = {entry.state[slot.name].dtype for slot in entry.program.form.slots}
    return {entry.g.dtype, *(torch.float32 if dtype is CODES else dtype for dtype in stored)}


def per_element(rule: Rule) -> tuple[str, ...]:
    """Names of the entries of a state with one number per element."""
    return (*(slot.name for slot in rule.slots if slot.per_element), "gradient", "anchor", "trace")


def per_element_or_row(rule: Rule) -> tuple[str, ...]:
    """Names of the entries of a state that are sharded with their parameter; others are scalars or short vectors."""
    return (*per_element(rule), *(slot.name for slot in rule.slots if slot.per_row))


def new_state(program: Program, p: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The state of a parameter at t = 0; `layout` is where its matrices are."""
    state, packs = {"step": scalar(0.0, p.device)}, program.packs(p)
    slot_dtype = compute_dtype(p) if program.state_dtype in (None, CODES) else program.state_dtype

    def full(name: str, value: float, dtype: torch.dtype) -> dict[str, Tensor]:
        if packs:
            return eight_bits.new(p, name, value, eight_bits.scale_of(program.form, name, p.device))
        return {name: torch.full_like(p, value, dtype=dtype)}

    for slot in program.form.slots:
        if slot.scalar:
            state[slot.name] = scalar(slot.init, p.device)
        elif slot.per_row:
            state[slot.name] = p.new_full(row_shape(p.shape, layout), slot.init, dtype=compute_dtype(p))
        else:
            state.update(full(slot.name, slot.init, slot_dtype))
    if program.keeps_last_update:
        state.update(full("gradient", 0.0, min(p.dtype, slot_dtype, key=lambda dtype: dtype.itemsize)))
        state["applied"] = torch.zeros(1 + len(program.coefficients), dtype=scalar_dtype(p.device), device=p.device)
    if program.traced and program.trace == "trace":
        state.update(full("trace", 0.0, compute_dtype(p)))
    elif program.traced:
        # not narrower: the trace is the small difference between it and the weights
        state["anchor"] = torch.zeros_like(p, dtype=compute_dtype(p))
    return state


def slots_after_last_update(entry: StepInput) -> dict[str, Tensor]:
    """The slots after the last update, in the dtype of computation."""
    stored, t = widen(stored_slots(entry), entry.g.dtype), entry.state["step"]
    if "applied" not in entry.state:
        return stored
    _, c, g = last_update(entry)
    _, after = entry.rule.update(c, g, stored, t.clamp(min=1))
    return {name: torch.where(t > 0, after[name], x) for name, x in stored.items()}


def widen(s: Slots, dtype: torch.dtype) -> dict[str, Tensor]:
    """Slots in the rule's dtype: those with one number per element in `dtype`, scalars as they are."""
    return {name: x if x.ndim == 0 else x.to(dtype) for name, x in s.items()}


def advance(entry: StepInput, where: Tensor) -> None:
    """Moves slots and weights by one step with the current coefficients, where `where` (0-d boolean) holds."""
    c, t = coefficients_of(entry), entry.state["step"]
    lr = learning_rate(entry.options, entry.p.device)
    now = slots_after_last_update(entry)
    u, after = entry.rule.update(c, entry.g, now, t + 1)

    learning, weight_decay, p = "applied" in entry.state, entry.options["weight_decay"], entry.p.to(u.dtype)
    keep = 1 - lr * weight_decay
    moved = keep * p - lr * u  # before slots are overwritten, as the update may be one of them
    if entry.program.traced:
        anchor, share = anchor_of(entry, p), torch.where(t > 0, 1 - entry.options["horizon"] * keep, 1.0)
        anchor = anchor + share * (p - anchor)
        if "anchor" in entry.state:
            store(entry.state["anchor"], anchor, where)
    kept = {**(now if learning else _apart(after, entry.state)), "gradient": entry.g}
    whole = [*entry.program.slots, *["gradient"] * learning]
    for slot in entry.program.form.slots:
        if not slot.per_element:
            store(entry.state[slot.name], kept[slot.name], where)
    for i, name in enumerate(whole):
        store_slot(entry, name, kept[name], i, where)
    if entry.program.weights is not None:
        moved = stochastic(moved, entry.p.dtype, t, entry.stream)
    store(entry.p, moved, where)  # after its gradient was kept, which may share its memory
    if "trace" in entry.state:
        store_slot(entry, "trace", entry.p.to(u.dtype) - anchor, len(whole), where)
    if learning:
        applied = torch.stack([lr, *(scalar(c[q], entry.p.device) for q in entry.program.coefficients)])
        store(entry.state["applied"], applied, where)
    store(t, t + 1, where)


def _apart(after: Slots, state: Slots) -> dict[str, Tensor]:
    """The new slots without memory in common with the state: a rule may return an old slot as another one."""
    held = {x.untyped_storage().data_ptr() for x in state.values()}
    return {name: x.clone() if x.untyped_storage().data_ptr() in held else x for name, x in after.items()}


def anchor_of(entry: StepInput, theta: Tensor) -> Tensor:
    """The anchor of lr's trace, for the weights `theta`."""
    if "trace" in entry.state:
        return theta - eight_bits.read(entry.state, "trace", entry.program.form).to(theta.dtype)
    return entry.state["anchor"].to(theta.dtype)


def store(target: Tensor, new: Tensor, where: Tensor) -> None:
    """Overwrites `target` by `new` in place, where the 0-d boolean `where` holds."""
    target.copy_(torch.where(where, new.to(target.dtype), target))


def store_slot(entry: StepInput, name: str, new: Tensor, i: int, where: Tensor) -> None:
    """Overwrites the `i`-th slot with one number per element, or the kept gradient, where `where` holds."""
    target, t = entry.state[name], entry.state["step"]
    if target.dtype is not CODES:
        store(target, narrowed(new, target.dtype, t, i), where)
        return
    scale = eight_bits.scale_of(entry.program.form, name, target.device)
    codes, scales = eight_bits.pack(new, scale, random_bits(new, t, i) & 0xFFFFFF)
    store(target, codes, where)
    store(entry.state[name + eight_bits.SUFFIX], scales, where)


def narrowed(x: Tensor, dtype: torch.dtype, t: Tensor, slot: int) -> Tensor:
    """`x` in a slot's dtype: rounded stochastically from fp32 to bf16, and to nearest otherwise.

    Rounded to nearest, an average whose new share is below half of its last digit would never move: for beta = .999,
    every share below a quarter of the average.
    """
    if (x.dtype, dtype) != (torch.float32, torch.bfloat16):
        return x.to(dtype)
    bits = x.contiguous().view(torch.int32).to(torch.int64) & MASK
    rounded = (bits + (random_bits(x, t, slot) & 0xFFFF)) >> 16
    return rounded.to(torch.int32).to(torch.int16).view(torch.bfloat16)


class EagerBatch(TensorBatch):
    """Tensors of one step, moved one by one."""

    def __init__(self, entries: list[StepInput]) -> None:
        self._entries = entries

    def usable(self) -> Tensor:
        return all_usable(self._entries, self._entries[0].p.device)

    def hypergradients(self, scopes: int) -> tuple[Tensor, Tensor]:
        device, learned = self._entries[0].p.device, self._entries[0].program.learned
        total = torch.zeros(scopes, len(learned), dtype=scalar_dtype(device), device=device)
        for entry, h in zip(self._entries, self._of_each(), strict=True) if learned else ():
            total[entry.scope] += h.to(device)
        return self.usable(), total

    def _of_each(self) -> Iterable[Tensor]:
        """The hypergradients of each tensor, 1-d; 0 before its first step."""
        return (torch.where(entry.state["step"] > 0, hypergradients_of(entry), 0.0) for entry in self._entries)

    def advance(self, where: Tensor) -> None:
        for entry in self._entries:
            advance(entry, where.to(entry.p.device))


class Eager:
    """The kernel of the eager engine, for all programs."""

    name = "eager"

    def prepare(self, entry: StepInput) -> StepInput:
        """The tensor, with a rule that views or gathers its matrices. Raises RuntimeError if the state doesn't fit."""
        require_fitting_state(entry)
        if entry.rule.pointwise:
            return entry
        if entry.whole is None:
            is_matrix = view_shape(entry.p.shape, entry.layout) == entry.p.shape
            return entry if is_matrix else entry._replace(rule=viewing(entry.rule, entry.layout))
        differentiated = entry.program.keeps_last_update
        return entry._replace(rule=dtensors.gathering(entry.rule, entry.whole, entry.layout, differentiated))

    def forget_others(self, entries: list[StepInput], prepared: list[StepInput]) -> None:
        pass

    def batch(self, _: list[StepInput], prepared: list[StepInput]) -> EagerBatch:
        return EagerBatch(prepared)


def hypergradients_of(entry: StepInput) -> Tensor:
    """The hypergradients of one tensor, 1-d; that of lr is measured along its trace if it is traced."""
    theta, program = entry.p.to(entry.g.dtype), entry.program
    h = []
    if program.one_step:
        lr, c, g = last_update(entry)
        slots, t = widen(stored_slots(entry), g.dtype), entry.state["step"].clamp(min=1)
        last = LastUpdate(entry.rule, c, g, slots, t, lr, entry.options["weight_decay"])
        h.append(hypergradient(program.one_step, last, theta, entry.g))
    if program.traced:
        of_lr = along_trace(entry.g, theta, anchor_of(entry, theta))
        h.append(of_lr.reshape(1).to(entry.state["step"].dtype))
    return torch.cat(h)


def require_fitting_state(entry: StepInput) -> None:
    """Refuses a state (RuntimeError) that doesn't fit its parameter. Torch would broadcast it, or read beyond it."""
    slots = entry.program.slot_names
    for name in entry.program.state_names:
        x = entry.state.get(name)
        fault = fault_of(x, shape_in_state(entry, name), entry.p) or eight_bits.fault_of(entry.state, name)
        if fault is None and name in slots and isinstance(x, Tensor) and x.dtype is torch.float16:
            fault = "expected float32, bfloat16 or float64, which hold squares of gradients, got float16"
        if fault is not None:
            remedy = "restore it, load a state dict, or begin the state anew: opt.state.pop(parameter)"
            raise RuntimeError(f"state of {_name_of(entry)}, {name!r}: {fault}; {remedy}")


def shape_in_state(entry: StepInput, name: str) -> tuple[int, ...]:
    """The shape that this entry of the parameter's state must have."""
    if name in per_element(entry.program.rule):
        return tuple(entry.p.shape)
    if name in entry.program.row_slots:
        return tuple(row_shape(entry.p.shape, entry.layout))
    return (1 + len(entry.program.coefficients),) * (name == "applied")


def _name_of(entry: StepInput) -> str:
    """The parameter's name, or its shape if it has none."""
    params = entry.options["params"]
    names = entry.options.get("param_names", [f"parameter {j} of its group" for j in range(len(params))])
    matches = (name for x, name in zip(params, names, strict=True) if x is entry.p or x is entry.whole)
    return next(matches, f"the parameter of shape {tuple(entry.p.shape)}")
