"""The tasks: their loss stays well above zero, and one core trains each of them in seconds."""

from dataclasses import dataclass, replace
from typing import Any

from mada_lab.config.keys import RunConfig, TrainConfig, VisionConfig
from mada_lab.errors import DataError
from mada_lab.tasks.open_data import open_data

EVALUATIONS = 20  # of a run, from which steps to a loss are interpolated
WARMUP = 0.06  # of the steps


@dataclass(frozen=True)
class BenchTask:
    """A task."""

    name: str
    config: RunConfig  #: the keys that all its runs share; the learning rate ends at a tenth of its peak
    language: bool = False  #: whether it models text
    matrices: bool = True  #: whether its network has linear layers between the first and the last


def shared(steps: int, **keys: Any) -> dict[str, Any]:
    """The keys of a run of so many steps, beside `keys`: a row at each evaluation, and a checkpoint at the end."""
    interval = max(steps // EVALUATIONS, 1)
    return {
        "device": "cpu",
        "max_iters": steps,
        "warmup_iters": max(round(WARMUP * steps), 1),
        "grad_clip": 1.0,
        "eval_interval": interval,
        "log_interval": interval,
        "checkpoint_interval": steps,
        "keep_checkpoints": 1,
        **keys,
    }


def digits(steps: int, **keys: Any) -> VisionConfig:
    """A task on all of scikit-learn's digits."""
    return VisionConfig(**shared(steps, dataset="digits", **keys))


def gpt(steps: int, dataset: str, **keys: Any) -> TrainConfig:
    """A task on a text."""
    return TrainConfig(**shared(steps, dataset=dataset, **keys))


SMALL_GPT = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 32, "batch_size": 16, "eval_iters": 16}
LARGE_GPT = {"n_layer": 4, "n_head": 4, "n_embd": 96, "block_size": 64, "batch_size": 8, "eval_iters": 16}
BPE_GPT = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 32, "batch_size": 8, "eval_iters": 24}
CIFAR = {"dataset": "cifar10", "train_images": 5000, "test_images": 1000, "crop_padding": 4, "flip": True}

_ALL = (
    BenchTask("digits_logistic", digits(400, model="logistic", batch_size=64), matrices=False),
    BenchTask("digits_mlp", digits(300, model="mlp", width=32, batch_size=64)),
    BenchTask("digits_cnn", digits(300, model="cnn", width=8, batch_size=64)),
    BenchTask("cifar_cnn", VisionConfig(**shared(240, **CIFAR, model="cnn", width=8, batch_size=32))),
    BenchTask("gpt_pydoc", gpt(400, "pydoc", **SMALL_GPT), language=True),
    BenchTask("gpt_shakespeare_small", gpt(600, "shakespeare_char", **SMALL_GPT), language=True),
    BenchTask("gpt_shakespeare_large", gpt(300, "shakespeare_char", **LARGE_GPT), language=True),
    BenchTask("gpt_wikitext_bpe", gpt(300, "wikitext_gpt2_small", **BPE_GPT), language=True),
    BenchTask("digits_noisy", digits(600, model="mlp", width=64, batch_size=4, label_noise=0.2)),
    BenchTask("digits_deterministic", digits(400, model="logistic", batch_size=1437, label_noise=0.1), matrices=False),
)
#: By name. The deterministic one takes all training images at each step, and its labels can't all be learned.
TASKS: dict[str, BenchTask] = {task.name: task for task in _ALL}


#: The tasks of --quick, which shows in a minute that all of the bench runs.
QUICK = ("digits_mlp", "gpt_pydoc")
QUICK_STEPS = 16
QUICK_TEST: dict[type[RunConfig], dict[str, Any]] = {
    TrainConfig: {"eval_iters": 2, "batch_size": 4},
    VisionConfig: {"test_images": 50},
}


def quick(task: BenchTask) -> BenchTask:
    """The same task with a few steps and a small validation set, to see that all of it runs."""
    keys = shared(QUICK_STEPS, eval_interval=QUICK_STEPS // 4, log_interval=QUICK_STEPS // 4, hyper_start=4)
    return replace(task, config=replace(task.config, **keys, **QUICK_TEST[type(task.config)]))


def located(task: BenchTask, data_dir: str, device: str = "cpu") -> BenchTask:
    """The task, with its data in `data_dir`, to be trained on `device`."""
    return replace(task, config=replace(task.config, data_dir=data_dir, device=device))


def missing_data(task: BenchTask) -> str | None:
    """Why the task can't be run, if its data aren't there."""
    try:
        open_data(task.config)
    except DataError as error:
        return str(error)
    return None
