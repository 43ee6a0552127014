"""Batches of tensors: each pass is whole, fixed by the seed, shared by the ranks, and augmented as the plain way would."""

import itertools
import multiprocessing
import os

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import distributed
from torch.nn.functional import pad

from tuner.errors import ConfigError
from tuner.training import batches as module
from tuner.training.batches import FULL, Batches, Images, _Pixels, device_of, on_device, plan
from tuner.training.process import without_noise

CPU = torch.device("cpu")
MEAN, DEVIATION = (125.0, 120.0, 110.0), (60.0, 61.0, 62.0)
AUGMENTED = Images(MEAN, DEVIATION, crop=2, flip=True, cutout=3)


def numbers(count):
    return torch.arange(count), torch.arange(count)


def pictures(count=40, channels=3, height=8, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, height, width)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8), torch.arange(count)


def passes(loader, count=2, seed=5):
    """All batches of some passes that follow each other after a seed."""
    torch.manual_seed(seed)
    return [list(loader) for _ in range(count)]


def labels_of(batches):
    return torch.cat([labels for _, labels in batches])


def same(one, other):
    return all(
        torch.equal(a, b)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(itertools.chain(*first), itertools.chain(*second), strict=True)
    )


@pytest.mark.parametrize(
    ("count", "size", "options", "sizes"),
    [
        (10, 4, {}, [4, 4, 2]),
        (10, 4, {"shuffle": True}, [4, 4]),
        (10, 4, {"shuffle": True, "drop_last": False}, [4, 4, 2]),
        (10, 4, {"drop_last": True}, [4, 4]),
        (8, 4, {"shuffle": True}, [4, 4]),
        (3, 4, {"shuffle": True}, [3]),  # less than one batch is better than none
        (3, 1, {"shuffle": True}, [1, 1, 1]),
        (10, FULL, {"shuffle": True}, [10]),
        (10, FULL, {}, [10]),
        (10, 4, {"rows": torch.tensor([9, 2, 5, 7, 1])}, [4, 1]),
    ],
)
def test_sizes(count, size, options, sizes):
    loader = Batches(numbers(count), size, **options)
    assert [len(labels) for _, labels in loader] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 10**9])
def test_how_much_is_made_at_a_time_changes_nothing(chunk_bytes, monkeypatch):
    expected = passes(Batches(pictures(), 6, shuffle=True, images=AUGMENTED))
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    assert same(passes(Batches(pictures(), 6, shuffle=True, images=AUGMENTED)), expected)


@pytest.mark.parametrize("images", [None, AUGMENTED])
def test_each_pass_is_new_and_the_seed_fixes_it(images):
    loader = Batches(pictures(), 8, shuffle=True, images=images)
    first, second = passes(loader)
    assert not torch.equal(labels_of(first), labels_of(second))
    assert torch.equal(labels_of(first).sort().values, torch.arange(40))
    assert same(passes(Batches(pictures(), 8, shuffle=True, images=images)), [first, second])


def test_whoever_restores_the_global_state_restores_the_rest_of_the_passes():
    loader = Batches(pictures(), 8, shuffle=True, images=AUGMENTED)
    passes(loader, 1)
    state = torch.get_rng_state()
    expected = [list(loader), list(loader)]
    torch.set_rng_state(state)
    built_anew = Batches(pictures(), 8, shuffle=True, images=AUGMENTED)
    assert same([list(built_anew), list(built_anew)], expected)


def test_a_pass_is_drawn_when_it_begins_and_not_while_it_runs():
    loader = Batches(pictures(), 8, shuffle=True, images=AUGMENTED)
    torch.manual_seed(5)
    begun = iter(loader)
    state = torch.get_rng_state()
    torch.manual_seed(99)
    assert same([list(begun)], passes(loader, 1))
    torch.manual_seed(5)
    list(loader)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("chunk_bytes", [1, 3 * 64 * 12, 2**20])
@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": True, "drop_last": False}, {}])
def test_a_pass_that_starts_later_is_the_rest_of_the_whole_one(options, chunk_bytes, monkeypatch):
    """Also from among the batches that are made together, and of the global state it draws as much."""
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    loader = Batches(pictures(), 6, images=AUGMENTED, **options)
    (whole,) = passes(loader, 1)
    after = torch.rand(())
    for start in range(len(whole) + 1):
        torch.manual_seed(5)
        assert same([list(loader.starting_at(start))], [whole[start:]])
        assert torch.equal(torch.rand(()), after)


def test_batches_that_are_left_out_are_not_made(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1)
    loader = Batches(pictures(), 4, shuffle=True, images=AUGMENTED)
    made, take = [], _Pixels.take
    monkeypatch.setattr(_Pixels, "take", lambda self, rows, draws: made.append(len(rows)) or take(self, rows, draws))
    list(loader.starting_at(7))
    assert made == [4] * 3


def test_validation_draws_nothing_and_keeps_its_order():
    state = torch.get_rng_state()
    rows = torch.tensor([7, 3, 30, 1])
    loader = Batches(pictures(), 3, rows=rows, images=Images(MEAN, DEVIATION))
    assert torch.equal(labels_of(loader), rows)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_order_does_not_depend_on_the_augmentation():
    orders = [labels_of(passes(Batches(pictures(), 8, shuffle=True, images=i), 1)[0]) for i in (None, AUGMENTED)]
    assert torch.equal(*orders)


