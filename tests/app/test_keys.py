"""Every key of a configuration takes effect, or is refused: with each optimizer, beside other keys, and at a resume."""

import itertools
import json
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

from mada_lab import cli
from mada_lab.checkpoints import checkpoint
from mada_lab.checkpoints.saver import Saver
from mada_lab.config import parsing
from mada_lab.config.declarations import Resume, configuration, declarations, optimizer_keys
from mada_lab.config.keys import RunConfig, TrainConfig, VisionConfig
from mada_lab.data.images import ImageData
from mada_lab.data.prepare import prepare
from mada_lab.errors import CheckpointError, ConfigError, NumericsError
from mada_lab.experiments.sweeps.plan import Plan, require_used
from mada_lab.model.gpt import GPT, GPTConfig
from mada_lab.optimizers import catalog
from mada_lab.records import mirrors
from mada_lab.training import changes
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import train
from mada_optim.stepping.dispatch import Dispatcher
from tests.app.conftest import Silent, fitted

#: Another valid value of every key, than its default and than the one in `tiny`.
OTHER = {
    "dataset": "shakespeare_char",
    "seed": 1,
    "device": "cuda",
    "dtype": "bfloat16",
    "compile": True,
    "parallel": "fsdp",
    "share_matrices": False,
    "distributed_timeout": 5.0,
    "batch_size": 3,
    "gradient_accumulation_steps": 2,
    "first_accumulation": 1,
    "max_iters": 23,
    "optimizer": "adamw",
    "learn": "beta1",
    "learning_rate": 4e-3,
    "matrix_lr": 0.2,
    "decay_lr": False,
    "warmup_iters": 15,
    "lr_counts": "passes",
    "lr_decay_iters": 15,
    "min_lr": 2e-4,
    "weight_decay": 0.7,
    "grad_clip": 0.01,
    "grad_clip_of": "each",
    "eps": 2e-3,
    **dict.fromkeys(("beta1", "beta2", "beta3", "rho", "c", "gamma", "momentum", "nesterov"), 0.55),
    **dict.fromkeys(("alpha", "centered", "mu", "omega", "nu"), 0.6),
    "state_dtype": "bfloat16",
    "bounds": "beta1=0.1:0.95",
    "hyper_lr": 0.123,
    "hyper_lr_factor": 2.0,
    "hyper_optimizer": "negated",
    "hyper_momentum": 0.4,
    "hyper_rebound": 2.0,
    "hyper_observe": "unclipped",
    "clamps": "beta2=0.6:0.7",
    "clamp_interval": 1,
    "hyper_clip": 1e-6,
    "hyper_start": 7,
    "hyper_stop": 12,
    "hyper_freeze": 0.3,
    "hyper_memory": 0.8,
    "hyper_averaging": 0.8,
    "hyper_reach": 0.2,
    "hyper_fall": 20.0,
    "hyper_rise": 0.3,
    "matrix_lr_ratio": 3.0,
    "horizon": 0.5,
    "eval_interval": 3,
    "log_interval": 3,
    "checkpoint_interval": 7,
    "keep_checkpoints": 1,
    "on_save_error": "abort",
    "background_save": True,
    "checkpoint_shards": "each",
    "digest_interval": 3,
    "max_skipped_steps": 3,
    "peak_flops": 1e9,
    "mirror": "tensorboard",
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 32,
    "block_size": 8,
    "dropout": 0.2,
    "bias": True,
    "eval_iters": 3,
    "eval_seed": 1,
    "train_images": 500,
    "test_images": 20,
    "crop_padding": 1,
    "flip": True,
    "label_noise": 0.3,
    "model": "mlp",
    "width": 8,
    "depth": 8,
}
#: These aren't one value among others: where a run lies, and what it begins from.
OF_PLACE = {"data_dir", "out_dir", "init_from", "coefficients_from", "pace_from"}
#: The optimizer decides whether it has an effect, which the loop has, or several processes.
OF_LOOP = {"hyper_observe", "clamps", "clamp_interval", "share_matrices"}
#: An optimizer that has a key which `mada` doesn't have.
HAS = {
    **dict.fromkeys(("momentum", "nesterov"), "sgd"),
    **dict.fromkeys(("alpha", "centered"), "rmsprop"),
    **dict.fromkeys("omega nu matrix_lr_ratio horizon hyper_fall hyper_freeze share_matrices".split(), "automuon"),
    **dict.fromkeys("hyper_averaging hyper_memory hyper_reach hyper_rise".split(), "automuon"),
    "mu": "muon",
    "matrix_lr": "torch_muon",
}
BESIDE = {
    "nesterov": {"momentum": 0.5},
    "checkpoint_shards": {"parallel": "fsdp"},
    "first_accumulation": {"gradient_accumulation_steps": 2},
    "clamp_interval": {"clamps": "beta2=0.94:0.95"},
}


