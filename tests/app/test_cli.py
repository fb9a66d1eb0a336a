"""The command as a user types it: output, exit codes, one line per error."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mada_optim
from mada_lab import cli
from mada_lab.cli.train import fresh_folder
from mada_lab.config import parsing
from mada_lab.config.declarations import Topic, defaults
from mada_lab.config.keys import TrainConfig, VisionConfig
from mada_lab.data.catalog import TEMPORARY
from mada_lab.data.corpus import Corpus
from mada_lab.data.prepare import open_or_prepare
from mada_lab.experiments.bench.families import FAMILIES
from mada_lab.experiments.bench.sections import SECTIONS, Scope
from mada_lab.experiments.bench.tasks import TASKS
from mada_lab.experiments.toy.game import METHODS
from tests.app.commands import mada_lab, mada_lab_process

TINY = "--n_layer=1 --n_embd=16 --n_head=2 --block_size=16 --batch_size=2 --max_iters=8 --warmup_iters=2".split()
QUICK = [*TINY, "--eval_interval=4", "--eval_iters=2", "--log_interval=2", "--hyper_start=2", "--device=cpu"]


def test_train_resume_and_report(tmp_path):
    """The default data set is prepared by itself, and a run ends by naming its folder."""
    run = mada_lab_process("train", *QUICK, "--out_dir=out/a b", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "automuon: final validation loss" in run.stdout
    assert " lr " in run.stderr
    assert "beta1" not in run.stderr
    assert (tmp_path / "data" / "pydoc" / "meta.json").exists()
    more = mada_lab("train", *QUICK, "--out_dir=out/a b", "--init_from=resume", "--max_iters=12", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert "after 12 steps" in more.stdout
    baseline = mada_lab("train", *QUICK[:-2], "--out_dir=out/adamw", "--optimizer=adamw", cwd=tmp_path)
    assert baseline.returncode == 0, baseline.stderr
    report = mada_lab("report", "out/a b", "out/adamw", "--out=out/report.html", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert str(tmp_path / "out" / "report.html") in report.stdout
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


REFUSED = [
    (["train", "--lerning_rate=1"], 2, "did you mean 'learning_rate"),
    (["train", "--optimizer=adamm"], 2, "did you mean 'adam"),
    (
        ["train", "--optimizer=adamw", "--rho=0.5"],
        2,
        "key rho: expected one of the keys that it has (beta1, beta2, eps)",
    ),
    (["train", "--dataset=shakespear_char"], 2, "did you mean 'shakespeare_char'"),
    (["train", "--device=cuda:77"], 2, "in key device"),
    (["train", "--init_from=resume", "--out_dir=nowhere"], 4, "expected one to resume from, got none"),
    (["data", "prepare"], 2, "data prepare: expected NAME, got nothing"),
    (["data", "prepare", "pydoc", "--form-file=x"], 2, "got --form-file; did you mean '--from-file'"),
    (["data", "prepare", "pydoc", "--tokenizer=bpe"], 2, "expected characters or gpt2, got bpe"),
    (["data", "prepare", "pydoc", "--workers=0"], 2, "option --workers: expected a whole number in [1, 1024], got 0"),
    (["data", "prepare", "wikitext", "--from-file=.", "--bpe-files=."], 3, "encoder.json"),
    (["data", "prepare", "cifar10", "--from-file=missing.npz"], 3, "missing.npz"),
    (["train", "--dataset=openwebtext"], 3, "run `mada-lab data prepare openwebtext` first"),
    (["train", "--dataset=digits"], 2, "expected one of text, got digits"),
    (["data", "prepare", "shakespeare_char", "--from-file=missing.txt"], 3, "missing.txt"),
    (["report"], 2, "expected one run folder"),
    (["report", "missing"], 2, "missing"),
    (["verify", "missing"], 2, "verify missing: expected a file or folder that exists"),
    (["train", "--optimizer=AdamW"], 2, "did you mean 'adamw'?"),
    (["report", "missing", "--bogus"], 2, "got --bogus; `mada-lab report --help` lists them"),
    (["vision", "--n_layer=3"], 2, "got n_layer; it is a key of `mada-lab train`"),
    (["train", "--compile"], 2, "option --compile: expected true or false, got nothing"),
    (["train", "--", "--max_iters=2"], 2, "expected --key=value, got --"),
    (["train", "--n_layer=-1"], 2, "n_layer: expected at least 1, got -1; change this key"),
    (["train", "--init_from=out/nothere"], 2, "got out/nothere; check the path"),
    (["eval", "nowhere"], 2, "or one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, got a missing path"),
    (["tarin"], 2, "got tarin; did you mean 'train'"),
    (["train", "--beta2=0.9", "--dataset=openwebtext"], 2, "optimizer automuon, in key beta2: expected at least 0.99"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "message"), REFUSED, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_errors_are_one_line_with_their_code(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert (stop.value.code, last[:7]) == (code, "error: ")
    assert message in last
    assert not [p for p in tmp_path.iterdir() if p.name not in ("data",)]


@pytest.mark.parametrize("words", [["data"], ["data", "--help"]], ids=str)
def test_a_group_of_commands_shows_the_help_of_its_command(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    assert "usage: mada-lab data prepare" in capsys.readouterr().out


def test_an_unknown_data_set_is_answered_with_those_that_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "cifar10" not in refusal(["train", "--dataset=nothere"], capsys)[1]
    assert "pydoc" not in refusal(["vision", "--dataset=nothere"], capsys)[1]


def test_debug_shows_the_traceback(tmp_path):
    run = mada_lab_process("report", "missing", "--debug", cwd=tmp_path)
    assert "Traceback" in run.stderr


def test_help(tmp_path):
    run = mada_lab_process(cwd=tmp_path)
    assert run.returncode == 0
    assert "data prepare" in run.stdout


def help_of(name, capsys):
    """What `--help` of a command prints, in this process."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_help_page_with_an_example_that_parses(name, capsys):
    page = help_of(name, capsys)
    assert max(map(len, page.splitlines())) <= 100
    assert page.startswith(f"usage: mada-lab {name} ")
    program, *words = shlex.split(page.rpartition("\nexample:\n")[2])
    assert (program, words[: len(name.split())]) == ("mada-lab", name.split())
    words, module = words[len(name.split()) :], cli.command(name)
    if name in ("train", "vision"):
        assert parsing.load(words, {"train": TrainConfig, "vision": VisionConfig}[name]).max_iters
    elif name in ("sweep", "compare"):
        assert module.read(words)[-1].max_iters == 200
    else:
        module.arguments().read(words)


