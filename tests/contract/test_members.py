"""Groups that a user changes by hand, as torch's optimizers allow it: what they hold by place follows.

Catches: a head that is orthogonalised since the embedding before it was taken out, coefficients of another group, and
matrices that are stepped as flat vectors without a word.
"""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.fsdp._common_utils import _set_fsdp_flattened

from mada_optim import MADA, Adam, AutoMuon, HyperAdam, HyperSGD, LearnedLR
from tests.problems import same_bits, with_muon
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

SHAPES = {"wte.weight": (12, 8), "h.0.weight": (8, 8), "h.1.weight": (9, 8), "ln.weight": (8,), "head.weight": (5, 8)}


def parameters():
    torch.manual_seed(0)
    return [(name, nn.Parameter(torch.randn(shape))) for name, shape in SHAPES.items()]


def give(params):
    for p in params:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))


def stepped(opt, params, steps=3):
    for _ in range(steps):
        give(params)
        opt.step()
    return [p.detach().clone() for p in params]


@pytest.mark.parametrize("begun", [False, True])
def test_a_parameter_that_is_taken_out_leaves_the_others_what_they_were(begun):
    named, twins = parameters(), parameters()
    opt, twin = (with_muon(x) for x in (named, twins))
    rest, of_twin = ([p for _, p in x[1:]] for x in (named, twins))
    if begun:
        stepped(opt, [p for _, p in named])
        stepped(twin, [p for _, p in twins])
    opt.param_groups[0]["params"] = rest
    twins[0][1].grad = None
    assert same_bits(stepped(opt, rest), stepped(twin, of_twin))
    assert opt.param_groups[0]["param_names"] == list(SHAPES)[1:]
    assert opt.param_groups[0]["hidden_matrices"] == [True, True, False, False]


def test_parameters_in_another_order_are_what_they_were():
    named, twins = parameters(), parameters()
    opt, twin = AutoMuon(named), AutoMuon(twins)
    opt.param_groups[0]["params"].reverse()
    for x, y in zip(stepped(opt, [p for _, p in named]), stepped(twin, [p for _, p in twins]), strict=True):
        torch.testing.assert_close(x, y)
    assert opt.param_groups[0]["param_names"] == list(SHAPES)[::-1]


def test_a_parameter_in_the_place_of_another_takes_over_what_that_was():
    """As where a wrapper shards a model and puts its shards into the groups."""
    named = parameters()
    opt = AutoMuon(named)
    new = [nn.Parameter(p.detach().clone()) for _, p in named]
    opt.param_groups[0]["params"] = new
    twins = parameters()
    assert same_bits(stepped(opt, new), stepped(AutoMuon(twins), [p for _, p in twins]))


def test_a_parameter_that_is_put_in_is_decided_by_itself():
    named = parameters()
    opt = AutoMuon(named)
    late = nn.Parameter(torch.randn(7))
    opt.param_groups[0]["params"].append(late)
    stepped(opt, [*(p for _, p in named), late])
    assert opt.param_groups[0]["hidden_matrices"] == [False, True, True, False, False, False]
    assert opt.param_groups[0]["param_names"][-1] == "0.5"
    assert opt.state[late]["step"] == 3


def flattened(opt):
    """Puts one flat tensor in the place of each group's parameters, as DeepSpeed ZeRO does; returns these tensors."""
    flat = [nn.Parameter(torch.cat([p.detach().flatten() for p in group["params"]])) for group in opt.param_groups]
    for group, x in zip(opt.param_groups, flat, strict=True):
        group["params"] = [x]
    return flat


@pytest.mark.parametrize("learn", [(), LearnedLR()], ids=["nothing", "lr"])
def test_hidden_matrices_are_not_stepped_as_flat_tensors(learn):
    named = dict(parameters())
    groups = [{"params": [named["h.0.weight"], named["h.1.weight"]], "matrix": True}]
    opt = AutoMuon(groups, learn=learn)
    (flat,) = flattened(opt)
    before = flat.detach().clone()
    give([flat])
    with pytest.raises(RuntimeError, match=r"expected a parameter of shape \(8, 8\), got the shape \(136,\).*ZeRO"):
        opt.step()
    assert torch.equal(flat, before)


def test_pointwise_rules_step_flat_tensors_like_the_parameters():
    params, twins = ([p for _, p in parameters()] for _ in range(2))
    opt, twin = (HyperAdam(ps, learn=HyperSGD("all", start=1)) for ps in (params, twins))
    (flat,) = flattened(opt)
    for _ in range(4):
        give(twins)
        flat.grad = torch.cat([p.grad.flatten() for p in twins])
        opt.step()
        twin.step()
    torch.testing.assert_close(flat, torch.cat([p.flatten() for p in twins]))
    assert opt.coefficients() == pytest.approx(twin.coefficients(), rel=1e-6)


