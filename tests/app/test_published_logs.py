"""Published logs through the code that draws our runs, and figures as files.

Catches: an evaluation that is counted once per line that repeats it; a wrong column; a row that is taken for one step
or one micro-batch; a trajectory taken for a grid, or a grid for a trajectory; a malformed file that is drawn all the
same; a figure that is in the page and not among the files.
"""

import pytest

from mada_lab.cli import main
from mada_lab.cli import report as command
from mada_lab.errors import ConfigError
from mada_lab.experiments import grid
from mada_lab.plots.losses import validation_loss
from mada_lab.reports.published_logs import read_published
from mada_lab.reports.runs import sentence
from tests.app.synthetic_runs import make_run

HEAD = "step,beta1,rho,train_loss,val_loss\n"
ADAM = HEAD + "0,0.9,1,10.5,10.25\n100,0.9,1,10.5,10.25\n200,0.9,1,4.5,4.75\n300,0.9,1,4.5,4.75\n400,0.9,1,3.5,4\n"
MADA = ADAM.replace("400,0.9,1,3.5,4", "400,0.9,0.5,3.25,")


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
    assert [sentence(run) for run in (adam, mada)] == [
        "Published log; nothing is learned.",
        "Published log; rho is learned.",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD, "expected rows, got none"),
        (HEAD + "0,0.9,1,10.5\n", "line 2: expected 5 values, got 4"),
        (HEAD + "0,0.9,1,10.5,low\n", "line 2, val_loss: expected a finite number, got 'low'"),
        (HEAD + "0,0.9,1,10.5,1\n100,0.9,1,nan,1\n", "line 3, train_loss: expected a finite number, got 'nan'"),
        (HEAD + "0,-inf,1,10.5,1\n", "line 2, beta1: expected a finite number, got '-inf'"),
        (HEAD + "0,,1,10.5,1\n", "line 2, beta1: expected a finite number, got ''"),
        (HEAD + "nan,0.9,1,10.5,1\n", "line 2, step: expected a whole number"),
        (HEAD + "0.5,0.9,1,10.5,1\n", "line 2, step: expected a whole number"),
        (HEAD.replace("rho", "beta1") + "0,0.9,1,10.5,1\n", "line 1: expected a header of distinct columns"),
        ("beta1,val_loss\n", "expected CSV with the columns step, train_loss, val_loss, or text of 8 columns"),
        (b"\xff\xfe", "expected text in UTF-8"),
        ("", "expected rows, got none"),
    ],
)
def test_malformed_logs_are_refused(content, message, tmp_path):
    (tmp_path / "log.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        read_published(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def raw_run(rho=(1.0, 1.0, 1.0, 1.0, 0.75, 0.5)):
    """Six rows of one run as the authors' scripts write them: two evaluations, each held for three rows."""
    losses = ["10.500000, 10.250000"] * 3 + ["4.500000, 4.750000"] * 3
    rows = zip(rho, losses, strict=True)
    return "".join(f"0.900000, 0.950000, 0.000000, {x:f}, 1.000000, 1.000000, {loss}\n" for x, loss in rows)


def raw_cells(shift=0.0, beta1=(0.1, 0.5)):
    """A row per finished run, from each pair of betas."""
    cells = [(b1, b2) for b1 in beta1 for b2 in (0.501, 0.99)]
    return "".join(
        f"{b1:f}, {b2:f}, 0.000000, 1.000000, 1.000000, 1.000000, {b1 + b2 + shift:f}, {b1 - b2 - shift:f}\n"
        for b1, b2 in cells
    )


@pytest.fixture
def raw(tmp_path):
    """A folder like the published one."""
    files = {
        "out_adam/20230102-030405/traj_owt_adam.txt": raw_run(rho=[1.0] * 6),
        "out_mada/20230102-030405/traj_owt_mada.txt": raw_run(),
        "out_mada/20230203-040506/traj_owt_mada.txt": raw_run(rho=[0.0, 0.0, 0.0, 0.25, 0.25, 0.125]),
        "out_shakespeare/train_log_adam0.txt": raw_cells(),
        "out_shakespeare/train_log_adam1.txt": raw_cells(beta1=(0.9,)),
        "out_shakespeare/train_log_hyperadam0.txt": raw_cells(0.25),
        "out_shakespeare/hyper_train_log_tuned_25lr0.txt": raw_cells(-0.25),
        "LICENSE": "not a log\n",
    }
    for name, content in files.items():
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "raw"


def test_text_without_a_header_has_a_row_per_ten_steps(raw):
    adam, *madas = read_published(raw)
    assert [run.name for run in (adam, *madas)] == ["adam", "mada_20230102-030405", "mada_20230203-040506"]
    assert adam.series("val_loss") == ([0, 30], [10.25, 4.75])
    assert adam.series("train_loss") == ([0, 30], [10.5, 4.5])
    assert (adam.names("coefficients"), adam.summary["steps"]) == ([], 50)
    assert madas[0].coefficient("rho") == ([0, 10, 20, 30, 40, 50], [1, 1, 1, 1, 0.75, 0.5])
    assert madas[1].final_coefficients() == {"beta1": 0.9, "beta2": 0.95, "beta3": 0, "rho": 0.125, "c": 1, "gamma": 1}
    assert madas[0].manifest["optimizer"] == "learns rho"


def test_both_forms_of_a_log_are_one_run(raw, tmp_path):
    text = raw / "out_mada" / "20230102-030405"
    (tmp_path / "tables").mkdir()
    rows = (text / "traj_owt_mada.txt").read_text().splitlines()
    head = "step, beta1, beta2, beta3, rho, c, gamma, train_loss, val_loss\n"
    table = head + "".join(f"{10 * i}, {row}\n" for i, row in enumerate(rows))
    (tmp_path / "tables" / "traj_owt_mada.csv").write_text(table)
    [one], [other] = read_published(text), read_published(tmp_path / "tables")
    assert (one.name, one.rows, one.summary) == (other.name, other.rows, other.summary)
    assert one.initial_coefficients() == other.initial_coefficients()


def test_grids_without_a_header_are_put_together(raw):
    adam, hyperadam, mada = grid.read_surfaces(raw)
    assert [surface.name for surface in (adam, hyperadam, mada)] == ["adam", "hyperadam", "mada"]
    assert (list(adam.beta1), list(adam.beta2), list(mada.beta1)) == ([0.1, 0.5, 0.9], [0.501, 0.99], [0.1, 0.5])
    assert adam.training[..., 0].tolist() == [[0.601, 1.09], [1.001, 1.49], [1.401, 1.89]]
    assert mada.validation[..., 0].tolist() == [[-0.151, -0.64], [0.249, -0.24]]
    (raw / "out_shakespeare" / "train_log_adam2.txt").write_text("\n".join(reversed(raw_cells().splitlines())))
    with pytest.raises(ConfigError, match=r"adam2.txt, line 1: expected one row of adam from each pair of betas, got"):
        grid.read_surfaces(raw)


def test_each_command_says_which_one_reads_the_others_files(raw):
    with pytest.raises(ConfigError, match="got 4 files of a grid, which `mada-lab grid` draws"):
        read_published(raw / "out_shakespeare")
    with pytest.raises(ConfigError, match="got 2 trajectories, which `mada-lab report --published` draws"):
        grid.read_surfaces(raw / "out_mada")
    with pytest.raises(ConfigError, match="got none; pass the folder of a sweep"):
        grid.read_surfaces(raw / "nowhere")


BAD_TEXT = [
    (lambda lines: [*lines[:2], "0.9, 0.95, 0.0, 1.0, 1.0, 1.0, 4.5", *lines[2:]], "line 3: expected 8 values, got 7"),
    (lambda lines: [f"0, {line}" for line in lines], "line 1: expected 8 values, got 9"),
    (lambda lines: [*lines, lines[0].replace("0.950000", "high")], "beta2: expected a finite number, got 'high'"),
    (lambda lines: [*lines[:4], lines[4].replace("4.750000", "nan")], "line 5, val_loss: expected a finite number"),
    (lambda lines: [lines[0].replace("10.500000", "inf")], "line 1, train_loss: expected a finite number, got 'inf'"),
    (lambda lines: ["", "notes of a run", *lines], "line 2: expected 8 numbers, or a header with step, train_loss"),
    (lambda lines: [], "expected rows, got none"),
]


@pytest.mark.parametrize(("change", "message"), BAD_TEXT, ids=[message[:24] for _, message in BAD_TEXT])
def test_malformed_text_is_refused_by_both_commands(change, message, raw, capsys):
    path = raw / "out_mada" / "20230203-040506" / "traj_owt_mada.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())))
    for words in (["report", "--published", str(raw)], ["grid", str(raw)]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        error = capsys.readouterr().err
        assert (stop.value.code, error.count("\n")) == (2, 1)
        assert message in error
        assert str(path) in error


def test_the_authors_raw_files_and_their_tables_agree(reference):
    folders = [reference / "reference" / f"released_{form}" for form in ("raw", "logs")]
    if not folders[0].is_dir():
        pytest.skip("the authors' raw logs are not beside this checkout")
    raw, tables = ({run.initial_coefficients()["beta3"]: run for run in read_published(folder)} for folder in folders)
    assert round(raw[0.9].series("val_loss")[1][-1], 4) == 2.8817
    assert raw[0.9].series("val_loss") == tables[0.9].series("val_loss")
    ends = [sorted(run.summary["final_val_loss"] for run in read_published(folder)) for folder in folders]
    assert [round(x, 4) for x in ends[0]] == [2.8809, 2.8817, 2.8879, 2.8958]
    assert ends[0] == ends[1]
    adam = next(run for run in read_published(folders[0]) if run.name == "adam")
    assert (round(adam.series("val_loss")[1][-1], 4), adam.series("val_loss")[0][-1]) == (2.8958, 100_000)
    for run in raw.values():
        same = [other for other in tables.values() if other.initial_coefficients() == run.initial_coefficients()]
        for other in same:
            every_100 = [row for row in run.rows if row["step"] % 100 == 0]
            assert every_100 == other.rows
    surfaces = [grid.table(grid.read_surfaces(folder)) for folder in folders]
    assert surfaces[0] == surfaces[1]
    below = {line.split(" | ")[0] + line.split(" | ")[1]: line.split(" | ")[7] for line in surfaces[0].splitlines()[2:]}
    assert (below["| trainingmada"], below["| validationmada"]) == ("269 of 275", "7 of 275")


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
