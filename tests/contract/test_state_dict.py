"""Saving, loading, copying. After a load two optimizers are run in lock-step, bit for bit.

Catches: state outside the state dict, a coefficient rounded to a parameter's dtype, a snapshot that changes later,
coefficients that come back as several tensors where they were one.
"""

import copy
import io
import pickle

import pytest
import torch

from mada_optim import MADA, Adam, Adan, AMSGrad, AutoMuon, AVGrad, HyperAdam, HyperSGD, HyperTorch, Lion, Yogi
from tests.problems import everything, fast, give_gradients, learning, parameters, same_bits, train
from tests.representatives import on_one_engine


def adam_of_coefficients(coefficients):
    return torch.optim.Adam(coefficients, lr=1e-3)


def external(make):
    return HyperTorch("all", make=make, start=0)


PLAIN = {cls.__name__: cls for cls in (Adam, AMSGrad, AVGrad, Yogi, Adan, Lion)}
MAKERS = {
    "MADA": learning,
    "released": lambda params: learning(params, rule="mada_released"),
    "AutoMuon": AutoMuon,
    "HyperAdam": lambda params: HyperAdam(params, learn=HyperSGD("all", start=2)),
    "late start": lambda params: learning(params, learn=fast(start=8)),
    "bf16 state": lambda params: learning(params, state_dtype=torch.bfloat16),
    "hyper Adam": lambda params: learning(params, learn=external(adam_of_coefficients)),
    "tower": lambda params: learning(params, learn=external(lambda q: learning(q, learn=fast(lr=1e-4)))),
    "two groups": lambda params: learning([{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.1}]),
    **PLAIN,
}


