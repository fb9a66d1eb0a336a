"""Each process clips its own gradient, and then gradients are averaged, as the authors' train_ddp.py does it.

Catches: a mean that is clipped, clipping of a gradient that is scaled, of one pass, or averaged already, hypergradients
of a clipped gradient or of one process alone, an overflow on one process that another steps over.
"""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mada_lab.checkpoints import redistribution
from mada_lab.compute import device
from mada_lab.compute import world as distributed
from mada_lab.compute.world import ALONE, World
from mada_lab.config import parsing
from mada_lab.optimizers import catalog
from mada_lab.records.run_record import read_run
from mada_lab.training import gradients
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import Trainer
from tests.app.conftest import Silent
from tests.app.test_published_loops import CONFIGS, MicroBatches, NoSignals, Tiny
from tests.distributed import group
from tests.distributed.test_training import CONFIG
from tests.published_loop import NAMES, Run, mean, norm_of, started, theirs
from tests.reliability import ranks, runs

PASSES, UPDATES, RANKS = 3, 12, 2
COUNTS = [2] + [PASSES] * (UPDATES - 1)
LR, CLIP, LATER = 0.05, 0.3, 3
TOLERANCE = 1e-12
SHAPES = {"emb.weight": (11, 4), "fc.weight": (6, 4), "fc.bias": (6,), "out.weight": (11, 6), "out.bias": (11,)}
OBSERVED = ("first", "unclipped", "step")
START = {"beta1": 0.85, "beta2": 0.93, "beta3": 0.3, "rho": 0.6, "c": 0.7, "gamma": 0.8}


def weights():
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in SHAPES.items()}


def network():
    return Tiny("plain", {name: x.flatten().tolist() for name, x in weights().items()})


def rows(rank):
    """The micro-batches of a rank, which has longer texts than the one before."""
    draw = torch.Generator().manual_seed(1 + rank)
    return [torch.randint(11, (2, 1 + 3 * rank), generator=draw).tolist() for _ in range(sum(COUNTS))]


def configuration(when, passes):
    numbers = {
        **{"learning_rate": LR, "decay_lr": False, "min_lr": None, "lr_decay_iters": None, "warmup_iters": 0, **START},
        **{"grad_clip": CLIP, "gradient_accumulation_steps": passes * PASSES, "first_accumulation": passes * COUNTS[0]},
        **{"hyper_start": 2, "hyper_observe": when, "max_iters": UPDATES, "device": "cpu"},
    }
    return parsing.load([str(CONFIGS / "gpt2_small.toml"), *(f"--{key}={x}" for key, x in numbers.items())])


def on_a_rank(when):
    """What this process has after each update, by the application's own loop."""
    rank = dist.get_rank()
    config, model = configuration(when, RANKS), network()
    world = World(rank, RANKS, RANKS)
    forward = distributed.wrapped(model, config.parallel, world)
    parts = {"model": model, "optimizer": catalog.build(model, config), "batches": MicroBatches(rows(rank))}
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    session = TrainState(config, None, device.choose(config), scaler=scaler, peak=LR, world=world, **parts)
    found, trainer = [], Trainer(session, Silent())
    for _ in range(UPDATES):
        trainer.update(gradients.accumulate(session, forward, NoSignals()))
        found.append(reading(model, session.optimizer))
    return found


def reading(model, opt):
    h, q = opt.hypergradients(), opt.coefficients()
    return [h[x] for x in NAMES], [q[x] for x in NAMES], {name: x.tolist() for name, x in model.named_parameters()}


def on_one_process(when):
    """The same by hand: both ranks' gradients, one after the other, on one network."""
    model, own = network(), [rows(rank) for rank in range(RANKS)]
    opt = catalog.build(model, configuration(when, 1))
    params = list(model.parameters())
    for group_ in opt.param_groups:
        group_["lr"] = LR
    done = 0
    for count in COUNTS:
        sums = [passes_of(model, params, own[rank][done : done + count]) for rank in range(RANKS)]
        done += count
        whole = [x[-1] for x in sums]
        if when != "step":
            put(params, mean([x[0] for x in sums] if when == "first" else whole))
            opt.observe()
        norms = [norm_of(x) for x in whole]
        assert max(norms) > CLIP
        put(params, mean([[g * min(1.0, CLIP / (n + 1e-6)) for g in x] for x, n in zip(whole, norms, strict=True)]))
        opt.step()
        yield reading(model, opt)


def passes_of(model, params, batches):
    """The gradient after each pass."""
    sums = []
    for ids, targets in batches:
        loss = model(torch.tensor(ids), torch.tensor(targets))[1] / PASSES
        more = torch.autograd.grad(loss, params)
        sums.append([a + b for a, b in zip(sums[-1], more, strict=True)] if sums else list(more))
    return sums


def put(params, grads):
    for p, g in zip(params, grads, strict=True):
        p.grad = g


def assert_alike(found, expected):
    largest = [max(abs(x) for x in column) for column in zip(*(h for h, _, _ in expected), strict=True)]
    for (h, q, ws), (h_, q_, ws_) in zip(found, expected, strict=True):
        assert max(abs(x - y) / most for x, y, most in zip(h, h_, largest, strict=True)) < TOLERANCE
        assert q == pytest.approx(q_, abs=TOLERANCE)
        for name, x in ws_.items():
            x, y = torch.tensor(ws[name], dtype=torch.float64), torch.tensor(x, dtype=torch.float64)
            assert (x - y).norm() < TOLERANCE * y.norm(), name


