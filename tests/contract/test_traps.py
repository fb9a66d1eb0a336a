"""Traps of the libraries around an optimizer: what PyTorch, its checkpoints and its wrappers do to one.

| trap | test |
|---|---|
| load_state_dict rounds state to the parameter's dtype: .9995 becomes 1 | test_coefficients_are_wide_and_live_in_the_groups; test_state_dict: test_a_coefficient_near_1_survives_bf16 |
| a model is cast, or its parameters are swapped, after the optimizer was made | test_a_model_cast_after_the_optimizer_was_made, test_parameters_may_be_swapped_before_the_first_step |
| a key of `state` that is no parameter breaks distributed checkpoints; state made early breaks Accelerate and FSDP2 | test_state_is_lazy_and_keyed_by_parameters |
| distributed checkpoints step once with zero gradients and lr 0 to make state | test_distributed_checkpoint_round_trip; test_state_dict: test_the_fake_first_step_of_distributed_checkpointing_is_harmless |
| coefficients shared by groups come back as copies, one per group | test_distributed_checkpoint_round_trip, test_copies_share_among_their_groups; test_state_dict: test_coefficients_are_one_tensor_again_after_a_load |
| groups with and without decay learn apart | test_groups_learn_as_one |
| a snapshot's tensors are the live ones | test_state_dict: test_a_snapshot_keeps_its_coefficients |
| what param_groups hold is not moved to the parameters' device by a load | test_loaded_coefficients_are_at_home_with_their_parameters; gpu: test_a_state_saved_on_cuda_loads_on_the_cpu_and_back |
| the previous gradient is a reference to p.grad, which is zeroed or overwritten | test_gradients_overwritten_in_place, test_ddp_with_gradients_that_view_its_buckets; test_firewall: test_the_previous_gradient_is_a_copy |
| clipping and scaling change the hypergradient | test_a_scaled_gradient_scales_its_hypergradient, test_grad_scaler_changes_nothing_but_overflows |
| some gradients are None in some steps | test_parameters: test_a_parameter_without_gradient_sits_the_step_out and those after it |
| an overflow under GradScaler still moves something | test_grad_scaler_changes_nothing_but_overflows |
| wrappers make a class of the optimizer's and their own, or hold it as `.optimizer` | tests/examples |
| hypergradients are summed over too many ranks | tests/engine: test_reduce_group |
| a step reads a value on the host | tests/engine: test_cost |
"""  # noqa: E501  # a table

import copy
import itertools
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict as dcp_state
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler

from mada_optim import MADA, AutoMuon, HyperTorch, LearnedLR
from mada_optim.rules import RULES
from tests.problems import everything, give_gradients, learning, parameters, same_bits, train
from tests.representatives import on_one_engine

NAMES = RULES["mada"].coefficient_names()


def network():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def decay_and_no_decay(model, decay=0.1):
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]


def fit(model, opt, seeds, scaler=None):
    """Steps on a regression whose batches depend on the seeds alone."""
    for seed in seeds:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        opt.zero_grad()
        loss = (model(x) - x[:, :2] ** 2).pow(2).mean()
        if scaler is None:
            loss.backward()
            opt.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()


