"""Tensors that stay the same objects while their memory moves, is freed, or is seen otherwise, between two steps.

Each tensor that a step reads or writes is treated in each way that torch has, once a step takes over what the one
before has found out. An eager optimizer that is treated alike is the oracle, and where the numbers stay what they were,
so is one that is left alone.

Catches: loops that write where a tensor was before, or beyond its end; a gradient, a slot or a number of a group that
is read from memory which was freed; a tensor that no longer fits and is used all the same.

Run it under AddressSanitizer after a change of what keeps addresses: docs/lab/reliability.md says how.
"""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mada_optim import SGD, Adam, AutoMuon, LearnedLR
from mada_optim.engines.cpp import tensors
from mada_optim.stepping.collect import StepCollector
from tests.engine.test_cpu_kernel import close
from tests.problems import everything, fast, learning, same_bits, spied

pytestmark = pytest.mark.kernel
SHAPES = {"0.weight": (6, 5), "0.bias": (6,), "2.weight": (3, 6)}  # hidden, a vector, and a head
ENGINES = ("cpu", "tiled")


def adam(named, engine):
    return Adam([p for _, p in named], engine=engine, weight_decay=0.1)


def six(named, engine):
    return learning([p for _, p in named], engine=engine, weight_decay=0.1)


def six_each(named, engine):
    return learning([p for _, p in named], engine=engine, learn=fast(scope="tensor"))


def default(named, engine):
    return AutoMuon(named, learn=LearnedLR(start=1), engine=engine, weight_decay=0.1)


MAKERS = (adam, six, default)
#: The loops keep addresses from step to step, and the tiles look at every tensor anew: one optimizer stands for them.
ON_ENGINES = [*((make, "cpu") for make in MAKERS), (six, "tiled")]


def label(x):
    return x if isinstance(x, str) else x.__name__


on_engines = pytest.mark.parametrize(("make", "engine"), ON_ENGINES, ids=label)


def built(make, engine):
    torch.manual_seed(0)
    return make([(name, torch.nn.Parameter(torch.randn(shape))) for name, shape in SHAPES.items()], engine)


def params_of(opt):
    return [p for group in opt.param_groups for p in group["params"]]


