"""HyperOptimizer: any rule as a `torch.optim.Optimizer` that learns the rule's coefficients while it trains."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Self, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from mada_optim import checks, load_by_name, modes, state_dicts
from mada_optim.beta_guard import Guard, betas, guarded, require_guard
from mada_optim.engines import eager
from mada_optim.graph.specialize import corners, is_corner
from mada_optim.group_keys import GroupKeys
from mada_optim.inspection import Bill, Reading, by_scope, described
from mada_optim.learning.banks import Banks, Learn
from mada_optim.learning.learner import Learner
from mada_optim.learning.observation import Observation
from mada_optim.learning.tower_state import fitting
from mada_optim.matrices import hidden_matrices, start_lr
from mada_optim.rule import LR, Rule
from mada_optim.rules import RULES
from mada_optim.sharding import dtensors
from mada_optim.step_count import StepCount
from mada_optim.stepping.collect import Cells
from mada_optim.stepping.dispatch import Dispatcher
from mada_optim.stepping.reuse import Steady


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
            parameter. False: none is a matrix. Without it, shapes and names decide
            (`mada_optim.matrices.hidden_matrices`).
        lr: Learning rate, >= 0; a float or a 0-d tensor, which schedulers set as in torch.optim. "auto": the start is
            computed from the shapes of the matrices (`mada_optim.matrices.start_lr`), and written into each group's
            `lr`, but for groups that have their own; 1e-3 where no parameter is a matrix. A learned lr is a factor on
            it.
        rule: Name in `mada_optim.rules.RULES`, or a `Rule`.
        learn: What is learned: names of coefficients, "all" for every one of the rule's, or () for none; they are
            learned by the paper's hyper-step, `HyperSGD`. Or a `Learner`, or a list of learners and names, of different
            coefficients. "lr" may be named too: a factor on the lr that is set or scheduled, whose logarithm is
            learned. It decides nothing else.
        weight_decay: Decoupled: a step multiplies weights by 1 - lr * weight_decay.
        guard: Keeps the betas in a safe range (`mada_optim.beta_guard`), of rules with Adam's two averages; None: they
            are used as they are.
        matrix_lr_ratio: Learning rate of hidden weight matrices over `lr`, which is that of all else; >= 0. For rules
            that tell them apart; a group may have its own.
        maximize: Steps along the gradient instead of against it.
        engine: "eager" is the reference loop; "cpu" is C++ loops, written from the rule and compiled on demand, for
            dense fp32 tensors; "tiled" moves the same ones without a compiler, several times slower; "triton" is
            kernels on CUDA, for bf16 and fp16 too, where Triton is installed; "auto" is the fastest to be had.
            `opt.engine` names what runs, `opt.engine_reasons` why.
        state_dtype: Dtype of the slots per element. None: fp32, or fp64 for fp64 parameters. The anchor of lr's trace
            is never narrower than that.
        reduce_group: Process group over which parameters are sharded, or shared out: hypergradients are summed over it,
            and so is what `lr="auto"` takes from shapes; a gradient that is not finite stops the step on all of it.
            Groups say then which matrices are hidden (`matrix`), as none sees all of them. For DTensors, as of
            FSDP2's `fully_shard`, it follows from their layout, and None is right; so it is where each process has
            whole parameters, as with DDP.
        options: Starting values of the rule's coefficients, and its hyper-parameters, by name; `betas` is the pair
            (beta1, beta2).

    Raises:
        ValueError: A value is outside what is allowed; the message says what is.
    """

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
        lr: float | Tensor | str = 1e-3,
        *,
        rule: str | Rule = "mada",
        learn: Learn = (),
        weight_decay: float = 0.0,
        guard: Guard | None = None,
        matrix_lr_ratio: float = 1.0,
        maximize: bool = False,
        engine: str = "auto",
        state_dtype: torch.dtype | None = None,
        reduce_group: Any = None,
        **options: Any,
    ) -> None:
        self._guard = require_guard(guard)
        self.rule = find_rule(rule) if guard is None else guarded(find_rule(rule), guard)
        self._banks = Banks(self.rule, learn)
        self.learned = self._banks.names
        self.state_dtype = checks.state_dtype(state_dtype)
        self.reduce_group = reduce_group
        traced = self._banks.horizon > 0
        one_step = [q for q in self.learned if not (traced and q == LR.name)]
        self._memory = eager.Memory(last_update=bool(one_step), trace=traced)
        self._step_count = StepCount(type(self).__name__)
        self._cells = self._new_cells()
        self._requested_engine = checks.engine(engine)
        self._dispatcher = Dispatcher(engine, self.rule, self.learned, traced, self.state_dtype)
        self._steady = Steady(self._cells, self._dispatcher)
        self._incoming: dict[str, Any] = {}
        self._observed: Observation | None = None

        defaults: dict[str, Any] = {"weight_decay": weight_decay, "maximize": maximize, "eps": 0.0}
        defaults |= {"lr": start_lr.WITHOUT_MATRICES if lr == "auto" else lr, "horizon": self._banks.horizon}
        defaults[hidden_matrices.LR_RATIO] = matrix_lr_ratio
        defaults.update(self.rule.hyper_parameters)
        defaults.update({q.name: q.default for q in self.rule.coefficients})
        defaults.update(checks.rule_keywords(self.rule, options))
        self._option_names = tuple(defaults)
        self._keys = GroupKeys(type(self), self.rule, self.learned, defaults, self.__dict__.pop("_given", {}))
        params = list(params) if isinstance(params, Iterator) else params
        super().__init__(params, defaults)
        if self._keys.constructed() and self.learned and reduce_group is None:
            dtensors.require_one_process(type(self).__name__)
        if lr == "auto":
            self._start_lr([isinstance(x, dict) and "lr" in x for x in params])
        self._banks.begin(self._lr_floor())
        self._banks.attach(self.param_groups)

    @modes.neutral()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, which start at t = 1 and, with `scope="global"`, share the learned coefficients.

        Raises:
            ValueError: A value is not allowed, a parameter is named twice, the group names its own value of a
                coefficient that is learned for all groups, or a HyperTorch has made its optimizer for other scopes.
        """
        betas = None
        if isinstance(param_group, dict):
            self._keys.check(param_group)
            own = {key: x for key, x in param_group.items() if key != "betas"}
            betas = param_group.get("betas")
            given: dict[str, Any] = {q: param_group[q] for q in ("betas", "beta1", "beta2") if q in param_group}
            param_group = {**own, **checks.rule_keywords(self.rule, given)}
            if isinstance(param_group["params"], Iterator):  # can be read once
                param_group["params"] = list(param_group["params"])
            options = {**self.defaults, **param_group}
            checks.group(self.rule, options, self._banks.intervals)
            checks.has_effect(self.rule, options, self._memory.trace)
            if self._guard is not None:
                self._guard.require_used(options["beta2"])
            for bank in self._banks.banks if self.param_groups else ():
                if bank.scope == "global":
                    checks.ties({q: x for q, x in param_group.items() if q in bank.names}, self.param_groups[0])
                checks.room(bool(bank.optimizers), bank.scope)
            if self.reduce_group is not None and self.rule.matrix_weight is not None:
                checks.matrix_said(param_group)
        super().add_param_group(param_group)
        self._observed = None  # which has no row for a new scope
        self._sort_matrices()
        self._attach_coefficients(param_group)
        self._keys.added(param_group, betas)
        self._cells.take(self.param_groups)
        for layout in set(hidden_matrices.flags(self.rule, param_group)):
            seen = hidden_matrices.seen(self.rule, param_group, layout)
            self._dispatcher.prepare(corners(self.rule, seen, ()), self._home)  # what is learned is a tensor

    def _sort_matrices(self) -> None:
        """Says in each group which parameters have hidden weight matrices, and where, until their state is begun."""
        if not self.rule.pointwise:
            decided = hidden_matrices.decided(self.rule, self.param_groups)
            for group, flags in zip(self.param_groups, decided, strict=True):
                if not any(self.state.get(p) for p in group["params"]):
                    group[hidden_matrices.FLAGS] = flags

    def _attach_coefficients(self, group: dict[str, Any]) -> None:
        """The learned coefficients become views of the bank's; of the others, those at a corner stay plain numbers."""
        self._settle(group)
        start = {q: eager.scalar(group[q] if q != LR.name else LR.default, self._home) for q in self.learned}
        self._banks.add_group(start, len(group["params"]))
        self._banks.attach(self.param_groups)

    def _start_lr(self, own: list[bool]) -> None:
        """Writes the lr that shapes say into each group that has none of its `own`, and into later ones."""
        free = [group for i, group in enumerate(self.param_groups) if not any(own[i : i + 1])]
        start = start_lr.of_shapes(self.rule, self.param_groups, self._over_parts)
        if start is not None:
            start_lr.rescale([self.defaults, *free], start / start_lr.WITHOUT_MATRICES)

    def _lr_floor(self) -> float | None:
        """Where a learned lr falls slowly from: ln of the lr that shapes say over the one that is set, at most 0."""
        largest = start_lr.largest(self.param_groups)
        if LR.name not in self.learned or not largest > 0:
            return None
        start = start_lr.of_shapes(self.rule, self.param_groups, self._over_parts)
        return None if start is None else min(LR.default, math.log(start / largest))

    def _over_parts(self, x: Tensor) -> Tensor:
        """The sum over the processes that have other parameters, where there are such."""
        return x if self.reduce_group is None else dtensors.summed(x, [self.reduce_group], self._home.type)

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
        return next((x.device for x in chain(self._banks.columns().values(), params)), torch.device("cpu"))

    def _new_cells(self) -> Cells:
        name = type(self).__name__
        return Cells(name, self.rule, self.learned, self._memory, self._banks, self.state_dtype)

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
        if observed is None:
            finite, h = self._reduce(*work.hypergradients(self.learned, self._banks.rows, home))
        else:
            finite, _ = self._reduce(work.usable(home), observed.h[:0])  # those that are used have been summed
            h = observed.h
        if self.learned:
            counts = finite & self._active(work.scopes)
            self._banks.step(h, counts if observed is None else counts & observed.seen, self._lrs)
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
            _, h = self._reduce(*work.hypergradients(self.learned, self._banks.rows, self._home))
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
    def learners(self) -> tuple[Learner, ...]:
        """What moves the learned coefficients."""
        return self._banks.learners

    @property
    def hyper_optimizers(self) -> list[Optimizer]:
        """The optimizers that `HyperTorch` learners have made: the next storey of a tower."""
        return self._banks.optimizers

    def __repr__(self) -> str:
        """The rule, what is learned, by which learner and over which scope, and the options of each group."""
        return described(type(self).__name__, self.rule, self._banks.learned_by(), self.param_groups)

    def _lrs(self) -> list[Tensor]:
        """The scheduled learning rate of each group, 0-d."""
        return [eager.scalar(group["lr"], self._home) for group in self.param_groups]

    def _reduce(self, finite: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the shards in one message; a shard that is not finite stops the step on all of them."""
        if self.reduce_group is None:
            params = (p for group in self.param_groups for p in group["params"])
            groups, device_type = dtensors.reduction(params)
        else:
            groups, device_type = [self.reduce_group], h.device.type
        if not groups:
            return finite, h
        message = dtensors.summed(torch.cat([h.flatten(), (~finite).to(h.dtype).reshape(1)]), groups, device_type)
        return message[-1] == 0, message[:-1].reshape(h.shape)

    def _active(self, scopes: set[int]) -> Tensor:
        """By scope (rows,): does this step have a gradient for any of it? The others' learners rest."""
        rows = scopes if self.reduce_group is None else set(range(self._banks.rows))
        active = torch.full((self._banks.rows,), len(rows) == self._banks.rows, device=self._home)
        for row in rows if len(rows) < self._banks.rows else ():
            active[row] = True
        return active

    def coefficients(self) -> Reading:
        """The coefficients by name, as the next step applies them. Reads from the device; changes nothing.

        Guarded betas are given as the guard gives them to the rule, and a learned lr as the scheduled one times the
        learned factor. With the scope "global" the values are those of the first parameter that was stepped, and its
        group; with "group" or "tensor" there is a dict for each group (by its `name`, or its number) or parameter (by
        its name, or "group.number"); to a name that repeats, the number is added. Of several scopes, the finest counts.
        """
        self._settle_groups()
        self._step_count.read()
        return by_scope(self._banks.scope, self.param_groups, self._coefficients_of, self._has_stepped)

    def hypergradients(self) -> Reading:
        """The hypergradients of the last step, its own or those that it took from `observe`, before clipping.

        In the shape of `coefficients`; 0.0 where nothing is learned.
        """
        return by_scope(self._banks.scope, self.param_groups, self._hypergradients_of, self._has_stepped)

    def _has_stepped(self, p: Tensor) -> bool:
        return bool(self.state.get(p))

    def _settle_groups(self) -> None:
        """Takes over what was put into groups, as the next step does: a learned coefficient is one for its scope."""
        self._keys.settle(self.param_groups)
        if self._cells.are_as_they_were(self.param_groups):
            with modes.neutral():
                self._cells.adopt(self.param_groups)

    def _coefficients_of(self, group: Mapping[str, Any], parameter: int) -> dict[str, float]:
        options = self._cells.options(group, parameter)
        values: dict[str, Tensor | float] = {name: options[name] for name in self.rule.coefficient_names()}
        if self._guard is not None:
            own = group["params"][parameter : parameter + 1]  # an empty group has none
            step = next((self.state[p]["step"] for p in own if self._has_stepped(p)), None)
            t = eager.scalar(0.0, self._home) if step is None else step.to(self._home)
            values["beta1"], values["beta2"] = betas(options["beta1"], options["beta2"], t + 1, self._guard)
        if LR.name in self.learned:
            values[LR.name] = eager.learning_rate(options, self._home)
        return {name: float(x) for name, x in values.items()}

    def _hypergradients_of(self, group: Mapping[str, Any], parameter: int) -> dict[str, float]:
        options, h = self._cells.options(group, parameter), dict.fromkeys(self.rule.coefficient_names(), 0.0)
        return {**h, **{q: self._banks.hypergradient(q, options) for q in self.learned}}

    def memory(self) -> Bill:
        """What the state costs, or will cost after the first step, on this process. `print` it for a table."""
        return Bill.of(
            (x, self._cells.new_state(self._cells.form(group, j), eager.canvas(x.detach()).to("meta")))
            for group in self.param_groups
            for j, x in enumerate(map(dtensors.local, group["params"]))
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
        self._settle_groups()
        self._step_count.read()
        first = self.register_state_dict_post_hook(lambda _, ours: self._completed(ours), prepend=True)
        try:
            with modes.neutral():
                return super().state_dict()
        finally:
            first.remove()

    def _completed(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        names = self._banks.names_by_key()
        state_dict["param_groups"] = [{**state_dicts.cloned(group), **names} for group in state_dict["param_groups"]]
        state_dict["state"] = state_dicts.whole(self.param_groups, state_dict, self.rule)
        for key, optimizer in self._towers():
            state_dict[key] = optimizer.state_dict()
        return state_dict

    def _towers(self) -> list[tuple[str, Optimizer]]:
        """The optimizers of learners, with the keys of their states."""
        optimizers = [x for bank in self._banks.by_number for x in bank.optimizers]
        return list(zip(state_dicts.tower_keys(len(optimizers)), optimizers, strict=True))

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
        found = load_by_name.order(self.param_groups, state_dict)
        if found is not None:
            state_dict = self._arranged(state_dict, found)
        towers = self._towers()
        if towers:
            state_dict = state_dicts.without_idle_velocity(self.param_groups, state_dict)
        state_dict = state_dicts.unlabelled(self._banks.names_by_key(), state_dict)
        what = (self.rule, self.learned, self._memory, self.param_groups)
        state_dicts.check(*what, state_dict, towers=len(towers))
        state_dict |= {key: fitting(key, optimizer, state_dict[key]) for key, optimizer in towers}
        for group in state_dict["param_groups"]:
            self._keys.check(group)
        self._incoming = state_dict
        return state_dict

    def _arranged(self, state_dict: dict[str, Any], found: load_by_name.Order) -> dict[str, Any]:
        """A state in the order of our parameters, also where it has a row for each scope."""
        of_each = (hidden_matrices.FLAGS, *self._banks.per_parameter())
        arranged = load_by_name.arranged(self.param_groups, state_dict, found, of_each)
        scopes = [bank.scope for bank in self._banks.by_number for _ in bank.optimizers]
        for scope, (key, above) in zip(scopes, self._towers(), strict=True):
            rows = {"tensor": found.rows, "group": found.groups}.get(scope)
            if rows and key in arranged:
                per_row = eager.per_element(above.rule) if isinstance(above, HyperOptimizer) else None
                arranged[key] = load_by_name.rearranged_rows(arranged[key], rows, per_row)
        return arranged

    def _restore(self) -> None:
        """Puts right what torch has loaded: dtypes, views, and what an older version did otherwise."""
        self._step_count, self._observed = StepCount(type(self).__name__), None
        self._keys.loaded(self.param_groups)
        for group in self.param_groups:
            group.update({name: self.defaults[name] for name in self._option_names if name not in group})
            self._settle(group)
        self._banks.adopt(self.param_groups)
        self._cells.take(self.param_groups)
        self.state.update(state_dicts.restored(self.param_groups, self._incoming, self._cells.form, self.rule))
        for key, optimizer in self._towers():
            optimizer.load_state_dict(self._incoming[key])

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and deepcopy take along, beside what torch.optim's own optimizers do."""
        own = ("rule", "learned", "state_dtype", "reduce_group")
        private = (
            "_guard",
            "_keys",
            "_step_count",
            "_observed",
            "_banks",
            "_memory",
            "_requested_engine",
            "_option_names",
        )
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in (*own, *private)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes up what `__getstate__` gave, or from `load_state_dict` state and groups alone."""
        super().__setstate__(state)
        if "_banks" not in state:
            self._restore()
            return
        self._incoming = {}
        self._cells = self._new_cells()
        self._cells.take(self.param_groups)
        self._dispatcher = Dispatcher(
            self._requested_engine, self.rule, self.learned, self._memory.trace, self.state_dtype
        )
        self._steady = Steady(self._cells, self._dispatcher)
        self._banks.adopt(self.param_groups)  # what was put into a group since the last step
        self._banks.attach(self.param_groups)


def find_rule(rule: str | Rule) -> Rule:
    """The rule of this name, or the one given. Raises ValueError, with the nearest name, if there is none."""
    if isinstance(rule, Rule):
        return rule
    return RULES[checks.member("rule", rule, RULES, "the registry is mada_optim.rules.RULES")]
