"""Finds a trained network: in a run, a checkpoint, a folder of Hugging Face's format, or on the Hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mada_lab.checkpoints import checkpoint
from mada_lab.checkpoints import folder as checkpoint_folder
from mada_lab.checkpoints.compatibility import require_alike
from mada_lab.config import parsing
from mada_lab.data import catalog, gpt2
from mada_lab.data.download import read_pinned
from mada_lab.data.gpt2 import Gpt2Tokenizer, find_encoder
from mada_lab.data.sidecar import Vocabulary
from mada_lab.data.tokenizer import CharTokenizer
from mada_lab.errors import CheckpointError, ConfigError, LabError, one_line
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.pretrained import hf_gpt2, hf_tokenizer
from mada_lab.system import optional

#: OpenAI's networks on the Hub, by the names that `init_from` takes.
HUB = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
MODEL_KEYS = ("block_size", "n_layer", "n_head", "n_embd", "bias")


@dataclass(frozen=True, eq=False)
class Weights:
    """A trained network."""

    origin: str  #: the place where it was found
    config: GPTConfig  #: its sizes
    tensors: Mapping[str, Tensor]  #: its parameters by name, in float32 on the CPU
    vocabulary: Vocabulary  #: the meaning of its token ids
    folder: Path | None  #: its run folder or export; None on the Hub
    step: int | None = None  #: number of its optimizer steps; None if unknown
    dataset: str | None = None  #: name of its training data; None if unknown
    data_dir: Path | None = None  #: folder of that data set

    def model(self) -> GPT:
        """The network, ready for evaluation."""
        model = GPT(self.config)
        model.load_state_dict(self.tensors)
        return model.eval()

    def tokenizer(self, bpe_files: Path | None = None) -> Gpt2Tokenizer | CharTokenizer:
        """Its tokenizer. GPT-2's file is read from `bpe_files`, else from the folder of the network or of its data.

        Raises:
            DataError: GPT-2's file is missing there and in tiktoken's cache, and can't be downloaded.
        """
        if self.vocabulary.characters is not None:
            return CharTokenizer(self.vocabulary.characters)
        data_dir = self.data_dir or Path("data")
        places = [self.folder / hf_tokenizer.VOCAB] if self.folder is not None else []
        places += [data_dir / self.dataset / gpt2.ENCODER.name] if self.dataset is not None else []
        found = next((path for path in places if bpe_files is None and path.is_file()), None)
        downloads = data_dir / f"gpt2{catalog.DOWNLOADS}"
        content = read_pinned(found, gpt2.ENCODER) if found else find_encoder(bpe_files, downloads)
        return Gpt2Tokenizer(content, self.vocabulary.size)


def read(place: str) -> Weights:
    """The network at `place`.

    Args:
        place: The folder of a run (its newest whole checkpoint), of a checkpoint, or of a network in Hugging Face's
            format; or a name in `HUB`.

    Raises:
        ConfigError: There is no network, or one of images.
        CheckpointError: It is damaged, or of another kind of network.
    """
    path = Path(place)
    if place in HUB and not path.exists():
        return _published(_download(HUB[place]), HUB[place])
    if (path / hf_gpt2.CONFIG).is_file():
        return _published(path, place)
    if checkpoint_folder.STEP.fullmatch(path.resolve().name) and path.is_dir():
        return _of_checkpoint(path, path.resolve().parents[1])
    if checkpoint_folder.available(path):
        return _of_checkpoint(path, path)
    got = "none of them" if path.exists() else "a missing path"
    raise ConfigError(
        f"network, in {place}: expected a run with a checkpoint, a checkpoint, a folder with {hf_gpt2.CONFIG}, "
        f"or one of {', '.join(HUB)}, got {got}; check the path"
    )


def _published(folder: Path, origin: str) -> Weights:
    config, tensors = hf_gpt2.read(folder)
    vocabulary = hf_tokenizer.read_vocabulary(folder, config.vocab_size)
    return Weights(origin, config, tensors, vocabulary, folder if origin not in HUB.values() else None)


def _of_checkpoint(path: Path, run: Path) -> Weights:
    saved = checkpoint.load(path) if path.resolve() != run.resolve() else checkpoint.load_newest(path)
    assert saved is not None
    if "classes" in saved.tree:
        raise ConfigError(f"network, in {path}: expected a run of text, got one of images; name another run")
    try:
        tree = saved.tree
        config, vocabulary = parsing.from_values(tree["config"], str(path)), _vocabulary(tree)
        sizes = GPTConfig(vocab_size=vocabulary.size, **{key: getattr(config, key) for key in MODEL_KEYS})
        tensors = tree["state"]["model"]
        if sizes.n_layer > len(tensors):
            raise ValueError(f"expected {sizes.n_layer} layers, got {len(tensors)} tensors")
        require_alike("model", hf_gpt2.skeleton(sizes, sizes.bias), tensors)
    except (LabError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise checkpoint_folder.damaged(path, "the network of its configuration", one_line(error)) from error
    return Weights(str(path), sizes, tensors, vocabulary, run, saved.step, config.dataset, Path(config.data_dir))


def _vocabulary(tree: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a checkpoint. Earlier versions saved its size alone, which identifies GPT-2's."""
    if "tokenizer" in tree:
        vocabulary = Vocabulary(**tree["tokenizer"])
        sizes = (gpt2.VOCABULARY_SIZE, gpt2.SMALL_VOCABULARY)
        known = sizes if vocabulary.characters is None else (len(vocabulary.characters),)
        if vocabulary.size not in known or vocabulary.size != tree["vocabulary"]:
            raise ValueError(f"tokenizer: expected {tree['vocabulary']} ids, got {vocabulary.size}")
        return vocabulary
    if tree["vocabulary"] != gpt2.VOCABULARY_SIZE:
        raise ValueError("expected its tokenizer, got none: an earlier version saved it; resume the run for a step")
    return Vocabulary(Gpt2Tokenizer.name, gpt2.VOCABULARY_SIZE, sha256=gpt2.ENCODER.sha256)


def _download(repository: str) -> Path:
    """The folder of a network in the cache of the Hub's client."""
    hub = optional.load("huggingface_hub", "mada-optim[hf]")
    try:
        found = [Path(hub.hf_hub_download(repository, name)) for name in (hf_gpt2.CONFIG, hf_gpt2.WEIGHTS)]
    except Exception as error:  # it raises what its HTTP library raises, whichever that is
        raise CheckpointError(
            f"network, {repository} of the Hugging Face Hub: expected {hf_gpt2.WEIGHTS}, got {one_line(error, 120)}; "
            "try again later, or fetch the folder by other means and pass its path"
        ) from error
    return found[0].parent
