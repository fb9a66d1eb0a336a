"""Every preset as PyTorch describes its own optimizers to its tests: an `OptimizerInfo` with inputs and error inputs.

They are derived from the preset's rule, so a new preset is checked as soon as it has its line in ROSENBROCK_LR.
"""

import inspect
from dataclasses import dataclass

import pytest
import torch

import mada_optim
from mada_optim import HyperOptimizer
from tests.problems import fast
from tests.torch_checks.schedules import COMPOUNDS
from tests.torch_checks.torch_helpers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
)

#: The one number about a preset that can't be derived: a learning rate that stays in the valley of Rosenbrock's banana.
ROSENBROCK_LR = {
    "AMSGrad": 1e-2,
    "AVGrad": 1e-2,
    "AdaGrad": 1e-2,
    "Adam": 1e-2,
    "Adan": 1e-2,
    "AutoAdam": 1e-2,
    "AutoMuon": 1e-2,
    "HyperAdam": 1e-2,
    "Lion": 1e-3,
    "MADA": 1e-2,
    "Muon": 1e-2,
    "NorMuon": 1e-2,
    "NAdam": 1e-2,
    "RMSprop": 1e-3,
    "SGD": 1e-5,
    "Yogi": 1e-2,
}

#: Everything moves from the first possible step on.
LEARNING = {"learn": fast()}

#: Where the message, or the decision, is ours: torch's input by its description -> our type of error and message.
OWN_ERRORS = {
    "a param group cannot have duplicate parameters": (ValueError, "params: expected each parameter once"),
    "Tensor lr must be 1-element": (ValueError, r"lr=tensor.*: expected a number in \[0, inf\)"),
}

#: Options of torch.optim that choose an implementation, which is `engine=` here.
TORCH_FLAGS = ("foreach", "fused", "capturable", "differentiable")


def presets():
    """The presets that the package exports, by name."""
    exported = {name: getattr(mada_optim, name) for name in mada_optim.__all__}
    return {
        name: x
        for name, x in exported.items()
        if isinstance(x, type) and issubclass(x, HyperOptimizer) and x is not HyperOptimizer
    }


def rule_of(cls):
    """The rule of a preset."""
    return cls([torch.nn.Parameter(torch.ones(1))], engine="eager").rule


def unguarded(cls):
    """What a preset has to be told to take betas as they are given."""
    guard = inspect.signature(cls).parameters.get("guard")
    return {} if guard is None or guard.default is None else {"guard": None}


def keywords(values):
    """Coefficients as keywords that every preset takes: beta1 and beta2 as the pair where there are both."""
    values = dict(values)
    if {"beta1", "beta2"} <= set(values):
        values["betas"] = (values.pop("beta1"), values.pop("beta2"))
    return values


def midway(rule, at=0.5):
    """Each coefficient inside its interval: other than every default, and on no bound."""
    ends = {q.name: q.interval for q in rule.coefficients if q.name != "lr"}
    return {name: (1 - at) * x.low + at * x.high for name, x in ends.items()}


def inputs_of(cls):
    start = {**keywords(midway(rule_of(cls))), **unguarded(cls)}

    def inputs(device, dtype=None):
        return [
            OptimizerInput(None, {}, "default"),
            OptimizerInput(None, {"lr": 0.01, "weight_decay": 0.1}, "lr and weight_decay"),
            OptimizerInput(None, {"weight_decay": 0.1, "maximize": True}, "maximize"),
            OptimizerInput(None, {"lr": torch.tensor(0.01, device=device)}, "tensor lr"),
            OptimizerInput(None, {"learn": (), **start}, "other coefficients"),
            OptimizerInput(None, {**LEARNING, **start}, "learning"),
        ]

    return inputs


def error_inputs_of(rule):
    def error_inputs(device, dtype):
        common = [own_answer(x) for x in get_error_inputs_for_all_optims(device, dtype)]
        return [*common, *wrong_numbers(rule), *wrong_names(), sparse_gradient()]

    return error_inputs


def own_answer(error):
    """Torch's error input, with our error where it is another."""
    error.error_type, error.error_regex = OWN_ERRORS.get(
        error.optimizer_error_input.desc, (error.error_type, error.error_regex)
    )
    return error


def refused(kwargs, regex, kind=ValueError):
    return ErrorOptimizerInput(
        OptimizerInput([torch.nn.Parameter(torch.ones(2))], kwargs, regex), error_type=kind, error_regex=regex
    )


def wrong_numbers(rule):
    numbers = [("lr", -1.0), ("lr", float("nan")), ("lr", float("inf")), ("weight_decay", -1), ("weight_decay", "1")]
    errors = [refused({name: x}, rf"{name}={x!r}: expected a number in \[0, inf\)") for name, x in numbers]
    for q in rule.coefficients:
        if -0.5 not in q.domain:
            wrong = keywords({**midway(rule), q.name: -0.5})
            errors.append(refused(wrong, rf"{q.name}=-0.5: expected a number in"))
    return errors


def wrong_names():
    flags = [refused({flag: True}, flag, (ValueError, TypeError)) for flag in TORCH_FLAGS]
    return [*flags, refused({"learn": "betta1"}, "learn='betta1'"), refused({"engine": "foreach"}, "engine='foreach'")]


def sparse_gradient():
    p = torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.sparse_coo_tensor([[1, 1]], [1.0, 2.0], (4,), check_invariants=True)  # not coalesced
    return ErrorOptimizerInput(
        OptimizerInput([p], {}, "sparse gradient"),
        error_on=OptimizerErrorEnum.STEP_ERROR,
        error_type=RuntimeError,
        error_regex="does not support sparse gradients; use torch.optim.SparseAdam",
    )


def info(cls):
    return OptimizerInfo(
        cls,
        optim_inputs_func=inputs_of(cls),
        optim_error_inputs_func=error_inputs_of(rule_of(cls)),
        scheduler_inputs=COMPOUNDS,
        supported_impls=(),
        not_og_supported_flags=(),
        supports_sparse=False,
        has_capturable_arg=False,
        supports_complex=True,
    )


@dataclass(frozen=True)
class Case:
    """A preset with one of its inputs, which are made anew for each optimizer: a tensor lr is changed by schedulers."""

    info: OptimizerInfo
    desc: str

    def __str__(self):
        return f"{self.info.name}, {self.desc}"

    def kwargs(self):
        return next(x.kwargs for x in self.info.optim_inputs_func(device="cpu") if x.desc == self.desc)

    def make(self, params, **more):
        return self.info.optim_cls(params, **{**self.kwargs(), **more})

    def make_plain(self, params, **more):
        """The same with nothing learned."""
        kwargs = {name: x for name, x in self.kwargs().items() if name not in LEARNING}
        return self.info.optim_cls(params, **{**kwargs, "learn": (), **more})


INFOS = [info(cls) for name, cls in presets().items() if name in ROSENBROCK_LR]
CASES = [Case(x, y.desc) for x in INFOS for y in x.optim_inputs_func(device="cpu")]

each_info = pytest.mark.parametrize("info", INFOS, ids=lambda x: x.name)

#: The two kinds of state there are, for checks in which the numbers don't matter.
MODES = [case for case in CASES if case.desc in ("default", "learning")]

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_mode = pytest.mark.parametrize("case", MODES, ids=str)
