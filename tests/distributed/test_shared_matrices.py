"""Processes with equal gradients, as under DDP, that share the work of matrices (`share_matrices`).

Catches: a matrix that two processes take or none, an update that isn't the one of a process by itself, to the last bit,
processes that drift apart, more bytes than the updates of the others, and processes that wait forever.
"""

import copy
import os
import pickle
from itertools import chain

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from mada_lab.config.keys import TrainConfig
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.optimizers import catalog
from mada_optim import AutoMuon, HyperOptimizer, HyperSGD, LearnedLR, Muon
from mada_optim.engines.staged import engine as staged
from mada_optim.matrices import polar_factor
from mada_optim.sharding.replicated import Sharing
from tests.distributed import group
from tests.problems import everything, give_gradients, same_bits, spied

SHAPES = [(6, 4), (12, 5), (4, 8, 6), (9,), (3, 7), (40, 8), (8, 8), (5, 6)]
MATRIX = [True, 3, "batched", True, True, False, True, True]
IDLE = 7  # has no gradient on any process
ROWS = 6 + 12 + 4 * 8 + 3 + 8  # of those matrices
HIDDEN = 6 * 4 + 12 * 5 + 4 * 8 * 6 + 3 * 7 + 8 * 8  # elements of those with a gradient


def parameters():
    return [nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(9))) for shape in SHAPES]


def groups(params):
    return [{"params": [p], "matrix": said} for p, said in zip(params, MATRIX, strict=True)]


def auto_muon(params, **options):
    return AutoMuon(groups(params), **{"learn": LearnedLR(start=1), "nu": 1.0, **options})


def eager_auto_muon(params, **options):
    return auto_muon(params, engine="eager", **options)


def tiled_auto_muon(params, **options):
    return auto_muon(params, engine="tiled", **options)


def omega(params, **options):
    learner = HyperSGD("omega", "beta1", start=1, scope="tensor")
    return HyperOptimizer(groups(params), 1e-2, rule="mada_matrix", omega=0.5, nu=0.5, learn=learner, **options)


def muon(params, **options):
    return Muon([p for p in params if p.shape != (9,)], weight_decay=0.1, **options)


def decay_of_momentum(params, **options):
    return muon(params, learn=HyperSGD("mu", "lr", start=1), **options)


def gradients(params, seed):
    give_gradients(params, seed)
    params[IDLE].grad = None


def stepped(make, **options):
    """Seven steps: one with a gradient that is not finite, and others after a new group, and after a state dict."""
    params = parameters()
    opt = make(params, **options)

    def closure():
        gradients(params, 7)
        return 1.0

    for seed in range(6):
        gradients(params, seed)
        if seed == 2:
            params[1].grad[0, 0] = float("nan")
        if seed == 4:
            saved = copy.deepcopy(opt.state_dict())
            opt = make(params, **options)
            opt.load_state_dict(saved)
        opt.step()
    params.append(nn.Parameter(torch.ones(7, 4)))
    opt.add_param_group({"params": [params[-1]], "matrix": True})
    opt.step(closure)
    assert opt.skipped_steps == 0  # since the state dict
    return everything(opt)


def of_all_processes(x):
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, x)
    return found


def same_as_alone():
    """For each optimizer: whether all processes have the bits of a process by itself, and how they shared the work."""
    staged.BUFFER = 60  # elements, so that there are several parts
    return {make.__name__: of_one(make) for make in MAKES}


def of_one(make):
    alone = stepped(make)
    with spied(polar_factor, "_on_whole_matrix") as calls, spied(Sharing, "send") as sent:
        shared = stepped(make, share_matrices=dist.group.WORLD)
    bits = [x.numpy().tobytes() for x in shared]
    return {
        "as alone": same_bits(shared, alone),
        "as the others": all(x == bits for x in of_all_processes(bits)),
        "products": sum(isinstance(x, torch.Tensor) for _, x, _ in calls),  # not while a rule is traced
        "elements": sum(x.numel() for _, parts in sent for x in parts),
    }


MAKES = [auto_muon, eager_auto_muon, tiled_auto_muon, omega, muon, decay_of_momentum]


@pytest.fixture(scope="module")
def on_two():
    return group.run(2, same_as_alone)


@pytest.mark.parametrize("make", MAKES)
def test_shared_steps_have_the_bits_of_a_process_by_itself(on_two, make):
    for answer in on_two:
        assert answer[make.__name__]["as alone"]
        assert answer[make.__name__]["as the others"]


@pytest.mark.parametrize("make", [auto_muon, eager_auto_muon, tiled_auto_muon])
def test_each_matrix_is_orthogonalized_once_and_sent_once(on_two, make):
    answers = [answer[make.__name__] for answer in on_two]
    assert sum(answer["products"] for answer in answers) == 7 * 5 + 1  # five parameters, and a sixth in the last step
    assert all(answer["products"] for answer in answers)
    rows = (7 * ROWS + 7) * (make is eager_auto_muon)  # the others send the polar factor, and compute the rows' slots
    assert {answer["elements"] for answer in answers} == {7 * HIDDEN + 28 + rows}


