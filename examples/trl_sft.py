"""TRL's `SFTTrainer` with AutoMuon: a small GPT-2 with random weights, a data set and a tokenizer made in memory."""

import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from mada_optim import AutoMuon, param_groups
from mada_optim.integrations.transformers import MADACallback

WORDS = ["<pad>", "<eos>", "the", "rate", "is", "learned", "while", "it", "trains"]


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>")


def main(steps: int = 20) -> SFTTrainer:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=32, n_positions=32, vocab_size=len(WORDS), bos_token_id=1, eos_token_id=1
    )
    model = GPT2LMHeadModel(config)
    data = Dataset.from_dict({"text": ["the rate is learned while it trains"] * 64})
    opt = AutoMuon(param_groups(model), lr=1e-2)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder, max_steps=steps, per_device_train_batch_size=4, max_length=16, logging_steps=5, save_strategy="no",
            bf16=False, use_cpu=True, dataloader_pin_memory=False, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = SFTTrainer(
            model,
            arguments,
            train_dataset=data,
            processing_class=tokenizer(),
            optimizers=(opt, None),
            callbacks=[MADACallback()],
        )
        trainer.train()
    return trainer


if __name__ == "__main__":
    main()
