"""CIFAR-10: its files are fetched once and checked, its splits are fixed, and Lightning trains on them.

The files here are in the real format and small: so many records each, of random pixels.
"""

import hashlib
import http.server
import io
import multiprocessing
import os
import tarfile
import threading
import time

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studies.cifar import CIFAR10, data, files
from tuner.errors import ConfigError, StudyError
from tuner.training.process import without_noise
from tuner.training.run import train
from tuner.training.task import Answer, Outcome, Task

RECORDS = 40
NAMES = (*files.TRAINING, *files.TEST)


def content(number, records=RECORDS):
    """One file's bytes: as many of each class, in an order of their own, and a mark in the first two pixels."""
    rng = np.random.default_rng(number)
    table = rng.integers(0, 256, (records, files.RECORD_BYTES), dtype=np.uint8)
    table[:, 0] = rng.permutation(np.arange(records) % 10)
    table[:, 1], table[:, 2] = number, np.arange(records)
    return table.tobytes()


def write(root, records=RECORDS):
    folder = root / files.FOLDER
    folder.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(content(number, records))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cifar"))


def ready(root, stage="fit", **arguments):
    module = CIFAR10(str(root), **{"batch_size": 32, "records": RECORDS, **arguments})
    module.prepare_data()
    module.setup(stage)
    return module


def marks(rows, split):
    """Which file and which record each image is."""
    images, _ = split
    return {tuple(mark) for mark in images[rows, 0, 0, :2].tolist()}


def test_a_record_is_a_label_and_three_planes(root):
    pixels, labels = files.read(root / files.FOLDER / files.TRAINING[1], RECORDS)
    raw = content(1)
    third = raw[2 * files.RECORD_BYTES : 3 * files.RECORD_BYTES]
    assert labels[2] == third[0]
    for channel, row, column in [(0, 0, 0), (1, 0, 31), (2, 31, 5)]:
        assert pixels[2, channel, row, column] == third[1 + channel * 1024 + row * 32 + column]


def test_images_of_several_files_follow_each_other_with_their_labels(root):
    images, labels = data.images(root, files.TRAINING, RECORDS)
    assert (images.shape, images.dtype, labels.dtype) == ((200, 3, 32, 32), torch.uint8, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    for number, name in enumerate(files.TRAINING):
        pixels, expected = files.read(root / files.FOLDER / name, RECORDS)
        part = slice(number * RECORDS, (number + 1) * RECORDS)
        assert np.array_equal(images[part].numpy(), pixels)
        assert np.array_equal(labels[part].numpy(), expected)


def spoil(change):
    def spoilt(file):
        file.write_bytes(change(bytearray(file.read_bytes())))

    return spoilt


def with_label(label, record):
    def change(raw):
        raw[record * files.RECORD_BYTES] = label
        return raw

    return change


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda file: file.unlink(), "this one does not exist"),
        (spoil(lambda raw: raw[:-1]), "40 records of 3,073 bytes, 122,920 in all; this one has 122,919 bytes"),
        (spoil(lambda raw: raw + b"0"), "has 122,921 bytes"),
        (spoil(lambda raw: raw[: -files.RECORD_BYTES]), "has 119,847 bytes"),  # whole records, too few of them
        (spoil(lambda _: b""), "has 0 bytes"),
        (spoil(with_label(10, 7)), "label from 0 to 9; this one has the label 10 in record 7"),
        (spoil(with_label(255, 0)), "label 255 in record 0"),
    ],
)
def test_a_file_that_is_not_one_of_cifar_is_named_with_what_to_do(fault, words, tmp_path):
    file = write(tmp_path) / files.FOLDER / "data_batch_3.bin"
    fault(file)
    with pytest.raises(StudyError) as caught:
        ready(tmp_path)
    assert str(file) in str(caught.value)
    assert words in str(caught.value)
    assert "data.root" in str(caught.value)


def test_the_real_set_is_never_a_shorter_one(root):
    with pytest.raises(StudyError, match="10,000 records of 3,073 bytes, 30,730,000 in all"):
        ready(root, records=files.RECORDS)


@pytest.fixture
def mended(tmp_path):
    """A folder whose file was mended after an error."""
    file = write(tmp_path) / files.FOLDER / files.TRAINING[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(StudyError):
        ready(tmp_path)
    file.write_bytes(whole)
    return tmp_path


def test_an_error_is_not_remembered(mended):
    assert len(ready(mended)._training[1]) == 200


class Server(http.server.ThreadingHTTPServer):
    """Serves one archive on this machine, and counts how often it is asked for."""

    def __init__(self, archive):
        self.archive, self.asked = archive, 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/{files.ARCHIVE}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.archive)))
        self.end_headers()
        self.wfile.write(self.server.archive)

    def log_message(self, *_):
        pass


