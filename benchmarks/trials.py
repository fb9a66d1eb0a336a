"""Small changes to AutoMuon, each made around the optimizer from outside, against its defaults on the bench's tasks.

    python -m benchmarks.trials [--tasks NAME ...] [--variants NAME ...] [--seeds 1 2] [--data-dir D]

From the repository root, with the data of docs/results/bench.md; 5 to 40 s a run on one core. The runs are the bench's,
with its schedule, clipping and batches, which a seed fixes. A change is a hook before or after `opt.step()`, an option
of a group, or an average of the weights, evaluated at the end of the run in their place. Printed is the default's mean
validation loss at the last step, and for each variant the loss over the default's of the same seed: median and range
over seeds, and last the geometric mean over tasks. `decay .3 by hand` is the built-in decay made by a hook: it differs
from the default by rounding, and shows what that is worth.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import product
from statistics import geometric_mean, mean, median
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mada_lab.config.keys import RunConfig
from mada_lab.experiments.bench.tasks import TASKS
from mada_lab.optimizers import catalog
from mada_lab.tasks.open_data import open_data
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import Trainer
from mada_optim import AutoMuon, Guard
from mada_optim.engines.numbers import learning_rate
from mada_optim.matrices.hidden_matrices import FLAGS, LR_RATIO, view

DEFAULT = "default"
TEXTS = ("gpt_pydoc", "gpt_shakespeare_small", "gpt_shakespeare_large", "gpt_wikitext_bpe")
MEMORIES, SHARE, MIXED, TAILS = (10, 30, 100), 0.05, 0.6, (0.1, 0.25)
MU = 0.95  # of Muon's momentum
LOW = {"guard": Guard(ramp=100.0, least_beta2=0.9)}
Losses = dict[str, float]


class Variant(NamedTuple):
    """A change: what it does to the optimizer of a run of so many steps, keys of the run, options of AutoMuon."""

    around: Callable[[AutoMuon, int], None] = lambda opt, steps: None
    keys: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    averaged: bool = False  # whether averages of the weights are evaluated too
    fused: Mapping[str, Any] = {}  # keys of the groups of fused projections to query, key and value


def each(opt: AutoMuon) -> Iterator[tuple[dict[str, Any], Tensor, bool]]:
    """Every group, its parameter, and whether that is a hidden matrix."""
    for group in opt.param_groups:
        yield group, group["params"][0], bool(group[FLAGS][0])


def decay_by_hand(amount: float, cautious: bool, opt: AutoMuon, _: int) -> None:
    """Decay after the step, as the built-in one; if cautious (arXiv 2510.12402), only where the step shrinks."""
    decaying = [(group, p, flag) for group, p, flag in each(opt) if group["weight_decay"]]
    before = list[tuple[Tensor, Tensor]]()
    for group, _, _ in decaying:
        group["weight_decay"] = 0.0

    @torch.no_grad()
    def note(*_: Any) -> None:
        before[:] = [(p.clone(), p - opt.state[p].get("anchor", p)) for _, p, _ in decaying]

    @torch.no_grad()
    def decay(*_: Any) -> None:
        for (group, p, flag), (x, trace) in zip(decaying, before, strict=True):
            lr = float(learning_rate(view(opt.rule, group, flag), p.device))
            share = lr * amount * (((x - p) * x > 0) if cautious else 1.0)
            p.sub_(share * x)
            opt.state[p]["anchor"].add_(group["horizon"] * share * trace)  # lr's trace fades where weights decay

    opt.register_step_pre_hook(note)
    opt.register_step_post_hook(decay)


def signal_to_noise(power: float, opt: AutoMuon, _: int) -> None:
    """Muon's step of a matrix times s^power, of mean 1; s is the size of its momentum over that of its gradients."""
    matrices = [(group, p, group[LR_RATIO], group["weight_decay"]) for group, p, flag in each(opt) if flag]
    momenta, squares = [torch.zeros_like(p) for _, p, *_ in matrices], [torch.zeros(()) for _ in matrices]
    weight = torch.zeros(())

    @torch.no_grad()
    def scale(*_: Any) -> None:
        grads = [p.grad for _, p, *_ in matrices]
        weight.lerp_(torch.ones(()), 1 - MU)
        torch._foreach_lerp_(momenta, grads, 1 - MU)
        torch._foreach_lerp_(squares, [g.square().sum() for g in grads], 1 - MU)
        ratios = [b.norm() / (weight * square).sqrt() for b, square in zip(momenta, squares, strict=True)]
        sizes = [float(s.clamp(0.16, 1.0)) ** power for s in ratios]
        for (group, _, ratio, decay), size in zip(matrices, sizes, strict=True):
            group[LR_RATIO], group["weight_decay"] = ratio * size / mean(sizes), decay * mean(sizes) / size

    opt.register_step_pre_hook(scale)


def beta2(value: float, vectors: bool, opt: AutoMuon, _: int) -> None:
    """Another beta2 for biases and gains, or for embeddings."""
    for group in [group for group, p, flag in each(opt) if not flag and (p.ndim < 2) == vectors]:
        group["beta2"] = value


def decay_late(share: float, opt: AutoMuon, steps: int) -> None:
    """A linear fall of a flat schedule over the last `share` of the run, to a tenth."""
    done = [0]

    def fall(*_: Any) -> None:
        done[0] += 1
        for group in opt.param_groups:
            group["lr"] *= min(1.0, 0.1 + 0.9 * (1 - done[0] / steps) / share)

    opt.register_step_pre_hook(fall)


VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(averaged=True),
    "even rows": Variant(options={"nu": 1.0}),
    "even rows by half": Variant(options={"nu": 0.5}),
    "query, key, value apart": Variant(fused={"matrix": 3}),
    "query, key, value apart, even rows": Variant(options={"nu": 1.0}, fused={"matrix": 3}),
    "flat": Variant(keys={"decay_lr": False}, averaged=True),
    "flat, linear over the last .3": Variant(lambda *run: decay_late(0.3, *run), {"decay_lr": False}, averaged=True),
    "decay .3 by hand": Variant(lambda *run: decay_by_hand(0.3, False, *run)),
    "decay .6 by hand": Variant(lambda *run: decay_by_hand(0.6, False, *run)),
    "cautious decay .3": Variant(lambda *run: decay_by_hand(0.3, True, *run)),
    "cautious decay .6": Variant(lambda *run: decay_by_hand(0.6, True, *run)),
    "signal to noise ^.5": Variant(lambda *run: signal_to_noise(0.5, *run)),
    "signal to noise ^1": Variant(lambda *run: signal_to_noise(1.0, *run)),
    "beta2 .997 of vectors": Variant(lambda *run: beta2(0.997, True, *run)),
    "beta2 .999 of vectors": Variant(lambda *run: beta2(0.999, True, *run)),
    "beta2 .95 of embeddings": Variant(lambda *run: beta2(0.95, False, *run), options=LOW),
}


def averages(model: nn.Module, steps: int) -> dict[str, tuple[int, AveragedModel]]:
    """By name, torch's averages of the weights, each with the step that it begins at."""
    means = {f"mean of the last {x:g}": (round(steps * (1 - x)), AveragedModel(model)) for x in TAILS}
    memories = {**{f"EMA {x}": x for x in MEMORIES}, f"EMA of {SHARE:g} of the run": max(round(SHARE * steps), 1)}
    emas = {x: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / memories[x])) for x in memories}
    return {**means, **{x: (max(steps - 3 * memories[x], 0), average) for x, average in emas.items()}}


def losses_of(config: RunConfig, variant: Variant) -> Losses:
    """The last validation loss of a run: of the weights, under the name "", and of their averages."""
    state = TrainState.start(replace(config, optimizer="automuon", **variant.keys), open_data(config))
    decayed = catalog.decay_groups(state.model, catalog.weight_decay(state.config))
    groups = [
        {**group, "params": [(name, p)], **(variant.fused if name.endswith("c_attn.weight") else {})}
        for group in decayed
        for name, p in group["params"]
    ]
    state.optimizer = AutoMuon(groups, **variant.options)
    variant.around(state.optimizer, config.max_iters)
    trainer = Trainer(state, SimpleNamespace(step=lambda done: None))
    kept = averages(state.model, config.max_iters) if variant.averaged else {}
    for step in range(config.max_iters):
        trainer.train_step()
        [average.update_parameters(state.model) for begin, average in kept.values() if step >= begin]
    models = {"": state.model, **{name: average.module for name, (_, average) in kept.items()}}
    for name in ("EMA 30", "EMA 100") if kept else ():
        models[f"mixed {name}"] = mixed = deepcopy(state.model)
        with torch.no_grad():
            torch._foreach_lerp_(list(mixed.parameters()), list(models[name].parameters()), MIXED)
    where = state.task.validation(), state.precision, state.world
    return {name: state.task.measure(x, *where).loss for name, x in models.items()}


def table(found: Mapping[tuple[str, str, int], Losses], tasks: Sequence[str]) -> str:
    """The default's losses, then a line per variant and readout, with the ratios to the default by task."""
    rows = dict[str, dict[str, list[float]]]()
    for (task, variant, seed), losses in found.items():
        for readout, loss in losses.items():
            name = ", ".join(x for x in (variant, readout) if x)
            rows.setdefault(name, {}).setdefault(task, []).append(loss / found[task, DEFAULT, seed][""])
    base = {task: [x[""] for key, x in found.items() if key[:2] == (task, DEFAULT)] for task in tasks}
    heads = [f"{x} {mean(base[x]):.4f}" for x in tasks]
    lines = [f"{'over the default, whose loss is':56}" + "".join(f"{x:>30}" for x in heads) + "    all"]
    for name, of in rows.items():
        cells = [f"{median(of[x]):.3f} [{min(of[x]):.3f}, {max(of[x]):.3f}]" for x in tasks]
        over_all = geometric_mean([mean(of[x]) for x in tasks])
        lines.append(f"{name:56}" + "".join(f"{x:>30}" for x in cells) + f"{over_all:7.3f}")
    return "\n".join(lines)


def main() -> None:
    """Prints a line per run, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TEXTS), metavar="NAME")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--data-dir", default="data")
    given, found = parser.parse_args(), {}
    torch.set_num_threads(1)
    for task, seed, name in product(given.tasks, given.seeds, dict.fromkeys([DEFAULT, *given.variants])):
        config = replace(TASKS[task].config, seed=seed, data_dir=given.data_dir)
        found[task, name, seed] = losses = losses_of(config, VARIANTS[name])
        print(task, name, seed, *(f"{x} {loss:.4f}" for x, loss in losses.items()), flush=True)
    print(f"\ntorch {torch.__version__}, seeds {given.seeds}\n\n{table(found, given.tasks)}")


if __name__ == "__main__":
    main()