def test_every_key_declares_what_a_resume_may_do_with_it_and_is_tried_here():
    for kind in (TrainConfig, VisionConfig):
        assert declarations(kind).keys() == {x.name for x in fields(kind)} <= OTHER.keys() | OF_PLACE


def test_a_key_without_a_declaration_is_refused():
    class Forgetful(RunConfig):
        forgotten: int = 3

    with pytest.raises(TypeError, match=r"Forgetful\.forgotten: expected a declarations.Key, got 3"):
        configuration(Forgetful)


# ---- optimizers


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4, dropout=0.0, bias=False))


def numbers(optimizer):
    """All that a key could have changed in an optimizer, without its parameters and its state."""
    groups = [*optimizer.param_groups]
    for tower in getattr(optimizer, "hyper_optimizers", ()):
        groups += tower.param_groups
    own = [{k: x for k, x in group.items() if k not in ("params", "param_names")} for group in groups]
    kept = {k: vars(optimizer).get(k) for k in ("learned", "state_dtype", "pace")}
    return f"{own} {kept} {getattr(optimizer, 'learners', ())}"


@pytest.mark.parametrize("name", catalog.NAMES)
def test_every_key_changes_the_optimizer_or_is_refused(network, monkeypatch, name):
    monkeypatch.setattr(Dispatcher, "prepare", lambda *_: None)  # no engine is needed, nor compiled
    config = TrainConfig(optimizer=name)
    usual = numbers(catalog.build(network, config))
    refused = {}
    for one in sorted(set(optimizer_keys(TrainConfig)) - OF_PLACE - OF_LOOP | {"weight_decay", "learning_rate"}):
        changed = replace(config, **{one: OTHER[one]})
        try:
            built = numbers(catalog.build(network, changed))
        except ConfigError as error:
            refused[one] = str(error)
        else:
            assert built != usual, one
    assert all(one in message or "bounds" in message for one, message in refused.items()), refused
    by_value = {"hyper_optimizer"} & catalog.idle(config).keys()  # of a learned lr, "negated" alone has an effect
    assert set(catalog.idle(config)) - {"coefficients_from", "pace_from"} - OF_LOOP - by_value <= refused.keys()
    assert not {"weight_decay", "learning_rate"} & refused.keys()


def test_a_key_that_no_optimizer_has_would_show():
    had = set().union(
        *(
            set(optimizer_keys(TrainConfig)) - catalog.idle(TrainConfig(optimizer=name, learn=learn)).keys()
            for name, learn in itertools.product(catalog.NAMES, (None, "beta1"))
            if learn is None or (name in catalog.OURS and "beta1" not in catalog.idle(TrainConfig(optimizer=name)))
        ),
        set(optimizer_keys(TrainConfig)) - catalog.idle(TrainConfig(optimizer="sgd", momentum=0.9)).keys(),
        set(optimizer_keys(TrainConfig)) - catalog.idle(TrainConfig(optimizer="mada", clamps="rho=0:0.5")).keys(),
    )
    assert had == set(optimizer_keys(TrainConfig))


