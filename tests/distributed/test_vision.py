"""Networks for images on several processes: the run that one process would do.

Catches: images that depend on the number of processes, an evaluation that counts a batch twice, running statistics that
are one process's own, processes whose states part, a resume by another number of processes that is another run.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mada_lab.checkpoints import redistribution
from mada_lab.checkpoints.checkpoint import load_newest
from mada_lab.config.keys import VisionConfig
from mada_lab.data.images import ImageData
from mada_lab.data.prepare import prepare
from mada_lab.records.run_record import read_run
from mada_lab.training import trainer
from tests.reliability import ranks, runs

CONFIG = VisionConfig(
    device="cpu",
    optimizer="autoadam",  # an orthogonalisation takes up the rounding of sums by some hundred times
    width=4,
    depth=8,
    train_images=100,
    test_images=50,
    crop_padding=1,
    flip=True,
    batch_size=8,
    gradient_accumulation_steps=4,
    max_iters=6,
    warmup_iters=2,
    lr_decay_iters=100,
    hyper_start=1,
    eval_interval=3,
    log_interval=1,
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    pytest.importorskip("sklearn", reason="scikit-learn ships the digits")
    folder = tmp_path_factory.mktemp("images")
    prepare("digits", folder)
    return folder


def train(config):
    """Trains, and leaves the digest of this process's own state, but for its generators, which passes seed anew."""
    session = trainer.train(config, ImageData.open(Path(config.data_dir) / "digits"), runs.Listener(lambda done: None))
    state = {**session.state_dict(), "random": None}
    Path(f"{config.out_dir}.{os.environ.get('RANK', '0')}").write_text(redistribution.digest(state))


def rows(folder):
    keys = ("step", "images", "train_loss", "val_loss", "val_accuracy", "coefficients", "hypergradients")
    return [{key: row.get(key) for key in keys} for row in read_run(Path(folder)).rows]


def close(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        for key, x in other.items():
            assert mine[key] == (x if x is None else pytest.approx(x, rel=1e-6, abs=1e-6)), (mine["step"], key)


@pytest.mark.parametrize(("model", "size"), [("cnn", 2), ("resnet", 2), ("resnet", 4)])
def test_the_run_of_one_process(data_dir, tmp_path, model, size):
    """The state too, running statistics and counts of batches included."""
    one = replace(CONFIG, data_dir=str(data_dir), out_dir=str(tmp_path / "one"), model=model)
    many = replace(one, out_dir=str(tmp_path / "many"))
    assert runs.in_child(train, one) == 0
    assert ranks.in_group(size, train, many) == 0
    close(rows(many.out_dir), rows(one.out_dir))
    assert len({Path(f"{many.out_dir}.{rank}").read_text() for rank in range(size)}) == 1
    states = [load_newest(Path(x.out_dir)).tree["state"]["model"] for x in (one, many)]
    for name, x in states[0].items():
        assert states[1][name].flatten().tolist() == pytest.approx(x.flatten().tolist(), rel=1e-5, abs=1e-5), name


def test_each_process_clips_its_own_gradient(data_dir, tmp_path):
    """Running statistics are those of all processes even so: after one step, what they are with whole gradients."""
    base = replace(CONFIG, data_dir=str(data_dir), model="resnet", grad_clip=0.05, max_iters=1, warmup_iters=1)
    states = []
    for of in ("whole", "each"):
        config = replace(base, out_dir=str(tmp_path / of), grad_clip_of=of)
        assert ranks.in_group(2, train, config) == 0
        assert len({Path(f"{config.out_dir}.{rank}").read_text() for rank in range(2)}) == 1
        states.append(load_newest(Path(config.out_dir)).tree["state"]["model"])
    running = {name for name in states[0] if "running" in name or "num_batches" in name}
    same = {name for name, x in states[0].items() if x.equal(states[1][name])}
    assert same == running != set()


def test_any_number_of_processes_goes_on(data_dir, tmp_path):
    whole = replace(CONFIG, data_dir=str(data_dir), out_dir=str(tmp_path / "whole"), model="resnet")
    part = replace(whole, out_dir=str(tmp_path / "part"))
    assert runs.in_child(train, whole) == 0
    assert runs.in_child(train, replace(part, max_iters=2)) == 0
    assert ranks.in_group(2, train, replace(part, init_from="resume", max_iters=4)) == 0
    assert runs.in_child(train, replace(part, init_from="resume")) == 0
    assert [note["exact"] for note in read_run(tmp_path / "part").resumes] == [True, True]
    close(rows(part.out_dir)[-2:], rows(whole.out_dir)[-2:])


def test_shards_are_refused_on_all(data_dir, tmp_path):
    config = replace(CONFIG, data_dir=str(data_dir), out_dir=str(tmp_path / "run"), parallel="fsdp")
    assert ranks.in_group(2, train, config) == 2
    assert not Path(config.out_dir).exists()
