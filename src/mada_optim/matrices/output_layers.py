"""Finds a network's output layers: by their names, or as the last layer outside of repeated blocks."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from mada_optim.matrices.names import words

HEAD = re.compile(r"heads?|classif\w*|logits?|scores?|scorer|pred|predict(ion|or)s?|unembed(ding)?")  # the last word
HEAD_ALONE = frozenset(("cls",))
OUT = frozenset("out output outputs logit logits".split())  # of the last component
OUT_LAYER = frozenset("proj projection layer linear fc dense conv".split())  # may follow a word of OUT
INNER = frozenset("attn attention attend sa mlp ffn ff feed mixer moe expert experts".split())  # parts of a block
PROJECTED = frozenset("q k v qkv key query value keys queries values".split())
BLOCKS = re.compile(r"h|\w*(layer|block|stage|cell|unit)s?")  # the last word of a container of numbered blocks
NUMBERED = re.compile(r"(.*?)_?(\d+)")

NAMED = "output layer, by its name"
LAST = "output layer: the last outside of repeated blocks"


@dataclass(frozen=True)
class Layer:
    """A layer with a weight matrix, in the order of registration."""

    path: tuple[str, ...]  # components of its path
    outputs: int  # number of outputs
    inputs: int | None  # number of inputs; None if the shape doesn't show it, as of stacked matrices
    inner: bool = False  # whether it is part of an attention or a recurrent layer, and so no output layer
    is_tied: bool = False  # whether its weight is also that of an embedding


def output_layers(layers: Sequence[Layer], widths: Collection[int]) -> dict[int, str]:
    """The indices of the output layers in `layers`, each with the reason.

    They are the layers that are named as outputs. If there is none, they are the last layer and those parallel to it,
    unless it is in a repeated block; then, the last layer outside of blocks whose outputs are no other layer's inputs.
    A layer as wide as an embedding is an output layer only if its name says so and no layer is known to be tied, since
    the embedding may be used as the output layer.

    Args:
        layers: All layers, trained or not.
        widths: The widths of the embeddings.
    """
    blocks, attentions = _in_blocks(layers), {_parent(x.path) for x in layers if x.inner or _projects(x.path)} - {()}
    inner = [layer.inner or _parent(layer.path) in attentions for layer in layers]
    free = [i for i in range(len(layers)) if not (blocks[i] or inner[i])]
    shared = len(_common([layer.path for layer in layers]))
    named = _named([(i, layers[i]) for i in free], shared, widths)
    if any("aux" not in words(".".join(layers[i].path)) for i in named):
        return dict.fromkeys(named, NAMED)
    last = _last(layers, free, widths)
    return {**dict.fromkeys(named, NAMED), **dict.fromkeys(last, LAST)}


def _named(free: list[tuple[int, Layer]], shared: int, widths: Collection[int]) -> list[int]:
    """The last layer of each module named as a head, and layers named as outputs outside of parts of blocks."""
    layers_in = defaultdict[tuple[str, ...], list[int]](list)
    tied = any(layer.is_tied for _, layer in free)
    for i, layer in free:
        path = layer.path[min(shared, len(layer.path) - 1) :] if layer.path else ()
        head, says_so = _head(path), _is_output(path)
        feeds_embedding = layer.outputs in widths and not layer.is_tied and (tied or not says_so)
        if not feeds_embedding and (says_so or head is not None):
            layers_in[path if head is None else head].append(i)
    by_place = dict(free)
    followed = {at for at in layers_in for x in layers_in if _is_inside(x, at) and layers_in[x][-1] > layers_in[at][-1]}
    return sorted(i for at, places in layers_in.items() if at not in followed for i in _ends(places, by_place))


def _ends(places: list[int], layers: Mapping[int, Layer]) -> list[int]:
    """The last layer of a head, and numbered layers in it whose outputs don't fit the next, which are parallel."""
    pairs = [(i, layers[i], layers[j]) for i, j in pairwise(places)]
    parallel = [i for i, one, other in pairs if one.path[-1].isdecimal() and not _fits(one.outputs, other.inputs)]
    return [*parallel, places[-1]]


def _fits(outputs: int, inputs: int | None) -> bool:
    """Whether `outputs` may be the inputs of a layer with `inputs`, flattened or gated."""
    return not (outputs and inputs) or inputs % outputs == 0 or outputs % inputs == 0


def _head(path: tuple[str, ...]) -> tuple[str, ...] | None:
    """The path of the innermost module named as a head that a layer is in; "heads" are one for each of its parts."""
    for i in reversed(range(len(path))):
        terms = words(path[i])
        if _names_head(terms) or (len(terms) == 1 and terms[0] in HEAD_ALONE):
            parts = path[i + 1 : i + 2] if terms[-1] in ("heads", "classifiers") else ()
            inside = INNER & {x for part in path[:i] for x in words(part)}
            return None if inside else (*path[: i + 1], *parts)
    return None