def plain(image, draw, options):
    """One image, the way a reader would write it: pad, cut out the window, mirror, normalise, black out."""
    shifts, border = 2 * options.crop + 1, options.crop
    (down, along), (y, x) = draw[:2].tolist(), draw[2:].tolist()
    mirrored, along = divmod(along, shifts)
    _, height, width = image.shape
    padded = pad(image.double()[None], (border,) * 4, mode="reflect")[0] if border else image.double()
    window = padded[:, down : down + height, along : along + width]
    window = window.flip(2) if mirrored else window
    by_channel = torch.tensor([options.mean, options.deviation], dtype=torch.float64)[:, :, None, None]
    result = (window - by_channel[0]) / by_channel[1]
    top, left = y - options.cutout // 2, x - options.cutout // 2
    result[:, max(top, 0) : max(top + options.cutout, 0), max(left, 0) : max(left + options.cutout, 0)] = 0
    return result.float()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(2, 9), st.integers(2, 9), st.data(), st.booleans(), st.booleans(), st.integers(0, 99)
)
def test_images_are_those_of_the_plain_way_value_by_value(channels, height, width, data, flip, channels_last, seed):
    side = min(height, width)
    options = Images(
        [100.0 + c for c in range(channels)],
        [50.0 + c for c in range(channels)],
        crop=data.draw(st.integers(0, side - 1)),
        flip=flip,
        cutout=data.draw(st.integers(0, side)),
        channels_last=channels_last,
    )
    images, _ = pictures(7, channels, height, width, seed)
    source = _Pixels(images, options, CPU)
    rows = torch.tensor([6, 0, 3, 3, 1])
    draws = source.draw(len(rows), torch.Generator().manual_seed(seed))
    made = source.take(rows, draws)
    expected = torch.stack([plain(images[row], draw, options) for row, draw in zip(rows, draws, strict=True)])
    torch.testing.assert_close(made, expected, atol=2e-6, rtol=1e-6)
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert made.is_contiguous(memory_format=wanted)


def test_every_shift_and_every_mirror_image_is_as_frequent_as_any_other():
    """A chi-squared test of 18 cells against uniform; a false failure once in 100,000 seeds, and the seed is fixed."""
    place = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(4000, 1, 4, 4)
    options = Images([0.0], [1.0], crop=1, flip=True)
    torch.manual_seed(0)
    [(images, _)] = Batches((place, torch.arange(4000)), FULL, shuffle=True, images=options)
    _, counts = torch.unique(images.flatten(1), dim=0, return_counts=True)
    assert len(counts) == 18
    expected = 4000 / 18
    assert ((counts - expected) ** 2 / expected).sum() < 54.9


def test_a_square_left_out_is_the_mean_and_never_misses_the_image():
    white = torch.full((500, 1, 6, 6), 255, dtype=torch.uint8)
    options = Images([100.0], [10.0], cutout=3)
    torch.manual_seed(0)
    [(images, _)] = Batches((white, torch.arange(500)), FULL, shuffle=True, images=options)
    left_out = (images == 0).sum(dim=(1, 2, 3))
    assert set(left_out.tolist()) == {4, 6, 9}  # 2x2 in a corner, 2x3 at a border, 3x3 inside
    assert set(images.unique().tolist()) == {0.0, 15.5}


