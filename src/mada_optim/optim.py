"""HyperOptimizer: any rule as a `torch.optim.Optimizer` that learns the rule's coefficients while it trains."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from mada_optim import checks, kernels, snapshot
from mada_optim.engine import eager
from mada_optim.hyper.gradient import sensitivity
from mada_optim.hyper.learner import ExternalLearner, HyperOptimizerFactory, Learner
from mada_optim.kernels.table import Table
from mada_optim.rules import RULES
from mada_optim.spec import Rule


@dataclass(frozen=True)
class Preset:
    """What a class of optimizers takes where its user says nothing: the rule, what is learned of it, and the lr."""

    rule: str
    learn: str | tuple[str, ...]
    lr: float


class HyperOptimizer(Optimizer):
    """Steps by a rule; learns the coefficients named in `learn` by hypergradient descent.

    A step with the gradient g: one decision whether all of g is finite; the hypergradients, of all tensors; the
    hyper-step on the coefficients; then slots and weights, with the new coefficients. If any element of any gradient
    is not finite, the whole step changes no bit of anything. If only a hypergradient is not finite, the coefficients
    stay and the weights move.

    While anything is learned, the state holds the slots as they were *before* the last update, with that update's
    gradient, learning rate and coefficients: what the next hypergradient is differentiated from. `slots` gives them as
    they are after it.

    Args:
        params: Parameters, named parameters, or group dicts. A group may have its own lr, eps, weight_decay, maximize,
            and its own value of any coefficient that is not learned.
        lr: Learning rate, >= 0; a float or a 0-d tensor, which schedulers set as in torch.optim. None: the preset's.
        betas: The starting (beta1, beta2), each in [0, 1): weights of the past. None: the rule's defaults.
        eps: Added to the denominator, >= 0. None: the rule's default.
        weight_decay: Decoupled: a step multiplies weights by 1 - lr * weight_decay.
        rule: Name in `mada_optim.rules.RULES`, or a `Rule`. None: the preset's.
        learn: Names of the learned coefficients, "all", or () for none. None: the preset's.
        hyper_lr: Learning rate of the coefficients: one for all, or a dict that overrides the paper's (5e-4 for beta1
            and beta2, 1e-1 for the others).
        hyper_momentum: Momentum of the hyper-step, in [0, 1): one for all, or a dict. None: 0.
        hyper_clip: Each hypergradient is clipped to [-hyper_clip, hyper_clip]; math.inf leaves them as they are.
        hyper_start: Steps before the first hyper-step.
        hyper_optimizer: Takes the place of the paper's hyper-step: makes a `torch.optim.Optimizer` (another of this
            library too) from a list of 0-d coefficient tensors. `hyper_lr` and `hyper_momentum` are then unused.
        bounds: (low, high) by learned coefficient; the rule's interval for the others.
        horizon: Decay of the sensitivity's trace; only 0, the paper's one-step hypergradient, is offered.
        scope: Over what a learned coefficient is one; only "global" is offered, one set for all groups.
        engine: "eager" is the reference loop; "cpu" is C++ loops, compiled on demand, for dense fp32 tensors under the
            rules adam, avgrad, yogi, adan and mada; "auto" is the fastest to be had. `opt.engine` names what runs.
        maximize: Steps along the gradient instead of against it.
        state_dtype: Dtype of the slots per element. None: fp32, or fp64 for fp64 parameters.
        reduce_group: Process group over which parameters are sharded: hypergradients are summed over it, and a gradient
            that is not finite stops the step on all of it.
        coefficients: Starting values of the rule's other coefficients by name.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
    """

    preset: ClassVar[Preset] = Preset("mada", "all", lr=1e-3)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        rule: str | Rule | None = None,
        learn: str | Iterable[str] | None = None,
        hyper_lr: float | Mapping[str, float] | None = None,
        hyper_momentum: float | Mapping[str, float] | None = None,
        hyper_clip: float = 10.0,
        hyper_start: int = 50,
        hyper_optimizer: HyperOptimizerFactory | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        horizon: float = 0.0,
        scope: str = "global",
        engine: str = "auto",
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
        **coefficients: float,
    ) -> None:
        self.rule = _rule(self.preset.rule if rule is None else rule)
        self.learned = checks.learned_names(self.rule, self.preset.learn if learn is None else learn)
        self.intervals = checks.intervals(self.rule, bounds, self.learned)
        self._requested_engine = checks.engine(engine)
        checks.extensions(horizon, scope)
        self.state_dtype = checks.state_dtype(state_dtype)
        self.reduce_group = reduce_group
        self._tied: dict[str, Tensor] = {}

        defaults: dict[str, Any] = {"weight_decay": weight_decay, "maximize": maximize}
        defaults["lr"] = self.preset.lr if lr is None else lr
        defaults["eps"] = self.rule.hyper_parameters.get("eps", 0.0) if eps is None else eps
        defaults.update({q.name: q.default for q in self.rule.coefficients})
        defaults.update(checks.coefficient_keywords(self.rule, betas, coefficients))
        super().__init__(params, defaults)

        self._kernel = kernels.choose(engine, self.rule, self._home)
        self._learner = Learner(
            lr=self._vector(checks.hyper_lr(hyper_lr, self.learned)),
            momentum=self._vector(checks.hyper_momentum(hyper_momentum, self.learned)),
            low=self._vector([self.intervals[q].low for q in self.learned]),
            high=self._vector([self.intervals[q].high for q in self.learned]),
            limit=checks.limit("hyper_clip", hyper_clip, "the paper's is 10"),
            start=checks.count("hyper_start", hyper_start, "the paper's is 50"),
        )
        self._external: ExternalLearner | None = None
        if hyper_optimizer is not None and self.learned:
            self._external = ExternalLearner(hyper_optimizer, [self._tied[q] for q in self.learned])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, which start at t = 1 and share the learned coefficients of the groups before them.

        Raises:
            ValueError: A value is not allowed, a parameter is named twice, or the group names its own value of a
                coefficient that is learned for all groups.
        """
        if isinstance(param_group, dict):
            own = {key: x for key, x in param_group.items() if key != "betas"}
            param_group = {**own, **checks.named_betas(self.rule, param_group.get("betas"))}
            checks.group(self.rule, {**self.defaults, **param_group}, self.intervals)
            checks.ties({q: x for q, x in param_group.items() if q in self.learned}, self._tied)
        super().add_param_group(param_group)
        self._attach_coefficients(param_group)

    def _attach_coefficients(self, group: dict[str, Any]) -> None:
        """Turns a group's coefficients into tensors: the learned ones are those of all groups, the others its own."""
        for name in self.rule.coefficient_names():
            group[name] = self._tied.get(name, eager.scalar(group[name], self._home))
        if self.learned and not self._tied:
            zeros = self._vector([0.0] * len(self.learned))
            self._tied = {name: group[name] for name in self.learned}
            self._tied.update(
                hypergradient=zeros, hyper_velocity=zeros.clone(), applied_steps=eager.scalar(0.0, self._home)
            )
        group.update(self._tied)

    @property
    def _home(self) -> torch.device:
        """Where the learned coefficients live: with the first parameter."""
        params = (p for group in self.param_groups for p in group["params"])
        return next((x.device for x in chain(self._tied.values(), params)), torch.device("cpu"))

    def _vector(self, numbers: list[float]) -> Tensor:
        return torch.tensor(numbers, dtype=eager.scalar_dtype(self._home), device=self._home)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on the gradients as they stand; they are read, and left as they are.

        Args:
            closure: Computes the loss and the gradients anew; called once, with gradients enabled.

        Returns:
            What `closure` returned.

        Raises:
            RuntimeError: A gradient is sparse; nothing is changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        ready = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for p, _ in ready):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients; use torch.optim.SparseAdam")
        if not ready and self.reduce_group is None:
            return loss
        table, rest = self._share_out([self._cell(p, group) for p, group in ready])
        finite, h = self._reduce(*self._hypergradient(table, rest))
        if self.learned:
            self._hyper_step(finite, h)
        if table is not None:
            table.advance(finite)
        for cell in rest:
            eager.advance(cell, finite.to(cell.p.device))
        return loss

    @property
    def engine(self) -> str:
        """What runs: "cpu", the C++ loops (and "eager" for tensors that they don't take), or "eager" for all."""
        return "eager" if self._kernel is None else "cpu"

    def _share_out(self, cells: list[eager.Cell]) -> tuple[Table | None, list[eager.Cell]]:
        """The tensors that the loops take, as one job, and the rest."""
        if self._kernel is None:
            return None, cells
        rows = [self._kernel.row(cell) for cell in cells]
        taken = [(cell, row) for cell, row in zip(cells, rows, strict=True) if row is not None]
        rest = [cell for cell, row in zip(cells, rows, strict=True) if row is None]
        return (self._kernel.table([cell for cell, _ in taken], [row for _, row in taken]) if taken else None), rest

    def _cell(self, p: Tensor, group: dict[str, Any]) -> eager.Cell:
        assert p.grad is not None
        seen, state = eager.canvas(p), self.state[p]
        wide = eager.compute_dtype(seen)
        g = eager.canvas(p.grad).to(wide)
        if not state:
            state.update(eager.new_state(self.rule, seen, self.state_dtype or wide, bool(self.learned)))
        return eager.Cell(self.rule, seen, -g if group["maximize"] else g, state, group)

    def _hypergradient(self, table: Table | None, rest: list[eager.Cell]) -> tuple[Tensor, Tensor]:
        """Whether all gradients are finite; and -lr < g, du/dq > over all tensors that an update has moved before."""
        finite = eager.all_finite([cell.g for cell in rest], self._home)
        total = torch.zeros(len(self.learned), dtype=eager.scalar_dtype(self._home), device=self._home)
        if table is not None:
            is_finite, of_all = table.hypergradients()
            finite = finite & is_finite
            total += of_all[[self.rule.coefficient_names().index(name) for name in self.learned]]
        for cell in rest if self.learned else ():
            (lr, c, g), t = cell.last_update(), cell.state["step"]
            slots = eager.widen(cell.slots(), g.dtype)
            product = sensitivity(self.rule, self.learned, c, g, slots, t.clamp(min=1), cell.g)
            total += torch.where(t > 0, -lr * product, 0.0).to(total.device)
        return finite, total

    def _reduce(self, finite: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the shards in one message; a shard that is not finite stops the step on all of them."""
        if self.reduce_group is None:
            return finite, h
        message = torch.cat([h, (~finite).to(h.dtype).reshape(1)])
        torch.distributed.all_reduce(message, group=self.reduce_group)
        return message[-1] == 0, message[:-1]

    def _hyper_step(self, finite: Tensor, h: Tensor) -> None:
        """Moves the learned coefficients, where the step counts and every hypergradient is finite."""
        tied, learner = self._tied, self._learner
        q = torch.stack([tied[name] for name in self.learned])
        moves = finite & learner.may_step(h, tied["applied_steps"])
        if self._external is None:
            new, velocity = learner.step(q, learner.clip(h), tied["hyper_velocity"])
            eager.store(tied["hyper_velocity"], velocity, moves)
        else:
            new = self._external.step(learner.clip(h), moves)
        new = torch.where(moves, learner.project(new), q)
        for name, x in zip(self.learned, new.unbind(), strict=True):
            tied[name].copy_(x)
        eager.store(tied["hypergradient"], h, finite)
        eager.store(tied["applied_steps"], tied["applied_steps"] + 1, finite)

    def coefficients(self) -> dict[str, float]:
        """The coefficients by name, of the first group. Reads from the device; changes nothing."""
        return {name: float(self.param_groups[0][name]) for name in self.rule.coefficient_names()}

    def hypergradients(self) -> dict[str, float]:
        """The last hypergradients by coefficient, before clipping; 0.0 where a coefficient is not learned."""
        last = dict.fromkeys(self.rule.coefficient_names(), 0.0)
        if self.learned:
            last.update(zip(self.learned, self._tied["hypergradient"].tolist(), strict=True))
        return last

    @torch.no_grad()
    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """The slots of the parameter `p` after its last update, by name; empty before its first. Changes nothing."""
        if not self.state.get(p):
            return {}
        group = next(group for group in self.param_groups if any(p is x for x in group["params"]))
        seen = eager.canvas(p)
        cell = eager.Cell(self.rule, seen, seen.to(eager.compute_dtype(seen)), self.state[p], group)
        return {name: x.clone() for name, x in eager.slots_after_last_update(cell).items()}

    def state_dict(self) -> dict[str, Any]:
        """As in torch.optim; the coefficients in it are copies, which later steps don't change."""
        state_dict = super().state_dict()
        state_dict["param_groups"] = [snapshot.cloned(group) for group in state_dict["param_groups"]]
        if self._external is not None:
            state_dict["hyper_optimizer"] = self._external.optimizer.state_dict()
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch.optim, except that no state is rounded to its parameter's dtype.

        `learn` and what belongs to it stay as this optimizer was built.

        Raises:
            ValueError: The state is of another rule or `learn`, or a slot has another shape; nothing is changed.
        """
        snapshot.check(self.rule, self.param_groups, state_dict, tower=self._external is not None)
        super().load_state_dict(state_dict)
        self.state.update(snapshot.restored(self.param_groups, state_dict))
        self._tie_again()
        if self._external is not None:
            self._external.optimizer.load_state_dict(state_dict["hyper_optimizer"])

    def _tie_again(self) -> None:
        """After a load: the learned coefficients are again one tensor for all groups, and at home on their device."""
        for name, x in self._tied.items():
            x.copy_(self.param_groups[0][name])
        for group in self.param_groups:
            own = {q: eager.scalar(group[q], self._home) for q in self.rule.coefficient_names()}
            group.update({**own, **self._tied})

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and deepcopy take along, beside what torch.optim's own optimizers do."""
        own = (
            "rule",
            "learned",
            "intervals",
            "_requested_engine",
            "state_dtype",
            "reduce_group",
            "_tied",
            "_learner",
            "_external",
        )
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes up what `__getstate__` gave; compiled loops can't travel, and are looked up anew."""
        super().__setstate__(state)
        self._kernel = kernels.choose(self._requested_engine, self.rule, self._home)


def _rule(rule: str | Rule) -> Rule:
    if isinstance(rule, Rule):
        return rule
    return RULES[checks.member("rule", rule, RULES, "the registry is mada_optim.rules.RULES")]
