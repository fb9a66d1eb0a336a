"""The random generators that dropout uses: torch's global one, and the device's."""

import hashlib

import torch
from torch import Tensor


def seed_pass(seed: int, step: int, number: int, device: torch.device) -> None:
    """Seeds the generators for one forward pass, by its number in the step.

    Dropout doesn't depend on the process that computes the pass: it is the same with any number of processes. Only the
    generators in use are seeded. torch.manual_seed seeds those of all kinds of devices: where CUDA isn't used, it keeps
    a call with a traceback for later, every time.
    """
    digest = hashlib.blake2b(f"{seed} {step} {number}".encode(), digest_size=4).digest()  # the size of mt19937's seed
    value = int.from_bytes(digest, "little")
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    if device.type == "mps":
        torch.mps.manual_seed(value)


def state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators, tensors of bytes on the CPU."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore(saved: dict[str, Tensor], device: torch.device) -> None:
    """Restores what `state` returned; the state of a device of another kind is ignored."""
    torch.set_rng_state(saved["cpu"])
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], device)
    if device.type == "mps" and "mps" in saved:
        torch.mps.set_rng_state(saved["mps"])
