"""Groups of the application's networks, from their modules and from their names.

Catches: a head or an embedding of one of them that is taken for a hidden matrix.
"""

import pytest

from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.model.images import CNN, MLP
from mada_lab.model.resnet import ResNet
from mada_lab.optimizers import catalog
from mada_optim import AutoMuon, param_groups
from mada_optim.matrices import hidden_matrices
from tests.contract.test_param_groups import ends


def gpt(**sizes):
    return GPT(GPTConfig(block_size=8, vocab_size=65, n_head=2, n_embd=16, **sizes))


#: The application's networks, and their weights of two dimensions or more that are not hidden.
APPLICATION = {
    "gpt": (lambda: gpt(n_layer=2), ["wte.weight", "wpe.weight"]),
    "gpt of one block": (lambda: gpt(n_layer=1, bias=False), ["wte.weight", "wpe.weight"]),
    "cnn": (lambda: CNN(3, (8, 8), 10, 8), ["head.weight"]),
    "cnn on one channel": (lambda: CNN(1, (8, 8), 10, 16), ["head.weight"]),
    "resnet": (lambda: ResNet(3, 10, 8, 16), ["head.weight"]),
    "resnet 20": (lambda: ResNet(3, 10, 20, 16), ["head.weight"]),
    "mlp": (lambda: MLP((8, 8, 1), (32, 32), 10), ["head.weight"]),
    "regression": (lambda: MLP((8, 8, 1), (), 10), ["head.weight"]),
}


@pytest.mark.parametrize(("make", "expected"), APPLICATION.values(), ids=APPLICATION)
def test_the_applications_networks(make, expected):
    """By modules and by names alike, and in two groups whose order its checkpoints rely on."""
    model = make()
    assert ends(model) == expected
    assert all(x.decays == (x.parameter.ndim >= 2) for x in param_groups(model).weights)
    groups = catalog.decay_groups(model, 0.1)
    named = list(model.named_parameters())
    for group, inside in zip(groups, (True, False), strict=True) if len(groups) == 2 else ():
        assert [name for name, _ in group["params"]] == [name for name, p in named if (p.ndim >= 2) == inside]
        assert group["weight_decay"] == (0.1 if inside else 0.0)
        assert "matrix" not in group
    opt = AutoMuon(groups)
    by_name = [
        name
        for group in opt.param_groups
        for name, p, hidden in zip(group["param_names"], group["params"], group[hidden_matrices.FLAGS], strict=True)
        if p.ndim >= 2 and not hidden
    ]
    assert by_name == expected