def test_keys_are_grouped_by_topic_with_their_defaults(capsys):
    page = help_of("train", capsys)
    assert [page.index(f"\n{topic.value}:\n") for topic in Topic] == sorted(
        page.index(f"\n{t.value}:\n") for t in Topic
    )
    for key, default in defaults(TrainConfig).items():
        section = page.partition(f"\n  --{key} ")[2].partition("\n  --")[0]
        assert f"(default: {default})" in " ".join(section.split()), key


@pytest.mark.parametrize("name", ["sweep", "compare"])
def test_a_command_that_takes_the_keys_of_train_shows_its_own_options(name, capsys):
    page = help_of(name, capsys)
    assert "The keys of `mada-lab train` are options too" in " ".join(page.split())
    assert "--storage FILE|URL" in page
    assert "--n_layer" not in page


def test_help_lists_the_names_that_an_option_takes(capsys):
    for command, names in (("toy", METHODS), ("bench", (*SECTIONS, *TASKS, *FAMILIES, *Scope().mapped))):
        words = set(re.findall(r"\w+", help_of(command, capsys)))
        assert words >= set(names)


def test_help_needs_no_torch(tmp_path):
    program = "import sys; from mada_lab import cli; cli.run(['--help']); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "False", run.stderr
    lines = run.stdout.splitlines()[:-1]
    assert max(map(len, lines)) <= 100
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in cli.COMMANDS)


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"mada-lab {mada_optim.__version__}\n"


