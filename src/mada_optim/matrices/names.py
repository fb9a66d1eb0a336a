"""Classifies parameters by the whole words of their names: `emb` inside `ensemble` doesn't count.

A name is a path of modules and the parameter's own name. Words end at ".", "_", digits and inside camelCase.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
WRAPPERS = frozenset(
    "module model base_model base_layer original_module _orig_mod _fsdp_wrapped_module _checkpoint_wrapped_module "
    "_forward_module _flat_param".split()
)
PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.(\w+)\.original\d*$")
SAVED_COPY = re.compile(r"(^|\.)modules_to_save\.[^.]+")
PLAIN_WEIGHT = re.compile(r"(weight|w|kernel|matrix)(_v|_orig)?", re.IGNORECASE)

EMBEDDING = re.compile(r"(tok|token|pos|position|word|char|time|type)?embs?|\w*embed(ding|der)?s?|wte|wpe|vocab|lookup")
TOKENS = frozenset(  # as the last word of a name
    "tok toks token tokens table position positions positional encoding latent latents queries prompt prompts "
    "prototype prototypes centroid centroids codebook codebooks register registers probe".split()
)
TOKENS_ALONE = frozenset(("shared", "pos", "pe"))  # as the only word
LAYER = frozenset(  # in the name of a layer that takes embeddings, but is none
    "proj projection project projector linear dense fc mlp layers conv mapping mixing mixer gate".split()
)
BIAS = frozenset(("bias", "biases"))
GAIN = frozenset("gain gains gamma beta scale scales log temperature".split())  # of a parameter, not of a module
NORM = re.compile(r"\w*norm(alization)?s?|ln|bn|gn")
ADAPTERS = frozenset(("lora", "loha", "hada", "lokr", "dora", "vera", "oft", "boft"))
CONVOLUTION = re.compile(r"(depth|point)?(wise)?conv\w*|kernels?|filters?")


@dataclass(frozen=True)
class Path:
    """The path of a parameter."""

    # components of its layer: modules without wrappers, and the parameter's name if it is not just "weight"
    layer: tuple[str, ...]
    parameter: str  # the parameter's name, without parametrizations

    @property
    def last(self) -> list[str]:
        """The words of the last component that has words."""
        return next(filter(None, map(words, reversed(self.layer))), [])


def path(name: str) -> Path:
    """The path in a name, without wrappers (DDP, FSDP, torch.compile, PEFT), copies and parametrizations."""
    plain = SAVED_COPY.sub("", PARAMETRIZED.sub(r"\1\2", name))
    *modules, parameter = plain.split(".")
    parts = [x for x in modules if x and x not in WRAPPERS]
    if parameter and not is_plain_weight(parameter):
        parts.append(parameter)
    return Path(tuple(parts), parameter)


def words(component: str) -> list[str]:
    """The words of one component of a path, in lower case."""
    return [x.lower() for x in WORD.findall(component)]


def is_plain_weight(parameter: str) -> bool:
    """Whether a parameter's own name is just "weight" or another word for it."""
    return bool(PLAIN_WEIGHT.fullmatch(parameter))


def is_embedding(where: Path) -> bool:
    """Whether rows belong to tokens or places: an embedding, learned positions, tokens, queries."""
    last = where.last
    if not last or LAYER & set(last):
        return False
    return last[-1] in TOKENS or (len(last) == 1 and last[0] in TOKENS_ALONE) or speaks_of_embeddings(last)


def speaks_of_embeddings(terms: Iterable[str]) -> bool:
    """Whether one of these words, as of the name of a class, is of embeddings."""
    return _any(EMBEDDING, terms)


def is_bias_or_gain(where: Path) -> bool:
    """Whether it is a bias or a gain, added or multiplied element by element, of any number of dimensions."""
    terms = words(where.parameter)
    if where.parameter == "weight_g" or (BIAS | GAIN) & set(terms) or terms[:1] == ["b"]:
        return True
    last = where.last
    return not LAYER & set(last) and (bool(BIAS & set(last)) or _any(NORM, last[-1:]))


def is_adapter(where: Path) -> bool:
    """Whether it belongs to an adapter of another weight, such as LoRA."""
    return any(ADAPTERS & set(words(component)) for component in where.layer)


def is_convolution(where: Path) -> bool:
    """Whether the last component, or the parameter itself, is named as a convolution or its kernel."""
    return speaks_of_convolutions([*where.last, *words(where.parameter)])


def speaks_of_convolutions(terms: Iterable[str]) -> bool:
    """Whether one of these words, as of the name of a class, is of convolutions."""
    return _any(CONVOLUTION, terms)


def _any(pattern: re.Pattern[str], terms: Iterable[str]) -> bool:
    return any(pattern.fullmatch(word) for word in terms)
