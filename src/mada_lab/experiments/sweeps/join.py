"""Joins a sweep. A storage holds one sweep of each name: its claims, and its plan, which all workers must share."""

import json
import os
import re
import socket
import uuid

from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.experiments.sweeps.claims import Claims
from mada_lab.experiments.sweeps.plan import Plan, differences
from mada_lab.experiments.sweeps.storage import Storage, Study, study_names

GRACE = 60.0  # seconds without a sign of life, after which a worker counts as dead
PLAN = "plan"


def join(plan: Plan | None, storage: Storage, name: str, local: RunConfig) -> tuple[Plan, Study]:
    """The sweep called `name`, begun if need be; without a `plan`, the stored one. Raises ConfigError for another."""
    pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{12}}")
    names = [study for study in study_names(storage) if pattern.fullmatch(study)]
    texts = [Study(storage, study).facts.get(PLAN) for study in names]
    known = [Plan.from_json(json.loads(text), local) for text in texts if text is not None]
    if plan is None:
        if len(known) != 1:
            what = f"expected one called {name}, got {len(known)}; give the keys of the sweep too"
            raise ConfigError(f"sweep, storage: {what}")
        plan = known[0]
    others = [other for other in known if other.digest != plan.digest]
    if others:
        old = ", ".join(differences(plan, others[0]))
        what = f"expected the sweep called {name} to be this one, got one with {old}"
        remedy = "repeat the old values to go on with it, or choose another --out or --storage to begin anew"
        raise ConfigError(f"sweep, storage: {what}; {remedy}")
    study = Study(storage, f"{name}-{plan.digest}")
    if PLAN not in study.facts:  # all who begin it at the same time write the same
        study.note(PLAN, json.dumps(plan.to_json()))
    return plan, study


def progress(storage: Storage, local: RunConfig) -> tuple[int, int]:
    """How many points of the sweeps in a storage are settled, and how many they have."""
    settled = size = 0
    for study in (Study(storage, name) for name in study_names(storage)):
        if text := study.facts.get(PLAN):
            axes = {key: value for key, value in json.loads(text).items() if key != "base"}
            size += Plan(local, **axes).size
            settled += len(claims_of(study).standing().settled)
    return settled, size


def claims_of(study: Study, grace: float = GRACE) -> Claims:
    """The claims in a study, for a worker of this process."""
    return Claims(study, f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}", grace)
