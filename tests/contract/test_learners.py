"""Learners as objects: somebody else's, what it is told, what is kept of it, and what a learner is.

Catches: a learner that is told of other rows, names or rates than it has, whose memory is lost, or which moves what
doesn't count; one that changes, or can't be compared; a wrong word that has no effect.
"""

import copy
import dataclasses
import inspect
import io
import math
import pickle
from dataclasses import dataclass, field

import pytest
import torch

from mada_optim import MADA, AutoMuon, HyperOptimizer, HyperSGD, HyperTorch, LearnedLR, Learner
from mada_optim.checks import NON_NEGATIVE
from mada_optim.learning.options import Amount, Option, Start, options_of
from mada_optim.rule import UNIT, Coefficient, Rule
from mada_optim.rules import RULES
from tests.problems import everything, give_gradients, learning, parameters, same_bits, train
from tests.representatives import on_one_engine

pytestmark = on_one_engine

PARTED = ["group", "tensor"]


@dataclass(frozen=True)
class Along(Learner):
    """Somebody else's: along an average of hypergradients."""

    names: str | tuple[str, ...] = "all"
    size: float = 1e-2
    scope: str = "global"
    start: int = 0
    bounds: dict = field(default_factory=dict)

    def init(self, q, info):
        return {"average": torch.zeros_like(q), "origin": q.clone(), "steps": q.new_zeros(len(q))}

    def step(self, q, h, memory, info):
        average = 0.8 * memory["average"] + 0.2 * h
        now = {"average": average, "origin": memory["origin"], "steps": memory["steps"] + 1}
        return q - self.size * average, now


def one_each(params):
    """Groups of one tensor each, with something of their own."""
    return [{"params": [p], "weight_decay": 0.1 * i} for i, p in enumerate(params)]


def rows(opt):
    """Coefficients by scope, as one reads them."""
    return list(opt.coefficients().values())


def memory(opt, name):
    """What the learner remembers under a name, a row for each scope."""
    of_each = [group[f"hyper_{name}"] for group in opt.param_groups]
    return torch.cat([x if opt.learners[0].scope == "tensor" else x.unsqueeze(0) for x in of_each])


# ------------------------------------------------------------------------------------------------- somebody else's


def test_a_learner_moves_as_it_says():
    params = parameters()
    opt, average = learning(params, learn=Along()), {}
    expected = opt.coefficients()
    for seed in range(10):
        train(opt, params, [seed])
        for q, h in opt.hypergradients().items() if seed else ():
            average[q] = 0.8 * average.get(q, 0.0) + 0.2 * h
            expected[q] -= 1e-2 * average[q]
        assert opt.coefficients() == pytest.approx(expected, rel=1e-12)
    assert opt.learners == (Along(),)
    assert set(opt.coefficients().values()).isdisjoint(learning(parameters()).coefficients().values())


@pytest.mark.parametrize("scope", PARTED)
def test_one_tensor_per_scope_is_an_optimizer_per_tensor(scope):
    params, twins = (p := parameters()), copy.deepcopy(p)
    together = learning(one_each(params), learn=Along(scope=scope))
    apart = [learning([group], learn=Along()) for group in one_each(twins)]
    for seed in range(8):
        train(together, params, [seed])
        give_gradients(twins, seed)
        for opt in apart:
            opt.step()
        assert rows(together) == [opt.coefficients() for opt in apart], seed
    assert same_bits(list(params), list(twins))
    assert len({tuple(row.values()) for row in rows(together)}) == 4


def saved(opt):
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@dataclass(frozen=True)
class Odd(Along):
    """With a memory of other shapes and dtypes."""

    def init(self, q, info):
        some = torch.arange(6, device=q.device).reshape(1, 2, 3).expand(len(q), 2, 3)
        return super().init(q, info) | {"whole": some.clone(), "said": torch.zeros(len(q), dtype=torch.bool)}

    def step(self, q, h, memory, info):
        new, now = super().step(q, h, memory, info)
        return new, now | {"whole": memory["whole"] + 1, "said": ~memory["said"]}


def two_groups(params):
    return [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "lr": 1e-3}]


