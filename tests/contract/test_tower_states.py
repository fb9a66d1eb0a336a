"""States of optimizers that learn coefficients: what `load_state_dict` takes for them.

Catches: a state of another optimizer that shows at a later step, a load that fails when half is done, a state that two
optimizers share, a state of version 0.1.0 that can't be loaded any more.
"""

import copy

import pytest
import torch

from mada_optim import HyperAdam, HyperTorch
from tests.problems import everything, learning, parameters, same_bits, train
from tests.representatives import on_one_engine
from tests.torch_checks.problems import alike

pytestmark = on_one_engine

MAKES = {
    "Adam": lambda q: torch.optim.Adam(q, lr=1e-2),
    "AMSGrad": lambda q: torch.optim.Adam(q, lr=1e-2, amsgrad=True),
    "NAdam": lambda q: torch.optim.NAdam(q, lr=1e-2),
    "SGD": lambda q: torch.optim.SGD(q, lr=1e-2),
    "SGD with momentum": lambda q: torch.optim.SGD(q, lr=1e-2, momentum=0.5),
    "ours": lambda q: HyperAdam(q, lr=1e-2),
    "ours on ours": lambda q: HyperAdam(q, learn=HyperTorch("beta1", make=lambda r: HyperAdam(r))),
}
#: Of one class, with other options: those that were saved are loaded, as torch does it.
ALIKE = [{"Adam", "AMSGrad"}, {"SGD", "SGD with momentum"}]
#: A state that has all of the other's.
MORE = [("NAdam", "Adam"), ("NAdam", "AMSGrad")]


def made_by(name, scope="global"):
    params = parameters()
    opt = learning(params, learn=HyperTorch("all", make=MAKES[name], start=2, scope=scope))
    train(opt, params, range(5))
    return opt, params


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("name", MAKES)
def test_lock_step_after_a_load_and_nothing_is_shared(name, scope):
    opt, params = made_by(name, scope)
    twin, twins = made_by(name, scope)
    train(twin, twins, range(50, 52))
    with torch.no_grad():
        torch._foreach_copy_(twins, params)
    twin.load_state_dict(opt.state_dict())
    before = everything(opt)
    train(twin, twins, range(5, 9))
    assert same_bits(everything(opt), before)
    train(opt, params, range(5, 9))
    assert same_bits(everything(opt), everything(twin))


@pytest.mark.parametrize("target", MAKES)
@pytest.mark.parametrize("source", MAKES)
def test_a_state_of_another_optimizer_is_refused_and_changes_nothing(source, target):
    if source == target or {source, target} in ALIKE or (source, target) in MORE:
        return
    opt, _ = made_by(source)
    twin, twins = made_by(target)
    before, above = everything(twin), copy.deepcopy(twin.state_dict()["hyper_optimizer"])
    with pytest.raises(ValueError, match=r"^state dict, '(hyper_optimizer|state)'|^state dict, parameter group"):
        twin.load_state_dict(opt.state_dict())
    assert same_bits(everything(twin), before)
    assert alike(twin.state_dict()["hyper_optimizer"], above)
    train(twin, twins, range(5, 7))


@pytest.mark.parametrize("name", ["Adam", "NAdam", "SGD with momentum"])
def test_a_state_of_0_1_0_loads(name):
    """It had coefficients without a dimension, a velocity beside any optimizer, and no names."""
    opt, params = made_by(name)
    state = copy.deepcopy(opt.state_dict())
    for group in state["param_groups"]:
        del group["learned"]
        group["hyper_velocity"] = torch.zeros(6, dtype=torch.float64)
    for own in state["hyper_optimizer"]["state"].values():
        own.update({key: x.reshape(()) for key, x in own.items() if isinstance(x, torch.Tensor)})
    twin, twins = made_by(name)
    with torch.no_grad():
        torch._foreach_copy_(twins, params)
    twin.load_state_dict(state)
    assert "hyper_velocity" not in twin.param_groups[0]
    train(opt, params, range(5, 9))
    train(twin, twins, range(5, 9))
    assert same_bits(everything(opt), everything(twin))
