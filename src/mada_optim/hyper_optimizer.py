"""HyperOptimizer: any rule as a `torch.optim.Optimizer` that learns the rule's coefficients while it trains."""

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from mada_optim import checks, modes
from mada_optim.beta_guard import Guard, guarded, require_guard
from mada_optim.engines.numbers import scalar, settle
from mada_optim.engines.program import Program
from mada_optim.group_keys import GroupKeys
from mada_optim.inspectable import Inspectable
from mada_optim.inspection import Readings
from mada_optim.learning.banks import Banks, Learn
from mada_optim.learning.observation import Observation
from mada_optim.matrices import hidden_matrices, start_lr
from mada_optim.registry import find_rule
from mada_optim.rule import LR, Rule
from mada_optim.sharding import dtensors, replicated
from mada_optim.state_dicts import StateDicts
from mada_optim.stepping.in_graph import GraphStep, zero_grad
from mada_optim.stepping.step import StepCount, Stepper

#: Attributes that copies and pickles take along, beside those of torch.optim; all others are made from these.
KEPT = (
    *("rule", "learned", "state_dtype", "weights", "share_matrices", "reduce_group"),
    *("_guard", "_keys", "_step_count", "_observed", "_banks", "_requested_engine"),
)


class HyperOptimizer(Inspectable):
    """Steps by a rule, and learns the coefficients named in `learn` by hypergradient descent.

    A step checks that all gradients are finite, computes the hypergradients of all tensors, moves the learned
    coefficients, and then moves slots and weights with the new coefficients. A gradient that is not finite, or whose
    square is not, skips the step: weights, state and coefficients stay bit-identical. If only a hypergradient is not
    finite, the coefficients of its scope stay and the weights move.

    Terms that a coefficient fixed at 0 or 1 switches off cost no work and no slots: MADA with Adam's values keeps two
    slots (`memory` shows it). Such a coefficient can't be set to another value later, because slots are missing. Other
    values in a group, as `opt.param_groups[0]["beta1"] = 0.8`, hold from the next step on.

    While coefficients are learned, the state holds the slots *before* the last update and what that update was made
    with: the next hypergradient is its derivative. `slots` returns the slots after it.

    Args:
        params: Parameters, named parameters, or group dicts. A group can set its own lr, eps, weight_decay, maximize,
            hyper-parameters, and coefficients that are not learned for all groups together. Its `matrix` says, for
            rules that orthogonalize, what its parameters of two or more dimensions are. True: each is one matrix, the
            first dimension by all others. "batched": the last two dimensions are a matrix, as for experts. A number n:
            n blocks of rows are a matrix each, as 3 for a fused projection to queries, keys and values. False: none is
            a matrix. Without the key, names and shapes decide (`mada_optim.matrices.hidden_matrices`).
        lr: Learning rate, >= 0; a float or a 0-d tensor, set by schedulers as in torch.optim. "auto": computed from
            the matrix shapes (`mada_optim.matrices.start_lr`) for groups without their own lr; 1e-3 without matrices.
        rule: Name in `mada_optim.rules.RULES`, or a `Rule`.
        learn: What is learned. Names of coefficients, "all" for every one of the rule's, or () for none, are learned
            by the paper's `HyperSGD`. Or a `Learner`, or a list of learners and names for different coefficients. "lr"
            is the logarithm of a factor on the scheduled learning rate; "all" doesn't include it.
        weight_decay: Decoupled, >= 0: a step multiplies weights by 1 - lr * weight_decay.
        guard: Keeps the betas in a safe range (`mada_optim.beta_guard`), for rules with Adam's two averages. None: use
            the betas exactly as passed.
        matrix_lr_ratio: Learning-rate multiplier of hidden matrices, >= 0, for rules that tell them apart. A group can
            set its own.
        maximize: Steps along the gradient instead of against it.
        engine: "eager" is the reference loop. "cpu" is C++ loops, compiled on demand, for dense fp32 tensors, and for
            bf16 and fp16 weights that are rounded stochastically. "tiled" moves fp32 tensors without a compiler,
            several times slower. "triton" is kernels for fp32, bf16 and fp16 on CUDA, if Triton is installed. "auto" is
            the fastest available one. `opt.engine` names it, `opt.engine_reasons` says why a faster one is missing.
        state_dtype: Dtype of the slots with one number per element. None: fp32, or fp64 for fp64 parameters. "8bit":
            a byte, and a scale per block (`mada_optim.engines.eight_bits`). lr's anchor is never below fp32.
        weights: Rounding of bf16 and fp16 weights. None: to nearest. "stochastic": at random, right on average.
        share_matrices: Process group whose members have equal gradients, as under DDP: each orthogonalizes a part of
            the hidden matrices. All must step together. None: each orthogonalizes all; FSDP2's are divided in any case.
        reduce_group: Process group over which parameters are sharded or divided by hand. Hypergradients, and the sums
            for `lr="auto"`, are summed over it, and a gradient that is not finite skips the step on all its processes.
            Every group must then have `matrix`. None: for DDP, and for DTensors (FSDP2's `fully_shard`).
        options: Starting values of the rule's coefficients, and its hyper-parameters, by name; `betas` is the pair
            (beta1, beta2).

    Raises:
        ValueError: A value is not allowed; the message says which values are.
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
        state_dtype: torch.dtype | str | None = None,
        weights: str | None = None,
        share_matrices: Any = None,
        reduce_group: Any = None,
        **options: Any,
    ) -> None:
        self._guard, self._requested_engine = require_guard(guard), checks.engine(engine)
        self.rule = find_rule(rule) if guard is None else guarded(find_rule(rule), guard)
        self._banks = Banks(self.rule, learn)
        self.learned = self._banks.names
        self.state_dtype, self.weights = checks.state_dtype(state_dtype), checks.weights(weights)
        checks.share_matrices(self.rule, share_matrices, reduce_group)
        self.share_matrices, self.reduce_group = share_matrices, reduce_group
        self._step_count = StepCount(type(self).__name__)
        self._observed: Observation | None = None

        defaults: dict[str, Any] = {
            **{"lr": start_lr.WITHOUT_MATRICES if lr == "auto" else lr, "weight_decay": weight_decay, "eps": 0.0},
            **{"maximize": maximize, "horizon": self._banks.horizon, hidden_matrices.LR_RATIO: matrix_lr_ratio},
            **self.rule.hyper_parameters,
            **{q.name: q.default for q in self.rule.coefficients},
            **checks.rule_keywords(self.rule, options),
        }
        self._keys = GroupKeys(type(self), self.rule, self._banks, defaults, self.__dict__.pop("_given", {}))
        self._build()
        params = list(params) if isinstance(params, Iterator) else params
        super().__init__(params, defaults)
        if self._keys.end_construction() and self.learned and reduce_group is None:
            dtensors.require_one_process(type(self).__name__)
        checks.some_narrow(self.weights, self.param_groups)
        processes, home = [reduce_group] * (reduce_group is not None), self._stepper.home(self.param_groups)
        total = functools.partial(dtensors.summed, groups=processes, device_type=home.type)
        if lr == "auto":
            chosen = [isinstance(x, dict) and "lr" in x for x in params]
            start_lr.set_start(self.rule, self.param_groups, chosen, self.defaults, total)
        learns_lr = LR.name in self.learned
        self._banks.begin(start_lr.log_floor(self.rule, self.param_groups, total) if learns_lr else None)
        self._banks.attach(self.param_groups)
        self.graph_step.take(self.param_groups)

    def _build(self) -> None:
        """Makes all that follows from the attributes in `KEPT`."""
        banks, engine, settle_keys = self._banks, self._requested_engine, self._keys.settle
        traced, dtype, name = banks.horizon > 0, checks.stored_dtype(self.state_dtype), type(self).__name__
        program = Program(self.rule, learned=banks.names, traced=traced, state_dtype=dtype, weights=self.weights)
        self._program, self._readings = program, Readings(program, banks, self._guard)
        self._state_dicts = StateDicts(program, banks)
        self.graph_step = graph_step = GraphStep(weakref.WeakMethod(self._step), banks)
        processes = self.reduce_group, self.share_matrices
        self._stepper = Stepper(name, program, engine, banks, settle_keys, graph_step.take, *processes)

    @modes.neutral()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, which start at t = 1; with `scope="global"` they share the learned coefficients.

        Raises:
            ValueError: A value is not allowed, a parameter is named twice, the group has its own value of a
                coefficient that is learned for all groups, or a HyperTorch has made its optimizer for other scopes.
        """
        betas = None
        if isinstance(param_group, dict):
            betas = param_group.get("betas")
            param_group = self._keys.complete(param_group, self.defaults, self._guard)
            if self.param_groups:
                self._keys.check_later(param_group, self.param_groups[0])
            if self.reduce_group is not None and self.rule.matrix_weight is not None:
                checks.matrix_said(param_group)
            replicated.require_whole(self.share_matrices, param_group)
            alone = bool(self.learned) and self.reduce_group is None and dtensors.processes() > 1
            checks.not_flattened(self.rule, alone, param_group)
        super().add_param_group(param_group)
        self._observed = None  # it has no row for a new scope
        hidden_matrices.update_flags(self.rule, self.param_groups, self.state)
        home = self._stepper.home(self.param_groups)
        settle(param_group, self._program, home)
        start = {q: scalar(param_group[q] if q != LR.name else LR.default, home) for q in self.learned}
        self._banks.add_group(start, len(param_group["params"]))
        self._banks.attach(self.param_groups)
        self._keys.added(param_group, betas)
        self._stepper.add(self.param_groups)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Makes one step with the gradients as they are, and doesn't change them.

        The result doesn't depend on autocast or inference mode. In a graph of torch.compile it is one operation.

        Args:
            closure: Computes the loss and the gradients again; called once, with gradients enabled.

        Returns:
            The closure's result.

        Raises:
            RuntimeError: A gradient is sparse, or a tensor can't be used; nothing is changed.
        """
        joined = torch.compiler.is_dynamo_compiling() and self.graph_step.joined(closure)
        return None if joined else self._step(closure)

    @modes.opaque
    def _step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else torch.enable_grad()(closure)()
        with modes.neutral():
            self._step_count.add(self._stepper.step(self.param_groups, self.state, self._observed))
            self._observed = None
        return loss

    zero_grad = zero_grad

    @modes.opaque
    def observe(self, grad_scale: float | Tensor = 1.0, group: Any = None) -> None:
        """Computes the hypergradients from the present gradients; the next `step` uses them instead of its own.

        Use it to learn from other gradients than those that move the weights: unclipped ones, one micro-batch, or
        held-out data. No gradient is kept.

            loss.backward()
            opt.observe()
            clip_grad_norm_(model.parameters(), 1.0)
            opt.step()

        The next step uses the last observation, once, even if that step is skipped for its own gradients. A scope whose
        observed hypergradient is not finite, or whose parameters have no gradient here, stays in that step.
        `load_state_dict` and `add_param_group` drop the observation, and `state_dict` doesn't contain it: save between
        steps. With DTensors (FSDP2's `fully_shard`) and with `reduce_group`, all processes must call this.

        Args:
            grad_scale: The factor on the loss, a number or a 0-d tensor, such as `scaler.get_scale()` before
                `scaler.unscale_`. Hypergradients are divided by it.
            group: Process group whose members have different gradients, as within DDP's `no_sync`; all must call this.
                Hypergradients are averaged over it. None: the gradients are averaged already.

        Raises:
            RuntimeError: Nothing is learned, no parameter has a gradient, or a gradient is sparse.
            ValueError: `grad_scale` is not a positive number, or `group` is not a process group with this process.
        """
        with modes.neutral():
            self._observed = self._stepper.observe(self.param_groups, self.state, grad_scale, group)

    def state_dict(self) -> dict[str, Any]:
        """As in torch.optim, with copies of the coefficients. The result of `observe` is not in it."""
        self._step_count.read()
        with modes.neutral(), self._state_dicts.saving(self):
            self._stepper.follow(self.param_groups)
            return super().state_dict()

    @modes.neutral()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch.optim, but no state is rounded to its parameter's dtype, and names are matched.

        If both sides know the names of all parameters (`named_parameters`), each gets the state of its name, whatever
        the order; prefixes of wrappers, such as DDP's `module.`, don't count. `learn` and its options stay as this
        optimizer was built.

        Raises:
            ValueError: The state has another rule or `learn`, a slot has another shape, or a name is only on one side;
                nothing is changed.
        """
        with self._state_dicts.loading(self, self._keys.check):
            super().load_state_dict(state_dict)

    def _restore(self) -> None:
        """Corrects the state that torch has loaded: dtypes, views, and options that an older version lacked."""
        self._step_count, self._observed = StepCount(type(self).__name__), None
        self._keys.loaded(self.param_groups, self.defaults)
        for group in self.param_groups:
            settle(group, self._program, self._stepper.home(self.param_groups))
        self._banks.adopt(self.param_groups)
        self._stepper.take(self.param_groups)
        self._state_dicts.restore(self.param_groups, self.state)

    def __getstate__(self) -> dict[str, Any]:
        """The attributes for pickle and deepcopy."""
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in KEPT}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Sets the attributes of a copy, or the state and groups of `load_state_dict`."""
        super().__setstate__(state)
        if "_banks" not in state:
            self._restore()
            return
        self._build()
        self._stepper.take(self.param_groups)
        self._banks.adopt(self.param_groups)  # values that were put into a group since the last step
        self._banks.attach(self.param_groups)
