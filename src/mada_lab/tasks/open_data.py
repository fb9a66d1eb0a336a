"""The data set of a configuration of either kind."""

from pathlib import Path

from mada_lab.config.keys import RunConfig, VisionConfig
from mada_lab.data.prepare import open_or_prepare, open_or_prepare_images
from mada_lab.tasks import Data


def open_data(config: RunConfig) -> Data:
    """The data set that `config` names, prepared first if it's small. Raises ConfigError, DataError."""
    opens = open_or_prepare_images if isinstance(config, VisionConfig) else open_or_prepare
    return opens(config.dataset, Path(config.data_dir))