def packed():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for number, name in enumerate(NAMES):
            member = tarfile.TarInfo(f"{files.FOLDER}/{name}")
            member.size = len(content(number))
            tar.addfile(member, io.BytesIO(content(number)))
        surplus = tarfile.TarInfo("../outside.txt")
        tar.addfile(surplus, io.BytesIO(b""))
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(packed()) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def right_sum(server):
    return {"url": server.url, "sha256": hashlib.sha256(server.archive).hexdigest()}


def test_what_is_missing_is_fetched_once_and_nothing_else_is_unpacked(server, tmp_path, capfd):
    folder = files.fetch(tmp_path / "new" / "data", **right_sum(server))
    assert "%" in capfd.readouterr().err  # how far it is
    assert sorted(file.name for file in folder.iterdir()) == sorted(NAMES)
    assert all((folder / name).read_bytes() == content(number) for number, name in enumerate(NAMES))
    left = {file.name for file in folder.parent.iterdir()} - {f".{files.FOLDER}.lock"}
    assert left == {files.FOLDER, files.ARCHIVE}
    assert not (folder.parent.parent / "outside.txt").exists()
    files.fetch(folder.parent, **right_sum(server))
    assert server.asked == 1


def test_an_archive_brought_by_other_means_is_used(server, tmp_path):
    (tmp_path / files.ARCHIVE).write_bytes(server.archive)
    assert files.fetch(tmp_path, **right_sum(server)).is_dir()
    assert server.asked == 0


def _fetch_and_read(root, known):
    (root / str(os.getpid())).touch()
    while len(list(root.glob("[0-9]*"))) < 2:  # until the other one is here
        time.sleep(0.01)
    folder = files.fetch(root, **known)
    return sum(len(files.read(folder / name, RECORDS)[1]) for name in NAMES)


@pytest.mark.slow
def test_processes_that_start_at_once_fetch_once(server, tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        read = pool.starmap(_fetch_and_read, [(tmp_path, right_sum(server))] * 2, chunksize=1)
    assert read == [6 * RECORDS] * 2
    assert server.asked == 1


def test_an_archive_with_another_sum_is_refused_and_leaves_nothing(server, tmp_path):
    with pytest.raises(StudyError, match="SHA-256 sum c4a38c50") as caught:
        files.fetch(tmp_path, url=server.url)
    assert server.url in str(caught.value)
    assert not (tmp_path / files.FOLDER).exists()
    assert not (tmp_path / files.ARCHIVE).exists()


def test_without_a_network_it_says_how_to_bring_the_files(server, tmp_path):
    known = right_sum(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(StudyError, match="by other means") as caught:
        files.fetch(tmp_path, **known)
    assert known["url"] in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"cannot be written: .* data\.root"):
        files.fetch(tmp_path / "file" / "data")


def test_splits_are_disjoint_whole_and_stratified(root):
    module = ready(root)
    train_rows, val_rows = module._train_rows, module._val_rows
    assert (len(train_rows), len(val_rows)) == (180, 20)
    assert torch.equal(torch.cat([train_rows, val_rows]).sort().values, torch.arange(200))
    labels = module._training[1]
    assert torch.bincount(labels[train_rows]).tolist() == [18] * 10
    assert torch.bincount(labels[val_rows]).tolist() == [2] * 10
    assert not marks(train_rows, module._training) & marks(val_rows, module._training)


def test_the_split_depends_on_its_own_seed_alone(root):
    torch.manual_seed(1)
    first = ready(root, split_seed=3)._val_rows
    torch.manual_seed(2)
    assert torch.equal(ready(root, split_seed=3)._val_rows, first)
    assert not torch.equal(ready(root, split_seed=4)._val_rows, first)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 9))
