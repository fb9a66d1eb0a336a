"""Writes operations in Triton's language; and the functions that all kernels share."""

from mada_optim.engines.code_writer import COMPARISONS, INFIX, Language, indented
from mada_optim.graph.builder import UnknownOperationError


def _infix(name: str, element: bool, left: str, right: str) -> str:
    if name == "truediv" and element:
        return f"tl.div_rn({left}, {right})"  # `/` is approximate in fp32
    expression = f"{left} {INFIX[name]} {right}"
    return f"({expression}).to(tl.float64)" if name in COMPARISONS and not element else expression


def _sign(element: bool, x: str) -> str:
    expression = f"tl.where({x} > 0, 1.0, 0.0) - tl.where({x} < 0, 1.0, 0.0)"
    return expression if element else f"({expression}).to(tl.float64)"


def _pow(element: bool, x: str, n: str) -> str:
    if element:
        raise UnknownOperationError("pow of an element")
    return f"tl.where({n} + zero == 0, 1.0, tl.exp({n} * tl.log({x} + zero)))"


TRITON = Language(
    calls={
        "where": lambda _, c, x, y: f"tl.where({c}, {x}, {y})",
        "sign": _sign,
        "sqrt": lambda element, x: f"tl.sqrt_rn({x})" if element else f"tl.sqrt({x})",
        "pow": _pow,
        "neg": lambda _, x: f"-{x}",
        "maximum": lambda _, x, y: f"tl.maximum({x}, {y})",
        "clamp": lambda _, x, low: f"tl.maximum({x}, {low})",
        "detach": lambda _, x: x,
    },
    infix=_infix,
    number=lambda x, _: repr(x),
    declaration=lambda _, name, value: f"{name} = {value}",
    total=lambda j: f"sum_{j}",
)

SHAPE = "P: tl.constexpr, GRADIENT: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr"


def kernel(name: str, arguments: str, body: list[str]) -> str:
    kept = '(do_not_specialize=["count"])' if " count," in arguments else ""  # one build, however many tensors
    return f"@triton.jit{kept}\ndef {name}({arguments}):\n{indented(filter(None, body))}"


def load(name: str) -> str:
    return f"tl.load(at_{name} + i, mask=mask, other=0.0).to(tl.float32)"


def loaded(variable: str, name: str) -> str:
    return f"{variable} = {load(name)}"


def counted(variable: str, limit: float) -> str:
    """Counts elements beyond the limit; NaN compares as nothing."""
    return f"bad += tl.where(tl.abs({variable}) <= {limit!r}, 0, 1)"


def one(column: int) -> str:
    return f"tl.load(tl.load(row + {column}).to(tl.pointer_type(tl.float64)))"


HEAD = '''import triton
import triton.language as tl


@triton.jit
def doubles(address, here):
    return tl.load(address.to(tl.pointer_type(tl.float64)), mask=here, other=1.0)


@triton.jit
def value_of(address, number, here):
    """The number at an address; `number` where the address is 0."""
    return tl.where(address != 0, doubles(address, here & (address != 0)), number)


@triton.jit
def put(address, x, moves):
    tl.store(address.to(tl.pointer_type(tl.float64)), x, mask=moves)


@triton.jit
def pointer(address, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    at = address.to(tl.pointer_type(dtype))
    if ALIGNED:
        at = tl.multiple_of(at, 16)
    return at


@triton.jit
def nearest(x, dtype: tl.constexpr):
    """`x` rounded to nearest even, in bf16 by its bits: Triton's interpreter cuts them off.

    A NaN of a CUDA device has all bits set, and would be rounded up to a zero.
    """
    if dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        kept = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded)
        y = kept.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        y = x.to(dtype)
    return y


@triton.jit
def random_bits(i, seed):
    """As in engines/rounding.py."""
    r = i.to(tl.uint32) * 0x9E3779B9 + seed
    r = (r ^ (r >> 16)) * 0x85EBCA6B
    r = (r ^ (r >> 13)) * 0xC2B2AE35
    return r ^ (r >> 16)


@triton.jit
def narrowed(x, i, seed, dtype: tl.constexpr):
    """`x` as it is stored: in bf16 rounded as engines/eager.py says, to nearest in fp16."""
    if dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        y = ((bits + (random_bits(i, seed) & 0xFFFF)) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        y = x.to(dtype)
    return y


@triton.jit
def stochastic(x, i, seed, dtype: tl.constexpr):
    """New weights `x` in their dtype, rounded as engines/rounding.py says."""
    y = nearest(x, dtype)
    if dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True) + (random_bits(i, seed) & 0xFFFF)
        rounded = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
        y = tl.where(tl.abs(x) <= 3.3895313892515355e38, rounded, y)
    if dtype == tl.float16:
        r = random_bits(i, seed)
        bits = (x.to(tl.uint32, bitcast=True) + (r & 0x1FFF)) & 0xFFFFE000
        normal = tl.where(tl.abs(x) <= 65504.0, bits.to(tl.float32, bitcast=True), x)
        gaps = tl.abs(x) * 16777216.0
        below = tl.floor(gaps)
        above = (r >> 8).to(tl.float32) / 16777216.0 < gaps - below
        small = tl.where(above, below + 1.0, below) / 16777216.0
        y = tl.where(tl.abs(x) < 6.103515625e-05, tl.where(x < 0, -small, small), normal).to(tl.float16)
    return y
'''

PER_SCOPE = """@triton.jit
def per_scope(ranges, h, out, LANES: tl.constexpr):
    scope = tl.program_id(0)
    first = tl.load(ranges + 2 * scope)
    last = tl.load(ranges + 2 * scope + 1)
    for q in tl.static_range(H):
        sums = tl.zeros([LANES], tl.float64)
        for start in range(first, last, LANES):
            j = start + tl.arange(0, LANES)
            sums += tl.load(h + j * H + q, mask=j < last, other=0.0)
        tl.store(out + scope * H + q, tl.sum(sums, 0))"""
