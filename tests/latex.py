"""Reads the LaTeX of mada_optim.describe as numbers, by a grammar of its own: the other half of the proof of a formula.

What a person would read two ways, such as `a / b c`, is refused.
"""

import re

import torch

from mada_optim.matrices.polar_factor import orthogonal, polar
from mada_optim.matrices.rows import row_factors, row_mean_squares

TOKEN = re.compile(r"\\\\|\\[A-Za-z]+|\\[,|]|\d+(?:\.\d+)?|\\?\S")
FUNCTIONS = {
    r"\mathrm{sign}": torch.sign,
    r"\mathrm{const}": lambda x: x,
    r"\mathrm{orth}": orthogonal,
    r"\mathrm{polar}": polar,
    r"\mathrm{rows}": row_mean_squares,
    r"\mathrm{factors}": row_factors,
    r"\exp": torch.exp,
    r"\ln": torch.log,
    r"\tanh": torch.tanh,
    r"\max": torch.maximum,
    r"\min": torch.minimum,
}
RELATIONS = {"=": torch.eq, "<": torch.lt, ">": torch.gt, r"\le": torch.le, r"\ge": torch.ge, r"\ne": torch.ne}
STARTS = re.compile(r"\d|\(|\\left$|\\frac$|\\sqrt$|\\begin$")


def tokens(latex):
    r"""Commands, numbers and characters; \text{two words} stays whole."""
    found = []
    for part in re.split(r"(\\text\{[^{}]*\}|\\mathrm\{[^{}]*\})", latex):
        found += [part] if part.startswith((r"\text{", r"\mathrm{")) else TOKEN.findall(part)
    return [token for token in found if token != r"\,"]


def evaluate(latex, values):
    """The value of `latex`; `values` has the letters, subscripts included, as tensors."""
    reader = _Reader(tokens(latex), values)
    x = reader.sum()
    assert not reader.ahead, f"unread: {reader.ahead} of {latex}"
    return x


def evaluate_lines(equations, values):
    """`values`, and what each of the equations adds to them, in order."""
    values = dict(values)
    for equation in equations:
        assert equation.left not in values, f"{equation.left} is said twice"
        values[equation.left] = evaluate(equation.right, values)
    return values


class _Reader:
    def __init__(self, ahead, values):
        self.ahead = ahead
        self.letters = sorted(((tokens(letter), x) for letter, x in values.items()), key=lambda pair: -len(pair[0]))

    def take(self, *expected):
        assert tuple(self.ahead[: len(expected)]) == expected, f"{expected} expected at {self.ahead}"
        self.ahead = self.ahead[len(expected) :]

    def at(self, token):
        return self.ahead[:1] == [token]

    def letter(self):
        return next(((found, x) for found, x in self.letters if self.ahead[: len(found)] == found), None)

    def at_factor(self):
        return bool(self.ahead) and bool(
            STARTS.match(self.ahead[0]) or self.letter() or self.ahead[0] in FUNCTIONS or self.ahead[0] == r"\cdot"
        )

    def sum(self):
        negative = self.at("-")
        if negative:
            self.take("-")
        x = -self.product() if negative else self.product()
        while self.at("+") or self.at("-"):
            sign, self.ahead = self.ahead[0], self.ahead[1:]
            x = x + self.product() if sign == "+" else x - self.product()
        return x

    def product(self):
        x = self.power()
        while self.at_factor():
            if self.at(r"\cdot"):
                self.take(r"\cdot")
            x = x * self.power()
        if self.at("/"):
            self.take("/")
            x = x / self.power()
            ambiguous = self.at_factor() or self.at("/")
            assert not ambiguous, f"after a slash: {self.ahead}"
        return x

    def power(self):
        x = self.atom()
        if self.at("^"):
            self.take("^")
            x = x ** (self.group() if self.at("{") else self.single())
            assert not self.at("^"), "two exponents"
        return x

    def single(self):
        """An exponent without braces, which TeX ends after one character."""
        assert len(self.ahead[0]) == 1
        return self.atom()

    def group(self):
        self.take("{")
        x = self.sum()
        self.take("}")
        return x

    def atom(self):
        if letter := self.letter():
            self.take(*letter[0])
            return letter[1]
        head, self.ahead = self.ahead[0], self.ahead[1:]
        if re.fullmatch(r"\d+(\.\d+)?", head):
            return torch.tensor(float(head), dtype=torch.float64)
        if head == r"\frac":
            return self.group() / self.group()
        if head == r"\sqrt":
            return self.group().sqrt()
        if head in FUNCTIONS:
            return FUNCTIONS[head](*self.parenthesized())
        if head == r"\left" and self.at("|"):
            self.take("|")
            x = self.sum()
            self.take(r"\right", "|")
            return x.abs()
        self.ahead = [head, *self.ahead]
        if head == r"\begin":
            return self.cases()
        (x,) = self.parenthesized()
        return x

    def parenthesized(self):
        tall = self.at(r"\left")
        self.take(*([r"\left", "("] if tall else ["("]))
        found = [self.sum()]
        while self.at(","):
            self.take(",")
            found.append(self.sum())
        self.take(*([r"\right", ")"] if tall else [")"]))
        return found

    def cases(self):
        self.take(r"\begin", *"{cases}")
        then = self.sum()
        self.take("&", r"\text{if }")
        left, relation = self.sum(), self.ahead[0]
        self.take(relation)
        condition = RELATIONS[relation](left, self.sum())
        self.take(r"\\")
        otherwise = self.sum()
        self.take("&", r"\text{otherwise}", r"\end", *"{cases}")
        return torch.where(condition, then, otherwise)
