"""Lightning's `Trainer`: a module that returns MADA from `configure_optimizers`, a callback that logs the coefficients.

Lightning passes a closure with the loss to `step`. Clipping, precision and accumulation are flags of the Trainer.
With manual optimization the module calls `step` itself. Checkpoints contain the coefficients in both cases. A run that
is resumed at the end of an epoch continues like the whole run.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from digits import accuracy, mlp, train_and_test
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from mada_optim import MADA, HyperSGD, param_groups
from mada_optim.integrations.lightning import MADACallback


class Digits(LightningModule):
    """The small network, its loss and its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> MADA:
        return MADA(param_groups(self), lr=5e-3, learn=HyperSGD("all", start=20))


class ByHand(Digits):
    """The same with manual optimization, as several optimizers need it."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss, opt = super().training_step(batch, index), self.optimizers()
        assert isinstance(opt, LightningOptimizer)
        opt.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(opt.optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        opt.step()
        return loss


def fit(folder: str, epochs: int, checkpoint: str | None = None, kind: type = Digits) -> tuple[Digits, Trainer]:
    module = kind()
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, gradient_clip_val=None if kind is ByHand else 1.0, log_every_n_steps=12,
        logger=CSVLogger(folder), callbacks=[MADACallback()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(train_and_test()[0], 64), ckpt_path=checkpoint)
    return module, trainer


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        module, trainer = fit(folder, epochs=4)
        _, half = fit(folder, epochs=2)
        half.save_checkpoint(f"{folder}/half.ckpt")
        resumed, _ = fit(folder, epochs=4, checkpoint=f"{folder}/half.ckpt")
        assert trainer.log_dir is not None
        _, half = fit(folder, epochs=2, kind=ByHand)
        half.save_checkpoint(f"{folder}/half_by_hand.ckpt")
        by_hand, _ = fit(folder, epochs=4, checkpoint=f"{folder}/half_by_hand.ckpt", kind=ByHand)
        log = Path(trainer.log_dir, "metrics.csv").read_text()
    (opt,) = trainer.optimizers
    assert isinstance(opt, MADA)
    print(log.splitlines()[0], *log.splitlines()[-3:], sep="\n")
    print(f"test accuracy {accuracy(module.net, train_and_test()[1]):.3f}", opt.coefficients())
    return {"module": module, "resumed": resumed, "by_hand": by_hand, "log": log, "trainer": trainer}


if __name__ == "__main__":
    main()
