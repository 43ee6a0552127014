"""Batches of data sets that are tensors: kept on the training's device and made there, a few operations per batch.

A DataLoader collates single examples on the CPU, which costs more than the step of a small network. Here a data set is
moved to the device once per process, whatever the number of trainings, and a batch is an index into it. What is random
in a pass over the data comes from one seed, drawn from torch's global generator when the pass begins: the same pass
for the same state of that generator, so a training that is paused and taken up again needs nothing of its own.

Augmentation follows what is usual for small images: a random crop of the image with a reflected border and a random
mirror image (He et al. 2016, arXiv:1512.03385, section 4.2, there with a border of zeros), and a square left out
(cutout: DeVries and Taylor 2017, arXiv:1708.04552).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from torch import Tensor, distributed
from torch.utils.weak import WeakTensorKeyDictionary

from tuner.errors import ConfigError, Problem

#: The `batch_size` that makes the whole split one batch.
FULL = "full"

# Small batches are made several at a time, large ones in parts: enough work for each operation, and what lies between
# two operations stays small. 256 images of 32x32; from 64 to 512 the speed on a CPU is the same.
_CHUNK_BYTES = 256 * 3072

_COPIES: Any = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Images:
    """How bytes of images become the input of a network.

    Attributes:
        mean: of each channel, in the units of the bytes, 0 to 255; subtracted.
        deviation: of each channel, likewise; divided by.
        crop: pixels by which the image moves at most, up or down and to either side; what comes in at its border is
            the image reflected there. 0 to the shorter side minus one.
        flip: whether half of the images, at random, are mirrored left to right.
        cutout: side in pixels of a square, at a random place, that is set to the mean; its centre is in the image. 0
            leaves it out.
        channels_last: the memory format of the batches.
    """

    mean: Sequence[float]
    deviation: Sequence[float]
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    channels_last: bool = True


class Batches:
    """The batches of one split; a loader for Lightning.

    Each pass over a shuffled split has a new order and new augmentation. With several ranks (`torch.distributed`) each
    one gets its share of every batch: the batches of all ranks together are those of one rank, and each rank has
    equally many. The seed of a pass is then rank 0's, so all ranks must begin their passes together.

    | batch | shares of the ranks |
    | --- | --- |
    | training (`drop_last`) | equal: `batch_size` must be divisible by the ranks |
    | otherwise | differ by at most one; a last batch smaller than the ranks joins the one before it |

    Args:
        split: inputs of shape (n, …) and labels of shape (n, …). With `images`, inputs are uint8 of shape (n, c, h, w),
            best in channels_last format, and batches float32 of shape (b, c, h, w); without, batches are rows of the
            inputs as they are. Nobody may write to either.
        batch_size: of all ranks together; "full" is the whole split.
        shuffle: a new order in each pass.
        drop_last: leave out what does not fill a batch, because batch norm may not be able to use the rest; less than
            one batch is kept all the same. As `shuffle` where it is None.
        rows: int64 of shape (m,): the examples of `split` that belong to this one; None is all. Splits that share
            their tensors share the memory on the device.
        images: how images are augmented and normalised.
        device: where the batches are made: the device of the module, see `device_of`.

    Raises:
        ConfigError: batch size or augmentation do not fit the data or the number of ranks.
    """

    def __init__(
        self,
        split: tuple[Tensor, Tensor],
        batch_size: int | str,
        *,
        shuffle: bool = False,
        drop_last: bool | None = None,
        rows: Tensor | None = None,
        images: Images | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        inputs, labels = split
        self._rows = torch.arange(len(labels)) if rows is None else rows
        _check(batch_size, inputs, images)
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._drop_last = shuffle if drop_last is None else drop_last
        self._device = torch.device(device)
        self._labels = on_device(labels, self._device)
        self._source: _Source = _Rows(inputs, self._device) if images is None else _Pixels(inputs, images, self._device)
        self._plan()  # what does not fit the ranks is said before the first pass

    def __len__(self) -> int:
        """Batches of one pass."""
        return len(self._plan())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw a pass at once, and give its batches: inputs and labels, on the device."""
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As a pass, without its first `batch` batches: drawn like the others, and not made."""
        rank, world = _rank(), _world()
        plan = self._plan()
        order, draws = self._drawn(world)
        if world > 1 or plan.count < len(order):
            mine = plan.positions(rank, world)
            order, draws = order[mine], draws[mine]
        return self._batches(order.to(self._device), draws.to(self._device), plan.shares(rank, world), batch)

    def _plan(self) -> Plan:
        return plan(len(self._rows), self._batch_size, _world(), drop_last=self._drop_last)

    def _drawn(self, world: int) -> tuple[Tensor, Tensor]:
        """The order of the pass, and what is drawn for the example at each place in it: the same on every rank."""
        count = len(self._rows)
        if not self._shuffle and not self._source.random:
            return self._rows, torch.empty(count, 0)
        generator = torch.Generator().manual_seed(_seed(self._device, world))
        # The order comes first, so that it does not depend on the augmentation.
        order = self._rows[torch.randperm(count, generator=generator)] if self._shuffle else self._rows
        return order, self._source.draw(count, generator)

    def _batches(
        self, order: Tensor, draws: Tensor, shares: tuple[int, int, int], skipped: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        full, size, last = shares
        cut = full * size
        for start, stop, share in ((0, cut, size), (cut, cut + last, last)):
            if start == stop:
                continue
            together = share * max(1, _CHUNK_BYTES // (share * self._source.row_bytes))
            # Chunks stay as they are in a whole pass: an operation's last digit may depend on where its data lies.
            places, drawn = (torch.split(tensor[start:stop], together) for tensor in (order, draws))
            whole, skipped = _split_off(skipped, [len(rows) // share for rows in places])
            for rows, these in zip(places[whole:], drawn[whole:], strict=True):
                inputs, labels = self._source.take(rows, these), self._labels.index_select(0, rows)
                batches = list(zip(torch.split(inputs, share), torch.split(labels, share), strict=True))
                yield from batches[skipped:]
                skipped = 0


def _split_off(batches: int, chunks: Sequence[int]) -> tuple[int, int]:
    """How many whole chunks, of so many batches each, `batches` are, and how many batches are left over."""
    for whole, size in enumerate(chunks):
        if batches < size:
            return whole, batches
        batches -= size
    return len(chunks), batches


def device_of(data: pl.LightningDataModule) -> torch.device:
    """Where the trainer that uses `data` trains; the CPU where there is none."""
    return torch.device("cpu") if data.trainer is None else torch.device(data.trainer.strategy.root_device)


def on_device(
    tensor: Tensor, device: torch.device, memory_format: torch.memory_format = torch.preserve_format
) -> Tensor:
    """`tensor.to(device)`, one copy per process and device for as long as `tensor` lives."""
    copies = _COPIES.setdefault(tensor, {})
    if (device, memory_format) not in copies:
        # Lightning asks for validation batches in inference mode, whose tensors a training could not use.
        with torch.inference_mode(mode=False):
            copy = tensor.to(device, memory_format=memory_format)
        if copy is tensor:
            return tensor  # not kept: a value that is its own key would live for ever
        copies[device, memory_format] = copy
    found: Tensor = copies[device, memory_format]
    return found


@dataclass(frozen=True)
class Plan:
    """One pass: `full` batches of `size` examples and, if `last` is not 0, one more of that many."""

    full: int
    size: int
    last: int

    def __len__(self) -> int:
        return self.full + (self.last > 0)

    @property
    def count(self) -> int:
        """Examples used, of all ranks."""
        return self.full * self.size + self.last

    def shares(self, rank: int, world: int) -> tuple[int, int, int]:
        """The plan as one rank sees it: its batches of equal size, that size, and the size of the last one."""
        return self.full, len(_share(self.size, rank, world)), len(_share(self.last, rank, world))

    def positions(self, rank: int, world: int) -> Tensor:
        """Places in the order of the pass that are the rank's, int64, batch by batch."""
        everything, cut = torch.arange(self.count), self.full * self.size
        share, last = _share(self.size, rank, world), _share(self.last, rank, world)
        batches = everything[:cut].view(self.full, self.size)[:, share.start : share.stop]
        return torch.cat([batches.reshape(-1), everything[cut:][last.start : last.stop]])


