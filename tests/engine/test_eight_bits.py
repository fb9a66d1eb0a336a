"""State in 8 bits: what is kept, how well, and that nothing else changes.

Catches: codes that aren't the nearest, or are biased; a second moment that becomes 0 where the first isn't; a rule that
declares a slot never negative that is; bytes that grow; a skipped or resumed step that changes bits.
"""

import copy
import io

import pytest
import torch
from torch import nn

from mada_optim import MADA, Adam, AutoMuon, HyperAdam, HyperOptimizer
from mada_optim.engines import eight_bits
from mada_optim.rules import RULES

CPU = torch.device("cpu")
MAKERS = {
    "Adam": lambda net, **options: Adam(net.parameters(), lr=1e-2, **options),
    "MADA": lambda net, **options: MADA(net.parameters(), lr=1e-2, **options),
    "AutoMuon": lambda net, **options: AutoMuon(net.named_parameters(), **options),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
each_scale = pytest.mark.parametrize("signed", [True, False], ids=["signed", "never negative"])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 70), nn.Tanh(), nn.Linear(70, 64))


def train(net, opt, steps):
    loss = None
    for seed in steps:
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(seed))
        opt.zero_grad()
        loss = (net(x) - x.roll(1, 1)).square().mean()
        loss.backward()
        opt.step()
    return loss.item()


def tensors(opt):
    return [x.clone() for state in opt.state.values() for x in state.values()]


def all_equal(xs, ys):
    return len(xs) == len(ys) and all(map(torch.equal, xs, ys))


def wide(signed, n=5000):
    """Numbers of many sizes, some of them 0."""
    drawn = torch.Generator().manual_seed(1)
    x = torch.randn(n, generator=drawn) * torch.exp(3 * torch.randn(n, generator=drawn))
    x[::50] = 0.0
    return x if signed else x * x


@each_scale
def test_a_code_is_that_of_the_nearest_value(signed):
    scale, x = eight_bits.scale_on(CPU, signed), wide(signed)
    found = eight_bits.unpack(*eight_bits.pack(x, scale), scale)
    largest = torch.cat([block.abs().amax().expand(block.numel()) for block in x.split(eight_bits.BLOCK)])
    values = torch.tensor(eight_bits.magnitudes(signed), dtype=torch.float64)
    y = x.abs().double() / largest
    best = (y[:, None] - values).abs().amin(1)
    got = (found.abs() / largest - y).abs()
    positive = x != 0 if signed else y > values[1]  # the smallest are rounded up
    assert (got[positive] <= best[positive] + 1e-6).all()
    assert torch.equal(found[x == 0], x[x == 0])


@each_scale
def test_packing_what_was_unpacked_gives_the_same_bits(signed):
    scale = eight_bits.scale_on(CPU, signed)
    for size in (1e-40, 1e-20, 1.0, 1e20):
        packed = eight_bits.pack(wide(signed) * size, scale)
        assert all_equal(eight_bits.pack(eight_bits.unpack(*packed, scale), scale), packed)


@each_scale
def test_rounding_at_random_is_right_on_average(signed):
    scale, x = eight_bits.scale_on(CPU, signed), torch.full((eight_bits.BLOCK * 64,), 0.0123)
    x[:: eight_bits.BLOCK] = 1.0
    bits = torch.randint(2**24, x.shape, generator=torch.Generator().manual_seed(2))
    found = eight_bits.unpack(*eight_bits.pack(x, scale, bits), scale)[x != 1.0]
    assert found.unique().numel() == 2
    assert found.mean().item() == pytest.approx(0.0123, rel=1e-3)


def test_nothing_positive_becomes_0_where_it_is_never_negative():
    scale = eight_bits.scale_on(CPU, False)
    x = torch.logspace(-30, 0, 512)
    assert (eight_bits.unpack(*eight_bits.pack(x, scale, torch.full((512,), 2**24 - 1)), scale) > 0).all()


def test_an_element_with_a_far_smaller_gradient_moves_as_in_fp32():
    moved = {}
    for state_dtype in (None, "8bit"):
        p = nn.Parameter(torch.zeros(4096))
        opt = Adam([p], lr=1.0, state_dtype=state_dtype)
        for _ in range(20):
            p.grad = torch.logspace(-6, 0, 4096)
            opt.step()
        moved[state_dtype] = p.detach()
    assert (moved["8bit"] / moved[None] - 1).abs().max() < 0.3


MIXED = {"beta3": 0.3, "rho": 0.5, "c": 0.5}
#: Coefficients at which no slot of a rule is switched off.
SPREAD = {
    **dict.fromkeys(("mada", "mada_released", "mada_published", "mada_matrix"), MIXED),
    "rmsprop": {"centered": 0.5, "momentum": 0.5},
    "sgd": {"momentum": 0.5},
}


def test_a_slow_average_follows_the_gradient_down():
    p = nn.Parameter(torch.zeros(4096))
    opt = Adam([p], state_dtype="8bit", betas=(0.9, 0.99))
    for size in [1.0] * 100 + [0.5] * 200:
        p.grad = torch.full((4096,), size)
        p.grad[:: eight_bits.BLOCK] = 2.0  # keeps the scales where they are
        opt.step()
    wanted = 0.99**200 * (1 - 0.99**100) + 0.25 * (1 - 0.99**200)
    assert opt.slots(p)["v"][1 : eight_bits.BLOCK].mean().item() == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("rule", RULES)
