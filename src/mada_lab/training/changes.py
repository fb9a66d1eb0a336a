"""Changes of the configuration at a resume. Each key declares whether a change takes effect or is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from mada_lab.config import parsing
from mada_lab.config.declarations import Resume, declarations, defaults
from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.optimizers import catalog
from mada_lab.training.lr_schedule import learning_rate

#: A change of such a key changes the steps that are left.
OF_STEPS = (Resume.STEPS, Resume.SCHEDULE)


def changed(config: RunConfig, saved: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The keys whose value differs from the saved one, with the old and the new value.

    Keys without effect aren't compared. A key that `saved` lacks is newer than that run, and has its default there.
    """
    declared, usual = declarations(type(config)), defaults(type(config))
    idle = {*parsing.idle(config), *catalog.idle(config)}
    for key in (x.name for x in fields(config)):
        if declared[key].resume is Resume.RESOLVED or key in idle:
            continue
        old, new = saved.get(key, usual.get(key)), getattr(config, key)
        other = declared[key].none_is
        meant = [getattr(config, other) if other is not None and x is None else x for x in (old, new)]
        if key == "learning_rate":
            meant = [catalog.learning_rate(replace(config, learning_rate=x)) for x in meant]
        if meant[0] != meant[1]:
            yield key, old, new


def require_fixed(config: RunConfig, saved: Mapping[str, Any]) -> None:
    """Raises ConfigError for the change of a key that a checkpoint fixes."""
    for key, old, new in changed(config, saved):
        if declarations(type(config))[key].resume is Resume.FIXED:
            raise _refused(key, old, new, "", "start afresh in another out_dir")


def require_effect(config: RunConfig, saved: Mapping[str, Any], step: int, peak: float, saved_peak: float) -> None:
    """Raises ConfigError for a change without effect after `step`, the step of the checkpoint.

    `peak` and `saved_peak` are the peak learning rates of the run and of the saved run.
    """
    if config.max_iters < step:
        refusal = f"expected at least the {step} steps that are done, got {config.max_iters}"
        raise ConfigError(f"resume, key max_iters: {refusal}; raise it")
    for key, old, new in changed(config, saved):
        peaks = (peak, saved_peak if key == "learning_rate" else peak)
        if declarations(type(config))[key].resume in OF_STEPS and not _matters(key, old, config, step, peaks):
            raise _refused(key, old, new, f", which changes nothing after step {step}", "raise max_iters")


def _matters(key: str, old: Any, config: RunConfig, step: int, peaks: tuple[float, float]) -> bool:
    """Whether the old value of `key` would change a step after `step`; `peaks` are the present peak and the old one."""
    before = replace(config, **{key: old})
    if key == "max_iters":
        return True
    if config.max_iters == step:
        return False
    if declarations(type(config))[key].resume is Resume.SCHEDULE:
        left = range(step + 1, config.max_iters + 1)
        return any(learning_rate(config, peaks[0], i) != learning_rate(before, peaks[1], i) for i in left)
    if key == "hyper_stop":  # learning has ended before `step` by either value
        return any(x is None or x > step for x in (config.hyper_stop, before.hyper_stop))
    return True


def _refused(key: str, old: Any, new: Any, why: str, remedy: str) -> ConfigError:
    refusal = f"expected {old}, as in the run that is resumed, got {new}{why}"
    return ConfigError(f"resume, key {key}: {refusal}; resume with --{key}={old}, or {remedy}")
