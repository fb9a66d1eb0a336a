"""Checks of users' arguments. Every message names the value, the allowed values and the remedy."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mada_optim.layouts import BATCHED
from mada_optim.rule import DECAY, LR, Coefficient, Interval, Rule

NON_NEGATIVE = Interval(0.0, math.inf, open_high=True)
POSITIVE = Interval(math.ulp(0.0), math.inf, open_high=True)
#: The engines, the fastest first.
ENGINES = ("triton", "cpu", "tiled", "eager")
STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
EIGHT_BITS = "8bit"
FACTOR = Interval(1e-30, 1e30)  # limits of the learned factor of lr


def number(name: str, x: object, allowed: Interval, remedy: str) -> float:
    """`x` as a float inside `allowed`. Raises ValueError if it is no finite number, or outside."""
    try:
        value = float(x)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(x, str | bool) or value not in allowed:
        raise ValueError(f"{name}={x!r}: expected a number in {allowed}; {remedy}")
    return value


def nearest(name: object, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The most similar name among `allowed`, with a similarity of at least `cutoff` in [0, 1]; None without one.

    Case and the dashes of an option don't count.
    """
    plain = {x.lower().lstrip("-"): x for x in sorted(set(allowed), reverse=True)}
    near = difflib.get_close_matches(str(name).lower().lstrip("-"), sorted(plain), n=1, cutoff=cutoff)
    return plain[near[0]] if near else None


def did_you_mean(name: object, allowed: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """The remedy for a misspelled name: the nearest one, or `otherwise` if none is near."""
    near = nearest(name, allowed, cutoff)
    return otherwise if near is None else f"did you mean {near!r}?"


def member(argument: str, name: object, allowed: Iterable[str], remedy: str) -> str:
    """`name`, one of `allowed`. Raises ValueError if it is none of them; the message names the nearest."""
    names = list(allowed)
    if name in names:
        return str(name)
    expected = ", ".join(map(repr, names))
    raise ValueError(f"{argument}={name!r}: expected one of {expected}; {did_you_mean(name, names, remedy)}")


def learned_names(rule: Rule, names: str | Iterable[str]) -> tuple[str, ...]:
    """The coefficients to learn, in the rule's order, lr last, from a name, several, or "all". Raises ValueError."""
    allowed = (*rule.coefficient_names(), LR.name)
    given = (names,) if isinstance(names, str) else tuple(names)
    remedy = f'name coefficients of the rule {rule.name!r}, or pass "all" for all of them but lr, or () for none'
    wanted = {member("learn", name, (*allowed, "all"), remedy) for name in given}
    every = set(rule.coefficient_names()) if "all" in wanted else set()
    return tuple(name for name in allowed if name in wanted | every)


def intervals(rule: Rule, bounds: Mapping[str, tuple[float, float]], learned: tuple[str, ...]) -> dict[str, Interval]:
    """The interval of each learned coefficient: that in `bounds`, or the rule's. Raises ValueError."""
    for name in bounds:
        member("bounds key", name, learned, "only learned coefficients have bounds; name it in `learn` too")
    return {q.name: _interval(q, bounds.get(q.name)) for q in (*rule.coefficients, LR) if q.name in learned}


def _interval(q: Coefficient, ends: tuple[float, float] | None) -> Interval:
    if ends is None:
        return q.interval
    if not isinstance(ends, Sequence) or isinstance(ends, str) or len(ends) != 2:
        raise ValueError(f"bounds of {q.name}={ends!r}: expected a pair (low, high)")
    domain = FACTOR if q is LR else q.domain
    low, high = (number(f"bounds of {q.name}", x, domain, "pass (low, high) inside it") for x in ends)
    if low > high:
        raise ValueError(f"bounds of {q.name}=({low}, {high}): expected low <= high; swap them")
    return Interval(math.log(low), math.log(high)) if q is LR else Interval(low, high)


def state_dtype(dtype: Any) -> torch.dtype | str | None:
    """The dtype of slots, with at least the range of fp32, "8bit", or None. Raises ValueError for any other."""
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype in STATE_DTYPES):
        return dtype
    if isinstance(dtype, str) and dtype == EIGHT_BITS:
        return dtype
    raise ValueError(
        f"state_dtype={dtype!r}: expected torch.float32, torch.bfloat16 or torch.float64, whose range includes the "
        f"squares of gradients, or {EIGHT_BITS!r}, blocks with a scale each; choose one, or None"
    )