def give(opt, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params_of(opt):
        p.grad = torch.randn(tuple(p.shape), generator=generator)


def step(opt, seed):
    give(opt, seed)
    opt.step()


# Ways that leave the numbers as they are.


def shared(x):
    x.share_memory_()


def data(x):
    x.data = x.data.clone()


def with_offset(x):
    x.data = x.new_zeros(x.numel() + 5, requires_grad=False)[5:].view(x.shape).copy_(x.data)


def set_to_another(x):
    with torch.no_grad():
        x.set_(x.detach().clone())


def swapped(x):
    other = x.detach().clone()
    if isinstance(x, torch.nn.Parameter):
        other = torch.nn.Parameter(other)
        other.grad = x.grad
    if x._use_count() == 1:  # a gradient has its parameter's reference too, and can't be swapped
        torch.utils.swap_tensors(x, other)


def owned(x):
    """Gives `x` a storage that can be resized, where numpy or another process has a share in the one that it has."""
    if not x.untyped_storage().resizable():
        x.data = x.detach().clone()


def storage_grown(x):
    owned(x)
    x.untyped_storage().resize_(x.untyped_storage().nbytes() + 4096)


def storage_freed_and_given_back(x):
    owned(x)
    kept, size = x.detach().clone(), x.untyped_storage().nbytes()
    x.untyped_storage().resize_(0)
    x.untyped_storage().resize_(size)
    x.detach().copy_(kept)


def resized_and_back(x):
    owned(x)
    kept, shape = x.detach().clone(), x.shape
    wants = x.requires_grad
    x.requires_grad_(False).resize_(7 * x.numel() + 1000).resize_(shape).copy_(kept).requires_grad_(wants)


def of_numpy(x):
    x.data = torch.from_numpy(x.detach().numpy())


def out_and_in(x):
    """As an optimizer's state is offloaded and fetched."""
    kept = x.data.clone()
    x.data = x.data.new_empty(0)
    x.data = kept.clone()


def taken_by_another(x):
    """The old memory is another tensor's."""
    old, x.data = x.data_ptr(), x.data.clone()
    taken = [torch.full_like(x.data, 7.0) for _ in range(50)]
    TAKEN.extend(y for y in taken if y.data_ptr() == old)


TAKEN = []
KEEP = [shared, data, with_offset, set_to_another, swapped, storage_grown, storage_freed_and_given_back]
KEEP += [resized_and_back, of_numpy, out_and_in, taken_by_another]
RESIZING = [storage_grown, storage_freed_and_given_back, resized_and_back]


def resizable(x):
    """Not numpy's memory, which torch refuses, nor shared one, at which torch 2.13 crashes."""
    return x.untyped_storage().resizable() and not x.is_shared()


# Ways that leave the numbers as they are, but not as the loops take them.


def turned_around(x):
    x.data = x.data.t().contiguous().t()


def in_double(x):
    x.data = x.data.double()


def in_float(x):
    x.data = x.data.float()


def spread(x):
    x.data = torch.stack([x.data, x.data], -1)[..., 0]


def lazily_negated(x):
    """In the same memory, of which torch keeps a note that the numbers are the opposite ones."""
    x.detach().neg_()
    x.data = torch._neg_view(x.data)


RECAST = [turned_around, in_double, in_float, spread, lazily_negated]

# Ways after which a step must be refused.


def storage_freed(x):
    x.untyped_storage().resize_(0)


def storage_cut(x):
    x.untyped_storage().resize_((x.storage_offset() + x.numel()) * x.element_size() - 1)


def shrunk(x):
    x.data = x.data.flatten()[: x.numel() // 2]


def shrunk_in_place(x):
    wants = x.requires_grad
    x.requires_grad_(False).resize_(0).requires_grad_(wants)


def grown(x):
    x.data = torch.cat([x.data.flatten(), x.data.flatten()])


def with_another_axis(x):
    x.data = x.data.unsqueeze(0)


def on_meta(x):
    other = x.detach().to("meta")
    if isinstance(x, torch.nn.Parameter):
        other = torch.nn.Parameter(other)
        other.grad = x.grad.to("meta")
    if x._use_count() == 1:
        torch.utils.swap_tensors(x, other)


def bucket_cut(x):
    """A view into the memory of many, of which enough is left for it, but not where it begins."""
    with_offset(x)
    x.untyped_storage().resize_(x.numel() * x.element_size())


def given_back_too_small(x):
    """Most often at the address where it was."""
    size = x.numel() * x.element_size()
    x.untyped_storage().resize_(0)
    x.untyped_storage().resize_(size - 1)


BREAK = [
    bucket_cut,
    given_back_too_small,
    storage_freed,
    storage_cut,
    shrunk,
    shrunk_in_place,
    grown,
    with_another_axis,
    on_meta,
]


CUT = [storage_freed, storage_cut, bucket_cut, given_back_too_small]


def targets(opt):
    """Names of the tensors of a step: of parameter 0, a matrix, and 1, a vector, and of the group."""
    names = ["p", "grad", *(f"state {name}" for name in next(iter(opt.state.values())))]
    of_group = [f"group {name}" for name, x in opt.param_groups[0].items() if isinstance(x, torch.Tensor)]
    return [(name, i) for name in names for i in (0, 1) if has(opt, name, i)] + [(name, 0) for name in of_group]


def has(opt, name, i):
    return not name.startswith("state ") or name.split()[1] in opt.state[params_of(opt)[i]]


def target(opt, name, i):
    p = params_of(opt)[i]
    if name == "p":
        return p
    if name == "grad":
        return p.grad
    kind, key = name.split()
    return opt.state[p][key] if kind == "state" else opt.param_groups[0][key]


def all_targets(make):
    opt = built(make, "eager")
    step(opt, 0)
    return targets(opt)


def begun(make, engine, steps=3):
    opt = built(make, engine)
    for seed in range(steps):
        with spied(StepCollector, "batches") as collected:
            step(opt, seed)
    assert bool(collected) == (engine != "cpu" or make is six_each or steps == 1)
    give(opt, steps)
    return opt


def assert_close(opt, twin, rtol=1e-4):
    for p, q in zip(params_of(opt), params_of(twin), strict=True):
        assert close(p.detach().float(), q.detach().float(), rtol)
        assert list(opt.state[p]) == list(twin.state[q])
        for key, x in opt.state[p].items():
            assert x.dtype == twin.state[q][key].dtype, key
            assert close(x.float(), twin.state[q][key].float(), rtol), key
    for key, x in opt.param_groups[0].items():
        if isinstance(x, torch.Tensor):
            torch.testing.assert_close(x, twin.param_groups[0][key], rtol=1e-4, atol=1e-4)


def treated(make, engine, way, name, i, steps=2):
    """An optimizer of which a tensor is treated so, after some steps more."""
    opt = begun(make, engine)
    way(target(opt, name, i))
    opt.step()
    for seed in range(10, 10 + steps):
        step(opt, seed)
    return opt


@pytest.mark.parametrize("way", KEEP, ids=lambda way: way.__name__)
@on_engines
def test_a_tensor_that_has_moved(make, engine, way):
    """The bits are those of an optimizer that was left alone, which is close to an eager one."""
    alone, eager = (treated(make, x, lambda x: None, "p", 0) for x in (engine, "eager"))
    assert_close(alone, eager)
    for name, i in all_targets(make):
        moved = treated(make, engine, way, name, i)
        assert same_bits(everything(moved), everything(alone)), (name, i)
        assert all((x == 7.0).all() for x in TAKEN)
        TAKEN.clear()


@pytest.mark.parametrize("way", KEEP, ids=lambda way: way.__name__)
def test_a_tensor_that_has_moved_with_a_scope_of_its_own(way):
    alone = treated(six_each, "cpu", lambda x: None, "p", 0)
    for name, i in all_targets(six_each):
        assert same_bits(everything(treated(six_each, "cpu", way, name, i)), everything(alone)), (name, i)


@pytest.mark.parametrize("way", RECAST, ids=lambda way: way.__name__)
@on_engines
def test_a_tensor_that_is_laid_out_otherwise(make, engine, way):
    """It is left to the eager engine."""
    for name, i in all_targets(make):
        matrix = target(begun(make, engine), name, i).ndim == 2
        if (matrix or way is not turned_around) and not (name in ("p", "grad") and way is in_double):
            fast, slow = (treated(make, x, way, name, i) for x in (engine, "eager"))
            assert_close(fast, slow)


@pytest.mark.parametrize("way", BREAK, ids=lambda way: way.__name__)
@pytest.mark.parametrize(("make", "engine"), [*ON_ENGINES, (six, "eager")], ids=label)
def test_a_tensor_that_does_not_fit_is_refused(make, engine, way):
    """With an error that names it, and before anything is moved."""
    for name, i in all_targets(make):
        if name.startswith("group") and way in (shrunk_in_place, shrunk, grown, with_another_axis, on_meta):
            continue  # torch's own errors, or no fault: one number is taken from it
        if (name in ("p", "grad") and way is on_meta) or (name == "p" and way is with_another_axis):
            continue  # torch can't move a gradient there, and then they are alike
        opt = begun(make, engine)
        if not target(opt, name, i).ndim and way is with_another_axis:
            continue  # a number is one in any shape
        others = [x for x in flat(opt) if x is not target(opt, name, i) and x is not params_of(opt)[i]]
        before = [x.detach().clone() for x in others]
        way(target(opt, name, i))
        with pytest.raises(RuntimeError, match=r"expected|storage") as error:
            opt.step()
        words = {"p": "parameter" if way in CUT else "", "grad": "gradient"}
        assert words.get(name, name.split()[-1]) in str(error.value), (name, i, error.value)
        assert same_bits(others, before), (name, i)


def flat(opt):
    """All tensors themselves that a step may change."""
    states = [x for state in opt.state.values() for x in state.values()]
    return [*params_of(opt), *states, *(x for x in opt.param_groups[0].values() if isinstance(x, torch.Tensor))]


WAYS = {way.__name__: way for way in KEEP}


@pytest.mark.parametrize("make", [*MAKERS, six_each], ids=lambda make: make.__name__)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(draw=st.data())
def test_many_moves_in_succession(make, draw):
    """Some of any tensors in any way, between any two of ten steps."""
    names = all_targets(make)
    plan = draw.draw(
        st.lists(st.lists(st.tuples(st.sampled_from(sorted(WAYS)), st.sampled_from(names)), max_size=4), max_size=10)
    )
    alone, *moved = (built(make, engine) for engine in ("cpu", "cpu", "tiled", "eager"))
    for seed, moves in enumerate([[], [], *plan]):
        for opt in (alone, *moved):
            give(opt, seed)
        for way, (name, i) in moves if seed > 1 else ():
            for opt in moved:
                if WAYS[way] not in RESIZING or resizable(target(opt, name, i)):
                    WAYS[way](target(opt, name, i))
        for opt in (alone, *moved):
            opt.step()
    assert same_bits(everything(moved[0]), everything(alone))
    for opt in moved[1:]:
        assert_close(alone, opt)
    TAKEN.clear()


# Ways that treat all tensors of an optimizer.


def put_in_a_queue(opt):
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    queue.put(opt.state_dict())


def loaded(opt):
    opt.load_state_dict(opt.state_dict())


def loaded_from_a_file(opt):
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    opt.load_state_dict(torch.load(file, weights_only=True))


def loaded_in_place(opt):
    for state in copy.deepcopy(opt.state_dict())["state"].items():
        own = opt.state[params_of(opt)[state[0]]]
        for key, x in state[1].items():
            own[key].copy_(x)


def replaced_by_themselves(opt):
    for p in params_of(opt):
        opt.state[p] = {key: x.clone() for key, x in opt.state[p].items()}


def views_of_one_buffer(opt):
    params = params_of(opt)
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(params), params)


def states_in_one_buffer(opt):
    states = [x for state in opt.state.values() for x in state.values() if x.dtype is torch.float32]
    pieces = torch.cat([x.flatten() for x in states]).split([x.numel() for x in states])
    for x, piece in zip(states, pieces, strict=True):
        x.data = piece.view(x.shape)


def everything_shared(opt):
    for x in flat(opt):
        x.share_memory_()


def copied(opt):
    copy.deepcopy(opt)
    pickle.loads(pickle.dumps(opt))


ALL = [put_in_a_queue, loaded, loaded_from_a_file, loaded_in_place, replaced_by_themselves, views_of_one_buffer]
ALL += [states_in_one_buffer, everything_shared, copied]


@pytest.mark.parametrize("way", ALL, ids=lambda way: way.__name__)
@pytest.mark.parametrize(("make", "engine"), [*ON_ENGINES, (six_each, "cpu")], ids=label)
def test_an_optimizer_whose_tensors_have_all_moved(make, engine, way):
    alone, moved = built(make, engine), built(make, engine)
    for seed in range(10):
        if seed in (4, 5, 8):
            way(moved)
        step(alone, seed)
        step(moved, seed)
    assert same_bits(everything(moved), everything(alone))


@pytest.mark.parametrize("make", [adam, six, default], ids=lambda make: make.__name__)
def test_a_copy_whose_tensors_move(make):
    """It and what it was copied from go on alike, and apart."""
    alone, opt = built(make, "cpu"), built(make, "cpu")
    for seed in range(4):
        step(alone, seed)
        step(opt, seed)
    twin = pickle.loads(pickle.dumps(opt))
    for x in flat(twin):
        x.share_memory_()
    for seed in range(4, 8):
        for each in (alone, opt, twin):
            step(each, seed)
    assert same_bits(everything(opt), everything(alone))
    assert same_bits(everything(twin), everything(alone))


def exchanged(opt, keys, where):
    """The memory of two entries of a state is exchanged, in one of several ways, and so is what they are called."""
    state = opt.state[params_of(opt)[0]]
    a, b = keys
    if where == "data":
        state[a].data, state[b].data = state[b].data, state[a].data
    elif where == "swap_tensors":
        torch.utils.swap_tensors(state[a], state[b])
    else:  # the tensors come in the same order as before, under other names
        order = list(state)
        named = {**dict(zip(order, order, strict=True)), a: b, b: a}
        values = dict(zip([named[x] for x in order], [state.pop(x) for x in order], strict=True))
        state.update(values)


@pytest.mark.parametrize("where", ["data", "swap_tensors", "names"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [adam, six], ids=lambda make: make.__name__)
def test_slots_that_were_exchanged(make, engine, where):
    fast, slow = begun(make, engine), begun(make, "eager")
    for opt in (fast, slow):
        exchanged(opt, ("m", "v"), where)
        opt.state[params_of(opt)[0]]["v"].abs_()
        opt.step()
        step(opt, 10)
        step(opt, 11)
    for p, q in zip(params_of(fast), params_of(slow), strict=True):
        assert close(p.detach(), q.detach(), 1e-4)
        assert all(close(x.float(), slow.state[q][key].float(), 1e-4) for key, x in fast.state[p].items())


def test_states_that_were_exchanged_between_parameters():
    """In the order of before, so that only their owners are others."""
    fast, slow = (HALF(engine) for engine in ("cpu", "eager"))
    for opt in (fast, slow):
        for seed in range(3):
            step(opt, seed)
        a, b = params_of(opt)
        of_a, of_b = opt.state.pop(a), opt.state.pop(b)
        opt.state[b], opt.state[a] = of_a, of_b
        step(opt, 3)
        step(opt, 4)
    for p, q in zip(params_of(fast), params_of(slow), strict=True):
        assert close(p.detach(), q.detach(), 1e-4)


def HALF(engine):  # noqa: N802
    torch.manual_seed(0)
    return Adam([torch.nn.Parameter(torch.randn(5)) for _ in range(2)], engine=engine)


@pytest.mark.parametrize("way", [data, with_offset, shared, in_float, swapped], ids=lambda way: way.__name__)
@pytest.mark.parametrize("engine", [*ENGINES, "eager"])
def test_a_coefficient_that_has_moved_is_learned_on(engine, way):
    """Its number is taken over, and steps move what the group shows."""
    alone, moved = begun(six, engine), begun(six, engine)
    way(moved.param_groups[0]["beta1"])
    for opt in (alone, moved):
        opt.step()
        step(opt, 10)
    assert moved.param_groups[0]["beta1"] == pytest.approx(float(alone.param_groups[0]["beta1"]), rel=1e-6)
    assert moved.coefficients() == pytest.approx(alone.coefficients(), rel=1e-6)


def test_a_value_in_a_coefficients_own_memory_is_taken():
    opt = begun(six, "cpu")
    opt.param_groups[0]["beta1"].data = torch.tensor(0.5, dtype=torch.float64)
    opt.step()
    assert opt.coefficients()["beta1"] == pytest.approx(0.5, abs=0.01)
    assert opt.param_groups[0]["beta1"] == pytest.approx(0.5, abs=0.01)


def test_a_learning_rate_that_has_lost_its_memory():
    opt = Adam([torch.nn.Parameter(torch.ones(3))], lr=torch.tensor(0.1))
    step(opt, 0)
    opt.param_groups[0]["lr"].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="'lr': the storage of the tensor was resized"):
        step(opt, 1)


@pytest.mark.parametrize("entry", ["step", "m", "gradient", "applied"])
def test_an_entry_that_is_gone_is_named(entry):
    for engine in (*ENGINES, "eager"):
        opt = begun(six, engine)
        del opt.state[params_of(opt)[0]][entry]
        with pytest.raises(RuntimeError, match=rf"'?{entry}'?"):
            opt.step()


def test_the_error_says_what_to_do():
    opt = begun(default, "cpu")
    opt.state[params_of(opt)[1]]["m"].resize_(2)
    wanted = (
        r"state of 0\.bias, 'm': expected the size \(6,\), got \(2,\); restore it, load a state dict, or begin .*pop"
    )
    with pytest.raises(RuntimeError, match=wanted):
        opt.step()
    opt.state.pop(params_of(opt)[1])
    opt.step()


def test_a_state_of_an_idle_parameter_may_be_away():
    """It is looked at when its parameter has a gradient again."""
    opt, alone = begun(six, "cpu"), begun(six, "cpu")
    p = params_of(opt)[1]
    kept = opt.state[p]["m"].clone()
    opt.state[p]["m"].data = torch.empty(0)
    for each in (opt, alone):
        params_of(each)[1].grad = None
        each.step()
    with pytest.raises(RuntimeError, match="'m': expected the size"):
        step(opt, 4)
    opt.state[p]["m"].data = kept
    for each in (opt, alone):
        step(each, 4)
    assert same_bits(everything(opt), everything(alone))


@pytest.fixture
def read_by_python(monkeypatch):
    """As where torch isn't as expected."""
    monkeypatch.setattr(tensors, "IS_NEG", "no such function")
    tensors.reader.cache_clear()
    yield
    tensors.reader.cache_clear()


@pytest.fixture
def read_anew():
    """As in a fresh process."""
    tensors.reader.cache_clear()
    yield
    tensors.reader.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_default_dtype_is_no_dtype_of_the_loops(dtype, read_anew):
    """With nothing in its state, nothing but a parameter itself says what it is."""
    torch.set_default_dtype(dtype)
    try:
        p = torch.nn.Parameter(torch.ones(5))
        p.grad = torch.ones(5)
        SGD([p], lr=0.5).step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert p.tolist() == [0.5] * 5
    assert p.dtype is dtype


def test_the_default_device_is_no_device_of_the_loops(read_anew):
    with torch.device("meta"):
        assert tensors.reader() is not None


def test_tensors_are_read_by_compiled_code():
    begun(six, "cpu")
    assert tensors.reader() is not None


def test_a_torch_that_tells_no_layouts_is_read_too(monkeypatch, read_anew, capfd):
    """As in older versions. A sparse tensor is refused before its sizes are asked for: torch would write an error."""
    monkeypatch.setattr(tensors, "LAYOUT", "no such function")
    x = torch.ones(3)
    assert tensors.reader().take([x]) is not None
    assert tensors.reader().take([x, x.to_sparse()]) is None
    assert tensors.PlainSteps().takes([x], [x.clone()])
    assert not tensors.PlainSteps().takes([x], [x.to_sparse()])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("way", [*KEEP, *RECAST], ids=lambda way: way.__name__)
@pytest.mark.parametrize("make", [six], ids=label)
def test_without_compiled_reading(make, way, read_by_python):
    alone = treated(make, "cpu", lambda x: None, "p", 0)
    assert tensors.reader() is None
    for name, i in all_targets(make):
        if way in KEEP:
            assert same_bits(everything(treated(make, "cpu", way, name, i)), everything(alone)), (name, i)
        elif (target(alone, name, i).ndim == 2 or way is not turned_around) and not (
            name in ("p", "grad") and way is in_double
        ):
            assert_close(treated(make, "cpu", way, name, i), treated(make, "eager", way, name, i))
    TAKEN.clear()


@pytest.mark.parametrize("way", BREAK, ids=lambda way: way.__name__)
def test_what_does_not_fit_without_compiled_reading(way, read_by_python):
    test_a_tensor_that_does_not_fit_is_refused(six, "cpu", way)


@pytest.mark.parametrize("when", [0, 3])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("gradient", [torch._neg_view, lambda g: torch._efficientzerotensor(tuple(g.shape))])
def test_a_gradient_whose_numbers_are_not_in_memory(make, engine, when, gradient):
    """Lazily negated, or zeros that have none, from the first step or later: the eager engine knows what they are."""
    fast, slow = (built(make, x) for x in (engine, "eager"))
    for opt in (fast, slow):
        for seed in range(6):
            give(opt, seed)
            if seed == when:
                for p in params_of(opt)[:2]:
                    p.grad = gradient(p.grad)
            opt.step()
    assert_close(fast, slow)


@pytest.mark.parametrize("scale", [-1.0, -0.5])
def test_a_learning_rate_that_is_lazily_negated(scale):
    """The number counts, not what is in memory."""
    kept = [HALF(engine) for engine in ("cpu", "eager")]
    for opt in kept:
        opt.param_groups[0]["lr"] = torch._neg_view(torch.tensor(scale, dtype=torch.float64))
        for seed in range(3):
            step(opt, seed)
    assert all(close(p.detach(), q.detach(), 1e-4) for p, q in zip(*map(params_of, kept), strict=True))
    assert (params_of(kept[0])[0] - params_of(HALF("cpu"))[0]).abs().max() > 0.5


@pytest.mark.parametrize("way", [None, "tensor", "object", "type", "more", "fewer", "another", "dims", "meta"])
def test_a_placement_holds_the_same_tensors_only(way):
    """One list after another, read by compiled code."""
    xs = [torch.randn(3, 4), torch.zeros((), dtype=torch.float64), torch.nn.Parameter(torch.randn(5)), torch.empty(0)]
    placed = tensors.placement_of(list(xs))
    assert isinstance(placed, tensors.Placement)
    if way == "tensor":
        torch.utils.swap_tensors(xs[0], torch.randn(3, 4))
    elif way == "object":
        xs[0] = xs[0].view(3, 4)
    elif way == "type":
        xs[0].__class__ = type("Other", (torch.Tensor,), {})
    elif way == "more":
        xs.append(torch.zeros(1))
    elif way == "fewer":
        xs.pop()
    elif way == "another":
        xs[1] = None
    elif way == "dims":
        xs[0].data = xs[0].data.view(3, 4, *[1] * 7)
    elif way == "meta":
        xs[0] = xs[0].to("meta")
    assert placed.holds(xs) == (way is None)
    again = tensors.placement_of(list(xs)) if way != "another" else None
    assert again is None or again.holds(xs) == (way not in ("type", "dims", "meta"))


CHILD = """
import torch
from torch import nn
from mada_optim import Adam, AutoMuon

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4))

def steps(model, opt, seeds):
    for seed in seeds:
        x = torch.randn(32, 16, generator=torch.Generator().manual_seed(seed))
        opt.zero_grad()
        (model(x) - x[:, :4].sin()).square().mean().backward()
        opt.step()

def move(opt, way):
    for x in [x for state in opt.state.values() for x in state.values()]:
        if way == "share_memory_":
            x.share_memory_()
        elif way == "data":
            x.data = x.data.clone()
    if way == "queue":
        torch.multiprocessing.get_context("spawn").SimpleQueue().put(opt.state_dict())

for make in (lambda m: AutoMuon(m.named_parameters(), lr=1e-3), lambda m: Adam(m.parameters())):
    for way in ("share_memory_", "data", "queue"):
        moved, alone = net(), net()
        opt, twin = make(moved), make(alone)
        steps(moved, opt, range(5))
        steps(alone, twin, range(5))
        move(opt, way)
        steps(moved, opt, range(5, 15))
        steps(alone, twin, range(5, 15))
        for p, q in zip(moved.parameters(), alone.parameters()):
            assert torch.equal(p, q), way
            assert all(torch.equal(x, twin.state[q][key]) for key, x in opt.state[p].items()), way
"""


def test_a_process_lives_on():
    """Training loops of their own: what is written astray may show only when a process ends."""
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
