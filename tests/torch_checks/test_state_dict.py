"""State dicts: through a file, into an optimizer with or without names, from older versions, and what is refused.

Catches: a state that isn't all of the state, a load that takes half of it, a number that only pickle could carry.
"""

import copy
import io

import pytest
import torch

from mada_optim import MADA, HyperAdam, HyperSGD, Lion
from tests.conftest import REPOSITORY
from tests.problems import everything, learning, same_bits, train
from tests.representatives import on_one_engine
from tests.torch_checks.infos import MODES, each_info, each_mode
from tests.torch_checks.problems import alike, least_squares

pytestmark = on_one_engine


def params_of(problem, named):
    return problem.named() if named else problem.params


def without_names(state_dict):
    groups = [{key: x for key, x in group.items() if key != "param_names"} for group in state_dict["param_groups"]]
    return {**state_dict, "param_groups": groups}


#: Names have no part in a rule: every kind of state once, and the ways to be named with two of them.
NAMED = [(case, True, True) for case in MODES]
NAMED += [
    (case, named, not named) for case in MODES if case.info.name in ("MADA", "AutoMuon") for named in (True, False)
]


@pytest.mark.parametrize(("case", "named", "into_named"), NAMED, ids=str)
def test_lock_step_after_a_load_with_and_without_names(case, named, into_named):
    problem = least_squares()
    opt = case.make(params_of(problem, named))
    problem.train(opt, 3)
    resumed = problem.twin()
    twin = case.make(params_of(resumed, into_named))
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    names = twin.param_groups[0].get("param_names")
    assert names == ["name0", "name1"]
    for _ in range(3):
        problem.train(opt, 1)
        resumed.train(twin, 1)
        assert same_bits(everything(opt), everything(twin))
    assert alike(without_names(opt.state_dict()), without_names(twin.state_dict()))


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
@each_mode
def test_a_file_gives_back_the_state_bit_for_bit_and_needs_no_pickle(case, named):
    problem = least_squares()
    opt = case.make(params_of(problem, named))
    problem.train(opt, 3)
    state_dict = opt.state_dict()
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    assert alike(torch.load(file, weights_only=True), state_dict)


@each_mode
def test_loading_and_saving_change_nothing(case):
    problem = least_squares()
    opt = case.make(problem.params)
    problem.train(opt, 3)
    state_dict = opt.state_dict()
    before, copied = everything(opt), copy.deepcopy(state_dict)
    opt.load_state_dict(state_dict)
    assert alike(state_dict, copied)
    assert same_bits(everything(opt), before)
    assert alike(opt.state_dict(), copied)


@each_mode
def test_a_group_listed_twice_has_one_representation(case):
    problem = least_squares()
    opt = case.make(problem.params)
    problem.train(opt, 2)
    once = opt.state_dict()["param_groups"][-1]
    opt.param_groups.extend(opt.param_groups)
    assert alike(opt.state_dict()["param_groups"][-1], once)


@each_mode
def test_a_fresh_state_loads(case):
    """Before the first step there is no state per parameter."""
    problem, resumed = least_squares(), least_squares()
    opt, twin = case.make(problem.params), case.make(resumed.params)
    resumed.train(twin, 2)
    twin.load_state_dict(opt.state_dict())
    assert not twin.state
    resumed.train(twin, 1)
    assert all(twin.state[p]["step"] == 1 for p in resumed.params)


OTHER_SHAPES = {
    "fewer groups": (lambda w, b: [{"params": [w]}, {"params": [b]}], "different number of parameter groups"),
    "more parameters": (lambda w, b: [w, b, torch.nn.Parameter(torch.ones(2))], "doesn't match the size"),
}


@pytest.mark.parametrize(("arrange", "message"), OTHER_SHAPES.values(), ids=OTHER_SHAPES)
@each_info
def test_a_state_of_other_parameters_is_refused_and_changes_nothing(info, arrange, message):
    problem, other = least_squares(), least_squares()
    opt, source = info.optim_cls(problem.params), info.optim_cls(arrange(*other.params))
    problem.train(opt, 2)
    other.train(source, 2)
    before = everything(opt)
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(source.state_dict())
    assert same_bits(everything(opt), before)


@each_mode
def test_a_state_of_other_shapes_is_refused_and_changes_nothing(case):
    """Parameters in another order, say; a state of no more than a step has no shape that could differ."""
    problem, other = least_squares(), least_squares()
    opt, source = case.make(problem.params), case.make(other.params[::-1])
    problem.train(opt, 2)
    other.train(source, 2)
    before = everything(opt)
    if any(x.ndim for state in source.state.values() for x in state.values()):
        with pytest.raises(ValueError, match="same model, with the same rule"):
            opt.load_state_dict(source.state_dict())
        assert same_bits(everything(opt), before)


@each_info
def test_a_state_of_torch_is_refused_and_changes_nothing(info):
    """AdamW's has other names, and no coefficients in its groups."""
    problem, other = least_squares(), least_squares()
    opt, theirs = info.optim_cls(problem.params), torch.optim.AdamW(other.params)
    problem.train(opt, 2)
    other.train(theirs, 2)
    before = everything(opt)
    with pytest.raises(ValueError, match=r"^state dict, "):
        opt.load_state_dict(theirs.state_dict())
    assert same_bits(everything(opt), before)


WRITERS = {
    "all learned": learning,
    "betas learned": lambda params: HyperAdam(params, learn=HyperSGD("all", start=0)),
    "none learned": lambda params: MADA(params, learn=()),
    "lion": Lion,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_state_that_version_0_1_0_wrote_loads_and_goes_on(name):
    saved = torch.load(REPOSITORY / "tests" / "data" / "states_of_0.1.0.pt", weights_only=True)[name]
    params = [torch.nn.Parameter(x) for x in saved["before"]]
    opt = WRITERS[name](params)
    opt.load_state_dict(saved["state"])
    train(opt, params, range(100, 105))
    torch.testing.assert_close([p.detach() for p in params], saved["after"])
    assert opt.coefficients() == pytest.approx(saved["coefficients"], abs=1e-5)


def step_loaded(info, change):
    """A step after a load of a state that `change` was done to."""
    problem = least_squares()
    opt = info.optim_cls(problem.params)
    problem.train(opt, 2)
    state_dict = copy.deepcopy(opt.state_dict())
    change(state_dict)
    opt.load_state_dict(state_dict)
    problem.train(opt, 1)


def number_instead_of_step(state_dict):
    for state in state_dict["state"].values():
        state["step"] = state["step"].item()


@each_info
def test_a_step_that_is_no_tensor_is_taken_or_refused_by_name(info):
    """What torch.optim itself saved before its step was a tensor; ours always was."""
    try:
        step_loaded(info, number_instead_of_step)
    except ValueError as error:
        assert "'step'" in str(error)  # noqa: PT017, both outcomes are right


@each_info
def test_a_group_without_an_option_is_completed_or_refused_by_name(info):
    """As a state from before the option was there: torch.optim's optimizers fill in a default."""
    for option in ("maximize", "lr", "weight_decay"):
        try:
            step_loaded(info, lambda state_dict, option=option: state_dict["param_groups"][0].pop(option))
        except ValueError as error:
            assert f"'{option}'" in str(error)  # noqa: PT017, both outcomes are right