def stored_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype of the tensors that hold slots, by a checked `state_dtype`; codes of 8 bits are uint8."""
    return torch.uint8 if isinstance(dtype, str) else dtype


def weights(rounding: str | None) -> str | None:
    """How narrow weights are rounded. Raises ValueError if there is no such rounding."""
    return None if rounding is None else member("weights", rounding, ("stochastic",), "leave it out")


def some_narrow(rounding: str | None, groups: Iterable[Mapping[str, Any]]) -> None:
    """Refuses a rounding of narrow weights (ValueError) if no parameter of the groups is narrow."""
    dtypes = {p.dtype for group in groups for p in group["params"]}
    if rounding is not None and not dtypes & {torch.bfloat16, torch.float16}:
        got = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(
            f"weights={rounding!r}: expected at least one parameter in torch.bfloat16 or torch.float16, got {got}, "
            "which it doesn't change; leave it out, or cast the model first, as by model.bfloat16()"
        )


def engine(name: str) -> str:
    """The name of an engine, or "auto". Raises ValueError if there is no such engine."""
    return member("engine", name, ("auto", *ENGINES), "leave it at 'auto'")


def scope_given(name: str) -> str:
    """The scope of a learned coefficient. Raises ValueError if there is no such scope."""
    return member("scope", name, ("global", "group", "tensor"), "use 'global', as in the paper")


def rule_keywords(rule: Rule, given: Mapping[str, Any]) -> dict[str, float]:
    """Coefficients and hyper-parameters by name, with `betas` split into beta1 and beta2.

    Raises ValueError if a keyword is not one of the rule's, or a beta is given twice.
    """
    named = named_betas(rule, given["betas"]) if "betas" in given else {}
    others = {name: x for name, x in given.items() if name != "betas"}
    allowed = (*rule.coefficient_names(), *rule.hyper_parameters)
    for name, x in others.items():
        member(f"keyword of the rule {rule.name!r}", name, allowed, "leave it out, or choose another rule")
        if name in named:
            raise ValueError(f"{name}={x}: expected once, got it also in betas={given['betas']}; remove one of the two")
    return {**named, **others}


def named_betas(rule: Rule, betas: object) -> dict[str, float]:
    """`(beta1, beta2)` by name. Raises ValueError if it is no pair, or the rule has no such coefficients."""
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise ValueError(f"betas={betas!r}: expected a pair (beta1, beta2), each in [0, 1); (0.9, 0.95), say")
    if "beta1" not in rule.coefficient_names():
        names = ", ".join(rule.coefficient_names()) or "none"
        raise ValueError(f"betas={betas!r}: the rule {rule.name!r} has other coefficients ({names}); name those")
    return dict(zip(("beta1", "beta2"), betas, strict=True))


def room(external: bool, scope: str) -> None:
    """Refuses new rows of coefficients (ValueError) if the learner has made an optimizer for the earlier rows."""
    if external and scope != "global":
        raise ValueError(
            f"add_param_group with HyperTorch and scope={scope!r}: expected all groups at construction, because the "
            "learner makes its optimizer then; pass all groups to the constructor, or use scope='global'"
        )


def matrix_said(group: Mapping[str, Any]) -> None:
    """Requires `matrix` in a group (ValueError): a process that has a part of the parameters can't guess it."""
    if "matrix" not in group:
        raise ValueError(
            "reduce_group, a parameter group: expected the key 'matrix', True or False, got none, and a part of the "
            "parameters doesn't show which matrices are hidden; add the key to each group, or use rule='mada'"
        )


def process_group(name: str, group: object) -> None:
    """Refuses an object (ValueError) that is no process group with this process."""
    if not torch.distributed.is_available() or not isinstance(group, torch.distributed.ProcessGroup):
        raise ValueError(
            f"{name}={group!r}: expected a process group that this process is a member of; "
            "pass the group over which the model's gradients are averaged, or None"
        )


def has_matrices(rule: Rule) -> bool:
    """Whether the rule orthogonalizes some parameters."""
    return not rule.pointwise or rule.matrix_weight is not None


def share_matrices(rule: Rule, group: object, reduce_group: object) -> None:
    """Refuses a process group (ValueError) whose members have no whole matrices to share."""
    if group is None:
        return
    process_group("share_matrices", group)
    if not has_matrices(rule):
        raise ValueError(
            f"share_matrices={group!r}: expected a rule with matrices to share, got {rule.name!r}; leave it out, or "
            "use AutoMuon or Muon"
        )
    if reduce_group is not None:
        raise ValueError(
            f"share_matrices={group!r} and reduce_group={reduce_group!r}: expected one of them; share_matrices is for "
            "processes with the same parameters and gradients, reduce_group for processes with parts of them"
        )


def not_flattened(rule: Rule, learns_alone: bool, group: Mapping[str, Any]) -> None:
    """Refuses the flat slices of FSDP1 (ValueError) in a new group, where a step would be another one than without.

    Args:
        rule: The optimizer's rule. No matrix can be seen in a slice.
        learns_alone: Whether each process would learn from its slices alone.
        group: The parameter group; its parameters may have names.
    """
    params = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
    if not any(getattr(x[1] if isinstance(x, tuple) else x, "_fsdp_flattened", False) for x in params):
        return
    remedy = "shard the model by FSDP2's `fully_shard`, or make the optimizer of another rule, with learn=()"
    if has_matrices(rule):
        raise ValueError(
            f"parameters: expected matrices, got flat slices of FullyShardedDataParallel (FSDP1); {remedy}"
        )
    if learns_alone:
        raise ValueError(
            "parameters: expected reduce_group with flat slices of FullyShardedDataParallel (FSDP1), got None, with "
            f"which each process would learn from its slices alone; pass torch.distributed.group.WORLD, or {remedy}"
        )