def saved(opt):
    """Through a file, read as no more than tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def assert_lock_step(name, dtype):
    params = parameters(dtype)
    opt = MAKERS[name](params)
    train(opt, params, range(7))
    twin_params = copy.deepcopy(params)
    twin = MAKERS[name](twin_params)
    twin.load_state_dict(saved(opt))
    assert same_bits(everything(opt), everything(twin))
    for seed in range(100, 108):
        train(opt, params, [seed])
        train(twin, twin_params, [seed])
        assert same_bits(everything(opt), everything(twin)), seed


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in PLAIN])
def test_lock_step_after_a_load(name):
    assert_lock_step(name, torch.float32)


@on_one_engine
@pytest.mark.parametrize("name", PLAIN)
def test_lock_step_after_a_load_where_nothing_is_learned(name):
    assert_lock_step(name, torch.float32)


@on_one_engine
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", MAKERS)
def test_lock_step_after_a_load_in_other_dtypes(name, dtype):
    assert_lock_step(name, dtype)


def test_a_coefficient_near_1_survives_bf16():
    params = parameters(torch.bfloat16)
    opt = HyperAdam(params, betas=(0.9, 0.9995))
    train(opt, params, range(3))
    twin = HyperAdam(params, betas=(0.5, 0.6))
    twin.load_state_dict(saved(opt))
    assert twin.coefficients() == {"beta1": 0.9, "beta2": 0.9995}
    assert twin.state[params[0]]["applied"][2] == 0.9995


def test_coefficients_are_one_tensor_again_after_a_load():
    params = parameters()
    opt = MAKERS["two groups"](params)
    train(opt, params, range(3))
    opt.load_state_dict(saved(opt))
    first, second = opt.param_groups
    assert first["rho"] is second["rho"]
    train(opt, params, range(3, 6))
    assert first["rho"] == opt.coefficients()["rho"] != 0.6


def test_a_snapshot_keeps_its_coefficients():
    params = parameters()
    opt = learning(params)
    train(opt, params, range(3))
    snapshot = opt.state_dict()
    rho = snapshot["param_groups"][0]["rho"].item()
    train(opt, params, range(3, 6))
    assert snapshot["param_groups"][0]["rho"].item() == rho != opt.coefficients()["rho"]


def test_loaded_state_is_a_copy():
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = learning(params), learning(twin_params)
    train(opt, params, range(3))
    twin.load_state_dict(opt.state_dict())
    before = everything(opt)
    train(twin, twin_params, range(3, 6))
    assert same_bits(everything(opt), before)


@on_one_engine
@pytest.mark.parametrize("through", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("learner", [fast(), external(adam_of_coefficients)], ids=["sgd", "tower"])
def test_deepcopy_and_pickle(through, learner):
    params = parameters()
    opt = learning(params, learn=learner)
    train(opt, params, range(3))
    twin = through(opt)
    twin_params = twin.param_groups[0]["params"]
    train(opt, params, range(3, 8))
    train(twin, twin_params, range(3, 8))
    assert same_bits(everything(opt), everything(twin))


@on_one_engine
@pytest.mark.parametrize(
    "other",
    [
        lambda params: HyperAdam(params),
        lambda params: MADA(params, learn=()),
        lambda params: MADA(params, learn=("rho", "c")),
        lambda params: learning([*params[1:], params[0]]),
    ],
    ids=["rule", "learn nothing", "learn less", "shapes"],
)
def test_a_state_of_another_kind_is_refused_and_changes_nothing(other):
    params = parameters()
    opt = learning(params)
    train(opt, params, range(3))
    target_params = copy.deepcopy(params)
    target = other(target_params)
    train(target, target_params, range(2))
    before = everything(target)
    with pytest.raises(ValueError, match="same model, with the same rule and the same `learn`"):
        target.load_state_dict(opt.state_dict())
    assert same_bits(everything(target), before)


def test_a_state_without_the_optimizer_of_the_coefficients_is_refused():
    params = parameters()
    opt = learning(params, learn=external(adam_of_coefficients))
    with pytest.raises(ValueError, match="expected the key 'hyper_optimizer'"):
        opt.load_state_dict(learning(params).state_dict())


def test_the_fake_first_step_of_distributed_checkpointing_is_harmless():
    """torch.distributed.checkpoint makes state by one step with zero gradients and lr 0 on a fresh optimizer."""
    params = parameters()
    before = [p.detach().clone() for p in params]
    opt = learning(params, lr=0.0)
    coefficients = opt.coefficients()
    for p in params:
        p.grad = torch.zeros_like(p)
    opt.step()
    assert same_bits([p.detach() for p in params], before)
    assert opt.coefficients() == coefficients
    assert all(x.isfinite().all() for x in everything(opt))


def test_state_of_parameters_that_never_had_a_gradient():
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = learning(params), learning(twin_params)
    for seed in range(3):
        give_gradients(params, seed)
        params[1].grad = None
        opt.step()
    twin.load_state_dict(saved(opt))
    with torch.no_grad():
        for p, q in zip(params, twin_params, strict=True):
            q.copy_(p)
    train(opt, params, range(3, 6))
    train(twin, twin_params, range(3, 6))
    assert same_bits(everything(opt), everything(twin))


@pytest.mark.parametrize("make", [Adam, MADA])
def test_slots_that_were_saved_in_half_precision_arrive_in_single(make):
    """fp16 holds no squares of small gradients: the average would be lost."""
    params, twins = parameters(), parameters()
    opt, other = make(params), make(twins)
    train(opt, params, range(3))
    halved = copy.deepcopy(opt.state_dict())
    for state in halved["state"].values():
        state.update({k: x.half() for k, x in state.items() if x.ndim and x.dtype is torch.float32 and k != "applied"})
    other.load_state_dict(halved)
    slots = [name for name in opt.rule.slot_names() if name in other.state[twins[0]]]
    assert {other.state[twins[0]][name].dtype for name in slots} <= {torch.float32, torch.float64}
    train(other, twins, range(3, 5))


def test_half_precision_put_into_a_slot_is_refused():
    p = torch.nn.Parameter(torch.ones(3))
    opt = Adam([p])
    train(opt, [p], range(2))
    opt.state[p]["v"] = opt.state[p]["v"].half()
    give_gradients([p], 2)
    with pytest.raises(RuntimeError, match="'v': expected float32, bfloat16 or float64"):
        opt.step()


def test_keys_that_have_become_text_are_refused():
    """As a state that went through JSON has them: they matched no parameter, and training began anew."""
    params = parameters()
    opt = Adam(params)
    train(opt, params, range(2))
    state_dict = opt.state_dict()
    state_dict["state"] = {str(key): x for key, x in state_dict["state"].items()}
    with pytest.raises(ValueError, match="expected the numbers of parameters as keys, got the text '0'"):
        opt.load_state_dict(state_dict)
