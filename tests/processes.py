"""Where tests take processes from: a server that has torch loaded, so that each starts at once."""

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
LOADED = ("torch._dynamo", "torch.distributed.fsdp")
PROCESSES.set_forkserver_preload([*LOADED])
