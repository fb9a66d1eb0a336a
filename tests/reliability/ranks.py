"""Runs of several processes, which form a group as if torchrun had started them."""

import os
import time

import torch.distributed as dist

from mada_lab.compute import world
from tests.processes import PROCESSES
from tests.reliability import runs


class Group:
    """Processes that train together.

    Attributes:
        processes: By rank.
    """

    def __init__(self, size, work, *arguments, local_size=None):
        # As torchrun does it: the store where they meet is the parent's, so that no free port has to be guessed
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        sizes = (size, local_size or size, self._store.port)
        self.processes = [
            PROCESSES.Process(target=_member, args=(rank, *sizes, work, arguments)) for rank in range(size)
        ]
        for process in self.processes:
            process.start()

    def codes(self, deadline=runs.DEADLINE):
        """The exit codes by rank; None for a process that hangs, and is killed."""
        until = time.monotonic() + deadline
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        found = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return found


def in_group(size, work, *arguments, local_size=None, deadline=runs.DEADLINE):
    """Runs `work` on `size` processes; returns their exit code, or a list if they don't have the same."""
    codes = Group(size, work, *arguments, local_size=local_size).codes(deadline)
    return codes[0] if len(set(codes)) == 1 else codes


def _member(rank, size, local_size, port, work, arguments):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank % local_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(local_size), TORCHELASTIC_USE_AGENT_STORE="True")
    runs.guarded(_joined, (work, arguments))


def _joined(work, arguments):
    with world.group(arguments[0]):
        work(*arguments)
