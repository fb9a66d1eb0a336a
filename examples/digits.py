"""Data and model of the examples: scikit-learn's handwritten digits (real scans, which it ships), a small network."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


def train_and_test() -> tuple[TensorDataset, TensorDataset]:
    """1500 training and 297 test images: float32 [1, 8, 8] in [0, 1], with labels 0..9."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    return TensorDataset(x[:1500], y[:1500]), TensorDataset(x[1500:], y[1500:])


def shuffled(data: TensorDataset, batch_size: int = 64) -> DataLoader[tuple[Tensor, ...]]:
    """Batches in a new order each epoch, the same in each run."""
    return DataLoader(data, batch_size, shuffle=True, generator=torch.Generator().manual_seed(0))


def mlp() -> torch.nn.Module:
    """A small network for the digits, with the same initial weights at each call."""
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)]
    return torch.nn.Sequential(*layers)


@torch.no_grad()
def accuracy(model: torch.nn.Module, data: TensorDataset) -> float:
    """The fraction of images that `model` classifies correctly."""
    x, y = data.tensors
    model.eval()
    right: float = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    return right