REFUSED = [
    ("adamw", {"rho": 0.5}, r"key rho: expected one of the keys that it has \(beta1, beta2, eps\), got rho=0.5"),
    ("adamw", {"learn": "beta1"}, "key learn: expected one of the keys"),
    ("adamw", {"hyper_lr": 0.1}, "key hyper_lr: .*; leave it out"),
    ("adam", {"hyper_lr": 0.1}, "key hyper_lr: .*; leave it out, or name in learn what it is for"),
    ("mada", {"learn": "none", "hyper_stop": 5}, "key hyper_stop"),
    ("mada", {"hyper_stop": 12}, "optimizer mada, in hyper_stop=12: stop=12: expected more than 50 at start=50"),
    ("mada", {"horizon": 0.5}, "key horizon"),
    ("mada", {"omega": 0.5}, "key omega"),
    ("mada", {"matrix_lr": 0.5}, "key matrix_lr"),
    ("mada", {"pace_from": "x"}, "key pace_from"),
    ("mada", {"hyper_freeze": 0.5}, "key hyper_freeze"),
    ("mada", {"matrix_lr_ratio": 2.0}, "key matrix_lr_ratio"),
    ("mada", {"learn": "none", "hyper_observe": "first"}, "key hyper_observe: .* name in learn"),
    (
        "mada",
        {"learn": "beta1", "bounds": "rho=0:0.5"},
        r"key bounds: expected coefficients .* \(beta1\), got rho; leave",
    ),
    ("mada", {"learn": "beta1", "hyper_lr": "beta1=1e-3,rho=1e-2"}, r"key hyper_lr: expected .* \(beta1\), got rho"),
    ("mada", {"learn": "beta1", "clamps": "rho=0:0.5"}, r"key clamps: expected coefficients .* \(beta1\), got rho"),
    (
        "mada",
        {"clamps": "beta2=0.7:0.6"},
        r"key clamps: expected low <= high inside \[0.5, 0.9999\], got beta2=0.7:0.6",
    ),
    (
        "mada",
        {"clamps": "beta2=0.4:0.6"},
        r"key clamps: expected low <= high inside \[0.5, 0.9999\], got beta2=0.4:0.6",
    ),
    (
        "mada",
        {"clamps": "beta2=0.6:0.9", "bounds": "beta2=0.7:0.8"},
        r"key clamps: .* inside \[0.7, 0.8\], got beta2=0.6:0.9; choose ends",
    ),
    ("mada", {"learn": "beta2,lr", "clamps": "lr=0.5:2"}, "key clamps: expected coefficients of the rule, got lr"),
    ("mada", {"clamp_interval": 3}, "key clamp_interval: .*; leave it out"),
    ("automuon", {"clamps": "lr=0.5:2"}, "key clamps: expected one of the keys"),
    ("adamw", {"clamps": "beta2=0.5:0.9"}, "key clamps: .*; leave it out"),
    ("automuon", {"hyper_momentum": 0.5}, "key hyper_momentum"),
    ("automuon", {"hyper_optimizer": "shuffled"}, "key hyper_optimizer"),
    (
        "automuon",
        {"beta2": 0.9},
        "key beta2: expected at least 0.99, .* got 0.9; choose .* without a guard, such as mada",
    ),
    ("autoadam", {"beta2": 0.95}, "key beta2: expected at least 0.99"),
    ("adam", {"beta3": 0.5}, "key beta3"),
    ("adam", {"momentum": 0.5}, "key momentum"),
    ("sgd", {"eps": 0.5}, "key eps"),
    ("sgd", {"nesterov": 1.0}, "key nesterov"),
    ("adamw", {"state_dtype": "bfloat16"}, "key state_dtype"),
    ("adamw", {"coefficients_from": "x"}, "key coefficients_from"),
    ("mada", {"coefficients_from": "x", "hyper_lr": 0.1}, "key hyper_lr"),
    ("adam", {"learn": "beta7"}, "key learn: learn='beta7': expected one of"),
]