def slots_present(form: Rule, state: Mapping[str, Tensor]) -> None:
    """Refuses a state (RuntimeError) without slots that are needed now: a coefficient has left 0 or 1."""
    missing = [name for name in form.slot_names() if name not in state]
    if missing:
        raise RuntimeError(
            f"state of a parameter: expected the slots {', '.join(missing)}, got none, because a coefficient of the "
            f"rule {form.name!r} was fixed at 0 or 1 when the state was created, and is not now; pass the new value to "
            "the constructor, or learn the coefficient"
        )


def group(rule: Rule, options: Mapping[str, Any], learned: Mapping[str, Interval]) -> None:
    """Checks a group with its defaults (ValueError); `learned` has the interval of each learned coefficient."""
    remedies = {"lr": 'choose a finite one, or lr="auto" for the optimizer, which computes it'}
    for name in ("lr", "eps", "weight_decay", "matrix_lr_ratio", *rule.hyper_parameters):
        allowed = DECAY if name in rule.decays else NON_NEGATIVE
        number(name, options[name], allowed, remedies.get(name, "choose a number inside"))
    if not isinstance(options["maximize"], bool):
        raise ValueError(f"maximize={options['maximize']!r}: expected True or False")
    number("horizon", options["horizon"], DECAY, "choose a number inside")
    for q in rule.coefficients:
        _coefficient(q, options[q.name], learned.get(q.name))
    params = [options["params"]] if isinstance(options["params"], Tensor) else list(options["params"])
    named = [x if isinstance(x, tuple) else (f"number {i}", x) for i, x in enumerate(params)]
    if len({id(p) for _, p in named}) < len(named):
        raise ValueError("params: expected each parameter once, got one twice; remove the second")
    if "matrix" in options:
        _matrix(rule, options["matrix"], named)


def has_effect(rule: Rule, options: Mapping[str, Any], traced: bool) -> None:
    """Refuses options of a group that would have no effect, with ValueError."""
    if rule.matrix_weight is None and options["matrix_lr_ratio"] != 1.0:
        raise ValueError(
            f"matrix_lr_ratio={options['matrix_lr_ratio']!r}: expected a rule with another update for hidden matrices, "
            f"got {rule.name!r}; leave it out, or use AutoMuon"
        )
    if not traced and options["horizon"]:
        raise ValueError(
            f"horizon={options['horizon']!r}: expected a learner of lr with a horizon, got none; "
            "leave it out, or learn lr with LearnedLR"
        )


def _matrix(rule: Rule, layout: object, named: Sequence[tuple[str, Tensor]]) -> None:
    """Checks a group's `matrix`."""
    if not (isinstance(layout, bool) or layout == BATCHED or (isinstance(layout, int) and layout >= 1)):
        raise ValueError(
            f"matrix={layout!r} in a parameter group: expected True or False, {BATCHED!r}, or a number of blocks >= 1; "
            "leave it out to find hidden matrices by shape and name"
        )
    if layout is False and rule.matrix_weight is None and not rule.pointwise:
        raise ValueError(
            f"matrix=False in a parameter group: the rule {rule.name!r} takes every parameter for a matrix; use the "
            "rule 'mada_matrix', which moves all other parameters by Adam, or another optimizer for this group"
        )
    if isinstance(layout, int):
        n = max(int(layout), 1)
        for name, p in named:
            if isinstance(p, Tensor) and p.ndim > 1 and p.shape[0] > 1 and p.shape[0] % n:
                raise ValueError(
                    f"matrix={n} in a parameter group: expected a divisor of the number of rows of each matrix, got "
                    f"the parameter {name!r} of shape {tuple(p.shape)}; pass a divisor, or put the parameter into "
                    "another group"
                )


def _coefficient(q: Coefficient, x: object, learned: Interval | None) -> None:
    value = number(q.name, float(x) if isinstance(x, bool) else x, q.domain, "choose a value inside")
    if learned is not None and value not in learned:
        raise ValueError(
            f"{q.name}={value}: expected a number in {learned}, the interval in which it is learned; widen the "
            f"interval with bounds={{{q.name!r}: (low, high)}}, or leave {q.name!r} out of `learn`"
        )


def ties(group: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    """Refuses a group's own value of a coefficient that all groups share (ValueError); `shared` is the first group."""
    for name, x in group.items():
        if name != LR.name and float(x) != float(shared[name]):
            raise ValueError(
                f"{name}={float(x)} in a parameter group: expected {float(shared[name])}, because all groups share a "
                f"learned coefficient; leave it out of the group, or leave {name!r} out of `learn`"
            )
