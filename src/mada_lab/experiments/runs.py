"""A run that is brought to its end, from wherever it stands."""

from dataclasses import asdict, replace
from pathlib import Path

from mada_lab import starting_point
from mada_lab.config import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.loop import train
from mada_lab.progress import Listener
from mada_lab.record import MANIFEST, SUMMARY, Run, read_run
from mada_lab.tasks import Data

#: Keys in which a run that goes on may differ from what began it.
MAY_DIFFER = ("out_dir", "data_dir", "device", "init_from", "coefficients_from", "pace_from")


def complete(config: RunConfig, data: Data, listen: Listener) -> Run:
    """The finished run of `config`: read if its folder holds it, taken up at its checkpoint, or trained afresh.

    Raises:
        LabError: As `train`; ConfigError too if the folder holds a run of another configuration.
    """
    folder, config = Path(config.out_dir), starting_point.resolve(config)
    begun = (folder / MANIFEST).exists()
    if begun:
        _require_same(read_run(folder), config)
    if not (begun and (folder / SUMMARY).exists()):
        train(replace(config, init_from="resume" if begun else "scratch"), data, listen)
    return read_run(folder)


def _require_same(run: Run, config: RunConfig) -> None:
    theirs = {**asdict(type(config)()), **run.manifest.get("config", {})}  # an older run lacks the keys made since
    other = [key for key, x in asdict(config).items() if key not in MAY_DIFFER and theirs[key] != x]
    if other:
        key = other[0]
        what = f"expected {key}={getattr(config, key)}, got {theirs[key]}"
        raise ConfigError(f"run folder, in {run.folder}: {what}; choose another folder, or remove this run")
