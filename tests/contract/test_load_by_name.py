"""A state is loaded by name where both sides have names: in lock-step with the run that was saved, bit for bit.

Catches: the state of one parameter on another of the same shape, coefficients or flags of one on another, options of a
group on another, and names that differ and are taken for the same.
"""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from mada_optim import MADA, Adam, AutoMuon, HyperTorch, LearnedLR
from tests.problems import fast, learning, same_bits
from tests.representatives import on_one_engine

pytestmark = on_one_engine

SHAPE = (4, 4)
NAMES = ("a.weight", "b.weight", "c.weight", "d.weight")
PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module.")


def adam_of_coefficients(coefficients):
    return torch.optim.Adam(coefficients, lr=1e-2)


def tower(scope, make=adam_of_coefficients):
    return HyperTorch("all", make=make, start=0, scope=scope)


#: What holds something for each parameter, beside its slots.
MAKERS = {
    "Adam": Adam,
    "AutoMuon": lambda groups: AutoMuon(groups, learn=LearnedLR(start=1)),
    "per group": lambda groups: learning(groups, learn=fast(scope="group")),
    "per tensor": lambda groups: learning(groups, learn=fast(scope="tensor")),
    "lr per tensor": lambda groups: AutoMuon(groups, learn=LearnedLR(start=1, scope="tensor")),
    "tower per tensor": lambda groups: learning(groups, learn=tower("tensor")),
    "tower per group": lambda groups: learning(groups, learn=tower("group")),
    "own tower": lambda groups: learning(groups, learn=tower("tensor", MADA)),
    "several": lambda groups: learning(
        groups, learn=[fast("beta1"), fast("beta2", scope="group"), HyperTorch("rho", start=0, scope="tensor")]
    ),
}


def weights(start=0):
    return {name: nn.Parameter(torch.full(SHAPE, 1.0 + i + start)) for i, name in enumerate(NAMES)}


def grouped(params, layout, prefix=""):
    """Groups of these names; each has the decay of its first name, and the matrices whose names come late are none."""
    return [
        {
            "params": [(f"{prefix}{name}", params[name]) for name in names],
            "weight_decay": 0.1 * NAMES.index(min(names)),
        }
        for names in layout
    ]


def train(opt, params, steps):
    for step in steps:
        for i, p in enumerate(params.values()):
            p.grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 * step + i)) * 10.0**-i
        opt.step()


LAYOUTS = {
    "as it was": [NAMES[:2], NAMES[2:]],
    "within groups": [NAMES[1::-1], NAMES[:1:-1]],
    "groups": [NAMES[2:], NAMES[:2]],
    "both": [NAMES[:1:-1], NAMES[1::-1]],
}


def scopes(opt):
    """The readings by name, whatever the order; of a group by its decay."""
    reading = opt.coefficients()
    if set(reading) == {"0", "1"}:
        return {str(group["weight_decay"]): reading[str(i)] for i, group in enumerate(opt.param_groups)}
    return {name: x for name, x in reading.items() if isinstance(x, dict)} or dict(reading)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_each_parameter_gets_the_state_of_its_name(make, layout):
    params, others = weights(), weights(start=7)
    opt = make(grouped(params, LAYOUTS["as it was"]))
    train(opt, params, range(6))
    twin = make(grouped(others, layout))
    train(twin, others, range(50, 52))
    with torch.no_grad():
        for name, p in others.items():
            p.copy_(params[name])
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert [group["param_names"] for group in twin.param_groups] == [list(names) for names in layout]
    for steps in ([], range(6, 9)):
        train(opt, params, steps)
        train(twin, others, steps)
        for name, p in params.items():
            state, other = opt.state[p], twin.state[others[name]]
            assert list(state) == list(other)
            # sums over tensors are taken in another order, which rounds otherwise
            for x, y in zip([p, *state.values()], [others[name], *other.values()], strict=True):
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)
        ours, theirs = scopes(opt), scopes(twin)
        assert ours.keys() == theirs.keys()
        for name, x in ours.items():
            assert theirs[name] == pytest.approx(x, rel=1e-6)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_wraps_a_module_makes_no_other_name(prefix):
    for one, other in ((prefix, ""), ("", prefix)):
        params, others = weights(), weights()
        opt = Adam(grouped(params, LAYOUTS["as it was"], one))
        train(opt, params, range(2))
        twin = Adam(grouped(others, LAYOUTS["both"], other))
        twin.load_state_dict(opt.state_dict())
        assert twin.param_groups[0]["param_names"] == [f"{other}{name}" for name in LAYOUTS["both"][0]]
        for name in NAMES:
            assert same_bits(list(opt.state[params[name]].values()), list(twin.state[others[name]].values()))


