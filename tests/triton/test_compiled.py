"""The code of Triton's kernels, compiled to machine code for devices that are not here: `make test-triton`.

Catches: a form of a rule that the interpreter runs and the compiler refuses, products and sums that are fused, elements
that are read one by one, a kernel whose numbers don't fit into registers.
"""

import inspect
import subprocess
from dataclasses import dataclass, replace

import pytest
import torch

from mada_optim.engines import choice
from mada_optim.engines.program import Program
from mada_optim.engines.triton import engine
from mada_optim.rules import RULES


def takes_other_arguments():
    """Whether Triton's compiler isn't called as here."""
    if not engine.installed():
        return False
    from triton.compiler import ASTSource

    return "constexprs" not in inspect.signature(ASTSource).parameters


pytestmark = [
    pytest.mark.skipif(not engine.installed() or engine.interpreted(), reason="needs Triton and its compiler"),
    pytest.mark.skipif(
        takes_other_arguments(), reason="the compiler of this Triton, as of torch 2.6, takes other arguments"
    ),
]

TYPES = {"count": "i32", "table": "*i64", "chunks": "*i64", "ranges": "*i64", "steps": "*i64", "bad_chunks": "*i32"}
TYPES |= {"usable": "*i8", **dict.fromkeys(("numbers", "values", "partials", "h", "out"), "*fp64")}
CONSTANTS = {"LANES": engine.LANES, "CHUNK": engine.CHUNK, "BLOCK": engine.BLOCK}
KERNELS = ("check", "slope_values", "sums", "combine", "per_scope", "step_values", "move")
OVER_ELEMENTS = ("check", "sums", "move")
DEVICES = {"A100": 80, "H100, H200": 90, "B200": 100}
EVERY = (*RULES["mada"].coefficient_names(), "lr")


@dataclass(frozen=True)
class Form:
    """A program, the dtypes of parameters and of kept gradients, and whether all tensors are aligned."""

    program: Program
    p: str = "float32"
    gradient: str = "float32"
    aligned: bool = True


def learning_all(rule):
    return Form(Program(RULES[rule], learned=(*RULES[rule].coefficient_names(), "lr")))


def learning_nothing(rule):
    return Form(Program(RULES[rule]))


SIX = learning_all("mada")
BF16_SLOTS = replace(SIX.program, state_dtype=torch.bfloat16, weights="stochastic")
FORMS = {
    **{f"{rule}, all": learning_all(rule) for rule in RULES if RULES[rule].pointwise},
    **{f"{rule}, none": learning_nothing(rule) for rule in RULES if RULES[rule].pointwise},
    "the trace of lr": Form(replace(SIX.program, learned=("lr",), traced=True)),
    "the trace and beta1": Form(replace(SIX.program, learned=("beta1", "lr"), traced=True)),
    "slots in bf16": Form(BF16_SLOTS, gradient="bfloat16"),
    "slots and weights in bf16": Form(BF16_SLOTS, p="bfloat16", gradient="bfloat16"),
    "weights in fp16": Form(SIX.program, p="float16", gradient="float16"),
    "not aligned": replace(SIX, aligned=False),
}


@pytest.fixture(autouse=True, scope="module")
def _one_cache(tmp_path_factory):
    """Kernels that several forms have are compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def compiled(kernel, form, capability):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    values = {**CONSTANTS, "ALIGNED": form.aligned}
    values |= {name: getattr(triton.language, x) for name, x in (("P", form.p), ("GRADIENT", form.gradient))}
    constants = {x: values[x] for x in kernel.arg_names if x in values}
    signature = {x: TYPES.get(x, "constexpr") for x in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs=constants)
    options = {"num_warps": engine.WARPS, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def stack_of(cubin, path):
    """What cuobjdump says of a kernel's stack, onto which registers are spilled."""
    import triton

    path.write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return next(word for word in usage.split() if word.startswith("STACK:"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_compiles_to_machine_code(form, device, tmp_path):
    """Without contraction; with memory read four elements at once, and nothing spilled."""
    form = FORMS[form]
    written = engine.module(choice.triton_source(form.program).source)
    for name in filter(written.__contains__, KERNELS):
        made = compiled(written[name], form, DEVICES[device])
        assert made.asm["cubin"]
        assert "fma.rn.f32" not in made.asm["ptx"], name
        if name in OVER_ELEMENTS:
            assert stack_of(made.asm["cubin"], tmp_path / name) == "STACK:0", name
        if name in OVER_ELEMENTS and form.aligned:
            assert "ld.global.v4.b32" in made.asm["ptx"], name
            assert "ld.global.b32" not in made.asm["ptx"], name
