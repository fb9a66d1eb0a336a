"""The description of one program: a rule, its fixed and learned coefficients, and where and in which dtype it runs."""

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mada_optim.graph.specialize import SLOT, Corners, specialize
from mada_optim.layouts import Layout
from mada_optim.matrices import hidden_matrices
from mada_optim.rule import LR, Rule

CPU = torch.device("cpu")
CODES = torch.uint8  # the dtype of slots in 8 bits (`mada_optim.engines.eight_bits`)
SMALLEST_PACKED = 4096  # elements; smaller parameters have few of a model's bytes, and are often vectors


@dataclass(frozen=True)
class Program:
    """One form of a rule, as every engine takes it. Hashable, so that generated code can be cached by it."""

    rule: Rule  # the whole rule; coefficients and hyper-parameters are passed in its order
    fixed: Corners = ()  # coefficients and hyper-parameters that are constants 0 or 1
    learned: tuple[str, ...] = ()  # names of the learned coefficients, lr last
    traced: bool = False  # whether the hypergradient of lr is measured along its trace, over many steps
    device: torch.device = CPU  # where the tensors are
    # dtype of the slots with one number per element; None: the dtype of computation
    state_dtype: torch.dtype | None = None
    weights: str | None = None  # "stochastic": bf16 and fp16 weights are rounded at random

    @cached_property
    def form(self) -> Rule:
        """The rule without the terms and slots that the fixed coefficients switch off."""
        return specialize(self.rule, self.fixed)

    @cached_property
    def one_step(self) -> tuple[str, ...]:
        """Learned coefficients whose hypergradient is the derivative of the last update."""
        return tuple(q for q in self.learned if not (self.traced and q == LR.name))

    @cached_property
    def of_rule(self) -> tuple[str, ...]:
        """Learned coefficients of the rule: all but lr."""
        return tuple(q for q in self.learned if q != LR.name)

    @cached_property
    def keeps_last_update(self) -> bool:
        """Whether the state holds the last update: the slots before it, its gradient and its coefficients."""
        return bool(self.one_step)

    @cached_property
    def slopes_lr(self) -> bool:
        """Whether the hypergradient of lr is the derivative of the last update."""
        return LR.name in self.one_step

    @cached_property
    def coefficients(self) -> tuple[str, ...]:
        return self.rule.coefficient_names()

    @cached_property
    def slot_names(self) -> tuple[str, ...]:
        return self.form.slot_names()

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """Names of the form's slots with one number per element."""
        return tuple(slot.name for slot in self.form.slots if slot.per_element)

    @cached_property
    def scalar_slots(self) -> tuple[str, ...]:
        """Names of the form's slots with one number per tensor."""
        return tuple(slot.name for slot in self.form.slots if slot.scalar)

    @cached_property
    def row_slots(self) -> tuple[str, ...]:
        """Names of the form's slots with one number per row."""
        return tuple(slot.name for slot in self.form.slots if slot.per_row)

    @cached_property
    def beside_slots(self) -> tuple[str, ...]:
        """Keys of a parameter's state that are not slots."""
        return ("step", *("gradient", "applied") * self.keeps_last_update, *(self.trace,) * self.traced)

    @property
    def trace(self) -> str:
        """The key of lr's trace: by its anchor, or in 8 bits the trace itself, the weights minus the anchor."""
        return "trace" if self.state_dtype is CODES else "anchor"

    @cached_property
    def packable(self) -> tuple[str, ...]:
        """Keys of the state that are kept in 8 bits, if `state_dtype` says so."""
        return (*self.slots, *("gradient",) * self.keeps_last_update, *("trace",) * self.traced)

    def packs(self, p: Tensor) -> bool:
        """Whether the state of a parameter, in the shape of `p`, is in 8 bits."""
        return self.state_dtype is CODES and p.numel() >= SMALLEST_PACKED

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """All keys of a parameter's state."""
        step, *others = self.beside_slots
        return (step, *self.slot_names, *others)

    @cached_property
    def state_keys(self) -> frozenset[str]:
        return frozenset(self.state_names)

    @cached_property
    def scalar_inputs(self) -> tuple[str, ...]:
        """Names of the inputs of the rule's graph that have one number per tensor."""
        slots = (SLOT + slot.name for slot in self.rule.slots if slot.scalar)
        return (*self.coefficients, *self.rule.hyper_parameters, "t", *slots)

    def fixed_in(self, group: MutableMapping[str, Any], layout: Layout) -> Corners:
        """The coefficients and hyper-parameters that a group fixes at 0 or 1 for its parameters with this layout."""
        return hidden_matrices.fixed(self.rule, group, self.learned, layout)

    def of_parameter(self, group: MutableMapping[str, Any], parameter: int) -> "Program":
        """The program of one parameter of a group, by its place."""
        layout = hidden_matrices.flags(self.rule, group)[parameter]
        return replace(self, fixed=self.fixed_in(group, layout))
