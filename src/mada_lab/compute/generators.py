"""The generators that dropout draws from: torch's global one, and the device's."""

import hashlib

import torch
from torch import Tensor


def seed_pass(seed: int, step: int, number: int) -> None:
    """Starts the generators for one forward pass of a step.

    What a pass draws depends on its number in the step, not on the process that computes it: any number of processes
    train with the same dropout.
    """
    digest = hashlib.blake2b(f"{seed} {step} {number}".encode(), digest_size=4).digest()  # what mt19937 takes
    torch.manual_seed(int.from_bytes(digest, "little"))


def state(device: torch.device) -> dict[str, Tensor]:
    """Where the generators stand; each a tensor of bytes on the CPU."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        found["mps"] = torch.mps.get_rng_state()
    return found


def restore(saved: dict[str, Tensor], device: torch.device) -> None:
    """Takes up the generators where `state` found them; that of another kind of device is passed over."""
    torch.set_rng_state(saved["cpu"])
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], device)
    if device.type == "mps" and "mps" in saved:
        torch.mps.set_rng_state(saved["mps"])
