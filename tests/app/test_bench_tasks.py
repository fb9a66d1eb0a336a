"""The bench's tasks: configurations that are allowed, networks and labels that are what they say.

Catches: a task that no run accepts, wrong labels among the test images or others for another seed, a hidden layer too
many, a vocabulary cut elsewhere than at its end.
"""

from dataclasses import replace

import pytest
import torch

from mada_lab.config import parsing
from mada_lab.config.keys import VisionConfig
from mada_lab.data.image_batches import Images, with_label_noise
from mada_lab.experiments.bench.tasks import TASKS, quick
from mada_lab.model.images import MLP


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_each_task_is_allowed_and_evaluated_at_twenty_points(task):
    parsing.check(quick(task).config)
    for config in (task.config,):
        parsing.check(config)
        assert (config.learning_rate, config.min_lr) == (None, None)  # each optimizer's own, and a tenth of it
        assert config.eval_interval == max(config.max_iters // 20, 1)
    assert parsing.from_values({"dataset": task.config.dataset}, "here", type(task.config)) == replace(
        type(task.config)(), dataset=task.config.dataset
    )


def test_label_noise_is_the_same_for_all_seeds_and_of_its_share():
    images = Images(torch.zeros(4000, 1, 2, 2, dtype=torch.uint8), torch.arange(4000) % 10)
    noisy = with_label_noise(images, 0.2, 10)
    changed = (noisy.labels != images.labels).double().mean().item()
    assert changed == pytest.approx(0.2 * 0.9, abs=0.02)  # a tenth of those drawn anew are as before
    assert torch.equal(noisy.labels, with_label_noise(images, 0.2, 10).labels)
    assert with_label_noise(images, 0.0, 10) is images


def test_linear_networks_have_the_layers_that_they_say():
    assert sum(p.numel() for p in MLP((8, 8, 1), (), 10).parameters()) == 650
    assert sum(p.numel() for p in MLP((8, 8, 1), (32, 32), 10).parameters()) == 65 * 32 + 33 * 32 + 33 * 10
    logits, loss = MLP((8, 8, 3), (4,), 5)(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    assert logits.shape == (2, 5)
    assert loss.dim() == 0


def test_a_share_of_wrong_labels_has_a_range():
    with pytest.raises(parsing.ConfigError, match="label_noise"):
        parsing.check(VisionConfig(label_noise=1.0))
