"""All that moves while a run trains: built from the configuration, put into a checkpoint, and taken up from one."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from mada_lab import environment, initial, optimizers, packing, precision, randomness
from mada_lab.checkpoint import Checkpoint
from mada_lab.config import TrainConfig
from mada_lab.data.batches import Batches
from mada_lab.data.corpus import Corpus
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.numerics import Skips
from mada_lab.precision import Precision
from mada_optim import HyperOptimizer

MODEL_KEYS = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")

Position = tuple[dict[str, Tensor], Tensor]


def build_model(config: TrainConfig, vocabulary_size: int) -> GPT:
    """The network that `config` describes, with fresh weights."""
    return GPT(GPTConfig(vocab_size=vocabulary_size, **{key: getattr(config, key) for key in MODEL_KEYS}))


@dataclass
class Session:
    """A run between two steps.

    Attributes:
        step: Optimizer steps done, those that were skipped included.
        looked: Whether the evaluation and the row that are due at this step are done.
        seconds: Time that all of it took, evaluations included.
        skips: How many steps were skipped, as their loss or gradient was not finite.
        train_loss: The loss of the last step; None before the first.
        lr: The learning rate of the last step; 0 before the first.
        val_loss: The last validation loss, in nats per token; None before the first.
        best_val_loss: The lowest one.
    """

    config: TrainConfig
    corpus: Corpus
    precision: Precision
    model: GPT
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    batches: Batches
    step: int = 0
    looked: bool = False
    seconds: float = 0.0
    skips: Skips = field(default_factory=Skips)
    train_loss: float | None = None
    lr: float = 0.0
    val_loss: float | None = None
    best_val_loss: float | None = None

    @classmethod
    def start(cls, config: TrainConfig, corpus: Corpus) -> "Session":
        """A session at step 0: the weights of `init_from`, a fresh optimizer, the first batch ahead. Seeds torch."""
        place = precision.choose(config)
        trained = initial.find(config.init_from, corpus.meta.vocabulary)
        config = config if trained is None else initial.adopt(config, trained.config)
        torch.manual_seed(config.seed)
        model = build_model(config, corpus.vocabulary_size)
        if trained is not None:
            initial.put(trained, model)
        model.to(place.device)
        scaler = torch.amp.GradScaler(place.device.type, enabled=place.dtype == torch.float16)
        batches = Batches(corpus.train, config.block_size, config.batch_size, config.seed)
        return cls(config, corpus, place, model, optimizers.build(model, config), scaler, batches)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.out_dir)

    def coefficients(self) -> dict[str, float]:
        """The optimizer's coefficients; none for an optimizer that has none to learn."""
        return self.optimizer.coefficients() if isinstance(self.optimizer, HyperOptimizer) else {}

    def manifest(self) -> dict[str, Any]:
        """What is being run, for the record."""
        return {
            "config": asdict(self.config),
            "optimizer": self.config.optimizer,
            "initial_coefficients": self.coefficients(),
            "versions": environment.versions(),
            "commit": environment.commit(),
            "seed": self.config.seed,
            "data": {"name": self.corpus.name, "sha256": self.corpus.sha256},
            "model": {"parameters": self.model.parameter_count()},
        }

    def state(self) -> dict[str, Any]:
        """All that decides how training goes on; its tensors are the live ones."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batches": self.batches.state(),
            "random": randomness.state(self.precision.device),
            "skips": asdict(self.skips),
            "train_loss": self.train_loss,
            "lr": self.lr,
            "val_loss": self.val_loss,
            "best_val_loss": self.best_val_loss,
        }

    def digest(self) -> str:
        """16 digits that any bit of any tensor in the state changes."""
        return packing.digest(self.state())

    def checkpoint(self) -> Checkpoint:
        """What is saved: the state, and what a resumed run compares itself with."""
        state = self.state()
        origin = {"config": asdict(self.config), "data": self.corpus.sha256, "device": self.precision.device.type}
        sizes = {"vocabulary": self.corpus.vocabulary_size, "tokenizer": asdict(self.corpus.meta.vocabulary)}
        progress = {"seconds": self.seconds, "looked": self.looked, "digest": packing.digest(state)}
        return Checkpoint(self.step, {**origin, **sizes, **progress, "state": state})

    def restore(self, saved: Checkpoint) -> None:
        """Takes up what `checkpoint` gave, which must fit (`mada_lab.structure`)."""
        state = saved.tree["state"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.load_state_dict(state["model"])
        self.scaler.load_state_dict(state["scaler"])
        self.batches.restore(state["batches"])
        randomness.restore(state["random"], self.precision.device)
        self.skips = Skips(**state["skips"])
        self.train_loss, self.lr = state["train_loss"], state["lr"]
        self.val_loss, self.best_val_loss = state["val_loss"], state["best_val_loss"]
        self.step, self.seconds, self.looked = saved.step, saved.tree["seconds"], saved.tree["looked"]

    def position(self) -> Position:
        """Where random numbers and data stand."""
        return randomness.state(self.precision.device), self.batches.state()

    def rewind(self, position: Position) -> None:
        """Gives up a step that began at `position` and has moved nothing yet."""
        self.optimizer.zero_grad()
        randomness.restore(position[0], self.precision.device)
        self.batches.restore(position[1])