def plan(count: int, batch_size: int | str, world: int = 1, *, drop_last: bool = False) -> Plan:
    """How a pass over `count` examples is cut into batches, none of them empty on any of the ranks.

    Raises:
        ConfigError: there are ranks that would get nothing, or shares of a training that are not equal.
    """
    size = count if batch_size == FULL else int(batch_size)
    if min(size, count) < max(world, 1):
        raise _unfit(batch_size, f"has an example for each of the {world} ranks, and the data has {count}")
    if drop_last and batch_size != FULL and size % world:
        raise _unfit(batch_size, f"is divisible by the {world} ranks that share each batch")
    full, last = divmod(count, size)
    if drop_last and full:
        return Plan(full, size, 0)
    if full and 0 < last < world:
        return Plan(full - 1, size, size + last)
    return Plan(full, size, last)


def _share(size: int, rank: int, world: int) -> range:
    return range(size * rank // world, size * (rank + 1) // world)


def _unfit(batch_size: int | str, rule: str) -> ConfigError:
    return ConfigError(
        [Problem("data.batch_size", rule, batch_size, "Write a multiple of the ranks, or train on fewer devices.")]
    )


def _check(batch_size: object, inputs: Tensor, images: Images | None) -> None:
    problems = [] if images is None else _augmentation_problems(images, inputs)
    if batch_size != FULL and not _is_whole(batch_size, 1):
        rule = f"is a whole number of at least 1, or {FULL}"
        problems.append(Problem("data.batch_size", rule, batch_size, "Write data.batch_size=128, for example."))
    if problems:
        raise ConfigError(problems)


def _augmentation_problems(images: Images, inputs: Tensor) -> list[Problem]:
    if inputs.dtype != torch.uint8 or inputs.ndim != 4:
        raise ValueError(f"images are uint8 of shape (n, c, h, w), not {inputs.dtype} of shape {tuple(inputs.shape)}")
    side = min(inputs.shape[2:])
    limits = {"crop": (images.crop, side - 1), "cutout": (images.cutout, side)}
    return [
        Problem(
            f"data.{name}",
            f"is a whole number of pixels, 0 to {highest} for images whose shorter side is {side}",
            value,
            f"Write data.{name}=0 to do without.",
        )
        for name, (value, highest) in limits.items()
        if not _is_whole(value, 0) or value > highest
    ]


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _rank() -> int:
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def _world() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _seed(device: torch.device, world: int) -> int:
    """Drawn from the global generator; rank 0's for all ranks, whose generators need not be in step."""
    seed = torch.empty((), dtype=torch.int64).random_()
    if world > 1:
        seed = seed.to(device)
        distributed.broadcast(seed, src=0)
    return int(seed)


class _Source(Protocol):
    """The inputs on the device, and what is done to those of a batch.

    Attributes:
        random: whether anything is drawn.
        row_bytes: of one example.
    """

    random: bool
    row_bytes: int

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """What is drawn for `count` examples, of shape (count, k), on the CPU."""

    def take(self, rows: Tensor, draws: Tensor) -> Tensor:
        """The inputs of these rows, with what was drawn for each; all on the device."""


class _Rows:
    """Inputs as they are."""

    random = False

    def __init__(self, inputs: Tensor, device: torch.device) -> None:
        self._inputs = on_device(inputs, device)
        self.row_bytes = max(1, inputs[:1].nbytes)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return torch.empty(count, 0)

    def take(self, rows: Tensor, draws: Tensor) -> Tensor:  # noqa: ARG002
        return self._inputs.index_select(0, rows)


class _Pixels:
    """Images, cropped and mirrored by one gather of pixels.

    With the channels of a pixel side by side, an image moved, reflected and mirrored is a table of 1,024 places of
    pixels, the sum of what its rows and its columns contribute. On a CPU that takes 2.5 us for an image of 32x32;
    indexing image, row and column at once takes 11, and cutting windows out of padded images and then mirroring half
    of them 5.
    """

    def __init__(self, images: Tensor, settings: Images, device: torch.device) -> None:
        count, channels, height, width = images.shape
        stored = on_device(images, device, torch.channels_last).permute(0, 2, 3, 1)
        self._images, self._pixels = stored.reshape(count, -1), stored.reshape(-1, channels)
        self._shape = (height, width, channels)
        self._settings = settings
        self._moved = settings.crop > 0 or settings.flip
        self.random = self._moved or settings.cutout > 0
        self.row_bytes = channels * height * width

        rows, columns = _reflected(height, settings.crop), _reflected(width, settings.crop)
        self._row_starts = (rows * width).to(device)
        self._columns = torch.cat([columns, columns.flip(1)]).to(device)
        # One row of an image for each: to broadcast three channels alone is seven times slower.
        deviation = torch.tensor(settings.deviation, dtype=torch.float64)
        shift = -torch.tensor(settings.mean, dtype=torch.float64) / deviation
        self._scale = (1 / deviation).float().repeat(width).to(device)
        self._shift = shift.float().repeat(width).to(device)
        self._y = torch.arange(height, device=device)
        self._x = torch.arange(width, device=device)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Line of the table of rows, line of the table of columns, and the centre (y, x) of the square left out."""
        height, width, _ = self._shape
        shifts, mirrors = 2 * self._settings.crop + 1, 1 + self._settings.flip
        highs = (shifts, shifts * mirrors, height, width)
        return torch.stack([torch.randint(high, (count,), generator=generator) for high in highs], dim=1).int()

    def take(self, rows: Tensor, draws: Tensor) -> Tensor:
        height, width, channels = self._shape
        out = torch.empty(len(rows), height, width * channels, dtype=torch.float32, device=rows.device)
        part = max(1, _CHUNK_BYTES // self.row_bytes)
        for place, these, drawn in zip(*(torch.split(tensor, part) for tensor in (out, rows, draws)), strict=True):
            torch.addcmul(self._shift, self._gather(these, drawn).float(), self._scale, out=place)
            if self._settings.cutout:
                place.view(-1, *self._shape).masked_fill_(self._square(drawn), 0.0)
        batch = out.view(-1, *self._shape).permute(0, 3, 1, 2)
        return batch if self._settings.channels_last else batch.contiguous()

    def _gather(self, rows: Tensor, draws: Tensor) -> Tensor:
        height, width, channels = self._shape
        if not self._moved:
            return self._images.index_select(0, rows).view(-1, height, width * channels)
        first = rows[:, None, None] * (height * width)
        down = self._row_starts.index_select(0, draws[:, 0])[:, :, None]
        along = self._columns.index_select(0, draws[:, 1])[:, None, :]
        places = (first + down + along).view(-1)
        return self._pixels.index_select(0, places).view(-1, height, width * channels)

    def _square(self, draws: Tensor) -> Tensor:
        """Whether each pixel is left out, of shape (b, h, w, 1)."""
        side = self._settings.cutout
        top, left = draws[:, 2, None] - side // 2, draws[:, 3, None] - side // 2
        down = (top <= self._y) & (self._y < top + side)
        along = (left <= self._x) & (self._x < left + side)
        return (down[:, :, None] & along[:, None, :])[..., None]


def _reflected(side: int, border: int) -> Tensor:
    """Where each of `side` pixels is taken from when the image moves by −border to border; int64, (2 border + 1, side).

    The border pixel itself is not repeated, as in `torch.nn.functional.pad(mode="reflect")`.
    """
    moved = torch.arange(side) + torch.arange(-border, border + 1)[:, None]
    return (side - 1) - ((side - 1) - moved.abs()).abs()