def oracle():
    """The updates of the oracle, which shares nothing with the library."""
    config = {
        **{"eps": 1e-6, "weight_decay": 0.1, "grad_clip": CLIP, "start": START, "hyper_clip": 10.0},
        **{"hyper_lr": {q: 5e-4 if q in NAMES[:2] else 1e-1 for q in NAMES}},
        **{"hyper_momentum": dict.fromkeys(NAMES, 0.0), "hypergrad_init_iter": LATER},
        **{"gradient_accumulation_steps": PASSES, "log_interval": 10**9},
    }
    assert started(config) == START
    given = []
    for rank in range(RANKS):
        left = iter(rows(rank))
        batches = [[next(left) for _ in range(count)] for count in COUNTS]
        given.append(Run(config, False, weights(), [LR] * UPDATES, batches))
    for step in theirs(*given):
        yield step.hypergradients, step.coefficients, {name: x.tolist() for name, x in step.weights.items()}


@pytest.mark.parametrize("when", OBSERVED)
def test_two_processes_are_two_ranks_of_the_authors(when):
    found = group.run(RANKS, on_a_rank, when)
    assert found[0] == found[1]
    expected = list(on_one_process(when))
    assert_alike(found[0], expected)
    assert expected[-1][1] != pytest.approx(list(START.values()), abs=1e-4)
    if when == "first":
        assert_alike(found[0], list(oracle()))


def test_one_process_clips_its_own_gradient(data_dir, tmp_path):
    """It is the whole one."""
    found = []
    for of in ("whole", "each"):
        config = replace(CONFIG, grad_clip=0.05, grad_clip_of=of, data_dir=str(data_dir), out_dir=str(tmp_path / of))
        assert runs.in_child(runs.train, config) == 0
        found.append([row["digest"] for row in read_run(tmp_path / of).rows if "digest" in row])
    assert found[0] == found[1]


def test_other_processes_at_a_resume_are_told_to_clip_otherwise(data_dir, tmp_path, caplog):
    config = replace(CONFIG, grad_clip_of="each", data_dir=str(data_dir), out_dir=str(tmp_path / "run"))
    assert ranks.in_group(2, runs.train, replace(config, max_iters=4)) == 0
    runs.train(replace(config, init_from="resume"))
    assert "other processes than before: each clips another share of the gradient" in caplog.text


def parameter(gradient):
    p = torch.nn.Parameter(torch.zeros(len(gradient)))
    p.grad = torch.tensor(gradient)
    return p


def test_a_scaled_gradient_is_clipped_by_what_it_is_without_the_scale():
    p = parameter([3.0 * 1024, 4.0 * 1024])
    gradients.clip_own([p], 1.0, torch.tensor(1024.0), ALONE)
    assert p.grad.tolist() == pytest.approx([0.6 * 1024, 0.8 * 1024], rel=1e-6)
    gradients.clip_own([p], 10.0, torch.tensor(1024.0), ALONE)
    assert p.grad.tolist() == pytest.approx([0.6 * 1024, 0.8 * 1024], rel=1e-6)


@pytest.mark.parametrize("bad", [math.inf, math.nan, 3e38])
def test_a_gradient_that_is_not_finite_shows_afterwards(bad):
    """As one whose norm overflows, which would become 0."""
    p = parameter([bad, 3e38, 1.0])
    gradients.clip_own([p], 1.0, torch.tensor(1.0), ALONE)
    assert p.grad.isnan().all()


def overflowing(config):
    """An element of one process's own gradient is infinite in step 3, of the other's in step 5."""
    original = gradients.clip_each

    def clip_each(session):
        if session.world.rank == {3: 0, 5: 1}.get(session.step + 1):
            next(session.model.parameters()).grad.view(-1)[0] = math.inf
        original(session)

    gradients.clip_each = clip_each
    session = runs.train(config)
    own = redistribution.digest({**session.state_dict(), "random": None})  # of generators, which passes seed anew
    told = {"scaler": session.scaler.state_dict(), "digest": own}
    Path(f"{config.out_dir}.{os.environ['RANK']}").write_text(json.dumps(told))


@pytest.mark.parametrize(("dtype", "when"), [("float32", "unclipped"), ("float16", "unclipped"), ("float16", "first")])
def test_an_overflow_on_one_process_skips_the_step_of_all(data_dir, tmp_path, dtype, when):
    keys = {"dtype": dtype, "optimizer": "mada", "hyper_observe": when, "grad_clip_of": "each", "digest_interval": 1}
    config = replace(CONFIG, dropout=0.0, max_iters=8, data_dir=str(data_dir), out_dir=str(tmp_path / "run"), **keys)
    assert ranks.in_group(2, overflowing, config) == 0
    told = [json.loads(Path(f"{config.out_dir}.{rank}").read_text()) for rank in range(2)]
    assert told[0] == told[1]
    rows_ = read_run(Path(config.out_dir)).rows
    skipped = [row["skipped_steps"] for row in rows_]
    assert skipped[2:6] == [skipped[2], skipped[2] + 1, skipped[2] + 1, skipped[2] + 2]
    assert dtype == "float32" or told[0]["scaler"]["scale"] == 2.0 ** (16 - skipped[-1])
    assert any(rows_[-1]["hypergradients"].values())
