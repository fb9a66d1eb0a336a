"""nanoGPT's and the authors' configurations and flags, in the keys of this application.

Catches: a key of theirs that is dropped without a word; micro-batches taken for steps, or steps for micro-batches; a
default of ours in the place of the script's; the authors' line with another optimizer, rate or interval than theirs.
"""

import re
from pathlib import Path

import pytest

from mada_lab.cli import main
from mada_lab.cli.bars import say
from mada_lab.config import keys as configs
from mada_lab.config import parsing
from mada_lab.config.python_files import assignments
from mada_lab.config.upstream import facts
from mada_lab.config.upstream import translate as upstream
from mada_lab.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "configs" / "upstream" / "train_gpt2_small.py"
OURS = [*parsing.keys(configs.TrainConfig), "bounds"]
AUTHORS = "gradient_accumulation_steps = 5\nhypergrad_init_iter = 50 * gradient_accumulation_steps\n"


def translate(text, *words, is_script=True):
    return upstream.translate(assignments(text.encode(), Path("c.py")), Path("c.py"), list(words), OURS, is_script)


def test_a_file_that_counts_micro_batches_is_one_of_train_ddp():
    text = (
        AUTHORS + "max_iters = 1003\nwarmup_iters = 20\nlr_decay_iters = 1000\neval_interval = 52\nlog_interval = 1\n"
    )
    found = translate(text)
    assert found.values == {
        "gradient_accumulation_steps": 40,  # of 8 processes
        "max_iters": 201,  # an update at 1, 6, ..., 1001
        "warmup_iters": 4,
        "lr_decay_iters": 200,
        "eval_interval": 11,
        "log_interval": 1,
        "hyper_start": 50,
    }
    assert found.supplied["n_embd"] == 480
    assert found.supplied["seed"] == 5000
    [note] = [note for note in found.notes if "micro-batches" in note]
    assert "hypergrad_init_iter is a key of it alone" in note
    assert "max_iters=201" in note


def test_what_is_computed_from_the_accumulation_is_in_micro_batches():
    text = "gradient_accumulation_steps = 5\nscale = gradient_accumulation_steps\nmax_iters = 100 * scale\n"
    found = translate(text)
    assert (found.values["max_iters"], found.values["gradient_accumulation_steps"]) == (100, 40)
    assert found.supplied["lr_decay_iters"] == 2000  # its own default, 10,000 micro-batches
    assert "hyper_start" not in found.values
    assert any("max_iters is computed from gradient_accumulation_steps" in note for note in found.notes)
    assert any(note == "c.py: scale: no keys, but parts of other values" for note in found.notes)


def test_all_other_files_count_steps_as_nanogpt():
    found = translate("gradient_accumulation_steps = 5 * 8\nmax_iters = 1000\nwarmup_iters = 7\n")
    assert found.values == {"gradient_accumulation_steps": 40, "max_iters": 1000, "warmup_iters": 7}
    supplied = {key: found.supplied[key] for key in ("dataset", "n_layer", "n_embd", "lr_decay_iters", "learning_rate")}
    assert supplied == {
        "dataset": "openwebtext",
        "n_layer": 12,
        "n_embd": 768,
        "lr_decay_iters": 600_000,
        "learning_rate": 6e-4,
    }
    assert "c.py: iterations are optimizer steps, as in nanoGPT's train.py" in found.notes


def test_what_is_given_is_not_supplied():
    found = translate("n_layer = 2\neps = 1e-7\n", "--dataset=pydoc", "--n_head", "2", "--bounds=beta1=0:0.5")
    assert not {"n_layer", "n_head", "dataset", "eps", "bounds"} & found.supplied.keys()
    assert found.words == ["--dataset=pydoc", "--n_head", "2", "--bounds=beta1=0:0.5"]
    assert not {"n_layer", "n_head", "n_embd"} & translate("init_from = 'gpt2-xl'\n").supplied.keys()
    assert translate("init_from = 'resume'\n").supplied["n_embd"] == 768


