"""The learned coefficients in the logs of a Lightning `Trainer`."""

from typing import Any

from mada_optim.integrations.logs import expect_hyper_optimizers, flat_coefficients, missing, warn_of_shapes_alone

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise missing("lightning", extra="lightning") from error


class MADACallback(Callback):
    """Logs the coefficients as "mada/beta1" and so on, when the trainer logs (`log_every_n_steps`).

        trainer = Trainer(..., callbacks=[MADACallback()])

    In the module, `configure_optimizers` returns `AutoMuon(param_groups(self))`.

    Like the module's own metrics, they go to every logger and to `trainer.callback_metrics`. The keys of a second
    optimizer of this library begin with "mada-1", those of a third with "mada-2".

    Args:
        prefix: First part of the keys.
    """

    def __init__(self, prefix: str = "mada") -> None:
        self.prefix = prefix

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises TypeError if no optimizer of the trainer has coefficients; warns if one guesses hidden matrices."""
        warn_of_shapes_alone(expect_hyper_optimizers(trainer.optimizers))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Logs the coefficients after the step, at the interval of the trainer's own log."""
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]  # set by its constructor
            return
        for i, optimizer in enumerate(expect_hyper_optimizers(trainer.optimizers)):
            prefix = f"{self.prefix}-{i}" if i else self.prefix
            pl_module.log_dict(flat_coefficients(optimizer, prefix), batch_size=1)
