"""The rules that stand for all others where a property is tested on every engine, and the engine where none matters.

A property of a rule is tested with every rule on one engine. A property of an engine is tested on every engine with
the rules below. Every engine with every rule is what tests/engine/test_cpu_kernel.py and
tests/torch_checks/test_engines.py compare with the eager engine: elsewhere the other pairs would repeat it.
"""

import pytest

#: What each rule has that the others lack.
RULES_ON_EVERY_ENGINE = {
    "sgd": "nothing to keep: no slot at its defaults",
    "adam": "two slots, and averages that are corrected",
    "mada": "six coefficients, and slots that its corners switch off",
    "mada_released": "slots that start elsewhere than at 0, and powers of betas",
    "mada_matrix": "matrices beside other tensors: two engines in one step",
}

#: Presets of the first, the third and the last, which learn nothing, six coefficients and the learning rate.
PRESETS_ON_EVERY_ENGINE = ("SGD", "MADA", "AutoMuon")

#: For contracts in which no engine has a part: they run once, as users get the optimizer.
on_one_engine = pytest.mark.parametrize("engine", ["auto"], indirect=True)

#: For contracts in double precision, which the others leave to the eager engine, and for those that make many an
#: optimizer for hardly a step: each would be compiled, for a second.
on_the_eager_engine = pytest.mark.parametrize("engine", ["eager"], indirect=True)


def is_repetition(item):
    """Whether a test of a folder whose fixture `engine` has every engine need not run this rule or preset on it."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if item.path.parent.name not in ("contract", "torch_checks") or params.get("engine") not in ("tiled", "eager"):
        return False
    case = params.get("info", getattr(params.get("case"), "info", None))
    preset = case.optim_cls if case else params.get("preset")
    if preset is not None:
        return preset.__name__ not in PRESETS_ON_EVERY_ENGINE
    return params.get("rule", "sgd") not in RULES_ON_EVERY_ENGINE
