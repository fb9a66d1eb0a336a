"""The learned coefficients in the logs of a Hugging Face `Trainer`."""

from typing import Any

from mada_optim.integrations.logs import expect_hyper_optimizers, flat_coefficients, missing, warn_of_shapes_alone

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise missing("transformers", extra="hf") from error


class MADACallback(TrainerCallback):
    """Adds the coefficients to each entry that the trainer logs during training, as "mada/beta1" and so on.

        trainer = Trainer(..., optimizers=(AutoMuon(param_groups(model), lr=1e-5), None), callbacks=[MADACallback()])

    With `optimizer_cls_and_kwargs=(AutoMuon, {"params": param_groups(model), "lr": 1e-5})`, the Trainer builds the
    optimizer. Without "params", it makes its own groups, which don't identify hidden matrices: AutoMuon then guesses
    them from shapes, and this callback warns.

    The coefficients reach `trainer.state.log_history`, the progress bar, and the callbacks after this one. Trackers in
    `report_to` come before all callbacks of the user: for those, call `MADACallback().put_first(trainer)`.

    Args:
        prefix: First part of the keys.
    """

    def __init__(self, prefix: str = "mada") -> None:
        self.prefix = prefix

    def put_first(self, trainer: Trainer) -> None:
        """Adds this callback to `trainer` before its other callbacks, so that all of them get the coefficients."""
        trainer.callback_handler.callbacks.insert(0, self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Raises TypeError if the trainer's optimizer has no coefficients; warns if it guesses hidden matrices."""
        warn_of_shapes_alone(expect_hyper_optimizers([given["optimizer"]]))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Adds the coefficients to the entry, for later callbacks and for the history."""
        if given["optimizer"] is None:  # an evaluation before any training
            return
        (optimizer,) = expect_hyper_optimizers([given["optimizer"]])
        coefficients = flat_coefficients(optimizer, self.prefix)
        given["logs"].update(coefficients)
        state.log_history[-1].update(coefficients)
