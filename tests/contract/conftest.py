"""Every contract is held by each engine: as users get it, without a compiler, and the eager loop alone."""

import pytest

from mada_optim.engines import choice
from mada_optim.engines.choice import NoKernelError


def no_kernel(*_):
    raise NoKernelError("this test runs the eager engine")


@pytest.fixture(params=["auto", "tiled", "eager"], autouse=True)
def engine(request, monkeypatch):
    if request.param == "eager":
        monkeypatch.setattr("mada_optim.engines.choice.choose", no_kernel)
    if request.param == "tiled":
        choose = choice.choose
        monkeypatch.setattr("mada_optim.engines.choice.choose", lambda _, *rest: choose("tiled", *rest))
    return request.param
