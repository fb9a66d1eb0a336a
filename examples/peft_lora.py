"""PEFT: LoRA on a small GPT-2 with random weights. AutoMuon trains the adapters alone, and the result is merged.

`param_groups(model)` leaves out frozen weights. Adam moves LoRA's A and B, as in LoRA's usual recipes; `matrix=` makes
hidden matrices of them, which Muon moves. Adapters are fine-tuned, so pass a learning rate.
"""

from typing import Any

import torch
from hf_trainer import Blocks, gpt2
from peft import LoraConfig, get_peft_model

from mada_optim import AutoMuon, param_groups


def train(muon: bool, steps: int = 20) -> dict[str, Any]:
    model = get_peft_model(gpt2(), LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    matrix = {"lora_A.*": True, "lora_B.*": True} if muon else None
    groups = param_groups(model, matrix=matrix)
    opt = AutoMuon(groups, lr=1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    data, losses = Blocks(64).ids, []
    for step in range(steps):
        ids = data[torch.arange(step * 8, step * 8 + 8) % len(data)]
        loss = model(input_ids=ids, labels=ids).loss
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    model.eval()
    logits = model(input_ids=data[:2]).logits.detach()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    merged = model.merge_and_unload()
    return {
        "groups": groups, "opt": opt, "losses": losses, "moved": moved,
        "logits": logits, "merged": merged(input_ids=data[:2]).logits.detach(),
    }  # fmt: skip


def main() -> dict[str, Any]:
    runs = {"Adam": train(muon=False), "Muon": train(muon=True)}
    for name, run in runs.items():
        print(f"A and B by {name}: loss {run['losses'][0]:.3f} -> {run['losses'][-1]:.3f}")
        print(run["groups"])
    return runs


if __name__ == "__main__":
    main()
