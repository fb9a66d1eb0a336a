"""All that moves while a run trains: built from the configuration, put into a checkpoint, and taken up from one."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from mada_lab import checkpoint, environment, optimizers, precision
from mada_lab.checkpoint import Checkpoint
from mada_lab.config import TrainConfig
from mada_lab.data.batches import Batches
from mada_lab.data.corpus import Corpus
from mada_lab.errors import CheckpointError
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.precision import Precision
from mada_optim import HyperOptimizer

MODEL_KEYS = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")
#: What a resumed run may not change; its checkpoint wouldn't fit, or its data would be others.
FIXED_KEYS = (*MODEL_KEYS, "dataset", "optimizer", "seed", "batch_size", "gradient_accumulation_steps")


@dataclass
class Session:
    """A run between two steps.

    Attributes:
        step: Optimizer steps done.
        seconds: Time they took, evaluations included.
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
    seconds: float = 0.0
    val_loss: float | None = None
    best_val_loss: float | None = None

    @classmethod
    def start(cls, config: TrainConfig, corpus: Corpus) -> "Session":
        """A session at step 0: fresh weights, a fresh optimizer, the first batch ahead. Seeds torch."""
        place = precision.choose(config)
        torch.manual_seed(config.seed)
        sizes = {key: getattr(config, key) for key in MODEL_KEYS}
        model = GPT(GPTConfig(vocab_size=corpus.vocabulary_size, **sizes)).to(place.device)
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

    def save(self) -> None:
        """Writes a checkpoint into the run's folder."""
        tree = {
            "config": asdict(self.config),
            "data": self.corpus.sha256,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batches": self.batches.state(),
            "random": checkpoint.random_state(),
            "seconds": self.seconds,
            "val_loss": self.val_loss,
            "best_val_loss": self.best_val_loss,
        }
        checkpoint.save(self.folder, Checkpoint(self.step, tree), self.config.keep_checkpoints)

    def resume(self) -> None:
        """Takes up the newest checkpoint in the run's folder.

        Raises:
            CheckpointError: There is none, or it is of another run.
        """
        saved = checkpoint.load_newest(self.folder)
        tree = saved.tree
        self._require_same_run(tree)
        try:
            self.model.load_state_dict(tree["model"])
            self.optimizer.load_state_dict(tree["optimizer"])
            self.scaler.load_state_dict(tree["scaler"])
            self.batches.restore(tree["batches"])
            checkpoint.restore_random_state(tree["random"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint, in {self.folder}, of step {saved.step}: expected the state of this run, "
                f"got {' '.join(str(error).split())}; resume with the configuration that wrote it"
            ) from error
        self.step, self.seconds = saved.step, tree["seconds"]
        self.val_loss, self.best_val_loss = tree["val_loss"], tree["best_val_loss"]

    def _require_same_run(self, tree: dict[str, Any]) -> None:
        for key in FIXED_KEYS:
            ours, theirs = getattr(self.config, key), tree["config"].get(key)
            if ours != theirs:
                raise CheckpointError(
                    f"checkpoint, in {self.folder}, key {key}: expected {ours}, got {theirs}; "
                    f"resume with --{key}={theirs}, or start afresh in another out_dir"
                )
        if tree["data"] != self.corpus.sha256:
            raise CheckpointError(
                f"checkpoint, in {self.folder}: expected the data that the run started with, got other content in "
                f"{self.corpus.folder}; restore that data set, or start afresh in another out_dir"
            )