def _is_output(path: tuple[str, ...]) -> bool:
    """Whether the last component with words is one of an output, and those before it name no part of a block."""
    named = [terms for terms in map(words, path) if terms]
    if not named or any(INNER & set(terms) for terms in named[:-1]):
        return False
    last = named[-1]
    return _names_head(last) or last[-1] in OUT or (last[-1] in OUT_LAYER and bool(OUT & set(last)))


def _names_head(terms: list[str]) -> bool:
    """Whether words are those of a head; `pre_classifier` and `conv_head` come before one."""
    return bool(terms) and bool(HEAD.fullmatch(terms[-1])) and not {"pre", "conv"} & set(terms)


def _is_inside(path: tuple[str, ...], container: tuple[str, ...]) -> bool:
    return len(path) > len(container) and path[: len(container)] == container


def _last(layers: Sequence[Layer], free: list[int], widths: Collection[int]) -> list[int]:
    end, taken = len(layers) - 1, {layer.inputs for layer in layers}
    if free[-1:] != [end]:
        return [i for i in free if layers[i].outputs not in {*widths, *taken}][-1:]
    if layers[end].outputs in widths:
        return []  # the embedding serves as the output
    beside = takewhile(lambda i: _are_parallel(layers[i], layers[end], taken), reversed(free[:-1]))
    of_siblings = [i for i in free if _ends_a_sibling(i, layers, end, taken)]
    return sorted({*beside, *of_siblings, end})


def _ends_a_sibling(i: int, layers: Sequence[Layer], end: int, taken: Collection[int | None]) -> bool:
    """Whether a layer is the last of a module beside that of the last one, as `actor.4` is beside `critic.4`."""
    one, last = layers[i], layers[end]
    alike = len(one.path) == len(last.path) > 1 and (*one.path[:-2], one.path[-1]) == (*last.path[:-2], last.path[-1])
    if not alike or one.path == last.path or one.inputs is None or one.inputs != last.inputs or one.outputs in taken:
        return False
    return not any(_is_inside(x.path, one.path[:-1]) for x in layers[i + 1 :])


def _are_parallel(layer: Layer, last: Layer, taken: Collection[int | None]) -> bool:
    """Whether a layer gives outputs beside the last: from the same inputs, and no other layer takes them.

    Of nameless layers it can't be told that they are in one module.
    """
    alike = layer.path != () and layer.inputs == last.inputs is not None and layer.path[:-1] == last.path[:-1]
    return alike and layer.outputs not in taken


def _in_blocks(layers: Sequence[Layer]) -> list[bool]:
    """Whether each layer is in a repeated block: another number in its path gives a layer of as many outputs.

    Where another number gives no layer at all (blocks of several kinds, or just one), the container's name decides.
    """
    twins = defaultdict[tuple[tuple[str, ...], tuple[str, ...]], list[int]](list)
    for layer in layers:
        for container, rest in _numbered(layer.path):
            twins[container, rest].append(layer.outputs)

    def repeated(layer: Layer, container: tuple[str, ...], rest: tuple[str, ...]) -> bool:
        outputs = twins[container, rest]
        return outputs.count(layer.outputs) > 1 or (len(outputs) == 1 and _names_blocks(container))

    return [any(repeated(layer, *place) for place in _numbered(layer.path)) for layer in layers]


def _numbered(path: tuple[str, ...]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Each numbered module that contains a layer: its container, and the rest of the path.

    `layers.0.fc` and `layer_0.fc` have one; `fc2` and `layers.2`, which are layers themselves, and `fc2.inner` none.
    """
    modules = []
    for i, component in enumerate(path[:-1]):
        match = NUMBERED.fullmatch(component)
        if match is None:
            continue
        stem = match[1]
        container = (*path[:i], stem) if stem else path[:i]
        if _names_blocks(container) if stem else not _names_heads(container, path[-1]):
            modules.append((container, path[i + 1 :]))
    return modules


def _names_blocks(container: tuple[str, ...]) -> bool:
    terms = words(container[-1]) if container else []
    return bool(terms) and bool(BLOCKS.fullmatch(terms[-1]))


def _parent(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path of the module that holds a layer, or a numbered list of layers."""
    while path and path[-1].isdecimal():
        path = path[:-1]
    return path[:-1]


def _projects(path: tuple[str, ...]) -> bool:
    """Whether a layer is named as one that projects to queries, keys or values."""
    return bool(path) and bool(PROJECTED & set(words(path[-1])))


def _names_heads(container: tuple[str, ...], layer: str) -> bool:
    """Whether it holds several heads; those of an attention project to queries, keys and values."""
    terms = words(container[-1]) if container else []
    return bool(terms) and terms[-1] == "heads" and not _projects((layer,))


def _common(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The components that all paths begin with."""
    together = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return tuple(parts[0] for parts in together)
