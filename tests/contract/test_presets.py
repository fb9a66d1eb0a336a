"""The optimizers by name: what their signatures say is all there is, and `learn` decides nothing but what is learned.

Catches: a default that isn't what runs, a `None` that means a number, a coefficient that can't be named, an argument
that nobody explains, and a rule, decay, beta or guard that changes with `learn`.
"""

import copy
import inspect
import itertools
import pydoc
import re

import pytest
import torch

import mada_optim
from mada_optim import (
    MADA,
    AutoAdam,
    AutoMuon,
    Guard,
    HyperAdam,
    HyperOptimizer,
    HyperSGD,
    HyperTorch,
    LearnedLR,
    Muon,
)
from mada_optim.beta_guard import guarded, suits
from mada_optim.learning.bank import is_memory
from mada_optim.rules import RULES
from tests.problems import everything, give_gradients, same_bits, train
from tests.representatives import on_the_eager_engine

pytestmark = on_the_eager_engine

#: What may be None, which means that there is none of it.
MAY_BE_NONE = {"weights", "share_matrices", "guard", "state_dtype", "reduce_group", "stop"}
MOST_ARGUMENTS = 20

PUBLIC = [getattr(mada_optim, name) for name in mada_optim.__all__]
PRESETS = [x for x in PUBLIC if isinstance(x, type) and issubclass(x, HyperOptimizer) and x is not HyperOptimizer]
LEARNERS = [HyperSGD, LearnedLR, HyperTorch]
each_preset = pytest.mark.parametrize("preset", PRESETS, ids=lambda x: x.__name__)


def parameters(preset, seed=0):
    """Two matrices, a head and a vector; for Muon matrices alone."""
    torch.manual_seed(seed)
    shapes = [(6, 4), (4, 6), *([] if preset is Muon else [(5,)]), (3, 6)]
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def arguments(x):
    """The parameters of a signature, without self."""
    found = list(inspect.signature(x.__init__).parameters.values())[1:]
    assert not [p for p in found if p.kind is p.VAR_KEYWORD]
    return found


def defaults(preset):
    return {p.name: p.default for p in arguments(preset)[1:]}


def plain(x):
    """Nested containers and tensors as what can be compared."""
    if isinstance(x, torch.Tensor):
        return (str(x.dtype), tuple(x.shape), x.tolist())
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    return [plain(value) for value in x] if isinstance(x, list | tuple) else x


def test_all_are_looked_at():
    assert {x.__name__ for x in PRESETS} == {
        *("MADA", "AutoMuon", "AutoAdam", "HyperAdam", "Adam", "SGD", "AdaGrad", "RMSprop", "AMSGrad", "AVGrad"),
        *("NAdam", "Yogi", "Adan", "Lion", "Muon", "NorMuon"),
    }


# -------------------------------------------------------------------------------------------------------- signatures


@each_preset
def test_every_default_spelt_out_changes_no_bit(preset):
    """All keywords at once, and each of them alone."""
    spelt_out = defaults(preset)
    assert inspect.Parameter.empty not in spelt_out.values()
    given = [spelt_out, *({name: x} for name, x in spelt_out.items())]
    params = parameters(preset)
    silent, others = preset(params), [parameters(preset) for _ in given]
    opts = [preset(twins, **options) for twins, options in zip(others, given, strict=True)]
    before = plain(silent.state_dict())
    assert all(plain(opt.state_dict()) == before for opt in opts)
    for seed in range(10):
        train(silent, params, [seed])
        for opt, twins in zip(opts, others, strict=True):
            train(opt, twins, [seed])
            assert same_bits(list(params), list(twins)), seed
    after = plain(silent.state_dict())
    assert all(plain(opt.state_dict()) == after != before for opt in opts)


#: Of each argument a value that is nobody's default; `nesterov` and the like need a momentum.
OTHERWISE = {
    "lr": 0.5,
    "betas": (0.5, 0.995),
    "eps": 0.1,
    "weight_decay": 0.5,
    "maximize": True,
    "state_dtype": torch.bfloat16,
    "weights": "stochastic",
    "learn": LearnedLR(horizon=0.5),
    "guard": Guard(ramp=9.0),
    "rule": "mada_released",
    "matrix_lr_ratio": 7.0,
    "initial_accumulator_value": 0.5,
    "kappa": 0.7,
    **dict.fromkeys(("lr_decay", "momentum_decay"), 0.5),
    **dict.fromkeys(("beta3", "rho", "c", "gamma", "omega", "nu", "mu", "row_beta"), 0.3),
    **dict.fromkeys(("momentum", "nesterov", "alpha", "centered"), 0.3),
}
BESIDE = {"nesterov": {"momentum": 0.9}, "state_dtype": {"momentum": 0.9}}
DTYPES = {"weights": torch.bfloat16}  # of the parameters


