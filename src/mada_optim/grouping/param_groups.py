"""Parameter groups from a model's modules, which know what an optimizer would have to guess."""

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
    """Group dicts for an optimizer; printed, a table of the weights: name, shape, hidden or not, why, decay.

    Attributes:
        weights: The trained weights, in the model's order.
        frozen: How many parameters were left out, as they don't require a gradient.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], weights: Iterable[Weight] = (), frozen: int = 0) -> None:
        super().__init__(groups)
        self.weights = tuple(weights)
        self.frozen = frozen

    def describe(self) -> str:
        """The table, one line for each weight."""
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
    """Groups of the trained parameters of `model`: hidden matrices, other weights, and what weight decay is not for.

    Hidden matrices are the weights between two layers: of linear, convolutional, recurrent and attention modules, and
    matrices that a module of your own holds, three dimensions as a batch. Embeddings, positions, output layers,
    depthwise convolutions, low-rank updates, norms and biases are not. Parametrized weights, and copies and layers
    inside wrappers (DDP, FSDP2, `torch.compile`, PEFT), count as what they stand for; frozen parameters are left out.

    The output layer is the one tied to an embedding, or those named as a head, a classifier or an output, or the last
    layer outside of repeated blocks. `print` the result to see each decision with its reason.

        opt = MADA(param_groups(model))

    Args:
        model: The model, whole, so that the output layer can be told from the others.
        weight_decay: Of all groups but those without decay. None: the optimizer's.
        head: The output layers, where they are not found: paths of modules or parameters, or these themselves, one or
            several; () for none.
        blocks: Equal blocks along the rows of a fused weight, each a matrix of its own: `{"attn.c_attn": 3}`. A key is
            the end of a path, or a pattern (`*`), of a layer or a parameter. Names alone split nothing, as heads may be
            interleaved.
        matrix: What a weight is, by the same keys, whatever is found: True, False, "batched", or a number of blocks.
        decay_embeddings: Whether weight decay is for embeddings and positions too.

    Returns:
        A list of dicts with `params` (named), `name`, `matrix`, and `weight_decay` where it is not the optimizer's.

    Raises:
        ValueError: Nothing can be trained, a path or a pattern fits no weight, or a weight has no such blocks.
    """
    if weight_decay is not None:
        checks.number("weight_decay", weight_decay, checks.NON_NEGATIVE, "choose a finite one, or leave it out")
    found = weights(model, None if head is None else [_find(model, x) for x in _several(head)])
    found = _told(found, {**(blocks or {}), **(matrix or {})}, set(blocks or {}) & set(matrix or {}))
    if not decay_embeddings:
        found = [replace(x, decays=x.decays and not x.is_embedding) for x in found]
    trained = [x for x in found if x.parameter.requires_grad]
    if not trained:
        raise ValueError("param_groups: expected a parameter with requires_grad=True, got none; unfreeze some first")
    return ParamGroups(_groups(trained, weight_decay), trained, len(found) - len(trained))


def _groups(trained: list[Weight], weight_decay: float | None) -> list[dict[str, Any]]:
    """A group for each kind of matrix, one for other weights, and the same without decay, in this order."""
    decay = {} if weight_decay is None else {"weight_decay": float(weight_decay)}
    groups: dict[str, dict[str, Any]] = {}
    for x in sorted(trained, key=lambda x: (not x.decays, x.matrix is False, str(x.matrix) != "True", str(x.matrix))):
        own = {"matrix": x.matrix, **(decay if x.decays else {"weight_decay": 0.0})}
        group = groups.setdefault(_group_name(x), {"params": [], "name": _group_name(x), **own})
        group["params"].append((x.name, x.parameter))
    return list(groups.values())


def _group_name(x: Weight) -> str:
    if x.matrix is False:
        return "other" if x.decays else "no_decay"
    kind = "" if x.matrix is True else "_batched" if x.matrix == "batched" else f"_{x.matrix}_blocks"
    return f"hidden{kind}" if x.decays else f"hidden{kind}_no_decay"


def _told(found: list[Weight], told: Mapping[str, Matrix], twice: set[str]) -> list[Weight]:
    """The weights, with what the user says of some."""
    for key in twice:
        raise ValueError(f"blocks and matrix: expected {key!r} in one of them, got it in both; drop one")
    said: dict[str, tuple[str, Matrix]] = {}
    for key, matrix in told.items():
        for x in _matching(found, key):
            if x.name in said and said[x.name][1] != matrix:
                raise ValueError(
                    f"{key!r} and {said[x.name][0]!r} in blocks or matrix: expected one value for {x.name}, "
                    "got two; make the patterns narrower"
                )
            _require_matrices(key, x, matrix)
            said[x.name] = (key, matrix)
    return [replace(x, matrix=said[x.name][1], why="said by the user") if x.name in said else x for x in found]


def _matching(found: list[Weight], key: str) -> list[Weight]:
    candidates = [x for x in found if is_matrix(x.parameter)]
    fitting = [x for x in candidates if any(_fits(path, key) for path in _paths(x.name))]
    if not fitting:
        paths = {end for x in candidates for path in _paths(x.name) for end in (path, path.rpartition(".")[2])}
        raise ValueError(
            f"{key!r} in blocks or matrix: expected the end of a weight's path, got none; {_near(key, paths)}"
        )
    return fitting


def _paths(name: str) -> tuple[str, str, str]:
    """What a weight may be called: its name, its layer's path, and that without wrappers."""
    return name, name.rpartition(".")[0], ".".join(names.path(name).layer)


def _fits(path: str, key: str) -> bool:
    return fnmatchcase(path, key) or fnmatchcase(path, f"*.{key}")


def _require_matrices(key: str, x: Weight, matrix: Matrix) -> None:
    """Refuses a value that is none, or that the weight's shape doesn't allow."""
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
    """The module or parameter of `model` that `head` is or names, with weights. Raises ValueError if there is none."""
    named: dict[str, nn.Module | Tensor] = {**dict(model.named_modules()), **dict(model.named_parameters())}
    named.pop("", None)
    if isinstance(head, str):
        plain = {".".join(names.path(f"{path}.weight").layer): x for path, x in named.items()}
        found = named.get(head, plain.get(head))
        if found is None:
            raise ValueError(f"head={head!r}: expected the path of a module; {_near(head, [*named, *plain])}")
    else:
        found = next((x for x in named.values() if x is head), None)
        if found is None:
            kind = type(head).__name__
            raise ValueError(f"head={kind}(...): expected a module or parameter of the model, got another; name one")
    if isinstance(found, nn.Module) and not any(p.ndim >= 2 for p in found.parameters()):
        raise ValueError(f"head={head!r}: expected a layer with a weight matrix, got none in it; name one that has")
    return found


def _near(name: str, allowed: Iterable[str]) -> str:
    return checks.did_you_mean(name, allowed, "print(param_groups(model)) shows the paths", cutoff=0.4)


def _shown(matrix: Matrix) -> str:
    if isinstance(matrix, bool):
        return "yes" if matrix else "no"
    return "batched" if matrix == "batched" else f"{matrix} blocks"
