"""Which parameters are hidden weight matrices, by their names and shapes alone."""

from collections.abc import Sequence
from enum import Enum

from torch import Tensor

from mada_optim.matrices import names
from mada_optim.matrices.names import Path
from mada_optim.matrices.output_layers import Layer, output_layers

TALL = 8  # a matrix with a larger ratio of rows to columns is an embedding, unless its name says that it is a layer


class Role(Enum):
    """The role of a parameter, by its name and shape."""

    LAYER = "weight of a layer"
    EMBEDDING = "embedding"
    OTHER = "neither"


def hidden(named: Sequence[tuple[str, Tensor]]) -> list[bool]:
    """For each parameter, whether it counts as a hidden weight matrix.

    A hidden matrix is the weight of a layer that is no embedding and no output layer
    (`mada_optim.matrices.output_layers`). For nameless parameters, shapes decide, and the last matrix is the output
    layer. Frozen parameters have no influence on the others.
    """
    paths = [names.path(name) for name, _ in named]
    first = next((i for i, (_, p) in enumerate(named) if p.requires_grad and p.ndim >= 2), None)
    roles = [_role(where, p, i == first) for i, (where, (_, p)) in enumerate(zip(paths, named, strict=True))]
    trained = [i for i, (_, p) in enumerate(named) if p.requires_grad]
    places = [i for i in trained if roles[i] is Role.LAYER]
    layers = [_layer(paths[i], named[i][1]) for i in places]
    widths = {named[i][1].shape[-1] for i in trained if roles[i] is Role.EMBEDDING}
    outputs = {places[j] for j in output_layers(layers, widths)}
    return [
        roles[i] is Role.LAYER and i not in outputs and not _has_row_per_token(paths[i], p)
        for i, (_, p) in enumerate(named)
    ]


def _role(where: Path, p: Tensor, first: bool) -> Role:
    if p.ndim < 2 or not p.numel() or names.is_bias_or_gain(where) or names.is_adapter(where):
        return Role.OTHER
    is_kernel = p.ndim > 3 and names.is_plain_weight(where.parameter)  # of a convolution that embeds patches
    if names.is_embedding(where) and not is_kernel:
        return Role.EMBEDDING
    if p.ndim == 2:
        return Role.LAYER if p.shape[1] > 1 else Role.OTHER
    depthwise = p.shape[1] == 1 and not first  # the first layer may be a convolution of one channel
    return Role.OTHER if depthwise or p.numel() == max(p.shape) else Role.LAYER


def _layer(where: Path, p: Tensor) -> Layer:
    may_be_stacked = p.ndim == 3 and not names.is_convolution(where)
    inputs = None if may_be_stacked else p.shape[1]
    return Layer(where.layer, outputs=p.shape[0], inputs=inputs, inner=where.parameter.startswith("in_proj"))


def _has_row_per_token(where: Path, p: Tensor) -> bool:
    """Whether its shape is that of an embedding, outside of numbered blocks."""
    numbered = any(part.isdecimal() for part in where.layer[:-1])
    return p.ndim == 2 and p.shape[0] > TALL * p.shape[1] and not numbered