@pytest.mark.parametrize("scope", ["global", *PARTED])
@pytest.mark.parametrize("learner", [Along, Odd])
@pytest.mark.parametrize("through", ["state dict", "copy", "pickle"])
def test_lock_step_after_a_journey(scope, learner, through):
    params = parameters()
    opt = learning(two_groups(params), learn=learner(scope=scope, start=2))
    train(opt, params, range(5))
    if through == "state dict":
        twins = copy.deepcopy(params)
        twin = learning(two_groups(twins), learn=learner(scope=scope, start=2))
        twin.load_state_dict(saved(opt))
    else:
        twin = copy.deepcopy(opt) if through == "copy" else pickle.loads(pickle.dumps(opt))
        twins = [p for group in twin.param_groups for p in group["params"]]
    assert twin.learners == opt.learners
    for seed in range(100, 108):
        assert same_bits(everything(opt), everything(twin)), seed
        train(opt, params, [seed])
        train(twin, twins, [seed])
    assert same_bits(everything(opt), everything(twin))
    assert memory(opt, "steps")[0].item() >= 12.0


@pytest.mark.parametrize("scope", PARTED)
def test_a_late_group_has_the_memory_of_new_rows(scope):
    """Made from its own coefficients; the rows before it stay as they are."""
    params = parameters()
    opt = learning([{"params": params[:2]}], learn=Along(scope=scope))
    train(opt, params[:2], range(4))
    before = {name: memory(opt, name) for name in ("average", "origin", "steps")}
    opt.add_param_group({"params": params[2:], "rho": 0.25})
    old = len(before["steps"])
    assert [len(memory(opt, name)) - old for name in before] == [1 if scope == "group" else 2] * 3
    for name, x in before.items():
        assert torch.equal(memory(opt, name)[:old], x)
    rho = list(RULES["mada"].coefficient_names()).index("rho")
    assert memory(opt, "origin")[old:, rho].unique().tolist() == [0.25]
    assert not memory(opt, "steps")[old:].any()
    train(opt, params, range(4, 7))
    assert memory(opt, "steps").tolist() == [*before["steps"] + 3, *(memory(opt, "steps")[old:] * 0 + 3)]


def test_a_late_group_shares_the_memory_of_all():
    params = parameters()
    opt = learning(params[:2], learn=Along())
    train(opt, params[:2], range(4))
    opt.add_param_group({"params": params[2:]})
    first, second = opt.param_groups
    assert all(first[f"hyper_{name}"] is second[f"hyper_{name}"] for name in ("average", "origin", "steps"))
    assert first["hyper_steps"].item() == 4.0


@pytest.mark.parametrize("scope", PARTED)
def test_rows_that_a_step_does_not_count_for_keep_all(scope):
    """A scope without a gradient, and one whose hypergradient is not finite; the others go on."""
    params = parameters()[:3]
    opt = learning(one_each(params), learn=Along(scope=scope))
    train(opt, params, range(3))
    opt.state[params[0]]["applied"][1] = math.nan  # the beta1 that its last update was made with
    give_gradients(params, 3)
    params[1].grad = None
    before, kept = rows(opt), {name: memory(opt, name) for name in ("average", "steps")}
    opt.step()
    assert rows(opt)[:2] == before[:2]
    assert all(now != then for now, then in zip(rows(opt)[2].values(), before[2].values(), strict=True))
    for name, x in kept.items():
        assert torch.equal(memory(opt, name)[:2], x[:2])
        assert not torch.equal(memory(opt, name)[2], x[2])


@pytest.mark.parametrize("scope", ["global", *PARTED])
def test_a_skipped_step_is_none(scope):
    params = parameters()
    opt = learning(one_each(params), learn=Along(scope=scope))
    train(opt, params, range(3))
    before = everything(opt)
    give_gradients(params, 3)
    params[0].grad[0] = math.inf
    opt.step()
    assert same_bits(everything(opt), before)


def test_before_the_start_it_remembers_and_moves_nothing():
    params = parameters()
    opt = learning(params, learn=Along(start=3))
    before = opt.coefficients()
    train(opt, params, range(3))
    assert opt.coefficients() == before
    assert memory(opt, "steps").item() == 3.0
    train(opt, params, [3])
    assert all(opt.coefficients()[q] != x for q, x in before.items())


@dataclass(frozen=True)
class Nowhere(Along):
    """Knows of `lost` no value."""

    lost: str = "beta1"

    def step(self, q, h, memory, info):
        new, now = super().step(q, h, memory, info)
        return torch.where(torch.tensor([name == self.lost for name in info.names]), math.nan, new), now


