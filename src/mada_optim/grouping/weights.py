"""The weights of a model, classified by their modules, their ties, and their place in the model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from mada_optim.grouping.modules import Finding, look
from mada_optim.layouts import is_matrix
from mada_optim.matrices import names
from mada_optim.matrices.output_layers import Layer, output_layers


@dataclass(frozen=True, kw_only=True)
class Weight(Finding):
    """A parameter of a model with its class, in which output layers are no hidden matrices."""

    name: str  # in the model
    parameter: Tensor


@dataclass(frozen=True)
class Place:
    """A use of a parameter by a module, and its class there."""

    name: str
    parameter: Tensor
    where: names.Path
    finding: Finding


def weights(model: nn.Module, head: Iterable[nn.Module | Tensor] | None) -> list[Weight]:
    """All parameters of `model`, trained and frozen, each once, in their order.

    `head` are the output layers; None finds them by names and places. Raises ValueError if a parameter is not
    initialized yet.
    """
    places = list(_places(model))
    uses: dict[Tensor, list[Place]] = {}
    for place in places:
        uses.setdefault(place.parameter, []).append(place)
    outputs = _found(places)
    if head is not None:
        given = chain.from_iterable(x.parameters() if isinstance(x, nn.Module) else (x,) for x in head)
        outputs = dict.fromkeys(given, "output layer, said by the user")
    softmaxes = (x for x in model.modules() if isinstance(x, nn.AdaptiveLogSoftmaxWithLoss))
    for inside in chain.from_iterable(x.parameters() for x in softmaxes):
        outputs.setdefault(inside, "output layer, nn.AdaptiveLogSoftmaxWithLoss")
    return [_weight(used, outputs.get(p)) for p, used in uses.items()]


def _places(model: nn.Module) -> Iterator[Place]:
    """Each parameter of each module; a shared module once, a shared parameter once for each of its modules."""
    for prefix, module in model.named_modules():
        for attribute, p in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            if is_lazy(p):
                raise ValueError(
                    f"parameter {name}: expected an initialized one, got a lazy one; run a batch through the model"
                )
            yield Place(name, p, names.path(name), _finding(model, module, prefix, name, p))


def _finding(model: nn.Module, module: nn.Module, prefix: str, name: str, p: Tensor) -> Finding:
    """The parameter's class in its module; that of a parametrization or a list of parameters is the one around it."""
    where = names.path(name)
    if "parametrizations" in prefix.split("."):
        user = f".{prefix}".rpartition(".parametrizations.")[0]
        if not isinstance(module, ParametrizationList):
            return Finding(False, "weight of an adapter" if names.is_adapter(where) else "part of a parametrization")
        if type(module[0]).__name__ == "_WeightNorm" and name.endswith("original0"):
            return Finding(False, "gain of weight_norm", decays=False)
        module = model.get_submodule(user.lstrip("."))
    elif isinstance(module, nn.ParameterList | nn.ParameterDict):
        module = model.get_submodule(prefix.rpartition(".")[0])
    elif where.parameter.endswith("_g") and p.ndim > 1 and hasattr(module, f"{where.parameter[:-2]}_v"):
        return Finding(False, "gain of weight_norm", decays=False)
    return look(module, where, p)


def _found(places: list[Place]) -> dict[Tensor, str]:
    embeddings = {place.parameter for place in places if place.finding.is_embedding}
    widths = {p.shape[-1] for p in embeddings}
    parameters, layers = [], []
    for place in places:
        x, p = place.finding, place.parameter
        if x.outputs is not None:
            parameters.append(p)
            layers.append(Layer(place.where.layer, x.outputs, x.inputs, x.inner, is_tied=p in embeddings))
    return {parameters[i]: why for i, why in output_layers(layers, widths).items()}


def _weight(uses: list[Place], output: str | None) -> Weight:
    """A parameter with its class; it is an embedding if any of the modules that use it is one."""
    first = uses[0]
    place = next((x for x in uses if x.finding.is_embedding), first)
    finding, p = place.finding, first.parameter
    ties = [x.name.rpartition(".")[0] or x.name for x in uses if x is not place]
    if finding.matrix is not False and not is_matrix(p, finding.matrix):
        finding = replace(finding, matrix=False, why=f"{finding.why}, a single row or column")
    if output is not None and finding.outputs is not None:
        finding = replace(finding, matrix=False, why=output)
    if ties:
        finding = replace(finding, why=f"{finding.why}, tied to {', '.join(ties)}")
    return Weight(**vars(finding), name=first.name, parameter=p)
