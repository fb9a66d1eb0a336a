"""Coefficients for loggers: a flat dict, also from an optimizer that a library has wrapped."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from mada_optim.hyper_optimizer import HyperOptimizer
from mada_optim.matrices import hidden_matrices


def missing(library: str, extra: str) -> ImportError:
    """The error to raise if `library`, which the extra `extra` installs, can't be imported."""
    return ImportError(
        f"mada_optim.integrations.{library}: expected the library {library!r}, which could not be imported; "
        f'pip install "mada-optim[{extra}]"'
    )


def unwrapped(optimizer: Any) -> Any:
    """The innermost optimizer. Accelerate, Lightning and Fabric have the wrapped one as `.optimizer`."""
    while (inner := getattr(optimizer, "optimizer", None)) is not None:
        optimizer = inner
    return optimizer


def expect_hyper_optimizers(optimizers: list[Any]) -> list[HyperOptimizer]:
    """The optimizers of this library among `optimizers`, unwrapped. Raises TypeError if there is none."""
    inner = [unwrapped(optimizer) for optimizer in optimizers]
    ours = [optimizer for optimizer in inner if isinstance(optimizer, HyperOptimizer)]
    if not ours:
        names = ", ".join(type(optimizer).__name__ for optimizer in inner) or "none"
        raise TypeError(
            f"MADACallback, the trainer's optimizer: expected one of mada_optim, got {names}; "
            "train with one, such as AutoMuon, or leave the callback out"
        )
    return ours


def warn_of_shapes_alone(optimizers: list[HyperOptimizer]) -> None:
    """Warns if hidden matrices were guessed from shapes alone: embeddings may be among them.

    It is so if a library makes the groups from the model's parameters, without their names.
    """
    for optimizer in optimizers:
        unnamed = [x for x in optimizer.param_groups if x.get("matrix") is None and "param_names" not in x]
        if optimizer.rule.matrix_weight is not None and any(any(x[hidden_matrices.FLAGS]) for x in unnamed):
            name = type(optimizer).__name__
            warnings.warn(
                f"{name}: hidden matrices were guessed from shapes alone, and embeddings may be among them, as the "
                f"groups have neither names nor 'matrix'; make {name} of param_groups(model)",
                stacklevel=3,
            )


def flat_coefficients(optimizer: HyperOptimizer, prefix: str = "mada") -> dict[str, float]:
    """The coefficients as a flat dict: "mada/beta1", or "mada/<scope name>/beta1" if each scope has its own.

    Reads from the device and waits for it: call it when you log, not in every step.
    """
    return dict(_flat(optimizer.coefficients(), prefix))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, x in values.items():
        if isinstance(x, Mapping):
            yield from _flat(x, f"{prefix}/{name}")
        else:
            yield f"{prefix}/{name}", x
