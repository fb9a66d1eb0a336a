"""Where a learned lr starts, and what MADA does where `learn` isn't named."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mada_optim import LEARNED_LR, MADA, Adam, HyperOptimizer
from mada_optim.rules import RULES
from tests.problems import parameters, same_bits, train

RATES = (1e-4, 1e-3, 3e-2)
POINTWISE = {"rule": "mada"}


class Net(nn.Module):
    """An embedding, two hidden matrices, and a head."""

    def __init__(self, width=16):
        super().__init__()
        self.embedding = nn.Embedding(500, width)
        self.first = nn.Linear(width, 4 * width)
        self.second = nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 500)


def first_lr(params, **options):
    return MADA(params, **options).coefficients()["lr"]


@pytest.mark.parametrize("options", [{}, POINTWISE])
def test_it_is_the_same_whatever_the_lr(options):
    got = {round(first_lr(Net().named_parameters(), lr=lr, lr_init="shape", **options), 12) for lr in RATES}
    assert got == {round(first_lr(Net().named_parameters(), **options), 12)}
    assert not got & set(RATES)


@pytest.mark.parametrize("options", [{}, POINTWISE, {"learn": "lr"}, {"learn": ("beta1", "lr")}])
def test_an_lr_that_is_given_is_where_it_starts(options):
    assert first_lr(Net().named_parameters(), lr=1e-5, **options) == pytest.approx(1e-5)


@pytest.mark.parametrize("learn", ["lr", ["lr"], ("beta1", "lr")])
def test_none_given_it_starts_where_shapes_say_whenever_it_is_learned(learn):
    assert first_lr(Net().named_parameters(), learn=learn) == pytest.approx(0.4 / 64)
    once = iter(learn if isinstance(learn, tuple | list) else [learn])
    assert first_lr(Net().named_parameters(), learn=once) == pytest.approx(0.4 / 64)


def test_it_falls_with_the_width_of_the_hidden_matrices_alone():
    """Of embedding and head, 500 by 16, it takes no notice; a hidden matrix counts by its larger side."""
    assert first_lr(Net().named_parameters(), **POINTWISE) == pytest.approx(0.4 / 64)
    assert first_lr(Net(width=32).named_parameters(), **POINTWISE) == pytest.approx(0.4 / 128)
    kernels = [("a.weight", nn.Parameter(torch.ones(4, 3, 3, 3))), ("head.weight", nn.Parameter(torch.ones(9, 900)))]
    assert first_lr(kernels, **POINTWISE) == pytest.approx(0.4 / 27)


def test_widths_are_averaged_in_their_logarithm_by_elements():
    hidden = [nn.Parameter(torch.ones(shape)) for shape in ((8, 8), (2, 32), (10, 10))]  # the last for the head
    assert first_lr(hidden, **POINTWISE) == pytest.approx(0.4 / 16)


def test_without_hidden_matrices_those_at_the_ends_count():
    assert first_lr(nn.Linear(64, 10).named_parameters()) == pytest.approx(0.4 / 64)
    assert first_lr(nn.Linear(64, 10).named_parameters(), **POINTWISE) == pytest.approx(0.4 / 64)


def test_without_any_matrix_it_is_the_lr_that_is_given():
    vectors = [nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(1, 5))]
    assert first_lr(vectors, lr=0.01, lr_init="shape") == pytest.approx(0.01)
    assert first_lr(vectors) == pytest.approx(1e-3)


@pytest.mark.parametrize("rule", ["muon", "mada_matrix"])
@pytest.mark.parametrize("width", [16, 64])
def test_the_first_step_of_a_hidden_matrix_has_a_spectral_norm_of_a_fiftieth(rule, width):
    """Polynomials leave singular values between .7 and 1.2 (muon), .65 and 1.35 (mada_matrix)."""
    net = Net(width)
    before = net.first.weight.detach().clone()
    opt = HyperOptimizer(net.named_parameters(), rule=rule, learn="lr", lr_init="shape")
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    opt.step()
    moved = torch.linalg.matrix_norm(net.first.weight - before, ord=2).item()
    # The width is that of both hidden matrices, which have one.
    assert 0.65 * 0.02 <= moved <= 1.36 * 0.02


def test_a_number_is_where_it_starts():
    assert first_lr(Net().named_parameters(), lr=1e-2, lr_init=3e-4) == pytest.approx(3e-4)
    assert first_lr(Net().named_parameters(), lr=1e-2, lr_init="lr") == pytest.approx(1e-2)
    assert first_lr(Net().named_parameters(), lr=1e-2, learn="lr") == pytest.approx(1e-2)


def test_groups_keep_their_ratios_and_the_largest_starts_there():
    net = Net()
    groups = [
        {"params": list(net.first.named_parameters()), "lr": 1e-3},
        {"params": list(net.second.named_parameters()), "lr": 4e-3},
    ]
    opt = MADA(groups, lr=1.0, scope="group", lr_init=0.5)
    assert [x["lr"] for x in opt.coefficients().values()] == pytest.approx([0.125, 0.5])
    assert [group["lr"] for group in opt.param_groups] == pytest.approx([0.125, 0.5])
    assert opt.defaults["lr"] == pytest.approx(125.0)
    for travelled in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        travelled.add_param_group({"params": [("late", nn.Parameter(torch.ones(2)))], "lr": 8e-3})
        assert list(travelled.coefficients().values())[-1]["lr"] == pytest.approx(8e-3)


@pytest.mark.parametrize("late", [{}, {"lr": 4e-3}])
def test_groups_with_an_lr_of_their_own_start_there(late):
    """Numbers of the user's, which no computed start replaces."""
    net = Net()
    of_shapes = MADA(net.named_parameters()).coefficients()["lr"]
    groups = [{"params": net.first.named_parameters(), "lr": 1e-3}, {"params": net.second.named_parameters(), **late}]
    opt = MADA(iter(groups), scope="group")
    expected = [1e-3, late.get("lr", of_shapes)]
    assert [x["lr"] for x in opt.coefficients().values()] == pytest.approx(expected)
    assert [group["lr"] for group in opt.param_groups] == pytest.approx(expected)


