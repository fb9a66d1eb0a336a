"""The benchmark of a sharded step, on the application's smallest network.

Catches: a way of taking the step that is not timed.
"""

from benchmarks import sharded_step
from tests.distributed import group
from tests.distributed.test_exchange import mesh_of


def timed():
    return {way: len(seconds) for way, seconds in sharded_step.measured("0.8M", mesh_of((2,)), repeats=1).items()}


def test_the_benchmark_times_every_way():
    for ways in group.run(2, timed):
        assert list(ways.values()) == [1] * 4
