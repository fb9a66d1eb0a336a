"""Adversarial gradients from 1e-30 to 1e30, with sign flips, zeros and denormals, against every rule.

Catches: a coefficient out of its interval, NaN or infinity in weights, slots, coefficients or velocity, a coefficient
that stays on its bound though the hypergradient has turned, and a skipped or frozen step that moves what it must not.
`python -m benchmarks.numerics` runs 10,000 sequences for each dtype.
"""

import pytest
from hypothesis import Phase, given, settings

from tests.numerics.adversary import DTYPES, cases, play


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_sequence_breaks_a_number(dtype):
    # To shrink a case that fails takes minutes: add Phase.shrink for that
    @settings(max_examples=60, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    @given(cases(dtype))
    def check(case):
        tally = play(case)
        assert tally.faults == 0, tally

    check()
