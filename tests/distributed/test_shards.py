"""Parameters that FSDP2 has sharded: a step is the one that a single process would take, for some bytes of messages.

Catches: coefficients that drift apart on the processes, a shard that is counted twice or not at all, replicas that are
summed, messages that grow, state that can't be saved and loaded as the whole that it is.
"""

import copy
import shutil
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.debug import CommDebugMode

from mada_optim import HyperOptimizer
from mada_optim.engines.staged import engine as staged
from tests.distributed import group
from tests.problems import along_trace, fast, learning

ROWS, WORDS, WIDTH = 8, 33, 6


class Net(nn.Module):
    """Tied weights of 33 rows, which no 2 or 4 processes share evenly; a norm of 1 element, which 3 of 4 do without."""

    def __init__(self):
        super().__init__()
        self.table, self.hidden = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, ids):
        x = torch.tanh(self.hidden(self.table(ids))) * self.gain
        return nn.functional.linear(x, self.table.weight)


class Deep(Net):
    """With three hidden matrices, none of them square but one."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 10), nn.Linear(10, WIDTH)

    def forward(self, ids):
        x = torch.tanh(self.hidden(self.table(ids)))
        x = (x + self.down(torch.tanh(self.up(x)))) * self.gain
        return nn.functional.linear(x, self.table.weight)


def net(kind=Net):
    torch.manual_seed(0)
    return kind()


def step(model, opt, seed, mine=slice(None)):
    """One step on the rows that are mine of a batch that `seed` draws."""
    ids = torch.randint(WORDS, (ROWS, 2), generator=torch.Generator().manual_seed(seed))[mine]
    nn.functional.cross_entropy(model(ids[:, 0]), ids[:, 1]).backward()
    opt.step()
    opt.zero_grad()


def sharded(mesh, kind=Net, cut=None):
    model = net(kind)
    fully_shard(model.hidden, mesh=mesh, shard_placement_fn=cut)
    fully_shard(model, mesh=mesh, shard_placement_fn=cut)
    return model


def rows_of(rank, world):
    return slice(rank * ROWS // world, (rank + 1) * ROWS // world)


def full(tree):
    """All that an optimizer's state dict holds, whole."""
    return {
        key: {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in state.items()}
        for key, state in tree["state"].items()
    }


def fsdp(shape, steps, options):
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards")[-len(shape) :])
    model = sharded(mesh)
    opt = learning(model.parameters(), **options)
    rank, world = dist.get_rank(), dist.get_world_size()
    early = None
    for i in range(steps):
        step(model, opt, i, rows_of(rank, world))
        if i == 4:
            early = opt.coefficients(), [p.full_tensor().detach().numpy() for p in model.parameters()]
    return {
        "early": early,
        "coefficients": opt.coefficients(),
        "empty": [p.to_local().numel() == 0 for p in model.parameters()],
        "engine": opt.engine,
    }


def numbers(reading):
    """Coefficients in one list, whatever the scope."""
    nested = [x if isinstance(x, dict) else {"": x} for x in reading.values()]
    return [x for inner in nested for x in inner.values()]


def close(xs, ys, tolerance):
    for x, y in zip(xs, ys, strict=True):
        torch.testing.assert_close(torch.as_tensor(x), torch.as_tensor(y), rtol=tolerance, atol=tolerance)


