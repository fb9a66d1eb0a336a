"""bf16 and fp16 weights that are rounded stochastically.

Catches: a mean that drifts, a number that isn't a neighbor, small numbers of fp16 on the grid of larger ones, a finite
weight that becomes infinite too early, noise that parameters or slots share, other noise after a resume or on another
engine, and a rounding that a skipped step leaves behind.
"""

import copy

import pytest
import torch

from mada_optim import SGD, Adam, AutoMuon, LearnedLR
from mada_optim.engines.rounding import bits_of_stream, stochastic, stream
from tests.problems import everything, give_gradients, same_bits, train

NARROW = (torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", NARROW, ids=["bf16", "fp16"])
LARGEST = {torch.bfloat16: 3.3895313892515355e38, torch.float16: 65504.0}
STANDARD_ERRORS = 5.0  # one of 3.5 million means is farther away


def exact_numbers(dtype):
    """All positive finite numbers of `dtype`, rising, in fp64."""
    numbers = torch.arange(2**15, dtype=torch.int32).to(torch.int16).view(dtype).double()
    return numbers[numbers.isfinite()]


def between(dtype, count):
    """Positive fp32 numbers in each gap of `dtype` in turn, with the numbers below and above them, in fp64."""
    exact = exact_numbers(dtype)
    i = torch.randint(len(exact) - 1, (count,), generator=torch.Generator().manual_seed(0))
    below, above = exact[i], exact[i + 1]
    share = torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (below + share * (above - below)).float(), below, above


def rounded(x, dtype, step=3.0, number=0):
    return stochastic(x, dtype, torch.tensor(step, dtype=torch.float64), stream(-1 - number))


# ---------------------------------------------------------------------------------------------------- single roundings


@each_dtype
@pytest.mark.parametrize("small", [False, True], ids=["normal", "small"])
def test_the_mean_is_exact_wherever_a_number_is_in_its_gap(small, dtype):
    """In units of the gap. Small numbers are those below the normal ones of the dtype, whose gaps are all equal."""
    x, below, above = between(dtype, 1 << 20)
    x, below, above = (y[(below < torch.finfo(dtype).tiny) == small] for y in (x, below, above))
    share = (x.double() - below) / (above - below)
    error = (rounded(x, dtype).double() - x.double()) / (above - below)
    for weight in (torch.ones_like(share), share - 0.5):  # the second of rounding to nearest is not 0
        assert (weight * error).sum().abs() <= STANDARD_ERRORS * (weight**2 * share * (1 - share)).sum().sqrt()


@each_dtype
def test_a_number_goes_to_a_neighbor_and_an_exact_one_stays(dtype):
    x, below, above = between(dtype, 1 << 16)
    result = rounded(x, dtype).double()
    assert ((result == below) | (result == above)).all()
    exact = exact_numbers(dtype).to(dtype)
    assert torch.equal(rounded(exact.float(), dtype), exact)


@each_dtype
def test_a_sign_changes_nothing_but_the_sign(dtype):
    x = torch.cat([between(dtype, 1 << 16)[0], torch.zeros(1)])
    assert torch.equal(rounded(-x, dtype).view(torch.int16), (-rounded(x, dtype)).view(torch.int16))


@each_dtype
def test_beyond_the_largest_number_rounding_is_to_nearest(dtype):
    largest = LARGEST[dtype]
    gap = largest - exact_numbers(dtype)[-2].item()
    x = torch.tensor([largest, largest + 0.49 * gap, largest + 0.51 * gap, torch.inf, torch.nan], dtype=torch.float32)
    x = x.unsqueeze(1).expand(5, 1000)
    for sign in (1, -1):
        finite = torch.tensor(largest, dtype=dtype)
        expected = torch.stack([finite, finite, *torch.tensor([torch.inf, torch.inf, torch.nan], dtype=dtype)])
        expected = (sign * expected).unsqueeze(1).expand(5, 1000)
        torch.testing.assert_close(rounded(sign * x, dtype), expected, rtol=0, atol=0, equal_nan=True)


# ----------------------------------------------------------------------------------------------------- the random bits


def correlation(xs, ys):
    """Of pairs of 32 bits, over all bits of one with the same of the other; 1 / sqrt(32 n) is a standard error."""
    bits = [torch.stack([(z >> k) & 1 for k in range(32)]).double() * 2 - 1 for z in (xs, ys)]
    return (bits[0] * bits[1]).mean().item() * bits[0].numel() ** 0.5


def test_parameters_slots_steps_and_elements_share_no_bits():
    like, t = torch.empty(1 << 16), torch.tensor(7.0)
    one = bits_of_stream(like, t, stream(-1))
    others = {
        "another parameter": bits_of_stream(like, t, stream(-2)),
        "the next element of another parameter": bits_of_stream(like, t, stream(-2)).roll(1),
        "a slot": bits_of_stream(like, t, stream(0)),
        "another slot": bits_of_stream(like, t, stream(1)),
        "another step": bits_of_stream(like, t + 1, stream(-1)),
        "the next element": one.roll(1),
        "the next row": one.roll(256),
    }
    found = {name: correlation(one, bits) for name, bits in others.items()}
    assert all(abs(z) < STANDARD_ERRORS for z in found.values()), found


def test_a_shard_has_the_bits_of_its_place_in_the_whole():
    whole = bits_of_stream(torch.empty(7, 5), torch.tensor(3.0), stream(-4))
    shard = bits_of_stream(torch.empty(3, 5), torch.tensor(3.0), stream(-4, first=20))
    assert torch.equal(shard, whole[4:])


# ----------------------------------------------------------------------------------------------------------- optimizers


def adam(params, **options):
    return Adam(params, **{"lr": 1e-4, "weight_decay": 0.1, "weights": "stochastic", **options})


def mixed(seed=0):
    """Matrices in bf16 and fp16, and a norm in fp32, as models have them."""
    torch.manual_seed(seed)
    dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.bfloat16)
    return [torch.nn.Parameter(torch.randn(33, 17).to(dtype)) for dtype in dtypes]


