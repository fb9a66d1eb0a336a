"""HyperOptimizer: any rule as a `torch.optim.Optimizer` that learns the rule's coefficients while it trains."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from mada_optim import by_name, checks, initial_lr, learning, matrices, modes, shards, snapshot
from mada_optim.cells import Cells
from mada_optim.dispatch import Dispatcher
from mada_optim.engine import eager
from mada_optim.group_keys import GroupKeys
from mada_optim.guard import Guard, find_guard, guarded
from mada_optim.hyper.bank import LR_CEILING, LR_FLOOR, Bank
from mada_optim.hyper.learner import ExternalLearner, HyperOptimizerFactory, Learner
from mada_optim.hyper.step import hyper_step
from mada_optim.observation import Observation
from mada_optim.readings import Bill, Reading, by_scope
from mada_optim.rules import RULES
from mada_optim.spec import LR, Rule, option_key
from mada_optim.specialize import corners, is_corner
from mada_optim.steady import Steady
from mada_optim.step_count import StepCount


@dataclass(frozen=True)
class Preset:
    """What a class of optimizers takes where its user says nothing.

    Attributes:
        rule: The rule.
        learn: What is learned of it.
        lr: The learning rate.
        rule_named: The rule where the user names what is learned; None for the same.
    """

    rule: str
    learn: str | tuple[str, ...]
    lr: float
    rule_named: str | None = None

    def rule_for(self, learn: object) -> str:
        """The rule where `learn` is what the user says, or None."""
        return self.rule if learn is None or self.rule_named is None else self.rule_named


class HyperOptimizer(Optimizer):
    """Steps by a rule; learns the coefficients named in `learn` by hypergradient descent.

    A step with the gradient g: one decision whether all of g is finite; the hypergradients, of all tensors; the
    hyper-step on the coefficients; then slots and weights, with the new coefficients. If any element of any gradient
    is not finite, or so large that its square is not, the whole step changes no bit of anything. If only a
    hypergradient is not finite, the coefficients of its scope stay and the weights move.

    A coefficient that is not learned and sits at 0 or 1 where terms of the rule fall away costs neither their work nor
    their slots: MADA at Adam's corner keeps two. `memory` gives the bill. To set such a coefficient to another value
    later is refused, since what its terms would remember was never kept. A value put into a group, as
    `opt.param_groups[0]["beta1"] = 0.8`, holds from the next step on, for a learned coefficient as a new start.

    While anything is learned, the state holds the slots as they were *before* the last update, with that update's
    gradient, learning rate and coefficients: what the next hypergradient is differentiated from. `slots` gives them as
    they are after it.

    Args:
        params: Parameters, named parameters, or group dicts. A group may have its own lr, eps, weight_decay, maximize,
            hyper-parameters, and its own value of any coefficient that is not learned over more than the group. Its
            `matrix` says, for rules that orthogonalise, what its parameters of two dimensions or more are. True: each
            is one matrix, the first dimension by all others. "batched": the last two dimensions are a matrix, of which
            the others number many, as of experts. A number n: n blocks of as many rows are a matrix each, as 3 of a
            fused projection to queries, keys and values. Each matrix is orthogonalised by itself, as if it were a
            parameter. False: none is a matrix. Without it, shapes and names decide (`mada_optim.matrices`).
        lr: Learning rate, >= 0; a float or a 0-d tensor, which schedulers set as in torch.optim. None: the preset's.
        betas: The starting (beta1, beta2), each in [0, 1): weights of the past. None: the rule's defaults.
        eps: Added to the denominator, >= 0. None: the rule's default.
        weight_decay: Decoupled: a step multiplies weights by 1 - lr * weight_decay.
        rule: Name in `mada_optim.rules.RULES`, or a `Rule`. None: the preset's.
        guard: Whether bad betas are taken only as far as they do no harm (`mada_optim.guard`), of rules with Adam's two
            averages. True: by `Guard()`; a `Guard` has other numbers.
        learn: Names of the learned coefficients, "all" for every one of the rule's, or () for none. "lr" may be named
            too: a factor on the lr that is set or scheduled, whose logarithm is learned. None: the preset's.
        hyper_lr: Learning rate of the coefficients: one for all, or a dict that overrides the defaults (the paper's:
            5e-4 for beta1 and beta2, 1e-1 for the others; 1e-2 for the logarithm of lr's factor).
        hyper_momentum: Momentum of the hyper-step, in [0, 1): one for all, or a dict. None: 0.
        hyper_clip: Each hypergradient is clipped to [-hyper_clip, hyper_clip]; math.inf leaves them as they are.
        hyper_start: Steps before the first hyper-step.
        hyper_stop: Steps after which the coefficients stay as they are. None: they are learned to the end. A learned lr
            wants an end before the schedule brings lr down, lest it works against that.
        hyper_freeze: Share of the largest lr that a scheduler has set, in [0, 1]: while the present one is below it,
            the coefficients stay. 0: they never do. An end for a learned lr that needs no number of steps. With
            `scope="global"` it is the first group's lr that counts.
        hyper_memory: Decay of the mean square that a hypergradient is divided by the root of, in [0, 1), as Adam's
            beta2: one for all, or a dict. 0: no division, as in the paper.
        hyper_averaging: Decay of a running mean of these, in [0, 1), one for all, or a dict: a step is along as much of
            that mean as its noise doesn't account for. 0: along each hypergradient, as in the paper.
        hyper_reach: How far a coefficient goes at most in one hyper-step, >= 0: one for all, or a dict; for lr in its
            logarithm. What the running mean has gathered counts by exp(-distance / hyper_reach) once the coefficient
            has moved. 0: any distance, and nothing is forgotten, as in the paper.
        hyper_fall: Steps, >= 0: until step t a learned lr falls to no less than 1 / (1 + t / hyper_fall) of where it
            starts, or of where shapes say (`lr_init`), whichever is lower. 0, or without a matrix: it may fall at once.
        hyper_rise: How far steps have to agree before a learned lr rises above its start, in [0, 1). Each step's
            hypergradient, over its root mean square, counts by at most 1 for a larger lr or against it, less
            `hyper_rise`. Whenever their sum exceeds its largest value so far, 0 at the start, the highest lr allowed
            rises, by `hyper_reach` for each 1 - hyper_rise; it never falls. `hyper_memory` is needed. 0: lr may rise
            at once.
        hyper_optimizer: Takes the place of the paper's hyper-step: makes a `torch.optim.Optimizer` (another of this
            library too: a tower) from a list of tensors, one per learned coefficient, 1-d with an entry per scope.
            `hyper_lr` and `hyper_momentum` are then unused.
        bounds: (low, high) by learned coefficient, for lr of its factor on the `lr` of its group; the rule's interval
            for the others.
        horizon: Decay of the trace that lr is learned from, in [0, 1): its hypergradient looks back over some
            1 / (1 - horizon) steps. 0: the paper's, of one step. The other coefficients' always are of one step. The
            trace is of what the weights have really moved, whoever moved them; a hypergradient of one step takes it
            that they are left as the step left them.
        matrix_lr_ratio: Learning rate of hidden weight matrices over `lr`, which is that of all else; >= 0. For rules
            that tell them apart; a group may have its own.
        lr_init: Where a learned lr starts. "lr": at `lr`. "shape": where the sizes of the hidden matrices say
            (`mada_optim.initial_lr`), whatever `lr` is; at `lr` if there is no matrix. A number: there. The start is
            written into each group's `lr`, so that schedulers and logs see it; groups with several `lr` keep their
            ratios, and the largest starts there. What is learned is a factor on it, which starts at 1.
        scope: Over what a learned coefficient is one: "global" (all groups, as in the paper), "group" or "tensor".
        engine: "eager" is the reference loop; "cpu" is C++ loops, written from the rule and compiled on demand, for
            dense fp32 tensors; "tiled" moves the same ones without a compiler, several times slower; "triton" is
            kernels on CUDA, for bf16 and fp16 too, where Triton is installed; "auto" is the fastest to be had.
            `opt.engine` names what runs, `opt.engine_reasons` why.
        maximize: Steps along the gradient instead of against it.
        state_dtype: Dtype of the slots per element. None: fp32, or fp64 for fp64 parameters. The anchor of lr's trace
            is never narrower than that.
        reduce_group: Process group over which parameters are sharded, or shared out: hypergradients are summed over it,
            and so is what `lr_init="shape"` takes from shapes; a gradient that is not finite stops the step on all of
            it. Groups say then which matrices are hidden (`matrix`), as none sees all of them. For DTensors, as of
            FSDP2's `fully_shard`, it follows from their layout, and None is right; so it is where each process has
            whole parameters, as with DDP.
        options: Starting values of the rule's other coefficients, and its hyper-parameters, by name.

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
    """

    preset: ClassVar[Preset] = Preset("mada", "all", lr=1e-3)
    _given: Mapping[str, Any]

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """Keeps the keywords for the constructor: a wrapper may repeat them in each group."""
        self = super().__new__(cls)
        self._given = given
        return self

    @modes.neutral()
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
        weight_decay: float = 0.0,
        *,
        rule: str | Rule | None = None,
        guard: bool | Guard = False,
        learn: str | Iterable[str] | None = None,
        hyper_lr: float | Mapping[str, float] | None = None,
        hyper_momentum: float | Mapping[str, float] | None = None,
        hyper_clip: float = 10.0,
        hyper_start: int = 50,
        hyper_stop: int | None = None,
        hyper_freeze: float = 0.0,
        hyper_memory: float | Mapping[str, float] | None = None,
        hyper_averaging: float | Mapping[str, float] | None = None,
        hyper_reach: float | Mapping[str, float] | None = None,
        hyper_fall: float = 0.0,
        hyper_rise: float = 0.0,
        hyper_optimizer: HyperOptimizerFactory | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        horizon: float = 0.0,
        matrix_lr_ratio: float = 1.0,
        lr_init: str | float = "lr",
        scope: str = "global",
        engine: str = "auto",
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
        **options: float,
    ) -> None:
        self.rule = find_rule(self.preset.rule_for(learn) if rule is None else rule)
        if guard is not False:
            self.rule = guarded(self.rule, find_guard(guard))
        self.learned = checks.learned_names(self.rule, self.preset.learn if learn is None else learn)
        self.intervals = checks.intervals(self.rule, bounds, self.learned)
        self.state_dtype = checks.state_dtype(state_dtype)
        self.reduce_group = reduce_group
        traced = checks.horizon(horizon, self.learned) > 0
        one_step = [q for q in self.learned if not (traced and q == LR.name)]
        self._memory = eager.Memory(last_update=bool(one_step), trace=traced)
        self._learner = learning.learner(
            self.rule,
            self.intervals,
            hyper_lr=hyper_lr,
            hyper_momentum=hyper_momentum,
            hyper_clip=hyper_clip,
            hyper_start=hyper_start,
            hyper_stop=hyper_stop,
            hyper_freeze=hyper_freeze,
            hyper_memory=hyper_memory,
            hyper_averaging=hyper_averaging,
            hyper_reach=hyper_reach,
            hyper_fall=hyper_fall,
            hyper_rise=hyper_rise,
        )
        self._bank = Bank(self.learned, checks.scope(scope), self._learner)
        self._step_count = StepCount(type(self).__name__)
        self._cells = self._new_cells()
        self._requested_engine = checks.engine(engine)
        self._dispatcher = Dispatcher(engine, self.rule, self.learned, traced, self.state_dtype)
        self._steady = Steady(self._cells, self._dispatcher)
        self._external: ExternalLearner | None = None
        self._lr_floor = self.intervals[LR.name].low if LR.name in self.learned else 0.0
        self._incoming: dict[str, Any] = {}
        self._observed: Observation | None = None

        defaults: dict[str, Any] = {"weight_decay": weight_decay, "maximize": maximize, "eps": 0.0, "horizon": horizon}
        defaults["lr"] = self.preset.lr if lr is None else lr
        defaults[matrices.LR_RATIO] = matrix_lr_ratio
        defaults.update(self.rule.hyper_parameters)
        defaults.update({q.name: q.default for q in self.rule.coefficients})
        defaults.update(checks.rule_keywords(self.rule, betas, options))
        if eps is not None:
            defaults["eps"] = eps
        self._option_names = tuple(defaults)
        self._keys = GroupKeys(type(self), self.rule, self.learned, defaults, self.__dict__.pop("_given", {}))
        params = list(params) if isinstance(params, Iterator) else params
        super().__init__(params, defaults)
        if self._keys.constructed() and self.learned and reduce_group is None:
            shards.require_one_process(type(self).__name__)
        own = [isinstance(x, dict) and "lr" in x for x in params] if lr_init == "auto" else []
        self._start_lr(checks.lr_init(lr_init, self.learned), own)

        self._learner = self._learner.on(self._home, eager.scalar_dtype(self._home))
        if hyper_optimizer is not None and self.learned:
            leaves = [self._bank.columns[option_key(q)] for q in self.learned]
            self._external = ExternalLearner(hyper_optimizer, leaves)

    @modes.neutral()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, which start at t = 1 and, with `scope="global"`, share the learned coefficients.

        Raises:
            ValueError: A value is not allowed, a parameter is named twice, the group names its own value of a
                coefficient that is learned for all groups, or a hyper_optimizer has learned for others already.
        """
        betas = None
        if isinstance(param_group, dict):
            self._keys.check(param_group)
            own = {key: x for key, x in param_group.items() if key != "betas"}
            betas = param_group.get("betas")
            also: dict[str, float] = {q: own[q] for q in ("beta1", "beta2") if q in own}
            param_group = {**own, **checks.rule_keywords(self.rule, betas, also)}
            if isinstance(param_group["params"], Iterator):  # can be read once
                param_group["params"] = list(param_group["params"])
            checks.group(self.rule, {**self.defaults, **param_group}, self.intervals)
            if self._bank.scope == "global" and self._bank.rows:
                checks.ties({q: x for q, x in param_group.items() if q in self.learned}, self.param_groups[0])
            checks.room(self._external is not None, self._bank.scope)
            if self.reduce_group is not None and self.rule.matrix_weight is not None:
                checks.matrix_said(param_group)
        super().add_param_group(param_group)
        self._observed = None  # which has no row for a new scope
        self._sort_matrices()
        self._attach_coefficients(param_group)
        self._keys.added(param_group, betas)
        self._cells.take(self.param_groups)
        for layout in set(matrices.flags(self.rule, param_group)):
            seen = matrices.seen(self.rule, param_group, layout)
            self._dispatcher.prepare(corners(self.rule, seen, ()), self._home)  # what is learned is a tensor

    def _sort_matrices(self) -> None:
        """Says in each group which parameters have hidden weight matrices, and where, until their state is begun."""
        if not self.rule.pointwise:
            decided = matrices.decided(self.rule, self.param_groups)
            for group, flags in zip(self.param_groups, decided, strict=True):
                if not any(self.state.get(p) for p in group["params"]):
                    group[matrices.FLAGS] = flags

    def _attach_coefficients(self, group: dict[str, Any]) -> None:
        """The learned coefficients become views of the bank's; of the others, those at a corner stay plain numbers."""
        self._settle(group)
        if self.learned:
            start = {option_key(q): group[q] if q != LR.name else LR.default for q in self.learned}
            if self._learner.fall < math.inf:
                start[LR_FLOOR] = self._lr_floor
            if self._learner.rise:
                start[LR_CEILING] = LR.default
            tensors = {key: eager.scalar(x, self._home) for key, x in start.items()}
            self._bank.add_group(tensors, len(group["params"]))
            self._bank.attach(self.param_groups)

    def _start_lr(self, wanted: str | float, own: list[bool]) -> None:
        """Writes into each group's lr where it starts; groups keep their ratios, the largest starts at the one wanted.

        But for those with an lr of their `own`, by group, if that is to stay. And, if a learned lr is to fall slowly,
        from where.
        """
        free = [group for i, group in enumerate(self.param_groups) if not any(own[i : i + 1])]
        largest = initial_lr.largest(free or self.param_groups)
        slowly = self._learner.fall < math.inf
        if LR.name not in self.learned or not largest > 0:
            return
        where = (self.rule, self.param_groups, self._over_parts)
        of_shapes = initial_lr.of_shapes(*where) if slowly or wanted in ("shape", "auto") else None
        first = of_shapes if wanted in ("shape", "auto") else wanted
        if isinstance(first, float):
            initial_lr.rescale([self.defaults, *free] if free else [], first / largest)
            largest = initial_lr.largest(self.param_groups)
        if slowly and of_shapes is not None:
            self._lr_floor = min(LR.default, math.log(of_shapes / largest))
            self._bank.columns[LR_FLOOR].fill_(self._lr_floor)

    def _over_parts(self, x: Tensor) -> Tensor:
        """The sum over the processes that have other parameters, where there are such."""
        return x if self.reduce_group is None else shards.summed(x, [self.reduce_group], self._home.type)

    def _settle(self, group: dict[str, Any]) -> None:
        """Coefficients that are not learned: at a corner plain numbers, which `specialize` reads; else 0-d tensors.

        An eps of 0 becomes the smallest normal number, so that an element without a gradient moves by 0, not 0/0.
        """
        if "eps" in self.rule.hyper_parameters:
            group["eps"] = max(float(group["eps"]), torch.finfo(torch.float32).tiny)
        for name in self.rule.coefficient_names():
            if name not in self.learned:
                value = float(group[name])
                group[name] = value if is_corner(value) else eager.scalar(value, self._home)

    @property
    def _home(self) -> torch.device:
        """Where the learned coefficients live: with the first parameter."""
        params = (p for group in self.param_groups for p in group["params"])
        return next((x.device for x in chain(self._bank.columns.values(), params)), torch.device("cpu"))

    def _new_cells(self) -> Cells:
        name = type(self).__name__
        return Cells(name, self.rule, self.learned, self._memory, self._bank, self.state_dtype)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @modes.opaque
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on the gradients as they stand; they are read, and left as they are.

        What it computes doesn't depend on the modes that the caller is in: autocast, inference mode, gradients on or
        off. torch.compile calls it as it is.

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
        with modes.neutral():
            self._step()
        return loss

    def _step(self) -> None:
        self._keys.settle(self.param_groups)
        work = self._steady.work(self.param_groups, self.state)
        observed, self._observed = self._observed, None
        if not work.scopes and self.reduce_group is None:
            return
        home = self._home
        counts = self._active(work.scopes)
        if observed is None:
            finite, h = self._reduce(*work.hypergradients(self.learned, self._bank.rows, home))
        else:
            finite, _ = self._reduce(work.usable(home), observed.h[:0])  # the others have been summed
            h, counts = observed.h, counts & observed.seen
        if self.learned:
            lrs = [eager.scalar(group["lr"], home) for group in self.param_groups] if self._learner.freeze else []
            hyper_step(self._bank, self._learner, self._external, lrs, h, finite & counts)
        work.advance(finite)
        self._step_count.add(finite)

    @modes.opaque
    def observe(self, grad_scale: float | Tensor = 1.0, group: Any = None) -> None:
        """Takes the hypergradients from the gradients as they stand now; the next `step` uses them instead of its own.

        Nothing moves, and no gradient is kept: clip, add to, zero or replace the gradients afterwards. What a
        coefficient does to the loss may so be told by another gradient than the weights follow: by one that is not
        clipped yet, by that of one micro-batch, or of a held-out batch.

            loss.backward()
            opt.observe()
            clip_grad_norm_(model.parameters(), 1.0)
            opt.step()

        The next step uses what was observed last, once: also a step whose gradient is not finite, which changes
        nothing. Whether a step counts is always decided by its own gradients. If an observed hypergradient is not
        finite, the coefficients of its scope stay in that step, and the weights move. A scope of which no parameter has
        a gradient here rests in that step, as one without a gradient in the step does. Before the first update all
        hypergradients are 0, here as in `step`.

        `load_state_dict` and `add_param_group` drop what was observed. `state_dict` doesn't contain it: save between
        steps, not between `observe` and `step`. Copies by pickle or `copy.deepcopy` do.

        With DTensors, as of FSDP2's `fully_shard`, and with `reduce_group`, all processes must call it, as they must
        call `step`; what they find is summed.

        Args:
            grad_scale: What the loss was multiplied by, a number or a 0-d tensor, such as `scaler.get_scale()` of a
                `GradScaler` whose `unscale_` comes later. Hypergradients are divided by it.
            group: Process group whose members have gradients of their own, as DDP leaves them within `no_sync`, and
                must all call this. Hypergradients are averaged over it. None: gradients are averaged already.

        Raises:
            RuntimeError: Nothing is learned, no parameter has a gradient, or a gradient is sparse.
            ValueError: `grad_scale` is no positive number, or this process is not in `group`.
        """
        if not self.learned:
            raise RuntimeError(
                f"{type(self).__name__}.observe: expected learned coefficients, got none; name them in `learn`, or "
                "leave the call out where opt.learned is empty"
            )
        with modes.neutral():
            self._keys.settle(self.param_groups)
            work = self._steady.work(self.param_groups, self.state, begin=False)
            scopes = self._cells.scopes_of_gradients(self.param_groups)
            if not scopes and self.reduce_group is None:
                raise RuntimeError(
                    f"{type(self).__name__}.observe: expected gradients, got None for every parameter; call it between "
                    "backward() and zero_grad(), and with fully_shard while gradients are synchronized"
                )
            _, h = self._reduce(*work.hypergradients(self.learned, self._bank.rows, self._home))
            observed = Observation(h, self._active(scopes)).unscaled(grad_scale)
            self._observed = observed if group is None else observed.averaged(group)

    @property
    def skipped_steps(self) -> int:
        """How many steps changed nothing, as a gradient was not finite, since construction or `load_state_dict`.

        Reads from the device. A warning says, once, that all steps so far were skipped, here and where `coefficients`
        or `state_dict` is read.
        """
        return self._step_count.read()[1]

    @property
    def engine(self) -> str:
        """What runs: "cpu", "tiled" or "triton" (and "eager" for tensors that these don't take), or "eager" for all."""
        return self._dispatcher.engine

    @property
    def engine_reasons(self) -> list[str]:
        """Why there are no compiled loops or kernels, for each form of the rule that has none; empty where all have."""
        return list(self._dispatcher.reasons)

    @property
    def learner(self) -> Learner:
        """The hyper-step of the learned coefficients: its numbers, and its pure functions."""
        return self._learner

    @property
    def hyper_optimizer(self) -> Optimizer | None:
        """What learns the coefficients, where `hyper_optimizer` was given: the next storey of a tower."""
        return None if self._external is None else self._external.optimizer

    def _reduce(self, finite: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the shards in one message; a shard that is not finite stops the step on all of them."""
        if self.reduce_group is None:
            params = (p for group in self.param_groups for p in group["params"])
            groups, device_type = shards.reduction(params)
        else:
            groups, device_type = [self.reduce_group], h.device.type
        if not groups:
            return finite, h
        message = shards.summed(torch.cat([h.flatten(), (~finite).to(h.dtype).reshape(1)]), groups, device_type)
        return message[-1] == 0, message[:-1].reshape(h.shape)

    def _active(self, scopes: set[int]) -> Tensor:
        """By scope (rows,): does this step have a gradient for any of it? The others' learners rest."""
        rows = scopes if self.reduce_group is None else set(range(self._bank.rows))
        active = torch.full((self._bank.rows,), len(rows) == self._bank.rows, device=self._home)
        for row in rows if len(rows) < self._bank.rows else ():
            active[row] = True
        return active

    def coefficients(self) -> Reading:
        """The coefficients by name. Reads from the device; changes nothing.

        A learned lr is given as it is applied: the scheduled one times the learned factor. With `scope="global"` the
        values are those of the first group; with "group" or "tensor" there is a dict for each group (by its `name`, or
        its number) or parameter (by its name, or "group.number"); to a name that repeats, the number is added.
        """
        self._keys.settle(self.param_groups)
        self._step_count.read()
        return by_scope(self._bank.scope, self.param_groups, self._coefficients_of)

    def hypergradients(self) -> Reading:
        """The hypergradients of the last step, its own or those that it took from `observe`, before clipping.

        In the shape of `coefficients`; 0.0 where nothing is learned.
        """
        return by_scope(self._bank.scope, self.param_groups, self._hypergradients_of)

    def _coefficients_of(self, group: Mapping[str, Any], parameter: int) -> dict[str, float]:
        options = self._cells.options(group, parameter)
        values = {name: float(options[name]) for name in self.rule.coefficient_names()}
        if LR.name in self.learned:
            values[LR.name] = float(eager.learning_rate(options, self._home))
        return values

    def _hypergradients_of(self, group: Mapping[str, Any], parameter: int) -> dict[str, float]:
        h = dict.fromkeys(self.rule.coefficient_names(), 0.0)
        if self.learned:
            h.update(zip(self.learned, self._cells.options(group, parameter)["hypergradient"].tolist(), strict=True))
        return h

    def memory(self) -> Bill:
        """What the state costs, or will cost after the first step, on this process. `print` it for a table."""
        return Bill.of(
            (x, self._cells.new_state(self._cells.form(group, j), eager.canvas(x.detach()).to("meta")))
            for group in self.param_groups
            for j, x in enumerate(map(shards.local, group["params"]))
        )

    @modes.neutral()
    def slots(self, p: Tensor) -> dict[str, Tensor]:
        """The slots of the parameter `p` after its last update, by name; empty before its first. Changes nothing."""
        if not self.state.get(p):
            return {}
        places = ((group, j) for group in self.param_groups for j, x in enumerate(group["params"]) if x is p)
        return self._cells.slots(p, self.state[p], *next(places))

    def state_dict(self) -> dict[str, Any]:
        """As in torch.optim; the coefficients in it are copies, which later steps don't change.

        What `observe` has taken for the next step isn't in it.

        What belongs to a DTensor element by element is a DTensor of the same layout.
        """
        self._keys.settle(self.param_groups)
        self._step_count.read()
        first = self.register_state_dict_post_hook(lambda _, ours: self._completed(ours), prepend=True)
        try:
            with modes.neutral():
                return super().state_dict()
        finally:
            first.remove()

    def _completed(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        state_dict["param_groups"] = [snapshot.cloned(group) for group in state_dict["param_groups"]]
        state_dict["state"] = snapshot.whole(self.param_groups, state_dict, self.rule)
        if self._external is not None:
            state_dict["hyper_optimizer"] = self._external.optimizer.state_dict()
        return state_dict

    @modes.neutral()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch.optim, except that no state is rounded to its parameter's dtype, and that names count.

        Where both sides know the names of all parameters (`named_parameters`), each gets the state of its name, in
        whatever order they and their groups are; a prefix such as DDP's `module.` makes no other name. `learn` and what
        belongs to it stay as this optimizer was built.

        Raises:
            ValueError: The state is of another rule or `learn`, a slot has another shape, or a name is on one side
                alone; nothing is changed.
        """
        last = self.register_load_state_dict_pre_hook(lambda _, final: self._receive(final))  # after the user's hooks
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
            self._incoming = {}

    def _receive(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        found = by_name.order(self.param_groups, state_dict)
        if found is not None:
            state_dict = self._arranged(state_dict, found)
        what = (self.rule, self.learned, self._memory, self.param_groups)
        snapshot.check(*what, state_dict, tower=self._external is not None)
        for group in state_dict["param_groups"]:
            self._keys.check(group)
        self._incoming = state_dict
        return state_dict

    def _arranged(self, state_dict: dict[str, Any], found: by_name.Order) -> dict[str, Any]:
        """A state in the order of our parameters, also where it has a row for each scope."""
        of_each = self._bank.columns if self._bank.scope == "tensor" else ()
        arranged = by_name.arranged(self.param_groups, state_dict, found, (matrices.FLAGS, *of_each))
        rows = {"tensor": found.rows, "group": found.groups}.get(self._bank.scope)
        if rows and self._external is not None and "hyper_optimizer" in arranged:
            above = self._external.optimizer
            per_row = eager.per_element(above.rule) if isinstance(above, HyperOptimizer) else None
            of_tower = by_name.rearranged_rows(arranged["hyper_optimizer"], rows, per_row)
            arranged["hyper_optimizer"] = of_tower
        return arranged

    def _restore(self) -> None:
        """Puts right what torch has loaded: dtypes, views, and what an older version did otherwise."""
        self._step_count, self._observed = StepCount(type(self).__name__), None
        self._keys.loaded(self.param_groups)
        for group in self.param_groups:
            group.update({name: self.defaults[name] for name in self._option_names if name not in group})
            self._settle(group)
        self._bank.adopt(self.param_groups)
        self._cells.take(self.param_groups)
        self.state.update(snapshot.restored(self.param_groups, self._incoming, self._cells.form, self.rule))
        if self._external is not None:
            self._external.optimizer.load_state_dict(self._incoming["hyper_optimizer"])

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and deepcopy take along, beside what torch.optim's own optimizers do."""
        own = ("rule", "learned", "intervals", "state_dtype", "reduce_group")
        private = (
            "_lr_floor",
            "_keys",
            "_step_count",
            "_observed",
            "_bank",
            "_memory",
            "_learner",
            "_external",
            "_requested_engine",
            "_option_names",
        )
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in (*own, *private)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes up what `__getstate__` gave, or from `load_state_dict` state and groups alone."""
        super().__setstate__(state)
        if "_bank" not in state:
            self._restore()
            return
        self._incoming = {}
        self._cells = self._new_cells()
        self._cells.take(self.param_groups)
        self._dispatcher = Dispatcher(
            self._requested_engine, self.rule, self.learned, self._memory.trace, self.state_dtype
        )
        self._steady = Steady(self._cells, self._dispatcher)
        self._bank.attach(self.param_groups)  # compiled loops can't travel, and are looked up anew


def find_rule(rule: str | Rule) -> Rule:
    """The rule of this name, or the one given. Raises ValueError, with the nearest name, if there is none."""
    if isinstance(rule, Rule):
        return rule
    return RULES[checks.member("rule", rule, RULES, "the registry is mada_optim.rules.RULES")]