def refusal(words, capsys):
    """The exit code and the line of a command that is refused."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return stop.value.code, lines[0]


MISSPELLED = [
    (["train", "--lr=1e-3"], "did you mean 'learning_rate'"),
    (["sweep", "--steps=5"], "did you mean 'max_iters'"),
    (["sweep", "--trails=5"], "did you mean '--trials'"),
    (["compare", "--optimisers=adamw"], "did you mean '--optimizers'"),
    (["compare", "--seed=1", "--sedes=1"], "did you mean '--seeds'"),
    (["compare", "--nlayer=1"], "did you mean 'n_layer'"),
    (["toy", "--method=mada"], "did you mean '--methods'"),
    (["toy", "--problem=redi"], "did you mean 'reddi'"),
    (["bench", "--sections=default"], "did you mean 'defaults'"),
    (["generate", "x", "--temprature=1"], "did you mean '--temperature'"),
    (["date", "prepare"], "did you mean 'data prepare'"),
    (["swep"], "did you mean 'sweep'"),
    (["verify", "x", "--deeep"], "did you mean '--deep'"),
]


@pytest.mark.parametrize(("words", "message"), MISSPELLED, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_the_nearest_name_is_offered(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, line = refusal(words, capsys)
    assert code == 2
    assert message in line
    assert not list(tmp_path.iterdir())


PLAIN = [word for word in QUICK if "hyper" not in word]
SMALL = [*PLAIN, "--data_dir=DATA"]
ANY_WIDTH = [word for word in SMALL if "n_embd" not in word]
#: Commands, their exit codes, and what of them is told. Nothing may be left on the disk.
IMPOSSIBLE = [
    (["compare", *SMALL, "--optimizers=adamw,mda"], 2, "got mda; did you mean 'mada'?"),
    (["compare", *SMALL, "--dataset=openwebtext", "--optimizers=adamw"], 3, "run `mada-lab data prepare openwebtext`"),
    (["compare", *SMALL, "--dataset=pydok", "--optimizers=adamw"], 2, "did you mean 'pydoc'"),
    (["compare", *SMALL, "--optimizers=adamw:rho=0.5"], 2, "rho"),
    (["sweep", *SMALL, "--grid=dataset=pydoc,openwebtext"], 3, "run `mada-lab data prepare openwebtext`"),
    (["sweep", *ANY_WIDTH, "--grid=n_embd=15,16"], 2, "n_embd: expected a multiple of n_head=2"),
    (["sweep", *SMALL, "--grid=optimizer=adamw,mda"], 2, "did you mean 'mada'?"),
    (["sweep", "--storage=missing.journal"], 2, "--storage missing.journal: expected a file or folder that exists"),
    (["bench", "--tasks=cifar_cnn", "--data-dir=DATA"], 3, "expected one whose data set is there"),
    (["train", *SMALL, "--dataset=openwebtext"], 3, "run `mada-lab data prepare openwebtext`"),
    (["train", *SMALL, "--init_from=resume"], 2, "expected the folder of a run as out_dir, got none"),
    (["toy", "--methods=adam,mda", "--steps=10"], 2, "mda"),
    (["data", "prepare", "pydoc", "--name=mine"], 2, "option --name: expected none beside pydoc"),
    (["data", "prepare", "text", "--name=mine"], 2, "expected --from-file and --name beside text"),
]


@pytest.mark.parametrize(
    ("words", "code", "message"), IMPOSSIBLE, ids=lambda x: " ".join(x)[-60:] if isinstance(x, list) else ""
)
def test_a_refusal_leaves_nothing_behind(words, code, message, tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main([word.replace("DATA", str(data_dir)) for word in words])
    told = capsys.readouterr().err
    assert stop.value.code == code, told
    assert message in told.splitlines()[-1]
    assert "%" not in told.replace("90 %", ""), "an error follows an empty bar"
    assert not list(tmp_path.iterdir())


def test_the_corrected_comparison_takes_the_same_folder(tmp_path):
    """What was refused before stands in the way of nothing; the bar is that of the command."""
    words = ["compare", *QUICK, "--seeds=1", "--out=out"]
    assert mada_lab(*words, "--optimizers=adamw,mda", cwd=tmp_path).returncode == 2
    run = mada_lab(*words, "--optimizers=adamw,mada", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "compare: 100%|" in run.stderr
    assert "adamw_seed=1" in run.stderr
    assert "sweep" not in run.stderr


MISSING = [
    (["train", "nowhere.toml"], "nowhere.toml"),
    (["compare", "nowhere.py"], "nowhere.py"),
    (["report", "nowhere"], "nowhere"),
    (["report", "--published=nowhere"], "nowhere"),
    (["verify", "nowhere"], "nowhere"),
    (["grid", "nowhere"], "nowhere"),
    (["data", "prepare", "text", "--from-file=nowhere", "--name=mine"], "nowhere"),
    (["data", "prepare", "wikitext", "--from-file=nowhere"], "nowhere"),
    (["data", "prepare", "pydoc", "--tokenizer=gpt2", "--bpe-files=nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("words", "path"), MISSING, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_missing_path_is_called_missing(words, path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, line = refusal(words, capsys)
    assert code == (3 if words[0] == "data" else 2)
    assert f"{path}: expected a file or folder that exists, got a missing path" in line
    assert not list(tmp_path.iterdir())


def test_a_run_without_out_dir_takes_a_fresh_folder(tmp_path):
    first, second = (mada_lab("train", *PLAIN, "--optimizer=adamw", cwd=tmp_path) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    folders = [f"out/{path.name}" for path in sorted((tmp_path / "out").iterdir(), key=lambda x: x.stat().st_mtime)]
    assert len(folders) == 2
    for run, folder in zip((first, second), folders, strict=True):
        assert re.fullmatch(r"out/pydoc-\d{8}-\d{6}(-\d+)?", folder)
        assert f"note: the run folder is {folder}" in run.stderr
        assert run.stdout.rstrip().endswith(f": {folder}")
    resumed = mada_lab("train", *PLAIN, "--optimizer=adamw", "--init_from=resume", cwd=tmp_path)
    assert resumed.returncode == 2
    assert f"the newest: {folders[1]}, {folders[0]}" in resumed.stderr


def test_fresh_folders_of_one_second_differ(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda layout: "20260101-000000")
    names = []
    for _ in range(3):
        names.append(fresh_folder("pydoc", tmp_path / "out"))
        assert Path(names[-1]).is_dir(), "it is made at once, so that no other process takes it"
    assert [Path(name).name for name in names] == [f"pydoc-20260101-000000{x}" for x in ("", "-2", "-3")]


def test_a_second_game_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["toy", "--steps=10", "--methods=adam", "--out=out"]
    cli.main(words)
    capsys.readouterr()
    code, line = refusal(words, capsys)
    assert code == 2
    assert line.endswith("choose another --out, or delete the folder")
    assert "init_from" not in line


def test_an_interrupt_before_there_is_a_run_does_not_speak_of_resuming(monkeypatch, capsys):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.fixture
def own(tmp_path, monkeypatch, capsys):
    """A data set of the user's text, 1,000 characters of it, in the working directory; returns what was printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text("a text of my own, ünï\n" * 50)
    cli.main(["data", "prepare", "text", "--from-file=my.txt", "--name=mytext", "--validation-share=0.2"])
    return capsys.readouterr().out


