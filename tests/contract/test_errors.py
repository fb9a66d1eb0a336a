"""What is refused, and that the message says the value, the allowed set and the remedy."""

import math

import pytest
import torch

from mada_optim import (
    MADA,
    SGD,
    Adam,
    AutoAdam,
    AutoMuon,
    Guard,
    HyperAdam,
    HyperOptimizer,
    HyperSGD,
    HyperTorch,
    LearnedLR,
    NAdam,
)
from mada_optim.rules import RULES
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine


def parameter():
    return torch.nn.Parameter(torch.ones(2))


REFUSED = [
    ({"lr": -1.0}, r"lr=-1.0: expected a number in \[0, inf\)"),
    ({"lr": math.inf}, r"lr=inf: expected a number in \[0, inf\)"),
    ({"lr": math.nan}, r"lr=nan"),
    ({"lr": "fast"}, r"lr='fast': expected a number .*; choose a finite one, or lr=\"auto\""),
    ({"lr": True}, r"lr=True: expected a number"),
    ({"betas": (1.0, 0.9)}, r"beta1=1.0: expected a number in \[0, 1\)"),
    ({"betas": 0.9}, r"betas=0.9: expected a pair"),
    ({"betas": None}, r"betas=None: expected a pair"),
    ({"betas": (0.9, math.nan)}, r"beta2=nan"),
    ({"beta3": -0.1}, r"beta3=-0.1"),
    ({"rho": 1.5}, r"rho=1.5: expected a number in \[0, 1\]"),
    ({"eps": -1e-8}, r"eps=-1e-08"),
    ({"weight_decay": math.nan}, r"weight_decay=nan"),
    ({"betas": (0.9, 0.99995)}, r"beta2=0.99995: .*\[0.5, 0.9999\], the interval in .*with bounds="),
    ({"learn": ("beta1", "betta2")}, r"learn='betta2': .*did you mean 'beta2'\?"),
    ({"learn": HyperSGD("beta1", "betta2")}, r"learn='betta2': .*did you mean 'beta2'\?"),
    ({"learn": HyperSGD("all", lr={"lr": 1.0})}, r"lr key='lr': .*only coefficients that this learner learns"),
    ({"learn": HyperSGD("beta1", momentum={"rho": 0.5})}, r"momentum key='rho'"),
    ({"learn": HyperSGD("beta1", bounds={"beta1": (0.5, 0.1)})}, r"expected low <= high"),
    ({"learn": HyperSGD("beta1", bounds={"beta1": (0.5, 2.0)})}, r"bounds of beta1=2.0"),
    ({"learn": HyperSGD("rho", bounds={"c": (0.0, 1.0)})}, r"bounds key='c'"),
    ({"engine": "warp"}, r"engine='warp': expected one of 'auto', 'triton', 'cpu', 'tiled', 'eager'"),
    ({"state_dtype": torch.int8}, r"state_dtype=torch.int8: expected torch.float32, torch.bfloat16"),
    ({"rule": "lion"}, r"rule='lion': expected a rule with .*, got one without beta3, rho, c, gamma; use"),
    ({"rule": "adan"}, r"rule='adan': .* without rho, c, gamma; use the optimizer of that name, or HyperOptimizer\("),
    ({"rule": "madda"}, r"rule='madda': .*did you mean 'mada'\?"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda x: str(x)[:40])
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MADA([parameter()], **options)


@pytest.mark.parametrize(("rule", "name"), [(rule, name) for rule in RULES for name in RULES[rule].decays])
def test_a_decay_that_is_never_learned_is_below_1(rule, name):
    for value in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=rf"{name}=.*: expected a number in \[0, 1\)"):
            HyperOptimizer([parameter()], rule=rule, **{name: value})


def test_all_decays_are_declared():
    for rule in RULES.values():
        averages = {name for name in rule.hyper_parameters if "beta" in name or name == "mu"}
        assert averages == set(rule.decays)


LEARNERS = [
    (lambda: HyperSGD(), r"HyperSGD\(\): expected names of coefficients, or \"all\""),
    (lambda: HyperSGD(["beta1"]), r"HyperSGD\(\['beta1'\],\): expected names"),
    (lambda: HyperSGD("beta1", lr=-1.0), r"lr=-1.0: expected a number in \[0, inf\)"),
    (lambda: HyperSGD("beta1", lr={"beta1": -1.0}), r"lr of beta1=-1.0"),
    (lambda: HyperSGD("beta1", momentum=1.0), r"momentum=1.0: expected a number in \[0, 1\)"),
    (lambda: HyperSGD("beta1", clip=-1.0), r"clip=-1.0"),
    (lambda: HyperSGD("beta1", start=1.5), r"start=1.5: expected a whole number"),
    (lambda: HyperSGD("beta1", stop=-1), r"stop=-1: expected a number in \[0, inf\)"),
    (lambda: HyperSGD("beta1", scope="layer"), r"scope='layer': expected one of 'global', 'group', 'tensor'"),
    (lambda: HyperSGD("beta1", bounds=3), r"bounds=3: expected a dict by coefficient"),
    (lambda: HyperTorch("beta1", make=torch.optim.Adam([parameter()])), r"(?s)make=.*expected a function"),
    (lambda: HyperTorch("beta1", scope="layer"), r"scope='layer'"),
    (lambda: LearnedLR(scope="layer"), r"scope='layer'"),
    (lambda: LearnedLR(rate=-1.0), r"rate=-1.0: expected a number in \[0, inf\)"),
    (lambda: LearnedLR(clip=-1.0), r"clip=-1.0: expected a number in \[0, inf\); .*the default is 1.0"),
    (lambda: LearnedLR(start=-1), r"start=-1"),
    (lambda: LearnedLR(reach=-0.1), r"reach=-0.1: expected a number in \[0, inf\)"),
]