@pytest.mark.parametrize(("name", "keys", "message"), REFUSED, ids=str)
def test_a_key_that_the_optimizer_does_not_have_is_refused(network, name, keys, message):
    with pytest.raises(ConfigError, match=message):
        catalog.build(network, TrainConfig(optimizer=name, **keys))


def test_what_a_file_gives_is_left_out_by_none(network):
    """As the message says: a configuration of MADA is one of AdamW."""
    keys = {"beta3": 0.0, "gamma": 1.0, "hyper_start": 50}
    with pytest.raises(ConfigError) as refused:
        catalog.build(network, TrainConfig(optimizer="adamw", **keys))
    words = str(refused.value).split(" is left out by ")[1].split()
    assert words == [f"--{key}=None" for key in keys]
    catalog.build(network, parsing.load(["--optimizer=adamw", *(f"--{key}={x}" for key, x in keys.items()), *words]))


def test_hyper_learning_rates_are_multiplied_for_adam_too(network):
    config = TrainConfig(optimizer="mada", hyper_optimizer="adam", hyper_lr=0.01, hyper_lr_factor=3.0)
    [above] = catalog.build(network, config).hyper_optimizers
    assert [g["lr"] for g in above.param_groups] == pytest.approx([0.03] * 6)


def test_keys_of_hidden_matrices_are_refused_where_there_are_none():
    for one, value in (("omega", 0.5), ("matrix_lr_ratio", 3.0)):
        with pytest.raises(ConfigError, match=f"{one}={value}: expected a network with hidden matrices"):
            catalog.build(torch.nn.Linear(3, 2), TrainConfig(optimizer="automuon", **{one: value}))


# ---- beside other keys, on the command line

IDLE = [
    (
        TrainConfig,
        ["--decay_lr=False", "--min_lr=1e-5"],
        "min_lr: expected decay_lr=True beside it, got decay_lr=False",
    ),
    (TrainConfig, ["--decay_lr=False", "--min_lr=1e-4"], "min_lr: expected decay_lr=True"),  # the default, but given
    (TrainConfig, ["--decay_lr=False", "--lr_decay_iters=7"], "lr_decay_iters: expected decay_lr=True"),
    (TrainConfig, ["--checkpoint_shards=each"], "checkpoint_shards: expected parallel=fsdp or hybrid beside it"),
    (VisionConfig, ["--depth=8"], "depth: expected model=resnet beside it, got model=cnn"),
    (VisionConfig, ["--model=logistic", "--width=8"], "width: expected model=cnn or resnet or mlp beside it"),
]


@pytest.mark.parametrize(("kind", "words", "message"), IDLE, ids=str)
def test_a_key_without_effect_beside_another_is_refused(kind, words, message):
    with pytest.raises(ConfigError, match=message):
        parsing.load(words, kind)