def test_a_data_set_of_ones_own_text(own, tmp_path):
    assert own.splitlines() == [
        "data set mytext: data/mytext",
        "880 training tokens, 220 validation tokens: the last 0.2 of each file's characters; 15 different tokens",
    ]
    text, corpus = (tmp_path / "my.txt").read_text(), open_or_prepare("mytext", tmp_path / "data", Corpus)
    assert corpus.decode(corpus.train) + corpus.decode(corpus.val) == text
    assert len(corpus.val) == len(text) // 5


def test_every_command_takes_ones_own_text(own, tmp_path, capsys):
    cli.main(["train", *PLAIN, "--dataset=mytext", "--optimizer=adamw", "--out_dir=run"])
    cli.main(["eval", "run", "--device=cpu"])
    assert "mytext, val" in capsys.readouterr().out
    cli.main(["compare", *PLAIN, "--dataset=mytext", "--optimizers=adamw", "--seeds=1", "--out=compared"])
    cli.main(["sweep", *PLAIN, "--dataset=mytext", "--grid=optimizer=adamw", "--out=swept"])
    assert "sweep: 1 of 1 points" in capsys.readouterr().out


def test_a_folder_of_texts_is_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, letter in (("b/two.md", "b"), ("a.txt", "a"), (".hidden", "c")):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(letter * 20)
    cli.main(["data", "prepare", "text", "--from-file=texts", "--name=both", "--tokenizer=characters"])
    corpus = open_or_prepare("both", tmp_path / "data", Corpus)
    assert (corpus.decode(corpus.train), corpus.decode(corpus.val)) == ("a" * 18 + "b" * 18, "aabb")


