"""Triton's kernels against the eager engine, run by Triton's interpreter on the CPU: `make test-triton`.

Catches: a scalar of another step, a slot stored at the wrong time, an element left out where a chunk ends, an address
of memory that has moved, noise of another slot, a hypergradient added to another scope, an offset of 32 bits.
"""

import copy

import pytest
import torch

from mada_optim import MADA, Guard, HyperOptimizer, HyperSGD
from mada_optim.engines import choice
from mada_optim.engines.program import Program
from mada_optim.engines.triton import engine
from mada_optim.engines.triton.language import HEAD
from mada_optim.rules import RULES
from tests.engine import test_cpu_kernel as loops
from tests.engine.test_cost import NoHostReads
from tests.engine.test_cpu_kernel import (
    CORNERS,
    FROM_THE_FIRST,
    SPREAD_OF_MADA,
    TRACED,
    assert_equal_runs,
    close,
    gradients,
    pair,
    rule_of,
)
from tests.engine.test_staged import MAKERS, assert_equal_steps
from tests.problems import (
    assert_mixed_tensors_agree,
    everything,
    fast,
    give_gradients,
    learning,
    parameters,
    same_bits,
    train,
)

pytestmark = [
    pytest.mark.skipif(not (engine.installed() and engine.interpreted()), reason="needs Triton, TRITON_INTERPRET=1"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, of lanes that are masked out
]

# two chunks, the second with one element; one element; two blocks; an empty tensor; no multiple of four
SHAPES = [(13, 5), (1,), (), (17,), (33,), (0, 3), (3, 7)]
STEPS = 6  # all learners begin at the second; at the third a gradient is missing
EVERY = ("beta1", "beta2", "beta3", "rho", "c", "gamma", "lr")
BF16 = {"state_dtype": torch.bfloat16}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Several chunks, blocks in a chunk, and programs with a lane for each tensor."""
    monkeypatch.setattr(loops, "SHAPES", SHAPES)
    for name, size in {"CHUNK": 64, "BLOCK": 32, "LANES": 4}.items():
        monkeypatch.setattr(engine, name, size)


@pytest.mark.parametrize("learn", ["all", ()], ids=["all", "none"])
@pytest.mark.parametrize("rule", loops.POINTWISE)
def test_rules(rule, learn):
    learn = (*RULES[rule].coefficient_names(), "lr") if learn else ()
    assert_equal_runs(*pair(rule, learn, "triton"), rule=rule, engine="triton", steps=STEPS)


@pytest.mark.parametrize("learn", [("beta1", "lr"), ()], ids=["learning", "fixed"])
@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner, learn):
    at = dict(zip(("beta3", "rho", "c", "gamma"), CORNERS[corner], strict=True))
    run = pair("mada", learn, "triton", start={**SPREAD_OF_MADA, **at})
    assert_equal_runs(*run, rule="mada", engine="triton", steps=STEPS)


@pytest.mark.parametrize(
    ("learn", "options"),
    [
        (EVERY, BF16),
        (("beta1", "lr"), {**BF16, **TRACED}),
        (("lr",), {**TRACED, "maximize": True}),
        (("beta2", "rho"), {"hyper": {"scope": "tensor"}}),
        (("gamma", "lr"), {"hyper": {"scope": "tensor", "horizon": 0.5}}),
        (("beta1", "beta2", "lr"), {"guard": Guard(), **TRACED}),
    ],
    ids=str,
)
def test_options(learn, options):
    one_digit = 2**-7 if "state_dtype" in options else 2e-5  # stochastic rounding may fall on the other side
    run = pair("mada", learn, "triton", **options)
    assert_equal_runs(*run, rule="mada", rtol=one_digit, engine="triton", steps=STEPS)


@pytest.mark.parametrize("make", MAKERS)
def test_rules_that_orthogonalize(make):
    assert_equal_steps("triton", make)


def test_the_noise_of_bf16_slots_is_the_eager_engines_bit_for_bit():
    params, fast, twins, slow = pair("adam", (), "triton", **BF16)
    for step in range(6):
        for p, q, g in zip(params, twins, gradients(step), strict=True):
            p.grad = q.grad = g
        fast.step()
        slow.step()
    for p, q in zip(params, twins, strict=True):
        different = sum((fast.state[p][x] != slow.state[q][x]).sum() for x in ("m", "v"))
        assert different <= 0.02 * p.numel()  # other noise would change half of them


def test_two_groups_with_a_scope_each():
    torch.manual_seed(0)
    params = parameters()
    twins = copy.deepcopy(params)

    def groups(x):
        return [{"params": x[:2], "lr": 3e-2}, {"params": x[2:], "weight_decay": 0.2}]

    per_group = fast(scope="group")
    ours, slow = (learning(groups(x), learn=per_group, engine=e) for x, e in ((params, "triton"), (twins, "eager")))
    train(ours, params, range(6))
    train(slow, twins, range(6))
    for scope, theirs in slow.hypergradients().items():
        assert ours.hypergradients()[scope] == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learn", [EVERY, ()], ids=["learning", "fixed"])
def test_a_gradient_that_is_not_finite_changes_no_bit(learn):
    params, fast, _, _ = pair("mada", learn, "triton")
    for step in range(2):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g
        fast.step()
    before = everything(fast)
    for bad in (float("nan"), float("inf"), 1e30):
        params[0].grad[-1, -1] = bad  # alone in the last chunk of its tensor
        fast.step()
        assert same_bits(everything(fast), before)


def test_state_that_was_replaced_is_seen():
    params, fast, twins, slow = pair("adam", "all", "triton")
    for step in range(6):
        for p, q, g in zip(params, twins, gradients(step), strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        fast.step()
        slow.step()
        if step == 3:
            fast.load_state_dict(copy.deepcopy(fast.state_dict()))
    for p, q in zip(params, twins, strict=True):
        assert close(p.detach(), q.detach())


def test_tensors_that_the_kernels_do_not_take_run_beside_those_they_do():
    assert_mixed_tensors_agree("triton")


@pytest.mark.parametrize("learn", [EVERY, ()], ids=["learning", "fixed"])
@pytest.mark.parametrize("weights", [None, "stochastic"])
def test_parameters_of_several_dtypes_in_one_step(learn, weights):
    torch.manual_seed(0)
    dtypes = (torch.bfloat16, torch.float32, torch.float16, torch.bfloat16)
    params = [torch.nn.Parameter(torch.randn(9, 11).to(dtype)) for dtype in dtypes]
    twins = copy.deepcopy(params)
    learner = HyperSGD(*learn, lr=1e-3, start=0) if learn else ()
    fast, slow = (
        MADA(x, lr=1e-2, weight_decay=0.1, learn=learner, engine=e, weights=weights)
        for x, e in ((params, "triton"), (twins, "eager"))
    )
    for seed in range(6):
        give_gradients(params, seed)
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.clone()
        fast.step()
        slow.step()
        assert not fast.engine_reasons
        if learn:
            assert fast.hypergradients() == pytest.approx(slow.hypergradients(), rel=2e-3, abs=1e-5)
        for p, q in zip(params, twins, strict=True):
            assert (p != q).float().mean() <= 0.02 or p.dtype is torch.float32  # a rounding on the other side
            torch.testing.assert_close(p, q, rtol=1e-2 if p.dtype is torch.bfloat16 else 1e-3, atol=1e-5)
            for name, x in fast.state[p].items():
                torch.testing.assert_close(x, slow.state[q][name], rtol=1e-2, atol=1e-4)


def test_a_schedule_and_an_lr_in_a_tensor_are_read_anew():
    params, twins = (x := parameters()), copy.deepcopy(x)
    fast, slow = (learning(x, engine=e) for x, e in ((params, "triton"), (twins, "eager")))
    for seed in range(6):
        for opt in (fast, slow):
            opt.param_groups[0]["lr"] = torch.tensor(2e-2) if seed == 4 else 1e-2 / (seed + 1)
        train(fast, params, [seed])
        train(slow, twins, [seed])
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_a_step_reads_nothing_on_the_host_and_is_seen_by_autograd():
    params = parameters()
    opt = learning(params, engine="triton")
    versions = [p._version for p in params]
    for seed in range(2):
        give_gradients(params, seed)
        with NoHostReads():
            opt.step()
    assert all(p._version > old for p, old in zip(params, versions, strict=True))


def test_a_rule_of_a_third_party_has_kernels_of_its_own():
    params, twins = (p := parameters()), copy.deepcopy(p)
    rule = rule_of(lambda c, g, s, t: (c["a"] * torch.sqrt(g**2 + 1) + (1 - c["a"] ** t) * g, {}))
    fast, slow = (
        HyperOptimizer(x, rule=rule, learn=FROM_THE_FIRST, engine=e) for x, e in ((params, "triton"), (twins, "eager"))
    )
    train(fast, params, range(5))
    train(slow, twins, range(5))
    assert fast.coefficients()["a"] == pytest.approx(slow.coefficients()["a"], abs=1e-6) != 0.5
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)


def test_nothing_is_written_beside_the_tensors():
    """Each lies in the middle of a larger buffer. Its last block is masked."""
    around = []

    def inside(x):
        around.append(buffer := torch.full((x.numel() + 64,), 7.0, dtype=x.dtype))
        return buffer[32:-32].copy_(x.flatten()).view(x.shape)

    params = [torch.nn.Parameter(inside(torch.randn(shape))) for shape in SHAPES]
    opt = MADA(params, learn=fast(), engine="triton")
    for step in range(3):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = inside(g)
        opt.step()
        assert not opt.engine_reasons
        if step == 0:
            for p in params:
                opt.state[p] = {name: inside(x) for name, x in opt.state[p].items()}
    assert len(around) > 100
    for buffer in around:
        assert (buffer[:32] == 7).all()
        assert (buffer[-32:] == 7).all()


def test_numbers_of_a_group_need_no_alignment(monkeypatch):
    """Only tensors with elements do. A second group's coefficients lie 8 bytes behind those of the first."""
    aligned, original = [], engine.module

    class Spied:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*arguments, **constants):
                aligned.append(constants["ALIGNED"])
                return self.kernel[grid](*arguments, **constants)

            return launch

    def spied(source):
        kernels = original(source)
        return {**kernels, "move": Spied(kernels["move"])} if "move" in kernels else kernels

    monkeypatch.setattr(engine, "module", spied)
    params = [torch.nn.Parameter(torch.randn(8)) for _ in range(2)]
    opt = MADA([{"params": [p]} for p in params], learn=fast("beta1", "beta2", scope="group"), engine="triton")
    assert any(x.data_ptr() % 16 for x in opt.param_groups[1].values() if isinstance(x, torch.Tensor))
    train(opt, params, range(2))
    assert aligned == [True, True]


