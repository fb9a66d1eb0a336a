"""Triton's kernels against the eager engine, run by Triton's interpreter on the CPU, and compiled for devices not here.

Catches: a scalar of another step, a slot stored at the wrong time, an element left out where a chunk ends, an address
of memory that has moved, noise of another slot, a hypergradient added to another scope; code that doesn't compile.

Triton takes its interpreter or its compiler once per process, so the first half runs in a process of its own.
"""

import copy
import os
import subprocess
import sys

import pytest
import torch

from mada_optim import MADA, Guard, HyperOptimizer, HyperSGD
from mada_optim.engines import choice
from mada_optim.engines.program import Program
from mada_optim.engines.triton import engine
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

INSTALLED = engine.installed()
INTERPRETED = engine.interpreted()
needs_triton = pytest.mark.skipif(not INSTALLED, reason="needs Triton (pip install triton), for its interpreter")
compiled = pytest.mark.skipif(INTERPRETED, reason="Triton's compiler is not to be had under TRITON_INTERPRET=1")
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in a process with TRITON_INTERPRET=1, started here")

SHAPES = [(15, 11), (1,), (), (17,), (65,), (0, 3), (3, 7)]  # over two chunks, one element, over one chunk
EVERY = ("beta1", "beta2", "beta3", "rho", "c", "gamma", "lr")
BF16 = {"state_dtype": torch.bfloat16}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Several chunks, blocks in a chunk, and programs with a lane for each tensor."""
    monkeypatch.setattr(loops, "SHAPES", SHAPES)
    for name, size in {"CHUNK": 64, "BLOCK": 32, "LANES": 4}.items():
        monkeypatch.setattr(engine, name, size)


@needs_triton
@compiled
@pytest.mark.timeout(1200)
def test_what_the_interpreter_runs_equals_the_eager_engine():
    """All tests here that are marked `interpreted`."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ignored = "ignore::RuntimeWarning"  # numpy's, of lanes that are masked out
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", ignored, "-k", "interp", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


@interpreted
class TestInterpreted:
    @pytest.mark.parametrize("learn", ["all", ()], ids=["all", "none"])
    @pytest.mark.parametrize("rule", loops.POINTWISE)
    def test_rules(self, rule, learn):
        learn = (*RULES[rule].coefficient_names(), "lr") if learn else ()
        assert_equal_runs(*pair(rule, learn, "triton"), rule=rule, engine="triton", steps=8)

    @pytest.mark.parametrize("learn", [("beta1", "lr"), ()], ids=["learning", "fixed"])
    @pytest.mark.parametrize("corner", CORNERS)
    def test_corners(self, corner, learn):
        at = dict(zip(("beta3", "rho", "c", "gamma"), CORNERS[corner], strict=True))
        run = pair("mada", learn, "triton", start={**SPREAD_OF_MADA, **at})
        assert_equal_runs(*run, rule="mada", engine="triton", steps=8)

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
    def test_options(self, learn, options):
        one_digit = 2**-7 if "state_dtype" in options else 2e-5  # stochastic rounding may fall on the other side
        run = pair("mada", learn, "triton", **options)
        assert_equal_runs(*run, rule="mada", rtol=one_digit, engine="triton", steps=8)

    @pytest.mark.parametrize("make", MAKERS)
    def test_rules_that_orthogonalize(self, make):
        assert_equal_steps("triton", make)

    def test_the_noise_of_bf16_slots_is_the_eager_engines_bit_for_bit(self):
        params, fast, twins, slow = pair("adam", (), "triton", **BF16)
        for step in range(6):
            for p, q, g in zip(params, twins, gradients(step), strict=True):
                p.grad = q.grad = g
            fast.step()
            slow.step()
        for p, q in zip(params, twins, strict=True):
            different = sum((fast.state[p][x] != slow.state[q][x]).sum() for x in ("m", "v"))
            assert different <= 0.02 * p.numel()  # other noise would change half of them

    def test_two_groups_with_a_scope_each(self):
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

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
    @pytest.mark.parametrize("learn", [EVERY, ()], ids=["learning", "fixed"])
    def test_a_gradient_that_is_not_finite_changes_no_bit(self, learn, bad):
        params, fast, _, _ = pair("mada", learn, "triton")
        for step in range(4):
            for p, g in zip(params, gradients(step), strict=True):
                p.grad = g
            fast.step()
        before = everything(fast)
        params[4].grad[-1] = bad  # in the last chunk of its tensor
        fast.step()
        assert same_bits(everything(fast), before)

    def test_state_that_was_replaced_is_seen(self):
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

    def test_tensors_that_the_kernels_do_not_take_run_beside_those_they_do(self):
        assert_mixed_tensors_agree("triton")

    @pytest.mark.parametrize("learn", [EVERY, ()], ids=["learning", "fixed"])
    @pytest.mark.parametrize("weights", [None, "stochastic"])
    def test_parameters_of_several_dtypes_in_one_step(self, learn, weights):
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

    def test_a_schedule_and_an_lr_in_a_tensor_are_read_anew(self):
        params, twins = (x := parameters()), copy.deepcopy(x)
        fast, slow = (learning(x, engine=e) for x, e in ((params, "triton"), (twins, "eager")))
        for seed in range(6):
            for opt in (fast, slow):
                opt.param_groups[0]["lr"] = torch.tensor(2e-2) if seed == 4 else 1e-2 / (seed + 1)
            train(fast, params, [seed])
            train(slow, twins, [seed])
        for p, q in zip(params, twins, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)

    def test_a_step_reads_nothing_on_the_host_and_is_seen_by_autograd(self):
        params = parameters()
        opt = learning(params, engine="triton")
        versions = [p._version for p in params]
        for seed in range(2):
            give_gradients(params, seed)
            with NoHostReads():
                opt.step()
        assert all(p._version > old for p, old in zip(params, versions, strict=True))

    def test_a_rule_of_a_third_party_has_kernels_of_its_own(self):
        params, twins = (p := parameters()), copy.deepcopy(p)
        rule = rule_of(lambda c, g, s, t: (c["a"] * torch.sqrt(g**2 + 1) + (1 - c["a"] ** t) * g, {}))
        fast, slow = (
            HyperOptimizer(x, rule=rule, learn=FROM_THE_FIRST, engine=e)
            for x, e in ((params, "triton"), (twins, "eager"))
        )
        train(fast, params, range(5))
        train(slow, twins, range(5))
        assert fast.coefficients()["a"] == pytest.approx(slow.coefficients()["a"], abs=1e-6) != 0.5
        for p, q in zip(params, twins, strict=True):
            torch.testing.assert_close(p, q)


