"""Keys of a parameter group: what takes effect, what is the user's own, and what is refused, early and late.

Catches: an option that is misspelt, or another optimizer's, and has no effect without a word; betas that are ignored.
"""

import copy
import pickle

import pytest
import torch
from torch import nn

from mada_optim import MADA, SGD, Adam, AutoMuon, HyperAdam, HyperSGD
from tests.problems import give_gradients, parameters, same_bits, train
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

REFUSED = {
    "learn": ("lr", "at construction, for all groups; pass learn to AutoMuon"),
    "rule": ("mada", "at construction"),
    "guard": (None, "at construction"),
    "engine": ("eager", "at construction"),
    "state_dtype": (torch.float32, "at construction"),
    "scope": ("group", r"expected as an option of a learner; learn=HyperSGD\('all', scope='group'\)"),
    "bounds": ({}, "expected as an option of a learner"),
    "hyper_lr": (0.1, "no such option"),
    "hyper_velocity": (0.1, "no such option"),
    "weigth_decay": (0.1, "use 'weight_decay'"),
    "Weight_Decay": (0.1, "use 'weight_decay'"),
    "weightdecay": (0.1, "use 'weight_decay'"),
    "beta": ((0.8, 0.9), "use 'beta1'|use 'betas'|use 'beta2'"),
    "beta_1": (0.8, "use 'beta1'"),
    "LR": (0.1, "use 'lr'"),
    "learning_rate": (0.1, "use 'lr'"),
    "maximise": (True, "use 'maximize'"),
    "matrx": (True, "use 'matrix'"),
    "use_muon": (True, "use 'matrix'"),
    "matrix_lr": (0.1, "use 'matrix_lr_ratio'"),
    "momentum": (0.9, "no such option .of the rule: beta1, beta2, beta3, rho, c, gamma, omega"),
    "nesterov": (True, "no such option"),
    "amsgrad": (True, "no such option"),
    "decoupled_weight_decay": (False, "no such option"),
}
#: What torch, its schedulers, and programs for training put into groups.
NOTES = {
    "initial_lr": 0.1,
    "max_lr": 0.1,
    "min_lr": 0.1,
    "base_lr": 0.1,
    "swa_lr": 0.1,
    "max_momentum": 0.9,
    "base_momentum": 0.8,
    "name": "decay",
    "lr_scale": 0.5,
    "lr_mult": 0.5,
    "lr_factor": 2.0,
    "weight_decay_mult": 0.5,
    "layer_id": 3,
    "param_group_name": "x",
    "foreach": True,
    "fused": None,
    "capturable": False,
    "differentiable": False,
    "amsgrad": False,
    "decoupled_weight_decay": True,
}


def made(**options):
    params = parameters()
    return AutoMuon([{"params": params, **options}]), params


@pytest.mark.parametrize("key", REFUSED)
def test_an_option_without_effect_is_refused_at_construction(key):
    x, message = REFUSED[key]
    with pytest.raises(ValueError, match=message):
        made(**{key: x})
    opt, _ = made()
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(2))], key: x})
    assert len(opt.param_groups) == 1


@pytest.mark.parametrize("key", REFUSED)
def test_and_when_it_is_put_into_a_group_later(key):
    """At the next step, which moves nothing, and wherever the options are read."""
    x, message = REFUSED[key]
    opt, params = made()
    train(opt, params, range(2))
    before = [p.detach().clone() for p in params]
    opt.param_groups[0][key] = x
    give_gradients(params, 2)
    for read in (opt.step, opt.coefficients, opt.state_dict):
        with pytest.raises(ValueError, match=message):
            read()
    assert same_bits(before, params)
    del opt.param_groups[0][key]
    opt.step()
    assert not same_bits(before, params)


def test_notes_are_kept():
    opt, params = made(**NOTES)
    for key, x in NOTES.items():
        opt.param_groups[0][f"late_{key}"] = x
    train(opt, params, range(2))
    kept = {**NOTES, **{f"late_{key}": x for key, x in NOTES.items()}}
    saved = opt.state_dict()
    assert kept.items() <= saved["param_groups"][0].items()
    made()[0].load_state_dict(saved)


def test_a_state_with_an_option_that_has_no_effect_is_refused():
    opt, _ = made()
    saved = opt.state_dict()
    saved["param_groups"][0]["learn"] = "beta1"
    with pytest.raises(ValueError, match="pass learn to AutoMuon"):
        made()[0].load_state_dict(saved)


def test_a_keyword_may_be_repeated_in_a_group_with_the_value_that_took_effect():
    """As `ZeroRedundancyOptimizer` does with all of them."""
    params, learn = parameters(), ("beta1", "rho")
    opt = AutoMuon([{"params": params, "learn": learn}], learn=learn)
    train(opt, params, range(2))
    copies = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for each in copies:
        each.step()
    with pytest.raises(ValueError, match="pass learn to AutoMuon"):
        AutoMuon([{"params": parameters(), "learn": "lr"}], learn=learn)


