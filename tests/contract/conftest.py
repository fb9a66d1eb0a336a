"""Every contract is held by each engine: once as users get it, once with the eager loop alone."""

import pytest


@pytest.fixture(params=["auto", "eager"], autouse=True)
def engine(request, monkeypatch):
    if request.param == "eager":
        monkeypatch.setattr("mada_optim.kernels.choose", lambda *_: None)
    return request.param