@pytest.mark.parametrize("scope", ["global", *PARTED])
def test_where_it_gives_nan_the_old_coefficient_stays(scope):
    params = parameters()[:3]
    opt = learning(one_each(params), learn=Nowhere(scope=scope))
    before = opt.coefficients()
    train(opt, params, range(3))
    now, then = (x if scope == "global" else next(iter(x.values())) for x in (opt.coefficients(), before))
    assert now["beta1"] == then["beta1"]
    assert all(now[q] != then[q] for q in then if q != "beta1")


@pytest.mark.parametrize("bounds", [{}, {"rho": (0.5, 0.7), "beta1": (0.8, 0.95)}])
def test_the_optimizer_projects_it_on_the_intervals(bounds):
    params = parameters()
    opt = learning(params, learn=Along(size=1e9, bounds=bounds))
    ends = {q.name: {q.interval.low, q.interval.high} for q in RULES["mada"].coefficients}
    ends |= {name: set(pair) for name, pair in bounds.items()}
    train(opt, params, range(4))
    for name, x in opt.coefficients().items():
        assert x in ends[name]


class Told(Learner):
    """Notes what it is told, and moves nothing; not even a dataclass."""

    def __init__(self, *names, scope="global"):
        self.names, self.scope, self.notes = names, scope, []

    def _note(self, x, info):
        then = dataclasses.replace(info, steps=info.steps.clone())
        self.notes.append((x.clone(), then, info.scheduled_lr()))

    def init(self, q, info):
        self._note(q, info)
        return {}

    def step(self, q, h, memory, info):
        self._note(h, info)
        return q, memory


def test_what_it_is_told():
    params = parameters()[:2]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 1e-3, "betas": (0.8, 0.95)}]
    told = Told("lr", "beta1", scope="group")
    opt = learning(groups, learn=told)
    ((q, info, _),) = told.notes
    assert q.tolist() == [[0.9, 0.0], [0.8, 0.0]]
    assert (info.names, info.rates) == (("beta1", "lr"), (5e-4, 1e-2))
    interval = next(x.interval for x in RULES["mada"].coefficients if x.name == "beta1")
    assert (info.low.tolist(), info.high.tolist()) == (
        pytest.approx([interval.low, math.log(1e-4)]),
        pytest.approx([interval.high, math.log(1e4)]),
    )
    train(opt, params, range(2))
    opt.param_groups[1]["lr"] = 5e-4
    give_gradients(params, 2)
    params[0].grad = None
    opt.step()
    h, info, lrs = told.notes[-1]
    assert len(told.notes) == 4
    assert (info.steps.tolist(), lrs.tolist()) == ([2.0, 2.0], [1e-2, 5e-4])
    assert (info.counts.tolist(), info.moves.tolist()) == ([False, True], [False, True])
    assert h[1].tolist() == [opt.hypergradients()["1"][name] for name in ("beta1", "lr")]
    assert told.notes[1][1].moves.tolist() == [False, False]  # the first step has no update before it


# ------------------------------------------------------------------------------------------- what is refused of one


class Wrong(Learner):
    """Gives its memory, or new values, as it is told to."""

    names, start = "all", 0

    def __init__(self, init=lambda q: {}, step=lambda q, memory: (q, memory), **given):
        self.first, self.then = init, step
        vars(self).update(given)

    def init(self, q, info):
        return self.first(q)

    def step(self, q, h, memory, info):
        return self.then(q, memory)


@pytest.mark.parametrize(
    ("scope", "memory"),
    [
        ("global", torch.zeros(6)),
        ("global", torch.tensor(0.0)),
        ("tensor", torch.zeros(1, 6)),
        ("tensor", 0.0),
        ("group", None),
    ],
)
def test_a_memory_without_rows_is_refused(scope, memory):
    count = {"global": 1, "group": 1, "tensor": 4}[scope]
    with pytest.raises(ValueError, match=f"init of Wrong, 'x': expected a tensor with {count} rows, got .*dimension"):
        MADA(parameters(), learn=Wrong(lambda q: {"x": memory}, scope=scope))