@group.needs_fsdp2
@pytest.mark.parametrize(
    ("shape", "steps", "options"),
    [((2,), 200, {}), ((4,), 30, {}), ((2, 2), 20, {}), ((2,), 20, {"engine": "eager", "learn": fast(scope="tensor")})],
    ids=["2", "4", "2 replicas of 2", "2, eager, a scope per tensor"],
)
def test_sharded_equals_whole(shape, steps, options):
    """In the end the coefficients have the same bits on all ranks; after 5 steps all is what one process computes."""
    ranks = group.run(torch.Size(shape).numel(), fsdp, shape, steps, options)
    model = net()
    opt = learning(model.parameters(), **options)
    for i in range(5):
        step(model, opt, i)
    assert all(x["coefficients"] == ranks[0]["coefficients"] for x in ranks)
    assert ranks[0]["coefficients"] != opt.coefficients()
    close(numbers(ranks[0]["early"][0]), numbers(opt.coefficients()), 1e-6)
    close(ranks[0]["early"][1], [p.detach() for p in model.parameters()], 1e-6)
    assert {x["engine"] for x in ranks} == {opt.engine}
    assert [sum(x["empty"]) for x in ranks] == ([0, 1, 1, 3] if shape == (4,) else [0, 1] * (len(ranks) // 2))


MATRICES = {"lr": "auto", "learn": along_trace(rate=0.05, memory=0.9, start=1), "nu": 1.0}  # with a slot per row


def hidden_of(model):
    return [model.hidden.weight, model.up.weight, model.down.weight]


def with_matrices(model, **options):
    hidden = hidden_of(model)
    rest = [p for p in model.parameters() if not any(p is x for x in hidden)]
    groups = [{"params": hidden, "matrix": True}, {"params": rest, "matrix": False}]
    return HyperOptimizer(groups, rule="mada_matrix", **options)


def matrices(shape, options, cut=None):
    """Five steps with Muon on the hidden matrices, which are put together; and the state, saved and loaded."""
    staged.BUFFER = 40  # elements, so that there are several parts
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards")[-len(shape) :])
    model, again = sharded(mesh, Deep, cut), sharded(mesh, Deep, cut)
    opt, other = (with_matrices(x, **options) for x in (model, again))
    rows = rows_of(dist.get_rank(), dist.get_world_size())
    for i in range(5):
        step(model, opt, i, rows)
    early = [p.full_tensor().detach().numpy() for p in model.parameters()]
    slots = [x.full_tensor().numpy() for p in hidden_of(model) for x in opt.slots(p).values() if isinstance(x, DTensor)]
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    for x, y in ((model, opt), (again, other)):
        step(x, y, 5, rows)
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    return early, slots, opt.coefficients(), all(torch.equal(x.to_local(), y.to_local()) for x, y in pairs)


def assert_matrices_are_those_of_one_process(ranks, options):
    model = net(Deep)
    opt = with_matrices(model, **options)
    for i in range(5):
        step(model, opt, i)
    for early, slots, coefficients, resumed_alike in ranks:
        close(early, [p.detach() for p in model.parameters()], 1e-5)
        expected = [x for p in hidden_of(model) for x in opt.slots(p).values()]
        close([x for x in slots if x.ndim > 1], [x for x in expected if x.ndim > 1], 1e-5)
        close([x for x in slots if x.ndim == 1], [x for x in expected if x.ndim == 1], 1e-3)  # of the polar factor
        assert coefficients == ranks[0][2]
        assert resumed_alike
    step(model, opt, 5)
    close(numbers(ranks[0][2]), numbers(opt.coefficients()), 1e-5)


#: Every engine, with and without what is learned, and every mesh; no two of them have to do with each other.
PUT_TOGETHER = [((2,), MATRICES, engine) for engine in ("auto", "tiled", "eager")]
PUT_TOGETHER += [((2,), {"learn": ()}, "auto"), ((4,), MATRICES, "auto"), ((2, 2), MATRICES, "auto")]


@group.needs_fsdp2
@pytest.mark.parametrize(("shape", "options", "engine"), PUT_TOGETHER, ids=str)
def test_hidden_matrices_are_put_together(shape, options, engine):
    """The orthogonalised momentum is that of the whole matrix, whatever is sharded; its slot stays in shards."""
    options = {**options, "engine": engine}
    assert_matrices_are_those_of_one_process(group.run(torch.Size(shape).numel(), matrices, shape, options), options)


def by_columns(p):
    return Shard(1) if p.ndim > 1 else Shard(0)


@group.needs_fsdp2
def test_matrices_that_are_cut_by_columns_are_gathered():
    options = {**MATRICES, "engine": "auto"}
    assert_matrices_are_those_of_one_process(group.run(2, matrices, (2,), options, by_columns), options)


def learned_matrices():
    model = sharded(init_device_mesh("cpu", (2,)), Deep)
    opt = with_matrices(model, learn="omega")
    with pytest.raises(RuntimeError, match="rule that is not pointwise is learned, got shards; learn nothing but lr"):
        step(model, opt, 0)
    return True


@group.needs_fsdp2
def test_a_coefficient_of_sharded_matrices_is_not_learned():
    assert all(group.run(2, learned_matrices))


def counted(world_shape, options):
    """Bytes of each all-reduce in one step of the optimizer."""
    model = sharded(init_device_mesh("cpu", world_shape))
    opt = learning(model.parameters(), **options)
    step(model, opt, 0)
    step(model, opt, 1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    sent, original = [], dist.all_reduce
    dist.all_reduce = lambda x, **rest: (sent.append(x.numel() * x.element_size()), original(x, **rest))[1]
    with CommDebugMode() as mode:
        opt.step()
    return sent, mode.get_total_counts()


@group.needs_fsdp2
@pytest.mark.parametrize(("scope", "scopes"), [("global", 1), ("tensor", 4)])
def test_bytes_per_step(scope, scopes):
    """Six coefficients per scope, and one number for the whole step, in one message of doubles."""
    for sent, others in group.run(2, counted, (2,), {"learn": fast(scope=scope)}):
        assert sent == [8 * (6 * scopes + 1)]
        assert sent[0] <= 64 * scopes
        assert others <= 1  # that one


def non_finite():
    mesh = init_device_mesh("cpu", (2,))
    model = sharded(mesh)
    opt = learning(model.parameters())
    step(model, opt, 0)
    before = [p.to_local().clone() for p in model.parameters()], opt.coefficients()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    if dist.get_rank() == 1:
        model.hidden.weight.grad.to_local()[0, 0] = float("nan")
    opt.step()
    return all(torch.equal(x, p.to_local()) for x, p in zip(before[0], model.parameters(), strict=True)) and (
        before[1] == opt.coefficients()
    )


@group.needs_fsdp2
def test_a_bad_gradient_in_one_shard_stops_the_step_on_all():
    assert group.run(2, non_finite) == [True, True]


def resumed(through):
    """Five steps, the state through a state dict into a fresh model, five more; against ten."""
    mesh = init_device_mesh("cpu", (2,))
    rows = rows_of(dist.get_rank(), 2)
    first, second = sharded(mesh), sharded(mesh)
    opt, other = learning(first.parameters()), learning(second.parameters())
    for i in range(5):
        step(first, opt, i, rows)
    through(first, opt, second, other)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for i in range(5, 10):
        step(first, opt, i, rows)
        step(second, other, i, rows)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    same = [torch.equal(x.to_local(), y.to_local()) for x, y in pairs]
    slots = [x["v"] for x in opt.state_dict()["state"].values()]
    shapes = [x.shape == p.shape for x, p in zip(slots, first.parameters(), strict=True)]
    return same, opt.coefficients() == other.coefficients(), all(shapes) and {type(x) for x in slots} == {DTensor}


def plainly(_, opt, __, other):
    other.load_state_dict(copy.deepcopy(opt.state_dict()))


def whole(_, opt, __, other):
    saved = opt.state_dict()
    saved["state"] = full(saved)
    other.load_state_dict(saved)


def by_dcp(first, opt, second, other):
    """Through files of torch.distributed.checkpoint, one per process."""
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    dcp.save({"optimizer": get_optimizer_state_dict(first, opt)}, checkpoint_id=folder[0])
    found = {"optimizer": get_optimizer_state_dict(second, other)}
    dcp.load(found, checkpoint_id=folder[0])
    set_optimizer_state_dict(second, other, found["optimizer"])
    dist.barrier()
    shutil.rmtree(folder[0], ignore_errors=True)


@group.needs_fsdp2
@pytest.mark.parametrize("through", [plainly, whole, by_dcp])
def test_state_dicts_hold_dtensors_and_take_whole_tensors(through):
    for same, coefficients, dtensors in group.run(2, resumed, through):
        assert all(same)
        assert coefficients
        assert dtensors


def mixed():
    mesh = init_device_mesh("cpu", (2,))
    model = net()
    fully_shard(model.hidden, mesh=mesh)
    opt = learning(model.parameters())
    for p in model.parameters():
        p.grad = torch.full_like(p, 1.0 + dist.get_rank())
    with pytest.raises(RuntimeError, match=r"equal gradients .* got plain tensors with different ones; shard all"):
        opt.step()
    return all(torch.equal(p, q) for p, q in zip(model.table.parameters(), net().table.parameters(), strict=True))


def test_shards_beside_whole_parameters_with_other_gradients_are_refused():
    assert all(group.run(2, mixed))


def ddp():
    model = nn.parallel.DistributedDataParallel(net())
    opt = learning(model.parameters())
    sent, original = [], dist.all_reduce
    dist.all_reduce = lambda *x, **rest: (sent.append(1), original(*x, **rest))[1]
    for i in range(200):
        step(model, opt, i, rows_of(dist.get_rank(), 2))
        if i == 4:
            early = opt.coefficients()
    return early, opt.coefficients(), sent


def test_ddp_needs_no_message():
    ranks = group.run(2, ddp)
    model = net()
    opt = learning(model.parameters())
    for i in range(5):
        step(model, opt, i)
    assert ranks[0] == ranks[1]
    assert ranks[0][2] == []
    close(numbers(ranks[0][0]), numbers(opt.coefficients()), 1e-6)