def test_every_beginning_of_a_stratified_order_has_the_classes_in_proportion(labels, seed):
    order = data.stratified_order(np.array(labels), seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    shares = np.bincount(labels) / len(labels)
    ordered = np.eye(5)[np.array(labels)[order]][:, : len(shares)].cumsum(axis=0)
    expected = np.arange(1, len(labels) + 1)[:, None] * shares
    assert np.abs(ordered - expected).max() < 2


def test_limits_are_nested_and_leave_the_validation_alone(root):
    small, large = ready(root, limit=20), ready(root, limit=50)
    assert len(small._train_rows) == 20
    assert set(small._train_rows.tolist()) < set(large._train_rows.tolist())
    assert torch.bincount(small._training[1][small._train_rows]).tolist() == [2] * 10
    assert torch.equal(small._val_rows, ready(root)._val_rows)


def test_a_final_training_has_the_validation_images_as_well(root):
    module = ready(root, train_on_all=True)
    assert torch.equal(module._train_rows.sort().values, torch.arange(200))
    assert torch.equal(module._val_rows, ready(root)._val_rows)
    assert ready(root, train_on_all=True, limit=190)._train_rows.numel() == 190


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"limit": 0}, "data.limit"),
        ({"limit": 181}, "data.limit"),
        ({"limit": 0.5}, "data.limit"),
        ({"split_seed": -1}, "data.split_seed"),
        ({"batch_size": 0}, "data.batch_size"),
        ({"crop": 32}, "data.crop"),
        ({"cutout": 33}, "data.cutout"),
    ],
)
def test_an_argument_out_of_range_is_refused_before_the_training(root, arguments, key):
    with pytest.raises(ConfigError) as caught:
        ready(root, **arguments).train_dataloader()
    assert [problem.key for problem in caught.value.problems] == [key]


def test_batches_of_the_three_splits(root):
    module = ready(root)
    train_sizes = [len(labels) for _, labels in module.train_dataloader()]
    assert train_sizes == [32] * 5
    [(images, labels)] = module.val_dataloader()
    assert (images.shape, images.dtype, labels.dtype) == ((20, 3, 32, 32), torch.float32, torch.int64)
    raw = module._training[0][module._val_rows].double()
    expected = (raw - torch.tensor(data.MEAN).view(3, 1, 1)) / torch.tensor(data.DEVIATION).view(3, 1, 1)
    torch.testing.assert_close(images, expected.float(), atol=2e-6, rtol=1e-6)
    assert [len(labels) for _, labels in ready(root, batch_size="full").train_dataloader()] == [180]


def test_the_test_set_is_read_only_when_it_is_asked_for(tmp_path):
    test_file = write(tmp_path) / files.FOLDER / files.TEST[0]
    whole = test_file.read_bytes()
    test_file.unlink()
    list(ready(tmp_path).val_dataloader())  # a search does not need the file
    test_file.write_bytes(whole)
    _, expected = files.read(test_file, RECORDS)
    [(_, labels)] = ready(tmp_path, "test").test_dataloader()
    assert labels.tolist() == expected.tolist()


def test_trainings_of_one_process_share_the_images(root):
    assert ready(root)._training[0] is ready(root, split_seed=2, batch_size=8)._training[0]


class Tiny(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(48, 10))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.layers(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val/acc", (self.layers(images).argmax(1) == labels).float().mean())

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def task(root, folder, **changes):
    nodes = {
        "module": {"_target_": f"{__name__}.Tiny"},
        "data": {"_target_": "studies.cifar.CIFAR10", "root": str(root), "records": RECORDS, "batch_size": 32},
        "trainer": {"max_epochs": 3, "accelerator": "cpu"},
    }
    return Task(0, nodes, "val/acc", 3, str(folder), **changes)


def test_a_training_that_pauses_goes_on_to_the_last_digit(root, tmp_path):
    """Shuffling, crops and mirror images are the same after the break."""

    def weights(folder):
        return torch.load(folder / "paused.ckpt", weights_only=True)["state_dict"]

    def pause_at(*epochs):
        return lambda seen: Answer.PAUSE if seen.rung and seen.epoch in epochs else Answer.GO_ON

    whole = train(task(root, tmp_path / "whole", rungs=(1, 2)), pause_at(2))
    first = train(task(root, tmp_path / "parts", rungs=(1, 2)), pause_at(1))
    second = train(task(root, tmp_path / "parts", rungs=(1, 2), checkpoint=first.checkpoint), pause_at(2))
    assert (whole.outcome, first.outcome, second.outcome) == (Outcome.PAUSED,) * 3
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_file_cut_short_ends_the_training_with_what_to_do_and_not_as_a_crash(tmp_path):
    file = write(tmp_path / "data") / files.FOLDER / files.TRAINING[4]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(StudyError, match="has 1,000 bytes"):
        train(task(tmp_path / "data", tmp_path), lambda _: Answer.GO_ON)


def test_lightning_tests_on_the_test_set(root, tmp_path):
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    module = CIFAR10(str(root), records=RECORDS)
    with without_noise():
        trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **silent)
        model = Tiny()
        [metrics] = trainer.test(model, module, verbose=False)
    images, labels = data.images(root, files.TEST, RECORDS)
    scaled = (images - torch.tensor(data.MEAN).view(3, 1, 1)) / torch.tensor(data.DEVIATION).view(3, 1, 1)
    right = (model.eval().layers(scaled).argmax(1) == labels).float().mean()
    assert metrics["val/acc"] == pytest.approx(right.item())