@pytest.mark.parametrize("key", ["warmup_iters", "lr_decay_iters", "hypergrad_init_iter"])
def test_micro_batches_that_are_no_steps_are_refused(key):
    with pytest.raises(
        ConfigError, match=rf"c.py, line 3, key {key}: expected a multiple of .*=5, .*, got 252; correct"
    ):
        translate(AUTHORS + f"{key} = 252\n")
    if key == "hypergrad_init_iter":
        with pytest.raises(ConfigError, match=r"the command line, key hypergrad_init_iter: .* or give --hyper_start"):
            translate(AUTHORS, "--hypergrad_init_iter=252")


def test_the_optimizer_is_the_authors():
    bounds = "beta1=0.01:0.99,beta2=0.501:0.99,beta3=0:0.99"
    numbers = {"optimizer": "mada", "eps": 1e-6, "bounds": bounds}
    assert numbers.items() <= translate("").supplied.items()
    for words in (["--optimizer=mada"], ["--learn=all"], ["--optimizer", "mada", "--learn", "all"]):
        supplied = translate("", *words).supplied
        assert {"optimizer": "mada", **supplied, **numbers} == {"optimizer": "mada", **supplied}
    assert "bounds" not in translate("", "--learn=none").supplied
    assert "bounds" not in translate("", "--learn=rho").supplied
    assert "bounds" not in translate("", "--coefficients_from=out").supplied
    assert translate("", "--learn=beta1,rho").supplied["bounds"] == "beta1=0.01:0.99"
    for text, words in (("", ["--optimizer=adamw"]), ("optimizer = 'automuon'", [])):
        assert not numbers.keys() & translate(text, *words).supplied.keys()


@pytest.mark.parametrize(("flag", "learn"), [("adam", "none"), ("hyperadam", "beta1,beta2")])
def test_the_authors_baselines_are_their_rule_with_less_learned(flag, learn):
    keys = [f"--optimizer={facts.OPTIMIZER}", f"--learn={learn}"]
    for words in ([f"--{flag}"], [f"--{flag}=True"], [f"--{flag}", "true"]):
        found = translate(AUTHORS, *words, "--rho=0.6")
        assert found.words == ["--rho=0.6", *keys]
        assert ("hyper_start" in found.values) == (learn != "none")
        assert found.supplied["eps"] == 1e-6
        assert upstream.translate({}, None, [*words, "--rho=0.6"], OURS).words == ["--rho=0.6", *keys]
    found = translate(f"{flag} = True\n")
    assert (found.values, found.words) == ({"optimizer": "mada", "learn": learn}, [])
    assert any(note.startswith(f"c.py, line 1: {flag}=True: ") for note in found.notes)
    off = translate(f"{flag} = True\n", f"--{flag}=False")
    assert (off.values, off.words) == ({}, [])
    assert f"{flag}=False: as here in any case" in off.notes


CONFLICTS = [
    (
        "",
        ["--adam", "--optimizer=adamw"],
        "key adam: expected optimizer=mada, which it stands for, got optimizer=ad",
    ),
    ("", ["--adam", "--learn=beta1"], "key adam: expected learn=none, which it stands for, got learn=beta1 beside it"),
    ("adam = True\nlearn = 'all'\n", [], "line 1, key adam: expected learn=none, .*, got learn=all"),
    ("adam = True\n", ["--hyperadam"], "key hyperadam: expected one value of learn, got another by adam"),
    ("eval_only = True\n", [], "line 1, key eval_only: expected False, got True; use `mada-lab eval RUN`"),
    ("", ["--eval_only"], "the command line, key eval_only: expected False, got True; use `mada-lab eval RUN`"),
    ("deterministic_validation = False\n", [], "expected True, got False; leave it out, or draw other batches"),
    ("wandb_log = 1\n", [], "line 1, key wandb_log: expected true or false, got 1; correct the value"),
    ("", ["--adam=maybe"], "the command line, key adam: expected true or false, got 'maybe'"),
    ("hypergrad_init_iter = 2.5\n", [], "key hypergrad_init_iter: expected a whole number, got 2.5"),
    ("", ["--hypergrad_init_iter=x"], "key hypergrad_init_iter: expected a whole number, got 'x'"),
]


