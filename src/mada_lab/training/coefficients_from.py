"""Starts a run with the coefficients that another run has learned. Without torch."""

from dataclasses import fields, replace
from pathlib import Path

from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.records.run_record import read_run


def resolve(config: RunConfig) -> RunConfig:
    """`config` with the final coefficients of the run that `coefficients_from` names, if it names one.

    They stay as they are in training unless `learn` is set too. Raises ConfigError if there is no such run, it hasn't
    ended, its coefficients aren't one number each, or the configuration sets one of them to another value.
    """
    if config.coefficients_from is None:
        return config
    folder = Path(config.coefficients_from)
    run = read_run(folder)
    where = f"coefficients, key coefficients_from={folder}"
    if run.summary is None:
        raise ConfigError(f"{where}: expected a run that has ended, got one without a summary; finish it first")
    learned = {name: x for name, x in run.final_coefficients().items() if name != "lr"}
    if not learned:
        raise ConfigError(f"{where}: expected a run of an optimizer with coefficients, got none; name another run")
    keys = {field.name for field in fields(config)}
    for name, x in learned.items():
        if name not in keys or x is None:
            refusal = f"expected one finite value per coefficient, got {name}={x}"
            raise ConfigError(f"{where}: {refusal}; name a run of global scope")
        if getattr(config, name) not in (None, x):
            refusal = f"expected {name}={x} of that run, got {name}={getattr(config, name)} beside it"
            raise ConfigError(f"{where}: {refusal}; leave one of them out")
    return replace(config, learn=config.learn or "none", **learned)
