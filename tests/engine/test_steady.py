"""Steps that take over what the one before has found out about its tensors, against steps that find it out anew: all
bits are the same, whatever happens between two steps.

Catches: loops that run on memory which a tensor has left, a parameter that is moved by a gradient it no longer has, a
number in a group that is read once, gradients that are kept alive.
"""

import copy
import weakref

import pytest
import torch

from mada_optim import MADA, Adam, AutoAdam, AutoMuon, HyperAdam, LearnedLR
from mada_optim.stepping.collect import StepCollector
from mada_optim.stepping.reuse import GroupSnapshot
from tests.problems import along_trace, everything, fast, give_gradients, learning, same_bits, spied

pytestmark = pytest.mark.kernel
SHAPES = [(300, 70), (17,), (5, 3), (1,)]


def pair(make=Adam, **options):
    """An optimizer, and one that is made to forget."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    twins = copy.deepcopy(params)
    return make(groups(params), **options), make(groups(twins), **options)


def groups(params):
    return [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1}]


def params_of(opt):
    return [p for group in opt.param_groups for p in group["params"]]


def step(opt, seed, forget=False):
    give_gradients(params_of(opt), seed)
    only_step(opt, forget)


def only_step(opt, forget):
    with pytest.MonkeyPatch.context() as patch:
        if forget:
            patch.setattr(GroupSnapshot, "holds", lambda *_: False)
        opt.step()


def finds_out(opt, seed):
    """Whether a step finds its tensors anew."""
    with spied(StepCollector, "batches") as calls:
        step(opt, seed)
    return bool(calls)


def set_number(key, value):
    def change(opt):
        opt.param_groups[0][key] = value

    return change


def moved_data(opt):
    p = params_of(opt)[0]
    p.data = p.data.clone()


def transposed_data(opt):
    p = params_of(opt)[0]
    p.data = p.data.t().contiguous().t()


def double_precision(opt):
    p = params_of(opt)[1]
    p.data, p.grad = p.data.double(), None


def replaced_slot(opt):
    state = opt.state[params_of(opt)[0]]
    state["m"] = state["m"] * 0.5


def fresh_state(opt):
    opt.state[params_of(opt)[1]] = {}


def cleared_state(opt):
    opt.state.clear()


def turned_around(opt):
    opt.param_groups[1]["params"].reverse()


def group_added(opt):
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(9))], "lr": 0.1})


def replaced_group(opt):
    opt.param_groups[0] = {**opt.param_groups[0], "lr": 0.1}


def loaded(opt):
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))


NUMBERS = [("lr", 0.1), ("weight_decay", 0.5)]
CHANGES = [transposed_data, double_precision, replaced_slot, fresh_state, cleared_state, turned_around]
CHANGES += [group_added, replaced_group, loaded, set_number("maximize", True)]
CHANGES += [set_number(*x) for x in (("beta1", 0.0), ("beta1", 0.5), ("eps", 1e-3))]


def assert_the_same_after(change, make, **options):
    steady, forgetful = pair(make, **options)
    for seed in range(6):
        if seed == 3:
            for opt in (steady, forgetful):
                change(opt)
        for opt, forget in ((steady, False), (forgetful, True)):
            step(opt, seed, forget)
        assert same_bits(everything(steady), everything(forgetful))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_has_changed_is_found_out(change):
    steady, _ = pair()
    step(steady, 0)
    assert not finds_out(steady, 1)
    change(steady)
    assert finds_out(steady, 2)
    assert_the_same_after(change, Adam)


@pytest.mark.parametrize("make", [HyperAdam, learning], ids=["HyperAdam", "six"])
@pytest.mark.parametrize("change", CHANGES[:-3], ids=lambda change: change.__name__)
def test_while_coefficients_are_learned(change, make):
    assert_the_same_after(change, make)


@pytest.mark.parametrize(("key", "value"), NUMBERS)
@pytest.mark.parametrize("make", [Adam, HyperAdam])
def test_numbers_are_read_at_each_step(make, key, value):
    assert_read_at_each_step(set_number(key, value), make)


def test_addresses_are_read_at_each_step():
    assert_read_at_each_step(moved_data, Adam)


def assert_read_at_each_step(change, make):
    steady, _ = pair(make)
    step(steady, 0)
    change(steady)
    assert not finds_out(steady, 1)
    assert_the_same_after(change, make)


def test_a_parameter_that_has_its_gradient_back():
    """Idle for a step, then not, then idle while another moves."""
    steady, forgetful = pair(HyperAdam)
    without = [(), (2,), (2,), (), (0, 1), (0, 1), (2, 3)]
    for seed, idle in enumerate(without):
        for opt, forget in ((steady, False), (forgetful, True)):
            give_gradients(params_of(opt), seed)
            for i in idle:
                params_of(opt)[i].grad = None
            only_step(opt, forget)
        assert same_bits(everything(steady), everything(forgetful))


def test_a_gradient_of_another_kind_is_found_out():
    """Sparse, or laid out otherwise, it isn't for the loops."""
    steady, forgetful = pair()
    for opt, forget in ((steady, False), (forgetful, True)):
        step(opt, 0)
        step(opt, 1, forget)
        p = params_of(opt)[0]
        p.grad = p.grad.t().contiguous().t()
        only_step(opt, forget)
        p.grad = torch.zeros(p.shape).to_sparse()
        with pytest.raises(RuntimeError, match="sparse"):
            opt.step()
    assert same_bits(everything(steady), everything(forgetful))


def test_a_parameter_that_has_shrunk_is_found_out():
    """Its slots don't fit, which the eager engine says; loops would go on where its memory ends."""
    steady, _ = pair()
    step(steady, 0)
    p = params_of(steady)[0]
    p.data, p.grad = p.data[:10].clone(), None
    with pytest.raises(RuntimeError, match="size"):
        step(steady, 1)


def test_a_0_d_parameter_is_never_taken_over():
    """The loops have a view of it, which has no gradient."""
    opt = Adam([torch.nn.Parameter(torch.tensor(1.0))])
    step(opt, 0)
    assert finds_out(opt, 1)


@pytest.mark.parametrize("make", [Adam, AutoMuon])
def test_gradients_are_not_kept_alive(make):
    steady, _ = pair(make)
    for seed in range(2):  # found out, and taken over
        step(steady, seed)
        gradient = weakref.ref(params_of(steady)[0].grad)
        steady.zero_grad()
        assert gradient() is None


def test_a_copy_finds_out_for_itself():
    steady, _ = pair(HyperAdam)
    step(steady, 0)
    step(steady, 1)
    twin = copy.deepcopy(steady)
    for opt in (steady, twin):
        step(opt, 2)
    assert same_bits(everything(steady), everything(twin))
    before = [p.detach().clone() for p in params_of(steady)]
    step(twin, 3)
    assert same_bits(params_of(steady), before)


LEARNERS = {
    "lr per tensor": (AutoAdam, LearnedLR(scope="tensor", start=1)),
    "six per tensor": (MADA, fast(scope="tensor")),
    "lr, plainly": (MADA, along_trace(rate=1e-3)),
    "none": (MADA, ()),
}


@pytest.mark.parametrize(("make", "learn"), LEARNERS.values(), ids=LEARNERS)
@pytest.mark.parametrize("change", [moved_data, set_number("lr", 0.1)])
def test_other_scopes_and_traces(change, make, learn):
    assert_the_same_after(change, make, learn=learn)
