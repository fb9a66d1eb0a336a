"""Where lr starts with lr="auto", and what optimizers with a learned lr do where nothing is said.

Catches: a start that depends on anything but shapes, or replaces a number of the user's; one that a schedule, a late
group or a resumed run doesn't count from.
"""

import copy
import pickle

import pytest
import torch
from torch import nn

from mada_optim import MADA, SGD, Adam, AutoAdam, AutoMuon, Guard, HyperOptimizer, HyperSGD, LearnedLR
from mada_optim.rules import RULES
from tests.problems import parameters, same_bits, train
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

AUTO = pytest.mark.parametrize("make", [AutoMuon, AutoAdam])


class Net(nn.Module):
    """An embedding, two hidden matrices, and a head."""

    def __init__(self, width=16):
        super().__init__()
        self.embedding = nn.Embedding(500, width)
        self.first = nn.Linear(width, 4 * width)
        self.second = nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 500)


def start_of(opt):
    """The lr in the groups, all of which have the same."""
    (lr,) = {group["lr"] for group in opt.param_groups}
    return lr


def first_lr(params, make=AutoMuon, **options):
    """What a learned lr starts at, which is that of the groups."""
    opt = make(params, **options)
    assert opt.coefficients()["lr"] == start_of(opt)
    return start_of(opt)


@AUTO
def test_it_is_what_is_done_with_nothing_said(make):
    assert first_lr(Net().named_parameters(), make, lr="auto") == first_lr(Net().named_parameters(), make)


@pytest.mark.parametrize("learn", ["lr", ("beta1", "lr"), LearnedLR(), ()], ids=str)
@AUTO
def test_an_lr_that_is_given_is_where_it_starts(make, learn):
    assert start_of(make(Net().named_parameters(), lr=1e-5, learn=learn)) == 1e-5


@pytest.mark.parametrize("learn", ["lr", ["lr"], ("beta1", "lr"), "beta1", (), LearnedLR(), [LearnedLR()]], ids=str)
@AUTO
def test_none_given_it_starts_where_shapes_say_whatever_is_learned(make, learn):
    expected = 0.02 / (0.2 * 64**0.5) if make is AutoMuon else 0.4 / 64
    assert start_of(make(Net().named_parameters(), learn=learn)) == pytest.approx(expected)
    once = iter(learn if isinstance(learn, tuple | list) else [learn])
    assert start_of(make(Net().named_parameters(), learn=once)) == pytest.approx(expected)


@pytest.mark.parametrize("make", [MADA, Adam, SGD])
def test_any_optimizer_may_be_asked_for_it(make):
    opt = make(Net().named_parameters(), "auto")
    assert start_of(opt) == pytest.approx(0.4 / 64)
    assert start_of(make(Net().named_parameters())) == 1e-3


def test_it_falls_with_the_width_of_the_hidden_matrices_alone():
    """Of embedding and head, 500 by 16, it takes no notice; a hidden matrix counts by its larger side."""
    assert first_lr(Net().named_parameters(), AutoAdam) == pytest.approx(0.4 / 64)
    assert first_lr(Net(width=32).named_parameters(), AutoAdam) == pytest.approx(0.4 / 128)
    kernels = [("a.weight", nn.Parameter(torch.ones(4, 3, 3, 3))), ("head.weight", nn.Parameter(torch.ones(9, 900)))]
    assert first_lr(kernels, AutoAdam) == pytest.approx(0.4 / 27)


def test_widths_are_averaged_in_their_logarithm_by_elements():
    hidden = [nn.Parameter(torch.ones(shape)) for shape in ((8, 8), (2, 32), (10, 10))]  # the last for the head
    assert first_lr(hidden, AutoAdam) == pytest.approx(0.4 / 16)


def test_without_hidden_matrices_those_at_the_ends_count():
    assert first_lr(nn.Linear(64, 10).named_parameters()) == pytest.approx(0.4 / 64)
    assert first_lr(nn.Linear(64, 10).named_parameters(), AutoAdam) == pytest.approx(0.4 / 64)


def test_without_any_matrix_it_is_a_thousandth():
    vectors = [nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(1, 5))]
    assert first_lr(vectors) == 1e-3
    assert start_of(Adam(vectors, lr="auto")) == 1e-3


@pytest.mark.parametrize("rule", ["muon", "mada_matrix"])
@pytest.mark.parametrize("width", [16, 64])
def test_the_first_step_of_a_hidden_matrix_has_a_spectral_norm_of_a_fiftieth(rule, width):
    """Polynomials leave singular values between .7 and 1.2 (muon), .65 and 1.35 (mada_matrix)."""
    net = Net(width)
    before = net.first.weight.detach().clone()
    opt = HyperOptimizer(net.named_parameters(), "auto", rule=rule)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    opt.step()
    moved = torch.linalg.matrix_norm(net.first.weight - before, ord=2).item()
    # The width is that of both hidden matrices, which have one.
    assert 0.65 * 0.02 <= moved <= 1.36 * 0.02


