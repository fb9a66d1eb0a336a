"""Images: networks, augmentation, batches, and training on scikit-learn's digits.

Catches: a layer too many or too few, a shortcut to the wrong pixels, crops out of the image, mirrored labels, an epoch
that leaves images out, a resumed run that goes on with other images, crops or running statistics, an evaluation that
weighs a short batch like a full one, a step that was given up and still moved the running statistics.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mada_lab import cli
from mada_lab.compute.device import Precision
from mada_lab.config import parsing
from mada_lab.config.keys import VisionConfig
from mada_lab.data.image_batches import ImageBatches, Images, InOrder, Scale, augment, load
from mada_lab.data.images import ImageData
from mada_lab.data.prepare import prepare
from mada_lab.errors import ConfigError, DataError, LabError
from mada_lab.model.images import CNN
from mada_lab.model.resnet import Block, ResNet
from mada_lab.records.run_record import read_run
from mada_lab.reports.report import headline, report
from mada_lab.system.signals import Signals
from mada_lab.tasks.choice import rebuild
from mada_lab.tasks.measure import classification
from mada_lab.training.gradients import accumulate
from mada_lab.training.state import TrainState
from mada_lab.training.trainer import train
from mada_lab.training.verify import verify
from tests.app.conftest import Silent, fitted, update
from tests.problems import same_bits

CPU = Precision(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory) -> Path:
    pytest.importorskip("sklearn", reason="scikit-learn ships the digits")
    folder = tmp_path_factory.mktemp("data")
    prepare("digits", folder)
    return folder


@pytest.fixture
def digits(digits_dir) -> ImageData:
    return ImageData.open(digits_dir / "digits")


@pytest.fixture
def small(tmp_path, digits_dir) -> VisionConfig:
    """20 steps of a ResNet-8 on augmented digits, in which the coefficients move."""
    return VisionConfig(
        data_dir=str(digits_dir),
        out_dir=str(tmp_path / "run"),
        device="cpu",
        model="resnet",
        depth=8,
        width=4,
        train_images=100,
        test_images=50,
        crop_padding=1,
        flip=True,
        batch_size=16,
        max_iters=20,
        warmup_iters=3,
        hyper_start=5,
        eval_interval=10,
        log_interval=1,
    )


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_the_networks_have_the_sizes_that_the_papers_and_the_texts_say():
    """He et al. give 0.27M for ResNet-20 and 0.85M for ResNet-56; the CNN is counted layer by layer."""
    assert parameters(ResNet(3, 10, 20, 16)) == 269_722
    assert parameters(ResNet(3, 10, 56, 16)) == 853_018
    convolutions = (27 * 16 + 16) + (9 * 16 * 32 + 32) + (9 * 32 * 64 + 64)
    assert parameters(CNN(3, (32, 32), 10, 16)) == convolutions + (64 * 4 * 4 * 128 + 128) + (128 * 10 + 10)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_logits_and_loss(channels, size):
    x, labels = torch.randn(4, channels, size, size), torch.tensor([0, 3, 9, 3])
    for model in (CNN(channels, (size, size), 10, 4), ResNet(channels, 10, 8, 4)):
        logits, loss = model(x, labels)
        assert logits.shape == (4, 10)
        assert torch.allclose(loss, -logits.log_softmax(1)[range(4), labels].mean())


@pytest.mark.parametrize("depth", [2, 9, 21])
def test_a_depth_that_no_resnet_has(depth):
    with pytest.raises(ConfigError, match=f"expected 6n \\+ 2 .* got {depth}"):
        ResNet(3, 10, depth, 4)


def test_the_shortcut_takes_every_second_pixel_and_adds_empty_channels():
    block = Block(4, 8)
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(2, 4, 6, 6)
    expected = torch.zeros(2, 8, 3, 3)
    expected[:, :4] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def crops(image, padding):
    """Every crop of an image and its mirror image: by (top, left, mirrored)."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding)
    padded[:, padding : padding + height, padding : padding + width] = image
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + height, left : left + width]
            yield (top, left, False), crop
            yield (top, left, True), crop.flip(2)


def test_augmentation_gives_each_crop_and_its_mirror_image_about_equally_often():
    image = torch.randn(3, 4, 5)
    drawn = augment(image.expand(3600, 3, 4, 5), 1, True, torch.Generator().manual_seed(1))
    assert drawn.shape == (3600, 3, 4, 5)
    counts = {key: int((drawn == crop).flatten(1).all(1).sum()) for key, crop in crops(image, 1)}
    assert len(counts) == 18
    assert sum(counts.values()) == 3600
    assert all(abs(count - 200) < 6 * math.sqrt(200) for count in counts.values()), counts


