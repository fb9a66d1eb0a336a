"""The learned coefficients in the logs of a Hugging Face `Trainer`."""

from typing import Any

from mada_optim.integrations.logs import expect_hyper_optimizers, flat_coefficients, missing

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise missing("transformers", extra="hf") from error


class MADACallback(TrainerCallback):
    """Adds the coefficients to everything that the trainer logs while it trains, as "mada/beta1" and so on.

        trainer = Trainer(..., optimizers=(AutoMuon(param_groups(model), lr=1e-5), None), callbacks=[MADACallback()])

    With `optimizer_cls_and_kwargs=(AutoMuon, {"params": param_groups(model), "lr": 1e-5})` the Trainer builds it;
    without "params" it makes groups of its own, in which nothing tells hidden matrices from others.

    They reach `trainer.state.log_history`, the progress bar, and the callbacks that come after this one. Trackers named
    in `report_to` come before every callback of the user: for those, `MADACallback().put_first(trainer)`.

    Args:
        prefix: Head of the keys.
    """

    def __init__(self, prefix: str = "mada") -> None:
        self.prefix = prefix

    def put_first(self, trainer: Trainer) -> None:
        """Adds this callback to `trainer`, before those that it has, so that each of them sees the coefficients."""
        trainer.callback_handler.callbacks.insert(0, self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Raises TypeError if the trainer's optimizer has no coefficients."""
        expect_hyper_optimizers([given["optimizer"]])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Adds the coefficients to this entry, for the callbacks that follow and for the history."""
        if given["optimizer"] is None:  # an evaluation before any training
            return
        (optimizer,) = expect_hyper_optimizers([given["optimizer"]])
        coefficients = flat_coefficients(optimizer, self.prefix)
        given["logs"].update(coefficients)
        state.log_history[-1].update(coefficients)