OWN_REFUSED = [
    (["--name=pydoc"], 2, "got that of a known data set"),
    (["--name=shakespeare_char"], 2, "got that of a known data set"),
    (["--name=../x"], 2, "expected a new name of letters, digits"),
    (["--name=.x"], 2, "expected a new name of letters, digits"),
    (["--name=mytext"], 2, "got that of the folder data/mytext"),
    *(([f"--name=new{x}"], 2, f"--name=new{x}: expected no ending .download or .part") for x in TEMPORARY),
    (["--name=new", "--tokenizer=bpe"], 2, "--tokenizer=bpe: expected characters, gpt2"),
    (["--name=new", "--validation-share=1e-9"], 3, "expected at least 2 tokens for split val, got 1"),
    (["--name=new", "--from-file=/dev/zero"], 3, "got neither a file nor a folder"),
    (["--name=new", "--from-file=my.txt:nowhere"], 3, "nowhere: expected a file or folder that exists"),
    (["--name=new", "--validation-share=1"], 2, "expected a number in (0, 1), got 1"),
    (["--name=new", "--validation-share=0"], 2, "option --validation-share"),
    (["--name=new", "--from-file=empty.txt"], 3, "got an empty file"),
    (["--name=new", "--from-file=folder"], 3, "got a folder without files"),
    (["--name=new", "--from-file=latin.txt"], 3, "expected UTF-8, got the byte 0xe9 at offset 1"),
    (["--name=new", "--from-file=short.txt"], 3, "expected enough characters"),
]


@pytest.mark.parametrize(("words", "code", "message"), OWN_REFUSED, ids=str)
def test_text_that_makes_no_data_set_is_refused(words, code, message, own, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for name, content in (("empty", b""), ("latin", "dé".encode("latin-1")), ("short", b"x")):
        (tmp_path / f"{name}.txt").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    found = refusal(["data", "prepare", "text", "--from-file=my.txt", *words], capsys)
    assert found[0] == code
    assert message in found[1]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_text_shorter_than_the_context_is_refused_before_anything_is_trained(own, tmp_path, capsys):
    for words in (["train"], ["compare", "--optimizers=adamw"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, *PLAIN, "--dataset=mytext", "--block_size=300"])
        assert stop.value.code == 3
        assert "300" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