def shared(opt):
    """Whether each learned coefficient is one tensor for all groups."""
    first, *others = opt.param_groups
    return all(group[q] is first[q] for group in others for q in opt.learned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_coefficients_are_wide_and_live_in_the_groups(dtype):
    params = parameters(dtype)
    opt = learning([{"params": params[:1]}, {"params": params[1:]}])
    train(opt, params, range(3))
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    for group in opt.param_groups:
        for name in NAMES:
            assert group[name].ndim == 0
            assert torch.finfo(group[name].dtype).bits >= 32
    assert not {name for state in opt.state.values() for name in state} & set(NAMES)


def test_a_model_cast_after_the_optimizer_was_made():
    """As with torch.optim, a cast before the first step is as good as one before the optimizer."""
    model = network()
    cast_first = copy.deepcopy(model).to(torch.bfloat16)
    opt, twin = learning(model.parameters()), learning(cast_first.parameters())
    model.to(torch.bfloat16)
    train(opt, list(model.parameters()), range(4))
    train(twin, list(cast_first.parameters()), range(4))
    assert same_bits(everything(opt), everything(twin))
    assert opt.slots(next(model.parameters()))["m"].dtype == torch.float32


def test_parameters_may_be_swapped_before_the_first_step():
    """As Accelerate and FSDP2 do: they put other tensors into the groups of an optimizer that is already there."""
    old, new, twin_params = (p := parameters()), copy.deepcopy(p), copy.deepcopy(p)
    opt, twin = learning(old), learning(twin_params)
    opt.param_groups[0]["params"] = new
    train(opt, new, range(4))
    train(twin, twin_params, range(4))
    assert same_bits(everything(opt), everything(twin))
    assert set(opt.state) == set(new)


def test_state_is_lazy_and_keyed_by_parameters():
    params = parameters()
    opt = learning(params, learn=HyperTorch("all", start=0))
    assert len(opt.state) == 0
    assert opt.state_dict()["state"] == {}
    give_gradients(params, 0)
    params[1].grad = None
    opt.step()
    assert set(opt.state) == {params[0], *params[2:]}
    opt.load_state_dict(opt.state_dict())
    assert set(opt.state) == {params[0], *params[2:]}
    assert set(opt.state_dict()["state"]) == {0, 2, 3}


@on_one_engine
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # by torch itself, up to 2.6
@pytest.mark.filterwarnings(
    "ignore:torch.distributed is (disabled, )?unavailable or uninitialized"
)  # it is meant to be
@pytest.mark.parametrize("flat", [True, False])
def test_distributed_checkpoint_round_trip(flat, tmp_path):
    """Into a fresh optimizer, which the checkpoint's tools first step with zero gradients; then in lock-step."""
    options = dcp_state.StateDictOptions(flatten_optimizer_state_dict=flat)

    def content(model, opt):
        state = dcp_state.get_optimizer_state_dict(model, opt, options=options)
        return {"model": dcp_state.get_model_state_dict(model), "optimizer": state}

    model, other = network(), network()
    opt, twin = (learning(decay_and_no_decay(x)) for x in (model, other))
    fit(model, opt, range(6))
    dcp.save(content(model, opt), checkpoint_id=tmp_path)
    loaded = content(other, twin)
    dcp.load(loaded, checkpoint_id=tmp_path)
    dcp_state.set_model_state_dict(other, loaded["model"])
    dcp_state.set_optimizer_state_dict(other, twin, loaded["optimizer"], options=options)
    assert shared(twin)
    for seed in range(6, 12):
        assert same_bits(everything(opt), everything(twin)), seed
        fit(model, opt, [seed])
        fit(other, twin, [seed])


@pytest.mark.parametrize("through", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_share_among_their_groups(through):
    model = network()
    opt = learning(decay_and_no_decay(model))
    fit(model, opt, range(3))
    twin = through(opt)
    assert shared(twin)
    assert twin.param_groups[0]["rho"] is not opt.param_groups[0]["rho"]


def test_groups_learn_as_one():
    """Groups that differ in nothing are one group; a group's decay or lr doesn't part what is learned."""
    model = network()
    twin_model, third_model = copy.deepcopy(model), copy.deepcopy(model)
    params = [*(p for p in twin_model.parameters() if p.ndim > 1), *(p for p in twin_model.parameters() if p.ndim < 2)]
    opt, twin = learning(decay_and_no_decay(model, decay=0.0)), learning(params)
    decayed = learning(decay_and_no_decay(third_model))
    for x, o in ((model, opt), (twin_model, twin), (third_model, decayed)):
        fit(x, o, range(8))
    assert same_bits(list(model.parameters()), list(twin_model.parameters()))
    assert opt.coefficients() == twin.coefficients() != decayed.coefficients()
    assert shared(opt)
    assert shared(decayed)


@on_one_engine
@pytest.mark.parametrize("learn", ["all", "rho", ()])
def test_loaded_coefficients_are_at_home_with_their_parameters(learn):
    """A state mapped to the CPU, loaded for parameters elsewhere: here on torch's device without data."""
    params = parameters()
    options = {"learn": learn, "engine": "eager"}
    opt = MADA(params, **options)
    train(opt, params, range(2))
    elsewhere = [torch.nn.Parameter(p.detach().to("meta")) for p in params]
    twin = MADA(elsewhere, **options)
    twin.load_state_dict(opt.state_dict())
    tensors = [x for state in twin.state.values() for x in state.values()]
    tensors += [x for group in twin.param_groups for x in group.values() if isinstance(x, torch.Tensor)]
    assert len(tensors) > 20
    assert {x.device.type for x in tensors} == {"meta"}


def test_gradients_overwritten_in_place():
    """One buffer per gradient for the whole training, overwritten after each step, as CUDA graphs keep it."""
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = learning(params), learning(twin_params)
    give_gradients(params, 0)
    buffers = [p.grad for p in params]
    for seed in range(6):
        give_gradients(twin_params, seed)
        for p, buffer, q in zip(params, buffers, twin_params, strict=True):
            p.grad = buffer.copy_(q.grad)
        opt.step()
        twin.step()
        for buffer in buffers:
            buffer.fill_(float("nan"))
        assert same_bits(everything(opt), everything(twin))


def test_ddp_with_gradients_that_view_its_buckets(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = network()
        twin_model = copy.deepcopy(model)
        ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
        opt, twin = learning(ddp.parameters()), learning(twin_model.parameters())
        fit(ddp, opt, range(6))
        fit(twin_model, twin, range(6))
        assert same_bits(everything(opt), everything(twin))
    finally:
        torch.distributed.destroy_process_group()


def test_a_scaled_gradient_scales_its_hypergradient():
    """Clipping comes before the step, so it scales what is learned from: h = -lr < g, du/dq > is linear in g."""
    runs = []
    for scale in (1.0, 0.25):
        torch.manual_seed(0)
        params = parameters()
        opt = learning(params)
        train(opt, params, range(3))
        give_gradients(params, 3)
        for p in params:
            p.grad *= scale
        opt.step()
        runs.append(opt.hypergradients())
    whole, clipped = runs
    assert all(whole[q] != 0 for q in NAMES)
    assert clipped == pytest.approx({q: 0.25 * h for q, h in whole.items()}, rel=1e-6)


def test_clip_grad_norm_is_a_scale():
    params, twin_params = (p := parameters()), copy.deepcopy(p)
    opt, twin = learning(params), learning(twin_params)
    for seed in range(4):
        give_gradients(params, seed)
        give_gradients(twin_params, seed)
        norm = torch.nn.utils.clip_grad_norm_(params, 0.5)
        for q in twin_params:
            q.grad *= 0.5 / (norm + 1e-6)
        opt.step()
        twin.step()
    assert opt.hypergradients() == pytest.approx(twin.hypergradients(), rel=1e-4)
    assert any(opt.hypergradients().values())


def test_grad_scaler_changes_nothing_but_overflows():
    """A scale that is a power of two is undone exactly; a step that overflows is as if it had not been."""
    model = network()
    twin_model = copy.deepcopy(model)
    opt, twin = learning(model.parameters()), learning(twin_model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    fit(model, opt, range(4), scaler)
    fit(twin_model, twin, range(4))
    assert same_bits(everything(opt), everything(twin))
    scaler.update(float("inf"))
    fit(model, opt, [4], scaler)
    assert not all(p.grad.isfinite().all() for p in model.parameters())
    assert same_bits(everything(opt), everything(twin))
    scaler.update(2.0**10)
    fit(model, opt, range(5, 8), scaler)
    fit(twin_model, twin, range(5, 8))
    assert same_bits(everything(opt), everything(twin))


SCHEDULERS = {
    "step": lambda opt: lr_scheduler.StepLR(opt, 2),
    "lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda t: 1 / (1 + t)),
    "cosine": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 3),
    "one cycle": lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, total_steps=9, cycle_momentum=False),
    "cyclic": lambda opt: lr_scheduler.CyclicLR(opt, 1e-3, 1e-2, step_size_up=2, cycle_momentum=False),
    "swa": lambda opt: torch.optim.swa_utils.SWALR(opt, swa_lr=0.05, anneal_epochs=3),
}


@on_one_engine
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_sets_the_lr_of_every_group(name):
    """As for torch's Adam, which the optimizer is while its coefficients stay: the same lrs, and the same weights."""
    params, twin_params = (p := parameters(torch.float64)), copy.deepcopy(p)
    opt, adam = (
        cls([{"params": x[:1]}, {"params": x[1:], "lr": 1e-2}], lr=1e-2, betas=(0.9, 0.95), **options)
        for cls, x, options in (
            (AutoMuon, params, {"learn": LearnedLR(rate=0.0), "weight_decay": 0.0, "guard": None}),
            (torch.optim.Adam, twin_params, {}),
        )
    )
    schedule, other = SCHEDULERS[name](opt), SCHEDULERS[name](adam)
    lrs = []
    for seed in range(8):
        lrs.append([group["lr"] for group in opt.param_groups])
        assert lrs[-1] == [group["lr"] for group in adam.param_groups]
        train(opt, params, [seed])
        train(adam, twin_params, [seed])
        for p, q in zip(params, twin_params, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
        schedule.step()
        other.step()
    assert any(a != b for a, b in itertools.pairwise(lrs))


@on_one_engine
@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_a_scheduler_that_would_cycle_what_is_learned_is_refused(name):
    options = {"OneCycleLR": {"max_lr": 0.1, "total_steps": 9}, "CyclicLR": {"base_lr": 1e-3, "max_lr": 1e-2}}[name]
    with pytest.raises(ValueError, match="must support momentum"):
        getattr(lr_scheduler, name)(learning(parameters()), **options)


@on_one_engine
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))], ids=("copy", "pickle"))
def test_a_copy_has_what_was_put_into_a_group(copied):
    opt = learning(params := parameters())
    train(opt, params, [0])
    opt.param_groups[0]["beta1"] = 0.5
    twin = copied(opt)
    assert twin.coefficients()["beta1"] == twin.param_groups[0]["beta1"].item() == 0.5


@on_one_engine
@pytest.mark.parametrize("place", [0, 1])
def test_what_was_put_into_one_group_is_read_and_saved_for_all(place):
    """Before the next step as after it: a coefficient that is learned for all groups is one."""
    p, q = parameters()[:2]
    opt = learning([{"params": [p]}, {"params": [q]}])
    train(opt, [p, q], [0])
    opt.param_groups[place]["beta2"] = 0.7
    assert opt.coefficients()["beta2"] == 0.7
    saved = opt.state_dict()
    opt.load_state_dict(saved)
    assert [float(group["beta2"]) for group in opt.param_groups] == [0.7, 0.7]