@settings(deadline=None)
@given(st.integers(1, 200), st.one_of(st.just(FULL), st.integers(1, 64)), st.integers(1, 5), st.booleans())
def test_ranks_share_every_batch_of_one_rank(count, batch_size, world, drop_last):
    assume(min(count, count if batch_size == FULL else batch_size) >= world)
    assume(not drop_last or batch_size == FULL or batch_size % world == 0)
    shared = plan(count, batch_size, world, drop_last=drop_last)
    order = list(range(count))
    seen = []
    for rank in range(world):
        full, size, last = shared.shares(rank, world)
        mine = iter(shared.positions(rank, world).tolist())
        sizes = [size] * full + [last] * (last > 0)
        assert len(sizes) == len(shared)  # no batch is empty: ranks stay in step
        assert min(sizes) > 0
        seen.append([list(itertools.islice(mine, size)) for size in sizes])
        assert not list(mine)
    together = [list(itertools.chain(*shares)) for shares in zip(*seen, strict=True)]
    assert list(itertools.chain(*together)) == order[: shared.count]
    whole = count if batch_size == FULL else batch_size
    assert all(len(batch) == whole for batch in together[:-1])
    assert shared.count == count or (drop_last and count - shared.count < whole)
    if drop_last and count >= whole and batch_size != FULL:
        assert {len(share) for shares in seen for share in shares} == {whole // world}


@pytest.mark.parametrize(
    ("batch_size", "world", "drop_last", "words"),
    [
        (128, 3, True, "divisible by the 3 ranks"),
        (2, 4, False, "for each of the 4 ranks"),
        (FULL, 40, True, "the data has 30"),
    ],
)
def test_what_ranks_cannot_share_is_refused(batch_size, world, drop_last, words):
    with pytest.raises(ConfigError, match=words):
        plan(30 if batch_size == FULL else 1000, batch_size, world, drop_last=drop_last)


@pytest.mark.parametrize("batch_size", [0, -4, 2.5, "all", True, None])
def test_a_batch_size_that_is_none_is_refused(batch_size):
    with pytest.raises(ConfigError, match=r"data\.batch_size: is a whole number of at least 1, or full"):
        Batches(numbers(10), batch_size)


def test_all_that_does_not_fit_the_images_is_said_at_once():
    with pytest.raises(ConfigError) as caught:
        Batches(pictures(height=6), 0, images=Images(MEAN, DEVIATION, crop=6, cutout=7))
    assert [problem.key for problem in caught.value.problems] == ["data.crop", "data.cutout", "data.batch_size"]
    Batches(pictures(height=6), 1, images=Images(MEAN, DEVIATION, crop=5, cutout=6))


def test_images_that_are_no_bytes_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        Batches((torch.zeros(4, 3, 8, 8), torch.zeros(4)), 2, images=AUGMENTED)


def test_everything_happens_on_the_device():
    """On meta, torch refuses an operation that mixes devices, as it does on a GPU, and needs no GPU."""
    loader = Batches(pictures(), 6, shuffle=True, images=AUGMENTED, device="meta")
    for images, labels in loader:
        assert (images.device.type, labels.device.type) == ("meta", "meta")
        assert images.shape == (6, 3, 8, 8)


def test_a_device_has_one_copy_for_as_long_as_the_tensor_lives():
    meta = torch.device("meta")
    images, _ = pictures()
    with torch.inference_mode():
        copy = on_device(images, meta)
    assert on_device(images, meta) is copy
    assert not copy.is_inference()
    assert on_device(images, CPU) is images
    before = len(module._COPIES)
    del images
    assert len(module._COPIES) == before - 1


def test_trainings_share_the_memory_of_images_stored_as_they_are_used():
    images, labels = pictures()
    stored = images.contiguous(memory_format=torch.channels_last)
    loaders = [Batches((stored, labels), 4, images=AUGMENTED, shuffle=True) for _ in range(2)]
    assert {loader._source._pixels.data_ptr() for loader in loaders} == {stored.data_ptr()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_batches_of_the_cpu():
    on_cpu, on_gpu = (
        passes(Batches(pictures(), 6, shuffle=True, images=AUGMENTED, device=device)) for device in ("cpu", "cuda:0")
    )
    for (images, labels), (theirs, their_labels) in zip(
        itertools.chain(*on_cpu), itertools.chain(*on_gpu), strict=True
    ):
        assert theirs.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(their_labels.cpu(), labels)
        torch.testing.assert_close(theirs.cpu(), images)


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return Batches(pictures(), 8, shuffle=True, images=AUGMENTED, device=device_of(self))

    def val_dataloader(self):
        return Batches(pictures(10), 4, images=Images(MEAN, DEVIATION), device=device_of(self))


class Seen(pl.LightningModule):
    """Keeps the labels that it was given."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3 * 8 * 8, 1)
        self.train_labels, self.val_labels = [], []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.train_labels.append(labels)
        return self.linear(images.flatten(1)).square().mean()

    def validation_step(self, batch, batch_idx):
        self.val_labels.append(batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_lightning_trains_and_validates_on_them(tmp_path):
    module_ = Seen()
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with without_noise():
        pl.Trainer(max_epochs=2, accelerator="cpu", num_sanity_val_steps=0, default_root_dir=tmp_path, **silent).fit(
            module_, Data()
        )
    epochs = torch.cat(module_.train_labels).view(2, 40)
    assert not torch.equal(*epochs)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(40).expand(2, 40))
    assert torch.equal(torch.cat(module_.val_labels), torch.arange(10).repeat(2))
    assert device_of(Data()) == CPU


def _one_rank(rank, world, file, results):
    os.environ.update({"GLOO_SOCKET_IFNAME": "lo"})
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    loader = Batches(pictures(), 8, shuffle=True, images=AUGMENTED)
    torch.manual_seed(5)
    if rank:
        torch.rand(3)  # the ranks' generators are not in step
    found = [[(images.numpy(), labels.numpy()) for images, labels in loader] for _ in range(2)]
    # A pickled array, not a tensor, whose memory would go with this process.
    results.put((rank, found))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_real_ranks_share_the_pass_of_one(tmp_path):
    """Rank 0's generator decides for both, so no example is trained on twice."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=_one_rank, args=(rank, 2, tmp_path / "meet", results)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = dict(results.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    together = [
        [
            [torch.from_numpy(np.concatenate(parts)) for parts in zip(*shares, strict=True)]
            for shares in zip(*epochs, strict=True)
        ]
        for epochs in zip(found[0], found[1], strict=True)
    ]
    alone = passes(Batches(pictures(), 8, shuffle=True, images=AUGMENTED))
    assert same(together, alone)
