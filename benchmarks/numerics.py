"""Numerics that can't be broken, at full count: what tests/numerics checks in small, run and tabulated.

    python -m benchmarks.numerics [--sequences N] [--injections N] [--steps N]

From the repository root. With the defaults half an hour on one core; 0 leaves a part out. Exits with 1 after a fault.
"""

import argparse
import sys
from collections import Counter
from dataclasses import fields

import torch
from hypothesis import HealthCheck, Phase, given, settings

from tests.numerics import test_zero_gradients as silence
from tests.numerics.adversary import DTYPES, ENGINES, Case, Tally, cases, play
from tests.numerics.injections import Injection, inject
from tests.numerics.test_bounds import MOMENTA, learner, middle, push


def sequences(dtype: torch.dtype, count: int) -> Tally:
    """The tally over so many cases, the same ones each time."""
    total = Tally()

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(dtype))
    def add(case: Case) -> None:
        nonlocal total
        tally = play(case)
        total += tally
        if tally.faults:
            print(case, tally, file=sys.stderr)

    add()
    return total


def print_sequences(count: int) -> int:
    """The table of sequences; returns the number of faults."""
    names = [f.name for f in fields(Tally)]
    print("adversarial sequences, every rule with all it has and lr learned")
    print(f"  {'':16}" + "".join(f"{name:>10}" for name in names))
    faults = 0
    for dtype in DTYPES:
        tally = sequences(dtype, count)
        faults += tally.faults
        print(f"  {dtype!s:16}" + "".join(f"{getattr(tally, name):>10}" for name in names), flush=True)
    return faults


def print_injections(count: int) -> int:
    """How many injections of NaN, infinity or the largest number left no trace; returns the number of others."""
    verdicts = Counter(inject(Injection.draw(seed)) for seed in range(count))
    untouched = sum(n for verdict, n in verdicts.items() if verdict.untouched)
    recovered = sum(n for verdict, n in verdicts.items() if verdict.recovered)
    print(f"injections: {count}; bit-exact no-ops {untouched}; as a run without, from the next step on, {recovered}")
    return 2 * count - untouched - recovered


def print_silence(steps: int) -> int:
    """Gradients that become 0, and tensors whose gradients always were; returns the number of faults."""
    faults = 0
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        broken = [x for x in ENGINES if silence.fall_silent(x[1], x[0], steps)]
        different = []
        for engine, rule in (("auto", "mada"), ("eager", "mada"), ("eager", "mada_released")):
            alone, beside = (silence.beside_silence(rule, engine, steps, 0, tensors) for tensors in (0, 2))
            if alone[0] != beside[0] or not torch.equal(alone[1], beside[1]) or not beside[2]:
                different.append((engine, rule))
        faults += len(broken) + len(different)
        print(f"{steps} steps of zeros, denormals {'flushed' if flush else 'kept'}:")
        print(f"  after five gradients: runs {len(ENGINES)}, with NaN or infinity {len(broken)}", *broken)
        print(f"  of whole tensors: runs 3, with another bit in live ones {len(different)}", *different, flush=True)
    torch.set_flush_denormal(False)
    return faults


def print_bounds(steps: int) -> int:
    """Hyper-steps from a bound once the sign turns, after so many outwards; returns how many never left it."""
    stuck, counts = 0, {}
    for momentum in MOMENTA:
        one = learner(momentum)
        q, memory = push(one, middle(), None, -1e6, steps)
        counts[momentum] = 0
        while q.item() == 1.0 and counts[momentum] < 10:
            q, memory = push(one, q, memory, 1.0, 1)
            counts[momentum] += 1
        stuck += q.item() == 1.0
    print(f"{steps} hyper-steps outwards, then 1e-6 of that inwards; steps to leave the bound, by momentum: {counts}")
    return stuck


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("sequences", 10_000), ("injections", 1_000), ("steps", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N")
    counts = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parts = (
        (print_bounds, counts.steps),
        (print_injections, counts.injections),
        (print_sequences, counts.sequences),
        (print_silence, counts.steps),
    )
    sys.exit(1 if sum(part(count) for part, count in parts if count) else 0)


if __name__ == "__main__":
    main()