STEPS = {
    "fewer coefficients": (lambda q, memory: (q[:, :1], memory), r"'coefficients': expected \(1, 6\), got \(1, 1\)"),
    "no rows": (lambda q, memory: (q[0], memory), r"'coefficients': expected \(1, 6\), got \(6,\)"),
    "another shape": (lambda q, memory: (q, {"x": memory["x"][0]}), r"'x': expected \(1, 6\), got \(6,\)"),
    "another name": (lambda q, memory: (q, {**memory, "y": memory["x"]}), r"'y': expected NoneType, got \(1, 6\)"),
    "nothing": (lambda q, memory: (q, {}), r"'x': expected \(1, 6\), got NoneType"),
    "a number": (lambda q, memory: (q, {"x": 0.0}), r"'x': expected \(1, 6\), got float"),
}


@pytest.mark.parametrize(("step", "message"), STEPS.values(), ids=STEPS)
def test_a_step_of_another_form_is_refused_and_changes_nothing(step, message):
    params = parameters()
    opt = learning(params, learn=Wrong(lambda q: {"x": q.clone()}, step))
    give_gradients(params, 0)
    weights, coefficients = [p.detach().clone() for p in params], opt.coefficients()
    with pytest.raises(ValueError, match=f"step of Wrong, {message}; return coefficients and memory under the names"):
        opt.step()
    assert same_bits(weights, [p.detach() for p in params])
    assert opt.coefficients() == coefficients


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": "gama"}, "learn='gama': .*did you mean 'gamma'"),
        ({"names": ("beta1", "rho"), "scope": "layer"}, "scope='layer': expected one of 'global', 'group', 'tensor'"),
        ({"bounds": {"beta1": (0.5, 0.1)}}, "expected low <= high"),
        ({"names": "rho", "bounds": {"beta1": (0.5, 0.9)}}, "bounds key='beta1'"),
        ({"names": "rho", "horizon": 0.9}, "horizon=0.9: expected 'lr' among the names"),
        ({"names": None}, "names of Wrong=None: expected names of coefficients"),
        ({"names": ()}, r"names of Wrong=\(\): expected names of coefficients"),
        ({"start": "x"}, "start='x': expected a number"),
        ({"stop": -1}, "stop=-1: expected a number"),
        ({"bounds": None}, "bounds=None: expected a dict by coefficient"),
    ],
    ids=str,
)
def test_what_it_says_of_itself_is_checked(given, message):
    with pytest.raises(ValueError, match=message):
        MADA(parameters(), learn=Wrong(**given))


#: Of `learn`: neither names, nor learners, nor a list of these.
NO_LEARN = [5, None, True, b"beta1", [5], [None], HyperSGD, [LearnedLR], {"beta1": 1e-3}, [["beta1"]], 0.5, print]


@pytest.mark.parametrize("learn", NO_LEARN, ids=str)
@pytest.mark.parametrize("make", [MADA, AutoMuon, HyperOptimizer])
def test_what_is_neither_a_name_nor_a_learner_is_refused(make, learn):
    expected = (
        'expected names of coefficients, "all" or \\(\\), a learner such as HyperSGD\\("beta1"\\), or a list of these'
    )
    with pytest.raises(ValueError, match=f"learn=.*: {expected}"):
        make(parameters(), learn=learn)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HyperSGD("all", lr=True),
        lambda: HyperSGD("all", momentum={"beta1": False}),
        lambda: HyperSGD("all", start=True),
        lambda: HyperTorch("all", clip=True),
        lambda: LearnedLR(rate=True),
    ],
    ids=("lr", "momentum", "start", "clip", "rate"),
)
def test_true_and_false_are_no_numbers(make):
    with pytest.raises(ValueError, match=r"=(True|False): expected a number"):
        make()


def test_all_may_be_named_with_lr():
    opt = MADA(parameters(), learn=("all", "lr"))
    assert opt.learned == (*RULES["mada"].coefficient_names(), "lr")


@pytest.mark.parametrize("learn", ["betta1", ("beta1", "betta1"), "", "beta1,rho", ("all", "lrr"), ["omega"]], ids=str)
def test_a_name_that_the_rule_does_not_have_is_refused(learn):
    with pytest.raises(
        ValueError, match=r"learn='[a-z0-9,]*': expected one of 'beta1', 'beta2', .*, 'gamma', 'lr', 'all'; "
    ):
        MADA(parameters(), learn=learn)


