"""Some processes that form a group over gloo, out of a server with torch loaded; what hangs is killed."""

import tempfile
import time
import traceback

import pytest
import torch
import torch.distributed as dist

from tests.processes import PROCESSES

needs_fsdp2 = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason=f"FSDP2 of torch {torch.__version__} does not run on CPUs"
)
DEADLINE = 60.0  # seconds


def run(world, work, *arguments):
    """What `work(*arguments)` returned on each of `world` processes, by rank. It may be anything that pickles."""
    with tempfile.NamedTemporaryFile() as store:
        pipes = [PROCESSES.Pipe(duplex=False) for _ in range(world)]
        members = [
            PROCESSES.Process(target=_member, args=(sender, rank, world, store.name, work, arguments), daemon=True)
            for rank, (_, sender) in enumerate(pipes)
        ]
        for member, (_, sender) in zip(members, pipes, strict=True):
            member.start()
            sender.close()
        until = time.monotonic() + DEADLINE
        try:
            answers = [_answer(receiver, until) for receiver, _ in pipes]
        finally:
            for member in members:
                member.kill()
                member.join()
    return answers


def _answer(receiver, until):
    assert receiver.poll(max(0.0, until - time.monotonic())), "a process hangs"
    kind, answer = receiver.recv()
    assert kind == "returned", answer
    return answer


def _member(pipe, rank, world, store, work, arguments):
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
        pipe.send(("returned", work(*arguments)))
        dist.barrier()
    except BaseException:
        pipe.send(("raised", traceback.format_exc()))
