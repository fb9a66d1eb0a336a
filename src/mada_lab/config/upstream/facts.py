"""nanoGPT's and the authors' keys and defaults, in the keys and commands of this application: facts alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Key:
    """A key of theirs that isn't ours."""

    type: type  #: of its values
    meaning: str  #: its counterpart here, in one clause
    #: by value, our keys with the same meaning
    keys: Mapping[Any, Mapping[str, Any]] = field(default_factory=lambda: NOTHING)
    same: Any = None  #: the value that changes nothing here
    refused: Mapping[Any, str] = field(default_factory=lambda: NOTHING)  #: by refused value, the remedy
    #: The package that `keys` need. Without it, the key of a file is noted and has no effect.
    package: str | None = None


START = "hypergrad_init_iter"

#: Their keys that aren't ours.
THEIRS: dict[str, Key] = {
    "adam": Key(
        bool,
        "nothing is learned, by MADA's rule, which is Adam's where beta3 = 0 and rho = c = gamma = 1: "
        "`--optimizer=mada --learn=none`",
        keys={True: {"optimizer": "mada", "learn": "none"}},
        same=False,
    ),
    "hyperadam": Key(
        bool,
        "beta1 and beta2 are learned, by MADA's rule: `--optimizer=mada --learn=beta1,beta2`",
        keys={True: {"optimizer": "mada", "learn": "beta1,beta2"}},
        same=False,
    ),
    START: Key(int, "`--hyper_start`, in optimizer steps instead of micro-batches"),
    "hypergrad": Key(bool, "no counterpart: the record is always written", same=True),
    "eval_only": Key(
        bool,
        "`mada-lab eval RUN`",
        same=False,
        refused={True: "use `mada-lab eval RUN` for a run, a checkpoint or an export"},
    ),
    "deterministic_validation": Key(
        bool,
        "evaluations are always on the same batches, which `--eval_seed` draws",
        same=True,
        refused={False: "leave it out, or draw other batches by eval_seed"},
    ),
    "always_save_checkpoint": Key(
        bool,
        "checkpoints are written every `--checkpoint_interval` steps whatever the loss, and the newest "
        "`--keep_checkpoints` stay",
        same=True,
    ),
    "wandb_log": Key(bool, "`--mirror=wandb`", keys={True: {"mirror": "wandb"}}, same=False, package="wandb"),
    "wandb_project": Key(str, "no counterpart: the project of a mirror is mada-lab"),
    "wandb_run_name": Key(str, "no counterpart: a mirrored run has the name of its folder, `--out_dir`"),
    "backend": Key(str, "no counterpart: processes talk by nccl on GPUs, by gloo on CPUs"),
}

#: The keys that count iterations. A count that isn't a whole number of steps is refused (SCHEDULE), or rounded up.
SCHEDULE = ("warmup_iters", "lr_decay_iters", START)
ROUNDED_UP = ("max_iters", "eval_interval", "log_interval")
ACCUMULATION = "gradient_accumulation_steps"


@dataclass(frozen=True)
class Script:
    """A training script that Python configurations are written for."""

    name: str  #: its name in messages
    processes: int  #: its number of processes, each of which has the accumulation steps of the file
    defaults: Mapping[str, Any]  #: its values for keys that a file leaves out, where ours differ


_BOTH = {"dataset": "openwebtext", "block_size": 1024, "eval_interval": 2000, "eval_iters": 200, "log_interval": 1}
NANOGPT = Script("nanoGPT's train.py", 1, {
    **_BOTH, ACCUMULATION: 40, "n_layer": 12, "n_head": 12, "n_embd": 768, "learning_rate": 6e-4, "min_lr": 6e-5,
    "max_iters": 600_000, "lr_decay_iters": 600_000, "warmup_iters": 2000,
})  # fmt: skip
TRAIN_DDP = Script("the authors' train_ddp.py", 8, {
    **_BOTH, ACCUMULATION: 5, "n_layer": 10, "n_head": 10, "n_embd": 480, "learning_rate": 1e-3, "min_lr": 1e-4,
    "max_iters": 10_000, "lr_decay_iters": 10_000, "warmup_iters": 0, "seed": 5000,
})  # fmt: skip
#: The sizes that come with trained weights.
SIZES = ("n_layer", "n_head", "n_embd")

#: The optimizer of train_ddp.py, which differs from our default by its eps and its intervals. Equal are the rates (5e-4
#: for beta1 and beta2, 1e-1 for the others), no momentum, clipping at 10, and a start after 50 steps.
OPTIMIZER = "mada"
EPS = 1e-6
BOUNDS = {"beta1": "0.01:0.99", "beta2": "0.501:0.99", "beta3": "0:0.99"}


def optimizer(learn: str) -> dict[str, Any]:
    """Our keys for the authors' optimizer; `learn` is the value of that key."""
    names = {"all": tuple(BOUNDS), "none": ()}.get(learn, tuple(name.strip() for name in learn.split(",")))
    bounds = ",".join(f"{name}={interval}" for name, interval in BOUNDS.items() if name in names)
    return {"optimizer": OPTIMIZER, "eps": EPS, **({"bounds": bounds} if bounds else {})}