@pytest.mark.parametrize("engine", ["cpu", "eager"])
@each_dtype
def test_steps_far_below_the_last_digit_add_up(dtype, engine):
    """A thousandth of it, for 400 steps: to nearest, nothing would ever move."""
    digit = {torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]  # below 1
    ends = []
    for rounding in (None, "stochastic"):
        p = torch.nn.Parameter(torch.ones(20_000, dtype=dtype))
        opt = SGD([p], lr=digit / 1000, engine=engine, weights=rounding)
        p.grad = torch.ones_like(p)
        for _ in range(400):
            opt.step()
        ends.append(p.detach().double())
    to_nearest, stochastically = ends
    assert (to_nearest == 1).all()
    error = stochastically.mean() - (1 - 0.4 * digit)
    assert error.abs() <= STANDARD_ERRORS * stochastically.std() / len(p) ** 0.5
    moved = (stochastically < 1).double().mean()
    assert moved == pytest.approx(0.33, abs=0.02)  # 1 - exp(-.4), if steps are independent


def learning_lr(params, **options):
    return adam(params, learn=LearnedLR(), **options)


def muon(params, **options):
    return AutoMuon(params, **{"lr": 1e-4, "learn": (), "weights": "stochastic", **options})


@pytest.mark.parametrize("make", [adam, learning_lr, muon])
def test_the_loops_round_as_the_eager_engine_does(make):
    """Bit for bit but where the two differ in the last digit of fp32."""
    params, twins = mixed(), mixed()
    loops, slow = make(params, engine="cpu"), make(twins, engine="eager")
    assert loops.engine_reasons == []
    for step in range(8):
        give_gradients(params, step)
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.clone()
        loops.step()
        slow.step()
    for p, q in zip(params, twins, strict=True):
        assert p.dtype is torch.float32 or (p != q).float().mean() <= 0.01  # other bits would change a half
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-5)


def test_weights_in_fp32_move_as_without_it():
    params, twins = mixed(), mixed()
    train(adam(params, engine="eager"), params, range(4))
    train(adam(twins, engine="eager", weights=None), twins, range(4))
    assert same_bits([params[2]], [twins[2]])
    assert not same_bits([params[0]], [twins[0]])


def test_a_resumed_run_has_the_same_bits():
    params = mixed()
    opt = adam(params)
    train(opt, params, range(3))
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    again = adam(twins)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(opt, params, range(3, 8))
    train(again, twins, range(3, 8))
    assert same_bits(everything(opt), everything(again))


@pytest.mark.parametrize("engine", ["cpu", "eager"])
def test_a_skipped_step_changes_no_bit(engine):
    params = mixed()
    opt = adam(params, engine=engine)
    train(opt, params, range(2))
    before = everything(opt)
    give_gradients(params, 2)
    params[1].grad[3, 3] = torch.inf
    opt.step()
    assert opt.skipped_steps == 1
    assert same_bits(everything(opt), before)


def test_a_model_without_narrow_weights_is_refused_and_later_groups_may_be_wide():
    wide = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"weights='stochastic': expected at least one .* got torch\.float32"):
        adam([wide])
    opt = adam([torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))])
    opt.add_param_group({"params": [wide]})
    with pytest.raises(ValueError, match="weights"):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))], "weights": None})