def test_a_key_of_the_file_is_refused_as_one_on_the_command_line_and_can_be_taken_back(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("decay_lr = false\nlr_decay_iters = 7\n")
    with pytest.raises(ConfigError, match="lr_decay_iters"):
        parsing.load([str(path)])
    assert parsing.load([str(path), "--lr_decay_iters=None"]).lr_decay_iters is None
    assert parsing.request([str(path), "--seed", "3"]).keys == {"decay_lr", "lr_decay_iters", "seed"}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--optimizer=adamw", "--rho=0.5"],
        ["train", "--optimizer=adamw", "--hyper_momentum=0"],  # the default, but given
        ["train", "--parallel=fsdp"],
        ["train", "--distributed_timeout=5"],
        ["train", "--share_matrices=False"],
        ["vision", "--optimizer=adam", "--momentum=0.9"],
        ["vision", "--peak_flops=1e9"],
    ],
    ids=" ".join,
)
def test_the_command_line_refuses_it_before_anything_is_written(tmp_path, monkeypatch, capsys, data_dir, words):
    monkeypatch.chdir(tmp_path)
    prepare("digits", tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    told = capsys.readouterr().err
    assert (stop.value.code, told.count("error: ")) == (2, 1)
    assert "Traceback" not in told
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# ---- sweeps


def test_a_run_of_a_sweep_gets_the_shared_keys_that_it_has():
    base = TrainConfig(rho=0.5, hyper_lr=0.3, min_lr=1e-5)
    plan = Plan(base, grid={"optimizer": ["adamw", "mada", "adam"], "decay_lr": [True, False]})
    plan.check()
    found = {(x.optimizer, x.decay_lr): (x.rho, x.hyper_lr, x.min_lr) for x in (plan.config(v) for _, v in plan.points)}
    assert found == {
        ("adamw", True): (None, None, 1e-5),
        ("adamw", False): (None, None, None),
        ("mada", True): (0.5, 0.3, 1e-5),
        ("mada", False): (0.5, 0.3, None),
        ("adam", True): (None, None, 1e-5),
        ("adam", False): (None, None, None),
    }
    require_used([plan])
    with pytest.raises(ConfigError, match="key hyper_lr: expected a key that has an effect in one run at least"):
        require_used([Plan(base, grid={"optimizer": ["adamw", "adam"]})])


@pytest.mark.parametrize(
    "parts",
    [
        {"grid": {"optimizer": ["adamw", "mada"], "rho": [0.5, 1.0]}},
        {"search": {"optimizer": ["adamw", "mada"], "rho": "0.1..0.9"}, "trials": 3},
        {"cases": {"a": {"optimizer": "adamw", "rho": 0.5}}},
    ],
    ids=lambda x: next(iter(x)),
)
def test_an_axis_without_effect_is_refused(parts):
    with pytest.raises(ConfigError, match="optimizer adamw, in key rho"):
        Plan(TrainConfig(), **parts).check()


# ---- resumes


@pytest.fixture(scope="module")
def begun(tmp_path_factory, data_dir):
    """10 steps of a run, made once for each optimizer; returns a copy's configuration."""
    folder, found = tmp_path_factory.mktemp("begun"), {}

    def start(tiny, data, target, **keys):
        config = fitted(replace(tiny, lr_decay_iters=20, hyper_start=2), **keys)
        name = str(replace(config, out_dir=""))
        if name not in found:
            found[name] = folder / str(len(found))
            train(replace(config, out_dir=str(found[name]), max_iters=10), data, Silent())
        shutil.copytree(found[name], target)
        return replace(config, out_dir=str(target), max_iters=20, init_from="resume")

    return start


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return ImageData.open(prepare("digits", tmp_path_factory.mktemp("images")))


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def rows(config):
    """The rows of the record, without the times in them."""
    found = [json.loads(line) for line in (Path(config.out_dir) / "metrics.jsonl").read_text().splitlines()]
    for row in found:
        row.pop("seconds")
        if "speed" in row:
            row["speed"] = sorted(row["speed"])
    return found


def told(config):
    """The keys that the last resume is recorded to have changed."""
    return json.loads((Path(config.out_dir) / "resumes.jsonl").read_text().splitlines()[-1])["changed"].keys()


def of_kind(*kinds):
    """The keys of texts that declare one of these, and those that only images have."""
    return [
        (name, kind)
        for kind in (TrainConfig, VisionConfig)
        for name, declared in declarations(kind).items()
        if declared.resume in kinds and name not in OF_PLACE
        if kind is TrainConfig or name not in declarations(TrainConfig)
    ]


def started(kind, name, begun, tiny, corpus, digits, target):
    """A run that stands at step 10, whose optimizer and network have the key, and its data."""
    if kind is VisionConfig:
        model = {"depth": "resnet"}.get(name, "cnn")
        shared = {
            x: getattr(tiny, x) for x in ("batch_size", "warmup_iters", "eval_interval", "log_interval", "device")
        }
        base = VisionConfig(model=model, width=4, depth=14, test_images=30, optimizer="mada", **shared)
        return begun(base, digits, target, optimizer="adam"), digits
    return begun(tiny, corpus, target, optimizer=HAS.get(name, "mada"), **BESIDE.get(name, {})), corpus


@pytest.mark.parametrize(("name", "kind"), of_kind(Resume.FIXED), ids=str)
def test_a_fixed_key_is_refused_at_a_resume(begun, tiny, corpus, digits, tmp_path, name, kind):
    config, data = started(kind, name, begun, tiny, corpus, digits, tmp_path / "copy")
    before = contents(config.out_dir)
    other = replace(config, **{name: OTHER[name]})
    if name == "optimizer":
        other = fitted(config, optimizer="adamw")
    if name == "dataset":  # other data; the key is looked at first
        other = replace(config, dataset="other")
    if name == "learn":
        other = replace(config, learn="beta1,beta2,lr")
    old = getattr(config, name)
    with pytest.raises(ConfigError, match=f"resume, key {name}: expected {old}, .* got .*; resume with --{name}={old}"):
        train(other, data, Silent())
    assert contents(config.out_dir) == before


@pytest.mark.parametrize(("name", "kind"), of_kind(Resume.STEPS, Resume.SCHEDULE), ids=str)
def test_a_key_of_the_steps_changes_them(begun, tiny, corpus, digits, tmp_path, name, kind):
    plain, data = started(kind, name, begun, tiny, corpus, digits, tmp_path / "plain")
    other, _ = started(kind, name, begun, tiny, corpus, digits, tmp_path / "other")
    other = replace(other, **{name: OTHER[name]})
    train(plain, data, Silent())
    train(other, data, Silent())
    assert rows(plain)[-1]["digest"] != rows(other)[-1]["digest"]
    assert (name in told(plain), name in told(other)) == (name == "max_iters", True)


@pytest.mark.parametrize(("name", "kind"), of_kind(Resume.RECORD), ids=str)
def test_a_key_of_the_record_changes_it_and_not_the_run(begun, tiny, corpus, digits, tmp_path, name, kind):
    plain, data = started(kind, name, begun, replace(tiny, log_interval=2), corpus, digits, tmp_path / "plain")
    other, _ = started(kind, name, begun, replace(tiny, log_interval=2), corpus, digits, tmp_path / "other")
    other = replace(other, **{name: OTHER[name]})
    train(plain, data, Silent())
    train(other, data, Silent())
    assert rows(plain)[:3] == rows(other)[:3]
    assert rows(plain) != rows(other)
    assert rows(plain)[-1]["train_loss"] == rows(other)[-1]["train_loss"]
    assert name in told(other)


def of_folder(config, data):
    train(config, data, Silent())
    return sorted(str(x.relative_to(config.out_dir)) for x in Path(config.out_dir).rglob("*"))


def after_poison(config, data, monkeypatch):
    """The step at which a run ends whose weights are not finite."""

    class Poisoned(Silent):
        def row(self, row):
            super().row(row)
            if session:
                torch.nn.init.constant_(session[0].model.wpe.weight, float("nan"))

    session, start = [], TrainState.start
    monkeypatch.setattr(TrainState, "start", lambda *a: session.append(start(*a)) or session[-1])
    heard, rare = Poisoned(), {"eval_interval": 50, "checkpoint_interval": 50, "log_interval": 1}
    with pytest.raises(NumericsError, match="in a row"):
        train(replace(config, max_iters=40, **rare), data, heard)
    return heard.rows[-1]["step"]


def with_a_broken_disk(config, data, monkeypatch):
    """The step at which a run ends that can't write its checkpoints."""

    def broken(*_, **__):
        raise CheckpointError("no space left")

    monkeypatch.setattr(checkpoint, "write", broken)
    heard = Silent()
    with pytest.raises(CheckpointError, match="no space left"):  # the last one is never done without
        train(replace(config, checkpoint_interval=5), data, heard)
    return heard.rows[-1]["step"]


def compiled(config, data, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda model: seen.append(model) or model)
    train(config, data, Silent())
    return len(seen)


OUTSIDE = {
    "checkpoint_interval": lambda config, data, _: of_folder(replace(config, keep_checkpoints=9), data),
    "keep_checkpoints": lambda config, data, _: of_folder(replace(config, checkpoint_interval=2), data),
    "background_save": lambda config, *_: Saver(config).in_background,
    "mirror": lambda config, *_: mirrors.requested(config.mirror),
    "compile": compiled,
    "max_skipped_steps": after_poison,
    "on_save_error": with_a_broken_disk,
}
#: These show only where there are several processes or devices: tests/distributed, tests/gpu.
ELSEWHERE = {"device", "parallel", "share_matrices", "distributed_timeout", "checkpoint_shards"}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_key_of_the_outside_world_shows_there(begun, tiny, corpus, digits, tmp_path, monkeypatch, name):
    seen = []
    for value in (getattr(tiny, name), OTHER[name]):
        config, data = started(TrainConfig, name, begun, tiny, corpus, digits, tmp_path / str(value))
        with monkeypatch.context() as patch:
            seen.append(OUTSIDE[name](replace(config, **{name: value}), data, patch))
    assert seen[0] != seen[1]


def test_every_key_of_the_outside_world_is_looked_at():
    assert {name for name, _ in of_kind(Resume.OUTSIDE)} == OUTSIDE.keys() | ELSEWHERE


LATE = [
    ({"warmup_iters": 5}, {"decay_lr": False}, "key warmup_iters: expected 3, .* changes nothing after step 10"),
    ({"hyper_stop": 8}, {"hyper_stop": 7}, "key hyper_stop: expected 7, .* got 8, which changes nothing"),
    ({"learning_rate": 0.5}, {"lr_decay_iters": 8, "min_lr": 1e-4}, "key learning_rate: .* changes nothing"),
    ({"max_iters": 10, "grad_clip": 0.5}, {}, "key grad_clip: .* changes nothing after step 10; .* raise max_iters"),
    ({"max_iters": 9}, {}, "key max_iters: expected at least the 10 steps that are done, got 9"),
]


@pytest.mark.parametrize(("change", "first", "message"), LATE, ids=str)
def test_a_change_that_comes_too_late_is_refused(begun, tiny, corpus, tmp_path, change, first, message):
    config = begun(tiny, corpus, tmp_path / "copy", optimizer="mada", **first)
    before = contents(config.out_dir)
    with pytest.raises(ConfigError, match=message):
        train(replace(config, **change), corpus, Silent())
    assert contents(config.out_dir) == before


def test_what_none_stands_for_is_no_change(begun, tiny, corpus, tmp_path):
    config = begun(tiny, corpus, tmp_path / "copy", optimizer="mada")
    train(replace(config, lr_decay_iters=None, checkpoint_interval=config.eval_interval), corpus, Silent())
    assert told(config) == {"max_iters", "out_dir"}


def test_a_run_of_an_older_version_with_a_key_without_effect_goes_on():
    """It had the key in its configuration, and told that it had no effect."""
    config = TrainConfig(optimizer="adamw", decay_lr=False)
    saved = {**asdict(config), "rho": 0.5, "min_lr": 1e-6}
    changes.require_fixed(config, saved)
    changes.require_effect(config, saved, 10, 1e-3, 1e-3)
    assert list(changes.changed(config, saved)) == []
