"""A whole training step with MADA, all six learned, paired with torch's fused AdamW: what a user waits for.

    python benchmarks/training_step.py [--repeats 10] [--device cpu|cuda] [--model 10.7M|124M] [--bf16]

GPT of 10.7M parameters (6 layers, 384 channels), batch 8 x 256 tokens, or GPT-2 small, 8 x 1,024, with random ids;
--bf16 is autocast. Rounds time both in turn.
"""

import argparse
import statistics
import time

import torch

from mada_lab.model.gpt import GPT, GPTConfig
from mada_optim import MADA

CONFIGS = {
    "10.7M": GPTConfig(block_size=256, vocab_size=65, n_layer=6, n_head=6, n_embd=384, dropout=0.0, bias=False),
    "124M": GPTConfig(dropout=0.0, bias=False),
}


class Trainer:
    """A model, its optimizer, and the seconds of its steps."""

    def __init__(self, fused: bool, config: GPTConfig, device: str, bf16: bool) -> None:
        torch.manual_seed(0)
        self.model, self.bf16 = GPT(config).to(device), bf16
        parameters = self.model.parameters()
        self.optimizer = (
            torch.optim.AdamW(parameters, fused=True) if fused else MADA(parameters, learn="all", hyper_start=0)
        )
        self.seconds: list[float] = []

    def step(self, ids: torch.Tensor) -> None:
        """Forward, backward and update, timed."""
        began = time.perf_counter()
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.bf16):
            _, loss = self.model(ids, ids)
        assert loss is not None
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if ids.is_cuda:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - began)


def main() -> None:
    """Prints the medians and the ratio within rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=CONFIGS, default="10.7M")
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()

    config = CONFIGS[arguments.model]
    ids = torch.randint(config.vocab_size, (8, config.block_size), device=arguments.device)
    what = (config, arguments.device, arguments.bf16)
    trainers = {"AdamW fused": Trainer(True, *what), "MADA": Trainer(False, *what)}
    for round_ in range(arguments.repeats + 2):
        for trainer in trainers.values():
            trainer.step(ids)
        if round_ == 1:  # two rounds to warm up
            for trainer in trainers.values():
                trainer.seconds.clear()

    base, ours = (trainer.seconds for trainer in trainers.values())
    ratios = [a / b for a, b in zip(ours, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(f"{trainers['MADA'].model.parameter_count():,} parameters, torch {torch.__version__}, {arguments.device}")
    for name, trainer in trainers.items():
        print(f"{name:12} {statistics.median(trainer.seconds) * 1e3:9.1f} ms per training step")
    print(f"MADA / AdamW fused: {middle:.3f} [{low:.3f}, {high:.3f}], {arguments.repeats} paired rounds")


if __name__ == "__main__":
    main()