@each_preset
def test_every_argument_takes_effect(preset):
    """On the weights, on what is kept, or on the rule, which is MADA's own at Adam's corner all the same."""
    for name in defaults(preset).keys() - {"engine", "share_matrices", "reduce_group"}:
        beside = {key: x for key, x in BESIDE.get(name, {}).items() if key in defaults(preset)}
        ends = []
        for options in (beside, {**beside, name: OTHERWISE[name]}):
            params = [p.to(DTYPES.get(name, p.dtype)).detach().requires_grad_() for p in parameters(preset)]
            opt = preset(params, **options)
            train(opt, params, range(6))
            ends.append((everything(opt), opt.rule.name))
        (usual, rule), (other, other_rule) = ends
        assert rule != other_rule or not same_bits(usual, other), name
    assert preset(parameters(preset), engine="eager").engine == "eager"
    said = [{"params": [p], "matrix": True} for p in parameters(preset)]
    assert preset(said, lr=0.1, learn=(), reduce_group="some").reduce_group == "some"


@each_preset
def test_a_default_is_what_groups_and_readings_say(preset):
    """But for the lr that shapes say."""
    opt, given = preset(parameters(preset)), defaults(preset)
    given |= dict(zip(("beta1", "beta2"), given.pop("betas", ()), strict=False))
    (group,) = opt.param_groups
    numbers = {name: x for name, x in given.items() if name in group and name != "lr"}
    assert {name: float(group[name]) for name in numbers} == pytest.approx(
        {name: float(x) for name, x in numbers.items()}
    )
    assert {"weight_decay", "maximize", *opt.rule.coefficient_names()} <= set(numbers)
    assert given["lr"] == "auto" or group["lr"] == given["lr"]


@each_preset
def test_a_signature_names_all_coefficients_of_its_rule(preset):
    named = {p.name for p in arguments(preset)}
    opt = preset(parameters(preset))
    coefficients = set(opt.rule.coefficient_names())
    if {"beta1", "beta2"} <= coefficients:
        assert "betas" in named
        coefficients -= {"beta1", "beta2"}
    assert coefficients <= named
    assert ("guard" in named) == suits(RULES[opt.rule.name])


@pytest.mark.parametrize("x", [*PRESETS, *LEARNERS], ids=lambda x: x.__name__)
def test_a_signature_is_small_and_none_means_none(x):
    signature = inspect.signature(x.__init__)
    names = list(signature.parameters)[1:]
    assert len(names) <= MOST_ARGUMENTS
    assert {name for name in names if signature.parameters[name].default is None} <= MAY_BE_NONE


@each_preset
def test_the_first_arguments_are_those_of_torch(preset):
    """In torch's order: params, lr, and by keyword alone all that it doesn't have."""
    found = arguments(preset)
    assert [p.name for p in found[:2]] == ["params", "lr"]
    by_name = [p.name for p in found if p.kind is p.KEYWORD_ONLY]
    assert {"learn", "maximize", "engine", "state_dtype", "reduce_group"} <= set(by_name)
    assert found[0].default is inspect.Parameter.empty


def test_those_of_torch_are_called_as_torchs():
    """By position, and with its names."""
    for cls, theirs in ((mada_optim.Adam, torch.optim.Adam), (mada_optim.NAdam, torch.optim.NAdam)):
        ours = [p.name for p in arguments(cls)][:5]
        assert ours == [p.name for p in list(inspect.signature(theirs.__init__).parameters.values())[1:6]]


@pytest.mark.parametrize("x", [*PRESETS, HyperOptimizer, *LEARNERS], ids=lambda x: x.__name__)
def test_help_explains_every_argument(x):
    text = inspect.getdoc(x)
    section = text[text.index("Args:") :].split("\n\n")[0]
    signature = inspect.signature(x.__init__)
    expected = [p.name for p in list(signature.parameters.values())[1:]]
    explained = re.findall(r"^    (\w+): \S", section, flags=re.M)
    assert explained == expected
    assert "Args:" in pydoc.plain(pydoc.render_doc(x))


@each_preset
def test_help_has_the_equation(preset):
    equation = inspect.getdoc(preset).split(".. math::")[1].split("Args:")[0]
    assert "_t" in equation
    assert "=" in equation


# ------------------------------------------------------------------------------------------ what `learn` doesn't decide


def choices(preset):
    """What may be given as `learn`."""
    names = preset(parameters(preset)).rule.coefficient_names()
    return [
        (),
        "lr",
        "all",
        *([names[0], HyperSGD(names[-1], scope="tensor"), HyperTorch(*names[:1])] if names else []),
        LearnedLR(),
        [LearnedLR(scope="group"), *([HyperSGD(names[0])] if names else [])],
    ]


