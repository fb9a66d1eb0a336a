"""Parameter groups from a model's modules, which identify hidden matrices exactly."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from mada_optim import checks
from mada_optim.grouping.modules import Matrix
from mada_optim.grouping.weights import Weight, weights
from mada_optim.layouts import is_matrix
from mada_optim.matrices import names

Head = str | nn.Module | Tensor


class ParamGroups(list[dict[str, Any]]):
    """Group dicts for an optimizer. `print` shows a table of the weights: name, shape, hidden, decay, reason.

    Attributes:
        weights: The trained weights, in the model's order.
        frozen: Number of frozen parameters, which are left out.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], weights: Iterable[Weight] = (), frozen: int = 0) -> None:
        super().__init__(groups)
        self.weights = tuple(weights)
        self.frozen = frozen

    def describe(self) -> str:
        """The table as text, with a line for each weight."""
        head = ("name", "shape", "hidden", "decay", "why")
        rows = [
            (x.name, "x".join(map(str, x.parameter.shape)), _shown(x.matrix), "yes" if x.decays else "no", x.why)
            for x in self.weights
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
        left_out = [f"left out: {self.frozen} frozen parameters (requires_grad=False)"] if self.frozen else []
        return "\n".join([*lines, *left_out])

    __str__ = __repr__ = describe


def param_groups(
    model: nn.Module,
    weight_decay: float | None = None,
    *,
    head: Head | Iterable[Head] | None = None,
    blocks: Mapping[str, int] | None = None,
    matrix: Mapping[str, Matrix] | None = None,
    decay_embeddings: bool = True,
) -> ParamGroups:
    """Groups the trained parameters of `model`: hidden matrices, other weights, and parameters without weight decay.

    Hidden matrices are the weights between two layers: those of linear, convolutional, recurrent and attention modules,
    and matrices of your own modules, where three dimensions are a batch. Embeddings, positions, output layers,
    depthwise convolutions, low-rank updates, norms and biases are not. Parametrized weights, and layers inside wrappers
    (DDP, FSDP2, `torch.compile`, PEFT), are treated like plain ones. Frozen parameters are left out.

    The output layer is the layer tied to an embedding, or else the layers named as a head, a classifier or an output,
    or else the last layer outside of repeated blocks. `print` the result to see each decision with its reason.

        opt = AutoMuon(param_groups(model))

    Args:
        model: The whole model; the output layer can't be identified from a part of it.
        weight_decay: Weight decay of all groups that have decay, >= 0. None: that of the optimizer.
        head: The output layers, if they are not found: modules, parameters or their paths, one or several; () for none.
        blocks: Numbers of equal blocks along the rows of fused weights, each block a matrix of its own:
            `{"attn.c_attn": 3}`. A key is the end of a path, or a pattern (`*`), of a layer or a parameter. Without it
            no weight is split, because heads may be interleaved.
        matrix: Overrides the class of weights, by the same keys: True, False, "batched", or a number of blocks.
        decay_embeddings: Whether weight decay applies to embeddings and positions.

    Returns:
        A list of dicts with `params` (named), `name`, `matrix`, and `weight_decay` if it is not the optimizer's.

    Raises:
        ValueError: No parameter is trained, a path or pattern fits no weight, or a weight can't be split so.
    """
    if weight_decay is not None:
        checks.number("weight_decay", weight_decay, checks.NON_NEGATIVE, "choose a finite one, or leave it out")
    every = weights(model, None if head is None else [_find(model, x) for x in _several(head)])
    every = _overridden(every, {**(blocks or {}), **(matrix or {})}, set(blocks or {}) & set(matrix or {}))
    if not decay_embeddings:
        every = [replace(x, decays=x.decays and not x.is_embedding) for x in every]
    trained = [x for x in every if x.parameter.requires_grad]
    if not trained:
        raise ValueError("param_groups: expected a parameter with requires_grad=True, got none; unfreeze some first")
    return ParamGroups(_groups(trained, weight_decay), trained, len(every) - len(trained))


def _groups(trained: list[Weight], weight_decay: float | None) -> list[dict[str, Any]]:
    """A group for each kind of matrix, one for other weights, and the same without decay, in this order."""
    decay = {} if weight_decay is None else {"weight_decay": float(weight_decay)}
    groups: dict[str, dict[str, Any]] = {}
    for x in sorted(trained, key=lambda x: (not x.decays, x.matrix is False, str(x.matrix) != "True", str(x.matrix))):
        options = {"matrix": x.matrix, **(decay if x.decays else {"weight_decay": 0.0})}
        group = groups.setdefault(_group_name(x), {"params": [], "name": _group_name(x), **options})
        group["params"].append((x.name, x.parameter))
    return list(groups.values())


def _group_name(x: Weight) -> str:
    if x.matrix is False:
        return "other" if x.decays else "no_decay"
    kind = "" if x.matrix is True else "_batched" if x.matrix == "batched" else f"_{x.matrix}_blocks"
    return f"hidden{kind}" if x.decays else f"hidden{kind}_no_decay"


def _overridden(every: list[Weight], by_key: Mapping[str, Matrix], twice: set[str]) -> list[Weight]:
    """The weights, with the user's values of `matrix`."""
    for key in twice:
        raise ValueError(f"blocks and matrix: expected {key!r} in one of them, got it in both; drop one")
    values: dict[str, tuple[str, Matrix]] = {}
    for key, matrix in by_key.items():
        for x in _matching(every, key):
            other, value = values.setdefault(x.name, (key, matrix))
            if value != matrix:
                raise ValueError(
                    f"{key!r} and {other!r} in blocks or matrix: expected one value for {x.name}, got two; make the "
                    "patterns narrower"
                )
            _require_matrices(key, x, matrix)
    return [replace(x, matrix=values[x.name][1], why="said by the user") if x.name in values else x for x in every]


def _matching(every: list[Weight], key: str) -> list[Weight]:
    candidates = [x for x in every if is_matrix(x.parameter)]
    fitting = [x for x in candidates if any(_fits(path, key) for path in _paths(x.name))]
    if not fitting:
        paths = {end for x in candidates for path in _paths(x.name) for end in (path, path.rpartition(".")[2])}
        raise ValueError(
            f"{key!r} in blocks or matrix: expected the end of a weight's path, got none; {_near(key, paths)}"
        )
    return fitting


def _paths(name: str) -> tuple[str, str, str]:
    """The paths by which a key may name a weight: its name, its layer's path, and that without wrappers."""
    return name, name.rpartition(".")[0], ".".join(names.path(name).layer)


def _fits(path: str, key: str) -> bool:
    return fnmatchcase(path, key) or fnmatchcase(path, f"*.{key}")


def _require_matrices(key: str, x: Weight, matrix: Matrix) -> None:
    """Refuses a value of `matrix` that is wrong, or that the weight's shape doesn't allow."""
    shape, where = tuple(x.parameter.shape), f"{key!r}: {matrix!r} in blocks or matrix, for {x.name}"
    if isinstance(matrix, bool):
        return
    if matrix == "batched":
        if len(shape) < 3:
            raise ValueError(f"{where}: expected three dimensions or more, got {shape}; say True")
        return
    if not isinstance(matrix, int) or matrix < 1:
        raise ValueError(f"{where}: expected True, False, 'batched' or a number of blocks; choose one")
    if x.is_transposed:
        raise ValueError(
            f"{where}: expected outputs along the rows, got inputs; such a weight can't be split, leave it out"
        )
    if shape[0] % matrix or shape[0] == matrix:
        raise ValueError(f"{where}: expected a divisor of its {shape[0]} rows, less than all; choose one")


def _several(head: Head | Iterable[Head]) -> list[Head]:
    return [head] if isinstance(head, str | nn.Module | Tensor) else list(head)


def _find(model: nn.Module, head: Head) -> nn.Module | Tensor:
    """The module or parameter of `model` that `head` is or names. Raises ValueError if it is no layer with weights."""
    named: dict[str, nn.Module | Tensor] = {**dict(model.named_modules()), **dict(model.named_parameters())}
    named.pop("", None)
    if isinstance(head, str):
        plain = {".".join(names.path(f"{path}.weight").layer): x for path, x in named.items()}
        layer = named.get(head, plain.get(head))
        if layer is None:
            raise ValueError(f"head={head!r}: expected the path of a module; {_near(head, [*named, *plain])}")
    else:
        layer = next((x for x in named.values() if x is head), None)
        if layer is None:
            kind = type(head).__name__
            raise ValueError(f"head={kind}(...): expected a module or parameter of the model, got another; name one")
    if isinstance(layer, nn.Module) and not any(p.ndim >= 2 for p in layer.parameters()):
        raise ValueError(f"head={head!r}: expected a layer with a weight matrix, got none in it; name one that has")
    return layer


def _near(name: str, allowed: Iterable[str]) -> str:
    return checks.did_you_mean(name, allowed, "print(param_groups(model)) shows the paths", cutoff=0.4)


def _shown(matrix: Matrix) -> str:
    if isinstance(matrix, bool):
        return "yes" if matrix else "no"
    return "batched" if matrix == "batched" else f"{matrix} blocks"
