"""Finishes runs: trains them afresh or resumes them, one by one or side by side."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.records.listener import Listener
from mada_lab.records.run_record import MANIFEST, SUMMARY, Run, read_run
from mada_lab.tasks import Data
from mada_lab.training import coefficients_from, lr_schedule
from mada_lab.training.stacked import Member, train_together
from mada_lab.training.trainer import train

#: Keys that may differ from the recorded ones when a run goes on.
MAY_DIFFER = ("out_dir", "data_dir", "device", "init_from", "coefficients_from", "pace_from")


def complete(config: RunConfig, data: Data, listen: Listener) -> Run:
    """The finished run of `config`: read, resumed, or trained afresh. Raises as `unfinished` and `train`."""
    rest = unfinished(config)
    if rest is not None:
        train(rest, data, listen)
    return read_run(config.folder)


def complete_together(configs: Sequence[RunConfig], data: Data, listeners: Sequence[Listener]) -> list[Run | Exception]:
    """The finished run of each configuration, or its error; all are trained side by side, as by `train_together`."""
    members: dict[int, Member] = {}
    failed: dict[int, Exception] = {}
    for i, config in enumerate(configs):
        try:
            if (rest := unfinished(config)) is not None:
                members[i] = Member(rest, data, listeners[i])
        except Exception as error:
            failed[i] = error
    train_together(list(members.values()))
    failed |= {i: x.error for i, x in members.items() if x.error is not None}
    return [failed.get(i) or read_run(config.folder) for i, config in enumerate(configs)]


def unfinished(config: RunConfig) -> RunConfig | None:
    """The configuration that trains the rest of the run of `config`; None if the run has finished.

    Raises ConfigError if the folder holds a run of another configuration, or `coefficients_from` can't be followed.
    """
    folder, config = config.folder, coefficients_from.resolve(config)
    if not (folder / MANIFEST).exists():
        return replace(lr_schedule.resolved(config), init_from="scratch")
    run = read_run(folder)
    config = lr_schedule.resolved(config, run.manifest.get("config"))
    _require_same(run, config)
    return None if (folder / SUMMARY).exists() else replace(config, init_from="resume")


def _require_same(run: Run, config: RunConfig) -> None:
    recorded = {**asdict(type(config)()), **run.manifest.get("config", {})}  # an older run lacks the keys made since
    other = [key for key, x in asdict(config).items() if key not in MAY_DIFFER and recorded[key] != x]
    if other:
        key = other[0]
        what = f"expected {key}={getattr(config, key)}, got {recorded[key]}"
        raise ConfigError(f"run folder, in {run.folder}: {what}; choose another folder, or remove this run")
