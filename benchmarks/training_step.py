"""A whole training step with MADA, all six learned, paired with torch's fused AdamW: what a user waits for.

    python benchmarks/training_step.py [--repeats 10] [--device cpu|cuda]

GPT of 10.7M parameters (6 layers, 384 channels), batch 8 x 256 tokens, random ids. Rounds time both in turn.
"""

import argparse
import statistics
import time

import torch

from mada_lab.model.gpt import GPT, GPTConfig
from mada_optim import MADA

CONFIG = GPTConfig(block_size=256, vocab_size=65, n_layer=6, n_head=6, n_embd=384, dropout=0.0, bias=False)


class Trainer:
    """A model, its optimizer, and the seconds of its steps."""

    def __init__(self, fused: bool, device: str) -> None:
        torch.manual_seed(0)
        self.model = GPT(CONFIG).to(device)
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(parameters, fused=True) if fused else MADA(parameters, hyper_start=0)
        self.seconds: list[float] = []

    def step(self, ids: torch.Tensor) -> None:
        """Forward, backward and update, timed."""
        began = time.perf_counter()
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
    arguments = parser.parse_args()

    ids = torch.randint(CONFIG.vocab_size, (8, 256), device=arguments.device)
    trainers = {"AdamW fused": Trainer(True, arguments.device), "MADA": Trainer(False, arguments.device)}
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
