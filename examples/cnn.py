"""A convolutional network of your own: batch norm, dropout, and weight decay on the weights alone.

`param_groups` makes three groups from the modules: hidden matrices and filters, the output layer, and biases and norms,
which have no weight decay; `print` shows them. All groups share the learned factor on lr (scope="global", the default).
Options that are not learned, such as weight_decay, are those of each group.
"""

from typing import Any

import torch
from digits import accuracy, shuffled, train_and_test
from torch import Tensor, nn

from mada_optim import AutoMuon, param_groups


class CNN(nn.Module):
    """Two blocks of convolution, norm and ReLU; images [n, 1, 8, 8] to logits [n, 10]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *self.block(1, width), nn.MaxPool2d(2), *self.block(width, 2 * width), nn.AdaptiveAvgPool2d(2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * width, 10))

    @staticmethod
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def main(epochs: int = 5) -> dict[str, Any]:
    torch.manual_seed(0)
    train, test = train_and_test()
    model = CNN()
    groups = param_groups(model, weight_decay=0.05)
    print(groups)
    opt = AutoMuon(groups)
    start = opt.coefficients()

    batches, losses = shuffled(train), []
    for epoch in range(epochs):
        for x, y in batches:
            loss = nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {losses[-1]:.4f}, test accuracy {accuracy(model, test):.3f}")
    print("coefficients", opt.coefficients())
    return {"losses": losses, "start": start, "coefficients": opt.coefficients(), "accuracy": accuracy(model, test)}


if __name__ == "__main__":
    main()