TWICE = [
    [HyperSGD("beta1"), HyperSGD("beta1", scope="tensor")],
    [HyperSGD("beta1"), "beta1"],
    [HyperSGD("all"), HyperSGD("rho")],
    [LearnedLR(), "lr"],
    ["beta1", Along()],
]


@pytest.mark.parametrize("learn", TWICE, ids=[", ".join(str(getattr(x, "names", x)) for x in each) for each in TWICE])
def test_a_coefficient_of_two_learners_is_refused(learn):
    with pytest.raises(ValueError, match=r"learn: expected '(beta1|rho|lr)' of one learner, got two that learn it"):
        MADA(parameters(), learn=learn)


OTHER_LEAVES = {
    "others": lambda leaves: torch.optim.Adam([x.clone() for x in leaves]),
    "fewer": lambda leaves: torch.optim.Adam(leaves[:1]),
    "more": lambda leaves: torch.optim.Adam([*leaves, torch.zeros(1)]),
}


@pytest.mark.parametrize("make", OTHER_LEAVES.values(), ids=OTHER_LEAVES)
def test_a_make_that_takes_other_tensors_is_refused(make):
    with pytest.raises(ValueError, match="make gave Adam of other tensors: expected one of the 2 that it is given"):
        MADA(parameters(), learn=HyperTorch("beta1", "rho", make=make))


@pytest.mark.parametrize("given", [None, object(), {"lr": 1e-3}], ids=["None", "an object", "a dict"])
def test_a_make_that_makes_no_optimizer_is_refused(given):
    with pytest.raises(ValueError, match=r"make gave .*: expected a torch\.optim\.Optimizer"):
        MADA(parameters(), learn=HyperTorch("beta1", make=lambda leaves: given))


# --------------------------------------------------------------------------------------------------- what they are