def test_a_wrapper_inside_makes_no_other_name():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt, twin = Adam([("net.block.weight", p)]), Adam([("net._orig_mod.block._checkpoint_wrapped_module.weight", q)])
    p.grad = torch.ones(2)
    opt.step()
    twin.load_state_dict(opt.state_dict())
    assert torch.equal(twin.state[q]["m"], opt.state[p]["m"])


def test_a_module_that_is_called_module_is_told_from_one_that_isnt():
    params = {name: nn.Parameter(torch.ones(2)) for name in ("module.weight", "weight")}
    opt, twin = Adam(params.items()), Adam(list(params.items())[::-1])
    for i, p in enumerate(params.values()):
        p.grad = torch.full((2,), 1.0 + i)
    opt.step()
    before = {name: opt.state[p]["m"].clone() for name, p in params.items()}
    twin.load_state_dict(opt.state_dict())
    assert all(torch.equal(twin.state[p]["m"], before[name]) for name, p in params.items())


OTHERS = {
    "one less": (lambda x: x[:-1], "expected only parameters of this optimizer, got 'd.weight'"),
    "one more": (lambda x: [*x, ("e.weight", nn.Parameter(torch.ones(SHAPE)))], "expected a parameter 'e.weight'"),
    "another": (lambda x: [*x[:-1], ("e.weight", x[-1][1])], "expected a parameter 'e.weight'"),
}


@pytest.mark.parametrize(("change", "message"), OTHERS.values(), ids=OTHERS)
def test_names_that_differ_are_refused_and_change_nothing(change, message):
    params, others = weights(), weights()
    opt, twin = Adam(params.items()), Adam(change(list(others.items())))
    train(opt, params, range(2))
    with pytest.raises(ValueError, match=message):
        twin.load_state_dict(opt.state_dict())
    assert not twin.state


def test_names_removed_from_a_state_it_is_loaded_by_position():
    params, others = weights(), weights()
    opt, twin = Adam(params.items()), Adam([(f"x{name}", p) for name, p in others.items()])
    train(opt, params, range(2))
    saved = opt.state_dict()
    del saved["param_groups"][0]["param_names"]
    twin.load_state_dict(saved)
    for p, q in zip(params.values(), others.values(), strict=True):
        assert same_bits(list(opt.state[p].values()), list(twin.state[q].values()))


def test_a_parameter_that_has_come_to_another_group_is_refused():
    """Whose options it should have, nobody says."""
    opt = Adam(grouped(weights(), [NAMES[:2], NAMES[2:]]))
    twin = Adam(grouped(weights(), [NAMES[:1], NAMES[1:]]))
    with pytest.raises(ValueError, match=r"parameter group 0: .* got \['b.weight'\] from another"):
        twin.load_state_dict(opt.state_dict())


def test_flags_of_hidden_matrices_follow_their_names():
    params, others = weights(), weights()
    opt = AutoMuon([{"params": list(params.items())}])
    twin = AutoMuon([{"params": list(others.items())[::-1]}])
    flags = dict(zip(NAMES, opt.param_groups[0]["hidden_matrices"], strict=True))
    assert flags["d.weight"] != flags["a.weight"]  # the last one is taken for the head
    twin.load_state_dict(opt.state_dict())
    assert twin.param_groups[0]["hidden_matrices"] == [flags[name] for name in NAMES[::-1]]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        for name in "abcd":
            self.add_module(name, nn.Linear(4, 4, bias=False))


@pytest.mark.parametrize("make", [MAKERS["AutoMuon"], MAKERS["per tensor"]], ids=["AutoMuon", "per tensor"])
def test_states_that_distributed_checkpoints_have_put_into_order(make):
    """They order parameters by their full names, but not what a group holds of each."""
    net, other = Net(), Net()
    params, others = dict(net.named_parameters()), dict(other.named_parameters())
    opt = make(grouped(params, [NAMES[:2], NAMES[2:]]))
    train(opt, params, range(4))
    twin = make(grouped(others, [NAMES[1::-1], NAMES[:1:-1]]))
    set_optimizer_state_dict(other, twin, get_optimizer_state_dict(net, opt))
    for name in NAMES:
        assert same_bits(list(opt.state[params[name]].values()), list(twin.state[others[name]].values()))
    assert scopes(twin) == pytest.approx(scopes(opt)) if make is MAKERS["AutoMuon"] else scopes(twin) == scopes(opt)
