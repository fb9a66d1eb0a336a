"""The arguments that `eval`, `export` and `generate` share: a trained network, and where its parts lie."""

from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING

from mada_lab.config.arguments import Arguments, path

if TYPE_CHECKING:
    from mada_lab.pretrained.weights import Weights

RUN = {"RUN": "Folder of a run, a checkpoint or an export; or gpt2, gpt2-medium, gpt2-large, gpt2-xl."}


def add_places(made: Arguments) -> None:
    """Adds the options for what lies beside the network."""
    topic = "files"
    made.option("data-dir", "Folder of the data sets. (default: that of the run)", path, shown="DIR", topic=topic)
    meaning = "Folder with GPT-2's encoder.json and vocab.bpe, instead of a download."
    made.option("bpe-files", meaning, path, shown="DIR", topic=topic)


def network_of(given: Namespace) -> "Weights":
    """The network that is named. Raises ConfigError if there is none, CheckpointError if it is damaged."""
    from mada_lab.pretrained import weights

    network = weights.read(given.places[0])
    return network if given.data_dir is None else replace(network, data_dir=given.data_dir)
