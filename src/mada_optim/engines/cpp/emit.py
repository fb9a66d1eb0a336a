"""Writes the C++ code of a program from the rule's graph: `rule.h`, which `loops.cpp` includes.

Scalars are members of one struct in double, and of another in fp32 for arithmetic with elements.
"""

import operator

from torch import fx

from mada_optim.engines.code_writer import INFIX, Language, Writer, indented, name_of
from mada_optim.engines.program import Program
from mada_optim.graph.specialize import SLOT

CPP = Language(
    calls={
        "where": lambda _, c, x, y: f"({c}) ? {x} : {y}",
        "sign": lambda _, x: f"sign_of({x})",
        "sqrt": lambda _, x: f"std::sqrt({x})",
        "pow": lambda _, x, n: f"std::pow({x}, {n})",
        "neg": lambda _, x: f"-{x}",
        "maximum": lambda _, x, y: f"{x} > {y} ? {x} : {y}",
        "clamp": lambda _, x, low: f"{x} < {low} ? {low} : {x}",
        "detach": lambda _, x: x,
    },
    infix=lambda name, _, left, right: f"{left} {INFIX[name]} {right}",
    number=lambda x, element: f"{x!r}f" if element else repr(x),
    declaration=lambda kind, name, value: f"const {kind} {name} = {value};",
    total=lambda j: f"sums[{j}]",
)


def members(writer: Writer, struct: str) -> str:
    """A struct of the scalars that all elements share, and the same struct in fp32."""
    names = [name_of(x) for x in writer.shared]
    assignments = "\n".join(f"        {name_of(x)} = {writer.statement(x)};" for x in writer.shared)
    return f"""struct {struct} {{
    double {", ".join(["unused", *names])};
    {struct}(const double *q, const double *hyper, double t, const double *w) {{
        unused = t;
{assignments}
    }}
}};
struct {struct}Floats {{
    float {", ".join(["unused", *names])};
    explicit {struct}Floats(const {struct} &s) {{
        unused = 0;
{chr(10).join(f"        {name} = float(s.{name});" for name in names)}
    }}
}};"""


def emit(program: Program, forward: fx.Graph, backward: fx.Graph) -> str:
    """`rule.h`, from the graphs of a program's update and of its derivatives."""
    slots, scalar_slots = program.slots, program.scalar_slots
    scalars = {
        **{q: f"q[{i}]" for i, q in enumerate(program.coefficients)},
        **{name: f"hyper[{i}]" for i, name in enumerate(program.rule.hyper_parameters)},
        **{SLOT + name: f"w[{i}]" for i, name in enumerate(scalar_slots)},
        "t": "t",
    }
    step = Writer(CPP, forward, scalars, {"g": "g", **{SLOT + name: f"s.{name}" for name in slots}})
    of_last = {"g": "load(gradient[i])", **{SLOT + name: f"load({name}[i])" for name in slots}}
    slope = Writer(CPP, backward, scalars, {**of_last, "cotangent": "g_now[i]"})
    each = " ".join(f"DO({i}, {name})" for i, name in enumerate(slots))
    head = f"""#define FOR_EACH_SLOT(DO) {each}
constexpr int SLOTS = {len(slots)}, SCALARS = {len(scalar_slots)}, SUMS = {len(slope.totals)};
constexpr int COEFFICIENTS = {len(program.coefficients)}, LEARNED = {len(program.of_rule)};
struct Element {{
    float {", ".join(["unused", *slots])};
}};"""
    of_step = members(step, "Step"), _update(step, slots, scalar_slots)
    return "\n\n".join([head, *of_step, members(slope, "Slope"), _sums(slope), _combine(slope)])


def _update(step: Writer, slots: tuple[str, ...], scalar_slots: tuple[str, ...]) -> str:
    u, after = step.output
    body = [*step.declarations(step.elements, "k.")]
    body += [f"s.{name} = {step.operand(after[name], True, 'k.')};" for name in slots]
    body += [f"return {step.operand(u, True, 'k.')};"]
    stores = [f"w[{i}] = {step.operand(after[name], False, 's.')};" for i, name in enumerate(scalar_slots)]
    return f"""// Moves the slots one step on, and gives the update.
INLINE float update(const StepFloats &k, float g, Element &s) {{
{indented(body)}
}}

void next_scalars(const Step &s, double *w) {{
{indented(stores)}
}}"""


def _sums(slope: Writer) -> str:
    names = [f"sum_{j}" for j in range(len(slope.totals))]
    summed = [x.args[0] for x in slope.totals]
    fused = [x for x in summed if x.target is operator.mul and len(x.users) == 1]
    body = slope.declarations([x for x in slope.elements if x not in fused], "k.")
    body += [f"{name} = {_added(slope, x.args[0], name)};" for name, x in zip(names, slope.totals, strict=True)]
    if not names:
        return "void add_sums(const Tensor &, const Slope &, int64_t, int64_t, double *) {}"
    return f"""// Adds the sums over one block, made in fp32.
void add_sums(const Tensor &x, const Slope &s, int64_t begin, int64_t end, double *sums) {{
    const SlopeFloats k(s);
    const float *__restrict g_now = x.g;
    const State *__restrict gradient = x.gradient;
#define DECLARE(I, NAME) const State *__restrict NAME = x.slots[I];
    FOR_EACH_SLOT(DECLARE)
#undef DECLARE
    float {", ".join(f"{name} = 0" for name in names)};
#pragma omp simd reduction(+ : {", ".join(names)})
    for (int64_t i = begin; i < end; i++) {{
{indented(body, 8)}
    }}
    const float block[] = {{{", ".join(names)}}};
    for (int j = 0; j < SUMS; j++) sums[j] += block[j];
}}"""


def _added(slope: Writer, x: fx.Node, to: str) -> str:
    if x.target is operator.mul and len(x.users) == 1:
        return f"fused({', '.join(slope.operand(y, True, 'k.') for y in x.args)}, {to})"
    return f"{to} + {slope.operand(x, True, 'k.')}"


def _combine(slope: Writer) -> str:
    derivatives, product = slope.output
    body = slope.declarations(slope.combined, "s.")
    body += [f"h[{i}] = {slope.operand(x, False, 's.')};" for i, x in enumerate((*derivatives, product))]
    return f"""// The derivatives in the learned coefficients, then < g_next, u >.
void combine(const Slope &s, const double *sums, double *h) {{
{indented(body)}
}}"""
