"""The registry. To add a rule: one file in this folder, and one line below."""

from mada_optim.rules import adagrad, adam, adan, amsgrad, avgrad, lion, mada, mada_released, rmsprop, sgd, yogi
from mada_optim.spec import Rule

RULES: dict[str, Rule] = {
    module.RULE.name: module.RULE
    for module in (
        sgd,
        adagrad,
        rmsprop,
        adam,
        amsgrad,
        avgrad,
        yogi,
        adan,
        lion,
        mada,
        mada_released,
    )
}
