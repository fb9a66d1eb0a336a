"""A run on several processes, which `torchrun` starts: who they are, what they agree on, how their memory is shared.

Every process computes its share of a step. The first one writes: record, checkpoints, progress. What it does alone, the
others wait for, and an error of it ends them all (`World.on_first`). Nothing here knows a model or an optimizer.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError, DistributedError, Followed, Interrupted, LabError, shared

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them. Without a group, one process is all there is.

    Attributes:
        rank: Number of this process; 0 is the first.
        size: Number of processes.
        local_rank: Its number on this machine.
        local_size: Number of processes on this machine.
        device: Where messages are sent from.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def on_first(self, work: Callable[[], T]) -> T | None:
        """What `work()` returns, on the first process; None on the others, which wait for it.

        Raises:
            Followed: On the others, if `work` raised on the first.
        """
        if self.size == 1:
            return work()
        result, error = None, None
        if self.is_first:
            try:
                result = work()
            except Exception as caught:
                error = caught
        code = self.told(getattr(error, "exit_code", 1) if error is not None else 0)
        if error is not None:
            raise error
        if code:
            raise Followed(code)
        return result

    @contextmanager
    def held_by_first(self, hold: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        """Enters `hold()` on the first process, for as long as this is entered."""
        with ExitStack() as stack:
            self.on_first(lambda: stack.enter_context(hold()))
            yield

    def told(self, x: int) -> int:
        """The first process's `x`."""
        return int(self._sent(torch.tensor(x, device=self.device)))

    def told_json(self, tree: Any) -> Any:
        """The first process's `tree`, of what JSON has; what the others pass is not looked at."""
        if self.size == 1:
            return tree
        content = json.dumps(tree).encode() if self.is_first else b""
        length = self.told(len(content))
        text = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        buffer = text.to(self.device) if self.is_first else text.new_empty(length, device=self.device)
        return json.loads(bytes(self._sent(buffer).cpu().numpy()))

    def all_told(self, tree: Any) -> list[Any]:
        """Every process's `tree`, of what JSON has, by rank."""
        if self.size == 1:
            return [tree]
        content = json.dumps(tree).encode()
        lengths = self._gathered(torch.tensor([len(content)]))
        padded = torch.frombuffer(bytearray(content.ljust(int(max(lengths)))), dtype=torch.uint8)
        return [json.loads(bytes(x.cpu().numpy())) for x in self._gathered(padded)]

    def _gathered(self, x: Tensor) -> list[Tensor]:
        x = x.to(self.device)
        found = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(found, x)
        return found

    def together(self, work: Callable[[], T], kind: type[LabError]) -> T:
        """What `work()` returns, once it has gone well on all processes.

        Raises:
            LabError: Of this `kind`, on all, if `work` raised one on any of them: the first such one's message.
        """
        result, failure = None, None
        try:
            result = work()
        except kind as error:
            failure = str(error)
        message = next((x for x in self.all_told(failure) if x is not None), None)
        if message is not None:
            raise shared(kind(message))
        return cast(T, result)

    def told_tensor(self, x: Tensor | None, shape: list[int], dtype: torch.dtype) -> Tensor:
        """The first process's tensor, on the device of messages."""
        if x is None:
            x = torch.empty(shape, dtype=dtype, device=self.device)
        return self._sent(x.to(self.device))

    def _sent(self, x: Tensor) -> Tensor:
        if self.size > 1:
            dist.broadcast(x, src=0)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all processes' `x`, in its place: the same bits on each of them."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Raises DistributedError, which names the first difference, unless all processes have the same `facts`."""
        if self.size == 1:
            return
        own = [_fingerprint(x) for x in facts.values()]
        mine = torch.tensor(own, device=self.device)
        all_of_them = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_of_them, mine)
        for rank, theirs in enumerate(all_of_them):
            for name, ours, x in zip(facts, all_of_them[0].tolist(), theirs.tolist(), strict=True):
                if ours != x:
                    raise DistributedError(
                        f"processes, {name}: expected the same on all, got another on rank {rank} than on rank 0; "
                        "start them with one command line, one version of the code and one copy of the data"
                    )


ALONE = World()


def _fingerprint(x: Any) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(x, sort_keys=True).encode()).digest()[:7])


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun has started."""
    return os.environ.get("WORLD_SIZE", "1") != "1" or os.environ.get("RANK", "0") != "0"


def is_first() -> bool:
    """Whether this process is the first of those that torchrun has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def one_by_one() -> Iterator[None]:
    """On each machine, the first process goes first, and the others follow when it is through."""
    first = local_rank() in (None, 0)
    if not first:
        dist.barrier()
    yield
    if first and local_rank() is not None:
        dist.barrier()


