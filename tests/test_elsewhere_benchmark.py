"""The benchmark on networks that nothing was chosen on, on a few steps instead of hundreds: it runs, and is fair.

Catches: a benchmark that has drifted from the library, runs that don't repeat, a course of the lr that isn't what its
page says, a contender that trains on what it is measured on.
"""

from dataclasses import replace

import pytest

from benchmarks import elsewhere

TASKS = elsewhere.tasks()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_trains_and_repeats(name):
    task = replace(TASKS[name], steps=2)
    first, other = (elsewhere.validation_loss(task, elsewhere.CONTENDERS["AutoMuon"], seed) for seed in (1, 2))
    assert 0.0 < first < 10.0
    assert first != other
    assert elsewhere.validation_loss(task, elsewhere.CONTENDERS["AutoMuon"], 1) == first


@pytest.mark.parametrize("name", TASKS)
def test_nothing_is_in_both_sets(name):
    task = TASKS[name]
    assert len(task.train[0]) == len(task.train[1]) > 3 * len(task.held_out[0]) > 0
    seen = {x.numpy().tobytes() for x in task.train[0]}
    again = sum(x.numpy().tobytes() in seen for x in task.held_out[0])
    assert again <= 0.01 * len(task.held_out[0])  # a text may repeat itself


def test_the_course_of_the_lr():
    shaped = replace(TASKS["lstm"], steps=100)
    assert [elsewhere.course_at(step, shaped) for step in (0, 4, 5)] == pytest.approx([0.2, 1.0, 1.0])
    assert elsewhere.course_at(100, shaped) == pytest.approx(0.1)
    assert elsewhere.course_at(60, replace(shaped, cosine=False)) == 1.0


def test_muon_has_no_row_where_only_kernels_are_hidden():
    task = replace(TASKS["resnet"], steps=1)
    assert elsewhere.row(task, elsewhere.CONTENDERS["Muon 0.001"], [1]) == "-"
    assert elsewhere.row(task, elsewhere.CONTENDERS["AdamW 0.001"], [1]) != "-"