@pytest.mark.parametrize("options", [{}, {"lr": 7.0, "lr_init": "shape"}, {"lr_init": 0.4 / 64}])
def test_the_start_is_the_lr_of_the_groups_and_its_factor_is_1(options):
    opt = MADA(Net().named_parameters(), **POINTWISE, **options)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.4 / 64)
    assert opt.defaults["lr"] == pytest.approx(0.4 / 64)
    assert opt.param_groups[0]["log_lr"].item() == 0.0


def test_a_group_that_is_added_without_an_lr_starts_where_the_others_did():
    opt = MADA(Net().named_parameters(), scope="group", **POINTWISE)
    opt.add_param_group({"params": [("late", nn.Parameter(torch.ones(2)))]})
    assert [x["lr"] for x in opt.coefficients().values()] == pytest.approx([0.4 / 64] * 2)


def test_a_tensor_lr_is_written_in_place_once():
    """Groups share it, and a user may hold it: as a scheduler writes it."""
    lr, net = torch.tensor(0.5), Net()
    groups = [{"params": list(x.named_parameters())} for x in (net.first, net.second)]
    opt = MADA(groups, lr=lr, lr_init=0.25)
    assert all(group["lr"] is lr for group in opt.param_groups)
    assert lr.item() == 0.25
    assert opt.coefficients()["lr"] == pytest.approx(0.25)


def test_a_schedule_by_a_factor_counts_from_the_start():
    opt = MADA(Net().named_parameters(), lr=7.0, lr_init="shape")
    start = opt.coefficients()["lr"]
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 0.25)
    assert opt.param_groups[0]["lr"] == pytest.approx(start / 4)
    assert opt.coefficients()["lr"] == pytest.approx(start / 4)
    assert scheduler.get_last_lr() == pytest.approx([start / 4])


def test_a_schedule_of_absolute_rates_means_those_rates():
    opt = MADA(Net().named_parameters())
    torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=9, cycle_momentum=False)
    assert opt.coefficients()["lr"] == pytest.approx(0.1 / 25)


def test_the_bounds_are_of_the_factor_on_the_start():
    p = nn.Parameter(torch.ones(4, 4))
    opt = MADA([p], lr_init=1e-6, bounds={"lr": (0.5, 2.0)})
    assert opt.coefficients()["lr"] == pytest.approx(1e-6)
    opt.param_groups[0]["log_lr"].fill_(1.0)
    for _ in range(12):
        p.grad = torch.randn(4, 4)
        opt.step()
    assert opt.coefficients()["lr"] == pytest.approx(2e-6)


def test_a_resumed_run_has_the_lr_that_was_saved():
    """The lr of the groups and its factor go together, whatever the start of the optimizer that takes them up."""
    first, second = MADA(Net().named_parameters()), MADA(Net().named_parameters(), lr=3.0)
    second.load_state_dict(first.state_dict())
    assert second.coefficients() == first.coefficients()
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]


def test_an_lr_of_0_stays():
    assert first_lr(Net().named_parameters(), lr=0.0, lr_init="shape") == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn": (), "lr_init": "shape"}, "expected 'lr' in learn"),
        ({"learn": "beta1", "lr_init": 0.1}, "expected 'lr' in learn"),
        ({"lr_init": "shapes"}, "did you mean 'shape'"),
        ({"lr_init": -0.1}, "expected a number"),
        ({"lr_init": 0.0}, "expected a number"),
        ({"lr_init": float("nan")}, "expected a number"),
    ],
)
def test_what_is_none_of_them_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MADA(Net().named_parameters(), **options)


def test_without_learn_the_numbers_are_those_of_the_learned_lr():
    one, other = (params := parameters()), copy.deepcopy(params)
    named = MADA(other, rule="mada_matrix", **LEARNED_LR)
    unnamed = MADA(one)
    assert unnamed.learned == ("lr",)
    train(unnamed, one, range(15))
    train(named, other, range(15))
    assert same_bits(list(one), list(other))
    assert unnamed.coefficients() == named.coefficients()


def test_what_is_given_goes_before_what_is_usual():
    opt = MADA(parameters(), betas=(0.8, 0.9), hyper_lr=0.5, hyper_start=3, hyper_freeze=0.0, hyper_memory=0.0)
    assert (opt.coefficients()["beta1"], opt.coefficients()["beta2"]) == (0.8, 0.9)
    assert (opt.learner.lr.tolist(), opt.learner.start) == ([0.5], 3)
    assert (opt.learner.freeze, opt.learner.memory) == (0.0, None)


def test_where_learn_is_named_the_numbers_are_the_papers():
    opt = MADA(parameters(), learn="all")
    assert opt.learned == RULES["mada"].coefficient_names()
    assert (opt.coefficients()["beta1"], opt.coefficients()["beta2"]) == (0.9, 0.95)
    assert (opt.learner.start, opt.learner.memory, opt.learner.freeze) == (50, None, 0.0)
    assert opt.learner.lr.tolist() == [5e-4, 5e-4, 1e-1, 1e-1, 1e-1, 1e-1]


def test_with_nothing_learned_it_is_adam_at_the_lr_that_is_given():
    one, other = (params := parameters()), copy.deepcopy(params)
    train(MADA(one, lr=1e-2, learn=()), one, range(5))
    train(Adam(other, lr=1e-2, betas=(0.9, 0.95)), other, range(5))
    assert same_bits(list(one), list(other))
