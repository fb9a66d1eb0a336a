"""C++ for one form of a rule, written from the rule's own graph: what `loops.cpp` includes as `rule.h`.

Element values are fp32 expressions inside of a loop; scalar values are computed once per tensor in double, members of a
struct, and rounded once where an element meets them.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import fx

from mada_optim.builder import Builder, total
from mada_optim.spec import Rule
from mada_optim.specialize import SLOT, outputs

COMPARISONS = {"eq": "==", "ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
INFIX = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", **COMPARISONS}


class NoCodeError(Exception):
    """The rule has an operation that isn't written in C++ here."""


class Writer:
    """Writes the operations of one graph.

    Args:
        graph: A rule's graph, or that of its derivatives.
        scalars: The graph's inputs that are scalars, with the C++ that reads each.
        elements: Those that have one number per element, likewise.
    """

    def __init__(self, graph: fx.Graph, scalars: dict[str, str], elements: dict[str, str]) -> None:
        self.graph, self.inputs = graph, {**scalars, **elements}
        self._kind = Builder(graph, scalars)
        nodes = list(graph.nodes)
        used = [x for x in nodes if x.op != "output" and (x.users or x.op != "placeholder")]
        self.totals = [x for x in used if x.target is total]
        after = set(self.totals)
        for x in used:
            if any(y in after for y in x.all_input_nodes):
                after.add(x)
        self.elements = [x for x in used if self.is_element(x)]
        self.shared = [x for x in used if not self.is_element(x) and x not in after]
        self.combined = [x for x in used if x in after and x.target is not total]
        self.output = outputs(graph)

    def is_element(self, x: Any) -> bool:
        return self._kind.is_element(x)

    def operand(self, x: Any, element: bool, shared: str) -> str:
        """An argument where an element (or a scalar) value is computed; `shared` is before the names of members."""
        if not isinstance(x, fx.Node):
            return f"{float(x)!r}f" if element else repr(float(x))
        if self.is_element(x) or x not in self.shared:
            return f"sums[{self.totals.index(x)}]" if x.target is total else name_of(x)
        return shared + name_of(x)

    def statement(self, x: fx.Node, shared: str = "") -> str:
        """The C++ of one value."""
        if x.op == "placeholder":
            return self.inputs[str(x.target)]
        element = self.is_element(x)
        name = x.target if isinstance(x.target, str) else x.target.__name__
        arguments = [self.operand(y, element, shared) for y in (*x.args, *x.kwargs.values())]
        if name in INFIX:
            left, right = arguments
            return f"{left} {INFIX[name]} {right}"
        if name not in CALLS or set(x.kwargs) - {"min"}:
            raise NoCodeError(name)
        condition = x.args[0] if name == "where" else None
        if isinstance(condition, fx.Node) and not is_comparison(condition, self.is_element(condition)):
            arguments[0] += " != 0"
        if name == "pow" and x.args[1] == 2:
            return f"{arguments[0]} * {arguments[0]}"
        return CALLS[name](*arguments)

    def declarations(self, values: Iterable[fx.Node], shared: str) -> list[str]:
        """`const float x = ...;` for each value."""
        lines = []
        for x in values:
            element = self.is_element(x)
            kind = "bool" if is_comparison(x, element) else "float" if element else "double"
            lines.append(f"const {kind} {name_of(x)} = {self.statement(x, shared)};")
        return lines

    def members(self, struct: str) -> str:
        """A struct of the scalars that all elements share, and one of the same in fp32."""
        names = [name_of(x) for x in self.shared]
        assignments = "\n".join(f"        {name_of(x)} = {self.statement(x)};" for x in self.shared)
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


CALLS: dict[str, Callable[..., str]] = {
    "where": lambda c, x, y: f"({c}) ? {x} : {y}",
    "sign": lambda x: f"sign_of({x})",
    "sqrt": lambda x: f"std::sqrt({x})",
    "pow": lambda x, n: f"std::pow({x}, {n})",
    "neg": lambda x: f"-{x}",
    "maximum": lambda x, y: f"{x} > {y} ? {x} : {y}",
    "clamp": lambda x, low: f"{x} < {low} ? {low} : {x}",
    "detach": lambda x: x,
}


def name_of(x: fx.Node) -> str:
    """The name of a value in C++."""
    return f"n_{x.name}"


def is_comparison(x: fx.Node, element: bool) -> bool:
    """Whether `x` is a truth value; of a scalar, 1 or 0 in a double serves."""
    return element and getattr(x.target, "__name__", "") in COMPARISONS


def emit(whole: Rule, form: Rule, forward: fx.Graph, backward: fx.Graph, learned: Sequence[str]) -> str:
    """`rule.h`.

    Args:
        whole: The rule; its coefficients and hyper-parameters are handed over in its order.
        form: What is left of it, with the slots that it needs.
        forward: The graph of `form`.
        backward: The graph of its derivatives in `learned`.
        learned: The learned coefficients of the rule.

    Raises:
        NoCodeError: The rule has an operation that isn't known here.
    """
    slots = [slot.name for slot in form.slots if not slot.scalar]
    scalar_slots = [slot.name for slot in form.slots if slot.scalar]
    scalars = {
        **{q: f"q[{i}]" for i, q in enumerate(whole.coefficient_names())},
        **{name: f"hyper[{i}]" for i, name in enumerate(whole.hyper_parameters)},
        **{SLOT + name: f"w[{i}]" for i, name in enumerate(scalar_slots)},
        "t": "t",
    }
    step = Writer(forward, scalars, {"g": "g", **{SLOT + name: f"s.{name}" for name in slots}})
    slope = Writer(
        backward,
        scalars,
        {"g": "load(gradient[i])", "cotangent": "g_now[i]", **{SLOT + name: f"load({name}[i])" for name in slots}},
    )
    each = " ".join(f"DO({i}, {name})" for i, name in enumerate(slots))
    head = f"""#define FOR_EACH_SLOT(DO) {each}
constexpr int SLOTS = {len(slots)}, SCALARS = {len(scalar_slots)}, SUMS = {len(slope.totals)};
constexpr int COEFFICIENTS = {len(whole.coefficients)}, LEARNED = {len(learned)};
struct Element {{
    float {", ".join(["unused", *slots])};
}};"""
    return "\n\n".join(
        [
            head,
            step.members("Step"),
            _update(step, slots, scalar_slots),
            slope.members("Slope"),
            _sums(slope),
            _combine(slope),
        ]
    )


def _update(step: Writer, slots: list[str], scalar_slots: list[str]) -> str:
    u, after = step.output
    body = [*step.declarations(step.elements, "k.")]
    body += [f"s.{name} = {step.operand(after[name], True, 'k.')};" for name in slots]
    body += [f"return {step.operand(u, True, 'k.')};"]
    stores = [f"w[{i}] = {step.operand(after[name], False, 's.')};" for i, name in enumerate(scalar_slots)]
    return f"""// Moves the slots one step on, and gives the update.
INLINE float update(const StepFloats &k, float g, Element &s) {{
{_indented(body)}
}}

void next_scalars(const Step &s, double *w) {{
{_indented(stores)}
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
{_indented(body, 8)}
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
{_indented(body)}
}}"""


def _indented(lines: list[str], spaces: int = 4) -> str:
    return "\n".join(" " * spaces + line for line in lines)
