"""Configuration files in Python, as nanoGPT has them, read without running them.

Such a file is a list of assignments of literals and of arithmetic on them. Its syntax tree is evaluated here, node by
node; whatever else is in it is refused with its line.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mada_lab.errors import ConfigError

Value = int | float | str | bool | None

LARGEST = 2**63 - 1  # of whole numbers, as everywhere in a configuration
LONGEST = 4096  # of texts
REMEDY = "write the value itself, or give the key on the command line"
OPERATORS: dict[type[ast.operator], Callable[..., Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
#: What a message calls what it refuses, by the name of the node; other nodes are called by that name.
CONSTRUCTS = {
    "AnnAssign": "an annotation",
    "Assert": "an assert",
    "Attribute": "an attribute",
    "AugAssign": "an assignment in place",
    "Constant": "a value alone",
    "BitAnd": "the operator &",
    "BitOr": "the operator |",
    "BitXor": "the operator ^",
    "BoolOp": "the operator and, or or",
    "Call": "a call",
    "ClassDef": "a class",
    "Compare": "a comparison",
    "Delete": "a del",
    "Dict": "a dict",
    "For": "a loop",
    "FunctionDef": "a function",
    "If": "an if",
    "IfExp": "an if",
    "Invert": "the operator ~",
    "Import": "an import",
    "ImportFrom": "an import",
    "JoinedStr": "an f-string",
    "Lambda": "a lambda",
    "LShift": "the operator <<",
    "List": "a list",
    "MatMult": "the operator @",
    "Name": "a name alone",
    "NamedExpr": "the operator :=",
    "Not": "the operator not",
    "RShift": "the operator >>",
    "Set": "a set",
    "Subscript": "an index",
    "Try": "a try",
    "Tuple": "a tuple",
    "UAdd": "a plus sign before a value",
    "While": "a loop",
    "With": "a with",
}


@dataclass(frozen=True)
class Assignment:
    """The last assignment of a name.

    Attributes:
        value: What was assigned.
        line: Where.
        names: The names in the expression that the value was computed from.
    """

    value: Value
    line: int
    names: frozenset[str]


def assignments(source: bytes, path: Path) -> dict[str, Assignment]:
    """The assignments in `source`, the content of `path`, in their order.

    Raises:
        ConfigError: It isn't Python, or has something else than assignments of literals and arithmetic on them.
    """
    found: dict[str, Assignment] = {}
    for statement in _parsed(source, path).body:
        if isinstance(statement, ast.Expr) and _is_text(statement.value):
            continue  # a docstring
        if not isinstance(statement, ast.Assign):
            node = statement.value if isinstance(statement, ast.Expr) else statement
            raise _refused(path, statement.lineno, "an assignment of a literal or of arithmetic", _construct(node))
        try:
            value = _value(statement.value, found, path)
        except RecursionError:
            raise _refused(path, statement.lineno, "an expression that is less deep", "a deeper one") from None
        names = frozenset(_names(statement.value))
        for target in statement.targets:
            if not isinstance(target, ast.Name):
                raise _refused(path, statement.lineno, "one name before =", _construct(target))
            found[target.id] = Assignment(value, statement.lineno, names)
    return found


def _parsed(source: bytes, path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes and the like, which are Python's to judge
            return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        got = getattr(error, "msg", None) or str(error)
        raise ConfigError(f"configuration, in {where}: expected Python, got: {got}; correct the file") from error
    except (RecursionError, MemoryError):
        what = "expected expressions that are less deep, got a deeper one"
        raise ConfigError(f"configuration, in {path}: {what}; {REMEDY}") from None


def _value(node: ast.expr, known: Mapping[str, Assignment], path: Path) -> Value:
    """The value of an expression. Raises ConfigError for what isn't a literal or arithmetic."""
    if isinstance(node, ast.Name):
        if node.id not in known:
            raise _refused(path, node.lineno, "a name that is assigned above", node.id)
        return known[node.id].value
    if isinstance(node, ast.Constant):
        return _checked(node.value, node, path)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _checked(-_number(node.operand, known, path), node, path)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return _checked(_computed(node, known, path), node, path)
    raise _refused(path, node.lineno, "a literal or arithmetic", _construct(node))


def _computed(node: ast.BinOp, known: Mapping[str, Assignment], path: Path) -> object:
    if isinstance(node.op, ast.Add) and isinstance(text := _value(node.left, known, path), str):
        end = _value(node.right, known, path)
        if not isinstance(end, str):
            raise _refused(path, node.lineno, "text after text and +", repr(end))
        return text + end
    a, b = (_number(side, known, path) for side in (node.left, node.right))
    if isinstance(node.op, ast.Pow) and _is_huge(a, b):
        raise _refused(path, node.lineno, f"a power up to {LARGEST}", f"{a}**{b}")
    try:
        return OPERATORS[type(node.op)](a, b)
    except ArithmeticError as error:
        got = "a number that is too large" if isinstance(error, OverflowError) else str(error)
        raise _refused(path, node.lineno, "a finite number", got) from error


def _number(node: ast.expr, known: Mapping[str, Assignment], path: Path) -> int | float:
    value = _value(node, known, path)
    if not isinstance(value, int | float):
        raise _refused(path, node.lineno, "a number", repr(value))
    return value


def _is_huge(base: int | float, exponent: int | float) -> bool:
    """Whether a power of whole numbers is beyond LARGEST, found without computing it."""
    if not isinstance(base, int) or not isinstance(exponent, int) or exponent <= 0:
        return False
    return (abs(base).bit_length() - 1) * exponent >= LARGEST.bit_length()


def _checked(value: object, node: ast.expr, path: Path) -> Value:
    """`value`, if a configuration may have it."""
    if isinstance(value, str):
        if len(value) > LONGEST:
            raise _refused(path, node.lineno, f"a text of at most {LONGEST} characters", f"{len(value)}")
        return value
    if value is not None and not isinstance(value, int | float):
        expected = "a number, a text, True, False or None"
        raise _refused(path, node.lineno, expected, f"a value of type {type(value).__name__}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise _refused(path, node.lineno, f"a whole number up to {LARGEST}", "a larger one")
    if isinstance(value, float) and not math.isfinite(value):
        raise _refused(path, node.lineno, "a finite number", str(value))
    return value


def _names(node: ast.expr) -> Iterator[str]:
    return (x.id for x in ast.walk(node) if isinstance(x, ast.Name))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _construct(node: ast.AST) -> str:
    name = type(node.op if isinstance(node, ast.BinOp | ast.UnaryOp) else node).__name__
    return CONSTRUCTS.get(name, f"Python's {name}")


def _refused(path: Path, line: int, expected: str, got: str) -> ConfigError:
    return ConfigError(f"configuration, in {path}, line {line}: expected {expected}, got {got}; {REMEDY}")
