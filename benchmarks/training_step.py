"""A whole training step with MADA and AutoMuon, paired with torch's fused AdamW: what a user waits for.

    python benchmarks/training_step.py [--repeats 10] [--device cpu|cuda] [--model 10.7M|124M] [--bf16]
                                       [--json FILE]

GPT of 10.7M parameters (6 layers, 384 channels), batch 8 x 256 tokens, or GPT-2 small, 8 x 1,024, with random ids;
--bf16 is autocast. Rounds time all in turn: AdamW, torch's Muon, MADA with its six coefficients learned, and AutoMuon.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.optimizers.baselines import muon, muon_groups
from mada_optim import MADA, AutoMuon, HyperSGD, LearnedLR

CONFIGS = {
    "tiny": GPTConfig(block_size=8, vocab_size=16, n_layer=1, n_head=1, n_embd=16, dropout=0.0, bias=False),
    "10.7M": GPTConfig(block_size=256, vocab_size=65, n_layer=6, n_head=6, n_embd=384, dropout=0.0, bias=False),
    "124M": GPTConfig(dropout=0.0, bias=False),
}


BASELINE = "AdamW fused"
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    BASELINE: lambda model: torch.optim.AdamW(model.parameters(), fused=True),
    "torch Muon and AdamW": lambda model: muon(muon_groups(model.named_parameters()), {"lr": 1e-3, "fused": True}),
    "MADA, all six learned": lambda model: MADA(model.parameters(), learn=HyperSGD("all", start=0)),
    "AutoMuon": lambda model: AutoMuon(model.named_parameters(), learn=LearnedLR(start=0)),
}


class Trainer:
    """A model, its optimizer, and the seconds of its steps."""

    def __init__(self, optimizer: str, config: GPTConfig, device: str, bf16: bool) -> None:
        torch.manual_seed(0)
        self.model, self.bf16 = GPT(config).to(device), bf16
        self.optimizer = OPTIMIZERS[optimizer](self.model)
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
    parser.add_argument("--json", type=Path, help="writes the rows to this file")
    arguments = parser.parse_args()

    config = CONFIGS[arguments.model]
    ids = torch.randint(config.vocab_size, (8, config.block_size), device=arguments.device)
    what = (config, arguments.device, arguments.bf16)
    trainers = {name: Trainer(name, *what) for name in OPTIMIZERS}
    for round_ in range(arguments.repeats + 2):
        for trainer in trainers.values():
            trainer.step(ids)
        if round_ == 1:  # two rounds to warm up
            for trainer in trainers.values():
                trainer.seconds.clear()

    base = trainers[BASELINE]
    print(f"{base.model.parameter_count():,} parameters, torch {torch.__version__}, {arguments.device}")
    print(f"over {BASELINE}, median [quartiles] of {arguments.repeats} paired rounds:")
    rows = []
    for name, trainer in trainers.items():
        ratios = [a / b for a, b in zip(trainer.seconds, base.seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        ms = statistics.median(trainer.seconds) * 1e3
        print(f"{name:22} {ms:9.1f} ms  {middle:.3f} [{low:.3f}, {high:.3f}]")
        rows.append({"optimizer": name, "ms": ms, f"x {BASELINE}": [low, middle, high]})
    if arguments.json:
        arguments.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
