"""What is refused, and that the message says the value, the allowed set and the remedy."""

import math

import pytest
import torch

from mada_optim import MADA, Adam, HyperAdam, HyperOptimizer

REFUSED = [
    ({"lr": -1.0}, r"lr=-1.0: expected a number in \[0, inf\)"),
    ({"lr": math.inf}, r"lr=inf: expected a number in \[0, inf\)"),
    ({"lr": math.nan}, r"lr=nan"),
    ({"lr": "fast"}, r"lr='fast'"),
    ({"betas": (1.0, 0.9)}, r"beta1=1.0: expected a number in \[0, 1\)"),
    ({"betas": 0.9}, r"betas=0.9: expected a pair"),
    ({"betas": (0.9, math.nan)}, r"beta2=nan"),
    ({"beta3": -0.1}, r"beta3=-0.1"),
    ({"rho": 1.5}, r"rho=1.5: expected a number in \[0, 1\]"),
    ({"eps": -1e-8}, r"eps=-1e-08"),
    ({"weight_decay": math.nan}, r"weight_decay=nan"),
    ({"betas": (0.9, 0.99995)}, r"beta2=0.99995: .*\[0.5, 0.9999\], where it is learned; widen it with bounds="),
    ({"learn": ("beta1", "betta2")}, r"learn='betta2': .*did you mean 'beta2'\?"),
    ({"hyper_lr": -1.0}, r"hyper_lr of beta1=-1.0"),
    ({"hyper_lr": {"lr": 1.0}}, r"hyper_lr key='lr'"),
    ({"hyper_momentum": 1.0}, r"hyper_momentum of beta1=1.0: expected a number in \[0, 1\)"),
    ({"hyper_clip": -1.0}, r"hyper_clip=-1.0"),
    ({"hyper_start": 1.5}, r"hyper_start=1.5: expected a whole number"),
    ({"bounds": {"beta1": (0.5, 0.1)}}, r"expected low <= high"),
    ({"bounds": {"beta1": (0.5, 2.0)}}, r"bounds of beta1=2.0"),
    ({"learn": "rho", "bounds": {"c": (0.0, 1.0)}}, r"bounds key='c'"),
    ({"scope": "layer"}, r"scope='layer': expected one of 'global', 'group', 'tensor'"),
    ({"engine": "warp"}, r"engine='warp': expected one of 'auto', 'eager', 'tiled', 'cpu'"),
    ({"state_dtype": torch.int8}, r"state_dtype=torch.int8: expected torch.float32, torch.bfloat16"),
    ({"rule": "madda"}, r"rule='madda': .*did you mean 'mada'\?"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda x: str(x)[:40])
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MADA([torch.nn.Parameter(torch.ones(2))], **{"learn": "all", **options})


def test_a_coefficient_of_another_rule_is_refused():
    with pytest.raises(ValueError, match=r"keyword='rho': expected one of 'beta1', 'beta2'"):
        Adam([torch.nn.Parameter(torch.ones(2))], rho=0.5)


def test_a_coefficient_given_twice_is_refused():
    with pytest.raises(ValueError, match="expected once"):
        HyperOptimizer([torch.nn.Parameter(torch.ones(2))], betas=(0.9, 0.99), beta1=0.8)


def test_a_fixed_coefficient_may_lie_outside_the_interval_of_learning():
    opt = HyperAdam([torch.nn.Parameter(torch.ones(2))], betas=(0.9, 0.99999), learn="beta1")
    assert opt.coefficients()["beta2"] == 0.99999


def test_groups_are_checked_too():
    with pytest.raises(ValueError, match="weight_decay=-1"):
        Adam([{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": -1}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": True}, "lr=True: expected a number"),
        ({"weight_decay": True}, "weight_decay=True: expected a number"),
        ({"maximize": "yes"}, "maximize='yes': expected True or False"),
        ({"learn": 5}, "learn=5: expected names of coefficients"),
        ({"learn": "lr", "bounds": {"lr": 5}}, r"bounds of lr=5: expected a pair"),
        ({"learn": "lr", "bounds": {"lr": (1,)}}, r"bounds of lr=\(1,\): expected a pair"),
    ],
    ids=str,
)
def test_values_of_other_types_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MADA([torch.nn.Parameter(torch.ones(2))], **options)