def options(opt):
    """The groups without what a learner puts into them; a coefficient of each tensor is one number where all agree."""
    learners_own = ("params", "log_lr", "horizon")
    return [
        {
            key: x.unique().item() if isinstance(x, torch.Tensor) else x
            for key, x in group.items()
            if key not in learners_own and not is_memory(key)
        }
        for group in opt.param_groups
    ]


@each_preset
def test_learn_leaves_rule_and_options_as_they_were(preset):
    """Also where a group has options of its own."""
    params = parameters(preset)
    groups = [{"params": params[:1], "weight_decay": 0.25, "lr": 1e-4}, {"params": params[1:]}]
    silent = preset(copy.deepcopy(groups))
    for learn in choices(preset):
        opt = preset(copy.deepcopy(groups), learn=learn)
        assert opt.rule is silent.rule, learn
        assert options(opt) == options(silent), learn


@each_preset
def test_learn_names_what_is_learned_and_by_whom(preset):
    for learn in choices(preset):
        opt = preset(parameters(preset), learn=learn)
        given = [learn] if isinstance(learn, str) or not isinstance(learn, list | tuple) else learn
        expected = tuple(HyperSGD(x) if isinstance(x, str) else x for x in given)
        nothing = learn == "all" and not opt.rule.coefficients
        assert opt.learners == (() if nothing else expected)


@pytest.mark.parametrize("preset", [AutoMuon, AutoAdam])
def test_the_default_learner_named_is_the_default(preset):
    """Over more steps than its start, with gradients that stay: the lr rises."""
    params, twins = parameters(preset), parameters(preset)
    silent, named = preset(params), preset(twins, learn=LearnedLR())
    for step in range(25):
        for p in (*params, *twins):
            p.grad = torch.ones_like(p)
        silent.step()
        named.step()
        assert same_bits(everything(silent), everything(named)), step
    assert silent.coefficients()["lr"] > 1.1 * silent.param_groups[0]["lr"]


@pytest.mark.parametrize("preset", [MADA, HyperAdam])
def test_all_named_one_by_one_is_the_default(preset):
    params, twins = parameters(preset), parameters(preset)
    silent = preset(params)
    named = preset(twins, learn=silent.rule.coefficient_names())
    for seed in range(60):
        train(silent, params, [seed])
        train(named, twins, [seed])
    assert same_bits(everything(silent), everything(named))
    assert silent.coefficients() != preset(parameters(preset)).coefficients()


@pytest.mark.parametrize(("preset", "ramp"), [(AutoMuon, 100.0), (AutoAdam, 5.0)])
def test_learning_nothing_is_the_same_rule_at_the_same_numbers(preset, ramp):
    """Of the default without its learner, the lr stays where it starts; all else is as it was."""
    params, twins = parameters(preset), parameters(preset)
    ratio = {"matrix_lr_ratio": 2.0} if preset is AutoMuon else {}
    guard = Guard(ramp=ramp, least_beta2=0.99)
    opt = preset(params, learn=())
    general = HyperOptimizer(
        twins, "auto", rule=opt.rule.name, betas=(0.9, 0.99), weight_decay=0.3, guard=guard, **ratio
    )
    train(opt, params, range(12))
    train(general, twins, range(12))
    assert same_bits(everything(opt), everything(general))
    assert opt.rule is guarded(RULES[opt.rule.name], guard)


# ------------------------------------------------------------------------------------------------------ what they are


@each_preset
def test_a_keyword_of_another_is_refused(preset):
    """By Python itself, before anything is made."""
    everywhere = {p.name for p in itertools.chain.from_iterable(arguments(x) for x in PRESETS)}
    for name in sorted({*everywhere, "hyper_lr", "scope", "lr_init"} - {p.name for p in arguments(preset)}):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            preset(parameters(preset), **{name: 0.5})


@each_preset
def test_it_trains(preset):
    """Half of a quadratic's loss is gone, at a learning rate that suits it."""
    lr = {"SGD": 0.1, "Lion": 1e-2, "AdaGrad": 0.3}.get(preset.__name__, 0.03)
    params = parameters(preset)
    opt = preset(params, lr=lr)

    def loss():
        return sum((p**2).sum() for p in params)

    start = loss().item()
    for _ in range(100):
        opt.zero_grad()
        loss().backward()
        opt.step()
    assert loss().item() < 0.5 * start


def test_a_group_of_automuon_may_say_its_ratio_and_matrices():
    """They are options of groups, as those of torch are."""
    params = parameters(AutoMuon)
    groups = [{"params": params[:1], "matrix": False}, {"params": params[1:], "matrix_lr_ratio": 5.0}]
    opt = AutoMuon(groups)
    assert [group["matrix_lr_ratio"] for group in opt.param_groups] == [2.0, 5.0]
    give_gradients(params, 0)
    opt.step()
    assert "b" not in opt.slots(params[0])
    assert "b" in opt.slots(params[1])