def test_each_new_parameter_keeps_the_coefficients_of_its_place():
    """As with Accelerate and FSDP2, where shards replace the parameters before the first step."""

    def made():
        params = [p for _, p in parameters()]
        return HyperAdam(params, learn=HyperSGD("all", start=1, scope="tensor")), params

    (opt, params), (twin, twins) = made(), made()
    new = [nn.Parameter(p.detach().clone()) for p in params]
    opt.param_groups[0]["params"] = new
    assert same_bits(stepped(opt, new), stepped(twin, twins))
    assert opt.coefficients() == twin.coefficients()
    assert opt.coefficients()["0.0"] != opt.coefficients()["0.1"]


CHANGES = {
    "pop": lambda opt: opt.param_groups.pop(),
    "append": lambda opt: opt.param_groups.append({**opt.param_groups[0], "params": [nn.Parameter(torch.ones(2))]}),
    "reorder": lambda opt: opt.param_groups.reverse(),
}


def two_groups(make, **options):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]
    return make([{"params": [p]} for p in params], **options), params


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("scope", ["global", "group", "tensor"])
@pytest.mark.parametrize("copied", [False, True])
def test_groups_of_learned_coefficients_are_not_changed_by_hand(change, scope, copied):
    opt, params = two_groups(HyperAdam, learn=HyperSGD("all", scope=scope))
    stepped(opt, params)
    opt = copy.deepcopy(opt) if copied else opt
    params = [p for group in opt.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in params]
    CHANGES[change](opt)
    give(params)
    with pytest.raises(RuntimeError, match="param_groups were changed by hand"):
        opt.step()
    assert same_bits(before, [p.detach() for p in params])


@pytest.mark.parametrize("change", ["pop", "reorder"])
def test_where_nothing_is_learned_they_may_be(change):
    opt, params = two_groups(Adam)
    twin, twins = two_groups(Adam)
    stepped(opt, params)
    stepped(twin, twins)
    CHANGES[change](opt)
    left = [p for group in opt.param_groups for p in group["params"]]
    for p in twins:
        p.grad = None
    same = [q for p, q in zip(params, twins, strict=True) if any(p is x for x in left)]
    for p in params:
        p.grad = None
    stepped(opt, left)
    stepped(twin, same)
    assert same_bits([p.detach() for p in params], [q.detach() for q in twins])


@pytest.mark.parametrize("make", [Adam, AutoMuon], ids=lambda cls: cls.__name__)
def test_a_parameter_that_is_moved_to_the_next_group_has_that_groups_lr(make):
    """The order of all parameters stays; only the border between two groups moves."""
    a, b, c = (nn.Parameter(torch.ones(3)) for _ in range(3))
    opt = make([{"params": [a, b], "lr": 0.1}, {"params": [c], "lr": 0.001}], weight_decay=0.0)

    def step():
        for p in (a, b, c):
            p.grad = torch.ones(3)
        opt.step()

    step()
    step()
    opt.param_groups[1]["params"].insert(0, opt.param_groups[0]["params"].pop())
    before = b.detach().clone()
    step()
    assert (before - b.detach()).max().item() == pytest.approx(0.001, rel=1e-3)
    opt.state_dict()


def test_a_key_in_the_place_of_another_is_seen():
    p = nn.Parameter(torch.ones(3))
    opt = Adam([{"params": [p], "initial_lr": 1.0}])
    p.grad = torch.ones(3)
    opt.step()
    del opt.param_groups[0]["initial_lr"]
    opt.param_groups[0]["weight_decy"] = 0.1
    with pytest.raises(ValueError, match="weight_decay"):
        opt.step()


def test_an_option_without_effect_is_refused_in_a_step_too():
    p = nn.Parameter(torch.ones(3))
    opt = Adam([p])
    p.grad = torch.ones(3)
    opt.step()
    opt.param_groups[0]["matrix_lr_ratio"] = 3.0
    with pytest.raises(ValueError, match=r"matrix_lr_ratio=3\.0: expected a rule with another update"):
        opt.step()


def test_flat_slices_of_fsdp1_are_refused_where_they_matter(monkeypatch):
    """The mark is what FullyShardedDataParallel sets on them, whether or not it uses the original parameters."""
    p = nn.Parameter(torch.ones(24))
    _set_fsdp_flattened(p)
    with pytest.raises(ValueError, match=r"expected matrices, got flat slices .*; shard the model by FSDP2"):
        AutoMuon([p])
    MADA([p])
    monkeypatch.setattr("mada_optim.sharding.dtensors.processes", lambda: 2)
    with pytest.raises(ValueError, match="expected reduce_group with flat slices"):
        MADA([("w", p)])
    MADA([p], learn=())
    Adam([p])