def test_elements_beyond_32_bits_are_found_at_their_address():
    """The last chunk of a tensor of 6.4e9 elements, of which only that chunk is there."""
    code = choice.triton_source(Program(RULES["adam"]))
    kernels, columns = engine.module(code.source), code.layout.columns
    begin, g = 3 * 2**31, torch.zeros(20)
    row = torch.zeros(len(columns), dtype=torch.int64)
    row[columns.index("size")] = begin + 20
    row[columns.index("g")] = g.data_ptr() - 4 * begin
    bad = torch.zeros(1, dtype=torch.int32)
    tl = kernels["tl"]
    shape = {"P": tl.float32, "GRADIENT": tl.float32, "ALIGNED": False, "CHUNK": 64, "BLOCK": 32}
    for place, value, expected in ((0, 1.0, 0), (0, torch.nan, 1), (19, torch.inf, 2)):
        g[place] = value
        kernels["check"][(1,)](row, torch.tensor([0, begin]), bad, **shape)
        assert bad.item() == expected


ROUNDING = """

@triton.jit
def rounded(numbers, places, plain, noisy, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(numbers + i)
    seed = tl.full([BLOCK], 12345, tl.uint32)
    tl.store(plain + i, nearest(x, tl.bfloat16))
    tl.store(noisy + i, narrowed(tl.where(x == x, x, 0.0), tl.load(places + i), seed, tl.bfloat16))
"""


