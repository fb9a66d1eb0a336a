"""Hugging Face `Trainer`: a small GPT-2 from its config, on bytes of the text that comes with Python; then a resume.

Two ways to pass the optimizer: with `optimizer_cls_and_kwargs=(MADA, {...})`, the Trainer makes groups with and without
weight decay, unless "params" is among the keywords; with `optimizers=(opt, scheduler)`, you make them. AutoMuon needs
the groups of `param_groups(model)`, in either way. The Trainer clips, accumulates and schedules as usual; None asks for
its own scheduler. Checkpoints contain the coefficients, and a resumed run continues bit for bit.
"""

import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from mada_optim import MADA, AutoMuon, HyperSGD, param_groups
from mada_optim.integrations.transformers import MADACallback

BLOCK, STEPS = 64, 30


class Blocks(Dataset[dict[str, Tensor]]):
    """Blocks of bytes, int64 [BLOCK], as the inputs and the labels of a language model."""

    def __init__(self, count: int = 512) -> None:
        text = "".join(topics[name] for name in sorted(topics)).encode()[: count * BLOCK]
        self.ids = torch.tensor(list(text)).reshape(count, BLOCK)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


def trainer(folder: str, model: GPT2LMHeadModel, **optimizer: Any) -> Trainer:
    """A Trainer that saves after half of the steps; `optimizer` is one of the two keywords that pass the optimizer."""
    arguments = TrainingArguments(
        folder, max_steps=STEPS, save_steps=STEPS // 2, logging_steps=10, learning_rate=3e-3, weight_decay=0.1,
        per_device_train_batch_size=8, gradient_accumulation_steps=2, lr_scheduler_type="cosine",
        report_to="none", disable_tqdm=True, use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=Blocks(), callbacks=[MADACallback()], **optimizer)


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, n_positions=BLOCK, vocab_size=256, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


def with_automuon(folder: str) -> Trainer:
    model = gpt2()
    return trainer(folder, model, optimizers=(AutoMuon(param_groups(model), lr=3e-3), None))


def main() -> dict[str, Any]:
    by_class: dict[str, Any] = {"optimizer_cls_and_kwargs": (MADA, {"lr": 3e-3, "learn": HyperSGD("all", start=10)})}
    half = f"checkpoint-{STEPS // 2}"
    with tempfile.TemporaryDirectory() as folder:
        whole, resumed = (trainer(folder, gpt2(), **by_class) for _ in range(2))
        whole.train()
        resumed.train(resume_from_checkpoint=str(Path(folder, half)))
    with tempfile.TemporaryDirectory() as folder:
        yours, yours_resumed = (with_automuon(folder) for _ in range(2))
        yours.train()
        yours_resumed.train(resume_from_checkpoint=str(Path(folder, half)))
    return {"whole": whole, "resumed": resumed, "yours": yours, "yours_resumed": yours_resumed}


if __name__ == "__main__":
    main()
