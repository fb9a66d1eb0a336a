"""A number that is not finite, or whose square is not, in one element of one gradient, at any step, under any rule.

Catches: a skipped step that changes a weight, slot, coefficient, count or memory, and one that the next step remembers.
`python -m benchmarks.numerics` makes 1,000 injections.
"""

import pytest

from tests.numerics.injections import Injection, Verdict, inject


@pytest.mark.parametrize("seed", range(60))
def test_a_bad_number_leaves_no_trace(seed):
    injection = Injection.draw(seed)
    assert inject(injection) == Verdict(untouched=True, recovered=True), injection