def test_groups_keep_their_own_lr_and_a_late_one_too():
    net = Net()
    groups = [
        {"params": list(net.first.named_parameters()), "lr": 1e-3},
        {"params": list(net.second.named_parameters()), "lr": 4e-3},
    ]
    opt = AutoMuon(groups, lr=0.5, learn=LearnedLR(scope="group"))
    assert [x["lr"] for x in opt.coefficients().values()] == pytest.approx([1e-3, 4e-3])
    assert [group["lr"] for group in opt.param_groups] == [1e-3, 4e-3]
    assert opt.defaults["lr"] == 0.5
    for travelled in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        travelled.add_param_group({"params": [("late", nn.Parameter(torch.ones(2)))], "lr": 8e-3})
        assert list(travelled.coefficients().values())[-1]["lr"] == pytest.approx(8e-3)


@pytest.mark.parametrize("late", [{}, {"lr": 4e-3}])
def test_groups_with_an_lr_of_their_own_start_there(late):
    """Numbers of the user's, which no computed start replaces."""
    net = Net()
    of_shapes = AutoMuon(net.named_parameters()).coefficients()["lr"]
    groups = [{"params": net.first.named_parameters(), "lr": 1e-3}, {"params": net.second.named_parameters(), **late}]
    opt = AutoMuon(iter(groups), learn=LearnedLR(scope="group"))
    expected = [1e-3, late.get("lr", of_shapes)]
    assert [x["lr"] for x in opt.coefficients().values()] == pytest.approx(expected)
    assert [group["lr"] for group in opt.param_groups] == pytest.approx(expected)


def test_the_start_is_the_lr_of_the_groups_and_its_factor_is_1():
    opt = AutoAdam(Net().named_parameters())
    assert opt.param_groups[0]["lr"] == pytest.approx(0.4 / 64)
    assert opt.defaults["lr"] == pytest.approx(0.4 / 64)
    assert opt.param_groups[0]["log_lr"].item() == 0.0


@pytest.mark.parametrize("own", [{}, {"lr": 4e-3}], ids=["all as shapes say", "an own lr"])
def test_a_group_that_is_added_without_an_lr_starts_where_shapes_said(own):
    """Those of the first groups, also where none of them starts there."""
    groups = [{"params": list(Net().named_parameters()), **own}]
    opt = AutoAdam(groups, learn=LearnedLR(scope="group"))
    opt.add_param_group({"params": [("late", nn.Parameter(torch.ones(2)))]})
    assert [x["lr"] for x in opt.coefficients().values()] == pytest.approx([own.get("lr", 0.4 / 64), 0.4 / 64])


def test_a_tensor_lr_is_left_as_it_is():
    """Groups share it, and a user may hold it: as a scheduler writes it."""
    lr, net = torch.tensor(0.25), Net()
    groups = [{"params": list(x.named_parameters())} for x in (net.first, net.second)]
    opt = AutoMuon(groups, lr=lr)
    assert all(group["lr"] is lr for group in opt.param_groups)
    assert lr.item() == 0.25
    assert opt.coefficients()["lr"] == pytest.approx(0.25)
    groups = [{"params": [nn.Parameter(torch.ones(4, 4))], "lr": lr}, {"params": [nn.Parameter(torch.ones(4, 4))]}]
    opt = AutoMuon(groups)
    assert opt.param_groups[0]["lr"] is lr
    assert (lr.item(), opt.param_groups[1]["lr"]) == (0.25, pytest.approx(0.02 / (0.2 * 4**0.5)))


def test_a_schedule_by_a_factor_counts_from_the_start():
    opt = AutoMuon(Net().named_parameters())
    start = opt.coefficients()["lr"]
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 0.25)
    assert opt.param_groups[0]["lr"] == pytest.approx(start / 4)
    assert opt.coefficients()["lr"] == pytest.approx(start / 4)
    assert scheduler.get_last_lr() == pytest.approx([start / 4])


def test_a_schedule_of_absolute_rates_means_those_rates():
    opt = AutoMuon(Net().named_parameters())
    torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=9, cycle_momentum=False)
    assert opt.coefficients()["lr"] == pytest.approx(0.1 / 25)


