"""The benchmark on weights that the user changes, on few steps: it runs, and a learned lr doesn't run away in it.

Catches: moves that are taken back and still count in the trace, a trace by hand that isn't the optimizer's, runs that
don't repeat.
"""

import pytest

from benchmarks import changed_weights


@pytest.mark.parametrize("case", ["pruning mask", "clamp", "unit rows"])
def test_a_learned_lr_does_not_run_away(case):
    own, by_hand, fixed = changed_weights.compared(case, steps=80, seed=0)
    assert 0.5 < own.lr / by_hand.lr < 2.0
    assert own.lr < 20 * fixed.lr  # it overshoots at first
    assert own.loss < 1.3 * fixed.loss


def test_without_a_change_the_trace_by_hand_is_the_optimizers():
    own, by_hand, _ = changed_weights.compared("no change", steps=20, seed=0)
    assert own.lr == pytest.approx(by_hand.lr, rel=1e-3)
    assert own.loss == pytest.approx(by_hand.loss, rel=1e-3)


@pytest.mark.parametrize("case", changed_weights.CASES)
def test_every_case_runs_and_repeats(case):
    first, again = (changed_weights.run(changed_weights.CASES[case], 12, 0, by_hand=False) for _ in range(2))
    assert first == again
    assert 0.0 < first.loss < 10.0
