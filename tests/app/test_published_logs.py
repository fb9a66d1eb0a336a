"""Published logs through the code that draws our runs, and figures as files.

Catches: an evaluation that is counted once per line that repeats it; a wrong column; a malformed file that is drawn
all the same; a figure that is in the page and not among the files.
"""

import pytest

from mada_lab.cli import report as command
from mada_lab.errors import ConfigError
from mada_lab.plots.losses import validation_loss
from mada_lab.published_logs import read_published
from tests.app.synthetic_runs import make_run

HEAD = "step,beta1,rho,train_loss,val_loss\n"
ADAM = HEAD + "0,0.9,1,10.5,10.25\n100,0.9,1,10.5,10.25\n200,0.9,1,4.5,4.75\n300,0.9,1,4.5,4.75\n400,0.9,1,3.5,4\n"
MADA = ADAM.replace("400,0.9,1,3.5,4", "400,0.9,0.5,3.25,nan")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "gpt_adam.csv").write_text(ADAM)
    (tmp_path / "logs" / "gpt_mada_rho.csv").write_text(MADA)
    (tmp_path / "logs" / "grid.csv").write_text("beta1,val_loss\n0.9,1\n")
    return tmp_path / "logs"


def test_a_loss_is_where_it_was_measured(folder):
    adam, mada = read_published(folder)
    assert (adam.name, mada.name) == ("adam", "mada_rho")
    assert adam.series("val_loss") == ([0, 200, 400], [10.25, 4.75, 4.0])
    assert adam.series("train_loss") == ([0, 200, 400], [10.5, 4.5, 3.5])
    assert adam.names("coefficients") == []
    assert mada.coefficient("rho") == ([0, 100, 200, 300, 400], [1, 1, 1, 1, 0.5])
    assert (adam.summary["final_val_loss"], mada.summary["best_val_loss"]) == (4.0, 4.75)
    assert mada.manifest["optimizer"] == "learns rho"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD, "expected rows, got none"),
        (HEAD + "0,0.9,1,10.5\n", "line 2: expected 5 values, got 4"),
        (HEAD + "0,0.9,1,10.5,low\n", "line 2, val_loss: expected a number, got 'low'"),
        (HEAD + "nan,0.9,1,10.5,1\n", "line 2, step: expected a number"),
        ("beta1,val_loss\n", "expected CSV files with the columns step, train_loss, val_loss, got none"),
        (b"\xff\xfe", "expected CSV in UTF-8"),
    ],
)
def test_malformed_logs_are_refused(content, message, tmp_path):
    (tmp_path / "log.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        read_published(tmp_path)


def test_the_authors_logs_end_where_their_figure_does(reference):
    runs = {run.name: run for run in read_published(reference / "reference" / "released_logs")}
    ends = {name: round(run.series("val_loss")[1][-1], 4) for name, run in runs.items()}
    assert ends == {
        "adam": 2.8958,
        "mada_beta3_0.9_rho_0": 2.8817,
        "mada_beta_0.7_0.8": 2.8879,
        "mada_rho_0": 2.8809,
    }
    assert {len(run.series("val_loss")[0]) for run in runs.values()} == {201}  # every 500 of 100,000 steps
    [axes] = validation_loss(list(runs.values())).axes
    assert [round(float(line.get_ydata()[-1]), 4) for line in axes.get_lines()] == list(ends.values())


def test_each_figure_is_a_png_and_an_svg(folder, tmp_path, capsys):
    run = make_run(tmp_path / "run")
    out, figures = tmp_path / "page.html", tmp_path / "figures"
    command.run([str(run), "--published", str(folder), f"--out={out}", f"--figures={figures}"])
    names = ("coefficients", "hypergradients", "training_loss", "validation_loss")
    files = {path.name: path.read_bytes() for path in figures.iterdir()}
    assert set(files) == {f"{name}.{format}" for name in names for format in ("png", "svg")}
    assert all(files[f"{name}.png"].startswith(b"\x89PNG") for name in names)
    assert b"mada_rho" in files["validation_loss.svg"]
    assert "mada_rho" in out.read_text()
    assert "adam: final validation loss 4.0000" in capsys.readouterr().out
    command.run([str(run), "--published", str(folder), f"--out={out}", f"--figures={figures}"])
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == files


def test_figures_that_cannot_be_written_are_one_line(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"figures, .*: expected a folder that can be made"):
        command.run([str(run), f"--figures={run / 'manifest.json'}"])