def test_exactly_the_slots_that_are_declared_so_are_never_negative(rule):
    p = nn.Parameter(torch.zeros(64))
    opt = HyperOptimizer([p], rule=rule, engine="eager", **SPREAD.get(rule, {}))
    least = {}
    for seed in range(30):
        p.grad = torch.randn(64, generator=torch.Generator().manual_seed(seed))
        opt.step()
        for name, x in opt.slots(p).items():
            least[name] = min(least.get(name, 0.0), x.min().item())
    for slot in opt.rule.slots:
        if slot.name in least and slot.per_element:
            assert (least[slot.name] == 0) == slot.non_negative, slot.name


@each_maker
def test_each_slot_takes_at_most_11_tenths_of_a_byte_per_element(make):
    net = nn.Linear(256, 256, bias=False)
    opt = make(net, state_dtype="8bit")
    bill = opt.memory()
    slots = {name.removesuffix("_scale") for name, size in bill.bytes.items() if size > 8 * 7}
    assert slots
    for name in slots:
        assert bill.bytes[name] + bill.bytes[name + "_scale"] <= 1.1 * bill.parameters
    net(torch.ones(2, 256)).sum().backward()
    opt.step()
    assert bill.total == sum(x.numel() * x.element_size() for x in tensors(opt))


@each_maker
def test_it_learns_as_in_fp32(make):
    losses = []
    for state_dtype in (None, "8bit"):
        net = network()
        losses.append(train(net, make(net, state_dtype=state_dtype, engine="eager"), range(60)))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@each_maker
def test_a_skipped_step_changes_no_bit(make):
    net = network()
    opt = make(net, state_dtype="8bit")
    train(net, opt, range(3))
    before, weights = tensors(opt), [p.clone() for p in net.parameters()]
    net[0].weight.grad[3, 5] = float("nan")
    opt.step()
    assert opt.skipped_steps == 1
    assert all_equal(tensors(opt), before)
    assert all_equal(list(net.parameters()), weights)


@each_maker
def test_loaded_and_copied_it_goes_on_bit_for_bit(make):
    net = network()
    opt = make(net, state_dtype="8bit")
    train(net, opt, range(3))
    file = io.BytesIO()
    torch.save([net.state_dict(), opt.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other = network()
    other.load_state_dict(weights)
    resumed = make(other, state_dtype="8bit")
    resumed.load_state_dict(state)
    twin, copied = copy.deepcopy((net, opt))
    for each, optimizer in ((net, opt), (other, resumed), (twin, copied)):
        train(each, optimizer, range(3, 6))
    for each, optimizer in ((other, resumed), (twin, copied)):
        assert all_equal(tensors(optimizer), tensors(opt))
        assert all_equal(list(each.parameters()), list(net.parameters()))


@each_maker
def test_it_loads_into_fp32_and_back_with_the_same_bits(make):
    net = network()
    opt = make(net, state_dtype="8bit")
    train(net, opt, range(3))
    in_fp32, back = make(net), make(net, state_dtype="8bit")
    in_fp32.load_state_dict(opt.state_dict())
    for p in net.parameters():
        assert all(map(torch.equal, in_fp32.slots(p).values(), opt.slots(p).values()))
        if "trace" in opt.state[p]:
            trace = eight_bits.read(opt.state[p], "trace", opt.rule)
            assert torch.equal(in_fp32.state[p]["anchor"], p.detach() - trace)
    back.load_state_dict(in_fp32.state_dict())
    kept = [x for x in tensors(opt) if x.dtype is torch.uint8]
    again = [x for x in tensors(back) if x.dtype is torch.uint8]
    assert sum(map(lambda x, y: (x != y).sum().item(), kept, again)) <= 1e-3 * sum(x.numel() for x in kept)


def test_small_parameters_and_those_of_a_later_group_are_kept_as_they_should():
    small, large = nn.Parameter(torch.zeros(4095)), nn.Parameter(torch.zeros(4096))
    opt = HyperAdam([small], state_dtype="8bit")
    opt.add_param_group({"params": [large]})
    for p in (small, large):
        p.grad = torch.ones_like(p)
    opt.step()
    assert [opt.state[p]["v"].dtype for p in (small, large)] == [torch.float32, torch.uint8]


def test_other_engines_refuse_it_with_a_reason():
    net = network()
    opt = MAKERS["Adam"](net, state_dtype="8bit")
    assert (opt.engine, opt.engine_reasons) == ("eager", ["there are no loops for slots in 8 bits"])
    with pytest.raises(ValueError, match="there are no loops for slots in 8 bits; leave it at 'auto'"):
        MAKERS["Adam"](net, state_dtype="8bit", engine="cpu")


def test_a_state_whose_scales_dont_fit_is_refused():
    net = network()
    opt = MAKERS["Adam"](net, state_dtype="8bit")
    train(net, opt, range(1))
    state = copy.deepcopy(opt.state_dict())
    state["state"][0]["m_scale"] = torch.ones(3)
    with pytest.raises(ValueError, match="'m': expected 'm_scale', the scales of its 18 blocks"):
        opt.load_state_dict(state)
    del opt.state[net[0].weight]["v_scale"]
    with pytest.raises(RuntimeError, match="'v': expected 'v_scale', the scales of its 18 blocks"):
        train(net, opt, range(1))