@pytest.mark.parametrize(("text", "words", "message"), CONFLICTS, ids=[message[:40] for *_, message in CONFLICTS])
def test_what_cannot_be_translated_is_refused(text, words, message):
    with pytest.raises(ConfigError, match=message):
        translate(text, *words)


def test_without_a_file_the_flags_are_answered_too():
    assert upstream.translate({}, None, ["--wandb_log=True"], OURS).words == ["--mirror=wandb"]
    with pytest.raises(ConfigError, match="got none; use --hyper_start, in optimizer steps"):
        parsing.load(["--hypergrad_init_iter=250"])
    with pytest.raises(ConfigError, match=r"key eval_only: .*use `mada-lab eval RUN`"):
        parsing.load(["--eval-only=True"])


def test_a_start_without_learned_coefficients_is_noted():
    found = translate(AUTHORS, "--optimizer=adamw")
    assert "hyper_start" not in found.values
    assert "c.py, line 2: hypergrad_init_iter=250: hyper_start=50, not taken over beside optimizer=adamw" in found.notes
    assert translate(AUTHORS, "--hyper_start=3").words == ["--hyper_start=3"]
    assert translate(AUTHORS, "--hypergrad_init_iter=500").words == ["--hyper_start=100"]


def test_keys_of_the_decay_are_noted_without_one(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("min_lr = 1e-5\nlr_decay_iters = 9\nmax_iters = 3000\n")
    for option in (["--decay_lr=False"], ["--decay-lr", "False"]):
        words = [str(path), "--optimizer=adamw", *option]
        config = parsing.load(words)
        assert (config.decay_lr, config.max_iters) == (False, 3000)
        assert f"{path}, line 1: min_lr=1e-05: no effect beside decay_lr=False" in parsing.request(words).notes
    assert parsing.load([str(path), "--optimizer=adamw"]).min_lr == 1e-5
    with pytest.raises(ConfigError, match="min_lr: expected decay_lr=True beside it"):
        parsing.load([str(path), "--optimizer=adamw", "--decay_lr=False", "--min_lr=1e-6"])


def test_wandb_is_mirrored_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(upstream, "installed", lambda package: package == "wandb")
    assert translate("wandb_log = True\n").values == {"mirror": "wandb"}
    monkeypatch.setattr(upstream, "installed", lambda package: False)
    found = translate("wandb_log = True\n")
    assert found.values == {}
    assert any("the package wandb isn't installed, so this is not done" in note for note in found.notes)
    assert translate("", "--wandb_log").words == ["--mirror=wandb"]  # asked for here and now: it has to be there


@pytest.mark.parametrize("name", facts.THEIRS)
def test_every_key_of_theirs_is_answered(name):
    """Each value is translated, noted or refused: nothing is ignored without a word."""
    key = facts.THEIRS[name]
    values = {bool: (True, False), int: (10,), str: ("word",)}[key.type]
    for value in values:
        text = f"gradient_accumulation_steps = 5\n{name} = {value!r}\n"
        if value in key.refused:
            with pytest.raises(ConfigError, match=key.refused[value]):
                translate(text)
        else:
            assert any(f"{name}={value!r}" in note for note in translate(text).notes)


def test_the_tables_have_the_keys_of_this_application():
    ours = {*OURS, "bounds"}
    for key in facts.THEIRS.values():
        assert {x for keys in key.keys.values() for x in keys} <= ours
    assert not facts.THEIRS.keys() & ours
    for script in (facts.NANOGPT, facts.TRAIN_DDP):
        assert script.defaults.keys() <= ours


def test_the_page_has_the_table():
    page = (ROOT / "docs" / "lab" / "upstream.md").read_text()
    rows = dict(
        re.findall(r"^\| `(\w+)` \| (.*) \|$", page.partition("| their key | here |")[2].partition("\n\n")[0], re.M)
    )
    assert {name: rows.pop(name) for name in facts.THEIRS} == {name: key.meaning for name, key in facts.THEIRS.items()}
    assert rows.keys() <= {*OURS}  # under one name, with another meaning
    assert EXAMPLE.relative_to(ROOT).as_posix() in page


def test_typos_and_wrong_values_in_a_file_have_their_line(tmp_path):
    path = tmp_path / "c.py"
    for text, message in (
        ("\nn_leyer = 2\n", "c.py, line 2: expected a known key, got n_leyer; did you mean 'n_layer"),
        ("n_layer = 2.0\n", "c.py, line 1, key n_layer: expected a whole number, got 2.0"),
        ("dtype = 'float8'\n", "c.py, line 1, key dtype: expected 'float32' or"),
        ("dropout = None\n", "c.py, line 1, key dropout: expected a number, got None"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            parsing.load([str(path), "--optimizer=adamw"])
    path.write_text("lr_decay_iters = None\nbeta1 = 1 / 2\nmax_iters = 3000\n")
    config = parsing.load([str(path), "--optimizer=adamw"])
    assert (config.lr_decay_iters, config.beta1, config.max_iters, config.dataset) == (None, 0.5, 3000, "openwebtext")


def test_keys_of_images_are_read_from_python_too(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("width = 4 * 2\nmax_iters = 30\nwandb_log = False\n")
    found = parsing.load([str(path), "--seed=3"], configs.VisionConfig)
    assert (found.width, found.max_iters, found.seed, found.dataset) == (8, 30, 3, "digits")
    assert found.optimizer == configs.VisionConfig().optimizer
    assert parsing.request([str(path), "--seed=3"], configs.VisionConfig).keys == {"width", "max_iters", "seed"}
    path.write_text("hypergrad_init_iter = 250\n")
    with pytest.raises(ConfigError, match=r"key hypergrad_init_iter: .*use --hyper_start"):
        parsing.load([str(path)], configs.VisionConfig)


def test_sweeps_and_comparisons_take_python_too(tmp_path, capsys):
    from mada_lab.cli import compare, sweep

    path = tmp_path / "c.py"
    path.write_text("n_layer = 1\nmax_iters = 3000\nwandb_log = False\n")
    words = [str(path), "--beta1=0.5"]
    given, base = sweep.read([*words, "--optimizer=adamw", "--grid", "seed=1,2"])
    assert (base.n_layer, base.n_embd, base.beta1, given.grid) == (1, 768, 0.5, {"seed": [1, 2]})
    _, cases, base = compare.read([*words, "--optimizers=adamw:beta1=0.8,adam"])
    assert (base.n_layer, base.n_embd, list(cases)) == (1, 768, ["adamw", "adam"])
    assert capsys.readouterr().err.count("note: wandb_log=False: as here in any case") == 2


def test_notes_are_lines_on_standard_error(tmp_path, capsys, monkeypatch):
    path = tmp_path / "c.py"
    path.write_text("wandb_project = 'a\\n\\x1b[2Jb'\nn_layer = 2.5\n")
    with pytest.raises(SystemExit) as stop:
        main(["train", str(path)])
    assert stop.value.code == 2
    path.write_text("wandb_project = 'a\\n\\x1b[2Jb'\nn_layer = 2\n")
    say(parsing.request([str(path), "--optimizer=adamw"]).notes)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(("note: ", "error: ")) and line.isprintable() for line in lines)
    assert any("wandb_project='a" in line for line in lines)
    monkeypatch.setenv("RANK", "1")
    say(["of one process"])
    assert capsys.readouterr().err == ""
