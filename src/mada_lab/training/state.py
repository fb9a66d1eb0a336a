"""The state of a run: built from the configuration, changed by each step, saved in checkpoints, restored from them."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from mada_lab.checkpoints import redistribution
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.compute import batch_norm, device, generators
from mada_lab.compute import world as distributed
from mada_lab.compute.device import Precision
from mada_lab.compute.finite import Skips
from mada_lab.compute.throughput import Pace, peak_flops
from mada_lab.compute.world import ALONE, World
from mada_lab.config.keys import RunConfig
from mada_lab.optimizers import catalog
from mada_lab.optimizers.description import described
from mada_lab.system import environment
from mada_lab.tasks import Batches, Data, Task
from mada_lab.tasks.choice import choose
from mada_lab.training import lr_schedule
from mada_optim import HyperOptimizer


@dataclass
class TrainState:
    """The state of a run between two optimizer steps."""

    config: RunConfig
    task: Task
    precision: Precision  #: the device, and the dtype of the forward pass
    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler  #: scales the loss where the forward pass is in float16
    batches: Batches
    step: int = 0  #: optimizer steps done, skipped ones included
    reported: bool = False  #: whether the evaluation and the row that are due at this step are done
    seconds: float = 0.0  #: time since the start, evaluations included; pauses between two processes are left out
    skips: Skips = field(default_factory=Skips)  #: counts steps whose loss or gradient was not finite
    skips_warned: bool = False  #: whether the user was warned of skipped steps
    train_loss: float | None = None  #: of the last step, in nats per token or image; None before the first
    peak: float = 0.0  #: the peak of the learning-rate schedule: the rate in the optimizer's groups when it was made
    lr: float = 0.0  #: the learning rate of the last step; 0 before the first
    val_loss: float | None = None  #: of the last evaluation, in nats per token or image; None before the first
    best_val_loss: float | None = None  #: the lowest validation loss
    val_accuracy: float | None = None  #: the last validation accuracy; None where the task has none
    buffers_before: list[Tensor] = field(default_factory=list)  #: the model's, before this step's forward passes
    world: World = ALONE  #: the processes that share the work
    pace: Pace = field(default_factory=Pace)  #: measures the time per step since the last row

    @classmethod
    def start(cls, config: RunConfig, data: Data) -> "TrainState":
        """The state at step 0; seeds torch. Raises ConfigError if this machine can't run the configuration."""
        place = device.choose(config)
        world = distributed.current(place.device)
        torch.manual_seed(config.seed)
        task = choose(config, data)
        model = task.model().to(place.device)
        batch_norm.share(model, world)
        pace = Pace(task.flops(model), peak_flops(place.device, config.peak_flops), world.size)
        distributed.shard(model, task.blocks(model), config.parallel, world)
        scaler = torch.amp.GradScaler(place.device.type, enabled=place.dtype == torch.float16)
        optimizer, batches = catalog.build(model, config), task.batches(world)
        peak = catalog.peak(optimizer)
        lr_schedule.require_fall(config, peak)
        return cls(task.config, task, place, model, optimizer, scaler, batches, peak=peak, world=world, pace=pace)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.folder

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The model's parameters: a step needs them twice, and a walk through the modules takes time."""
        return list(self.model.parameters())

    @cached_property
    def buffers(self) -> list[Tensor]:
        """The model's buffers."""
        return list(self.model.buffers())

    @property
    def passes(self) -> int:
        """Forward passes per step on this process, from the second step on."""
        return self.config.gradient_accumulation_steps // self.world.size

    @property
    def passes_done(self) -> int:
        """Forward passes of all steps so far, over all processes."""
        passes, first = self.config.gradient_accumulation_steps, self.config.first_accumulation
        fewer = 0 if first is None or self.step == 0 else passes - first
        return passes * self.step - fewer

    @property
    def passes_now(self) -> int:
        """Forward passes of the next step on this process."""
        first = self.config.first_accumulation
        return self.passes if self.step or first is None else first // self.world.size

    @property
    def clips_each(self) -> bool:
        """Whether each process clips its own gradient."""
        return self.config.grad_clip_of == "each" and self.world.size > 1

    def due(self, interval: int) -> bool:
        """Whether an action that is due every `interval` steps, and after the last step, is due now."""
        return self.step % interval == 0 or self.step == self.config.max_iters

    def coefficients(self) -> dict[str, float]:
        """The optimizer's coefficients; empty if it has none to learn."""
        return self.optimizer.coefficients() if isinstance(self.optimizer, HyperOptimizer) else {}

    def manifest(self) -> dict[str, Any]:
        """The manifest of the run's record."""
        return {
            "config": asdict(self.config),
            "optimizer": self.config.optimizer,
            "method": described(self.config, self.optimizer),
            "initial_coefficients": self.coefficients(),
            "peak_learning_rate": self.peak,
            "versions": environment.versions(),
            "commit": environment.commit(),
            "seed": self.config.seed,
            "processes": self.world.size,
            "data": {"name": self.task.data.name, "sha256": self.task.data.sha256},
            "model": {"parameters": sum(p.numel() for p in self.model.parameters())},
        }

    def common(self) -> dict[str, Any]:
        """The facts that all processes of the run must share."""
        return {
            "configuration": {key: x for key, x in asdict(self.config).items() if key not in ("out_dir", "data_dir")},
            "data": self.task.data.sha256,
            "versions": environment.versions(),
            "code": environment.source_digest() if self.world.size > 1 else "",
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines the rest of the run. Its tensors are the live ones, or this process's shards."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batches": self.batches.state(),
            "random": generators.state(self.precision.device),
            "skips": {**asdict(self.skips), "total": self.skipped_steps()},
            "train_loss": self.train_loss,
            "peak": self.peak,
            "lr": self.lr,
            "val_loss": self.val_loss,
            "best_val_loss": self.best_val_loss,
            **({} if self.val_accuracy is None else {"val_accuracy": self.val_accuracy}),
        }

    def skipped_steps(self) -> int:
        """Skipped steps so far, those that the optimizer skipped by itself included; reads its count from the device.

        Optimizers of other libraries skip no step.
        """
        by_optimizer = self.optimizer.skipped_steps if isinstance(self.optimizer, HyperOptimizer) else 0
        return self.skips.total + by_optimizer

    def digest(self, of_shards: bool | None = None) -> str:
        """A digest of the state dict, as `redistribution.digest`; by default, `checkpoint_shards` says `of_shards`."""
        of_shards = self.config.checkpoint_shards == "each" if of_shards is None else of_shards
        return redistribution.digest(self.state_dict(), self.world, of_shards)

    def checkpoint(self, whole: bool = True) -> Checkpoint:
        """The state dict, and what a resumed run is compared with; if `whole`, the first process gathers all shards."""
        digest, state = self.digest(), self.state_dict()
        if whole:
            state = redistribution.gathered(state, self.world)
        origin = {"config": asdict(self.config), "data": self.task.data.sha256, "device": self.precision.device.type}
        progress = {"seconds": self.seconds, "looked": self.reported, "digest": digest, "processes": self.world.size}
        return Checkpoint(self.step, {**origin, **self.task.sizes(), **progress, "state": state})

    def restore(self, saved: Checkpoint) -> None:
        """Restores what `checkpoint` returned; `mada_lab.checkpoints.compatibility` has found that it fits."""
        state = saved.tree["state"]
        self.peak = self.peak_after(saved.tree)
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.load_state_dict(state["model"])
        self.scaler.load_state_dict(state["scaler"])
        self.batches.restore(state["batches"])
        generators.restore(state["random"], self.precision.device)
        self.skips = Skips(**state["skips"])
        self.train_loss, self.lr = state["train_loss"], state["lr"]
        self.val_loss, self.best_val_loss = state["val_loss"], state["best_val_loss"]
        self.val_accuracy = state.get("val_accuracy")
        self.step, self.seconds, self.reported = saved.step, saved.tree["seconds"], saved.tree["looked"]

    def peak_after(self, tree: dict[str, Any]) -> float:
        """The peak learning rate after restoring the checkpoint `tree`: its own unless `learning_rate` differs."""
        saved = tree["config"].get("learning_rate")
        return self.peak if saved != self.config.learning_rate else tree["state"]["peak"]

    def position(self) -> tuple[dict[str, Tensor], Tensor]:
        """The states of the random generators and of the batches."""
        return generators.state(self.precision.device), self.batches.state()

    def keep_buffers(self) -> None:
        """Copies the buffers before a step: forward passes change the running statistics of batch normalization."""
        self.buffers_before = [x.clone() for x in self.buffers]

    def restore_buffers(self) -> None:
        """Puts the copies of the buffers back."""
        for x, before in zip(self.buffers, self.buffers_before, strict=True):
            x.copy_(before)