def test_the_bounds_are_of_the_factor_on_the_start():
    p = nn.Parameter(torch.ones(4, 4))
    opt = AutoMuon([p], lr=1e-6, learn=LearnedLR(bounds={"lr": (0.5, 2.0)}))
    assert opt.coefficients()["lr"] == pytest.approx(1e-6)
    opt.param_groups[0]["log_lr"].fill_(1.0)
    for _ in range(12):
        p.grad = torch.randn(4, 4)
        opt.step()
    assert opt.coefficients()["lr"] == pytest.approx(2e-6)


def test_a_resumed_run_has_the_lr_that_was_saved():
    """The lr of the groups and its factor go together, whatever the start of the optimizer that takes them up."""
    first, second = AutoMuon(Net().named_parameters()), AutoMuon(Net().named_parameters(), lr=3.0)
    second.load_state_dict(first.state_dict())
    assert second.coefficients() == first.coefficients()
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]


def test_an_lr_of_0_stays():
    opt = AutoMuon(Net().named_parameters(), lr=0.0)
    assert (opt.param_groups[0]["lr"], opt.coefficients()["lr"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("params", "lr", "message"),
    [
        (lambda: Net().named_parameters(), "shape", "lr='shape': expected a number"),
        (lambda: Net().named_parameters(), -0.1, "lr=-0.1: expected a number"),
        (lambda: Net().named_parameters(), None, "lr=None: expected a number"),
        (lambda: [{"params": Net().parameters(), "lr": "auto"}], "auto", "lr='auto': expected a number"),  # in a group
    ],
    ids=["another word", "negative", "None", "in a group"],
)
def test_what_is_no_start_is_refused(params, lr, message):
    with pytest.raises(ValueError, match=message):
        AutoMuon(params(), lr=lr)


#: All that `AutoMuon` and `AutoAdam` do where nothing is said, spelt out for the general optimizer.
SPELT_OUT = {
    "lr": "auto",
    "betas": (0.9, 0.99),
    "eps": 1e-8,
    "weight_decay": 0.3,
    "learn": LearnedLR(
        rate=1.0,
        horizon=0.9999,
        fall=300.0,
        freeze=0.4,
        scope="global",
        memory=0.999,
        averaging=0.9,
        reach=0.1,
        rise=0.65,
        clip=1.0,
        start=10,
        stop=None,
    ),
}
MUON = {"rule": "mada_matrix", "omega": 1.0, "matrix_lr_ratio": 2.0, "guard": Guard(ramp=100.0, least_beta2=0.99)}
ADAM = {"rule": "mada", "guard": Guard(ramp=5.0, least_beta2=0.99)}


@pytest.mark.parametrize(("make", "own"), [(AutoMuon, MUON), (AutoAdam, ADAM)])
def test_with_nothing_said_the_numbers_are_those_of_the_learned_lr(make, own):
    one, other = (params := parameters()), copy.deepcopy(params)
    unnamed, named = make(one), HyperOptimizer(other, **SPELT_OUT, **own)
    assert unnamed.learned == ("lr",)
    train(unnamed, one, range(15))
    train(named, other, range(15))
    assert same_bits(list(one), list(other))
    assert unnamed.coefficients() == named.coefficients()


def test_what_is_given_goes_before_what_is_usual():
    learn = LearnedLR(rate=0.5, start=3, freeze=0.0, memory=0.0, averaging=0.0, rise=0.0)
    opt = AutoMuon(parameters(), betas=(0.8, 0.995), learn=learn, guard=None)
    assert (opt.coefficients()["beta1"], opt.coefficients()["beta2"]) == (0.8, 0.995)
    assert opt.learners == (learn,)
    assert not {"hyper_square", "hyper_mean", "hyper_largest_lr", "hyper_ceiling"} & set(opt.param_groups[0])


def test_the_paper_s_learns_its_six_and_its_numbers_are_the_papers():
    opt = MADA(parameters())
    assert opt.learned == RULES["mada"].coefficient_names()
    assert (opt.coefficients()["beta1"], opt.coefficients()["beta2"]) == (0.9, 0.95)
    assert opt.learners == (HyperSGD("all", lr={}, momentum=0.0, clip=10.0, start=50, stop=None, scope="global"),)
    rates = {q.name: q.hyper_lr for q in RULES["mada"].coefficients}
    assert rates == {"beta1": 5e-4, "beta2": 5e-4, "beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-1}


def test_with_nothing_learned_it_is_adam_at_the_lr_that_is_given():
    one, other = (params := parameters()), copy.deepcopy(params)
    train(MADA(one, lr=1e-2, learn=()), one, range(5))
    train(Adam(other, lr=1e-2, betas=(0.9, 0.95)), other, range(5))
    assert same_bits(list(one), list(other))
