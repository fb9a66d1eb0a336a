"""The data set of a configuration of either kind."""

from pathlib import Path

from mada_lab.config.keys import RunConfig, VisionConfig
from mada_lab.data.corpus import Corpus
from mada_lab.data.images import ImageData
from mada_lab.data.prepare import open_or_prepare
from mada_lab.tasks import Data


def open_data(config: RunConfig) -> Data:
    """The data set that `config` names, prepared first if it's small. Raises ConfigError, DataError."""
    if isinstance(config, VisionConfig):
        return open_or_prepare(config.dataset, Path(config.data_dir), ImageData)
    return open_or_prepare(config.dataset, Path(config.data_dir), Corpus)
