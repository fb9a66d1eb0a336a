"""Every check is run with each engine, as the contracts are."""

from tests.contract.conftest import engine

__all__ = ["engine"]