def local_rank() -> int | None:
    """The number of this process on its machine; None where there is no group."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_available() and dist.is_initialized() else None


def current(device: torch.device) -> World:
    """The group that this process is in, or itself alone."""
    if local_rank() is None:
        return World(device=device)
    local = {"local_rank": int(os.environ["LOCAL_RANK"]), "local_size": int(os.environ["LOCAL_WORLD_SIZE"])}
    return World(dist.get_rank(), dist.get_world_size(), **local, device=device)


@contextmanager
def group(config: RunConfig) -> Iterator[None]:
    """Joins the processes that torchrun has started, for as long as it is entered; alone, does nothing.

    Raises:
        ConfigError: The configuration can't be shared out among so many.
        DistributedError: The group can't be formed, or a process of it, or the connection to it, fails later.
    """
    if not started_by_torchrun():
        yield
        return
    _require_environment()
    require_shares(config, int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    on_cuda = config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _explained():
        dist.init_process_group("nccl" if on_cuda else "gloo", timeout=timedelta(seconds=config.distributed_timeout))
        try:
            yield
        except Interrupted:  # with all of them; after an error, to take leave of a process that is gone could take long
            _take_leave()
            raise
        _take_leave()


def _take_leave() -> None:
    """Ends the group. One over gloo is left to the end of the process, once all have come here.

    Its destructor waits for the thread that sends, and keeps the interpreter's lock meanwhile; if that thread still has
    the last message to free, which takes the lock, both wait for ever (torch 2.13). A process that ends while it frees
    one aborts; a barrier has no tensor to free, and comes after all that have.
    """
    if dist.get_backend() == "gloo":
        dist.barrier()
    else:
        dist.destroy_process_group()


def _require_environment() -> None:
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise DistributedError(
            f"environment, {', '.join(missing)}: expected what torchrun sets, got nothing; "
            "start with `torchrun --nproc_per_node=N -m mada_lab train ...`"
        )


def require_shares(config: RunConfig, size: int, local_size: int) -> None:
    """Raises ConfigError unless `size` processes, `local_size` on each machine, can share the work of a step."""
    for key in ("gradient_accumulation_steps", "first_accumulation"):
        passes = getattr(config, key)
        if passes is not None and passes % size:
            raise ConfigError(
                f"configuration, key {key}: expected a multiple of the {size} processes that share these forward "
                f"passes, got {passes}; set it to {max(size, passes // size * size)}, say"
            )
    if config.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"configuration, key device: expected auto, cpu or cuda for several processes, got {config.device}; use "
            "auto, which gives each process of a machine its own"
        )
    if config.parallel == "hybrid" and size % local_size:
        raise ConfigError(
            f"configuration, key parallel: expected as many processes on each machine with hybrid, got {size} in all "
            f"and {local_size} here; use fsdp"
        )


@contextmanager
def _explained() -> Iterator[None]:
    """An error of torch.distributed as one line."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        text = " ".join(str(error).split())
        ours = isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "NCCL", "c10d", "rendezvous"))
        if not ours:
            raise
        raise DistributedError(
            f"process group, on rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: expected all to answer, got "
            f"{text[:160]}; look for the first error of the others, and go on with --init_from=resume"
        ) from error


def shard(model: nn.Module, blocks: list[nn.Module], parallel: str, world: World) -> None:
    """Leaves each process its share of `model`, which is gathered block by block while it is used.

    With "fsdp" the share is one of all processes; with "hybrid" of those on one machine, and machines hold replicas.
    """
    if world.size == 1 or parallel == "ddp":
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    machines = world.size // world.local_size
    shape, names = ((world.size,), ("shards",))
    if parallel == "hybrid":
        shape, names = (machines, world.local_size), ("replicas", "shards")
    mesh = init_device_mesh(world.device.type, shape, mesh_dim_names=names)
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh)


def wrapped(forward: nn.Module, parallel: str, world: World) -> nn.Module:
    """`forward` with gradients that are means over all processes."""
    if world.size == 1 or parallel != "ddp":
        return forward
    devices = [world.device.index] if world.device.type == "cuda" else None
    # buffers: mada_lab.running_statistics sees to them
    return nn.parallel.DistributedDataParallel(forward, device_ids=devices, forward_sync_buffers=False)


def accumulating(
    forward: nn.Module, model: nn.Module, last: bool, observed: bool = False
) -> AbstractContextManager[None]:
    """A forward and a backward pass whose gradients are exchanged only if it is the `last` of a step.

    Shards of them are there only once they are exchanged, so that is done too if the pass is `observed`.
    """
    if isinstance(forward, nn.parallel.DistributedDataParallel):
        waiting: AbstractContextManager[None] = forward.no_sync()
        return nullcontext() if last else waiting
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(last or observed)
    return nullcontext()


def of_own_gradients(parallel: str, world: World) -> Any:
    """The process group whose members have gradients of their own before the last pass; None if there is none."""
    return dist.group.WORLD if world.size > 1 and parallel == "ddp" else None
