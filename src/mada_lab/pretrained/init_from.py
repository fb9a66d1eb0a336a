"""Initial weights of a run: those of another run, or published ones. The optimizer starts fresh."""

from dataclasses import replace
from pathlib import Path

from mada_lab.config.declarations import set_keys
from mada_lab.config.keys import FRESH, TrainConfig
from mada_lab.data.sidecar import Vocabulary
from mada_lab.errors import ConfigError
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.pretrained import weights
from mada_lab.pretrained.weights import HUB, Weights
from mada_optim.checks import did_you_mean

ADOPTED = ("n_layer", "n_head", "n_embd", "bias")


def find(init_from: str, vocabulary: Vocabulary) -> Weights | None:
    """The weights that `init_from` names, for text of `vocabulary`; None for scratch and resume.

    Raises:
        ConfigError: The weights are missing, or have another vocabulary.
        CheckpointError: They are damaged, or of another kind of network.
    """
    require_there(init_from)
    if init_from in FRESH:
        return None
    found = weights.read(init_from)
    if found.vocabulary != vocabulary:
        ours, theirs = _described(vocabulary, found.vocabulary), _described(found.vocabulary, vocabulary)
        raise ConfigError(
            f"configuration, in key init_from: expected weights for the tokens of the data set ({ours}), "
            f"got {init_from} with others ({theirs}); choose a data set of that very tokenizer"
        )
    return found


def require_there(init_from: str) -> None:
    """Raises ConfigError unless `init_from` is a name that it may have, or a path that exists."""
    known = (*FRESH, *HUB)
    if init_from not in known and not Path(init_from).exists():
        what = f"expected {', '.join(known)} or a folder, got {init_from}"
        remedy = did_you_mean(init_from, known, "check the path")
        raise ConfigError(f"configuration, in key init_from: {what}; {remedy}")


def _described(vocabulary: Vocabulary, other: Vocabulary) -> str:
    if vocabulary.characters is None:
        return f"{vocabulary.tokenizer}, {vocabulary.size} tokens"
    own = sorted(set(vocabulary.characters) - set(other.characters or vocabulary.characters))
    strange = f", of which {len(own)} only here, such as {own[0]!r}" if own else ""
    return f"{vocabulary.size} characters{strange}"


def adopt(config: TrainConfig, trained: GPTConfig) -> TrainConfig:
    """`config` with the sizes of trained weights. Raises ConfigError if it sets others; block_size may be smaller."""
    for key in sorted(set_keys(config) & set(ADOPTED)):
        if getattr(config, key) != getattr(trained, key):
            what = f"expected {getattr(trained, key)}, as in the weights in {config.init_from}"
            raise ConfigError(f"configuration, in key {key}: {what}, got {getattr(config, key)}; leave it out")
    if config.block_size > trained.block_size:
        raise ConfigError(
            f"configuration, in key block_size: expected at most {trained.block_size}, which the weights in "
            f"{config.init_from} have positions for, got {config.block_size}; lower it"
        )
    return replace(config, **{key: getattr(trained, key) for key in ADOPTED})


def put(found: Weights, model: GPT) -> None:
    """Copies the weights into `model`, which has the same sizes, or a shorter context."""
    positions = found.tensors["wpe.weight"][: model.config.block_size]
    model.load_state_dict({**found.tensors, "wpe.weight": positions})
