"""The registry of rules. A new rule is one file in this folder and its name below."""

from importlib import import_module

from mada_optim.rule import Rule

FILES = (
    "sgd adagrad rmsprop adam amsgrad avgrad nadam yogi adan lion mada mada_released mada_published muon normuon "
    "mada_matrix"
).split()

RULES: dict[str, Rule] = {rule.name: rule for rule in (import_module(f"{__name__}.{file}").RULE for file in FILES)}
