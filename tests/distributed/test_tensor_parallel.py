"""Layers that torch's tensor parallelism has sharded, alone and under FSDP2: a step is that of a single process.

Catches: shards of columns that are put together as rows, a hypergradient that counts replicas twice or a shard not at
all, state that can't be saved and loaded, matrices that are gathered without a word.
"""

import shutil
import tempfile
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from mada_optim import MADA, AutoMuon, param_groups
from tests.distributed import group
from tests.problems import MIDWAY, along_trace, fast

pytestmark = group.needs_fsdp2
WORDS, ROWS = 33, 8


class Net(nn.Module):
    """A residual block with layers to shard, and parameters that tensor parallelism leaves as they are."""

    def __init__(self):
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(WORDS, 8), nn.Linear(8, 20), nn.Linear(20, 8)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, ids):
        x = self.table(ids)
        return nn.functional.linear(x + self.down(torch.tanh(self.up(x))) * self.gain, self.table.weight)


def net():
    torch.manual_seed(0)
    return Net()


def tensor_parallel():
    """Shards of rows and of columns, replicas of a bias, and plain tensors; every process sees all rows of a batch."""
    mesh, model = init_device_mesh("cpu", (4,)), net()
    return parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()}), slice(None)


def with_fsdp():
    """On two dimensions of a mesh: rows twice, rows and columns, rows and replicas; and on one of them."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = parallelize_module(net(), mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    fully_shard(model, mesh=mesh["data"])
    first = mesh.get_local_rank("data") * ROWS // 2
    return model, slice(first, first + ROWS // 2)


def auto_muon(model):
    return AutoMuon(param_groups(model), learn=along_trace(rate=0.05, start=1), nu=1.0)


def mada(model):
    return MADA(model.parameters(), lr=1e-2, weight_decay=0.1, **{**MIDWAY, "learn": fast("all", "lr")})


def step(model, opt, seed, rows=slice(None), clip=False):
    ids = torch.randint(WORDS, (ROWS, 2), generator=torch.Generator().manual_seed(seed))[rows]
    nn.functional.cross_entropy(model(ids[:, 0]), ids[:, 1]).backward()
    if clip:
        for params in by_mesh(model):  # torch's norm is of one mesh
            nn.utils.clip_grad_norm_(params, 0.05)
    opt.step()
    opt.zero_grad()


def by_mesh(model):
    """The parameters in sets whose norms torch can compute, the same for a whole model."""
    layers = [p for name, p in model.named_parameters() if name.startswith(("up", "down"))]
    return layers, [p for p in model.parameters() if not any(p is x for x in layers)]


def whole(x):
    return x.full_tensor().detach() if isinstance(x, DTensor) else x.detach()


def compared(sharding, make):
    """Five steps of a sharded and of a whole network, the later ones clipped; and the state through files."""
    (model, rows), alone = sharding(), net()
    opt, expected = make(model), make(alone)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for seed in range(5):
            step(model, opt, seed, rows, clip=seed > 2)
            step(alone, expected, seed, clip=seed > 2)
    far = [(whole(p) - q).abs().max().item() for p, q in zip(model.parameters(), alone.parameters(), strict=True)]
    rates = [(group["lr"], twin["lr"]) for group, twin in zip(opt.param_groups, expected.param_groups, strict=True)]
    return {
        "far": max(far),
        "coefficients": opt.coefficients(),
        "expected": expected.coefficients(),
        "hypergradients": (opt.hypergradients(), expected.hypergradients()),
        "first lr": all(x == y for x, y in rates),
        "told": [str(x.message) for x in told if "hidden matrices" in str(x.message)],
        "reasons": opt.engine_reasons,
        "resumed": make is mada or resumed(sharding, make, model, opt, rows),
    }


def resumed(sharding, make, model, opt, rows):
    """Whether a network with the state that was written to files and read again takes the same step."""
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    dcp.save({"model": model.state_dict(), "opt": get_optimizer_state_dict(model, opt)}, checkpoint_id=folder[0])
    again, _ = sharding()
    other = make(again)
    found = {"model": again.state_dict(), "opt": get_optimizer_state_dict(again, other)}
    dcp.load(found, checkpoint_id=folder[0])
    again.load_state_dict(found["model"])
    set_optimizer_state_dict(again, other, found["opt"])
    dist.barrier()
    shutil.rmtree(folder[0], ignore_errors=True)
    for x, y in ((model, opt), (again, other)):
        step(x, y, 5, rows)
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    return all(torch.equal(whole(p), whole(q)) for p, q in pairs) and opt.coefficients() == other.coefficients()


CASES = [(sharding, make) for sharding in (tensor_parallel, with_fsdp) for make in (auto_muon, mada)]


def all_compared():
    return [compared(*case) for case in CASES]


@pytest.fixture(scope="module")
def ranks():
    return group.run(4, all_compared)


@pytest.mark.parametrize("i", range(len(CASES)), ids=[f"{x.__name__}-{y.__name__}" for x, y in CASES])
def test_sharded_layers_step_as_whole_ones(ranks, i):
    for answer in (rank[i] for rank in ranks):
        assert answer["far"] < 1e-4
        assert answer["coefficients"] == ranks[0][i]["coefficients"]
        assert answer["coefficients"] == pytest.approx(answer["expected"], rel=1e-4)
        assert answer["hypergradients"][0] == pytest.approx(answer["hypergradients"][1], rel=1e-2, abs=1e-6)
        assert answer["first lr"]
        assert answer["resumed"]


def test_matrices_that_are_gathered_whole_are_named_once(ranks):
    for rank in ranks:
        for (_, make), answer in zip(CASES, rank, strict=True):
            assert len(answer["told"]) == (make is auto_muon)
    rows_and_columns = ranks[0][0], ranks[0][2]
    for answer, text in zip(
        rows_and_columns, ("1 hidden matrices, 160 elements", "2 hidden matrices, 320"), strict=True
    ):
        assert text in answer["told"][0]
        assert any(text in reason for reason in answer["reasons"])