def test_augmentation_is_a_function_of_the_seed_and_each_image_has_its_own():
    x = torch.randn(64, 1, 8, 8)
    first, again, other = (augment(x, 2, True, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    mirrored = [not torch.equal(a, b) for a, b in zip(augment(x, 0, True, torch.Generator()), x, strict=True)]
    assert 0 < sum(mirrored) < 64
    assert torch.equal(augment(x, 0, False, torch.Generator().manual_seed(1)), x)


def numbered(n):
    """Images whose one pixel is their number, and whose label is too."""
    numbers = torch.arange(n)
    return Images(numbers.to(torch.uint8).reshape(n, 1, 1, 1), numbers)


AS_IS = Scale(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))


def test_an_epoch_has_each_image_once_and_epochs_have_orders_of_their_own():
    batches = ImageBatches(numbered(12), AS_IS, 4, seed=3)
    epochs = [torch.cat([batches.next()[1] for _ in range(3)]).tolist() for _ in range(4)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_images_keep_their_labels():
    pixels, labels = ImageBatches(numbered(12), AS_IS, 6, seed=3).next()
    assert pixels.flatten().tolist() == labels.tolist()


def test_batches_go_on_from_any_place():
    def stream(seed):
        images = Images(torch.arange(10 * 64).remainder(251).to(torch.uint8).reshape(10, 1, 8, 8), torch.arange(10))
        return ImageBatches(images, AS_IS, 4, seed, crop_padding=2, flip=True)

    whole = stream(1)
    batches = [whole.next() for _ in range(3)]
    state, later = whole.state(), whole.next()
    resumed = stream(1)
    resumed.restore(state)
    assert same_bits([*resumed.next()], [*later])
    resumed.restore(torch.tensor([1]))
    assert same_bits([*resumed.next()], [*batches[1]])
    assert not same_bits([*stream(2).next()], [*batches[0]])
    with pytest.raises(ValueError, match="got -1"):
        resumed.restore(torch.tensor([-1]))


def test_each_batch_is_cropped_in_its_own_way():
    """Of one image, many times over, so that nothing but the crops can differ."""
    images = Images(torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(8, 1, 1, 1), torch.arange(8))
    batches = ImageBatches(images, AS_IS, 8, seed=1, crop_padding=2)
    assert not same_bits([batches.next()[0]], [batches.next()[0]])


def test_scaled_images_have_mean_0_and_deviation_1():
    pixels = torch.randint(0, 200, (50, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels[:, 2] = 7
    images = Images(pixels, torch.zeros(50, dtype=torch.int64))
    x = Scale.of(images)(pixels)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-6)
    assert torch.allclose(x[:, :2].std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5)
    assert not x[:, 2].any()


def test_a_part_of_the_images_is_drawn_from_all_of_them(digits):
    """The files of a data set may be sorted by class."""
    whole, some, fewer = load(digits.train), load(digits.train, 400), load(digits.train, 100)
    rows = [{tuple(x.flatten().tolist()) for x in images.pixels} for images in (whole, some, fewer)]
    assert rows[2] < rows[1] < rows[0]
    assert [len(images) for images in (whole, some, fewer)] == [1437, 400, 100]
    assert max(i for i, x in enumerate(whole.pixels) if tuple(x.flatten().tolist()) in rows[2]) > 1200
    with pytest.raises(DataError, match="expected at least 1438, got 1437"):
        load(digits.train, 1438)
    with pytest.raises(DataError, match="batch_size 200: expected at least 200, got 100"):
        ImageBatches(fewer, AS_IS, 200, seed=0)


class Says(nn.Module):
    """Answers with the pixel, surer the greater its second one is."""

    def forward(self, images, labels):
        logits = nn.functional.one_hot(images[:, 0, 0, 0].long(), 3) * images[:, 0, 0, 1:]
        return logits, nn.functional.cross_entropy(logits, labels)


def test_every_image_counts_once_in_an_evaluation():
    """5 images in batches of 2, 2 and 1."""
    pixels = torch.tensor([[0, 1], [1, 2], [2, 3], [0, 2], [1, 4]], dtype=torch.uint8).reshape(5, 1, 1, 2)
    images = Images(pixels, torch.tensor([0, 1, 0, 2, 1]))
    found = classification(Says(), InOrder(images, AS_IS, 2), CPU)
    whole = classification(Says(), InOrder(images, AS_IS, 5), CPU)
    assert found.accuracy == whole.accuracy == 3 / 5
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


def test_the_digits_are_learned_in_seconds_by_the_command(digits_dir, tmp_path, capsys):
    """The defaults, with which the CNN and MADA come to 0.97."""
    cli.run(["vision", f"--data_dir={digits_dir}", f"--out_dir={tmp_path / 'run'}", "--device=cpu"])
    assert "final test accuracy 0.9" in capsys.readouterr().out
    run = read_run(tmp_path / "run")
    assert run.summary["final_val_accuracy"] > 0.93
    assert run.series("val_accuracy")[0] == [0, 50, 100, 150, 200]
    assert run.series("images")[1][-1] == 200 * 64
    assert run.summary["final_val_accuracy"] == run.rows[-1]["val_accuracy"]
    page = report([run]).html()
    assert f"{run.summary['final_val_accuracy']:.2%}" in page
    assert 'aria-label="Validation accuracy over optimizer steps"' in page
    assert f"accuracy {run.summary['final_val_accuracy']:.2%}" in headline([run])[0]


@pytest.mark.parametrize("stop", [10, 13])
@pytest.mark.parametrize(("model", "optimizer"), [("resnet", "mada"), ("cnn", "sgd")])
def test_a_resumed_run_is_the_run_that_never_stopped(small, digits, tmp_path, model, optimizer, stop):
    small = fitted(small, model=model, optimizer=optimizer, checkpoint_interval=5, lr_decay_iters=20)
    whole, heard = Silent(), Silent()
    reference = train(replace(small, out_dir=str(tmp_path / "whole")), digits, whole)
    train(replace(small, max_iters=stop), digits, Silent())
    torch.manual_seed(999)
    resumed = train(replace(small, init_from="resume"), digits, heard)
    assert same_bits([*reference.model.state_dict().values()], [*resumed.model.state_dict().values()])
    assert resumed.digest() == reference.digest()
    seconds = {"seconds": 0.0, "speed": None}
    assert [row | seconds for row in heard.rows] == [row | seconds for row in whole.rows[stop + 1 :]]
    finished = train(replace(small, init_from="resume"), digits, Silent())
    assert finished.val_accuracy == reference.val_accuracy is not None
    assert read_run(tmp_path / "run").summary["final_val_accuracy"] == reference.val_accuracy


@pytest.mark.parametrize("key", ["train_images", "test_images"])
def test_more_images_than_there_are_leave_nothing_on_the_disk(small, digits, tmp_path, key):
    with pytest.raises(DataError, match="expected at least 2000, got"):
        train(replace(small, **{key: 2000}), digits, Silent())
    assert not (tmp_path / "run").exists()


def test_another_network_is_not_resumed(small, digits):
    train(replace(small, max_iters=5), digits, Silent())
    with pytest.raises(LabError, match="key width: expected 4, as in the run that is resumed, got 6"):
        train(replace(small, width=6, init_from="resume"), digits, Silent())


def test_a_step_that_is_not_taken_leaves_the_running_statistics(small, digits):
    session = TrainState.start(small, digits)
    update(session, accumulate(session, session.model, Signals()))
    before = [x.clone() for x in session.model.buffers()]
    loss = accumulate(session, session.model, Signals())
    assert not same_bits([*session.model.buffers()], before)
    session.model.head.weight.grad[0, 0] = math.nan
    update(session, loss)
    assert same_bits([*session.model.buffers()], before)

    def broken_off(*batch):
        session.model(*batch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        accumulate(session, broken_off, Signals())
    assert same_bits([*session.model.buffers()], before)


def test_a_checkpoint_is_looked_into(small, digits, tmp_path):
    train(replace(small, max_iters=5), digits, Silent())
    findings = verify(tmp_path / "run", deep=True)
    assert all(finding.good for finding in findings), findings


def test_sizes_that_the_weights_do_not_bear_out_are_refused_before_a_network_is_made(small, digits):
    tree = TrainState.start(small, digits).checkpoint().tree
    assert parameters(rebuild(small, tree)) == parameters(TrainState.start(small, digits).model)
    for keys in ({"depth": 6 * 10**8 + 2}, {"width": 10**6}, {"model": "cnn", "width": 10**6}):
        with pytest.raises(ValueError, match="expected sizes of at most"):
            rebuild(replace(small, **keys), tree)


def test_shards_are_refused(small, digits, tmp_path):
    with pytest.raises(ConfigError, match="key parallel: expected ddp, got fsdp"):
        train(replace(small, parallel="fsdp"), digits, Silent())
    assert not (tmp_path / "run").exists()


def test_processes_share_one_sequence_of_batches():
    """Each has every third batch, crops included; any number of them goes on from where three stood."""

    def stream(rank=0, world=1):
        images = Images(torch.arange(20 * 64).remainder(251).to(torch.uint8).reshape(20, 1, 8, 8), torch.arange(20))
        return ImageBatches(images, AS_IS, 4, 1, crop_padding=2, flip=True, rank=rank, world=world)

    alone, three = stream(), [stream(rank, 3) for rank in range(3)]
    for _ in range(4):
        for one in three:
            assert same_bits([*one.next()], [*alone.next()])
    assert [one.state().item() for one in three] == [12, 12, 12]


def test_texts_have_no_classes(tmp_path):
    with pytest.raises(ConfigError, match="expected one of images, got pydoc"):
        cli.run(["vision", "--dataset=pydoc", f"--data_dir={tmp_path}", f"--out_dir={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match="got n_layer"):
        parsing.load(["--n_layer=3"], VisionConfig)
    assert not [*tmp_path.iterdir()]
