"""CIFAR-10 for Lightning: three splits, read once per process, with batches made on the training's device."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.cifar import files
from tuner.errors import ConfigError, Problem
from tuner.training.batches import Batches, Images, device_of

# Of all pixels of the 50,000 training images, by channel, with 0 to 255 for a byte: sums of the pixels and of their
# squares in float64 over data_batch_1 to data_batch_5. As shares of 255: 0.4914, 0.4822, 0.4465 and 0.2470, 0.2435,
# 0.2616.
MEAN = (125.30692, 122.95039, 113.86538)
DEVIATION = (62.99322, 62.08871, 66.70490)

#: Images in a batch of the validation and of the test, where no gradients take memory.
EVALUATION_BATCH = 500

Split = tuple[Tensor, Tensor]


class CIFAR10(pl.LightningDataModule):
    """CIFAR-10 in three splits: 45,000 images for training, 5,000 for validation, 10,000 for the test.

    The validation images are a tenth of the training set, with as many of each class as in all of it. Batches are
    pairs of images, float32 of shape (b, 3, 32, 32), normalised by channel, and labels, int64 of shape (b,). Training
    images are cropped, mirrored and cut out anew in each epoch; a training batch is always full. The test set is read
    when it is asked for, in `setup("test")`.

    Args:
        root: folder with `cifar-10-batches-bin`; what is missing there is fetched to it.
        batch_size: of training, of all ranks together; "full" is the whole split.
        limit: train on so many images; what a smaller limit has, a larger one has too, and each has the classes in
            the proportion of the whole. None is all.
        split_seed: fixes the splits, whatever the seed of the training.
        crop: pixels by which a training image moves at most, up or down and to either side.
        flip: whether half of the training images are mirrored.
        cutout: side in pixels of the square left out of each training image; 0 for none.
        channels_last: memory format of the images; convolutions are faster so.
        train_on_all: train on the validation images as well, as a final training does; they stay what is validated
            on, but say nothing then.
        records: images in each file; fewer than 10,000 only in a copy cut short on purpose.

    Raises (when the training begins):
        ConfigError: an argument is out of its range.
        StudyError: the files cannot be fetched or are not those of CIFAR-10.
    """

    def __init__(
        self,
        root: str = "data",
        batch_size: int | str = 512,
        limit: int | None = None,
        split_seed: int = 0,
        crop: int = 4,
        flip: bool = True,  # noqa: FBT001, FBT002 - named in a configuration
        cutout: int = 0,
        channels_last: bool = True,  # noqa: FBT001, FBT002
        train_on_all: bool = False,  # noqa: FBT001, FBT002
        records: int = files.RECORDS,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self._root = Path(root).expanduser().absolute()
        self._records = records
        self._limit, self._split_seed, self._train_on_all = limit, split_seed, train_on_all
        self._images = Images(MEAN, DEVIATION, channels_last=channels_last)
        self._augmented = Images(MEAN, DEVIATION, crop, flip, cutout, channels_last)

    def prepare_data(self) -> None:
        files.fetch(self._root)

    def setup(self, stage: str) -> None:
        if stage == "test":
            self._test = images(self._root, files.TEST, self._records)
            return
        self._training = images(self._root, files.TRAINING, self._records)
        self._train_rows, self._val_rows = self._rows()

    def train_dataloader(self) -> Batches:
        return self._batches(
            self._training, self.batch_size, rows=self._train_rows, images=self._augmented, shuffle=True
        )

    def val_dataloader(self) -> Batches:
        return self._batches(self._training, EVALUATION_BATCH, rows=self._val_rows, images=self._images)

    def test_dataloader(self) -> Batches:
        return self._batches(self._test, EVALUATION_BATCH, images=self._images)

    def _batches(self, split: Split, batch_size: int | str, **options: Any) -> Batches:
        return Batches(split, batch_size, device=device_of(self), **options)

    def _rows(self) -> tuple[Tensor, Tensor]:
        """The images of the training set to train on, and those to validate on."""
        if self._split_seed < 0:
            rule = "is a whole number of at least 0"
            raise ConfigError([Problem("data.split_seed", rule, self._split_seed, "Write data.split_seed=0.")])
        order = _order(self._root, self._records, self._split_seed)
        val, train = order[: len(order) // 10], order[len(order) // 10 :]
        pool = torch.cat([train, val]) if self._train_on_all else train
        if self._limit is None:
            return pool, val
        if not isinstance(self._limit, int) or not 1 <= self._limit <= len(pool):
            rule = f"is a number of training images, 1 to {len(pool):,}, or null for all"
            raise ConfigError([Problem("data.limit", rule, self._limit, "Write data.limit=null for all images.")])
        return pool[: self._limit], val


@functools.cache
def images(root: Path, names: tuple[str, ...], records: int) -> Split:
    """The images, uint8 of shape (n, 3, 32, 32) in channels_last format, and labels, int64, of some of the files.

    They are read once per process, so they must not be written to.

    Raises:
        StudyError: a file is not as it should be.
    """
    pixels = np.empty((len(names), records, 32, 32, 3), dtype=np.uint8)
    labels = np.empty((len(names), records), dtype=np.int64)
    for number, name in enumerate(names):
        planes, labels[number] = files.read(root / files.FOLDER / name, records)
        pixels[number] = planes.transpose(0, 2, 3, 1)
    return torch.from_numpy(pixels.reshape(-1, 32, 32, 3)).permute(0, 3, 1, 2), torch.from_numpy(labels.reshape(-1))


@functools.cache
def _order(root: Path, records: int, seed: int) -> Tensor:
    _, labels = images(root, files.TRAINING, records)
    return torch.from_numpy(stratified_order(labels.numpy(), seed))


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A random order, int64 of shape (n,), of which every beginning has the classes in the proportion of the whole.

    The k-th of the m examples of a class stands at (k + 1/2)/m of the way.

    Args:
        labels: classes from 0 on, of shape (n,).
        seed: fixes the order.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return by_class[np.argsort((rank + 0.5) / np.repeat(sizes, sizes), kind="stable")]
