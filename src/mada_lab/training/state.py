"""All that moves while a run trains: built from the configuration, put into a checkpoint, and taken up from one."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from mada_lab.checkpoints import redistribution
from mada_lab.checkpoints.checkpoint import Checkpoint
from mada_lab.compute import batch_norm, finite, generators
from mada_lab.compute import device as precision
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

Position = tuple[dict[str, Tensor], Tensor]


@dataclass
class Session:
    """A run between two steps.

    Attributes:
        step: Optimizer steps done, those that were skipped included.
        looked: Whether the evaluation and the row that are due at this step are done.
        seconds: Time that all of it took, evaluations included.
        skips: How many steps were skipped, as their loss or gradient was not finite.
        told_skips: Whether a warning has told of skipped steps.
        train_loss: The loss of the last step; None before the first.
        peak: The peak learning rate of the schedule: what stood in the optimizer's groups when it was made.
        lr: The learning rate of the last step; 0 before the first.
        val_loss: The last validation loss, in nats per token or image; None before the first.
        best_val_loss: The lowest one.
        val_accuracy: The last accuracy on the validation set; None where it has none.
        kept: The buffers as they were before the gradient of this step.
        world: The processes that share the work.
        pace: The steps since the last row.
        flops: Operations of a step, over all processes; None where they aren't counted.
        peak_flops: What the device can do per second; None where nobody can tell.
    """

    config: RunConfig
    task: Task
    precision: Precision
    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    batches: Batches
    step: int = 0
    looked: bool = False
    seconds: float = 0.0
    skips: Skips = field(default_factory=Skips)
    told_skips: bool = False
    train_loss: float | None = None
    peak: float = 0.0
    lr: float = 0.0
    val_loss: float | None = None
    best_val_loss: float | None = None
    val_accuracy: float | None = None
    kept: list[Tensor] = field(default_factory=list)
    world: World = ALONE
    pace: Pace = field(default_factory=Pace)
    flops: float | None = None
    peak_flops: float | None = None

    @classmethod
    def start(cls, config: RunConfig, data: Data) -> "Session":
        """A session at step 0: the weights of `init_from`, a fresh optimizer, the first batch ahead. Seeds torch.

        Raises:
            ConfigError: The configuration can't be run here.
        """
        place = precision.choose(config)
        world = distributed.current(place.device)
        torch.manual_seed(config.seed)
        task = choose(config, data)
        model = task.model().to(place.device)
        batch_norm.share(model, world)
        flops = task.flops(model)
        distributed.shard(model, task.blocks(model), config.parallel, world)
        scaler = torch.amp.GradScaler(place.device.type, enabled=place.dtype == torch.float16)
        optimizer, batches = catalog.build(model, config), task.batches(world)
        peak = catalog.peak(optimizer)
        lr_schedule.require_fall(config, peak)
        speeds = {"flops": flops, "peak_flops": peak_flops(place.device, config.peak_flops)}
        return cls(task.config, task, place, model, optimizer, scaler, batches, peak=peak, world=world, **speeds)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.out_dir)

    @property
    def passes(self) -> int:
        """Forward passes of a step on this process, of all but the first step."""
        return self.config.gradient_accumulation_steps // self.world.size

    @property
    def passes_done(self) -> int:
        """Forward passes of all steps so far, of all processes together."""
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
        """Whether each process clips a gradient of its own."""
        return self.config.grad_clip_of == "each" and self.world.size > 1

    def coefficients(self) -> dict[str, float]:
        """The optimizer's coefficients; none for an optimizer that has none to learn."""
        return self.optimizer.coefficients() if isinstance(self.optimizer, HyperOptimizer) else {}

    def manifest(self) -> dict[str, Any]:
        """What is being run, for the record."""
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
        """What all processes must have in common."""
        return {
            "configuration": {key: x for key, x in asdict(self.config).items() if key not in ("out_dir", "data_dir")},
            "data": self.task.data.sha256,
            "versions": environment.versions(),
            "code": environment.source_digest() if self.world.size > 1 else "",
        }

    def state(self) -> dict[str, Any]:
        """All that decides how training goes on; its tensors are the live ones, or this process's shards."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batches": self.batches.state(),
            "random": generators.state(self.precision.device),
            "skips": {**asdict(self.skips), "total": finite.skipped_steps(self.skips, self.optimizer)},
            "train_loss": self.train_loss,
            "peak": self.peak,
            "lr": self.lr,
            "val_loss": self.val_loss,
            "best_val_loss": self.best_val_loss,
            **({} if self.val_accuracy is None else {"val_accuracy": self.val_accuracy}),
        }

    def digest(self, of_shards: bool | None = None) -> str:
        """Digits that any bit of any tensor in the state changes, of the kind that `checkpoint_shards` asks for.

        On other processes than the first they may be "".
        """
        of_shards = self.config.checkpoint_shards == "each" if of_shards is None else of_shards
        return redistribution.digest(self.state(), self.world, of_shards)

    def checkpoint(self, whole: bool = True) -> Checkpoint:
        """What is saved: the state, and what a resumed run compares itself with.

        If `whole`, it is gathered on the first process; else each has its share.
        """
        digest, state = self.digest(), self.state()
        if whole:
            state = redistribution.gathered(state, self.world)
        origin = {"config": asdict(self.config), "data": self.task.data.sha256, "device": self.precision.device.type}
        progress = {"seconds": self.seconds, "looked": self.looked, "digest": digest, "processes": self.world.size}
        return Checkpoint(self.step, {**origin, **self.task.sizes(), **progress, "state": state})

    def restore(self, saved: Checkpoint) -> None:
        """Takes up what `checkpoint` gave, which must fit (`mada_lab.checkpoints.compatibility`)."""
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
        self.step, self.seconds, self.looked = saved.step, saved.tree["seconds"], saved.tree["looked"]

    def peak_after(self, tree: dict[str, Any]) -> float:
        """The peak learning rate once the checkpoint `tree` is taken up: the saved one, if it is to be as it was."""
        saved = tree["config"].get("learning_rate")
        return self.peak if saved != self.config.learning_rate else tree["state"]["peak"]

    def position(self) -> Position:
        """Where random numbers and data stand."""
        return generators.state(self.precision.device), self.batches.state()

    def rewind(self, position: Position) -> None:
        """Gives up a step that began at `position` and has moved nothing yet."""
        self.optimizer.zero_grad()
        generators.restore(position[0], self.precision.device)
        self.batches.restore(position[1])
        self.restore_buffers()

    def keep_buffers(self) -> None:
        """Before a step: a forward pass moves the running statistics of batch normalisation."""
        self.kept = [x.clone() for x in self.model.buffers()]

    def share_buffers(self) -> None:
        """After the forward passes of a step: running statistics are those of all processes."""
        batch_norm.merge(self.model, self.kept, self.world)

    def restore_buffers(self) -> None:
        """After a step that moved nothing else."""
        for x, kept in zip(self.model.buffers(), self.kept, strict=True):
            x.copy_(kept)