def random_bits(i, seed):
    """32 random bits of an element, by Python's integers: murmur3's finalizer."""
    mask = 0xFFFFFFFF
    x = (i * 0x9E3779B9 + seed) & mask
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & mask
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & mask
    return x ^ (x >> 16)


def test_rounding_to_bf16_is_torchs_for_all_kinds_of_numbers():
    """Also of a CUDA device's NaN, whose bits are all set; the random bits also beyond the 32nd bit of a place."""
    ends = [0x7FFFFFFF, -1, 0x7F800000, 0x7F7FFFFF, 1, -(2**31), 0x3F808000, 0x3F818000, 0x3F808001]
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (1024 - len(ends),), generator=generator)
    numbers = torch.cat([torch.tensor(ends), bits]).to(torch.int32).view(torch.float32)
    places = torch.arange(1024) * 2**24 + 5
    plain, noisy = torch.empty(2, 1024, dtype=torch.bfloat16)
    engine.module(HEAD + ROUNDING)["rounded"][(4,)](numbers, places, plain, noisy, BLOCK=256)
    torch.testing.assert_close(plain, numbers.bfloat16(), rtol=0, atol=0, equal_nan=True)
    for x, place, y in zip(numbers.nan_to_num(0.0, torch.inf, -torch.inf), places.tolist(), noisy, strict=True):
        expected = ((x.view(torch.int32).item() & 0xFFFFFFFF) + (random_bits(place, 12345) & 0xFFFF)) >> 16
        assert y.view(torch.int16).item() & 0xFFFF == expected
