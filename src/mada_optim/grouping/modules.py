"""Classifies the weights of a module: one matrix, several, a batch of matrices, an embedding, a bias or a gain."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mada_optim.layouts import KERNEL
from mada_optim.matrices import names
from mada_optim.matrices.names import Path

Matrix = bool | int | Literal["batched"]
"""True: one matrix, the first dimension by all others. False: none. An int: that many equal blocks along the rows.
"batched": a batch of matrices, of the last two dimensions."""

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Finding:
    """The class of a parameter in its module."""

    matrix: Matrix  # the matrices that it consists of, if it is between two layers
    why: str  # the reason, for users
    decays: bool = True  # whether weight decay applies to it
    outputs: int | None = None  # number of outputs of its layer; None if it is not the matrix of a layer
    inputs: int | None = None  # number of inputs of its layer; None if its shape doesn't show it
    inner: bool = False  # whether it can't be an output layer
    is_embedding: bool = False  # whether its rows belong to tokens or positions
    is_transposed: bool = False  # whether its rows are inputs, so that blocks of outputs are along its columns


def look(module: nn.Module, where: Path, p: Tensor) -> Finding:
    """The class of the parameter `p` of `module`, or of a parametrized weight that `module` uses."""
    is_norm = isinstance(module, NORMS) or names.words(type(module).__name__)[-1:] == ["norm"]
    if where.parameter in ("bias", "bias_k", "bias_v"):
        return Finding(False, "bias", decays=False)
    if is_norm or p.ndim < 2:
        return Finding(False, "norm" if is_norm else "vector", decays=False)
    if p.is_complex():
        return Finding(False, "complex")
    if names.is_adapter(where):
        return Finding(False, "weight of an adapter")
    is_weight = names.is_plain_weight(where.parameter)
    for kinds, read in READERS:
        if isinstance(module, kinds) and (is_weight or kinds in HAVE_SEVERAL):
            return read(module, where.parameter, p)
    if is_weight and hasattr(module, "num_embeddings") and hasattr(module, "embedding_dim"):
        return _embedding(module, where.parameter, p)
    if is_weight and getattr(module, "nf", None) == p.shape[-1] and p.ndim == 2:
        return _transposed_linear(module, where.parameter, p)
    return _held_directly(module, where, p)


def _kind(module: nn.Module) -> str:
    """The name of a module's class; for torch's private classes, that of their public base."""
    kind = type(module)
    if kind.__module__.startswith("torch.nn.") or kind.__name__.startswith("Parametrized"):
        kind = next((cls for cls in kind.__mro__ if getattr(nn, cls.__name__, None) is cls), kind)
    return f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else kind.__name__


def _embedding(module: nn.Module, name: str, p: Tensor) -> Finding:
    return Finding(False, _kind(module), is_embedding=True)


def _linear(module: nn.Module, name: str, p: Tensor) -> Finding:
    return Finding(True, _kind(module), outputs=p.shape[0], inputs=p.shape[-1])


def _transposed_linear(module: nn.Module, name: str, p: Tensor) -> Finding:
    why = f"{_kind(module)}, inputs by outputs; fused outputs are columns and not split"
    return Finding(True, why, outputs=p.shape[1], inputs=p.shape[0], is_transposed=True)


def _bilinear(module: nn.Module, name: str, p: Tensor) -> Finding:
    return Finding(True, "nn.Bilinear, outputs by pairs of inputs", outputs=p.shape[0], inputs=p.shape[2])


def _convolution(module: nn.Module, name: str, p: Tensor) -> Finding:
    assert isinstance(module, _ConvNd)
    outputs, inputs, groups = module.out_channels, module.in_channels, module.groups
    if groups > 1 and (p.shape[1] == 1 or p.shape[0] == groups):  # each filter, or each group, is a vector
        return Finding(False, f"depthwise {_kind(module)}", outputs=outputs, inputs=inputs)
    turned = isinstance(module, _ConvTransposeNd)
    why = f"{_kind(module)}{', inputs by outputs' * turned}{f', {groups} groups' * (groups > 1)}"
    return Finding(groups if groups > 1 else True, why, outputs=outputs, inputs=inputs, is_transposed=turned)


def _recurrent(module: nn.Module, name: str, p: Tensor) -> Finding:
    gates = 1 if name.startswith("weight_hr") else p.shape[0] // int(module.hidden_size)  # type: ignore[arg-type]
    why = f"{_kind(module)}, {gates} gates" if gates > 1 else _kind(module)
    return Finding(gates if gates > 1 else True, why, outputs=p.shape[0], inputs=p.shape[1], inner=True)


def _attention(module: nn.Module, name: str, p: Tensor) -> Finding:
    matrix, why = (3, "in_proj, 3 blocks") if name == "in_proj_weight" else (True, name)
    return Finding(matrix, f"{_kind(module)} {why}", outputs=p.shape[0], inputs=p.shape[1], inner=True)


Reader = Callable[[nn.Module, str, Tensor], Finding]
READERS: tuple[tuple[type | tuple[type, ...], Reader], ...] = (
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (_ConvNd, _convolution),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
    (nn.MultiheadAttention, _attention),
)
HAVE_SEVERAL = ((nn.RNNBase, nn.RNNCellBase), nn.MultiheadAttention)  # weights, none of them called just "weight"


def _held_directly(module: nn.Module, where: Path, p: Tensor) -> Finding:
    """The class of a parameter that a module of the user's holds directly, by its name and shape."""
    of_class = names.words(type(module).__name__)
    if names.is_bias_or_gain(where):
        return Finding(False, "bias or gain, by its name", decays=False)
    if sum(n > 1 for n in p.shape) < 2:
        return Finding(False, "vector", decays=False)
    if names.is_embedding(where) or (names.is_plain_weight(where.parameter) and names.speaks_of_embeddings(of_class)):
        return Finding(False, "embedding, by its name", is_embedding=True)
    rows, columns = p.shape[0], p.shape[1]
    kind = type(module).__name__
    if p.ndim == 2:
        return Finding(True, f"weight of {kind}", outputs=rows, inputs=columns)
    if names.is_convolution(where) or names.speaks_of_convolutions(of_class) or (p.ndim > 3 and not _is_stack(p)):
        if columns == 1:
            return Finding(False, f"depthwise kernel of {kind}")
        return Finding(True, f"kernel of {kind}", outputs=rows, inputs=columns)
    if min(p.shape[-2:]) == 1:
        return Finding(False, f"batch of vectors in {kind}")
    count = p.numel() // (p.shape[-1] * p.shape[-2])
    return Finding("batched", f"batch of {count} matrices in {kind}", outputs=rows)


def _is_stack(p: Tensor) -> bool:
    """Whether four or more dimensions are a batch of matrices, not a convolution's kernel, whose last two are small."""
    return min(p.shape[-2:]) > KERNEL