TYPES = {"count": "i32", "table": "*i64", "chunks": "*i64", "ranges": "*i64", "steps": "*i64", "bad_chunks": "*i32"}
TYPES |= {"usable": "*i8", **dict.fromkeys(("numbers", "values", "partials", "h", "out"), "*fp64")}
CONSTANTS = {"LANES": engine.LANES, "CHUNK": engine.CHUNK, "BLOCK": engine.BLOCK, "ALIGNED": True}


@needs_triton
@compiled
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("state", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("rule", "learn"), [("mada", EVERY), ("mada_released", ("beta1", "beta2")), ("adam", ())])
def test_the_kernels_compile_for_devices_that_are_not_here(rule, learn, state, capability, tmp_path, monkeypatch):
    """Down to machine code; with memory read four elements at once."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    program = Program(RULES[rule], learned=learn, state_dtype=state, weights="stochastic")
    written = engine.module(choice.triton_source(program).source)
    found = ("check", "slope_values", "sums", "combine", "per_scope", "step_values", "move")
    for name in [name for name in found if name in written]:
        kernel = written[name]
        values = {
            **CONSTANTS,
            "P": getattr(triton.language, str(state)[6:]),
            "GRADIENT": getattr(triton.language, str(state)[6:]),
        }
        constants = {x: values[x] for x in kernel.arg_names if x in values}
        signature = {x: TYPES.get(x, "constexpr") for x in kernel.arg_names}
        source = ASTSource(kernel, signature, constexprs=constants)
        options = {"num_warps": engine.WARPS, "enable_fp_fusion": False}
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert made.asm["cubin"]
        assert "fma.rn.f32" not in made.asm["ptx"]
        if name in ("check", "sums", "move"):
            assert "ld.global.v4.b32" in made.asm["ptx"], name
            assert "ld.global.b32" not in made.asm["ptx"], name


@pytest.fixture
def anew():
    engine.fault.cache_clear()
    yield
    engine.fault.cache_clear()


@pytest.mark.usefixtures("anew")
def test_without_triton_the_reason_says_so(monkeypatch):
    monkeypatch.setattr(engine, "installed", lambda: False)
    with pytest.raises(ValueError, match="engine='triton': Triton is not installed"):
        MADA(parameters(), engine="triton")


@compiled
@pytest.mark.usefixtures("anew")
def test_on_the_cpu_there_are_kernels_only_under_the_interpreter(monkeypatch):
    monkeypatch.setattr(engine, "installed", lambda: True)
    with pytest.raises(ValueError, match="Triton has no kernels for cpu"):
        MADA(parameters(), engine="triton")
    assert MADA(parameters()).engine != "triton"


@pytest.mark.usefixtures("anew")
def test_a_triton_that_fails_is_quoted(monkeypatch):
    def failing(source):
        raise RuntimeError("Failed to find C compiler.")

    for name, instead in {"installed": lambda: True, "interpreted": lambda: True, "module": failing}.items():
        monkeypatch.setattr(engine, name, instead)
    with pytest.raises(ValueError, match="Triton doesn't work here: Failed to find C compiler"):
        MADA(parameters(), engine="triton")