@pytest.mark.parametrize(("make", "message"), LEARNERS, ids=[message[:40] for _, message in LEARNERS])
def test_a_learner_that_is_refused_when_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_truth_value_is_a_number_only_for_a_coefficient():
    assert SGD([parameter()], momentum=0.9, nesterov=True).coefficients()["nesterov"] == 1.0  # as in torch.optim
    with pytest.raises(ValueError, match="momentum_decay=True: expected a number"):
        NAdam([parameter()], momentum_decay=True)


def test_a_coefficient_of_another_rule_is_refused():
    with pytest.raises(ValueError, match=r"keyword of the rule 'adam'='rho': expected one of 'beta1', 'beta2'"):
        HyperOptimizer([parameter()], rule="adam", rho=0.5)
    with pytest.raises(TypeError, match="rho"):
        Adam([parameter()], rho=0.5)


def test_a_coefficient_given_twice_is_refused():
    with pytest.raises(ValueError, match="expected once"):
        HyperOptimizer([parameter()], betas=(0.9, 0.99), beta1=0.8)


def test_a_fixed_coefficient_may_lie_outside_the_interval_of_learning():
    opt = HyperAdam([parameter()], betas=(0.9, 0.99999), learn="beta1")
    assert opt.coefficients()["beta2"] == 0.99999


def test_groups_are_checked_too():
    with pytest.raises(ValueError, match="weight_decay=-1"):
        Adam([{"params": [parameter()], "weight_decay": -1}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": True}, "lr=True: expected a number"),
        ({"weight_decay": True}, "weight_decay=True: expected a number"),
        ({"maximize": "yes"}, "maximize='yes': expected True or False"),
        ({"learn": 5}, "learn=5: expected names of coefficients"),
        ({"learn": HyperSGD("lr", bounds={"lr": 5})}, r"bounds of lr=5: expected a pair"),
        ({"learn": HyperSGD("lr", bounds={"lr": (1,)})}, r"bounds of lr=\(1,\): expected a pair"),
        ({"guard": True}, r"guard=True: expected None or a Guard; Guard\(\) has the usual numbers"),
        ({"guard": False}, "guard=False: expected None or a Guard"),
    ],
    ids=str,
)
def test_values_of_other_types_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MADA([parameter()], **options)


BELOW = r"beta2=0\.95: expected at least 0\.99, below which the guard keeps no beta2; choose a larger one"


@pytest.mark.parametrize("cls", [AutoMuon, AutoAdam])
def test_a_beta2_that_the_guard_would_not_use_is_refused(cls):
    """At construction, in a group, and in a group that is added."""
    with pytest.raises(ValueError, match=BELOW):
        cls([parameter()], betas=(0.9, 0.95))
    with pytest.raises(ValueError, match=BELOW):
        cls([{"params": [parameter()], "betas": (0.9, 0.95)}])
    with pytest.raises(ValueError, match=BELOW):
        cls([{"params": [parameter()], "beta2": 0.95}])
    opt = cls([parameter()])
    for own in ({"beta2": 0.95}, {"betas": (0.9, 0.95)}):
        with pytest.raises(ValueError, match=BELOW):
            opt.add_param_group({"params": [parameter()], **own})
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": [parameter()], "beta2": 0.99})
    for guard in (None, Guard(), Guard(least_beta2=0.95)):
        assert cls([parameter()], betas=(0.9, 0.95), guard=guard).param_groups[0]["beta2"] == 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda params: HyperOptimizer(params, rule="adam", matrix_lr_ratio=2.0),
            "matrix_lr_ratio=2.0: expected a rule",
        ),
        (lambda params: MADA([{"params": params, "matrix_lr_ratio": 2.0}]), "matrix_lr_ratio=2.0: expected a rule"),
        (lambda params: MADA([{"params": params, "horizon": 0.9}]), "horizon=0.9: expected a learner of lr"),
    ],
    ids=("ratio", "ratio of a group", "horizon of a group"),
)
def test_an_option_without_effect_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make([torch.nn.Parameter(torch.ones(2, 2))])


UNUSABLE = {
    "slots": (lambda opt: opt.slots(torch.ones(1)), r"slots: expected a parameter of this optimizer"),
    "group": (lambda opt: opt.add_param_group({"lr": 0.1}), r"a parameter group: expected the key 'params', got none"),
    "state dict": (lambda opt: opt.load_state_dict({}), r"state dict: expected the key 'state', got none; pass"),
}


@pytest.mark.parametrize(("use", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_a_method_cannot_use_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use(Adam([parameter()]))
