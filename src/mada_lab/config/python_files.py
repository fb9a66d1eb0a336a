"""Configuration files in Python, as nanoGPT has them, read without running them.

Such a file is a list of assignments of literals and of arithmetic on them. Its syntax tree is evaluated here, node by
node; anything else in it is refused with its line.
"""

import ast
import math
import operator
import textwrap
import warnings
from collections.abc import Callable, Mapping
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


@dataclass(frozen=True)
class Assignment:
    """The last assignment of a name."""

    value: Value
    line: int
    names: frozenset[str]  #: the names in its expression


def assignments(source: bytes, path: Path) -> dict[str, Assignment]:
    """The assignments in `source`, the content of `path`, in their order.

    Raises:
        ConfigError: It isn't Python, or has anything but assignments of literals and of arithmetic on them.
    """
    assigned: dict[str, Assignment] = {}
    for statement in _parsed(source, path).body:
        node = statement.value if isinstance(statement, ast.Expr) else statement
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            continue  # a docstring
        if not isinstance(statement, ast.Assign):
            raise _refused(path, statement.lineno, "an assignment of a literal or of arithmetic", _shown(node))
        try:
            value = _value(statement.value, assigned, path)
        except RecursionError:
            raise _refused(path, statement.lineno, "a flatter expression", "a deeply nested one") from None
        names = frozenset(x.id for x in ast.walk(statement.value) if isinstance(x, ast.Name))
        for target in statement.targets:
            if not isinstance(target, ast.Name):
                raise _refused(path, statement.lineno, "one name before =", _shown(target))
            assigned[target.id] = Assignment(value, statement.lineno, names)
    return assigned


def _parsed(source: bytes, path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes and the like
            return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        got = getattr(error, "msg", None) or str(error)
        raise ConfigError(f"configuration, in {where}: expected Python, got: {got}; correct the file") from error
    except (RecursionError, MemoryError):
        refusal = "expected flatter expressions, got a deeply nested one"
        raise ConfigError(f"configuration, in {path}: {refusal}; {REMEDY}") from None


def _value(node: ast.expr, known: Mapping[str, Assignment], path: Path) -> Value:
    """The value of an expression. Raises ConfigError unless it is a literal or arithmetic."""
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
    raise _refused(path, node.lineno, "a literal or arithmetic", _shown(node))


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
    """Whether a power of whole numbers is beyond LARGEST, without computing it."""
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


def _shown(node: ast.AST) -> str:
    """The code of a node, on one short line."""
    try:
        return textwrap.shorten(ast.unparse(node).partition("\n")[0], 60)
    except RecursionError:
        return f"Python's {type(node).__name__}"


def _refused(path: Path, line: int, expected: str, got: str) -> ConfigError:
    return ConfigError(f"configuration, in {path}, line {line}: expected {expected}, got {got}; {REMEDY}")