#: One optimizer with fixed betas, one with learned ones, and one with a guard.
WITH_BETAS = {"Adam": Adam, "HyperAdam": HyperAdam, "MADA": MADA, "AutoMuon": AutoMuon}


@pytest.mark.parametrize("cls", WITH_BETAS.values(), ids=WITH_BETAS)
@pytest.mark.parametrize("read_first", [False, True])
def test_betas_put_into_a_group_are_beta1_and_beta2(cls, read_first):
    params, twins = (p := parameters()), copy.deepcopy(p)
    opt, twin = cls(params), cls(twins)
    train(opt, params, range(3))
    train(twin, twins, range(3))
    opt.param_groups[0]["betas"] = (0.7, 0.97)
    twin.param_groups[0].update(beta1=0.7, beta2=0.97)
    if read_first:
        assert opt.coefficients()["beta1"] == (0.7 if cls is not AutoMuon else pytest.approx(4 / 104))  # guarded
    train(opt, params, range(3, 6))
    train(twin, twins, range(3, 6))
    assert "betas" not in opt.param_groups[0]
    assert same_bits(params, twins)
    assert opt.coefficients() == twin.coefficients()


def test_betas_of_the_second_group_alone():
    params = parameters()
    opt = Adam([{"params": params[:1]}, {"params": params[1:]}], betas=(0.9, 0.99))
    opt.param_groups[1]["betas"] = (0.5, 0.9)
    train(opt, params, range(1))
    assert [float(group["beta1"]) for group in opt.param_groups] == [0.9, 0.5]
    assert [float(group["beta2"]) for group in opt.param_groups] == [0.99, 0.9]


def test_betas_at_each_step_as_a_scheduler_of_ones_own_gives_them():
    """Against the same numbers put in by name."""
    params, twins = (p := parameters()), copy.deepcopy(p)
    opt, twin = Adam(params), Adam(twins)
    for step in range(6):
        beta1 = 0.95 - 0.02 * step
        opt.param_groups[0]["betas"] = (beta1, 0.99)
        twin.param_groups[0].update(beta1=beta1, beta2=0.99)
        train(opt, params, [step])
        train(twin, twins, [step])
    assert same_bits(params, twins)


@pytest.mark.parametrize(
    ("cls", "betas", "message"),
    [
        (Adam, (0.9,), "expected a pair"),
        (Adam, (0.9, 1.5), "beta2=1.5"),
        (Adam, 0.9, "expected a pair"),
        (SGD, (0.9, 0.99), "has other coefficients"),
    ],
)
def test_bad_betas_are_refused_and_change_nothing(cls, betas, message):
    params = parameters()
    opt = cls(params)
    train(opt, params, range(2))
    before = [p.detach().clone() for p in params]
    opt.param_groups[0]["betas"] = betas
    with pytest.raises(ValueError, match=message):
        opt.step()
    assert same_bits(before, params)


def test_betas_and_beta1_in_one_new_group_are_refused():
    with pytest.raises(ValueError, match="in betas"):
        Adam([{"params": parameters(), "betas": (0.9, 0.99), "beta1": 0.8}])


def test_betas_in_a_state_that_is_loaded_hold():
    opt = Adam(parameters())
    saved = opt.state_dict()
    saved["param_groups"][0]["betas"] = (0.6, 0.96)
    opt.load_state_dict(saved)
    assert opt.coefficients() == pytest.approx({"beta1": 0.6, "beta2": 0.96})


def test_betas_that_a_wrapper_puts_back_are_no_new_start():
    params, betas = parameters(), (0.8, 0.9)
    opt = HyperAdam([{"params": params, "betas": betas}], learn=HyperSGD("all", start=0))
    train(opt, params, range(3))
    learned = opt.coefficients()
    assert learned["beta1"] != 0.8
    opt.param_groups[0]["betas"] = betas
    assert opt.coefficients() == learned


@pytest.mark.parametrize("value", [False, "batched", 2, None])
def test_what_is_a_matrix_is_said_once(value):
    """State is laid out by it, so another value later would have no effect, or the wrong one."""
    weight = nn.Parameter(torch.ones(4, 6))
    opt = AutoMuon([{"params": [weight], "matrix": True}])
    weight.grad = torch.ones(4, 6)
    opt.step()
    opt.param_groups[0]["matrix"] = value
    before = weight.detach().clone()
    with pytest.raises(ValueError, match=f"matrix={value!r} in parameter group 0: expected True"):
        opt.step()
    assert torch.equal(weight, before)
    opt.param_groups[0]["matrix"] = True
    opt.step()
    assert not torch.equal(weight, before)


def test_a_group_that_left_it_open_is_not_told_later():
    weight = nn.Parameter(torch.ones(4, 6))
    opt = AutoMuon([weight])
    opt.param_groups[0]["matrix"] = True
    with pytest.raises(ValueError, match="matrix=True in parameter group 0: expected None"):
        opt.coefficients()