def test_of_a_learned_coefficient_each_process_differentiates_its_own_matrices(on_two):
    """Three polar factors of a matrix in a step: two of its last update, for its slot of rows too, and of the next."""
    assert sum(answer["omega"]["products"] for answer in on_two) == 3 * (7 * 5 + 1)


def others():
    """What several processes refuse, and what they do where gradients differ."""
    world = dist.group.WORLD
    rank = dist.get_rank()
    answers = {"three": of_one(auto_muon)}
    p = [nn.Parameter(torch.ones(4, 4))]
    replicas = distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (dist.get_world_size(),)), [Replicate()])
    said = [{"params": p, "matrix": True}]
    answers["refused"] = [
        message_of(lambda: AutoMuon(p, share_matrices="WORLD"), ValueError),
        message_of(lambda: HyperOptimizer(p, rule="mada", share_matrices=world), ValueError),
        message_of(lambda: AutoMuon(said, share_matrices=world, reduce_group=world), ValueError),
        message_of(lambda: AutoMuon([nn.Parameter(replicas)], share_matrices=world), ValueError),
        message_of(lambda: AutoMuon(p, share_matrices=world).add_param_group({"params": [replicas]}), ValueError),
        message_of(lambda: pickle.dumps(AutoMuon(p, share_matrices=world)), TypeError),
        message_of(lambda: copy.deepcopy(AutoMuon(p, share_matrices=world)), TypeError),
    ]
    subgroup = dist.new_group([0, 2])
    if rank == 1:
        answers["refused"].append(message_of(lambda: AutoMuon(p, share_matrices=subgroup), ValueError))
    else:
        answers["of two"] = same_bits(stepped(auto_muon), stepped(auto_muon, share_matrices=subgroup))

    params = parameters()
    opt = auto_muon(params, share_matrices=world)
    for missing in ([], [0], range(len(params))):  # of the last process
        gradients(params, 0)
        for i in missing if rank == 2 else ():
            params[i].grad = None
        before = everything(opt)
        if missing:
            answers.setdefault("differ", []).append(message_of(opt.step, RuntimeError))
            assert same_bits(everything(opt), before)
        else:
            opt.step()
    answers["observed"] = observed()
    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="3")
    answers["of runs"] = [shared_in_a_run(**keys) for keys in RUNS]
    return answers


RUNS = [{}, {"optimizer": "muon"}, {"share_matrices": False}, {"parallel": "fsdp"}, {"optimizer": "mada"}]


def shared_in_a_run(**keys):
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4, dropout=0.0, bias=False))
    return catalog.build(model, TrainConfig(**keys)).share_matrices is dist.group.WORLD


def observed():
    """The coefficients after gradients that differ were observed, shared and not."""
    found = []
    for options in ({}, {"share_matrices": dist.group.WORLD}):
        params = parameters()
        opt = omega(params, **options)
        for seed in range(4):
            gradients(params, 100 * seed + dist.get_rank())
            opt.observe(group=dist.group.WORLD) if seed else None
            gradients(params, seed)
            opt.step()
        found.append(everything(opt))
    return same_bits(*found)


def message_of(work, error):
    try:
        work()
    except error as raised:
        return str(raised)
    return None


@pytest.fixture(scope="module")
def on_three():
    return group.run(3, others)


def test_three_processes_share_as_two_do(on_three):
    assert all(answer["three"]["as alone"] and answer["three"]["as the others"] for answer in on_three)
    assert sum(answer["three"]["products"] for answer in on_three) == 7 * 5 + 1


def test_a_group_may_have_some_of_the_processes(on_three):
    assert on_three[0]["of two"]
    assert on_three[2]["of two"]


def test_groups_that_have_nothing_to_share_are_refused(on_three):
    expected = [
        "share_matrices='WORLD': expected a process group",
        "expected a rule with matrices to share, got 'mada'; leave it out",
        "expected one of them",
        "got DTensors, whose matrices are divided among their processes in any case",
        "got DTensors",
        "cannot pickle",
        "cannot pickle",
        "expected a process group that this process is a member of",
    ]
    assert len(on_three[1]["refused"]) == len(expected)
    for answer in on_three:
        for text, message in zip(expected, answer["refused"], strict=False):
            assert text in message


def test_processes_with_gradients_of_different_parameters_say_so(on_three):
    """They don't wait for each other, and nothing is changed."""
    for message in chain.from_iterable(answer["differ"] for answer in on_three):
        assert "expected gradients of the same parameters on all processes" in message
    assert "got 6 of 8 on this one" in on_three[2]["differ"][0]


def test_each_process_differentiates_all_of_its_own_gradients_that_are_observed(on_three):
    assert all(answer["observed"] for answer in on_three)


def test_runs_under_ddp_share_matrices(on_three):
    assert on_three[0]["of runs"] == [True, True, False, False, False]


def test_a_group_of_one_process_shares_nothing():
    assert group.run(1, alone) == [(True, 0)]


def alone():
    with spied(Sharing, "send") as sent:
        shared = stepped(omega, share_matrices=dist.group.WORLD)
    return same_bits(shared, stepped(omega)), len(sent)
