"""Every contract is held by each engine: once as users get it, once with the eager loop alone."""

import pytest

from mada_optim.kernels import NoKernelError


def no_kernel(*_):
    raise NoKernelError("this test runs the eager engine")


@pytest.fixture(params=["auto", "eager"], autouse=True)
def engine(request, monkeypatch):
    if request.param == "eager":
        monkeypatch.setattr("mada_optim.kernels.choose", no_kernel)
    return request.param
