"""The device of the tests here, and what only CUDA has.

MADA_GPU_TESTS_ON=cpu runs them on the CPU, Triton's under TRITON_INTERPRET=1 too. That shows errors of the tests
themselves on a machine without a device; it shows nothing about CUDA.
"""

import os
from contextlib import contextmanager

import pytest
import torch

from mada_optim.engines.triton import engine

DEVICE = os.environ.get("MADA_GPU_TESTS_ON", "cuda")
ON_CUDA = DEVICE == "cuda"
TRITON = "auto" if ON_CUDA else "triton"  # the engine that gives Triton's kernels there
needs_device = pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="needs a CUDA device")
needs_cuda = pytest.mark.skipif(not (ON_CUDA and torch.cuda.is_available()), reason="needs a CUDA device")
needs_triton = pytest.mark.skipif(
    not engine.installed() or (not ON_CUDA and not engine.interpreted()), reason="needs Triton"
)


@contextmanager
def no_synchronization(but_for=False):
    """Makes it an error that the host waits for the device, unless `but_for` says that it may."""
    if ON_CUDA:
        torch.cuda.set_sync_debug_mode("default" if but_for else "error")
    try:
        yield
    finally:
        if ON_CUDA:
            torch.cuda.set_sync_debug_mode("default")
