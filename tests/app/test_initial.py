"""Training that starts from trained weights.

Catches: weights that are dropped on the way, an optimizer that isn't fresh, tokens that mean something else, and a run
that is resumed from scratch because its first checkpoint is missing.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mada_lab.checkpoints import checkpoint
from mada_lab.config.keys import TrainConfig
from mada_lab.data.corpus import Corpus
from mada_lab.errors import CheckpointError, ConfigError
from mada_lab.pretrained import weights
from mada_lab.pretrained.export import export
from mada_lab.records.run_record import read_run
from mada_lab.system import files
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import train
from tests.app.conftest import Silent


@pytest.fixture
def trained(tiny: TrainConfig, corpus: Corpus, tmp_path: Path) -> TrainConfig:
    """A run that has ended."""
    config = replace(tiny, out_dir=str(tmp_path / "before"), dropout=0.0)
    train(config, corpus, Silent())
    return config


@pytest.mark.parametrize("kind", ["run", "checkpoint", "export"])
def test_a_run_goes_on_from_trained_weights(kind: str, trained: TrainConfig, corpus: Corpus, tmp_path: Path) -> None:
    """With the sizes of the weights where the configuration says none, and what is fresh is fresh."""
    run = Path(trained.out_dir)
    places = {"run": run, "checkpoint": run / "checkpoints" / "step_00000030", "export": run / "export"}
    if kind == "export":
        export(weights.read(str(run)), places[kind])
    sizes = {"n_layer": TrainConfig.n_layer, "n_embd": TrainConfig.n_embd}
    config = replace(trained, init_from=str(places[kind]), out_dir=str(tmp_path / "after"), **sizes)
    with pytest.raises(ConfigError, match=r"in key n_layer: expected 1, as in the weights in .*, got 5; leave it out"):
        TrainState.start(replace(config, n_layer=5), corpus)
    session = TrainState.start(config, corpus)
    saved = checkpoint.load(places["checkpoint"]).tree["state"]
    assert all(torch.equal(x, saved["model"][name]) for name, x in session.model.state_dict().items())
    assert not session.optimizer.state
    assert (session.step, session.coefficients()["beta1"]) == (0, 0.9)
    train(config, corpus, heard := Silent())
    assert heard.rows[0]["val_loss"] == pytest.approx(read_run(run).summary["final_val_loss"], rel=1e-6)
    manifest = json.loads((tmp_path / "after" / "manifest.json").read_text())
    assert (manifest["config"]["n_layer"], manifest["config"]["init_from"]) == (1, str(places[kind]))


def test_a_shorter_context_takes_the_first_positions(trained: TrainConfig, corpus: Corpus) -> None:
    config = replace(trained, init_from=trained.out_dir, block_size=8, out_dir="unused")
    position = weights.read(trained.out_dir).tensors["wpe.weight"]
    assert torch.equal(TrainState.start(config, corpus).model.wpe.weight, position[:8])
    with pytest.raises(ConfigError, match=r"in key block_size: expected at most 16, .* got 17"):
        TrainState.start(replace(config, block_size=17), corpus)


def test_it_is_resumed_like_any_other(trained: TrainConfig, corpus: Corpus, tmp_path: Path) -> None:
    whole = replace(
        trained, init_from=trained.out_dir, out_dir=str(tmp_path / "whole"), max_iters=20, lr_decay_iters=20
    )
    half = replace(whole, out_dir=str(tmp_path / "half"), max_iters=10)
    expected = train(whole, corpus, Silent()).digest()
    train(half, corpus, Silent())
    files.remove(Path(trained.out_dir))  # the weights it began with are not needed any more
    assert train(replace(half, init_from="resume", max_iters=20), corpus, Silent()).digest() == expected


def test_without_its_first_checkpoint_it_is_not_resumed_from_scratch(
    trained: TrainConfig, corpus: Corpus, tmp_path: Path
) -> None:
    config = replace(trained, init_from=trained.out_dir, out_dir=str(tmp_path / "after"), max_iters=10)
    train(config, corpus, Silent())
    for path in (tmp_path / "after" / "summary.json", tmp_path / "after" / "checkpoints"):
        files.remove(path)
    with pytest.raises(CheckpointError, match=r"start again with --init_from=.*before"):
        train(replace(config, init_from="resume"), corpus, Silent())


def test_tokens_of_another_meaning_are_refused(trained: TrainConfig, corpus: Corpus, tmp_path: Path) -> None:
    """Also those of a vocabulary of the same size."""
    characters = corpus.meta.vocabulary.characters
    assert characters is not None
    other = replace(corpus.meta.vocabulary, characters="".join(sorted(characters[1:] + "\u4e00")))
    strange = replace(corpus, meta=replace(corpus.meta, vocabulary=other))
    config = replace(trained, init_from=trained.out_dir, out_dir=str(tmp_path / "after"))
    with pytest.raises(ConfigError, match=r"expected weights for the tokens of the data set .*such as"):
        train(config, strange, Silent())
    assert not (tmp_path / "after").exists()


@pytest.mark.parametrize(("place", "message"), [("resum", "did you mean 'resume"), ("/nowhere", "check the path")])
def test_a_place_without_weights_is_refused(place: str, message: str, tiny: TrainConfig, corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match=message):
        train(replace(tiny, init_from=place), corpus, Silent())
    assert not Path(tiny.out_dir).exists()


def test_a_folder_without_weights_is_refused(tiny: TrainConfig, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a run with a checkpoint, a checkpoint, a folder with"):
        train(replace(tiny, init_from=str(tmp_path)), corpus, Silent())


def test_a_checkpoint_that_says_other_sizes_is_refused(trained: TrainConfig, tmp_path: Path) -> None:
    """Written anew, and so with a manifest that vouches for it."""
    saved = checkpoint.load_newest(Path(trained.out_dir))
    assert saved is not None
    for number, change in enumerate(({"n_layer": 10**9}, {"n_embd": 64}, {"block_size": 8}, {"n_head": 3})):
        tree = {**saved.tree, "config": {**saved.tree["config"], **change}}
        folder = checkpoint.save(tmp_path / str(number), replace(saved, tree=tree), keep=1)
        with pytest.raises(CheckpointError, match="expected the network of its configuration"):
            weights.read(str(folder))
    tree = {**saved.tree, "tokenizer": {**saved.tree["tokenizer"], "characters": "ab"}}
    with pytest.raises(CheckpointError, match="tokenizer: expected"):
        weights.read(str(checkpoint.save(tmp_path / "other", replace(saved, tree=tree), keep=1)))
