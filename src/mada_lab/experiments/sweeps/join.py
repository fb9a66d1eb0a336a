"""A storage holds one sweep of a name: its plan, which every worker must have, and its claims."""

import json
import os
import re
import socket
import uuid

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage

from mada_lab.config.keys import RunConfig
from mada_lab.errors import ConfigError
from mada_lab.experiments.sweeps.claims import Claims
from mada_lab.experiments.sweeps.plan import Plan, differences

GRACE = 60.0  # seconds without a sign of life, after which a worker counts as dead
PLAN = "plan"


def join(plan: Plan | None, storage: BaseStorage, name: str, local: RunConfig) -> tuple[Plan, optuna.Study]:
    """The sweep called `name` in the storage, begun if need be; without a `plan`, the one that is there.

    Raises:
        ConfigError: There is none, or it has another plan.
    """
    ours = re.compile(rf"{re.escape(name)}-[0-9a-f]{{12}}")
    names = [study.study_name for study in storage.get_all_studies() if ours.fullmatch(study.study_name)]
    found = [_read_plan(optuna.load_study(study_name=x, storage=storage), local) for x in names]
    known = [other for other in found if other is not None]
    if plan is None:
        if len(known) != 1:
            what = f"expected one called {name}, got {len(known)}; give the keys of the sweep too"
            raise ConfigError(f"sweep, storage: {what}")
        plan = known[0]
    others = [other for other in known if other.digest != plan.digest]
    if others:
        keys = ", ".join(differences(plan, others[0]))
        what = f"expected the sweep called {name} to be this one, got one that differs in {keys}"
        raise ConfigError(f"sweep, storage: {what}; give back the old values, or choose another --storage or --name")
    return plan, _study(plan, storage, f"{name}-{plan.digest}")


def _study(plan: Plan, storage: BaseStorage, name: str) -> optuna.Study:
    """The study of a plan; all who make it at the same time write the same into it."""
    try:
        study = optuna.create_study(study_name=name, storage=storage, direction="minimize")
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage)
    if PLAN not in study.user_attrs:
        study.set_user_attr(PLAN, json.dumps(plan.to_json()))
    return study


def _read_plan(study: optuna.Study, local: RunConfig) -> Plan | None:
    text = study.user_attrs.get(PLAN)
    return None if text is None else Plan.from_json(json.loads(text), local)


def claims_of(study: optuna.Study, grace: float = GRACE) -> Claims:
    """The claims in a study, for a worker of this process."""
    return Claims(study, f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}", grace)
