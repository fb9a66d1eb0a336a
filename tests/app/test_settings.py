"""Configuration: files, command line, and what is refused."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from mada_lab.config import by_coefficient, parsing
from mada_lab.config.declarations import declarations
from mada_lab.config.keys import TrainConfig, VisionConfig
from mada_lab.errors import ConfigError
from mada_lab.optimizers import catalog

CONFIGS = Path(__file__).parents[2] / "configs"

CONTRACT = (
    "dataset batch_size block_size gradient_accumulation_steps n_layer n_head n_embd dropout bias "
    "optimizer learning_rate min_lr warmup_iters lr_decay_iters max_iters decay_lr weight_decay grad_clip "
    "beta1 beta2 beta3 rho c gamma hyper_lr hyper_start eval_interval eval_iters log_interval "
    "init_from out_dir device dtype compile seed"
).split()


def test_the_keys_of_the_contract_are_there():
    assert set(CONTRACT) <= {field.name for field in fields(TrainConfig)}


def test_defaults_then_file_then_command_line(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('n_layer = 2\nlearning_rate = 1\ndtype = "bfloat16"\nbias = true\nhyper_lr = 0.5\n')
    config = parsing.load(
        [str(path), "--n_layer=3", "--compile=False", "--beta1", "0.8", "--dtype='float32'".replace("'", "")]
    )
    assert (config.n_layer, config.learning_rate, config.bias, config.hyper_lr) == (3, 1.0, True, 0.5)
    assert (config.beta1, config.beta2, config.dtype, config.compile) == (0.8, None, "float32", False)
    assert type(config.learning_rate) is float
    assert config.n_head == TrainConfig().n_head


@pytest.mark.parametrize(("text", "value"), [("'auto'", "auto"), ("0.5", 0.5), ("1", 1.0)])
def test_a_key_of_a_word_or_a_number(tmp_path, text, value):
    path = tmp_path / "c.toml"
    path.write_text(f"learning_rate = {text}\n")
    for config in (parsing.load([str(path)]), parsing.load([f"--learning_rate={text.strip(chr(39))}"])):
        assert (config.learning_rate, type(config.learning_rate)) == (value, type(value))
    assert parsing.load([str(path), "--learning_rate=None"]).learning_rate is None
    path.write_text("learning_rate = 'aut'\n")
    with pytest.raises(ConfigError, match="key learning_rate: expected a number or 'auto', got 'aut'"):
        parsing.load([str(path)])


BY_COEFFICIENT = [
    ("hyper_lr", "0.5", 0.5),
    ("hyper_lr", "beta1=5e-4,gamma=0", {"beta1": 5e-4, "gamma": 0.0}),
    ("hyper_momentum", "rho=0.5", {"rho": 0.5}),
    ("bounds", "beta1=0.01:0.99,lr=0:1", {"beta1": (0.01, 0.99), "lr": (0.0, 1.0)}),
]


@pytest.mark.parametrize(("key", "text", "value"), BY_COEFFICIENT)
def test_a_key_by_coefficient(tmp_path, key, text, value):
    """On the command line, as a text of a file, and as a table of it."""
    path = tmp_path / "c.toml"
    found = [getattr(parsing.load([f"--{key}={text}"]), key)]
    if isinstance(value, dict):
        table = ", ".join(f"{q} = {list(x) if isinstance(x, tuple) else x}" for q, x in value.items())
        for content in (repr(text), f"{{{table}}}"):
            path.write_text(f"{key} = {content}\n")
            found.append(getattr(parsing.load([str(path)]), key))
    form = "intervals" if key == "bounds" else "numbers"
    assert [by_coefficient.read(x, form) if isinstance(x, str) else x for x in found] == [value] * len(found)


def test_the_papers_example_run():
    """`--dtype='float32' --beta1=0.9 ...`, as a shell passes it on."""
    coefficients = "--beta1=0.9 --beta2=0.95 --beta3=0.0 --rho=0.6 --c=1.0 --gamma=1.0".split()
    config = parsing.load([str(CONFIGS / "gpt2_small.toml"), "--dtype=float32", *coefficients])
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size) == (12, 12, 768, 1024)
    assert config.batch_size * config.gradient_accumulation_steps * config.block_size == 491_520
    assert (config.learning_rate, config.min_lr, config.warmup_iters, config.max_iters) == (6e-4, 1.5e-5, 2000, 100_000)
    assert (config.rho, config.eps, config.hyper_start, config.grad_clip) == (0.6, 1e-6, 50, 1.0)


SHIPPED = [*sorted(CONFIGS.glob("*.toml")), *sorted(CONFIGS.glob("published/*.toml"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.stem}/{p.stem}")
def test_every_shipped_configuration_is_valid(path):
    kind = VisionConfig if path.stem.startswith("cifar10") else TrainConfig
    config = parsing.load([str(path)], kind)
    assert catalog.without_effect(config) == []
    catalog.require_known(config.optimizer)
    assert set(tomllib.loads(path.read_text())) <= parsing.keys(kind).keys()


REFUSED = [
    (["--lerning_rate=1"], "got lerning_rate; did you mean 'learning_rate"),
    (["--lr=1"], "got lr; did you mean 'learning_rate'"),
    (["--bs=1"], "got bs; did you mean 'batch_size'"),
    (["--steps", "10"], "got steps; did you mean 'max_iters'"),
    (["--epochs=3"], r"did you mean .max_iters.\? \(Length of the run, in steps; an epoch is the training tokens / "),
    (["--beta4=1"], "got beta4; did you mean 'beta[123]"),
    (["--n_layer=two"], "key n_layer: expected a whole number, got"),
    (["--compile=maybe"], "expected true or false, got 'maybe'"),
    (["--learning_rate=1e400"], "learning_rate: expected a finite number, got inf"),
    (["--learning_rate=nan"], "learning_rate: expected a finite number"),
    (
        ["--learning_rate=-1", "--n_head=0", "--rho=2"],
        r"learning_rate: .*rho: expected a number in \[0, 1\], got 2.*n_head: ",
    ),
    (["--n_embd=130"], "n_embd: expected a multiple of n_head=4"),
    (["--hyper_lr=fast"], "hyper_lr: expected one number, or beta1=5e-4,gamma=0, got 'fast'"),
    (["--hyper_lr=beta1=1,beta1=2"], "hyper_lr: expected one number, or .*, got 'beta1=1,beta1=2'"),
    (["--hyper_lr=beta1=-1"], "hyper_lr.beta1: expected at least 0, got -1.0"),
    (["--hyper_momentum=rho=1"], r"hyper_momentum.rho: expected a number in \[0, 1\), got 1.0"),
    (["--bounds=beta1=0.5"], "bounds: expected beta1=0.01:0.99,rho=0:1, got 'beta1=0.5'"),
    (["--first_accumulation=2"], "first_accumulation: expected at most gradient_accumulation_steps=1, got 2"),
    (["--grad_clip_of=each", "--parallel=fsdp"], "grad_clip_of: expected whole with parallel=fsdp, .* got each"),
    (["--grad_clip_of=each", "--parallel=hybrid"], "grad_clip_of: expected whole with parallel=hybrid, .* got each"),
    (["--grad_clip_of=each", "--grad_clip=0"], "grad_clip_of: expected whole with grad_clip=0, .* got each"),
    (["--clamps=beta2=0.5"], "clamps: expected beta1=0.01:0.99,rho=0:1, got 'beta2=0.5'"),
    (["--clamp_interval=0"], "clamp_interval: expected at least 1, got 0"),
    (["--warmup_iters=5000"], "warmup_iters: expected at most max_iters=2000"),
    (["--max_iters=50", "--warmup_iters=100"], "warmup_iters: expected at most max_iters=50, got 100"),
    (["--distributed_timeout=0"], "distributed_timeout: expected more than 0, got 0"),
    (["--batch_size=3000000000"], "batch_size: expected at most 2147483647, got 3000000000"),
    (["--hyper_stop=3000000000"], "hyper_stop: expected at most 2147483647, got 3000000000"),
    (["--min_lr=1", "--learning_rate=0.5"], "min_lr: expected at most learning_rate=0.5, got 1"),
    (["--dtype=elsewhere"], "got 'elsewhere'"),
    (["--out_dir="], "out_dir: expected a folder"),
    (["missing.toml"], "missing.toml: expected a file or folder that exists"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda x: str(x)[:30])
def test_refused_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parsing.load(arguments)
    assert "\n" not in str(caught.value)


REFUSED_FILES = [
    ("n_leyer = 2", "got n_leyer; did you mean 'n_layer"),
    ("n_layer = 2.5", "key n_layer: expected a whole number, got 2.5"),
    ('learning_rate = "1e-3"', "key learning_rate: expected a number or 'auto', got '1e-3'"),
    ("learning_rate = {a = 1}", "key learning_rate: expected a number or 'auto', got {'a': 1}"),
    ("hyper_lr = {beta1 = true}", "hyper_lr: expected one number, or .* got 'beta1=True'"),
    ("max_iters = true", "key max_iters: expected a whole number, got True"),
    ("compile = 1", "key compile: expected true or false, got 1"),
    ('dtype = "float8"', "key dtype: expected 'float32' or 'bfloat16' or 'float16'"),
    ("wd = 0.1", "got wd; did you mean 'weight_decay'"),
    ("[model]\nn_layer = 2", "got model"),
    ("n_layer = 2\nn_layer = 3", "expected TOML, got"),
    ("n_layer = \nx", r"at line 1"),
    ("learning_rate = inf", "learning_rate: expected a finite number"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED_FILES, ids=lambda x: str(x)[:30])
def test_refused_files(tmp_path, content, message):
    path = tmp_path / "c.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        parsing.load([str(path)])


def test_another_name_in_a_python_file_is_answered(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("lr = 1e-3\n")
    with pytest.raises(ConfigError, match=r"c.py, line 1: expected a known key, got lr; did you mean 'learning_rate'"):
        parsing.load([str(path)])


@pytest.mark.parametrize("kind", [TrainConfig, VisionConfig])
def test_another_name_belongs_to_one_key(kind):
    names = [name for declared in declarations(kind).values() for name in declared.also.split()]
    assert len(names) == len(set(names))


def test_a_python_file_is_not_executed(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nn_layer = 2\n")
    with pytest.raises(ConfigError, match=r"config.py, line 1: expected an assignment .*, got open"):
        parsing.load([str(path)])
    assert not (tmp_path / "ran").exists()


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as stop:
        parsing.load(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{key.replace('_', '-')}" in shown or f"--{key}" in shown for key in parsing.keys(TrainConfig))


def test_a_whole_number_may_have_an_exponent():
    assert parsing.load(["--max_iters=1e3", "--warmup_iters=2E2"]).max_iters == 1000
    for wrong in ("1.5e0", "1e-400"):
        with pytest.raises(ConfigError, match="key max_iters: expected a whole number, got"):
            parsing.load([f"--max_iters={wrong}"])
