"""A run on several processes, started by `torchrun`: who they are, what they exchange, how they share the model.

Every process computes its share of a step. The first one writes: record, checkpoints, progress; the others wait for it,
and an error of it ends all of them (`World.on_first`).
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
from mada_lab.errors import ConfigError, DistributedError, Followed, Interrupted, LabError, shared, translated

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them; by default a single process."""

    rank: int = 0  #: number of this process; 0 is the first
    size: int = 1  #: number of processes
    local_size: int = 1  #: number of processes on this machine
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  #: of the tensors that are sent

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def on_first(self, work: Callable[[], T]) -> T | None:
        """Returns `work()` on the first process; None on the others, which wait, and raise Followed if it raised."""
        if self.size == 1:
            return work()
        result, error = None, None
        if self.is_first:
            try:
                result = work()
            except Exception as caught:
                error = caught
        code = self.broadcast(getattr(error, "exit_code", 1) if error is not None else 0)
        if error is not None:
            raise error
        if code:
            raise Followed(code)
        return result

    @contextmanager
    def enter_on_first(self, hold: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        """Enters `hold()` on the first process."""
        with ExitStack() as stack:
            self.on_first(lambda: stack.enter_context(hold()))
            yield

    def broadcast(self, tree: Any) -> Any:
        """The first process's `tree`, of JSON types; that of the other processes is ignored."""
        if self.size == 1:
            return tree
        content = json.dumps(tree).encode() if self.is_first else b""
        length = int(self._sent(torch.tensor(len(content), device=self.device)))
        text = bytearray(content.ljust(length))
        return json.loads(bytes(self._sent(torch.frombuffer(text, dtype=torch.uint8).to(self.device)).cpu().numpy()))

    def all_gather(self, tree: Any) -> list[Any]:
        """Every process's `tree`, of JSON types, by rank."""
        if self.size == 1:
            return [tree]
        content = json.dumps(tree).encode()
        lengths = self._gathered(torch.tensor([len(content)]))
        padded = torch.frombuffer(bytearray(content.ljust(int(max(lengths)))), dtype=torch.uint8)
        return [json.loads(bytes(x.cpu().numpy())) for x in self._gathered(padded)]

    def _gathered(self, x: Tensor) -> list[Tensor]:
        x = x.to(self.device)
        gathered = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(gathered, x)
        return gathered

    def together(self, work: Callable[[], T], kind: type[LabError]) -> T:
        """Returns `work()`, once all processes have; if it raised an error of this `kind` on any, all raise it."""
        if self.size == 1:
            return work()
        result, failure = None, None
        try:
            result = work()
        except kind as error:
            failure = str(error)
        message = next((x for x in self.all_gather(failure) if x is not None), None)
        if message is not None:
            raise shared(kind(message))
        return cast(T, result)

    def broadcast_tensor(self, x: Tensor | None, shape: list[int], dtype: torch.dtype) -> Tensor:
        """The first process's tensor, on `device`."""
        return self._sent((torch.empty(shape, dtype=dtype) if x is None else x).to(self.device))

    def _sent(self, x: Tensor) -> Tensor:
        if self.size > 1:
            dist.broadcast(x, src=0)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """Replaces `x` by the sum over all processes, with the same bits on each, and returns it."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Raises DistributedError, which names the first difference, unless all processes have the same `facts`."""
        first, *others = self.all_gather({name: _digest(x) for name, x in facts.items()})
        for rank, theirs in enumerate(others, 1):
            for name in facts:
                if theirs[name] != first[name]:
                    raise DistributedError(
                        f"processes, {name}: expected the same on all, got another on rank {rank} than on rank 0; "
                        "start them with one command line, one version of the code and one copy of the data"
                    )


ALONE = World()


def _digest(x: Any) -> str:
    return hashlib.sha256(json.dumps(x, sort_keys=True).encode()).hexdigest()


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1" or os.environ.get("RANK", "0") != "0"


def is_first() -> bool:
    """Whether this process is the first that torchrun has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def one_by_one() -> Iterator[None]:
    """On each machine, lets the first process go first; the others follow when it has left."""
    first = local_rank() in (None, 0)
    if not first:
        dist.barrier()
    yield
    if first and local_rank() is not None:
        dist.barrier()


def local_rank() -> int | None:
    """The number of this process on its machine; None without a process group."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_available() and dist.is_initialized() else None


def current(device: torch.device) -> World:
    """The processes of this process's group, or this process alone."""
    if local_rank() is None:
        return World(device=device)
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"]), device)


@contextmanager
def group(config: RunConfig) -> Iterator[None]:
    """Joins the processes that torchrun has started; a single process has nothing to join.

    Raises:
        ConfigError: So many processes can't share the work of the configuration.
        DistributedError: The group can't be formed, or one of its processes or connections fails later.
    """
    if not started_by_torchrun():
        yield
        return
    _require_environment()
    require_shares(config, int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    on_cuda = config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with translated((RuntimeError, ValueError, OSError), _of_group):
        timeout = timedelta(seconds=config.distributed_timeout)
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun keeps its store over restarts: without a prefix, processes find the addresses of dead ones there
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "nccl" if on_cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        try:
            yield
        except Interrupted:  # all processes are; after another error, waiting for a process that is gone takes long
            _leave()
            raise
        _leave()


def _leave() -> None:
    """Ends the group. A gloo group is not destroyed: all processes meet at a barrier, and then end.

    Its destructor holds the interpreter's lock while it waits for the sending thread. If that thread needs the lock to
    free the last message, both wait forever (torch 2.13). A process that ends while it frees a message aborts; the
    barrier sends no tensor, and comes after all messages that do.
    """
    if dist.get_backend() == "gloo":
        dist.barrier()
    else:
        dist.destroy_process_group()


def _require_environment() -> None:
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        remedy = "start with `torchrun --nproc_per_node=N -m mada_lab train ...`"
        raise DistributedError(f"environment, {', '.join(missing)}: expected what torchrun sets, got nothing; {remedy}")


def require_shares(config: RunConfig, size: int, local_size: int) -> None:
    """Raises ConfigError unless `size` processes, `local_size` on each machine, can share the work of a step."""
    for key in ("gradient_accumulation_steps", "first_accumulation"):
        passes = getattr(config, key)
        if passes is not None and passes % size:
            what = f"expected a multiple of the {size} processes that share these forward passes, got {passes}"
            nearest = max(size, passes // size * size)
            raise ConfigError(f"configuration, key {key}: {what}; set it to {nearest}, for example")
    if config.device not in ("auto", "cpu", "cuda"):
        what = f"expected auto, cpu or cuda for several processes, got {config.device}"
        raise ConfigError(f"configuration, key device: {what}; use auto, which gives each process of a machine its own")
    if config.parallel == "hybrid" and size % local_size:
        what = f"expected as many processes on each machine with hybrid, got {size} in all and {local_size} here"
        raise ConfigError(f"configuration, key parallel: {what}; use fsdp")


def _of_group(error: Exception) -> DistributedError | None:
    """The error that says what `error` of torch.distributed means; None for any other error."""
    text = " ".join(str(error).split())
    if not isinstance(error, dist.DistError) and not any(x in text for x in ("gloo", "NCCL", "c10d", "rendezvous")):
        return None
    return DistributedError(
        f"process group, on rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: expected all to answer, got "
        f"{text[:160]}; look for the first error of the others, and go on with --init_from=resume"
    )


def shard(model: nn.Module, blocks: list[nn.Module], parallel: str, world: World) -> None:
    """Shards `model` over the processes; it is gathered block by block while it is used.

    With "fsdp" over all processes; with "hybrid" over those of each machine, and machines hold replicas.
    """
    if world.size == 1 or parallel == "ddp":
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sizes = {"shards": world.size}
    if parallel == "hybrid":
        sizes = {"replicas": world.size // world.local_size, "shards": world.local_size}
    mesh = init_device_mesh(world.device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh)


def wrapped(forward: nn.Module, parallel: str, world: World) -> nn.Module:
    """`forward`, whose gradients are averaged over all processes, unless the model is sharded."""
    if world.size == 1 or parallel != "ddp":
        return forward
    devices = [world.device.index] if world.device.type == "cuda" else None
    # mada_lab.compute.batch_norm merges the buffers
    return nn.parallel.DistributedDataParallel(forward, device_ids=devices, forward_sync_buffers=False)


def accumulating(
    forward: nn.Module, model: nn.Module, last: bool, observed: bool = False
) -> AbstractContextManager[None]:
    """A context for one forward and backward pass; gradients are exchanged only if it is the `last` of a step.

    Sharded gradients exist only after an exchange, so a pass that is `observed` has one too.
    """
    if isinstance(forward, nn.parallel.DistributedDataParallel):
        waiting: AbstractContextManager[None] = forward.no_sync()
        return nullcontext() if last else waiting
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(last or observed)
    return nullcontext()


def of_own_gradients(parallel: str, world: World) -> Any:
    """The group of processes that have gradients of their own before the last pass; None if there is none."""
    return dist.group.WORLD if world.size > 1 and parallel == "ddp" else None