OBJECTS = {
    "HyperSGD": lambda: HyperSGD(
        "beta1",
        "rho",
        lr={"rho": 1e-2},
        momentum={"rho": 0.5},
        bounds={"rho": [0.1, 0.9]},
        start=5,
        stop=9,
        scope="group",
    ),
    "HyperSGD of all": lambda: HyperSGD("all", lr=1e-3),
    "LearnedLR": lambda: LearnedLR(0.5, fall=0, bounds={"lr": (0.1, 1)}, scope="tensor"),
    "HyperTorch": lambda: HyperTorch("beta1", "lr", clip=math.inf),
    "third party": lambda: Along(size=1e-2),
}
REPR = {
    "HyperSGD": ["HyperSGD(names=('beta1', 'rho'), lr={'rho': 0.01}, ", "bounds={'rho': (0.1, 0.9)}, scope='group'"],
    "HyperSGD of all": ["HyperSGD(names='all', lr=0.001, momentum=0.0, clip=10.0, start=50, stop=None, "],
    "LearnedLR": ["LearnedLR(rate=0.5, horizon=0.9999, fall=0.0, freeze=0.4, scope='tensor', memory=0.999, "],
    "HyperTorch": ["HyperTorch(names=('beta1', 'lr'), make=<function ", ", clip=inf, start=50, "],
    "third party": ["Along(names='all', size=0.01, scope='global', start=0"],
}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_learner_is_a_value(name):
    learner, same = OBJECTS[name](), OBJECTS[name]()
    assert learner == same
    assert all(learner != make() for other, make in OBJECTS.items() if other != name)
    for twin in (copy.copy(learner), copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert twin == learner
    assert all(part in repr(learner) for part in REPR[name])
    for x in dataclasses.fields(learner):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(learner, x.name, None)


@pytest.mark.parametrize("name", [name for name in OBJECTS if name != "third party"])  # whose bounds are a dict
def test_ours_are_hashable(name):
    assert len({OBJECTS[name](), OBJECTS[name]()}) == 1


@pytest.mark.parametrize("name", OBJECTS)
def test_a_learner_can_be_replaced(name):
    learner = OBJECTS[name]()
    assert dataclasses.replace(learner) == learner
    assert dataclasses.replace(learner, start=3).start == 3
    assert dataclasses.replace(learner, start=3) != learner
    with pytest.raises(TypeError):
        dataclasses.replace(learner, begin=3)


def test_replaced_names_are_checked_as_given_ones():
    assert dataclasses.replace(HyperSGD("beta1"), names=("rho", "c")) == HyperSGD("rho", "c")
    assert dataclasses.replace(HyperTorch("beta1"), names="all") == HyperTorch("all")
    for names in ((), 5, ("rho", 5)):
        with pytest.raises(ValueError, match="expected names of coefficients"):
            dataclasses.replace(HyperSGD("beta1"), names=names)


LEARNS_NOTHING = {
    "at its start": (lambda: HyperSGD("all", start=50, stop=50), r"stop=50: expected more than 50 at start=50"),
    "before its start": (lambda: HyperSGD("all", stop=9), r"stop=9: expected more than 50 at start=50"),
    "before any step": (lambda: HyperTorch("all", start=0, stop=1), r"stop=1: expected more than 1 at start=0"),
    "of lr": (lambda: LearnedLR(stop=10), r"stop=10: expected more than 10 at start=10"),
    "third party": (lambda: MADA(parameters(), learn=Wrong(start=4, stop=3)), r"stop=3: expected more than 4 at"),
}


@pytest.mark.parametrize(("make", "message"), LEARNS_NOTHING.values(), ids=LEARNS_NOTHING)
def test_a_stop_before_the_first_hyper_step_is_refused(make, message):
    with pytest.raises(ValueError, match=f"{message}.*raise stop, lower start, or leave the learner out"):
        make()


@pytest.mark.parametrize("learner", [HyperSGD, LearnedLR, HyperTorch])
def test_the_options_of_a_learner_are_declared(learner):
    """All arguments but the names, each with its default and what the docstring says of it."""
    arguments = inspect.signature(learner).parameters
    options = options_of(learner)
    assert list(options) == [name for name in arguments if name not in ("coefficients", "names")]
    for name, option in options.items():
        assert option.default == arguments[name].default
        assert option.meaning.endswith(".")
        assert (option.interval is None) == (option.read is not None)
    learner_of_defaults = learner() if learner is LearnedLR else learner("all")
    assert {name: getattr(learner_of_defaults, name) for name in options} == {q: x.default for q, x in options.items()}
    assert "applied steps" in options["start"].meaning


@dataclass(frozen=True, kw_only=True)
class Sized(LearnedLR):
    """Has one more option.

    Args:
        size: How far it goes.
            In two lines.
    """

    size: Amount = 0.5
    start: Start = 7


def test_an_option_of_a_new_learner_is_declared_by_its_annotation():
    assert options_of(Sized)["size"] == Option(NON_NEGATIVE, default=0.5, meaning="How far it goes. In two lines.")
    assert options_of(Sized)["start"].default == 7
    assert set(options_of(Sized)) == {*options_of(LearnedLR), "size"}
    assert "size=0.25" in repr(Sized(size=0.25))
    with pytest.raises(ValueError, match=r"size=-1: expected a number in \[0, inf\); the default is 0.5"):
        Sized(size=-1)


def test_what_is_given_to_a_learner_is_copied():
    rates, bounds = {"rho": 1e-2}, {"rho": [0.1, 0.9]}
    learner = HyperSGD("rho", lr=rates, bounds=bounds)
    rates["rho"], bounds["rho"][0] = 7.0, 0.3
    bounds["c"] = (0.0, 1.0)
    assert learner == HyperSGD("rho", lr={"rho": 1e-2}, bounds={"rho": (0.1, 0.9)})
    with pytest.raises(TypeError):
        learner.lr["rho"] = 7.0


@pytest.mark.parametrize("name", OBJECTS)
def test_one_learner_serves_several_optimizers(name):
    """It has no memory of its own."""
    learner, runs = OBJECTS[name](), []
    for _ in range(2):
        torch.manual_seed(0)
        params = parameters()
        opt = learning([{"params": params}], learn=learner)
        train(opt, params, range(12))
        runs.append([p.detach().clone() for p in params])
    assert same_bits(*runs)


def test_a_rule_without_coefficients_learns_all_of_none():
    rule = Rule("plain", lambda c, g, s, t: (g, {}), (), ())
    p = torch.nn.Parameter(torch.ones(3))
    opt = HyperOptimizer([p], lr=0.1, rule=rule, learn="all")
    train(opt, [p], range(2))
    assert (opt.learned, opt.coefficients()) == ((), {})
    one = Rule("one", lambda c, g, s, t: (g * c["a"], {}), (Coefficient("a", "a", UNIT, 0.5),), ())
    assert HyperOptimizer([p], lr=0.1, rule=one, learn="all").learned == ("a",)
