"""Batches of images: training batches in random order with random crops and flips, or all images in file order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 the field's name for it

from mada_lab.data.images import LabeledImages
from mada_lab.errors import DataError

ORDER, AUGMENTATION = range(2)  # streams of random numbers under one seed
SUBSET_SEED = 0  # images and wrong labels don't depend on the seed of a run
NOISE_SEED = 1


@dataclass(frozen=True, eq=False)
class Images:
    """Images in memory."""

    pixels: Tensor  #: uint8 of shape (n, channels, height, width)
    labels: Tensor  #: int64 of shape (n,)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Scale:
    """Makes each channel of mean 0 and standard deviation 1."""

    mean: Tensor  #: float32 of shape (channels, 1, 1)
    deviation: Tensor  #: the same; positive

    @classmethod
    def of(cls, images: Images) -> "Scale":
        """The scale in which `images` have this mean and deviation. A channel of one value everywhere becomes 0."""
        counts = [torch.bincount(x.flatten(), minlength=256).double() for x in images.pixels.transpose(0, 1)]
        shares = torch.stack(counts) / (images.pixels.numel() / len(counts))
        values = torch.arange(256.0, dtype=torch.float64)
        mean = shares @ values
        variance = (shares * (values - mean[:, None]) ** 2).sum(1)
        deviation = torch.where(variance > 0, variance, 1.0).sqrt()
        return cls(mean.float()[:, None, None], deviation.float()[:, None, None])

    def __call__(self, pixels: Tensor) -> Tensor:
        """float32 of the shape of `pixels`."""
        return (pixels.float() - self.mean) / self.deviation


def load(split: LabeledImages, count: int | None = None) -> Images:
    """Loads a split: all images, or `count` drawn at random, the same in each run.

    Images are drawn because files may be sorted by class. A larger count contains the images of a smaller one.

    Raises:
        DataError: The split has fewer, or its file is damaged.
    """
    count = len(split) if count is None else count
    if count > len(split):
        raise DataError(
            f"images, in {split.images.path}: expected at least {count}, got {len(split)}; "
            "lower train_images and test_images"
        )
    drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(SUBSET_SEED))[:count].sort().values
    chosen = slice(None) if count == len(split) else drawn.numpy()
    pixels = torch.from_numpy(split.images[chosen]).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.from_numpy(split.labels[chosen].astype(np.int64)))


@dataclass(frozen=True, eq=False)
class InOrder(Sequence[tuple[Tensor, Tensor]]):
    """Batches of all images, scaled when they are read, with their labels; the last batch may be shorter."""

    images: Images
    scale: Scale
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:  # type: ignore[override] # no slices
        if not 0 <= number < len(self):
            raise IndexError(number)
        taken = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return self.scale(self.images.pixels[taken]), self.images.labels[taken]


def with_label_noise(images: Images, share: float, classes: int) -> Images:
    """`images` with a `share` of the labels drawn anew, uniformly from all classes, the same in each run."""
    if share == 0:
        return images
    generator = torch.Generator().manual_seed(NOISE_SEED)
    chosen = torch.rand(len(images), generator=generator) < share
    others = torch.randint(classes, (len(images),), generator=generator)
    return Images(images.pixels, torch.where(chosen, others, images.labels))


class ImageBatches:
    """An endless sequence of training batches; each epoch has an order of its own, and drops an incomplete batch.

    Images, settings, seed and k determine batch k. With several processes, each takes every `world`-th batch of the
    same sequence.
    """

    def __init__(
        self,
        images: Images,
        scale: Scale,
        batch_size: int,
        seed: int,
        crop_padding: int = 0,
        flip: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Starts the sequence.

        Args:
            images: The training images.
            scale: Applied to each batch.
            batch_size: Images in a batch.
            seed: Seed of orders, crops and flips.
            crop_padding: Pixels of padding before a random crop.
            flip: Whether to mirror images with probability 1/2.
            rank: Number of this process.
            world: Number of processes.

        Raises:
            DataError: There are fewer images than a batch has.
        """
        if len(images) < batch_size:
            raise DataError(
                f"images, with batch_size {batch_size}: expected at least {batch_size}, got {len(images)}; "
                "reduce batch_size, or raise train_images"
            )
        self._images, self._scale, self._batch_size, self._seed = images, scale, batch_size, seed
        self._padding, self._flip = crop_padding, flip
        self._rank, self._world = rank, world
        self._number = 0
        self._epoch, self._order = -1, torch.empty(0)

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch: float32 (batch_size, channels, height, width), and labels, int64 (batch_size,)."""
        number = self._number + self._rank
        chosen = self._chosen(number)
        x = self._scale(self._images.pixels[chosen])
        generator = self._generator(AUGMENTATION, number)
        if self._padding or self._flip:
            x = augment(x, self._padding, self._flip, generator)
        self._number += self._world
        return x, self._images.labels[chosen]

    def _chosen(self, number: int) -> Tensor:
        per_epoch = len(self._images) // self._batch_size
        epoch, place = divmod(number, per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(len(self._images), generator=self._generator(ORDER, epoch))
        return self._order[place * self._batch_size : (place + 1) * self._batch_size]

    def _generator(self, stream: int, number: int) -> torch.Generator:
        [seed] = np.random.SeedSequence((self._seed, stream, number)).generate_state(1, np.uint64).tolist()
        return torch.Generator().manual_seed(seed)

    def state(self) -> Tensor:
        """The number of the next batch of all processes, for a checkpoint: int64, of shape (1,)."""
        return torch.tensor([self._number])

    def restore(self, state: Tensor) -> None:
        """Continues from a position of a sequence with the same images, settings and seed; ValueError if negative."""
        if int(state) < 0:
            raise ValueError(f"data position: expected the number of a batch, got {int(state)}")
        self._number = int(state)


def augment(x: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Randomly crops each image, and, with `flip`, mirrors it with probability 1/2, as He et al. (2016) do.

    Args:
        x: Images, (n, channels, height, width), of mean 0.
        padding: Zeros that are added on each side before a crop of the old size.
        flip: Whether to mirror.
        generator: Random generator of crops and flips.

    Returns:
        Images of the same shape.
    """
    n, _, height, width = x.shape
    top, left = torch.randint(2 * padding + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    if flip:
        columns = torch.where(torch.rand(n, 1, generator=generator) < 0.5, columns.flip(1), columns)
    padded = F.pad(x, (padding, padding, padding, padding)).permute(0, 2, 3, 1)
    chosen = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return chosen.permute(0, 3, 1, 2).contiguous()
