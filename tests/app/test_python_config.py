"""Python configurations: assignments of literals and arithmetic, evaluated without running them.

Catches: code that runs; a construct that is skipped; a value that isn't Python's; a power that is computed until memory
ends; an error without its line.
"""

import ast
from pathlib import Path

import pytest

from mada_lab.config.python_files import LARGEST, assignments
from mada_lab.errors import ConfigError

PATH = Path("c.py")


def read(text):
    return assignments(text.encode(), PATH)


SOURCE = '''"""What the file is for."""
# a comment
batch_size = 12  # another
block_size = 1_024
steps = 5 * 8
max_iters = (steps + 2) * 100 // 3 % 1000 - 2**3
learning_rate = 6e-4
min_lr = learning_rate / 10
weight_decay = -(-1e-1)
"""A text on its own."""
name = "gpt2" + "-124M"
bias = False
compile = not_compile = None
lr_decay_iters = max_iters
max_iters = max_iters * 2
hexadecimal = 0x10
'''


def test_values_are_those_that_python_would_assign():
    expected = {}
    exec(compile(SOURCE, "c.py", "exec"), {}, expected)
    del expected["__doc__"]
    found = read(SOURCE)
    assert {name: (x.value, type(x.value)) for name, x in found.items()} == {
        name: (x, type(x)) for name, x in expected.items()
    }
    lines = SOURCE.splitlines()
    assert all(f"{name} = " in lines[x.line - 1] for name, x in found.items())
    assert found["min_lr"].names == {"learning_rate"}
    assert found["name"].names == set()


REFUSED = [
    ("import os", "an assignment of a literal or of arithmetic, got import os;"),
    ("from os import path", "got from os import path;"),
    ("open('x', 'w')", r"got open\('x', 'w'\);"),
    ("a = open('x', 'w')", "a literal or arithmetic, got open"),
    ("a = __import__('os').getcwd()", "got __import__"),
    ("a = 1 if True else 2", "got 1 if True else 2;"),
    ("if True:\n    a = 1", "got if True:;"),
    ("for a in b:\n    pass", "got for a in b:;"),
    ("def a(): pass", "got def a"),
    ("a: int = 1", "got a: int = 1;"),
    ("a = 1\na += 1", "line 2: expected an assignment of a literal or of arithmetic, got a [+]= 1;"),
    ("a, b = 1, 2", r"got \(1, 2\);"),
    ("a = b = c = 1\na.b = 2", "line 2: expected one name before =, got a.b;"),
    ("a = {}", "got {};"),
    ("a = [1]", r"got \[1\];"),
    ("a = f'{1}'", "got f'[{]1[}]';"),
    ("a = 1 < 2", "got 1 < 2;"),
    ("a = not 1", "got not 1;"),
    ("a = +1", "got [+]1;"),
    ("a = 1 << 9", "got 1 << 9;"),
    ("a = (b := 1)", r"got \(b := 1\);"),
    ("a = 1\n\na", "line 3: expected an assignment of a literal or of arithmetic, got a;"),
    ("a = 1j", "got a value of type complex"),
    ("a = (-8) ** 0.5", "got a value of type complex"),
    ("a = b'text'", "got a value of type bytes"),
    ("a = ...", "got a value of type ellipsis"),
    ("a = b", "a name that is assigned above, got b"),
    ("a = a + 1", "a name that is assigned above, got a"),
    ("a = 'x' * 3", "a number, got 'x'"),
    ("a = '%d' % 3", "a number, got '%d'"),
    ("a = 1 + 'x'", "a number, got 'x'"),
    ("a = 'x' + 1", "text after text and [+], got 1"),
    ("a = None * 2", "a number, got None"),
    ("a = 1 / 0", "a finite number, got division by zero"),
    ("a = 1e400", "a finite number, got inf"),
    ("a = 1e308 * 10", "a finite number, got inf"),
    ("a = 10.0 ** 400", "a finite number, got a number that is too large"),
    ("a = 10 ** 10 ** 10", "a power up to 9223372036854775807, got 10[*][*]10000000000"),
    ("a = 2 ** 63", "a power up to"),
    ("a = 3 ** 40", "a whole number up to 9223372036854775807, got a larger one"),
    ("a = 9223372036854775807 + 1", "a whole number up to"),
    ("a = " + "9" * 5000, "expected Python, got: Exceeds the limit"),
    ("a = 0x" + "f" * 5000, "a whole number up to"),
    ("a = '" + "x" * 5000 + "'", "a text of at most 4096 characters, got 5000"),
    ("a = 1\nb = (2", "line 2: expected Python, got: '[(]' was never closed"),
    ("a = " + "1 + " * 900 + "1", "line 1: expected a flatter expression"),
    ("a = " + "-" * 5000 + "1", "expected flatter expressions"),
    ("a = " + "[" * 80 + "]" * 80, "got"),
    ("a = 1\0", "expected Python, got: .*null bytes"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text[:24] for text, _ in REFUSED])
def test_all_else_is_refused_with_its_line(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(text)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("configuration, in c.py")
    assert said.split("; ")[-1] in ("write the value itself, or give the key on the command line", "correct the file")


def test_the_last_text_is_not_doubled_for_ever():
    with pytest.raises(ConfigError, match="line 11: expected a text of at most 4096 characters"):
        read("a = 'xxxxxxxx'\n" + "a = a + a\n" * 60)


def test_small_powers_are_computed():
    found = read(f"a = 2**62\nb = 2**-1\nc = 1**{LARGEST}\nd = (-1)**{LARGEST}\ne = 0**{LARGEST}\nf = 1.5**2")
    assert [x.value for x in found.values()] == [2**62, 0.5, 1, -1, 0, 2.25]


def test_no_kind_of_statement_or_expression_gets_through():
    """Whatever Python's grammar has beside what is allowed, by the classes of its syntax tree."""
    allowed = {"Assign", "Expr", "Constant", "Name", "UnaryOp", "BinOp"}
    samples = (
        "async def f(): pass|class A: pass|return|del a|while 1: pass|with a: pass|raise a|try: pass\nfinally: pass|"
        "match 1:\n case 1: pass|assert 1|global a|nonlocal a|pass|break|continue|a = lambda: 0|a = {1}|a = {1: 2}|"
        "a = [x for x in y]|a = {x for x in y}|a = {x: x for x in y}|a = (x for x in y)|a = await b|a = yield|"
        "a = yield from b|a = b.c|a = b[1]|a = *b, 1|a = b[1:2]|a = 1 and 2|a = (1, 2)"
    ).split("|")
    for text in samples:
        nodes = {type(node).__name__ for node in ast.walk(ast.parse(text))} - {"Module", "Load", "Store"}
        assert nodes - allowed, text
        with pytest.raises(ConfigError, match=", line 1: expected "):
            read(text)
